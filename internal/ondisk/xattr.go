package ondisk

import (
	"bytes"
	"encoding/binary"
	"strings"
)

// XattrType is the namespace of an extended attribute (KEY_TYPE_XATTR_INDEX_*).
type XattrType uint8

// Namespaces of extended attributes.
const (
	XattrUser XattrType = iota
	XattrACLAccess
	XattrACLDefault
	XattrTrusted
	XattrSecurity
	NumXattrTypes
)

// xattrPrefixes are what each namespace's names begin with. Those of the ACLs are whole names: theirs are stored empty.
var xattrPrefixes = [NumXattrTypes]string{"user.", "system.posix_acl_access", "system.posix_acl_default", "trusted.", "security."}

// Prefix returns what names of the namespace begin with; of the ACL types it is the whole name. It is empty for unknown types.
func (t XattrType) Prefix() string {
	if t < NumXattrTypes {
		return xattrPrefixes[t]
	}
	return ""
}

// IsACL reports whether values of the type are POSIX ACLs in the format's own encoding, see [DecodeACL].
func (t XattrType) IsACL() bool { return t == XattrACLAccess || t == XattrACLDefault }

// ParseXattrName splits a full name as the system call takes it into namespace and stored name.
func ParseXattrName(name string) (XattrType, string, bool) {
	for t, p := range xattrPrefixes {
		rest, ok := strings.CutPrefix(name, p)
		if t := XattrType(t); ok && (rest == "") == t.IsACL() {
			return t, rest, true
		}
	}
	return 0, "", false
}

const xattrHead = 4

// Xattr is an extended attribute (struct bch_xattr). Name lacks the prefix of its type. Name and Value alias the value of the key.
type Xattr struct {
	Type        XattrType
	Name, Value []byte
}

// FullName returns the name with its prefix, as the system call lists it.
func (x *Xattr) FullName() string { return x.Type.Prefix() + string(x.Name) }

// DecodeXattr decodes a key of type xattr. It does not allocate.
func DecodeXattr(k Key) (Xattr, error) {
	v := k.Val
	switch {
	case k.Type != KeyXattr:
		return Xattr{}, errType(&k, "xattr")
	case len(v) < KeyXattr.MinValSize():
		return Xattr{}, errShort(&k, KeyXattr.MinValSize())
	}
	x := Xattr{Type: XattrType(v[0])}
	nameEnd := xattrHead + int(v[1])
	valEnd := nameEnd + int(binary.LittleEndian.Uint16(v[2:]))
	if valEnd > len(v) {
		return Xattr{}, keyErr(&k, "xattr_val_size_too_small", "name and value end at byte %d of %d", valEnd, len(v))
	}
	x.Name, x.Value = v[xattrHead:nameEnd:nameEnd], v[nameEnd:valEnd:valEnd]
	return x, nil
}

// Validate reports what else is wrong with an attribute that was decoded from k.
func (x *Xattr) Validate(k *Key) error {
	// Some writers counted the head twice when they sized the value.
	limit := (2*xattrHead + len(x.Name) + len(x.Value) + 7) &^ 7
	switch {
	case len(k.Val) > limit:
		return keyErr(k, "xattr_val_size_too_big", "value of %d bytes, want at most %d", len(k.Val), limit)
	case x.Type >= NumXattrTypes:
		return keyErr(k, "xattr_invalid_type", "namespace %d, want at most %d", x.Type, NumXattrTypes-1)
	case bytes.IndexByte(x.Name, 0) >= 0:
		return keyErr(k, "xattr_name_invalid_chars", "NUL in name %q", x.Name)
	}
	return nil
}

// Encode returns the value of the key. Name and value together must not be longer than 1996 bytes.
func (x *Xattr) Encode() []byte {
	b := make([]byte, 0, (xattrHead+len(x.Name)+len(x.Value)+7)&^7)
	b = append(b, byte(x.Type), byte(len(x.Name)))
	b = binary.LittleEndian.AppendUint16(b, uint16(len(x.Value)))
	return padVal(append(append(b, x.Name...), x.Value...), 0)
}
