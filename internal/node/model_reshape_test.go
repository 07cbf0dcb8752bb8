package node

import (
	"errors"
	"maps"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// reload goes on with the node as it is on disk: the journal does not count.
func (m *model) reload() {
	if m.in.n(2) == 0 && !m.flush() {
		return
	}
	m.end(false)
	if m.disk == nil {
		return
	}
	d := m.decode()
	n := FromDisk(d, testMagic, m.n.p.NodeBytes, m.n.p.BlockBytes)
	if n.Dirty() || n.LiveU64s() > n.MaxU64s() || n.UnwrittenSeqs() != (SeqRange{}) || n.NeedsRewrite() {
		m.t.Fatalf("just read: dirty %v, %d words, seqs %+v", n.Dirty(), n.LiveU64s(), n.UnwrittenSeqs())
	}
	m.n, m.keys = n, maps.Clone(m.disk)
	m.dirty = map[ondisk.Pos]uint64{}
	m.overfull = false
}

// reshape replaces the node by others.
func (m *model) reshape() {
	switch m.in.n(3) {
	case 0:
		if m.n.Parts() == 1 {
			m.end(m.in.n(2) == 0)
			was := m.n
			m.become(m.n.Compact(uint64(m.ops)))
			m.replaced(was, m.n)
			m.compare()
		}
	case 1:
		m.split()
	default:
		m.merge()
	}
}

// replaced checks what holds for a node that takes the place of another.
func (m *model) replaced(was, n *Node) {
	m.t.Helper()
	var want SeqRange
	want.Join(was.UnwrittenSeqs())
	want.Join(was.InFlightSeqs())
	if n.UnwrittenSeqs() != want || n.Identity().Gen != was.Identity().Gen+1 || n.Written() != 0 || !n.Dirty() {
		m.t.Fatalf("new node: seqs %+v, %+v", n.UnwrittenSeqs(), n.Identity())
	}
	if err := n.Check(); err != nil {
		m.t.Fatal(err)
	}
}

// split splits the node, and goes on with one part.
func (m *model) split() {
	was := m.n
	parts := max(2, was.Parts())
	seqs := make([]uint64, parts)
	for i := range seqs {
		seqs[i] = uint64(m.ops*100 + i)
	}
	var nodes []*Node
	var err error
	if parts == 2 {
		nodes = make([]*Node, 2)
		nodes[0], nodes[1], err = was.Split([2]uint64(seqs), nil)
	} else {
		nodes, err = was.SplitN(seqs, nil)
	}
	if was.Len() < parts {
		if !errors.Is(err, ErrSplit) {
			m.t.Fatalf("%d keys into %d nodes: %v", was.Len(), parts, err)
		}
		m.drop(was)
		return
	}
	if err != nil {
		m.t.Fatal(err)
	}
	min, got := was.Min(), 0
	for i, n := range nodes {
		if n.Len() == 0 || n.Min() != min || n.Identity().Seq != seqs[i] {
			m.t.Fatalf("part %d of %d: %d keys from %v, want from %v", i, parts, n.Len(), n.Min(), min)
		}
		m.replaced(was, n)
		min = n.Max().Next()
		got += n.Len()
		for k := range n.Keys() {
			if !sameKey(k, m.keys[k.Pos]) {
				m.t.Fatalf("key %+v", k)
			}
		}
	}
	if last := nodes[parts-1].Max(); last != was.Max() || got != was.Len() {
		m.t.Fatalf("%d keys up to %v, want %d up to %v", got, last, was.Len(), was.Max())
	}
	n := nodes[m.in.n(parts)]
	maps.DeleteFunc(m.keys, func(p ondisk.Pos, _ ondisk.Key) bool { return !n.Covers(p) })
	m.become(n)
	m.overfull = n.LiveU64s() >= n.MaxU64s()
	m.compare()
}

// drop goes on where a node of few keys cannot be split: with a new one of the same keys, or, if they are too large, of none.
func (m *model) drop(was *Node) {
	if was.LiveU64s() < was.MaxU64s() {
		m.become(was.Compact(uint64(m.ops)))
		return
	}
	m.keys = map[ondisk.Pos]ondisk.Key{}
	m.become(New(was.Params()))
}

// merge merges the node with a neighbour that has the second half of its range.
func (m *model) merge() {
	was := m.n
	left, right, err := was.Split([2]uint64{1, 2}, nil)
	if err != nil {
		return
	}
	can, u64s := CanMerge(left, right), MergedU64s(left, right)
	if can && u64s > was.MaxU64s()/3 {
		m.t.Fatalf("%d words of %d can be merged", u64s, was.MaxU64s())
	}
	n, err := Merge(left, right, uint64(m.ops))
	switch {
	case err != nil:
		if !errors.Is(err, ErrFull) || can || u64s < was.MaxU64s() {
			m.t.Fatalf("merge of %d words of %d: %v", u64s, was.MaxU64s(), err)
		}
		return
	case n.LiveU64s() != u64s:
		m.t.Fatalf("merged to %d words, want %d", n.LiveU64s(), u64s)
	}
	n.p.Gen = was.p.Gen + 1
	m.replaced(was, n)
	m.become(n)
	m.compare()
}
