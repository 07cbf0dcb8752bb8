package alloc

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// reclaimRound makes buckets free that need no data moved: generations whose distance is exhausted, cached data that may go, and
// last discards, which complete what the others began. urgent says that somebody waits for it.
func (a *Allocator) reclaimRound(ctx context.Context, urgent bool) (n int, err error) {
	for _, step := range []func(context.Context, bool) (int, error){a.gcGensRound, a.invalidateRound, a.DiscardRound} {
		done, stepErr := step(ctx, urgent)
		n += done
		if ctx.Err() != nil {
			return n, ctx.Err()
		}
		if stepErr != nil && err == nil {
			err = stepErr // the next step may help all the same
		}
	}
	return n, err
}

// inFlight are the buckets that are being discarded, so that no two tasks do it: the slower one would discard what the bucket was reused
// for.
type inFlight struct {
	mu  sync.Mutex
	ids map[uint64]bool // by DevBucket
}

// begin notes that a bucket is being discarded; false: it is already.
func (f *inFlight) begin(id uint64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ids[id] {
		return false
	}
	if f.ids == nil {
		f.ids = map[uint64]bool{}
	}
	f.ids[id] = true
	return true
}

func (f *inFlight) end(id uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.ids, id)
}

// DiscardRound goes over all buckets that were emptied, tells their devices, and makes them free (spec/04 §12.1). If it is urgent it
// first has the journal flushed if buckets wait for that. It returns how many became free.
func (a *Allocator) DiscardRound(ctx context.Context, urgent bool) (n int, err error) {
	var limit <-chan time.Time
	if a.cfg.DiscardsPerSecond > 0 && !urgent {
		t := time.NewTicker(time.Second / time.Duration(a.cfg.DiscardsPerSecond))
		defer t.Stop()
		limit = t.C
	}
	for d := range a.Devices() {
		for pos := d.FirstBucket; pos < d.NBuckets; {
			batch, next, err := a.collectDiscards(ctx, d, pos)
			if err != nil {
				return n, err
			}
			for _, b := range batch {
				ok, err := a.discardBucket(ctx, d, b, urgent)
				if err != nil {
					return n, fmt.Errorf("discard of device %d bucket %d: %w", d.Index, b, err)
				}
				if !ok {
					continue
				}
				n++
				if limit != nil && !a.freed.waiting() {
					select {
					case <-limit:
					case <-ctx.Done():
						return n, ctx.Err()
					}
				}
			}
			pos = next
		}
	}
	return n, nil
}

const discardBatch = 64

// collectDiscards returns some buckets of a device from pos on that need a discard, and where to go on.
func (a *Allocator) collectDiscards(ctx context.Context, d *DevSpace, pos ondisk.Bucket) (batch []ondisk.Bucket, next ondisk.Bucket, err error) {
	err = a.cfg.Engine.View(ctx, func(tx Tx) error {
		batch, next = batch[:0], d.NBuckets
		return tx.Scan(ondisk.BtreeNeedDiscard, allocPos(d.Index, pos), allocPos(d.Index, d.NBuckets-1), 0,
			func(k ondisk.Key, _ ondisk.Pos) (bool, error) {
				batch = append(batch, ondisk.Bucket(k.Pos.Offset))
				if len(batch) == discardBatch {
					next = ondisk.Bucket(k.Pos.Offset) + 1
				}
				return len(batch) < discardBatch, nil
			})
	})
	return batch, next, err
}

// discardBucket discards one bucket and makes it free; false: it is not to be now.
//
// Between the test and the commit no lock is held, as discarding takes long. Nobody takes the bucket away in between: it is
// neither free nor open, and only what is free is opened.
func (a *Allocator) discardBucket(ctx context.Context, d *DevSpace, b ondisk.Bucket, urgent bool) (bool, error) {
	a.hook(ctx, PointDiscard, d.Index, b)
	mine, seq, err := a.testDiscard(ctx, d, b)
	if err == nil && seq != 0 {
		a.stats.discardSkippedJournal.Add(1)
		if !urgent {
			return false, nil
		}
		if err := a.flushWaiting(ctx, seq); err != nil {
			return false, err
		}
		mine, _, err = a.testDiscard(ctx, d, b)
	}
	if !mine {
		return false, err
	}
	defer a.inFlight.end(ondisk.DevBucket(uint16(d.Index), b))
	if d.discard.Load() && d.disk != nil {
		size := int64(d.BucketSize) * ondisk.SectorSize
		if err := d.disk.Discard(ctx, int64(d.Sector(b))*ondisk.SectorSize, size); err != nil {
			return false, err
		}
	}
	a.hook(ctx, PointDiscarded, d.Index, b)
	err = a.updateFreeing(ctx, func(tx Tx) error {
		k, err := GetAlloc(tx, d.Index, b, ForUpdate)
		if err != nil {
			return err
		}
		if k.DataType != ondisk.DataNeedDiscard || a.IsOpen(d.Index, b) && !a.broken(FaultDiscardTestsFirst) {
			return a.discardError(tx, d, b, &k, "came into use while it was being discarded")
		}
		// The trigger raises the generation if that was put off because the bucket was open.
		k.NeedDiscard = false
		k.DataType = k.DerivedDataType(ondisk.DataFree)
		return SetAlloc(tx, d.Index, b, &k, 0)
	})
	if err != nil {
		return false, err
	}
	a.stats.discarded.Add(1)
	return true, nil
}

// updateFreeing runs a transaction that makes a bucket free. Where there are no buckets for the nodes that it may take, it goes on to the last of what is
// kept back, as nobody else makes more; not at once, as that would be the last of the journal's room, too.
func (a *Allocator) updateFreeing(ctx context.Context, fn func(tx Tx) error) error {
	err := a.cfg.Engine.Update(ctx, WatermarkBtree, fn)
	if isFull(err) {
		err = a.cfg.Engine.Update(ctx, WatermarkReclaim, fn)
	}
	return err
}

// testDiscard reads the bucket's alloc key and tells whether the caller is to discard it, and is noted as who does; seq is the journal
// sequence number that has to be waited for first, or 0. Whether the bucket is open is asked under the lock of the key (I4).
func (a *Allocator) testDiscard(ctx context.Context, d *DevSpace, b ondisk.Bucket) (mine bool, seq uint64, err error) {
	id := ondisk.DevBucket(uint16(d.Index), b)
	open := a.IsOpen(d.Index, b)
	if a.broken(FaultDiscardTestsFirst) {
		a.hook(ctx, PointTested, d.Index, b)
	}
	err = a.cfg.Engine.View(ctx, func(tx Tx) error {
		if mine { // the transaction runs again, and has to look again
			a.inFlight.end(id)
		}
		mine, seq = false, 0
		k, err := GetAlloc(tx, d.Index, b, Committed)
		if err != nil {
			return err
		}
		if !a.broken(FaultDiscardTestsFirst) {
			open = a.IsOpen(d.Index, b)
			a.hook(ctx, PointTested, d.Index, b)
		}
		switch {
		case open:
			a.stats.discardSkippedOpen.Add(1)
			return nil
		case k.DataType != ondisk.DataNeedDiscard:
			return a.checkNeedDiscard(tx, d, b, &k)
		case allocTotal(&k) != 0:
			return a.discardError(tx, d, b, &k, "needs a discard, but its key counts sectors")
		}
		if seq = a.waits(d.Index, b, &k); seq == 0 {
			mine = a.inFlight.begin(id)
		}
		return nil
	})
	if err != nil && mine {
		a.inFlight.end(id)
		mine = false
	}
	return mine, seq, err
}

// checkNeedDiscard decides what it means that need_discard has a bucket whose alloc key, locked, does not say so: the entry was old, or
// the two contradict each other.
func (a *Allocator) checkNeedDiscard(tx Tx, d *DevSpace, b ondisk.Bucket, k *ondisk.Alloc) error {
	if !a.trusted.Load() {
		return nil
	}
	_, still, err := tx.Get(ondisk.BtreeNeedDiscard, allocPos(d.Index, b), Committed)
	if err != nil || !still {
		return err
	}
	return a.discardError(tx, d, b, k, "is in need_discard")
}

func (a *Allocator) discardError(tx Tx, d *DevSpace, b ondisk.Bucket, k *ondisk.Alloc, msg string) error {
	c := candidate{dev: d, bucket: b}
	return a.tripwire(tx, &c, k, &bucketRequest{owner: Owner{Btree: ondisk.BtreeNeedDiscard, Pos: allocPos(d.Index, b),
		Sector: d.Sector(b), Sectors: d.BucketSize}}, "discarding_bucket_in_use", msg)
}
