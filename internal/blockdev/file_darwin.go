package blockdev

import (
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Requests of <sys/disk.h>.
const (
	dkiocGetBlockSize  = 0x40046418
	dkiocGetBlockCount = 0x40086419
)

func isRawDevicePath(string) bool { return false }

// exclusiveFlag returns O_EXLOCK: a mounted disk is busy by itself.
func exclusiveFlag(string) int { return unix.O_EXLOCK | unix.O_NONBLOCK }

func isBusy(err error) bool {
	return errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EWOULDBLOCK)
}

func lockFile(*os.File) error { return nil } // O_EXLOCK did it

// geometryOf takes both /dev/diskN and its unbuffered twin /dev/rdiskN, a
// character device that only transfers whole blocks.
func geometryOf(f *os.File) (geometry, error) {
	fi, err := f.Stat()
	if err != nil {
		return geometry{}, err
	}
	if fi.Mode().IsRegular() {
		return geometry{size: fi.Size()}, nil
	}
	var blockSize uint32
	var blocks uint64
	err = errors.Join(
		ioctl(f, dkiocGetBlockSize, unsafe.Pointer(&blockSize)),
		ioctl(f, dkiocGetBlockCount, unsafe.Pointer(&blocks)))
	if err != nil || blockSize == 0 || blocks > 1<<62/uint64(blockSize) {
		return geometry{}, ErrNotDevice
	}
	return geometry{size: int64(blocks) * int64(blockSize), block: true, align: int64(blockSize)}, nil
}

func ioctl(f *os.File, request uintptr, arg unsafe.Pointer) error {
	return control(f, func(fd int) error {
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg)); errno != 0 {
			return errno
		}
		return nil
	})
}

func openDirect(string, *os.File, bool) (*os.File, int64) { return nil, 0 }

// flushFile makes the drive write its own cache too, which fsync does not.
func flushFile(f *os.File) error {
	return control(f, func(fd int) error {
		_, err := unix.FcntlInt(uintptr(fd), unix.F_FULLFSYNC, 0)
		if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENOTTY) {
			err = unix.Fsync(fd)
		}
		return err
	})
}

func discardFile(*os.File, bool, int64, int64) error { return nil }
