package fsck

import (
	"context"
	"math"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// checkBucketToStripe compares the bucket_to_stripe btree of 1.35 and later with the alloc keys: one key for each stripe of a bucket.
func (c *checker) checkBucketToStripe(ctx context.Context) error {
	if !c.since(35) {
		return nil
	}
	return c.each(ctx, ondisk.BtreeAlloc, 0, ondisk.PosMin, ondisk.SPosMax, func(k *ondisk.Key) error {
		a, err := ondisk.DecodeAlloc(*k)
		if err != nil || k.Pos.Inode > ondisk.DevInvalid {
			return nil
		}
		at := ondisk.DevBucket(uint16(k.Pos.Inode), ondisk.Bucket(k.Pos.Offset))
		from, to := ondisk.Pos{Inode: at}, ondisk.Pos{Inode: at, Offset: math.MaxUint64, Snapshot: math.MaxUint32}
		if c.lost.overlaps(ondisk.BtreeBucketToStripe, from, to) {
			return nil
		}
		refs := uint32(0)
		for _, err := range c.fs.Keys(ctx, ondisk.BtreeBucketToStripe, 0, from, to) {
			if err == nil {
				refs++
			}
		}
		if refs != a.Stripe {
			c.at(idAllocKeyStripeRefcountWrong, ondisk.BtreeAlloc, 0, k.Pos, "set it", "bucket %d:%d has stripe_refcount %d, but %d keys in "+
				"bucket_to_stripe", k.Pos.Inode, k.Pos.Offset, a.Stripe, refs)
		}
		return ctx.Err()
	})
}

// checkStripeRefs compares stripes with their entries in bucket_to_stripe, both ways, and with the stripe LRU. It is a part of
// check_alloc_to_lru_refs.
func (c *checker) checkStripeRefs(ctx context.Context) error {
	err := c.each(ctx, ondisk.BtreeStripes, 0, ondisk.PosMin, ondisk.SPosMax, func(k *ondisk.Key) error {
		s, err := ondisk.DecodeStripe(*k)
		if err != nil {
			return nil
		}
		if c.since(23) {
			at := stripeLRU(k.Pos.Offset, &s, c.version)
			if err := c.checkHasLRU(ctx, at, ondisk.BtreeStripes, k.Pos, "stripe"); err != nil {
				return err
			}
		}
		for i, p := range s.Ptrs {
			d := c.byIndex[p.Dev]
			if !c.since(35) || p.Dev == ondisk.DevInvalid || d == nil || d.BucketSize == 0 {
				continue
			}
			at := ondisk.Pos{Inode: ondisk.DevBucket(uint16(p.Dev), d.bucketOf(p.Offset)), Offset: k.Pos.Offset}
			_, ok, err := c.get(ctx, ondisk.BtreeBucketToStripe, at)
			if err != nil {
				return err
			}
			if !ok && !c.lost.has(ondisk.BtreeBucketToStripe, at) {
				c.at(idStripeToMissingBucketRef, ondisk.BtreeStripes, 0, k.Pos, "insert it", "block %d is in bucket %d:%d, which has no key in "+
					"bucket_to_stripe", i, p.Dev, d.bucketOf(p.Offset))
			}
		}
		return nil
	})
	if err != nil || !c.since(35) {
		return err
	}
	return c.each(ctx, ondisk.BtreeBucketToStripe, 0, ondisk.PosMin, ondisk.SPosMax, func(k *ondisk.Key) error {
		return c.checkBucketStripe(ctx, k)
	})
}

// checkBucketStripe checks one key of bucket_to_stripe.
func (c *checker) checkBucketStripe(ctx context.Context, k *ondisk.Key) error {
	at := ondisk.Pos{Offset: k.Pos.Offset}
	sk, ok, err := c.get(ctx, ondisk.BtreeStripes, at)
	if err != nil || c.lost.has(ondisk.BtreeStripes, at) {
		return err
	}
	s, err := ondisk.DecodeStripe(sk)
	if !ok || err != nil {
		c.at(idBucketStripeRefToMissingStripe, ondisk.BtreeBucketToStripe, 0, k.Pos, "delete it", "there is no stripe %d", k.Pos.Offset)
		return nil
	}
	dev, b := ondisk.SplitDevBucket(k.Pos.Inode)
	for _, p := range s.Ptrs {
		if d := c.byIndex[p.Dev]; uint16(p.Dev) == dev && d != nil && d.BucketSize != 0 && d.bucketOf(p.Offset) == b {
			return nil
		}
	}
	c.at(idBucketStripeRefToIncorrect, ondisk.BtreeBucketToStripe, 0, k.Pos, "delete it", "stripe %d has no block in bucket %d:%d", k.Pos.Offset, dev, b)
	return nil
}

// stripeLRU returns where a stripe stands in the LRU of those to be reused; Time is 0 if it does not.
func stripeLRU(idx uint64, s *ondisk.Stripe, v ondisk.MetadataVersion) ondisk.LRUPos {
	empty := uint64(0)
	for i := range s.NrData() {
		if n, ok := s.BlockCount(i); ok && n == 0 {
			empty++
		}
	}
	at := ondisk.LRUPos{ID: ondisk.LRUStripeFragmentation, Offset: idx}
	switch {
	case empty == uint64(s.NrData()):
		at.Time = 1
	default:
		if v >= ondisk.VersionReconcile {
			empty += uint64(s.CanWiden)
		}
		if empty != 0 {
			at.Time = ondisk.LRUTimeMax - empty
		}
	}
	return at
}
