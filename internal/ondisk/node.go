package ondisk

import (
	"encoding/binary"
	"unsafe"

	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
	"github.com/go-bcachefs/bcachefs/internal/codec/crypt"
)

// NodeWant says which node is expected and how to read it.
type NodeWant struct {
	Btree        BtreeID
	Level        uint8
	Ptr          BtreePtr        // the pointer that led here
	Magic        uint64          // [NodeMagic]
	BlockSectors uint            // block size of the filesystem, in sectors
	NodeSize     int             // btree_node_size in bytes
	VersionMin   MetadataVersion // oldest version that the filesystem may hold; formats from before 0.12 may overflow
	Key          *crypt.Key      // nil if the filesystem is not encrypted

	// Blacklisted tells whether bsets of a journal sequence number are to be ignored; nil: none are.
	Blacklisted func(seq uint64) bool
	// CheckKey judges keys beyond the generic checks, their values in particular; keys that it refuses are left out.
	// Of an [*InvalidKeyError] the ID is kept. nil: no more checks.
	CheckKey func(k *Key) error
	// Salvage makes use of what is intact in a node that is otherwise refused with [NodeError.Salvageable]: the bsets
	// whose checksums are right. What is missing is listed in [Node.Problems].
	Salvage bool
}

// BsetInfo describes a bset that a node was made of.
type BsetInfo struct {
	Offset      int // of its structure in the node, in bytes
	End         int // of its keys
	JournalSeq  uint64
	Version     MetadataVersion
	Csum        checksum.Type
	Blacklisted bool // ignored, unless it is the first
	Packed      int  // keys in the node's format
	Unpacked    int
}

// Node is a decoded btree node: the live keys of all its bsets, in order.
//
// A Node does not change and may be used by any number of goroutines. It holds the keys as they were packed, hardly more
// memory than they take on disk.
type Node struct {
	Btree      BtreeID
	Level      uint8
	Gen        uint32 // tells which of two nodes of overlapping ranges is newer
	Min, Max   Pos    // range that it covers, both inclusive
	Seq        uint64 // identity
	JournalSeq uint64 // newest of the bsets in use
	Format     Format
	Written    int // bytes of the node area in use, whole blocks
	Bsets      []BsetInfo
	Problems   []NodeProblem // empty for a sound node

	data   []byte   // keys with values, back to back, packed with Format or unpacked
	offs   []uint32 // of each key in data; nil if all are stride bytes long
	stride int
	n      int
	packed bool // all keys are packed
	plan   unpacker
}

// Len returns the number of live keys.
func (n *Node) Len() int { return n.n }

// raw returns key i and what follows it.
func (n *Node) raw(i int) []byte {
	if n.offs != nil {
		return n.data[n.offs[i]:]
	}
	return n.data[i*n.stride:]
}

// Key returns key i, 0 ≤ i < Len. Its value aliases the node and must not be changed.
func (n *Node) Key(i int) Key {
	b := n.raw(i)
	end := int(b[0]) * 8
	if b[1]&headerMask == formatLocal {
		return n.plan.key(b[:end:end])
	}
	return decodePlain(b[:end])
}

// LoadKey sets k to key i. In loops over many keys it is faster than Key.
func (n *Node) LoadKey(i int, k *Key) {
	b := n.raw(i)
	end := int(b[0]) * 8
	if b[1]&headerMask == formatLocal {
		n.plan.load(b[:end:end], k)
		return
	}
	*k = decodePlain(b[:end])
}

// Pos returns the position of key i, 0 ≤ i < Len.
func (n *Node) Pos(i int) Pos {
	b := n.raw(i)
	if b[1]&headerMask == formatLocal {
		return n.plan.pos(b)
	}
	return DecodePos(b[20:])
}

// Type returns the type of key i, 0 ≤ i < Len.
func (n *Node) Type(i int) KeyType { return KeyType(n.raw(i)[2]) }

// ValSize returns the size of the value of key i in bytes, 0 ≤ i < Len.
func (n *Node) ValSize(i int) int {
	b := n.raw(i)
	if b[1]&headerMask == formatLocal {
		return int(b[0])*8 - n.plan.keyBytes
	}
	return int(b[0])*8 - KeySize
}

// Search returns the index of the first key whose position is not before p; Len if there is none.
func (n *Node) Search(p Pos) int {
	var s searchKey
	n.Format.search(&s, p)
	if n.packed {
		return n.searchPacked(&s)
	}
	lo, hi := 0, n.n
	for lo < hi {
		m := int(uint(lo+hi) >> 1)
		b := n.raw(m)
		var less bool
		if b[1]&headerMask == formatLocal {
			less = n.plan.before(b, &s)
		} else {
			less = DecodePos(b[20:]).Less(p)
		}
		if less {
			lo = m + 1
		} else {
			hi = m
		}
	}
	return lo
}

// searchPacked is Search in a node without unpacked keys.
func (n *Node) searchPacked(s *searchKey) int {
	if s.past {
		return n.n
	}
	lo, hi := 0, n.n
	if n.plan.posWords != 1 {
		for lo < hi {
			m := int(uint(lo+hi) >> 1)
			if n.plan.before(n.raw(m), s) {
				lo = m + 1
			} else {
				hi = m
			}
		}
		return lo
	}
	top, mask := n.plan.keyBytes-8, n.plan.posMask
	for lo < hi {
		m := int(uint(lo+hi) >> 1)
		if binary.LittleEndian.Uint64(n.raw(m)[top:])&mask < s.words[0] {
			lo = m + 1
		} else {
			hi = m
		}
	}
	return lo
}

// before reports whether the packed key at b is before the position that s stands for.
func (p *unpacker) before(b []byte, s *searchKey) bool {
	if s.past {
		return true
	}
	at := p.keyBytes
	for w := range p.posWords {
		at -= 8
		x := binary.LittleEndian.Uint64(b[at:])
		if w == p.posWords-1 {
			x &= p.posMask
		}
		if x != s.words[w] {
			return x < s.words[w]
		}
	}
	return false
}

// MemBytes returns the memory that the node takes.
func (n *Node) MemBytes() int {
	return int(unsafe.Sizeof(*n)) + cap(n.data) + cap(n.offs)*4 + cap(n.Bsets)*int(unsafe.Sizeof(BsetInfo{})) +
		cap(n.Problems)*int(unsafe.Sizeof(NodeProblem{}))
}

// LiveBytes returns the size of the keys as the node holds them.
func (n *Node) LiveBytes() int { return len(n.data) }
