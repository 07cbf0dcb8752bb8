package fsck

import (
	"context"
	"maps"
	"math"
	"slices"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// trees are all snapshots, snapshot trees and subvolumes, for the passes that compare them.
type trees struct {
	c         *checker
	snapshots map[uint32]ondisk.Snapshot
	trees     map[uint32]ondisk.SnapshotTree
	subvols   map[uint32]ondisk.Subvolume
	places    map[uint32]place
}

// readTrees loads them.
func (c *checker) readTrees(ctx context.Context) (*trees, error) {
	t := &trees{c: c, snapshots: map[uint32]ondisk.Snapshot{}, trees: map[uint32]ondisk.SnapshotTree{}, subvols: map[uint32]ondisk.Subvolume{}}
	if err := fill(ctx, c, ondisk.BtreeSnapshots, t.snapshots, ondisk.DecodeSnapshot); err != nil {
		return nil, err
	}
	t.number()
	if err := fill(ctx, c, ondisk.BtreeSnapshotTrees, t.trees, ondisk.DecodeSnapshotTree); err != nil {
		return nil, err
	}
	return t, fill(ctx, c, ondisk.BtreeSubvolumes, t.subvols, ondisk.DecodeSubvolume)
}

// fill loads a btree of things with ids.
func fill[T any](ctx context.Context, c *checker, id ondisk.BtreeID, into map[uint32]T, decode func(ondisk.Key) (T, error)) error {
	const size = 256 // of an entry, about
	return c.each(ctx, id, 0, ondisk.PosMin, ondisk.SPosMax, func(k *ondisk.Key) error {
		if int64(len(into))*size > c.opts.MemoryBytes/8 {
			return ErrMemory
		}
		v, err := decode(k.Clone())
		if err == nil && k.Pos.Inode == 0 && k.Pos.Offset <= math.MaxUint32 && k.Pos.Snapshot == 0 {
			into[uint32(k.Pos.Offset)] = v
		}
		return nil
	})
}

func idPos(id uint32) ondisk.Pos { return ondisk.Pos{Offset: uint64(id)} }

// lost reports whether nothing is known of an id.
func (t *trees) lost(btree ondisk.BtreeID, id uint32) bool { return t.c.lost.has(btree, idPos(id)) }

// place is where a snapshot stands: a node is below another exactly if its interval lies within the other's.
type place struct {
	in, out uint32
	root    uint32 // the uppermost ancestor that is known
}

// number gives every snapshot its place. Parents that are not greater than their children are not followed, so there are no cycles; trees
// may be as deep as they have nodes, so there is no recursion either.
func (t *trees) number() {
	ids := slices.Sorted(maps.Keys(t.snapshots))
	slices.Reverse(ids)
	children := map[uint32][]uint32{}
	t.places = make(map[uint32]place, len(ids))
	var roots []uint32
	for _, id := range ids { // parents come before their children
		parent := t.snapshots[id].Parent
		up, ok := t.places[parent]
		if !ok || parent <= id {
			roots = append(roots, id)
			t.places[id] = place{root: id}
			continue
		}
		t.places[id] = place{root: up.root}
		children[parent] = append(children[parent], id)
	}
	clock := uint32(0)
	for stack := roots; len(stack) > 0; {
		id := stack[len(stack)-1]
		p := t.places[id]
		if p.in == 0 {
			clock++
			p.in = clock
			stack = append(stack, children[id]...)
		} else {
			p.out = clock
			stack = stack[:len(stack)-1]
		}
		t.places[id] = p
	}
}

// isAncestor reports whether a is d or an ancestor of it.
func (t *trees) isAncestor(d, a uint32) bool {
	below, ok := t.places[d]
	above, ok2 := t.places[a]
	return ok && ok2 && above.in <= below.in && below.out <= above.out
}

// root returns the uppermost ancestor of a snapshot that is known.
func (t *trees) root(id uint32) uint32 {
	if p, ok := t.places[id]; ok {
		return p.root
	}
	return id
}
