package namei

import (
	"fmt"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// NewInode says what inode to create.
type NewInode struct {
	Mode     uint16 // type and permissions
	UID, GID uint32
	Dev      uint32 // of devices, see [EncodeDev]
	// Umask are the permissions that are taken away where the directory has no default ACL. Symbolic links have none.
	Umask uint16

	noACL bool // inherit none
}

// Bits of modes.
const (
	modeSetUID = 0o4000
	modeSetGID = 0o2000
	modePerm   = 0o777
	modeBits   = 0o7777
)

// EncodeDev returns a device number as the kernel stores it (spec/05 § 1.10); minors have 20 bits and majors 12.
func EncodeDev(major, minor uint32) uint32 { return major<<20 | minor&(1<<20-1) }

// Create makes an inode and a name for it.
//
// What it is made of: the owner as given, the group of the directory if that has the set-group-id bit, which directories then get too; options as
// the directory has them, project among them; the ACLs that follow from the directory's default ACL. A symbolic link is made
// without its target: that is data, of an inode that has its Size.
func (w *Writer) Create(tx *trans.Tx, dir ID, name []byte, n *NewInode) (Attr, error) {
	parent, err := w.changeDir(tx, dir, false)
	if err != nil {
		return Attr{}, err
	}
	return w.createIn(tx, parent, name, n)
}

// createIn is Create in a directory that is locked.
func (w *Writer) createIn(tx *trans.Tx, parent *held, name []byte, n *NewInode) (Attr, error) {
	h, err := w.newInode(tx, parent, n)
	if err != nil {
		return Attr{}, err
	}
	d := ondisk.Dirent{Type: h.Inode.Type(), Inum: h.ID.Inum}
	slot, err := w.addName(tx, parent.ID, &parent.Inode, name, d)
	if err != nil {
		return Attr{}, err
	}
	h.Inode.Dir, h.Inode.DirOffset = parent.ID.Inum, slot
	if countsAsSubdir(&h.Inode) {
		if err := subdirUp(&parent.Inode); err != nil {
			return Attr{}, err
		}
	}
	parent.Inode.Mtime, parent.Inode.Ctime = h.Inode.Mtime, h.Inode.Mtime
	if err := w.save(tx, parent); err != nil {
		return Attr{}, err
	}
	return h.Attr, w.save(tx, h)
}

// CreateUnlinked makes an inode without a name, as O_TMPFILE does: it is gone after a crash, and is deleted with [Writer.Delete] unless it is given
// a name with [Writer.Link]. It inherits from the directory as if it were in it.
func (w *Writer) CreateUnlinked(tx *trans.Tx, dir ID, n *NewInode) (Attr, error) {
	id, err := w.writable(tx, dir)
	if err != nil {
		return Attr{}, err
	}
	in, err := w.lookup(tx, id, 0)
	switch {
	case err != nil:
		return Attr{}, err
	case !in.IsDir():
		return Attr{}, ErrNotDir
	case in.Flags&ondisk.InodeUnlinked != 0:
		return Attr{}, fmt.Errorf("directory %d is removed: %w", dir.Inum, ErrNoInode)
	case in.Flags&ondisk.InodeImmutable != 0:
		return Attr{}, fmt.Errorf("directory %d: %w", dir.Inum, ErrProtected)
	case n.Mode>>12 == ondisk.DTDir:
		return Attr{}, fmt.Errorf("a directory without a name: %w", ErrInvalid)
	}
	h, err := w.newInode(tx, &held{Attr: Attr{id, in}}, n)
	if err != nil {
		return Attr{}, err
	}
	h.Inode.Flags |= ondisk.InodeUnlinked
	return h.Attr, w.save(tx, h)
}

// newInode makes an inode with what it inherits, but does not write it. Its ACLs are written.
func (w *Writer) newInode(tx *trans.Tx, parent *held, n *NewInode) (*held, error) {
	switch uint8(n.Mode >> 12) {
	case ondisk.DTFifo, ondisk.DTChr, ondisk.DTDir, ondisk.DTBlk, ondisk.DTReg, ondisk.DTLnk, ondisk.DTSock:
	default:
		return nil, fmt.Errorf("mode %#o: %w", n.Mode, ErrInvalid)
	}
	inum, generation, err := w.newInum(tx, parent.ID)
	if err != nil {
		return nil, err
	}
	now := w.now()
	h := &held{isNew: true, Attr: Attr{
		ID: ID{Subvol: parent.ID.Subvol, Snapshot: parent.ID.Snapshot, Inum: inum},
		Inode: ondisk.Inode{Inum: inum, Snapshot: parent.ID.Snapshot, HashType: w.cfg.HashType, HashSeed: w.newSeed(), Generation: generation,
			Mode: n.Mode, UID: n.UID, GID: n.GID, Atime: now, Ctime: now, Mtime: now, Otime: now},
	}}
	in := &h.Inode
	if t := in.Type(); t == ondisk.DTChr || t == ondisk.DTBlk {
		in.Dev = n.Dev
	}
	if parent.Inode.Mode&modeSetGID != 0 {
		in.GID = parent.Inode.GID
		if in.IsDir() {
			in.Mode |= modeSetGID
		}
	}
	reinherit(in, &parent.Inode)
	if n.noACL {
		return h, nil
	}
	return h, w.inheritACL(tx, parent, h, n.Umask)
}
