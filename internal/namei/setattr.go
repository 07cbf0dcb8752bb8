package namei

import (
	"fmt"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// AttrMask says which attributes are to be set.
type AttrMask uint16

// Attributes that SetAttr sets.
const (
	SetMode AttrMask = 1 << iota
	SetUID
	SetGID
	SetAtime
	SetMtime
	SetCtime // else the change itself sets it
	// SetAtimeNow and SetMtimeNow set times to the present, whatever is given.
	SetAtimeNow
	SetMtimeNow
	// SetForced sets them whatever the flags of the inode forbid: a page cache has the times of what was written before.
	SetForced

	setTimes = SetAtime | SetMtime
	setOwner = SetUID | SetGID
)

// Attrs are attributes of an inode. Times are in nanoseconds since 1970.
type Attrs struct {
	Set                 AttrMask
	Mode                uint16 // permissions, set-id bits and sticky bit; the type stays
	UID, GID            uint32
	Atime, Mtime, Ctime int64
}

// SetAttr sets mode, owner and times of an inode. An access ACL follows the mode. What else a system takes away from the mode on such occasions
// is the caller's to ask for, see [ModeAfterChown] and [ModeAfterChmod].
func (w *Writer) SetAttr(tx *trans.Tx, id ID, a *Attrs) (Attr, error) {
	h, err := w.change(tx, id)
	if err != nil {
		return Attr{}, err
	}
	forbids := ondisk.InodeImmutable
	if a.Set&(SetMode|setOwner|setTimes) != 0 {
		forbids |= ondisk.InodeAppend
	}
	in := &h.Inode
	if in.Flags&forbids != 0 && a.Set&SetForced == 0 {
		return Attr{}, fmt.Errorf("inode %d: %w", id.Inum, ErrProtected)
	}
	now := w.now()
	if a.Set&SetUID != 0 {
		in.UID = a.UID
	}
	if a.Set&SetGID != 0 {
		in.GID = a.GID
	}
	setTime := func(field *int64, value int64, set, setNow bool) {
		if setNow {
			*field = now
		} else if set {
			*field = w.DiskTime(value)
		}
	}
	setTime(&in.Atime, a.Atime, a.Set&SetAtime != 0, a.Set&SetAtimeNow != 0)
	setTime(&in.Mtime, a.Mtime, a.Set&SetMtime != 0, a.Set&SetMtimeNow != 0)
	setTime(&in.Ctime, a.Ctime, a.Set&SetCtime != 0, a.Set&SetCtime == 0)
	if a.Set&SetMode != 0 {
		in.Mode = in.Mode&^modeBits | a.Mode&modeBits
		if err := w.chmodACL(tx, h); err != nil {
			return Attr{}, err
		}
	}
	return h.Attr, w.save(tx, h)
}

// ModeAfterChown returns the mode of a file after its owner or group was changed, or it was written or truncated, by somebody who is not
// privileged: nothing but a directory keeps the set-user-id bit, nor the set-group-id bit where the group may execute it (else
// that bit asks for mandatory locks).
func ModeAfterChown(mode uint16) uint16 {
	if mode>>12 == ondisk.DTDir {
		return mode
	}
	mode &^= modeSetUID
	if mode&0o010 != 0 {
		mode &^= modeSetGID
	}
	return mode
}

// ModeAfterChmod returns the mode that somebody gets who asks for one and is neither of the file's group nor privileged.
func ModeAfterChmod(mode uint16) uint16 { return mode &^ modeSetGID }

// DropPrivileges does to a regular file what a write by somebody who is not privileged does: see [ModeAfterChown], and the attribute
// security.capability goes. It reports whether anything changed.
func (w *Writer) DropPrivileges(tx *trans.Tx, id ID) (Attr, bool, error) {
	h, err := w.change(tx, id)
	if err != nil {
		return Attr{}, false, err
	}
	const capability = "security.capability"
	dropped := false
	if h.Inode.Type() == ondisk.DTReg {
		typ, short, _ := ondisk.ParseXattrName(capability)
		f, err := findXattr(tx, h, typ, []byte(short))
		if err != nil {
			return Attr{}, false, err
		}
		if dropped = f.ok; dropped {
			if err := attrs(tx, h.ID, &h.Inode).remove(&f.key, f.slot, false); err != nil {
				return Attr{}, false, err
			}
		}
	}
	mode := h.Inode.Mode
	if h.Inode.Mode = ModeAfterChown(mode); h.Inode.Mode == mode && !dropped {
		return h.Attr, false, nil
	}
	h.Inode.Ctime = w.now()
	return h.Attr, true, w.save(tx, h)
}

// UserFlags are the flags of inodes that users set and clear (FS_IOC_SETFLAGS). Only files and directories have others than those for any file.
const (
	UserFlags    = ondisk.InodeSync | ondisk.InodeImmutable | ondisk.InodeAppend | ondisk.InodeNodump | ondisk.InodeNoatime
	anyFileFlags = ondisk.InodeNodump | ondisk.InodeNoatime
)

// SetFlags sets those flags of an inode that are in mask. To change immutable and append-only takes privileges that the caller has checked.
func (w *Writer) SetFlags(tx *trans.Tx, id ID, flags, mask ondisk.InodeFlags) (Attr, error) {
	if (flags|mask)&^UserFlags != 0 {
		return Attr{}, fmt.Errorf("flags %#x: %w", flags|mask, ErrInodeFlags)
	}
	h, err := w.change(tx, id)
	if err != nil {
		return Attr{}, err
	}
	if err := setFlags(&h.Inode, flags, mask); err != nil {
		return Attr{}, err
	}
	h.Inode.Ctime = w.now()
	return h.Attr, w.save(tx, h)
}

func setFlags(in *ondisk.Inode, flags, mask ondisk.InodeFlags) error {
	flags &= mask
	if t := in.Type(); t != ondisk.DTReg && t != ondisk.DTDir && flags&^anyFileFlags != 0 {
		return fmt.Errorf("flags %#x of something that is neither file nor directory: %w", flags, ErrInvalid)
	}
	in.Flags = in.Flags&^mask | flags
	return nil
}

// ProjectAttrs is what FS_IOC_FSSETXATTR sets beside flags.
type ProjectAttrs struct {
	Project uint32
	// Inherit keeps the project when the inode is moved to a directory of another (FS_XFLAG_PROJINHERIT).
	Inherit bool
}

// SetFlagsAndProject is SetFlags with a project (FS_IOC_FSSETXATTR).
func (w *Writer) SetFlagsAndProject(tx *trans.Tx, id ID, flags, mask ondisk.InodeFlags, p ProjectAttrs) (Attr, error) {
	if (flags|mask)&^UserFlags != 0 {
		return Attr{}, fmt.Errorf("flags %#x: %w", flags|mask, ErrInodeFlags)
	}
	if p.Project == 1<<32-1 {
		return Attr{}, fmt.Errorf("project %d: %w", p.Project, ErrInvalid)
	}
	h, err := w.change(tx, id)
	if err != nil {
		return Attr{}, err
	}
	in := &h.Inode
	if err := setFlags(in, flags, mask); err != nil {
		return Attr{}, err
	}
	in.Project = p.Project + 1
	in.FieldsSet &^= 1 << ondisk.InodeOptProject
	if p.Inherit {
		in.FieldsSet |= 1 << ondisk.InodeOptProject
	}
	in.Ctime = w.now()
	return h.Attr, w.save(tx, h)
}
