package data_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/data"
)

// Small reads between changes of the same files give what is there now, whatever is remembered of extents that were there before.
func TestSmallReadsBetweenChanges(t *testing.T) {
	for i, s := range modelShapes() {
		if s.Name != "plain" && s.Name != "xxhash zstd" && s.Name != "mirrored" {
			continue
		}
		t.Run(s.Name, func(t *testing.T) {
			w := newWorld(t, s)
			c := w.rw.DataConfig()
			c.CacheBytes = 512 << 10 // too little for the files
			w.w = data.NewWriter(c)
			r := rand.New(rand.NewPCG(*modelSeed+500, uint64(i)))
			for n := range 2 {
				w.file(fmt.Sprint("file-", n))
			}
			most := 0
			for range *modelOps {
				randomOp(w, r, w.rw.SB.BlockBytes())
				for _, f := range w.files {
					for range 40 {
						w.checkPart(f, r)
					}
				}
				most = max(most, w.w.BlockSums())
			}
			if most == 0 {
				t.Error("no checksums of blocks were remembered")
			}
			w.end()
		})
	}
}

// checkPart reads a small part of a file that has one.
func (w *world) checkPart(f *modelFile, r *rand.Rand) {
	w.Helper()
	if len(f.content) == 0 {
		return
	}
	off, n := r.IntN(len(f.content)), 1+r.IntN(10000)
	if r.IntN(2) == 0 {
		off, n = off&^4095, 4096
	}
	want := f.content[off:min(off+n, len(f.content))]
	got := make([]byte, n)
	m, err := w.w.ReadAt(w.Context(), f.id, got, int64(off))
	if err != nil && !errors.Is(err, io.EOF) || !bytes.Equal(got[:m], want) {
		w.Fatalf("%s: %d bytes at %d: %v, %s (after: %s)", f.name, n, off, err, difference(got[:m], want), w.what)
	}
}
