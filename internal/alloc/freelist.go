package alloc

import (
	"context"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// freeClasses is the number of generation classes that a free bucket can be in: beyond, it waits for gc_gens.
const freeClasses = (ondisk.BucketGCGenMax + 15) / 16

// freeRange is what a scan found: buckets that were free.
type freeRange struct {
	first, end ondisk.Bucket
	gen        uint8 // of a single bucket; only FaultNoRecheck uses it
}

// batch is as many ranges as one transaction of a scan collects.
type batch struct {
	ranges [16]freeRange
	n      int
}

func (b *batch) full() bool { return b.n == len(b.ranges) }

func (b *batch) add(r freeRange) {
	b.ranges[b.n] = r
	b.n++
}

// freelist finds a bucket by the freespace btree (spec/04 §10.4): buckets whose generations are not far from their oldest first, within
// such a class from where the last search of the kind ended, and once around. It returns nil if there is none.
func (a *Allocator) freelist(ctx context.Context, d *DevSpace, r *bucketRequest) (*OpenBucket, error) {
	cursor := &d.freelistCursor[r.mode]
	start := min(max(ondisk.Bucket(cursor.Load()), d.FirstBucket), d.NBuckets)
	for class := range uint8(freeClasses) {
		for _, part := range [2]BucketRange{{start, d.NBuckets}, {d.FirstBucket, start}} {
			s := scanPart{dev: d, part: part, class: class, indexed: true}
			ob, err := a.searchPart(ctx, &s, r)
			if err != nil {
				return nil, err
			}
			if ob != nil {
				cursor.Store(uint64(ob.bucket) + 1)
				return ob, nil
			}
		}
	}
	return nil, nil
}

// scanPart is a part of a device in which a bucket is looked for.
type scanPart struct {
	dev     *DevSpace
	part    BucketRange
	indexed bool  // in freespace
	class   uint8 // of freespace
	batch   batch
	// claimed was opened within the scan, for FaultNoRecheck.
	claimed *OpenBucket
}

// searchPart scans a part of a device and claims the first bucket that can be. Scan and claim are transactions of their own: a scan's
// locks are none to rely on, and what a claim rejects is unlocked at once.
func (a *Allocator) searchPart(ctx context.Context, s *scanPart, r *bucketRequest) (*OpenBucket, error) {
	for pos := s.part.First; pos < s.part.End; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		next, err := a.collect(ctx, s, pos, r)
		if err != nil || s.claimed != nil {
			return s.claimed, err
		}
		for _, f := range s.batch.ranges[:s.batch.n] {
			ob, err := a.claimOneOf(ctx, s, f, r)
			if err != nil || ob != nil {
				return ob, err
			}
		}
		pos = next
	}
	return nil, nil
}

// collect scans from pos on and returns where to go on.
func (a *Allocator) collect(ctx context.Context, s *scanPart, pos ondisk.Bucket, r *bucketRequest) (next ondisk.Bucket, err error) {
	err = a.view(ctx, r.tx, func(tx Tx) error {
		if s.claimed != nil {
			return nil
		}
		s.batch.n = 0
		next = s.part.End
		if s.indexed {
			return a.collectFreespace(tx, s, pos, &next)
		}
		return a.collectAlloc(tx, s, pos, &next, r)
	})
	return next, err
}

// collectFreespace collects the ranges of a class of freespace.
func (a *Allocator) collectFreespace(tx Tx, s *scanPart, pos ondisk.Bucket, next *ondisk.Bucket) error {
	var bad error
	// The key that reaches into the part ends within the class, though maybe behind the part.
	from, to := freespaceSlot(s.dev.Index, s.class, pos), freespaceSlot(s.dev.Index, s.class, s.dev.NBuckets-1)
	err := tx.Scan(ondisk.BtreeFreespace, from, to, 0, func(k ondisk.Key, _ ondisk.Pos) (bool, error) {
		f := ondisk.DecodeFreespace(&k)
		if f.Dev != uint64(s.dev.Index) || f.GenBits != s.class {
			return true, nil
		}
		end := f.First + ondisk.Bucket(f.Len)
		if a.trusted.Load() && (f.First < s.dev.FirstBucket || end > s.dev.NBuckets) {
			bad = keyErrorf(ondisk.BtreeFreespace, k.Pos, "buckets %d to %d of device %d are free, which has %d to %d", f.First, end-1,
				s.dev.Index, s.dev.FirstBucket, s.dev.NBuckets-1)
			return false, bad
		}
		first := max(f.First, pos)
		if first >= s.part.End {
			return false, nil
		}
		end = min(end, s.part.End)
		if first < end {
			s.batch.add(freeRange{first: first, end: end})
		}
		if s.batch.full() {
			*next = end
		}
		return !s.batch.full(), nil
	})
	if bad != nil && err != nil {
		return a.inconsistent(bad)
	}
	return err
}

// freespaceSlot is the slot of a bucket in freespace.
func freespaceSlot(dev, class uint8, b ondisk.Bucket) ondisk.Pos {
	k := ondisk.FreespaceRange{Dev: uint64(dev), GenBits: class, First: b, Len: 1}.Key()
	return k.Start()
}

// claimOneOf claims the first bucket of a range that can be.
func (a *Allocator) claimOneOf(ctx context.Context, s *scanPart, f freeRange, r *bucketRequest) (*OpenBucket, error) {
	for b := f.first; b < f.end; b++ {
		if (b-f.first)%4096 == 4095 {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
		}
		if !a.worthwhile(s.dev, b, r) {
			continue
		}
		c := candidate{dev: s.dev, bucket: b, indexed: s.indexed, genBits: s.class, gen: f.gen}
		a.hook(ctx, PointScanned, s.dev.Index, b)
		var ob *OpenBucket
		err := a.view(ctx, r.tx, func(tx Tx) (err error) {
			if ob == nil { // what a transaction opened that has to run again stays opened: it was decided on what is committed
				ob, err = a.claim(tx, &c, r)
			}
			return err
		})
		if err != nil && ob != nil {
			a.put(ctx, ob)
			ob = nil
		}
		if err != nil || ob != nil {
			return ob, err
		}
	}
	return nil, nil
}

// worthwhile tells, without locks, whether it is worth the while to lock a bucket's alloc key.
func (a *Allocator) worthwhile(d *DevSpace, b ondisk.Bucket, r *bucketRequest) bool {
	if r.mode != bitmapAny {
		bm := d.Bitmap()
		if r.mode == bitmapInside && !bm.Covers(d.Sector(b), d.BucketSize) || r.mode == bitmapOutside && bm.Touches(d.Sector(b), d.BucketSize) {
			return false
		}
	}
	switch {
	case d.isHidden(b):
		a.stats.rejectedReserved.Add(1)
		return false
	case a.open.isOpenHint(d.Index, b):
		a.stats.rejectedOpen.Add(1)
		return false
	}
	if seq := a.waitsHint(d.Index, b); seq != 0 {
		a.stats.rejectedJournal.Add(1)
		r.waiting++
		r.needSeq = max(r.needSeq, seq)
		return false
	}
	return true
}
