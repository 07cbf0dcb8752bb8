package trans

import (
	"context"
	"fmt"
	"sync"

	"github.com/go-bcachefs/bcachefs/internal/journal"
	"github.com/go-bcachefs/bcachefs/internal/node"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/six"
)

// An interiorUpdate replaces nodes by others: a split, the merge of two, a node that is written anew, the first node of a
// btree, a new root.
//
// In memory it happens at once, under the locks of the nodes concerned and of the lowest ancestor that has room for the pointers. On the
// devices it takes longer: the new nodes are written; then one transaction journals the pointers with what they cause in the
// allocation btrees; from then on the new nodes can be reached after a crash. Until then
//
//   - the ancestor is not written, as its pointers lead to what may not be there (bnode.blocked),
//   - the new nodes are not written again, as no pointer could tell (bnode.reachable),
//   - the journal keeps what the old nodes had not written (pin).
//
// Updates become durable in the order in which they changed their ancestors.
type interiorUpdate struct {
	tree *tree
	olds []*bnode
	news []newNode
	keys []interiorKey

	parent *bnode // that is blocked; nil if there is a new root
	pin    journal.Pin

	written chan struct{} // closed when the new nodes are written
	err     error         // of that
	done    chan struct{} // closed when nothing is left to do; made by who waits, under the queue's mutex
}

// newNode is a node that an interior update makes.
type newNode struct {
	b     *bnode
	space NodeSpace
	write node.Write
	lost  []ondisk.NodeAddr // replicas that could not be written
}

// interiorKey is the change of one pointer.
type interiorKey struct {
	level    uint8 // of the node that holds it
	old, new ondisk.Key
	flags    UpdateFlags // applied, and:
}

// Flags of updates of pointers.
const (
	rootPointer UpdateFlags = 1 << (7 - iota) // it is the root's: journalled as one
	noRecord                                  // nothing is journalled, as no node has it: a root that goes away
)

// maxPtrU64s is the size of the largest pointer to a node.
const maxPtrU64s = keyU64s + 5 + 4

// interiorQueue holds the updates that are not durable yet, in order. One goroutine completes them.
type interiorQueue struct {
	mu    sync.Mutex
	queue []*interiorUpdate
	wake  chan struct{} // of capacity 1
	space *sync.Cond    // somebody waits for the queue to get shorter, or empty

	stepping bool // of an ordered store: one is being completed
	wg       sync.WaitGroup
}

// maxInterior is how many updates may wait before those who cause more have to wait too.
const maxInterior = 64

// raise returns the watermark of interior updates on behalf of a transaction.
func raise(w journal.Watermark) journal.Watermark {
	switch {
	case w < journal.WatermarkCopygc:
		return journal.WatermarkBtree
	case w == journal.WatermarkCopygc:
		return journal.WatermarkBtreeCopygc
	}
	return w
}

// enqueue starts the writes of an update and queues what comes after them. The caller holds the exclusive lock of the ancestor or the new root, so that the
// order of the queue is the one of the changes.
func (q *interiorQueue) enqueue(s *Store, u *interiorUpdate) {
	write := func() {
		u.err = s.writeNew(u)
		close(u.written)
	}
	if s.cfg.Ordered {
		write()
	} else {
		q.wg.Go(write)
	}
	q.mu.Lock()
	q.queue = append(q.queue, u)
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// throttle waits while too many updates are in progress, unless they themselves may depend on the caller.
func (q *interiorQueue) throttle(s *Store, w journal.Watermark) {
	if w >= journal.WatermarkBtree {
		return
	}
	if s.cfg.Ordered {
		q.orderedThrottle(s)
		return
	}
	q.mu.Lock()
	for len(q.queue) > maxInterior {
		q.space.Wait()
	}
	q.mu.Unlock()
}

// drain waits until no update is in progress.
func (q *interiorQueue) drain() {
	q.mu.Lock()
	for len(q.queue) > 0 {
		q.space.Wait()
	}
	q.mu.Unlock()
}

// WaitInterior waits until the changes of btrees that have begun are durable: nodes that were replaced have given up their space.
func (s *Store) WaitInterior(ctx context.Context) error {
	q := &s.interior
	for s.cfg.Ordered && q.step(ctx, s) {
		continue
	}
	q.mu.Lock()
	n := len(q.queue)
	if n == 0 {
		q.mu.Unlock()
		return s.writable()
	}
	last := q.queue[n-1]
	if last.done == nil {
		last.done = make(chan struct{})
	}
	done := last.done
	q.mu.Unlock()
	select {
	case <-done:
		return s.writable()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// idle reports whether no update is in progress.
func (q *interiorQueue) idle() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.queue) == 0
}

// noFlush is for pins of what ends by itself.
func noFlush(context.Context, *journal.Pin, uint64) error { return nil }

// completeInterior makes updates durable, until the store is closed.
func (s *Store) completeInterior(ctx context.Context) {
	q := &s.interior
	for {
		select {
		case <-q.wake:
		case <-ctx.Done():
			return
		}
		for {
			q.mu.Lock()
			some := len(q.queue) > 0
			q.mu.Unlock()
			if !some {
				break
			}
			q.completeOne(ctx, s)
		}
	}
}

// completeOne makes the oldest update durable.
func (q *interiorQueue) completeOne(ctx context.Context, s *Store) {
	q.mu.Lock()
	u := q.queue[0]
	q.mu.Unlock()
	if err := s.finish(ctx, u); err != nil {
		s.fail(fmt.Errorf("btree %v: new nodes cannot be made reachable: %w", u.tree.id, err))
	}
	q.mu.Lock()
	if u.done != nil {
		close(u.done)
	}
	q.queue[0] = nil
	q.queue = q.queue[1:]
	q.space.Broadcast()
	q.mu.Unlock()
}

// writeNew writes the new nodes of an update.
func (s *Store) writeNew(u *interiorUpdate) error {
	for i := range u.news {
		n := &u.news[i]
		if err := s.writable(); err != nil {
			return err
		}
		var err error
		if n.lost, err = s.writeReplicas(n.space.Addrs, n.write.Off, n.write.Buf); err != nil {
			return err
		}
		n.write.Buf = nil
	}
	return nil
}

// finish makes an update durable.
func (s *Store) finish(ctx context.Context, u *interiorUpdate) error {
	<-u.written
	if u.err != nil {
		return u.err
	}
	for _, b := range u.olds { // their space is about to be free
		b.waitWrite()
	}
	if s.cfg.MarkNodes != nil {
		for _, n := range u.news {
			if err := s.cfg.MarkNodes(ctx, n.space.Addrs); err != nil {
				return err
			}
		}
	}
	u.dropLost()
	var hold journal.Pin // keeps the entry until the ancestor does
	err := s.run(ctx, journal.WatermarkInteriorUpdates, true, func(tx *Tx) error {
		for i := range u.keys {
			k := &u.keys[i]
			if n := u.lossy(k); n != nil {
				parent, err := tx.lockPointer(n.b)
				switch {
				case err != nil:
					return err
				case !n.b.dead.Load():
					tx.setPointer(n.b, parent, k.old, k.new, k.flags)
					continue
				}
				n.b.replacedBy.replaces(k)
			}
			tx.addInterior(u.tree.id, k.level, k.old, k.new, applied|k.flags)
		}
		tx.OnCommit(func(seq uint64) {
			s.journal.AddPin(seq, &hold, journal.PinInteriorUpdate, noFlush)
		})
		return nil
	})
	if err != nil {
		return err
	}
	seq := s.journal.PinSeq(&hold)
	if err := s.unblock(ctx, u, seq); err != nil {
		return err
	}
	s.journal.DropPin(&hold)
	s.journal.DropPin(&u.pin)
	for _, n := range u.news {
		n.space.release()
	}
	return nil
}

// dropLost takes from the new pointers the replicas that could not be written.
func (u *interiorUpdate) dropLost() {
	for i := range u.keys {
		k := &u.keys[i]
		if n := u.lossy(k); n != nil {
			ptr, err := ondisk.DecodeBtreePtr(k.new)
			if err != nil {
				panic(fmt.Sprintf("btree %v: pointer to a new node: %v", u.tree.id, err)) // it was made here
			}
			ptr = without(ptr, n.lost)
			k.new = ptr.Key()
		}
	}
}

// lossy returns the new node that the update of a pointer leads to if not all its replicas were written, else nil.
func (u *interiorUpdate) lossy(k *interiorKey) *newNode {
	for i := range u.news {
		if n := &u.news[i]; len(n.lost) > 0 && n.b.level+1 == k.level && n.b.max == k.new.Pos {
			return n
		}
	}
	return nil
}

// replaces tells a later update of what a pointer is that it replaces.
func (u *interiorUpdate) replaces(k *interiorKey) {
	for i := range u.keys {
		if o := &u.keys[i]; o.level == k.level && o.old.Pos == k.new.Pos {
			o.old = k.new
		}
	}
}

// unblock lets the ancestor and the new nodes be written.
func (s *Store) unblock(ctx context.Context, u *interiorUpdate, seq uint64) error {
	var again []*bnode
	err := s.run(ctx, journal.WatermarkInteriorUpdates, false, func(tx *Tx) error {
		for _, n := range u.news {
			if err := tx.lockExclusive(n.b); err != nil {
				return err
			}
		}
		if u.parent != nil {
			if err := tx.lockExclusive(u.parent); err != nil {
				return err
			}
		}
		again = again[:0]
		for _, n := range u.news {
			n.b.keys.WriteDone()
			n.b.wmu.Lock()
			n.b.reachable, n.b.owner = true, nil
			if n.b.wanted {
				again = append(again, n.b)
			}
			n.b.wmu.Unlock()
			if n.b.keys.Dirty() {
				s.cache.resized(n.b)
			}
		}
		if p := u.parent; p != nil {
			p.wmu.Lock()
			p.blocked--
			if p.wanted && p.blocked == 0 {
				again = append(again, p)
			}
			p.wmu.Unlock()
			if by := p.replacedBy; by != nil {
				// What took its place has the pointers too, but is not reachable yet: until then it takes the entry to find them.
				s.journal.AddPin(seq, &by.pin, journal.PinInteriorUpdate, noFlush)
				return nil
			}
			p.keys.NoteSeq(seq)
			s.journal.AddPin(seq, &p.pin, journal.PinBtreeNode, s.flushNode)
			p.pinned = true
			s.cache.resized(p)
		}
		return nil
	})
	for _, b := range again {
		s.writeSoon(b)
	}
	return err
}

// lockExclusive locks a node, whether it is dead or alive.
func (tx *Tx) lockExclusive(b *bnode) error {
	if err := tx.lock(&b.lock, six.Intent); err != nil {
		return err
	}
	return tx.lock(&b.lock, six.Exclusive)
}

// addInterior queues the update of a pointer that is in its node already.
func (tx *Tx) addInterior(btree ondisk.BtreeID, level uint8, old, k ondisk.Key, flags UpdateFlags) {
	i, pending := tx.find(btree, level, k.Pos)
	if pending {
		panic(fmt.Sprintf("btree %v level %d: two updates of the pointer at %v", btree, level, k.Pos))
	}
	tx.updates = append(tx.updates, update{})
	copy(tx.updates[i+1:], tx.updates[i:])
	tx.updates[i] = update{btree: btree, level: level, key: k, old: old, flags: flags}
}
