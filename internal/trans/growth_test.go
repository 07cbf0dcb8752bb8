package trans

import (
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/journal"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// Every node can be moved to another place, roots too, and is only if it is still where it is said to be.
func TestRewriteNode(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.NodeBytes = 4096 })
	const keys = 1500
	for i := range uint64(keys) {
		w.update(func(tx *Tx) error { return tx.Update(ondisk.BtreeQuotas, cookie(ondisk.Pos{Offset: i}, i), 0) })
	}
	if err := w.s.Quiesce(t.Context()); err != nil {
		t.Fatal(err)
	}
	places := func() map[ondisk.NodeAddr]ondisk.Key { // levels are in the keys' sizes
		all := map[ondisk.NodeAddr]ondisk.Key{}
		note := func(level uint8, k ondisk.Key) {
			ptr, err := ondisk.DecodeBtreePtr(k)
			if err != nil {
				t.Fatal(err)
			}
			for a := range ptr.Addrs() {
				k.Size = uint32(level)
				all[a] = k
			}
		}
		root := w.s.Roots()[ondisk.BtreeQuotas]
		note(root.Level, root.Key)
		err := w.s.View(t.Context(), func(tx *Tx) error {
			for level := root.Level; level > 0; level-- {
				it := tx.NodeIter(ondisk.BtreeQuotas, level, ondisk.PosMin, 0)
				for k, ok, err := it.Peek(); ok || err != nil; k, ok, err = it.Next() {
					if err != nil {
						return err
					}
					note(level-1, k)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	before := places()
	if len(before) < 4 {
		t.Fatalf("%d nodes only", len(before))
	}
	rewrite := func(a ondisk.NodeAddr, k ondisk.Key, want bool) {
		t.Helper()
		ok, err := w.s.RewriteNode(t.Context(), journal.WatermarkCopygc, ondisk.BtreeQuotas, uint8(k.Size), k.Pos,
			func(b ondisk.NodeAddr) bool { return a == b })
		if err != nil || ok != want {
			t.Fatalf("node at %v, level %d: %v, %v", a, k.Size, ok, err)
		}
	}
	for a, k := range before {
		rewrite(ondisk.NodeAddr{Dev: a.Dev, Gen: a.Gen, Sector: a.Sector + 1}, k, false)
		now, there := places()[a] // one below may have taken its parents along
		rewrite(a, k, there && now.Pos == k.Pos && now.Size == k.Size)
		rewrite(a, k, false)
	}
	if err := w.s.WaitInterior(t.Context()); err != nil {
		t.Fatal(err)
	}
	after := places()
	for a, k := range after {
		if old, ok := before[a]; ok && old.Pos == k.Pos {
			t.Errorf("the node at %v is still there", a)
		}
	}
	if n := w.s.Stats().InteriorUpdatesPending; n > 0 {
		t.Errorf("%d updates are not durable", n)
	}
	err := w.s.View(t.Context(), func(tx *Tx) error {
		for i := range uint64(keys) {
			if k, ok, err := tx.Get(ondisk.BtreeQuotas, ondisk.Pos{Offset: i}, 0); err != nil || !ok {
				t.Errorf("key %d: %v, %v", i, k, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
