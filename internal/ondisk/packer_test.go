package ondisk

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

// drawFormat draws any valid format.
func drawFormat(t *rapid.T) Format {
	var f Format
	sum := keyHeaderBits
	for i, w := range fieldWidths {
		f.Bits[i] = uint8(rapid.IntRange(0, int(w)).Draw(t, "bits"))
		if f.Bits[i] < w {
			f.Offset[i] = rapid.Uint64Range(0, lowMask(w)-lowMask(f.Bits[i])).Draw(t, "offset")
		}
		sum += int(f.Bits[i])
	}
	f.KeyU64s = uint8((sum + 63) / 64)
	if err := f.Validate(); err != nil {
		t.Skip(err)
	}
	return f
}

// TestPacker checks that a Packer packs as its Format does, keys at the limits of fields in particular.
func TestPacker(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := drawFormat(t)
		p := NewPacker(&f)
		field := func(i int) uint64 {
			v := f.Offset[i]
			switch rapid.IntRange(0, 5).Draw(t, "kind") {
			case 0:
			case 1:
				v += lowMask(f.Bits[i])
			case 2:
				v--
			case 3:
				v += lowMask(f.Bits[i]) + 1
			case 4:
				v += rapid.Uint64().Draw(t, "in") & lowMask(f.Bits[i])
			default:
				v = rapid.Uint64().Draw(t, "any")
			}
			return v & lowMask(fieldWidths[i])
		}
		k := Key{
			Type: KeyType(rapid.Byte().Draw(t, "type")), Size: uint32(field(fieldSize)),
			Pos:     Pos{field(fieldInode), field(fieldOffset), uint32(field(fieldSnapshot))},
			Version: Version{Hi: uint32(field(fieldVersionHi)), Lo: field(fieldVersionLo)},
			Val:     bytes.Repeat([]byte{7}, 8*rapid.IntRange(0, 3).Draw(t, "words")),
		}
		want, ok := f.PackKey([]byte{1}, &k)
		if got := p.Packs(&k); got != ok {
			t.Fatalf("%+v packs %+v: %v, want %v", f, k, got, ok)
		}
		if ok {
			if got := p.AppendKey([]byte{1}, &k); !bytes.Equal(got, want) {
				t.Fatalf("%+v packs %+v to %x, want %x", f, k, got, want)
			}
		}
		if _, ok := f.PackPos(nil, k.Pos); p.PacksPos(k.Pos) != ok {
			t.Fatalf("%+v packs %v: %v, want %v", f, k.Pos, !ok, ok)
		}
	})
}

func BenchmarkPacker(b *testing.B) {
	f := Format{KeyU64s: 3, Bits: [6]uint8{48, 56, 32, 16, 0, 0}}
	k := Key{Type: KeyExtent, Pos: Pos{1 << 30, 1 << 40, 1 << 31}, Size: 128, Val: make([]byte, 16)}
	p := NewPacker(&f)
	buf := make([]byte, 0, 64)
	b.ReportAllocs()
	for b.Loop() {
		buf = p.AppendKey(buf[:0], &k)
	}
}
