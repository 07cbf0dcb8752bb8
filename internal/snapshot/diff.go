package snapshot

import (
	"context"
	"fmt"
	"iter"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// Difference is a position at which two snapshots do not see the same key.
type Difference struct {
	Btree ondisk.BtreeID
	Pos   ondisk.Pos // its snapshot is 0; of extents the end
	// A and B are what each of the two sees there, of type deleted if that is nothing. If both see something it need not be different: only that
	// it was written since they have been one.
	A, B ondisk.Key
}

// DiffBtrees are the btrees whose differences tell what differs between files: in this order inodes come before what they hold.
var DiffBtrees = [...]ondisk.BtreeID{ondisk.BtreeInodes, ondisk.BtreeDirents, ondisk.BtreeXattrs, ondisk.BtreeExtents}

// Diff yields in order of position where snapshots a and b, of one tree, see different keys of a btree. In the btree of inodes the inode number is
// the offset, in the others it is the inode of a position. An error is the last thing it yields.
//
// It reads every key of the range that either could see, and keeps no locks while others work with what it yields: differences are exact if
// both snapshots are read-only, otherwise each position is as it was at some moment.
func (v *Volumes) Diff(ctx context.Context, btree ondisk.BtreeID, a, b uint32, from, to ondisk.Pos) iter.Seq2[Difference, error] {
	return func(yield func(Difference, error) bool) {
		if !btree.Has(ondisk.BtreeHasSnapshots) {
			yield(Difference{}, fmt.Errorf("btree %v has no snapshots", btree))
			return
		}
		if !v.related(a, b) {
			yield(Difference{}, fmt.Errorf("snapshots %d and %d: %w", a, b, ErrUnrelated))
			return
		}
		next := from.WithSnapshot(0)
		for more := true; more; {
			var found []Difference
			err := v.cfg.Store.View(ctx, func(tx *trans.Tx) (err error) {
				found, next, more, err = v.diffSome(tx, btree, a, b, next, to)
				return err
			})
			if err != nil {
				yield(Difference{}, err)
				return
			}
			for _, d := range found {
				if !yield(d, nil) {
					return
				}
			}
		}
	}
}

// related reports whether two snapshots are known and of one tree.
func (v *Volumes) related(a, b uint32) bool {
	x, ok := v.cfg.Table.Get(a)
	y, ok2 := v.cfg.Table.Get(b)
	return ok && ok2 && x.Tree == y.Tree
}

// diffSome returns the first differences from a position on, and where to go on.
func (v *Volumes) diffSome(tx *trans.Tx, btree ondisk.BtreeID, a, b uint32, from, to ondisk.Pos) (found []Difference, next ondisk.Pos, more bool, err error) {
	const (
		maxSeen  = 1 << 14
		maxFound = 256
	)
	to.Snapshot = ^uint32(0)
	it := tx.Iter(btree, from, trans.AllSnapshots|trans.NotExtents|trans.Scanning)
	defer it.Close()
	slot := Difference{Btree: btree, Pos: from}
	end := func() { // of the slot
		if slot.A.Pos != slot.B.Pos {
			if d := slot.shown(); d.A.Type != ondisk.KeyDeleted || d.B.Type != ondisk.KeyDeleted {
				found = append(found, d)
			}
		}
	}
	for seen := 0; ; seen++ {
		k, ok, err := it.PeekMax(to)
		if err != nil {
			return nil, from, true, err
		}
		if !ok {
			end()
			return found, from, false, tx.Context().Err()
		}
		if !k.Pos.SameSlot(slot.Pos) {
			end()
			slot = Difference{Btree: btree, Pos: k.Pos.WithSnapshot(0)}
			if seen >= maxSeen || len(found) >= maxFound {
				return found, slot.Pos, true, tx.Context().Err()
			}
		}
		// The nearest comes first.
		if slot.A.Type == ondisk.KeyDeleted && v.cfg.Table.IsAncestor(k.Pos.Snapshot, a) {
			slot.A = k
		}
		if slot.B.Type == ondisk.KeyDeleted && v.cfg.Table.IsAncestor(k.Pos.Snapshot, b) {
			slot.B = k
		}
		if k.Pos == ondisk.SPosMax {
			end()
			return found, from, false, tx.Context().Err()
		}
		it.Advance()
	}
}

// shown is the difference with nothing in the place of keys that say that there is nothing.
func (d Difference) shown() Difference {
	for _, k := range []*ondisk.Key{&d.A, &d.B} {
		switch k.Type {
		case ondisk.KeyDeleted, ondisk.KeyWhiteout, ondisk.KeyExtentWhiteout, ondisk.KeyHashWhiteout, ondisk.KeyInodeGeneration:
			*k = ondisk.Key{Pos: d.Pos}
		}
	}
	return d
}
