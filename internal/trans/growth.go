package trans

import (
	"context"
	"errors"
	"fmt"

	"github.com/go-bcachefs/bcachefs/internal/journal"
	"github.com/go-bcachefs/bcachefs/internal/node"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/six"
)

// hasRoom reports whether so many words may be put into a node. Where no other node would do better it may get more than can be written:
// then it is split, or written anew, later.
func (b *bnode) hasRoom(words int) bool {
	if b.fake {
		return false
	}
	if b.keys.Room(words) {
		return true
	}
	if b.keys.NeedsRewrite() {
		return false
	}
	p := b.keys.Params()
	appendable := 2*p.BlockBytes <= p.NodeBytes // else each write is one of the whole node
	live, most := b.keys.LiveU64s(), b.keys.MaxU64s()
	return words > most/3 && live < most || b.keys.Len() <= 1 || !appendable && live+words < most
}

// grow makes room in the node that covers p for keys of n words: by splitting it or writing it anew. With n = 0 it is written anew whether it has
// room or not.
func (s *Store) grow(ctx context.Context, b *bnode, p ondisk.Pos, n int, w journal.Watermark) error {
	return s.startGrowth(ctx, &growth{level: b.level, at: p, words: n}, b.tree, w)
}

// RewriteNode writes a node of a btree anew, elsewhere, and gives up where it was; p is the last position that it covers. Nothing happens, and ok is
// false, if there is no such node any more, or here reports false for the places of all its replicas. It returns when that has happened in memory: see
// [Store.WaitInterior].
func (s *Store) RewriteNode(ctx context.Context, w journal.Watermark, btree ondisk.BtreeID, level uint8, p ondisk.Pos,
	here func(ondisk.NodeAddr) bool) (ok bool, err error) {
	if btree >= ondisk.MaxBtrees {
		return false, nil
	}
	t := &s.trees[btree]
	var b *bnode
	err = s.run(ctx, w, false, func(tx *Tx) (err error) {
		b, err = tx.lockNode(t, level, p, six.Shared)
		if err != nil || b == nil {
			return err
		}
		if b.fake || b.max != p {
			b = nil
			return nil
		}
		ptr, err := ondisk.DecodeBtreePtr(*b.self.key.Load())
		if err != nil {
			return err
		}
		for a := range ptr.Addrs() {
			if here(a) {
				return nil
			}
		}
		b = nil
		return nil
	})
	if err != nil || b == nil {
		return false, err
	}
	g := &growth{level: level, at: p, only: b}
	err = s.startGrowth(ctx, g, t, w)
	return g.replaced, err
}

// startGrowth runs a growth.
func (s *Store) startGrowth(ctx context.Context, g *growth, t *tree, w journal.Watermark) error {
	g.reshape = reshape{s: s, tree: t, watermark: raise(w)}
	defer g.release()
	s.interior.throttle(s, w)
	if w < journal.WatermarkReclaim {
		// What reclaim needs of a journal that is low is not for those who fill it.
		if err := s.journal.WaitSpace(ctx, w); err != nil {
			return err
		}
	}
	return s.run(ctx, g.watermark, false, g.try)
}

// growth is the state of one call of grow, over restarts.
type growth struct {
	reshape
	level uint8
	at    ondisk.Pos
	words int
	more  int // into how many more parts the node is to be split than was thought
	extra int // more nodes than are thought to be needed

	only     *bnode // nothing is to be done if it is another node by now; nil: any
	replaced bool
}

func (g *growth) try(tx *Tx) error {
	b, err := tx.lockNode(g.tree, g.level, g.at, six.Intent)
	if err != nil {
		return err
	}
	if b == nil || g.words > 0 && b.hasRoom(g.words) || g.only != nil && b != g.only {
		return nil // somebody was here before
	}
	chain := []*bnode{b}
	var parent *bnode
	parts := g.parts(b)
	need := parts
	for top := b; !g.isRoot(top); {
		p, err := tx.lockNode(g.tree, top.level+1, g.at, six.Intent)
		switch {
		case err != nil:
			return err
		case p == nil: // top has become the root
			return restartSplit
		}
		if p.hasRoom(parts * maxPtrU64s) {
			parent = p
			break
		}
		chain = append(chain, p)
		top = p
		parts = max(p.keys.Parts(), 1) + 1
		need += parts
	}
	need += 1 + g.extra // a new root
	if len(g.spaces) < need {
		return g.allocate(tx, need-len(g.spaces))
	}
	return g.replace(tx, chain, parent)
}

// parts returns how many nodes the node at the bottom is to become. One that would have no room even when written anew is split.
func (g *growth) parts(b *bnode) int {
	n := b.keys.Parts()
	if n == 1 && g.words > 0 {
		p := b.keys.Params()
		first := (ondisk.NodeHeaderSize + 8*b.keys.LiveU64s() + p.BlockBytes - 1) &^ (p.BlockBytes - 1)
		if b.keys.LiveU64s()+g.words >= b.keys.MaxU64s() || first+ondisk.NodeEntryHeaderSize+8*g.words > p.NodeBytes {
			n = 2
		}
	}
	return max(min(n+g.more, b.keys.Len()), 1)
}

// replace makes the new nodes of a chain, from the bottom up, and puts them in place of the old ones.
func (g *growth) replace(tx *Tx, chain []*bnode, parent *bnode) error {
	u := &interiorUpdate{tree: g.tree, olds: chain, parent: parent, written: make(chan struct{})}
	below, err := g.build(u, chain, parent)
	if err == nil {
		err = g.publish(tx, u, func() { g.link(u, below) })
	}
	if err != nil {
		return g.undo(u, err)
	}
	g.replaced = true
	return nil
}

// build makes the new nodes, and returns the edges that lead to the topmost.
func (g *growth) build(u *interiorUpdate, chain []*bnode, parent *bnode) (below []*child, err error) {
	for i, b := range chain {
		keys, parts := b.keys, g.parts(b)
		if i > 0 {
			keys = b.keys.Compact(g.s.newSeq())
			for _, c := range below {
				keys.Set(c.key.Load(), 0)
			}
			parts = max(min(keys.Parts(), keys.Len()), 1)
		}
		made, err := g.remake(u, keys, parts, i > 0)
		if err != nil {
			return nil, err
		}
		linkBelow(made, b, below)
		below = nil
		for _, m := range made {
			below = append(below, m.self)
		}
	}
	for parent == nil && len(below) > 1 { // more than once only if a leaf becomes very many
		if below, err = g.newLevel(u, below); err != nil {
			return nil, err
		}
	}
	u.describe()
	return below, nil
}

// remake makes the nodes that take over the keys of an old one; copied says that they are in memory of their own.
func (g *growth) remake(u *interiorUpdate, keys *node.Node, n int, copied bool) ([]*bnode, error) {
	s := g.s
	parts := []*node.Node{keys}
	var err error
	switch {
	case n == 1 && !copied:
		parts[0] = keys.Compact(s.newSeq())
	case n == 2:
		parts = make([]*node.Node, 2)
		parts[0], parts[1], err = keys.Split([2]uint64{s.newSeq(), s.newSeq()}, nil)
	case n > 2:
		seqs := make([]uint64, n)
		for i := range seqs {
			seqs[i] = s.newSeq()
		}
		parts, err = keys.SplitN(seqs, nil)
	}
	if err != nil {
		return nil, err
	}
	var made []*bnode
	for _, part := range parts {
		m, err := g.makeNode(u, part)
		switch {
		case errors.Is(err, errMoreNodes):
			g.extra++
			return nil, restartSplit
		case errors.Is(err, node.ErrFull) && n < keys.Len(): // large keys, unluckily spread
			g.more++
			return nil, restartSplit
		case err != nil:
			return nil, err
		}
		made = append(made, m)
	}
	return made, nil
}

// linkBelow gives new interior nodes their indexes: the children of the old node, with those replaced that the update made.
func linkBelow(made []*bnode, old *bnode, below []*child) {
	if old.level == 0 {
		return
	}
	x := old.index.Load()
	if len(below) > 0 {
		x = x.replace(below[0].key.Load().Pos, below[len(below)-1].key.Load().Pos, below)
	}
	for _, m := range made {
		m.index.Store(x.part(m.min, m.max))
	}
}

// newLevel makes what is above the nodes that replace the root: a new root or, if there are too many for one, several nodes below one.
func (g *growth) newLevel(u *interiorUpdate, below []*child) ([]*child, error) {
	level := below[0].level + 1
	if level >= journal.MaxLevels {
		return nil, fmt.Errorf("btree %v is full: it would need more than %d levels", g.tree.id, journal.MaxLevels)
	}
	p := g.s.nodeParams(g.tree.id, level)
	p.Seq, p.Min, p.Max = g.s.newSeq(), ondisk.PosMin, ondisk.SPosMax
	keys := node.New(p)
	x := &index{}
	for _, c := range below {
		k := c.key.Load()
		keys.Set(k, 0)
		x.maxes = append(x.maxes, k.Pos)
		x.children = append(x.children, c)
	}
	made, err := g.remake(u, keys, max(min(keys.Parts(), keys.Len()), 1), true)
	if err != nil {
		return nil, err
	}
	above := make([]*child, len(made))
	for i, m := range made {
		m.index.Store(x.part(m.min, m.max))
		above[i] = m.self
	}
	return above, nil
}

// link puts the new nodes in place, all locks held.
func (g *growth) link(u *interiorUpdate, below []*child) {
	if u.parent != nil {
		u.linkInto(u.parent, below)
		return
	}
	g.tree.root.Store(below[0])
	for i := range u.keys {
		if k := &u.keys[i]; k.level == below[0].level+1 && k.new.Type != ondisk.KeyDeleted {
			k.flags |= rootPointer
		}
	}
}
