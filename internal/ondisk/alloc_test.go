package ondisk

import (
	"bytes"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/go-bcachefs/bcachefs/internal/codec/compress"
)

// Alloc keys of a superblock's bucket, as drivers of 1.13 and 1.4 wrote them.
var (
	allocVal113 = "0100000000000000 23000000 00 00 01 00 00020000 00000000 0100000000000000 0100000000000000" + zeros(24)
	allocVal14  = "0100000000000000 1f000000 00 00 01 00 00020000 00000000 0100000000000000 0100000000000000" + zeros(16)
)

func TestAllocVectors(t *testing.T) {
	want := Alloc{Encoding: KeyAllocV4, DataType: DataSB, DirtySectors: 512, NeedDiscard: true, NeedIncGen: true,
		JournalSeqNonempty: 1, IOTime: [2]uint64{1, 1}, FixedU64s: 8}
	checkVector(t, KeyAllocV4, allocVal113, DecodeAlloc, (*Alloc).Encode, want)
	want.FixedU64s = 7
	checkVector(t, KeyAllocV4, allocVal14, DecodeAlloc, (*Alloc).Encode, want)
	old := want
	if up := want.Upgrade(); len(up.Encode()) != 64 || up.DirtySectors != 512 || old.FixedU64s != 7 {
		t.Errorf("upgraded to %+v", up)
	}
	bp := hexVal(t, allocVal14)
	bp[9] = 1 // one inline backpointer
	if _, err := DecodeAlloc(Key{Type: KeyAllocV4, Val: bp}); err == nil {
		t.Error("a value without room for its backpointers decodes")
	}
	bp = append(bp, bytes.Repeat([]byte{7}, 32)...)
	a, err := DecodeAlloc(Key{Type: KeyAllocV4, Val: bp})
	if err != nil || a.NrBackpointers != 1 || len(a.Tail) != 32 || !bytes.Equal(a.Encode(), bp) {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestAllocOldEncodings(t *testing.T) {
	for _, c := range []struct {
		typ  KeyType
		val  string
		want Alloc
	}{
		{KeyAlloc, "2d 07 0100 04 0002 05", Alloc{Gen: 7, OldestGen: 5, DataType: DataUser, DirtySectors: 512, IOTime: [2]uint64{1, 0}}},
		{KeyAllocV2, "03 07 05 04 02 04 01 08", Alloc{Gen: 7, OldestGen: 5, DataType: DataUser, DirtySectors: 512, IOTime: [2]uint64{1, 2}}},
		{KeyAllocV3, "0900000000000000 03000000 05 07 05 04 02 04 01 08 00 02", Alloc{Gen: 7, OldestGen: 5, DataType: DataUser,
			DirtySectors: 512, IOTime: [2]uint64{1, 2}, Stripe: 1, JournalSeqNonempty: 9, NeedDiscard: true, NeedIncGen: true}},
	} {
		got, err := DecodeAlloc(Key{Type: c.typ, Val: hexVal(t, c.val)})
		if err != nil {
			t.Errorf("%s: %v", c.typ, err)
			continue
		}
		c.want.Encoding = c.typ
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s: %s", c.typ, d)
		}
		up := got.Upgrade()
		again, err := DecodeAlloc(Key{Type: KeyAllocV4, Val: up.Encode()})
		if d := cmp.Diff(up, again); err != nil || d != "" || up.NeedIncGen {
			t.Errorf("%s upgraded: %v %s", c.typ, err, d)
		}
	}
	for name, c := range map[string]struct {
		typ KeyType
		val string
		id  string
	}{
		"v1 cut":        {KeyAlloc, "ff 07 0100 04 0002 05", "alloc_v1_val_size_bad"},
		"v2 cut":        {KeyAllocV2, "06 07 05 04 02 04 01 08", "alloc_v2_unpack_error"},
		"v3 width":      {KeyAllocV3, "0900000000000000 03000000 03 07 05 04 02 04 1f0000000001", "alloc_v3_unpack_error"},
		"v4 short":      {KeyAllocV4, zeros(40), "bkey_val_size_too_small"},
		"v4 fixed part": {KeyAllocV4, "0000000000000000 14000000 00000000" + zeros(48), "alloc_v4_backpointers_start_bad"},
		"another type":  {KeySet, "", "bkey_invalid_type_for_btree"},
	} {
		_, err := DecodeAlloc(Key{Type: c.typ, Val: hexVal(t, c.val)})
		checkID(t, name, err, c.id)
	}
}

func TestAllocValidate(t *testing.T) {
	for _, c := range []struct {
		a  Alloc
		id string
	}{
		{Alloc{}, ""},
		{Alloc{DataType: DataUser, DirtySectors: 1}, ""},
		{Alloc{DataType: DataUser}, "alloc_key_data_type_bad"},
		{Alloc{DataType: DataFree, DirtySectors: 1}, "alloc_key_empty_but_have_data"},
		{Alloc{DataType: DataCached, CachedSectors: 1}, ""},
		{Alloc{DataType: DataCached, CachedSectors: 1, DirtySectors: 1}, "alloc_key_cached_inconsistency"},
		{Alloc{DataType: DataNeedDiscard, NeedDiscard: true}, ""},
		{Alloc{DataType: DataNeedDiscard}, ""},
		{Alloc{NeedDiscard: true}, "alloc_key_data_type_bad"},
		{Alloc{Gen: 96, DataType: DataNeedGCGens}, ""},
		{Alloc{Gen: 95}, ""},
		{Alloc{Gen: 96}, "alloc_key_data_type_bad"},
		{Alloc{DataType: DataStripe, Stripe: 1}, ""},
		{Alloc{DataType: DataParity, Stripe: 1, DirtySectors: 1}, ""},
		{Alloc{DataType: DataUser, Stripe: 1}, "alloc_key_data_type_bad"},
		{Alloc{DataType: NumDataTypes, DirtySectors: 1}, "alloc_key_data_type_bad"},
		{Alloc{IOTime: [2]uint64{LRUTimeMax + 1}}, "alloc_key_io_time_bad"},
		{Alloc{NrBackpointers: 1}, "alloc_v4_backpointers_start_bad"},
	} {
		checkID(t, cmp.Diff(Alloc{}, c.a), c.a.Validate(&Key{Type: KeyAllocV4}), c.id)
	}
}

func TestFragmentationLRU(t *testing.T) {
	for _, c := range []struct {
		a    Alloc
		want uint64
	}{
		{Alloc{DataType: DataUser, DirtySectors: 232}, 973078528},
		{Alloc{DataType: DataBtree, DirtySectors: 128}, 536870912},
		{Alloc{DataType: DataUser, DirtySectors: 384}, 384 << 31 / 512},
		{Alloc{DataType: DataUser, DirtySectors: 512}, 0},
		{Alloc{DataType: DataUser, DirtySectors: 600}, 0},
		{Alloc{DataType: DataCached, CachedSectors: 100}, 0},
		{Alloc{DataType: DataSB, DirtySectors: 8}, 0},
		{Alloc{}, 0},
	} {
		if got := c.a.FragmentationLRU(512); got != c.want {
			t.Errorf("%v with %d sectors: %d, want %d", c.a.DataType, c.a.DirtySectors, got, c.want)
		}
	}
}

func TestBucketPositions(t *testing.T) {
	if got, want := (LRUPos{LRUFragmentation, 5, DevBucket(1, 99)}).Pos(), (Pos{0xffff<<48 | 5, 0x0001000000000063, 0}); got != want {
		t.Errorf("LRU entry at %v, want %v", got, want)
	}
	for _, c := range []struct {
		r FreespaceRange
		p Pos
	}{
		{FreespaceRange{0, 0, 17, 1}, Pos{0, 18, 0}},
		{FreespaceRange{0, 1, 17, 1}, Pos{0, 0x0100000000000012, 0}},
		{FreespaceRange{0, 0, 92, 928}, Pos{0, 1020, 0}},
	} {
		k := c.r.Key()
		if k.Pos != c.p || DecodeFreespace(&k) != c.r {
			t.Errorf("%+v is at %v, want %v; decodes to %+v", c.r, k.Pos, c.p, DecodeFreespace(&k))
		}
	}
	for v, want := range map[MetadataVersion]Pos{1<<10 | 13: {2, 99, 0}, 1<<10 | 38: {7, 2<<48 | 99, 0}} {
		d := NeedDiscard{Dev: 2, Bucket: 99}
		if v >= versionNeedDiscardBySeq {
			d.Seq = 7
		}
		if d.Pos(v) != want || DecodeNeedDiscard(want, v) != d {
			t.Errorf("%v: %v, %+v; want %v, %+v", v, d.Pos(v), DecodeNeedDiscard(want, v), want, d)
		}
	}
	if p, i := BucketGensPos(1, 515); p != (Pos{1, 2, 0}) || i != 3 {
		t.Errorf("generation of bucket 515 is at %v[%d]", p, i)
	}
	if a := (Alloc{Gen: 17}); a.FreespaceGenBits() != 1 {
		t.Errorf("generation distance 17 has bits %d, want 1", a.FreespaceGenBits())
	}
	if p := BackpointerPos(0, 18*512, 0, DefaultBackpointerShift); p.Offset != 9437184 {
		t.Errorf("backpointer at %v, want 9437184", p)
	}
	if p := BackpointerPos(0, 19488, 0, DefaultBackpointerShift); p.Offset != 19955712 {
		t.Errorf("backpointer at %v, want 19955712", p)
	}
}

func TestBackpointer(t *testing.T) {
	want := Backpointer{DataType: DataUser, BucketGen: 0, Flags: 0x80, BucketLen: 128, Pos: Pos{4099, 128, math.MaxUint32}}
	checkVector(t, KeyBackpointer, "00 00 04 0080000000 80000000 ffffffff 8000000000000000 0310000000000000", DecodeBackpointer,
		(*Backpointer).Encode, want)
	if off := want.BucketOffset(); off != 32<<10 {
		t.Errorf("bucket offset %d, want %d", off, 32<<10)
	}
	var b Backpointer
	if b.SetBucketOffset(0x1234567890); b.BucketOffset() != 0x1234567890 {
		t.Errorf("bucket offset %#x", b.BucketOffset())
	}
}

func TestAccountingPos(t *testing.T) {
	for _, c := range []struct {
		a   AccountingPos
		old Pos
		now Pos
	}{
		{AccountingPos{Type: AccountingDevDataType, Dev: 1}, Pos{Snapshot: 0x103}, Pos{Inode: 0x0301 << 48}},
		{AccountingPos{Type: AccountingReplicas, DataType: DataUser, NrDevs: 1, NrRequired: 1}, Pos{Snapshot: 0x01010402}, Pos{Inode: 0x0204010100000000}},
		{AccountingPos{Type: AccountingReplicas, DataType: DataBtree, NrDevs: 2, NrRequired: 1, Devs: [16]uint8{0, 1}},
			Pos{Snapshot: 0x01020302, Offset: 0x100}, Pos{Inode: 0x0203020100010000}},
		{AccountingPos{Type: AccountingSnapshot, ID: math.MaxUint32}, Pos{Snapshot: 0xffffff05, Offset: 0xff}, Pos{Inode: 0x05ffffffff000000}},
		{AccountingPos{Type: AccountingInum, Inum: 4098}, Pos{Snapshot: 0x00100208}, Pos{Inode: 0x0802100000000000}},
		{AccountingPos{Type: AccountingInum, Inum: 0x40000001}, Pos{Snapshot: 0x108, Offset: 0x40}, Pos{Inode: 0x0801000040000000}},
		{AccountingPos{Type: AccountingCompression, Compression: compress.Incompressible}, Pos{Snapshot: 0x504}, Pos{Inode: 0x0405 << 48}},
	} {
		for v, p := range map[MetadataVersion]Pos{1<<10 | 13: c.old, 1<<10 | 15: c.now} {
			if got := c.a.Pos(v); got != p {
				t.Errorf("%v at %v: %v, want %v", c.a.Type, v, got, p)
			}
			got, clean := DecodeAccountingPos(p, v)
			if d := cmp.Diff(c.a, got); d != "" || !clean {
				t.Errorf("%v at %v: %v %s", c.a.Type, v, clean, d)
			}
		}
	}
	if _, clean := DecodeAccountingPos(Pos{Inode: 0x0204010100000000}, 1<<10|13); clean {
		t.Error("a position of the new mapping is clean in the old")
	}
	k := Key{Type: KeyAccounting, Val: EncodeAccounting(-1, 128)}
	if NrAccountingCounters(&k) != 2 || AccountingCounter(&k, 0) != -1 || AccountingCounter(&k, 1) != 128 || AccountingCounter(&k, 2) != 0 {
		t.Errorf("counters of %x", k.Val)
	}
}

func TestAccountingReplicasValidate(t *testing.T) {
	for _, c := range []struct {
		a  AccountingPos
		id string
	}{
		{AccountingPos{NrDevs: 2, NrRequired: 1, Devs: [16]uint8{0, 1}}, ""},
		{AccountingPos{NrDevs: 2, Devs: [16]uint8{0, 1}}, ""},
		{AccountingPos{}, "accounting_key_replicas_nr_devs_0"},
		{AccountingPos{NrDevs: 17}, "accounting_key_junk_at_end"},
		{AccountingPos{NrDevs: 2, NrRequired: 2, Devs: [16]uint8{0, 1}}, "accounting_key_replicas_nr_required_bad"},
		{AccountingPos{NrDevs: 2, NrRequired: 1, Devs: [16]uint8{1, 1}}, "accounting_key_replicas_devs_unsorted"},
		{AccountingPos{NrDevs: 2, NrRequired: 1, Devs: [16]uint8{DevInvalid, 1}}, ""},
	} {
		c.a.Type = AccountingReplicas
		checkID(t, "replicas", c.a.Validate(&Key{Type: KeyAccounting}), c.id)
	}
}

func TestSmallValues(t *testing.T) {
	checkVector(t, KeyQuota, "a00f000000000000 d007000000000000 1400000000000000 0a00000000000000", DecodeQuota, (*Quota).Encode,
		Quota{Space: QuotaLimit{4000, 2000}, Inodes: QuotaLimit{20, 10}})
	checkVector(t, KeyReservation, "00000000 01 000000", DecodeReservation, (*Reservation).Encode, Reservation{NrReplicas: 1})
	checkVector(t, KeyLoggedOpFinsert, "00000000 01000000 0210000000000000 0003000000000000 0002000000000000 ffffffffffffffff",
		DecodeLoggedOpFinsert, (*LoggedOpFinsert).Encode,
		LoggedOpFinsert{Subvol: 1, Inum: 4098, DstOffset: 768, SrcOffset: 512, Pos: math.MaxUint64, Size: 40})
	checkVector(t, KeyLoggedOpTruncate, "01000000 00000000 0210000000000000 0003000000000000", DecodeLoggedOpTruncate,
		(*LoggedOpTruncate).Encode, LoggedOpTruncate{Subvol: 1, Inum: 4098, NewSize: 768})
	checkVector(t, KeyLoggedOpStripeUpdate, "0100000000000000 0200000000000000 02 0100"+zeros(21), DecodeLoggedOpStripeUpdate,
		(*LoggedOpStripeUpdate).Encode, LoggedOpStripeUpdate{OldIdx: 1, NewIdx: 2, OldBlocksNr: 2, OldBlockMap: [16]uint8{1}})
	checkVector(t, KeyInodeAllocCursor, "3f000000 02000000 0510000000000000", DecodeInodeAllocCursor, (*InodeAllocCursor).Encode,
		InodeAllocCursor{Bits: 63, Generation: 2, Idx: 4101})
	checkVector(t, KeyDamage, "0300 02000000 0403 020100 0807060504", DecodeDamage, (*Damage).Encode,
		Damage{Entries: []DamageEntry{{ID: 3, Nr: 2, Last: 0x0001020304, First: 0x0405060708}}})
	checkVector(t, KeyBucketGens, "01"+zeros(254)+"02", DecodeBucketGens, (*BucketGens).Encode, BucketGens{0: 1, 255: 2})
	if v, err := DecodeCookie(Key{Type: KeyCookie, Val: EncodeCookie(7)}); v != 7 || err != nil {
		t.Errorf("cookie %d, %v", v, err)
	}
	for val, want := range map[string]string{"": "unknown", "0200000000000000": "double_allocation", "ff": "(unknown reason 255)"} {
		if r, err := DecodeError(Key{Type: KeyError, Val: hexVal(t, val)}); r.String() != want || err != nil {
			t.Errorf("error %q: %v, %v", val, r, err)
		}
	}
	k := Key{Type: KeyDamage}
	for _, c := range []struct {
		d  Damage
		id string
	}{
		{Damage{[]DamageEntry{{ID: 1, First: 1, Last: 1}, {ID: 2}}}, ""},
		{Damage{[]DamageEntry{{ID: 0}}}, "damage_entries_bad"},
		{Damage{[]DamageEntry{{ID: 2}, {ID: 2}}}, "damage_entries_bad"},
		{Damage{[]DamageEntry{{ID: 1, First: 2, Last: 1}}}, "damage_entries_bad"},
	} {
		checkID(t, "damage", c.d.Validate(&k), c.id)
	}
}

func TestAccountingPosRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.SampledFrom([]MetadataVersion{1<<10 | 9, 1<<10 | 14, 1<<10 | 15, VersionMax}).Draw(t, "version")
		raw := rapid.SliceOfN(rapid.Byte(), PosSize, PosSize).Draw(t, "bytes")
		if rapid.Bool().Draw(t, "known") {
			raw[0] %= uint8(NumAccountingTypes)
		}
		p := DecodePos(raw)
		a, clean := DecodeAccountingPos(p, v)
		again, ok := DecodeAccountingPos(a.Pos(v), v)
		if !ok || again != a {
			t.Fatalf("%v: %s", ok, cmp.Diff(a, again))
		}
		if clean && a.Pos(v) != p && a.NrDevs <= maxAccountingDevs {
			t.Fatalf("%v encodes to %v", p, a.Pos(v))
		}
	})
}

func FuzzDecodeAlloc(f *testing.F) {
	f.Add(uint8(KeyAllocV4), hexVal(f, allocVal113))
	f.Add(uint8(KeyAlloc), hexVal(f, "2d 07 0100 04 0002 05"))
	f.Add(uint8(KeyAllocV3), hexVal(f, "0900000000000000 03000000 05 07 05 04 02 04 01 08 00 02"))
	f.Fuzz(func(t *testing.T, typ uint8, val []byte) {
		k := Key{Type: KeyType(typ), Val: val}
		a, err := DecodeAlloc(k)
		if err != nil {
			return
		}
		_ = a.Validate(&k)
		a.FragmentationLRU(512)
		if a.Encoding == KeyAllocV4 && !bytes.Equal(a.Encode(), val) {
			t.Fatalf("%x encodes to %x", val, a.Encode())
		}
		up := a.Upgrade()
		again, err := DecodeAlloc(Key{Type: KeyAllocV4, Val: up.Encode()})
		if err != nil || again.DirtySectors != a.DirtySectors || again.Stripe != a.Stripe {
			t.Fatal(err, cmp.Diff(up, again))
		}
	})
}

func FuzzDecodeSmallValues(f *testing.F) {
	f.Add(make([]byte, 8))
	f.Add(make([]byte, 40))
	f.Add(make([]byte, 256))
	f.Fuzz(func(t *testing.T, val []byte) {
		checkFuzzRoundTrip(t, KeyBackpointer, val, DecodeBackpointer, (*Backpointer).Encode)
		checkFuzzRoundTrip(t, KeyQuota, val, DecodeQuota, (*Quota).Encode)
		checkFuzzRoundTrip(t, KeyReservation, val, DecodeReservation, (*Reservation).Encode)
		checkFuzzRoundTrip(t, KeyLoggedOpTruncate, val, DecodeLoggedOpTruncate, (*LoggedOpTruncate).Encode)
		checkFuzzRoundTrip(t, KeyLoggedOpFinsert, val, DecodeLoggedOpFinsert, (*LoggedOpFinsert).Encode)
		checkFuzzRoundTrip(t, KeyLoggedOpStripeUpdate, val, DecodeLoggedOpStripeUpdate, (*LoggedOpStripeUpdate).Encode)
		checkFuzzRoundTrip(t, KeyInodeAllocCursor, val, DecodeInodeAllocCursor, (*InodeAllocCursor).Encode)
		checkFuzzRoundTrip(t, KeyBucketGens, val, DecodeBucketGens, (*BucketGens).Encode)
		checkFuzzRoundTrip(t, KeyDamage, val, DecodeDamage, (*Damage).Encode)
	})
}
