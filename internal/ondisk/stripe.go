package ondisk

import (
	"encoding/binary"

	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
)

const (
	stripeHead = 8

	// maxStripeGranularity bounds the shift of a stripe's checksum granularity.
	maxStripeGranularity = 30
)

// Stripe is a stripe of erasure-coded blocks (struct bch_stripe); its index is the offset of its key. Data blocks come first.
//
// The slices alias the value, but for Ptrs.
type Stripe struct {
	Sectors             uint16 // of one block
	Algorithm           uint8
	NeedsReconcile      bool
	CanWiden            uint8 // 3 bits: data blocks that it could grow by
	NrBlocks            uint8 // data and parity
	NrRedundant         uint8 // parity
	CsumGranularityBits uint8 // log2 of the sectors that one checksum is over
	CsumType            checksum.Type
	DiskLabel           uint8 // 0 none, else the label's index plus one
	Ptrs                []ExtentPtr

	// Csums are the checksums of all blocks one behind the other, see [Stripe.Csum]; Counts are two bytes a block. Both are
	// empty if the type of the checksums is unknown: nothing behind the pointers can be located then. Rest is what follows.
	Csums  []byte
	Counts []byte
	Rest   []byte
}

// NrData returns the number of data blocks.
func (s *Stripe) NrData() int { return int(s.NrBlocks) - int(s.NrRedundant) }

// CsumSectors returns the number of sectors that one checksum is over, the last of a block excepted.
func (s *Stripe) CsumSectors() int { return 1 << s.CsumGranularityBits }

// CsumsPerBlock returns the number of checksums of one block.
func (s *Stripe) CsumsPerBlock() int {
	return (int(s.Sectors) + s.CsumSectors() - 1) >> s.CsumGranularityBits
}

// Csum returns checksum i of a block.
func (s *Stripe) Csum(block, i int) (checksum.Sum, bool) {
	n := s.CsumType.Bytes()
	at := (block*s.CsumsPerBlock() + i) * n
	if !s.CsumType.Valid() || block < 0 || block >= int(s.NrBlocks) || i < 0 || i >= s.CsumsPerBlock() || at+n > len(s.Csums) {
		return checksum.Sum{}, false
	}
	var b [16]byte
	copy(b[:], s.Csums[at:at+n])
	return checksum.Sum{Lo: binary.LittleEndian.Uint64(b[:]), Hi: binary.LittleEndian.Uint64(b[8:])}, true
}

// BlockCount returns the live sectors in a block; it means nothing for parity.
func (s *Stripe) BlockCount(block int) (uint16, bool) {
	if block < 0 || 2*block+2 > len(s.Counts) {
		return 0, false
	}
	return binary.LittleEndian.Uint16(s.Counts[2*block:]), true
}

// Matches reports whether p, an erasure-coded pointer with stripe entry e, lies in this stripe's block: same device (or one that
// was removed), same generation, and within the block.
func (s *Stripe) Matches(p ExtentPtr, e StripePtr) bool {
	if int(e.Block) >= s.NrData() || int(e.Block) >= len(s.Ptrs) {
		return false
	}
	b := s.Ptrs[e.Block]
	return (b.Dev == p.Dev || b.Dev == DevInvalid || p.Dev == DevInvalid) && b.Gen == p.Gen &&
		p.Offset >= b.Offset && p.Offset < b.Offset+Sector(s.Sectors)
}

// DecodeStripe decodes a key of type stripe.
func DecodeStripe(k Key) (Stripe, error) {
	v := k.Val
	switch {
	case k.Type != KeyStripe:
		return Stripe{}, errType(&k, "stripe")
	case len(v) < stripeHead:
		return Stripe{}, errShort(&k, stripeHead)
	}
	s := Stripe{
		Sectors:             binary.LittleEndian.Uint16(v),
		Algorithm:           v[2] & 15,
		NeedsReconcile:      v[2]>>4&1 != 0,
		CanWiden:            v[2] >> 5,
		NrBlocks:            v[3],
		NrRedundant:         v[4],
		CsumGranularityBits: v[5],
		CsumType:            checksum.Type(v[6]),
		DiskLabel:           v[7],
	}
	switch {
	case s.CsumGranularityBits > maxStripeGranularity:
		return Stripe{}, keyErr(&k, "stripe_csum_granularity_bad", "checksum granularity 2^%d, want at most 2^%d",
			s.CsumGranularityBits, maxStripeGranularity)
	case s.NrRedundant >= s.NrBlocks:
		return Stripe{}, keyErr(&k, "stripe_val_size_bad", "%d parity blocks of %d", s.NrRedundant, s.NrBlocks)
	}
	v = v[stripeHead:]
	csums := int(s.NrBlocks) * s.CsumsPerBlock() * s.CsumType.Bytes()
	counts := 2 * int(s.NrBlocks)
	if !s.CsumType.Valid() {
		csums, counts = 0, 0
	}
	if want := 8*int(s.NrBlocks) + csums + counts; want > len(v) {
		return Stripe{}, keyErr(&k, "stripe_val_size_bad", "value of %d bytes, want at least %d", len(k.Val), stripeHead+want)
	}
	s.Ptrs = make([]ExtentPtr, s.NrBlocks)
	for i := range s.Ptrs {
		s.Ptrs[i] = decodeExtentPtr(binary.LittleEndian.Uint64(v[8*i:]))
	}
	v = v[8*len(s.Ptrs):]
	s.Csums, v = v[:csums:csums], v[csums:]
	s.Counts, s.Rest = v[:counts:counts], v[counts:]
	return s, nil
}

// Encode returns the value of the key. NrBlocks is that of Ptrs.
func (s *Stripe) Encode() []byte {
	b := make([]byte, 0, stripeHead+8*len(s.Ptrs)+len(s.Csums)+len(s.Counts)+len(s.Rest)+7)
	b = binary.LittleEndian.AppendUint16(b, s.Sectors)
	b = append(b, s.Algorithm&15|uint8(bit(s.NeedsReconcile))<<4|s.CanWiden<<5, uint8(len(s.Ptrs)), s.NrRedundant,
		s.CsumGranularityBits, uint8(s.CsumType), s.DiskLabel)
	for _, p := range s.Ptrs {
		b = binary.LittleEndian.AppendUint64(b, p.word())
	}
	return padVal(append(append(append(b, s.Csums...), s.Counts...), s.Rest...), 0)
}
