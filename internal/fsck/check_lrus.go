package fsck

import (
	"context"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// checkLRUs checks that every entry of an LRU is one that its bucket, or its stripe, is to have.
func (c *checker) checkLRUs(ctx context.Context) error {
	if !c.initialized() {
		return nil
	}
	return c.eachParallel(ctx, ondisk.BtreeLRU, 0, func() func(k *ondisk.Key) error {
		return func(k *ondisk.Key) error { return c.checkLRU(ctx, k) }
	})
}

func (c *checker) checkLRU(ctx context.Context, k *ondisk.Key) error {
	l := ondisk.DecodeLRUPos(k.Pos)
	if k.Type != ondisk.KeySet {
		c.at(idLRUEntryBad, ondisk.BtreeLRU, 0, k.Pos, "delete it", "key of type %v", k.Type)
		return nil
	}
	if l.Time == 0 {
		c.at(idLRUEntryAtTime0, ondisk.BtreeLRU, 0, k.Pos, "delete it", "time is 0")
		return nil
	}
	if l.ID == ondisk.LRUStripeFragmentation && c.since(23) {
		return c.checkStripeLRU(ctx, k, l)
	}
	dev, b := ondisk.SplitDevBucket(l.Offset)
	d := c.device(uint64(dev), b)
	if d == nil {
		c.at(idLRUEntryToInvalidBucket, ondisk.BtreeLRU, 0, k.Pos, "delete it", "lru entry for nonexistent bucket %d:%d", dev, b)
		return nil
	}
	a, known, err := c.alloc(ctx, bucketPos(d.Index, b))
	if err != nil || !known {
		return err
	}
	for _, want := range c.lrusOf(d, b, &a) {
		if want == l {
			return nil
		}
	}
	c.at(idLRUEntryBad, ondisk.BtreeLRU, 0, k.Pos, "delete it", "incorrect lru entry: lru %d, time %d for bucket %d:%d, which is %v with %d of %d "+
		"sectors, last read at %d", l.ID, l.Time, dev, b, a.DataType, a.Sectors(), d.BucketSize, a.IOTime[0])
	return nil
}

func (c *checker) checkStripeLRU(ctx context.Context, k *ondisk.Key, l ondisk.LRUPos) error {
	at := ondisk.Pos{Offset: l.Offset}
	sk, ok, err := c.get(ctx, ondisk.BtreeStripes, at)
	if err != nil || c.lost.has(ondisk.BtreeStripes, at) {
		return err
	}
	if s, err := ondisk.DecodeStripe(sk); ok && err == nil && stripeLRU(l.Offset, &s, c.version) == l {
		return nil
	}
	c.at(idLRUEntryBad, ondisk.BtreeLRU, 0, k.Pos, "delete it", "incorrect lru entry: time %d for stripe %d", l.Time, l.Offset)
	return nil
}

// lrusOf returns the entries that a bucket is to have: among the cached ones of its device, and among those to be emptied. Time is 0 for none.
func (c *checker) lrusOf(d *Device, b ondisk.Bucket, a *ondisk.Alloc) [2]ondisk.LRUPos {
	at := ondisk.DevBucket(uint16(d.Index), b)
	read := ondisk.LRUPos{ID: uint16(d.Index), Offset: at}
	if a.DataType == ondisk.DataCached {
		read.Time = a.IOTime[0]
	}
	fragmentation := ondisk.LRUPos{ID: ondisk.LRUFragmentation, Offset: at, Time: a.FragmentationLRU(uint32(d.BucketSize))}
	if c.since(39) {
		fragmentation.ID = ondisk.LRUDevFragmentation + uint16(d.Index)
	}
	return [2]ondisk.LRUPos{read, fragmentation}
}
