package trans

import (
	"context"
	"errors"
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

	parent *bnode // that is blocked; nil if the root was replaced
	pin    journal.Pin

	written chan struct{} // closed when the new nodes are written
	err     error         // of that
}

// newNode is a node that an interior update makes.
type newNode struct {
	b     *bnode
	space NodeSpace
	write node.Write
}

// interiorKey is the change of one pointer.
type interiorKey struct {
	level    uint8 // of the node that holds it
	old, new ondisk.Key
	root     bool // new is the root
}

// rootPointer marks the update of a root: it is journalled as one.
const rootPointer UpdateFlags = 1 << 7

// maxPtrU64s is the size of the largest pointer to a node.
const maxPtrU64s = keyU64s + 5 + 4

// interiorQueue holds the updates that are not durable yet, in order. One goroutine completes them.
type interiorQueue struct {
	mu    sync.Mutex
	queue []*interiorUpdate
	wake  chan struct{} // of capacity 1
	space *sync.Cond    // somebody waits for the queue to get shorter, or empty
	wg    sync.WaitGroup
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

// grow makes room in the node that covers p for keys of n words: by splitting it or writing it anew.
func (s *Store) grow(ctx context.Context, b *bnode, p ondisk.Pos, n int, w journal.Watermark) error {
	g := growth{s: s, tree: b.tree, level: b.level, at: p, words: n, watermark: raise(w)}
	defer g.release()
	s.interior.throttle(w)
	return s.run(ctx, g.watermark, false, g.try)
}

// growth is the state of one call of grow, over restarts.
type growth struct {
	s         *Store
	tree      *tree
	level     uint8
	at        ondisk.Pos
	words     int // 0: the node is to be written anew whether it has room or not
	watermark journal.Watermark
	spaces    []NodeSpace // allocated, not used yet
	extra     int         // more nodes than are thought to be needed
}

func (g *growth) release() {
	for i := range g.spaces {
		g.spaces[i].release()
	}
	g.spaces = nil
}

func (g *growth) try(tx *Tx) error {
	b, err := tx.lockNode(g.tree, g.level, g.at, six.Intent)
	if err != nil {
		return err
	}
	if b == nil {
		return nil
	}
	if !b.fake && g.words > 0 && b.keys.Room(g.words) {
		return nil // somebody was here before
	}
	chain := []*bnode{b}
	var parent *bnode
	need := max(b.keys.Parts(), 1)
	for top := b; !g.isRoot(top); {
		p, err := tx.lockNode(g.tree, top.level+1, g.at, six.Intent)
		if err != nil {
			return err
		}
		if p.keys.Room(top.keys.Parts() * maxPtrU64s) {
			parent = p
			break
		}
		chain = append(chain, p)
		top = p
		need += max(p.keys.Parts(), 1) + 1
	}
	need += 1 + g.extra // a new root
	if len(g.spaces) < need {
		return g.allocate(tx, need-len(g.spaces))
	}
	return g.replace(tx, chain, parent)
}

func (g *growth) isRoot(b *bnode) bool { return g.tree.root.Load() == b.self }

// allocate gets space for n more nodes. If that takes waiting the locks are given up, and the transaction restarts.
func (g *growth) allocate(tx *Tx, n int) error {
	spaces, err := g.s.cfg.Alloc.AllocNodes(tx.ctx, n, g.watermark, true)
	if errors.Is(err, ErrWouldBlock) {
		tx.unlock()
		spaces, err = g.s.cfg.Alloc.AllocNodes(tx.ctx, n, g.watermark, false)
	}
	g.spaces = append(g.spaces, spaces...)
	if err != nil {
		return err
	}
	return restartSplit
}

// replace makes the new nodes of a chain, from the bottom up, and puts them in place of the old ones.
func (g *growth) replace(tx *Tx, chain []*bnode, parent *bnode) error {
	u := &interiorUpdate{tree: g.tree, olds: chain, parent: parent, written: make(chan struct{})}
	var below []*child // that replace the node below
	for i, b := range chain {
		keys := b.keys
		if i > 0 {
			keys = b.keys.Compact(g.s.newSeq())
			for _, c := range below {
				keys.Set(c.key.Load(), 0)
			}
		}
		made, err := g.remake(u, b, keys, i > 0)
		if err != nil {
			return err
		}
		g.linkBelow(made, b, below)
		below = below[:0:0]
		for _, m := range made {
			below = append(below, m.self)
		}
	}
	top := chain[len(chain)-1]
	if parent == nil && len(below) > 1 {
		root, err := g.newRoot(u, top, below)
		if err != nil {
			return err
		}
		below = []*child{root.self}
	}
	g.describe(u, chain)
	return g.publish(tx, u, top, below)
}

// remake makes the nodes that take over the keys of an old node b.
func (g *growth) remake(u *interiorUpdate, b *bnode, keys *node.Node, copied bool) ([]*bnode, error) {
	s := g.s
	var parts []*node.Node
	switch n := keys.Parts(); {
	case n == 1 && copied:
		parts = []*node.Node{keys}
	case n == 1:
		parts = []*node.Node{keys.Compact(s.newSeq())}
	case n == 2:
		l, r, err := keys.Split([2]uint64{s.newSeq(), s.newSeq()}, nil)
		if err != nil {
			return nil, err
		}
		parts = []*node.Node{l, r}
	default:
		seqs := make([]uint64, n)
		for i := range seqs {
			seqs[i] = s.newSeq()
		}
		var err error
		if parts, err = keys.SplitN(seqs, nil); err != nil {
			return nil, err
		}
	}
	var made []*bnode
	for _, keys := range parts {
		m, err := g.makeNode(u, keys)
		if err != nil {
			return nil, err
		}
		made = append(made, m)
	}
	return made, nil
}

// makeNode gives new keys a place and prepares their first write.
func (g *growth) makeNode(u *interiorUpdate, keys *node.Node) (*bnode, error) {
	s := g.s
	if len(g.spaces) == 0 {
		g.extra++ // more than was expected
		return nil, g.undo(u, restartSplit)
	}
	w, err := keys.PrepareWrite(&s.writeParams)
	if err != nil {
		return nil, err
	}
	space := g.spaces[len(g.spaces)-1]
	g.spaces = g.spaces[:len(g.spaces)-1]
	id := keys.Identity()
	ptr := ondisk.BtreePtr{V2: true, Seq: id.Seq, SectorsWritten: uint16(w.End), Min: keys.Min(), Max: keys.Max()}
	for _, a := range space.Addrs {
		ptr.Ptrs = ondisk.AppendNodeAddr(ptr.Ptrs, a)
	}
	c := newChild(id.Level, ptr.Key())
	b := s.newNode(g.tree, c, keys.Min(), keys.Max())
	b.keys, b.owner = keys, u
	c.node.Store(b)
	u.news = append(u.news, newNode{b: b, space: space, write: w})
	return b, nil
}

// linkBelow gives new interior nodes their indexes: the children of the old node, with those replaced that the update made.
func (g *growth) linkBelow(made []*bnode, old *bnode, below []*child) {
	if old.level == 0 {
		return
	}
	x := old.index.Load()
	if len(below) > 0 {
		x = x.replace(below[0].key.Load().Pos, below[len(below)-1].key.Load().Pos, below)
	}
	for _, m := range made {
		lo, hi := x.find(m.min), x.find(m.max)+1
		m.index.Store(&index{maxes: x.maxes[lo:hi:hi], children: x.children[lo:hi:hi]})
	}
}

// newRoot makes a root above the nodes that replace the old one.
func (g *growth) newRoot(u *interiorUpdate, old *bnode, below []*child) (*bnode, error) {
	if old.level+1 >= journal.MaxLevels {
		return nil, fmt.Errorf("btree %v is full: it would need more than %d levels", g.tree.id, journal.MaxLevels)
	}
	p := g.s.nodeParams(g.tree.id, old.level+1)
	p.Seq, p.Min, p.Max = g.s.newSeq(), ondisk.PosMin, ondisk.SPosMax
	keys := node.New(p)
	x := &index{}
	for _, c := range below {
		k := c.key.Load()
		keys.Set(k, 0)
		x.maxes = append(x.maxes, k.Pos)
		x.children = append(x.children, c)
	}
	b, err := g.makeNode(u, keys)
	if err != nil {
		return nil, err
	}
	b.index.Store(x)
	return b, nil
}

// describe lists the pointers that change: for each level what the old nodes' were and the new ones' are.
func (g *growth) describe(u *interiorUpdate, olds []*bnode) {
	at := func(level uint8, p ondisk.Pos) *interiorKey {
		for i := range u.keys {
			if k := &u.keys[i]; k.level == level && k.new.Pos == p {
				return k
			}
		}
		u.keys = append(u.keys, interiorKey{level: level, old: ondisk.Key{Pos: p}, new: ondisk.Key{Pos: p}})
		return &u.keys[len(u.keys)-1]
	}
	for _, b := range olds {
		if !b.fake {
			at(b.level+1, b.max).old = *b.self.key.Load()
		}
	}
	for _, n := range u.news {
		at(n.b.level+1, n.b.max).new = *n.b.self.key.Load()
	}
}

// publish puts the new nodes in place and queues the update for what is left to do.
func (g *growth) publish(tx *Tx, u *interiorUpdate, top *bnode, below []*child) error {
	s := g.s
	// All locks first: from the first change on there is no way back.
	if u.parent != nil {
		if err := tx.lockMore(u.parent, six.Exclusive); err != nil {
			return g.undo(u, err)
		}
	}
	for _, b := range u.olds {
		if err := tx.lockMore(b, six.Exclusive); err != nil {
			return g.undo(u, err)
		}
	}
	for _, n := range u.news { // not evicted before they are reachable
		s.cache.add(n.b, int64(n.b.keys.MemBytes()))
	}
	if p := u.parent; p != nil {
		for i := range u.keys {
			if k := &u.keys[i]; k.level == p.level {
				if k.new.Type == ondisk.KeyDeleted {
					p.keys.Delete(k.new.Pos, 0)
				} else {
					p.keys.Set(&k.new, 0)
				}
			}
		}
		p.index.Store(p.index.Load().replace(u.first(p.level), top.max, below))
		p.wmu.Lock()
		p.blocked++
		p.wmu.Unlock()
	} else {
		g.tree.root.Store(below[0])
		for i := range u.keys {
			u.keys[i].root = u.keys[i].level == below[0].level+1 && u.keys[i].new.Type != ondisk.KeyDeleted
		}
	}
	for _, b := range u.olds {
		s.addPinOf(&u.pin, &b.pin, journal.PinInteriorUpdate, noFlush)
		s.addPinOf(&u.pin, &b.writePin, journal.PinInteriorUpdate, noFlush)
		if b.pinned {
			s.journal.DropPin(&b.pin)
			b.pinned = false
		}
		b.dead.Store(true)
		s.cache.remove(b)
	}
	s.interior.enqueue(s, u)
	return nil
}

// first is the position of the first child below level that the update replaces.
func (u *interiorUpdate) first(level uint8) ondisk.Pos {
	p := ondisk.SPosMax
	for i := range u.keys {
		if k := &u.keys[i]; k.level == level && k.new.Pos.Less(p) {
			p = k.new.Pos
		}
	}
	return p
}

// undo gives the spaces back of an update that was not published.
func (g *growth) undo(u *interiorUpdate, err error) error {
	for _, n := range u.news {
		g.spaces = append(g.spaces, n.space)
	}
	return err
}

// enqueue starts the writes of an update and queues what comes after them. The caller holds the exclusive lock of the ancestor, so that the
// order of the queue is the one of the changes.
func (q *interiorQueue) enqueue(s *Store, u *interiorUpdate) {
	q.wg.Go(func() {
		u.err = s.writeNew(u)
		close(u.written)
	})
	q.mu.Lock()
	q.queue = append(q.queue, u)
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// throttle waits while too many updates are in progress, unless they themselves may depend on the caller.
func (q *interiorQueue) throttle(w journal.Watermark) {
	if w >= journal.WatermarkBtree {
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
			if len(q.queue) == 0 {
				q.mu.Unlock()
				break
			}
			u := q.queue[0]
			q.mu.Unlock()
			if err := s.finish(ctx, u); err != nil {
				s.fail(fmt.Errorf("btree %v: new nodes cannot be made reachable: %w", u.tree.id, err))
			}
			q.mu.Lock()
			q.queue[0] = nil
			q.queue = q.queue[1:]
			q.space.Broadcast()
			q.mu.Unlock()
		}
	}
}

// writeNew writes the new nodes of an update.
func (s *Store) writeNew(u *interiorUpdate) error {
	for i := range u.news {
		n := &u.news[i]
		if err := s.failed(); err != nil {
			return err
		}
		if err := s.cfg.WriteNode(s.ctx, n.space.Addrs, n.write.Off, n.write.Buf); err != nil {
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
	var hold journal.Pin // keeps the entry until the ancestor does
	err := s.run(ctx, journal.WatermarkInteriorUpdates, true, func(tx *Tx) error {
		for i := range u.keys {
			k := &u.keys[i]
			flags := applied
			if k.root {
				flags |= rootPointer
			}
			tx.addInterior(u.tree.id, k.level, k.old, k.new, flags)
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
				s.cache.dirtied(n.b)
			}
		}
		if p := u.parent; p != nil {
			p.wmu.Lock()
			p.blocked--
			if p.wanted && p.blocked == 0 {
				again = append(again, p)
			}
			p.wmu.Unlock()
			if p.dead.Load() {
				return nil
			}
			p.keys.NoteSeq(seq)
			s.journal.AddPin(seq, &p.pin, journal.PinBtreeNode, s.flushNode)
			p.pinned = true
			s.cache.dirtied(p)
		}
		return nil
	})
	for _, b := range again {
		s.wg.Go(func() { s.writeSoon(b) })
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
