package blockdev

import (
	"errors"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

func isRawDevicePath(string) bool { return false }

// exclusiveFlag makes opening a block device fail if it is mounted. Without
// O_CREAT, O_EXCL means nothing else for a file.
func exclusiveFlag(string) int { return unix.O_EXCL }

func isBusy(err error) bool { return errors.Is(err, unix.EBUSY) }

// lockFile keeps two writers from one image file.
func lockFile(f *os.File) error {
	err := control(f, func(fd int) error { return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) })
	if errors.Is(err, unix.EWOULDBLOCK) {
		return ErrBusy
	}
	return err
}

func geometryOf(f *os.File) (geometry, error) {
	fi, err := f.Stat()
	if err != nil {
		return geometry{}, err
	}
	if fi.Mode().IsRegular() {
		return geometry{size: fi.Size()}, nil
	}
	if fi.Mode()&os.ModeCharDevice != 0 {
		return geometry{}, ErrNotDevice
	}
	size, err := f.Seek(0, io.SeekEnd)
	return geometry{size: size, block: true}, err
}

// openDirect opens path once more with O_DIRECT. It returns nil where the
// filesystem cannot do that.
func openDirect(path string, f *os.File, readOnly bool) (*os.File, int64) {
	flags := os.O_RDWR
	if readOnly {
		flags = os.O_RDONLY
	}
	direct, err := os.OpenFile(path, flags|unix.O_DIRECT, 0)
	if err != nil || !sameFile(f, direct) {
		if err == nil {
			direct.Close()
		}
		return nil, 0
	}
	return direct, directAlign(direct)
}

func sameFile(a, b *os.File) bool {
	fa, errA := a.Stat()
	fb, errB := b.Stat()
	return errA == nil && errB == nil && os.SameFile(fa, fb)
}

// directAlign is the multiple that offsets and lengths of direct transfers
// need; a page where the system does not say.
func directAlign(f *os.File) int64 {
	align := int64(memAlign)
	control(f, func(fd int) error {
		var st unix.Statx_t
		err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &st)
		if err == nil && st.Mask&unix.STATX_DIOALIGN != 0 && st.Dio_offset_align != 0 {
			align = int64(st.Dio_offset_align)
			return nil
		}
		if size, err := unix.IoctlGetInt(fd, unix.BLKSSZGET); err == nil && size > 0 {
			align = int64(size)
		}
		return nil
	})
	return align
}

func flushFile(f *os.File) error {
	return control(f, unix.Fdatasync)
}

// discardFile makes a hole in a file. To a block device it sends discards: a hole would be a promise of zeros there, which fewer
// devices can make.
func discardFile(f *os.File, block bool, off, n int64) error {
	err := control(f, func(fd int) error {
		if block {
			return discardBlocks(fd, off, n)
		}
		return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	})
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

func discardBlocks(fd int, off, n int64) error {
	bytes := [2]uint64{uint64(off), uint64(n)}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.BLKDISCARD, uintptr(unsafe.Pointer(&bytes)))
	if errno != 0 {
		return errno
	}
	return nil
}
