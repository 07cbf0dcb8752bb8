package namei

import (
	"fmt"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// What says what a name may be that is removed.
type What uint8

// Kinds of names to be removed.
const (
	// File is anything but a directory, as unlink(2) has it.
	File What = iota
	// Dir is an empty directory, as rmdir(2) has it; the root of a subvolume among them.
	Dir
	// SubvolumeRoot is the root directory of a subvolume, with whatever is in it.
	SubvolumeRoot
)

// Unlink removes a name. The inode is returned as it is afterwards: if its flag "unlinked" is set, or it is the root of a subvolume, it is to
// be deleted once nobody has it open: with [Writer.Delete], or whatever deletes subvolumes. A subvolume that has others in it stays,
// the error is [ErrNotEmpty].
func (w *Writer) Unlink(tx *trans.Tx, dir ID, name []byte, what What) (Attr, error) {
	parent, err := w.changeDir(tx, dir, true)
	if err != nil {
		return Attr{}, err
	}
	d, err := w.findName(tx, parent.ID, &parent.Inode, name, trans.Intent)
	if err != nil {
		return Attr{}, err
	}
	id, err := w.target(tx, parent.ID, &d.Dirent)
	if err != nil {
		return Attr{}, err
	}
	h, err := w.hold(tx, id)
	if err != nil {
		return Attr{}, err
	}
	if err := w.mayRemove(tx, h, what); err != nil {
		return Attr{}, fmt.Errorf("%q: %w", name, err)
	}
	if h.Inode.Subvol != 0 {
		err = w.unlinkSubvolume(tx, h.Inode.Subvol)
	} else {
		err = linkDown(&h.Inode)
	}
	if err != nil {
		return Attr{}, err
	}
	if countsAsSubdir(&h.Inode) {
		if err := subdirDown(&parent.Inode); err != nil {
			return Attr{}, err
		}
	}
	h.forget(parent.ID, d.slot)
	now := w.now()
	h.Inode.Ctime, parent.Inode.Mtime, parent.Inode.Ctime = now, now, now
	if err := removeName(tx, parent.ID, &parent.Inode, &d); err != nil {
		return Attr{}, err
	}
	if err := w.save(tx, parent); err != nil {
		return Attr{}, err
	}
	return h.Attr, w.save(tx, h)
}

// forget clears the note of where the inode has a name if it is the one at a slot of a directory.
func (h *held) forget(dir ID, slot uint64) {
	if h.Inode.Dir == dir.Inum && h.Inode.DirOffset == slot {
		h.Inode.Dir, h.Inode.DirOffset = 0, 0
	}
}

// mayRemove says why an inode may not lose a name.
func (w *Writer) mayRemove(tx *trans.Tx, h *held, what What) error {
	in := &h.Inode
	switch {
	case in.Flags&(ondisk.InodeImmutable|ondisk.InodeAppend) != 0:
		return ErrProtected
	case what == File && in.IsDir():
		return ErrIsDir
	case what != File && !in.IsDir():
		return ErrNotDir
	case what == SubvolumeRoot && in.Subvol == 0:
		return fmt.Errorf("not the root of a subvolume: %w", ErrNoSubvolume)
	case what == Dir:
		return w.checkEmpty(tx, h.ID)
	}
	return nil
}

// unlinkSubvolume marks a subvolume as one that is to be deleted.
func (w *Writer) unlinkSubvolume(tx *trans.Tx, id uint32) error {
	it := tx.Iter(ondisk.BtreeSubvolumeChildren, ondisk.Pos{Inode: uint64(id)}, 0)
	if _, has, err := it.PeekMax(ondisk.Pos{Inode: uint64(id), Offset: 1<<64 - 1}); err != nil {
		return err
	} else if has {
		return fmt.Errorf("subvolume %d has subvolumes in it: %w", id, ErrNotEmpty)
	}
	parent := uint32(0)
	err := w.changeSubvolume(tx, id, func(s *ondisk.Subvolume) {
		parent, s.FSPathParent = s.FSPathParent, 0
		s.Flags |= ondisk.SubvolumeUnlinked
	})
	if err != nil || parent == 0 {
		return err
	}
	return tx.Update(ondisk.BtreeSubvolumeChildren, ondisk.Key{Pos: ondisk.Pos{Inode: uint64(parent), Offset: uint64(id)}}, 0)
}

// changeSubvolume changes a subvolume.
func (w *Writer) changeSubvolume(tx *trans.Tx, id uint32, change func(s *ondisk.Subvolume)) error {
	pos := ondisk.Pos{Offset: uint64(id)}
	k, ok, err := tx.Get(ondisk.BtreeSubvolumes, pos, trans.ForUpdate)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("subvolume %d: %w", id, ErrNoSubvolume)
	}
	s, err := ondisk.DecodeSubvolume(k)
	if err != nil {
		return err
	}
	change(&s)
	return tx.Update(ondisk.BtreeSubvolumes, ondisk.Key{Type: ondisk.KeySubvolume, Pos: pos, Val: s.Encode()}, 0)
}

// moveSubvolume notes that the name of a subvolume is in another subvolume now.
func (w *Writer) moveSubvolume(tx *trans.Tx, id, from, to uint32) error {
	if err := w.changeSubvolume(tx, id, func(s *ondisk.Subvolume) { s.FSPathParent = to }); err != nil {
		return err
	}
	old := ondisk.Pos{Inode: uint64(from), Offset: uint64(id)}
	if err := tx.Update(ondisk.BtreeSubvolumeChildren, ondisk.Key{Pos: old}, 0); err != nil {
		return err
	}
	at := ondisk.Pos{Inode: uint64(to), Offset: uint64(id)}
	return tx.Update(ondisk.BtreeSubvolumeChildren, ondisk.Key{Type: ondisk.KeySet, Pos: at}, 0)
}
