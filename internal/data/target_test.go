package data_test

import (
	"math/rand/v2"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/enginetest"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// Data goes to the foreground target, and what is to be moved or compressed later is listed as that.
func TestTargets(t *testing.T) {
	shapeOf := func(options map[string]string) enginetest.Shape {
		s := shape("targets", options, 32, 32)
		s.Devices[0].Label, s.Devices[1].Label = "slow", "fast"
		return s
	}
	for _, c := range []struct {
		name    string
		options map[string]string
		dev     uint8
		work    bool
	}{
		{"moved later", map[string]string{"foreground_target": "fast", "background_target": "slow"}, 1, true},
		{"where it belongs", map[string]string{"foreground_target": "slow", "background_target": "slow"}, 0, false},
		{"compressed later", map[string]string{"foreground_target": "fast", "background_compression": "zstd"}, 1, true},
		{"compressed already", map[string]string{"foreground_target": "fast", "compression": "zstd", "background_compression": "zstd"}, 1, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, shapeOf(c.options))
			f := w.file("a")
			p := make([]byte, 64<<10)
			for i, r := 0, rand.New(rand.NewPCG(1, 1)); i < len(p); i++ {
				p[i] = byte(r.Uint32N(4))
			}
			w.write(f, p, 0)
			w.must(w.rw.Store.FlushWriteBuffer(t.Context()))
			w.must(w.rw.Store.View(t.Context(), func(tx *trans.Tx) error {
				k, _, err := tx.Lookup(ondisk.BtreeExtents, ondisk.Pos{Inode: f.id.Inum, Snapshot: ^uint32(0)}, 0)
				if err != nil {
					return err
				}
				ptrs, _, err := ondisk.AppendExtentPtrs(nil, &k, nil)
				if err != nil || len(ptrs) != 1 || ptrs[0].Dev != c.dev {
					t.Errorf("pointers %v, %v; want one to device %d", ptrs, err, c.dev)
				}
				k, listed, err := tx.Iter(ondisk.BtreeReconcileWork, ondisk.PosMin, trans.AllSnapshots).Peek()
				if listed != c.work || listed && k.Pos != (ondisk.Pos{Inode: f.id.Inum, Offset: 128, Snapshot: ^uint32(0)}) {
					t.Errorf("listed as work: %v at %v, want %v", listed, k.Pos, c.work)
				}
				return err
			}))
			w.end()
		})
	}
}
