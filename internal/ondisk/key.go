package ondisk

import (
	"encoding/binary"
	"fmt"
)

// Version is the 96-bit version of a key (struct bversion): nonce source of encrypted extents, journal position of
// accounting deltas; zero elsewhere.
type Version struct {
	Hi uint32
	Lo uint64
}

// IsZero reports whether v is no version.
func (v Version) IsZero() bool { return v == Version{} }

// Sizes of keys, in u64s and bytes.
const (
	KeyU64s     = 5               // an unpacked key without value
	KeySize     = KeyU64s * 8     // the same in bytes
	MaxKeyU64s  = 255             // key and value
	MaxValSize  = 250 * 8         // value in bytes, packed or not
	MaxExtent   = 1<<32 - 1       // Key.Size, in sectors
	formatLocal = 0               // format byte of a packed key
	formatPlain = 1               // format byte of an unpacked key
	headerMask  = uint8(1<<7 - 1) // format bits of header byte 1
)

// Key is an unpacked key with its value (struct bkey_i).
//
// Val aliases the buffer that the key was decoded from and is a whole number of 8-byte words; whoever keeps a Key longer
// than that buffer uses [Key.Clone].
type Key struct {
	Type    KeyType
	Version Version
	Size    uint32 // length in sectors; 0 in btrees that do not hold extents
	Pos     Pos    // for extents the end, exclusive
	Val     []byte
}

// Start returns the first position that an extent covers; of any other key its own position.
func (k *Key) Start() Pos {
	p := k.Pos
	p.Offset -= uint64(k.Size)
	return p
}

// Clone returns a copy of k that shares no memory with it.
func (k Key) Clone() Key {
	k.Val = append([]byte(nil), k.Val...)
	return k
}

// DecodeKey reads one unpacked key (format byte 1) from the start of b, as journal entries, roots and the clean section
// hold them. It returns the number of bytes that key and value take. Val aliases b.
func DecodeKey(b []byte) (Key, int, error) {
	if len(b) < KeySize {
		return Key{}, 0, fmt.Errorf("bkey: %d bytes left, want at least %d", len(b), KeySize)
	}
	n := int(b[0]) * 8
	switch {
	case n < KeySize:
		return Key{}, 0, fmt.Errorf("bkey: u64s %d, want at least %d", b[0], KeyU64s)
	case n > len(b):
		return Key{}, 0, fmt.Errorf("bkey: %d bytes long, %d left", n, len(b))
	case b[1]&headerMask != formatPlain:
		return Key{}, 0, fmt.Errorf("bkey: format %d, want %d (unpacked)", b[1]&headerMask, formatPlain)
	}
	return decodePlain(b[:n]), n, nil
}

// decodePlain decodes an unpacked key whose length was checked.
func decodePlain(b []byte) Key {
	return Key{
		Type:    KeyType(b[2]),
		Version: Version{Lo: binary.LittleEndian.Uint64(b[4:]), Hi: binary.LittleEndian.Uint32(b[12:])},
		Size:    binary.LittleEndian.Uint32(b[16:]),
		Pos:     DecodePos(b[20:]),
		Val:     b[KeySize:len(b):len(b)],
	}
}

// AppendKey appends k as an unpacked key. It panics if the value is not a whole number of words or longer than
// [MaxValSize]: such a key must not come into being.
func AppendKey(dst []byte, k Key) []byte {
	if len(k.Val)%8 != 0 || len(k.Val) > MaxValSize {
		panic(fmt.Sprintf("bkey: value of %d bytes", len(k.Val)))
	}
	var h [KeySize]byte
	h[0] = uint8(KeyU64s + len(k.Val)/8)
	h[1] = formatPlain
	h[2] = uint8(k.Type)
	binary.LittleEndian.PutUint64(h[4:], k.Version.Lo)
	binary.LittleEndian.PutUint32(h[12:], k.Version.Hi)
	binary.LittleEndian.PutUint32(h[16:], k.Size)
	k.Pos.Put(h[20:])
	dst = append(dst, h[:]...)
	return append(dst, k.Val...)
}
