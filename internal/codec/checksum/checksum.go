// Package checksum computes the checksums of the format over superblocks, journal sets, btree nodes and data: CRC-32C and
// CRC-64 in two variants each, XXH64, and the Poly1305 tags of encrypted filesystems.
//
// All functions are pure and may be called concurrently; none allocates.
package checksum

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/cespare/xxhash/v2"

	"github.com/go-bcachefs/bcachefs/internal/codec/crypt"
)

// Type is enum bch_csum_type, as stored in superblocks, journal sets, bsets and crc entries of extents.
type Type uint8

const (
	None                 Type = 0 // all sums are zero
	CRC32CNonzero        Type = 1 // metadata: registers start and end inverted
	CRC64Nonzero         Type = 2
	ChaCha20Poly1305_80  Type = 3 // tag cut to ten bytes
	ChaCha20Poly1305_128 Type = 4
	CRC32C               Type = 5 // data: no inversion, so that sums can be merged
	CRC64                Type = 6
	XXHash               Type = 7

	NumTypes = 8
)

var (
	// ErrType means a checksum type this package does not know.
	ErrType = errors.New("unknown checksum type")
	// ErrNoKey means that an authenticated checksum was asked for without a key.
	ErrNoKey = errors.New("checksum needs the encryption key")
)

var typeInfo = [NumTypes]struct {
	name  string
	bytes int
}{
	None:                 {"none", 0},
	CRC32CNonzero:        {"crc32c_nonzero", 4},
	CRC64Nonzero:         {"crc64_nonzero", 8},
	ChaCha20Poly1305_80:  {"chacha20_poly1305_80", 10},
	ChaCha20Poly1305_128: {"chacha20_poly1305_128", 16},
	CRC32C:               {"crc32c", 4},
	CRC64:                {"crc64", 8},
	XXHash:               {"xxhash", 8},
}

// String is the name of the reference implementation, or "(unknown csum type N)".
func (t Type) String() string {
	if !t.Valid() {
		return fmt.Sprintf("(unknown csum type %d)", uint8(t))
	}
	return typeInfo[t].name
}

// Valid reports whether t is a defined type.
func (t Type) Valid() bool { return t < NumTypes }

// IsEncryption reports whether t implies that the bytes are encrypted and authenticated.
func (t Type) IsEncryption() bool { return t == ChaCha20Poly1305_80 || t == ChaCha20Poly1305_128 }

// Bytes is the number of bytes of a sum that are significant; an unknown type has 0.
func (t Type) Bytes() int {
	if !t.Valid() {
		return 0
	}
	return typeInfo[t].bytes
}

// Mergeable reports whether the sum of a concatenation follows from the sums of its parts ([Merge]).
func (t Type) Mergeable() bool { return t == None || t == CRC32C || t == CRC64 }

// Sum is struct bch_csum. Bytes beyond the type's size are zero, so sums compare with ==.
type Sum struct{ Lo, Hi uint64 }

// String prints both halves as the reference implementation does, high half first.
func (s Sum) String() string { return fmt.Sprintf("%x:%x", s.Hi, s.Lo) }

// IsZero reports whether all 16 bytes are zero.
func (s Sum) IsZero() bool { return s == Sum{} }

// Compute returns the checksum of type t over the concatenation of data. key and n are used by the authenticated types
// only, n being the nonce the data is encrypted with. The error wraps [ErrType] or [ErrNoKey].
func Compute(t Type, key *crypt.Key, n crypt.Nonce, data ...[]byte) (Sum, error) {
	switch t {
	case None:
		return Sum{}, nil
	case CRC32CNonzero:
		return Sum{Lo: uint64(^crc32cUpdate(^uint32(0), data))}, nil
	case CRC32C:
		return Sum{Lo: uint64(crc32cUpdate(0, data))}, nil
	case CRC64Nonzero:
		return Sum{Lo: ^crc64UpdateAll(^uint64(0), data)}, nil
	case CRC64:
		return Sum{Lo: crc64UpdateAll(0, data)}, nil
	case XXHash:
		return Sum{Lo: xxhash64(data)}, nil
	case ChaCha20Poly1305_80, ChaCha20Poly1305_128:
		if key == nil {
			return Sum{}, fmt.Errorf("%w (%v)", ErrNoKey, t)
		}
		tag := key.Poly1305(n, data...)
		s := Sum{Lo: binary.LittleEndian.Uint64(tag[0:]), Hi: binary.LittleEndian.Uint64(tag[8:])}
		if t == ChaCha20Poly1305_80 {
			s.Hi &= 0xffff
		}
		return s, nil
	}
	return Sum{}, fmt.Errorf("%w %d", ErrType, uint8(t))
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// crc32cUpdate runs the bare register, which the standard library hides behind an inversion on both sides.
func crc32cUpdate(reg uint32, data [][]byte) uint32 {
	for _, d := range data {
		reg = ^crc32.Update(^reg, castagnoli, d)
	}
	return reg
}

func crc64UpdateAll(reg uint64, data [][]byte) uint64 {
	for _, d := range data {
		reg = CRC64Update(reg, d)
	}
	return reg
}

func xxhash64(data [][]byte) uint64 {
	if len(data) == 1 {
		return xxhash.Sum64(data[0])
	}
	var d xxhash.Digest
	d.Reset()
	for _, b := range data {
		d.Write(b)
	}
	return d.Sum64()
}
