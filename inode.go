package bcachefs

import (
	"context"
	"errors"
	"io/fs"
	"iter"
	"time"
)

// InodeID names an inode as seen in a subvolume or snapshot. It is comparable and stays valid while the filesystem is open.
type InodeID struct {
	Subvol   uint32 // subvolume; 0 in views of a snapshot that is no subvolume's
	Snapshot uint32 // snapshot in which keys are looked up
	Inum     uint64
}

// Stat is everything that an inode holds.
type Stat struct {
	ID         InodeID
	Mode       fs.FileMode // type and permissions in Go's bits
	RawMode    uint16      // type and permissions in POSIX bits
	UID, GID   uint32
	Nlink      uint32
	Size       int64  // bytes
	Sectors    uint64 // allocated, in units of 512 bytes
	Atime      time.Time
	Mtime      time.Time
	Ctime      time.Time
	Btime      time.Time // creation
	RdevMajor  uint32    // of device files
	RdevMinor  uint32
	Flags      InodeFlags
	Generation uint32
	JournalSeq uint64
	Project    uint32        // project id, 0 if none
	SubvolRoot bool          // the inode is the root of subvolume ID.Subvol
	Casefold   bool          // a directory whose names are found in any case
	Options    []InodeOption // options that are set here or inherited; others are those of the filesystem
}

// InodeFlags are the attributes of a file (chattr).
type InodeFlags uint32

// Attributes of files.
const (
	FlagSync InodeFlags = 1 << iota
	FlagImmutable
	FlagAppend
	FlagNoDump
	FlagNoAtime
)

// Immutable reports whether the file cannot be changed.
func (f InodeFlags) Immutable() bool { return f&FlagImmutable != 0 }

// Append reports whether the file can only be appended to.
func (f InodeFlags) Append() bool { return f&FlagAppend != 0 }

// NoDump reports whether backups should leave the file out.
func (f InodeFlags) NoDump() bool { return f&FlagNoDump != 0 }

// InodeOption is an option of the filesystem that a file has of its own.
type InodeOption struct {
	Name     string // as in mount options: "compression"
	Value    string // as in mount options: "zstd:3"
	Explicit bool   // set on this inode; otherwise inherited from a directory above
}

// DirEntry is a name in a directory.
type DirEntry struct {
	Name   string
	ID     InodeID     // of what it names; in another subvolume if it names the root of one
	Type   fs.FileMode // type bits only
	Cookie uint64      // pass to ReadDir to go on behind this entry; at least 3
}

// Lookup finds a name in a directory. A missing name is an error that wraps fs.ErrNotExist. "." and ".." are not looked up here;
// see [FS.Parent]. Names in casefolded directories are found in any case.
func (f *FS) Lookup(ctx context.Context, dir InodeID, name string) (InodeID, error) {
	return InodeID{}, errors.ErrUnsupported
}

// Parent returns the directory that a directory is in, the root of the filesystem being in itself.
func (f *FS) Parent(ctx context.Context, dir InodeID) (InodeID, error) {
	return InodeID{}, errors.ErrUnsupported
}

// Stat returns what the inode holds.
func (f *FS) Stat(ctx context.Context, id InodeID) (*Stat, error) { return nil, errors.ErrUnsupported }

// ReadDir iterates over the names in a directory in the order of their hashes, without "." and "..", from behind the entry
// with the given cookie; 0 begins at the start. Cookies stay valid while the filesystem is open and across openings. An
// error may be followed by more entries.
func (f *FS) ReadDir(ctx context.Context, dir InodeID, after uint64) iter.Seq2[DirEntry, error] {
	return func(yield func(DirEntry, error) bool) { yield(DirEntry{}, errors.ErrUnsupported) }
}

// Readlink returns the target of a symbolic link.
func (f *FS) Readlink(ctx context.Context, id InodeID) (string, error) {
	return "", errors.ErrUnsupported
}

// ListXattr returns the names of the extended attributes of an inode in byte order, with their prefixes ("user.…"),
// including POSIX ACLs and the bcachefs.… and bcachefs_effective.… options that are set.
func (f *FS) ListXattr(ctx context.Context, id InodeID) ([]string, error) {
	return nil, errors.ErrUnsupported
}

// GetXattr returns the value of an extended attribute. One that the inode does not have is [ErrNoXattr].
func (f *FS) GetXattr(ctx context.Context, id InodeID, name string) ([]byte, error) {
	return nil, errors.ErrUnsupported
}

// OpenInode opens a regular file for reading; directories can be opened to be listed through [View.Open]. ctx is used by the methods of File that take none.
func (f *FS) OpenInode(ctx context.Context, id InodeID) (*File, error) {
	return nil, errors.ErrUnsupported
}
