package engine_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/engine"
	"github.com/go-bcachefs/bcachefs/internal/fsck/fscktest"
	"github.com/go-bcachefs/bcachefs/internal/golden"
	"github.com/go-bcachefs/bcachefs/internal/kernelvm"
)

// copyOf returns the paths of a copy of a golden image that may be written to.
func copyOf(t *testing.T, name string) (paths []string) {
	dir := t.TempDir()
	for _, src := range golden.Find(t, name).Unpack(t) {
		b, err := os.ReadFile(src)
		if err != nil {
			t.Fatal(err)
		}
		dst := filepath.Join(dir, filepath.Base(src))
		if err := os.WriteFile(dst, b, 0o600); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, dst)
	}
	return paths
}

func openRW(t *testing.T, paths []string, opts engine.WriteOptions) *engine.RW {
	t.Helper()
	fs, err := engine.Open(t.Context(), paths, engine.Options{Write: true, NoScan: true, Logf: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	rw, err := fs.GoReadWrite(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(rw.Abandon)
	return rw
}

func closeRW(t *testing.T, rw *engine.RW) {
	t.Helper()
	if err := rw.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// A filesystem that was never mounted is made, and both checks find nothing.
func TestInitialise(t *testing.T) {
	paths := copyOf(t, "mkfs-uninitialized")
	closeRW(t, openRW(t, paths, engine.WriteOptions{}))
	fscktest.MustBeClean(t, paths...)
	kernelvm.MustBeClean(t, [][]string{paths}, kernelvm.CheckOptions{ReadWrite: true})
}
