package bcachefs

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// Names of the attributes that hold ACLs.
const (
	xattrACLAccess  = "system.posix_acl_access"
	xattrACLDefault = "system.posix_acl_default"
)

// loadable reports whether a filesystem can be given an extended attribute of this name from elsewhere. Options of bcachefs are not taken over.
func loadable(name string) bool {
	if name == xattrACLAccess || name == xattrACLDefault {
		return true
	}
	for _, prefix := range []string{"user.", "trusted.", "security."} {
		if strings.HasPrefix(name, prefix) && len(name) > len(prefix) {
			return true
		}
	}
	return false
}

// parseACLText reads an ACL as archives have it, "user::rw-,user:joe:r--:1000,group::r--,mask::r--,other::---", and returns it as the
// system does. Users and groups count by their numbers.
func parseACLText(text string) (string, error) {
	var acl []ondisk.ACLEntry
	for entry := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ',' || r == '\n' }) {
		e, err := parseACLEntry(strings.TrimSpace(entry))
		if err != nil {
			return "", err
		}
		acl = append(acl, e)
	}
	slices.SortFunc(acl, func(a, b ondisk.ACLEntry) int { return cmp.Or(cmp.Compare(a.Tag, b.Tag), cmp.Compare(a.ID, b.ID)) })
	b, err := ondisk.ACLToXattr(ondisk.EncodeACL(acl))
	return string(b), err
}

func parseACLEntry(text string) (ondisk.ACLEntry, error) {
	e := ondisk.ACLEntry{ID: ondisk.ACLUndefinedID}
	parts := strings.Split(text, ":")
	if len(parts) < 3 || len(parts) > 4 || len(parts[2]) != 3 {
		return e, fmt.Errorf("%w: entry %q", ondisk.ErrACL, text)
	}
	named := parts[1] != ""
	switch {
	case parts[0] == "user" && named:
		e.Tag = ondisk.ACLUser
	case parts[0] == "user":
		e.Tag = ondisk.ACLUserObj
	case parts[0] == "group" && named:
		e.Tag = ondisk.ACLGroup
	case parts[0] == "group":
		e.Tag = ondisk.ACLGroupObj
	case parts[0] == "mask" && !named:
		e.Tag = ondisk.ACLMask
	case parts[0] == "other" && !named:
		e.Tag = ondisk.ACLOther
	default:
		return e, fmt.Errorf("%w: entry %q", ondisk.ErrACL, text)
	}
	if named {
		id, err := strconv.ParseUint(parts[len(parts)-1], 10, 32) // the number comes last, if it comes
		if err != nil {
			id, err = strconv.ParseUint(parts[1], 10, 32)
		}
		if err != nil {
			return e, fmt.Errorf("%w: entry %q has no number", ondisk.ErrACL, text)
		}
		e.ID = uint32(id)
	}
	for i, bit := range []uint16{4, 2, 1} {
		switch parts[2][i] {
		case "rwx"[i]:
			e.Perm |= bit
		case '-':
		default:
			return e, fmt.Errorf("%w: entry %q", ondisk.ErrACL, text)
		}
	}
	return e, nil
}
