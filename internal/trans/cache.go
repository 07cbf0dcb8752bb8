package trans

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/go-bcachefs/bcachefs/internal/six"
)

// nodeCache bounds the memory of nodes. Leaves that were not used lately are evicted, after what of them is not on the devices was written; interior
// nodes stay, as they are few.
type nodeCache struct {
	s      *Store
	budget int64

	mu    sync.Mutex
	nodes []*bnode
	hand  int

	bytes atomic.Int64  // as of when they were last looked at
	wake  chan struct{} // of capacity 1
}

func (c *nodeCache) init(s *Store, budget int64) {
	c.s, c.budget, c.wake = s, budget, make(chan struct{}, 1)
}

// add takes in a node of n bytes.
func (c *nodeCache) add(b *bnode, n int64) {
	b.used.Store(true)
	c.mu.Lock()
	b.cacheIndex = len(c.nodes)
	c.nodes = append(c.nodes, b)
	b.bytes = n
	c.mu.Unlock()
	c.grew(n)
}

func (c *nodeCache) grew(n int64) {
	if c.bytes.Add(n) > c.budget {
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
}

// remove forgets a node that is dead.
func (c *nodeCache) remove(b *bnode) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := b.cacheIndex; i < len(c.nodes) && c.nodes[i] == b {
		last := len(c.nodes) - 1
		c.nodes[i] = c.nodes[last]
		c.nodes[i].cacheIndex = i
		c.nodes[last] = nil
		c.nodes = c.nodes[:last]
		c.bytes.Add(-b.bytes)
	}
}

// dirtied is told of a node's first change since it was written, with the node locked exclusively.
func (c *nodeCache) dirtied(b *bnode) {
	now := int64(b.keys.MemBytes())
	c.mu.Lock()
	grown := now - b.bytes
	b.bytes = now
	c.mu.Unlock()
	c.grew(grown)
}

// next returns the next node that the clock's hand comes to and that may be evicted: a leaf that was not used since the hand was there.
func (c *nodeCache) next() *bnode {
	c.mu.Lock()
	defer c.mu.Unlock()
	for range 2 * len(c.nodes) {
		if c.hand >= len(c.nodes) {
			c.hand = 0
		}
		b := c.nodes[c.hand]
		c.hand++
		if b.level == 0 && !b.fake && !b.used.Swap(false) {
			return b
		}
	}
	return nil
}

// run evicts nodes while there are too many, until the context ends.
func (c *nodeCache) run(ctx context.Context) {
	for {
		select {
		case <-c.wake:
		case <-ctx.Done():
			return
		}
		for tries := 0; c.bytes.Load() > c.budget && ctx.Err() == nil; tries++ {
			b := c.next()
			if b == nil || tries > 4*c.len() {
				break
			}
			if err := c.evict(ctx, b); err != nil && ctx.Err() == nil {
				c.s.fail(err)
				return
			}
		}
	}
}

func (c *nodeCache) len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.nodes)
}

// all returns the nodes in memory, leaves first.
func (c *nodeCache) all() []*bnode {
	c.mu.Lock()
	nodes := slices.Clone(c.nodes)
	c.mu.Unlock()
	slices.SortStableFunc(nodes, func(a, b *bnode) int { return int(a.level) - int(b.level) })
	return nodes
}

// writeDirty writes all nodes with changes, leaves first as writing them changes their parents. It reports whether there was one.
func (s *Store) writeDirty(ctx context.Context) (did bool, err error) {
	for _, b := range s.cache.all() {
		if b.dead.Load() || b.pin.Seq() == 0 && b.writePin.Seq() == 0 {
			continue
		}
		did = true
		if _, err := s.writeNode(ctx, b); err != nil {
			return did, err
		}
		b.waitWrite()
	}
	return did, nil
}

// evict takes a node out of memory, unless somebody uses it.
func (c *nodeCache) evict(ctx context.Context, b *bnode) error {
	if c.s.replaying.Load() {
		return nil // each node gets the journal's keys once
	}
	b.wmu.Lock()
	busy := b.writing || b.blocked > 0 || !b.reachable
	b.wmu.Unlock()
	if busy {
		return nil
	}
	if ok, err := c.tryEvict(ctx, b); ok || err != nil {
		return err
	}
	if _, err := c.s.writeNode(ctx, b); err != nil {
		return err
	}
	_, err := c.tryEvict(ctx, b)
	return err
}

// tryEvict takes a clean node out of memory if its lock is to be had at once.
func (c *nodeCache) tryEvict(ctx context.Context, b *bnode) (ok bool, err error) {
	err = c.s.run(ctx, 0, false, func(tx *Tx) error {
		if !tx.locker.TryLock(&b.lock, six.Intent) || !tx.locker.TryLock(&b.lock, six.Exclusive) {
			return errBusy
		}
		b.wmu.Lock()
		defer b.wmu.Unlock()
		if b.dead.Load() || b.keys.Dirty() || b.pinned || b.writing || b.blocked > 0 || !b.reachable || b.used.Load() {
			return errBusy
		}
		b.dead.Store(true)
		b.self.node.CompareAndSwap(b, nil)
		return nil
	})
	if errors.Is(err, errBusy) {
		return false, nil
	}
	if err == nil {
		c.remove(b)
	}
	return err == nil, err
}

var errBusy = errors.New("in use")
