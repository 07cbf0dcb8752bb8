package data_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/go-bcachefs/bcachefs"
	"github.com/go-bcachefs/bcachefs/internal/enginetest"
	"github.com/go-bcachefs/bcachefs/internal/kernelvm"
	"github.com/go-bcachefs/bcachefs/internal/manifest"
)

const driverPassphrase = "a passphrase"

var driverShape = flag.String("data.shape", "", "has the driver look at filesystems of this name only")

// The driver reads the same bytes of what was written with every option, finds nothing wrong, and can go on with it.
func TestDriver(t *testing.T) {
	kernelvm.Available(t)
	shapes := modelShapes()
	shapes[0], shapes[1] = shapes[1], shapes[0] // the machine is told the key of the first; the other encrypted one has no passphrase
	shapes[0].Options.Passphrase = []byte(driverPassphrase)
	if *driverShape != "" {
		shapes = slices.DeleteFunc(shapes, func(s enginetest.Shape) bool { return !strings.Contains(s.Name, *driverShape) })
	}
	var all [][]string
	dir := t.TempDir()
	for i, s := range shapes {
		w := newWorld(t, s)
		r := rand.New(rand.NewPCG(*modelSeed+100, uint64(i)))
		for n := range 3 {
			w.file(fmt.Sprint("file-", n))
		}
		for n := range 150 {
			if n == 60 || n == 100 {
				w.snapshot(fmt.Sprint("snapshot-", n))
			}
			randomOp(w, r, w.rw.SB.BlockBytes())
			w.noMessages()
		}
		w.end()
		paths, err := w.disks.Save(t.Context(), dir, fmt.Sprint(i))
		w.must(err)
		all = append(all, paths)
	}
	for i, r := range kernelvm.MustBeClean(t, all, kernelvm.CheckOptions{ReadWrite: true, Passphrase: string(shapes[0].Options.Passphrase)}) {
		ours := strings.Split(manifestOf(t, all[i]), "\n")
		theirs := strings.Split(string(r.Manifest), "\n")
		if len(ours) != len(theirs) {
			t.Errorf("%s: we list %d lines, the driver %d", shapes[i].Name, len(ours), len(theirs))
		}
		for j := range min(len(ours), len(theirs)) {
			if ours[j] != theirs[j] && !strings.HasPrefix(ours[j], ".\t") { // the check changes the times of the root
				t.Errorf("%s: we list\n%s\nthe driver\n%s", shapes[i].Name, ours[j], theirs[j])
			}
		}
	}
}

// manifestOf lists what is in a filesystem.
func manifestOf(t *testing.T, paths []string) string {
	t.Helper()
	fs, err := bcachefs.Open(t.Context(), paths, &bcachefs.OpenOptions{NoScan: true,
		Passphrase: func(context.Context) ([]byte, error) { return []byte(driverPassphrase), nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer fs.Close()
	var buf bytes.Buffer
	if err := manifest.Write(t.Context(), &buf, fs.Root()); err != nil {
		t.Fatal(err)
	}
	return buf.String()
}
