package fsck

import (
	"context"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// checkBtreeBackpointers checks that every backpointer is in a bucket that exists and that something was written to. Backpointers and
// alloc keys are read side by side.
func (c *checker) checkBtreeBackpointers(ctx context.Context) error {
	if !c.initialized() {
		return nil
	}
	alloc := c.cursor(ctx, ondisk.BtreeAlloc, ondisk.PosMin, ondisk.SPosMax)
	defer alloc.stop()
	return c.each(ctx, ondisk.BtreeBackpointers, 0, ondisk.PosMin, ondisk.SPosMax, func(k *ondisk.Key) error {
		sector := ondisk.Sector(k.Pos.Offset >> c.bpShift)
		var d *Device
		if k.Pos.Inode < ondisk.DevInvalid {
			d = c.byIndex[k.Pos.Inode]
		}
		if d == nil || d.BucketSize == 0 || !d.holds(d.bucketOf(sector)) {
			c.at(idBackpointerToMissingDevice, ondisk.BtreeBackpointers, 0, k.Pos, "delete it", "backpointer for nonexistent bucket of device %d, at "+
				"sector %d", k.Pos.Inode, sector)
			return nil
		}
		c.checkBucketOffset(d, k)
		at := bucketPos(d.Index, d.bucketOf(sector))
		for alloc.key != nil && alloc.key.Pos.Less(at) {
			alloc.advance()
		}
		if (alloc.key == nil || alloc.key.Pos != at) && !c.lost.has(ondisk.BtreeAlloc, at) {
			c.at(idBackpointerToMissingAlloc, ondisk.BtreeBackpointers, 0, k.Pos, "delete it", "backpointer for nonexistent alloc key %d:%d",
				at.Inode, at.Offset)
		}
		return nil
	})
}

// checkBucketOffset checks what backpointers up to 1.13 say once more: where in the bucket they are.
func (c *checker) checkBucketOffset(d *Device, k *ondisk.Key) {
	b, err := ondisk.DecodeBackpointer(*k)
	if err != nil || c.since(14) {
		return
	}
	sector := k.Pos.Offset >> c.bpShift
	want := k.Pos.Offset - sector/uint64(d.BucketSize)*uint64(d.BucketSize)<<c.bpShift
	if got := b.BucketOffset(); got != want {
		c.at(idBackpointerBucketOffsetWrong, ondisk.BtreeBackpointers, 0, k.Pos, "delete it", "backpointer says that it is at %d of its bucket, should be %d",
			got, want)
	}
}
