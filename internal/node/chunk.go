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

// place is what a search has to know of a chunk: two of them fill a cache line.
type place struct {
	inode, offset uint64 // of the chunk's last position
	snapshot      uint32
	n             uint32 // the chunk's
	c             *chunk
}

// last returns the chunk's last position.
func (pl *place) last() ondisk.Pos {
	return ondisk.Pos{Inode: pl.inode, Offset: pl.offset, Snapshot: pl.snapshot}
}

// before is 1 if the chunk's last position is before p, else 0; it takes no branch.
func (pl *place) before(p *ondisk.Pos) int {
	_, borrow := bits.Sub64(uint64(pl.snapshot), uint64(p.Snapshot), 0)
	_, borrow = bits.Sub64(pl.offset, p.Offset, borrow)
	_, borrow = bits.Sub64(pl.inode, p.Inode, borrow)
	return int(borrow)
}

// note puts into the index what has changed of chunk ci, which is not empty.
func (n *Node) note(ci int) {
	pl := &n.index[ci]
	p := &pl.c.pos[pl.c.n-1]
	pl.inode, pl.offset, pl.snapshot, pl.n = p.Inode, p.Offset, p.Snapshot, uint32(pl.c.n)
}

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

// guess returns about which of n things that lie evenly between first and last is at p, which is behind first and not behind last.
//
// What costs in a search is memory that is not in the processor's cache. Where positions are spread evenly, as inode numbers, offsets and hashes
// are, the guess comes close, and the few steps from there stay within a cache line or two. Where they are not, the steps double: it takes twice as many as
// halving would.
func guess(p *ondisk.Pos, first, last *place, n int) int {
	x, from, to := p.Offset, first.offset, last.offset
	if first.inode != last.inode {
		x, from, to = p.Inode, first.inode, last.inode
	}
	if from == to {
		return n / 2
	}
	hi, lo := bits.Mul64(x-from, uint64(n))
	q, _ := bits.Div64(hi, lo, to-from)
	return min(int(q), n-1)
}

// chunkOf returns the index of the first chunk whose last position is not before p: the number of chunks if there is none.
func (n *Node) chunkOf(p *ondisk.Pos) int {
	a := n.index
	end := len(a) - 1
	if end < 0 || a[end].before(p) == 1 {
		return len(a)
	}
	if a[0].before(p) == 0 {
		return 0
	}
	from, to := 1, end // where it may be
	at := 1 + guess(p, &a[0], &a[end], end)
	if a[at].before(p) == 1 {
		from = at + 1
		for step := 2; from+step < to; step *= 2 {
			if a[from+step].before(p) == 0 {
				to = from + step
				break
			}
			from += step + 1
		}
	} else {
		to = at
		for step := 2; to-step >= from; step *= 2 {
			if a[to-step].before(p) == 1 {
				from = to - step + 1
				break
			}
			to -= step
		}
	}
	for from < to {
		half := int(uint(from+to) / 2)
		if a[half].before(p) == 1 {
			from = half + 1
		} else {
			to = half
		}
	}
	return from
}

// lowerBoundIn returns the index in chunk ci of the first position that is not before p, which is behind the chunk before and not behind this
// one's last.
func (n *Node) lowerBoundIn(ci int, p *ondisk.Pos) int {
	pl := &n.index[ci]
	c, end := pl.c, int(pl.n)-1
	if ci == 0 {
		return lowerBound(c.pos[:end], p)
	}
	from, to := 0, end
	at := guess(p, &n.index[ci-1], pl, end+1)
	if less(&c.pos[at], p) == 1 {
		from = at + 1
		for step := 2; from+step < to; step *= 2 {
			if less(&c.pos[from+step], p) == 0 {
				to = from + step
				break
			}
			from += step + 1
		}
	} else {
		to = at
		for step := 2; to-step >= from; step *= 2 {
			if less(&c.pos[to-step], p) == 1 {
				from = to - step + 1
				break
			}
			to -= step
		}
	}
	return from + lowerBound(c.pos[from:to], p)
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

// addChunk inserts an empty chunk with an arena of the given size as chunk ci. The caller fills it, and notes that.
func (n *Node) addChunk(ci, arenaBytes int) *chunk {
	c := &chunk{arena: make([]byte, 0, arenaBytes)}
	n.mem += chunkBytes + cap(c.arena)
	n.index = append(n.index, place{})
	copy(n.index[ci+1:], n.index[ci:])
	n.index[ci] = place{c: c}
	return c
}

// dropChunk removes chunk ci.
func (n *Node) dropChunk(ci int) {
	c := n.index[ci].c
	n.mem -= chunkBytes + cap(c.arena)
	if n.last == c {
		n.last = nil
	}
	last := len(n.index) - 1
	copy(n.index[ci:], n.index[ci+1:])
	n.index[last] = place{}
	n.index = n.index[:last]
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
