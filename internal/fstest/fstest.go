// Package fstest exercises filesystems through a small interface, whatever is behind it: a directory of the operating system, a FUSE mount, a library.
//
// Its programs each do much at random, or all there is up to a bound, and know what must come of it:
//
//   - [FSX] does all that can be done to the data of a few files, beside arrays of bytes.
//   - [Random] does all that can be done to a tree of files, beside a [Model] of it, with remounts and crashes.
//   - [AIODIO] is the workload of xfstests' generic/113: many direct reads and writes at once, with contents that are verified.
//   - [ACE] lists short sequences of operations with whatever makes them durable in between; [Recording] says what a crash may leave of one.
//   - [Mix], [Database], [Mail] and [Refill] are loads: a mix of everything from many goroutines, a database's writes, the delivery of mail, and a
//     filesystem that is filled again and again.
//
// All take a seed, so that what fails can be repeated: errors say how, and what to leave out.
//
// Numbers of errors, flags and modes are those of Linux, on whatever system this runs.
package fstest

import (
	"errors"
	"time"
)

// FS is a filesystem. Paths are relative to its root, without "." and ".." but in the targets of symbolic links; "." is the root. Methods fail with what
// [ErrnoOf] finds a number for, EOPNOTSUPP where the implementation lacks something. Methods that are not said to follow symbolic links follow them in all
// but the last part of a path.
type FS interface {
	// Open opens a regular file, or makes one. It follows symbolic links unless flags have OpenExclusive.
	Open(path string, flags OpenFlags, perm uint32) (File, error)
	// OpenUnlinked makes a file without a name, in the filesystem of a directory (O_TMPFILE); LinkFile gives it one.
	OpenUnlinked(dir string, perm uint32) (File, error)
	LinkFile(f File, path string) error

	Mkdir(path string, perm uint32) error
	Rmdir(path string) error
	Unlink(path string) error
	Link(old, new string) error
	Symlink(target, path string) error
	Readlink(path string) (string, error)
	Mknod(path string, mode uint32, rdev uint64) error
	Rename(old, new string, flags RenameFlags) error

	Lstat(path string) (Stat, error)
	ReadDir(path string) ([]DirEntry, error) // without "." and "..", in any order
	Truncate(path string, size int64) error  // follows
	Chmod(path string, perm uint32) error    // follows
	Chown(path string, uid, gid uint32) error
	SetTimes(path string, atime, mtime time.Time) error

	SetXattr(path, name string, value []byte, flags XattrFlags) error
	GetXattr(path, name string) ([]byte, error)
	ListXattr(path string) ([]string, error)
	RemoveXattr(path, name string) error

	// Sync makes everything durable, SyncDir what was done to the names in a directory.
	Sync() error
	SyncDir(path string) error
	Statfs() (Statfs, error)

	// CreateSubvolume makes an empty subvolume, Snapshot one with the content of another; both are named by the paths of their roots.
	CreateSubvolume(path string) error
	Snapshot(path, from string, readOnly bool) error
	DeleteSubvolume(path string) error
}

// File is an open regular file. Methods are safe for concurrent use.
type File interface {
	// ReadAt returns what there is, less than was asked for only at the end of the file, be it with io.EOF or without error.
	ReadAt(p []byte, off int64) (int, error)
	// WriteAt writes everything or fails; with OpenAppend at the end, whatever off is.
	WriteAt(p []byte, off int64) (int, error)
	Truncate(size int64) error
	Stat() (Stat, error)
	Sync() error
	SyncData() error // fdatasync
	Allocate(mode AllocMode, off, n int64) error
	// Clone shares n bytes of another file, CopyRange copies them and returns how many.
	Clone(from File, fromOff, off, n int64) error
	CopyRange(from File, fromOff, off, n int64) (int64, error)
	// SeekData and SeekHole return where data or a hole begins, at off or behind it; ENXIO if there is none, or off is not in the file.
	SeekData(off int64) (int64, error)
	SeekHole(off int64) (int64, error)
	// MapRead and MapWrite read and write through a shared mapping into memory, within the file.
	MapRead(p []byte, off int64) error
	MapWrite(p []byte, off int64) error
	Close() error
}

// OpenFlags say how a file is opened.
type OpenFlags uint32

// Flags of [FS.Open]. Files are opened for reading and writing unless OpenReadOnly is among them.
const (
	OpenCreate OpenFlags = 1 << iota
	OpenExclusive
	OpenTruncate
	OpenAppend
	OpenReadOnly
	OpenDirect // past the page cache; offsets, lengths and buffers are aligned
	OpenSync   // each write is durable
)

// RenameFlags are those of renameat2(2).
type RenameFlags uint32

// Flags of [FS.Rename].
const (
	RenameNoReplace RenameFlags = 1
	RenameExchange  RenameFlags = 2
)

// XattrFlags are those of setxattr(2).
type XattrFlags uint32

// Flags of [FS.SetXattr].
const (
	XattrCreate  XattrFlags = 1
	XattrReplace XattrFlags = 2
)

// AllocMode is the mode of fallocate(2).
type AllocMode uint32

// Modes of [File.Allocate].
const (
	AllocExtend   AllocMode = 0
	AllocKeepSize AllocMode = 1
	AllocPunch    AllocMode = 2 | AllocKeepSize
	AllocCollapse AllocMode = 8
	AllocZero     AllocMode = 16
	AllocInsert   AllocMode = 32
)

// Types of files, as part of a mode.
const (
	ModeType    = 0o170000
	ModeFIFO    = 0o010000
	ModeChar    = 0o020000
	ModeDir     = 0o040000
	ModeBlock   = 0o060000
	ModeRegular = 0o100000
	ModeSymlink = 0o120000
	ModeSocket  = 0o140000
	modeSetuid  = 0o4000
	modeSetgid  = 0o2000
	modePerm    = 0o7777
)

// Stat is what stat(2) tells.
type Stat struct {
	Dev, Ino            uint64 // two names of a file have both in common
	Mode, Nlink         uint32
	UID, GID            uint32
	Rdev                uint64 // major<<8 | minor
	Size, Blocks        int64  // in bytes; in sectors
	Atime, Mtime, Ctime time.Time
}

// DirEntry is a name in a directory.
type DirEntry struct {
	Name string
	Type uint32 // as part of a mode
}

// Statfs is what statfs(2) tells, in bytes.
type Statfs struct{ Size, Free, Files int64 }

// Errno is an error number of Linux.
type Errno uint32

// The numbers that are expected here.
const (
	EPERM        Errno = 1
	ENOENT       Errno = 2
	EIO          Errno = 5
	ENXIO        Errno = 6
	EBADF        Errno = 9
	EACCES       Errno = 13
	EBUSY        Errno = 16
	EEXIST       Errno = 17
	EXDEV        Errno = 18
	ENODEV       Errno = 19
	ENOTDIR      Errno = 20
	EISDIR       Errno = 21
	EINVAL       Errno = 22
	ENOTTY       Errno = 25
	ETXTBSY      Errno = 26
	EFBIG        Errno = 27
	ENOSPC       Errno = 28
	ESPIPE       Errno = 29
	EROFS        Errno = 30
	EMLINK       Errno = 31
	ERANGE       Errno = 34
	ENAMETOOLONG Errno = 36
	ENOSYS       Errno = 38
	ENOTEMPTY    Errno = 39
	ELOOP        Errno = 40
	ENODATA      Errno = 61
	EOPNOTSUPP   Errno = 95
	EDQUOT       Errno = 122
)

var errnoNames = map[Errno]string{EPERM: "EPERM", ENOENT: "ENOENT", EIO: "EIO", ENXIO: "ENXIO", EBADF: "EBADF", EACCES: "EACCES", EBUSY: "EBUSY",
	EEXIST: "EEXIST", EXDEV: "EXDEV", ENODEV: "ENODEV", ENOTDIR: "ENOTDIR", EISDIR: "EISDIR", EINVAL: "EINVAL", ENOTTY: "ENOTTY", ETXTBSY: "ETXTBSY",
	EFBIG: "EFBIG", ENOSPC: "ENOSPC", ESPIPE: "ESPIPE", EROFS: "EROFS", EMLINK: "EMLINK", ERANGE: "ERANGE", ENAMETOOLONG: "ENAMETOOLONG", ENOSYS: "ENOSYS",
	ENOTEMPTY: "ENOTEMPTY", ELOOP: "ELOOP", ENODATA: "ENODATA", EOPNOTSUPP: "EOPNOTSUPP", EDQUOT: "EDQUOT", 0: "done"}

// Error implements error.
func (e Errno) Error() string { return e.String() }

// String returns the name of the number; 0 is "done".
func (e Errno) String() string {
	if s, ok := errnoNames[e]; ok {
		return s
	}
	return "errno " + itoa(int(e))
}

// ErrnoOf returns the number in an error: 0 for nil, EIO if it has none.
func ErrnoOf(err error) Errno {
	var e Errno
	switch {
	case err == nil:
		return 0
	case errors.As(err, &e):
		return e
	}
	return EIO
}

// lacking reports whether an error says that there is no such operation.
func lacking(err error) bool {
	switch ErrnoOf(err) {
	case EOPNOTSUPP, ENOSYS, ENOTTY, ENODEV:
		return true
	}
	return false
}
