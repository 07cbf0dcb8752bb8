package ondisk

import (
	"encoding/binary"
	"math/bits"
)

// Limits of alloc keys.
const (
	// BucketGCGenMax is the distance between a bucket's generation and its oldest at which it may not be reused.
	BucketGCGenMax = 96
	// LRUTimeMax bounds the times in LRU entries and alloc keys.
	LRUTimeMax = 1<<48 - 1
)

// Bits of the flags of alloc_v4.
const (
	allocNeedDiscard = 1 << 0
	allocNeedIncGen  = 1 << 1
	allocStartShift  = 2 // 6 bits: length of the fixed part in u64s, 0 means 6
	allocNrBPShift   = 8 // 6 bits
	allocOtherShift  = 14
	allocFixedMin    = 6
	allocFixedNow    = 8
	allocFixedBytes  = allocFixedNow * 8
	allocBPU64s      = 4
)

// Alloc is the state of a bucket, of any of the encodings of alloc keys (struct bch_alloc_v4). The key is at (device, bucket).
// A bucket without a key is that of the zero value.
type Alloc struct {
	Encoding KeyType // of the key it was decoded from: alloc, alloc_v2, alloc_v3, alloc_v4

	Gen, OldestGen   uint8
	DataType         DataType
	StripeRedundancy uint8  // parity blocks of its stripe; unused since 1.33
	DirtySectors     uint32 // of pointers that are neither cached nor in a stripe
	CachedSectors    uint32
	StripeSectors    uint32 // of pointers that are part of a stripe; since 1.8
	// Stripe is the index of the bucket's stripe up to 1.34, then the number of its stripes; 0 for none.
	Stripe uint32

	NeedDiscard, NeedIncGen bool

	JournalSeqNonempty uint64 // named journal_seq up to 1.13
	// JournalSeqEmpty means this since 1.14; drivers up to 1.11 kept the fragmentation LRU value in its place, those of 1.13
	// leave what they find.
	JournalSeqEmpty uint64
	IOTime          [2]uint64 // of reads and writes, as the LRUs count it

	NrExternalBackpointers uint32 // legacy
	Pad                    uint32
	FixedU64s              uint8  // length of the fixed part as stored: 6, 7, 8; 0 means 6. Drivers of 1.13 write 8
	NrBackpointers         uint8  // legacy, 4 u64s each, in Tail
	OtherFlags             uint32 // 18 bits
	Tail                   []byte // what is behind the fixed part; aliases the value
}

// fixedBytes returns the length of the fixed part of the value of alloc_v4.
func (a *Alloc) fixedBytes() int {
	if a.FixedU64s == 0 {
		return allocFixedMin * 8
	}
	return int(a.FixedU64s) * 8
}

// DecodeAlloc decodes a key of type alloc, alloc_v2, alloc_v3 or alloc_v4. Fields that its encoding does not have are 0.
func DecodeAlloc(k Key) (Alloc, error) {
	a := Alloc{Encoding: k.Type}
	if len(k.Val) < k.Type.MinValSize() {
		return Alloc{}, errShort(&k, k.Type.MinValSize())
	}
	var err error
	switch k.Type {
	case KeyAlloc:
		err = a.decodeV1(&k)
	case KeyAllocV2:
		v := k.Val
		a.Gen, a.OldestGen, a.DataType = v[1], v[2], DataType(v[3])
		err = a.decodeVarints(&k, v[4:], int(v[0]), "alloc_v2_unpack_error")
	case KeyAllocV3:
		v := k.Val
		a.JournalSeqNonempty = binary.LittleEndian.Uint64(v)
		flags := binary.LittleEndian.Uint32(v[8:])
		a.NeedDiscard, a.NeedIncGen, a.OtherFlags = flags&allocNeedDiscard != 0, flags&allocNeedIncGen != 0, flags>>2
		a.Gen, a.OldestGen, a.DataType = v[13], v[14], DataType(v[15])
		err = a.decodeVarints(&k, v[16:], int(v[12]), "alloc_v3_unpack_error")
	case KeyAllocV4:
		err = a.decodeV4(&k)
	default:
		err = errType(&k, "alloc key")
	}
	if err != nil {
		return Alloc{}, err
	}
	return a, nil
}

func (a *Alloc) decodeV4(k *Key) error {
	flags := binary.LittleEndian.Uint32(k.Val[8:])
	a.NeedDiscard, a.NeedIncGen = flags&allocNeedDiscard != 0, flags&allocNeedIncGen != 0
	a.FixedU64s, a.NrBackpointers = uint8(flags>>allocStartShift&63), uint8(flags>>allocNrBPShift&63)
	a.OtherFlags = flags >> allocOtherShift
	n := a.fixedBytes()
	if want := max(n, allocFixedMin*8) + 8*allocBPU64s*int(a.NrBackpointers); want > len(k.Val) {
		return keyErr(k, "alloc_v4_val_size_bad", "value of %d bytes, want at least %d", len(k.Val), want)
	}
	if n < allocFixedMin*8 {
		return keyErr(k, "alloc_v4_backpointers_start_bad", "fixed part of %d u64s, want at least %d", a.FixedU64s, allocFixedMin)
	}
	var f fixedVal
	f.load(k.Val[:min(n, allocFixedBytes)])
	a.JournalSeqNonempty = f.u64(0)
	a.Gen, a.OldestGen, a.DataType, a.StripeRedundancy = f.b[12], f.b[13], DataType(f.b[14]), f.b[15]
	a.DirtySectors, a.CachedSectors = f.u32(16), f.u32(20)
	a.IOTime = [2]uint64{f.u64(24), f.u64(32)}
	a.Stripe, a.NrExternalBackpointers = f.u32(40), f.u32(44)
	a.JournalSeqEmpty = f.u64(48)
	a.StripeSectors, a.Pad = f.u32(56), f.u32(60)
	a.Tail = tail(k.Val, min(n, allocFixedBytes))
	return nil
}

// Encode returns the value of a key of type alloc_v4. It has the length that a says, so that a decoded value gives itself again;
// [Alloc.Upgrade] gives what new keys should have.
func (a *Alloc) Encode() []byte {
	var f fixedVal
	a.fixed(&f)
	return f.encode(min(a.fixedBytes(), allocFixedBytes), a.Tail, 0, allocFixedBytes)
}

// AllocV4Size is the length in bytes of the values of new keys of type alloc_v4.
const AllocV4Size = allocFixedBytes

// Put writes the value of a, as [Alloc.Upgrade] returned it, to the first [AllocV4Size] bytes of b. It does not allocate.
func (a *Alloc) Put(b []byte) {
	var f fixedVal
	a.fixed(&f)
	copy(b[:AllocV4Size], f.b[:])
}

func (a *Alloc) fixed(f *fixedVal) {
	f.put64(0, a.JournalSeqNonempty)
	f.put32(8, uint32(bit(a.NeedDiscard))|uint32(bit(a.NeedIncGen))*allocNeedIncGen|uint32(a.FixedU64s&63)<<allocStartShift|
		uint32(a.NrBackpointers&63)<<allocNrBPShift|a.OtherFlags<<allocOtherShift)
	f.b[12], f.b[13], f.b[14], f.b[15] = a.Gen, a.OldestGen, byte(a.DataType), a.StripeRedundancy
	f.put32(16, a.DirtySectors)
	f.put32(20, a.CachedSectors)
	f.put64(24, a.IOTime[0])
	f.put64(32, a.IOTime[1])
	f.put32(40, a.Stripe)
	f.put32(44, a.NrExternalBackpointers)
	f.put64(48, a.JournalSeqEmpty)
	f.put32(56, a.StripeSectors)
	f.put32(60, a.Pad)
}

// Upgrade returns a in the form that new keys have: a fixed part of 8 u64s, nothing behind it. Of the flags of alloc_v3 only
// NeedDiscard is taken over.
func (a Alloc) Upgrade() Alloc {
	if a.Encoding != KeyAllocV4 {
		a.NeedIncGen, a.OtherFlags = false, 0
	}
	a.Encoding, a.FixedU64s, a.NrBackpointers, a.Tail = KeyAllocV4, allocFixedNow, 0, nil
	return a
}

// allocV1Fields are the fields of alloc in their order, with their sizes in bytes; a bit of the first byte says which are there.
var allocV1Fields = [...]int{2, 2, 1, 2, 2, 1, 4, 1}

func (a *Alloc) decodeV1(k *Key) error {
	present := k.Val[0]
	a.Gen = k.Val[1]
	b := k.Val[2:]
	var f [len(allocV1Fields)]uint64
	for i, n := range allocV1Fields {
		if present>>i&1 == 0 {
			continue
		}
		if n > len(b) {
			return keyErr(k, "alloc_v1_val_size_bad", "value of %d bytes is too short for fields %#x", len(k.Val), present)
		}
		for j := n - 1; j >= 0; j-- {
			f[i] = f[i]<<8 | uint64(b[j])
		}
		b = b[n:]
	}
	a.IOTime = [2]uint64{f[0], f[1]}
	a.DataType, a.DirtySectors, a.CachedSectors = DataType(f[2]), uint32(f[3]), uint32(f[4])
	a.OldestGen, a.Stripe, a.StripeRedundancy = uint8(f[5]), uint32(f[6]), uint8(f[7])
	return nil
}

// allocVarintWidths are the widths in bits of the packed fields of alloc_v2 and alloc_v3.
var allocVarintWidths = [...]int{64, 64, 32, 32, 32, 8}

func (a *Alloc) decodeVarints(k *Key, b []byte, nr int, id string) error {
	var f [len(allocVarintWidths)]uint64
	for i, w := range allocVarintWidths[:min(nr, len(allocVarintWidths))] {
		v, n := varint(b)
		switch {
		case n == 0:
			return keyErr(k, id, "field %d is cut off", i)
		case bits.Len64(v) > w:
			return keyErr(k, id, "field %d does not fit in its %d bits", i, w)
		}
		f[i] = v
		b = b[n:]
	}
	a.IOTime = [2]uint64{f[0], f[1]}
	a.DirtySectors, a.CachedSectors, a.Stripe, a.StripeRedundancy = uint32(f[2]), uint32(f[3]), uint32(f[4]), uint8(f[5])
	return nil
}

// GCGen returns the distance between the bucket's generation and the oldest that pointers to it may have.
func (a *Alloc) GCGen() uint8 { return a.Gen - a.OldestGen }

// DirtyTotal returns the sectors of pointers that are not cached.
func (a *Alloc) DirtyTotal() uint64 { return uint64(a.StripeSectors) + uint64(a.DirtySectors) }

// Sectors returns the sectors that count for the bucket's data type.
func (a *Alloc) Sectors() uint64 {
	if a.DataType == DataCached {
		return uint64(a.CachedSectors)
	}
	return a.DirtyTotal()
}

// Fragmented returns the sectors of a bucket in use, of the given size, that hold nothing.
func (a *Alloc) Fragmented(bucketSize uint32) uint64 {
	if s := a.Sectors(); s != 0 && s < uint64(bucketSize) {
		return uint64(bucketSize) - s
	}
	return 0
}

// IsEmpty reports whether buckets of the type hold nothing.
func (t DataType) IsEmpty() bool { return t == DataFree || t == DataNeedGCGens || t == DataNeedDiscard }

// isMovable reports whether copygc may empty buckets of the type.
func (t DataType) isMovable() bool {
	return t == DataBtree || t == DataUser || t == DataStripe || t == DataMultiple
}

// FragmentationLRU returns the time under which the bucket, of the given size in sectors, stands in the fragmentation LRU; 0 if
// it does not.
func (a *Alloc) FragmentationLRU(bucketSize uint32) uint64 {
	if bucketSize == 0 || !a.DataType.isMovable() || a.Fragmented(bucketSize) == 0 {
		return 0
	}
	return min(a.DirtyTotal(), uint64(bucketSize)) << 31 / uint64(bucketSize)
}

// DerivedDataType returns the data type that follows from the counters, where hint says what the sectors are.
//
// How a pending discard is kept changed over time: as a flag up to 1.37, as the type itself since; writers of either keep both.
func (a *Alloc) DerivedDataType(hint DataType) DataType {
	switch {
	case a.DataType == DataMultiple:
		return DataMultiple
	case a.Stripe != 0 && hint == DataParity:
		return DataParity
	case a.Stripe != 0:
		return DataStripe
	case a.DirtyTotal() != 0:
		return hint
	case a.CachedSectors != 0:
		return DataCached
	case a.NeedDiscard || hint == DataNeedDiscard:
		return DataNeedDiscard
	case a.GCGen() >= BucketGCGenMax:
		return DataNeedGCGens
	}
	return DataFree
}

// Validate reports what is inconsistent in a bucket's state that was decoded from a key of type alloc_v4.
func (a *Alloc) Validate(k *Key) error {
	dirty := a.DirtyTotal()
	derived := a.DerivedDataType(a.DataType)
	switch {
	case a.FixedU64s == 0 && a.NrBackpointers != 0:
		return keyErr(k, "alloc_v4_backpointers_start_bad", "%d backpointers but no place for them", a.NrBackpointers)
	case a.DataType >= NumDataTypes || derived != a.DataType:
		return keyErr(k, "alloc_key_data_type_bad", "data type %v, want %v", a.DataType, derived)
	case max(a.IOTime[0], a.IOTime[1]) > LRUTimeMax:
		return keyErr(k, "alloc_key_io_time_bad", "io times %d and %d, want at most %d", a.IOTime[0], a.IOTime[1], uint64(LRUTimeMax))
	}
	switch a.DataType {
	case DataFree, DataNeedGCGens, DataNeedDiscard:
		if dirty != 0 || a.CachedSectors != 0 || a.Stripe != 0 {
			return keyErr(k, "alloc_key_empty_but_have_data", "%v, but %d dirty and %d cached sectors, stripe %d", a.DataType, dirty,
				a.CachedSectors, a.Stripe)
		}
	case DataSB, DataJournal, DataBtree, DataUser, DataParity:
		if dirty == 0 && a.Stripe == 0 {
			return keyErr(k, "alloc_key_dirty_sectors_0", "%v, but no dirty sectors", a.DataType)
		}
	case DataCached:
		if a.CachedSectors == 0 || dirty != 0 || a.Stripe != 0 {
			return keyErr(k, "alloc_key_cached_inconsistency", "cached, but %d cached and %d dirty sectors, stripe %d", a.CachedSectors,
				dirty, a.Stripe)
		}
	}
	return nil
}

// BucketGens are the generations of 256 buckets (struct bch_bucket_gens); the key is at (device, bucket >> 8).
type BucketGens [256]uint8

// DecodeBucketGens decodes a key of type bucket_gens.
func DecodeBucketGens(k Key) (BucketGens, error) {
	switch {
	case k.Type != KeyBucketGens:
		return BucketGens{}, errType(&k, "bucket_gens")
	case len(k.Val) != len(BucketGens{}):
		return BucketGens{}, keyErr(&k, "bucket_gens_val_size_bad", "value of %d bytes, want %d", len(k.Val), len(BucketGens{}))
	}
	return BucketGens(k.Val), nil
}

// Encode returns the value of the key.
func (g *BucketGens) Encode() []byte { return append([]byte(nil), g[:]...) }
