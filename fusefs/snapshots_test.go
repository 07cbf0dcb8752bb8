//go:build linux

package fusefs_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/go-bcachefs/bcachefs"
	"github.com/go-bcachefs/bcachefs/fusefs"
	"github.com/go-bcachefs/bcachefs/internal/golden"
)

// The directory of snapshots shows every subvolume, the one that is mounted too, and names that are not there are not there.
func TestSnapshotsDir(t *testing.T) {
	needFUSE(t)
	fsys := open(t, golden.Find(t, "snapshots"))
	sub, err := fsys.Subvolume("sub")
	if err != nil {
		t.Fatal(err)
	}
	subs, err := fsys.Subvolumes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, view := range map[string]*bcachefs.View{"root": nil, "subvolume": sub} {
		t.Run(name, func(t *testing.T) {
			dir := mount(t, fsys, fusefs.Options{View: view, SnapshotsDir: fusefs.SnapshotsDir})
			entries, err := os.ReadDir(filepath.Join(dir, fusefs.SnapshotsDir))
			if err != nil || len(entries) != len(subs) {
				t.Fatalf("%d entries, %v; want %d", len(entries), err, len(subs))
			}
			for _, e := range entries {
				at := filepath.Join(dir, fusefs.SnapshotsDir, e.Name())
				if st, err := os.Stat(at); err != nil || !st.IsDir() {
					t.Errorf("%s: %v", e.Name(), err)
				}
				if _, err := os.ReadDir(at); err != nil {
					t.Errorf("%s: %v", e.Name(), err)
				}
			}
			for _, path := range []string{"1-root/in-the-root", "1-root/sub/big", "2-sub/big"} {
				if _, err := os.ReadFile(filepath.Join(dir, fusefs.SnapshotsDir, path)); err != nil {
					t.Error(err)
				}
			}
			for _, path := range []string{"1", "99-none", "2-sub/" + fusefs.SnapshotsDir} {
				if _, err := os.Stat(filepath.Join(dir, fusefs.SnapshotsDir, path)); !os.IsNotExist(err) {
					t.Errorf("%s: %v", path, err)
				}
			}
			// What was looked at in the directory is still where it was.
			if view == nil {
				if _, err := os.Stat(filepath.Join(dir, "sub", "big")); err != nil {
					t.Error(err)
				}
			}
		})
	}
}
