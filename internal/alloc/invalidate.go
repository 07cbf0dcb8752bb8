package alloc

import (
	"context"
	"fmt"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// shouldInvalidate returns how many buckets of cached data a device should give up (spec/04 §12.2). urgent: at least one, if there
// is one, as somebody waits.
func (a *Allocator) shouldInvalidate(d *DevSpace, urgent bool) int64 {
	u := a.cfg.Usage
	cached := u.Buckets(d.Index, ondisk.DataCached)
	spare := u.Buckets(d.Index, ondisk.DataFree) + u.Buckets(d.Index, ondisk.DataNeedDiscard) - d.reserve(WatermarkStripe)
	want := int64(d.NBuckets>>7) - max(0, spare)
	if urgent {
		want = max(want, 1)
	}
	return min(max(want, 0), max(cached, 0))
}

func (a *Allocator) invalidateRound(ctx context.Context, urgent bool) (n int, err error) {
	for d := range a.Devices() {
		want := a.shouldInvalidate(d, urgent)
		if want == 0 {
			continue
		}
		done, err := a.Invalidate(ctx, d, int(want))
		n += done
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// lruWindow is how far times may lie in the future because the clock was set back or has wrapped.
const lruWindow = 1<<32 - 1

// Invalidate gives up to want buckets of a device that hold only cached data, those that were read least recently first: their generation
// rises, so that pointers to them are stale, and they need a discard. It returns how many there were.
func (a *Allocator) Invalidate(ctx context.Context, d *DevSpace, want int) (n int, err error) {
	if err := a.cfg.Engine.FlushWriteBuffer(ctx); err != nil {
		return 0, err
	}
	start := (a.cfg.Clock(0) + lruWindow) & ondisk.LRUTimeMax
	for _, part := range [2][2]uint64{{start, ondisk.LRUTimeMax}, {0, start - 1}} {
		if part[0] > part[1] || start == 0 && part[0] == 0 && part[1] != ondisk.LRUTimeMax {
			continue
		}
		pos, end := ondisk.LRUPos{ID: uint16(d.Index), Time: part[0]}.Pos(), lruEnd(d.Index, part[1])
		for n < want {
			batch, err := a.collectLRU(ctx, pos, end)
			if err != nil {
				return n, err
			}
			for _, e := range batch {
				if n == want {
					break
				}
				ok, err := a.invalidateBucket(ctx, d, e)
				if err != nil {
					return n, err
				}
				if ok {
					n++
				}
			}
			if len(batch) < discardBatch {
				break
			}
			pos = batch[len(batch)-1].Pos().NextSlot()
		}
	}
	return n, nil
}

func lruEnd(dev uint8, time uint64) ondisk.Pos {
	p := ondisk.LRUPos{ID: uint16(dev), Time: time}.Pos()
	p.Offset = ^uint64(0)
	return p
}

func (a *Allocator) collectLRU(ctx context.Context, from, to ondisk.Pos) (batch []ondisk.LRUPos, err error) {
	err = a.cfg.Engine.View(ctx, func(tx Tx) error {
		batch = batch[:0]
		return tx.Scan(ondisk.BtreeLRU, from, to, 0, func(k ondisk.Key, _ ondisk.Pos) (bool, error) {
			batch = append(batch, ondisk.DecodeLRUPos(k.Pos))
			return len(batch) < discardBatch, nil
		})
	})
	return batch, err
}

// invalidateBucket gives up the cached data of one bucket; false: the entry of the LRU was old, or the bucket is open.
func (a *Allocator) invalidateBucket(ctx context.Context, d *DevSpace, e ondisk.LRUPos) (done bool, err error) {
	dev, b := ondisk.SplitDevBucket(e.Offset)
	if dev != uint16(d.Index) || !d.Has(b) {
		return false, keyErrorf(ondisk.BtreeLRU, e.Pos(), "bucket %d of device %d in the LRU of device %d", b, dev, d.Index)
	}
	err = a.updateFreeing(ctx, func(tx Tx) error {
		done = false
		k, err := GetAlloc(tx, d.Index, b, ForUpdate)
		if err != nil {
			return err
		}
		if a.IsOpen(d.Index, b) || ReadLRUTime(&k) != e.Time {
			return nil
		}
		if k.CachedSectors == 0 || k.DirtyTotal() != 0 {
			return a.tripwire(tx, &candidate{dev: d, bucket: b}, &k, &bucketRequest{}, "alloc_key_cached_inconsistency", fmt.Sprintf(
				"is cached, but its key counts %d cached and %d dirty sectors", k.CachedSectors, k.DirtyTotal()))
		}
		k.Gen++
		k.NeedIncGen = false
		k.CachedSectors = 0
		k.IOTime = [2]uint64{max(1, a.cfg.Clock(0)), max(1, a.cfg.Clock(1))}
		k.DataType = k.DerivedDataType(ondisk.DataFree)
		done = true
		return SetAlloc(tx, d.Index, b, &k, BucketInvalidate)
	})
	if done = done && err == nil; done {
		a.stats.invalidated.Add(1)
	}
	return done, err
}
