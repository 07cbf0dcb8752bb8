package trans

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

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

	round chan struct{} // closed, and replaced, when as many were evicted as could be; guarded by mu

	tooMany atomic.Int64 // so many bytes that transactions wait

	bytes atomic.Int64  // as of when they were last looked at
	wake  chan struct{} // of capacity 1
}

func (c *nodeCache) init(s *Store, budget int64) {
	c.s, c.budget, c.wake, c.round = s, budget, make(chan struct{}, 1), make(chan struct{})
	c.tooMany.Store(budget + budget/4)
}

// throttle lets a transaction that begins wait for evictions if there are far too many nodes. It does not wait long: what it would wait
// for may need a node that its caller has locked in another transaction.
func (c *nodeCache) throttle(ctx context.Context) {
	if c.bytes.Load() <= c.tooMany.Load() || c.s.cfg.Ordered {
		return
	}
	c.mu.Lock()
	round := c.round
	c.mu.Unlock()
	c.grew(0)
	timer := time.NewTimer(maxThrottle)
	defer timer.Stop()
	select {
	case <-round:
	case <-timer.C:
	case <-ctx.Done():
	}
}

const maxThrottle = 5 * time.Millisecond

// add takes in a node of n bytes, unless it is dead already.
func (c *nodeCache) add(b *bnode, n int64) {
	b.used.Store(true)
	c.mu.Lock()
	if b.dead.Load() { // whoever removes it does so after that is set
		c.mu.Unlock()
		return
	}
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

// has reports whether a node is in the cache. The caller holds mu.
func (c *nodeCache) has(b *bnode) bool {
	return b.cacheIndex < len(c.nodes) && c.nodes[b.cacheIndex] == b
}

// remove forgets a node that is dead.
func (c *nodeCache) remove(b *bnode) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.has(b) {
		last := len(c.nodes) - 1
		c.nodes[b.cacheIndex] = c.nodes[last]
		c.nodes[b.cacheIndex].cacheIndex = b.cacheIndex
		c.nodes[last] = nil
		c.nodes = c.nodes[:last]
		c.bytes.Add(-b.bytes)
	}
}

// resized is told of the size of a node that has changed, with the node locked exclusively.
func (c *nodeCache) resized(b *bnode) {
	now := b.memBytes()
	b.seenBytes = now
	c.mu.Lock()
	grown := now - b.bytes
	if !c.has(b) {
		grown = 0
	} else {
		b.bytes = now
	}
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
		c.shrink(ctx)
	}
}

// shrink evicts nodes until there are not too many, as far as they can be.
func (c *nodeCache) shrink(ctx context.Context) {
	for tries := 0; c.bytes.Load() > c.budget && ctx.Err() == nil; tries++ {
		b := c.next()
		if b == nil || tries > 4*c.len() {
			break
		}
		if c.evict(ctx, b) != nil {
			break // what is dirty has to stay
		}
	}
	// It is of no use to wait for what cannot go.
	c.tooMany.Store(max(c.budget, c.bytes.Load()) + c.budget/4)
	c.mu.Lock()
	close(c.round)
	c.round = make(chan struct{})
	c.mu.Unlock()
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
		if err := ctx.Err(); err != nil {
			return did, err
		}
		if _, err := s.writeNode(b); err != nil {
			return did, err
		}
		b.waitWrite()
	}
	return did, nil
}

// evict takes a node out of memory, unless somebody uses it. If nothing can be written any more it takes clean ones only.
func (c *nodeCache) evict(ctx context.Context, b *bnode) error {
	if c.s.overlay.Load() != nil {
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
	if c.s.writable() != nil {
		return nil
	}
	if _, err := c.s.writeNode(b); err != nil {
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
