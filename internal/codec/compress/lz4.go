package compress

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/pierrec/lz4/v4"
)

var (
	errLZ4Short  = errors.New("input ends inside the block")
	errLZ4Long   = errors.New("block holds more than the uncompressed size")
	errLZ4Offset = errors.New("match reaches back before the data")
)

const lz4MinMatch = 4

// decodeLZ4 decodes one raw LZ4 block into dst and returns how many bytes of src it took. The block ends where dst is
// full: what follows in src is padding. A library decoder cannot be used, because it takes the padding for sequences.
func decodeLZ4(dst, src []byte) (int, error) {
	d, s := 0, 0
	for d < len(dst) {
		if s >= len(src) {
			return s, errLZ4Short
		}
		token := int(src[s])
		s++

		// Literals. The common short run is copied as a fixed 16 bytes when both sides have room for that.
		if lit := token >> 4; lit > 0 {
			if lit < 15 && len(src)-s >= 16 && len(dst)-d >= 16 {
				*(*[16]byte)(dst[d:]) = *(*[16]byte)(src[s:])
			} else {
				if lit == 15 {
					var ok bool
					if lit, s, ok = lz4Length(lit, src, s, len(dst)); !ok {
						return s, errLZ4Short
					}
				}
				if lit > len(src)-s {
					return s, errLZ4Short
				}
				if lit > len(dst)-d {
					return s, errLZ4Long
				}
				copy(dst[d:d+lit], src[s:s+lit])
			}
			s += lit
			d += lit
			if d == len(dst) {
				break
			}
		}

		if len(src)-s < 2 {
			return s, errLZ4Short
		}
		offset := int(binary.LittleEndian.Uint16(src[s:]))
		s += 2
		if offset == 0 || offset > d {
			return s, errLZ4Offset
		}
		n := token & 15
		if n == 15 {
			var ok bool
			if n, s, ok = lz4Length(n, src, s, len(dst)); !ok {
				return s, errLZ4Short
			}
		}
		n += lz4MinMatch
		if n > len(dst)-d {
			return s, errLZ4Long
		}
		from := d - offset
		for n > 0 {
			// Everything between from and d is final and, when the ranges overlap, repeats: each round doubles it.
			c := copy(dst[d:d+n], dst[from:d])
			d += c
			n -= c
		}
	}
	return s, nil
}

// lz4Length reads the bytes that extend a length of 15. It gives up beyond limit, which no valid length passes.
func lz4Length(n int, src []byte, s, limit int) (length, next int, ok bool) {
	for s < len(src) {
		b := src[s]
		s++
		n += int(b)
		if b != 255 {
			return n, s, true
		}
		if n > limit {
			return n, s, true
		}
	}
	return n, s, false
}

var lz4Fast = sync.Pool{New: func() any { return new(lz4.Compressor) }}

// encodeLZ4 writes one raw block. Levels below 3 use the fast compressor, others the thorough one.
func encodeLZ4(level int, dst, src []byte) (int, bool, error) {
	var n int
	var err error
	if level < 3 {
		c := lz4Fast.Get().(*lz4.Compressor)
		n, err = c.CompressBlock(src, dst)
		lz4Fast.Put(c)
	} else {
		c := lz4HC.Get().(*lz4.CompressorHC)
		c.Level = lz4.CompressionLevel(1 << (8 + min(level, 9)))
		n, err = c.CompressBlock(src, dst)
		lz4HC.Put(c)
	}
	if errors.Is(err, lz4.ErrInvalidSourceShortBuffer) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("lz4: %w", err)
	}
	return n, n > 0, nil
}

var lz4HC = sync.Pool{New: func() any { return new(lz4.CompressorHC) }}
