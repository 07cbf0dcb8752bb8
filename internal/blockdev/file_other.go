//go:build !linux && !darwin && !windows

package blockdev

import (
	"io"
	"os"
)

func isRawDevicePath(string) bool { return false }

func exclusiveFlag(string) int { return 0 }

func isBusy(error) bool { return false }

func lockFile(*os.File) error { return nil }

func geometryOf(f *os.File) (geometry, error) {
	fi, err := f.Stat()
	if err != nil {
		return geometry{}, err
	}
	if fi.Mode().IsRegular() {
		return geometry{size: fi.Size()}, nil
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err == nil && size == 0 {
		err = ErrNotDevice
	}
	return geometry{size: size, block: true, align: SectorSize}, err
}

func openDirect(string, *os.File, bool) (*os.File, int64) { return nil, 0 }

func flushFile(f *os.File) error { return f.Sync() }

func discardFile(*os.File, bool, int64, int64) error { return nil }
