package blockdev

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// writeTree makes files, and directories for names that end in a slash.
func writeTree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if name[len(name)-1] == '/' {
			if err := os.MkdirAll(path, 0o755); err != nil {
				t.Fatal(err)
			}
		} else if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestScanPaths(t *testing.T) {
	root := writeTree(t, map[string]string{
		"images/b.img":     "bb",
		"images/a.img":     "a",
		"images/empty":     "",
		"images/sub/c.img": "c",
		"other":            "other",
	})
	images := filepath.Join(root, "images")
	got, err := Scan([]string{
		filepath.Join(root, "other"), images, filepath.Join(images, "a.img"), filepath.Join(root, "missing"),
	})
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	want := []Candidate{
		{Path: filepath.Join(images, "a.img"), Size: 1},
		{Path: filepath.Join(images, "b.img"), Size: 2},
		{Path: filepath.Join(root, "other"), Size: 5},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestScanSystem only looks whether what the machine has makes sense.
func TestScanSystem(t *testing.T) {
	found, err := Scan(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range found {
		t.Logf("%+v", c)
		if c.Path == "" || !c.Block || c.Size < 0 {
			t.Errorf("%+v", c)
		}
	}
}
