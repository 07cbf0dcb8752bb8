package trans

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// height is how many levels a btree has.
func (w *world) height(btree ondisk.BtreeID) int { return int(w.s.trees[btree].root.Load().level) + 1 }

// What was filled and emptied is as small as at first, whatever the order, on one level again, and the nodes that held it are free.
func TestMerge(t *testing.T) {
	const n = 3000
	orders := map[string]func(rnd *rand.Rand) []int{
		"up": func(*rand.Rand) []int {
			var l []int
			for i := range n {
				l = append(l, i)
			}
			return l
		},
		"down": func(*rand.Rand) []int {
			var l []int
			for i := range n {
				l = append(l, n-1-i)
			}
			return l
		},
		"at random": func(rnd *rand.Rand) []int { return rnd.Perm(n) },
	}
	for name, order := range orders {
		for _, btree := range []ondisk.BtreeID{ondisk.BtreeQuotas, ondisk.BtreeAlloc, ondisk.BtreeLRU} {
			t.Run(fmt.Sprintf("%s %v", name, btree), func(t *testing.T) {
				noLeaks(t)
				w := newWorld(t, func(c *Config) { c.NodeBytes, c.CacheBytes = 2048, 200<<10 })
				rnd := rand.New(rand.NewPCG(1, 2))
				set := func(i int, typ ondisk.KeyType) {
					w.update(func(tx *Tx) error {
						k := ondisk.Key{Type: typ, Pos: ondisk.Pos{Inode: 1, Offset: uint64(i)}}
						if btree == ondisk.BtreeLRU {
							tx.UpdateBuffered(btree, k)
							return nil
						}
						return tx.Update(btree, k, 0)
					})
				}
				for _, i := range order(rnd) {
					set(i, ondisk.KeySet)
				}
				if err := w.s.Quiesce(context.Background()); err != nil {
					t.Fatal(err)
				}
				if h := w.height(btree); h < 3 {
					t.Errorf("only %d levels to begin with", h)
				}
				for _, i := range order(rnd) {
					set(i, ondisk.KeyDeleted)
				}
				if err := w.s.Quiesce(context.Background()); err != nil {
					t.Fatal(err)
				}
				if h := w.height(btree); h != 1 {
					t.Errorf("%d levels are left", h)
				}
				if st := w.s.Stats(); st.Nodes != 1 {
					t.Errorf("%d nodes are left", st.Nodes)
				}
				if err := w.j.Flush(context.Background()); err != nil {
					t.Fatal(err)
				}
				w.mu.Lock()
				free, used := len(w.freed), int(w.next-8)/(w.cfg.NodeBytes/ondisk.SectorSize)
				w.mu.Unlock()
				if used-free != 1 {
					t.Errorf("%d of %d places are in use", used-free, used)
				}
				w.check(btree, nil)
				w.reopen()
				w.check(btree, nil)
			})
		}
	}
}

// Who waits for it finds a btree as small as it can be.
func TestWaitShrunk(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.NodeBytes = 2048 })
	set := func(i int, typ ondisk.KeyType) {
		w.update(func(tx *Tx) error {
			k := ondisk.Key{Type: typ, Pos: ondisk.Pos{Inode: 1, Offset: uint64(i)}}
			tx.UpdateBuffered(ondisk.BtreeLRU, k)
			return tx.Update(ondisk.BtreeQuotas, k, 0)
		})
	}
	for _, typ := range []ondisk.KeyType{ondisk.KeySet, ondisk.KeyDeleted} {
		for i := range 3000 {
			set(i, typ)
		}
		if typ == ondisk.KeySet {
			if err := w.s.FlushWriteBuffer(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if any, err := w.s.WaitShrunk(t.Context()); !any || err != nil {
		t.Errorf("nothing was waited for, or %v", err)
	}
	if st := w.s.Stats(); st.Nodes != 2 {
		t.Errorf("%d nodes are left of 2 btrees", st.Nodes)
	}
	if any, err := w.s.WaitShrunk(t.Context()); any || err != nil {
		t.Errorf("there is still something to wait for: %v, %v", any, err)
	}
}

// Trees breathe while several transactions work on them.
func TestMergeConcurrently(t *testing.T) {
	noLeaks(t)
	w := newWorld(t, func(c *Config) { c.NodeBytes, c.CacheBytes = 2048, 64<<10 })
	const workers, keys = 4, 500
	var wg sync.WaitGroup
	for g := range uint64(workers) {
		wg.Go(func() {
			for round := range 4 {
				for i := range uint64(keys) {
					k := cookie(ondisk.Pos{Inode: i, Offset: g}, i)
					if round%2 == 1 {
						k = ondisk.Key{Pos: k.Pos}
					}
					if err := w.s.Update(t.Context(), func(tx *Tx) error { return tx.Update(ondisk.BtreeQuotas, k, 0) }); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	if err := w.s.Quiesce(t.Context()); err != nil {
		t.Fatal(err)
	}
	if h := w.height(ondisk.BtreeQuotas); h != 1 {
		t.Errorf("%d levels are left", h)
	}
	w.check(ondisk.BtreeQuotas, nil)
}
