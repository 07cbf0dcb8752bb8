package ondisk

import "encoding/binary"

// Extents are cut without touching data: what is encoded stays whole on the device, and the key says which part of it is live.

// CutFront returns k without its first n sectors; its value is a copy. Of n as large as the extent, or larger, an empty whiteout
// remains (type deleted, size 0).
func CutFront(k *Key, n uint32, u64s ExtentTypeU64s) Key {
	c := k.Clone()
	if n >= k.Size {
		c.Type, c.Size, c.Val = KeyDeleted, 0, nil
		return c
	}
	c.Size -= n
	switch k.Type {
	case KeyExtent, KeyReflinkV:
		b, _ := extentEntries(&c)
		cutEntries(b, n, u64s)
	case KeyReflinkP:
		if len(c.Val) >= 8 {
			w := binary.LittleEndian.Uint64(c.Val)
			binary.LittleEndian.PutUint64(c.Val, w&^uint64(ReflinkIdxMax)|(w+uint64(n))&ReflinkIdxMax)
		}
	case KeyInlineData, KeyIndirectInlineData:
		if b, ok := InlineData(&c); ok {
			head := len(c.Val) - len(b)
			c.Val = append(c.Val[:head], b[min(uint64(len(b)), uint64(n)*SectorSize):]...)
		}
	}
	return c
}

// cutEntries moves the start of the live data in extent entries by n sectors: in the pointer where data is plain, in the crc
// entry where it is encoded.
func cutEntries(b []byte, n uint32, u64s ExtentTypeU64s) {
	crc := false
	for len(b) > 0 {
		t, size := nextEntry(b, u64s)
		if size == 0 {
			return
		}
		w := binary.LittleEndian.Uint64(b)
		switch t {
		case EntryPtr:
			if !crc {
				const mask = uint64(1<<ptrOffsetBits-1) << 4
				w = w&^mask | (w+uint64(n)<<4)&mask
			}
		case EntryCRC32:
			w, crc = addField(w, 16, 7, n), true
		case EntryCRC64:
			w, crc = addField(w, 21, 9, n), true
		case EntryCRC128:
			w, crc = addField(w, 30, 13, n), true
		}
		binary.LittleEndian.PutUint64(b, w)
		b = b[size:]
	}
}

// addField adds n to the field of the given bits in w.
func addField(w uint64, at, width uint, n uint32) uint64 {
	mask := uint64(1<<width-1) << at
	return w&^mask | (w+uint64(n)<<at)&mask
}

// CutBack returns k with its first size sectors only; its value is a copy. A size as large as the extent's, or larger, changes nothing.
func CutBack(k *Key, size uint32) Key {
	c := k.Clone()
	if size >= k.Size {
		return c
	}
	c.Pos.Offset -= uint64(k.Size - size)
	c.Size = size
	if size == 0 {
		c.Type, c.Val = KeyDeleted, nil
	}
	if b, ok := InlineData(&c); ok {
		head := len(c.Val) - len(b)
		c.Val = c.Val[:head+int(min(uint64(len(b)), uint64(size)*SectorSize))]
	}
	return c
}
