package node

import (
	"math/bits"
	"unsafe"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// chunkKeys is how many keys a chunk holds at most.
const chunkKeys = 64

// State of a key.
const (
	flagUnwritten = 1 << iota // changed since the last write was prepared
	flagInFlight              // some state of it is being written
	flagOnDisk                // some state of it may be in a written bset: deleting it takes a whiteout
	flagPlain                 // does not pack with the node's format
)

// entry is a key without its position.
type entry struct {
	versionLo uint64
	versionHi uint32
	size      uint32
	off       uint32 // of the value in the arena, in bytes
	typ       ondisk.KeyType
	words     uint8 // of the value
	flags     uint8
}

// chunk is a run of neighbouring keys.
type chunk struct {
	arena     []byte // values
	live      int    // bytes of arena that keys refer to
	n         int
	unwritten int // keys with flagUnwritten
	inFlight  int // keys with flagInFlight
	pos       [chunkKeys]ondisk.Pos
	ent       [chunkKeys]entry
}

const chunkBytes = int(unsafe.Sizeof(chunk{}))

// less is 1 if a is before b, else 0; it takes no branch.
func less(a, b *ondisk.Pos) int {
	_, borrow := bits.Sub64(uint64(a.Snapshot), uint64(b.Snapshot), 0)
	_, borrow = bits.Sub64(a.Offset, b.Offset, borrow)
	_, borrow = bits.Sub64(a.Inode, b.Inode, borrow)
	return int(borrow)
}

// lowerBound returns the index of the first position in a that is not before p.
func lowerBound(a []ondisk.Pos, p *ondisk.Pos) int {
	if len(a) == 0 {
		return 0
	}
	lo, n := 0, len(a)
	for n > 1 {
		half := n >> 1
		lo += half & -less(&a[lo+half-1], p)
		n -= half
	}
	return lo + less(&a[lo], p)
}

// lowerBoundIn returns the index in chunk ci of the first position that is not before p, which is behind the chunk before and not behind this
// one's last.
//
// What costs in a search is memory that is not in the processor's cache. Where positions are spread evenly, as inode numbers, offsets and hashes
// are, a guess from the bounds of the chunk, which are, comes close, and the few steps from there stay within a cache line or two.
func (n *Node) lowerBoundIn(ci int, p *ondisk.Pos) int {
	c := n.chunks[ci]
	if ci == 0 || c.n < chunkKeys/4 {
		return lowerBound(c.pos[:c.n], p)
	}
	first, last := &n.maxes[ci-1], &n.maxes[ci]
	if first.Inode != last.Inode || first.Offset == last.Offset {
		return lowerBound(c.pos[:c.n], p)
	}
	hi, lo := bits.Mul64(p.Offset-first.Offset, uint64(c.n))
	q, _ := bits.Div64(hi, lo, last.Offset-first.Offset)
	at := min(int(q), c.n-1)
	if less(&c.pos[at], p) == 1 {
		from, to := at+1, at+1
		for step := 2; to < c.n-1 && less(&c.pos[to], p) == 1; step *= 2 {
			from, to = to+1, min(to+step, c.n-1)
		}
		return from + lowerBound(c.pos[from:to+1], p)
	}
	from, to := at, at
	for step := 2; from > 0 && less(&c.pos[from-1], p) == 0; step *= 2 {
		from, to = max(from-step, 0), from-1
	}
	return from + lowerBound(c.pos[from:to+1], p)
}

// load sets k to key i. It is what copies a key least: what is built as a result is copied once more.
func (c *chunk) load(i int, k *ondisk.Key) {
	e := &c.ent[i]
	end := e.off + uint32(e.words)*8
	k.Type, k.Size, k.Pos = e.typ, e.size, c.pos[i]
	k.Version = ondisk.Version{Hi: e.versionHi, Lo: e.versionLo}
	k.Val = c.arena[e.off:end:end]
}

// value returns the value of key i.
func (c *chunk) value(i int) []byte {
	e := &c.ent[i]
	end := e.off + uint32(e.words)*8
	return c.arena[e.off:end:end]
}

// fill sets e to k, whose value is at off of the arena.
func (n *Node) fill(e *entry, k *ondisk.Key, off uint32, flags uint8) {
	if !n.packer.Packs(k) {
		flags |= flagPlain
	}
	e.versionLo, e.versionHi, e.size, e.off = k.Version.Lo, k.Version.Hi, k.Size, off
	e.typ, e.words, e.flags = k.Type, uint8(len(k.Val)/8), flags
}

// store appends a value to c's arena and returns where. The entry that it is for does not refer to the arena yet.
func (n *Node) store(c *chunk, val []byte) uint32 {
	if len(c.arena)+len(val) > cap(c.arena) {
		n.newArena(c, max(c.live*2, c.live+8*len(val)))
	}
	off := len(c.arena)
	c.arena = append(c.arena, val...)
	c.live += len(val)
	return uint32(off)
}

// newArena moves c's values to an arena of the given size. The old one stays as it is, for whoever still refers to it.
func (n *Node) newArena(c *chunk, size int) {
	arena := make([]byte, 0, size)
	for i := range c.n {
		off := len(arena)
		arena = append(arena, c.value(i)...)
		c.ent[i].off = uint32(off)
	}
	n.mem += cap(arena) - cap(c.arena)
	c.arena = arena
}

// addChunk inserts an empty chunk with an arena of the given size as chunk ci. The caller fills it.
func (n *Node) addChunk(ci, arenaBytes int) *chunk {
	c := &chunk{arena: make([]byte, 0, arenaBytes)}
	n.mem += chunkBytes + cap(c.arena)
	n.chunks = append(n.chunks, nil)
	copy(n.chunks[ci+1:], n.chunks[ci:])
	n.chunks[ci] = c
	n.maxes = append(n.maxes, ondisk.Pos{})
	copy(n.maxes[ci+1:], n.maxes[ci:])
	return c
}

// dropChunk removes chunk ci.
func (n *Node) dropChunk(ci int) {
	c := n.chunks[ci]
	n.mem -= chunkBytes + cap(c.arena)
	if n.last == c {
		n.last = nil
	}
	last := len(n.chunks) - 1
	copy(n.chunks[ci:], n.chunks[ci+1:])
	n.chunks[last] = nil
	n.chunks = n.chunks[:last]
	copy(n.maxes[ci:], n.maxes[ci+1:])
	n.maxes = n.maxes[:last]
}

// moveTail moves the keys of src from index from on to the end of dst.
func (n *Node) moveTail(dst, src *chunk, from int) {
	size := 0
	for i := from; i < src.n; i++ {
		size += int(src.ent[i].words) * 8
	}
	if len(dst.arena)+size > cap(dst.arena) {
		n.newArena(dst, dst.live+size)
	}
	for i := from; i < src.n; i++ {
		e := src.ent[i]
		e.off = uint32(len(dst.arena))
		dst.arena = append(dst.arena, src.value(i)...)
		dst.pos[dst.n], dst.ent[dst.n] = src.pos[i], e
		dst.n++
		dst.unwritten += int(e.flags & flagUnwritten)
		dst.inFlight += int(e.flags & flagInFlight >> 1)
	}
	dst.live += size
	src.n = from
	src.live -= size
	src.recount()
}

// recount counts unwritten keys and those in flight anew.
func (c *chunk) recount() {
	c.unwritten, c.inFlight = 0, 0
	for i := range c.ent[:c.n] {
		c.unwritten += int(c.ent[i].flags & flagUnwritten)
		c.inFlight += int(c.ent[i].flags & flagInFlight >> 1)
	}
}
