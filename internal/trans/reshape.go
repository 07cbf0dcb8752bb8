package trans

import (
	"errors"

	"github.com/go-bcachefs/bcachefs/internal/journal"
	"github.com/go-bcachefs/bcachefs/internal/node"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/six"
)

// errMoreNodes means that an update makes more nodes than space was allocated for.
var errMoreNodes = errors.New("space for more nodes is needed")

// reshape is what all makers of interior updates share.
type reshape struct {
	s         *Store
	tree      *tree
	watermark journal.Watermark
	spaces    []NodeSpace // allocated, not used yet
}

func (r *reshape) release() {
	for i := range r.spaces {
		r.spaces[i].giveBack()
	}
	r.spaces = nil
}

func (r *reshape) isRoot(b *bnode) bool { return r.tree.root.Load() == b.self }

// allocate gets space for n more nodes. If that takes waiting the locks are given up. The transaction restarts.
func (r *reshape) allocate(tx *Tx, n int) error {
	spaces, err := r.s.cfg.Alloc.AllocNodes(tx.ctx, n, r.watermark, true)
	if errors.Is(err, ErrWouldBlock) {
		tx.unlock()
		spaces, err = r.s.cfg.Alloc.AllocNodes(tx.ctx, n, r.watermark, false)
	}
	r.spaces = append(r.spaces, spaces...)
	if err != nil {
		return err
	}
	return restartSplit
}

// makeNode gives new keys a place and prepares their first write.
func (r *reshape) makeNode(u *interiorUpdate, keys *node.Node) (*bnode, error) {
	if len(r.spaces) == 0 {
		return nil, errMoreNodes
	}
	w, err := keys.PrepareWrite(&r.s.writeParams)
	if err != nil {
		return nil, err
	}
	space := r.spaces[len(r.spaces)-1]
	r.spaces = r.spaces[:len(r.spaces)-1]
	id := keys.Identity()
	ptr := ondisk.BtreePtr{V2: true, Seq: id.Seq, SectorsWritten: uint16(w.End), Min: keys.Min(), Max: keys.Max()}
	for _, a := range space.Addrs {
		ptr.Ptrs = ondisk.AppendNodeAddr(ptr.Ptrs, a)
	}
	c := newChild(id.Level, ptr.Key())
	b := r.s.newNode(r.tree, c, keys.Min(), keys.Max())
	b.keys, b.owner = keys, u
	c.node.Store(b)
	u.news = append(u.news, newNode{b: b, space: space, write: w})
	return b, nil
}

// undo gives the spaces back of an update that was not published.
func (r *reshape) undo(u *interiorUpdate, err error) error {
	for _, n := range u.news {
		r.spaces = append(r.spaces, n.space)
	}
	return err
}

// describe lists the pointers that change: for each level what the old nodes' were and the new ones' are.
func (u *interiorUpdate) describe() {
	at := func(level uint8, p ondisk.Pos) *interiorKey {
		for i := range u.keys {
			if k := &u.keys[i]; k.level == level && k.new.Pos == p {
				return k
			}
		}
		u.keys = append(u.keys, interiorKey{level: level, old: ondisk.Key{Pos: p}, new: ondisk.Key{Pos: p}})
		return &u.keys[len(u.keys)-1]
	}
	for _, b := range u.olds {
		if !b.fake {
			at(b.level+1, b.max).old = *b.self.key.Load()
		}
	}
	for _, n := range u.news {
		at(n.b.level+1, n.b.max).new = *n.b.self.key.Load()
	}
}

// newRoot is the new root of an update that no ancestor is changed by.
func (u *interiorUpdate) newRoot() *bnode { return u.news[len(u.news)-1].b }

// publish locks exclusively what an update changes, makes the change with link, and queues what is left to do. From the first change on nothing
// fails.
//
// Whoever changes the same pointers needs the lock of the ancestor, or if there is none of the new root, which anybody can find before the update is
// queued: so the order of the queue is that of the changes.
func (r *reshape) publish(tx *Tx, u *interiorUpdate, link func()) error {
	s := r.s
	if u.parent != nil {
		if err := tx.lockMore(u.parent, six.Exclusive); err != nil {
			return err
		}
	} else if err := tx.lockExclusive(u.newRoot()); err != nil {
		return err
	}
	for _, b := range u.olds {
		if err := tx.lockMore(b, six.Exclusive); err != nil {
			return err
		}
	}
	for _, n := range u.news { // not evicted before they are reachable
		s.cache.add(n.b, n.b.memBytes())
	}
	link()
	if p := u.parent; p != nil {
		p.wmu.Lock()
		p.blocked++
		p.wmu.Unlock()
	}
	for _, b := range u.olds {
		s.addPinOf(&u.pin, &b.pin, journal.PinInteriorUpdate, noFlush)
		s.addPinOf(&u.pin, &b.writePin, journal.PinInteriorUpdate, noFlush)
		if b.pinned {
			s.journal.DropPin(&b.pin)
			b.pinned = false
		}
		b.replacedBy = u
		b.dead.Store(true)
		s.cache.remove(b)
	}
	s.interior.enqueue(s, u)
	return nil
}

// linkInto makes the update's changes in the node that holds the pointers, which is locked exclusively: below replace all children from the
// first position that changes to the last.
func (u *interiorUpdate) linkInto(p *bnode, below []*child) {
	first, last := ondisk.SPosMax, ondisk.PosMin
	for i := range u.keys {
		k := &u.keys[i]
		if k.level != p.level {
			continue
		}
		if k.new.Type == ondisk.KeyDeleted {
			p.keys.Delete(k.new.Pos, 0)
		} else {
			p.keys.Set(&k.new, 0)
		}
		if k.new.Pos.Less(first) {
			first = k.new.Pos
		}
		if last.Less(k.new.Pos) {
			last = k.new.Pos
		}
	}
	p.index.Store(p.index.Load().replace(first, last, below))
}
