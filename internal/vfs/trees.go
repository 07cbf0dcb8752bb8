package vfs

import (
	"context"
	"iter"
	"math"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// Trees reads the btrees of a filesystem that changes, in the way in which [btree.Reader] reads those of one that does not. Each call of Lookup sees one
// state of the filesystem; iterations see one state for each batch of keys, between which others write. Safe for concurrent use.
type Trees struct{ store *trans.Store }

// batch is how many keys are read in one transaction.
const batch = 256

// Lookup returns the key that pos.Snapshot sees at pos.
func (t Trees) Lookup(ctx context.Context, btree ondisk.BtreeID, pos ondisk.Pos) (k ondisk.Key, ok bool, err error) {
	err = t.store.View(ctx, func(tx *trans.Tx) (err error) {
		k, ok, err = tx.Lookup(btree, pos, 0)
		return err
	})
	return k, ok, err
}

// KeysIn goes over what a snapshot sees from one position of an inode to another, both inclusive. An error is the last thing it yields.
func (t Trees) KeysIn(ctx context.Context, btree ondisk.BtreeID, from, to ondisk.Pos, snapshot uint32) iter.Seq2[ondisk.Key, error] {
	from.Snapshot, to.Snapshot = snapshot, snapshot
	extents := btree.Has(ondisk.BtreeIsExtents)
	if extents && to.Offset != math.MaxUint64 {
		to.Offset++ // those that begin before
	}
	next := func(k *ondisk.Key) (ondisk.Pos, bool) {
		p := k.Pos
		p.Snapshot = snapshot
		if extents {
			return p, true
		}
		if p.Offset++; p.Offset == 0 {
			p.Inode++
		}
		return p, p.Offset != 0 || p.Inode != 0
	}
	return t.keys(ctx, btree, from, to, 0, next)
}

// Keys goes over all keys from one position to another, both inclusive, in all snapshots, what is still in the write buffer among them. An error
// is the last thing it yields.
func (t Trees) Keys(ctx context.Context, btree ondisk.BtreeID, from, to ondisk.Pos) iter.Seq2[ondisk.Key, error] {
	next := func(k *ondisk.Key) (ondisk.Pos, bool) { return k.Pos.Next(), k.Pos != ondisk.SPosMax }
	all := t.keys(ctx, btree, from, to, trans.AllSnapshots|trans.NotExtents|trans.Whiteouts, next)
	return func(yield func(ondisk.Key, error) bool) {
		if err := t.store.FlushWriteBuffer(ctx); err != nil {
			yield(ondisk.Key{}, err)
			return
		}
		all(yield)
	}
}

// keys iterates in batches; next is where to go on behind a key.
func (t Trees) keys(ctx context.Context, btree ondisk.BtreeID, from, to ondisk.Pos, flags trans.IterFlags,
	next func(*ondisk.Key) (ondisk.Pos, bool)) iter.Seq2[ondisk.Key, error] {
	return func(yield func(ondisk.Key, error) bool) {
		size := 8 // most want but a few
		var keys []ondisk.Key
		for {
			err := t.store.View(ctx, func(tx *trans.Tx) error {
				keys = keys[:0]
				it := tx.Iter(btree, from, flags)
				for len(keys) < size {
					k, ok, err := it.PeekMax(to)
					if err != nil || !ok {
						return err
					}
					keys = append(keys, k)
					it.Advance()
				}
				return nil
			})
			if err != nil {
				yield(ondisk.Key{}, err)
				return
			}
			for i := range keys {
				if !yield(keys[i], nil) {
					return
				}
			}
			if len(keys) < size {
				return
			}
			var more bool
			if from, more = next(&keys[len(keys)-1]); !more {
				return
			}
			size = min(size*4, batch)
		}
	}
}
