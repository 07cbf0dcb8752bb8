package ondisk

import (
	"encoding/binary"
	"iter"
)

// ExtentEntry is one entry of an extent's value, decoded: only the field that Type names is set.
type ExtentEntry struct {
	Type      ExtentEntryType
	Ptr       ExtentPtr
	CRC       CRC // of types crc32, crc64, crc128
	Stripe    StripePtr
	Rebalance Rebalance
	Flags     uint64 // of type flags
	Reconcile Reconcile
	Idx       uint64 // of type reconcile_bp
	Raw       []byte // of unknown types; aliases the value

	// Unused is a bit of ptr and crc32 entries that means nothing, but that some writers left set; it is kept so that
	// re-encoding gives the same bytes.
	Unused bool
}

// Bits of no meaning: in ptr and in crc32 entries.
const (
	ptrUnusedBit   = 2
	crc32UnusedBit = 23
)

// Rebalance is what an extent wants to become, up to 1.32 (struct bch_extent_rebalance). Compression is an option byte (type and
// level), targets are codes of disk groups. Writers up to 1.13 set only the first two fields.
type Rebalance struct {
	BackgroundCompression uint8
	BackgroundTarget      uint16
	PromoteTarget         uint16
	ErasureCode           bool
	DataChecksum          uint8
	DataReplicas          uint8
	FromInode             RebalanceFromInode
	Unused                uint8 // 3 bits
}

// RebalanceFromInode says which values come from the inode's options rather than the filesystem's.
type RebalanceFromInode uint8

// Bits of [RebalanceFromInode], in the order of the entry's bits.
const (
	RebalancePromoteTarget RebalanceFromInode = 1 << iota
	RebalanceErasureCode
	RebalanceDataChecksum
	RebalanceBackgroundCompression
	RebalanceDataReplicas
	RebalanceBackgroundTarget
)

func decodeRebalance(w uint64) Rebalance {
	return Rebalance{
		Unused:                uint8(w >> 6 & 7),
		FromInode:             RebalanceFromInode(w >> 9 & 63),
		PromoteTarget:         uint16(w >> 15),
		ErasureCode:           w>>31&1 != 0,
		DataChecksum:          uint8(w >> 32 & 15),
		DataReplicas:          uint8(w >> 36 & 15),
		BackgroundCompression: uint8(w >> 40),
		BackgroundTarget:      uint16(w >> 48),
	}
}

func (r *Rebalance) word() uint64 {
	return 1<<EntryRebalance | uint64(r.Unused&7)<<6 | uint64(r.FromInode&63)<<9 | uint64(r.PromoteTarget)<<15 |
		bit(r.ErasureCode)<<31 | uint64(r.DataChecksum&15)<<32 | uint64(r.DataReplicas&15)<<36 |
		uint64(r.BackgroundCompression)<<40 | uint64(r.BackgroundTarget)<<48
}

// ReconcileOpt is a bit for each option that reconcile works towards.
type ReconcileOpt uint8

// Options in the order of the need_rb bits; the last has no such bit but may come from the inode.
const (
	ReconcileDataReplicas ReconcileOpt = 1 << iota
	ReconcileDataChecksum
	ReconcileErasureCode
	ReconcileBackgroundCompression
	ReconcileBackgroundTarget
	ReconcilePromoteTarget
)

// Reconcile is what an extent wants to become, since 1.33 (struct bch_extent_reconcile).
type Reconcile struct {
	Unused                uint8 // 2 bits
	PtrsMoving            uint8 // bit n: pointer n must go
	Hipri, Pending        bool
	NeedRB                ReconcileOpt // not yet as they should be
	FromInode             ReconcileOpt
	DataReplicas          uint8
	DataChecksum          uint8
	ErasureCode           bool
	BackgroundCompression uint8
	BackgroundTarget      uint16
	PromoteTarget         uint16
}

func decodeReconcile(w uint64) Reconcile {
	return Reconcile{
		Unused:                uint8(w >> 8 & 3),
		PtrsMoving:            uint8(w >> 10 & 31),
		Hipri:                 w>>15&1 != 0,
		Pending:               w>>16&1 != 0,
		NeedRB:                ReconcileOpt(w >> 17 & 31),
		FromInode:             ReconcileOpt(w >> 22 & 63),
		DataReplicas:          uint8(w >> 28 & 7),
		DataChecksum:          uint8(w >> 31 & 15),
		ErasureCode:           w>>35&1 != 0,
		BackgroundCompression: uint8(w >> 36),
		BackgroundTarget:      uint16(w >> 44 & 1023),
		PromoteTarget:         uint16(w >> 54),
	}
}

func (r *Reconcile) word() uint64 {
	return 1<<EntryReconcile | uint64(r.Unused&3)<<8 | uint64(r.PtrsMoving&31)<<10 | bit(r.Hipri)<<15 | bit(r.Pending)<<16 |
		uint64(r.NeedRB&31)<<17 | uint64(r.FromInode&63)<<22 | uint64(r.DataReplicas&7)<<28 | uint64(r.DataChecksum&15)<<31 |
		bit(r.ErasureCode)<<35 | uint64(r.BackgroundCompression)<<36 | uint64(r.BackgroundTarget&1023)<<44 |
		uint64(r.PromoteTarget)<<54
}

func bit(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// ExtentEntries iterates over the entries of k, of type extent, reflink_v, btree_ptr or btree_ptr_v2. It ends after an error.
func ExtentEntries(k *Key, u64s ExtentTypeU64s) iter.Seq2[ExtentEntry, error] {
	return func(yield func(ExtentEntry, error) bool) {
		b, _ := extentEntries(k)
		for len(b) > 0 {
			t, n := nextEntry(b, u64s)
			if n == 0 {
				yield(ExtentEntry{}, errEntry(k, b))
				return
			}
			if !yield(decodeExtentEntry(t, b[:n:n]), nil) {
				return
			}
			b = b[n:]
		}
	}
}

func decodeExtentEntry(t ExtentEntryType, b []byte) ExtentEntry {
	e := ExtentEntry{Type: t}
	w := binary.LittleEndian.Uint64(b)
	switch t {
	case EntryPtr:
		e.Ptr, e.Unused = decodeExtentPtr(w), w>>ptrUnusedBit&1 != 0
	case EntryCRC32:
		e.CRC, e.Unused = decodeCRC(t, b), w>>crc32UnusedBit&1 != 0
	case EntryCRC64, EntryCRC128:
		e.CRC = decodeCRC(t, b)
	case EntryStripePtr:
		e.Stripe = decodeStripePtr(w)
	case EntryRebalance:
		e.Rebalance = decodeRebalance(w)
	case EntryFlags:
		e.Flags = w >> extentFlagShift
	case EntryReconcile:
		e.Reconcile = decodeReconcile(w)
	case EntryReconcileBP:
		e.Idx = w >> (EntryReconcileBP + 1)
	default:
		e.Raw = b
	}
	return e
}

// AppendExtentEntry appends the encoded entry.
func AppendExtentEntry(dst []byte, e *ExtentEntry) []byte {
	le := binary.LittleEndian
	switch e.Type {
	case EntryPtr:
		return le.AppendUint64(dst, e.Ptr.word()|bit(e.Unused)<<ptrUnusedBit)
	case EntryCRC32, EntryCRC64, EntryCRC128:
		return appendCRC(dst, e.Type, &e.CRC, e.Unused)
	case EntryStripePtr:
		return le.AppendUint64(dst, e.Stripe.word())
	case EntryRebalance:
		return le.AppendUint64(dst, e.Rebalance.word())
	case EntryFlags:
		return le.AppendUint64(dst, 1<<EntryFlags|e.Flags<<extentFlagShift)
	case EntryReconcile:
		return le.AppendUint64(dst, e.Reconcile.word())
	case EntryReconcileBP:
		return le.AppendUint64(dst, 1<<EntryReconcileBP|e.Idx<<(EntryReconcileBP+1))
	}
	return append(dst, e.Raw...)
}

// crcLimits are what each type of crc entry can hold: sectors, nonce, bytes of checksum.
var crcLimits = [...]struct {
	typ   ExtentEntryType
	size  uint32
	nonce uint32
	csum  int
}{
	{EntryCRC32, 1 << 7, 0, 4},
	{EntryCRC64, 1 << 9, 1<<10 - 1, 10},
	{EntryCRC128, 1 << 13, 1<<13 - 1, 16},
}

// EntryType returns the smallest type of entry that c fits in; ok is false if it fits in none.
func (c *CRC) EntryType() (t ExtentEntryType, ok bool) {
	for _, l := range crcLimits {
		if c.Csum.Bytes() <= l.csum && c.UncompressedSize <= l.size && c.CompressedSize <= l.size && c.Nonce <= l.nonce {
			return l.typ, true
		}
	}
	return 0, false
}

func appendCRC(dst []byte, t ExtentEntryType, c *CRC, unused bool) []byte {
	le := binary.LittleEndian
	size, full, off, nonce := uint64(c.CompressedSize)-1, uint64(c.UncompressedSize)-1, uint64(c.Offset), uint64(c.Nonce)
	csum, comp := uint64(c.Csum)&15, uint64(c.Compression)&15
	switch t {
	case EntryCRC32:
		const m = 1<<7 - 1
		return le.AppendUint64(dst, 1<<EntryCRC32|size&m<<2|full&m<<9|off&m<<16|bit(unused)<<crc32UnusedBit|csum<<24|comp<<28|
			c.Sum.Lo<<32)
	case EntryCRC64:
		const m = 1<<9 - 1
		dst = le.AppendUint64(dst, 1<<EntryCRC64|size&m<<3|full&m<<12|off&m<<21|nonce&(1<<10-1)<<30|csum<<40|comp<<44|c.Sum.Hi<<48)
		return le.AppendUint64(dst, c.Sum.Lo)
	}
	const m = 1<<13 - 1
	dst = le.AppendUint64(dst, 1<<EntryCRC128|size&m<<4|full&m<<17|off&m<<30|nonce&m<<43|csum<<56|comp<<60)
	return le.AppendUint64(le.AppendUint64(dst, c.Sum.Lo), c.Sum.Hi)
}
