package data_test

import (
	"math/rand/v2"
	"testing"
)

// What is written, or shared, over more small extents than a journal entry has room for takes several transactions.
func TestReplaceFragments(t *testing.T) {
	const block, n = 512, 4 << 20 / 512
	for _, sum := range []string{"none", "crc32c"} {
		w := newWorld(t, shape("small blocks", map[string]string{"block_size": "512", "data_checksum": sum}, 64))
		r := rand.New(rand.NewPCG(1, 1))
		f, g := w.file("fragmented"), w.file("whole")
		fragment := func() {
			w.write(f, random(r, block), n*block) // not inline
			for _, i := range r.Perm(n) {         // neighbours do not become one
				w.write(f, random(r, block), i*block)
			}
		}
		fragment()
		w.what = "write"
		w.write(f, random(r, n*block), 0)
		w.checkAll()
		fragment()
		w.what = "reflink"
		w.write(g, random(r, n*block), 0)
		c, _, err := w.w.Reflink(t.Context(), g.id, 0, f.id, 0, n*block, nil)
		w.must(err)
		if c != n*block {
			t.Fatalf("%d bytes shared, want %d", c, n*block)
		}
		copy(f.content, g.content)
		w.end()
	}
}
