package ondisk

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrACL says that the value of an ACL attribute is not a valid ACL.
var ErrACL = errors.New("invalid ACL")

// Tags of ACL entries (ACL_*, as in the system's own encoding).
const (
	ACLUserObj  = 1
	ACLUser     = 2
	ACLGroupObj = 4
	ACLGroup    = 8
	ACLMask     = 16
	ACLOther    = 32

	// ACLUndefinedID is the id of entries that name no one.
	ACLUndefinedID = 1<<32 - 1
)

// Versions that the two encodings begin with, and sizes of their entries. The format stores an id only where there is one
// (bch_acl_entry, bch_acl_entry_short); the system always has one.
const (
	aclVersion      = 1
	aclShort        = 4
	aclLong         = 8
	aclXattrVersion = 2
	aclHeader       = 4
)

// ACLEntry is one entry of a POSIX ACL. Perm has the bits 4 read, 2 write, 1 execute. ID is [ACLUndefinedID] but for the
// tags ACLUser and ACLGroup.
type ACLEntry struct {
	Tag, Perm uint16
	ID        uint32
}

func (e ACLEntry) hasID() bool { return e.Tag == ACLUser || e.Tag == ACLGroup }

func validACLTag(tag uint16) bool {
	switch tag {
	case ACLUserObj, ACLUser, ACLGroupObj, ACLGroup, ACLMask, ACLOther:
		return true
	}
	return false
}

// DecodeACL decodes the stored value of an ACL attribute. Errors are [ErrACL].
func DecodeACL(v []byte) ([]ACLEntry, error) {
	if err := checkACLHeader(v, aclVersion); err != nil {
		return nil, err
	}
	acl := make([]ACLEntry, 0, len(v)/aclShort)
	for b := v[aclHeader:]; len(b) > 0; {
		if len(b) < aclShort {
			return nil, fmt.Errorf("%w: entry %d is cut off", ErrACL, len(acl))
		}
		e := ACLEntry{Tag: binary.LittleEndian.Uint16(b), Perm: binary.LittleEndian.Uint16(b[2:]), ID: ACLUndefinedID}
		size := aclShort
		if e.hasID() {
			size = aclLong
		}
		switch {
		case !validACLTag(e.Tag):
			return nil, fmt.Errorf("%w: tag %d in entry %d", ErrACL, e.Tag, len(acl))
		case len(b) < size:
			return nil, fmt.Errorf("%w: entry %d is cut off", ErrACL, len(acl))
		case size == aclLong:
			e.ID = binary.LittleEndian.Uint32(b[aclShort:])
		}
		acl = append(acl, e)
		b = b[size:]
	}
	return acl, nil
}

// EncodeACL returns the value to store for an ACL.
func EncodeACL(acl []ACLEntry) []byte {
	b := binary.LittleEndian.AppendUint32(make([]byte, 0, aclHeader+aclLong*len(acl)), aclVersion)
	for _, e := range acl {
		b = binary.LittleEndian.AppendUint16(b, e.Tag)
		b = binary.LittleEndian.AppendUint16(b, e.Perm)
		if e.hasID() {
			b = binary.LittleEndian.AppendUint32(b, e.ID)
		}
	}
	return b
}

// ACLToXattr turns a stored ACL into the bytes that getxattr returns for system.posix_acl_access and _default.
func ACLToXattr(v []byte) ([]byte, error) {
	acl, err := DecodeACL(v)
	if err != nil {
		return nil, err
	}
	b := binary.LittleEndian.AppendUint32(make([]byte, 0, aclHeader+aclLong*len(acl)), aclXattrVersion)
	for _, e := range acl {
		b = binary.LittleEndian.AppendUint16(b, e.Tag)
		b = binary.LittleEndian.AppendUint16(b, e.Perm)
		b = binary.LittleEndian.AppendUint32(b, e.ID)
	}
	return b, nil
}

// ACLFromXattr turns what setxattr is given into the value to store. Errors are [ErrACL].
func ACLFromXattr(v []byte) ([]byte, error) {
	if err := checkACLHeader(v, aclXattrVersion); err != nil {
		return nil, err
	}
	b := v[aclHeader:]
	if len(b)%aclLong != 0 {
		return nil, fmt.Errorf("%w: %d bytes of entries", ErrACL, len(b))
	}
	acl := make([]ACLEntry, len(b)/aclLong)
	for i := range acl {
		e := ACLEntry{Tag: binary.LittleEndian.Uint16(b), Perm: binary.LittleEndian.Uint16(b[2:]), ID: binary.LittleEndian.Uint32(b[4:])}
		if !validACLTag(e.Tag) {
			return nil, fmt.Errorf("%w: tag %d in entry %d", ErrACL, e.Tag, i)
		}
		acl[i] = e
		b = b[aclLong:]
	}
	return EncodeACL(acl), nil
}

func checkACLHeader(v []byte, version uint32) error {
	if len(v) < aclHeader {
		return fmt.Errorf("%w: %d bytes", ErrACL, len(v))
	}
	if got := binary.LittleEndian.Uint32(v); got != version {
		return fmt.Errorf("%w: version %d, want %d", ErrACL, got, version)
	}
	return nil
}
