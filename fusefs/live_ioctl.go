//go:build linux

package fusefs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/go-bcachefs/bcachefs"
)

// ioctls are those that are served. The kernel asks for flags by the first two pairs itself (chattr, lsattr); what it handles itself
// never comes: FICLONE, FICLONERANGE and FIDEDUPERANGE are EOPNOTSUPP on every FUSE mount (copy_file_range shares data instead).
var ioctls = map[uint32]func(l *live, c *ioctl) error{
	unix.FS_IOC_GETFLAGS:                (*live).getFlags,
	unix.FS_IOC_SETFLAGS:                (*live).setFlags,
	ioRead('X', 31, fsxattrBytes):       (*live).getXflags,
	ioWrite('X', 32, fsxattrBytes):      (*live).setXflags,
	ioRead('v', 1, 8):                   (*live).getVersion,
	ioRead(0x94, 49, labelBytes):        (*live).getLabel,
	ioWrite(0x94, 50, labelBytes):       (*live).setLabel,
	ioRead('X', 125, 4):                 (*live).goingDown,
	ioRead(bchIoctl, 1, 16):             (*live).queryUUID,
	ioWrite(bchIoctl, 16, subvolumeArg): (*live).createSubvolume,
	ioWrite(bchIoctl, 17, subvolumeArg): (*live).destroySubvolume,
	ioRead(bchIoctl, 64, 8):             (*live).reinherit,

	ioReadWrite(bchIoctl, 31, subvolReaddirArg): (*live).listSubvolumes,
	ioReadWrite(bchIoctl, 32, subvolToPathArg):  (*live).subvolumePath,
}

// bchIoctl is the type of the driver's own ioctls.
const bchIoctl = 0xbc

const (
	fsxattrBytes = 28  // struct fsxattr
	labelBytes   = 256 // FSLABEL_MAX
	subvolumeArg = 32  // struct bch_ioctl_subvolume
)

// ioRead is _IOR, whose argument the kernel fills in; ioWrite is _IOW, whose argument it reads.
func ioRead(typ, nr, size uint32) uint32  { return 2<<30 | size<<16 | typ<<8 | nr }
func ioWrite(typ, nr, size uint32) uint32 { return 1<<30 | size<<16 | typ<<8 | nr }

// ioReadWrite is _IOWR: both.
func ioReadWrite(typ, nr, size uint32) uint32 { return ioRead(typ, nr, size) | ioWrite(typ, nr, size) }

func (l *live) Ioctl(_ <-chan struct{}, in *fuse.IoctlIn, arg []byte, result *fuse.IoctlOut, out []byte) fuse.Status {
	do := ioctls[in.Cmd]
	if do == nil || in.NodeId == nodeSnapshots {
		return fuse.Status(syscall.ENOTTY)
	}
	id, st := l.id(in.NodeId)
	if !st.Ok() {
		return st
	}
	const least = 4
	if len(arg)+len(out) < least { // what the kernel asks itself may be shorter than the number of the ioctl says
		return fuse.EINVAL
	}
	err := do(l, &ioctl{in: in, id: id, arg: arg, out: out, result: result})
	if errno, ok := err.(syscall.Errno); ok { // of what was asked of this system; errors of filesystem and devices are wrapped
		return fuse.Status(errno)
	}
	return toStatus(err)
}

// ioctl is one call.
type ioctl struct {
	in       *fuse.IoctlIn
	id       bcachefs.InodeID // of the file that it was called with
	arg, out []byte
	result   *fuse.IoctlOut
}

// Bits of FS_IOC_GETFLAGS, beside those of putFlags.
const fsCasefold = 0x40000000

// inodeFlags are the flags of inodes, as FS_IOC_GETFLAGS and as FS_IOC_FSGETXATTR have them.
var inodeFlags = []struct {
	flag       bcachefs.InodeFlags
	bit, xflag uint32
}{
	{bcachefs.FlagSync, fsSync, 0x20},
	{bcachefs.FlagImmutable, fsImmutable, 0x8},
	{bcachefs.FlagAppend, fsAppend, 0x10},
	{bcachefs.FlagNoDump, fsNoDump, 0x80},
	{bcachefs.FlagNoAtime, fsNoAtime, 0x40},
}

const (
	xflagProjInherit = 0x200
	allFlags         = bcachefs.FlagSync | bcachefs.FlagImmutable | bcachefs.FlagAppend | bcachefs.FlagNoDump | bcachefs.FlagNoAtime
)

func (l *live) getFlags(c *ioctl) error {
	s, err := l.fsys.Stat(l.ctx, c.id)
	if err != nil {
		return err
	}
	clear(c.out)
	putFlags(c.out, s)
	if s.Casefold {
		c.out[3] |= fsCasefold >> 24
	}
	return nil
}

// setFlags sets flags. The kernel has checked that the caller may.
func (l *live) setFlags(c *ioctl) error {
	s, err := l.fsys.Stat(l.ctx, c.id)
	if err != nil {
		return err
	}
	bits := binary.LittleEndian.Uint32(c.arg)
	var flags bcachefs.InodeFlags
	for _, f := range inodeFlags {
		if bits&f.bit != 0 {
			flags |= f.flag
			bits &^= f.bit
		}
	}
	casefold := bits&fsCasefold != 0
	if bits &^= fsCasefold; bits != 0 {
		return syscall.EOPNOTSUPP
	}
	if casefold != s.Casefold {
		value := "0"
		if casefold {
			value = "1"
		}
		const option = "bcachefs.casefold"
		if err := l.fsys.SetXattr(l.ctx, c.id, option, []byte(value), 0); err != nil {
			return err
		}
		l.optionsChanged(c.in.NodeId, c.id, option)
	}
	_, err = l.fsys.SetFlags(l.ctx, c.id, flags, allFlags)
	return err
}

// getXflags fills in a struct fsxattr: flags, extent size, extents, project, extent size for copies, 8 bytes nothing.
func (l *live) getXflags(c *ioctl) error {
	s, err := l.fsys.Stat(l.ctx, c.id)
	if err != nil {
		return err
	}
	if len(c.out) < fsxattrBytes {
		return syscall.EINVAL
	}
	clear(c.out)
	var bits uint32
	for _, f := range inodeFlags {
		if s.Flags&f.flag != 0 {
			bits |= f.xflag
		}
	}
	for _, o := range s.Options {
		if o.Name == "project" && o.Explicit {
			bits |= xflagProjInherit
		}
	}
	binary.LittleEndian.PutUint32(c.out, bits)
	binary.LittleEndian.PutUint32(c.out[12:], s.Project)
	return nil
}

func (l *live) setXflags(c *ioctl) error {
	if len(c.arg) < fsxattrBytes {
		return syscall.EINVAL
	}
	bits := binary.LittleEndian.Uint32(c.arg)
	var flags bcachefs.InodeFlags
	for _, f := range inodeFlags {
		if bits&f.xflag != 0 {
			flags |= f.flag
			bits &^= f.xflag
		}
	}
	inherit := bits&xflagProjInherit != 0
	if bits&^xflagProjInherit != 0 || binary.LittleEndian.Uint32(c.arg[4:]) != 0 || binary.LittleEndian.Uint32(c.arg[16:]) != 0 {
		return syscall.EOPNOTSUPP
	}
	_, err := l.fsys.SetProject(l.ctx, c.id, flags, allFlags, binary.LittleEndian.Uint32(c.arg[12:]), inherit)
	return err
}

func (l *live) getVersion(c *ioctl) error {
	s, err := l.fsys.Stat(l.ctx, c.id)
	if err != nil {
		return err
	}
	clear(c.out)
	binary.LittleEndian.PutUint32(c.out, s.Generation)
	return nil
}

func (l *live) getLabel(c *ioctl) error {
	clear(c.out)
	copy(c.out, l.fsys.Label())
	return nil
}

func (l *live) setLabel(c *ioctl) error {
	if !callerOf(&c.in.InHeader).isAdmin() {
		return syscall.EPERM
	}
	end := bytes.IndexByte(c.arg, 0)
	if end < 0 {
		return syscall.EINVAL
	}
	return l.fsys.SetLabel(l.ctx, string(c.arg[:end]))
}

func (l *live) queryUUID(c *ioctl) error {
	id := l.fsys.Engine().SB.UserUUID
	copy(c.out, id[:])
	return nil
}

// Ways to shut down, the argument of FS_IOC_GOINGDOWN.
const (
	goingDefault    = 0 // everything is written before
	goingLogFlush   = 1 // the journal is
	goingNoLogFlush = 2 // nothing is
)

// errGoingDown is why nothing is written after FS_IOC_GOINGDOWN.
var errGoingDown = errors.New("shut down by ioctl")

// goingDown stops the filesystem where it is: whatever is done with it from now on fails with EIO, and the next mount recovers it. The ioctl is
// declared as if its argument were written by us, so that it has to be fetched.
func (l *live) goingDown(c *ioctl) error {
	caller := callerOf(&c.in.InHeader)
	if !caller.isAdmin() {
		return syscall.EPERM
	}
	var b [4]byte
	if err := caller.read(b[:], c.in.Arg); err != nil {
		return err
	}
	switch binary.LittleEndian.Uint32(b[:]) {
	case goingDefault:
		if err := l.writeBack(); err != nil {
			return err
		}
		fallthrough
	case goingLogFlush:
		if err := l.fsys.Sync(l.ctx); err != nil {
			return err
		}
	case goingNoLogFlush:
	default:
		return syscall.EINVAL
	}
	l.down.Store(true)
	l.fsys.Halt(errGoingDown)
	return nil
}

// reinherit gives a name in the directory the options of the directory. The result is 1 if that changed any.
func (l *live) reinherit(c *ioctl) error {
	caller := callerOf(&c.in.InHeader)
	name, err := caller.readString(c.in.Arg)
	if err != nil {
		return err
	}
	s, err := l.fsys.Stat(l.ctx, c.id)
	if err != nil {
		return err
	}
	if caller.uid != s.UID && !caller.isAdmin() {
		return syscall.EPERM
	}
	changed, err := l.fsys.ReinheritOptions(l.ctx, c.id, name)
	if changed {
		c.result.Result = 1
	}
	return err
}
