//go:build linux

package fusefs_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/go-bcachefs/bcachefs"
	"github.com/go-bcachefs/bcachefs/fusefs"
	"github.com/go-bcachefs/bcachefs/internal/golden"
	"github.com/go-bcachefs/bcachefs/internal/manifest"
)

// open opens a golden image; the test ends with it closed.
func open(t testing.TB, img golden.Image) *bcachefs.FS {
	t.Helper()
	fsys, err := bcachefs.Open(context.Background(), img.Unpack(t), &bcachefs.OpenOptions{
		Passphrase: func(context.Context) ([]byte, error) { return []byte(img.Passphrase), nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fsys.Close() })
	return fsys
}

// mount mounts fsys at a new directory until the end of the test.
func mount(t testing.TB, fsys *bcachefs.FS, o fusefs.Options) string {
	t.Helper()
	needFUSE(t)
	dir := t.TempDir()
	srv, err := fusefs.Mount(fsys, dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := srv.Unmount(false); err != nil {
			t.Errorf("unmount: %v", err)
			srv.Unmount(true)
		}
		srv.Wait()
	})
	return dir
}

func needFUSE(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: extended attributes of all kinds and files of all owners are read")
	}
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("needs FUSE: %v", err)
	}
	f.Close()
}

// What the kernel shows of a mount must be what the real driver showed of the same image. Of a damaged one it must be what the
// library gives, which is held against the driver by the library's own test.
func TestGolden(t *testing.T) {
	needFUSE(t)
	for _, img := range golden.Sample(t) {
		want := img.Manifest()
		if want == nil {
			continue
		}
		t.Run(img.String(), func(t *testing.T) {
			t.Parallel()
			fsys := open(t, img)
			if img.Damaged() {
				want = ofLibrary(t, fsys)
			}
			if _, err := fsys.Stat(t.Context(), fsys.Root().RootInode()); err != nil {
				if _, mountErr := fusefs.Mount(fsys, t.TempDir(), fusefs.Options{}); !errors.Is(mountErr, err) && mountErr.Error() != err.Error() {
					t.Errorf("without a root directory: %v, want %v", mountErr, err)
				}
				return
			}
			compare(t, listTree(mount(t, fsys, fusefs.Options{Source: img.Name})), want, img)
		})
	}
}

// ofLibrary is the manifest as the library makes it.
func ofLibrary(t *testing.T, fsys *bcachefs.FS) []byte {
	t.Helper()
	var b bytes.Buffer
	var unreadable *manifest.ReadErrors
	if err := manifest.Write(context.Background(), &b, fsys.Root()); err != nil && !errors.As(err, &unreadable) {
		t.Fatal(err)
	}
	return b.Bytes()
}

// compare holds the lines of a mount against a manifest of the set.
func compare(t *testing.T, got []string, text []byte, img golden.Image) {
	t.Helper()
	var want []string
	for line := range strings.SplitSeq(string(bytes.TrimSpace(text)), "\n") {
		if !strings.HasPrefix(line, "#") {
			want = append(want, line)
		}
	}
	if img.Damaged() { // a manifest has no line for what is missing from a directory
		got = slices.DeleteFunc(got, func(line string) bool { return strings.Contains(line, "\treaddir !5") })
	}
	wrong := 0
	for i := range max(len(got), len(want)) {
		g, w := "(nothing)", "(nothing)"
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if img.Name == "damaged-nocsum-dirent-name" && w == "lanes\t!2" {
			continue // has a key that its name does not hash to: the kernel knows it from READDIRPLUS and need not look it up
		}
		if sameLine(g, w, img) {
			continue
		}
		t.Errorf("line %d:\n  got  %s\n  want %s", i+1, g, w)
		if wrong++; wrong == 5 {
			t.Fatal("giving up")
		}
	}
}

// Fields of a line that a FUSE mount need not have alike, counted from 0.
const (
	fieldIno    = 11
	fieldSubvol = 12
	fieldTimes  = 15
)

func sameLine(got, want string, img golden.Image) bool {
	g, w := strings.Split(got, "\t"), strings.Split(want, "\t")
	if len(g) != len(w) {
		return false
	}
	for i := range g {
		switch {
		case i == fieldIno || i == fieldSubvol:
		case img.Computed && w[i] == "-":
		case strings.HasPrefix(img.Name, "mkfs-") && strings.Contains(img.Name, "uninitialized") && (i == 7 || i >= fieldTimes):
			// The driver creates what is in there when it first mounts it, with the time of that moment.
		case g[i] == strings.Replace(w[i], "!EIO", "!5", 1):
		default:
			return false
		}
	}
	return true
}
