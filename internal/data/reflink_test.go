package data_test

import (
	"math/rand/v2"
	"testing"
)

// The only pointer to shared data is cut, split and moved: what it leads to stays as long as a part of it does, and not longer.
func TestOnlyPointerIsCut(t *testing.T) {
	w := newWorld(t, shape("plain", nil, 48))
	r := rand.New(rand.NewPCG(1, 1))
	f, g := w.file("a"), w.file("b")
	const size = 64 << 10
	w.write(f, random(r, size), 0)
	w.copyRange(f, 0, g, 0, size)
	w.truncate(f, 0) // g has the only pointer
	used := w.inode(g).Sectors
	if used != size/512 {
		t.Errorf("%d sectors, want %d", used, size/512)
	}
	w.truncate(g, size-8192)
	w.check(g)
	w.write(g, random(r, 4096), 16384)
	w.check(g)
	_, err := w.w.InsertRange(t.Context(), g.id, 4096, 8192, nil)
	w.must(err)
	g.content = append(g.content[:4096:4096], append(make([]byte, 8192), g.content[4096:]...)...)
	w.check(g)
	w.truncate(g, 0)
	if now := w.rw.Space.Usage(); now.Totals.Data != 0 || now.Promised != 0 {
		t.Errorf("%d sectors hold data, %d are promised", now.Totals.Data, now.Promised)
	}
	w.end()
}
