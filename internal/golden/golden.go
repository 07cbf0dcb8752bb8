// Package golden gives tests the images that the real driver and the reference
// tools wrote, with what is known of their content.
//
// The full set lies beside the project, in ../shared/golden or wherever
// BCACHEFS_GOLDEN points. Without it, a few small ones in testdata/golden stand
// in, so that a plain checkout tests something real too.
//
// Images are unpacked once into a cache that the tests of all packages share;
// BCACHEFS_GOLDEN_CACHE says where, else it is in the directory for temporary
// files. What is there must not be changed: a test that writes takes a copy.
package golden

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The groups of images: directories of the set.
const (
	GroupMain    = ""        // by the driver of Linux 6.12, on-disk version 1.13
	GroupNewer   = "newer"   // by the tools, other versions; see Image.Computed
	GroupDamaged = "damaged" // by the driver, one thing then made wrong
)

// Dir returns the directory of the golden images: the full set, or the few of
// testdata. It skips the test if there is neither.
func Dir(t testing.TB) string {
	t.Helper()
	dir, full := find()
	if dir == "" {
		t.Skip("no golden images: neither BCACHEFS_GOLDEN, nor ../shared/golden, nor testdata/golden")
	}
	if !full {
		t.Log("the full set of golden images is missing (../shared/golden or BCACHEFS_GOLDEN): using the few in testdata/golden")
	}
	return dir
}

// Full says whether the full set of images is at hand, and not only the few
// of testdata.
func Full() bool {
	_, full := find()
	return full
}

func find() (dir string, full bool) {
	if dir := os.Getenv("BCACHEFS_GOLDEN"); dir != "" {
		return dir, isFull(dir)
	}
	root := moduleRoot()
	if root == "" {
		return "", false
	}
	if dir := filepath.Join(filepath.Dir(root), "shared", "golden"); isDir(dir) {
		return dir, isFull(dir)
	}
	if dir := filepath.Join(root, "testdata", "golden"); isDir(dir) {
		return dir, false
	}
	return "", false
}

// isFull looks for one image that is too large for testdata.
func isFull(dir string) bool { return exists(filepath.Join(dir, "basic.md")) }

// moduleRoot is the nearest directory above the test's own with a go.mod.
func moduleRoot() string {
	dir, err := os.Getwd()
	if err != nil {
		return ""
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return ""
		}
		dir = parent
	}
}

func isDir(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.IsDir()
}

// Images returns all images at hand: by group, then by name.
func Images(t testing.TB) []Image {
	t.Helper()
	dir := Dir(t)
	var images []Image
	for _, group := range []string{GroupMain, GroupNewer, GroupDamaged} {
		notes, err := filepath.Glob(filepath.Join(dir, group, "*.md"))
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(notes)
		for _, note := range notes {
			name := strings.TrimSuffix(filepath.Base(note), ".md")
			img, err := load(filepath.Join(dir, group), group, name)
			if err != nil {
				t.Fatal(err)
			}
			if len(img.files) > 0 {
				images = append(images, img)
			}
		}
	}
	return images
}

// Find returns the image of that name, whatever its group. If only the few
// images of testdata are at hand and it is not among them, the test is skipped.
func Find(t testing.TB, name string) Image {
	t.Helper()
	for _, img := range Images(t) {
		if img.Name == name {
			return img
		}
	}
	if !Full() {
		t.Skipf("golden image %s is only in the full set", name)
	}
	t.Fatalf("no golden image %s", name)
	panic("unreachable")
}
