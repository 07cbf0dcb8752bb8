package trans

import (
	"github.com/go-bcachefs/bcachefs/internal/node"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/six"
)

// IterFlags say what an [Iter] shows and locks.
type IterFlags uint16

// Flags of iterators.
const (
	// Intent locks what the iterator comes to for intent rather than shared: the caller means to update it.
	Intent IterFlags = 1 << iota
	// AllSnapshots shows the keys of all snapshots as they are, whiteouts too; without it a btree with snapshots shows what the
	// snapshot of the iterator's position sees.
	AllSnapshots
	// NotExtents treats the keys of a btree of extents as points at their ends.
	NotExtents
	// OnlyCommitted hides the transaction's own pending updates.
	OnlyCommitted
	// Scanning gives up the locks of what the iterator has moved away from. What was read there may change before the
	// transaction ends.
	Scanning
	// Whiteouts shows whiteouts of snapshots as keys instead of what they say: nothing.
	Whiteouts
)

// Iter goes over the keys of a btree in order of position, both ways. It belongs to its transaction.
type Iter struct {
	tx    *Tx
	tree  *tree
	level uint8
	flags IterFlags

	filter  bool // by snapshot
	extents bool
	cached  bool

	pos ondisk.Pos // where the iterator stands
	end bool       // it stands behind all positions
	// behind: it has moved behind the key last shown. Where it shows extents of all snapshots others may end at the same slot.
	behind bool
	key    ondisk.Key // of the last Peek, for Advance

	leaf *bnode
	cur  node.Cursor // in leaf, valid if leaf is set
	slot *slot       // of the key last shown, if scanning
}

// Iter returns an iterator over the keys of a btree from p on. In btrees with snapshots p.Snapshot is the one whose view is
// shown, unless flags has [AllSnapshots]. It may be used until the transaction ends.
func (tx *Tx) Iter(btree ondisk.BtreeID, p ondisk.Pos, flags IterFlags) *Iter {
	it := tx.newIter()
	it.init(tx, btree, 0, p, flags)
	return it
}

// NodeIter returns an iterator over the pointers in the interior nodes of a level.
func (tx *Tx) NodeIter(btree ondisk.BtreeID, level uint8, p ondisk.Pos, flags IterFlags) *Iter {
	it := tx.newIter()
	it.init(tx, btree, level, p, flags|AllSnapshots|NotExtents)
	return it
}

// newIter returns an iterator that earlier transactions have used, if there is one.
func (tx *Tx) newIter() *Iter {
	if tx.nIters == len(tx.iters) {
		tx.iters = append(tx.iters, new(Iter))
	}
	tx.nIters++
	return tx.iters[tx.nIters-1]
}

func (it *Iter) init(tx *Tx, btree ondisk.BtreeID, level uint8, p ondisk.Pos, flags IterFlags) {
	it.reset(tx)
	it.tree, it.level, it.flags, it.pos = &tx.s.trees[btree], level, flags, p
	it.filter = flags&AllSnapshots == 0 && btree.Has(ondisk.BtreeHasSnapshots)
	it.extents = flags&NotExtents == 0 && btree.Has(ondisk.BtreeIsExtents)
	it.cached = level == 0 && tx.s.keys.caches(btree)
}

func (it *Iter) reset(tx *Tx) {
	*it = Iter{tx: tx}
}

// Pos is where the iterator stands.
func (it *Iter) Pos() ondisk.Pos { return it.pos }

// Seek moves the iterator to p.
func (it *Iter) Seek(p ondisk.Pos) { it.pos, it.end, it.behind = p, false, false }

func (it *Iter) kind() six.Kind {
	if it.flags&Intent != 0 {
		return six.Intent
	}
	return six.Shared
}

// at makes it.leaf the node that covers p, and moves the cursor to the first key there at p or behind. It is false if the btree is not
// that high.
func (it *Iter) at(p ondisk.Pos) (bool, error) {
	if b := it.leaf; b != nil && b.covers(p) {
		// Mostly the cursor is there, or right before it.
		if it.cur.Valid() {
			switch c := it.cur.Pos().Compare(p); {
			case c == 0:
				return true, nil
			case c < 0:
				it.cur.Next()
				if !it.cur.Valid() || !it.cur.Pos().Less(p) {
					return true, nil
				}
			}
		}
		it.cur = b.keys.Seek(p)
		return true, nil
	}
	old := it.leaf
	it.leaf = nil
	scan := it.flags&Scanning != 0
	b, err := it.tx.holdNode(it.tree, it.level, p, it.kind(), scan)
	if old != nil && scan {
		it.tx.leaveNode(old)
	}
	if err != nil {
		return false, err
	}
	if b == nil {
		return false, nil
	}
	it.leaf = b
	it.cur = b.keys.Seek(p)
	return true, nil
}

// Close gives up what a scanning iterator holds. Others need not be closed.
func (it *Iter) Close() {
	if it.flags&Scanning == 0 {
		return
	}
	if it.slot != nil {
		it.tx.leaveSlot(it.slot)
	}
	if it.leaf != nil {
		it.tx.leaveNode(it.leaf)
	}
	it.leaf, it.slot = nil, nil
}

// raw returns the first key at p or behind that is not deleted: what the leaf says, the key cache, and the transaction itself. The
// search ends behind last.
func (it *Iter) raw(p, last ondisk.Pos) (ondisk.Key, bool, error) {
	tx := it.tx
	ui, ue := 0, 0
	if it.flags&OnlyCommitted == 0 && len(tx.updates) > 0 {
		ui, _ = tx.find(it.tree.id, it.level, p)
		for ue = ui; ue < len(tx.updates) && tx.updates[ue].btree == it.tree.id && tx.updates[ue].level == it.level; ue++ {
		}
	}
	for {
		ok, err := it.at(p)
		if !ok {
			return ondisk.Key{}, false, err
		}
		if it.cur.Valid() {
			pos := it.cur.Pos()
			for ui < ue && tx.updates[ui].key.Pos.Less(pos) {
				if u := &tx.updates[ui]; u.key.Type != ondisk.KeyDeleted {
					return u.key, !last.Less(u.key.Pos), nil
				}
				ui++
			}
			if last.Less(pos) {
				return ondisk.Key{}, false, nil
			}
			if ui < ue && tx.updates[ui].key.Pos == pos {
				if u := &tx.updates[ui]; u.key.Type != ondisk.KeyDeleted {
					return u.key, true, nil
				}
				if !pos.Less(last) {
					return ondisk.Key{}, false, nil
				}
				ui++
				p = pos.Next()
				continue
			}
			k := it.cur.Key()
			if it.cached {
				if k, err = it.throughCache(k); err != nil {
					return ondisk.Key{}, false, err
				}
			}
			return k, true, nil
		}
		// The rest of the leaf is empty.
		end := it.leaf.max
		for ui < ue && !end.Less(tx.updates[ui].key.Pos) {
			if u := &tx.updates[ui]; u.key.Type != ondisk.KeyDeleted {
				return u.key, !last.Less(u.key.Pos), nil
			}
			ui++
		}
		if !end.Less(last) {
			return ondisk.Key{}, false, nil
		}
		p = end.Next()
	}
}

// throughCache returns what the key cache says of the position of k, which the leaf has, and holds its slot: the rule.
func (it *Iter) throughCache(k ondisk.Key) (ondisk.Key, error) {
	tx := it.tx
	scan := it.flags&Scanning != 0
	if it.slot != nil && it.slot.at.pos != k.Pos {
		tx.leaveSlot(it.slot)
		it.slot = nil
	}
	tx.hook(PointLookup, it.tree.id, k.Pos)
	if tx.s.cfg.Faults&FaultNoSlotRule != 0 && !tx.s.keys.isFilled(it.tree.id, k.Pos) {
		return k, nil
	}
	s := it.slot
	if s == nil {
		var err error
		if s, err = tx.holdSlot(it.tree.id, k.Pos, it.kind(), scan); err != nil {
			return k, err
		}
		if scan {
			it.slot = s
		}
	}
	if c := s.key.Load(); c != nil {
		return *c, nil
	}
	return k, nil
}

// Peek returns the first key that the iterator sees from where it stands on, and moves there. In a btree of extents that is the
// first whose end is behind the iterator's position; it may begin before.
func (it *Iter) Peek() (ondisk.Key, bool, error) { return it.PeekMax(ondisk.SPosMax) }

// PeekMax is Peek that ends behind end: at keys behind it or, in a btree of extents, at those that begin at it or behind. The snapshot of end
// does not matter to an iterator that shows what one snapshot sees.
func (it *Iter) PeekMax(end ondisk.Pos) (ondisk.Key, bool, error) {
	p := it.pos
	snapshot := it.pos.Snapshot
	if it.extents {
		if p = p.NextSlot(); it.filter {
			p.Snapshot = snapshot
		}
		if it.behind {
			p = it.key.Pos.Next()
		} else if slotLess(p, it.pos) {
			return ondisk.Key{}, false, nil // it stands at the very last slot
		}
	}
	if it.end {
		return ondisk.Key{}, false, nil
	}
	last := end
	switch {
	case it.extents:
		last = ondisk.Pos{Inode: end.Inode, Offset: ^uint64(0), Snapshot: ^uint32(0)}
	case it.filter:
		last.Snapshot = ^uint32(0)
	}
	for !last.Less(p) {
		k, ok, err := it.raw(p, last)
		if !ok || err != nil {
			return ondisk.Key{}, false, err
		}
		if it.filter {
			next := p
			switch {
			case k.Pos.Snapshot < snapshot:
				next = k.Pos.WithSnapshot(snapshot)
			case !it.tx.s.isAncestor(k.Pos.Snapshot, snapshot):
				next = k.Pos.Next()
			case k.Type == ondisk.KeyWhiteout && it.flags&Whiteouts == 0 || k.Type == ondisk.KeyExtentWhiteout:
				next = k.Pos.NextSlot().WithSnapshot(snapshot)
			}
			if next != p {
				if slotLess(next, k.Pos) {
					return ondisk.Key{}, false, nil // that was the very last slot
				}
				p = next
				continue
			}
		}
		pos := k.Pos
		if it.extents {
			if pos = k.Start(); slotLess(pos, it.pos) {
				pos = it.pos
			}
			if !slotLess(pos, end) {
				return ondisk.Key{}, false, nil
			}
		}
		if it.filter {
			pos.Snapshot = snapshot
		}
		it.pos, it.key, it.behind = pos, k, false
		return k, true, nil
	}
	return ondisk.Key{}, false, nil
}

// slotLess orders positions without looking at their snapshots.
func slotLess(p, q ondisk.Pos) bool {
	return p.Inode < q.Inode || p.Inode == q.Inode && p.Offset < q.Offset
}

// Advance moves behind the key that was shown last.
func (it *Iter) Advance() {
	snapshot := it.pos.Snapshot
	switch {
	case it.extents:
		it.pos = it.key.Pos
		it.behind = !it.filter
	case it.filter || it.flags&AllSnapshots == 0 && !it.tree.id.Has(ondisk.BtreeHasSnapshotField) && it.level == 0:
		it.pos = it.pos.NextSlot()
	default:
		it.pos = it.key.Pos.Next()
	}
	it.end = it.pos.Less(it.key.Pos.WithSnapshot(0))
	if it.filter || it.extents {
		it.pos.Snapshot = snapshot
	}
}

// Next is [Iter.Peek] after [Iter.Advance].
func (it *Iter) Next() (ondisk.Key, bool, error) {
	it.Advance()
	return it.Peek()
}

// PeekSlot returns what is at exactly the position where the iterator stands: in btrees of extents the one that covers it. If there is
// nothing ok is false and the key is of type deleted; in a btree of extents its size is that of the hole, as far as the inode and a
// key's size reach.
func (it *Iter) PeekSlot() (ondisk.Key, bool, error) {
	pos := it.pos
	switch {
	case it.extents:
		k, ok, err := it.PeekMax(ondisk.Pos{Inode: pos.Inode, Offset: ^uint64(0), Snapshot: ^uint32(0)})
		it.pos = pos
		if err != nil {
			return k, false, err
		}
		if ok && !slotLess(pos, k.Start()) {
			return k, true, nil
		}
		end := ^uint64(0)
		if ok {
			end = k.Start().Offset
		}
		size := min(end-pos.Offset, 1<<32-1)
		it.key = ondisk.Key{Pos: ondisk.Pos{Inode: pos.Inode, Offset: pos.Offset + size, Snapshot: pos.Snapshot}, Size: uint32(size)}
		return it.key, false, nil
	case it.filter:
		k, ok, err := it.PeekMax(pos)
		it.pos = pos
		if !ok {
			k = ondisk.Key{Pos: pos}
		}
		it.key = k
		return k, ok, err
	}
	k, err := it.exact(pos)
	it.key = k
	return k, k.Type != ondisk.KeyDeleted, err
}

// exact returns the key at exactly p, of type deleted if there is none.
func (it *Iter) exact(p ondisk.Pos) (ondisk.Key, error) {
	tx := it.tx
	if it.flags&OnlyCommitted == 0 && len(tx.updates) > 0 {
		if i, ok := tx.find(it.tree.id, it.level, p); ok {
			return tx.updates[i].key, nil
		}
	}
	if it.cached {
		s, err := tx.lockSlot(it.tree.id, p, it.kind())
		if err != nil {
			return ondisk.Key{}, err
		}
		return tx.fill(s)
	}
	ok, err := it.at(p)
	if ok {
		if k, ok := it.leaf.keys.Get(p); ok {
			return k, nil
		}
	}
	return ondisk.Key{Pos: p}, err
}

// PeekPrev returns the last key that the iterator sees at its position or before it, but not before start, and moves there. In a btree of extents that is the
// last one that begins before the position.
func (it *Iter) PeekPrev(start ondisk.Pos) (ondisk.Key, bool, error) {
	snapshot := it.pos.Snapshot
	p := it.pos
	if it.extents {
		// The extent that covers the position, or the first behind it, may begin before.
		k, ok, err := it.PeekSlot()
		if err != nil {
			return k, false, err
		}
		if ok && slotLess(k.Start(), it.pos) {
			it.pos = k.Start().WithSnapshot(snapshot)
			return k, true, nil
		}
		it.pos = p
	}
	if it.filter {
		p.Snapshot = ^uint32(0)
	}
	for {
		k, ok, err := it.rawPrev(p, start)
		if !ok || err != nil {
			return ondisk.Key{}, false, err
		}
		if !it.filter {
			it.pos, it.key = k.Pos, k
			if it.extents {
				it.pos = k.Start()
			}
			return k, true, nil
		}
		// Something is at the slot; what of it the snapshot sees is looked for forwards.
		back := it.pos
		it.pos = k.Pos.WithSnapshot(snapshot)
		seen, ok, err := it.seenAt(k.Pos)
		if err != nil {
			it.pos = back
			return k, false, err
		}
		if ok {
			it.key = seen
			if it.extents {
				it.pos = seen.Start().WithSnapshot(snapshot)
			}
			return seen, true, nil
		}
		it.pos = back
		slot := k.Pos.WithSnapshot(0)
		if slot == ondisk.PosMin {
			return ondisk.Key{}, false, nil
		}
		p = slot.Prev()
	}
}

// seenAt returns the key at exactly the slot of p that the iterator's snapshot sees.
func (it *Iter) seenAt(p ondisk.Pos) (ondisk.Key, bool, error) {
	ext := it.extents
	it.extents = false
	k, ok, err := it.PeekMax(p)
	it.extents = ext
	return k, ok, err
}

// rawPrev returns the last key at p or before that is not deleted, and not before first.
func (it *Iter) rawPrev(p, first ondisk.Pos) (ondisk.Key, bool, error) {
	tx := it.tx
	for {
		ok, err := it.at(p)
		if !ok {
			return ondisk.Key{}, false, err
		}
		c := it.cur
		if !c.Valid() || p.Less(c.Pos()) {
			c.Prev()
		}
		var u *update
		if it.flags&OnlyCommitted == 0 && len(tx.updates) > 0 {
			i, exact := tx.find(it.tree.id, it.level, p)
			if !exact {
				i--
			}
			if i >= 0 && tx.updates[i].btree == it.tree.id && tx.updates[i].level == it.level && it.leaf.covers(tx.updates[i].key.Pos) {
				u = &tx.updates[i]
			}
		}
		var at ondisk.Pos
		switch {
		case u != nil && (!c.Valid() || !u.key.Pos.Less(c.Pos())):
			at = u.key.Pos
			if u.key.Type != ondisk.KeyDeleted && !at.Less(first) {
				return u.key, true, nil
			}
		case c.Valid():
			at = c.Pos()
			if at.Less(first) {
				return ondisk.Key{}, false, nil
			}
			k := c.Key()
			if it.cached {
				if k, err = it.throughCache(k); err != nil {
					return k, false, err
				}
			}
			return k, true, nil
		default:
			at = it.leaf.min
		}
		if at == ondisk.PosMin || !first.Less(at) {
			return ondisk.Key{}, false, nil
		}
		p = at.Prev()
	}
}

// Get returns the key at exactly pos; in btrees of extents the one that covers the slot at pos. If there is none ok is false and
// the key is of type deleted. In btrees with a key cache the position's slot stays locked until the transaction ends, as the leaf does
// in others. Snapshots are not looked at, see [Tx.Lookup].
func (tx *Tx) Get(btree ondisk.BtreeID, pos ondisk.Pos, flags ReadFlags) (ondisk.Key, bool, error) {
	f := AllSnapshots
	if flags&ForUpdate != 0 {
		f |= Intent
	}
	if flags&Committed != 0 {
		f |= OnlyCommitted
	}
	tx.iter.init(tx, btree, 0, pos, f)
	return tx.iter.PeekSlot()
}

// Lookup returns the key that pos.Snapshot sees at the slot of pos, in btrees of extents the one that covers it.
func (tx *Tx) Lookup(btree ondisk.BtreeID, pos ondisk.Pos, flags IterFlags) (ondisk.Key, bool, error) {
	tx.iter.init(tx, btree, 0, pos, flags)
	return tx.iter.PeekSlot()
}

// Scan calls fn for the keys whose positions are from … to, both inclusive, in order, until fn returns false or an error. It sees
// committed state only, fills no slots of key caches and gives up its locks as it moves on: whoever decides on what
// it was told reads it again with [Tx.Get]. In btrees of extents the keys are those that cover slots from … to, whole.
//
// With [Slots] fn is also called for holes: with a key of type deleted at the hole's first slot, and the first position behind the hole. A hole
// that goes over several leaves is told of in pieces.
func (tx *Tx) Scan(btree ondisk.BtreeID, from, to ondisk.Pos, flags ReadFlags,
	fn func(k ondisk.Key, holeEnd ondisk.Pos) (more bool, err error)) error {
	it := Iter{}
	it.init(tx, btree, 0, from, AllSnapshots|OnlyCommitted|Scanning)
	defer it.Close()
	next := from // the first slot that fn was not told of
	// What is behind a position: where keys have snapshots these are slots of their own.
	behind := ondisk.Pos.NextSlot
	if btree.Has(ondisk.BtreeHasSnapshots) || btree.Has(ondisk.BtreeHasSnapshotField) {
		behind = ondisk.Pos.Next
	}
	end := to
	if n := to.NextSlot(); it.extents && to.Less(n) { // else it is the last slot there is
		end = n
	}
	for {
		last := end
		if flags&Slots != 0 && !it.extents { // a hole is told of while its leaf is locked: nothing comes into being there
			ok, err := it.at(it.pos)
			if err != nil {
				return err
			}
			if ok && it.leaf.max.Less(last) {
				last = it.leaf.max
			}
		}
		k, ok, err := it.PeekMax(last)
		if err != nil {
			return err
		}
		start := behind(to)
		if last.Less(to) {
			start = behind(last)
		}
		if ok {
			start = k.Pos
			if it.extents {
				start = k.Start()
			}
		}
		if flags&Slots != 0 && next.Less(start) && !to.Less(next) {
			if more, err := fn(ondisk.Key{Pos: next}, start); !more || err != nil {
				return err
			}
		}
		if !ok {
			if !last.Less(end) {
				return nil
			}
			next = start
			it.Seek(next)
			continue
		}
		if more, err := fn(k, ondisk.Pos{}); !more || err != nil {
			return err
		}
		if next = k.Pos; !it.extents {
			next = behind(next)
		}
		if k.Pos == ondisk.SPosMax {
			return nil
		}
		it.Advance()
	}
}
