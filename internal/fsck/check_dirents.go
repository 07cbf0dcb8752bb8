package fsck

import (
	"bytes"
	"cmp"
	"context"
	"slices"

	"github.com/go-bcachefs/bcachefs/internal/codec/strhash"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// checkDirents checks that directory entries belong to directories, can be found by their names, and lead to inodes or subvolumes that know of
// them; and that directories know how many others are in them.
func (c *checker) checkDirents(ctx context.Context) error {
	f, err := c.readFiles(ctx)
	if f == nil {
		return err
	}
	return f.eachHolder(ctx, ondisk.BtreeDirents, func() holder {
		x := &direntCheck{f: f}
		x.targets.flush = x.checkTargets
		return x
	})
}

// direntCheck checks one directory after the other.
type direntCheck struct {
	f       *files
	inum    uint64
	vs      versions
	subdirs []uint32 // of the versions
	targets batch[link]
	found   versions // of a target
}

// link is a directory entry without its name.
type link struct {
	pos           ondisk.Pos
	inum          uint64 // of the target
	child, parent uint32 // of entries that lead to subvolumes
	typ           uint8
	lower         []uint32 // snapshots of other keys at the position
}

func (x *direntCheck) begin(inum uint64, vs versions) {
	x.inum, x.vs = inum, vs
	x.subdirs = append(x.subdirs[:0], make([]uint32, len(vs))...)
}

func (x *direntCheck) flush(ctx context.Context) error { return x.targets.last(ctx) }

func (x *direntCheck) key(ctx context.Context, k *ondisk.Key, lower []uint32) error {
	if k.Type != ondisk.KeyDirent {
		return nil
	}
	d, err := ondisk.DecodeDirent(*k)
	if err != nil {
		return nil // check_topology told
	}
	dir := x.f.holds(ondisk.BtreeDirents, k, x.vs, (*ondisk.Inode).IsDir)
	if dir == nil {
		return nil
	}
	hash := strhash.Dirent(strhash.Type(dir.in.HashType), dir.in.HashSeed, d.LookupName(), dir.in.Flags&ondisk.Inode31bitDirentOffset != 0)
	ok, err := x.f.checkHash(ctx, ondisk.BtreeDirents, k, hash, func(k *ondisk.Key) bool {
		other, err := ondisk.DecodeDirent(*k)
		return err == nil && bytes.Equal(other.LookupName(), d.LookupName())
	})
	if err != nil {
		return err
	}
	if x.f.c.since(28) && ok && d.Casefold != x.f.c.casefolded(&dir.in) {
		x.f.c.at(idDirentCasefoldMismatch, ondisk.BtreeDirents, 0, k.Pos, "make it anew", "dirent casefold does not match dir casefold: %s",
			x.f.c.keyText(ondisk.BtreeDirents, k))
	}
	if d.Type == ondisk.DTDir {
		for i := range x.vs {
			if v := &x.vs[i]; v.snapshot <= k.Pos.Snapshot && x.f.sees(v.at, k.Pos.Snapshot, lower) {
				x.subdirs[i]++
			}
		}
	}
	l := link{pos: k.Pos, inum: d.Inum, child: d.ChildSubvol, parent: d.ParentSubvol, typ: d.Type, lower: slices.Clone(lower)}
	if d.Type == ondisk.DTSubvol {
		l.inum = x.f.subvols[d.ChildSubvol].Inode
	}
	return x.targets.add(ctx, l)
}

func (x *direntCheck) end(context.Context, int) error {
	if x.f.c.lost.overlapsRange(ondisk.BtreeDirents, allOf(x.inum)) {
		return nil
	}
	for i := range x.vs {
		if v := &x.vs[i]; v.inode && v.in.IsDir() && v.in.NlinkRaw != x.subdirs[i] {
			x.f.c.at(idInodeDirWrongNlink, ondisk.BtreeInodes, 0, v.pos(), "set it", "directory with wrong i_nlink: got %d, should be %d", v.in.NlinkRaw,
				x.subdirs[i])
		}
	}
	return nil
}

// checkTargets looks for what entries lead to.
func (x *direntCheck) checkTargets(ctx context.Context, all []link) error {
	slices.SortFunc(all, func(a, b link) int { return cmp.Or(cmp.Compare(a.inum, b.inum), a.pos.Compare(b.pos)) })
	known := false
	for i := range all {
		l := &all[i]
		if i == 0 || l.inum != all[i-1].inum {
			var err error
			if x.found, known, err = x.f.versionsOf(ctx, l.inum, x.found); err != nil {
				return err
			}
		}
		check := x.checkTarget
		if l.typ == ondisk.DTSubvol {
			check = x.checkSubvol
		}
		if err := check(ctx, l, known); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// wrong tells something of an entry.
func (x *direntCheck) wrong(ctx context.Context, id ondisk.ErrorID, l *link, repair, format string, args ...any) {
	text := "of type " + direntTypeText(l.typ)
	if k, ok, err := x.f.c.get(ctx, ondisk.BtreeDirents, l.pos); err == nil && ok {
		text = x.f.c.keyText(ondisk.BtreeDirents, &k)
	}
	x.f.c.at(id, ondisk.BtreeDirents, 0, l.pos, repair, format+": %s", append(args, text)...)
}

// checkTarget checks the inodes that an entry leads to: in the snapshots that see it there may be several versions.
func (x *direntCheck) checkTarget(ctx context.Context, l *link, known bool) error {
	if !known {
		return nil
	}
	at := x.f.seenFrom(l.pos.Snapshot)
	own := x.found.inode(x.f, at)
	n := 0
	for i := range x.found {
		v := &x.found[i]
		if v != own && (v.snapshot >= l.pos.Snapshot || !x.f.sees(v.at, l.pos.Snapshot, l.lower)) {
			continue
		}
		if !v.inode {
			if x.f.c.since(20) && own != nil {
				x.wrong(ctx, idDirentToOverwrittenInode, l, "hide it there", "dirent points to inode overwritten in snapshot %d", v.snapshot)
			}
			continue
		}
		n++
		if err := x.checkLink(ctx, l, v); err != nil {
			return err
		}
	}
	switch {
	case n == 0:
		return x.missing(ctx, l)
	case own == nil && x.f.c.since(39):
		x.wrong(ctx, idDirentToInodeInDescendantSnapshot, l, "move it there", "dirent with inode(s) only in descendant snapshots")
	}
	return nil
}

// missing tells of an entry that leads nowhere.
func (x *direntCheck) missing(ctx context.Context, l *link) error {
	r := allOf(l.inum)
	for _, id := range []ondisk.BtreeID{ondisk.BtreeExtents, ondisk.BtreeDirents, ondisk.BtreeXattrs} {
		if !x.f.c.since(28) {
			break
		}
		for k, err := range x.f.c.fs.Keys(ctx, id, 0, r.min, r.max) {
			if err == nil && x.f.isAncestor(x.f.seenFrom(l.pos.Snapshot), k.Pos.Snapshot) && !k.Type.IsWhiteout() {
				x.wrong(ctx, idMissingInodeWithContents, l, "make the inode anew", "missing inode %d with contents in btree %v", l.inum, id)
				return ctx.Err()
			}
		}
	}
	x.wrong(ctx, idDirentToMissingInode, l, "delete it", "dirent points to missing inode")
	return ctx.Err()
}

// checkLink compares an entry with a version of the inode that it leads to.
func (x *direntCheck) checkLink(ctx context.Context, l *link, v *version) error {
	inodeAt := func(id ondisk.ErrorID, repair, format string, args ...any) {
		x.f.c.at(id, ondisk.BtreeInodes, 0, v.pos(), repair, format, args...)
	}
	var err error
	switch {
	case v.in.Dir == l.pos.Inode && v.in.DirOffset == l.pos.Offset:
	case !hasBackpointer(&v.in):
		if v.in.IsDir() {
			inodeAt(idInodeDirMissingBackpointer, "set it", "directory with missing backpointer, dirent is at %v", l.pos)
		}
		if v.in.Flags&ondisk.InodeUnlinked != 0 {
			inodeAt(idInodeUnlinkedButHasDirent, "clear the flag", "inode unlinked but has dirent at %v", l.pos)
		}
	default:
		err = x.checkOtherLink(ctx, l, v, inodeAt)
	}
	if want := direntType(&v.in); l.typ != want {
		x.wrong(ctx, idDirentDTypeWrong, l, "set it", "incorrect d_type: got %s, should be %s", direntTypeText(l.typ), direntTypeText(want))
	}
	return err
}

// checkOtherLink checks an entry of an inode that says to have another.
func (x *direntCheck) checkOtherLink(ctx context.Context, l *link, v *version, inodeAt func(ondisk.ErrorID, string, string, ...any)) error {
	at, ok := x.f.backpointer(v)
	var exists bool
	if ok {
		var known bool
		var err error
		if _, exists, known, err = x.f.dirent(ctx, at); err != nil || !known {
			return err
		}
	}
	switch {
	case !exists:
		inodeAt(idInodeWrongBackpointer, "set it", "inode has wrong backpointer: got %d:%d, should be %d:%d", v.in.Dir, v.in.DirOffset,
			l.pos.Inode, l.pos.Offset)
	case v.in.IsDir() || v.in.Subvol != 0:
		inodeAt(idInodeDirMultipleLinks, "remove one", "directory or subvolume with multiple links: dirents at %v and %v", at, l.pos)
	case v.in.NlinkRaw == 0:
		inodeAt(idInodeMultipleLinksButNlink0, "count them", "inode has multiple links but i_nlink 0: dirents at %v and %v", at, l.pos)
	}
	return nil
}

// checkSubvol checks an entry that leads to a subvolume.
func (x *direntCheck) checkSubvol(ctx context.Context, l *link, known bool) error {
	parent, ok := x.f.subvols[l.parent]
	switch {
	case !ok && l.parent == ondisk.RootSubvol: // check_root tells
	case !ok:
		x.wrong(ctx, idDirentToMissingParentSubvol, l, "set it to one that sees the entry", "dirent parent_subvol points to missing subvolume")
	case !x.f.isAncestor(parent.Snapshot, l.pos.Snapshot):
		x.wrong(ctx, idDirentNotVisibleInParentSubvol, l, "set it to one that sees the entry", "dirent not visible in parent_subvol (not an ancestor "+
			"of subvol snap %d)", parent.Snapshot)
	}
	child, ok := x.f.subvols[l.child]
	if !ok || child.EffectiveState() == ondisk.SubvolumeStateDeleted {
		x.wrong(ctx, idDirentToMissingSubvol, l, "delete it", "dirent points to missing subvolume")
		return nil
	}
	if child.EffectiveState() != ondisk.SubvolumeStateLive {
		return nil // about to be deleted
	}
	if x.f.c.since(6) && child.FSPathParent != l.parent {
		x.f.c.at(idSubvolFSPathParentWrong, ondisk.BtreeSubvolumes, 0, idPos(l.child), "set it", "subvol with wrong fs_path_parent %d, should be %d",
			child.FSPathParent, l.parent)
	}
	root := x.found.inode(x.f, child.Snapshot)
	if root == nil || !known {
		return nil // check_subvols tells
	}
	if root.in.ParentSubvol != l.parent {
		x.f.c.at(idInodeBiParentWrong, ondisk.BtreeInodes, 0, root.pos(), "set it", "subvol root has wrong bi_parent_subvol: got %d, should be %d",
			root.in.ParentSubvol, l.parent)
	}
	return x.checkLink(ctx, l, root)
}

// direntTypeText names a type of directory entries.
func direntTypeText(t uint8) string {
	switch t {
	case ondisk.DTFifo:
		return "fifo"
	case ondisk.DTChr:
		return "chr"
	case ondisk.DTDir:
		return "dir"
	case ondisk.DTBlk:
		return "blk"
	case ondisk.DTReg:
		return "reg"
	case ondisk.DTLnk:
		return "lnk"
	case ondisk.DTSock:
		return "sock"
	case ondisk.DTWhiteout:
		return "whiteout"
	case ondisk.DTSubvol:
		return "subvol"
	}
	return "(bad d_type)"
}
