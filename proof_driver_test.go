package bcachefs_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/fstest"
	"github.com/go-bcachefs/bcachefs/internal/kernelvm"
)

// The real driver finds nothing wrong with what random operations, remounts and crashes have left, sees the same in it, and can go on.
func TestProofDriver(t *testing.T) {
	kernelvm.Available(t)
	dir := t.TempDir()
	var all [][]string
	var kinds []proofKind
	for _, k := range proofKinds {
		if k.encrypted {
			continue // its key is in no keyring; TestWriteDriver has the driver use what is encrypted
		}
		kinds = append(kinds, k)
	}
	for i, k := range kinds {
		w := newWorld(t, k, *proofSeed)
		for n := range uint64(3) {
			x := fstest.Random{FS: w.lib(), Seed: *proofSeed<<8 + n, Ops: ops(500), Block: blockOf(k), Remount: w.remount, Crash: w.crash, Allow: otherError, Keep: true,
				Compare: fstest.Compare{InPlace: k.options["nocow"] != ""}}
			if err := x.Run(); err != nil {
				t.Fatalf("%s: %v", k.name, err)
			}
		}
		if i%2 == 0 { // the others are clean
			if err := w.lib().Sync(); err != nil {
				t.Fatal(err)
			}
			w.fs.Abandon()
		} else if err := w.fs.Close(); err != nil {
			t.Fatal(err)
		}
		w.fs = nil
		all = append(all, w.save(filepath.Join(dir, fmt.Sprint(i))))
	}
	for i, r := range kernelvm.MustBeClean(t, all, kernelvm.CheckOptions{ReadWrite: true}) {
		f := openCase(t, all[i], false)
		ours, unread := writeManifest(t, f.Root())
		theirs := withoutRoot(r.Manifest)
		if ours = withoutRoot(ours); unread > 0 || !bytes.Equal(ours, theirs) {
			t.Errorf("%s: %d things could not be read, and we list %d bytes where the driver lists %d: %s", kinds[i].name, unread, len(ours), len(theirs),
				firstDifference(ours, theirs))
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}

// withoutRoot leaves out the line of the root, whose times the driver has changed by using the filesystem.
func withoutRoot(manifest []byte) []byte {
	lines := bytes.SplitAfter(manifest, []byte("\n"))
	return bytes.Join(slices.DeleteFunc(lines, func(l []byte) bool { return bytes.HasPrefix(l, []byte(".\t")) }), nil)
}

// save writes the devices into files.
func (w *world) save(path string) (paths []string) {
	w.t.Helper()
	for i, m := range w.mems {
		b := make([]byte, m.Size())
		if err := m.ReadAt(ctx, b, 0); err != nil {
			w.t.Fatal(err)
		}
		p := fmt.Sprint(path, ".", i)
		if err := os.WriteFile(p, b, 0o600); err != nil {
			w.t.Fatal(err)
		}
		paths = append(paths, p)
	}
	return paths
}
