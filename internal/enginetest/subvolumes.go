package enginetest

import (
	"context"
	"errors"
	"math"
	"sync/atomic"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// In returns the file layer of another subvolume as it is now: when a snapshot is taken of it, a new one is needed. Numbers of inodes and contents are
// given out in common. No history is kept of what it does.
func (v *Volume) In(ctx context.Context, subvol uint32) (*Volume, error) {
	w := *v
	w.History = nil
	return &w, v.RW.Store.View(ctx, func(tx *trans.Tx) error { return w.enter(tx, subvol) })
}

// enter looks up which snapshot a subvolume has now.
func (v *Volume) enter(tx *trans.Tx, subvol uint32) error {
	k, ok, err := tx.Get(ondisk.BtreeSubvolumes, ondisk.Pos{Offset: uint64(subvol)}, 0)
	if err != nil || !ok {
		return errors.Join(err, ErrGone)
	}
	s, err := ondisk.DecodeSubvolume(k)
	v.snapshot = s.Snapshot
	return err
}

// From returns the same file layer with contents that are numbered from start on, independently of others.
func (v *Volume) From(start uint64) *Volume {
	w := *v
	w.contents = new(atomic.Uint64)
	w.contents.Store(start)
	return &w
}

// NextContent is the number of the content that the next block gets, if nobody else writes.
func (v *Volume) NextContent() uint64 { return v.contents.Load() }

// KeepNumbers goes on with the numbers of another, which was used before the filesystem was opened again.
func (v *Volume) KeepNumbers(of *Volume) { v.next, v.contents = of.next, of.contents }

// NewInum gives out an inode number.
func (v *Volume) NewInum() uint64 { return v.next.Add(1) }

// LinkSubvolume makes, within a transaction, the name of a subvolume in a directory of subvolume parent.
func (v *Volume) LinkSubvolume(tx *trans.Tx, parent uint32, dir uint64, name string, child uint32) (off uint64, err error) {
	w := *v
	if err := w.enter(tx, parent); err != nil {
		return 0, err
	}
	in, err := w.directory(tx, dir)
	if err != nil {
		return 0, err
	}
	in.Mtime = w.now()
	if err := w.putInode(tx, dir, &in); err != nil {
		return 0, err
	}
	return w.addDirent(tx, dir, &in, name, ondisk.Dirent{Type: ondisk.DTSubvol, ChildSubvol: child, ParentSubvol: parent})
}

// UnlinkSubvolume takes it away, in whatever snapshot it is.
func (v *Volume) UnlinkSubvolume(tx *trans.Tx, parent uint32, dir, off uint64) error {
	w := *v
	if err := w.enter(tx, parent); err != nil {
		return err
	}
	in, err := w.directory(tx, dir)
	if err != nil {
		return err
	}
	in.Mtime = w.now()
	if err := w.putInode(tx, dir, &in); err != nil {
		return err
	}
	k, ok, err := tx.Lookup(ondisk.BtreeDirents, w.pos(dir, off), trans.Intent)
	if err != nil || !ok {
		return errors.Join(err, ErrGone)
	}
	at := k.Pos
	// Nobody may look for another name through here; a whiteout where none is needed does no harm.
	next, ok, err := tx.Iter(ondisk.BtreeDirents, ondisk.Pos{Inode: dir, Offset: off + 1}, trans.AllSnapshots).
		PeekMax(ondisk.Pos{Inode: dir, Offset: off + 1, Snapshot: math.MaxUint32})
	if err != nil {
		return err
	}
	gone := ondisk.Key{Pos: at}
	if ok && next.Pos.Offset == off+1 {
		gone.Type = ondisk.KeyHashWhiteout
	}
	return tx.Update(ondisk.BtreeDirents, gone, 0)
}
