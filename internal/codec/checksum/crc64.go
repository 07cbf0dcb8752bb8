package checksum

import (
	"encoding/binary"
	"math/bits"
)

// crc64Poly is the ECMA-182 polynomial, most significant bit first. The standard library's hash/crc64 has only the
// reflected form, which gives different sums.
const crc64Poly = 0x42F0E1EBA9EA3693

// crc64Tables[k][b] is the register after byte b was followed by k zero bytes, starting from a zero register.
var crc64Tables = makeCRC64Tables()

type crc64TableSet [16][256]uint64

func makeCRC64Tables() *crc64TableSet {
	t := new(crc64TableSet)
	for b := range t[0] {
		r := uint64(b) << 56
		for range 8 {
			r = r<<1 ^ -(r>>63)&crc64Poly
		}
		t[0][b] = r
	}
	for k := 1; k < len(t); k++ {
		for b := range t[k] {
			r := t[k-1][b]
			t[k][b] = r<<8 ^ t[0][r>>56]
		}
	}
	return t
}

// CRC64Update runs the CRC-64 register over b without any inversion.
func CRC64Update(reg uint64, b []byte) uint64 {
	t := crc64Tables
	// Sixteen bytes a round: only the lookups of the first eight depend on the register, the others overlap with them.
	for len(b) >= 16 {
		x := bits.ReverseBytes64(binary.LittleEndian.Uint64(b)) ^ reg
		y := bits.ReverseBytes64(binary.LittleEndian.Uint64(b[8:]))
		reg = t[7][y>>56] ^ t[6][y>>48&0xff] ^ t[5][y>>40&0xff] ^ t[4][y>>32&0xff] ^
			t[3][y>>24&0xff] ^ t[2][y>>16&0xff] ^ t[1][y>>8&0xff] ^ t[0][y&0xff] ^
			t[15][x>>56] ^ t[14][x>>48&0xff] ^ t[13][x>>40&0xff] ^ t[12][x>>32&0xff] ^
			t[11][x>>24&0xff] ^ t[10][x>>16&0xff] ^ t[9][x>>8&0xff] ^ t[8][x&0xff]
		b = b[16:]
	}
	for _, c := range b {
		reg = reg<<8 ^ t[0][byte(reg>>56)^c]
	}
	return reg
}
