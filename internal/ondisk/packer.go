package ondisk

import "encoding/binary"

// packPlan says where a field goes in a packed key.
type packPlan struct {
	offset  uint64
	tooMuch uint64 // bits that the field minus offset may not have
	word    uint8  // with its lowest bit
	shift   uint8  // in that word
	spill   uint8  // shift to the right of what goes to the next word; 64 if nothing does
}

// Packer is a [Format] prepared for packing many keys. It does not change and may be used concurrently.
type Packer struct {
	fields  [numFields]packPlan
	keyU64s uint8
}

// NewPacker returns a packer for f, which must be valid.
func NewPacker(f *Format) Packer {
	p := Packer{keyU64s: f.KeyU64s}
	at := uint(f.KeyU64s) * 64
	for i, b := range f.Bits {
		at -= uint(b)
		fp := &p.fields[i]
		*fp = packPlan{offset: f.Offset[i], tooMuch: ^lowMask(b), spill: 64}
		if b == 0 {
			continue
		}
		fp.word, fp.shift = uint8(at/64), uint8(at%64)
		if at%64+uint(b) > 64 {
			fp.spill = 64 - fp.shift
		}
	}
	return p
}

// Packs reports whether k can be packed; whether its value is sound does not matter.
func (p *Packer) Packs(k *Key) bool {
	// What is below the offset wraps to more than the field can hold: a valid format does not overflow.
	bad := (k.Pos.Inode-p.fields[fieldInode].offset)&p.fields[fieldInode].tooMuch |
		(k.Pos.Offset-p.fields[fieldOffset].offset)&p.fields[fieldOffset].tooMuch |
		(uint64(k.Pos.Snapshot)-p.fields[fieldSnapshot].offset)&p.fields[fieldSnapshot].tooMuch |
		(uint64(k.Size)-p.fields[fieldSize].offset)&p.fields[fieldSize].tooMuch |
		(uint64(k.Version.Hi)-p.fields[fieldVersionHi].offset)&p.fields[fieldVersionHi].tooMuch |
		(k.Version.Lo-p.fields[fieldVersionLo].offset)&p.fields[fieldVersionLo].tooMuch
	return bad == 0
}

// PacksPos reports whether [Format.PackPos] can pack q.
func (p *Packer) PacksPos(q Pos) bool {
	bad := (q.Inode-p.fields[fieldInode].offset)&p.fields[fieldInode].tooMuch |
		(q.Offset-p.fields[fieldOffset].offset)&p.fields[fieldOffset].tooMuch |
		(uint64(q.Snapshot)-p.fields[fieldSnapshot].offset)&p.fields[fieldSnapshot].tooMuch
	return bad == 0
}

// AppendKey is [Format.PackKey] for a key that [Packer.Packs]; of others it makes nonsense.
func (p *Packer) AppendKey(dst []byte, k *Key) []byte {
	var words [9]uint64 // more than there are: the compiler sees that w+1 is in it
	words[0] = uint64(p.keyU64s) + uint64(len(k.Val)/8) | uint64(k.Type)<<16
	put := func(i int, v uint64) {
		fp := &p.fields[i]
		v -= fp.offset
		w := fp.word & 7
		words[w] |= v << (fp.shift & 63)
		words[w+1] |= v >> fp.spill
	}
	put(fieldInode, k.Pos.Inode)
	put(fieldOffset, k.Pos.Offset)
	put(fieldSnapshot, uint64(k.Pos.Snapshot))
	put(fieldSize, uint64(k.Size))
	put(fieldVersionHi, uint64(k.Version.Hi))
	put(fieldVersionLo, k.Version.Lo)
	for _, w := range words[:p.keyU64s] {
		dst = binary.LittleEndian.AppendUint64(dst, w)
	}
	return append(dst, k.Val...)
}
