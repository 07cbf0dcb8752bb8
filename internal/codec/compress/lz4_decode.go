package compress

import (
	"encoding/binary"
	"errors"
	"unsafe"
)

var (
	errLZ4Short  = errors.New("input ends inside the block")
	errLZ4Long   = errors.New("block holds more than the uncompressed size")
	errLZ4Offset = errors.New("match reaches back before the data")
)

const (
	lz4MinMatch = 4
	lz4Extended = 15 // a length of 15 in the token goes on in further bytes

	// The longest literals and match without further length bytes.
	lz4ShortLiterals = lz4Extended - 1
	lz4ShortMatch    = lz4Extended - 1 + lz4MinMatch

	// Room the short path needs behind the token: it reads and writes 16 bytes of literals, whatever their number, and
	// then an offset and a match.
	lz4ShortSrc = 16 + 2
	lz4ShortDst = lz4ShortLiterals + lz4ShortMatch
)

// decodeLZ4 decodes one raw LZ4 block into dst and returns how many bytes of src it took. The block ends where dst is
// full: what follows in src is padding. A library decoder cannot be used, because it takes the padding for sequences.
//
// Short literals and matches, which are most, are copied with a fixed size when the checks at the head of the loop leave
// room for that; these and the longer copies in steps of 16 bytes are the unsafe accesses.
func decodeLZ4(dst, src []byte) (int, error) {
	if len(dst) == 0 {
		return 0, nil
	}
	dp, sp := unsafe.Pointer(unsafe.SliceData(dst)), unsafe.Pointer(unsafe.SliceData(src))
	srcShort, dstShort := len(src)-lz4ShortSrc, len(dst)-lz4ShortDst
	for d, s := 0, 0; ; { // d < len(dst)
		var n, offset int
		for s < srcShort && d < dstShort {
			n = int(*(*byte)(unsafe.Add(sp, s)))
			lit := n >> 4
			s++
			if lit != lz4Extended {
				*(*[16]byte)(unsafe.Add(dp, d)) = *(*[16]byte)(unsafe.Add(sp, s))
			} else {
				lit += int(*(*byte)(unsafe.Add(sp, s)))
				s++
				if lit > 64 || srcShort-s < 64 || dstShort-d <= 64 {
					s -= 2
					break
				}
				lz4Copy64(unsafe.Add(dp, d), unsafe.Add(sp, s))
			}
			d += lit
			s += lit
			p := (*[2]byte)(unsafe.Add(sp, s))
			offset = int(p[0]) | int(p[1])<<8
			s += 2
			n &= 15
			if offset > d {
				return s, errLZ4Offset
			}
			if n == lz4Extended || offset < 8 {
				goto match
			}
			lz4Copy18(unsafe.Add(dp, d), unsafe.Add(dp, d-offset))
			d += n + lz4MinMatch
		}
		if s >= len(src) {
			return s, errLZ4Short
		}
		n = int(src[s])
		s++
		if lit := n >> 4; lit > 0 {
			if lit == lz4Extended {
				if s >= len(src) {
					return s, errLZ4Short
				}
				more := src[s]
				s++
				lit += int(more)
				if more == 255 {
					if lit, s = lz4Length(lit, src, s, len(dst)); s > len(src) {
						return s, errLZ4Short
					}
				}
			}
			if lit > len(src)-s {
				return s, errLZ4Short
			}
			if lit > len(dst)-d {
				return s, errLZ4Long
			}
			if lit <= 64 && len(src)-s >= 64 && len(dst)-d >= 64 {
				lz4Copy64(unsafe.Add(dp, d), unsafe.Add(sp, s))
			} else {
				copy(dst[d:d+lit], src[s:s+lit])
			}
			d += lit
			s += lit
			if d == len(dst) {
				return s, nil
			}
		}
		if len(src)-s < 2 {
			return s, errLZ4Short
		}
		offset = int(binary.LittleEndian.Uint16(src[s:]))
		s += 2
		n &= 15

	match:
		if offset == 0 || offset > d {
			return s, errLZ4Offset
		}
		if n == lz4Extended {
			if s >= len(src) {
				return s, errLZ4Short
			}
			more := src[s]
			s++
			n += int(more)
			if more == 255 {
				if n, s = lz4Length(n, src, s, len(dst)); s > len(src) {
					return s, errLZ4Short
				}
			}
		}
		n += lz4MinMatch
		if n > len(dst)-d {
			return s, errLZ4Long
		}
		if offset >= 8 && n <= lz4ShortMatch && len(dst)-d >= lz4ShortMatch {
			// A fixed size, because a loop would end after one or two rounds, which the processor cannot predict.
			lz4Copy18(unsafe.Add(dp, d), unsafe.Add(dp, d-offset))
		} else if offset >= 16 && n <= 64 && len(dst)-d >= 64 {
			lz4Copy64(unsafe.Add(dp, d), unsafe.Add(dp, d-offset))
		} else {
			lz4CopyMatch(dst, d, offset, n)
		}
		if d += n; d == len(dst) {
			return s, nil
		}
	}
}

// lz4Copy18 copies the longest match without length bytes, from 8 or more bytes before to.
func lz4Copy18(to, from unsafe.Pointer) {
	*(*[8]byte)(to) = *(*[8]byte)(from)
	*(*[8]byte)(unsafe.Add(to, 8)) = *(*[8]byte)(unsafe.Add(from, 8))
	*(*[2]byte)(unsafe.Add(to, 16)) = *(*[2]byte)(unsafe.Add(from, 16))
}

// lz4Copy64 copies literals, or a match from 16 or more bytes before to, in ascending order.
func lz4Copy64(to, from unsafe.Pointer) {
	*(*[16]byte)(to) = *(*[16]byte)(from)
	*(*[16]byte)(unsafe.Add(to, 16)) = *(*[16]byte)(unsafe.Add(from, 16))
	*(*[16]byte)(unsafe.Add(to, 32)) = *(*[16]byte)(unsafe.Add(from, 32))
	*(*[16]byte)(unsafe.Add(to, 48)) = *(*[16]byte)(unsafe.Add(from, 48))
}

// lz4CopyMatch copies n bytes within dst from offset bytes before d to d; both ranges are inside dst and may overlap, in
// which case the bytes between repeat.
func lz4CopyMatch(dst []byte, d, offset, n int) {
	to := unsafe.Pointer(&dst[d])
	from := unsafe.Add(to, -offset)
	switch room := len(dst) - d; {
	case offset >= 16 && n <= 256 && n+15 <= room:
		for i := 0; i < n; i += 16 {
			*(*[16]byte)(unsafe.Add(to, i)) = *(*[16]byte)(unsafe.Add(from, i))
		}
	case offset >= 8 && n <= 256 && n+7 <= room:
		for i := 0; i < n; i += 8 {
			*(*[8]byte)(unsafe.Add(to, i)) = *(*[8]byte)(unsafe.Add(from, i))
		}
	case offset <= 4 && offset != 3 && n+7 <= room:
		// A run of one number of 1, 2 or 4 bytes: stores alone, which need not wait for each other.
		var pattern uint64
		switch offset {
		case 1:
			pattern = uint64(dst[d-1]) * 0x0101010101010101
		case 2:
			pattern = uint64(binary.LittleEndian.Uint16(dst[d-2:])) * 0x0001000100010001
		default:
			pattern = uint64(binary.LittleEndian.Uint32(dst[d-4:])) * 0x0000000100000001
		}
		if pattern == 0 {
			clear(dst[d : d+n])
			return
		}
		for i := 0; i < n; i += 8 {
			binary.LittleEndian.PutUint64(dst[d+i:], pattern)
		}
	case n <= 16:
		for i := range n {
			*(*byte)(unsafe.Add(to, i)) = *(*byte)(unsafe.Add(from, i))
		}
	default:
		// Everything between the source and the end so far is final and repeats: each round doubles it.
		// Once the piece is a few kilobytes it is used as it is, because a short source stays in the cache.
		const maxPiece = 4096
		start, end := d-offset, d+n
		for d < end && d-start < maxPiece {
			d += copy(dst[d:end], dst[start:d])
		}
		for piece := dst[start:d]; d < end; {
			d += copy(dst[d:end], piece)
		}
	}
}

// lz4Length reads the bytes that extend the length n. It gives up beyond limit, which no valid length passes; next is
// behind the end of src if src ends first.
func lz4Length(n int, src []byte, s, limit int) (length, next int) {
	for s < len(src) {
		b := src[s]
		s++
		n += int(b)
		if b != 255 || n > limit {
			return n, s
		}
	}
	return n, len(src) + 1
}
