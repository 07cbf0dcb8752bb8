// Package strhash computes the hashes that place directory entries and extended attributes in their btrees.
//
// A hash depends on the type and the seed in the inode that the names belong to. It is where probing begins: who looks for a
// name goes on through the offsets behind until one is free. crc32c gives 32 bits, the others 63, so that offsets fit
// into the signed ones of system calls.
//
// All functions are pure, allocate nothing and may be called concurrently.
package strhash

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
)

// Type is enum bch_str_hash_type, kept in the flags of each inode.
type Type uint8

const (
	CRC32C     Type = 0
	CRC64      Type = 1
	SiphashOld Type = 2 // key taken from SHA-256 of the seed
	Siphash    Type = 3

	NumTypes = 4
)

var typeNames = [NumTypes]string{"crc32c", "crc64", "siphash_old", "siphash"}

// String is the name of the reference implementation, or "(unknown str_hash type N)".
func (t Type) String() string {
	if !t.Valid() {
		return fmt.Sprintf("(unknown str_hash type %d)", uint8(t))
	}
	return typeNames[t]
}

// Valid reports whether t is a defined type. Hashing with another type gives the result of no filesystem.
func (t Type) Valid() bool { return t < NumTypes }

// minDirent keeps offsets 0 and 1 free for "." and "..".
const minDirent = 2

// Dirent is where probing for name starts in a directory with the given type and seed (bi_hash_seed, as stored). In a
// casefolded directory name is the folded one. mask31 is the inode flag 31bit_dirent_offset.
func Dirent(t Type, seed [8]byte, name []byte, mask31 bool) uint64 {
	h := sum(t, seed, name)
	if mask31 {
		h &= 1<<31 - 1
	}
	return max(h, minDirent)
}

// Xattr is where probing for an attribute starts; name comes without its prefix, which xattrType stands for.
func Xattr(t Type, seed [8]byte, xattrType uint8, name []byte) uint64 {
	var buf [256]byte
	m := append(append(buf[:0], xattrType), name...)
	if t == SiphashOld || t == Siphash {
		xattrQuirk(m)
	}
	return sum(t, seed, m)
}

// xattrQuirk rewrites m so that a correct SipHash of it gives what filesystems hold. The reference hashes the type and the
// name in two steps, and its second step forgets that one byte is pending: the trailing bytes that do not fill a word are
// shifted by one behind a second copy of the type byte, and the last byte of the name is lost.
func xattrQuirk(m []byte) {
	tail := len(m) % 8
	if len(m) <= 8 || tail == 0 {
		return
	}
	last := m[len(m)-tail:]
	copy(last[1:], last)
	last[0] = m[0]
}

func sum(t Type, seed [8]byte, m []byte) uint64 {
	switch t {
	case CRC32C:
		return uint64(crc32c(crc32c(^uint32(0), seed[:]), m))
	case CRC64:
		reg := checksum.CRC64Update(^uint64(0), seed[:])
		return checksum.CRC64Update(reg, m) >> 1
	case SiphashOld:
		digest := sha256.Sum256(seed[:])
		return siphash24(binary.LittleEndian.Uint64(digest[0:]), binary.LittleEndian.Uint64(digest[8:]), m) >> 1
	default:
		return siphash24(binary.LittleEndian.Uint64(seed[:]), 0, m) >> 1
	}
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// crc32c runs the register over b without any inversion. For a name the plain table is as quick as the hardware path of
// the standard library, and its arguments may stay on the stack.
func crc32c(reg uint32, b []byte) uint32 {
	for _, c := range b {
		reg = castagnoli[byte(reg)^c] ^ reg>>8
	}
	return reg
}
