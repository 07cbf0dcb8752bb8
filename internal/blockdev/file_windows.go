package blockdev

import (
	"errors"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/windows"
)

// Requests of winioctl.h.
const (
	ioctlDiskGetLengthInfo    = 0x7405c
	ioctlDiskGetDriveGeometry = 0x70000
)

// isRawDevicePath knows names like \\.\PhysicalDrive1 and \\.\D:.
func isRawDevicePath(path string) bool { return strings.HasPrefix(path, `\\.\`) }

func exclusiveFlag(string) int { return 0 }

func isBusy(err error) bool { return errors.Is(err, windows.ERROR_SHARING_VIOLATION) }

func lockFile(f *os.File) error {
	err := windows.LockFileEx(windows.Handle(f.Fd()),
		windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY,
		0, 1, 0, &windows.Overlapped{OffsetHigh: 1 << 30}) // a byte far behind any end
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return ErrBusy
	}
	return err
}

// geometryOf takes files, drives and volumes; the latter two transfer whole
// sectors only.
func geometryOf(f *os.File) (geometry, error) {
	if !isRawDevicePath(f.Name()) {
		fi, err := f.Stat()
		if err != nil {
			return geometry{}, err
		}
		if !fi.Mode().IsRegular() {
			return geometry{}, ErrNotDevice
		}
		return geometry{size: fi.Size()}, nil
	}
	var length int64
	var disk struct {
		cylinders                                                   int64
		mediaType, tracksPerCylinder, sectorsPerTrack, bytesPerSect uint32
	}
	err := errors.Join(
		ioctl(f, ioctlDiskGetLengthInfo, unsafe.Pointer(&length), unsafe.Sizeof(length)),
		ioctl(f, ioctlDiskGetDriveGeometry, unsafe.Pointer(&disk), unsafe.Sizeof(disk)))
	if err != nil {
		return geometry{}, err
	}
	return geometry{size: length, block: true, align: int64(max(disk.bytesPerSect, SectorSize))}, nil
}

func ioctl(f *os.File, request uint32, out unsafe.Pointer, size uintptr) error {
	var returned uint32
	return windows.DeviceIoControl(windows.Handle(f.Fd()), request, nil, 0,
		(*byte)(out), uint32(size), &returned, nil)
}

func openDirect(string, *os.File, bool) (*os.File, int64) { return nil, 0 }

func flushFile(f *os.File) error { return f.Sync() }

func discardFile(*os.File, bool, int64, int64) error { return nil }
