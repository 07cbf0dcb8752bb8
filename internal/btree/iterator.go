package btree

import (
	"context"
	"errors"
	"iter"
	"slices"

	"github.com/go-bcachefs/bcachefs/internal/journal"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// IterOptions say what an [Iterator] goes over.
type IterOptions struct {
	Level    uint8 // of the nodes whose keys are wanted: 0 for the btree's keys, above for pointers to nodes of Level-1
	Prefetch bool  // read nodes ahead once a node was passed
}

// Iterator goes over the keys of a btree in order of position, all snapshots, whiteouts included.
//
// It pins the node it stands on until it leaves it, comes to the end, or [Iterator.Close].
type Iterator struct {
	r     *Reader
	btree ondisk.BtreeID
	opts  IterOptions

	pos    ondisk.Pos // where to go on
	last   ondisk.Pos // nothing behind it is wanted, nor read
	end    bool
	inNode bool // keys and at are valid
	at     place
	keys   merged
	deltas []ondisk.Key // accounting: those at and behind pos
	window int          // nodes to read ahead
}

// Iter returns an iterator that stands at the start of the btree.
func (r *Reader) Iter(btree ondisk.BtreeID, opts IterOptions) *Iterator {
	it := r.iter(btree, opts)
	it.Seek(ondisk.PosMin)
	return &it
}

func (r *Reader) iter(btree ondisk.BtreeID, opts IterOptions) Iterator {
	return Iterator{r: r, btree: btree, opts: opts, last: ondisk.SPosMax, end: btree >= ondisk.MaxBtrees || opts.Level > MaxRootLevel}
}

// Seek moves to p: the next key returned is the first at p or behind.
func (it *Iterator) Seek(p ondisk.Pos) {
	if it.btree >= ondisk.MaxBtrees || it.opts.Level > MaxRootLevel {
		return
	}
	it.end = false
	if it.inNode && !p.Less(it.pos) && !it.at.max.Less(p) {
		it.pos = p
		it.enter()
		return
	}
	it.leave()
	it.pos = p
}

// Close ends the iteration and unpins the node the iterator stands on. It may be called more than once.
func (it *Iterator) Close() {
	it.leave()
	it.end = true
}

func (it *Iterator) leave() {
	if it.inNode && it.at.entry != nil {
		it.at.entry.pins.Add(-1)
	}
	it.inNode = false
}

// enter sets the cursor to pos in the node at at.
func (it *Iterator) enter() {
	var node *ondisk.Node
	if it.at.entry != nil {
		node = it.at.entry.node
	}
	it.keys.seek(node, it.r.overlay.From(it.btree, it.opts.Level, it.pos), it.pos, it.at.max)
	if it.isAccounting() {
		it.deltas = it.r.overlay.DeltasFrom(it.pos)
	}
}

func (it *Iterator) isAccounting() bool {
	return it.btree == ondisk.BtreeAccounting && it.opts.Level == 0
}

// Next returns the next key and moves behind it; ok is false at the end.
//
// A *NodeError tells of a range of positions that is unknown; the iterator then stands behind the range and Next may be
// called again. After other errors, which are those of ctx, it stands where it stood.
func (it *Iterator) Next(ctx context.Context) (k ondisk.Key, ok bool, err error) {
	for !it.end {
		if it.last.Less(it.pos) {
			break
		}
		if !it.inNode {
			if err := it.load(ctx); err != nil {
				return ondisk.Key{}, false, err
			}
			continue
		}
		if it.isAccounting() && len(it.deltas) > 0 {
			k, ok = it.nextSum()
		} else {
			k, ok = it.keys.next()
		}
		if ok {
			it.advance(k.Pos)
			if it.last.Less(k.Pos) {
				break
			}
			return k, true, nil
		}
		last := it.at.max
		it.leave()
		it.advance(last)
	}
	return ondisk.Key{}, false, nil
}

// advance goes behind p.
func (it *Iterator) advance(p ondisk.Pos) {
	if p == ondisk.SPosMax {
		it.Close()
		return
	}
	it.pos = p.Next()
}

// load descends to the node that holds pos.
func (it *Iterator) load(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	ok, err := it.r.descend(ctx, it.btree, it.opts.Level, it.pos, &it.at)
	if err != nil {
		var damage *NodeError
		if errors.As(err, &damage) {
			it.advance(damage.Max)
		}
		return err
	}
	if !ok {
		it.end = true
		return nil
	}
	if it.at.entry != nil {
		it.at.entry.pins.Add(1)
	}
	it.inNode = true
	it.enter()
	if it.opts.Prefetch {
		it.prefetch()
	}
	return nil
}

// prefetch starts reading the siblings behind the node just entered: none for the first node, then ever more, since only who
// passes nodes will want more of them. Siblings in the cache cost a lookup.
func (it *Iterator) prefetch() {
	it.window = min(2*it.window+1, maxPrefetches)
	if it.window == 1 || it.at.entry == nil {
		return
	}
	siblings := it.at.siblings
	// Reading ahead must not push out of the cache what was read ahead before.
	share := it.r.cache.budget / 4 / max(it.at.entry.size, int64(it.r.cfg.Want.NodeSize))
	for range min(int64(it.window), share) {
		k, ok := siblings.next()
		if !ok {
			return
		}
		c, err := makeChild(it.btree, it.opts.Level, k)
		if err != nil {
			return
		}
		if it.r.cache.find(c.id()) == nil && !it.r.prefetch(c) {
			return
		}
	}
}

// prefetch reads a node into the cache in the background, unless someone does; false if enough is going on already.
func (r *Reader) prefetch(c child) bool {
	if r.ctx.Err() != nil {
		return false
	}
	select {
	case r.prefetches <- struct{}{}:
	default:
		return false
	}
	id := c.id()
	l := r.cache.claim(id)
	if l == nil {
		<-r.prefetches
		return true
	}
	r.background.Go(func() {
		defer func() { <-r.prefetches }()
		// An error is met again, and reported, by whoever comes to the node.
		r.cache.load(r.ctx, id, l, func(ctx context.Context) (*ondisk.Node, error) { return r.readNode(ctx, &c) })
	})
	return true
}

// Get returns the key at exactly pos, of whatever type but deleted. It does not allocate if the nodes on the way are cached.
func (r *Reader) Get(ctx context.Context, btree ondisk.BtreeID, pos ondisk.Pos) (ondisk.Key, bool, error) {
	it := r.iter(btree, IterOptions{})
	defer it.Close()
	it.Seek(pos)
	it.last = pos
	k, ok, err := it.Next(ctx)
	if err != nil || !ok || k.Pos != pos {
		return ondisk.Key{}, false, err
	}
	return k, true, nil
}

// Keys goes over the keys with positions from … to, both included, in all snapshots and with whiteouts. An error comes with
// a zero key; after a *NodeError it goes on behind the damaged range, after others it ends.
func (r *Reader) Keys(ctx context.Context, btree ondisk.BtreeID, from, to ondisk.Pos) iter.Seq2[ondisk.Key, error] {
	return r.KeysAt(ctx, btree, 0, from, to)
}

// KeysAt is [Reader.Keys] for the keys of nodes of a level: above 0 they are pointers to the nodes of the level below.
func (r *Reader) KeysAt(ctx context.Context, btree ondisk.BtreeID, level uint8, from, to ondisk.Pos) iter.Seq2[ondisk.Key, error] {
	return func(yield func(ondisk.Key, error) bool) {
		it := r.iter(btree, IterOptions{Level: level, Prefetch: true})
		defer it.Close()
		it.Seek(from)
		it.last = to
		for {
			k, ok, err := it.Next(ctx)
			switch {
			case err != nil:
				if !yield(ondisk.Key{}, err) || !goesOn(err, to) {
					return
				}
			case !ok:
				return
			case !yield(k, nil) || !it.rest(yield):
				return
			}
		}
	}
}

// rest yields the keys of the node that are left, up to the last wanted, if there is nothing to merge them with; most of a walk
// goes through here. It is false if yield was.
func (it *Iterator) rest(yield func(ondisk.Key, error) bool) bool {
	m := &it.keys
	if !it.inNode || len(m.overlay) > 0 || it.isAccounting() && len(it.deltas) > 0 {
		return true
	}
	for m.i < m.n {
		k := m.node.Key(m.i)
		if it.last.Less(k.Pos) {
			break
		}
		m.i++
		if !yield(k, nil) {
			return false
		}
	}
	return true
}

// goesOn reports whether iteration up to to goes on after err.
func goesOn(err error, to ondisk.Pos) bool {
	var damage *NodeError
	return errors.As(err, &damage) && damage.Max.Less(to)
}

// NodeRef is a node of a btree.
type NodeRef struct {
	Key   ondisk.Key // pointer to it
	Level uint8
	Node  *ondisk.Node
}

// Nodes goes over all nodes of a btree, from the root's level down, in order of position on each level. Nodes that cannot be
// read come as errors.
func (r *Reader) Nodes(ctx context.Context, btree ondisk.BtreeID) iter.Seq2[NodeRef, error] {
	return func(yield func(NodeRef, error) bool) {
		root, ok := r.Root(btree)
		if !ok {
			return
		}
		level := min(root.Level, MaxRootLevel)
		if root.Leaves != nil {
			level = 0
		}
		for {
			for ref, err := range r.NodesAt(ctx, btree, level) {
				if !yield(ref, err) {
					return
				}
			}
			if level == 0 || ctx.Err() != nil {
				return
			}
			level--
		}
	}
}

// NodesAt goes over the nodes of one level in order of position.
func (r *Reader) NodesAt(ctx context.Context, btree ondisk.BtreeID, level uint8) iter.Seq2[NodeRef, error] {
	return func(yield func(NodeRef, error) bool) {
		if _, ok := r.Root(btree); !ok || level > MaxRootLevel {
			return
		}
		var at place
		for p := ondisk.PosMin; ; {
			ok, err := r.descend(ctx, btree, level, p, &at)
			var damage *NodeError
			switch {
			case errors.As(err, &damage):
				if !yield(NodeRef{}, err) {
					return
				}
				at.max = damage.Max
			case err != nil:
				yield(NodeRef{}, err)
				return
			case !ok:
				return
			default:
				if !yield(NodeRef{at.child.key, level, at.entry.node}, nil) {
					return
				}
			}
			if at.max == ondisk.SPosMax {
				return
			}
			p = at.max.Next()
		}
	}
}

// nextSum returns the next accounting key, to which the journal's deltas were added.
func (it *Iterator) nextSum() (ondisk.Key, bool) {
	before := it.keys
	k, ok := it.keys.next()
	d := &it.deltas[0]
	if it.at.max.Less(d.Pos) {
		it.deltas = nil
		return k, ok
	}
	if ok && k.Pos.Less(d.Pos) {
		return k, true
	}
	sum := ondisk.Key{Type: ondisk.KeyAccounting, Pos: d.Pos}
	if ok && k.Pos == d.Pos {
		sum = k
		sum.Val = slices.Clone(k.Val)
	} else {
		it.keys = before
	}
	old := sum.Version
	n := 0
	for ; n < len(it.deltas) && it.deltas[n].Pos == sum.Pos; n++ {
		if journal.VersionLess(old, it.deltas[n].Version) {
			sum = journal.AddDelta(sum, it.deltas[n])
		}
	}
	it.deltas = it.deltas[n:]
	return sum, true
}
