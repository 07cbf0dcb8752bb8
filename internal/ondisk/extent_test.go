package ondisk

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
	"github.com/go-bcachefs/bcachefs/internal/codec/compress"
)

// Extents that the driver wrote: an incompressible block with garbage in the unused bit, 64 KiB stored plainly, 64 KiB that zstd
// made 4 KiB of.
const (
	extentIncompressible = "1e0e8055 1454b86d 0160030000000000"
	extentPlain          = "feff0005 fd8b681b 01c0020000000000"
	extentZstd           = "1efe0045 f26445cc 0180020000000000"
)

func TestAppendExtentPtrs(t *testing.T) {
	for name, c := range map[string]struct {
		typ  KeyType
		size uint32
		val  string
		want []DecodedPtr
	}{
		"incompressible": {KeyExtent, 8, extentIncompressible, []DecodedPtr{{
			ExtentPtr: ExtentPtr{Offset: 13824}, HasCRC: true,
			CRC: CRC{CompressedSize: 8, UncompressedSize: 8, Csum: checksum.CRC32C, Compression: compress.Incompressible,
				Sum: checksum.Sum{Lo: 0x6db85414}}}}},
		"plain": {KeyExtent, 128, extentPlain, []DecodedPtr{{
			ExtentPtr: ExtentPtr{Offset: 0x2c00}, HasCRC: true,
			CRC: CRC{CompressedSize: 128, UncompressedSize: 128, Csum: checksum.CRC32C, Sum: checksum.Sum{Lo: 0x1b688bfd}}}}},
		"indirect zstd": {KeyReflinkV, 128, "0100000000000000" + extentZstd, []DecodedPtr{{
			ExtentPtr: ExtentPtr{Offset: 0x2800}, HasCRC: true,
			CRC: CRC{CompressedSize: 8, UncompressedSize: 128, Csum: checksum.CRC32C, Compression: compress.Zstd,
				Sum: checksum.Sum{Lo: 0xcc4564f2}}}}},
		"no crc, erasure coded, removed": {KeyExtent, 8, "3040060000000000 8900000000000107 030000000000ff00", []DecodedPtr{
			{ExtentPtr: ExtentPtr{Unwritten: true, Offset: 8, Dev: 1, Gen: 7}, CRC: CRC{CompressedSize: 8, UncompressedSize: 8},
				HasStripe: true, Stripe: StripePtr{Block: 1, Redundancy: 2, Idx: 3}},
			{ExtentPtr: ExtentPtr{Cached: true, Dev: 255}, CRC: CRC{CompressedSize: 8, UncompressedSize: 8}},
		}},
		"not an extent": {KeyInlineData, 8, "0102030405060708", nil},
	} {
		k := Key{Type: c.typ, Size: c.size, Val: hexVal(t, c.val)}
		got, _, err := AppendExtentPtrs(nil, &k, nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}

func TestExtentFlagsAndUnknownEntries(t *testing.T) {
	le := binary.LittleEndian
	val := le.AppendUint64(nil, 1<<EntryFlags|1<<extentFlagShift)
	val = append(val, hexVal(t, extentPlain)...)
	val = le.AppendUint64(val, 1<<11)
	val = le.AppendUint64(val, 0x1234)
	k := Key{Type: KeyExtent, Size: 128, Val: val}
	ptrs, flags, err := AppendExtentPtrs(nil, &k, nil)
	if len(ptrs) != 1 || !flags.Poisoned {
		t.Errorf("%d pointers, flags %+v; want 1, poisoned", len(ptrs), flags)
	}
	checkID(t, "unknown entry", err, "extent_ptrs_invalid_entry")

	table := make(ExtentTypeU64s, 12)
	table[11] = 2
	ptrs, flags, err = AppendExtentPtrs(nil, &k, table)
	if len(ptrs) != 1 || flags.Unknown != 1 || err != nil {
		t.Errorf("%d pointers, %d unknown, %v; want 1, 1", len(ptrs), flags.Unknown, err)
	}
}

func TestExtentEntriesRoundTripVectors(t *testing.T) {
	for _, s := range []string{extentIncompressible, extentPlain, extentZstd} {
		k := Key{Type: KeyExtent, Size: 8, Val: hexVal(t, s)}
		checkEntriesRoundTrip(t, &k, nil)
	}
}

// checkEntriesRoundTrip fails unless the entries of k, decoded and encoded, give its value again.
func checkEntriesRoundTrip(t testing.TB, k *Key, u64s ExtentTypeU64s) {
	t.Helper()
	var enc []byte
	for e, err := range ExtentEntries(k, u64s) {
		if err != nil {
			t.Fatal(err)
		}
		enc = AppendExtentEntry(enc, &e)
	}
	if b, _ := extentEntries(k); !bytes.Equal(enc, b) {
		t.Fatalf("%x encodes to %x", b, enc)
	}
}

func TestExtentEntryRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		typ := ExtentEntryType(rapid.Uint8Max(uint8(NumExtentEntryTypes)-1).Draw(t, "type"))
		w := rapid.Uint64().Draw(t, "word")&^(1<<(typ+1)-1) | 1<<typ
		val := binary.LittleEndian.AppendUint64(nil, w)
		for range extentEntryU64s[typ] - 1 {
			val = binary.LittleEndian.AppendUint64(val, rapid.Uint64().Draw(t, "more"))
		}
		e := decodeExtentEntry(typ, val)
		if enc := AppendExtentEntry(nil, &e); !bytes.Equal(enc, val) {
			t.Fatalf("%s %x encodes to %x: %+v", typ, val, enc, e)
		}
	})
}

func TestCRCEntryType(t *testing.T) {
	for _, c := range []struct {
		crc  CRC
		want ExtentEntryType
		ok   bool
	}{
		{CRC{CompressedSize: 128, UncompressedSize: 128, Csum: checksum.CRC32C}, EntryCRC32, true},
		{CRC{CompressedSize: 128, UncompressedSize: 129, Csum: checksum.CRC32C}, EntryCRC64, true},
		{CRC{CompressedSize: 8, UncompressedSize: 8, Csum: checksum.CRC32C, Nonce: 1}, EntryCRC64, true},
		{CRC{CompressedSize: 8, UncompressedSize: 8, Csum: checksum.ChaCha20Poly1305_80}, EntryCRC64, true},
		{CRC{CompressedSize: 8, UncompressedSize: 8, Csum: checksum.ChaCha20Poly1305_128}, EntryCRC128, true},
		{CRC{CompressedSize: 8192, UncompressedSize: 8192}, EntryCRC128, true},
		{CRC{CompressedSize: 8193, UncompressedSize: 8193}, 0, false},
	} {
		if got, ok := c.crc.EntryType(); got != c.want || ok != c.ok {
			t.Errorf("%+v: %v %v, want %v %v", c.crc, got, ok, c.want, c.ok)
		}
	}
}

func TestAppendExtentPtrsDoesNotAllocate(t *testing.T) {
	k := Key{Type: KeyExtent, Size: 8, Val: hexVal(t, extentIncompressible)}
	dst := make([]DecodedPtr, 0, MaxExtentPtrs)
	if n := testing.AllocsPerRun(100, func() { dst, _, _ = AppendExtentPtrs(dst[:0], &k, nil) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkAppendExtentPtrs(b *testing.B) {
	k := Key{Type: KeyExtent, Size: 8, Val: hexVal(b, extentIncompressible)}
	dst := make([]DecodedPtr, 0, MaxExtentPtrs)
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if dst, _, err = AppendExtentPtrs(dst[:0], &k, nil); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzExtentEntries(f *testing.F) {
	for _, s := range []string{extentIncompressible, extentPlain, extentZstd} {
		f.Add(uint8(KeyExtent), hexVal(f, s), []byte(nil))
	}
	f.Add(uint8(KeyReflinkV), append(make([]byte, 8), hexVal(f, extentZstd)...), []byte{1, 1, 2, 3, 1, 1, 1, 1, 1, 2})
	f.Fuzz(func(t *testing.T, typ uint8, val, table []byte) {
		k := Key{Type: KeyType(typ), Size: 8, Val: val}
		ptrs, _, err := AppendExtentPtrs(nil, &k, table)
		if len(ptrs)*8 > len(val) {
			t.Fatalf("%d pointers in %d bytes", len(ptrs), len(val))
		}
		if err == nil {
			checkEntriesRoundTrip(t, &k, table)
		}
	})
}
