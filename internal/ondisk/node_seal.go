package ondisk

import (
	"fmt"
	"math"

	"github.com/go-bcachefs/bcachefs/internal/codec/crypt"
)

// Sizes of what precedes the keys of a bset, in bytes.
const (
	NodeHeaderSize      = nodeHdrSize   // struct btree_node: header of the node and of its first bset
	NodeEntryHeaderSize = nodeEntrySize // struct btree_node_entry: header of an appended bset
)

// NodeIdentity is what the header of a node says beside its range and format.
type NodeIdentity struct {
	Btree BtreeID
	Level uint8
	Gen   uint32 // tells which of two nodes of overlapping ranges is newer (BTREE_NODE_SEQ)
	Seq   uint64 // in all bsets of the node and in the pointer to it
}

// SealNode completes the first bset of a node in place: b[NodeHeaderSize:][:keyBytes] holds its keys, sorted and live, as
// [AppendNodeKey] makes them. It fills in the headers, encrypts and stores the checksum. The rest of the last block is the
// caller's to clear. It does not allocate; [RawNode] does the same for nodes that are at hand as a whole.
func SealNode(b []byte, h *NodeHeader, id NodeIdentity, keyBytes int, p *BsetParams, key *crypt.Key) error {
	h.Flags = nodeFlags(id.Btree, id.Level, id.Gen)
	a, err := newBsetArea(b, 0, nodeHdrSize, id.Seq, keyBytes, p)
	if err != nil {
		return err
	}
	h.put(b)
	a.put(b[nodeBsetAt:])
	return a.sealAt(b, 0, key)
}

// SealBset does for an appended bset what [SealNode] does for the first: b[NodeEntryHeaderSize:][:keyBytes] holds its keys,
// off is the place of its structure in the node in bytes, seq the identity of the node.
func SealBset(b []byte, off int, seq uint64, keyBytes int, p *BsetParams, key *crypt.Key) error {
	if p.JournalSeq == 0 || keyBytes == 0 || off == 0 {
		return fmt.Errorf("bset: appended at %d with journal_seq %d and %d bytes of keys", off, p.JournalSeq, keyBytes)
	}
	a, err := newBsetArea(b, off, nodeEntrySize, seq, keyBytes, p)
	if err != nil {
		return err
	}
	a.put(b[csumSize:])
	return a.sealAt(b, 0, key)
}

// newBsetArea makes the header of a bset whose structure is at the start of b and belongs at byte off of the node.
func newBsetArea(b []byte, off, hdr int, seq uint64, keyBytes int, p *BsetParams) (bsetArea, error) {
	end := hdr + keyBytes
	if keyBytes < 0 || keyBytes%8 != 0 || keyBytes/8 > math.MaxUint16 || end > len(b) {
		return bsetArea{}, fmt.Errorf("bset at %d: keys of %d bytes, buffer of %d", off, keyBytes, len(b))
	}
	if roundUp(off+end, p.BlockBytes) > p.NodeSize {
		return bsetArea{}, fmt.Errorf("%w: bset at %d ends at %d of %d", ErrNodeFull, off, off+end, p.NodeSize)
	}
	h := BsetHeader{
		Seq: seq, JournalSeq: p.JournalSeq, Flags: bsetFlags(p.Csum, off), Version: p.Version, U64s: uint16(keyBytes / 8),
	}
	return bsetArea{BsetHeader: h, start: off, keys: hdr, end: end}, nil
}
