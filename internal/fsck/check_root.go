package fsck

import (
	"context"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// checkRoot checks that the filesystem has a root directory.
func (c *checker) checkRoot(ctx context.Context) error {
	f, err := c.readFiles(ctx)
	if f == nil {
		return err
	}
	s, ok := f.subvols[ondisk.RootSubvol]
	if !ok {
		c.at(idRootSubvolMissing, ondisk.BtreeSubvolumes, 0, idPos(ondisk.RootSubvol), "make it anew", "root subvol missing")
		return nil
	}
	vs, known, err := f.versionsOf(ctx, ondisk.RootInum, nil)
	if err != nil || !known {
		return err
	}
	at := ondisk.Pos{Offset: ondisk.RootInum, Snapshot: s.Snapshot}
	switch v := vs.inode(f, s.Snapshot); {
	case v == nil:
		c.at(idRootDirMissing, ondisk.BtreeInodes, 0, at, "make it anew", "root directory missing")
	case !v.in.IsDir():
		c.at(idRootInodeNotDir, ondisk.BtreeInodes, 0, v.pos(), "make it one", "root inode not a directory, its mode is %o", v.in.Mode)
	}
	return nil
}
