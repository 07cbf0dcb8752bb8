package namei

import (
	"context"
	"fmt"
	"math"

	"github.com/go-bcachefs/bcachefs/internal/journal"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

const (
	deleteWatermark = journal.WatermarkBtree
	// maxPerDelete bounds the keys that one transaction deletes.
	maxPerDelete = 32
)

// Delete deletes an inode that has no name any more and that nobody has open, with all it holds, in as many transactions as it takes (spec/05 § 1.13).
// A crash on the way is finished when the filesystem is opened next. Versions of the inode in older snapshots that nothing is left of but them
// go too. It does nothing if the inode is not there.
func (w *Writer) Delete(ctx context.Context, id ID) error {
	for more := true; more; {
		err := w.update(ctx, func(tx *trans.Tx) (err error) {
			if id, _, err = w.snapshotOf(tx, id); err != nil {
				return err
			}
			more, err = w.DeleteSome(tx, id.Inum, id.Snapshot)
			return err
		})
		if err != nil {
			return err
		}
	}
	return w.deleteAbove(ctx, id.Inum, id.Snapshot)
}

// DeleteVersion is Delete for the version of an inode in a snapshot, as [Writer.Unlinked] names them.
func (w *Writer) DeleteVersion(ctx context.Context, inum uint64, snapshot uint32) error {
	for more := true; more; {
		err := w.update(ctx, func(tx *trans.Tx) (err error) {
			more, err = w.DeleteSome(tx, inum, snapshot)
			return err
		})
		if err != nil {
			return err
		}
	}
	return w.deleteAbove(ctx, inum, snapshot)
}

// deleteAbove deletes versions in the snapshots above one whose own was deleted, as far as they were unlinked and are the last below.
func (w *Writer) deleteAbove(ctx context.Context, inum uint64, snapshot uint32) error {
	for {
		found := false
		err := w.cfg.Store.View(ctx, func(tx *trans.Tx) (err error) {
			found = false
			k, ok, err := w.versionAbove(tx, inum, snapshot)
			if err != nil || !ok {
				return err
			}
			in, err := ondisk.DecodeInode(k)
			if err == nil && in.Flags&(ondisk.InodeUnlinked|ondisk.InodeHasChildSnapshot) == ondisk.InodeUnlinked {
				found, snapshot = true, k.Pos.Snapshot
			}
			return err
		})
		if err != nil || !found || w.cfg.InUse != nil && w.cfg.InUse(inum, snapshot) {
			return err
		}
		for more := true; more; {
			err := w.update(ctx, func(tx *trans.Tx) (err error) {
				more, err = w.DeleteSome(tx, inum, snapshot)
				return err
			})
			if err != nil {
				return err
			}
		}
	}
}

// versionAbove returns the version of an inode in the nearest snapshot above one.
func (w *Writer) versionAbove(tx *trans.Tx, inum uint64, snapshot uint32) (ondisk.Key, bool, error) {
	for {
		k, ok, err := tx.Get(ondisk.BtreeSnapshots, ondisk.Pos{Offset: uint64(snapshot)}, 0)
		if err != nil || !ok {
			return k, false, err
		}
		s, err := ondisk.DecodeSnapshot(k)
		if err != nil || s.Parent == 0 {
			return k, false, err
		}
		if s.Parent <= snapshot {
			return k, false, fmt.Errorf("snapshot %d has the parent %d: %w", snapshot, s.Parent, ErrInconsistent)
		}
		snapshot = s.Parent
		if k, ok, err = tx.Get(ondisk.BtreeInodes, ondisk.Pos{Offset: inum, Snapshot: snapshot}, 0); err != nil {
			return k, false, err
		}
		if ok && isInode(k.Type) {
			return k, true, nil
		}
	}
}

// DeleteSome deletes some of what the version of an inode in a snapshot holds, and at the end the inode. It refuses one that has a name, or a directory
// with names in it. If there is no inode it does nothing.
func (w *Writer) DeleteSome(tx *trans.Tx, inum uint64, snapshot uint32) (more bool, err error) {
	id := ID{Snapshot: snapshot, Inum: inum}
	h, err := w.hold(tx, id)
	switch {
	case isMissing(err):
		return false, nil
	case err != nil:
		return false, err
	case h.Inode.Flags&ondisk.InodeUnlinked == 0:
		return false, fmt.Errorf("inode %d has a name and cannot be deleted: %w", inum, ErrInconsistent)
	}
	if h.Inode.IsDir() {
		// Entries of subvolumes are visible in theirs only.
		if err := w.checkEmpty(tx, id); err != nil {
			return false, err
		}
	}
	left := maxPerDelete
	for _, btree := range []ondisk.BtreeID{ondisk.BtreeExtents, ondisk.BtreeXattrs, ondisk.BtreeDirents} {
		if more, err = deleteKeys(tx, btree, h, &left); err != nil {
			return false, err
		}
		if more {
			return true, w.save(tx, h)
		}
	}
	if w.cfg.Quota != nil {
		if err := w.cfg.Quota(tx, id, &h.was, nil); err != nil {
			return false, err
		}
	}
	w.deleted(tx, inum)
	gen := ondisk.InodeGeneration{Generation: h.Inode.Generation + 1}
	return false, tx.Update(ondisk.BtreeInodes, ondisk.Key{Type: ondisk.KeyInodeGeneration, Pos: inodePos(id), Val: gen.Encode()}, 0)
}

// deleteKeys deletes keys of an inode, as many as left says; more tells that there are others. Sectors are taken from the inode.
func deleteKeys(tx *trans.Tx, btree ondisk.BtreeID, h *held, left *int) (more bool, err error) {
	it := tx.Iter(btree, ondisk.Pos{Inode: h.ID.Inum, Snapshot: h.ID.Snapshot}, trans.Intent)
	for {
		k, ok, err := it.PeekMax(ondisk.Pos{Inode: h.ID.Inum, Offset: math.MaxUint64, Snapshot: h.ID.Snapshot})
		if err != nil || !ok {
			return false, err
		}
		if *left--; *left < 0 {
			return true, nil
		}
		it.Advance()
		pos := k.Pos.WithSnapshot(h.ID.Snapshot)
		if btree != ondisk.BtreeExtents {
			err = tx.Delete(btree, pos, 0)
		} else {
			if countsSectors(k.Type) {
				h.Inode.Sectors -= min(uint64(k.Size), h.Inode.Sectors)
			}
			err = tx.Update(btree, ondisk.Key{Pos: pos, Size: k.Size}, 0)
		}
		if err != nil {
			return false, err
		}
	}
}

// countsSectors reports whether extents of a type are allocated (spec/05 § 1.9).
func countsSectors(t ondisk.KeyType) bool {
	switch t {
	case ondisk.KeyExtent, ondisk.KeyReservation, ondisk.KeyReflinkP, ondisk.KeyInlineData, ondisk.KeyError:
		return true
	}
	return false
}

// Version names a version of an inode.
type Version struct {
	Inum     uint64
	Snapshot uint32
}

// Unlinked lists the versions of inodes that wait to be deleted: those that somebody has open, and those whose deletion a crash kept from being finished.
func (w *Writer) Unlinked(ctx context.Context) (all []Version, err error) {
	if err := w.cfg.Store.FlushWriteBuffer(ctx); err != nil {
		return nil, err
	}
	err = w.cfg.Store.View(ctx, func(tx *trans.Tx) error {
		all = all[:0]
		return tx.Scan(ondisk.BtreeDeletedInodes, ondisk.PosMin, ondisk.SPosMax, 0, func(k ondisk.Key, _ ondisk.Pos) (bool, error) {
			all = append(all, Version{k.Pos.Offset, k.Pos.Snapshot})
			return true, nil
		})
	})
	return all, err
}
