package namei

import (
	"fmt"
	"math"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// RenameFlags are those of renameat2(2), with the same values.
type RenameFlags uint32

// Flags of Rename.
const (
	RenameNoReplace RenameFlags = 1 << iota
	RenameExchange
	RenameWhiteout
)

// Renamed tells what a rename did.
type Renamed struct {
	Moved Attr
	// Other is the inode that had the new name, zero if none had: replaced, and if its flag "unlinked" is set to be deleted once nobody
	// has it open; or exchanged.
	Other    Attr
	Whiteout Attr // what the old name leads to now, with RenameWhiteout
}

// Rename gives what has a name another name, perhaps in another directory, in place of what had that name before. With RenameWhiteout the
// old name becomes a character device 0:0 that belongs to uid and gid.
//
// Options that are inherited become those of the new directory; if that would change a directory the error is [ErrOptions]. Only the roots
// of subvolumes can move to another subvolume, and nothing takes their place. Two names of one inode stay as they are.
func (w *Writer) Rename(tx *trans.Tx, dir ID, name []byte, toDir ID, toName []byte, flags RenameFlags, uid, gid uint32) (Renamed, error) {
	if flags&^(RenameNoReplace|RenameExchange|RenameWhiteout) != 0 || flags&RenameExchange != 0 && flags != RenameExchange {
		return Renamed{}, fmt.Errorf("rename with flags %#x: %w", flags, ErrInvalid)
	}
	r := rename{w: w, tx: tx, flags: flags, name: name, toName: toName, now: w.now()}
	if err := r.find(dir, toDir); err != nil || r.nothing {
		return Renamed{Moved: r.moved.attr(), Other: r.other.attr()}, err
	}
	for _, step := range []func() error{r.check, r.checkLoop, r.moveNames, r.moveInodes, r.save} {
		if err := step(); err != nil {
			return Renamed{}, err
		}
	}
	done := Renamed{Moved: r.moved.attr(), Other: r.other.attr()}
	if flags&RenameWhiteout == 0 {
		return done, nil
	}
	var err error
	done.Whiteout, err = w.createIn(tx, r.from, name, &NewInode{Mode: ondisk.DTChr << 12, UID: uid, GID: gid, noACL: true})
	return done, err
}

func (h *held) attr() Attr {
	if h == nil {
		return Attr{}
	}
	return h.Attr
}

// rename is one rename on its way.
type rename struct {
	w     *Writer
	tx    *trans.Tx
	flags RenameFlags
	now   int64

	from, to     *held // directories, the same one if they are one
	name, toName []byte
	old, new     dirent // what is at both names
	exists       bool   // there is something at the new one
	moved, other *held  // what the names lead to; other may be nil
	nothing      bool   // to be done
}

func (r *rename) exchange() bool { return r.flags&RenameExchange != 0 }

// find locks directories, names and inodes.
func (r *rename) find(dir, toDir ID) (err error) {
	w, tx := r.w, r.tx
	if r.from, err = w.changeDir(tx, dir, true); err != nil {
		return err
	}
	r.to = r.from
	if toDir.Subvol != dir.Subvol || toDir.Inum != dir.Inum {
		if r.to, err = w.changeDir(tx, toDir, false); err != nil {
			return err
		}
	}
	if r.old, err = w.findName(tx, r.from.ID, &r.from.Inode, r.name, trans.Intent); err != nil {
		return err
	}
	if err := checkNewName(r.toName); err != nil {
		return err
	}
	r.new, r.exists, err = w.searchName(tx, r.to.ID, &r.to.Inode, r.toName, trans.Intent)
	switch {
	case isMissing(err):
		return fmt.Errorf("%q is not UTF-8: %w", r.toName, ErrBadName)
	case err != nil:
		return err
	}
	if r.moved, err = r.inode(r.from, &r.old); err != nil || !r.exists {
		if err == nil && r.exchange() {
			err = fmt.Errorf("%q: %w", r.toName, ErrNoName)
		}
		return err
	}
	if r.flags&RenameNoReplace != 0 {
		return fmt.Errorf("%q: %w", r.toName, ErrExist)
	}
	if r.from == r.to && r.old.slot == r.new.slot { // the name itself, perhaps in other case
		if string(r.old.Name) == string(r.toName) || r.exchange() {
			r.nothing = true
			return nil
		}
		r.exists = false
		return nil
	}
	if r.other, err = r.inode(r.to, &r.new); err != nil {
		return err
	}
	r.nothing = r.moved.ID == r.other.ID
	return nil
}

func (r *rename) inode(dir *held, d *dirent) (*held, error) {
	id, err := r.w.target(r.tx, dir.ID, &d.Dirent)
	if err != nil {
		return nil, err
	}
	return r.w.hold(r.tx, id)
}

// check refuses what may not be renamed or replaced.
func (r *rename) check() error {
	in := &r.moved.Inode
	const protected = ondisk.InodeImmutable | ondisk.InodeAppend
	if in.Flags&protected != 0 {
		return fmt.Errorf("%q: %w", r.name, ErrProtected)
	}
	across := r.from.ID.Subvol != r.to.ID.Subvol
	if across && in.Subvol == 0 {
		return ErrCrossSubvol
	}
	if r.other == nil {
		return nil
	}
	other := &r.other.Inode
	var err error
	switch {
	case other.Flags&protected != 0, r.to.Inode.Flags&ondisk.InodeAppend != 0:
		err = ErrProtected
	case across && other.Subvol == 0:
		err = ErrCrossSubvol
	case r.exchange():
	case other.Subvol != 0:
		err = ErrSubvolRoot
	case other.IsDir() && !in.IsDir():
		err = ErrIsDir
	case !other.IsDir() && in.IsDir():
		err = ErrNotDir
	case other.IsDir():
		err = r.w.checkEmpty(r.tx, r.other.ID)
	}
	if err != nil {
		err = fmt.Errorf("%q: %w", r.toName, err)
	}
	return err
}

// checkLoop refuses to move a directory into itself.
func (r *rename) checkLoop() error {
	if r.from == r.to {
		return nil
	}
	if r.moved.Inode.IsDir() {
		if err := r.w.notAbove(r.tx, r.moved.ID, r.to.Attr); err != nil {
			return err
		}
	}
	if r.exchange() && r.other.Inode.IsDir() {
		return r.w.notAbove(r.tx, r.other.ID, r.from.Attr)
	}
	return nil
}

// notAbove returns [ErrLoop] if a directory is one that a second is in, or the same.
func (w *Writer) notAbove(tx *trans.Tx, above ID, dir Attr) (err error) {
	for range maxDepth {
		switch {
		case dir.ID.Inum == above.Inum && dir.ID.Subvol == above.Subvol:
			return ErrLoop
		case dir.Inode.Dir == 0 && dir.Inode.Subvol != 0:
			return nil
		case dir.Inode.Dir == 0:
			return fmt.Errorf("directory %d does not say which one it is in: %w", dir.ID.Inum, ErrInconsistent)
		case dir.Inode.Subvol != 0 && dir.Inode.ParentSubvol != 0:
			if dir.ID, _, err = w.snapshotOf(tx, ID{Subvol: dir.Inode.ParentSubvol}); err != nil {
				return err
			}
		}
		dir.ID.Inum = dir.Inode.Dir
		if dir.Inode, err = w.lookup(tx, dir.ID, 0); err != nil {
			return err
		}
	}
	return fmt.Errorf("more than %d directories above another: %w", maxDepth, ErrInconsistent)
}

// moveNames changes the directories (spec/05 § 3.6).
func (r *rename) moveNames() error {
	w, tx := r.w, r.tx
	if r.from == r.to && !r.exists {
		// If the old name is in the way of the new one, the new one takes its place: behind it, it would not be found any more.
		hash, err := w.folded(&r.to.Inode, r.toName)
		if err != nil {
			return err
		}
		if direntHash(&r.to.Inode, hash) <= r.old.slot && r.old.slot <= r.new.slot {
			r.new.slot = r.old.slot
			if err := w.putName(tx, r.to.ID, &r.to.Inode, r.new.slot, r.toName, r.old.Dirent); err != nil {
				return err
			}
			return r.dropElsewhere(r.from, &r.old)
		}
	}
	if err := w.putName(tx, r.to.ID, &r.to.Inode, r.new.slot, r.toName, r.old.Dirent); err != nil {
		return err
	}
	if r.exists {
		if err := r.dropElsewhere(r.to, &r.new); err != nil {
			return err
		}
	}
	if !r.exchange() {
		return removeName(tx, r.from.ID, &r.from.Inode, &r.old)
	}
	if err := w.putName(tx, r.from.ID, &r.from.Inode, r.old.slot, r.name, r.new.Dirent); err != nil {
		return err
	}
	return r.dropElsewhere(r.from, &r.old)
}

// dropElsewhere deletes an entry of a subvolume that was overwritten in the view of a snapshot but is stored in one above: there is only one for each.
func (r *rename) dropElsewhere(dir *held, d *dirent) error {
	if d.Type != ondisk.DTSubvol || d.key.Pos.Snapshot == dir.ID.Snapshot {
		return nil
	}
	return r.tx.Delete(ondisk.BtreeDirents, d.key.Pos, 0)
}

// moveInodes changes what inodes and subvolumes say of their names.
func (r *rename) moveInodes() error {
	if err := r.settle(r.moved, r.from, r.to, r.new.slot); err != nil {
		return err
	}
	switch {
	case r.other == nil:
	case r.exchange():
		if err := r.settle(r.other, r.to, r.from, r.old.slot); err != nil {
			return err
		}
	default:
		if countsAsSubdir(&r.other.Inode) {
			if err := subdirDown(&r.to.Inode); err != nil {
				return err
			}
		}
		r.other.forget(r.to.ID, r.new.slot)
		if err := linkDown(&r.other.Inode); err != nil {
			return err
		}
		r.other.Inode.Ctime = r.now
	}
	r.from.Inode.Mtime, r.from.Inode.Ctime = r.now, r.now
	r.to.Inode.Mtime, r.to.Inode.Ctime = r.now, r.now
	return nil
}

// settle gives an inode its new place.
func (r *rename) settle(h, from, to *held, slot uint64) error {
	in := &h.Inode
	if countsAsSubdir(in) && from != to {
		if err := subdirDown(&from.Inode); err != nil {
			return err
		}
		if err := subdirUp(&to.Inode); err != nil {
			return err
		}
	}
	if in.Subvol != 0 && in.ParentSubvol != to.ID.Subvol {
		if err := r.w.moveSubvolume(r.tx, in.Subvol, in.ParentSubvol, to.ID.Subvol); err != nil {
			return err
		}
	}
	if in.ParentSubvol != 0 {
		in.ParentSubvol = to.ID.Subvol
	}
	if reinherit(in, &to.Inode) && in.IsDir() {
		return ErrOptions
	}
	in.Dir, in.DirOffset, in.Ctime = to.ID.Inum, slot, r.now
	if in.Subvol != 0 {
		return r.settleOlder(h)
	}
	return nil
}

// settleOlder gives the older versions of a subvolume's root, which snapshots of the subvolume have in common with it, its new place: the driver's check
// wants each of them to be where the subvolume's only name is.
func (r *rename) settleOlder(h *held) error {
	it := r.tx.Iter(ondisk.BtreeInodes, ondisk.Pos{Offset: h.ID.Inum}, trans.AllSnapshots|trans.Intent)
	last := ondisk.Pos{Offset: h.ID.Inum, Snapshot: math.MaxUint32}
	for {
		k, ok, err := it.PeekMax(last)
		if err != nil || !ok {
			return err
		}
		it.Advance()
		if k.Pos.Snapshot == h.Inode.Snapshot || !isInode(k.Type) {
			continue
		}
		in, err := ondisk.DecodeInode(k)
		if err != nil || in.Subvol != h.Inode.Subvol {
			continue // not for us to judge; or of a snapshot, which has a name of its own
		}
		in.Dir, in.DirOffset, in.ParentSubvol = h.Inode.Dir, h.Inode.DirOffset, h.Inode.ParentSubvol
		if err := r.tx.Update(ondisk.BtreeInodes, ondisk.Key{Type: ondisk.KeyInodeV3, Pos: k.Pos, Val: ondisk.EncodeInodeV3(&in)}, 0); err != nil {
			return err
		}
	}
}

func (r *rename) save() error {
	all := []*held{r.from, r.to, r.moved, r.other}
	for i, h := range all {
		if h == nil || i == 1 && h == r.from {
			continue
		}
		if err := r.w.save(r.tx, h); err != nil {
			return err
		}
	}
	return nil
}
