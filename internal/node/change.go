package node

import (
	"fmt"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// Set inserts k or replaces the key at its position; the value is copied. One of type deleted deletes, as [Node.Delete] does.
// seq is the sequence number of the journal entry that holds the change; 0: not known yet, see [Node.NoteSeq].
//
// It panics if k is outside the node's range or its value is not a whole number of words or longer than
// [ondisk.MaxValSize]: such a key must not come into being.
func (n *Node) Set(k *ondisk.Key, seq uint64) {
	if !n.Covers(k.Pos) || len(k.Val)%8 != 0 || len(k.Val) > ondisk.MaxValSize {
		n.refuse(k)
	}
	if k.Type == ondisk.KeyDeleted {
		n.Delete(k.Pos, seq)
		return
	}
	n.seqs.Add(seq)
	ci, i, found := n.find(&k.Pos)
	if found {
		n.replace(n.index[ci].c, i, k)
		return
	}
	flags := uint8(flagUnwritten)
	if n.whiteouts.len() > 0 && n.takeWhiteout(k.Pos) {
		flags |= flagOnDisk
	}
	n.insert(ci, i, k, flags)
}

// refuse is apart so that Set does not let k escape.
func (n *Node) refuse(k *ondisk.Key) {
	panic(fmt.Sprintf("btree node %v - %v: key at %v with a value of %d bytes", n.p.Min, n.p.Max, k.Pos, len(k.Val)))
}

// find returns the chunk and the place in it where p is, or where a key at p is to be inserted.
func (n *Node) find(p *ondisk.Pos) (ci, i int, found bool) {
	ci = n.chunkOf(p)
	if ci == len(n.index) {
		if ci == 0 {
			return 0, 0, false
		}
		ci--
		return ci, int(n.index[ci].n), false
	}
	c := n.index[ci].c
	i = n.lowerBoundIn(ci, p)
	if c.pos[i] == *p {
		return ci, i, true
	}
	if i == 0 && ci > 0 && n.index[ci-1].n < chunkKeys {
		// Between two chunks: what goes up fills the first of them.
		ci--
		i = int(n.index[ci].n)
	}
	return ci, i, false
}

// replace overwrites key i of c.
func (n *Node) replace(c *chunk, i int, k *ondisk.Key) {
	e := &c.ent[i]
	old := *e
	c.live -= int(e.words) * 8
	e.words = 0 // a new arena does not take the old value along
	off := n.store(c, k.Val)
	n.fill(e, k, off, old.flags&(flagInFlight|flagOnDisk)|flagUnwritten)
	words := n.words(e)
	n.live += words - n.words(&old)
	n.unwritten += words
	if old.flags&flagUnwritten != 0 {
		n.unwritten -= n.words(&old)
	} else {
		c.unwritten++
	}
}

// insert puts a new key at index i of chunk ci.
func (n *Node) insert(ci, i int, k *ondisk.Key, flags uint8) {
	if len(n.index) == 0 {
		n.addChunk(0, 8*len(k.Val))
	}
	if n.index[ci].n == chunkKeys {
		ci, i = n.makePlace(ci, i)
	}
	c := n.index[ci].c
	off := n.store(c, k.Val)
	if i < c.n {
		copy(c.pos[i+1:c.n+1], c.pos[i:c.n])
		copy(c.ent[i+1:c.n+1], c.ent[i:c.n])
	}
	c.pos[i] = k.Pos
	e := &c.ent[i]
	n.fill(e, k, off, flags)
	c.n++
	c.unwritten++
	n.note(ci)
	n.count++
	words := n.words(e)
	n.live += words
	n.unwritten += words
	n.last, n.lastAt = c, i
}

// makePlace makes place at index i of chunk ci, which is full, and returns where that is now. Runs of insertions that go up or
// down leave full chunks behind, others halves.
func (n *Node) makePlace(ci, i int) (int, int) {
	c := n.index[ci].c
	switch i {
	case chunkKeys:
		n.addChunk(ci+1, c.live)
		return ci + 1, 0
	case 0:
		n.addChunk(ci, c.live)
		return ci, 0
	}
	at := chunkKeys / 2
	if n.last == c && n.lastAt+1 == i {
		at = i
	}
	tail := 0
	for j := at; j < c.n; j++ {
		tail += int(c.ent[j].words) * 8
	}
	n.moveTail(n.addChunk(ci+1, 2*tail), c, at)
	n.note(ci)
	n.note(ci + 1)
	if i > at {
		return ci + 1, i - at
	}
	return ci, i
}

// Delete deletes the key at p and reports whether there was one. A whiteout is kept for the next write if the key is, or is
// about to be, in a written bset. seq is as with [Node.Set].
func (n *Node) Delete(p ondisk.Pos, seq uint64) bool {
	ci := n.chunkOf(&p)
	if ci == len(n.index) {
		return false
	}
	c := n.index[ci].c
	i := n.lowerBoundIn(ci, &p)
	if c.pos[i] != p {
		return false
	}
	e := c.ent[i]
	words := n.words(&e)
	n.live -= words
	n.count--
	c.live -= int(e.words) * 8
	if e.flags&flagUnwritten != 0 {
		n.unwritten -= words
		c.unwritten--
	}
	if e.flags&flagInFlight != 0 {
		n.inFlight--
		c.inFlight--
	}
	if e.flags&(flagOnDisk|flagInFlight) != 0 {
		n.addWhiteout(p)
		n.seqs.Add(seq)
	} else {
		n.settle()
	}
	n.remove(ci, i)
	return true
}

// settle forgets the sequence numbers of changes that cancelled each other, once nothing is unwritten.
func (n *Node) settle() {
	if n.unwritten == 0 && n.whiteouts.len() == 0 {
		n.seqs = SeqRange{}
	}
}

// remove takes the place of key i out of chunk ci, and puts small chunks together.
func (n *Node) remove(ci, i int) {
	c := n.index[ci].c
	c.n--
	if c.n == 0 {
		n.dropChunk(ci)
		return
	}
	if n.last == c {
		n.last = nil
	}
	copy(c.pos[i:c.n], c.pos[i+1:c.n+1])
	copy(c.ent[i:c.n], c.ent[i+1:c.n+1])
	n.note(ci)
	const small, merged = chunkKeys / 4, chunkKeys * 3 / 4
	if c.n >= small {
		return
	}
	switch {
	case ci > 0 && int(n.index[ci-1].n)+c.n <= merged:
		n.mergeChunks(ci - 1)
	case ci+1 < len(n.index) && int(n.index[ci+1].n)+c.n <= merged:
		n.mergeChunks(ci)
	}
}

// mergeChunks puts the chunk behind ci into ci.
func (n *Node) mergeChunks(ci int) {
	n.moveTail(n.index[ci].c, n.index[ci+1].c, 0)
	n.dropChunk(ci + 1)
	n.note(ci)
}

// addWhiteout notes that the next write has to delete p.
func (n *Node) addWhiteout(p ondisk.Pos) {
	n.whiteoutWords += n.whiteoutSize(p)
	n.whiteouts.add(p)
}

// takeWhiteout removes the whiteout at p, if there is one.
func (n *Node) takeWhiteout(p ondisk.Pos) bool {
	if !n.whiteouts.take(p) {
		return false
	}
	n.whiteoutWords -= n.whiteoutSize(p)
	return true
}
