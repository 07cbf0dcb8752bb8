package data

import (
	"context"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// Quota limits how many sectors the files of somebody have. Its methods are safe for concurrent use.
type Quota interface {
	// Change is asked to agree to a transaction that gives an inode of a subvolume, whose snapshot is given, more sectors or fewer, and takes note if that
	// is committed. Fewer are always fine.
	Change(tx *trans.Tx, id ID, snapshot uint32, in *ondisk.Inode, sectors int64) error
	// Room tells before anything is written whether an inode may get so many sectors more. That Change agrees later is not promised.
	Room(tx *trans.Tx, id ID, snapshot uint32, in *ondisk.Inode, sectors uint64) error
}

// room asks whether a range may be written to. What is allocated already is counted already.
func (x *op) room(ctx context.Context, start, end uint64) error {
	w := x.w
	if w.cfg.Quota == nil {
		return nil
	}
	return w.view(ctx, x.id, func(tx *trans.Tx, snapshot uint32, in *ondisk.Inode) error {
		more := end - start
		it := tx.Iter(ondisk.BtreeExtents, ondisk.Pos{Inode: x.id.Inum, Offset: start, Snapshot: snapshot}, 0)
		for {
			k, ok, err := it.PeekMax(ondisk.Pos{Inode: x.id.Inum, Offset: end, Snapshot: snapshot})
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			if isAllocated(&k) {
				more -= min(k.Pos.Offset, end) - max(k.Start().Offset, start)
			}
			it.Advance()
		}
		if more == 0 {
			return nil
		}
		return w.cfg.Quota.Room(tx, x.id, snapshot, in, more)
	})
}
