package ondisk

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"

	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
)

func TestCutExtent(t *testing.T) {
	// An extent of sectors 128 to 255 with checksum, cut as the driver cuts it when 200 to 223 are overwritten.
	k := Key{Type: KeyExtent, Pos: Pos{4096, 256, 9}, Size: 128, Val: hexVal(t, extentPlain)}
	front := CutBack(&k, 72)
	if front.Pos.Offset != 200 || front.Size != 72 || !bytes.Equal(front.Val, k.Val) {
		t.Errorf("front part %+v", front)
	}
	back := CutFront(&k, 96, nil)
	ptrs, _, err := AppendExtentPtrs(nil, &back, nil)
	if err != nil || back.Pos != k.Pos || back.Size != 32 || ptrs[0].CRC.Offset != 96 || ptrs[0].Offset != 0x2c00 {
		t.Errorf("back part %+v, %+v, %v", back, ptrs, err)
	}
	if !bytes.Equal(k.Val, hexVal(t, extentPlain)) {
		t.Error("the extent itself was changed")
	}

	plain := extentOf(ExtentEntry{Type: EntryPtr, Ptr: ExtentPtr{Offset: 100}},
		ExtentEntry{Type: EntryCRC128, CRC: CRC{CompressedSize: 8, UncompressedSize: 8, Csum: checksum.XXHash}},
		ExtentEntry{Type: EntryPtr, Ptr: ExtentPtr{Offset: 200, Dev: 1}})
	cut := CutFront(&plain, 3, nil)
	if ptrs, _, err = AppendExtentPtrs(nil, &cut, nil); err != nil || ptrs[0].Offset != 103 || ptrs[1].Offset != 200 || ptrs[1].CRC.Offset != 3 {
		t.Errorf("%+v, %v", ptrs, err)
	}

	if all := CutFront(&k, 128, nil); all.Type != KeyDeleted || all.Size != 0 || all.Val != nil {
		t.Errorf("nothing left is %+v", all)
	}
	if none := CutBack(&k, 0); none.Type != KeyDeleted || none.Pos.Offset != 128 || none.Val != nil {
		t.Errorf("nothing left is %+v", none)
	}
	if same := CutBack(&k, 128); !same.Equal(&k) {
		t.Errorf("all of it is %+v", same)
	}

	p := Key{Type: KeyReflinkP, Pos: Pos{1, 8, 1}, Size: 8, Val: (&ReflinkP{Idx: 5, MayUpdate: true, FrontPad: 1}).Encode()}
	p = CutFront(&p, 2, nil)
	if r, err := DecodeReflinkP(p); err != nil || r != (ReflinkP{Idx: 7, MayUpdate: true, FrontPad: 1}) {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestCutInline(t *testing.T) {
	data := make([]byte, 1000)
	for i := range data {
		data[i] = byte(i)
	}
	for _, typ := range []KeyType{KeyInlineData, KeyIndirectInlineData} {
		k := Key{Type: typ, Pos: Pos{1, 8, 1}, Size: 8, Val: data}
		if typ == KeyIndirectInlineData {
			k.Val = (&Indirect{Refcount: 1, Data: data}).Encode()
		}
		front, back, last := CutBack(&k, 1), CutFront(&k, 1, nil), CutFront(&k, 7, nil)
		for name, c := range map[string]struct {
			k    Key
			want []byte
		}{"front": {front, data[:512]}, "back": {back, data[512:]}, "last": {last, nil}} {
			if b, ok := InlineData(&c.k); !ok || !bytes.Equal(b, c.want) {
				t.Errorf("%v %s: %d bytes, %v; want %d", typ, name, len(b), ok, len(c.want))
			}
		}
	}
}

func TestCutFrontTwice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k := extentOf(ExtentEntry{Type: EntryPtr, Ptr: ExtentPtr{Offset: 100}},
			ExtentEntry{Type: EntryCRC64, CRC: CRC{CompressedSize: 400, UncompressedSize: 400}},
			ExtentEntry{Type: EntryPtr, Ptr: ExtentPtr{Dev: 1}})
		k.Size = 400
		a := rapid.Uint32Range(0, 199).Draw(t, "first")
		b := rapid.Uint32Range(0, 199).Draw(t, "second")
		once := CutFront(&k, a+b, nil)
		twice := CutFront(&k, a, nil)
		if twice = CutFront(&twice, b, nil); !once.Equal(&twice) {
			t.Fatalf("%+v and %+v", once, twice)
		}
	})
}
