package fsck

import (
	"context"
	"math"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// resumeLoggedOps looks for operations of more than one transaction that were not finished. The next mount does that, but after a clean
// shutdown there are none.
func (c *checker) resumeLoggedOps(ctx context.Context) error {
	if !c.initialized() || !c.sb.IsClean() {
		return nil
	}
	to := ondisk.Pos{Inode: ondisk.LoggedOpsInode, Offset: math.MaxUint64, Snapshot: math.MaxUint32}
	return c.each(ctx, ondisk.BtreeLoggedOps, 0, ondisk.PosMin, to, func(k *ondisk.Key) error {
		c.at(idLoggedOpButClean, ondisk.BtreeLoggedOps, 0, k.Pos, "finish it", "filesystem marked as clean but have logged op: %s",
			c.keyText(ondisk.BtreeLoggedOps, k))
		return nil
	})
}
