package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/go-bcachefs/bcachefs"
)

// makeNode makes a FIFO, socket or device node in a directory.
func makeNode(dir *os.File, name string, st *bcachefs.Stat) error {
	dev := unix.Mkdev(st.RdevMajor, st.RdevMinor)
	if err := unix.Mknodat(int(dir.Fd()), name, uint32(st.RawMode), int(dev)); err != nil {
		return fmt.Errorf("mknod: %w", err)
	}
	return nil
}

// applyMeta sets owner, permissions, extended attributes and times of a file in a directory, in the order in which each
// keeps what the ones before have set. What only root may set, or the filesystem cannot hold, goes to missed.
func applyMeta(d *destDir, name string, st *bcachefs.Stat, attrs map[string]string, skip metaKinds, missed *metaKinds) []error {
	fd := int(d.file.Fd())
	link := st.Mode&fs.ModeSymlink != 0
	var errs []error
	note := func(what string, flag *bool, err error) {
		switch {
		case err == nil:
		case errors.Is(err, unix.EPERM), errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.ENOSYS):
			*flag = true
		default:
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
		}
	}
	if !skip.owner {
		note("chown", &missed.owner, unix.Fchownat(fd, name, int(st.UID), int(st.GID), unix.AT_SYMLINK_NOFOLLOW))
	}
	if !skip.mode && !link {
		mode := uint32(st.RawMode & 0o7777)
		if missed.owner || skip.owner {
			mode &^= 0o6000 // a set-id file of the wrong owner would be worse than one without
		}
		note("chmod", &missed.mode, unix.Fchmodat(fd, name, mode, 0))
	}
	if len(attrs) > 0 {
		at := fmt.Sprintf("/proc/self/fd/%d/%s", fd, name)
		for _, key := range sortedKeys(attrs) {
			if strings.HasPrefix(key, "system.") && skip.mode {
				continue
			}
			note("attribute "+key, &missed.xattrs, unix.Lsetxattr(at, key, []byte(attrs[key]), 0))
		}
	}
	if !skip.times {
		ts := make([]unix.Timespec, 2)
		var err error
		if ts[0], err = unix.TimeToTimespec(st.Atime); err == nil {
			ts[1], err = unix.TimeToTimespec(st.Mtime)
		}
		if err == nil {
			err = unix.UtimesNanoAt(fd, name, ts, unix.AT_SYMLINK_NOFOLLOW)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("times: %w", err))
		}
	}
	return errs
}
