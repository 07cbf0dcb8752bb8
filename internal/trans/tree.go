package trans

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/go-bcachefs/bcachefs/internal/journal"
	"github.com/go-bcachefs/bcachefs/internal/node"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/six"
)

// tree is one btree.
//
// Descending takes no locks. What leads to a node is immutable: an interior node publishes an index of its children and replaces it
// by another when they change. A node object covers the same range for all of its life; when it is split, merged, rewritten or evicted, it is
// marked dead under its exclusive lock, after what replaces it was published. So whoever locks the node that a descent led to, and finds it alive,
// has the node that holds the position; else the descent is made again.
type tree struct {
	id   ondisk.BtreeID
	root atomic.Pointer[child] // never nil once the store is open
}

// child is an edge of the tree: the pointer to a node, and the node if it is in memory. An edge is replaced together with its
// node, but for eviction.
type child struct {
	level uint8 // of the node pointed to
	key   atomic.Pointer[ondisk.Key]
	node  atomic.Pointer[bnode]
	load  sync.Mutex // held while the node is read
}

func newChild(level uint8, k ondisk.Key) *child {
	c := &child{level: level}
	k = k.Clone()
	c.key.Store(&k)
	return c
}

// bnode is a node in memory.
type bnode struct {
	lock six.Lock
	tree *tree
	self *child // the edge that leads here; constant

	level    uint8
	min, max ondisk.Pos // the range covered, both inclusive; constant

	keys  *node.Node            // guarded by lock
	index atomic.Pointer[index] // of an interior node; changed under the exclusive lock

	dead atomic.Bool // set under the exclusive lock; see tree
	used atomic.Bool // since the cache last looked

	fake bool // the empty leaf that stands for a btree without nodes; it has no place on any device

	pin    journal.Pin // of the oldest change that was not written
	pinned bool        // guarded by the exclusive lock or, by the writer of the node, with wmu

	wmu       sync.Mutex
	wcond     chan struct{} // closed when the write in flight ends
	writing   bool
	wanted    bool            // it is to be written as soon as that is possible
	queued    bool            // in writeQueue, whose mutex guards this
	blocked   int             // interior updates that must be journalled before the node may be written
	writePin  journal.Pin     // of what is being written
	reachable bool            // a durable pointer leads, or will lead, here: appends are allowed
	owner     *interiorUpdate // that creates the node, until it is reachable

	replacedBy *interiorUpdate // that made it dead; guarded by lock
	mergeBelow int             // with how many words or fewer it may be merged; guarded by lock

	cacheIndex int   // in nodeCache.nodes; guarded by its mutex
	bytes      int64 // as the cache counts them; guarded by its mutex
	seenBytes  int64 // as the cache was last told; guarded by lock
}

func (b *bnode) covers(p ondisk.Pos) bool { return !p.Less(b.min) && !b.max.Less(p) }

// memBytes is the memory that the node takes, to be called with the lock held.
func (b *bnode) memBytes() int64 {
	n := int64(b.keys.MemBytes())
	if x := b.index.Load(); x != nil {
		n += int64(len(x.children)) * edgeBytes
	}
	return n
}

// edgeBytes is about what an edge takes, with its place in the index and its pointer.
const edgeBytes = 250

// index is the immutable list of an interior node's children in order.
type index struct {
	maxes    []ondisk.Pos
	children []*child
}

// find returns the place of the first child whose range ends at or behind p.
func (x *index) find(p ondisk.Pos) int {
	lo, hi := 0, len(x.maxes)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if x.maxes[mid].Less(p) {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// part returns the index of a node that covers first to last.
func (x *index) part(first, last ondisk.Pos) *index {
	lo, hi := x.find(first), x.find(last)+1
	return &index{maxes: x.maxes[lo:hi:hi], children: x.children[lo:hi:hi]}
}

// replace returns a copy of the index in which children replace those that end at or behind the first position and at or before
// the last one.
func (x *index) replace(first, last ondisk.Pos, children []*child) *index {
	lo := x.find(first)
	hi := lo
	for hi < len(x.maxes) && !last.Less(x.maxes[hi]) {
		hi++
	}
	n := len(x.maxes) - (hi - lo) + len(children)
	y := &index{maxes: make([]ondisk.Pos, 0, n), children: make([]*child, 0, n)}
	y.maxes = append(y.maxes, x.maxes[:lo]...)
	y.children = append(y.children, x.children[:lo]...)
	for _, c := range children {
		y.maxes = append(y.maxes, c.key.Load().Pos)
		y.children = append(y.children, c)
	}
	y.maxes = append(y.maxes, x.maxes[hi:]...)
	y.children = append(y.children, x.children[hi:]...)
	return y
}

// makeIndex builds the index of an interior node from its keys, and checks that they cover its range without gap.
func (b *bnode) makeIndex() error {
	x := &index{}
	next := b.min
	for c := b.keys.Seek(b.min); c.Valid(); c.Next() {
		k := c.Key()
		ptr, err := ondisk.DecodeBtreePtr(k)
		switch {
		case err != nil:
			return fmt.Errorf("pointer at %v: %w", k.Pos, err)
		case ptr.Min != next:
			return fmt.Errorf("child up to %v begins at %v, not at %v", k.Pos, ptr.Min, next)
		}
		x.maxes = append(x.maxes, k.Pos)
		x.children = append(x.children, newChild(b.level-1, k))
		next = k.Pos.Next()
	}
	if n := len(x.maxes); n == 0 || x.maxes[n-1] != b.max {
		return fmt.Errorf("children end before %v", b.max)
	}
	b.index.Store(x)
	return nil
}

// find returns the node of a level that covers p, not locked: nil if the btree is not that high.
func (s *Store) find(ctx context.Context, t *tree, level uint8, p ondisk.Pos) (*bnode, error) {
	c := t.root.Load()
	if c.level < level {
		return nil, nil
	}
	for {
		b := c.node.Load()
		if b == nil {
			var err error
			if b, err = s.load(ctx, t, c); err != nil {
				return nil, err
			}
		}
		if c.level == level {
			return b, nil
		}
		x := b.index.Load()
		i := x.find(p)
		if i == len(x.children) { // a stale index; the caller finds the node dead
			return b, nil
		}
		c = x.children[i]
	}
}

// load reads the node that an edge leads to, unless somebody else did.
func (s *Store) load(ctx context.Context, t *tree, c *child) (*bnode, error) {
	c.load.Lock()
	defer c.load.Unlock()
	if b := c.node.Load(); b != nil {
		return b, nil
	}
	key := *c.key.Load()
	disk, err := s.cfg.ReadNode(ctx, t.id, c.level, key)
	if err != nil {
		return nil, err
	}
	b := s.newNode(t, c, disk.Min, disk.Max)
	b.reachable = true
	b.keys = node.FromDisk(disk, s.cfg.Magic, s.cfg.NodeBytes, s.cfg.BlockBytes)
	replayed := s.replayInto(b)
	if c.level > 0 {
		if err := b.makeIndex(); err != nil {
			return nil, &NodeError{Btree: t.id, Level: c.level, Min: disk.Min, Max: disk.Max, Err: err}
		}
	}
	n := b.memBytes() // while nobody else sees it
	b.seenBytes = n
	if replayed && s.journal != nil { // it may be written from now on
		b.pinned = true
		s.journal.AddPin(s.cfg.ReplaySeqs.Oldest, &b.pin, journal.PinBtreeNode, s.flushNode)
	}
	c.node.Store(b)
	s.cache.add(b, n) // from now on it may be evicted
	return b, nil
}

func (s *Store) newNode(t *tree, c *child, lo, hi ondisk.Pos) *bnode {
	b := &bnode{tree: t, self: c, level: c.level, min: lo, max: hi}
	b.pin.Owner = b
	b.mergeBelow = s.cfg.NodeBytes / 8 / 3
	return b
}
