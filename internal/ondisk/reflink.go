package ondisk

import "encoding/binary"

// Bits of the first word of a reflink pointer (struct bch_reflink_p, idx_flags).
const (
	ReflinkIdxMax      = 1<<56 - 1
	reflinkErrorBit    = 56
	reflinkUpdateOpts  = 57
	reflinkUnusedShift = 58
)

// ReflinkP is a pointer from a file's extent to an indirect extent (struct bch_reflink_p).
//
// It holds a reference on every indirect extent that overlaps [Idx-FrontPad, Idx+size+BackPad).
type ReflinkP struct {
	Idx       uint64 // sector of indirect space where the extent's data begins
	Error     bool   // the indirect extent is missing: reads fail
	MayUpdate bool   // the file's options may be applied to the indirect extent
	FrontPad  uint32 // sectors
	BackPad   uint32
	Unused    uint8 // 6 bits
}

// DecodeReflinkP decodes a key of type reflink_p. It does not allocate.
func DecodeReflinkP(k Key) (ReflinkP, error) {
	switch {
	case k.Type != KeyReflinkP:
		return ReflinkP{}, errType(&k, "reflink_p")
	case len(k.Val) < KeyReflinkP.MinValSize():
		return ReflinkP{}, errShort(&k, KeyReflinkP.MinValSize())
	}
	w := binary.LittleEndian.Uint64(k.Val)
	return ReflinkP{
		Idx:       w & ReflinkIdxMax,
		Error:     w>>reflinkErrorBit&1 != 0,
		MayUpdate: w>>reflinkUpdateOpts&1 != 0,
		Unused:    uint8(w >> reflinkUnusedShift),
		FrontPad:  binary.LittleEndian.Uint32(k.Val[8:]),
		BackPad:   binary.LittleEndian.Uint32(k.Val[12:]),
	}, nil
}

// Encode returns the value of the key.
func (p *ReflinkP) Encode() []byte {
	b := make([]byte, 0, 16)
	b = binary.LittleEndian.AppendUint64(b, p.Idx&ReflinkIdxMax|bit(p.Error)<<reflinkErrorBit|bit(p.MayUpdate)<<reflinkUpdateOpts|
		uint64(p.Unused)<<reflinkUnusedShift)
	b = binary.LittleEndian.AppendUint32(b, p.FrontPad)
	return binary.LittleEndian.AppendUint32(b, p.BackPad)
}

// Indirect is the head of an indirect extent: of type reflink_v (struct bch_reflink_v), whose entries [AppendExtentPtrs] decodes,
// or indirect_inline_data.
type Indirect struct {
	Refcount uint64
	Data     []byte // what follows: entries, or the data itself; aliases the value
}

// DecodeIndirect decodes a key of type reflink_v or indirect_inline_data. It does not allocate.
func DecodeIndirect(k Key) (Indirect, error) {
	switch {
	case k.Type != KeyReflinkV && k.Type != KeyIndirectInlineData:
		return Indirect{}, errType(&k, "reflink_v or indirect_inline_data")
	case len(k.Val) < 8:
		return Indirect{}, errShort(&k, 8)
	}
	return Indirect{binary.LittleEndian.Uint64(k.Val), k.Val[8:]}, nil
}

// Encode returns the value of the key.
func (v *Indirect) Encode() []byte {
	b := binary.LittleEndian.AppendUint64(make([]byte, 0, 8+len(v.Data)), v.Refcount)
	return append(b, v.Data...)
}

// InlineData returns the data that k holds itself, of type inline_data or indirect_inline_data, and whether it is of these types. It
// ends at a word; what the key covers beyond it is zeros. It aliases the value.
func InlineData(k *Key) ([]byte, bool) {
	switch {
	case k.Type == KeyInlineData:
		return k.Val, true
	case k.Type == KeyIndirectInlineData && len(k.Val) >= 8:
		return k.Val[8:], true
	}
	return nil, false
}
