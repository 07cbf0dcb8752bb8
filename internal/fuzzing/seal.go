// Package fuzzing changes filesystem images for fuzz tests: it knows where the structures of an image are, mutates them in
// clear text and makes their checksums right again, so that what is wrong gets past them.
//
// What it knows of the format is written down here a second time, and not taken from the decoders that it tests.
package fuzzing

import (
	"encoding/binary"

	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
	"github.com/go-bcachefs/bcachefs/internal/codec/crypt"
)

// Places in the structures, in bytes. Each begins with its checksum.
const (
	sumSize = 16

	nodeCryptAt  = 24  // of a node's header, what is encrypted, up to the bset
	nodeBsetAt   = 136 // struct bset in a node's header, and so its size without keys
	entryBsetAt  = 16  // struct bset of the others
	bsetSize     = 24
	bsetU64sAt   = 22
	bsetFlagsAt  = 16
	jsetFlagsAt  = 36
	jsetU64sAt   = 40
	jsetCryptAt  = 44
	jsetSize     = 56
	superFlagsAt = 144
	superU64sAt  = 124
	superOffset  = 104
	superSize    = 752
)

// sealNode encrypts the bsets of a node in place and stores their checksums. It ends at the first that does not fit, or whose type
// of checksum does not exist.
func sealNode(node []byte, blockBytes int, key *crypt.Key) {
	le := binary.LittleEndian
	for at := 0; at < len(node); {
		bset := at + entryBsetAt
		if at == 0 {
			bset = nodeBsetAt
		}
		keys := bset + bsetSize
		if keys > len(node) {
			return
		}
		end := keys + 8*int(le.Uint16(node[bset+bsetU64sAt:]))
		t := checksum.Type(node[bset+bsetFlagsAt] & 0xf)
		if end > len(node) || t.IsEncryption() && key == nil {
			return
		}
		nonce := crypt.BtreeNodeNonce(uint32(at), le.Uint64(node[bset:]), le.Uint64(node[bset+8:]))
		if t.IsEncryption() {
			n := nonce
			if at == 0 {
				key.XOR(n, node[nodeCryptAt:nodeBsetAt])
				n = n.Add((nodeBsetAt - nodeCryptAt + crypt.BlockSize - 1) / crypt.BlockSize * crypt.BlockSize)
			}
			key.XOR(n, node[keys:end])
		}
		if !seal(node[at:end], t, key, nonce) {
			return
		}
		at = (end + blockBytes - 1) / blockBytes * blockBytes
	}
}

// sealJset does the same to a journal entry.
func sealJset(b []byte, key *crypt.Key) {
	end := jsetSize + 8*uint64(binary.LittleEndian.Uint32(b[jsetU64sAt:]))
	t := checksum.Type(b[jsetFlagsAt] & 0xf)
	if end > uint64(len(b)) || t.IsEncryption() && key == nil {
		return
	}
	nonce := crypt.JournalNonceOf(binary.LittleEndian.Uint64(b[24:]))
	if t.IsEncryption() {
		key.XOR(nonce, b[jsetCryptAt:end])
	}
	seal(b[:end], t, key, nonce)
}

// sealSuper stores the checksum of a superblock, which is never encrypted.
func sealSuper(b []byte) {
	end := superSize + 8*uint64(binary.LittleEndian.Uint32(b[superU64sAt:]))
	if t := checksum.Type(binary.LittleEndian.Uint64(b[superFlagsAt:]) >> 2 & 63); end <= uint64(len(b)) && !t.IsEncryption() {
		seal(b[:end], t, nil, crypt.Nonce{})
	}
}

func seal(b []byte, t checksum.Type, key *crypt.Key, n crypt.Nonce) bool {
	s, err := checksum.Compute(t, key, n, b[sumSize:])
	if err != nil {
		return false
	}
	binary.LittleEndian.PutUint64(b, s.Lo)
	binary.LittleEndian.PutUint64(b[8:], s.Hi)
	return true
}
