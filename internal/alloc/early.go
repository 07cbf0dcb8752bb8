package alloc

import (
	"context"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// early finds a bucket by the alloc btree itself, for devices of which freespace does not tell all (spec/04 §10.5). Buckets without a
// key are free too. The scan remembers where it ended, and goes around once.
//
// It fills no slots of the key cache and keeps no locks: what it finds is looked at again by [Allocator.claim].
func (a *Allocator) early(ctx context.Context, d *DevSpace, r *bucketRequest) (*OpenBucket, error) {
	cursor := &d.earlyCursor[r.mode]
	start := min(max(ondisk.Bucket(cursor.Load()), d.start), d.NBuckets)
	for _, part := range [2]BucketRange{{start, d.NBuckets}, {d.FirstBucket, start}} {
		s := scanPart{dev: d, part: part}
		ob, err := a.searchPart(ctx, &s, r)
		if err != nil {
			return nil, err
		}
		if ob != nil {
			cursor.Store(uint64(ob.bucket) + 1)
			return ob, nil
		}
	}
	return nil, nil
}

// collectAlloc collects buckets whose alloc keys say that they are free, or that have none.
func (a *Allocator) collectAlloc(tx Tx, s *scanPart, pos ondisk.Bucket, next *ondisk.Bucket, r *bucketRequest) error {
	from, to := allocPos(s.dev.Index, pos), allocPos(s.dev.Index, s.part.End-1)
	return tx.Scan(ondisk.BtreeAlloc, from, to, Slots, func(k ondisk.Key, holeEnd ondisk.Pos) (bool, error) {
		f := freeRange{first: ondisk.Bucket(k.Pos.Offset), end: ondisk.Bucket(k.Pos.Offset) + 1}
		if k.Type.IsWhiteout() {
			f.end = ondisk.Bucket(holeEnd.Offset)
			if holeEnd.Inode != k.Pos.Inode || f.end > s.part.End {
				f.end = s.part.End
			}
		} else {
			al, err := decodeAlloc(&k)
			if err != nil {
				return false, err
			}
			if al.DataType != ondisk.DataFree {
				return true, nil
			}
			f.gen = al.Gen
		}
		if a.broken(FaultNoRecheck) {
			ob, err := a.claimUnchecked(tx, s, f, r)
			s.claimed = ob
			return ob == nil && err == nil, err
		}
		s.batch.add(f)
		if s.batch.full() {
			*next = f.end
		}
		return !s.batch.full(), nil
	})
}

// claimUnchecked is what the early allocator did before it learned better: it opens what the scan found, whatever has become of it since.
func (a *Allocator) claimUnchecked(tx Tx, s *scanPart, f freeRange, r *bucketRequest) (*OpenBucket, error) {
	for b := f.first; b < f.end; b++ {
		if !a.worthwhile(s.dev, b, r) {
			continue
		}
		a.hook(tx.Context(), PointScanned, s.dev.Index, b)
		if a.open.isOpenHint(s.dev.Index, b) || s.dev.isNoUse(b) {
			continue
		}
		c := candidate{dev: s.dev, bucket: b}
		ob, err := a.openLocked(&c, f.gen, r)
		if err != nil || ob != nil {
			return ob, err
		}
	}
	return nil, nil
}
