package vfs

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/go-bcachefs/bcachefs/internal/data"
	"github.com/go-bcachefs/bcachefs/internal/namei"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// Lookup finds a name in a directory. The inode is held as often as hold says.
func (f *FS) Lookup(ctx context.Context, dir namei.ID, name string, hold uint64) (a namei.Attr, err error) {
	err = f.view(ctx, func(tx *trans.Tx) (err error) {
		if a, err = f.names.Lookup(tx, dir, []byte(name)); err == nil {
			f.open.hold(dataID(a.ID), hold) // what has a name cannot lose it until this transaction ends
			f.met(a.ID)
		}
		return err
	})
	return plain(&a), err
}

// met remembers the snapshot of a subvolume.
func (f *FS) met(id namei.ID) {
	if old, ok := f.snapshots.Load(id.Subvol); !ok || old.(uint32) != id.Snapshot {
		f.snapshots.Store(id.Subvol, id.Snapshot)
	}
}

// held counts holds of what a transaction makes, when it commits.
func (f *FS) held(tx *trans.Tx, a *namei.Attr, hold uint64) {
	id := dataID(a.ID)
	if hold > 0 {
		tx.OnCommit(func(uint64) { f.open.hold(id, hold) })
	}
	f.met(a.ID)
}

// dropped has an inode deleted that a transaction has taken the last name from, when it commits and nobody holds the inode.
func (f *FS) dropped(tx *trans.Tx, a *namei.Attr, free *data.ID) {
	*free = data.ID{}
	if a.ID.Inum == 0 || a.Inode.Subvol != 0 || a.Inode.Flags&ondisk.InodeUnlinked == 0 {
		return
	}
	id := dataID(a.ID)
	tx.OnCommit(func(uint64) {
		if f.open.unlink(id, true) {
			*free = id
		}
	})
}

// Create makes an inode of any type but a symbolic link, and a name for it. It is held as often as hold says.
func (f *FS) Create(ctx context.Context, dir namei.ID, name string, n *namei.NewInode, hold uint64) (a namei.Attr, err error) {
	err = f.grow(ctx, func(tx *trans.Tx) (err error) {
		if a, err = f.names.Create(tx, dir, []byte(name), n); err == nil {
			f.held(tx, &a, hold)
		}
		return err
	})
	return plain(&a), err
}

// CreateUnnamed makes an inode without a name, as O_TMPFILE does, which is held as often as hold says, at least once.
func (f *FS) CreateUnnamed(ctx context.Context, dir namei.ID, n *namei.NewInode, hold uint64) (a namei.Attr, err error) {
	err = f.grow(ctx, func(tx *trans.Tx) (err error) {
		if a, err = f.names.CreateUnlinked(tx, dir, n); err == nil {
			f.held(tx, &a, hold)
			id := dataID(a.ID)
			tx.OnCommit(func(uint64) { f.open.unlink(id, true) })
		}
		return err
	})
	return plain(&a), err
}

// maxTarget bounds the target of a symbolic link, in bytes (PATH_MAX, with its NUL).
const maxTarget = 4095

// Symlink makes a symbolic link.
func (f *FS) Symlink(ctx context.Context, dir namei.ID, name, target string, n *namei.NewInode, hold uint64) (a namei.Attr, err error) {
	switch {
	case target == "":
		return a, fmt.Errorf("a link that leads nowhere: %w", syscall.ENOENT)
	case len(target) > maxTarget:
		return a, namei.ErrNameTooLong
	}
	n.Mode = ondisk.DTLnk<<12 | 0o777
	prepared, err := f.data.PrepareInline(ctx, len(target))
	if err != nil {
		return a, f.outward(err)
	}
	if !prepared {
		return f.longSymlink(ctx, dir, name, target, n, hold)
	}
	err = f.grow(ctx, func(tx *trans.Tx) (err error) {
		if a, err = f.names.Create(tx, dir, []byte(name), n); err != nil {
			return err
		}
		if err := f.data.PutInline(tx, dataID(a.ID), a.ID.Snapshot, &a.Inode, []byte(target)); err != nil {
			return err
		}
		f.held(tx, &a, hold)
		return f.names.Put(tx, &a)
	})
	return plain(&a), err
}

// longSymlink makes a link whose target does not lie in a key: it gets its name when it has it.
func (f *FS) longSymlink(ctx context.Context, dir namei.ID, name, target string, n *namei.NewInode, hold uint64) (namei.Attr, error) {
	a, err := f.CreateUnnamed(ctx, dir, n, hold+1)
	if err != nil {
		return a, err
	}
	defer f.Release(a.ID, 1)
	if _, _, err = f.data.WriteAt(ctx, dataID(a.ID), []byte(target), 0, nil); err == nil {
		var linked namei.Attr
		if linked, err = f.link(ctx, a.ID, dir, name, 0, true); err == nil {
			return linked, nil
		}
	}
	f.Release(a.ID, hold)
	return a, f.outward(err)
}

// Link gives an inode, held or with another name, a name in a directory. One from CreateUnnamed gets its first.
func (f *FS) Link(ctx context.Context, id, dir namei.ID, name string, hold uint64) (namei.Attr, error) {
	return f.link(ctx, id, dir, name, hold, f.open.unnamed(dataID(id)))
}

func (f *FS) link(ctx context.Context, id, dir namei.ID, name string, hold uint64, unlinked bool) (a namei.Attr, err error) {
	err = f.grow(ctx, func(tx *trans.Tx) (err error) {
		if a, err = f.names.Link(tx, id, dir, []byte(name), unlinked); err == nil {
			f.held(tx, &a, hold)
			if unlinked {
				tx.OnCommit(func(uint64) { f.open.unlink(dataID(id), false) })
			}
		}
		return err
	})
	return plain(&a), err
}

// Unlink removes a name. What it leads to is deleted when nobody holds it any more.
func (f *FS) Unlink(ctx context.Context, dir namei.ID, name string, what namei.What) (a namei.Attr, err error) {
	var free data.ID
	err = f.update(ctx, func(tx *trans.Tx) (err error) {
		if a, err = f.names.Unlink(tx, dir, []byte(name), what); err == nil {
			f.dropped(tx, &a, &free)
		}
		return err
	})
	if err == nil {
		f.reapLater(free)
		if s := a.Inode.Subvol; s != 0 && f.open.unlinkSubvol(s) {
			f.reap.subvol(s)
		}
	}
	return plain(&a), err
}

func (f *FS) reapLater(id data.ID) {
	if id.Inum != 0 {
		f.reap.inode(id)
	}
}

// Rename moves a name, see [namei.Writer.Rename]. What it replaces is deleted when nobody holds it any more.
func (f *FS) Rename(ctx context.Context, dir namei.ID, name string, toDir namei.ID, toName string, flags namei.RenameFlags, uid, gid uint32) (r namei.Renamed, err error) {
	var free data.ID
	err = f.update(ctx, func(tx *trans.Tx) (err error) {
		r, err = f.names.Rename(tx, dir, []byte(name), toDir, []byte(toName), flags, uid, gid)
		if err == nil {
			f.dropped(tx, &r.Other, &free)
		}
		return err
	})
	if err == nil {
		f.reapLater(free)
		if s := r.Other.Inode.Subvol; s != 0 && flags&namei.RenameExchange == 0 && f.open.unlinkSubvol(s) {
			f.reap.subvol(s)
		}
	}
	r.Moved, r.Other, r.Whiteout = plain(&r.Moved), plain(&r.Other), plain(&r.Whiteout)
	return r, err
}

// Inode returns an inode.
func (f *FS) Inode(ctx context.Context, id namei.ID) (a namei.Attr, err error) {
	if id.Subvol == 0 {
		in, err := f.tree.Inode(ctx, id)
		return namei.Attr{ID: id, Inode: in}, f.outward(err)
	}
	err = f.view(ctx, func(tx *trans.Tx) (err error) {
		a, err = f.names.Inode(tx, id, 0)
		return err
	})
	return plain(&a), err
}

// SetAttr sets mode, owner and times.
func (f *FS) SetAttr(ctx context.Context, id namei.ID, attrs *namei.Attrs) (a namei.Attr, err error) {
	if a, same := f.hasTimes(ctx, id, attrs); same {
		return a, nil
	}
	err = f.update(ctx, func(tx *trans.Tx) (err error) {
		a, err = f.names.SetAttr(tx, id, attrs)
		return err
	})
	return plain(&a), err
}

// hasTimes reports whether nothing is asked for but times that the inode has. The kernel does so after each change of a file's names, since it keeps the times
// of files itself when it caches what is written; its clock is ours.
func (f *FS) hasTimes(ctx context.Context, id namei.ID, attrs *namei.Attrs) (a namei.Attr, same bool) {
	const times = namei.SetMtime | namei.SetCtime
	if attrs.Set != times|namei.SetForced {
		return a, false
	}
	a, err := f.Inode(ctx, id)
	return a, err == nil && a.Inode.Mtime == f.names.DiskTime(attrs.Mtime) && a.Inode.Ctime == f.names.DiskTime(attrs.Ctime)
}

// SetFlags sets those flags that are in mask, and a project if p is not nil.
func (f *FS) SetFlags(ctx context.Context, id namei.ID, flags, mask ondisk.InodeFlags, p *namei.ProjectAttrs) (a namei.Attr, err error) {
	err = f.update(ctx, func(tx *trans.Tx) (err error) {
		if p == nil {
			a, err = f.names.SetFlags(tx, id, flags, mask)
		} else {
			a, err = f.names.SetFlagsAndProject(tx, id, flags, mask, *p)
		}
		return err
	})
	return plain(&a), err
}

// DropPrivileges takes from a file what it loses when somebody without privileges writes to it, see [namei.Writer.DropPrivileges].
func (f *FS) DropPrivileges(ctx context.Context, id namei.ID) (dropped bool, err error) {
	err = f.update(ctx, func(tx *trans.Tx) (err error) {
		_, dropped, err = f.names.DropPrivileges(tx, id)
		return err
	})
	return dropped, err
}

// SetXattr sets an extended attribute, see [namei.Writer.SetXattr].
func (f *FS) SetXattr(ctx context.Context, id namei.ID, name string, value []byte, flags namei.XattrFlags) (a namei.Attr, err error) {
	err = f.grow(ctx, func(tx *trans.Tx) (err error) {
		a, err = f.names.SetXattr(tx, id, name, value, flags)
		return err
	})
	return plain(&a), err
}

// RemoveXattr removes an extended attribute.
func (f *FS) RemoveXattr(ctx context.Context, id namei.ID, name string) (a namei.Attr, err error) {
	err = f.update(ctx, func(tx *trans.Tx) (err error) {
		a, err = f.names.RemoveXattr(tx, id, name)
		return err
	})
	return plain(&a), err
}

// Reinherit gives what a name leads to the options of the directory, see [namei.Writer.Reinherit].
func (f *FS) Reinherit(ctx context.Context, dir namei.ID, name string) (a namei.Attr, changed bool, err error) {
	err = f.update(ctx, func(tx *trans.Tx) (err error) {
		a, changed, err = f.names.Reinherit(tx, dir, []byte(name))
		return err
	})
	return plain(&a), changed, err
}

// errSnapshot is the answer to what needs a subvolume and got a snapshot without one.
var errSnapshot = errors.New("only subvolumes can be looked into while the filesystem is open for writing")
