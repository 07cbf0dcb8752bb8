package vfs

import (
	"context"

	"github.com/go-bcachefs/bcachefs/internal/namei"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/snapshot"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// CreateSubvolume makes an empty subvolume with a name in a directory, and returns its root.
func (f *FS) CreateSubvolume(ctx context.Context, dir namei.ID, name string, n *namei.NewInode, readOnly bool) (namei.ID, error) {
	var c snapshot.Created
	err := f.grow(ctx, func(tx *trans.Tx) error {
		root, err := f.names.NewRoot(tx, dir, *n)
		if err != nil {
			return err
		}
		inum := root.ID.Inum
		if c, err = f.vols.Create(tx, dir.Subvol, inum, root.Inode, snapshot.Options{}, f.linkTo(dir, name)); err != nil {
			return err
		}
		if err := f.names.InheritACL(tx, namei.ID{Subvol: c.Subvol, Inum: c.Root}, dir); err != nil {
			return err
		}
		if readOnly {
			return f.vols.SetReadOnly(tx, c.Subvol, true)
		}
		return nil
	})
	if err == nil {
		f.snapshots.Store(c.Subvol, c.Snapshot)
	}
	return namei.ID{Subvol: c.Subvol, Inum: c.Root}, err
}

// linkTo makes the name of a new subvolume.
func (f *FS) linkTo(dir namei.ID, name string) snapshot.Link {
	return func(tx *trans.Tx, c snapshot.Created) (uint64, uint64, error) {
		slot, err := f.names.LinkSubvolume(tx, dir, []byte(name), c.Subvol)
		return dir.Inum, slot, err
	}
}

// SnapshotOptions say how a snapshot is taken.
type SnapshotOptions struct {
	ReadOnly bool
	// May is asked about the root directory of the source; nil: all may.
	May func(root *ondisk.Inode) error
}

// Snapshot takes a snapshot of a subvolume, with a name in a directory, and returns its root. All that was written before is in it.
func (f *FS) Snapshot(ctx context.Context, source uint32, dir namei.ID, name string, o SnapshotOptions) (namei.ID, error) {
	thaw := f.data.Freeze() // what takes several transactions belongs to one snapshot
	defer thaw()
	var c snapshot.Created
	err := f.grow(ctx, func(tx *trans.Tx) (err error) {
		if c, err = f.vols.Snapshot(tx, source, dir.Subvol, snapshot.Options{ReadOnly: o.ReadOnly, May: o.May}, f.linkTo(dir, name)); err != nil {
			return err
		}
		s, err := snapshot.Get(tx, source, 0)
		tx.OnCommit(func(uint64) {
			f.snapshots.Store(c.Subvol, c.Snapshot)
			f.snapshots.Store(source, s.Snapshot)
		})
		return err
	})
	return namei.ID{Subvol: c.Subvol, Inum: c.Root}, err
}

// SetReadOnly makes a subvolume read-only or writable.
func (f *FS) SetReadOnly(ctx context.Context, subvol uint32, ro bool) error {
	return f.update(ctx, func(tx *trans.Tx) error { return f.vols.SetReadOnly(tx, subvol, ro) })
}

// Volumes are the subvolumes and snapshots.
func (f *FS) Volumes() *snapshot.Volumes { return f.vols }

// WaitDeleted returns when everything was deleted that nobody holds, or ctx ends.
func (f *FS) WaitDeleted(ctx context.Context) { f.reap.drain(ctx) }
