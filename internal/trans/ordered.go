package trans

import (
	"cmp"
	"context"
	"slices"
)

// A store with [Config].Ordered has no goroutines. What these would do when they come to it, [Store.Settle] does, in a fixed order and between
// transactions; so the same transactions, one after another with the same calls of Settle in between, make the same bytes.

// Settle makes progress with all that waits: interior updates, merges, node writes, caches that are too large. No transactions may be running. For
// stores that are not ordered it does nothing.
func (s *Store) Settle(ctx context.Context) error {
	if !s.cfg.Ordered {
		return nil
	}
	for did := true; did; {
		if err := s.writable(); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		did = s.interior.step(ctx, s)
		for !did && s.merges.step(ctx, s) {
			did = true
		}
		for !did && s.writes.step(s) {
			did = true
		}
	}
	if s.wb.len() >= wbFlushAt {
		if err := s.wb.flush(ctx); err != nil {
			s.fail(err)
			return err
		}
	}
	if s.keys.filled.Load() > s.keys.shrinkAt.Load() {
		s.keys.shrinkSome()
	}
	if s.cache.bytes.Load() > s.cache.budget {
		s.cache.shrink(ctx)
	}
	return nil
}

// MakeRoom makes progress with what the journal needs to be written before it has space again, for an ordered store. It may be called where
// transactions wait for that space.
func (s *Store) MakeRoom(ctx context.Context) {
	for s.writes.step(s) || s.interior.step(ctx, s) {
		if ctx.Err() != nil || s.writable() != nil {
			return
		}
	}
}

// settled waits until interior updates and merges have ended, as [Store.Quiesce] needs it.
func (s *Store) settled(ctx context.Context) {
	if !s.cfg.Ordered {
		s.merges.drain()
		s.interior.drain()
		return
	}
	for s.interior.step(ctx, s) || s.merges.step(ctx, s) || s.writes.step(s) {
		if ctx.Err() != nil || s.writable() != nil {
			s.interior.drop()
			return
		}
	}
}

// step completes one update, the oldest; it is false if there is none.
func (q *interiorQueue) step(ctx context.Context, s *Store) bool {
	q.mu.Lock()
	some := len(q.queue) > 0 && !q.stepping // completing one may need space that others are asked for
	q.stepping = q.stepping || some
	q.mu.Unlock()
	if some {
		q.completeOne(ctx, s)
		q.stepping = false
	}
	return some
}

// drop forgets updates that will not be completed any more.
func (q *interiorQueue) drop() {
	q.mu.Lock()
	q.queue = nil
	q.mu.Unlock()
}

// step writes one node of those that are to be written; it is false if there is none.
func (q *writeQueue) step(s *Store) bool {
	b := q.next()
	if b != nil {
		_, _ = s.writeNode(b) // an error was told to all
	}
	return b != nil
}

// inOrder puts slots in the order of their keys.
func inOrder(slots []*slot) {
	slices.SortFunc(slots, func(a, b *slot) int {
		return cmp.Or(cmp.Compare(a.at.btree, b.at.btree), a.at.pos.Compare(b.at.pos))
	})
}

// shrinkOrdered is shrink, but that the same slots are dropped each time.
func (c *keyCache) shrinkOrdered(want int64) {
	var all []*slot
	for i := range c.shards {
		for _, s := range c.shards[i].slots { // nobody else is there
			all = append(all, s)
		}
	}
	inOrder(all)
	for _, s := range all {
		if c.filled.Load() <= want {
			return
		}
		sh := c.shard(s.at)
		sh.mu.Lock()
		c.dropClean(sh, s)
		sh.mu.Unlock()
	}
}

// orderedThrottle completes updates that too many wait for.
func (q *interiorQueue) orderedThrottle(s *Store) {
	for {
		q.mu.Lock()
		many := len(q.queue) > maxInterior
		q.mu.Unlock()
		if !many || !q.step(s.ctx, s) {
			return
		}
	}
}
