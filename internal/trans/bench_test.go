package trans

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

const benchKeys = 1 << 20

func benchWorld(b *testing.B) *world {
	return newWorld(b, func(c *Config) { c.NodeBytes, c.BlockBytes, c.CacheBytes, c.Trigger = 256<<10, 4096, 1<<30, nil })
}

// worker runs transactions and keeps what they need, so that none of it is allocated each time.
type worker struct {
	w    *world
	rnd  *rand.Rand
	pos  []ondisk.Pos
	del  bool
	ok   bool
	last ondisk.Pos

	set, next, update func(tx *Tx) error
}

func (w *world) worker(seed uint64) *worker {
	k := &worker{w: w, rnd: rand.New(rand.NewPCG(seed, 2)), pos: make([]ondisk.Pos, 1)}
	k.set = func(tx *Tx) error {
		for _, p := range k.pos {
			if err := tx.Update(ondisk.BtreeXattrs, ondisk.Key{Type: ondisk.KeyCookie, Pos: p, Val: tx.Bytes(8)}, 0); err != nil {
				return err
			}
		}
		return nil
	}
	k.next = func(tx *Tx) (err error) {
		_, k.ok, err = tx.Iter(ondisk.BtreeXattrs, k.pos[0], 0).Peek()
		return err
	}
	k.update = func(tx *Tx) error {
		old, ok, err := tx.Iter(ondisk.BtreeXattrs, k.pos[0], Intent).Peek()
		if k.ok = ok; !ok || err != nil {
			return err
		}
		k.last = old.Pos
		n := ondisk.Key{Pos: old.Pos}
		if !k.del {
			n.Type, n.Val = ondisk.KeyCookie, tx.Bytes(8)
		}
		return tx.Update(ondisk.BtreeXattrs, n, 0)
	}
	return k
}

func benchPos(k uint64) ondisk.Pos { return ondisk.Pos{Inode: 1, Offset: k, Snapshot: 5} }

func (k *worker) do(run func(context.Context, func(*Tx) error) error, fn func(*Tx) error) {
	if err := run(context.Background(), fn); err != nil {
		k.w.Error(err)
	}
}

func (k *worker) insert(n int) {
	k.pos = k.pos[:0]
	for range n {
		k.pos = append(k.pos, benchPos(k.rnd.Uint64()))
	}
	k.do(k.w.s.Update, k.set)
}

func (k *worker) lookup() {
	k.pos[0] = benchPos(k.rnd.Uint64())
	k.do(k.w.s.View, k.next)
}

func (k *worker) change(del bool) {
	k.pos[0], k.del = benchPos(k.rnd.Uint64()), del
	k.do(k.w.s.Update, k.update)
}

// BenchmarkEngine runs the operations of the reference's benchmark of its btrees: positions at random, or in order.
func BenchmarkEngine(b *testing.B) {
	for _, tt := range []struct {
		name string
		keys int // to begin with
		op   func(k *worker, i int)
	}{
		{"rand_insert", 0, func(k *worker, _ int) { k.insert(1) }},
		{"rand_insert_multi", 0, func(k *worker, i int) {
			if i%8 == 0 {
				k.insert(8)
			}
		}},
		{"rand_lookup", benchKeys, func(k *worker, _ int) { k.lookup() }},
		{"rand_mixed", benchKeys, func(k *worker, i int) {
			if i%4 == 0 {
				k.change(false)
				return
			}
			k.lookup()
		}},
		{"rand_delete", benchKeys, func(k *worker, _ int) { k.change(true) }},
		{"seq_insert", 0, func(k *worker, i int) {
			k.pos[0] = benchPos(uint64(i))
			k.do(k.w.s.Update, k.set)
		}},
		{"seq_overwrite", benchKeys, func(k *worker, _ int) { k.inOrder(false) }},
		{"seq_delete", benchKeys, func(k *worker, _ int) { k.inOrder(true) }},
	} {
		for _, goroutines := range []int{1, 2} {
			name := tt.name + "/1"
			if goroutines == 2 {
				name = tt.name + "/2"
			}
			b.Run(name, func(b *testing.B) {
				w := benchWorld(b)
				fill := w.worker(0)
				for i := 0; i < tt.keys; i += 8 {
					fill.insert(8)
				}
				b.ReportAllocs()
				b.ResetTimer()
				var wg sync.WaitGroup
				for g := range goroutines {
					wg.Go(func() {
						k := w.worker(uint64(g) + 1)
						for i := range b.N / goroutines {
							tt.op(k, i)
						}
					})
				}
				wg.Wait()
				b.StopTimer()
			})
		}
	}
}

// inOrder overwrites or deletes the key behind the last one.
func (k *worker) inOrder(del bool) {
	k.pos[0], k.del = benchPos(k.last.Offset+1), del // in the same snapshot: another would see none of the keys
	k.do(k.w.s.Update, k.update)
	if !k.ok {
		k.last = ondisk.PosMin
	}
}

func BenchmarkIterate(b *testing.B) {
	w := benchWorld(b)
	fill := w.worker(0)
	for range benchKeys / 8 {
		fill.insert(8)
	}
	b.ReportAllocs()
	b.ResetTimer()
	n := 0
	for b.Loop() {
		err := w.s.View(context.Background(), func(tx *Tx) error {
			it := tx.Iter(ondisk.BtreeXattrs, ondisk.Pos{}, AllSnapshots|Scanning)
			defer it.Close()
			for _, ok, err := it.Peek(); ok || err != nil; _, ok, err = it.Next() {
				n++
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/key")
}
