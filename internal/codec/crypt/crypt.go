// Package crypt is the encryption of the format: the ChaCha20 keystream over data, btree nodes and journal sets, the
// Poly1305 tag that authenticates them, and the master key that both use together with the passphrase that wraps it.
//
// The format feeds its 16-byte nonce into the last four words of the ChaCha20 state. Word 0 is at the same time the block
// counter, so "skip n bytes" is an addition to word 0, and the counter wraps at 2^32 without a carry into word 1. Word 3
// carries the domain ([ExtentNonce] and its neighbours) that keeps the uses apart.
//
// Everything here is a pure function of its arguments and may be called concurrently. Encryption and decryption are the
// same operation.
package crypt

import (
	"encoding/binary"

	"golang.org/x/crypto/chacha20"
	//lint:ignore SA1019 the one-time MAC alone is what the format uses, not the AEAD
	"golang.org/x/crypto/poly1305"
)

// BlockSize is the number of keystream bytes that advance a nonce by one.
const BlockSize = 64

// Domains, xored into word 3 of a nonce (BCH_NONCE_EXTENT and so on).
const (
	ExtentNonce  uint32 = 1 << 28
	BtreeNonce   uint32 = 2 << 28
	JournalNonce uint32 = 3 << 28
	SBNonce      uint32 = 4 << 28
	PolyNonce    uint32 = 1 << 31
)

// Key is a ChaCha20 key: a filesystem's master key, or the passphrase key that wraps it.
type Key [32]byte

// String hides the key, so that printing a structure that holds one does not leak it.
func (Key) String() string { return "(key)" }

// GoString hides the key from %#v.
func (Key) GoString() string { return "crypt.Key{…}" }

// Nonce is struct nonce: state words 12 to 15 of ChaCha20. Word 0 counts blocks of 64 bytes.
type Nonce [4]uint32

// Add returns the nonce of the keystream that starts bytes further on; bytes is a multiple of [BlockSize]. The counter
// wraps modulo 2^32 and never carries into the other words.
func (n Nonce) Add(bytes uint64) Nonce {
	n[0] += uint32(bytes / BlockSize)
	return n
}

// BtreeNodeNonce is the nonce of a bset that starts offset bytes into its node (0 for the first).
func BtreeNodeNonce(offset uint32, seq, journalSeq uint64) Nonce {
	return Nonce{offset, uint32(seq), uint32(seq >> 32), uint32(journalSeq) ^ BtreeNonce}
}

// JournalNonceOf is the nonce of the journal set with the given sequence number.
func JournalNonceOf(seq uint64) Nonce {
	return Nonce{0, uint32(seq), uint32(seq >> 32), JournalNonce}
}

// ExtentNonceOf is the nonce of stored extent data: versionHi and versionLo are the key's version, nonceSectors the
// nonce field of the crc entry. For compressed data compressionType and uncompressedSectors take part; for plain data
// both must be given as 0.
func ExtentNonceOf(versionHi uint32, versionLo uint64, nonceSectors uint32, compressionType uint8, uncompressedSectors uint32) Nonce {
	const blocksPerSector = 512 / BlockSize
	const uncompressedShift = 22
	return Nonce{
		uncompressedSectors<<uncompressedShift + nonceSectors*blocksPerSector,
		uint32(versionLo),
		uint32(versionLo >> 32),
		(versionHi | uint32(compressionType)<<24) ^ ExtentNonce,
	}
}

// XOR encrypts or decrypts b in place with the keystream that starts at n. It does not allocate.
func (k *Key) XOR(n Nonce, b []byte) {
	done := k.xorFast(n, b)
	n, b = n.Add(uint64(done)), b[done:]
	// What is left, or all of it where there is no assembly of ours.
	for len(b) > 0 {
		// The cipher of x/crypto panics when its counter would pass 2^32; the format wraps there.
		part := b
		if left := (1<<32 - uint64(n[0])) * BlockSize; uint64(len(part)) > left {
			part = part[:left]
		}
		k.xorNoWrap(n, part)
		n = n.Add(uint64(len(part)))
		b = b[len(part):]
	}
}

// xorNoWrap is XOR for a range in which the counter does not pass 2^32.
func (k *Key) xorNoWrap(n Nonce, b []byte) {
	var iv [chacha20.NonceSize]byte
	binary.LittleEndian.PutUint32(iv[0:], n[1])
	binary.LittleEndian.PutUint32(iv[4:], n[2])
	binary.LittleEndian.PutUint32(iv[8:], n[3])
	c, err := chacha20.NewUnauthenticatedCipher(k[:], iv[:])
	if err != nil {
		panic("crypt: " + err.Error()) // key and nonce sizes are constants
	}
	c.SetCounter(n[0])
	c.XORKeyStream(b, b)
}

// Poly1305 returns the tag of the concatenation of data. n is the nonce the data is encrypted with: the one-time key is the
// start of the keystream of that nonce in the [PolyNonce] domain, which this function applies itself. It does not allocate.
func (k *Key) Poly1305(n Nonce, data ...[]byte) [16]byte {
	var oneTime [32]byte
	n[3] ^= PolyNonce
	k.XOR(n, oneTime[:])
	h := poly1305.New(&oneTime)
	for _, d := range data {
		h.Write(d)
	}
	var tag [16]byte
	h.Sum(tag[:0])
	return tag
}
