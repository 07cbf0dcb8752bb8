package snapshot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// Entry says where the directory entry of a subvolume is.
type Entry struct {
	Subvol      uint32 // that holds it
	Dir, Offset uint64
}

// Unlink begins to delete a subvolume: it loses its name and is marked. That succeeds whatever is in it, but for other subvolumes:
// [ErrHasSubvolumes]. unlink removes the directory entry, at the snapshot id where it stands (no whiteout takes its place there, but for that of
// the hash table), and changes what belongs to it in the directory.
func (v *Volumes) Unlink(tx *trans.Tx, id uint32, unlink func(tx *trans.Tx, at Entry) error) error {
	s, err := live(tx, id)
	if err != nil {
		return err
	}
	if id == ondisk.RootSubvol {
		return fmt.Errorf("the first subvolume cannot be deleted: %w", syscall.EBUSY)
	}
	if has, err := hasChildren(tx, id); err != nil {
		return err
	} else if has {
		return fmt.Errorf("subvolume %d: %w", id, ErrHasSubvolumes)
	}
	root, err := rootOf(tx, &s)
	if err != nil {
		return err
	}
	if err := unlink(tx, Entry{s.FSPathParent, root.Dir, root.DirOffset}); err != nil {
		return err
	}
	root.Dir, root.DirOffset, root.Ctime = 0, 0, v.now()
	if err := putInode(tx, s.Inode, s.Snapshot, &root); err != nil {
		return err
	}
	was := s
	s.Flags |= ondisk.SubvolumeUnlinked
	s.FSPathParent = 0
	return put(tx, id, &was, &s)
}

// Delete deletes a subvolume that was unlinked and that nobody uses any more: there must be no open files of it, and none are opened. What it
// holds goes with [Volumes.DeleteDead].
func (v *Volumes) Delete(ctx context.Context, id uint32) error {
	if err := v.reparent(ctx, id); err != nil {
		return err
	}
	var node uint32
	last := false
	err := v.update(ctx, func(tx *trans.Tx) error {
		if _, err := lockShape(tx); err != nil {
			return err
		}
		s, err := Get(tx, id, trans.ForUpdate)
		if err != nil {
			return err
		}
		if s.Flags&ondisk.SubvolumeUnlinked == 0 {
			return fmt.Errorf("subvolume %d: %w", id, ErrInUse)
		}
		e := v.edit(tx)
		n, err := e.get(s.Snapshot)
		if err != nil {
			return err
		}
		if n.Subvol != id {
			return fmt.Errorf("subvolume %d: its snapshot %d is that of subvolume %d: %w", id, s.Snapshot, n.Subvol, syscall.EIO)
		}
		if last, err = newMaster(tx, n.Tree, id); err != nil || last {
			node = s.Snapshot
			return err
		}
		n.Flags = n.Flags&^ondisk.SnapshotSubvol | ondisk.SnapshotWillDelete
		n.Subvol = 0
		e.set(s.Snapshot, n)
		if err := e.apply(); err != nil {
			return err
		}
		if err := v.renameRoots(tx, id, &s); err != nil {
			return err
		}
		return put(tx, id, &s, nil)
	})
	if err == nil && last {
		v.mu.Lock()
		v.dying[node] = id
		v.mu.Unlock()
	}
	return err
}

// reparent has snapshots that were taken of a subvolume descend from the one that it was taken of itself.
func (v *Volumes) reparent(ctx context.Context, id uint32) error {
	var from uint32
	var those []uint32
	err := v.cfg.Store.View(ctx, func(tx *trans.Tx) error {
		those = those[:0]
		s, err := Get(tx, id, 0)
		if err != nil {
			return err
		}
		from = s.CreationParent
		return eachSubvolume(tx, func(s Subvolume) error {
			if s.CreationParent == id {
				those = append(those, s.ID)
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	for some := range slices.Chunk(those, 16) {
		err := v.update(ctx, func(tx *trans.Tx) error {
			for _, other := range some {
				k, ok, err := tx.Get(ondisk.BtreeSubvolumes, idPos(other), trans.ForUpdate)
				if err != nil {
					return err
				}
				if !ok {
					continue // deleted meanwhile
				}
				s, err := ondisk.DecodeSubvolume(k)
				if err != nil {
					return err
				}
				if s.CreationParent != id {
					continue
				}
				was := s
				s.CreationParent = from
				if err := put(tx, other, &was, &s); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// newMaster gives a tree another main subvolume if it is the one that goes: one that is no snapshot, else the oldest one, which
// then counts as no snapshot any more. If there is none that was not unlinked, one of those is. It reports whether there is none at all.
func newMaster(tx *trans.Tx, id, gone uint32) (last bool, err error) {
	k, ok, err := tx.Get(ondisk.BtreeSnapshotTrees, idPos(id), trans.ForUpdate)
	if err != nil || !ok {
		return false, err
	}
	tree, err := ondisk.DecodeSnapshotTree(k)
	if err != nil || tree.MasterSubvol != gone {
		return false, err
	}
	const worse = ondisk.SubvolumeUnlinked | ondisk.SubvolumeSnap // the greater flag counts more
	var best *Subvolume
	err = eachSubvolume(tx, func(s Subvolume) error {
		if s.ID == gone {
			return nil
		}
		k, ok, err := tx.Get(ondisk.BtreeSnapshots, idPos(s.Snapshot), 0)
		if err != nil || !ok {
			return err
		}
		n, err := ondisk.DecodeSnapshot(k)
		if err != nil || n.Tree != id {
			return err
		}
		if best == nil || best.Flags&worse > s.Flags&worse {
			best = &s
		}
		return nil
	})
	if err != nil || best == nil {
		return err == nil, err
	}
	s, err := Get(tx, best.ID, trans.ForUpdate) // as it is now
	if errors.Is(err, ErrNoSubvolume) {
		err = fmt.Errorf("the main subvolume to be was deleted: %w", trans.ErrRestart)
	}
	if err != nil {
		return false, err
	}
	was := s
	s.Flags &^= ondisk.SubvolumeSnap
	tree.MasterSubvol = best.ID
	if err := put(tx, best.ID, &was, &s); err != nil {
		return false, err
	}
	return false, putTree(tx, id, &tree)
}

// renameRoots gives the older versions of the root directory, which the snapshots keep that were taken of the subvolume, to another one that has
// them in its history: a root whose subvolume is missing is an error to the driver's check, and it forgets so when it deletes subvolumes.
func (v *Volumes) renameRoots(tx *trans.Tx, id uint32, s *ondisk.Subvolume) error {
	var others []Subvolume
	err := eachSubvolume(tx, func(o Subvolume) error {
		if o.ID != id && o.Inode == s.Inode {
			others = append(others, o)
		}
		return nil
	})
	if err != nil || len(others) == 0 {
		return err
	}
	it := tx.Iter(ondisk.BtreeInodes, ondisk.Pos{Offset: s.Inode, Snapshot: s.Snapshot}.Next(), trans.AllSnapshots|trans.Intent)
	last := ondisk.Pos{Offset: s.Inode, Snapshot: ^uint32(0)}
	for k, ok, err := it.PeekMax(last); ok || err != nil; k, ok, err = it.PeekMax(last) {
		if err != nil {
			return err
		}
		it.Advance()
		in, err := ondisk.DecodeInode(k)
		if err != nil || in.Subvol != id || !v.cfg.Table.IsAncestor(k.Pos.Snapshot, s.Snapshot) {
			continue // no inode; or not for us to judge
		}
		i := slices.IndexFunc(others, func(o Subvolume) bool { return v.cfg.Table.IsAncestor(k.Pos.Snapshot, o.Snapshot) })
		if i < 0 {
			continue // it goes too
		}
		root, err := rootOf(tx, &others[i].Subvolume)
		if err != nil {
			return err
		}
		in.Subvol, in.ParentSubvol, in.Dir, in.DirOffset = others[i].ID, root.ParentSubvol, root.Dir, root.DirOffset
		if err := putInode(tx, s.Inode, k.Pos.Snapshot, &in); err != nil {
			return err
		}
		if k.Pos.Snapshot == ^uint32(0) {
			return nil
		}
	}
	return nil
}

// Recover finishes the deletions that were begun when the filesystem was used last. It is for mounting, before anybody uses the filesystem.
func (v *Volumes) Recover(ctx context.Context) error {
	all, err := v.List(ctx)
	if err != nil {
		return err
	}
	for _, s := range all {
		if s.Flags&ondisk.SubvolumeUnlinked == 0 {
			continue
		}
		if err := v.Delete(ctx, s.ID); err != nil {
			return fmt.Errorf("subvolume %d, which was unlinked: %w", s.ID, err)
		}
	}
	_, err = v.DeleteDead(ctx)
	return err
}
