package checksum

// Merge returns the sum of A followed by B from the sums a and b and the length of B in bytes. It is defined for types
// that are [Type.Mergeable]; for others it returns the zero sum.
func Merge(t Type, a, b Sum, lenB uint64) Sum {
	switch t {
	case CRC32C:
		return Sum{Lo: uint64(crc32cZeros(uint32(a.Lo), lenB)) ^ b.Lo&0xffffffff}
	case CRC64:
		return Sum{Lo: crc64Zeros(a.Lo, lenB) ^ b.Lo}
	}
	return Sum{}
}

// A CRC register that runs over n zero bytes is multiplied by x^(8n) modulo the polynomial. Both functions below raise
// x^8 to the power of n by squaring, so that merging costs the same for any length.

// crc64Zeros runs the register over n zero bytes. Bit 63 of a register is the coefficient of x^63.
func crc64Zeros(reg, n uint64) uint64 {
	for power := uint64(1 << 8); n != 0; n >>= 1 {
		if n&1 != 0 {
			reg = crc64Mul(reg, power)
		}
		power = crc64Mul(power, power)
	}
	return reg
}

func crc64Mul(a, b uint64) uint64 {
	var r uint64
	for i := 63; i >= 0; i-- {
		r = r<<1 ^ -(r>>63)&crc64Poly
		r ^= -(b >> uint(i) & 1) & a
	}
	return r
}

const crc32cPolyReflected = 0x82F63B78

// crc32cZeros runs the register over n zero bytes. The register is reflected: bit 31 is the coefficient of x^0.
func crc32cZeros(reg uint32, n uint64) uint32 {
	for power := uint32(1 << (31 - 8)); n != 0; n >>= 1 {
		if n&1 != 0 {
			reg = crc32cMul(reg, power)
		}
		power = crc32cMul(power, power)
	}
	return reg
}

func crc32cMul(a, b uint32) uint32 {
	var r uint32
	for i := range 32 {
		r = r>>1 ^ -(r&1)&crc32cPolyReflected
		r ^= -(b >> uint(i) & 1) & a
	}
	return r
}
