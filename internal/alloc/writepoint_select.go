package alloc

import (
	"context"
	"errors"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// selection is the choice of buckets for one allocation, made under the lock of a write point. Buckets in it have a reference that
// is the write point's.
type selection struct {
	obs       [MaxOpenPerWrite]*OpenBucket
	n         int
	effective int    // durability of all
	haveCache bool   // no (more) devices of durability 0
	left      DevSet // devices that may be added
	req       *Request
	min       uint32 // sectors that a bucket must have left
	kept      uint16 // bit n: bucket n of the write point was chosen
	order     []uint8
	br        bucketRequest
	full      error // that a device had no space
}

func (s *selection) enough() bool { return s.effective >= s.req.Replicas || s.n == len(s.obs) }

// takes tells whether a bucket may be added.
func (s *selection) takes(ob *OpenBucket) bool {
	return s.left.Has(ob.dev.Index) && ob.dataType == s.req.DataType && ob.sectorsFree >= s.min && (ob.dev.durability() > 0 || !s.haveCache)
}

func (s *selection) add(ob *OpenBucket) {
	s.obs[s.n] = ob
	s.n++
	s.left.Remove(ob.dev.Index)
	s.effective += ob.dev.durability()
	if ob.dev.durability() == 0 {
		s.haveCache = true
	}
}

// choose fills wp.sel with buckets for a request; wp is locked. Whatever it returns, the buckets of wp and of the selection are the
// write point's, which [Allocator.settle] makes final.
func (a *Allocator) choose(ctx context.Context, wp *writePoint, req *Request) error {
	s := &wp.sel
	*s = selection{req: req, order: s.order[:0], min: max(req.Min, a.cfg.BlockSectors)}
	s.br = bucketRequest{tx: req.Tx, dataType: req.DataType, watermark: req.Watermark, keep: req.Keep, owner: req.Owner}
	s.haveCache = req.DataType != ondisk.DataUser
	sp := a.spaces.Load()
	may := sp.rw[min(req.DataType, ondisk.NumDataTypes-1)].Without(req.Have)
	if only, ok := sp.target(req.Target); ok {
		s.left = may.And(only)
		if err := a.fill(ctx, wp, sp); err != nil || s.enough() || req.OnlySpecified {
			return s.verdict(err)
		}
		s.haveCache = true // devices that are caches only get what was meant for them
		s.left = may.Without(only)
	} else {
		s.left = may
	}
	return s.verdict(a.fill(ctx, wp, sp))
}

// verdict says what became of a choice; err is a failure that has nothing to do with space.
func (s *selection) verdict(err error) error {
	switch {
	case err != nil:
		return err
	case s.enough():
		return nil
	case s.full != nil:
		return s.full
	case s.n > 0 && s.effective >= s.req.Required:
		return nil
	}
	return ErrInsufficientDevices
}

// fill adds buckets of the devices in s.left: those that the write point has, those that were left partly written, then new ones.
func (a *Allocator) fill(ctx context.Context, wp *writePoint, sp *spaces) error {
	s := &wp.sel
	for i, ob := range wp.obs[:wp.n] {
		if s.enough() {
			return nil
		}
		if s.kept>>i&1 == 0 && s.takes(ob) {
			s.add(ob)
			s.kept |= 1 << i
		}
	}
	a.fillPartial(s)
	if s.enough() {
		return nil
	}
	s.order = wp.clock.order(s.order[:0], s.left)
	for _, dev := range s.order {
		d := sp.devs[dev]
		if d.durability() == 0 && s.haveCache || d.BucketSize < s.min {
			continue
		}
		ob, err := a.bucket(ctx, d, &s.br)
		switch {
		case isFull(err):
			if s.full == nil || errors.Is(err, errOpenBucketsEmpty) {
				s.full = err
			}
			continue
		case err != nil:
			return err
		}
		wp.clock.took(dev, a.Available(d, WatermarkNormal))
		s.add(ob)
		if s.enough() {
			return nil
		}
	}
	return nil
}

// fillPartial adds buckets of the partial list, the newest first. Those that were opened by dipping into reserves are only for
// requests that may do so too, or while there is no need: else ordinary writes would use up what copygc needs to make room.
func (a *Allocator) fillPartial(s *selection) {
	if s.enough() {
		return
	}
	t := a.open
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := len(t.partial) - 1; i >= 0 && !s.enough(); i-- {
		ob := t.partial[i]
		if s.takes(ob) && (ob.watermark <= s.req.Watermark || a.Avail(ob.dev, s.req.Watermark) > 0) {
			s.add(t.unlinkPartial(i))
		}
	}
}

// settle makes a choice final: if it serves, its buckets become those of the write point, and those that do not belong to it are given
// up; if not, the write point keeps what it had.
func (a *Allocator) settle(ctx context.Context, wp *writePoint, ok bool) {
	s := &wp.sel
	if !ok {
		for _, ob := range s.obs[:s.n] {
			if !wp.has(ob) {
				a.putUnused(ctx, ob, false)
			}
		}
		s.n = 0
		return
	}
	s.dropSurplus(func(ob *OpenBucket) {
		if !wp.has(ob) {
			a.putUnused(ctx, ob, true)
		}
	})
	had, n := wp.obs, wp.n
	wp.obs, wp.n = s.obs, s.n
	for _, ob := range had[:n] {
		if !wp.has(ob) {
			a.putUnused(ctx, ob, true)
			a.trimPartial(ctx) // what comes in pieces that do not fit leaves some room in each bucket
		}
	}
}

// dropSurplus takes out buckets without which the choice is still durable enough.
func (s *selection) dropSurplus(drop func(*OpenBucket)) {
	for i := 0; i < s.n && s.effective > s.req.Replicas; {
		ob := s.obs[i]
		if d := ob.dev.durability(); d == 0 || s.effective-d < s.req.Replicas {
			i++
			continue
		}
		s.effective -= ob.dev.durability()
		copy(s.obs[i:s.n], s.obs[i+1:s.n])
		s.n--
		s.obs[s.n] = nil
		drop(ob)
	}
}

// has tells whether a bucket is one of the write point's.
func (wp *writePoint) has(ob *OpenBucket) bool {
	for _, o := range wp.obs[:wp.n] {
		if o == ob {
			return true
		}
	}
	return false
}
