package bcachefs

import (
	"context"
	"fmt"
	"io/fs"
	"syscall"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/data"
	"github.com/go-bcachefs/bcachefs/internal/engine"
	"github.com/go-bcachefs/bcachefs/internal/namei"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/vfs"
)

// goReadWrite makes an opened filesystem writable.
func goReadWrite(ctx context.Context, e *engine.FS, opts *OpenOptions) (*FS, error) {
	f := &FS{engine: e, clock: newClock(e.SB), owner: owner{opts.UID, opts.GID}}
	rw, err := e.GoReadWrite(ctx, engine.WriteOptions{NoFreespace: opts.ForceEarlyAllocator, Rand: opts.Rand, Now: opts.Now, Ordered: opts.Ordered})
	if err != nil {
		_ = e.Close() // it may have been closed by then
		return nil, err
	}
	f.live, err = vfs.New(ctx, rw, vfs.Config{Now: opts.Now, Rand: opts.Rand, Target: f.targetName, Data: func(c *data.WriterConfig) {
		c.CacheBytes, c.Parallel = opts.ExtentCacheBytes, opts.ReadParallelism
	}})
	if err != nil {
		rw.Abandon()
		return nil, err
	}
	f.keys, f.tree, f.data = f.live.Trees(), live{f.live}, live{f.live}
	root, err := f.tree.SubvolumeRoot(ctx, ondisk.RootSubvol)
	if err != nil {
		f.live.Abandon()
		return nil, err
	}
	f.root = &View{fs: f, root: root}
	return f, nil
}

// Writable reports why the filesystem cannot be written to: nil if it can, [ErrNotWritable] if it was opened for reading, else what has
// gone wrong since.
func (f *FS) Writable() error {
	if f.live == nil {
		return ErrNotWritable
	}
	return f.live.RW().Err()
}

// Halt ends writing because of err, as an error of a device does: what is not durable will not be, and whatever would change something fails with
// EROFS from then on. Reading goes on. The filesystem must still be closed, which fails; whoever opens it next recovers it.
func (f *FS) Halt(err error) {
	if f.live != nil {
		f.live.RW().Halt(err)
	}
}

// SetLabel changes the name of the filesystem, which has at most 31 bytes. It is durable when SetLabel returns.
func (f *FS) SetLabel(ctx context.Context, label string) error {
	if f.live == nil {
		return ErrNotWritable
	}
	if err := f.Writable(); err != nil {
		return fmt.Errorf("%w: %w", err, vfs.ErrReadOnly)
	}
	return f.live.RW().SetLabel(ctx, label)
}

// Abandon ends the use of a filesystem at once, as a crash would: what was not made durable may be lost, and whoever opens it next recovers it.
func (f *FS) Abandon() {
	if f.live != nil {
		f.live.Abandon()
		return
	}
	_ = f.engine.Close()
}

// NewInode says what inode to make.
type NewInode struct {
	RawMode   uint16 // type and permissions in POSIX bits; without type a regular file
	UID, GID  uint32
	RdevMajor uint32 // of device files
	RdevMinor uint32
	// Umask are the permissions that are taken away where the directory has no default ACL.
	Umask uint16
}

func (n *NewInode) internal() *namei.NewInode {
	mode := n.RawMode
	if mode>>12 == 0 {
		mode |= ondisk.DTReg << 12
	}
	return &namei.NewInode{Mode: mode, UID: n.UID, GID: n.GID, Dev: namei.EncodeDev(n.RdevMajor, n.RdevMinor), Umask: n.Umask}
}

// statOf returns what callers see of an inode.
func (f *FS) statOf(a namei.Attr, err error) (*Stat, error) {
	if err != nil {
		return nil, err
	}
	return f.stat(a.ID, &a.Inode), nil
}

// Inodes that are open, or that a kernel knows of, are held: without a name they live until they are released. Methods that return an inode hold it
// as many times as hold says, at the moment at which they find or make it. In a filesystem that was opened for reading holds mean nothing.

// LookupStat finds a name in a directory, as [FS.Lookup] and [FS.Stat] do, at one moment.
func (f *FS) LookupStat(ctx context.Context, dir InodeID, name string, hold uint64) (*Stat, error) {
	if f.live != nil {
		return f.statOf(f.live.Lookup(ctx, dir, name, hold))
	}
	id, err := f.Lookup(ctx, dir, name)
	if err != nil {
		return nil, err
	}
	return f.Stat(ctx, id)
}

// Hold holds an inode n times more; the caller knows that it is there.
func (f *FS) Hold(id InodeID, n uint64) {
	if f.live != nil {
		f.live.Hold(id, n)
	}
}

// Release gives up n holds of an inode. One without a name is deleted after the last, in the background.
func (f *FS) Release(id InodeID, n uint64) {
	if f.live != nil {
		f.live.Release(id, n)
	}
}

// MakeInode makes a file, directory, pipe, socket or device and a name for it.
func (f *FS) MakeInode(ctx context.Context, dir InodeID, name string, n NewInode, hold uint64) (*Stat, error) {
	if f.live == nil {
		return nil, ErrNotWritable
	}
	return f.statOf(f.live.Create(ctx, dir, name, n.internal(), hold))
}

// MakeUnnamed makes a file without a name, which inherits from dir: it is gone unless [FS.MakeLink] gives it one (O_TMPFILE). hold is at least 1.
func (f *FS) MakeUnnamed(ctx context.Context, dir InodeID, n NewInode, hold uint64) (*Stat, error) {
	if f.live == nil {
		return nil, ErrNotWritable
	}
	return f.statOf(f.live.CreateUnnamed(ctx, dir, n.internal(), max(hold, 1)))
}

// MakeSymlink makes a symbolic link to target. Mode and umask are not looked at.
func (f *FS) MakeSymlink(ctx context.Context, dir InodeID, name, target string, n NewInode, hold uint64) (*Stat, error) {
	if f.live == nil {
		return nil, ErrNotWritable
	}
	return f.statOf(f.live.Symlink(ctx, dir, name, target, &namei.NewInode{UID: n.UID, GID: n.GID}, hold))
}

// MakeLink gives an inode, which is no directory, a name more.
func (f *FS) MakeLink(ctx context.Context, id, dir InodeID, name string, hold uint64) (*Stat, error) {
	if f.live == nil {
		return nil, ErrNotWritable
	}
	return f.statOf(f.live.Link(ctx, id, dir, name, hold))
}

// RemoveWhat says what a name may be that is removed.
type RemoveWhat = namei.What

// What [FS.RemoveName] removes.
const (
	RemoveFile      = namei.File          // anything but a directory
	RemoveDir       = namei.Dir           // an empty directory, or an empty subvolume
	RemoveSubvolume = namei.SubvolumeRoot // a subvolume with whatever is in it, but for other subvolumes
)

// RemoveName removes a name and returns what it led to. That is deleted when nobody holds it any more.
func (f *FS) RemoveName(ctx context.Context, dir InodeID, name string, what RemoveWhat) (*Stat, error) {
	if f.live == nil {
		return nil, ErrNotWritable
	}
	return f.statOf(f.live.Unlink(ctx, dir, name, what))
}

// RenameFlags are those of renameat2(2).
type RenameFlags = namei.RenameFlags

// Flags of [FS.RenameName].
const (
	RenameNoReplace = namei.RenameNoReplace
	RenameExchange  = namei.RenameExchange
	RenameWhiteout  = namei.RenameWhiteout // the whiteout belongs to uid and gid
)

// RenameName gives what has a name another one, perhaps in another directory, in place of what had that before. It returns the inode that had the
// new name, nil if none had.
func (f *FS) RenameName(ctx context.Context, dir InodeID, name string, toDir InodeID, toName string, flags RenameFlags, uid, gid uint32) (replaced *Stat, err error) {
	if f.live == nil {
		return nil, ErrNotWritable
	}
	r, err := f.live.Rename(ctx, dir, name, toDir, toName, flags, uid, gid)
	if err != nil || r.Other.ID.Inum == 0 {
		return nil, err
	}
	return f.stat(r.Other.ID, &r.Other.Inode), nil
}

// Attrs are attributes of an inode that are to be set: those that are not nil.
type Attrs struct {
	RawMode             *uint16 // permissions, set-id bits and sticky bit; the type stays
	UID, GID            *uint32
	Atime, Mtime, Ctime *time.Time
	AtimeNow, MtimeNow  bool // the present, instead
	Size                *int64
	// Forced sets them though the file is immutable or append-only: a page cache has the times of what was written to it before, or at its end.
	Forced bool
}

// SetAttr sets attributes of an inode and returns what it holds then. What a system takes away from modes on such occasions is the caller's concern.
func (f *FS) SetAttr(ctx context.Context, id InodeID, a Attrs) (*Stat, error) {
	if f.live == nil {
		return nil, ErrNotWritable
	}
	if a.Size != nil {
		if _, err := f.live.Truncate(ctx, id, *a.Size, nil); err != nil {
			return nil, err
		}
	}
	var n namei.Attrs
	if a.RawMode != nil {
		n.Set, n.Mode = n.Set|namei.SetMode, *a.RawMode
	}
	if a.UID != nil {
		n.Set, n.UID = n.Set|namei.SetUID, *a.UID
	}
	if a.GID != nil {
		n.Set, n.GID = n.Set|namei.SetGID, *a.GID
	}
	for _, t := range []struct {
		from *time.Time
		to   *int64
		now  bool
		set  namei.AttrMask
		nowm namei.AttrMask
	}{
		{a.Atime, &n.Atime, a.AtimeNow, namei.SetAtime, namei.SetAtimeNow},
		{a.Mtime, &n.Mtime, a.MtimeNow, namei.SetMtime, namei.SetMtimeNow},
		{a.Ctime, &n.Ctime, false, namei.SetCtime, 0},
	} {
		switch {
		case t.now:
			n.Set |= t.nowm
		case t.from != nil:
			n.Set, *t.to = n.Set|t.set, t.from.UnixNano()
		}
	}
	if n.Set == 0 {
		return f.Stat(ctx, id)
	}
	if a.Forced {
		n.Set |= namei.SetForced
	}
	return f.statOf(f.live.SetAttr(ctx, id, &n))
}

// DropPrivileges takes from a regular file what it loses when somebody without privileges writes to it or changes its size: the set-user-id bit, the
// set-group-id bit where the group may execute it, and the attribute security.capability. It reports whether it had any.
func (f *FS) DropPrivileges(ctx context.Context, id InodeID) (bool, error) {
	if f.live == nil {
		return false, ErrNotWritable
	}
	return f.live.DropPrivileges(ctx, id)
}

// SetFlags sets those flags of an inode that are in mask.
func (f *FS) SetFlags(ctx context.Context, id InodeID, flags, mask InodeFlags) (*Stat, error) {
	if f.live == nil {
		return nil, ErrNotWritable
	}
	return f.statOf(f.live.SetFlags(ctx, id, ondisk.InodeFlags(flags), ondisk.InodeFlags(mask), nil))
}

// SetProject sets flags of an inode, and its project: with inherit the project stays when the inode is moved to a directory of another.
func (f *FS) SetProject(ctx context.Context, id InodeID, flags, mask InodeFlags, project uint32, inherit bool) (*Stat, error) {
	if f.live == nil {
		return nil, ErrNotWritable
	}
	return f.statOf(f.live.SetFlags(ctx, id, ondisk.InodeFlags(flags), ondisk.InodeFlags(mask), &namei.ProjectAttrs{Project: project, Inherit: inherit}))
}

// XattrFlags say how an attribute is set.
type XattrFlags = namei.XattrFlags

// Flags of [FS.SetXattr].
const (
	XattrCreate  = namei.XattrCreate  // it must not exist
	XattrReplace = namei.XattrReplace // it must exist
	// XattrKeepSetGID leaves the set-group-id bit of a file whose access ACL is set.
	XattrKeepSetGID = namei.XattrKeepSetGID
)

// SetXattr sets an extended attribute: user.…, trusted.…, security.…, POSIX ACLs in the system's form, and options as bcachefs.NAME.
func (f *FS) SetXattr(ctx context.Context, id InodeID, name string, value []byte, flags XattrFlags) error {
	if f.live == nil {
		return ErrNotWritable
	}
	_, err := f.live.SetXattr(ctx, id, name, value, flags)
	return err
}

// RemoveXattr removes an extended attribute; [ErrNoXattr] if there is none.
func (f *FS) RemoveXattr(ctx context.Context, id InodeID, name string) error {
	if f.live == nil {
		return ErrNotWritable
	}
	_, err := f.live.RemoveXattr(ctx, id, name)
	return err
}

// ReinheritOptions gives what a name leads to the options of its directory, but for those that were set on itself, and reports whether any changed.
func (f *FS) ReinheritOptions(ctx context.Context, dir InodeID, name string) (bool, error) {
	if f.live == nil {
		return false, ErrNotWritable
	}
	_, changed, err := f.live.Reinherit(ctx, dir, name)
	return changed, err
}

// ReadInode reads from a file at off; it is short, without an error, only at the end of the file.
func (f *FS) ReadInode(ctx context.Context, id InodeID, p []byte, off int64) (int, error) {
	if f.live != nil {
		return live{f.live}.ReadAt(ctx, id, p, off)
	}
	st, err := f.Stat(ctx, id)
	if err != nil || off >= st.Size {
		return 0, err
	}
	return f.data.ReadAt(ctx, id, p[:min(int64(len(p)), st.Size-off)], off)
}

// WriteFlags say how a file is changed.
type WriteFlags uint8

// Flags of [FS.WriteInode], [FS.Allocate] and [FS.CopyRange].
const (
	// WriteDurable returns when what was written is durable.
	WriteDurable WriteFlags = 1 << iota
	// WriteKeepTimes leaves the file's times to the caller, who sets them with [FS.SetAttr], as a kernel does that caches writes.
	WriteKeepTimes
)

func (w WriteFlags) options() *data.WriteOptions {
	if w&WriteKeepTimes == 0 {
		return nil
	}
	return &keepTimes
}

var keepTimes = data.WriteOptions{KeepTimes: true}

// WriteInode writes to a file at off, which grows if it ends before. After an error n says how much of p is in the file.
func (f *FS) WriteInode(ctx context.Context, id InodeID, p []byte, off int64, flags WriteFlags) (n int, err error) {
	if f.live == nil {
		return 0, ErrNotWritable
	}
	n, seq, err := f.live.WriteAt(ctx, id, p, off, flags.options())
	return n, f.durable(ctx, flags, seq, err)
}

// durable waits for a change to be durable where the flags say so.
func (f *FS) durable(ctx context.Context, flags WriteFlags, seq uint64, err error) error {
	if flags&WriteDurable == 0 || err != nil {
		return err
	}
	return f.live.SyncSeq(ctx, seq)
}

// AllocateMode says what [FS.Allocate] does.
type AllocateMode uint8

// Modes of [FS.Allocate], as those of fallocate(2).
const (
	AllocateGrow     AllocateMode = iota // make sure that there is space; the file grows to the range's end
	AllocateKeepSize                     // the same, but the file's size stays
	AllocateZero                         // the range becomes zeros that have space; the file grows
	AllocateZeroKeepSize
	AllocatePunch    // the range becomes a hole
	AllocateInsert   // what is behind moves towards the end, whole blocks
	AllocateCollapse // the range is taken out, whole blocks
)

// Allocate changes the space of a range of a file.
func (f *FS) Allocate(ctx context.Context, id InodeID, mode AllocateMode, off, n int64, flags WriteFlags) (err error) {
	if f.live == nil {
		return ErrNotWritable
	}
	o, seq := flags.options(), uint64(0)
	switch mode {
	case AllocateGrow:
		seq, err = f.live.Allocate(ctx, id, off, n, 0, o)
	case AllocateKeepSize:
		seq, err = f.live.Allocate(ctx, id, off, n, data.KeepSize, o)
	case AllocateZero:
		seq, err = f.live.Allocate(ctx, id, off, n, data.ZeroRange, o)
	case AllocateZeroKeepSize:
		seq, err = f.live.Allocate(ctx, id, off, n, data.ZeroRange|data.KeepSize, o)
	case AllocatePunch:
		seq, err = f.live.Punch(ctx, id, off, n, o)
	case AllocateInsert:
		seq, err = f.live.InsertRange(ctx, id, off, n, o)
	case AllocateCollapse:
		seq, err = f.live.CollapseRange(ctx, id, off, n, o)
	default:
		err = syscall.EINVAL
	}
	return f.durable(ctx, flags, seq, err)
}

// CloneRange has n bytes of one file, at off, share their data with those of another or the same at fromOff: whole blocks, but at the end of
// both files. It copies nothing.
func (f *FS) CloneRange(ctx context.Context, from InodeID, fromOff int64, to InodeID, off, n int64) (cloned int64, err error) {
	if f.live == nil {
		return 0, ErrNotWritable
	}
	cloned, _, err = f.live.Reflink(ctx, from, fromOff, to, off, n, nil)
	return cloned, err
}

// CopyRange copies n bytes between files, or within one if the ranges do not overlap; it ends with the source. Whole blocks are shared where they can be.
func (f *FS) CopyRange(ctx context.Context, from InodeID, fromOff int64, to InodeID, off, n int64, flags WriteFlags) (copied int64, err error) {
	if f.live == nil {
		return 0, ErrNotWritable
	}
	copied, seq, err := f.live.CopyRange(ctx, from, fromOff, to, off, n, flags.options())
	return copied, f.durable(ctx, flags, seq, err)
}

// SeekInode returns the offset of the first data or hole at or behind off, as whence says: [SeekData] or [SeekHole].
func (f *FS) SeekInode(ctx context.Context, id InodeID, off int64, whence int) (int64, error) {
	st, err := f.Stat(ctx, id)
	if err != nil {
		return 0, err
	}
	switch whence {
	case SeekData:
		return f.data.SeekData(ctx, id, st.Size, off)
	case SeekHole:
		return f.data.SeekHole(ctx, id, st.Size, off)
	}
	return 0, fs.ErrInvalid
}

// SyncInode returns when all that was done to an inode before is durable: content, attributes, names in a directory.
func (f *FS) SyncInode(ctx context.Context, id InodeID) error {
	if f.live == nil {
		return nil
	}
	return f.live.SyncInode(ctx, id)
}

// Sync returns when all that was done before is durable.
func (f *FS) Sync(ctx context.Context) error {
	if f.live == nil {
		return nil
	}
	return f.live.Sync(ctx)
}

// MakeSubvolume makes an empty subvolume with a name in a directory, and returns its root.
func (f *FS) MakeSubvolume(ctx context.Context, dir InodeID, name string, n NewInode, readOnly bool) (InodeID, error) {
	if f.live == nil {
		return InodeID{}, ErrNotWritable
	}
	return f.live.CreateSubvolume(ctx, dir, name, n.internal(), readOnly)
}

// MakeSnapshot takes a snapshot of a subvolume, with a name in a directory, and returns its root. All that was written before is in it.
func (f *FS) MakeSnapshot(ctx context.Context, subvol uint32, dir InodeID, name string, readOnly bool) (InodeID, error) {
	if f.live == nil {
		return InodeID{}, ErrNotWritable
	}
	return f.live.Snapshot(ctx, subvol, dir, name, vfs.SnapshotOptions{ReadOnly: readOnly})
}

// SetSubvolumeReadOnly makes a subvolume read-only or writable.
func (f *FS) SetSubvolumeReadOnly(ctx context.Context, subvol uint32, readOnly bool) error {
	if f.live == nil {
		return ErrNotWritable
	}
	return f.live.SetReadOnly(ctx, subvol, readOnly)
}

// Settle does what is done in the background otherwise, for a filesystem that was opened with [OpenOptions].Ordered; with all, space is made free, too. Without calls
// of it the filesystem has no more space than what it had free at first, and takes ever more memory.
func (f *FS) Settle(ctx context.Context, all bool) error {
	if f.live == nil {
		return nil
	}
	return f.live.RW().Settle(ctx, all)
}

// WaitDeleted returns when what was removed and is not held any more has given its space back.
func (f *FS) WaitDeleted(ctx context.Context) error {
	if f.live != nil {
		f.live.WaitDeleted(ctx)
	}
	return ctx.Err()
}
