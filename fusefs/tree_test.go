//go:build linux

package fusefs_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/go-bcachefs/bcachefs/internal/manifest"
)

// lister makes a manifest of a mounted directory with system calls alone, so that what the kernel shows of a mount can be
// compared with what the real driver showed. The inode number and the subvolume are left out: a FUSE mount has numbers of its own.
type lister struct {
	root  string
	lines []string
}

const noIno = "-\t-"

// listTree returns the lines of the manifest without its header.
func listTree(root string) []string {
	l := &lister{root: root}
	l.list("")
	return l.lines
}

func failure(err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return fmt.Sprintf("!%d", int(errno))
	}
	return "!" + err.Error()
}

func (l *lister) list(path string) {
	full := filepath.Join(l.root, path)
	shown := "."
	if path != "" {
		shown = manifest.Escape(path)
	}
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, full, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st); err != nil {
		l.lines = append(l.lines, shown+"\t"+failure(err))
		return
	}
	kind, data, rdev := "?", "-", "-"
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		kind, data = "f", digest(full)
	case unix.S_IFDIR:
		kind = "d"
	case unix.S_IFLNK:
		kind = "l"
		if target, err := os.Readlink(full); err != nil {
			data = failure(err)
		} else {
			data = manifest.Escape(target)
		}
	case unix.S_IFIFO:
		kind = "p"
	case unix.S_IFSOCK:
		kind = "s"
	case unix.S_IFBLK:
		kind, rdev = "b", fmt.Sprintf("%d:%d", st.Rdev_major, st.Rdev_minor)
	case unix.S_IFCHR:
		kind, rdev = "c", fmt.Sprintf("%d:%d", st.Rdev_major, st.Rdev_minor)
	}
	l.lines = append(l.lines, fmt.Sprintf("%s\t%s\t%04o\t%d\t%d\t%d\t%d\t%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\t%s",
		shown, kind, st.Mode&07777, st.Uid, st.Gid, st.Nlink, st.Size, stamp(st.Mtime), rdev, data, xattrs(full),
		noIno, st.Blocks, flags(full, kind), stamp(st.Atime), stamp(st.Ctime), stamp(st.Btime)))
	if kind != "d" {
		return
	}
	entries, err := os.ReadDir(full)
	if err != nil {
		l.lines = append(l.lines, shown+"\treaddir "+failure(err))
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	slices.Sort(names)
	for _, name := range names {
		l.list(filepath.Join(path, name))
	}
}

func stamp(t unix.StatxTimestamp) string { return fmt.Sprintf("%d.%09d", t.Sec, t.Nsec) }

// flags asks by ioctl, as lsattr does; only files and directories can be asked.
func flags(path, kind string) string {
	if kind != "f" && kind != "d" {
		return "-"
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return failure(err)
	}
	defer unix.Close(fd)
	v, err := unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS)
	if err != nil {
		return failure(err)
	}
	s := ""
	for _, f := range []struct {
		bit    int
		letter string
	}{{0x10, "i"}, {0x20, "a"}, {0x40, "d"}} {
		if v&f.bit != 0 {
			s += f.letter
		}
	}
	if s == "" {
		return "-"
	}
	return s
}

func digest(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return failure(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.CopyBuffer(h, struct{ io.Reader }{f}, make([]byte, 1<<18)); err != nil {
		return failure(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func xattrs(path string) string {
	buf := make([]byte, 1<<16)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		return failure(err)
	}
	var pairs []string
	for name := range strings.SplitSeq(string(buf[:n]), "\x00") {
		if name == "" || strings.HasPrefix(name, "bcachefs_effective.") {
			continue
		}
		value := make([]byte, 1<<16)
		m, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			pairs = append(pairs, manifest.Escape(name)+"="+failure(err))
			continue
		}
		pairs = append(pairs, manifest.Escape(name)+"="+hex.EncodeToString(value[:m]))
	}
	if len(pairs) == 0 {
		return "-"
	}
	slices.Sort(pairs)
	return strings.Join(pairs, ",")
}
