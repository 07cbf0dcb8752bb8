package fsck

import (
	"context"
	"math"

	"golang.org/x/sync/errgroup"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// A holder is told of inodes in order, each with what it holds in one btree.
type holder interface {
	// begin starts an inode. The versions are the holder's until the next begin; there are none for keys of an inode that is not there.
	begin(inum uint64, vs versions)
	// key is told each key that counts; lower are the snapshots of those at the same position that came before.
	key(ctx context.Context, k *ondisk.Key, lower []uint32) error
	// end ends an inode; keys tells how many keys there were, be it in snapshots that do not count.
	end(ctx context.Context, keys int) error
	// flush is called after the last inode.
	flush(ctx context.Context) error
}

// runs divides a btree into ranges that do not part what belongs to one inode.
func (f *files) runs(ctx context.Context, id ondisk.BtreeID) ([]posRange, error) {
	ranges, err := f.c.split(ctx, id, 0)
	var out []posRange
	from := ondisk.PosMin
	for _, r := range ranges {
		end := ondisk.Pos{Inode: r.max.Inode, Offset: math.MaxUint64, Snapshot: math.MaxUint32}
		if id == ondisk.BtreeInodes {
			end = r.max.WithSnapshot(math.MaxUint32)
		}
		if end.Less(from) {
			continue
		}
		out = append(out, posRange{from, end})
		if end == ondisk.SPosMax {
			break
		}
		from = end.Next()
	}
	return out, err
}

// eachHolder goes over all inodes and what they hold in a btree, from several goroutines, each of which has a holder of its own.
func (f *files) eachHolder(ctx context.Context, id ondisk.BtreeID, newHolder func() holder) error {
	return eachRun(ctx, f, id, newHolder, func(ctx context.Context, r posRange, h holder) error { return f.hold(ctx, id, r, h) })
}

// eachRun calls do for each part of a btree, from several goroutines, with a visitor for each that is flushed at its end.
func eachRun[V interface{ flush(context.Context) error }](ctx context.Context, f *files, id ondisk.BtreeID, newVisitor func() V,
	do func(ctx context.Context, r posRange, v V) error) error {
	ranges, err := f.runs(ctx, id)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(f.c.opts.Parallel)
	for _, r := range ranges {
		v := newVisitor()
		g.Go(func() error {
			if err := do(ctx, r, v); err != nil {
				return err
			}
			return v.flush(ctx)
		})
	}
	return g.Wait()
}

// hold merges a range of a btree with the inodes of that range.
func (f *files) hold(ctx context.Context, id ondisk.BtreeID, r posRange, h holder) error {
	held := f.c.cursor(ctx, id, r.min, r.max)
	defer held.stop()
	inodes := f.c.cursor(ctx, ondisk.BtreeInodes, ondisk.Pos{Offset: r.min.Inode}, ondisk.Pos{Offset: r.max.Inode, Snapshot: math.MaxUint32})
	defer inodes.stop()
	var vs versions
	var lower []uint32
	for held.key != nil || inodes.key != nil {
		inum := uint64(math.MaxUint64)
		if held.key != nil {
			inum = held.key.Pos.Inode
		}
		if inodes.key != nil {
			inum = min(inum, inodes.key.Pos.Offset)
		}
		vs = vs[:0]
		for ; inodes.key != nil && inodes.key.Pos.Offset == inum; inodes.advance() {
			vs = vs.add(f, inodes.key)
		}
		known := !f.c.lost.overlapsRange(ondisk.BtreeInodes, allSnapshots(ondisk.Pos{Offset: inum}))
		if known {
			h.begin(inum, vs)
		}
		keys, offset := 0, uint64(0)
		for ; held.key != nil && held.key.Pos.Inode == inum; held.advance() {
			k := held.key
			if keys == 0 || k.Pos.Offset != offset {
				lower, offset = lower[:0], k.Pos.Offset
			}
			keys++
			if f.relevant(id, k, lower) && known {
				if err := h.key(ctx, k, lower); err != nil {
					return err
				}
			}
			lower = f.append(lower, k)
		}
		if known {
			if err := h.end(ctx, keys); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

// An inodeVisitor is told of one inode after the other.
type inodeVisitor interface {
	// inode is told the versions that count, and the snapshots of all keys that hold an inode.
	inode(ctx context.Context, inum uint64, vs versions, all []uint32) error
	flush(ctx context.Context) error
}

// eachInode goes over all inodes, from several goroutines, each of which has a visitor of its own. With tell, keys in snapshots that do not
// exist are told.
func (f *files) eachInode(ctx context.Context, tell bool, newVisitor func() inodeVisitor) error {
	return eachRun(ctx, f, ondisk.BtreeInodes, newVisitor, func(ctx context.Context, r posRange, v inodeVisitor) error {
		return f.visitInodes(ctx, r, tell, v)
	})
}

func (f *files) visitInodes(ctx context.Context, r posRange, tell bool, v inodeVisitor) error {
	inodes := f.c.cursor(ctx, ondisk.BtreeInodes, r.min, r.max)
	defer inodes.stop()
	var vs versions
	var all []uint32
	for inodes.key != nil {
		inum := inodes.key.Pos.Offset
		vs, all = vs[:0], all[:0]
		for ; inodes.key != nil && inodes.key.Pos.Offset == inum; inodes.advance() {
			k := inodes.key
			if tell {
				f.relevant(ondisk.BtreeInodes, k, nil)
			}
			if _, ok := f.snapshots[k.Pos.Snapshot]; ok && isInode(k.Type) {
				all = append(all, k.Pos.Snapshot)
			}
			vs = vs.add(f, k)
		}
		if f.c.lost.overlapsRange(ondisk.BtreeInodes, allSnapshots(ondisk.Pos{Offset: inum})) {
			continue
		}
		if err := v.inode(ctx, inum, vs, all); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func isInode(t ondisk.KeyType) bool {
	return t == ondisk.KeyInode || t == ondisk.KeyInodeV2 || t == ondisk.KeyInodeV3
}

// append notes the snapshot of a key for those at the same position that follow.
func (f *files) append(lower []uint32, k *ondisk.Key) []uint32 {
	if f.alive[k.Pos.Snapshot] {
		lower = append(lower, k.Pos.Snapshot)
	}
	return lower
}

// visitPosition is told a key that counts; lower are the snapshots of those at the same position that came before.
type visitPosition func(ctx context.Context, k *ondisk.Key, lower []uint32) error

// eachPosition calls the functions that visitor makes, one for each goroutine, with the keys of a btree that count.
func (f *files) eachPosition(ctx context.Context, id ondisk.BtreeID, visitor func() visitPosition) error {
	ranges, err := f.runs(ctx, id)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(f.c.opts.Parallel)
	for _, r := range ranges {
		visit := visitor()
		g.Go(func() error {
			var lower []uint32
			var at ondisk.Pos
			return f.c.each(ctx, id, 0, r.min, r.max, func(k *ondisk.Key) error {
				if k.Pos.WithSnapshot(0) != at {
					lower, at = lower[:0], k.Pos.WithSnapshot(0)
				}
				if f.alive[k.Pos.Snapshot] && (f.seenFrom(k.Pos.Snapshot) == k.Pos.Snapshot || !f.hidden(lower, f.seenFrom(k.Pos.Snapshot))) {
					if err := visit(ctx, k, lower); err != nil {
						return err
					}
				}
				lower = f.append(lower, k)
				return nil
			})
		})
	}
	return g.Wait()
}

// holds checks that a key belongs to an inode that may have such keys, and returns the version it belongs to; nil if there is none, which
// was told.
func (f *files) holds(id ondisk.BtreeID, k *ondisk.Key, vs versions, fits func(in *ondisk.Inode) bool) *version {
	v := vs.seen(f, f.seenFrom(k.Pos.Snapshot))
	switch {
	case v == nil || !v.inode:
		f.c.at(idKeyInMissingInode, id, 0, k.Pos, "delete it, or make the inode anew", "key in missing inode: %s", f.c.keyText(id, k))
		return nil
	case !fits(&v.in):
		f.c.at(idKeyInWrongInodeType, id, 0, k.Pos, "delete it, or change the inode's type", "key for wrong inode mode %o: %s", v.in.Mode,
			f.c.keyText(id, k))
		return nil
	}
	if f.c.since(28) && v.snapshot != k.Pos.Snapshot && v.at != f.seenFrom(k.Pos.Snapshot) {
		f.c.at(idSnapshotKeyMissingInodeSnapshot, id, 0, k.Pos, "copy the inode", "have key for inode %d:%d but have inode in ancestor snapshot %d: %s",
			k.Pos.Inode, k.Pos.Snapshot, v.snapshot, f.c.keyText(id, k))
	}
	return v
}

// batch collects things that lead elsewhere, to look there in order: so each node there is read once a batch at most.
type batch[T any] struct {
	all   []T
	flush func(ctx context.Context, all []T) error
}

func (b *batch[T]) add(ctx context.Context, x T) error {
	if b.all = append(b.all, x); len(b.all) < window {
		return nil
	}
	return b.end(ctx)
}

// last ends what is left and frees the memory.
func (b *batch[T]) last(ctx context.Context) error {
	err := b.end(ctx)
	b.all = nil
	return err
}

func (b *batch[T]) end(ctx context.Context) error {
	err := b.flush(ctx, b.all)
	b.all = b.all[:0]
	return err
}
