package node

import (
	"fmt"
	"slices"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// Thresholds of the reference, in words.
func (n *Node) splitAbove() int { return n.MaxU64s() * 2 / 3 }
func (n *Node) mergeUpTo() int  { return n.MaxU64s() / 3 }

// ShouldSplit reports whether a node without room is to be split rather than compacted.
func (n *Node) ShouldSplit() bool { return n.live > n.splitAbove() }

// Parts returns into how many nodes the keys are to be put that replace n: 1 (compact), 2 (split), or more if n is overfull.
func (n *Node) Parts() int {
	switch {
	case !n.ShouldSplit():
		return 1
	case n.live < n.MaxU64s():
		return 2
	}
	half := max(n.MaxU64s()/2, 1)
	return min(max((n.live+half-1)/half, 2), max(n.count, 1))
}

// Split returns two new nodes that together hold n's keys and cover its range: the first 3/5 in words, and the rest. seqs are
// their identities, new random numbers; their generation is n's and one more. Each has a format of its own.
//
// lastOK, if not nil, says whether the key at a position may be the last one of the left node: in an interior node it must
// be one that stays. n is unchanged, and to be freed. The new nodes have the journal sequence numbers of what was
// unwritten or in flight in n. The error is ErrSplit if there is no place to split at.
func (n *Node) Split(seqs [2]uint64, lastOK func(ondisk.Pos) bool) (left, right *Node, err error) {
	cuts := []int{n.live * 3 / 5}
	nodes, err := n.splitAt(cuts, seqs[:], lastOK)
	if err != nil {
		return nil, nil, err
	}
	return nodes[0], nodes[1], nil
}

// SplitN is [Node.Split] into as many nodes as there are seqs, of about the same number of words; with one it is
// [Node.Compact].
func (n *Node) SplitN(seqs []uint64, lastOK func(ondisk.Pos) bool) ([]*Node, error) {
	cuts := make([]int, len(seqs)-1)
	for i := range cuts {
		cuts[i] = n.live * (i + 1) / len(seqs)
	}
	return n.splitAt(cuts, seqs, lastOK)
}

// Compact returns a new node with n's keys and a format that suits them. n is unchanged, and to be freed.
func (n *Node) Compact(seq uint64) *Node {
	return n.rebuild(n.p.Min, n.p.Max, n.First(), n.count, seq)
}

// splitAt makes nodes of the keys up to each of the cuts: the first key before which there are so many words goes into the
// next node.
func (n *Node) splitAt(cuts []int, seqs []uint64, lastOK func(ondisk.Pos) bool) ([]*Node, error) {
	ends, err := n.findCuts(cuts, lastOK)
	if err != nil {
		return nil, err
	}
	ends = append(ends, n.count)
	nodes := make([]*Node, 0, len(seqs))
	at, start := 0, n.p.Min
	for i, seq := range seqs {
		last := n.p.Max
		if i < len(seqs)-1 {
			cur := n.nth(ends[i] - 1)
			last = cur.Pos()
		}
		nodes = append(nodes, n.rebuild(start, last, n.nth(at), ends[i]-at, seq))
		at, start = ends[i], last.Next()
	}
	return nodes, nil
}

// findCuts returns the number of keys before each cut. No node is left without keys.
func (n *Node) findCuts(cuts []int, lastOK func(ondisk.Pos) bool) ([]int, error) {
	if n.count <= len(cuts) {
		return nil, fmt.Errorf("%w: %d keys into %d nodes", ErrSplit, n.count, len(cuts)+1)
	}
	before := n.wordsBefore()
	ok := func(end int) bool {
		cur := n.nth(end - 1)
		return lastOK == nil || lastOK(cur.Pos())
	}
	ends := make([]int, 0, len(cuts)+1)
	lowest := 1
	for c, want := range cuts {
		highest := n.count - (len(cuts) - c)
		at, _ := slices.BinarySearch(before, want)
		at = min(max(at, lowest), highest)
		end := at
		for end <= highest && !ok(end) {
			end++
		}
		if end > highest {
			for end = at - 1; end >= lowest && !ok(end); {
				end--
			}
		}
		if end < lowest {
			return nil, fmt.Errorf("%w: no key may be the last of part %d of %d", ErrSplit, c+1, len(cuts)+1)
		}
		ends = append(ends, end)
		lowest = end + 1
	}
	return ends, nil
}

// wordsBefore returns how many words the keys before each key take, and all of them.
func (n *Node) wordsBefore() []int {
	before := make([]int, 1, n.count+1)
	for ci := range n.index {
		c := n.index[ci].c
		for i := range c.ent[:c.n] {
			before = append(before, before[len(before)-1]+n.words(&c.ent[i]))
		}
	}
	return before
}

// nth returns a cursor at the key before which there are i; i < Len.
func (n *Node) nth(i int) Cursor {
	cur := n.First()
	for ; cur.c != nil && i >= cur.c.n; cur.nextChunk() {
		i -= cur.c.n
	}
	cur.i = i
	return cur
}

// rebuild returns a node of the given range with the count keys from cur on.
func (n *Node) rebuild(first, last ondisk.Pos, cur Cursor, count int, seq uint64) *Node {
	p := n.p
	p.Min, p.Max, p.Seq = first, last, seq
	p.Gen++
	chooser := ondisk.NewFormatChooser(first, last, true)
	scan, vals := cur, 0
	var k ondisk.Key
	for range count {
		scan.Load(&k)
		chooser.Add(&k)
		vals += len(k.Val) / 8
		scan.Next()
	}
	if f := chooser.Format(); vals+count*int(f.KeyU64s) < n.MaxU64s() {
		p.Format = f
	}
	m := New(p)
	m.reserve(count)
	b := builder{n: m, flags: flagUnwritten}
	b.addKeys(cur, count)
	m.inherit(n)
	return m
}

// inherit takes over the sequence numbers of a node that m replaces.
func (m *Node) inherit(n *Node) {
	m.seqs.Join(n.seqs)
	m.seqs.Join(n.inFlightSeqs)
}

// MergedU64s returns the words of keys that two neighbours would have as one node, with a format that suits them.
func MergedU64s(l, r *Node) int {
	f := mergedFormat(l, r)
	return l.valueWords() + r.valueWords() + (l.count+r.count)*int(f.KeyU64s)
}

// valueWords returns the words of all values.
func (n *Node) valueWords() int {
	words := 0
	for ci := range n.index {
		c := n.index[ci].c
		words += c.live / 8
	}
	return words
}

func mergedFormat(l, r *Node) ondisk.Format {
	chooser := ondisk.NewFormatChooser(l.p.Min, r.p.Max, true)
	for _, n := range [2]*Node{l, r} {
		for k := range n.Keys() {
			chooser.Add(&k)
		}
	}
	return chooser.Format()
}

// CanMerge reports whether two neighbours below the same parent are small enough to become one node. It is cheap where they
// clearly are not.
func CanMerge(l, r *Node) bool {
	return l.live+r.live <= l.mergeUpTo()*5/4 && MergedU64s(l, r) <= l.mergeUpTo() // a common format is hardly ever that much smaller
}

// Merge returns a new node with the keys and the range of two neighbours, of the greater generation and one more. l and r are
// unchanged, and to be freed. It panics if they are not neighbours, and wraps ErrFull if they do not fit into one.
func Merge(l, r *Node, seq uint64) (*Node, error) {
	if l.p.Max.Next() != r.p.Min || l.p.Btree != r.p.Btree || l.p.Level != r.p.Level {
		panic(fmt.Sprintf("btree nodes %v - %v and %v - %v are no neighbours", l.p.Min, l.p.Max, r.p.Min, r.p.Max))
	}
	p := l.p
	p.Max, p.Seq, p.Gen, p.Format = r.p.Max, seq, max(l.p.Gen, r.p.Gen)+1, mergedFormat(l, r)
	m := New(p)
	m.reserve(l.count + r.count)
	b := builder{n: m, flags: flagUnwritten}
	for _, n := range [2]*Node{l, r} {
		b.addKeys(n.First(), n.count)
		m.inherit(n)
	}
	if !m.fits(m.live, m.live) {
		return nil, fmt.Errorf("%w: %d words of keys of two nodes", ErrFull, m.live)
	}
	return m, nil
}
