package trans

import (
	"context"
	"math"
	"slices"
	"sync"

	"github.com/go-bcachefs/bcachefs/internal/journal"
	"github.com/go-bcachefs/bcachefs/internal/node"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/six"
)

// mergeQueue holds the nodes that have become so small that they may be put together with a neighbour, and roots that have a single
// child, which can be the root then. One goroutine looks at them.
type mergeQueue struct {
	mu    sync.Mutex
	nodes []place       // ascending by turn
	turn  uint64        // of the last that was added
	doing uint64        // the turn that is being done; 0: none
	rest  *sync.Cond    // told when one was done
	wake  chan struct{} // of capacity 1
}

// place is where a node is: that of a level that covers a position.
type place struct {
	tree  *tree
	level uint8
	at    ondisk.Pos
	turn  uint64 // in the queue of merges
}

// maxMerges is how many nodes wait at most. What is left out comes again when more is deleted there.
const maxMerges = 1 << 10

// shrunk is told that something was deleted from a node, which is locked exclusively.
func (s *Store) shrunk(b *bnode) {
	live := b.keys.LiveU64s()
	if live > b.mergeBelow || b.fake {
		return
	}
	// If it cannot be merged now it is not looked at again before it is much smaller.
	b.mergeBelow = live*3/4 - 1
	s.merges.add(place{tree: b.tree, level: b.level, at: b.max})
}

func (q *mergeQueue) add(p place) {
	q.mu.Lock()
	if len(q.nodes) < maxMerges {
		q.turn++
		p.turn = q.turn
		q.nodes = append(q.nodes, p)
	}
	q.mu.Unlock()
	q.kick()
}

// follow adds what comes of the merge that is being done, and is a part of it: it comes before all others.
func (q *mergeQueue) follow(p place) {
	q.mu.Lock()
	p.turn = q.doing
	q.nodes = slices.Insert(q.nodes, 0, p)
	q.mu.Unlock()
	q.kick()
}

func (q *mergeQueue) kick() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// run merges nodes, until the context ends.
func (q *mergeQueue) run(ctx context.Context, s *Store) {
	for {
		select {
		case <-q.wake:
		case <-ctx.Done():
			return
		}
		for ctx.Err() == nil && q.step(ctx, s) {
			continue
		}
	}
}

// step merges one node, if it can be; it is false if there is none.
func (q *mergeQueue) step(ctx context.Context, s *Store) bool {
	q.mu.Lock()
	if len(q.nodes) == 0 {
		q.mu.Unlock()
		return false
	}
	p := q.nodes[0]
	q.nodes = q.nodes[1:]
	q.doing = p.turn
	q.mu.Unlock()
	q.mergeOne(ctx, s, p)
	q.mu.Lock()
	q.doing = 0
	q.rest.Broadcast()
	q.mu.Unlock()
	return true
}

// mergeOne merges a node, if it can be.
func (q *mergeQueue) mergeOne(ctx context.Context, s *Store, p place) {
	if s.writable() != nil {
		return
	}
	if err := s.merge(ctx, p); err != nil && ctx.Err() == nil && s.writable() == nil {
		s.cfg.logf("btree %v level %d: the node at %v was not merged: %v", p.tree.id, p.level, p.at, err)
	}
}

// idle reports whether nothing is waiting or being done.
func (q *mergeQueue) idle() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return !q.has(math.MaxUint64)
}

// has reports whether there is something left of the turns up to one. The caller holds mu.
func (q *mergeQueue) has(turn uint64) bool {
	return q.doing != 0 && q.doing <= turn || len(q.nodes) > 0 && q.nodes[0].turn <= turn
}

// drain waits until nothing is left to be merged.
func (q *mergeQueue) drain() {
	q.mu.Lock()
	for q.has(math.MaxUint64) {
		q.rest.Wait()
	}
	q.mu.Unlock()
}

// wait waits until what is to be merged by now has been, with all that follows, or a context ends.
func (q *mergeQueue) wait(ctxs ...context.Context) {
	over := false
	for _, ctx := range ctxs {
		defer context.AfterFunc(ctx, func() {
			q.mu.Lock()
			over = true
			q.rest.Broadcast()
			q.mu.Unlock()
		})()
	}
	q.mu.Lock()
	for last := q.turn; q.has(last) && !over; {
		q.rest.Wait()
	}
	q.mu.Unlock()
}

// WaitShrunk waits until btrees of which something was deleted have given up the nodes that they do not need any more. It reports whether there was
// anything to wait for.
func (s *Store) WaitShrunk(ctx context.Context) (any bool, err error) {
	if err := s.journal.Deliver(ctx); err != nil {
		return false, err
	}
	if any = s.wb.len() > 0; any {
		if err := s.wb.flush(ctx); err != nil {
			return true, err
		}
	}
	// A level that shrinks may have the one above it shrink.
	for range ondisk.MaxBtreeDepth {
		switch {
		case s.merges.idle() && s.interior.idle():
			return any, nil
		case s.cfg.Ordered:
			s.settled(ctx)
		default:
			s.merges.wait(ctx, s.ctx)
		}
		if err := s.WaitInterior(ctx); err != nil {
			return true, err
		}
		any = true
	}
	return any, nil
}

// merge puts a node and a neighbour together, if they are small enough, or makes the single child of a root the root.
func (s *Store) merge(ctx context.Context, p place) error {
	s.interior.throttle(s, journal.WatermarkNormal)
	m := merging{reshape: reshape{s: s, tree: p.tree, watermark: journal.WatermarkBtree}, level: p.level, at: p.at}
	defer m.release()
	return s.run(ctx, m.watermark, false, m.try)
}

// merging is the state of one call of merge, over restarts.
type merging struct {
	reshape
	level uint8
	at    ondisk.Pos
}

func (m *merging) try(tx *Tx) error {
	b, err := tx.lockNode(m.tree, m.level, m.at, six.Intent)
	if b == nil || b.fake || err != nil {
		return err
	}
	if m.isRoot(b) {
		return m.lowerRoot(tx, b)
	}
	p, err := tx.lockNode(m.tree, m.level+1, m.at, six.Intent)
	switch {
	case err != nil:
		return err
	case p == nil: // b has become the root
		return restartSplit
	}
	x := p.index.Load()
	i := x.find(b.max)
	for _, left := range []int{i, i - 1} {
		if left < 0 || left+1 >= len(x.children) {
			continue
		}
		l, err := tx.lockNode(m.tree, m.level, x.maxes[left], six.Intent)
		if err != nil {
			return err
		}
		r, err := tx.lockNode(m.tree, m.level, x.maxes[left+1], six.Intent)
		if err != nil {
			return err
		}
		if node.CanMerge(l.keys, r.keys) {
			return m.replace(tx, l, r, p)
		}
	}
	return nil
}

// replace puts one node in place of two neighbours below p.
func (m *merging) replace(tx *Tx, l, r, p *bnode) error {
	if words := maxPtrU64s + keyU64s; !p.hasRoom(words) {
		tx.unlock()
		if err := m.s.grow(tx.ctx, p, r.max, words, m.watermark); err != nil {
			return err
		}
		return restartSplit
	}
	if len(m.spaces) == 0 {
		return m.allocate(tx, 1)
	}
	u := &interiorUpdate{tree: m.tree, olds: []*bnode{l, r}, parent: p, written: make(chan struct{})}
	keys, err := node.Merge(l.keys, r.keys, m.s.newSeq())
	if err != nil {
		return err
	}
	b, err := m.makeNode(u, keys)
	if err != nil {
		return err
	}
	if b.level > 0 {
		x, y := l.index.Load(), r.index.Load()
		z := &index{}
		z.maxes = append(append(z.maxes, x.maxes...), y.maxes...)
		z.children = append(append(z.children, x.children...), y.children...)
		b.index.Store(z)
	}
	u.describe()
	if err := m.publish(tx, u, func() { u.linkInto(p, []*child{b.self}) }); err != nil {
		return m.undo(u, err)
	}
	// There may be more to do: with the next neighbour, above, and where children of the two have become neighbours.
	q := &m.s.merges
	q.follow(place{tree: m.tree, level: b.level, at: b.max})
	if b.level > 0 {
		q.follow(place{tree: m.tree, level: b.level - 1, at: l.max})
	}
	if !m.isRoot(p) {
		m.s.shrunk(p)
	} else if len(p.index.Load().children) == 1 {
		q.follow(place{tree: m.tree, level: p.level, at: p.max})
	}
	return nil
}

// lowerRoot makes the single child of the root the root.
//
// The child is blocked until that is durable: else a pointer to it that says what was written of it would be journalled as the root's before
// the old root is known to be gone.
func (m *merging) lowerRoot(tx *Tx, b *bnode) error {
	if b.level == 0 || len(b.index.Load().children) != 1 {
		return nil
	}
	c, err := tx.lockNode(m.tree, m.level-1, ondisk.SPosMax, six.Intent)
	if err != nil {
		return err
	}
	c.wmu.Lock()
	writing := c.writing
	c.wmu.Unlock()
	if writing { // no write begins while it is locked
		tx.unlock()
		c.waitWrite()
		return restartSplit
	}
	u := &interiorUpdate{tree: m.tree, olds: []*bnode{b}, parent: c, written: make(chan struct{})}
	return m.publish(tx, u, func() {
		ptr := *c.self.key.Load()
		u.keys = []interiorKey{
			{level: b.level, old: ptr, new: ptr, flags: rootPointer | NoTriggers},
			{level: b.level + 1, old: *b.self.key.Load(), new: ondisk.Key{Pos: ondisk.SPosMax}, flags: noRecord},
		}
		m.tree.root.Store(c.self)
		if c.level > 0 && len(c.index.Load().children) == 1 {
			m.s.merges.follow(place{tree: m.tree, level: c.level, at: c.max})
		}
	})
}
