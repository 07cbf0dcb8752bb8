package snapshot

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// Cleaned is what [Volumes.DeleteDead] has done.
type Cleaned struct {
	Nodes   int // snapshot nodes deleted
	Deleted int // keys deleted, those that moved not counted
	Moved   int // keys moved from one snapshot to another
}

const (
	perTransaction      = 16  // keys that one transaction deletes or moves
	nodesPerTransaction = 64  // snapshot nodes that it changes
	perRead             = 512 // keys that are looked for at once
)

// snapshotBtrees are those whose keys belong to snapshots.
var snapshotBtrees = [...]ondisk.BtreeID{ondisk.BtreeExtents, ondisk.BtreeInodes, ondisk.BtreeDirents, ondisk.BtreeXattrs}

// DeleteDead deletes what deleted subvolumes have left: the keys of snapshots that nobody can see any more, and nodes that are not needed. It may run
// while the filesystem is used, subvolumes are made and deleted; what dies meanwhile is left to the next call. It may be ended by its context
// at any moment.
func (v *Volumes) DeleteDead(ctx context.Context) (Cleaned, error) {
	v.dead.Lock()
	defer v.dead.Unlock()
	var c Cleaned
	if err := v.markDead(ctx); err != nil {
		return c, err
	}
	nodes, err := v.load(ctx)
	if err != nil {
		return c, err
	}
	dying := v.stillDying(nodes)
	g := findGone(nodes, dying)
	if err := v.sweep(ctx, g, &c); err != nil {
		return c, err
	}
	for _, id := range v.order(g, dying) {
		if err := v.deleteNode(ctx, id, dying[id], &c); err != nil {
			return c, fmt.Errorf("snapshot %d: %w", id, err)
		}
	}
	v.mu.Lock()
	for id := range dying {
		delete(v.dying, id)
	}
	v.mu.Unlock()
	return c, v.fixPlaces(ctx)
}

// stillDying returns what [Volumes.Delete] has left to be deleted, of what is there.
func (v *Volumes) stillDying(nodes map[uint32]ondisk.Snapshot) map[uint32]uint32 {
	v.mu.Lock()
	defer v.mu.Unlock()
	maps.DeleteFunc(v.dying, func(node, id uint32) bool { return nodes[node].Subvol != id })
	return maps.Clone(v.dying)
}

// order tells the order in which nodes go: such that each has one child at most by then, and that the last one of a tree whose subvolume is still
// there is the node of that.
func (v *Volumes) order(g gone, dying map[uint32]uint32) (ids []uint32) {
	above := func(id uint32) bool {
		for node := range dying {
			if v.cfg.Table.IsAncestor(id, node) {
				return true
			}
		}
		return false
	}
	var later []uint32
	for _, id := range slices.Sorted(maps.Keys(g.dead)) { // children first
		switch _, is := dying[id]; {
		case is:
		case above(id):
			later = append(later, id)
		default:
			ids = append(ids, id)
		}
	}
	return slices.Concat(ids, slices.Sorted(maps.Keys(g.into)), later, slices.Sorted(maps.Keys(dying)))
}

// load reads all nodes but for tombstones, which newer drivers leave behind: they have no keys and are in no tree.
func (v *Volumes) load(ctx context.Context) (map[uint32]ondisk.Snapshot, error) {
	nodes := map[uint32]ondisk.Snapshot{}
	err := v.cfg.Store.View(ctx, func(tx *trans.Tx) error {
		clear(nodes)
		return tx.Scan(ondisk.BtreeSnapshots, ondisk.PosMin, ondisk.SPosMax, 0, func(k ondisk.Key, _ ondisk.Pos) (bool, error) {
			n, err := ondisk.DecodeSnapshot(k)
			if err == nil && n.EffectiveState() != ondisk.SnapshotStateDeleted {
				n.Tail = nil
				nodes[uint32(k.Pos.Offset)] = n
			}
			return true, err
		})
	})
	return nodes, err
}

// byID returns ids in descending order: parents first.
func byID(nodes map[uint32]ondisk.Snapshot) []uint32 {
	return slices.SortedFunc(maps.Keys(nodes), func(a, b uint32) int { return cmp.Compare(b, a) })
}

// alive returns the children of a node that are not dead.
func alive(n *ondisk.Snapshot, dead func(id uint32) bool) (ids []uint32) {
	for _, id := range n.Children {
		if id != 0 && !dead(id) {
			ids = append(ids, id)
		}
	}
	return ids
}

// markDead marks the nodes that are dead as neither a subvolume nor a live child is left.
func (v *Volumes) markDead(ctx context.Context) error {
	nodes, err := v.load(ctx)
	if err != nil {
		return err
	}
	isDead := func(id uint32) bool { return nodes[id].Flags&ondisk.SnapshotWillDelete != 0 }
	for _, id := range slices.Backward(byID(nodes)) { // children first
		n := nodes[id]
		if n.Flags&(ondisk.SnapshotSubvol|ondisk.SnapshotWillDelete) != 0 || len(alive(&n, isDead)) > 0 {
			continue
		}
		err := v.update(ctx, func(tx *trans.Tx) error {
			if _, err := lockShape(tx); err != nil {
				return err
			}
			// An inner node without subvolume gets none any more, and none of its children comes to life.
			e := v.edit(tx)
			n, err := e.get(id)
			if err != nil {
				return err
			}
			n.Flags |= ondisk.SnapshotWillDelete
			e.set(id, n)
			return e.apply()
		})
		if err != nil {
			return fmt.Errorf("snapshot %d: %w", id, err)
		}
		n.Flags |= ondisk.SnapshotWillDelete
		nodes[id] = n
	}
	return nil
}

// gone says which nodes are to go.
type gone struct {
	dead map[uint32]bool // with their keys
	// into are inner nodes with one live child: their keys move to the node below that stays. chain are, of each that stays, the nodes whose
	// keys it gets, ascending.
	into  map[uint32]uint32
	chain map[uint32][]uint32
}

// findGone tells which nodes go, besides those of the subvolumes that are dying.
func findGone(nodes map[uint32]ondisk.Snapshot, dying map[uint32]uint32) gone {
	g := gone{dead: map[uint32]bool{}, into: map[uint32]uint32{}, chain: map[uint32][]uint32{}}
	isDead := func(id uint32) bool { return g.dead[id] }
	for _, id := range slices.Backward(byID(nodes)) { // children first
		n := nodes[id]
		live := alive(&n, isDead)
		switch _, is := dying[id]; {
		case is:
			g.dead[id] = true
		case n.Flags&ondisk.SnapshotSubvol != 0:
		case len(live) == 0: // it is marked, or above one that is dying
			g.dead[id] = true
		case len(live) == 1:
			to := live[0]
			if stays, ok := g.into[to]; ok {
				to = stays
			}
			g.into[id] = to
			g.chain[to] = append(g.chain[to], id)
		}
	}
	return g
}

// sweep deletes and moves the keys of the nodes that go.
//
// Nobody makes keys in dead nodes. In those whose keys move somebody does: an extent there is cut in two when the part of it is
// overwritten below. The pieces are made of keys that are there, and what is cut always leaves one at its place; so if a whole pass over
// the extents has found no key, there are none and there will be none.
func (v *Volumes) sweep(ctx context.Context, g gone, c *Cleaned) error {
	if len(g.dead)+len(g.into) == 0 {
		return nil
	}
	for _, btree := range snapshotBtrees {
		for {
			found, err := v.sweepBtree(ctx, btree, g, c)
			if err != nil {
				return fmt.Errorf("btree %v: %w", btree, err)
			}
			if found == 0 || len(g.into) == 0 || btree != ondisk.BtreeExtents {
				break
			}
		}
	}
	return nil
}

// sweepBtree goes over a btree once and returns how many keys it found.
func (v *Volumes) sweepBtree(ctx context.Context, btree ondisk.BtreeID, g gone, c *Cleaned) (found int, err error) {
	for from, more := ondisk.PosMin, true; more; {
		var those []ondisk.Pos
		if those, from, more, err = v.findKeys(ctx, btree, g, from); err != nil {
			return found, err
		}
		found += len(those)
		for len(those) > 0 {
			some := those[:min(perTransaction, len(those))]
			var did Cleaned
			var again []ondisk.Pos
			err := v.update(ctx, func(tx *trans.Tx) error {
				did, again = Cleaned{}, again[:0]
				for _, p := range some {
					more, err := g.settle(tx, btree, p, &did)
					if err != nil {
						return err
					}
					if more {
						again = append(again, p)
					}
				}
				return nil
			})
			if err != nil {
				return found, err
			}
			c.Deleted += did.Deleted
			c.Moved += did.Moved
			those = slices.Concat(again, those[len(some):])
		}
	}
	return found, nil
}

// findKeys returns positions of keys of nodes that go, from a position on, and where to go on.
func (v *Volumes) findKeys(ctx context.Context, btree ondisk.BtreeID, g gone, from ondisk.Pos) (those []ondisk.Pos, next ondisk.Pos, more bool, err error) {
	const maxSeen = 1 << 14 // so that a transaction ends now and then
	err = v.cfg.Store.View(ctx, func(tx *trans.Tx) error {
		those, more = those[:0], true
		it := tx.Iter(btree, from, trans.AllSnapshots|trans.NotExtents|trans.OnlyCommitted|trans.Scanning)
		defer it.Close()
		for seen := 0; seen < maxSeen && len(those) < perRead; seen++ {
			k, ok, err := it.Peek()
			if err != nil {
				return err
			}
			if !ok || k.Pos == ondisk.SPosMax {
				more = false
				return nil
			}
			if _, moves := g.into[k.Pos.Snapshot]; moves || g.dead[k.Pos.Snapshot] {
				those = append(those, k.Pos)
			}
			next = k.Pos.Next()
			it.Advance()
		}
		return ctx.Err()
	})
	return those, next, more, err
}

// settle deletes the key at a position of a node that goes, or moves it. It is to be called again in another transaction if it says so.
func (g *gone) settle(tx *trans.Tx, btree ondisk.BtreeID, p ondisk.Pos, did *Cleaned) (again bool, err error) {
	k, ok, err := exact(tx, btree, p)
	if err != nil || !ok {
		return false, err
	}
	deleted := ondisk.Key{Pos: p}
	if g.dead[p.Snapshot] {
		did.Deleted++
		return false, tx.Update(btree, deleted, trans.Exact)
	}
	to := g.into[p.Snapshot]
	hidden := false // by a nearer one
	for _, id := range append([]uint32{to}, g.chain[to]...) {
		if id == p.Snapshot || hidden {
			break
		}
		if _, hidden, err = exact(tx, btree, p.WithSnapshot(id)); err != nil {
			return false, err
		}
	}
	if !hidden {
		moved := k
		moved.Pos.Snapshot = to
		if err := tx.Update(btree, moved, trans.Exact); err != nil {
			return false, err
		}
		did.Moved++
		if btree == ondisk.BtreeInodes {
			// Versions above are told whether there are some below, which is looked up in what is committed: it has to be there before
			// this one goes.
			did.Deleted--
			return true, nil
		}
		return false, tx.Update(btree, deleted, trans.Exact)
	}
	did.Deleted++
	return false, tx.Update(btree, deleted, trans.Exact)
}

// exact returns the key at exactly a position, in btrees of extents too, locked for intent.
func exact(tx *trans.Tx, btree ondisk.BtreeID, p ondisk.Pos) (ondisk.Key, bool, error) {
	return tx.Iter(btree, p, trans.Intent|trans.AllSnapshots|trans.NotExtents).PeekSlot()
}

// deleteNode takes a node without keys, and with one child at most, out of its tree, and its subvolume with it if it is not 0.
func (v *Volumes) deleteNode(ctx context.Context, id, subvol uint32, c *Cleaned) error {
	did := false
	err := v.update(ctx, func(tx *trans.Tx) error {
		did = false
		if _, err := lockShape(tx); err != nil {
			return err
		}
		e := v.edit(tx)
		n, err := e.get(id)
		if err != nil {
			return err
		}
		if n.Subvol != subvol || n.Children[1] != 0 || subvol != 0 && n.Children[0] != 0 {
			return fmt.Errorf("it is used: subvolume %d, children %d", n.Subvol, n.Children)
		}
		if subvol != 0 {
			s, err := Get(tx, subvol, trans.ForUpdate)
			if err != nil {
				return err
			}
			if err := put(tx, subvol, &s, nil); err != nil {
				return err
			}
		}
		e.nodes[id], e.dirty[id] = nil, true
		child := n.Children[0]
		if err := e.relink(n, id, child); err != nil {
			return err
		}
		if child != 0 {
			if err := e.placeBelow(child); err != nil {
				return err
			}
		}
		did = true
		return e.apply()
	})
	if err == nil && did {
		c.Nodes++
	}
	return err
}

// relink puts the only child of a node, or nothing, into its place.
func (e *edit) relink(n *ondisk.Snapshot, id, child uint32) error {
	if child != 0 {
		k, err := e.get(child)
		if err != nil {
			return err
		}
		k.Parent = n.Parent
		e.set(child, k)
	}
	if n.Parent != 0 {
		p, err := e.get(n.Parent)
		if err != nil {
			return err
		}
		i := slices.Index(p.Children[:], id)
		if i < 0 {
			return fmt.Errorf("its parent %d has children %d", n.Parent, p.Children)
		}
		p.Children[i] = child
		if p.Children[0] < p.Children[1] {
			p.Children[0], p.Children[1] = p.Children[1], p.Children[0]
		}
		e.set(n.Parent, p)
		return nil
	}
	k, ok, err := e.tx.Get(ondisk.BtreeSnapshotTrees, idPos(n.Tree), trans.ForUpdate)
	if err != nil || !ok {
		return err
	}
	tree, err := ondisk.DecodeSnapshotTree(k)
	switch {
	case err != nil:
		return err
	case tree.RootSnapshot != id:
		return nil
	case child == 0:
		return e.tx.Update(ondisk.BtreeSnapshotTrees, ondisk.Key{Pos: k.Pos}, 0)
	}
	tree.RootSnapshot = child
	return putTree(e.tx, n.Tree, &tree)
}

// placeBelow gives a node that has another parent, and those below it, the right depth and skip lists: as many as one transaction takes. If
// there are more, [Volumes.fixPlaces] does the others.
func (e *edit) placeBelow(top uint32) error {
	var those []uint32
	for id := range e.v.cfg.Table.All() {
		if id <= top && e.v.cfg.Table.IsAncestor(top, id) {
			those = append(those, id)
		}
	}
	for _, id := range slices.Backward(those[max(0, len(those)-nodesPerTransaction):]) { // parents first
		if err := e.rePlace(id); err != nil {
			return err
		}
	}
	return nil
}

// rePlace is place for a node that is there; others are in the table only, as those who made them did not succeed.
func (e *edit) rePlace(id uint32) error {
	if _, ok, err := e.tx.Get(ondisk.BtreeSnapshots, idPos(id), trans.ForUpdate); err != nil || !ok {
		return err
	}
	n, err := e.get(id)
	if err != nil {
		return err
	}
	_, err = e.place(id, n)
	return err
}

// fixPlaces gives all nodes the right depth and skip lists, also those that a crash left with wrong ones.
func (v *Volumes) fixPlaces(ctx context.Context) error {
	for range 100 { // once, unless subvolumes are made meanwhile
		nodes, err := v.load(ctx)
		if err != nil {
			return err
		}
		wrong := v.misplaced(nodes)
		if len(wrong) == 0 {
			return nil
		}
		for some := range slices.Chunk(wrong, nodesPerTransaction) {
			err := v.update(ctx, func(tx *trans.Tx) error {
				if _, err := lockShape(tx); err != nil {
					return err
				}
				e := v.edit(tx)
				for _, id := range some {
					if err := e.rePlace(id); err != nil {
						return err
					}
				}
				return e.apply()
			})
			if err != nil {
				return err
			}
		}
	}
	return nil // the next call goes on
}

// misplaced returns the nodes whose depth or skip lists are wrong, parents first.
func (v *Volumes) misplaced(nodes map[uint32]ondisk.Snapshot) (wrong []uint32) {
	depths := map[uint32]uint32{}
	for _, id := range byID(nodes) {
		n := nodes[id]
		var ok bool
		if n.Parent == 0 {
			depths[id] = 0
			ok = n.Depth == 0 && n.Skip == [3]uint32{}
		} else {
			depth, known := depths[n.Parent]
			if !known {
				continue // not for us to repair
			}
			depths[id] = depth + 1
			ok = n.Depth == depth+1 && slices.IsSorted(n.Skip[:])
			for _, s := range n.Skip {
				_, there := nodes[s]
				ok = ok && there && v.cfg.Table.IsAncestor(s, n.Parent)
			}
		}
		if !ok {
			wrong = append(wrong, id)
		}
	}
	return wrong
}
