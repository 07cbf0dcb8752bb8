package vfs

import (
	"context"
	"errors"
	"io"
	"iter"

	"github.com/go-bcachefs/bcachefs/internal/namei"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/snapshot"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// at completes an id with the snapshot that its subvolume has now. What is read in it afterwards is as it was at that moment, or later.
func (f *FS) at(ctx context.Context, id namei.ID) (namei.ID, error) {
	if id.Subvol == 0 {
		return id, nil
	}
	s, err := f.Subvolume(ctx, id.Subvol)
	id.Snapshot = s.Snapshot
	return id, err
}

// Subvolume returns a subvolume that was not deleted.
func (f *FS) Subvolume(ctx context.Context, id uint32) (s ondisk.Subvolume, err error) {
	err = f.view(ctx, func(tx *trans.Tx) (err error) {
		s, err = snapshot.Get(tx, id, 0)
		return err
	})
	if errors.Is(err, snapshot.ErrNoSubvolume) {
		err = errors.Join(namei.ErrNoSubvolume)
	}
	return s, err
}

// plainID is the form of an id that callers see.
func plainID(id namei.ID) namei.ID {
	if id.Subvol != 0 {
		id.Snapshot = 0
	}
	return id
}

// SubvolumeRoot returns the root directory of a subvolume.
func (f *FS) SubvolumeRoot(ctx context.Context, subvol uint32) (namei.ID, error) {
	s, err := f.Subvolume(ctx, subvol)
	return namei.ID{Subvol: subvol, Inum: s.Inode}, err
}

// Walk finds an inode by its path, see [namei.Tree.Walk].
func (f *FS) Walk(ctx context.Context, root namei.ID, path string, follow bool) (namei.ID, error) {
	root, err := f.at(ctx, root)
	if err != nil {
		return root, err
	}
	id, err := f.tree.Walk(ctx, root, path, follow)
	return plainID(id), f.outward(err)
}

// ReadDir goes over the names in a directory, see [namei.Tree.ReadDir].
func (f *FS) ReadDir(ctx context.Context, dir namei.ID, after uint64) iter.Seq2[namei.Entry, error] {
	return func(yield func(namei.Entry, error) bool) {
		dir, err := f.at(ctx, dir)
		if err != nil {
			yield(namei.Entry{}, err)
			return
		}
		for e, err := range f.tree.ReadDir(ctx, dir, after) {
			e.ID = plainID(e.ID)
			if !yield(e, f.outward(err)) {
				return
			}
		}
	}
}

// Parent returns the directory that a directory is in.
func (f *FS) Parent(ctx context.Context, dir namei.ID) (namei.ID, error) {
	dir, err := f.at(ctx, dir)
	if err != nil {
		return dir, err
	}
	id, err := f.tree.Parent(ctx, dir)
	return plainID(id), f.outward(err)
}

// Path returns where an inode is, see [namei.Tree.Path].
func (f *FS) Path(ctx context.Context, id namei.ID) (string, error) {
	id, err := f.at(ctx, id)
	if err != nil {
		return "", err
	}
	path, err := f.tree.Path(ctx, id)
	return path, f.outward(err)
}

// Readlink returns the target of a symbolic link.
func (f *FS) Readlink(ctx context.Context, id namei.ID) (string, error) {
	id, err := f.at(ctx, id)
	if err != nil {
		return "", err
	}
	target, err := f.tree.Readlink(ctx, id)
	return target, f.outward(err)
}

// ListXattr returns the names of the extended attributes of an inode.
func (f *FS) ListXattr(ctx context.Context, id namei.ID) ([]string, error) {
	id, err := f.at(ctx, id)
	if err != nil {
		return nil, err
	}
	names, err := f.tree.ListXattr(ctx, id)
	return names, f.outward(err)
}

// GetXattr returns the value of an extended attribute.
func (f *FS) GetXattr(ctx context.Context, id namei.ID, name string) ([]byte, error) {
	id, err := f.at(ctx, id)
	if err != nil {
		return nil, err
	}
	value, err := f.tree.GetXattr(ctx, id, name)
	return value, f.outward(err)
}

// Casefolded reports whether names in the directory are found in any case.
func (f *FS) Casefolded(in *ondisk.Inode) bool { return f.tree.Casefolded(in) }

// OptionText returns the value of an option of an inode.
func (f *FS) OptionText(in *ondisk.Inode, o ondisk.InodeOption) string {
	return f.tree.OptionText(in, o)
}

// readStart reads the start of an inode's data.
func (f *FS) readStart(ctx context.Context, id namei.ID, p []byte) (int, error) {
	n, err := f.ReadAt(ctx, id, p, 0)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}
