package alloc

import (
	"context"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// bucket opens a bucket of a device (spec/04 §10.3). Errors that say that there is no space are [ErrNoSpace].
func (a *Allocator) bucket(ctx context.Context, d *DevSpace, r *bucketRequest) (*OpenBucket, error) {
	avail := max(0, a.Avail(d, r.watermark)-r.keep)
	if a.cfg.Usage.Buckets(d.Index, ondisk.DataNeedDiscard) > avail || a.cfg.Usage.Buckets(d.Index, ondisk.DataNeedGCGens) > avail ||
		a.shouldInvalidate(d, false) > 0 {
		a.reclaim.kick()
	}
	if avail == 0 {
		return nil, errFreelistEmpty
	}
	if a.tableFull(r.watermark) {
		return nil, errOpenBucketsEmpty
	}
	r.waiting = 0
	first := bitmapOutside
	if r.dataType == ondisk.DataBtree {
		first = bitmapInside
	}
	for _, mode := range [2]int{first, bitmapAny} {
		r.mode = mode
		ob, err := a.search(ctx, d, r)
		if err != nil || ob != nil {
			return ob, err
		}
	}
	return nil, errNoBuckets
}

// search finds a bucket with the allocator that is fit for the device.
func (a *Allocator) search(ctx context.Context, d *DevSpace, r *bucketRequest) (*OpenBucket, error) {
	if a.cfg.ForceEarly || !d.FreespaceInitialized() {
		a.stats.earlySearches.Add(1)
		return a.early(ctx, d, r)
	}
	a.stats.freelistSearches.Add(1)
	ob, err := a.freelist(ctx, d, r)
	if err == nil && ob == nil && !a.trusted.Load() {
		a.stats.earlySearches.Add(1)
		return a.early(ctx, d, r)
	}
	return ob, err
}

func (a *Allocator) tableFull(w Watermark) bool {
	a.open.mu.Lock()
	defer a.open.mu.Unlock()
	return a.open.nrFree <= openLimit(w, len(a.open.buckets))
}
