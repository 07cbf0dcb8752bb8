package ondisk

import (
	"bytes"
	"encoding/hex"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const vectorFormat = "0206081820100010 0010000000000000 0100000000000000 0000000000000000 0000000000000000 0000000000000000 0100000000000000"

var vectorKeys = []struct{ plain, packed string }{
	{"05010600 01000000 00000000 00000000 08000000 ffffffff 08000000 00000000 00100000 00000000", "02000600 00000800 ffffffff 07000000"},
	{"05010600 4d000000 00000000 00000000 00020000 feffffff 08020000 00000000 01100000 00000000", "02000600 4c000002 feffffff 07020001"},
	{"05010600 2c010000 00000000 00000000 80000000 ffffffff 00000200 00000000 03100000 00000000", "02000600 2b018000 ffffffff ffff0103"},
}

// TestFormatVectors compares with keys packed by the reference.
func TestFormatVectors(t *testing.T) {
	f, err := DecodeFormat(unhex(t, vectorFormat))
	if err != nil {
		t.Fatal(err)
	}
	want := Format{KeyU64s: 2, Bits: [6]uint8{8, 24, 32, 16, 0, 16}, Offset: [6]uint64{4096, 1, 0, 0, 0, 1}}
	if f != want {
		t.Fatalf("format %+v, want %+v", f, want)
	}
	var enc [FormatSize]byte
	f.Put(enc[:])
	if !bytes.Equal(enc[:], unhex(t, vectorFormat)) {
		t.Errorf("encoded format %x", enc)
	}
	var keys []Key
	for _, v := range vectorKeys {
		k, _, err := DecodeKey(unhex(t, v.plain))
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, k)
		packed := unhex(t, v.packed)
		got, n, err := f.UnpackKey(packed)
		if err != nil || n != len(packed) {
			t.Fatalf("unpack %s: %d bytes, %v", v.packed, n, err)
		}
		if d := cmp.Diff(k, got); d != "" {
			t.Errorf("unpack %s: %s", v.packed, d)
		}
		if b, ok := f.PackKey(nil, &k); !ok || !bytes.Equal(b, packed) {
			t.Errorf("pack %v: %x, %v, want %s", k.Pos, b, ok, v.packed)
		}
	}
	if f := ChooseFormat(Pos{4096, 1, 0}, Pos{4099, 200000, math.MaxUint32}, keys); f != want {
		t.Errorf("chose %+v, want %+v", f, want)
	}
	for _, k := range []Key{
		{Pos: Pos{4096, 8, 0}, Size: 8},
		{Pos: Pos{5000, 8, 0}, Size: 8, Version: Version{Lo: 1}},
	} {
		if b, ok := f.PackKey(nil, &k); ok || len(b) != 0 {
			t.Errorf("packed %+v", k)
		}
	}
}

func TestChooseFormat(t *testing.T) {
	for _, c := range []struct {
		name        string
		first, last Pos
		keys        []Key
		want        Format
		packed      []string // of the keys
	}{
		{
			name: "no keys", first: Pos{0, 4096, math.MaxUint32}, last: Pos{0, 5000, math.MaxUint32},
			want: Format{KeyU64s: 1, Bits: [6]uint8{0, 16}, Offset: [6]uint64{0, 4096, math.MaxUint32}},
		},
		{
			name: "versions", first: Pos{3, 0, 0}, last: Pos{3, 1<<44 - 1, 0},
			keys: []Key{
				{Type: KeyAccounting, Pos: Pos{3, 5, 0}, Version: Version{1, 4294968400}},
				{Type: KeyAccounting, Pos: Pos{3, 70000, 0}, Version: Version{1, 4294969000}},
			},
			want:   Format{KeyU64s: 2, Bits: [6]uint8{0, 48, 0, 0, 0, 16}, Offset: [6]uint64{3, 0, 0, 0, 1, 4294968400}},
			packed: []string{"", "0200220000000000 5802701101000000"},
		},
		{
			name: "everything", first: PosMin, last: SPosMax,
			want: Format{KeyU64s: 3, Bits: [6]uint8{64, 64, 32}},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := ChooseFormat(c.first, c.last, c.keys)
			if f != c.want {
				t.Fatalf("chose %+v, want %+v", f, c.want)
			}
			if err := f.Validate(); err != nil {
				t.Error(err)
			}
			for i, want := range c.packed {
				b, ok := f.PackKey(nil, &c.keys[i])
				if !ok || want != "" && !bytes.Equal(b, unhex(t, want)) {
					t.Errorf("key %d: %x, %v, want %s", i, b, ok, want)
				}
			}
		})
	}
}

func TestPackPos(t *testing.T) {
	f := Format{KeyU64s: 4, Bits: [6]uint8{64, 64, 32, 16}}
	want := unhex(t, "04000000 00000000 00000000 00000000 50000000 00000000 00000000 00000000")
	if b, ok := f.PackPos(nil, Pos{0, 80, 0}); !ok || !bytes.Equal(b, want) {
		t.Errorf("%x, %v, want %x", b, ok, want)
	}
	f = Format{KeyU64s: 1, Bits: [6]uint8{0, 16}, Offset: [6]uint64{0, 4096, math.MaxUint32}}
	k := Key{Type: KeyInodeV3, Pos: Pos{0, 4097, math.MaxUint32}}
	if b, ok := f.PackKey(nil, &k); !ok || !bytes.Equal(b, unhex(t, "01001d0000000100")) {
		t.Errorf("%x, %v", b, ok)
	}
	if _, ok := f.PackPos(nil, Pos{1, 4097, math.MaxUint32}); ok {
		t.Error("packed an inode that has no bits")
	}
}

func TestFormatValidate(t *testing.T) {
	for _, c := range []struct {
		name string
		f    Format
	}{
		{"too wide", Format{KeyU64s: 2, Bits: [6]uint8{65}}},
		{"snapshot too wide", Format{KeyU64s: 1, Bits: [6]uint8{0, 0, 33}}},
		{"offset at full width", Format{KeyU64s: 2, Bits: [6]uint8{64}, Offset: [6]uint64{1}}},
		{"overflow", Format{KeyU64s: 1, Bits: [6]uint8{8}, Offset: [6]uint64{math.MaxUint64 - 254}}},
		{"overflow of 32 bits", Format{KeyU64s: 1, Bits: [6]uint8{0, 0, 8}, Offset: [6]uint64{0, 0, math.MaxUint32 - 254}}},
		{"offset of a field too great", Format{KeyU64s: 1, Offset: [6]uint64{0, 0, 1 << 32}}},
		{"key_u64s", Format{KeyU64s: 2}},
		{"nothing", Format{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := c.f.Validate(); err == nil {
				t.Errorf("%+v is accepted", c.f)
			}
		})
	}
}

func genPos(t *rapid.T, name string) Pos {
	u := rapid.OneOf(rapid.Uint64Range(0, 20), rapid.Uint64(), rapid.Uint64Min(math.MaxUint64-20))
	s := rapid.OneOf(rapid.Uint32Range(0, 3), rapid.Uint32(), rapid.Uint32Min(math.MaxUint32-3))
	return Pos{u.Draw(t, name+".inode"), u.Draw(t, name+".offset"), s.Draw(t, name+".snapshot")}
}

// TestFormatProperties: what packs unpacks to the same, chosen formats hold all their keys, and searching in packed form
// finds what comparing positions finds.
func TestFormatProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var keys []Key
		first, last := SPosMax, PosMin
		for range rapid.IntRange(1, 5).Draw(t, "n") {
			k := Key{
				Type: KeyExtent, Pos: genPos(t, "pos"),
				Size:    rapid.Uint32().Draw(t, "size"),
				Version: Version{rapid.Uint32Range(0, 4).Draw(t, "hi"), rapid.Uint64().Draw(t, "lo")},
				Val:     bytes.Repeat([]byte{0xa5}, 8*rapid.IntRange(0, 3).Draw(t, "val")),
			}
			keys = append(keys, k)
			if k.Pos.Less(first) {
				first = k.Pos
			}
			if last.Less(k.Pos) {
				last = k.Pos
			}
		}
		f := ChooseFormat(first, last, keys)
		if err := f.Validate(); err != nil {
			t.Fatalf("%+v: %v", f, err)
		}
		var plan unpacker
		plan.init(&f)
		p := genPos(t, "search")
		var s searchKey
		f.search(&s, p)
		for _, k := range keys {
			b, ok := f.PackKey(nil, &k)
			if !ok {
				t.Fatalf("%+v does not hold %+v", f, k)
			}
			got, n, err := f.UnpackKey(b)
			if err != nil || n != len(b) || !cmp.Equal(k, got) {
				t.Fatalf("unpack: %+v (%d bytes of %d), %v, want %+v", got, n, len(b), err, k)
			}
			if got := plan.pos(b); got != k.Pos {
				t.Fatalf("pos %v, want %v", got, k.Pos)
			}
			if less := plan.before(b, &s); less != k.Pos.Less(p) {
				t.Fatalf("%v before %v: %v, format %+v, search %+v", k.Pos, p, less, f, s)
			}
			for _, o := range keys {
				ob, _ := f.PackKey(nil, &o)
				if c := plan.comparePacked(b, ob); c != k.Pos.Compare(o.Pos) {
					t.Fatalf("compare %v %v: %d", k.Pos, o.Pos, c)
				}
			}
		}
	})
}

func FuzzFormat(f *testing.F) {
	f.Add(unhex(f, vectorFormat), unhex(f, vectorKeys[0].packed))
	f.Add(unhex(f, "0306404020000000"+strings.Repeat("00", 48)), unhex(f, "0400 1f 0000000000 0100000000000000 0000000000000000 01000000ffffffff"))
	f.Fuzz(func(t *testing.T, format, key []byte) {
		if len(format) < FormatSize {
			return
		}
		fm, err := DecodeFormat(format)
		if err != nil {
			return
		}
		k, n, err := fm.UnpackKey(key)
		if err != nil {
			return
		}
		b, ok := fm.PackKey(nil, &k)
		if !ok {
			t.Fatalf("%+v: unpacked %+v does not pack", fm, k)
		}
		k2, n2, err := fm.UnpackKey(b)
		if err != nil || n2 != n || !cmp.Equal(k, k2) {
			t.Fatalf("%+v: %+v became %+v, %v", fm, k, k2, err)
		}
	})
}
