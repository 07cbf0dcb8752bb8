package ondisk

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
)

// FormatSize is the size of an encoded [Format] in bytes.
const FormatSize = 56

// Fields of a packed key, in the order of struct bkey_format.
const (
	fieldInode = iota
	fieldOffset
	fieldSnapshot
	fieldSize
	fieldVersionHi
	fieldVersionLo
	numFields

	keyHeaderBits = 24 // u64s, format, type
)

// fieldWidths are the widths of the unpacked fields in bits.
var fieldWidths = [numFields]uint8{64, 64, 32, 32, 32, 64}

// Format says how the keys of one node are packed (struct bkey_format): each field is stored as value-Offset in Bits
// bits. The KeyU64s*8 bytes of a packed key are one little-endian integer with the header in the lowest 24 bits, and the
// fields from the top downwards, so that packed positions compare as integers.
type Format struct {
	KeyU64s uint8 // size of a packed key without value, in u64s
	Bits    [numFields]uint8
	Offset  [numFields]uint64
}

// DecodeFormat reads a format from the first [FormatSize] bytes of b and validates it.
func DecodeFormat(b []byte) (Format, error) {
	f, n := decodeFormat(b)
	if n != numFields {
		return f, fmt.Errorf("bkey_format: nr_fields %d, want %d", n, numFields)
	}
	return f, f.Validate()
}

// decodeFormat reads a format and its count of fields without judging it.
func decodeFormat(b []byte) (f Format, nrFields uint8) {
	_ = b[FormatSize-1]
	f.KeyU64s = b[0]
	copy(f.Bits[:], b[2:])
	for i := range f.Offset {
		f.Offset[i] = binary.LittleEndian.Uint64(b[8+8*i:])
	}
	return f, b[1]
}

// Put writes f to the first [FormatSize] bytes of b.
func (f *Format) Put(b []byte) {
	_ = b[FormatSize-1]
	b[0], b[1] = f.KeyU64s, numFields
	copy(b[2:8], f.Bits[:])
	for i, o := range f.Offset {
		binary.LittleEndian.PutUint64(b[8+8*i:], o)
	}
}

// Validate reports whether any key can be packed with f so that unpacking gives it back.
func (f *Format) Validate() error { return f.validate(true) }

// validate skips the check for overflow if strict is false: formats written before 0.12 may break it.
func (f *Format) validate(strict bool) error {
	sum := keyHeaderBits
	for i, b := range f.Bits {
		w := fieldWidths[i]
		if b > w {
			return fmt.Errorf("bkey_format: field %d: %d bits, want at most %d", i, b, w)
		}
		sum += int(b)
		if !strict {
			continue
		}
		if b == w && f.Offset[i] != 0 {
			return fmt.Errorf("bkey_format: field %d: full width with offset %d", i, f.Offset[i])
		}
		if limit := lowMask(w); f.Offset[i] > limit || f.Offset[i]+lowMask(b) > limit || f.Offset[i]+lowMask(b) < f.Offset[i] {
			return fmt.Errorf("bkey_format: field %d: offset %d with %d bits overflows", i, f.Offset[i], b)
		}
	}
	if want := (sum + 63) / 64; int(f.KeyU64s) != want {
		return fmt.Errorf("bkey_format: key_u64s %d, want %d", f.KeyU64s, want)
	}
	return nil
}

// lowMask has the lowest n bits set.
func lowMask(n uint8) uint64 {
	if n >= 64 {
		return math.MaxUint64
	}
	return 1<<n - 1
}

// keyFields are a key's fields in the order of [Format].
func keyFields(k *Key) [numFields]uint64 {
	return [numFields]uint64{k.Pos.Inode, k.Pos.Offset, uint64(k.Pos.Snapshot), uint64(k.Size),
		uint64(k.Version.Hi), k.Version.Lo}
}

// PackKey appends k packed with f. If a field does not fit it appends nothing and returns false; such a key is stored
// unpacked ([AppendKey]). f must be valid and the value a whole number of words, at most [MaxValSize] bytes.
func (f *Format) PackKey(dst []byte, k *Key) ([]byte, bool) {
	fields := keyFields(k)
	var words [KeyU64s]uint64
	if !f.packFields(&words, fields[:]) {
		return dst, false
	}
	words[0] |= uint64(f.KeyU64s) + uint64(len(k.Val)/8) | uint64(k.Type)<<16
	for _, w := range words[:f.KeyU64s] {
		dst = binary.LittleEndian.AppendUint64(dst, w)
	}
	return append(dst, k.Val...), true
}

// PackPos appends a key of type deleted, without value, size and version, at exactly p, as whiteouts are stored: fields
// other than the position are zero even where the format has an offset for them. It reports false if p does not fit.
func (f *Format) PackPos(dst []byte, p Pos) ([]byte, bool) {
	var words [KeyU64s]uint64
	fields := [3]uint64{p.Inode, p.Offset, uint64(p.Snapshot)}
	if !f.packFields(&words, fields[:]) {
		return dst, false
	}
	words[0] |= uint64(f.KeyU64s)
	for _, w := range words[:f.KeyU64s] {
		dst = binary.LittleEndian.AppendUint64(dst, w)
	}
	return dst, true
}

// packFields places the first len(fields) fields; false if one does not fit.
func (f *Format) packFields(words *[KeyU64s]uint64, fields []uint64) bool {
	at := uint(f.KeyU64s) * 64
	for i, v := range fields {
		b := f.Bits[i]
		raw := v - f.Offset[i]
		if v < f.Offset[i] || raw > lowMask(b) {
			return false
		}
		at -= uint(b)
		putBits(words, at, b, raw)
	}
	return true
}

// putBits sets n bits at bit position at, which are zero, to v.
func putBits(words *[KeyU64s]uint64, at uint, n uint8, v uint64) {
	if n == 0 {
		return
	}
	w, s := at/64, at%64
	words[w] |= v << s
	if s+uint(n) > 64 {
		words[w+1] |= v >> (64 - s)
	}
}

// UnpackKey decodes a key packed with f from the start of b and returns its length in bytes. Val aliases b.
func (f *Format) UnpackKey(b []byte) (Key, int, error) {
	kb := int(f.KeyU64s) * 8
	switch {
	case len(b) < kb || kb == 0:
		return Key{}, 0, fmt.Errorf("packed bkey: %d bytes left, want at least %d", len(b), kb)
	case b[1]&headerMask != formatLocal:
		return Key{}, 0, fmt.Errorf("packed bkey: format %d, want %d", b[1]&headerMask, formatLocal)
	}
	n := int(b[0]) * 8
	if n < kb || n-kb > MaxValSize || n > len(b) {
		return Key{}, 0, fmt.Errorf("packed bkey: u64s %d, want %d to %d", b[0], f.KeyU64s, min(len(b), kb+MaxValSize)/8)
	}
	var p unpacker
	p.init(f)
	return p.key(b[:n:n]), n, nil
}

// fieldPlan says where a field lies in a packed key.
type fieldPlan struct {
	mask   uint64
	offset uint64
	at     uint8 // byte offset of the word with its lowest bit
	shift  uint8 // in that word
	spill  bool  // continues in the next word
}

// unpacker is a [Format] prepared for fast use.
type unpacker struct {
	fields   [numFields]fieldPlan
	posMask  uint64 // bits of the lowest position word that belong to the position
	keyBytes int
	posWords int // words, from the top, that hold position bits
}

// init prepares p; f must be valid.
func (p *unpacker) init(f *Format) {
	p.keyBytes = int(f.KeyU64s) * 8
	at := uint(f.KeyU64s) * 64
	for i, b := range f.Bits {
		at -= uint(b)
		fp := &p.fields[i]
		*fp = fieldPlan{mask: lowMask(b), offset: f.Offset[i]}
		if b == 0 {
			continue
		}
		fp.at, fp.shift = uint8(at/64*8), uint8(at%64)
		fp.spill = at%64+uint(b) > 64
	}
	posBits := uint(f.Bits[fieldInode]) + uint(f.Bits[fieldOffset]) + uint(f.Bits[fieldSnapshot])
	p.posWords = int(posBits+63) / 64
	p.posMask = ^lowMask(uint8((64 - posBits%64) % 64))
}

// field returns the value of one field of the packed key at b.
func (p *unpacker) field(b []byte, i int) uint64 {
	fp := &p.fields[i]
	at := int(fp.at)
	v := binary.LittleEndian.Uint64(b[at:]) >> (fp.shift & 63)
	if fp.spill {
		v |= binary.LittleEndian.Uint64(b[at+8:]) << ((64 - fp.shift) & 63)
	}
	return v&fp.mask + fp.offset
}

// pos returns the position of the packed key at b.
func (p *unpacker) pos(b []byte) Pos {
	return Pos{Inode: p.field(b, fieldInode), Offset: p.field(b, fieldOffset), Snapshot: uint32(p.field(b, fieldSnapshot))}
}

// key unpacks the packed key that takes all of b, whose length was checked.
func (p *unpacker) key(b []byte) (k Key) {
	p.load(b, &k)
	return k
}

// load is key without copying the result.
func (p *unpacker) load(b []byte, k *Key) {
	k.Type = KeyType(b[2])
	k.Version = Version{Hi: uint32(p.field(b, fieldVersionHi)), Lo: p.field(b, fieldVersionLo)}
	k.Size = uint32(p.field(b, fieldSize))
	k.Pos = p.pos(b)
	k.Val = b[p.keyBytes:]
}

// comparePacked orders two packed keys by position.
func (p *unpacker) comparePacked(a, b []byte) int {
	at := p.keyBytes
	for w := p.posWords; w > 0; w-- {
		at -= 8
		x, y := binary.LittleEndian.Uint64(a[at:]), binary.LittleEndian.Uint64(b[at:])
		if w == 1 {
			x, y = x&p.posMask, y&p.posMask
		}
		if x != y {
			if x < y {
				return -1
			}
			return 1
		}
	}
	return 0
}

// searchKey is the smallest packable position that is not before some position, as words from the top downwards.
type searchKey struct {
	words [3]uint64
	past  bool // no packable position is that great
}

// search fills s for p. Packed keys whose position words are not below s are not before p, and the other way round.
func (f *Format) search(s *searchKey, p Pos) {
	fields := [3]uint64{p.Inode, p.Offset, uint64(p.Snapshot)}
	var raw [3]uint64
	*s = searchKey{}
	for i, v := range fields {
		if v < f.Offset[i] {
			break // this field and the later ones at their least
		}
		raw[i] = v - f.Offset[i]
		if raw[i] <= lowMask(f.Bits[i]) {
			continue
		}
		// Too great for this field: the next value of the earlier ones, the later ones at their least.
		raw[i] = 0
		for {
			if i--; i < 0 {
				s.past = true
				return
			}
			if raw[i] < lowMask(f.Bits[i]) {
				raw[i]++
				break
			}
			raw[i] = 0
		}
		break
	}
	var words [KeyU64s]uint64
	at := uint(f.KeyU64s) * 64
	for i, v := range raw {
		at -= uint(f.Bits[i])
		putBits(&words, at, f.Bits[i], v)
	}
	for i := range min(3, int(f.KeyU64s)) {
		s.words[i] = words[int(f.KeyU64s)-1-i]
	}
}

// FormatChooser collects the ranges of fields and chooses a format for them as the reference does.
// The zero value is not ready, use [NewFormatChooser].
type FormatChooser struct {
	min, max [numFields]uint64
	slack    bool
}

// NewFormatChooser returns a chooser that covers the positions from first to last. sizeSlack leaves room for extents to
// grow by merging, as writers up to 1.38.0 do.
func NewFormatChooser(first, last Pos, sizeSlack bool) *FormatChooser {
	c := &FormatChooser{slack: sizeSlack}
	for i := range c.min {
		c.min[i] = math.MaxUint64
	}
	c.min[fieldSize] = 0
	for _, p := range [2]Pos{first, last} {
		c.add(fieldInode, p.Inode)
		c.add(fieldOffset, p.Offset)
		c.add(fieldSnapshot, uint64(p.Snapshot))
	}
	return c
}

func (c *FormatChooser) add(i int, v uint64) {
	c.min[i] = min(c.min[i], v)
	c.max[i] = max(c.max[i], v)
}

// Add makes the format cover k.
func (c *FormatChooser) Add(k *Key) {
	for i, v := range keyFields(k) {
		c.add(i, v)
	}
}

// Format returns the narrowest valid format, widened to whole bytes where that costs no word.
func (c *FormatChooser) Format() Format {
	var f Format
	set := func(i int, b uint8, lo uint64) {
		w := fieldWidths[i]
		f.Bits[i] = min(b, w)
		f.Offset[i] = 0
		if f.Bits[i] < w {
			f.Offset[i] = min(lo, lowMask(w)-lowMask(f.Bits[i]))
		}
	}
	sum := keyHeaderBits
	for i := range f.Bits {
		lo := min(c.min[i], c.max[i])
		b := uint8(bits.Len64(c.max[i] - lo))
		if i == fieldSize && b > 0 && c.slack {
			b += min(4, 32-b)
		}
		set(i, b, lo)
		sum += int(f.Bits[i])
	}
	f.KeyU64s = uint8((sum + 63) / 64)
	spare := uint8(int(f.KeyU64s)*64 - sum)
	for i := range f.Bits {
		r := (8 - f.Bits[i]%8) % 8
		if r <= spare {
			set(i, f.Bits[i]+r, f.Offset[i])
			spare -= r
		}
	}
	return f
}

// ChooseFormat returns the format that the reference (up to 1.38.0) chooses for a node of that range with these keys.
func ChooseFormat(first, last Pos, keys []Key) Format {
	c := NewFormatChooser(first, last, true)
	for i := range keys {
		c.Add(&keys[i])
	}
	return c.Format()
}
