package fsck

import (
	"context"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// checkAllocToLRURefs checks that every bucket, and every stripe, has the entries in the LRUs that it is to have.
func (c *checker) checkAllocToLRURefs(ctx context.Context) error {
	if !c.initialized() {
		return nil
	}
	err := c.eachParallel(ctx, ondisk.BtreeAlloc, 0, func() func(k *ondisk.Key) error {
		return func(k *ondisk.Key) error { return c.checkAllocLRU(ctx, k) }
	})
	if err != nil {
		return err
	}
	return c.checkStripeRefs(ctx)
}

func (c *checker) checkAllocLRU(ctx context.Context, k *ondisk.Key) error {
	b := ondisk.Bucket(k.Pos.Offset)
	d := c.device(k.Pos.Inode, b)
	a, err := ondisk.DecodeAlloc(*k)
	if d == nil || err != nil {
		return nil
	}
	a = a.Upgrade()
	if a.DataType == ondisk.DataCached && a.IOTime[0] == 0 {
		c.at(idAllocKeyCachedReadTimeZero, ondisk.BtreeAlloc, 0, k.Pos, "set it to now", "cached bucket with read time 0")
	}
	for i, at := range c.lrusOf(d, b, &a) {
		if err := c.checkHasLRU(ctx, at, ondisk.BtreeAlloc, k.Pos, [...]string{"read", "fragmentation"}[i]); err != nil {
			return err
		}
	}
	return nil
}

// checkHasLRU checks that an entry is there; one with time 0 is not wanted.
func (c *checker) checkHasLRU(ctx context.Context, at ondisk.LRUPos, btree ondisk.BtreeID, pos ondisk.Pos, what string) error {
	if at.Time == 0 {
		return nil
	}
	p := at.Pos()
	k, ok, err := c.get(ctx, ondisk.BtreeLRU, p)
	if err == nil && (!ok || k.Type != ondisk.KeySet) && !c.lost.has(ondisk.BtreeLRU, p) {
		c.at(idAllocKeyToMissingLRUEntry, btree, 0, pos, "insert it", "missing %s lru entry %v", what, p)
	}
	return err
}
