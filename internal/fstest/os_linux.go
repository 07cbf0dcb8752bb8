package fstest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
)

// OS is the tree below a directory of the operating system. Modes are what is asked for only if the process has no umask.
type OS struct{ Dir string }

var _ FS = OS{}

func (o OS) path(p string) string { return filepath.Join(o.Dir, p) }

// errnoErr gives an error of the system its number here.
func errnoErr(err error) error {
	var n unix.Errno
	if err == nil || !errors.As(err, &n) {
		return err
	}
	return Errno(n)
}

// retry repeats a system call that a signal interrupted.
func retry(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return errnoErr(err)
		}
	}
}

func (o OS) open(path string, flags int, perm uint32) (int, error) {
	fd := -1
	err := retry(func() (err error) {
		fd, err = unix.Open(o.path(path), flags|unix.O_CLOEXEC, perm)
		return err
	})
	return fd, err
}

// Open implements FS.
func (o OS) Open(path string, flags OpenFlags, perm uint32) (File, error) {
	// O_NONBLOCK: opening a pipe is a mistake, but not one to wait for.
	n := unix.O_RDWR | unix.O_NONBLOCK
	if flags&OpenReadOnly != 0 {
		n = unix.O_RDONLY | unix.O_NONBLOCK
	}
	for _, f := range []struct {
		flag OpenFlags
		n    int
	}{{OpenCreate, unix.O_CREAT}, {OpenExclusive, unix.O_EXCL}, {OpenTruncate, unix.O_TRUNC}, {OpenAppend, unix.O_APPEND},
		{OpenDirect, unix.O_DIRECT}, {OpenSync, unix.O_SYNC}} {
		if flags&f.flag != 0 {
			n |= f.n
		}
	}
	fd, err := o.open(path, n, perm)
	if err != nil {
		return nil, err
	}
	return &osFile{fd}, nil
}

// OpenUnlinked implements FS.
func (o OS) OpenUnlinked(dir string, perm uint32) (File, error) {
	fd, err := o.open(dir, unix.O_TMPFILE|unix.O_RDWR, perm)
	if err == EISDIR { // what there is where the flag is not known
		err = EOPNOTSUPP
	}
	if err != nil {
		return nil, err
	}
	return &osFile{fd}, nil
}

// LinkFile implements FS.
func (o OS) LinkFile(f File, path string) error {
	return retry(func() error {
		return unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.(*osFile).fd), unix.AT_FDCWD, o.path(path), unix.AT_SYMLINK_FOLLOW)
	})
}

// Mkdir implements FS.
func (o OS) Mkdir(path string, perm uint32) error {
	return retry(func() error { return unix.Mkdir(o.path(path), perm) })
}

// Rmdir implements FS.
func (o OS) Rmdir(path string) error { return retry(func() error { return unix.Rmdir(o.path(path)) }) }

// Unlink implements FS.
func (o OS) Unlink(path string) error {
	return retry(func() error { return unix.Unlink(o.path(path)) })
}

// Link implements FS.
func (o OS) Link(old, new string) error {
	return retry(func() error { return unix.Link(o.path(old), o.path(new)) })
}

// Symlink implements FS.
func (o OS) Symlink(target, path string) error {
	return retry(func() error { return unix.Symlink(target, o.path(path)) })
}

// Readlink implements FS.
func (o OS) Readlink(path string) (string, error) {
	b := make([]byte, 4096)
	n := 0
	err := retry(func() (err error) {
		n, err = unix.Readlink(o.path(path), b)
		return err
	})
	return string(b[:max(n, 0)]), err
}

// Mknod implements FS.
func (o OS) Mknod(path string, mode uint32, rdev uint64) error {
	dev := int(unix.Mkdev(uint32(rdev>>8), uint32(rdev&255)))
	return retry(func() error { return unix.Mknod(o.path(path), mode, dev) })
}

// Rename implements FS.
func (o OS) Rename(old, new string, flags RenameFlags) error {
	return retry(func() error {
		return unix.Renameat2(unix.AT_FDCWD, o.path(old), unix.AT_FDCWD, o.path(new), uint(flags))
	})
}

// Lstat implements FS.
func (o OS) Lstat(path string) (Stat, error) {
	var st unix.Stat_t
	err := retry(func() error { return unix.Lstat(o.path(path), &st) })
	return statOf(&st), err
}

func statOf(st *unix.Stat_t) Stat {
	at := func(t unix.Timespec) time.Time { return time.Unix(t.Unix()) }
	return Stat{Dev: st.Dev, Ino: st.Ino, Mode: st.Mode, Nlink: uint32(st.Nlink), UID: st.Uid, GID: st.Gid,
		Rdev: uint64(unix.Major(st.Rdev))<<8 | uint64(unix.Minor(st.Rdev)), Size: st.Size, Blocks: st.Blocks,
		Atime: at(st.Atim), Mtime: at(st.Mtim), Ctime: at(st.Ctim)}
}

// ReadDir implements FS.
func (o OS) ReadDir(path string) ([]DirEntry, error) {
	f, err := os.OpenFile(o.path(path), os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, errnoErr(err)
	}
	defer f.Close()
	list, err := f.ReadDir(-1)
	var out []DirEntry
	for _, e := range list {
		out = append(out, DirEntry{e.Name(), typeOf(e.Type())})
	}
	return out, errnoErr(err)
}

func typeOf(m os.FileMode) uint32 {
	switch {
	case m&os.ModeDir != 0:
		return ModeDir
	case m&os.ModeSymlink != 0:
		return ModeSymlink
	case m&os.ModeNamedPipe != 0:
		return ModeFIFO
	case m&os.ModeSocket != 0:
		return ModeSocket
	case m&os.ModeCharDevice != 0:
		return ModeChar
	case m&os.ModeDevice != 0:
		return ModeBlock
	}
	return ModeRegular
}

// Truncate implements FS.
func (o OS) Truncate(path string, size int64) error {
	return retry(func() error { return unix.Truncate(o.path(path), size) })
}

// Chmod implements FS.
func (o OS) Chmod(path string, perm uint32) error {
	return retry(func() error { return unix.Chmod(o.path(path), perm) })
}

// Chown implements FS.
func (o OS) Chown(path string, uid, gid uint32) error {
	return retry(func() error { return unix.Lchown(o.path(path), int(uid), int(gid)) })
}

// SetTimes implements FS.
func (o OS) SetTimes(path string, atime, mtime time.Time) error {
	ts := []unix.Timespec{unix.NsecToTimespec(atime.UnixNano()), unix.NsecToTimespec(mtime.UnixNano())}
	return retry(func() error { return unix.UtimesNanoAt(unix.AT_FDCWD, o.path(path), ts, unix.AT_SYMLINK_NOFOLLOW) })
}

// SetXattr implements FS.
func (o OS) SetXattr(path, name string, value []byte, flags XattrFlags) error {
	return retry(func() error { return unix.Lsetxattr(o.path(path), name, value, int(flags)) })
}

// GetXattr implements FS.
func (o OS) GetXattr(path, name string) ([]byte, error) {
	b := make([]byte, 1<<16)
	n := 0
	err := retry(func() (err error) {
		n, err = unix.Lgetxattr(o.path(path), name, b)
		return err
	})
	if err != nil {
		return nil, err
	}
	return b[:n], nil
}

// ListXattr implements FS.
func (o OS) ListXattr(path string) ([]string, error) {
	b := make([]byte, 1<<16)
	n := 0
	err := retry(func() (err error) {
		n, err = unix.Llistxattr(o.path(path), b)
		return err
	})
	if err != nil {
		return nil, err
	}
	var names []string
	for b = b[:n]; len(b) > 0; {
		name := unix.ByteSliceToString(b)
		names = append(names, name)
		b = b[len(name)+1:]
	}
	return names, nil
}

// RemoveXattr implements FS.
func (o OS) RemoveXattr(path, name string) error {
	return retry(func() error { return unix.Lremovexattr(o.path(path), name) })
}

// withDir calls fn with an open directory.
func (o OS) withDir(path string, fn func(fd int) error) error {
	fd, err := o.open(path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return retry(func() error { return fn(fd) })
}

// Sync implements FS.
func (o OS) Sync() error { return o.withDir(".", unix.Syncfs) }

// SyncDir implements FS.
func (o OS) SyncDir(path string) error { return o.withDir(path, unix.Fsync) }

// Statfs implements FS.
func (o OS) Statfs() (Statfs, error) {
	var st unix.Statfs_t
	err := retry(func() error { return unix.Statfs(o.Dir, &st) })
	return Statfs{Size: int64(st.Blocks) * st.Bsize, Free: int64(st.Bfree) * st.Bsize, Files: int64(st.Files - st.Ffree)}, err
}

// subvolumeArg is struct bch_ioctl_subvolume (spec: include/uapi of the driver): flags, source and destination directory, mode, pointers to paths.
type subvolumeArg struct {
	flags, dirfd uint32
	mode, _      uint16
	_            uint32
	dst, src     uint64
}

const (
	ioctlSubvolumeCreate  = 0x4020bc10
	ioctlSubvolumeDestroy = 0x4020bc11

	subvolSnapshotCreate = 1
	subvolSnapshotRO     = 2
)

func (o OS) subvolume(request uintptr, path, from string, flags uint32) error {
	dst, err := unix.BytePtrFromString(o.path(path))
	if err != nil {
		return EINVAL
	}
	at := unix.AT_FDCWD
	arg := &subvolumeArg{flags: flags, dirfd: uint32(at), mode: 0o777, dst: uint64(uintptr(unsafe.Pointer(dst)))}
	var src *byte
	if flags&subvolSnapshotCreate != 0 {
		if src, err = unix.BytePtrFromString(o.path(from)); err != nil {
			return EINVAL
		}
		arg.src = uint64(uintptr(unsafe.Pointer(src)))
	}
	defer runtime.KeepAlive(dst)
	defer runtime.KeepAlive(src)
	return o.withDir(".", func(fd int) error {
		_, _, n := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(arg)))
		if n != 0 {
			return n
		}
		return nil
	})
}

// CreateSubvolume implements FS, with the ioctl of bcachefs.
func (o OS) CreateSubvolume(path string) error { return o.subvolume(ioctlSubvolumeCreate, path, "", 0) }

// Snapshot implements FS, with the ioctl of bcachefs.
func (o OS) Snapshot(path, from string, readOnly bool) error {
	flags := uint32(subvolSnapshotCreate)
	if readOnly {
		flags |= subvolSnapshotRO
	}
	return o.subvolume(ioctlSubvolumeCreate, path, from, flags)
}

// DeleteSubvolume implements FS, with the ioctl of bcachefs.
func (o OS) DeleteSubvolume(path string) error {
	return o.subvolume(ioctlSubvolumeDestroy, path, "", 0)
}

// osFile is a file descriptor.
type osFile struct{ fd int }

// aligned returns p, or a buffer in its place that may be used for direct I/O.
func aligned(p []byte) (buf []byte, other bool) {
	if len(p) == 0 || uintptr(unsafe.Pointer(&p[0]))%4096 == 0 {
		return p, false
	}
	return blockdev.AlignedBuffer(len(p)), true
}

// ReadAt implements File.
func (f *osFile) ReadAt(p []byte, off int64) (int, error) {
	buf, other := aligned(p)
	done := 0
	for done < len(buf) {
		n := 0
		err := retry(func() (err error) {
			n, err = unix.Pread(f.fd, buf[done:], off+int64(done))
			return err
		})
		if err != nil {
			return done, err
		}
		if n == 0 {
			break
		}
		done += n
		if done < len(buf) && done%512 != 0 {
			break // only at the end, and direct I/O could not go on from here
		}
	}
	if other {
		copy(p, buf[:done])
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}

// WriteAt implements File.
func (f *osFile) WriteAt(p []byte, off int64) (int, error) {
	buf, other := aligned(p)
	if other {
		copy(buf, p)
	}
	n := 0
	err := retry(func() (err error) {
		n, err = unix.Pwrite(f.fd, buf, off)
		return err
	})
	return max(n, 0), err
}

// Truncate implements File.
func (f *osFile) Truncate(size int64) error {
	return retry(func() error { return unix.Ftruncate(f.fd, size) })
}

// Stat implements File.
func (f *osFile) Stat() (Stat, error) {
	var st unix.Stat_t
	err := retry(func() error { return unix.Fstat(f.fd, &st) })
	return statOf(&st), err
}

// Sync implements File.
func (f *osFile) Sync() error { return retry(func() error { return unix.Fsync(f.fd) }) }

// SyncData implements File.
func (f *osFile) SyncData() error { return retry(func() error { return unix.Fdatasync(f.fd) }) }

// Allocate implements File.
func (f *osFile) Allocate(mode AllocMode, off, n int64) error {
	return retry(func() error { return unix.Fallocate(f.fd, uint32(mode), off, n) })
}

// Clone implements File.
func (f *osFile) Clone(from File, fromOff, off, n int64) error {
	r := unix.FileCloneRange{Src_fd: int64(from.(*osFile).fd), Src_offset: uint64(fromOff), Src_length: uint64(n), Dest_offset: uint64(off)}
	return retry(func() error { return unix.IoctlFileCloneRange(f.fd, &r) })
}

// CopyRange implements File.
func (f *osFile) CopyRange(from File, fromOff, off, n int64) (int64, error) {
	done := 0
	err := retry(func() (err error) {
		done, err = unix.CopyFileRange(from.(*osFile).fd, &fromOff, f.fd, &off, int(n), 0)
		return err
	})
	return int64(max(done, 0)), err
}

func (f *osFile) seek(off int64, whence int) (n int64, err error) {
	err = retry(func() (err error) {
		n, err = unix.Seek(f.fd, off, whence)
		return err
	})
	return n, err
}

// SeekData implements File.
func (f *osFile) SeekData(off int64) (int64, error) { return f.seek(off, unix.SEEK_DATA) }

// SeekHole implements File.
func (f *osFile) SeekHole(off int64) (int64, error) { return f.seek(off, unix.SEEK_HOLE) }

// mapped calls fn with a part of the file in memory.
func (f *osFile) mapped(off, n int64, prot int, fn func(p []byte)) error {
	start := off &^ int64(os.Getpagesize()-1)
	p, err := unix.Mmap(f.fd, start, int(off-start+n), prot, unix.MAP_SHARED)
	if err != nil {
		return errnoErr(err)
	}
	fn(p[off-start:])
	return errnoErr(unix.Munmap(p))
}

// MapRead implements File.
func (f *osFile) MapRead(p []byte, off int64) error {
	return f.mapped(off, int64(len(p)), unix.PROT_READ, func(m []byte) { copy(p, m) })
}

// MapWrite implements File.
func (f *osFile) MapWrite(p []byte, off int64) error {
	return f.mapped(off, int64(len(p)), unix.PROT_READ|unix.PROT_WRITE, func(m []byte) { copy(m, p) })
}

// Close implements File.
func (f *osFile) Close() error { return errnoErr(unix.Close(f.fd)) }
