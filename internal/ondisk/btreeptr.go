package ondisk

import (
	"encoding/binary"
	"fmt"
	"iter"
)

// btreePtrV2Size is the size of the fixed part of a btree_ptr_v2 value in bytes.
const btreePtrV2Size = 40

const (
	flagRangeUpdated = 1 << 0

	maxBtreePtrV2U64s = 15 // 5 and 8 pointers with 2 more entries, the limit of 1.38; older writers stay below
	maxBtreePtrU64s   = 4

	// DevNone is the device of a pointer that is only a placeholder (from 1.33 on).
	DevNone = 255
)

// BtreePtr points to a btree node (struct bch_btree_ptr_v2, or bch_btree_ptr of filesystems from before 0.14).
type BtreePtr struct {
	V2             bool
	Seq            uint64 // of the node; v1: unknown, 0
	SectorsWritten uint16 // valid length of the node in sectors; v1 and very old v2: 0, the node tells
	Flags          uint16
	Min            Pos    // first position that the node covers; v1: unknown
	Max            Pos    // last position that it covers: the key's own
	Ptrs           []byte // extent entries, whole words; aliases the key's value
}

// NodeAddr is the place of one replica of a node.
type NodeAddr struct {
	Dev    uint8
	Gen    uint8
	Sector Sector
}

// DecodeBtreePtr decodes keys of the types btree_ptr and btree_ptr_v2. Ptrs aliases k.Val.
func DecodeBtreePtr(k Key) (BtreePtr, error) {
	p := BtreePtr{Max: k.Pos}
	switch k.Type {
	case KeyBtreePtr:
		if n := len(k.Val); n == 0 || n%8 != 0 || n > maxBtreePtrU64s*8 {
			return p, fmt.Errorf("btree_ptr at %v: value of %d bytes", k.Pos, n)
		}
		p.Ptrs = k.Val
	case KeyBtreePtrV2:
		if n := len(k.Val); n < btreePtrV2Size || n%8 != 0 || n > maxBtreePtrV2U64s*8 {
			return p, fmt.Errorf("btree_ptr_v2 at %v: value of %d bytes", k.Pos, n)
		}
		p.V2 = true
		p.Seq = binary.LittleEndian.Uint64(k.Val[8:])
		p.SectorsWritten = binary.LittleEndian.Uint16(k.Val[16:])
		p.Flags = binary.LittleEndian.Uint16(k.Val[18:])
		p.Min = DecodePos(k.Val[20:])
		p.Ptrs = k.Val[btreePtrV2Size:]
		if p.Max.Less(p.Min) {
			return p, fmt.Errorf("btree_ptr_v2: min_key %v after its position %v", p.Min, p.Max)
		}
	default:
		return p, fmt.Errorf("key of type %v at %v is no btree pointer", k.Type, k.Pos)
	}
	return p, nil
}

// Key returns p as a key, ready for [AppendKey].
func (p *BtreePtr) Key() Key {
	if !p.V2 {
		return Key{Type: KeyBtreePtr, Pos: p.Max, Val: p.Ptrs}
	}
	v := make([]byte, btreePtrV2Size, btreePtrV2Size+len(p.Ptrs))
	binary.LittleEndian.PutUint64(v[8:], p.Seq)
	binary.LittleEndian.PutUint16(v[16:], p.SectorsWritten)
	binary.LittleEndian.PutUint16(v[18:], p.Flags)
	p.Min.Put(v[20:])
	return Key{Type: KeyBtreePtrV2, Pos: p.Max, Val: append(v, p.Ptrs...)}
}

// RangeUpdated reports whether Min and Max override the range in the node, and keys outside do not count.
func (p *BtreePtr) RangeUpdated() bool { return p.Flags&flagRangeUpdated != 0 }

// Addrs yields the places of the node's replicas, in order; placeholders and other entries are left out, and an entry of
// an unknown type ends the list.
func (p *BtreePtr) Addrs() iter.Seq[NodeAddr] {
	return func(yield func(NodeAddr) bool) {
		for b := p.Ptrs; len(b) >= 8; b = b[8:] {
			w := binary.LittleEndian.Uint64(b)
			switch {
			case w&1 != 0:
				a := NodeAddr{Dev: uint8(w >> 48), Gen: uint8(w >> 56), Sector: Sector(w >> 4 & (1<<44 - 1))}
				if a.Dev != DevNone && !yield(a) {
					return
				}
			case w&(1<<7-1) == 0 && w&(1<<7|1<<8) != 0: // reconcile and reconcile_bp, one word each
			default:
				return
			}
		}
	}
}

// AppendNodeAddr appends a pointer entry to the entries of a [BtreePtr].
func AppendNodeAddr(dst []byte, a NodeAddr) []byte {
	return binary.LittleEndian.AppendUint64(dst, 1|uint64(a.Sector)&(1<<44-1)<<4|uint64(a.Dev)<<48|uint64(a.Gen)<<56)
}
