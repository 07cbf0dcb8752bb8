package fsck

import (
	"context"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// checkDamage checks that what is noted of damaged inodes is of inodes that are there.
func (c *checker) checkDamage(ctx context.Context) error {
	if !c.initialized() || !c.since(39) {
		return nil
	}
	return c.each(ctx, ondisk.BtreeDamage, 0, ondisk.PosMin, ondisk.SPosMax, func(k *ondisk.Key) error {
		inode, ok, err := c.get(ctx, ondisk.BtreeInodes, k.Pos)
		if err == nil && (!ok || !isInode(inode.Type)) && !c.lost.has(ondisk.BtreeInodes, k.Pos) {
			c.at(idDamageKeyNoInode, ondisk.BtreeDamage, 0, k.Pos, "delete it", "damage key without inode")
		}
		return err
	})
}
