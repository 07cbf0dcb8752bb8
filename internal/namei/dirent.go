package namei

import (
	"bytes"
	"fmt"
	"math"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// dirent is a name that was found in a directory.
type dirent struct {
	ondisk.Dirent
	key  ondisk.Key
	slot uint64
}

// folded is [Tree.hashName] for names that may be made.
func (w *Writer) folded(dir *ondisk.Inode, name []byte) ([]byte, error) {
	t := Tree{cfg: Config{Casefold: w.cfg.Casefold}}
	return t.hashName(dir, name)
}

// checkNewName refuses names that no directory may hold.
func checkNewName(name []byte) error {
	switch {
	case len(name) > ondisk.MaxName:
		return ErrNameTooLong
	case len(name) == 0, string(name) == ".", string(name) == "..", bytes.IndexByte(name, 0) >= 0, bytes.IndexByte(name, '/') >= 0:
		return fmt.Errorf("%q: %w", name, ErrBadName)
	}
	return nil
}

// searchName looks for a name. Where it is not the slot is one where it may be put, and its folded form is in CfName.
func (w *Writer) searchName(tx *trans.Tx, dir ID, in *ondisk.Inode, name []byte, flags trans.IterFlags) (d dirent, ok bool, err error) {
	key, err := w.folded(in, name)
	if err != nil {
		return d, false, err
	}
	f, err := names(tx, dir, in).find(direntHash(in, key), flags, func(k *ondisk.Key) (bool, error) {
		d, err := ondisk.DecodeDirent(*k)
		return bytes.Equal(d.LookupName(), key), err
	})
	if err != nil {
		return d, false, err
	}
	d = dirent{key: f.key, slot: f.slot}
	if f.ok {
		d.Dirent, err = ondisk.DecodeDirent(f.key)
	}
	return d, f.ok, err
}

// findName is searchName for names that must be there.
func (w *Writer) findName(tx *trans.Tx, dir ID, in *ondisk.Inode, name []byte, flags trans.IterFlags) (dirent, error) {
	d, ok, err := w.searchName(tx, dir, in, name, flags)
	if err == nil && !ok {
		err = fmt.Errorf("%q: %w", name, ErrNoName)
	}
	return d, err
}

// target returns what an entry leads to, with its snapshot.
func (w *Writer) target(tx *trans.Tx, dir ID, d *ondisk.Dirent) (ID, error) {
	if d.Type != ondisk.DTSubvol {
		return ID{Subvol: dir.Subvol, Snapshot: dir.Snapshot, Inum: d.Inum}, nil
	}
	id, s, err := w.snapshotOf(tx, ID{Subvol: d.ChildSubvol})
	id.Inum = s.Inode
	return id, err
}

// putName writes an entry to a slot: a name that leads where d does.
func (w *Writer) putName(tx *trans.Tx, dir ID, in *ondisk.Inode, slot uint64, name []byte, d ondisk.Dirent) error {
	d.Name, d.CfName, d.Casefold = name, nil, false
	if d.Type == ondisk.DTSubvol {
		d.ParentSubvol = dir.Subvol
	}
	t := Tree{cfg: Config{Casefold: w.cfg.Casefold}}
	if t.casefolded(in) {
		cf, err := w.folded(in, name)
		if err != nil {
			return err
		}
		d.Casefold, d.CfName = true, cf
	}
	return names(tx, dir, in).put(slot, d.Encode())
}

// addName makes a name that must not exist yet, and returns its slot.
func (w *Writer) addName(tx *trans.Tx, dir ID, in *ondisk.Inode, name []byte, d ondisk.Dirent) (slot uint64, err error) {
	if err := checkNewName(name); err != nil {
		return 0, err
	}
	at, ok, err := w.searchName(tx, dir, in, name, trans.Intent)
	switch {
	case isMissing(err): // it cannot be folded
		return 0, fmt.Errorf("%q is not UTF-8: %w", name, ErrBadName)
	case err != nil:
		return 0, err
	case ok:
		return 0, fmt.Errorf("%q: %w", name, ErrExist)
	}
	return at.slot, w.putName(tx, dir, in, at.slot, name, d)
}

// removeName takes a name away that was found. There is one entry only for each subvolume, which goes for good.
func removeName(tx *trans.Tx, dir ID, in *ondisk.Inode, d *dirent) error {
	return names(tx, dir, in).remove(&d.key, d.slot, d.Type == ondisk.DTSubvol)
}

// checkEmpty returns [ErrNotEmpty] if a directory has names.
func (w *Writer) checkEmpty(tx *trans.Tx, dir ID) error {
	it := tx.Iter(ondisk.BtreeDirents, ondisk.Pos{Inode: dir.Inum, Snapshot: dir.Snapshot}, trans.Intent)
	for {
		k, ok, err := it.PeekMax(ondisk.Pos{Inode: dir.Inum, Offset: math.MaxUint64, Snapshot: dir.Snapshot})
		if err != nil || !ok {
			return err
		}
		if k.Type == ondisk.KeyDirent {
			d, err := ondisk.DecodeDirent(k)
			if err != nil {
				return err
			}
			if visible(&d, dir) {
				return fmt.Errorf("inode %d: %w", dir.Inum, ErrNotEmpty)
			}
		}
		it.Advance()
	}
}
