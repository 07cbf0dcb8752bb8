package bcachefs

import (
	"context"
	"errors"
	"io/fs"
)

// View is one subvolume or snapshot, with the subvolumes in it, as a tree of files. It implements io/fs.FS and its
// optional interfaces; names are as there: slash-separated, relative, "." for the root. Symbolic links are followed
// within the view as if its root were the root of a mount.
type View struct{}

var (
	_ fs.FS         = (*View)(nil)
	_ fs.ReadDirFS  = (*View)(nil)
	_ fs.ReadFileFS = (*View)(nil)
	_ fs.StatFS     = (*View)(nil)
	_ fs.ReadLinkFS = (*View)(nil)
)

// Root returns the filesystem as a plain mount shows it: subvolume 1.
func (f *FS) Root() *View { return &View{} }

// Subvolume returns the subvolume with the given id ("12") or path ("home/snap", with or without a leading slash).
// An existing path wins over an id.
func (f *FS) Subvolume(nameOrID string) (*View, error) { return nil, errors.ErrUnsupported }

// SnapshotView returns the files as they are in a snapshot id, also of interior nodes of the tree of snapshots.
func (f *FS) SnapshotView(id uint32) (*View, error) { return nil, errors.ErrUnsupported }

// FS returns the filesystem that v is a view of.
func (v *View) FS() *FS { return nil }

// RootInode returns the inode of the view's root directory.
func (v *View) RootInode() InodeID { return InodeID{} }

// Resolve finds an inode by path; a leading slash is allowed, "." and ".." too. A symbolic link at the end is followed if follow is
// set, links on the way always are, up to 40 in all.
func (v *View) Resolve(ctx context.Context, path string, follow bool) (InodeID, error) {
	return InodeID{}, errors.ErrUnsupported
}

// Open opens a file or directory. The result is a [*File].
func (v *View) Open(name string) (fs.File, error) { return nil, errors.ErrUnsupported }

// ReadDir lists a directory in the order of names.
func (v *View) ReadDir(name string) ([]fs.DirEntry, error) { return nil, errors.ErrUnsupported }

// ReadFile returns the content of a file.
func (v *View) ReadFile(name string) ([]byte, error) { return nil, errors.ErrUnsupported }

// Stat describes a file, or what a symbolic link leads to. The Sys method of the result returns a [*Stat].
func (v *View) Stat(name string) (fs.FileInfo, error) { return nil, errors.ErrUnsupported }

// Lstat describes a file without following a symbolic link.
func (v *View) Lstat(name string) (fs.FileInfo, error) { return nil, errors.ErrUnsupported }

// ReadLink returns the target of a symbolic link.
func (v *View) ReadLink(name string) (string, error) { return "", errors.ErrUnsupported }
