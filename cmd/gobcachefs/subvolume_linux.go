package main

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/go-bcachefs/bcachefs"
)

// subvolumeArg is struct bch_ioctl_subvolume of the driver.
type subvolumeArg struct {
	flags, dirfd uint32
	mode, _      uint16
	_            uint32
	dst, src     uint64 // pointers to paths
}

// The driver's ioctls, and flags of the first.
const (
	ioctlSubvolumeCreate  = 0x4020bc10
	ioctlSubvolumeDestroy = 0x4020bc11
	ioctlSubvolumeList    = 0xc018bc1f
	ioctlSubvolumeToPath  = 0xc010bc20

	subvolSnapshotCreate = 1
	subvolSnapshotRO     = 2
)

// errNotMounted is about a path that is not on a mounted bcachefs.
var errNotMounted = errors.New("it is not on a mounted bcachefs")

// subvolumeIoctl makes or deletes the subvolume with a path on a mounted filesystem; src is what a snapshot is taken of, "" if it is the subvolume
// that the path is in.
func subvolumeIoctl(request uintptr, flags uint32, path, src string) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	dst, err := unix.BytePtrFromString(path)
	if err != nil {
		return err
	}
	at := unix.AT_FDCWD
	arg := &subvolumeArg{flags: flags, dirfd: uint32(at), mode: 0o777, dst: uint64(uintptr(unsafe.Pointer(dst)))}
	var from *byte
	if src != "" {
		if src, err = filepath.Abs(src); err != nil {
			return err
		}
		if from, err = unix.BytePtrFromString(src); err != nil {
			return err
		}
		arg.src = uint64(uintptr(unsafe.Pointer(from)))
	}
	_, _, n := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), request, uintptr(unsafe.Pointer(arg)))
	runtime.KeepAlive(dst)
	runtime.KeepAlive(from)
	switch n {
	case 0:
		return nil
	case syscall.ENOTTY:
		return errNotMounted
	}
	return n
}

func createMounted(path string) error { return subvolumeIoctl(ioctlSubvolumeCreate, 0, path, "") }

func snapshotMounted(path, src string, readOnly bool) error {
	flags := uint32(subvolSnapshotCreate)
	if readOnly {
		flags |= subvolSnapshotRO
	}
	return subvolumeIoctl(ioctlSubvolumeCreate, flags, path, src)
}

func deleteMounted(path string) error { return subvolumeIoctl(ioctlSubvolumeDestroy, 0, path, "") }

// subvolumeListArg is struct bch_ioctl_subvol_readdir of the driver: position, and a buffer for entries.
type subvolumeListArg struct {
	pos, size uint32
	buf       uint64 // pointer
	used, _   uint32
}

// subvolumePathArg is struct bch_ioctl_subvol_to_path.
type subvolumePathArg struct {
	subvol, size uint32
	buf          uint64 // pointer
}

// subvolumesMounted returns the subvolumes below the root of one on a mounted filesystem, all the way down. The one itself is subvolume 0 here. Those outside
// that snapshots were taken of have entries, too, in which they are their own parents.
func subvolumesMounted(dir string) ([]bcachefs.SubvolumeInfo, error) {
	top, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer top.Close()
	all, err := subvolumesIn(top, 0, "")
	if err != nil {
		return nil, err
	}
	listed := map[uint32]bool{0: true}
	for i := 0; i < len(all); i++ {
		listed[all[i].ID] = true
		f, err := os.Open(filepath.Join(dir, all[i].Path))
		if err != nil { // not to be read by who asks, or gone
			continue
		}
		below, err := subvolumesIn(f, all[i].ID, all[i].Path+"/")
		f.Close()
		if err != nil {
			return nil, err
		}
		all = append(all, below...)
	}
	root := bcachefs.SubvolumeInfo{}
	if len(all) > 0 {
		p, err := subvolumePathMounted(top, all[0].ID)
		if err != nil {
			return nil, err
		}
		root.Path = strings.TrimSuffix(strings.TrimSuffix(p, all[0].Path), "/")
	}
	for i := range all {
		all[i].Path = strings.TrimPrefix(root.Path+"/"+all[i].Path, "/")
	}
	all = append(all, root)
	for _, s := range slices.Clone(all) {
		if id := s.CreationParent; !listed[id] {
			listed[id] = true
			if p, err := subvolumePathMounted(top, id); err == nil {
				all = append(all, bcachefs.SubvolumeInfo{ID: id, Parent: id, Path: p})
			}
		}
	}
	return all, nil
}

// subvolumesIn returns the subvolumes that lie in the one that a directory is in.
func subvolumesIn(dir *os.File, parent uint32, prefix string) (all []bcachefs.SubvolumeInfo, err error) {
	const header = 32 // of struct bch_ioctl_subvol_dirent
	buf := make([]byte, 64<<10)
	arg := &subvolumeListArg{size: uint32(len(buf)), buf: uint64(uintptr(unsafe.Pointer(&buf[0])))}
	for {
		arg.used = 0
		_, _, n := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), ioctlSubvolumeList, uintptr(unsafe.Pointer(arg)))
		runtime.KeepAlive(buf)
		switch {
		case n == syscall.ENOTTY:
			return nil, errNotMounted
		case n != 0:
			return nil, n
		case arg.used == 0:
			return all, nil
		}
		for b := buf[:min(int(arg.used), len(buf))]; len(b) >= header; {
			le := binary.LittleEndian
			n := int(le.Uint32(b))
			if n < header || n > len(b) {
				return nil, errors.New("the list of subvolumes is damaged")
			}
			flags := le.Uint32(b[8:])
			all = append(all, bcachefs.SubvolumeInfo{ID: le.Uint32(b[4:]), Path: prefix + unix.ByteSliceToString(b[header:n]), Parent: parent,
				CreationParent: le.Uint32(b[12:]), ReadOnly: flags&1 != 0, IsSnapshot: flags&2 != 0, Unlinked: flags&4 != 0,
				Created: time.Unix(int64(le.Uint64(b[16:])), int64(le.Uint32(b[24:])))})
			b = b[n:]
		}
	}
}

// subvolumePathMounted returns the path of a subvolume from the root of its filesystem.
func subvolumePathMounted(dir *os.File, subvol uint32) (string, error) {
	buf := make([]byte, 4096)
	arg := &subvolumePathArg{subvol: subvol, size: uint32(len(buf)), buf: uint64(uintptr(unsafe.Pointer(&buf[0])))}
	_, _, n := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), ioctlSubvolumeToPath, uintptr(unsafe.Pointer(arg)))
	runtime.KeepAlive(buf)
	if n != 0 {
		return "", n
	}
	return unix.ByteSliceToString(buf), nil
}
