package namei

import (
	"bytes"
	"fmt"
	"math"
	"strings"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// XattrFlags say how an attribute is set. The first two have the values of setxattr(2).
type XattrFlags uint8

// Flags of SetXattr.
const (
	XattrCreate  XattrFlags = 1 << iota // it must not exist
	XattrReplace                        // it must exist
	// XattrKeepSetGID leaves the set-group-id bit of a file whose access ACL is set: the caller is of the file's group, or privileged.
	XattrKeepSetGID
)

// maxXattrName is the longest name of an attribute with its prefix.
const maxXattrName = 255

// SetXattr sets an extended attribute, as the system call has it: ACLs in the system's form, which the mode follows; an ACL without entries removes
// it. bcachefs.NAME sets an option on the inode, whatever the flags; bcachefs_effective.NAME is derived from these, setting it does nothing.
func (w *Writer) SetXattr(tx *trans.Tx, id ID, name string, value []byte, flags XattrFlags) (Attr, error) {
	return w.editXattr(tx, id, name, func(h *held, typ ondisk.XattrType, short []byte) error {
		if typ.IsACL() {
			return w.setACLXattr(tx, h, typ, value, flags)
		}
		return putXattr(tx, h, &ondisk.Xattr{Type: typ, Name: short, Value: value}, flags)
	}, func(h *held, o ondisk.InodeOption) error { return w.setOption(tx, h, o, string(value)) })
}

// RemoveXattr removes an extended attribute. The error is [ErrNoXattr] if there is none, but there need not be an ACL; an option that
// is removed becomes what it is in the directory that the inode says it is in.
func (w *Writer) RemoveXattr(tx *trans.Tx, id ID, name string) (Attr, error) {
	return w.editXattr(tx, id, name, func(h *held, typ ondisk.XattrType, short []byte) error {
		if typ.IsACL() {
			return w.setACL(tx, h, typ, nil, true)
		}
		f, err := findXattr(tx, h, typ, short)
		if err != nil {
			return err
		}
		if !f.ok {
			return ErrNoXattr
		}
		return attrs(tx, h.ID, &h.Inode).remove(&f.key, f.slot, false)
	}, func(h *held, o ondisk.InodeOption) error { return w.unsetOption(tx, h, o) })
}

// editXattr changes an attribute or an option and the inode.
func (w *Writer) editXattr(tx *trans.Tx, id ID, name string, edit func(h *held, typ ondisk.XattrType, short []byte) error,
	option func(h *held, o ondisk.InodeOption) error) (Attr, error) {
	if len(name) > maxXattrName {
		return Attr{}, ErrXattrSize
	}
	h, err := w.change(tx, id)
	if err != nil {
		return Attr{}, err
	}
	if h.Inode.Flags&(ondisk.InodeImmutable|ondisk.InodeAppend) != 0 {
		return Attr{}, fmt.Errorf("inode %d: %w", id.Inum, ErrProtected)
	}
	if strings.HasPrefix(name, effectivePrefix) {
		return h.Attr, nil
	}
	if o, ok := strings.CutPrefix(name, optionPrefix); ok {
		opt, err := findOption(o)
		if err == nil {
			err = option(h, opt)
		}
		if err != nil {
			return Attr{}, err
		}
		h.Inode.Ctime = w.now()
		return h.Attr, w.save(tx, h)
	}
	typ, short, err := parseXattr(&h.Inode, name)
	if err != nil {
		return Attr{}, err
	}
	if typ.IsACL() && !w.cfg.ACL {
		return Attr{}, fmt.Errorf("%q: ACLs are switched off: %w", name, ErrNamespace)
	}
	if err := edit(h, typ, []byte(short)); err != nil {
		return Attr{}, err
	}
	h.Inode.Ctime = w.now()
	return h.Attr, w.save(tx, h)
}

// parseXattr splits the name of an attribute that may be set on an inode.
func parseXattr(in *ondisk.Inode, name string) (ondisk.XattrType, string, error) {
	typ, short, ok := ondisk.ParseXattrName(name)
	if !ok {
		for t := range ondisk.NumXattrTypes {
			if name == t.Prefix() && !t.IsACL() {
				return 0, "", fmt.Errorf("%q: %w", name, ErrInvalid)
			}
		}
		return 0, "", fmt.Errorf("%q: %w", name, ErrNamespace)
	}
	if strings.IndexByte(short, 0) >= 0 {
		return 0, "", fmt.Errorf("%q: %w", name, ErrInvalid)
	}
	switch t := in.Type(); {
	case typ == ondisk.XattrUser && t != ondisk.DTReg && t != ondisk.DTDir:
		return 0, "", ErrNotAllowed
	case typ.IsACL() && t == ondisk.DTLnk:
		return 0, "", ErrNamespace
	}
	return typ, short, nil
}

// findXattr looks for an attribute of an inode that is locked.
func findXattr(tx *trans.Tx, h *held, typ ondisk.XattrType, name []byte) (found, error) {
	return attrs(tx, h.ID, &h.Inode).find(xattrHash(&h.Inode, typ, name), trans.Intent, func(k *ondisk.Key) (bool, error) {
		x, err := ondisk.DecodeXattr(*k)
		return x.Type == typ && bytes.Equal(x.Name, name), err
	})
}

// putXattr writes an attribute.
func putXattr(tx *trans.Tx, h *held, x *ondisk.Xattr, flags XattrFlags) error {
	if len(x.Name)+len(x.Value) > maxXattr {
		return ErrXattrSize
	}
	f, err := findXattr(tx, h, x.Type, x.Name)
	switch {
	case err != nil:
		return err
	case f.ok && flags&XattrCreate != 0:
		return ErrExist
	case !f.ok && flags&XattrReplace != 0:
		return ErrNoXattr
	}
	return attrs(tx, h.ID, &h.Inode).put(f.slot, x.Encode())
}

// setACLXattr sets an ACL in the system's form.
func (w *Writer) setACLXattr(tx *trans.Tx, h *held, typ ondisk.XattrType, value []byte, flags XattrFlags) error {
	acl, err := parseACL(value)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return w.setACL(tx, h, typ, acl, flags&XattrKeepSetGID != 0)
}

// parseACL reads an ACL in the system's form; one without entries is nil.
func parseACL(value []byte) ([]ondisk.ACLEntry, error) {
	stored, err := ondisk.ACLFromXattr(value)
	if err != nil {
		return nil, err
	}
	acl, err := ondisk.DecodeACL(stored)
	if err != nil || len(acl) == 0 {
		return nil, err
	}
	return acl, checkACL(acl)
}

// findOption returns the option of inodes with a name that inodes of version 1.13 have.
func findOption(name string) (ondisk.InodeOption, error) {
	for o := range ondisk.NumInodeOptions {
		if o.String() == name && o != ondisk.InodeOptInodes32bit && o != ondisk.InodeOptCasefold {
			return o, nil
		}
	}
	return 0, fmt.Errorf("no option of inodes is named %q: %w", name, ErrInvalid)
}

// setOption sets an option on an inode.
func (w *Writer) setOption(tx *trans.Tx, h *held, o ondisk.InodeOption, text string) error {
	v, err := w.cfg.ParseOption(o.String(), text)
	if err != nil {
		return fmt.Errorf("%w (%w)", ErrInvalid, err)
	}
	if v >= math.MaxUint32 {
		return fmt.Errorf("%v=%s: %w", o, text, ErrInvalid)
	}
	in := &h.Inode
	in.SetOption(o, uint32(v)+1)
	if uint64(in.Option(o)) != v+1 { // the field is narrower
		return fmt.Errorf("%v=%s: %w", o, text, ErrInvalid)
	}
	in.FieldsSet |= 1 << o
	switch {
	case o == ondisk.InodeOptBackgroundTarget, o == ondisk.InodeOptBackgroundCompression,
		o == ondisk.InodeOptCompression && in.BackgroundCompression == 0:
		return askForScan(tx, h.ID.Inum)
	}
	return nil
}

// unsetOption has an inode inherit an option again.
func (w *Writer) unsetOption(tx *trans.Tx, h *held, o ondisk.InodeOption) error {
	dir, ok, err := w.parentOf(tx, h)
	if err != nil {
		return err
	}
	stored := uint32(0)
	if ok {
		stored = dir.Option(o)
	}
	h.Inode.SetOption(o, stored)
	h.Inode.FieldsSet &^= 1 << o
	return nil
}

// parentOf returns the directory that an inode says it is in.
func (w *Writer) parentOf(tx *trans.Tx, h *held) (dir ondisk.Inode, ok bool, err error) {
	in := &h.Inode
	if in.Dir == 0 {
		return dir, false, nil
	}
	id := ID{Subvol: h.ID.Subvol, Snapshot: h.ID.Snapshot, Inum: in.Dir}
	if in.Subvol != 0 && in.ParentSubvol != 0 {
		if id, _, err = w.snapshotOf(tx, ID{Subvol: in.ParentSubvol, Inum: in.Dir}); err != nil {
			return dir, false, err
		}
	}
	dir, err = w.lookup(tx, id, 0)
	return dir, err == nil, err
}

// askForScan notes that data of an inode may be due for a move or for compression in the background (spec/05 § 16).
func askForScan(tx *trans.Tx, inum uint64) error {
	pos := ondisk.Pos{Inode: inum, Offset: ondisk.RebalanceCookieOffset, Snapshot: math.MaxUint32}
	k, ok, err := tx.Get(ondisk.BtreeReconcileWork, pos, trans.ForUpdate)
	if err != nil {
		return err
	}
	n := uint64(0)
	if ok && k.Type == ondisk.KeyCookie {
		if n, err = ondisk.DecodeCookie(k); err != nil {
			return err
		}
	}
	return tx.Update(ondisk.BtreeReconcileWork, ondisk.Key{Type: ondisk.KeyCookie, Pos: pos, Val: ondisk.EncodeCookie(n + 1)}, 0)
}

// Reinherit gives what a name leads to the options of the directory, but for those that were set on itself, and reports whether any changed
// (the ioctl REINHERIT_ATTRS). What is in a directory does not follow by itself.
func (w *Writer) Reinherit(tx *trans.Tx, dir ID, name []byte) (Attr, bool, error) {
	dir, err := w.writable(tx, dir)
	if err != nil {
		return Attr{}, false, err
	}
	in, err := w.lookup(tx, dir, 0)
	if err != nil {
		return Attr{}, false, err
	}
	if !in.IsDir() {
		return Attr{}, false, ErrNotDir
	}
	d, err := w.findName(tx, dir, &in, name, 0)
	if err != nil {
		return Attr{}, false, err
	}
	id, err := w.target(tx, dir, &d.Dirent)
	if err != nil {
		return Attr{}, false, err
	}
	h, err := w.change(tx, id)
	if err != nil || !reinherit(&h.Inode, &in) {
		return h.attr(), false, err
	}
	return h.Attr, true, w.save(tx, h)
}
