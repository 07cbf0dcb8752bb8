package fsck

import (
	"context"
	"slices"

	"github.com/go-bcachefs/bcachefs/internal/codec/strhash"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// checkInodes checks every inode in every snapshot: against its other versions, its directory entry, its subvolume, and the list of those to
// be deleted.
func (c *checker) checkInodes(ctx context.Context) error {
	f, err := c.readFiles(ctx)
	if f == nil {
		return err
	}
	c.unbacked = map[inodeID]bool{}
	seq, known := c.journalSeq()
	return f.eachInode(ctx, true, func() inodeVisitor {
		x := &inodeCheck{f: f, seq: seq, seqKnown: known && c.since(20)}
		x.backpointers.flush = x.checkBackpointers
		return x
	})
}

// inodeID names an inode in a snapshot.
type inodeID struct {
	inum     uint64
	snapshot uint32
}

// inodeCheck is the visitor of check_inodes.
type inodeCheck struct {
	f            *files
	backpointers batch[backref]
	seq          uint64 // the journal's newest
	seqKnown     bool
}

// backref is an inode that says where its directory entry is.
type backref struct {
	at        ondisk.Pos // with the snapshot to look from
	ok        bool       // there is such a snapshot
	id        inodeID
	subvol    uint32
	unlinked  bool
	unlisted  bool // and it is not on the list of those to be deleted
	dir       bool
	olderRoot bool
}

func (x *inodeCheck) flush(ctx context.Context) error { return x.backpointers.last(ctx) }

func (x *inodeCheck) inode(ctx context.Context, _ uint64, vs versions, all []uint32) error {
	for i := range vs {
		v := &vs[i]
		if !v.inode {
			continue
		}
		x.checkVersions(v, vs, all)
		x.checkSubvol(v)
		if err := x.checkFlags(ctx, v); err != nil {
			return err
		}
		if err := x.checkCaseInsensitive(ctx, v); err != nil {
			return err
		}
		unlisted, err := x.checkUnlinked(ctx, v, all)
		if err != nil {
			return err
		}
		b := backref{id: inodeID{v.in.Inum, v.snapshot}, subvol: v.in.Subvol, unlinked: v.in.Flags&ondisk.InodeUnlinked != 0, unlisted: unlisted, dir: v.in.IsDir(),
			olderRoot: x.f.olderRoot(v, vs)}
		if !hasBackpointer(&v.in) {
			if err := x.checkListed(&b); err != nil {
				return err
			}
			continue
		}
		b.at, b.ok = x.f.backpointer(v)
		if err := x.backpointers.add(ctx, b); err != nil {
			return err
		}
	}
	return nil
}

// checkListed tells of an inode without names that is not on the list. The reference takes the mark off directories, and then finds that nothing
// leads to them; it does that even to those that are on the list, which are none of our business: the next mount deletes them.
func (x *inodeCheck) checkListed(b *backref) error {
	if b.unlisted && b.dir {
		return x.f.c.noName(b.id)
	}
	if b.unlisted {
		x.f.c.at(idUnlinkedInodeNotOnDeletedList, ondisk.BtreeInodes, 0, ondisk.Pos{Offset: b.id.inum, Snapshot: b.id.snapshot}, "put it there",
			"inode unlinked, but not on deleted list")
	}
	return nil
}

// noName notes that an inode has no entry where it says, for check_unreachable_inodes.
func (c *checker) noName(id inodeID) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if int64(len(c.unbacked))*64 > c.opts.MemoryBytes/8 {
		return ErrMemory
	}
	c.unbacked[id] = true
	return nil
}

func (x *inodeCheck) wrong(id ondisk.ErrorID, v *version, repair, format string, args ...any) {
	x.f.c.at(id, ondisk.BtreeInodes, 0, v.pos(), repair, format, args...)
}

// checkVersions compares a version with the oldest it descends from.
func (x *inodeCheck) checkVersions(v *version, vs versions, all []uint32) {
	oldest := v
	for i := range vs {
		if vs[i].inode && x.f.isAncestor(v.snapshot, vs[i].snapshot) {
			oldest = &vs[i]
		}
	}
	if v.in.HashSeed != oldest.in.HashSeed || v.in.HashType != oldest.in.HashType || v.in.Type() != oldest.in.Type() && !x.f.c.since(28) {
		x.wrong(idInodeSnapshotMismatch, v, "take what the oldest has", "inodes in different snapshots don't match: hash seed %x, type %d, mode %o; "+
			"in snapshot %d hash seed %x, type %d, mode %o", v.in.HashSeed, v.in.HashType, v.in.Mode, oldest.snapshot, oldest.in.HashSeed,
			oldest.in.HashType, oldest.in.Mode)
	}
	if has := x.f.childSnapshots(v.snapshot, all); x.f.c.since(13) && has != (v.in.Flags&ondisk.InodeHasChildSnapshot != 0) {
		x.wrong(idInodeHasChildSnapshotsWrong, v, "set it", "inode has_child_snapshots flag wrong (should be %v)", has)
	}
}

// childSnapshots reports whether one of all snapshots is below.
func (f *files) childSnapshots(snapshot uint32, all []uint32) bool {
	return slices.ContainsFunc(all, func(s uint32) bool { return s != snapshot && f.isAncestor(s, snapshot) })
}

// checkSubvol checks what roots of subvolumes say of their subvolumes.
func (x *inodeCheck) checkSubvol(v *version) {
	if v.in.ParentSubvol != 0 && (v.in.Subvol == 0 || v.in.Subvol == ondisk.RootSubvol) {
		x.wrong(idInodeBiParentNonzero, v, "set it to 0", "inode has subvol %d but nonzero parent subvol %d", v.in.Subvol, v.in.ParentSubvol)
	}
	if v.in.Subvol == 0 {
		return
	}
	s, ok := x.f.subvols[v.in.Subvol]
	switch {
	case !ok && v.in.Subvol == ondisk.RootSubvol: // check_root tells
	case !ok:
		x.wrong(idInodeBiSubvolMissing, v, "set it to 0", "inode bi_subvol points to missing subvolume %d", v.in.Subvol)
	case s.Inode != v.in.Inum || !x.f.isAncestor(s.Snapshot, v.snapshot):
		x.wrong(idInodeBiSubvolWrong, v, "set it to 0", "inode points to subvol %d, but subvol points to %d:%d", v.in.Subvol, s.Inode, s.Snapshot)
	}
}

// checkBackpointers looks for the entries that inodes say to have.
func (x *inodeCheck) checkBackpointers(ctx context.Context, all []backref) error {
	slices.SortFunc(all, func(a, b backref) int { return a.at.Compare(b.at) })
	for i := range all {
		if i%tick == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		if err := x.checkBackpointer(ctx, &all[i]); err != nil {
			return err
		}
	}
	return nil
}

func (x *inodeCheck) checkBackpointer(ctx context.Context, b *backref) error {
	var d ondisk.Dirent
	var found bool
	if b.ok {
		var known bool
		var err error
		if d, found, known, err = x.f.dirent(ctx, b.at); err != nil || !known {
			return err
		}
	}
	in := ondisk.Inode{Inum: b.id.inum, Subvol: b.subvol}
	at := ondisk.Pos{Offset: b.id.inum, Snapshot: b.id.snapshot}
	leads := found && leadsTo(&d, &in)
	const clear = "forget it"
	switch {
	case leads && b.unlinked:
		x.f.c.at(idInodeUnlinkedButHasDirent, ondisk.BtreeInodes, 0, at, "clear the flag", "inode unlinked but has dirent at %v", b.at)
	case leads || b.olderRoot:
	case !found:
		x.f.c.at(idInodePointsToMissingDirent, ondisk.BtreeInodes, 0, at, clear, "inode points to missing dirent, at %v", b.at)
	default:
		x.f.c.at(idInodePointsToWrongDirent, ondisk.BtreeInodes, 0, at, clear, "inode points to dirent that does not point back, at %v", b.at)
	}
	if leads {
		return nil
	}
	if err := x.checkListed(b); err != nil || b.olderRoot {
		return err
	}
	return x.f.c.noName(b.id)
}

// checkUnlinked checks that a directory without names is empty. It reports whether an inode without names is missing from the list of those
// to be deleted.
func (x *inodeCheck) checkUnlinked(ctx context.Context, v *version, all []uint32) (unlisted bool, err error) {
	if v.in.Flags&ondisk.InodeUnlinked == 0 {
		return false, nil
	}
	if v.in.IsDir() {
		if s, ok := x.f.subvols[v.in.Subvol]; ok && s.EffectiveState() == ondisk.SubvolumeStateUnlinked {
			return false, nil
		}
		empty, err := x.f.emptyDir(ctx, v.in.Inum, v.at)
		if err == nil && !empty {
			x.wrong(idInodeDirUnlinkedButNotEmpty, v, "clear the flag", "dir unlinked but not empty")
		}
		if err != nil || !empty {
			return false, err
		}
	}
	if !x.f.c.since(2) || x.f.c.lost.any(ondisk.BtreeDeletedInodes) || x.f.childSnapshots(v.snapshot, all) {
		return false, nil
	}
	k, ok, err := x.f.c.get(ctx, ondisk.BtreeDeletedInodes, v.pos())
	return !ok || k.Type != ondisk.KeySet, err
}

// emptyDir reports whether a directory holds nothing, seen from a snapshot; entries of subvolumes do not count. What cannot be read does
// not count either.
func (f *files) emptyDir(ctx context.Context, inum uint64, at uint32) (bool, error) {
	r := allOf(inum)
	offset, decided := uint64(0), false // of the position at hand
	for k, err := range f.c.fs.Keys(ctx, ondisk.BtreeDirents, 0, r.min, r.max) {
		if ctx.Err() != nil {
			return true, ctx.Err()
		}
		if err != nil {
			continue
		}
		if k.Pos.Offset != offset {
			offset, decided = k.Pos.Offset, false
		}
		if decided || !f.isAncestor(at, k.Pos.Snapshot) {
			continue
		}
		decided = true
		if d, err := ondisk.DecodeDirent(k); err == nil && d.Type != ondisk.DTSubvol {
			return false, nil
		}
	}
	return true, ctx.Err()
}

// checkFlags checks what an inode notes down of itself since some version.
func (x *inodeCheck) checkFlags(ctx context.Context, v *version) error {
	if x.f.c.since(28) && v.in.IsDir() && v.in.Size != 0 {
		x.wrong(idInodeDirHasNonzeroISize, v, "set it to 0", "directory with nonzero i_size %d", v.in.Size)
	}
	if x.seqKnown && v.in.JournalSeq > x.seq {
		x.wrong(idInodeJournalSeqInFuture, v, "set it", "inode journal seq %d in future (currently at %d)", v.in.JournalSeq, x.seq)
	}
	if !x.f.c.since(39) {
		return nil
	}
	opts := false
	for o := range ondisk.NumInodeOptions {
		opts = opts || v.in.Option(o) != 0
	}
	if opts != (v.in.Flags&ondisk.InodeHasOpts != 0) {
		x.wrong(idInodeHasInodeOptsFlagWrong, v, "set it", "inode has_inode_opts flag wrong, should be %v", opts)
	}
	for _, acl := range acls {
		if v.in.Flags&acl.flag == 0 {
			continue
		}
		if has, known, err := x.f.hasXattr(ctx, v, acl.typ); err != nil {
			return err
		} else if known && !has {
			x.wrong(acl.id, v, "clear it", "inode has flag %s set but no acl xattr", acl.name)
		}
	}
	return nil
}

// acls are the attributes that inodes note down to have.
var acls = []struct {
	typ  ondisk.XattrType
	flag ondisk.InodeFlags
	id   ondisk.ErrorID
	name string
}{
	{ondisk.XattrACLAccess, ondisk.InodeHasAccessACL, idInodeHasAccessACLFlagWrong, "has_access_acl"},
	{ondisk.XattrACLDefault, ondisk.InodeHasDefaultACL, idInodeHasDefaultACLFlagWrong, "has_default_acl"},
}

// hasXattr looks for an attribute without name.
func (f *files) hasXattr(ctx context.Context, v *version, typ ondisk.XattrType) (has, known bool, err error) {
	at := ondisk.Pos{Inode: v.in.Inum, Snapshot: v.at,
		Offset: strhash.Xattr(strhash.Type(v.in.HashType), v.in.HashSeed, uint8(typ), nil)}
	for range maxProbe {
		used := false
		known, err = f.lookup(ctx, ondisk.BtreeXattrs, at, func(k *ondisk.Key) {
			used = k.Type == ondisk.KeyXattr || k.Type == ondisk.KeyHashWhiteout
			if x, err := ondisk.DecodeXattr(*k); err == nil {
				has = x.Type == typ && len(x.Name) == 0
			}
		})
		if err != nil || !known || has || !used {
			return has, known, err
		}
		at.Offset++
	}
	return false, false, nil
}

// checkCaseInsensitive checks the mark of directories in which, or below which, names are found in any case.
func (x *inodeCheck) checkCaseInsensitive(ctx context.Context, v *version) error {
	if !x.f.c.since(28) || !v.in.IsDir() {
		return nil
	}
	if x.f.c.casefolded(&v.in) && v.in.Flags&ondisk.InodeHasCaseInsensitive == 0 {
		x.wrong(idInodeHasCaseInsensitiveNotSet, v, "set it", "casefolded dir with has_case_insensitive not set")
	}
	if v.in.Flags&ondisk.InodeHasCaseInsensitive == 0 || isRoot(&v.in) {
		return nil
	}
	at := v.at
	if v.in.ParentSubvol != 0 {
		s, ok := x.f.subvols[v.in.ParentSubvol]
		if !ok {
			return nil
		}
		at = s.Snapshot
	}
	vs, known, err := x.f.versionsOf(ctx, v.in.Dir, nil)
	if dir := vs.inode(x.f, at); err == nil && known && dir != nil && dir.in.Flags&ondisk.InodeHasCaseInsensitive == 0 {
		x.wrong(idInodeParentHasCaseInsensitiveNotSet, dir, "set it", "parent of casefolded dir with has_case_insensitive not set")
	}
	return err
}

// casefolded reports whether names in a directory are found in any case.
func (c *checker) casefolded(in *ondisk.Inode) bool {
	if in.Casefold != 0 {
		return in.Casefold > 1
	}
	o, ok := ondisk.FindOption("casefold")
	return ok && c.sb.Option(o) != 0
}

// journalSeq is the newest sequence number of the journal; ok is false if that is not known.
func (c *checker) journalSeq() (seq uint64, ok bool) {
	if c.sb.IsClean() {
		clean, err := c.sb.Clean()
		if err != nil || clean == nil {
			return 0, false
		}
		return clean.JournalSeq, true
	}
	fs, ok := c.fs.(journaled)
	if !ok {
		return 0, false
	}
	seq = fs.Journal().Selection.Highest
	return seq, seq != 0
}
