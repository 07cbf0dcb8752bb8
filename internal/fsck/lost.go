package fsck

import (
	"errors"
	"slices"

	"github.com/go-bcachefs/bcachefs/internal/btree"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// posRange is a range of positions, both included.
type posRange struct{ min, max ondisk.Pos }

// lostRanges are, for each btree, the ranges of which check_topology found that nothing is known. They are fixed from then on.
type lostRanges struct {
	ranges [ondisk.MaxBtrees][]posRange // in order and disjoint, once sorted
	above  [ondisk.MaxBtrees]bool       // pointers to nodes are unknown, too
}

// add takes in a node error.
func (l *lostRanges) add(e *btree.NodeError) {
	if e.Btree >= ondisk.MaxBtrees {
		return
	}
	l.ranges[e.Btree] = append(l.ranges[e.Btree], posRange{e.Min, e.Max})
	// A node that is there but cannot be read has a pointer; a gap among nodes has lost it.
	if e.Level > 0 || errors.Is(e, btree.ErrGap) || errors.Is(e, btree.ErrRootLost) || errors.Is(e, btree.ErrBadPointer) {
		l.above[e.Btree] = true
	}
}

// sort puts the ranges in order and joins those that overlap, as more than one level may have lost them.
func (l *lostRanges) sort() {
	for id, r := range l.ranges {
		slices.SortFunc(r, func(a, b posRange) int { return a.min.Compare(b.min) })
		n := 0
		for _, x := range r {
			if n > 0 && !r[n-1].max.Less(x.min) {
				if r[n-1].max.Less(x.max) {
					r[n-1].max = x.max
				}
				continue
			}
			r[n] = x
			n++
		}
		l.ranges[id] = r[:n]
	}
}

// any reports whether something of the btree is unknown.
func (l *lostRanges) any(id ondisk.BtreeID) bool {
	return id < ondisk.MaxBtrees && len(l.ranges[id]) > 0
}

// has reports whether nothing is known of a position.
func (l *lostRanges) has(id ondisk.BtreeID, p ondisk.Pos) bool { return l.overlaps(id, p, p) }

// overlaps reports whether something of min … max is unknown.
func (l *lostRanges) overlaps(id ondisk.BtreeID, lo, hi ondisk.Pos) bool {
	if !l.any(id) {
		return false
	}
	r := l.ranges[id]
	i, _ := slices.BinarySearchFunc(r, lo, func(x posRange, lo ondisk.Pos) int { return x.max.Compare(lo) })
	return i < len(r) && !hi.Less(r[i].min)
}

// pointersUnknown names a btree that holds pointers which are unknown; ok is false if there is none.
func (l *lostRanges) pointersUnknown() (ondisk.BtreeID, bool) {
	for id := range ondisk.BtreeID(ondisk.MaxBtrees) {
		if l.above[id] || l.any(id) && holdsPointers(id) {
			return id, true
		}
	}
	return 0, false
}

// holdsPointers reports whether leaves of the btree point to devices. Of unknown btrees that cannot be told.
func holdsPointers(id ondisk.BtreeID) bool {
	return id >= ondisk.NumBtrees || id.Has(ondisk.BtreeHasData)
}
