package btree

import (
	"context"
	"fmt"
	"iter"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// sees reports whether a key in snapshot of may be visible in snapshot in.
func (r *Reader) sees(in, of uint32) bool {
	if in == of {
		return true
	}
	// Parents have greater ids than their children.
	return of > in && r.isAncestor != nil && r.isAncestor(of, in)
}

// VisibleIterator goes over the keys of a btree that one snapshot sees, in order of position.
//
// Of the keys of one slot (inode and offset) it shows the one of the nearest ancestor, and none if that is a whiteout.
// hash_whiteout and inode_generation are keys like others here: who looks up names needs the former.
//
// In the extents btree what is shown never overlaps: each sector belongs to the first visible extent that ends behind it, and
// an extent is cut at the front where an earlier one covers it. In a sound filesystem there is nothing to cut.
//
// Btrees that have no snapshots, reflink among them, are shown whole, cut in the same way if they hold extents.
type VisibleIterator struct {
	it       Iterator
	snapshot uint32
	filter   bool
	extents  bool
	orphan   bool // not all ancestors of snapshot are known

	done    ondisk.Pos // slot last decided; valid if decided
	decided bool
	covered ondisk.Pos // end of the last extent shown, valid if shown
	shown   bool
}

// IterIn returns an iterator over what snapshot sees, at the start of the btree.
func (r *Reader) IterIn(btree ondisk.BtreeID, snapshot uint32, prefetch bool) *VisibleIterator {
	v := r.iterIn(btree, snapshot, prefetch)
	v.Seek(ondisk.PosMin)
	return &v
}

func (r *Reader) iterIn(btree ondisk.BtreeID, snapshot uint32, prefetch bool) VisibleIterator {
	v := VisibleIterator{it: r.iter(btree, IterOptions{Prefetch: prefetch}), snapshot: snapshot,
		filter: btree.Has(ondisk.BtreeHasSnapshots), extents: btree.Has(ondisk.BtreeIsExtents)}
	v.orphan = v.filter && r.orphan != nil && r.orphan(snapshot)
	return v
}

// lost is the error for a key that snapshot may see or not.
func (v *VisibleIterator) lost(p ondisk.Pos) error {
	return &NodeError{Btree: v.it.btree, Min: p, Max: p, Err: fmt.Errorf("snapshot %d: %w", v.snapshot, ErrSnapshotLost)}
}

// Seek moves to p, whose snapshot does not matter in btrees with snapshots: the next key shown is the first at the slot or
// behind; among extents the one that covers the sector p.Offset or the first behind it.
func (v *VisibleIterator) Seek(p ondisk.Pos) {
	v.decided, v.shown = false, false
	switch {
	case v.extents && p.Offset == ^uint64(0) && p.Inode == ^uint64(0):
		p = ondisk.SPosMax
	case v.extents:
		p = p.NextSlot() // an extent's position is its end, exclusive
	}
	if v.filter {
		p.Snapshot = v.snapshot
	}
	v.it.Seek(p)
}

// Close releases the node that the iterator stands on.
func (v *VisibleIterator) Close() { v.it.Close() }

// Next returns the next visible key, with errors as [Iterator.Next].
func (v *VisibleIterator) Next(ctx context.Context) (ondisk.Key, bool, error) {
	for {
		k, ok, err := v.it.Next(ctx)
		if err != nil || !ok {
			return ondisk.Key{}, false, err
		}
		if v.filter {
			if v.decided && k.Pos.SameSlot(v.done) {
				continue
			}
			if !v.it.r.sees(v.snapshot, k.Pos.Snapshot) {
				if v.orphan && k.Pos.Snapshot > v.snapshot {
					v.done, v.decided = k.Pos, true
					return ondisk.Key{}, false, v.lost(k.Pos)
				}
				continue
			}
			v.done, v.decided = k.Pos, true
		}
		if k.Type.IsWhiteout() {
			continue
		}
		if v.extents {
			if v.shown && v.covered.Inode == k.Pos.Inode && k.Start().Offset < v.covered.Offset {
				k = ondisk.CutFront(&k, uint32(v.covered.Offset-k.Start().Offset), v.it.r.cfg.ExtentTypeU64s)
			}
			v.covered, v.shown = k.Pos, true
		}
		return k, true, nil
	}
}

// KeysIn goes over what snapshot sees between the slots from and to, both included; their snapshots do not matter. In
// extent btrees these are the extents that cover sectors from.Offset … to.Offset, whole but for what overlaps, see
// [VisibleIterator]. Errors are as with [Reader.Keys].
func (r *Reader) KeysIn(ctx context.Context, btree ondisk.BtreeID, from, to ondisk.Pos, snapshot uint32) iter.Seq2[ondisk.Key, error] {
	return func(yield func(ondisk.Key, error) bool) {
		v := r.iterIn(btree, snapshot, true)
		defer v.Close()
		v.Seek(from)
		last := to.WithSnapshot(^uint32(0))
		v.it.last = last
		if v.extents {
			v.it.last.Offset = ^uint64(0) // an extent that covers to may end anywhere in the inode
		}
		for {
			k, ok, err := v.Next(ctx)
			switch {
			case err != nil:
				if !yield(ondisk.Key{}, err) || !goesOn(err, last) {
					return
				}
			case !ok || last.Less(v.first(&k)):
				return
			case !yield(k, nil):
				return
			}
		}
	}
}

// first is the first position that k says something of.
func (v *VisibleIterator) first(k *ondisk.Key) ondisk.Pos {
	if v.extents {
		return k.Start()
	}
	return k.Pos
}

// Lookup returns the key that pos.Snapshot sees at the slot of pos, in an extent btree the extent that covers the sector
// pos.Offset. It does not allocate if the nodes on the way are cached.
func (r *Reader) Lookup(ctx context.Context, btree ondisk.BtreeID, pos ondisk.Pos) (ondisk.Key, bool, error) {
	v := r.iterIn(btree, pos.Snapshot, false)
	defer v.Close()
	v.Seek(pos)
	v.it.last = ondisk.Pos{Inode: pos.Inode, Offset: ^uint64(0), Snapshot: ^uint32(0)}
	if !v.extents {
		v.it.last = pos.WithSnapshot(^uint32(0))
		return v.slot(ctx, pos)
	}
	k, ok, err := v.Next(ctx)
	if err != nil || !ok {
		return ondisk.Key{}, false, err
	}
	if s := k.Start(); s.Inode != pos.Inode || s.Offset > pos.Offset {
		return ondisk.Key{}, false, nil
	}
	return k, true, nil
}

// slot is Lookup in btrees without extents: it reads no further than the slot.
func (v *VisibleIterator) slot(ctx context.Context, pos ondisk.Pos) (ondisk.Key, bool, error) {
	for {
		k, ok, err := v.it.Next(ctx)
		if err != nil || !ok {
			return ondisk.Key{}, false, err
		}
		if !v.filter && k.Pos.Snapshot != pos.Snapshot || v.filter && !v.it.r.sees(v.snapshot, k.Pos.Snapshot) {
			if v.orphan && k.Pos.Snapshot > v.snapshot {
				return ondisk.Key{}, false, v.lost(k.Pos)
			}
			continue
		}
		return k, !k.Type.IsWhiteout(), nil
	}
}
