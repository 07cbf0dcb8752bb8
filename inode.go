package bcachefs

import (
	"context"
	"io/fs"
	"iter"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/namei"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// InodeID names an inode as seen in a subvolume or snapshot: Subvol is 0 in views of a snapshot that is no subvolume's, Snapshot is the
// snapshot in which keys are looked up. It is comparable and stays valid while the filesystem is open.
type InodeID = namei.ID

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
	Dir        uint64        // directory that the inode notes its name to be in; 0 if none
	DirCookie  uint64        // and the cookie of its entry there
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
	Cookie uint64      // pass to ReadDir to go on behind this entry; at least 2
	// Stray tells that [FS.Lookup], as the driver, does not find the name: in a damaged directory it does not lie where its
	// hash leads.
	Stray bool
}

// Lookup finds a name in a directory. A missing name is an error that wraps fs.ErrNotExist. "." and ".." are not looked up here;
// see [FS.Parent]. Names in casefolded directories are found in any case.
func (f *FS) Lookup(ctx context.Context, dir InodeID, name string) (InodeID, error) {
	return f.tree.Lookup(ctx, dir, []byte(name))
}

// Parent returns the directory that a directory is in, the root of the filesystem being in itself.
func (f *FS) Parent(ctx context.Context, dir InodeID) (InodeID, error) {
	return f.tree.Parent(ctx, dir)
}

// Path returns a path that leads to an inode from the root of the filesystem, as inodes note one of theirs. Parts that cannot be
// found are "?"; it is "" for the root.
func (f *FS) Path(ctx context.Context, id InodeID) (string, error) { return f.tree.Path(ctx, id) }

// Stat returns what the inode holds.
func (f *FS) Stat(ctx context.Context, id InodeID) (*Stat, error) {
	in, err := f.tree.Inode(ctx, id)
	if err != nil {
		return nil, err
	}
	return f.stat(id, &in), nil
}

func (f *FS) stat(id InodeID, in *ondisk.Inode) *Stat {
	st := &Stat{ID: id, RawMode: in.Mode, Mode: fileMode(in.Mode), UID: in.UID, GID: in.GID, Nlink: in.Nlink(),
		Size: int64(min(in.Size, 1<<63-1)), Sectors: in.Sectors, Atime: f.clock.time(in.Atime), Mtime: f.clock.time(in.Mtime),
		Ctime: f.clock.time(in.Ctime), Btime: f.clock.time(in.Otime), Generation: in.Generation, JournalSeq: in.JournalSeq,
		Flags: InodeFlags(in.Flags) & (FlagNoAtime<<1 - 1), Dir: in.Dir, DirCookie: in.DirOffset, SubvolRoot: in.Subvol != 0, Casefold: f.tree.Casefolded(in)}
	if st.Mode&fs.ModeDevice != 0 {
		st.RdevMajor, st.RdevMinor = splitDev(in.Dev)
	}
	if in.Project != 0 {
		st.Project = in.Project - 1
	}
	for o := range ondisk.NumInodeOptions {
		if in.Option(o) != 0 {
			st.Options = append(st.Options, InodeOption{Name: o.String(), Value: f.tree.OptionText(in, o),
				Explicit: in.FieldsSet>>o&1 != 0})
		}
	}
	return st
}

// splitDev splits a device number. The driver has 12 bits of major number and 20 of minor. The reference's FUSE driver stores
// the C library's number instead, whose lower 20 bits are the lower 12 bits of major and 8 of minor, the upper 12 the rest of
// minor; it is told by major number 0, which no device file has.
func splitDev(dev uint32) (major, minor uint32) {
	const kernelMinor, libcMinor = 20, 8
	if major = dev >> kernelMinor; major != 0 {
		return major, dev & (1<<kernelMinor - 1)
	}
	return dev >> libcMinor, dev & (1<<libcMinor - 1)
}

// typeModes are Go's bits for the types of files, by the upper four bits of a mode (DT_*).
var typeModes = [16]fs.FileMode{ondisk.DTFifo: fs.ModeNamedPipe, ondisk.DTChr: fs.ModeDevice | fs.ModeCharDevice,
	ondisk.DTDir: fs.ModeDir, ondisk.DTBlk: fs.ModeDevice, ondisk.DTReg: 0, ondisk.DTLnk: fs.ModeSymlink, ondisk.DTSock: fs.ModeSocket}

func typeMode(dt uint8) fs.FileMode {
	if m := typeModes[dt&15]; m != 0 || dt == ondisk.DTReg {
		return m
	}
	return fs.ModeIrregular
}

func fileMode(mode uint16) fs.FileMode {
	m := fs.FileMode(mode&0o777) | typeMode(uint8(mode>>12))
	if mode&0o4000 != 0 {
		m |= fs.ModeSetuid
	}
	if mode&0o2000 != 0 {
		m |= fs.ModeSetgid
	}
	if mode&0o1000 != 0 {
		m |= fs.ModeSticky
	}
	return m
}

// ReadDir iterates over the names in a directory in the order of their hashes, without "." and "..", from behind the entry
// with the given cookie; 0 begins at the start. Cookies stay valid while the filesystem is open and across openings. An
// error may be followed by more entries.
func (f *FS) ReadDir(ctx context.Context, dir InodeID, after uint64) iter.Seq2[DirEntry, error] {
	return func(yield func(DirEntry, error) bool) {
		for e, err := range f.tree.ReadDir(ctx, dir, after) {
			var d DirEntry
			if err == nil {
				d = DirEntry{Name: e.Name, ID: e.ID, Type: typeMode(e.Type), Cookie: e.Offset, Stray: e.Stray}
			}
			if !yield(d, err) {
				return
			}
		}
	}
}

// Readlink returns the target of a symbolic link.
func (f *FS) Readlink(ctx context.Context, id InodeID) (string, error) {
	return f.tree.Readlink(ctx, id)
}

// ListXattr returns the names of the extended attributes of an inode in byte order, with their prefixes ("user.…"),
// including POSIX ACLs and the bcachefs.… and bcachefs_effective.… options that are set.
func (f *FS) ListXattr(ctx context.Context, id InodeID) ([]string, error) {
	return f.tree.ListXattr(ctx, id)
}

// GetXattr returns the value of an extended attribute. One that the inode does not have is [ErrNoXattr].
func (f *FS) GetXattr(ctx context.Context, id InodeID, name string) ([]byte, error) {
	return f.tree.GetXattr(ctx, id, name)
}
