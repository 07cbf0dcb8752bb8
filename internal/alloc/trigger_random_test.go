package alloc

import (
	"context"
	"math/rand/v2"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/codec/compress"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// TestRandomExtents inserts, replaces and deletes random extents, several a commit, and checks time and again that indexes and counters agree with
// the alloc keys; in the end all is deleted and nothing may be left.
func TestRandomExtents(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	e := newTriggerEnv(t, 3)
	before := e.counters()
	// Sectors are given out one after the other and never again, so that nothing overlaps.
	next := make([]ondisk.Bucket, 3)
	used := make([]uint32, 3)
	space := func(dev uint8, sectors uint32) (ondisk.ExtentEntry, bool) {
		if used[dev]+sectors > testBucketSize {
			next[dev], used[dev] = next[dev]+1, 0
		}
		if next[dev] >= testBuckets-1 {
			return ondisk.ExtentEntry{}, false
		}
		p := ptr(dev, next[dev], used[dev], e.alloc(dev, next[dev]).Gen)
		used[dev] += sectors
		return p, true
	}
	live := map[ondisk.Pos]ondisk.Key{}
	random := func() (ondisk.Key, bool) {
		size := 1 + rng.Uint32N(64)
		var entries []ondisk.ExtentEntry
		stored := size
		if rng.IntN(3) == 0 {
			stored = 1 + rng.Uint32N(size)
			entries = append(entries, crc([]compress.Type{compress.LZ4, compress.Zstd, compress.Gzip}[rng.IntN(3)], size, stored, 0))
		}
		for _, dev := range rng.Perm(3)[:1+rng.IntN(3)] {
			p, ok := space(uint8(dev), stored)
			if !ok {
				return ondisk.Key{}, false
			}
			p.Ptr.Cached = len(entries) > 1 && rng.IntN(3) == 0
			entries = append(entries, p)
		}
		inum, slot := 4096+rng.Uint64N(4), 1+rng.Uint64N(30)
		return testExtent(inum, slot*64, size, []uint32{snap, 70}[inum%2], entries...), true
	}
	for n, more := 0, true; more; n++ {
		err := e.run(context.Background(), func(tx Tx) error {
			for range 1 + rng.IntN(4) {
				k, ok := random()
				if !ok {
					more = false
					return nil
				}
				if rng.IntN(3) == 0 {
					for p := range live {
						k = ondisk.Key{Type: ondisk.KeyDeleted, Pos: p}
						break
					}
				}
				if k.Type == ondisk.KeyDeleted {
					delete(live, k.Pos)
				} else {
					live[k.Pos] = k
				}
				if err := tx.Update(ondisk.BtreeExtents, k, 0); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if n%64 == 0 {
			e.checkIndexes()
			e.checkPointers(live)
		}
	}
	e.checkIndexes()
	e.checkPointers(live)
	for _, k := range e.fs.Keys(ondisk.BtreeExtents) {
		e.set(ondisk.BtreeExtents, deleted(k))
	}
	e.discardAll()
	wantLines(t, "nothing is left", e.counters(), before...)
	wantLines(t, "backpointers", e.positions(ondisk.BtreeBackpointers))
	wantLines(t, "lru", e.positions(ondisk.BtreeLRU))
	e.checkIndexes()
	if len(e.reports) != 0 {
		t.Errorf("reported: %v", e.reports)
	}
}

// checkPointers checks the counters of alloc keys and the backpointers against a list of extents.
func (e *triggerEnv) checkPointers(live map[ondisk.Pos]ondisk.Key) {
	e.t.Helper()
	type sums struct{ dirty, cached uint32 }
	want := map[ondisk.Pos]sums{}
	backpointers := 0
	for _, k := range live {
		ptrs, _, err := ondisk.AppendExtentPtrs(nil, &k, nil)
		if err != nil {
			e.t.Fatal(err)
		}
		for i := range ptrs {
			p := &ptrs[i]
			b, _ := e.devs.Get(p.Dev).Bucket(p.Offset)
			s := want[allocPos(p.Dev, b)]
			n := ptrDiskSectors(k.Size, p)
			if p.Cached {
				s.cached += n
			} else {
				s.dirty += n
				backpointers++
				bk, ok := e.fs.Key(ondisk.BtreeBackpointers, backpointerPos(p))
				bp, err := ondisk.DecodeBackpointer(bk)
				if !ok || err != nil || bp.Pos != k.Pos || bp.BucketLen != n {
					e.t.Errorf("backpointer of %v: %+v, %v", k.Pos, bp, err)
				}
			}
			want[allocPos(p.Dev, b)] = s
		}
	}
	if n := len(e.fs.Keys(ondisk.BtreeBackpointers)); n != backpointers {
		e.t.Errorf("%d backpointers, want %d", n, backpointers)
	}
	for d := range e.devs.All() {
		for b := d.FirstBucket; b < d.NBuckets; b++ {
			a := e.alloc(d.Index, b)
			if got := (sums{a.DirtySectors, a.CachedSectors}); got != want[allocPos(d.Index, b)] {
				e.t.Errorf("bucket %d:%d: %+v, want %+v", d.Index, b, got, want[allocPos(d.Index, b)])
			}
		}
	}
}

// benchTx is a transaction that does nothing but hand out memory, so that benchmarks measure triggers.
type benchTx struct {
	*FakeTx
	allocs map[ondisk.Pos]ondisk.Key
	mem    []byte
	n      int
}

func (tx *benchTx) Bytes(n int) []byte {
	if len(tx.mem) < n {
		tx.mem = make([]byte, 1<<20)
	}
	b := tx.mem[:n:n]
	tx.mem = tx.mem[n:]
	return b
}
func (tx *benchTx) Get(btree ondisk.BtreeID, pos ondisk.Pos, _ ReadFlags) (ondisk.Key, bool, error) {
	k, ok := tx.allocs[pos]
	return k, ok && btree == ondisk.BtreeAlloc, nil
}
func (tx *benchTx) Update(btree ondisk.BtreeID, k ondisk.Key, _ UpdateFlags) error {
	if btree == ondisk.BtreeAlloc {
		tx.allocs[k.Pos] = k
	}
	tx.n++
	return nil
}
func (tx *benchTx) UpdateBuffered(ondisk.BtreeID, ondisk.Key)       { tx.n++ }
func (tx *benchTx) Account(_ ondisk.AccountingPos, deltas ...int64) { tx.n += len(deltas) }

// BenchmarkTriggers measures the triggers of an extent of two replicas that is inserted and deleted again, and of its two alloc keys.
func BenchmarkTriggers(b *testing.B) {
	e := newTriggerEnv(b, 2)
	b.Run("extent", func(b *testing.B) {
		b.ReportAllocs()
		tx := &benchTx{allocs: map[ondisk.Pos]ondisk.Key{}}
		k := testExtent(4100, 128, 128, snap, crc(compress.None, 128, 128, 0), ptr(0, 9, 0, 0), ptr(1, 9, 0, 0))
		none := deleted(k)
		for b.Loop() {
			if err := e.tr.Run(tx, ondisk.BtreeExtents, 0, &none, &k, 0); err != nil {
				b.Fatal(err)
			}
			if err := e.tr.Run(tx, ondisk.BtreeExtents, 0, &k, &none, 0); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("alloc", func(b *testing.B) {
		b.ReportAllocs()
		tx := &benchTx{allocs: map[ondisk.Pos]ondisk.Key{}}
		e.devs.Get(0).SetFreespaceInitialized(false)
		full := ondisk.Alloc{Encoding: ondisk.KeyAllocV4, DataType: ondisk.DataUser, DirtySectors: 500}
		less := full
		less.DirtySectors = 400
		ks := [2]ondisk.Key{allocKey(tx, allocPos(0, 9), &full), allocKey(tx, allocPos(0, 9), &less)}
		for i := 0; b.Loop(); i++ {
			k := ks[i&1]
			if err := e.tr.Run(tx, ondisk.BtreeAlloc, 0, &ks[1-i&1], &k, 0); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// TestTriggersDoNotAllocate checks that the triggers of extents and alloc keys use the transaction's memory only.
func TestTriggersDoNotAllocate(t *testing.T) {
	e := newTriggerEnv(t, 2)
	e.devs.Get(0).SetFreespaceInitialized(false) // the transaction has no such btree
	tx := &benchTx{allocs: map[ondisk.Pos]ondisk.Key{}}
	k := testExtent(4100, 128, 128, snap, crc(compress.Zstd, 128, 100, 0), ptr(0, 9, 0, 0), ptr(1, 9, 0, 0))
	none := deleted(k)
	n := testing.AllocsPerRun(100, func() {
		if err := e.tr.Run(tx, ondisk.BtreeExtents, 0, &none, &k, 0); err != nil {
			t.Fatal(err)
		}
		a := tx.allocs[allocPos(0, 9)]
		was := ondisk.Key{Type: ondisk.KeyDeleted, Pos: a.Pos}
		if err := e.tr.Run(tx, ondisk.BtreeAlloc, 0, &was, &a, 0); err != nil {
			t.Fatal(err)
		}
		if err := e.tr.Run(tx, ondisk.BtreeExtents, 0, &k, &none, 0); err != nil {
			t.Fatal(err)
		}
	})
	if n >= 1 {
		t.Errorf("%v allocations", n)
	}
}
