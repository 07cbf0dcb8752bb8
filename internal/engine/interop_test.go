package engine_test

import (
	"bytes"
	"testing"

	"github.com/go-bcachefs/bcachefs"
	"github.com/go-bcachefs/bcachefs/internal/engine"
	"github.com/go-bcachefs/bcachefs/internal/fsck/fscktest"
	"github.com/go-bcachefs/bcachefs/internal/golden"
	"github.com/go-bcachefs/bcachefs/internal/kernelvm"
	"github.com/go-bcachefs/bcachefs/internal/manifest"
)

// manifestOf lists what is in a filesystem.
func manifestOf(t *testing.T, paths []string) []byte {
	t.Helper()
	fs, err := bcachefs.Open(t.Context(), paths, &bcachefs.OpenOptions{NoScan: true})
	if err != nil {
		t.Fatal(err)
	}
	defer fs.Close()
	var buf bytes.Buffer
	if err := manifest.Write(t.Context(), &buf, fs.Root()); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// What the driver left without unmounting is recovered: nothing of it is lost, and both checks find nothing.
func TestRecoverDriver(t *testing.T) {
	var all [][]string
	for _, name := range []string{"dirty-light", "dirty-heavy", "dirty-multi", "dirty-deleted"} {
		img := golden.Find(t, name)
		paths := img.UnpackCopy(t)
		t.Run(name, func(t *testing.T) {
			closeRW(t, openRW(t, paths, engine.WriteOptions{}))
			fscktest.MustBeClean(t, paths...)
			for _, d := range img.Diff(manifestOf(t, paths), img.Manifest()) {
				t.Error(d)
			}
		})
		all = append(all, paths)
	}
	if !t.Failed() {
		kernelvm.MustBeClean(t, all, kernelvm.CheckOptions{ReadWrite: true})
	}
}
