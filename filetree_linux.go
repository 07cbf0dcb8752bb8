package bcachefs

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// hostStat fills in what a stat of this system tells beyond what package os does.
func hostStat(f *TreeFile, st fs.FileInfo) (id hostInode, several bool) {
	s, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return id, false
	}
	f.UID, f.GID = s.Uid, s.Gid
	f.Atime = time.Unix(s.Atim.Unix())
	if st.Mode()&fs.ModeDevice != 0 {
		f.RdevMajor, f.RdevMinor = unix.Major(uint64(s.Rdev)), unix.Minor(uint64(s.Rdev))
	}
	return hostInode{uint64(s.Dev), s.Ino}, s.Nlink > 1
}

// nextHostData returns the next range with data at or behind off; at the end both are size.
func nextHostData(f *os.File, off, size int64) (start, end int64, err error) {
	start, err = f.Seek(off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return size, size, nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP): // a filesystem that does not tell
		return off, size, nil
	case err != nil:
		return 0, 0, err
	}
	end, err = f.Seek(start, unix.SEEK_HOLE)
	return min(start, size), min(end, size), err
}

// hostXattrs returns the extended attributes of a file, or of a symbolic link itself, that other filesystems can hold.
func hostXattrs(name string) (map[string]string, error) {
	list, err := growing(func(p []byte) (int, error) { return unix.Llistxattr(name, p) })
	if err != nil || len(list) == 0 {
		if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
			err = nil
		}
		return nil, err
	}
	attrs := map[string]string{}
	for attr := range strings.SplitSeq(strings.TrimSuffix(list, "\x00"), "\x00") {
		if !loadable(attr) {
			continue
		}
		value, err := growing(func(p []byte) (int, error) { return unix.Lgetxattr(name, attr, p) })
		switch {
		case errors.Is(err, unix.ENODATA), errors.Is(err, unix.EOPNOTSUPP):
		case err != nil:
			return nil, &fs.PathError{Op: "getxattr " + attr, Path: name, Err: err}
		default:
			attrs[attr] = value
		}
	}
	return attrs, nil
}

// growing calls what fills a buffer with buffers that are large enough in the end.
func growing(fill func(p []byte) (int, error)) (string, error) {
	for size := 256; ; size *= 4 {
		buf := make([]byte, size)
		n, err := fill(buf)
		if errors.Is(err, unix.ERANGE) && size < 1<<20 {
			continue
		}
		if err != nil {
			return "", err
		}
		return string(buf[:n]), nil
	}
}
