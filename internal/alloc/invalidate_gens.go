package alloc

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// gcGens finds how old the oldest pointers to each bucket are, so that buckets whose generations have gone too far from them can be
// used again (spec/04 §12.3).
type gcGens struct {
	running atomic.Bool
	run     sync.Mutex // one at a time
	mu      sync.Mutex
	oldest  map[uint64]uint8 // by DevBucket: of buckets whose generation is not their oldest
}

// see notes a pointer that exists.
func (g *gcGens) see(id uint64, gen uint8) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if old, ok := g.oldest[id]; ok && genCmp(gen, old) < 0 {
		g.oldest[id] = gen
	}
}

// PointerInserted is told in the atomic part of a commit of each pointer that it adds. An extent that moves to a place that a scan of
// gc_gens has passed already, from one that it has not reached, would be missed otherwise.
func (a *Allocator) PointerInserted(p *ondisk.ExtentPtr) {
	if !a.gens.running.Load() {
		return
	}
	if d := a.DevSpace(p.Dev); d != nil {
		b, _ := d.Device.Bucket(p.Offset)
		a.gens.see(ondisk.DevBucket(uint16(p.Dev), b), p.Gen)
	}
}

func (a *Allocator) gcGensRound(ctx context.Context, urgent bool) (int, error) {
	for d := range a.Devices() {
		if n := a.cfg.Usage.Buckets(d.Index, ondisk.DataNeedGCGens); n > 0 && (urgent || n > a.Avail(d, WatermarkNormal)) {
			return a.GCGens(ctx)
		}
	}
	return 0, nil
}

// pointerBtrees are the btrees whose leaves hold pointers that may be stale: those of nodes never are, nor those of stripes.
var pointerBtrees = [...]ondisk.BtreeID{ondisk.BtreeExtents, ondisk.BtreeReflink}

// GCGens walks all keys with pointers and raises the oldest generation of buckets as far as no pointer is older. It returns how many
// alloc keys were changed.
//
// The reference also drops stale pointers that are far behind from the keys it meets. This only reads: a key is rewritten without them
// when it is next changed.
func (a *Allocator) GCGens(ctx context.Context) (n int, err error) {
	g := &a.gens
	g.run.Lock()
	defer g.run.Unlock()
	a.stats.gcGensRuns.Add(1)
	g.mu.Lock()
	g.oldest = map[uint64]uint8{}
	g.mu.Unlock()
	g.running.Store(true)
	defer func() {
		g.running.Store(false)
		g.mu.Lock()
		g.oldest = nil
		g.mu.Unlock()
	}()
	if err := a.collectGens(ctx); err != nil {
		return 0, err
	}
	for _, btree := range pointerBtrees {
		if err := a.seePointers(ctx, btree); err != nil {
			return 0, err
		}
	}
	g.mu.Lock()
	found := make([]oldestGen, 0, len(g.oldest))
	for id, gen := range g.oldest {
		found = append(found, oldestGen{id, gen})
	}
	g.mu.Unlock()
	for _, f := range found {
		changed, err := a.setOldest(ctx, f)
		if err != nil {
			return n, err
		}
		if changed {
			n++
		}
	}
	a.stats.gcGensKeys.Add(int64(n))
	return n, nil
}

type oldestGen struct {
	id  uint64
	gen uint8
}

// collectGens starts from the generations that buckets have. Pointers that are being written have the same: the generation of an
// open bucket does not change.
func (a *Allocator) collectGens(ctx context.Context) error {
	for d := range a.Devices() {
		err := a.cfg.Engine.View(ctx, func(tx Tx) error {
			return tx.Scan(ondisk.BtreeAlloc, allocPos(d.Index, d.FirstBucket), allocPos(d.Index, d.NBuckets-1), 0,
				func(k ondisk.Key, _ ondisk.Pos) (bool, error) {
					al, err := decodeAlloc(&k)
					if err == nil && al.GCGen() != 0 {
						a.gens.mu.Lock()
						a.gens.oldest[ondisk.DevBucket(uint16(d.Index), ondisk.Bucket(k.Pos.Offset))] = al.Gen
						a.gens.mu.Unlock()
					}
					return err == nil, err
				})
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// seePointers notes all pointers of a btree.
func (a *Allocator) seePointers(ctx context.Context, btree ondisk.BtreeID) error {
	sp := a.spaces.Load()
	var ptrs []ondisk.DecodedPtr
	return a.cfg.Engine.View(ctx, func(tx Tx) error {
		return tx.Scan(btree, ondisk.PosMin, ondisk.SPosMax, 0, func(k ondisk.Key, _ ondisk.Pos) (bool, error) {
			if !hasPointers(k.Type) {
				return true, ctx.Err()
			}
			var err error
			if ptrs, _, err = ondisk.AppendExtentPtrs(ptrs[:0], &k, a.cfg.ExtentTypeU64s); err != nil {
				return false, err
			}
			for i := range ptrs {
				if d := sp.get(ptrs[i].Dev); d != nil {
					b, _ := d.Device.Bucket(ptrs[i].Offset)
					a.gens.see(ondisk.DevBucket(uint16(d.Index), b), ptrs[i].Gen)
				}
			}
			return true, ctx.Err()
		})
	})
}

func hasPointers(t ondisk.KeyType) bool { return t == ondisk.KeyExtent || t == ondisk.KeyReflinkV }

// setOldest raises the oldest generation of a bucket to what was found, or to what is older of that and its generation.
func (a *Allocator) setOldest(ctx context.Context, f oldestGen) (changed bool, err error) {
	dev, b := ondisk.SplitDevBucket(f.id)
	err = a.updateFreeing(ctx, func(tx Tx) error {
		changed = false
		k, err := GetAlloc(tx, uint8(dev), b, ForUpdate)
		if err != nil {
			return err
		}
		a.gens.mu.Lock() // pointers may have come since
		gen := a.gens.oldest[f.id]
		a.gens.mu.Unlock()
		if genCmp(gen, k.OldestGen) <= 0 {
			return nil
		}
		k.OldestGen = gen
		k.DataType = k.DerivedDataType(emptyHint(k.DataType))
		changed = true
		return SetAlloc(tx, uint8(dev), b, &k, 0)
	})
	return changed, err
}

// emptyHint makes types that follow from the distance of generations be derived anew.
func emptyHint(t ondisk.DataType) ondisk.DataType {
	if t == ondisk.DataNeedGCGens {
		return ondisk.DataFree
	}
	return t
}
