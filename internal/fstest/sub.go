package fstest

import (
	"path"
	"time"
)

// Sub is a directory of a filesystem as a filesystem of its own. Symbolic links must not lead out of it.
type Sub struct {
	Of  FS
	Dir string
}

var _ FS = Sub{}

func (s Sub) path(p string) string { return path.Join(s.Dir, p) }

// Open implements FS.
func (s Sub) Open(p string, flags OpenFlags, perm uint32) (File, error) {
	return s.Of.Open(s.path(p), flags, perm)
}

// OpenUnlinked implements FS.
func (s Sub) OpenUnlinked(dir string, perm uint32) (File, error) {
	return s.Of.OpenUnlinked(s.path(dir), perm)
}

// LinkFile implements FS.
func (s Sub) LinkFile(f File, p string) error { return s.Of.LinkFile(f, s.path(p)) }

// Mkdir implements FS.
func (s Sub) Mkdir(p string, perm uint32) error { return s.Of.Mkdir(s.path(p), perm) }

// Rmdir implements FS.
func (s Sub) Rmdir(p string) error { return s.Of.Rmdir(s.path(p)) }

// Unlink implements FS.
func (s Sub) Unlink(p string) error { return s.Of.Unlink(s.path(p)) }

// Link implements FS.
func (s Sub) Link(old, new string) error { return s.Of.Link(s.path(old), s.path(new)) }

// Symlink implements FS.
func (s Sub) Symlink(target, p string) error { return s.Of.Symlink(target, s.path(p)) }

// Readlink implements FS.
func (s Sub) Readlink(p string) (string, error) { return s.Of.Readlink(s.path(p)) }

// Mknod implements FS.
func (s Sub) Mknod(p string, mode uint32, rdev uint64) error {
	return s.Of.Mknod(s.path(p), mode, rdev)
}

// Rename implements FS.
func (s Sub) Rename(old, new string, flags RenameFlags) error {
	return s.Of.Rename(s.path(old), s.path(new), flags)
}

// Lstat implements FS.
func (s Sub) Lstat(p string) (Stat, error) { return s.Of.Lstat(s.path(p)) }

// ReadDir implements FS.
func (s Sub) ReadDir(p string) ([]DirEntry, error) { return s.Of.ReadDir(s.path(p)) }

// Truncate implements FS.
func (s Sub) Truncate(p string, size int64) error { return s.Of.Truncate(s.path(p), size) }

// Chmod implements FS.
func (s Sub) Chmod(p string, perm uint32) error { return s.Of.Chmod(s.path(p), perm) }

// Chown implements FS.
func (s Sub) Chown(p string, uid, gid uint32) error { return s.Of.Chown(s.path(p), uid, gid) }

// SetTimes implements FS.
func (s Sub) SetTimes(p string, atime, mtime time.Time) error {
	return s.Of.SetTimes(s.path(p), atime, mtime)
}

// SetXattr implements FS.
func (s Sub) SetXattr(p, name string, value []byte, flags XattrFlags) error {
	return s.Of.SetXattr(s.path(p), name, value, flags)
}

// GetXattr implements FS.
func (s Sub) GetXattr(p, name string) ([]byte, error) { return s.Of.GetXattr(s.path(p), name) }

// ListXattr implements FS.
func (s Sub) ListXattr(p string) ([]string, error) { return s.Of.ListXattr(s.path(p)) }

// RemoveXattr implements FS.
func (s Sub) RemoveXattr(p, name string) error { return s.Of.RemoveXattr(s.path(p), name) }

// Sync implements FS.
func (s Sub) Sync() error { return s.Of.Sync() }

// SyncDir implements FS.
func (s Sub) SyncDir(p string) error { return s.Of.SyncDir(s.path(p)) }

// Statfs implements FS.
func (s Sub) Statfs() (Statfs, error) { return s.Of.Statfs() }

// CreateSubvolume implements FS.
func (s Sub) CreateSubvolume(p string) error { return s.Of.CreateSubvolume(s.path(p)) }

// Snapshot implements FS.
func (s Sub) Snapshot(p, from string, readOnly bool) error {
	return s.Of.Snapshot(s.path(p), s.path(from), readOnly)
}

// DeleteSubvolume implements FS.
func (s Sub) DeleteSubvolume(p string) error { return s.Of.DeleteSubvolume(s.path(p)) }

// RemoveAll removes what is at a path with all that is in it, subvolumes among it. It is no error if there is nothing.
func RemoveAll(fs FS, p string) error {
	st, err := fs.Lstat(p)
	switch {
	case ErrnoOf(err) == ENOENT:
		return nil
	case err != nil:
		return err
	case st.Mode&ModeType != ModeDir:
		return fs.Unlink(p)
	}
	if fs.DeleteSubvolume(p) == nil { // nothing else removes what is in a read-only one
		return nil
	}
	list, err := fs.ReadDir(p)
	if err != nil {
		return err
	}
	for _, e := range list {
		if err := RemoveAll(fs, path.Join(p, e.Name)); err != nil {
			return err
		}
	}
	return fs.Rmdir(p)
}
