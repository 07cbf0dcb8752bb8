package trans

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/golden"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// The nodes of btrees far larger than the cache keep to its budget: what goroutines make dirty while nothing can be evicted comes on top of it, but that is
// bounded as well.
func TestCacheBudget(t *testing.T) {
	keys := golden.Times(t, 160_000, 80_000)
	budget := int64(keys) * 26
	w := newWorld(t, func(c *Config) { c.CacheBytes, c.Trigger = budget, nil })
	var done atomic.Bool
	var most int64
	var watch sync.WaitGroup
	watch.Go(func() {
		for !done.Load() {
			sum := int64(0)
			w.s.cache.mu.Lock()
			for _, b := range w.s.cache.nodes {
				sum += b.bytes
			}
			w.s.cache.mu.Unlock()
			most = max(most, sum)
			time.Sleep(time.Millisecond)
		}
	})
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(1, uint64(g)))
			for i := range keys / 4 {
				pos := ondisk.Pos{Inode: uint64(g) + 1, Offset: rnd.Uint64()}
				w.update(func(tx *Tx) error {
					if i%4 == 0 {
						if _, _, err := tx.Iter(ondisk.BtreeQuotas, ondisk.Pos{Offset: rnd.Uint64()}, 0).Peek(); err != nil {
							return err
						}
					}
					return tx.Update(ondisk.BtreeQuotas, cookie(pos, uint64(i)), 0)
				})
			}
		})
	}
	wg.Wait()
	done.Store(true)
	watch.Wait()
	if most > budget+2<<20 { // whatever the budget is, four goroutines make so much dirty
		t.Errorf("nodes took %d bytes at most, the budget is %d", most, budget)
	}
	if err := w.s.Quiesce(t.Context()); err != nil {
		t.Fatal(err)
	}
	all := int64(0)
	err := w.s.View(t.Context(), func(tx *Tx) error {
		it := tx.Iter(ondisk.BtreeQuotas, ondisk.PosMin, Scanning)
		defer it.Close()
		for _, ok, err := it.Peek(); ok || err != nil; _, ok, err = it.Next() {
			if err != nil {
				return err
			}
			all++
		}
		return nil
	})
	if err != nil || all != int64(keys) {
		t.Errorf("%d keys, %v", all, err)
	}
	for range 1000 {
		if w.s.cache.bytes.Load() <= budget {
			break
		}
		w.s.cache.grew(0)
		time.Sleep(time.Millisecond)
	}
	if n := w.s.cache.bytes.Load(); n > budget {
		t.Errorf("%d bytes at rest", n)
	}
	t.Logf("%d bytes at most, %d at rest", most, w.s.cache.bytes.Load())
}
