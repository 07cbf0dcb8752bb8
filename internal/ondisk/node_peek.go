package ondisk

import (
	"encoding/binary"

	"github.com/go-bcachefs/bcachefs/internal/codec/crypt"
)

// PeekNodeSize is how many bytes of a node [PeekNode] needs.
const PeekNodeSize = nodeHdrSize

// PeekNode reads the header of what may be a btree node, at the start of b, to find nodes that nothing points to. It verifies
// nothing but the magic: what it returns is a guess that [DecodeNode] confirms. It does not change b. ok is false if there is
// no node of this filesystem, or it is encrypted and key is nil.
func PeekNode(b []byte, magic uint64, key *crypt.Key) (h NodeHeader, first BsetHeader, ok bool) {
	a, ok := bsetAt(b, 0, len(b))
	if !ok || binary.LittleEndian.Uint64(b[16:]) != magic {
		return h, first, false
	}
	var hdr [nodeHdrSize]byte
	copy(hdr[:], b)
	if a.Csum().IsEncryption() {
		if key == nil {
			return h, first, false
		}
		key.XOR(a.nonce(), hdr[nodeCryptAt:nodeBsetAt])
	}
	h, _ = decodeNodeHeader(hdr[:])
	return h, a.BsetHeader, true
}
