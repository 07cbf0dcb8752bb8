package bcachefs_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/go-bcachefs/bcachefs"
	"github.com/go-bcachefs/bcachefs/internal/fstest"
)

// library is a filesystem of the library as package fstest exercises it: by paths as far as there are such methods, else by inodes.
type library struct {
	fs *bcachefs.FS
	*bcachefs.View
}

var _ fstest.FS = library{}

// ctx is that of all calls.
var ctx = context.Background()

// numbered gives an error the number that package fstest looks for.
func numbered(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", fstest.Errno(bcachefs.ErrnoOf(err)), err)
}

// split resolves all but the last part of a path.
func (l library) split(p string) (dir bcachefs.InodeID, base string, err error) {
	dir, err = l.Resolve(ctx, path.Dir(p), true)
	return dir, path.Base(p), err
}

func (l library) Open(p string, flags fstest.OpenFlags, perm uint32) (fstest.File, error) {
	if flags&fstest.OpenDirect != 0 {
		return nil, fstest.EINVAL // that is the page cache's affair
	}
	n := os.O_RDWR
	if flags&fstest.OpenReadOnly != 0 {
		n = os.O_RDONLY
	}
	for _, f := range []struct {
		flag fstest.OpenFlags
		n    int
	}{{fstest.OpenCreate, os.O_CREATE}, {fstest.OpenExclusive, os.O_EXCL}, {fstest.OpenTruncate, os.O_TRUNC}, {fstest.OpenAppend, os.O_APPEND}, {fstest.OpenSync, os.O_SYNC}} {
		if flags&f.flag != 0 {
			n |= f.n
		}
	}
	f, err := l.View.OpenFile(p, n, goMode(perm))
	if err != nil {
		return nil, numbered(err)
	}
	return &libraryFile{l: l, id: f.ID(), f: f, flags: flags}, nil
}

// goMode returns permissions as package fs has them.
func goMode(perm uint32) fs.FileMode {
	m := fs.FileMode(perm & 0o777)
	for _, b := range []struct {
		bit uint32
		is  fs.FileMode
	}{{0o4000, fs.ModeSetuid}, {0o2000, fs.ModeSetgid}, {0o1000, fs.ModeSticky}} {
		if perm&b.bit != 0 {
			m |= b.is
		}
	}
	return m
}

func (l library) OpenUnlinked(dir string, perm uint32) (fstest.File, error) {
	id, err := l.Resolve(ctx, dir, true)
	if err != nil {
		return nil, numbered(err)
	}
	st, err := l.fs.MakeUnnamed(ctx, id, bcachefs.NewInode{RawMode: uint16(perm)}, 1)
	if err != nil {
		return nil, numbered(err)
	}
	return &libraryFile{l: l, id: st.ID, unnamed: true}, nil
}

func (l library) LinkFile(f fstest.File, p string) error {
	file := f.(*libraryFile)
	if st, err := file.Stat(); err == nil && st.Nlink == 0 && !(file.f == nil && file.unnamed) {
		if _, err := l.Lstat(p); err == nil {
			return fstest.EEXIST
		}
		return fstest.ENOENT // the kernel sees to it that what has lost its names gets none
	}
	dir, base, err := l.split(p)
	if err == nil {
		_, err = l.fs.MakeLink(ctx, file.id, dir, base, 0)
	}
	if err == nil {
		file.unnamed = false
	}
	return numbered(err)
}

func (l library) Mkdir(p string, perm uint32) error { return numbered(l.View.Mkdir(p, goMode(perm))) }

func (l library) remove(p string, what bcachefs.RemoveWhat) error {
	dir, base, err := l.split(p)
	if err == nil {
		_, err = l.fs.RemoveName(ctx, dir, base, what)
	}
	return numbered(err)
}

func (l library) Rmdir(p string) error           { return l.remove(p, bcachefs.RemoveDir) }
func (l library) Unlink(p string) error          { return l.remove(p, bcachefs.RemoveFile) }
func (l library) DeleteSubvolume(p string) error { return numbered(l.View.DeleteSubvolume(p)) }
func (l library) Link(old, new string) error     { return numbered(l.View.Link(old, new)) }
func (l library) Symlink(target, p string) error { return numbered(l.View.Symlink(target, p)) }

func (l library) Readlink(p string) (string, error) {
	s, err := l.View.ReadLink(p)
	return s, numbered(err)
}

func (l library) Mknod(p string, mode uint32, rdev uint64) error {
	dir, base, err := l.split(p)
	if err == nil {
		n := bcachefs.NewInode{RawMode: uint16(mode), RdevMajor: uint32(rdev >> 8), RdevMinor: uint32(rdev & 255)}
		_, err = l.fs.MakeInode(ctx, dir, base, n, 0)
	}
	return numbered(err)
}

func (l library) Rename(old, new string, flags fstest.RenameFlags) error {
	if flags == 0 {
		return numbered(l.View.Rename(old, new))
	}
	dir, base, err := l.split(old)
	if err != nil {
		return numbered(err)
	}
	toDir, toBase, err := l.split(new)
	if err == nil {
		_, err = l.fs.RenameName(ctx, dir, base, toDir, toBase, bcachefs.RenameFlags(flags), 0, 0)
	}
	return numbered(err)
}

func (l library) Lstat(p string) (fstest.Stat, error) {
	info, err := l.View.Lstat(p)
	if err != nil {
		return fstest.Stat{}, numbered(err)
	}
	return statOf(info.Sys().(*bcachefs.Stat)), nil
}

func statOf(st *bcachefs.Stat) fstest.Stat {
	return fstest.Stat{Dev: uint64(st.ID.Subvol), Ino: st.ID.Inum, Mode: uint32(st.RawMode), Nlink: st.Nlink, UID: st.UID, GID: st.GID,
		Rdev: uint64(st.RdevMajor)<<8 | uint64(st.RdevMinor), Size: st.Size, Blocks: int64(st.Sectors), Atime: st.Atime, Mtime: st.Mtime, Ctime: st.Ctime}
}

func (l library) ReadDir(p string) ([]fstest.DirEntry, error) {
	list, err := l.View.ReadDir(p)
	var all []fstest.DirEntry
	for _, e := range list {
		all = append(all, fstest.DirEntry{Name: e.Name(), Type: typeBits(e.Type())})
	}
	return all, numbered(err)
}

func typeBits(m fs.FileMode) uint32 {
	switch {
	case m.IsDir():
		return fstest.ModeDir
	case m&fs.ModeSymlink != 0:
		return fstest.ModeSymlink
	case m&fs.ModeNamedPipe != 0:
		return fstest.ModeFIFO
	case m&fs.ModeSocket != 0:
		return fstest.ModeSocket
	case m&fs.ModeCharDevice != 0:
		return fstest.ModeChar
	case m&fs.ModeDevice != 0:
		return fstest.ModeBlock
	}
	return fstest.ModeRegular
}

func (l library) Truncate(p string, size int64) error { return numbered(l.View.Truncate(p, size)) }
func (l library) Chmod(p string, perm uint32) error {
	return numbered(l.View.Chmod(p, goMode(perm)))
}

// Chown takes away set-id bits as the kernel does, which is the caller's part.
func (l library) Chown(p string, uid, gid uint32) error {
	id, err := l.Resolve(ctx, p, false)
	if err != nil {
		return numbered(err)
	}
	st, err := l.fs.Stat(ctx, id)
	if err != nil {
		return numbered(err)
	}
	a := bcachefs.Attrs{UID: &uid, GID: &gid}
	if !st.Mode.IsDir() {
		mode := st.RawMode &^ 0o4000
		if mode&0o010 != 0 {
			mode &^= 0o2000
		}
		a.RawMode = &mode
	}
	_, err = l.fs.SetAttr(ctx, id, a)
	return numbered(err)
}

func (l library) SetTimes(p string, atime, mtime time.Time) error {
	return numbered(l.View.Lchtimes(p, atime, mtime))
}

// SetXattr refuses attributes of users on what is neither file nor directory, as the kernel does.
func (l library) SetXattr(p, name string, value []byte, flags fstest.XattrFlags) error {
	if err := l.userXattr(p, name); err != nil {
		return err
	}
	return numbered(l.View.SetXattr(p, name, value, bcachefs.XattrFlags(flags)))
}

func (l library) userXattr(p, name string) error {
	st, err := l.Lstat(p)
	if err == nil && strings.HasPrefix(name, "user.") && st.Mode&fstest.ModeType != fstest.ModeRegular && st.Mode&fstest.ModeType != fstest.ModeDir {
		err = fstest.EPERM
	}
	return err
}

func (l library) RemoveXattr(p, name string) error {
	if err := l.userXattr(p, name); err != nil {
		return err
	}
	return numbered(l.View.RemoveXattr(p, name))
}

func (l library) GetXattr(p, name string) ([]byte, error) {
	id, err := l.Resolve(ctx, p, false)
	if err != nil {
		return nil, numbered(err)
	}
	v, err := l.fs.GetXattr(ctx, id, name)
	return v, numbered(err)
}

func (l library) ListXattr(p string) ([]string, error) {
	id, err := l.Resolve(ctx, p, false)
	if err != nil {
		return nil, numbered(err)
	}
	names, err := l.fs.ListXattr(ctx, id)
	// The options that an inode has are no attributes of its owner's.
	names = slices.DeleteFunc(names, func(s string) bool { return strings.HasPrefix(s, "bcachefs") })
	return names, numbered(err)
}

func (l library) Sync() error { return numbered(l.fs.Sync(ctx)) }

func (l library) SyncDir(p string) error {
	id, err := l.Resolve(ctx, p, true)
	if err == nil {
		err = l.fs.SyncInode(ctx, id)
	}
	return numbered(err)
}

func (l library) Statfs() (fstest.Statfs, error) {
	st, err := l.fs.StatFS(ctx)
	if err != nil {
		return fstest.Statfs{}, numbered(err)
	}
	return fstest.Statfs{Size: int64(st.Blocks) * st.BlockSize, Free: int64(st.Free) * st.BlockSize, Files: int64(st.Files)}, nil
}

func (l library) CreateSubvolume(p string) error {
	_, err := l.View.CreateSubvolume(p, 0o777)
	return numbered(err)
}

func (l library) Snapshot(p, from string, readOnly bool) error {
	_, err := l.View.Snapshot(from, p, readOnly)
	return numbered(err)
}

// libraryFile is an open file: a *bcachefs.File, or an inode that is held if it has no name.
type libraryFile struct {
	l     library
	id    bcachefs.InodeID
	f     *bcachefs.File // nil if it was opened without a name
	flags fstest.OpenFlags

	unnamed bool // it never had a name
}

func (f *libraryFile) ReadAt(p []byte, off int64) (int, error) {
	var n int
	var err error
	if f.f != nil {
		n, err = f.f.ReadAt(p, off)
	} else {
		n, err = f.l.fs.ReadInode(ctx, f.id, p, off)
	}
	if n == len(p) || bcachefs.ErrnoOf(err) == 0 || errors.Is(err, io.EOF) {
		return n, nil
	}
	return n, numbered(err)
}

func (f *libraryFile) WriteAt(p []byte, off int64) (int, error) {
	var n int
	var err error
	switch {
	case f.f == nil:
		n, err = f.l.fs.WriteInode(ctx, f.id, p, off, 0)
	case f.flags&fstest.OpenAppend != 0:
		n, err = f.f.Write(p)
	default:
		n, err = f.f.WriteAt(p, off)
	}
	return n, numbered(err)
}

// writable is what the kernel sees to.
func (f *libraryFile) writable(e fstest.Errno) error {
	if f.flags&fstest.OpenReadOnly != 0 {
		return e
	}
	return nil
}

func (f *libraryFile) Truncate(size int64) error {
	if err := f.writable(fstest.EINVAL); err != nil {
		return err
	}
	if f.f != nil {
		return numbered(f.f.Truncate(size))
	}
	_, err := f.l.fs.SetAttr(ctx, f.id, bcachefs.Attrs{Size: &size})
	return numbered(err)
}

func (f *libraryFile) Stat() (fstest.Stat, error) {
	st, err := f.l.fs.Stat(ctx, f.id)
	if err != nil {
		return fstest.Stat{}, numbered(err)
	}
	return statOf(st), nil
}

func (f *libraryFile) Sync() error     { return numbered(f.l.fs.SyncInode(ctx, f.id)) }
func (f *libraryFile) SyncData() error { return f.Sync() }

func (f *libraryFile) Allocate(mode fstest.AllocMode, off, n int64) error {
	m, ok := map[fstest.AllocMode]bcachefs.AllocateMode{fstest.AllocExtend: bcachefs.AllocateGrow, fstest.AllocKeepSize: bcachefs.AllocateKeepSize,
		fstest.AllocZero: bcachefs.AllocateZero, fstest.AllocZero | fstest.AllocKeepSize: bcachefs.AllocateZeroKeepSize, fstest.AllocPunch: bcachefs.AllocatePunch,
		fstest.AllocInsert: bcachefs.AllocateInsert, fstest.AllocCollapse: bcachefs.AllocateCollapse}[mode]
	if !ok {
		return fstest.EOPNOTSUPP
	}
	if err := f.writable(fstest.EBADF); err != nil {
		return err
	}
	return numbered(f.l.fs.Allocate(ctx, f.id, m, off, n, 0))
}

func (f *libraryFile) Clone(from fstest.File, fromOff, off, n int64) error {
	if err := f.writable(fstest.EBADF); err != nil {
		return err
	}
	for n > 0 {
		done, err := f.l.fs.CloneRange(ctx, from.(*libraryFile).id, fromOff, f.id, off, n)
		if err != nil || done == 0 {
			return numbered(errors.Join(err, fmt.Errorf("cloned %d of %d bytes", done, n)))
		}
		fromOff, off, n = fromOff+done, off+done, n-done
	}
	return nil
}

func (f *libraryFile) CopyRange(from fstest.File, fromOff, off, n int64) (int64, error) {
	if err := f.writable(fstest.EBADF); err != nil {
		return 0, err
	}
	done, err := f.l.fs.CopyRange(ctx, from.(*libraryFile).id, fromOff, f.id, off, n, 0)
	return done, numbered(err)
}

func (f *libraryFile) SeekData(off int64) (int64, error) {
	n, err := f.l.fs.SeekInode(ctx, f.id, off, bcachefs.SeekData)
	return n, numbered(err)
}

func (f *libraryFile) SeekHole(off int64) (int64, error) {
	n, err := f.l.fs.SeekInode(ctx, f.id, off, bcachefs.SeekHole)
	return n, numbered(err)
}

func (f *libraryFile) MapRead([]byte, int64) error  { return fstest.EOPNOTSUPP }
func (f *libraryFile) MapWrite([]byte, int64) error { return fstest.EOPNOTSUPP }

func (f *libraryFile) Close() error {
	if f.f != nil {
		return numbered(f.f.Close())
	}
	f.l.fs.Release(f.id, 1)
	return nil
}
