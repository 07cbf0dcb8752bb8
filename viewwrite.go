package bcachefs

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"
)

// Methods of a View that change what is in it are those of package os, with names as in io/fs. They need a filesystem that was opened with
// [OpenOptions].Write; what they create belongs to [OpenOptions].UID and GID. There are no checks of permissions: whoever may write to the devices may
// change everything. Changes are seen by all at once, and are durable after [FS.Sync], or [File.Sync] of the file or directory.

// change runs what changes something under a name.
func (v *View) change(op, name string, fn func(ctx context.Context) error) error {
	if v.fs.live == nil {
		return pathError(op, name, ErrNotWritable)
	}
	return pathError(op, name, fn(context.Background()))
}

// split resolves all of a name but its last part, which is not "." or "..".
func (v *View) split(ctx context.Context, name string) (dir InodeID, base string, err error) {
	if !fs.ValidPath(name) || name == "." {
		return dir, "", fs.ErrInvalid
	}
	d, base := path.Split(name)
	dir, err = v.Resolve(ctx, strings.TrimSuffix(d, "/"), true)
	return dir, base, err
}

// in runs what changes a name in a directory.
func (v *View) in(op, name string, fn func(ctx context.Context, dir InodeID, base string) error) error {
	return v.change(op, name, func(ctx context.Context) error {
		dir, base, err := v.split(ctx, name)
		if err != nil {
			return err
		}
		return fn(ctx, dir, base)
	})
}

// on runs what changes the inode that a name leads to.
func (v *View) on(op, name string, follow bool, fn func(ctx context.Context, id InodeID) error) error {
	return v.change(op, name, func(ctx context.Context) error {
		if !fs.ValidPath(name) {
			return fs.ErrInvalid
		}
		id, err := v.Resolve(ctx, name, follow)
		if err != nil {
			return err
		}
		return fn(ctx, id)
	})
}

// posixMode returns permissions, set-id bits and sticky bit as POSIX has them.
func posixMode(m fs.FileMode) uint16 {
	mode := uint16(m.Perm())
	for _, b := range []struct {
		is  fs.FileMode
		bit uint16
	}{{fs.ModeSetuid, 0o4000}, {fs.ModeSetgid, 0o2000}, {fs.ModeSticky, 0o1000}} {
		if m&b.is != 0 {
			mode |= b.bit
		}
	}
	return mode
}

// posixType returns the type of a file as POSIX has it, 0 if it has none.
func posixType(m fs.FileMode) uint16 {
	for dt, t := range typeModes {
		if t == m.Type() && (t != 0 || m.Type() == 0) && (t != 0 || dt == regular) {
			return uint16(dt) << 12
		}
	}
	return 0
}

const regular = 8 // DT_REG

func (v *View) newInode(typ uint16, perm fs.FileMode) NewInode {
	return NewInode{RawMode: typ | posixMode(perm), UID: v.fs.owner.uid, GID: v.fs.owner.gid}
}

// OpenFile opens a file with the flags of package os (O_RDONLY, O_WRONLY or O_RDWR, with O_APPEND, O_CREATE, O_EXCL, O_SYNC and O_TRUNC); if it has to be
// created, with permissions perm. Without flags that change anything it works in filesystems that were opened for reading, too.
func (v *View) OpenFile(name string, flag int, perm fs.FileMode) (*File, error) {
	ctx := context.Background()
	if v.fs.live == nil && flag&(os.O_WRONLY|os.O_RDWR|os.O_CREATE|os.O_TRUNC) != 0 {
		return nil, pathError("open", name, ErrNotWritable)
	}
	if !fs.ValidPath(name) {
		return nil, pathError("open", name, fs.ErrInvalid)
	}
	id, err := v.lookupOrCreate(ctx, name, flag, perm)
	if err != nil {
		return nil, pathError("open", name, err)
	}
	f, err := v.fs.openAny(ctx, id, path.Base(name))
	if v.fs.live != nil {
		v.fs.live.Release(id, 1)
	}
	if err != nil {
		return nil, pathError("open", name, err)
	}
	f.flag = flag
	writes := flag&(os.O_WRONLY|os.O_RDWR) != 0
	if f.stat.Mode.IsDir() && (writes || flag&os.O_CREATE != 0) {
		err = ErrIsDir
	} else if writes || flag&os.O_TRUNC != 0 {
		err = v.fs.MayWrite(ctx, id, flag&os.O_APPEND != 0 && flag&os.O_TRUNC == 0)
	}
	if err != nil {
		return nil, pathError("open", name, errors.Join(err, f.Close()))
	}
	if flag&os.O_TRUNC != 0 && f.stat.Size > 0 && f.stat.Mode.IsRegular() {
		err = f.truncate(0)
	}
	if err != nil {
		return nil, pathError("open", name, errors.Join(err, f.Close()))
	}
	return f, nil
}

// lookupOrCreate finds what is to be opened and holds it once.
func (v *View) lookupOrCreate(ctx context.Context, name string, flag int, perm fs.FileMode) (InodeID, error) {
	const maxLinks, maxRaces = 40, 100
	links := 0
	for range maxRaces {
		if flag&os.O_EXCL == 0 || flag&os.O_CREATE == 0 {
			id, err := v.Resolve(ctx, name, true)
			if err == nil {
				v.fs.Hold(id, 1)
				return id, nil
			}
			if flag&os.O_CREATE == 0 || !errors.Is(err, fs.ErrNotExist) {
				return id, err
			}
		}
		dir, base, err := v.split(ctx, name)
		if err != nil {
			return dir, err
		}
		st, err := v.fs.MakeInode(ctx, dir, base, v.newInode(0, perm), 1)
		if err == nil {
			return st.ID, nil
		}
		if !errors.Is(err, fs.ErrExist) && !errors.Is(err, ErrExist) || flag&os.O_EXCL != 0 {
			return InodeID{}, err
		}
		// A link that leads nowhere yet, or somebody was quicker.
		target, err := v.ReadLink(name)
		if err != nil {
			continue
		}
		if links++; links > maxLinks {
			return InodeID{}, ErrTooManyLinks
		}
		if strings.HasPrefix(target, "/") {
			name = path.Clean(target)[1:]
		} else {
			name = path.Join(path.Dir(name), target)
		}
		if !fs.ValidPath(name) {
			return InodeID{}, fs.ErrInvalid
		}
	}
	return InodeID{}, fs.ErrNotExist
}

// Create makes a file, or empties the one that is there, and opens it for reading and writing.
func (v *View) Create(name string) (*File, error) {
	return v.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o666)
}

// WriteFile makes a file hold data; if it is new it gets permissions perm.
func (v *View) WriteFile(name string, data []byte, perm fs.FileMode) error {
	f, err := v.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, perm)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

// Mkdir makes a directory.
func (v *View) Mkdir(name string, perm fs.FileMode) error {
	return v.in("mkdir", name, func(ctx context.Context, dir InodeID, base string) error {
		_, err := v.fs.MakeInode(ctx, dir, base, v.newInode(posixType(fs.ModeDir), perm), 0)
		return err
	})
}

// MkdirAll makes a directory with all that it is in, as far as these are not there.
func (v *View) MkdirAll(name string, perm fs.FileMode) error {
	if st, err := v.Stat(name); err == nil {
		if !st.IsDir() {
			return pathError("mkdir", name, ErrNotDir)
		}
		return nil
	}
	if parent := path.Dir(name); parent != "." && parent != name {
		if err := v.MkdirAll(parent, perm); err != nil {
			return err
		}
	}
	err := v.Mkdir(name, perm)
	if err != nil {
		if st, serr := v.Lstat(name); serr == nil && st.IsDir() {
			return nil // somebody else was quicker
		}
	}
	return err
}

// Mknod makes a file, pipe, socket or device: what mode's type says, a device with the given number.
func (v *View) Mknod(name string, mode fs.FileMode, major, minor uint32) error {
	return v.in("mknod", name, func(ctx context.Context, dir InodeID, base string) error {
		typ := posixType(mode)
		if typ == 0 || mode.IsDir() || mode&fs.ModeSymlink != 0 {
			return fs.ErrInvalid
		}
		n := v.newInode(typ, mode)
		n.RdevMajor, n.RdevMinor = major, minor
		_, err := v.fs.MakeInode(ctx, dir, base, n, 0)
		return err
	})
}

// Symlink makes name a symbolic link to target.
func (v *View) Symlink(target, name string) error {
	return v.in("symlink", name, func(ctx context.Context, dir InodeID, base string) error {
		_, err := v.fs.MakeSymlink(ctx, dir, base, target, v.newInode(0, 0), 0)
		return err
	})
}

// Link makes newName another name of what oldName names, which is no directory. A symbolic link is not followed.
func (v *View) Link(oldName, newName string) error {
	return v.in("link", newName, func(ctx context.Context, dir InodeID, base string) error {
		if !fs.ValidPath(oldName) {
			return fs.ErrInvalid
		}
		id, err := v.Resolve(ctx, oldName, false)
		if err != nil {
			return err
		}
		_, err = v.fs.MakeLink(ctx, id, dir, base, 0)
		return err
	})
}

// Remove removes a file or an empty directory.
func (v *View) Remove(name string) error {
	return v.in("remove", name, func(ctx context.Context, dir InodeID, base string) error {
		_, err := v.fs.RemoveName(ctx, dir, base, RemoveFile)
		if ErrnoOf(err) == EISDIR {
			_, err = v.fs.RemoveName(ctx, dir, base, RemoveDir)
		}
		return err
	})
}

// RemoveAll removes what has the name, with all that is in it, subvolumes too. If there is nothing of that name it does nothing.
func (v *View) RemoveAll(name string) error {
	err := v.in("remove", name, func(ctx context.Context, dir InodeID, base string) error {
		return v.fs.removeAll(ctx, dir, base)
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (f *FS) removeAll(ctx context.Context, dir InodeID, base string) error {
	for {
		_, err := f.RemoveName(ctx, dir, base, RemoveFile)
		if ErrnoOf(err) == EISDIR {
			_, err = f.RemoveName(ctx, dir, base, RemoveDir)
		}
		if ErrnoOf(err) != ENOTEMPTY {
			return err
		}
		st, err := f.LookupStat(ctx, dir, base, 0)
		if err != nil {
			return err
		}
		if st.SubvolRoot { // at once, unless others are in it; those that are read-only do not go otherwise
			if _, err := f.RemoveName(ctx, dir, base, RemoveSubvolume); ErrnoOf(err) != ENOTEMPTY {
				return err
			}
		}
		removed := 0
		for e, err := range f.ReadDir(ctx, st.ID, 0) {
			if err != nil {
				return err
			}
			if err := f.removeAll(ctx, st.ID, e.Name); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			removed++
		}
		if removed == 0 {
			return ErrNotEmpty // of what cannot be seen here
		}
	}
}

// Rename gives what has a name another one, in place of a file or empty directory that has that.
func (v *View) Rename(oldName, newName string) error {
	return v.in("rename", oldName, func(ctx context.Context, dir InodeID, base string) error {
		toDir, toBase, err := v.split(ctx, newName)
		if err != nil {
			return err
		}
		_, err = v.fs.RenameName(ctx, dir, base, toDir, toBase, 0, v.fs.owner.uid, v.fs.owner.gid)
		return err
	})
}

func (v *View) setAttr(op, name string, follow bool, a Attrs) error {
	return v.on(op, name, follow, func(ctx context.Context, id InodeID) error {
		_, err := v.fs.SetAttr(ctx, id, a)
		return err
	})
}

// Chmod changes permissions, set-id bits and sticky bit.
func (v *View) Chmod(name string, mode fs.FileMode) error {
	m := posixMode(mode)
	return v.setAttr("chmod", name, true, Attrs{RawMode: &m})
}

// owners are those of Chown; -1 leaves one as it is.
func owners(uid, gid int) (a Attrs) {
	if uid >= 0 {
		u := uint32(uid)
		a.UID = &u
	}
	if gid >= 0 {
		g := uint32(gid)
		a.GID = &g
	}
	return a
}

// Chown changes owner and group; -1 leaves one as it is.
func (v *View) Chown(name string, uid, gid int) error {
	return v.setAttr("chown", name, true, owners(uid, gid))
}

// Lchown is Chown for symbolic links themselves.
func (v *View) Lchown(name string, uid, gid int) error {
	return v.setAttr("lchown", name, false, owners(uid, gid))
}

// Chtimes changes the times of last access and modification; a zero time leaves one as it is.
func (v *View) Chtimes(name string, atime, mtime time.Time) error {
	return v.setAttr("chtimes", name, true, times(atime, mtime))
}

// Lchtimes is Chtimes for symbolic links themselves.
func (v *View) Lchtimes(name string, atime, mtime time.Time) error {
	return v.setAttr("chtimes", name, false, times(atime, mtime))
}

func times(atime, mtime time.Time) (a Attrs) {
	if !atime.IsZero() {
		a.Atime = &atime
	}
	if !mtime.IsZero() {
		a.Mtime = &mtime
	}
	return a
}

// Truncate makes a file end at size.
func (v *View) Truncate(name string, size int64) error {
	return v.on("truncate", name, true, func(ctx context.Context, id InodeID) error { return v.fs.truncate(ctx, id, size) })
}

// truncate makes a regular file end at size.
func (f *FS) truncate(ctx context.Context, id InodeID, size int64) error {
	st, err := f.Stat(ctx, id)
	switch {
	case err != nil:
		return err
	case st.Mode.IsDir():
		return ErrIsDir
	case !st.Mode.IsRegular() || size < 0:
		return fs.ErrInvalid
	}
	_, err = f.SetAttr(ctx, id, Attrs{Size: &size})
	return err
}

// SetXattr sets an extended attribute of a file, or of a symbolic link itself.
func (v *View) SetXattr(name, attr string, value []byte, flags XattrFlags) error {
	return v.on("setxattr", name, false, func(ctx context.Context, id InodeID) error { return v.fs.SetXattr(ctx, id, attr, value, flags) })
}

// RemoveXattr removes an extended attribute.
func (v *View) RemoveXattr(name, attr string) error {
	return v.on("removexattr", name, false, func(ctx context.Context, id InodeID) error { return v.fs.RemoveXattr(ctx, id, attr) })
}

// CreateSubvolume makes an empty subvolume, whose root directory has permissions perm.
func (v *View) CreateSubvolume(name string, perm fs.FileMode) (sub *View, err error) {
	err = v.in("subvolume create", name, func(ctx context.Context, dir InodeID, base string) error {
		root, err := v.fs.MakeSubvolume(ctx, dir, base, v.newInode(posixType(fs.ModeDir), perm), false)
		sub = &View{fs: v.fs, root: root}
		return err
	})
	if err != nil {
		return nil, err
	}
	return sub, nil
}

// Snapshot takes a snapshot of the subvolume that source is in ("." is the root of the view), under a new name.
func (v *View) Snapshot(source, name string, readOnly bool) (snap *View, err error) {
	err = v.in("subvolume snapshot", name, func(ctx context.Context, dir InodeID, base string) error {
		if !fs.ValidPath(source) {
			return fs.ErrInvalid
		}
		id, err := v.Resolve(ctx, source, true)
		if err != nil {
			return err
		}
		root, err := v.fs.MakeSnapshot(ctx, id.Subvol, dir, base, readOnly)
		snap = &View{fs: v.fs, root: root}
		return err
	})
	if err != nil {
		return nil, err
	}
	return snap, nil
}

// DeleteSubvolume deletes a subvolume or snapshot with all that is in it. One that has others in it is refused with [ErrNotEmpty]. Its space comes back
// in the background.
func (v *View) DeleteSubvolume(name string) error {
	return v.in("subvolume delete", name, func(ctx context.Context, dir InodeID, base string) error {
		_, err := v.fs.RemoveName(ctx, dir, base, RemoveSubvolume)
		return err
	})
}
