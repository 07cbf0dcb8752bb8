package ondisk

import (
	"encoding/binary"

	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
	"github.com/go-bcachefs/bcachefs/internal/codec/crypt"
)

// A node is a log of bsets. The first one is part of struct btree_node, the others of struct btree_node_entry:
//
//	btree_node        0 csum  16 magic  24 flags  32 min_key  52 max_key  72 _ptr  80 format  136 bset  160 keys
//	btree_node_entry  0 csum  16 bset  40 keys
//
// The checksum covers what follows it up to the end of the keys, as it is on disk, that is after encryption.
const (
	csumSize      = 16
	bsetHdrSize   = 24
	nodeHdrSize   = 160 // struct btree_node up to its keys
	nodeBsetAt    = nodeHdrSize - bsetHdrSize
	nodeEntrySize = csumSize + bsetHdrSize // struct btree_node_entry up to its keys
	nodeCryptAt   = 24                     // encrypted part of the node header: flags … format
)

// MaxNodeSize is the largest btree node in bytes.
const MaxNodeSize = 512 << 10

const (
	bsetFlagBigEndian         = 1 << 4
	bsetFlagSeparateWhiteouts = 1 << 5
)

// BsetHeader is struct bset without its keys.
type BsetHeader struct {
	Seq        uint64 // the same in all bsets of a node: its identity
	JournalSeq uint64 // newest journal sequence number that it holds updates of; 0 in compacted first bsets
	Flags      uint32 // checksum type, byte order, place in the node
	Version    MetadataVersion
	U64s       uint16 // length of the keys
}

func decodeBsetHeader(b []byte) BsetHeader {
	_ = b[bsetHdrSize-1]
	return BsetHeader{
		Seq:        binary.LittleEndian.Uint64(b),
		JournalSeq: binary.LittleEndian.Uint64(b[8:]),
		Flags:      binary.LittleEndian.Uint32(b[16:]),
		Version:    MetadataVersion(binary.LittleEndian.Uint16(b[20:])),
		U64s:       binary.LittleEndian.Uint16(b[22:]),
	}
}

func (h *BsetHeader) put(b []byte) {
	_ = b[bsetHdrSize-1]
	binary.LittleEndian.PutUint64(b, h.Seq)
	binary.LittleEndian.PutUint64(b[8:], h.JournalSeq)
	binary.LittleEndian.PutUint32(b[16:], h.Flags)
	binary.LittleEndian.PutUint16(b[20:], uint16(h.Version))
	binary.LittleEndian.PutUint16(b[22:], h.U64s)
}

// Csum is the type of the bset's checksum.
func (h *BsetHeader) Csum() checksum.Type { return checksum.Type(h.Flags & 0xf) }

// BigEndian reports whether a big-endian host wrote the bset.
func (h *BsetHeader) BigEndian() bool { return h.Flags&bsetFlagBigEndian != 0 }

// Offset is where the bset's structure starts in the node, in sectors; 0 also where the writer did not say.
func (h *BsetHeader) Offset() Sector { return Sector(h.Flags >> 16) }

// bsetFlags makes the flags of a little-endian bset.
func bsetFlags(t checksum.Type, offset int) uint32 {
	return uint32(t) | uint32(offset/SectorSize)<<16
}

// bsetArea is the place of one bset's structure in a node.
type bsetArea struct {
	BsetHeader
	start int // of the structure, in bytes from the start of the node
	keys  int // of its keys
	end   int // of its keys
}

// bsetAt reads the header of the bset whose structure starts at off; false if the header does not fit into limit.
// The end of the keys is not checked.
func bsetAt(node []byte, off, limit int) (a bsetArea, ok bool) {
	hdr := nodeEntrySize
	if off == 0 {
		hdr = nodeHdrSize
	}
	if off < 0 || off+hdr > min(limit, len(node)) {
		return a, false
	}
	a.BsetHeader = decodeBsetHeader(node[off+hdr-bsetHdrSize:])
	a.start, a.keys = off, off+hdr
	a.end = a.keys + int(a.U64s)*8
	return a, true
}

func (a *bsetArea) nonce() crypt.Nonce {
	return crypt.BtreeNodeNonce(uint32(a.start), a.Seq, a.JournalSeq)
}

// verify compares the checksum.
func (a *bsetArea) verify(node []byte, key *crypt.Key) (got, want checksum.Sum, err error) {
	want = decodeSum(node[a.start:])
	got, err = checksum.Compute(a.Csum(), key, a.nonce(), node[a.start+csumSize:a.end])
	return got, want, err
}

// crypt encrypts or decrypts the bset in place; it does nothing unless its checksum type says that it is encrypted.
func (a *bsetArea) crypt(node []byte, key *crypt.Key) {
	if !a.Csum().IsEncryption() {
		return
	}
	n := a.nonce()
	if a.start == 0 {
		const hdrLen = nodeBsetAt - nodeCryptAt
		key.XOR(n, node[nodeCryptAt:nodeBsetAt])
		n = n.Add((hdrLen + crypt.BlockSize - 1) / crypt.BlockSize * crypt.BlockSize)
	}
	key.XOR(n, node[a.keys:a.end])
}

// sealAt encrypts the bset, whose structure is at b[at:], in place and stores its checksum. a.keys and a.end are places in
// b; a.start is that in the node, which the nonce depends on.
func (a *bsetArea) sealAt(b []byte, at int, key *crypt.Key) error {
	if a.Csum().IsEncryption() && key == nil {
		return checksum.ErrNoKey
	}
	a.crypt(b, key)
	sum, err := checksum.Compute(a.Csum(), key, a.nonce(), b[at+csumSize:a.end])
	if err != nil {
		return err
	}
	putSum(b[at:], sum)
	return nil
}

func decodeSum(b []byte) checksum.Sum {
	return checksum.Sum{Lo: binary.LittleEndian.Uint64(b), Hi: binary.LittleEndian.Uint64(b[8:])}
}

func putSum(b []byte, s checksum.Sum) {
	binary.LittleEndian.PutUint64(b, s.Lo)
	binary.LittleEndian.PutUint64(b[8:], s.Hi)
}

// NodeHeader is struct btree_node without checksum and bset.
type NodeHeader struct {
	Magic  uint64
	Flags  uint64
	Min    Pos // first position that the node covers
	Max    Pos // last position that it covers
	Ptr    uint64
	Format Format // of the packed keys of all its bsets
}

// nodeMagicBase is xored with the start of the filesystem's internal uuid (BSET_MAGIC).
const nodeMagicBase = 0x90135c78b99e07f5

// NodeMagic is the magic of the btree nodes of the filesystem with the given internal uuid (bch_sb.uuid).
func NodeMagic(uuid [16]byte) uint64 { return binary.LittleEndian.Uint64(uuid[:]) ^ nodeMagicBase }

const nodeFlagNewExtentOverwrite = 1 << 8

// nodeFlags makes the flags of a node header.
func nodeFlags(id BtreeID, level uint8, gen uint32) uint64 {
	return uint64(id)&0xf | uint64(level&0xf)<<4 | nodeFlagNewExtentOverwrite | uint64(id)>>4<<9 | uint64(gen)<<32
}

// Btree is the id of the node's btree; up to 20 bits.
func (h *NodeHeader) Btree() uint32 { return uint32(h.Flags&0xf | h.Flags>>9&0xffff<<4) }

// Level is 0 for leaves.
func (h *NodeHeader) Level() uint8 { return uint8(h.Flags >> 4 & 0xf) }

// Gen tells which of two nodes of overlapping ranges is newer (BTREE_NODE_SEQ).
func (h *NodeHeader) Gen() uint32 { return uint32(h.Flags >> 32) }

// decodeNodeHeader reads the decrypted header of a node and its format's number of fields.
func decodeNodeHeader(b []byte) (h NodeHeader, nrFields uint8) {
	_ = b[nodeHdrSize-1]
	h = NodeHeader{
		Magic: binary.LittleEndian.Uint64(b[16:]),
		Flags: binary.LittleEndian.Uint64(b[24:]),
		Min:   DecodePos(b[32:]),
		Max:   DecodePos(b[52:]),
		Ptr:   binary.LittleEndian.Uint64(b[72:]),
	}
	h.Format, nrFields = decodeFormat(b[80:])
	return h, nrFields
}

func (h *NodeHeader) put(b []byte) {
	_ = b[nodeHdrSize-1]
	binary.LittleEndian.PutUint64(b[16:], h.Magic)
	binary.LittleEndian.PutUint64(b[24:], h.Flags)
	h.Min.Put(b[32:])
	h.Max.Put(b[52:])
	binary.LittleEndian.PutUint64(b[72:], h.Ptr)
	h.Format.Put(b[80:])
}

// roundUp rounds n up to a multiple of unit, a power of two.
func roundUp(n, unit int) int { return (n + unit - 1) &^ (unit - 1) }
