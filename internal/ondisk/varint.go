package ondisk

import (
	"encoding/binary"
	"math/bits"
)

// Variable-length integers of inodes and old alloc keys.
//
// The current form puts the length in the low bits of the first byte: n-1 ones and a zero say n bytes, 0xff says that 8 bytes
// follow. The old form (inodes before feature new_varint) is big-endian and has the length in the leading zeros of the
// first byte.

// appendVarint appends v in 1 to 9 bytes.
func appendVarint(dst []byte, v uint64) []byte {
	n := (bits.Len64(v|1) + 6) / 7
	if n > 8 {
		return binary.LittleEndian.AppendUint64(append(dst, 0xff), v)
	}
	v = v<<n | (1<<(n-1) - 1)
	for range n {
		dst = append(dst, byte(v))
		v >>= 8
	}
	return dst
}

// varint reads an integer from the start of b and returns it with its length; length 0 says that b is too short.
func varint(b []byte) (uint64, int) {
	if len(b) == 0 {
		return 0, 0
	}
	n := bits.TrailingZeros8(^b[0]) + 1
	if n >= 9 {
		if len(b) < 9 {
			return 0, 0
		}
		return binary.LittleEndian.Uint64(b[1:]), 9
	}
	if len(b) < n {
		return 0, 0
	}
	var v uint64
	if len(b) >= 8 {
		v = binary.LittleEndian.Uint64(b)
		if n < 8 {
			v &= 1<<(8*n) - 1
		}
	} else {
		for i := n - 1; i >= 0; i-- {
			v = v<<8 | uint64(b[i])
		}
	}
	return v >> n, n
}

// oldVarintLen is the length in bytes by the number of leading zeros of the first byte.
var oldVarintLen = [8]int{1, 2, 3, 4, 6, 8, 10, 13}

// oldVarint reads an integer in the old form; only its low 64 bits are kept. Length 0 says that it is invalid.
func oldVarint(b []byte) (uint64, int) {
	if len(b) == 0 || b[0] == 0 {
		return 0, 0
	}
	z := bits.LeadingZeros8(b[0])
	n := oldVarintLen[z]
	if len(b) < n {
		return 0, 0
	}
	v := uint64(b[0] &^ (0x80 >> z))
	for _, c := range b[1:n] {
		v = v<<8 | uint64(c)
	}
	return v, n
}

// appendOldVarint appends v in the old form.
func appendOldVarint(dst []byte, v uint64) []byte {
	for z, n := range oldVarintLen {
		if bits.Len64(v) > 8*n-z-1 {
			continue
		}
		first := byte(0x80 >> z)
		for i := n - 1; i >= 0; i-- {
			var c byte
			if i < 8 {
				c = byte(v >> (8 * i))
			}
			dst = append(dst, first|c)
			first = 0
		}
		return dst
	}
	return dst // not reached: 13 bytes hold 96 bits
}
