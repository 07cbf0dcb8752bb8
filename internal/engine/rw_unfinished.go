package engine

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/go-bcachefs/bcachefs/internal/data"
	"github.com/go-bcachefs/bcachefs/internal/journal"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// What takes more than one transaction is noted in a btree before it begins, so that it can be finished after a crash: files that have
// no name any more (deleted_inodes), and operations that take long (logged_ops). The driver does so whenever it mounts, and
// refuses filesystems that say that they are clean and have such notes all the same (spec/03, delete_dead_inodes).

// maxPerTransaction bounds the keys that one transaction of these deletes.
const maxPerTransaction = 32

// finish does what was begun before a crash.
func (rw *RW) finish(ctx context.Context) error {
	if _, err := rw.eachNote(ctx, ondisk.BtreeLoggedOps, rw.resume); err != nil {
		return fmt.Errorf("operations that were not finished: %w", err)
	}
	for { // a version of an inode that is gone may have been what kept that of an older snapshot
		if err := rw.Store.FlushWriteBuffer(ctx); err != nil {
			return err
		}
		if n, err := rw.eachNote(ctx, ondisk.BtreeDeletedInodes, rw.deleteDead); err != nil {
			return fmt.Errorf("files that were deleted: %w", err)
		} else if n == 0 {
			return nil
		}
	}
}

// eachNote calls fn for all keys of a btree, which may change it, and returns how many there were.
func (rw *RW) eachNote(ctx context.Context, btree ondisk.BtreeID, fn func(ctx context.Context, k ondisk.Key) error) (n int, err error) {
	const batch = 1024
	for from := ondisk.PosMin; ; {
		var keys []ondisk.Key
		err := rw.Store.View(ctx, func(tx *trans.Tx) error {
			keys = keys[:0]
			return tx.Scan(btree, from, ondisk.SPosMax, 0, func(k ondisk.Key, _ ondisk.Pos) (bool, error) {
				keys = append(keys, k.Clone())
				return len(keys) < batch, nil
			})
		})
		if err != nil {
			return n, err
		}
		for _, k := range keys {
			if err := fn(ctx, k); err != nil {
				return n, fmt.Errorf("%v: %w", k.Pos, err)
			}
			n++
		}
		if len(keys) < batch {
			return n, nil
		}
		from = keys[len(keys)-1].Pos.Next()
	}
}

// update runs a transaction that is to succeed although there is little space, as it makes some.
func (rw *RW) update(ctx context.Context, fn func(tx *trans.Tx) error) error {
	return rw.Store.UpdateAt(ctx, journal.WatermarkBtree, fn)
}

// deleteDead deletes an inode that has no name any more, with what it holds. Notes that are wrong are deleted only.
func (rw *RW) deleteDead(ctx context.Context, note ondisk.Key) error {
	pos := ondisk.Pos{Offset: note.Pos.Offset, Snapshot: note.Pos.Snapshot}
	for more := true; more; {
		err := rw.update(ctx, func(tx *trans.Tx) (err error) {
			more = false
			in, ok, err := unlinkedInode(tx, pos)
			switch {
			case err != nil:
				return err
			case ok && in.IsDir():
				if _, holds, err := tx.Iter(ondisk.BtreeDirents, ondisk.Pos{Inode: pos.Offset, Snapshot: pos.Snapshot}, 0).
					PeekMax(ondisk.Pos{Inode: pos.Offset, Offset: math.MaxUint64, Snapshot: pos.Snapshot}); err != nil || holds {
					ok = false
				}
			}
			if !ok {
				tx.UpdateBuffered(ondisk.BtreeDeletedInodes, ondisk.Key{Pos: note.Pos})
				return nil
			}
			left := maxPerTransaction
			for _, btree := range []ondisk.BtreeID{ondisk.BtreeExtents, ondisk.BtreeXattrs, ondisk.BtreeDirents} {
				if more, err = deleteRange(tx, btree, pos.Offset, pos.Snapshot, 0, &left); more || err != nil {
					return err
				}
			}
			gen := ondisk.InodeGeneration{Generation: in.Generation + 1}
			return tx.Update(ondisk.BtreeInodes, ondisk.Key{Type: ondisk.KeyInodeGeneration, Pos: pos, Val: gen.Encode()}, 0)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// unlinkedInode returns the version of an inode at exactly pos if it is to be deleted.
func unlinkedInode(tx *trans.Tx, pos ondisk.Pos) (in ondisk.Inode, ok bool, err error) {
	k, ok, err := tx.Get(ondisk.BtreeInodes, pos, trans.ForUpdate)
	if err != nil || !ok || k.Type != ondisk.KeyInode && k.Type != ondisk.KeyInodeV2 && k.Type != ondisk.KeyInodeV3 {
		return in, false, err
	}
	if in, err = ondisk.DecodeInode(k); err != nil {
		return in, false, err
	}
	return in, in.Flags&ondisk.InodeUnlinked != 0 && in.Flags&ondisk.InodeHasChildSnapshot == 0, nil
}

// deleteRange deletes the keys of an inode that a snapshot sees from an offset on, as many as left says; more tells that there are others.
func deleteRange(tx *trans.Tx, btree ondisk.BtreeID, inum uint64, snapshot uint32, from uint64, left *int) (more bool, err error) {
	it := tx.Iter(btree, ondisk.Pos{Inode: inum, Offset: from, Snapshot: snapshot}, trans.Intent)
	for {
		k, ok, err := it.PeekMax(ondisk.Pos{Inode: inum, Offset: math.MaxUint64, Snapshot: snapshot})
		if err != nil || !ok {
			return false, err
		}
		if *left--; *left < 0 {
			return true, nil
		}
		it.Advance()
		p := k.Pos
		p.Snapshot = snapshot
		if btree.Has(ondisk.BtreeIsExtents) {
			err = tx.Update(btree, ondisk.Key{Pos: p, Size: uint32(p.Offset - max(k.Start().Offset, from))}, 0)
		} else {
			err = tx.Delete(btree, p, 0)
		}
		if err != nil {
			return false, err
		}
	}
}

// errUnfinished says that the filesystem holds an operation that is begun and that only the driver can finish.
var errUnfinished = errors.New("an operation was begun by another program that cannot be finished here: let the driver mount the filesystem once")

// resume finishes an operation.
func (rw *RW) resume(ctx context.Context, k ondisk.Key) error {
	if k.Pos.Inode != ondisk.LoggedOpsInode {
		return nil
	}
	if k.Type == ondisk.KeyLoggedOpFinsert {
		return data.NewWriter(rw.DataConfig()).ResumeShift(ctx, k)
	}
	op, err := ondisk.DecodeLoggedOpTruncate(k)
	if err != nil {
		return errors.Join(errUnfinished, err)
	}
	sub, err := rw.subvolume(ctx, op.Subvol)
	if errors.Is(err, ErrNoSubvolume) { // nobody sees the file any more
		return rw.update(ctx, func(tx *trans.Tx) error { return tx.Update(ondisk.BtreeLoggedOps, ondisk.Key{Pos: k.Pos}, 0) })
	}
	if err != nil {
		return err
	}
	block := uint64(rw.SB.BlockBytes())
	from := (op.NewSize + block - 1) / block * block / ondisk.SectorSize
	pos := ondisk.Pos{Offset: op.Inum, Snapshot: sub.Snapshot}
	for more := true; more; {
		err := rw.update(ctx, func(tx *trans.Tx) (err error) {
			more = false
			left := maxPerTransaction
			ino, ok, err := tx.Lookup(ondisk.BtreeInodes, pos, trans.Intent)
			if err != nil {
				return err
			}
			if ok {
				in, err := ondisk.DecodeInode(ino)
				if err != nil {
					return err
				}
				before, err := sectorsFrom(tx, pos, from, left)
				if err != nil {
					return err
				}
				in.Size, in.Sectors = op.NewSize, in.Sectors-min(before, in.Sectors)
				if more, err = deleteRange(tx, ondisk.BtreeExtents, op.Inum, pos.Snapshot, from, &left); err != nil {
					return err
				}
				k := ondisk.Key{Type: ondisk.KeyInodeV3, Pos: pos, Val: ondisk.EncodeInodeV3(&in)}
				if err := tx.Update(ondisk.BtreeInodes, k, 0); err != nil {
					return err
				}
			}
			if more {
				return nil
			}
			return tx.Update(ondisk.BtreeLoggedOps, ondisk.Key{Pos: k.Pos}, 0)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// sectorsFrom counts the sectors that the next n extents of an inode take from an offset on.
func sectorsFrom(tx *trans.Tx, inode ondisk.Pos, from uint64, n int) (sectors uint64, err error) {
	it := tx.Iter(ondisk.BtreeExtents, ondisk.Pos{Inode: inode.Offset, Offset: from, Snapshot: inode.Snapshot}, trans.Intent)
	for ; n > 0; n-- {
		k, ok, err := it.PeekMax(ondisk.Pos{Inode: inode.Offset, Offset: math.MaxUint64, Snapshot: inode.Snapshot})
		if err != nil || !ok {
			return sectors, err
		}
		switch k.Type {
		case ondisk.KeyExtent, ondisk.KeyReservation, ondisk.KeyReflinkP, ondisk.KeyInlineData, ondisk.KeyError: // spec/05 § 1.9
			sectors += k.Pos.Offset - max(k.Start().Offset, from)
		}
		it.Advance()
	}
	return sectors, nil
}

// subvolume returns a subvolume as it is now.
func (rw *RW) subvolume(ctx context.Context, id uint32) (sub ondisk.Subvolume, err error) {
	err = rw.Store.View(ctx, func(tx *trans.Tx) error {
		k, ok, err := tx.Get(ondisk.BtreeSubvolumes, ondisk.Pos{Offset: uint64(id)}, 0)
		if err == nil && !ok {
			err = fmt.Errorf("subvolume %d: %w", id, ErrNoSubvolume)
		}
		if err != nil {
			return err
		}
		sub, err = ondisk.DecodeSubvolume(k)
		return err
	})
	return sub, err
}
