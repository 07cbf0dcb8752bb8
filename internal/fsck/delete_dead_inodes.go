package fsck

import (
	"context"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// deleteDeadInodes checks the list of inodes that are to be deleted. The next mount does that, but after a clean shutdown there are none.
func (c *checker) deleteDeadInodes(ctx context.Context) error {
	f, err := c.readFiles(ctx)
	if f == nil || !c.since(2) {
		return err
	}
	return c.each(ctx, ondisk.BtreeDeletedInodes, 0, ondisk.PosMin, ondisk.SPosMax, func(k *ondisk.Key) error {
		if k.Type != ondisk.KeySet {
			return nil
		}
		return f.checkDeletedInode(ctx, k.Pos)
	})
}

func (f *files) checkDeletedInode(ctx context.Context, pos ondisk.Pos) error {
	r := allSnapshots(pos)
	if f.c.lost.overlapsRange(ondisk.BtreeInodes, r) {
		return nil
	}
	wrong := func(id ondisk.ErrorID, repair, format string, args ...any) error {
		f.c.at(id, ondisk.BtreeDeletedInodes, 0, pos, repair, format, args...)
		return ctx.Err()
	}
	var in ondisk.Inode
	found, children := false, false
	for k, err := range f.c.fs.Keys(ctx, ondisk.BtreeInodes, 0, r.min, pos) {
		switch {
		case err != nil:
			return ctx.Err()
		case !isInode(k.Type):
		case k.Pos == pos:
			got, err := ondisk.DecodeInode(k)
			in, found = got, err == nil
		case f.isAncestor(k.Pos.Snapshot, pos.Snapshot):
			children = true
		}
	}
	const drop = "take it off the list"
	if !found {
		return wrong(idDeletedInodeMissing, drop, "nonexistent inode in deleted_inodes btree")
	}
	if in.IsDir() {
		empty, err := f.emptyDir(ctx, in.Inum, pos.Snapshot)
		if err != nil {
			return err
		}
		if !empty {
			return wrong(idDeletedInodeIsDir, drop, "non empty directory in deleted_inodes btree")
		}
	}
	switch {
	case in.Flags&ondisk.InodeUnlinked == 0:
		return wrong(idDeletedInodeNotUnlinked, drop, "non-deleted inode in deleted_inodes btree")
	case in.Flags&ondisk.InodeHasChildSnapshot != 0:
		return wrong(idDeletedInodeHasChildSnapshots, drop, "inode with child snapshots in deleted_inodes btree")
	case children: // check_inodes told
	case f.c.sb.IsClean():
		return wrong(idDeletedInodeButClean, "delete the inode", "filesystem marked as clean but have deleted inode")
	}
	return ctx.Err()
}
