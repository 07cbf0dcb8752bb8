package namei

import (
	"fmt"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// Link gives an inode, which must not be a directory, another name in its subvolume. One without a name gets its first only if unlinked is set, which is
// for those of [Writer.CreateUnlinked]. Where the directory has other options to inherit than the inode the error is [ErrOptions].
func (w *Writer) Link(tx *trans.Tx, id, dir ID, name []byte, unlinked bool) (Attr, error) {
	if id.Subvol != dir.Subvol {
		return Attr{}, ErrCrossSubvol
	}
	parent, err := w.changeDir(tx, dir, false)
	if err != nil {
		return Attr{}, err
	}
	h, err := w.change(tx, id)
	if err != nil {
		return Attr{}, err
	}
	switch f := h.Inode.Flags; {
	case h.Inode.Subvol != 0:
		err = ErrSubvolRoot
	case h.Inode.IsDir():
		err = ErrNotAllowed
	case f&(ondisk.InodeImmutable|ondisk.InodeAppend) != 0:
		err = ErrProtected
	case f&ondisk.InodeUnlinked != 0 && !unlinked:
		err = ErrNoInode
	}
	if err != nil {
		return Attr{}, fmt.Errorf("inode %d: %w", id.Inum, err)
	}
	if err := linkUp(&h.Inode); err != nil {
		return Attr{}, err
	}
	if reinherit(&h.Inode, &parent.Inode) {
		return Attr{}, ErrOptions
	}
	slot, err := w.addName(tx, parent.ID, &parent.Inode, name, ondisk.Dirent{Type: h.Inode.Type(), Inum: h.ID.Inum})
	if err != nil {
		return Attr{}, err
	}
	now := w.now()
	h.Inode.Ctime, h.Inode.Dir, h.Inode.DirOffset = now, parent.ID.Inum, slot
	parent.Inode.Mtime, parent.Inode.Ctime = now, now
	if err := w.save(tx, parent); err != nil {
		return Attr{}, err
	}
	return h.Attr, w.save(tx, h)
}
