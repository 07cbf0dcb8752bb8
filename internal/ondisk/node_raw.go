package ondisk

import (
	"errors"
	"fmt"
	"iter"
	"math"

	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
	"github.com/go-bcachefs/bcachefs/internal/codec/crypt"
)

// ErrNodeFull means that a bset does not fit into its node.
var ErrNodeFull = errors.New("btree node is full")

// RawBset is one bset of a [RawNode].
type RawBset struct {
	BsetHeader
	Offset int    // of its structure in the node, in bytes
	Keys   []byte // decrypted, as packed
}

// RawNode is a btree node as it is on disk, bset by bset, but for checksums, encryption and padding: what the write side
// builds, and what decodes and encodes to the same bytes.
type RawNode struct {
	NodeHeader
	Bsets []RawBset // the first one at offset 0
}

// DecodeRawNode decodes the node that fills buf, up to the last byte written. It decrypts buf in place, and Keys alias it.
// Nothing is repaired: any irregularity is an error, a [*NodeError].
func DecodeRawNode(buf []byte, blockBytes int, key *crypt.Key) (*RawNode, error) {
	if blockBytes <= 0 || blockBytes&(blockBytes-1) != 0 {
		return nil, fmt.Errorf("btree node: block of %d bytes", blockBytes)
	}
	var n RawNode
	for off := 0; off < len(buf); {
		a, ok := bsetAt(buf, off, len(buf))
		switch {
		case !ok:
			return nil, nodeErr("btree_node_data_missing", off, nil, "%d bytes left", len(buf)-off)
		case a.end > len(buf):
			return nil, nodeErr("bset_past_end_of_btree_node", off, nil, "bset ends at %d of %d", a.end, len(buf))
		case off > 0 && a.Seq != n.Bsets[0].Seq:
			return nil, nodeErr("btree_node_data_missing", off, nil, "bset of node %#x in node %#x", a.Seq, n.Bsets[0].Seq)
		}
		got, want, err := a.verify(buf, key)
		if err != nil {
			return nil, nodeErr("bset_unknown_csum", off, err, "checksum type %v", a.Csum())
		}
		if got != want {
			return nil, nodeErr("bset_bad_csum", off, ErrChecksum, "%v of bset: have %v, want %v", a.Csum(), got, want)
		}
		a.crypt(buf, key)
		if off == 0 {
			var nrFields uint8
			if n.NodeHeader, nrFields = decodeNodeHeader(buf); nrFields != numFields {
				return nil, nodeErr("btree_node_bad_format", 0, nil, "format of %d fields", nrFields)
			}
		}
		n.Bsets = append(n.Bsets, RawBset{BsetHeader: a.BsetHeader, Offset: off, Keys: buf[a.keys:a.end:a.end]})
		off = roundUp(a.end, blockBytes)
	}
	if len(n.Bsets) == 0 {
		return nil, nodeErr("btree_node_data_missing", 0, nil, "nothing written")
	}
	return &n, nil
}

// Keys yields the keys of bset i as they were written, those of type deleted included. Values alias the node. It ends with
// an error at a key that cannot be parsed.
func (n *RawNode) Keys(i int) iter.Seq2[Key, error] {
	return func(yield func(Key, error) bool) {
		var plan unpacker
		if err := n.Format.validate(false); err != nil {
			yield(Key{}, err)
			return
		}
		plan.init(&n.Format)
		s := &n.Bsets[i]
		for b := s.Keys; len(b) > 0; {
			size, hdr, packed := int(b[0])*8, KeySize, false
			if len(b) > 1 && b[1]&headerMask == formatLocal {
				hdr, packed = plan.keyBytes, true
			}
			if size < hdr || size > len(b) || size-hdr > MaxValSize || b[1]&headerMask > formatPlain {
				at := s.end() - len(b)
				yield(Key{}, nodeErr("btree_node_bkey_bad_u64s", at, nil, "key of %d bytes, %d left in the bset", size, len(b)))
				return
			}
			k := Key{}
			if packed {
				k = plan.key(b[:size:size])
			} else {
				k = decodePlain(b[:size])
			}
			if !yield(k, nil) {
				return
			}
			b = b[size:]
		}
	}
}

// end is where the keys of a bset end.
func (s *RawBset) end() int {
	if s.Offset == 0 {
		return nodeHdrSize + len(s.Keys)
	}
	return s.Offset + nodeEntrySize + len(s.Keys)
}

// Written returns how many bytes of the node are in use, in whole blocks.
func (n *RawNode) Written(blockBytes int) int {
	if len(n.Bsets) == 0 {
		return 0
	}
	return roundUp(n.Bsets[len(n.Bsets)-1].end(), blockBytes)
}

// Encode returns the whole node as it is written, in whole blocks.
func (n *RawNode) Encode(blockBytes int, key *crypt.Key) ([]byte, error) {
	buf := make([]byte, n.Written(blockBytes))
	for i := range n.Bsets {
		if err := n.encodeBset(buf, 0, i, key); err != nil {
			return nil, err
		}
	}
	return buf, nil
}

// EncodeBset returns the bytes of bset i, in whole blocks, that are written at its offset.
func (n *RawNode) EncodeBset(i, blockBytes int, key *crypt.Key) ([]byte, error) {
	s := &n.Bsets[i]
	buf := make([]byte, roundUp(s.end(), blockBytes)-s.Offset)
	return buf, n.encodeBset(buf, s.Offset, i, key)
}

// encodeBset writes bset i to buf, which starts at byte base of the node.
func (n *RawNode) encodeBset(buf []byte, base, i int, key *crypt.Key) error {
	s := &n.Bsets[i]
	if len(s.Keys)%8 != 0 || len(s.Keys)/8 > math.MaxUint16 {
		return fmt.Errorf("bset at %d: keys of %d bytes", s.Offset, len(s.Keys))
	}
	h := s.BsetHeader
	h.U64s = uint16(len(s.Keys) / 8)
	at := s.Offset - base
	hdr := nodeEntrySize
	if s.Offset == 0 {
		hdr = nodeHdrSize
		n.NodeHeader.put(buf)
	}
	h.put(buf[at+hdr-bsetHdrSize:])
	copy(buf[at+hdr:], s.Keys)
	a := bsetArea{BsetHeader: h, start: s.Offset, keys: at + hdr, end: at + hdr + len(s.Keys)}
	return a.sealAt(buf, at, key)
}

// BsetParams are what a writer chooses for a bset.
type BsetParams struct {
	JournalSeq uint64 // newest sequence number of its keys; 0 in the first bset of a node
	Version    MetadataVersion
	Csum       checksum.Type
	BlockBytes int
	NodeSize   int // in bytes; the node may not outgrow it
}

// NewRawNode makes a node of one bset with the given identity. h.Magic, Min, Max and Format are the caller's; gen tells
// which of two nodes of overlapping ranges is newer. The keys are sorted and live.
func NewRawNode(h NodeHeader, id BtreeID, level uint8, gen uint32, seq uint64, p BsetParams, keys []Key) (*RawNode, error) {
	if err := h.Format.Validate(); err != nil {
		return nil, err
	}
	h.Flags = nodeFlags(id, level, gen)
	n := &RawNode{NodeHeader: h}
	return n, n.append(seq, 0, p, keys)
}

// Append adds a bset with keys changed since the last one, sorted; keys of type deleted cancel older ones. It wraps
// [ErrNodeFull] if they do not fit. [RawNode.EncodeBset] gives what is to be written.
func (n *RawNode) Append(p BsetParams, keys []Key) error {
	if len(n.Bsets) == 0 {
		return errors.New("bset: node without first bset")
	}
	if p.JournalSeq == 0 || len(keys) == 0 {
		return fmt.Errorf("bset: appended with journal_seq %d and %d keys", p.JournalSeq, len(keys))
	}
	return n.append(n.Bsets[0].Seq, n.Written(p.BlockBytes), p, keys)
}

func (n *RawNode) append(seq uint64, off int, p BsetParams, keys []Key) error {
	s := RawBset{Offset: off, BsetHeader: BsetHeader{
		Seq: seq, JournalSeq: p.JournalSeq, Version: p.Version, Flags: bsetFlags(p.Csum, off),
	}}
	for i := range keys {
		k := &keys[i]
		if k.Pos.Less(n.Min) || n.Max.Less(k.Pos) {
			return fmt.Errorf("bset: key at %v outside %v - %v", k.Pos, n.Min, n.Max)
		}
		if i > 0 && !keys[i-1].Pos.Less(k.Pos) {
			return fmt.Errorf("bset: key at %v after %v", k.Pos, keys[i-1].Pos)
		}
		s.Keys = AppendNodeKey(s.Keys, &n.Format, k)
	}
	if end := s.end(); roundUp(end, p.BlockBytes) > p.NodeSize || len(s.Keys)/8 > math.MaxUint16 {
		return fmt.Errorf("%w: bset at %d ends at %d of %d", ErrNodeFull, off, end, p.NodeSize)
	}
	s.U64s = uint16(len(s.Keys) / 8)
	n.Bsets = append(n.Bsets, s)
	return nil
}

// AppendNodeKey appends k as nodes hold it: packed with f if it fits, unpacked if not.
func AppendNodeKey(dst []byte, f *Format, k *Key) []byte {
	if k.Type == KeyDeleted {
		if b, ok := f.PackPos(dst, k.Pos); ok {
			return b
		}
		return AppendKey(dst, Key{Pos: k.Pos})
	}
	if b, ok := f.PackKey(dst, k); ok {
		return b
	}
	return AppendKey(dst, *k)
}
