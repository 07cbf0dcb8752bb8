package namei

import (
	"errors"
	"fmt"
	"slices"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// maxXattr is how long name and value of an attribute may be together: a key has 255 words.
const maxXattr = 1996

// checkACL refuses what is no POSIX ACL: the entries of owner, named users, group, named groups, mask and others come in this order, and there
// must be a mask where there are named ones.
func checkACL(acl []ondisk.ACLEntry) error {
	last, needsMask, hasMask := uint16(0), false, false
	seen := uint16(0)
	for i, e := range acl {
		named := e.Tag == ondisk.ACLUser || e.Tag == ondisk.ACLGroup
		switch {
		case e.Perm&^7 != 0, e.Tag < last, e.Tag == last && !named, named && e.ID == ondisk.ACLUndefinedID:
			return fmt.Errorf("entry %d: %w", i, ondisk.ErrACL)
		}
		last = e.Tag
		seen |= e.Tag
		needsMask = needsMask || named
		hasMask = hasMask || e.Tag == ondisk.ACLMask
	}
	const base = ondisk.ACLUserObj | ondisk.ACLGroupObj | ondisk.ACLOther
	if seen&base != base || needsMask && !hasMask {
		return fmt.Errorf("entries are missing: %w", ondisk.ErrACL)
	}
	return nil
}

// modeOfACL returns the permissions that stand for an access ACL, and whether they are all that it says.
func modeOfACL(acl []ondisk.ACLEntry) (perm uint16, all bool) {
	all = true
	for _, e := range acl {
		switch e.Tag {
		case ondisk.ACLUserObj:
			perm |= e.Perm << 6
		case ondisk.ACLGroupObj:
			perm |= e.Perm << 3
		case ondisk.ACLOther:
			perm |= e.Perm
		default:
			all = false
		}
	}
	if i := indexTag(acl, ondisk.ACLMask); i >= 0 {
		perm = perm&^0o070 | acl[i].Perm<<3
	}
	return perm, all
}

func indexTag(acl []ondisk.ACLEntry, tag uint16) int {
	return slices.IndexFunc(acl, func(e ondisk.ACLEntry) bool { return e.Tag == tag })
}

// groupClass returns the entry that the middle permissions of a mode stand for.
func groupClass(acl []ondisk.ACLEntry) (*ondisk.ACLEntry, error) {
	i := indexTag(acl, ondisk.ACLMask)
	if i < 0 {
		i = indexTag(acl, ondisk.ACLGroupObj)
	}
	if i < 0 {
		return nil, fmt.Errorf("no entry for the group: %w", ondisk.ErrACL)
	}
	return &acl[i], nil
}

// aclForMode changes an access ACL to what follows from a chmod.
func aclForMode(acl []ondisk.ACLEntry, mode uint16) error {
	group, err := groupClass(acl)
	if err != nil {
		return err
	}
	for i := range acl {
		switch e := &acl[i]; e.Tag {
		case ondisk.ACLUserObj:
			e.Perm = mode >> 6 & 7
		case ondisk.ACLOther:
			e.Perm = mode & 7
		}
	}
	group.Perm = mode >> 3 & 7
	return nil
}

// aclForNew changes a copy of a default ACL to the access ACL of a file that is made with a mode, and returns the mode that it gets.
func aclForNew(acl []ondisk.ACLEntry, mode uint16) (uint16, error) {
	group, err := groupClass(acl)
	if err != nil {
		return mode, err
	}
	perm := mode & modePerm
	for i := range acl {
		switch e := &acl[i]; e.Tag {
		case ondisk.ACLUserObj:
			e.Perm &= perm >> 6
			perm = perm&^0o700 | e.Perm<<6
		case ondisk.ACLOther:
			e.Perm &= perm
			perm = perm&^0o007 | e.Perm&7
		}
	}
	group.Perm &= perm >> 3 & 7
	perm = perm&^0o070 | group.Perm<<3
	return mode&^modePerm | perm, nil
}

// readACL returns an ACL of an inode, nil if it has none.
func readACL(tx *trans.Tx, h *held, typ ondisk.XattrType) ([]ondisk.ACLEntry, found, error) {
	f, err := findXattr(tx, h, typ, nil)
	if err != nil || !f.ok {
		return nil, f, err
	}
	x, err := ondisk.DecodeXattr(f.key)
	if err != nil {
		return nil, f, err
	}
	acl, err := ondisk.DecodeACL(x.Value)
	if err != nil {
		err = fmt.Errorf("ACL of inode %d: %w", h.ID.Inum, errors.Join(ErrInconsistent, err))
	}
	return acl, f, err
}

// writeACL sets an ACL of an inode, or removes it if acl is nil.
func writeACL(tx *trans.Tx, h *held, typ ondisk.XattrType, acl []ondisk.ACLEntry) error {
	f, err := findXattr(tx, h, typ, nil)
	if err != nil {
		return err
	}
	t := attrs(tx, h.ID, &h.Inode)
	if acl == nil {
		if !f.ok {
			return nil
		}
		return t.remove(&f.key, f.slot, false)
	}
	x := ondisk.Xattr{Type: typ, Value: ondisk.EncodeACL(acl)}
	if len(x.Value) > maxXattr {
		return ErrACLSize
	}
	return t.put(f.slot, x.Encode())
}

// setACL sets or removes an ACL; the mode follows an access ACL.
func (w *Writer) setACL(tx *trans.Tx, h *held, typ ondisk.XattrType, acl []ondisk.ACLEntry, keepSetGID bool) error {
	switch in := &h.Inode; {
	case typ == ondisk.XattrACLDefault && !in.IsDir():
		if acl != nil {
			return ErrACLOnFile
		}
		return nil
	case typ == ondisk.XattrACLAccess && acl != nil:
		perm, all := modeOfACL(acl)
		in.Mode = in.Mode&^modePerm | perm
		if all {
			acl = nil
		}
		if !keepSetGID {
			in.Mode &^= modeSetGID
		}
	}
	return writeACL(tx, h, typ, acl)
}

// inheritACL gives a new inode the ACLs that follow from its directory's default ACL, and its mode what follows from that or from the umask.
func (w *Writer) inheritACL(tx *trans.Tx, parent, h *held, umask uint16) error {
	if h.Inode.Type() == ondisk.DTLnk {
		return nil
	}
	var def []ondisk.ACLEntry
	if w.cfg.ACL {
		var err error
		if def, _, err = readACL(tx, parent, ondisk.XattrACLDefault); err != nil {
			return err
		}
	}
	if def == nil {
		h.Inode.Mode &^= umask & modePerm
		return nil
	}
	access := slices.Clone(def)
	var err error
	if h.Inode.Mode, err = aclForNew(access, h.Inode.Mode); err != nil {
		return err
	}
	if h.Inode.IsDir() {
		if err := writeACL(tx, h, ondisk.XattrACLDefault, def); err != nil {
			return err
		}
	}
	if _, all := modeOfACL(access); all {
		return nil
	}
	return writeACL(tx, h, ondisk.XattrACLAccess, access)
}

// chmodACL changes an access ACL after the mode was changed.
func (w *Writer) chmodACL(tx *trans.Tx, h *held) error {
	acl, _, err := readACL(tx, h, ondisk.XattrACLAccess)
	if err != nil || acl == nil {
		return err
	}
	if err := aclForMode(acl, h.Inode.Mode); err != nil {
		return err
	}
	return writeACL(tx, h, ondisk.XattrACLAccess, acl)
}
