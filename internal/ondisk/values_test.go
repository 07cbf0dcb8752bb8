package ondisk

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
)

// checkVector decodes val with decode, compares with want and encodes it again.
func checkVector[T any](t *testing.T, typ KeyType, val string, decode func(Key) (T, error), encode func(*T) []byte, want T) {
	t.Helper()
	k := Key{Type: typ, Val: hexVal(t, val)}
	got, err := decode(k)
	if err != nil {
		t.Errorf("%s: %v", typ, err)
		return
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s: %s", typ, d)
	}
	if enc := encode(&got); !bytes.Equal(enc, k.Val) {
		t.Errorf("%s: encodes to\n%x, want\n%x", typ, enc, k.Val)
	}
	for n := 0; n < typ.MinValSize(); n += 4 {
		if _, err := decode(Key{Type: typ, Val: k.Val[:n]}); err == nil {
			t.Errorf("%s: %d bytes decode", typ, n)
		}
	}
	if _, err := decode(Key{Type: KeyDeleted, Val: k.Val}); err == nil {
		t.Errorf("%s: a key of another type decodes", typ)
	}
}

// checkFuzzRoundTrip decodes val; if it decodes, what it encodes to must decode to the same.
func checkFuzzRoundTrip[T any](t *testing.T, typ KeyType, val []byte, decode func(Key) (T, error), encode func(*T) []byte) {
	t.Helper()
	got, err := decode(Key{Type: typ, Pos: Pos{1, 2, 3}, Val: val})
	if err != nil {
		return
	}
	enc := encode(&got)
	again, err := decode(Key{Type: typ, Pos: Pos{1, 2, 3}, Val: enc})
	if err != nil {
		t.Fatalf("%s: %x encodes to %x: %v", typ, val, enc, err)
	}
	if !reflect.DeepEqual(got, again) && !cmp.Equal(got, again) {
		t.Fatalf("%s: %x encodes to %x: %s", typ, val, enc, cmp.Diff(got, again))
	}
}

func TestSnapshotVectors(t *testing.T) {
	dec, enc := DecodeSnapshot, (*Snapshot).Encode
	checkVector(t, KeySnapshot, "02000000 000000000000000000000000 01000000 01000000 "+zeros(28), dec, enc,
		Snapshot{Flags: SnapshotSubvol, Subvol: 1, Tree: 1, Size: 56})
	checkVector(t, KeySnapshot, "00000000 00000000 fdfffffffcffffff 00000000 02000000 00000000 000000000000000000000000 "+
		"0102030405060708 0000000000000000", dec, enc,
		Snapshot{Children: [2]uint32{1<<32 - 3, 1<<32 - 4}, Tree: 2, BTime: U128{Lo: 0x0807060504030201}, Size: 56})
	checkVector(t, KeySnapshot, "02000000 feffffff 0000000000000000 03000000 02000000 01000000 fefffffffefffffffeffffff "+zeros(16), dec, enc,
		Snapshot{Flags: SnapshotSubvol, Parent: 1<<32 - 2, Subvol: 3, Tree: 2, Depth: 1,
			Skip: [3]uint32{1<<32 - 2, 1<<32 - 2, 1<<32 - 2}, Size: 56})
	checkVector(t, KeySnapshot, "02000000 00000000 0000000000000000 01000000 01000000", dec, enc,
		Snapshot{Flags: SnapshotSubvol, Subvol: 1, Tree: 1, Size: 24})
	checkVector(t, KeySnapshot, "02000000 00000000 0000000000000000 01000000 01000000 "+zeros(32)+"a2477c75 00000000 0102030405060708", dec, enc,
		Snapshot{Flags: SnapshotSubvol, Subvol: 1, Tree: 1, State: SnapshotStateLive, Size: 64, Tail: []byte{1, 2, 3, 4, 5, 6, 7, 8}})
	checkVector(t, KeySnapshotTree, "01000000 ffffffff", DecodeSnapshotTree, func(t *SnapshotTree) []byte { return t.Encode() },
		SnapshotTree{MasterSubvol: 1, RootSnapshot: 1<<32 - 1})
	if n := len((&Snapshot{}).Encode()); n != 56 {
		t.Errorf("a new snapshot has %d bytes, want 56", n)
	}
}

// zeros returns n zero bytes in hex.
func zeros(n int) string { return string(bytes.Repeat([]byte("00"), n)) }

func TestEffectiveStates(t *testing.T) {
	for _, c := range []struct {
		s    Snapshot
		want SnapshotState
	}{
		{Snapshot{Flags: SnapshotSubvol}, SnapshotStateLive},
		{Snapshot{Flags: SnapshotWillDelete}, SnapshotStateWillDelete},
		{Snapshot{Flags: SnapshotNoKeys}, SnapshotStateNoKeys},
		{Snapshot{Flags: SnapshotDeleted | SnapshotWillDelete}, SnapshotStateDeleted},
		{Snapshot{Flags: SnapshotDeleted, State: SnapshotStateLive}, SnapshotStateLive},
	} {
		if got := c.s.EffectiveState(); got != c.want {
			t.Errorf("flags %x state %x: %v, want %v", c.s.Flags, uint32(c.s.State), got, c.want)
		}
	}
	if s := (&Subvolume{Flags: SubvolumeUnlinked}).EffectiveState(); s != SubvolumeStateUnlinked {
		t.Errorf("unlinked subvolume is %v", s)
	}
}

func TestSubvolumeVectors(t *testing.T) {
	dec, enc := DecodeSubvolume, (*Subvolume).Encode
	checkVector(t, KeySubvolume, "00000000 ffffffff 0010000000000000"+zeros(24), dec, enc,
		Subvolume{Snapshot: 1<<32 - 1, Inode: 4096, Size: 40})
	checkVector(t, KeySubvolume, "02000000 fdffffff 0710000000000000 02000000 01000000 "+"0500000000000000"+zeros(8), dec, enc,
		Subvolume{Flags: SubvolumeSnap, Snapshot: 1<<32 - 3, Inode: 4103, CreationParent: 2, FSPathParent: 1, OTime: U128{Lo: 5}, Size: 40})
	checkVector(t, KeySubvolume, "00000000 ffffffff 0010000000000000", dec, enc, Subvolume{Snapshot: 1<<32 - 1, Inode: 4096, Size: 16})
	checkVector(t, KeySubvolume, "00000000 ffffffff 0010000000000000"+zeros(24)+"7e44d54a00000000"+"ff00000000000000", dec, enc,
		Subvolume{Snapshot: 1<<32 - 1, Inode: 4096, State: SubvolumeStateLive, Size: 48, Tail: []byte{255, 0, 0, 0, 0, 0, 0, 0}})
}

func TestReflinkVectors(t *testing.T) {
	checkVector(t, KeyReflinkP, "0800000000000002 04000000 02000000", DecodeReflinkP, (*ReflinkP).Encode,
		ReflinkP{Idx: 8, MayUpdate: true, FrontPad: 4, BackPad: 2})
	checkVector(t, KeyReflinkP, "0800000000000001 00000000 00000000", DecodeReflinkP, (*ReflinkP).Encode, ReflinkP{Idx: 8, Error: true})
	checkVector(t, KeyReflinkV, "0300000000000000"+extentPlain, DecodeIndirect, (*Indirect).Encode,
		Indirect{Refcount: 3, Data: hexVal(t, extentPlain)})
	k := Key{Type: KeyInlineData, Val: hexVal(t, "68656c6c6f0a0000")}
	if b, ok := InlineData(&k); !ok || string(b) != "hello\n\x00\x00" {
		t.Errorf("inline data %q, %v", b, ok)
	}
	k = Key{Type: KeyIndirectInlineData, Val: hexVal(t, "010000000000000068656c6c6f0a0000")}
	if b, ok := InlineData(&k); !ok || string(b) != "hello\n\x00\x00" {
		t.Errorf("indirect inline data %q, %v", b, ok)
	}
}

// stripeVal is a stripe of two data blocks and one parity block of 16 sectors, with a crc32c for each 8 sectors.
const stripeVal = "1000 00 03 01 03 05 00 0108000000000007 0108000000000107 0108000000000207" +
	"01000000 02000000 03000000 04000000 05000000 06000000 1000 0800 0000 0000"

func TestStripe(t *testing.T) {
	k := Key{Type: KeyStripe, Val: hexVal(t, stripeVal)}
	s, err := DecodeStripe(k)
	if err != nil {
		t.Fatal(err)
	}
	if s.NrData() != 2 || s.CsumsPerBlock() != 2 || len(s.Ptrs) != 3 || s.Ptrs[2] != (ExtentPtr{Offset: 128, Dev: 2, Gen: 7}) {
		t.Errorf("%+v", s)
	}
	for block := range 3 {
		for i := range 2 {
			if sum, ok := s.Csum(block, i); !ok || sum != (checksum.Sum{Lo: uint64(2*block + i + 1)}) {
				t.Errorf("checksum %d of block %d is %v, %v", i, block, sum, ok)
			}
		}
	}
	if _, ok := s.Csum(3, 0); ok {
		t.Error("there is a checksum of block 3")
	}
	if n, ok := s.BlockCount(1); n != 8 || !ok {
		t.Errorf("block 1 has %d live sectors, %v; want 8", n, ok)
	}
	if enc := s.Encode(); !bytes.Equal(enc, k.Val) {
		t.Errorf("encodes to %x, want %x", enc, k.Val)
	}
	for _, c := range []struct {
		p    ExtentPtr
		e    StripePtr
		want bool
	}{
		{ExtentPtr{Offset: 128, Gen: 7}, StripePtr{}, true},
		{ExtentPtr{Offset: 143, Dev: 1, Gen: 7}, StripePtr{Block: 1}, true},
		{ExtentPtr{Offset: 143, Dev: DevInvalid, Gen: 7}, StripePtr{Block: 1}, true},
		{ExtentPtr{Offset: 144, Gen: 7}, StripePtr{}, false},
		{ExtentPtr{Offset: 127, Gen: 7}, StripePtr{}, false},
		{ExtentPtr{Offset: 128, Gen: 6}, StripePtr{}, false},
		{ExtentPtr{Offset: 128, Dev: 1, Gen: 7}, StripePtr{}, false},
		{ExtentPtr{Offset: 128, Dev: 2, Gen: 7}, StripePtr{Block: 2}, false},
	} {
		if got := s.Matches(c.p, c.e); got != c.want {
			t.Errorf("%+v in block %d: %v, want %v", c.p, c.e.Block, got, c.want)
		}
	}
	for name, c := range map[string]struct {
		at int
		b  byte
		id string
	}{
		"granularity": {5, 31, "stripe_csum_granularity_bad"},
		"blocks":      {3, 4, "stripe_val_size_bad"},
		"parity":      {4, 3, "stripe_val_size_bad"},
	} {
		v := bytes.Clone(k.Val)
		v[c.at] = c.b
		_, err := DecodeStripe(Key{Type: KeyStripe, Val: v})
		checkID(t, name, err, c.id)
	}
}

func TestStripeUnknownChecksum(t *testing.T) {
	v := hexVal(t, stripeVal)
	v[6] = 9
	s, err := DecodeStripe(Key{Type: KeyStripe, Val: v})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := s.Csum(0, 0); ok || len(s.Ptrs) != 3 {
		t.Errorf("%+v", s)
	}
	if enc := s.Encode(); !bytes.Equal(enc, v) {
		t.Errorf("encodes to %x, want %x", enc, v)
	}
}

func TestFixedValuesRoundTrip(t *testing.T) {
	words := rapid.SliceOfN(rapid.Byte(), 96, 96)
	rapid.Check(t, func(t *rapid.T) {
		b := words.Draw(t, "bytes")
		n := rapid.IntRange(2, 12).Draw(t, "words") * 8
		check := func(typ KeyType, enc func(Key) ([]byte, error)) {
			if n < typ.MinValSize() {
				return
			}
			got, err := enc(Key{Type: typ, Val: b[:n]})
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, b[:n]) {
				t.Fatalf("%s %x encodes to %x", typ, b[:n], got)
			}
		}
		check(KeySnapshot, func(k Key) ([]byte, error) { s, err := DecodeSnapshot(k); return s.Encode(), err })
		check(KeySubvolume, func(k Key) ([]byte, error) { s, err := DecodeSubvolume(k); return s.Encode(), err })
		check(KeyReflinkV, func(k Key) ([]byte, error) { s, err := DecodeIndirect(k); return s.Encode(), err })
	})
}

func FuzzDecodeStripe(f *testing.F) {
	f.Add(hexVal(f, stripeVal))
	f.Fuzz(func(t *testing.T, val []byte) {
		s, err := DecodeStripe(Key{Type: KeyStripe, Val: val})
		if err != nil {
			return
		}
		for i := range int(s.NrBlocks) {
			s.Csum(i, 0)
			s.BlockCount(i)
			s.Matches(ExtentPtr{}, StripePtr{Block: uint8(i)})
		}
		again, err := DecodeStripe(Key{Type: KeyStripe, Val: s.Encode()})
		if err != nil || !reflect.DeepEqual(s.Ptrs, again.Ptrs) || !bytes.Equal(s.Csums, again.Csums) {
			t.Fatalf("%x encodes to %x: %v", val, s.Encode(), err)
		}
	})
}

func FuzzDecodeSnapshotSubvolume(f *testing.F) {
	f.Add(make([]byte, 24))
	f.Add(make([]byte, 72))
	f.Fuzz(func(t *testing.T, val []byte) {
		checkFuzzRoundTrip(t, KeySnapshot, val, DecodeSnapshot, (*Snapshot).Encode)
		checkFuzzRoundTrip(t, KeySubvolume, val, DecodeSubvolume, (*Subvolume).Encode)
		checkFuzzRoundTrip(t, KeySnapshotTree, val, DecodeSnapshotTree, func(s *SnapshotTree) []byte { return s.Encode() })
		checkFuzzRoundTrip(t, KeyReflinkP, val, DecodeReflinkP, (*ReflinkP).Encode)
		checkFuzzRoundTrip(t, KeyReflinkV, val, DecodeIndirect, (*Indirect).Encode)
	})
}
