package namei

import (
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// NewRoot makes the inode of the root directory of a new subvolume, whose name is going to be in dir: it inherits as a directory there would, but for ACLs,
// see [Writer.InheritACL]. It is not written.
func (w *Writer) NewRoot(tx *trans.Tx, dir ID, n NewInode) (Attr, error) {
	id, err := w.writable(tx, dir)
	if err != nil {
		return Attr{}, err
	}
	parent, err := w.lookup(tx, id, 0)
	if err != nil {
		return Attr{}, err
	}
	n.noACL, n.Mode = true, n.Mode&modeBits&^(n.Umask&modePerm)|ondisk.DTDir<<12
	h, err := w.newInode(tx, &held{Attr: Attr{id, parent}}, &n)
	if err != nil {
		return Attr{}, err
	}
	if w.cfg.Quota != nil {
		err = w.cfg.Quota(tx, ID{Inum: h.ID.Inum}, nil, &h.Inode)
	}
	return h.Attr, err
}

// InheritACL gives an inode that this transaction has made the ACLs that follow from the default ACL of a directory. It does nothing if that has none.
func (w *Writer) InheritACL(tx *trans.Tx, id, dir ID) error {
	h, err := w.change(tx, id)
	if err != nil {
		return err
	}
	if dir, _, err = w.snapshotOf(tx, dir); err != nil {
		return err
	}
	parent, err := w.hold(tx, dir)
	if err != nil {
		return err
	}
	if err := w.inheritACL(tx, parent, h, 0); err != nil {
		return err
	}
	return w.save(tx, h)
}

// LinkSubvolume makes the name of a subvolume in a directory, and returns its offset there.
func (w *Writer) LinkSubvolume(tx *trans.Tx, dir ID, name []byte, subvol uint32) (slot uint64, err error) {
	parent, err := w.changeDir(tx, dir, false)
	if err != nil {
		return 0, err
	}
	d := ondisk.Dirent{Type: ondisk.DTSubvol, ChildSubvol: subvol, ParentSubvol: dir.Subvol}
	if slot, err = w.addName(tx, parent.ID, &parent.Inode, name, d); err != nil {
		return 0, err
	}
	now := w.now()
	parent.Inode.Mtime, parent.Inode.Ctime = now, now
	return slot, w.save(tx, parent)
}
