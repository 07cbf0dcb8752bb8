package ondisk

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestDecodeDirent(t *testing.T) {
	for name, c := range map[string]struct {
		val  string
		want Dirent
	}{
		"file":      {"0410000000000000 08 61 000000000000", Dirent{Type: DTReg, Inum: 4100, Name: []byte("a")}},
		"subvolume": {"0300000001000000 10 736e6170", Dirent{Type: DTSubvol, ChildSubvol: 3, ParentSubvol: 1, Name: []byte("snap")}},
		"seven":     {"0410000000000000 08 61616161616161", Dirent{Type: DTReg, Inum: 4100, Name: []byte("aaaaaaa")}},
		"casefolded": {"0410000000000000 88 00 00 0100 0100 41 61",
			Dirent{Type: DTReg, Casefold: true, Inum: 4100, Name: []byte("A"), CfName: []byte("a")}},
		"empty": {"0410000000000000 08 00", Dirent{Type: DTReg, Inum: 4100, Name: []byte{}}},
	} {
		k := Key{Type: KeyDirent, Pos: Pos{4096, 7, 1}, Val: hexVal(t, c.val)}
		got, err := DecodeDirent(k)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s: %s", name, d)
		}
		if enc := got.Encode(); !bytes.Equal(enc, k.Val) {
			t.Errorf("%s: encodes to %x, want %x", name, enc, k.Val)
		}
	}
}

func TestDirentValidate(t *testing.T) {
	for _, c := range []struct {
		d  Dirent
		id string
	}{
		{Dirent{Inum: 4097, Name: []byte("ok")}, ""},
		{Dirent{Type: DTSubvol, Inum: 4096, Name: []byte("ok")}, ""},
		{Dirent{Inum: 4097}, "dirent_empty_name"},
		{Dirent{Inum: 4097, Name: []byte(".")}, "dirent_name_dot_or_dotdot"},
		{Dirent{Inum: 4097, Name: []byte("..")}, "dirent_name_dot_or_dotdot"},
		{Dirent{Inum: 4097, Name: []byte("...")}, ""},
		{Dirent{Inum: 4097, Name: []byte("a/b")}, "dirent_name_has_slash"},
		{Dirent{Inum: 4097, Name: []byte("a\x00b")}, "dirent_name_embedded_nul"},
		{Dirent{Inum: 4096, Name: []byte("a")}, "dirent_to_itself"},
		{Dirent{Inum: 4097, Casefold: true, Name: []byte("a"), CfName: []byte("a\x00")}, "dirent_stray_data_after_cf_name"},
	} {
		k := Key{Type: KeyDirent, Pos: Pos{4096, 7, 1}, Val: c.d.Encode()}
		d, err := DecodeDirent(k)
		if err == nil {
			err = d.Validate(&k)
		}
		checkID(t, string(c.d.Name), err, c.id)
	}
	k := Key{Type: KeyDirent, Pos: Pos{4096, 7, 1}, Val: make([]byte, 32)}
	k.Val[9] = 'a'
	d, err := DecodeDirent(k)
	if err != nil {
		t.Fatal(err)
	}
	checkID(t, "long value", d.Validate(&k), "dirent_val_too_big")
}

// checkID fails unless err is an [InvalidKeyError] with the id, or nil if id is empty.
func checkID(t testing.TB, what string, err error, id string) {
	t.Helper()
	var ke *InvalidKeyError
	switch {
	case id == "" && err == nil:
	case id == "" || !errors.As(err, &ke) || ke.ID != id:
		t.Errorf("%s: error %v, want %q", what, err, id)
	}
}

func TestDirentRoundTrip(t *testing.T) {
	name := rapid.SliceOfN(rapid.ByteRange(1, 255), 1, MaxName)
	rapid.Check(t, func(t *rapid.T) {
		d := Dirent{Type: rapid.Uint8Max(31).Draw(t, "type"), Name: name.Draw(t, "name"), Casefold: rapid.Bool().Draw(t, "casefold")}
		if d.Casefold {
			d.CfName = name.Draw(t, "folded")
		}
		if d.Type == DTSubvol {
			d.ChildSubvol, d.ParentSubvol = rapid.Uint32().Draw(t, "child"), rapid.Uint32().Draw(t, "parent")
		} else {
			d.Inum = rapid.Uint64().Draw(t, "inum")
		}
		got, err := DecodeDirent(Key{Type: KeyDirent, Val: d.Encode()})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(d, got); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestDecodeDirentDoesNotAllocate(t *testing.T) {
	k := Key{Type: KeyDirent, Val: hexVal(t, "0410000000000000 08 61")}
	if n := testing.AllocsPerRun(100, func() { _, _ = DecodeDirent(k) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkDecodeDirent(b *testing.B) {
	k := Key{Type: KeyDirent, Val: hexVal(b, "0410000000000000 08 61")}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodeDirent(k); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzDecodeDirent(f *testing.F) {
	f.Add(hexVal(f, "0410000000000000 08 61"))
	f.Add(hexVal(f, "0410000000000000 88 00 00 0100 0100 41 61"))
	f.Fuzz(func(t *testing.T, val []byte) {
		k := Key{Type: KeyDirent, Val: val}
		d, err := DecodeDirent(k)
		if err != nil || d.Validate(&k) != nil {
			return
		}
		again, err := DecodeDirent(Key{Type: KeyDirent, Val: d.Encode()})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(d, again); diff != "" {
			t.Fatal(diff)
		}
	})
}
