package bcachefs

import (
	"cmp"
	"context"
	"errors"
	"io"
	"io/fs"
	"path"
	"slices"
	"time"
)

// View is one subvolume or snapshot, with the subvolumes in it, as a tree of files. It implements io/fs.FS and its
// optional interfaces; names are as there: slash-separated, relative, "." for the root. Symbolic links are followed
// within the view as if its root were the root of a mount.
type View struct {
	fs   *FS
	root InodeID
}

var (
	_ fs.FS         = (*View)(nil)
	_ fs.ReadDirFS  = (*View)(nil)
	_ fs.ReadFileFS = (*View)(nil)
	_ fs.StatFS     = (*View)(nil)
	_ fs.ReadLinkFS = (*View)(nil)
)

// FS returns the filesystem that v is a view of.
func (v *View) FS() *FS { return v.fs }

// RootInode returns the inode of the view's root directory.
func (v *View) RootInode() InodeID { return v.root }

// Resolve finds an inode by path; a leading slash is allowed, "." and ".." too. A symbolic link at the end is followed if follow is
// set, links on the way always are, up to 40 in all.
func (v *View) Resolve(ctx context.Context, path string, follow bool) (InodeID, error) {
	return v.fs.tree.Walk(ctx, v.root, path, follow)
}

// find resolves a name of io/fs.
func (v *View) find(op, name string, follow bool) (InodeID, error) {
	if !fs.ValidPath(name) {
		return InodeID{}, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	id, err := v.Resolve(context.Background(), name, follow)
	return id, pathError(op, name, err)
}

func pathError(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// Open opens a file or directory. The result is a [*File].
func (v *View) Open(name string) (fs.File, error) {
	f, err := v.open("open", name)
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (v *View) open(op, name string) (*File, error) {
	id, err := v.find(op, name, true)
	if err != nil {
		return nil, err
	}
	f, err := v.fs.openAny(context.Background(), id, path.Base(name))
	return f, pathError(op, name, err)
}

// ReadDir lists a directory in the order of names. What can be read of a damaged directory is returned with the error.
func (v *View) ReadDir(name string) ([]fs.DirEntry, error) {
	id, err := v.find("readdir", name, true)
	if err != nil {
		return nil, err
	}
	entries, err := v.fs.sortedEntries(context.Background(), id)
	return entries, pathError("readdir", name, err)
}

// ReadFile returns the content of a file.
func (v *View) ReadFile(name string) ([]byte, error) {
	f, err := v.open("read", name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if f.stat.Mode.IsDir() {
		return nil, pathError("read", name, ErrIsDir)
	}
	// The size is what the inode says, which need not be true: memory grows with what is really there.
	const first = 1 << 20
	b := make([]byte, 0, min(f.stat.Size, first))
	for {
		if len(b) == cap(b) {
			if int64(len(b)) >= f.stat.Size {
				return b, nil
			}
			b = slices.Grow(b, int(min(f.stat.Size-int64(len(b)), max(int64(len(b)), first))))
		}
		n, err := f.ReadAt(b[len(b):min(int64(cap(b)), f.stat.Size)], int64(len(b)))
		b = b[:len(b)+n]
		if err != nil && !errors.Is(err, io.EOF) {
			return b, pathError("read", name, err)
		}
		if n == 0 {
			return b, nil
		}
	}
}

// Stat describes a file, or what a symbolic link leads to. The Sys method of the result returns a [*Stat].
func (v *View) Stat(name string) (fs.FileInfo, error) { return v.statName("stat", name, true) }

// Lstat describes a file without following a symbolic link.
func (v *View) Lstat(name string) (fs.FileInfo, error) { return v.statName("lstat", name, false) }

func (v *View) statName(op, name string, follow bool) (fs.FileInfo, error) {
	id, err := v.find(op, name, follow)
	if err != nil {
		return nil, err
	}
	st, err := v.fs.Stat(context.Background(), id)
	if err != nil {
		return nil, pathError(op, name, err)
	}
	return fileInfo{path.Base(name), st}, nil
}

// ReadLink returns the target of a symbolic link.
func (v *View) ReadLink(name string) (string, error) {
	id, err := v.find("readlink", name, false)
	if err != nil {
		return "", err
	}
	target, err := v.fs.Readlink(context.Background(), id)
	return target, pathError("readlink", name, err)
}

// fileInfo is a Stat as io/fs has it.
type fileInfo struct {
	name string
	stat *Stat
}

func (i fileInfo) Name() string       { return i.name }
func (i fileInfo) Size() int64        { return i.stat.Size }
func (i fileInfo) Mode() fs.FileMode  { return i.stat.Mode }
func (i fileInfo) ModTime() time.Time { return i.stat.Mtime }
func (i fileInfo) IsDir() bool        { return i.stat.Mode.IsDir() }
func (i fileInfo) Sys() any           { return i.stat }
func (i fileInfo) String() string     { return fs.FormatFileInfo(i) }

// dirEntry is a DirEntry as io/fs has it.
type dirEntry struct {
	fs    *FS
	entry DirEntry
}

func (e dirEntry) Name() string      { return e.entry.Name }
func (e dirEntry) IsDir() bool       { return e.entry.Type.IsDir() }
func (e dirEntry) Type() fs.FileMode { return e.entry.Type }
func (e dirEntry) String() string    { return fs.FormatDirEntry(e) }

func (e dirEntry) Info() (fs.FileInfo, error) {
	st, err := e.fs.Stat(context.Background(), e.entry.ID)
	if err != nil {
		return nil, pathError("stat", e.entry.Name, err)
	}
	return fileInfo{e.entry.Name, st}, nil
}

// sortedEntries lists a directory in the order of names; what can be read is returned with the first error.
func (f *FS) sortedEntries(ctx context.Context, dir InodeID) ([]fs.DirEntry, error) {
	var list []fs.DirEntry
	var first error
	for e, err := range f.ReadDir(ctx, dir, 0) {
		if err != nil {
			first = cmp.Or(first, err)
			if ctx.Err() != nil {
				break
			}
			continue
		}
		list = append(list, dirEntry{f, e})
	}
	slices.SortFunc(list, func(a, b fs.DirEntry) int { return cmp.Compare(a.Name(), b.Name()) })
	return list, first
}
