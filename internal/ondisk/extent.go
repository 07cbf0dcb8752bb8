package ondisk

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
	"github.com/go-bcachefs/bcachefs/internal/codec/compress"
)

// ExtentEntryType is the type of an entry of an extent's value (enum bch_extent_entry_type). It is stored as the lowest set
// bit of the entry's first word.
type ExtentEntryType uint8

// Types of entries.
const (
	EntryPtr ExtentEntryType = iota
	EntryCRC32
	EntryCRC64
	EntryCRC128
	EntryStripePtr
	EntryRebalance // up to 1.32
	EntryFlags     // since 1.25
	EntryReconcile // since 1.33
	EntryReconcileBP
	NumExtentEntryTypes
)

var extentEntryNames = [NumExtentEntryTypes]string{"ptr", "crc32", "crc64", "crc128", "stripe_ptr", "rebalance_v1", "flags", "reconcile",
	"reconcile_bp"}

func (t ExtentEntryType) String() string {
	if t < NumExtentEntryTypes {
		return extentEntryNames[t]
	}
	return fmt.Sprintf("(unknown extent entry type %d)", uint8(t))
}

var extentEntryU64s = [NumExtentEntryTypes]uint8{1, 1, 2, 3, 1, 1, 1, 1, 1}

// ExtentTypeU64s gives the lengths of extent entries in u64s by type: what a newer writer left in the superblock so that older
// readers can step over entries they do not know (struct bch_sb_field_extent_type_u64s). Nil knows the types above only.
type ExtentTypeU64s []uint8

// size returns the length in bytes of the entries of type t; 0 if it is not known.
func (u ExtentTypeU64s) size(t ExtentEntryType) int {
	switch {
	case t < NumExtentEntryTypes:
		return int(extentEntryU64s[t]) * 8
	case int(t) < len(u):
		return int(u[t]) * 8
	}
	return 0
}

// Limits of extents.
const (
	MaxReplicas     = 4   // copies that are kept of data or a node
	MaxExtentPtrs   = 16  // pointers in one key
	DevInvalid      = 255 // device of a pointer whose device was removed
	ptrOffsetBits   = 44
	extentFlagShift = 7
)

// ExtentPtr points to data on a device (struct bch_extent_ptr).
type ExtentPtr struct {
	Cached    bool   // a copy that may go away at any time: its bucket's generation tells
	Unwritten bool   // space was allocated, nothing written: reads as zeros
	Offset    Sector // from the start of the device
	Dev       uint8  // index of the member; [DevInvalid] if it was removed
	Gen       uint8  // generation of the bucket when it was written
}

// CRC says how data was encoded and checks it (struct bch_extent_crc_unpacked). It governs the pointers behind it.
type CRC struct {
	CompressedSize   uint32 // sectors on the device, which the checksum is over
	UncompressedSize uint32 // sectors of the decoded data
	Offset           uint32 // where in these the key's data begins
	Nonce            uint32
	Csum             checksum.Type
	Compression      compress.Type
	Sum              checksum.Sum
}

// IsEncoded reports whether the data must be read whole: it is checksummed or compressed.
func (c *CRC) IsEncoded() bool { return c.Csum != checksum.None || c.Compression.IsCompressed() }

// StripePtr says that the pointer behind it lies in a block of a stripe (struct bch_extent_stripe_ptr).
type StripePtr struct {
	Block      uint8
	Redundancy uint8
	Idx        uint64 // offset of the stripe's key
}

// DecodedPtr is a pointer with what governs it.
type DecodedPtr struct {
	ExtentPtr
	CRC       CRC  // without a crc entry: that of plain data of the key's size
	HasCRC    bool // a crc entry governs the pointer
	HasStripe bool
	Stripe    StripePtr
}

// ExtentFlags is what an extent says beside its pointers.
type ExtentFlags struct {
	Poisoned bool   // reads must fail: the data is known to be damaged
	Bits     uint64 // all flags, of which Poisoned is bit 0
	Unknown  int    // entries of unknown types that were stepped over
}

// extentEntries returns the bytes of k's value that are extent entries; ok is false for types that hold none.
func extentEntries(k *Key) (b []byte, ok bool) {
	skip := 0
	switch k.Type {
	case KeyExtent, KeyBtreePtr:
	case KeyReflinkV:
		skip = 8
	case KeyBtreePtrV2:
		skip = 40
	default:
		return nil, false
	}
	if len(k.Val) < skip {
		return nil, false
	}
	return k.Val[skip:], true
}

// nextEntry returns the type and length in bytes of the first entry in b; length 0 says that it is invalid.
func nextEntry(b []byte, u64s ExtentTypeU64s) (ExtentEntryType, int) {
	if len(b) < 8 {
		return 0, 0
	}
	w := binary.LittleEndian.Uint64(b)
	if w == 0 {
		return 0, 0
	}
	t := ExtentEntryType(bits.TrailingZeros64(w))
	n := u64s.size(t)
	if n > len(b) {
		n = 0
	}
	return t, n
}

// AppendExtentPtrs appends the pointers of k, of type extent, reflink_v, btree_ptr or btree_ptr_v2, in their order; other
// types have none. With a dst that is large enough (up to [MaxExtentPtrs] in valid keys) it does not allocate. On error what
// was decoded before it is returned too.
func AppendExtentPtrs(dst []DecodedPtr, k *Key, u64s ExtentTypeU64s) ([]DecodedPtr, ExtentFlags, error) {
	var flags ExtentFlags
	b, ok := extentEntries(k)
	if !ok {
		if len(k.Val) < k.Type.MinValSize() {
			return dst, flags, errShort(k, k.Type.MinValSize())
		}
		return dst, flags, nil
	}
	p := DecodedPtr{CRC: CRC{CompressedSize: k.Size, UncompressedSize: k.Size}}
	for len(b) > 0 {
		t, n := nextEntry(b, u64s)
		if n == 0 {
			return dst, flags, errEntry(k, b)
		}
		w := binary.LittleEndian.Uint64(b)
		switch t {
		case EntryPtr:
			p.ExtentPtr = decodeExtentPtr(w)
			dst = append(dst, p)
			p.HasStripe, p.Stripe = false, StripePtr{}
		case EntryCRC32, EntryCRC64, EntryCRC128:
			p.CRC, p.HasCRC = decodeCRC(t, b), true
		case EntryStripePtr:
			p.HasStripe, p.Stripe = true, decodeStripePtr(w)
		case EntryFlags:
			flags.Bits |= w >> extentFlagShift
			flags.Poisoned = flags.Bits&1 != 0
		case EntryRebalance, EntryReconcile, EntryReconcileBP:
		default:
			flags.Unknown++
		}
		b = b[n:]
	}
	return dst, flags, nil
}

func errEntry(k *Key, b []byte) error {
	at := len(k.Val) - len(b)
	if len(b) < 8 {
		return keyErr(k, "extent_ptrs_invalid_entry", "entry at byte %d is cut off", at)
	}
	return keyErr(k, "extent_ptrs_invalid_entry", "entry at byte %d begins %#x: unknown type, or cut off", at, binary.LittleEndian.Uint64(b))
}

func decodeExtentPtr(w uint64) ExtentPtr {
	return ExtentPtr{
		Cached:    w>>1&1 != 0,
		Unwritten: w>>3&1 != 0,
		Offset:    Sector(w >> 4 & (1<<ptrOffsetBits - 1)),
		Dev:       uint8(w >> 48),
		Gen:       uint8(w >> 56),
	}
}

func (p ExtentPtr) word() uint64 {
	w := 1 | uint64(p.Offset)&(1<<ptrOffsetBits-1)<<4 | uint64(p.Dev)<<48 | uint64(p.Gen)<<56
	if p.Cached {
		w |= 1 << 1
	}
	if p.Unwritten {
		w |= 1 << 3
	}
	return w
}

func decodeStripePtr(w uint64) StripePtr {
	return StripePtr{Block: uint8(w >> 5), Redundancy: uint8(w >> 13 & 15), Idx: w >> 17}
}

func (p StripePtr) word() uint64 {
	return 1<<EntryStripePtr | uint64(p.Block)<<5 | uint64(p.Redundancy&15)<<13 | p.Idx<<17
}

// decodeCRC decodes a crc entry of type t; b is long enough. Sizes are stored less one.
func decodeCRC(t ExtentEntryType, b []byte) CRC {
	w := binary.LittleEndian.Uint64(b)
	field := func(at, n uint) uint32 { return uint32(w >> at & (1<<n - 1)) }
	switch t {
	case EntryCRC32:
		return CRC{
			CompressedSize: field(2, 7) + 1, UncompressedSize: field(9, 7) + 1, Offset: field(16, 7),
			Csum: checksum.Type(field(24, 4)), Compression: compress.Type(field(28, 4)),
			Sum: checksum.Sum{Lo: w >> 32},
		}
	case EntryCRC64:
		return CRC{
			CompressedSize: field(3, 9) + 1, UncompressedSize: field(12, 9) + 1, Offset: field(21, 9), Nonce: field(30, 10),
			Csum: checksum.Type(field(40, 4)), Compression: compress.Type(field(44, 4)),
			Sum: checksum.Sum{Lo: binary.LittleEndian.Uint64(b[8:]), Hi: w >> 48},
		}
	}
	return CRC{
		CompressedSize: field(4, 13) + 1, UncompressedSize: field(17, 13) + 1, Offset: field(30, 13), Nonce: field(43, 13),
		Csum: checksum.Type(field(56, 4)), Compression: compress.Type(field(60, 4)),
		Sum: checksum.Sum{Lo: binary.LittleEndian.Uint64(b[8:]), Hi: binary.LittleEndian.Uint64(b[16:])},
	}
}
