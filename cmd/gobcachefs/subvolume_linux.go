package main

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
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
