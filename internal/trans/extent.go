package trans

import (
	"fmt"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// updateExtent replaces what is at the slots of k by k, or by nothing if k is of type deleted, in the view of k's snapshot. What reaches beyond is cut;
// what other snapshots still see stays.
//
// A deletion has no size of its own in the btree; the k given says by its Size what is deleted.
func (tx *Tx) updateExtent(btree ondisk.BtreeID, k ondisk.Key, flags UpdateFlags) error {
	start, end := k.Start(), k.Pos
	if k.Size == 0 {
		return nil
	}
	if btree == ondisk.BtreeFreespace {
		return tx.updateSet(btree, k, flags)
	}
	it := Iter{}
	it.init(tx, btree, 0, start, Intent)
	for {
		old, ok, err := it.PeekMax(end)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		if err := tx.overwrite(btree, old, start, end, flags); err != nil {
			return err
		}
		if slotLess(end, old.Pos) || end.SameSlot(old.Pos) {
			break
		}
		it.pos = old.Pos.WithSnapshot(k.Pos.Snapshot)
	}
	if k.Type == ondisk.KeyDeleted {
		return nil
	}
	return tx.set(btree, k, flags)
}

// overwrite takes the part from start to end out of old, which the snapshot of end sees.
func (tx *Tx) overwrite(btree ondisk.BtreeID, old ondisk.Key, start, end ondisk.Pos, flags UpdateFlags) error {
	s := tx.s
	front := slotLess(old.Start(), start)
	back := slotLess(end, old.Pos)
	foreign := old.Pos.Snapshot != end.Snapshot
	if front {
		left := ondisk.CutBack(&old, uint32(start.Offset-old.Start().Offset))
		if err := tx.setPiece(btree, old, left, flags); err != nil {
			return err
		}
	}
	if foreign && (front || back) {
		// Other snapshots go on seeing the middle.
		mid := old
		if front {
			mid = ondisk.CutFront(&mid, uint32(start.Offset-old.Start().Offset), s.cfg.ExtentTypeU64s)
		}
		if back {
			mid = ondisk.CutBack(&mid, uint32(end.Offset-mid.Start().Offset))
		}
		if err := tx.setPiece(btree, old, mid, flags); err != nil {
			return err
		}
	}
	if !back {
		return tx.hide(btree, old.Pos.WithSnapshot(end.Snapshot), foreign, flags)
	}
	right := ondisk.CutFront(&old, uint32(end.Offset-old.Start().Offset), s.cfg.ExtentTypeU64s)
	if foreign {
		// The middle has its own end now, at which the new snapshot must not see it.
		if err := tx.hide(btree, end, true, flags); err != nil {
			return err
		}
	}
	return tx.set(btree, right, flags|Exact)
}

// setPiece inserts a piece of old at an end of its own. Where descendants overwrote old, they must not come to see the piece.
func (tx *Tx) setPiece(btree ondisk.BtreeID, old, piece ondisk.Key, flags UpdateFlags) error {
	if piece.Pos != old.Pos && tx.s.hasSnapshots(btree) {
		it := Iter{}
		it.init(tx, btree, 0, old.Pos.WithSnapshot(0), AllSnapshots|NotExtents)
		for {
			k, ok, err := it.PeekMax(old.Pos)
			if err != nil {
				return err
			}
			if !ok || k.Pos.Snapshot == old.Pos.Snapshot {
				break
			}
			if tx.s.isAncestor(old.Pos.Snapshot, k.Pos.Snapshot) {
				at := piece.Pos.WithSnapshot(k.Pos.Snapshot)
				// What it sees there is nearer than the piece unless that comes from the piece's snapshot, or from further up.
				seen, there, err := tx.Lookup(btree, at, NotExtents|Whiteouts)
				if err != nil {
					return err
				}
				if !there || tx.s.isAncestor(seen.Pos.Snapshot, old.Pos.Snapshot) {
					if err := tx.set(btree, ondisk.Key{Type: ondisk.KeyWhiteout, Pos: at}, flags); err != nil {
						return err
					}
				}
			}
			it.Advance()
		}
	}
	return tx.set(btree, piece, flags|Exact)
}

// ReplaceExtent puts pieces in place of a key of a btree of extents: the same content, which lies elsewhere now. They have the key's snapshot, follow one
// another without gaps, and take up exactly its slots. The key must be there. What each snapshot sees at which slot stays as it is, also if
// the snapshot is an interior one, where nothing else writes.
func (tx *Tx) ReplaceExtent(btree ondisk.BtreeID, old ondisk.Key, pieces ...ondisk.Key) error {
	at := old.Start()
	for _, p := range pieces {
		if p.Start() != at || p.Size == 0 {
			return fmt.Errorf("btree %v: %v is to be replaced by pieces that do not take up its slots", btree, old.Pos)
		}
		at = p.Pos
	}
	if at != old.Pos {
		return fmt.Errorf("btree %v: %v is to be replaced by pieces that end at %v", btree, old.Pos, at)
	}
	for _, p := range pieces {
		if err := tx.setPiece(btree, old, p, 0); err != nil {
			return err
		}
	}
	return nil
}

// hide makes a position show nothing in its snapshot: by deleting the key there, or by a whiteout if an ancestor's would appear.
func (tx *Tx) hide(btree ondisk.BtreeID, p ondisk.Pos, foreign bool, flags UpdateFlags) error {
	k := ondisk.Key{Pos: p}
	if foreign {
		k.Type = ondisk.KeyWhiteout
	} else if tx.s.hasSnapshots(btree) {
		shown, err := tx.ancestorShows(btree, p)
		if err != nil {
			return err
		}
		if shown {
			k.Type = ondisk.KeyWhiteout
		}
	}
	return tx.set(btree, k, flags|Exact)
}

// ancestorShows reports whether at the slot of p an ancestor of its snapshot has a key that would be seen if p itself had none.
func (tx *Tx) ancestorShows(btree ondisk.BtreeID, p ondisk.Pos) (bool, error) {
	it := Iter{}
	it.init(tx, btree, 0, p.Next(), AllSnapshots|NotExtents)
	last := p.WithSnapshot(^uint32(0))
	for p.Snapshot != ^uint32(0) {
		k, ok, err := it.PeekMax(last)
		if !ok || err != nil {
			return false, err
		}
		if tx.s.isAncestor(k.Pos.Snapshot, p.Snapshot) {
			return k.Type != ondisk.KeyWhiteout && k.Type != ondisk.KeyExtentWhiteout, nil
		}
		it.Advance()
	}
	return false, nil
}

// Delete deletes the key that the snapshot of p sees at p: what ancestors have there does not come to light.
func (tx *Tx) Delete(btree ondisk.BtreeID, p ondisk.Pos, flags UpdateFlags) error {
	return tx.hide(btree, p, false, flags)
}

// updateSet adds units to, or takes them from, a btree of extents without values: neighbours become one key.
func (tx *Tx) updateSet(btree ondisk.BtreeID, k ondisk.Key, flags UpdateFlags) error {
	start, end := k.Start(), k.Pos
	it := Iter{}
	from := start
	if from.Offset > 0 {
		from.Offset-- // the neighbour that ends where k begins
	}
	it.init(tx, btree, 0, from, Intent|AllSnapshots)
	var pieces []ondisk.Key
	for {
		old, ok, err := it.PeekMax(ondisk.Pos{Inode: end.Inode, Offset: ^uint64(0)})
		if err != nil {
			return err
		}
		if !ok || slotLess(end, old.Start()) {
			break
		}
		pieces = append(pieces, old)
		it.Advance()
	}
	for _, old := range pieces {
		merges := k.Type != ondisk.KeyDeleted && old.Type == k.Type && sameClass(old.Start(), start) && sameClass(old.Pos, end)
		overlaps := slotLess(old.Start(), end) && slotLess(start, old.Pos)
		if !merges && !overlaps {
			continue
		}
		if merges {
			lo, hi := min(old.Start().Offset, start.Offset), max(old.Pos.Offset, end.Offset)
			if hi-lo > 1<<32-1 {
				if !overlaps {
					continue
				}
				merges = false
			} else {
				start.Offset, k.Pos.Offset, k.Size = lo, hi, uint32(hi-lo)
				end = k.Pos
				if old.Pos != k.Pos {
					if err := tx.set(btree, ondisk.Key{Pos: old.Pos}, flags|Exact); err != nil {
						return err
					}
				}
				continue
			}
		}
		if err := tx.overwrite(btree, old, start, end, flags); err != nil {
			return err
		}
	}
	if k.Type == ondisk.KeyDeleted {
		return nil
	}
	return tx.set(btree, k, flags|Exact)
}

// sameClass reports whether two offsets of the btree freespace belong to the same distance of generations, which the top byte says.
func sameClass(p, q ondisk.Pos) bool { return p.Inode == q.Inode && p.Offset>>56 == q.Offset>>56 }
