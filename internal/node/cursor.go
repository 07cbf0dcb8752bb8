package node

import (
	"iter"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// Get returns the key at exactly p. Its value must not be changed, and stays as it is whatever happens to the node.
func (n *Node) Get(p ondisk.Pos) (k ondisk.Key, ok bool) {
	ci := n.chunkOf(&p)
	if ci == len(n.index) {
		return k, false
	}
	c := n.index[ci].c
	i := n.lowerBoundIn(ci, &p)
	if c.pos[i] != p {
		return k, false
	}
	c.load(i, &k)
	return k, true
}

// Cursor is a place in a node: at a key, or behind the last one or before the first. It is of no use once the node changes.
type Cursor struct {
	n  *Node
	c  *chunk // nil: at no key
	ci int    // index of c; -1 before the first
	i  int    // in c
}

// Seek returns a cursor at the first key whose position is not before p.
func (n *Node) Seek(p ondisk.Pos) Cursor {
	cur := Cursor{n: n, ci: n.chunkOf(&p)}
	if cur.ci < len(n.index) {
		cur.c = n.index[cur.ci].c
		cur.i = n.lowerBoundIn(cur.ci, &p)
	}
	return cur
}

// First returns a cursor at the first key.
func (n *Node) First() Cursor {
	cur := Cursor{n: n}
	if len(n.index) > 0 {
		cur.c = n.index[0].c
	}
	return cur
}

// Last returns a cursor at the last key.
func (n *Node) Last() Cursor {
	cur := Cursor{n: n, ci: len(n.index)}
	cur.Prev()
	return cur
}

// Valid reports whether the cursor is at a key.
func (cur *Cursor) Valid() bool { return cur.c != nil }

// Pos returns the position of the key that the cursor is at; it must be at one.
func (cur *Cursor) Pos() ondisk.Pos { return cur.c.pos[cur.i] }

// Key returns the key that the cursor is at; it must be at one. Of its value the same holds as with [Node.Get].
func (cur *Cursor) Key() (k ondisk.Key) {
	cur.c.load(cur.i, &k)
	return k
}

// Load sets k to the key that the cursor is at; it must be at one. In loops over many keys it is faster than Key.
func (cur *Cursor) Load(k *ondisk.Key) { cur.c.load(cur.i, k) }

// Next moves to the next key, from before the first to the first, from the last to behind it, where it stays.
func (cur *Cursor) Next() {
	if cur.c != nil && cur.i+1 < cur.c.n {
		cur.i++
		return
	}
	cur.nextChunk()
}

func (cur *Cursor) nextChunk() {
	cur.c, cur.i = nil, 0
	if cur.ci < len(cur.n.index) {
		cur.ci++
	}
	if cur.ci < len(cur.n.index) {
		cur.c = cur.n.index[cur.ci].c
	}
}

// Prev moves to the key before, from behind the last to the last, from the first to before it, where it stays.
func (cur *Cursor) Prev() {
	if cur.c != nil && cur.i > 0 {
		cur.i--
		return
	}
	cur.prevChunk()
}

func (cur *Cursor) prevChunk() {
	cur.c, cur.i = nil, 0
	if cur.ci >= 0 {
		cur.ci--
	}
	if cur.ci >= 0 {
		cur.c = cur.n.index[cur.ci].c
		cur.i = cur.c.n - 1
	}
}

// Keys yields all keys in order. The node must not change meanwhile.
func (n *Node) Keys() iter.Seq[ondisk.Key] {
	return func(yield func(ondisk.Key) bool) {
		var k ondisk.Key
		for ci := range n.index {
			c := n.index[ci].c
			for i := range c.n {
				c.load(i, &k)
				if !yield(k) {
					return
				}
			}
		}
	}
}
