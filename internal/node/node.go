// Package node holds one btree node in memory while it changes: the keys of all its bsets merged into one sorted set, and what
// of them is not on disk yet.
//
// # Shape
//
// Keys lie in chunks of at most 64. A chunk has its positions and the rest of its keys in parallel arrays, and the values in
// an arena. A search looks at the index, an array with the last positions of all chunks, then at the positions of one chunk.
//
// # Values
//
// Bytes of an arena never change once a key's value is stored there: an overwrite appends, a full arena is replaced by a new
// one that holds what is live. A key that was handed out stays as it is for ever, whatever happens to the node.
//
// # What is written
//
// A key is unwritten from its change to the next write. [Node.PrepareWrite] encodes the whole node if nothing of it was
// written yet, else a bset with the unwritten keys and whiteouts, and moves them to "in flight"; [Node.WriteDone] or
// [Node.WriteFailed] ends that. A key may change again while an older state of it is in flight. Deleting a key that is, or is
// about to be, in a written bset leaves a whiteout, which waits beside the keys for the next write.
//
// The journal sequence numbers of changes are kept as ranges, one for what is unwritten and one for what is in flight: the
// oldest is what the journal has to keep, the newest is the journal_seq of the bset.
//
// # Overfull nodes
//
// A node may hold more than can be written, for instance where keys of the journal were merged into one just read: then
// [Node.Room] says no and [Node.PrepareWrite] fails with [ErrFull]; [Node.Split] or [Node.SplitN] make nodes of it that fit.
//
// # Locking
//
// There is none here: who holds the node's lock shared may read, who holds it exclusively may do all else. Preparing and
// ending a write are changes. A [Cursor] must not be used any more once the node has changed.
package node

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

var (
	// ErrFull means that what is to be written does not fit into the node.
	ErrFull = ondisk.ErrNodeFull
	// ErrClean means that there is nothing to write.
	ErrClean = errors.New("btree node has nothing to write")
	// ErrInFlight means that the write before is not over.
	ErrInFlight = errors.New("btree node has a write in flight")
	// ErrNoSeq means that changes are to be appended whose journal sequence number is not known yet.
	ErrNoSeq = errors.New("btree node has changes that no journal entry holds yet")
	// ErrSplit means that a node has too few keys to be split as asked.
	ErrSplit = errors.New("btree node cannot be split")
)

// Params say what a node is.
type Params struct {
	ondisk.NodeIdentity
	Magic      uint64     // [ondisk.NodeMagic]
	Min, Max   ondisk.Pos // range that it covers, both inclusive
	Format     ondisk.Format
	NodeBytes  int // btree_node_size
	BlockBytes int // block size of the filesystem
}

// SeqRange is a range of journal sequence numbers, both inclusive; zero is none.
type SeqRange struct{ Oldest, Newest uint64 }

// Add widens r by seq; 0 is ignored.
func (r *SeqRange) Add(seq uint64) {
	if seq == 0 {
		return
	}
	if r.Oldest == 0 || seq < r.Oldest {
		r.Oldest = seq
	}
	r.Newest = max(r.Newest, seq)
}

// Join widens r by s.
func (r *SeqRange) Join(s SeqRange) {
	r.Add(s.Oldest)
	r.Add(s.Newest)
}

// Node is a btree node. It is made by [New], [FromDisk] or from other nodes.
type Node struct {
	p      Params
	packer ondisk.Packer // of p.Format

	index []place // of the chunks, none of which is empty
	count int     // keys
	live  int     // words of all keys as the format packs them
	mem   int     // bytes of chunks and arenas

	last   *chunk // where the last insertion went
	lastAt int

	written int  // bytes of the node area in use, whole blocks; 0: nothing was written yet
	writing int  // where the write in flight ends; 0: none is
	rewrite bool // may not be appended to

	unwritten     int // words of unwritten keys
	whiteouts     posSet
	whiteoutWords int
	seqs          SeqRange // of unwritten keys and whiteouts

	inFlight          int // keys in flight
	inFlightWhiteouts []ondisk.Pos
	inFlightSeqs      SeqRange
}

// New returns an empty node of which nothing is written. A zero format is replaced by the one that the reference chooses for
// the range. It panics if the sizes are impossible.
func New(p Params) *Node {
	if p.Format.KeyU64s == 0 {
		p.Format = ondisk.NewFormatChooser(p.Min, p.Max, true).Format()
	}
	switch {
	case p.BlockBytes < ondisk.SectorSize || p.BlockBytes&(p.BlockBytes-1) != 0, p.NodeBytes%p.BlockBytes != 0,
		p.NodeBytes < ondisk.SectorSize, p.NodeBytes > ondisk.MaxNodeSize:
		panic(fmt.Sprintf("btree node of %d bytes in blocks of %d", p.NodeBytes, p.BlockBytes))
	case p.Max.Less(p.Min):
		panic(fmt.Sprintf("btree node from %v to %v", p.Min, p.Max))
	}
	if err := p.Format.Validate(); err != nil {
		panic(err)
	}
	return &Node{p: p, packer: ondisk.NewPacker(&p.Format)}
}

// Params returns what the node is.
func (n *Node) Params() Params { return n.p }

// Identity returns the node's btree, level, seq and generation.
func (n *Node) Identity() ondisk.NodeIdentity { return n.p.NodeIdentity }

// Min returns the first position that the node covers.
func (n *Node) Min() ondisk.Pos { return n.p.Min }

// Max returns the last position that the node covers.
func (n *Node) Max() ondisk.Pos { return n.p.Max }

// Covers reports whether a key at p belongs into the node.
func (n *Node) Covers(p ondisk.Pos) bool { return !p.Less(n.p.Min) && !n.p.Max.Less(p) }

// Len returns the number of keys.
func (n *Node) Len() int { return n.count }

// LiveU64s returns the words that the keys take, packed with the node's format.
func (n *Node) LiveU64s() int { return n.live }

// MaxU64s returns the words of keys that a node has place for; all but one of them may be used.
func (n *Node) MaxU64s() int { return (n.p.NodeBytes - ondisk.NodeHeaderSize) / 8 }

const posBytes = int(unsafe.Sizeof(ondisk.Pos{}))

// MemBytes returns the memory that the node takes.
func (n *Node) MemBytes() int {
	return int(unsafe.Sizeof(*n)) + n.mem + cap(n.index)*int(unsafe.Sizeof(place{})) + n.whiteouts.memBytes() +
		cap(n.inFlightWhiteouts)*posBytes
}

// Written returns how much of the node area is in use, the sectors_written of the pointer to it. It grows with
// [Node.WriteDone].
func (n *Node) Written() ondisk.Sector { return ondisk.Sector(n.written / ondisk.SectorSize) }

// Dirty reports whether there is something to write that is not in flight already.
func (n *Node) Dirty() bool {
	return n.unwritten > 0 || n.whiteouts.len() > 0 || n.written == 0 && n.writing == 0
}

// InFlight reports whether a write was prepared and has not ended.
func (n *Node) InFlight() bool { return n.writing != 0 }

// UnwrittenSeqs returns the journal sequence numbers of what is neither written nor in flight. The journal must keep
// entries from the oldest of these and of [Node.InFlightSeqs] on. Changes that cancel each other leave nothing unwritten
// and no sequence number.
func (n *Node) UnwrittenSeqs() SeqRange { return n.seqs }

// InFlightSeqs returns the journal sequence numbers of what is being written.
func (n *Node) InFlightSeqs() SeqRange { return n.inFlightSeqs }

// NoteSeq adds a journal sequence number to the unwritten ones, if anything is unwritten: that of a change made before it
// was known (with 0), or the one from which on what a changed pointer leads to is reachable.
func (n *Node) NoteSeq(seq uint64) {
	if n.unwritten > 0 || n.whiteouts.len() > 0 {
		n.seqs.Add(seq)
	}
}

// NeedsRewrite reports whether the node has to be replaced rather than appended to.
func (n *Node) NeedsRewrite() bool { return n.rewrite }

// MarkRewrite makes [Node.Room] say no from now on: the node has to be replaced.
func (n *Node) MarkRewrite() { n.rewrite = true }

// Room reports whether changes can be made that take so many words unpacked, and be written: 5 and the value for a key, 5 for
// a deletion. What the changes replace is not counted in their favour.
func (n *Node) Room(u64s int) bool {
	return !n.rewrite && n.fits(n.live+u64s, n.unwritten+n.whiteoutWords+u64s)
}

// fits reports whether a node with so many words of keys leaves the spare word, and so many words can be appended, or
// written with all others if nothing is on disk.
func (n *Node) fits(live, unwritten int) bool {
	if live >= n.MaxU64s() {
		return false
	}
	at := max(n.written, n.writing)
	return at == 0 || at+ondisk.NodeEntryHeaderSize+unwritten*8 <= n.p.NodeBytes
}

// keyWords returns the words of a key without its value.
func (n *Node) keyWords(plain bool) int {
	if plain {
		return ondisk.KeyU64s
	}
	return int(n.p.Format.KeyU64s)
}

// words returns the words that the key of e takes on disk.
func (n *Node) words(e *entry) int { return n.keyWords(e.flags&flagPlain != 0) + int(e.words) }

// whiteoutSize returns the words of a whiteout at p.
func (n *Node) whiteoutSize(p ondisk.Pos) int { return n.keyWords(!n.packer.PacksPos(p)) }
