package ondisk

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// hexVal decodes hex with spaces and pads it to whole words.
func hexVal(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return padVal(b, 0)
}

// rootInodeVal is the root directory's inode of a filesystem that the 1.13 driver wrote.
const rootInodeVal = `0200000000000000 f3d7327c5693e1db 00003016d31e0400 0000000000000000 0000000000000000
	0000000000000000 ff717dd2ffffffffff00 07176a0c00 07176a0c00 ff717dd2ffffffffff00 00 00 04 00 00
	00 00 00 00 00 00 00 00 00 00 00 00 02`

func TestVarint(t *testing.T) {
	for v, want := range map[uint64]string{
		0:         "00",
		1:         "02",
		127:       "fe",
		128:       "0102",
		4096:      "0140",
		1<<56 - 1: "7fffffffffffffff",
		1 << 56:   "ff0000000000000001",
	} {
		if got := hex.EncodeToString(appendVarint(nil, v)); got != want {
			t.Errorf("appendVarint(%d) = %s, want %s", v, got, want)
		}
	}
}

func TestVarintRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.Uint64().Draw(t, "v") >> rapid.IntRange(0, 63).Draw(t, "shift")
		tail := rapid.SliceOfN(rapid.Byte(), 0, 9).Draw(t, "tail")
		for name, f := range map[string]struct {
			enc func([]byte, uint64) []byte
			dec func([]byte) (uint64, int)
		}{"new": {appendVarint, varint}, "old": {appendOldVarint, oldVarint}} {
			b := f.enc(nil, v)
			if got, n := f.dec(append(b[:len(b):len(b)], tail...)); got != v || n != len(b) {
				t.Fatalf("%s: %x decodes to %d of %d bytes, want %d of %d", name, b, got, n, v, len(b))
			}
			if _, n := f.dec(b[:len(b)-1]); n != 0 {
				t.Fatalf("%s: %x cut short decodes", name, b)
			}
		}
	})
}

func TestDecodeInodeRoot(t *testing.T) {
	k := Key{Type: KeyInodeV3, Pos: Pos{0, 4096, 1<<32 - 1}, Val: hexVal(t, rootInodeVal)}
	got, err := DecodeInode(k)
	if err != nil {
		t.Fatal(err)
	}
	want := Inode{
		Inum: 4096, Snapshot: 1<<32 - 1, Encoding: KeyInodeV3, HashType: 3, Mode: 0o40755,
		HashSeed:   [8]byte{0xf3, 0xd7, 0x32, 0x7c, 0x56, 0x93, 0xe1, 0xdb},
		JournalSeq: 2, Atime: -2982543, Otime: -2982543, Ctime: 13017456, Mtime: 13017456, NlinkRaw: 2, Subvol: 1,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Fatal(d)
	}
	if got.Nlink() != 4 || !got.IsDir() {
		t.Errorf("nlink %d, dir %v; want 4, true", got.Nlink(), got.IsDir())
	}
	if enc := EncodeInodeV3(&got); !bytes.Equal(enc, k.Val) {
		t.Errorf("encodes to %x\nwant %x", enc, k.Val)
	}
}

func TestNlink(t *testing.T) {
	for _, c := range []struct {
		in   Inode
		want uint32
	}{
		{Inode{Mode: 0o100644}, 1},
		{Inode{Mode: 0o100644, NlinkRaw: 4}, 5},
		{Inode{Mode: 0o40755}, 2},
		{Inode{Mode: 0o40755, Flags: InodeUnlinked}, 0},
		{Inode{Mode: 0o100644, NlinkRaw: 1<<32 - 1}, 1<<32 - 1},
	} {
		if got := c.in.Nlink(); got != c.want {
			t.Errorf("mode %o flags %x stored %d: %d links, want %d", c.in.Mode, c.in.Flags, c.in.NlinkRaw, got, c.want)
		}
	}
}

// genInode draws an inode with every field set that encoding t can hold.
func genInode(t *rapid.T, typ KeyType) Inode {
	in := Inode{
		Inum: rapid.Uint64().Draw(t, "inum"), Snapshot: rapid.Uint32().Draw(t, "snapshot"), Encoding: typ,
		HashType: rapid.Uint8Max(3).Draw(t, "hash"),
		Mode:     rapid.Uint16().Draw(t, "mode"),
		Flags:    InodeFlags(rapid.Uint32Max(inodeFlagMask).Draw(t, "flags")),
	}
	copy(in.HashSeed[:], rapid.SliceOfN(rapid.Byte(), 8, 8).Draw(t, "seed"))
	switch typ {
	case KeyInode:
		in.OldVarint = rapid.Bool().Draw(t, "old")
	case KeyInodeV2:
		in.JournalSeq = rapid.Uint64().Draw(t, "seq")
	case KeyInodeV3:
		in.JournalSeq = rapid.Uint64().Draw(t, "seq")
		in.Size, in.Sectors, in.Version = rapid.Uint64().Draw(t, "size"), rapid.Uint64().Draw(t, "sectors"), rapid.Uint64().Draw(t, "version")
	}
	for _, f := range inodeFieldList(typ)[:rapid.IntRange(0, len(inodeFieldList(typ))).Draw(t, "nr")] {
		w := min(int(inodeFieldWidths[f]), 64)
		in.setField(f, rapid.Uint64().Draw(t, inodeFieldNames[f])>>(64-w)>>rapid.IntRange(0, w-1).Draw(t, "shift"))
	}
	return in
}

func TestInodeRoundTrip(t *testing.T) {
	for _, typ := range []KeyType{KeyInode, KeyInodeV2, KeyInodeV3} {
		t.Run(typ.String(), rapid.MakeCheck(func(t *rapid.T) {
			in := genInode(t, typ)
			val := AppendInode(nil, &in, typ)
			if len(val) < typ.MinValSize() {
				val = append(val, 0, 0, 0, 0, 0, 0, 0, 0)
			}
			got, err := DecodeInode(Key{Type: typ, Pos: Pos{0, in.Inum, in.Snapshot}, Val: val})
			if err != nil {
				t.Fatalf("%x: %v", val, err)
			}
			if d := cmp.Diff(in, got); d != "" {
				t.Fatal(d)
			}
		}))
	}
}

func TestDecodeInodeBad(t *testing.T) {
	good := hexVal(t, rootInodeVal)
	edit := func(at int, b byte) []byte {
		v := bytes.Clone(good)
		v[at] = b
		return v
	}
	for name, c := range map[string]struct {
		typ KeyType
		val []byte
		id  string
	}{
		"short":           {KeyInodeV3, good[:40], "bkey_val_size_too_small"},
		"cut":             {KeyInodeV3, good[:64], "inode_unpack_error"},
		"hash type":       {KeyInodeV3, edit(18, 0xf0), "inode_str_hash_invalid"},
		"fields start":    {KeyInodeV3, edit(20, 0xd0), "inode_v3_fields_start_bad"},
		"high time":       {KeyInodeV3, edit(57, 2), "inode_unpack_error"},
		"another type":    {KeyDirent, good, "bkey_invalid_type_for_btree"},
		"empty old field": {KeyInode, append(make([]byte, 11), 1, 0, 0, 0, 0), "inode_unpack_error"},
	} {
		_, err := DecodeInode(Key{Type: c.typ, Val: c.val})
		var ke *InvalidKeyError
		if !errors.As(err, &ke) || ke.ID != c.id {
			t.Errorf("%s: error %v, want %s", name, err, c.id)
		}
	}
}

func TestInodeGeneration(t *testing.T) {
	v := InodeGeneration{7}.Encode()
	got, err := DecodeInodeGeneration(Key{Type: KeyInodeGeneration, Val: v})
	if err != nil || got.Generation != 7 {
		t.Fatalf("%x: %+v, %v", v, got, err)
	}
}

func TestDecodeInodeDoesNotAllocate(t *testing.T) {
	k := Key{Type: KeyInodeV3, Pos: Pos{0, 4096, 1<<32 - 1}, Val: hexVal(t, rootInodeVal)}
	if n := testing.AllocsPerRun(100, func() { _, _ = DecodeInode(k) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkDecodeInode(b *testing.B) {
	k := Key{Type: KeyInodeV3, Pos: Pos{0, 4096, 1<<32 - 1}, Val: hexVal(b, rootInodeVal)}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodeInode(k); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzDecodeInode(f *testing.F) {
	f.Add(uint8(KeyInodeV3), hexVal(f, rootInodeVal))
	f.Add(uint8(KeyInode), make([]byte, 16))
	f.Add(uint8(KeyInodeV2), make([]byte, 32))
	f.Fuzz(func(t *testing.T, typ uint8, val []byte) {
		in, err := DecodeInode(Key{Type: KeyType(typ), Val: val})
		if err != nil {
			return
		}
		enc := AppendInode(nil, &in, in.Encoding)
		again, err := DecodeInode(Key{Type: in.Encoding, Val: append(enc, make([]byte, 8)...)})
		if err != nil {
			t.Fatalf("%x re-encoded as %x: %v", val, enc, err)
		}
		if again != in {
			t.Fatal(cmp.Diff(in, again))
		}
	})
}

// Every option is set in a field of its own, and survives being stored.
func TestInodeSetOption(t *testing.T) {
	var in Inode
	for o := range NumInodeOptions {
		in.SetOption(o, uint32(o)+1)
	}
	got, err := DecodeInode(Key{Type: KeyInodeV3, Pos: Pos{Offset: MinInum}, Val: EncodeInodeV3(&in)})
	if err != nil {
		t.Fatal(err)
	}
	for o := range NumInodeOptions {
		if got.Option(o) != uint32(o)+1 {
			t.Errorf("%v: %d, want %d", o, got.Option(o), o+1)
		}
	}
}
