package fsck

import (
	"context"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// checkNlinks counts the names of inodes that say to have more than one. Directories have one, and those that say to have one were found by
// check_dirents if they have more.
func (c *checker) checkNlinks(ctx context.Context) error {
	f, err := c.readFiles(ctx)
	if f == nil {
		return err
	}
	wanted := func(v *version, _ versions) bool { return !v.in.IsDir() && v.in.NlinkRaw != 0 }
	counted := func(d *ondisk.Dirent) bool { return d.Type != ondisk.DTDir && d.Type != ondisk.DTSubvol }
	return f.countLinks(ctx, wanted, counted, func(all []*linkCount) {
		for _, l := range all {
			if l.wanted && l.nlink != l.count.Load() {
				c.at(idInodeWrongNlink, ondisk.BtreeInodes, 0, ondisk.Pos{Offset: l.inum, Snapshot: l.snapshot}, "set it",
					"inode has wrong i_nlink (%d, should be %d)", l.nlink, l.count.Load())
			}
		}
	})
}
