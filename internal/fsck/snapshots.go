package fsck

import (
	"context"
	"math"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// trees are all snapshots, snapshot trees and subvolumes, for the passes that compare them.
type trees struct {
	c         *checker
	snapshots map[uint32]ondisk.Snapshot
	trees     map[uint32]ondisk.SnapshotTree
	subvols   map[uint32]ondisk.Subvolume
}

// readTrees loads them.
func (c *checker) readTrees(ctx context.Context) (*trees, error) {
	t := &trees{c: c, snapshots: map[uint32]ondisk.Snapshot{}, trees: map[uint32]ondisk.SnapshotTree{}, subvols: map[uint32]ondisk.Subvolume{}}
	if err := fill(ctx, c, ondisk.BtreeSnapshots, t.snapshots, ondisk.DecodeSnapshot); err != nil {
		return nil, err
	}
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

// isAncestor reports whether a is d or an ancestor of it. Parents that are not greater than their children end the way up: no cycle is
// followed.
func (t *trees) isAncestor(d, a uint32) bool {
	for d != 0 && d < a {
		s, ok := t.snapshots[d]
		if !ok || s.Parent <= d {
			return false
		}
		d = s.Parent
	}
	return d == a && a != 0
}

// root returns the uppermost ancestor of a snapshot that is known.
func (t *trees) root(id uint32) uint32 {
	for {
		s, ok := t.snapshots[id]
		if !ok || s.Parent <= id {
			return id
		}
		id = s.Parent
	}
}
