package btree

import (
	"context"
	"fmt"

	"github.com/go-bcachefs/bcachefs/internal/journal"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// merged is a cursor over a node's keys overlaid by the journal's. Either part may be empty.
type merged struct {
	node    *ondisk.Node
	i, n    int
	overlay []ondisk.Key
	max     ondisk.Pos // last position that counts, inclusive
}

// seek sets the cursor to the first key at p or behind.
func (m *merged) seek(node *ondisk.Node, overlay []ondisk.Key, p, last ondisk.Pos) {
	m.node, m.overlay, m.max = node, overlay, last
	m.i, m.n = 0, 0
	if node != nil {
		m.i, m.n = node.Search(p), node.Len()
	}
}

// next returns the next key that is not deleted and moves behind it.
func (m *merged) next() (ondisk.Key, bool) {
	for {
		inNode := m.i < m.n
		if len(m.overlay) == 0 {
			if !inNode {
				return ondisk.Key{}, false
			}
			k := m.node.Key(m.i)
			m.i++
			if m.max.Less(k.Pos) {
				return ondisk.Key{}, false
			}
			return k, true
		}
		o := &m.overlay[0]
		if m.max.Less(o.Pos) {
			m.overlay = nil
			continue
		}
		if inNode {
			pos := m.node.Pos(m.i)
			if pos.Less(o.Pos) {
				k := m.node.Key(m.i)
				m.i++
				return k, true
			}
			if pos == o.Pos {
				m.i++
			}
		}
		m.overlay = m.overlay[1:]
		if o.Type != ondisk.KeyDeleted {
			return *o, true
		}
	}
}

// place is where a descent ended.
type place struct {
	entry *entry // nil: the btree has no nodes, only the overlay counts
	child child  // pointer that led to it
	max   ondisk.Pos
	// siblings are the pointers behind child in its parent, for reading ahead.
	siblings merged
}

// descend finds the node of a level that covers p. A btree without root is one empty leaf. A btree that is not as high as
// level has no node there: ok is false.
//
// An error that is a *NodeError tells the range that cannot be reached, beginning at p.
func (r *Reader) descend(ctx context.Context, btree ondisk.BtreeID, level uint8, p ondisk.Pos, at *place) (ok bool, err error) {
	root := &r.roots[btree]
	at.siblings = merged{}
	var level0 uint8
	switch {
	case root.Leaves != nil:
		return r.descendLeaves(ctx, btree, level, p, at)
	case root.Lost:
		return false, &NodeError{Btree: btree, Level: root.Level, Min: p, Max: ondisk.SPosMax, Err: ErrRootLost}
	case root.Key.Type == ondisk.KeyDeleted:
		at.entry, at.max = nil, ondisk.SPosMax
		return level == 0, nil
	case root.Level > MaxRootLevel:
		return false, &NodeError{Btree: btree, Level: root.Level, Min: p, Max: ondisk.SPosMax,
			Err: fmt.Errorf("level of the root is %d, at most %d are possible", root.Level, MaxRootLevel)}
	case level > root.Level:
		return false, nil
	default:
		level0 = root.Level
	}

	at.child, err = makeChild(btree, level0, root.Key)
	if err != nil {
		return false, (&child{btree: btree, level: level0, key: ondisk.Key{Pos: ondisk.SPosMax}}).damaged(p, err)
	}
	if root.Key.Pos != ondisk.SPosMax {
		return false, &NodeError{Btree: btree, Level: level0, Min: p, Max: ondisk.SPosMax,
			Err: fmt.Errorf("%w: root ends at %v", ErrBadPointer, root.Key.Pos)}
	}
	for {
		at.entry, err = r.node(ctx, &at.child)
		if err != nil {
			if ctx.Err() != nil {
				return false, err
			}
			return false, at.child.damaged(p, err)
		}
		at.max = at.child.key.Pos
		if at.child.level == level {
			return true, nil
		}
		if err := r.step(btree, p, at); err != nil {
			return false, err
		}
	}
}

// step goes from the node at at to its child that covers p, without reading it.
func (r *Reader) step(btree ondisk.BtreeID, p ondisk.Pos, at *place) error {
	level := at.child.level
	at.siblings.seek(at.entry.node, r.overlay.From(btree, level, p), p, at.max)
	return at.choose(btree, level-1, p)
}

// choose takes the next of at.siblings as the child that covers p.
func (at *place) choose(btree ondisk.BtreeID, level uint8, p ondisk.Pos) (err error) {
	last := at.siblings.max
	k, ok := at.siblings.next()
	if !ok {
		return &NodeError{Btree: btree, Level: level, Min: p, Max: last, Err: ErrGap}
	}
	at.child, err = makeChild(btree, level, k)
	if err != nil {
		e := err.(*NodeError)
		e.Min = p
		return e
	}
	if p.Less(at.child.ptr.Min) {
		return &NodeError{Btree: btree, Level: level, Min: p, Max: at.child.ptr.Min.Prev(), Err: ErrGap}
	}
	return nil
}

// descendLeaves is descend for a btree whose leaves a node scan found.
func (r *Reader) descendLeaves(ctx context.Context, btree ondisk.BtreeID, level uint8, p ondisk.Pos, at *place) (bool, error) {
	if level > 0 {
		return false, nil
	}
	at.siblings.seek(nil, journal.KeysFrom(r.roots[btree].Leaves, p), p, ondisk.SPosMax)
	if err := at.choose(btree, 0, p); err != nil {
		return false, err
	}
	var err error
	if at.entry, err = r.node(ctx, &at.child); err != nil {
		if ctx.Err() != nil {
			return false, err
		}
		return false, at.child.damaged(p, err)
	}
	at.max = at.child.key.Pos
	return true, nil
}
