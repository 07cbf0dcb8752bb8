package btree

import (
	"encoding/binary"
	"math/bits"
	"slices"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// cutFront returns the extent k without what is before sector from, which must be behind its start and not behind its end. The
// value is a copy with offsets moved accordingly; k does not change.
func cutFront(k ondisk.Key, from uint64) ondisk.Key {
	n := from - k.Start().Offset
	k.Size -= uint32(n)
	switch k.Type {
	case ondisk.KeyExtent:
		k.Val = slices.Clone(k.Val)
		cutEntries(k.Val, n)
	case ondisk.KeyReflinkV: // the entries stand behind a reference count
		k.Val = slices.Clone(k.Val)
		cutEntries(k.Val[min(8, len(k.Val)):], n)
	case ondisk.KeyReflinkP:
		k.Val = slices.Clone(k.Val)
		if len(k.Val) >= 8 {
			const idxMask = 1<<56 - 1
			w := binary.LittleEndian.Uint64(k.Val)
			binary.LittleEndian.PutUint64(k.Val, w&^idxMask|(w+n)&idxMask)
		}
	case ondisk.KeyInlineData:
		k.Val = k.Val[min(n*ondisk.SectorSize, uint64(len(k.Val))):]
	case ondisk.KeyIndirectInlineData:
		head := min(8, len(k.Val))
		data := k.Val[head:]
		k.Val = slices.Concat(k.Val[:head], data[min(n*ondisk.SectorSize, uint64(len(data))):])
	}
	return k
}

// cutEntries moves the live data of extent entries (union bch_extent_entry) by n sectors: pointers before any crc entry,
// and the offsets in all crc entries. It stops at an entry of unknown type. An offset that overflows its field makes the entry
// invalid by its own limits, which the reader of the extent checks.
func cutEntries(b []byte, n uint64) {
	for seenCRC := false; len(b) >= 8; {
		w := binary.LittleEndian.Uint64(b)
		var shift, width, words uint
		switch bits.TrailingZeros64(w) {
		case 0:
			words = 1
			if !seenCRC {
				shift, width = 4, 44
			}
		case 1:
			words, shift, width = 1, 16, 7
		case 2:
			words, shift, width = 2, 21, 9
		case 3:
			words, shift, width = 3, 30, 13
		case 4, 5, 6, 7, 8:
			words = 1
		default:
			return
		}
		seenCRC = seenCRC || words > 1 || width == 7
		if width != 0 {
			mask := uint64(1)<<width - 1
			w = w&^(mask<<shift) | (w>>shift+n)&mask<<shift
			binary.LittleEndian.PutUint64(b, w)
		}
		if uint(len(b)) < words*8 {
			return
		}
		b = b[words*8:]
	}
}
