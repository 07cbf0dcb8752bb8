package fsck

import (
	"context"
	"math"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// checkSubvolChildren checks that every entry of subvolume_children is one that its subvolume is to have.
func (c *checker) checkSubvolChildren(ctx context.Context) error {
	if !c.initialized() || !c.since(6) {
		return nil
	}
	return c.each(ctx, ondisk.BtreeSubvolumeChildren, 0, ondisk.PosMin, ondisk.SPosMax, func(k *ondisk.Key) error {
		at := ondisk.Pos{Offset: k.Pos.Offset}
		v, ok, err := c.get(ctx, ondisk.BtreeSubvolumes, at)
		if err != nil || !ok && c.lost.has(ondisk.BtreeSubvolumes, at) {
			return err
		}
		s, err := ondisk.DecodeSubvolume(v)
		if !ok || err != nil || uint64(s.FSPathParent) != k.Pos.Inode || k.Pos.Offset > math.MaxUint32 {
			c.at(idSubvolChildrenBad, ondisk.BtreeSubvolumeChildren, 0, k.Pos, "delete it", "incorrect entry in subvolume_children btree: subvolume %d has "+
				"fs_path_parent %d", k.Pos.Offset, s.FSPathParent)
		}
		return nil
	})
}
