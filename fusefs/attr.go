//go:build linux

package fusefs

import (
	"encoding/binary"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/go-bcachefs/bcachefs"
)

// blksize is st_blksize: the least that a program should read at a time.
const blksize = 4096

// setAttr fills in all of an inode but its number.
func setAttr(a *fuse.Attr, s *bcachefs.Stat) {
	a.Size = uint64(s.Size)
	a.Blocks = s.Sectors
	a.Atime, a.Atimensec = split(s.Atime)
	a.Mtime, a.Mtimensec = split(s.Mtime)
	a.Ctime, a.Ctimensec = split(s.Ctime)
	a.Mode = uint32(s.RawMode)
	a.Nlink = s.Nlink
	a.Uid, a.Gid = s.UID, s.GID
	a.Rdev = rdev(s)
	a.Blksize = blksize
}

func split(t time.Time) (uint64, uint32) {
	return uint64(t.Unix()), uint32(t.Nanosecond())
}

// rdev encodes a device number as the FUSE protocol has it: the kernel's 32-bit form.
func rdev(s *bcachefs.Stat) uint32 {
	return s.RdevMinor&0xff | s.RdevMajor<<8&0xfff00 | s.RdevMinor&^0xff<<12
}

const (
	statxAttributes = unix.STATX_ATTR_IMMUTABLE | unix.STATX_ATTR_APPEND | unix.STATX_ATTR_NODUMP
	statxMask       = unix.STATX_BASIC_STATS | unix.STATX_BTIME
)

// setStatx fills in all of an inode but its number.
func setStatx(x *fuse.Statx, s *bcachefs.Stat) {
	x.Mask = statxMask
	x.Blksize = blksize
	x.Nlink = s.Nlink
	x.Uid, x.Gid = s.UID, s.GID
	x.Mode = s.RawMode
	x.Size = uint64(s.Size)
	x.Blocks = s.Sectors
	x.RdevMajor, x.RdevMinor = s.RdevMajor, s.RdevMinor
	x.AttributesMask = statxAttributes
	if s.Flags.Immutable() {
		x.Attributes |= unix.STATX_ATTR_IMMUTABLE
	}
	if s.Flags.Append() {
		x.Attributes |= unix.STATX_ATTR_APPEND
	}
	if s.Flags.NoDump() {
		x.Attributes |= unix.STATX_ATTR_NODUMP
	}
	x.Atime, x.Mtime = sxTime(s.Atime), sxTime(s.Mtime)
	x.Ctime, x.Btime = sxTime(s.Ctime), sxTime(s.Btime)
}

func sxTime(t time.Time) fuse.SxTime {
	return fuse.SxTime{Sec: uint64(t.Unix()), Nsec: uint32(t.Nanosecond())}
}

// Bits of FS_IOC_GETFLAGS, see ioctl_iflags(2).
const (
	fsSync      = 0x8
	fsImmutable = 0x10
	fsAppend    = 0x20
	fsNoDump    = 0x40
	fsNoAtime   = 0x80
)

// putFlags answers FS_IOC_GETFLAGS.
func putFlags(out []byte, s *bcachefs.Stat) {
	var f uint32
	for _, b := range []struct {
		flag bcachefs.InodeFlags
		bit  uint32
	}{
		{bcachefs.FlagSync, fsSync},
		{bcachefs.FlagImmutable, fsImmutable},
		{bcachefs.FlagAppend, fsAppend},
		{bcachefs.FlagNoDump, fsNoDump},
		{bcachefs.FlagNoAtime, fsNoAtime},
	} {
		if s.Flags&b.flag != 0 {
			f |= b.bit
		}
	}
	binary.LittleEndian.PutUint32(out, f)
}
