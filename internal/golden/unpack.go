package golden

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/golden/sparse"
)

// Unpack returns the paths of the unpacked devices, in order. They are shared
// between tests, must not be changed, and are read-only to all but root.
func (img Image) Unpack(t testing.TB) []string {
	t.Helper()
	paths := make([]string, len(img.files))
	for i, file := range img.files {
		path, err := unpack(file, img.Group)
		if err != nil {
			t.Fatalf("golden image %s: %v", img, err)
		}
		paths[i] = path
	}
	return paths
}

// UnpackCopy is Unpack for tests that change the devices: the files are the
// test's own and vanish with it.
func (img Image) UnpackCopy(t testing.TB) []string {
	t.Helper()
	dir := t.TempDir()
	paths := img.Unpack(t)
	for i, path := range paths {
		own := filepath.Join(dir, fmt.Sprintf("%s.%d.img", img.Name, i))
		if err := sparse.Copy(own, path); err != nil {
			t.Fatalf("golden image %s: %v", img, err)
		}
		paths[i] = own
	}
	return paths
}

// unpack decompresses a file into the cache unless it is there already. Its
// name there holds size and time of the source: a changed one is unpacked anew.
func unpack(file, group string) (string, error) {
	fi, err := os.Stat(file)
	if err != nil {
		return "", err
	}
	dir, err := cacheDir()
	if err != nil {
		return "", err
	}
	base := strings.TrimSuffix(filepath.Base(file), ".img.zst")
	if group != "" {
		base = group + "-" + base
	}
	path := filepath.Join(dir, fmt.Sprintf("%s-%x-%x.img", base, fi.Size(), fi.ModTime().UnixNano()))
	if exists(path) {
		return path, nil
	}
	unlock, err := lock(path + ".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if exists(path) {
		return path, nil
	}
	if err := sparse.Unzstd(path, file); err != nil {
		return "", err
	}
	return path, os.Chmod(path, 0o444)
}

// cacheDir makes and returns the directory for unpacked images.
func cacheDir() (string, error) {
	dir := os.Getenv("BCACHEFS_GOLDEN_CACHE")
	if dir == "" {
		dir = filepath.Join(os.TempDir(), fmt.Sprintf("go-bcachefs-golden-%d", os.Getuid()))
	}
	return dir, os.MkdirAll(dir, 0o700)
}
