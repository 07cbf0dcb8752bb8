package fsck

import (
	"context"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// checkUnreachableInodes looks for inodes without any name that are not about to be deleted.
func (c *checker) checkUnreachableInodes(ctx context.Context) error {
	f, err := c.readFiles(ctx)
	if f == nil {
		return err
	}
	suspect := func(v *version, vs versions) bool {
		in := &v.in
		lost := c.unbacked[inodeID{in.Inum, v.snapshot}]
		if in.Flags&ondisk.InodeUnlinked != 0 {
			return lost && in.IsDir() && !f.olderRoot(v, vs)
		}
		return !isRoot(in) && !f.olderRoot(v, vs) && (lost || !hasBackpointer(in))
	}
	return f.countLinks(ctx, suspect, func(*ondisk.Dirent) bool { return true }, f.unreachable)
}

// unreachable tells of the oldest versions that nothing leads to.
func (f *files) unreachable(all []*linkCount) {
	lost := func(l *linkCount) bool { return l.wanted && l.count.Load() == 0 }
	for i, l := range all {
		if !lost(l) {
			continue
		}
		older := false
		for _, o := range all[i+1:] {
			if o.inum != l.inum {
				break
			}
			if f.isAncestor(l.snapshot, o.snapshot) {
				older = lost(o) && l.subvol == 0
				break
			}
		}
		if older {
			continue
		}
		at := ondisk.Pos{Offset: l.inum, Snapshot: l.snapshot}
		if f.c.since(39) && l.subvol == 0 && namedBelow(f, all[:i], l) {
			f.c.at(idInodeUnreachableDirentInDescendant, ondisk.BtreeInodes, 0, at, "copy the dirent", "unreachable inode with dirent in descendant snapshot")
			continue
		}
		f.c.at(idInodeUnreachable, ondisk.BtreeInodes, 0, at, "put it into lost+found", "unreachable inode of mode %o", l.mode)
	}
}

// namedBelow reports whether a version of the inode in a snapshot below has a name. Those come before it.
func namedBelow(f *files, before []*linkCount, l *linkCount) bool {
	for i := len(before) - 1; i >= 0 && before[i].inum == l.inum; i-- {
		if o := before[i]; o.inode && o.count.Load() > 0 && f.isAncestor(o.snapshot, l.snapshot) {
			return true
		}
	}
	return false
}
