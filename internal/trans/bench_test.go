package trans

import (
	"context"
	"math/rand/v2"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

const benchKeys = 1 << 20

func benchWorld(b *testing.B) *world {
	return newWorld(b, func(c *Config) { c.NodeBytes, c.BlockBytes, c.CacheBytes = 256<<10, 4096, 1<<30 })
}

func (w *world) fill(n int) {
	for i := range n {
		w.set1(uint64(i), uint64(i))
	}
}

func (w *world) set1(k, v uint64) {
	err := w.s.Update(context.Background(), func(tx *Tx) error {
		val := tx.Bytes(8)
		val[0] = byte(v)
		return tx.Update(ondisk.BtreeXattrs, ondisk.Key{Type: ondisk.KeyCookie, Pos: ondisk.Pos{Inode: 1, Offset: k, Snapshot: 5}, Val: val}, 0)
	})
	if err != nil {
		w.Fatal(err)
	}
}

func BenchmarkRandInsert(b *testing.B) {
	w := benchWorld(b)
	rnd := rand.New(rand.NewPCG(1, 2))
	b.ReportAllocs()
	for b.Loop() {
		w.set1(rnd.Uint64(), 1)
	}
}

func BenchmarkSeqInsert(b *testing.B) {
	w := benchWorld(b)
	b.ReportAllocs()
	i := uint64(0)
	for b.Loop() {
		i++
		w.set1(i, 1)
	}
}

func BenchmarkRandLookup(b *testing.B) {
	w := benchWorld(b)
	w.fill(benchKeys)
	rnd := rand.New(rand.NewPCG(1, 2))
	var p ondisk.Pos
	fn := func(tx *Tx) error {
		_, ok, err := tx.Get(ondisk.BtreeXattrs, p, 0)
		if !ok {
			b.Fatal(p, err)
		}
		return err
	}
	b.ReportAllocs()
	for b.Loop() {
		p = ondisk.Pos{Inode: 1, Offset: rnd.Uint64N(benchKeys), Snapshot: 5}
		if err := w.s.View(context.Background(), fn); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkIterate(b *testing.B) {
	w := benchWorld(b)
	w.fill(benchKeys)
	b.ReportAllocs()
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
