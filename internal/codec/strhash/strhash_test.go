package strhash_test

import (
	"encoding/binary"
	"hash/crc32"
	"testing"

	"github.com/dchest/siphash"

	"github.com/go-bcachefs/bcachefs/internal/codec/strhash"
)

func vectorSeed() (seed [8]byte) {
	binary.LittleEndian.PutUint64(seed[:], 0x0123456789abcdef)
	return seed
}

func TestDirentVectors(t *testing.T) {
	tests := []struct {
		typ  strhash.Type
		name string
		want uint64
	}{
		{strhash.CRC32C, "a", 0x0da7713d},
		{strhash.CRC32C, "lost+found", 0xa295c59b},
		{strhash.CRC32C, "hello.txt", 0x2cce2059},
		{strhash.CRC64, "a", 0x2393562109972e8e},
		{strhash.CRC64, "lost+found", 0x6166454a27b5b88b},
		{strhash.CRC64, "hello.txt", 0x79c92661adce5120},
		{strhash.Siphash, "a", 0x3fb723ae3b303e09},
		{strhash.Siphash, "lost+found", 0x0f2eef3782c4236f},
		{strhash.Siphash, "hello.txt", 0x3bc82308e2ccc6b6},
		{strhash.Siphash, "this is a somewhat longer file name.dat", 0x6481a196b8b24cf6},
	}
	for _, tt := range tests {
		if got := strhash.Dirent(tt.typ, vectorSeed(), []byte(tt.name), false); got != tt.want {
			t.Errorf("%v %q: %#x, want %#x", tt.typ, tt.name, got, tt.want)
		}
		if got := strhash.Dirent(tt.typ, vectorSeed(), []byte(tt.name), true); got != tt.want&0x7fffffff {
			t.Errorf("%v %q in 31 bits: %#x, want %#x", tt.typ, tt.name, got, tt.want&0x7fffffff)
		}
	}
}

func TestXattrVectors(t *testing.T) {
	tests := []struct {
		xattrType uint8
		name      string
		want      uint64
	}{
		{0, "", 0x19e6f9eeef28f5c7},
		{0, "foo", 0x355d5eae0dd180f4},
		{0, "abcdefg", 0x4362fed195b7e91a},
		{0, "abcdefgh", 0x65160ac5e9306fba},
		{0, "abcdefghijklmno", 0x2e43d098e6024dca},
		{0, "some.longer.attribute.name", 0x7037d414ddd8ae41},
		{4, "capability", 0x396df6e61145765f},
		{4, "selinux", 0x7664261e3cd6b30b},
		{4, "", 0x1128c1e0747b6d81},
	}
	for _, tt := range tests {
		if got := strhash.Xattr(strhash.Siphash, vectorSeed(), tt.xattrType, []byte(tt.name)); got != tt.want {
			t.Errorf("type %d %q: %#x, want %#x", tt.xattrType, tt.name, got, tt.want)
		}
	}
}

// TestXattrWithoutQuirk: the CRC types hash type and name as one string.
func TestXattrWithoutQuirk(t *testing.T) {
	for _, typ := range []strhash.Type{strhash.CRC32C, strhash.CRC64} {
		got := strhash.Xattr(typ, vectorSeed(), 'x', []byte("0123456789"))
		if want := strhash.Dirent(typ, vectorSeed(), []byte("x0123456789"), false); got != want {
			t.Errorf("%v: %#x, want %#x", typ, got, want)
		}
	}
}

func TestOldSiphashDiffers(t *testing.T) {
	if strhash.Dirent(strhash.SiphashOld, vectorSeed(), []byte("a"), false) == strhash.Dirent(strhash.Siphash, vectorSeed(), []byte("a"), false) {
		t.Error("siphash_old equals siphash")
	}
}

func TestNoAllocation(t *testing.T) {
	name := make([]byte, 255)
	for typ := range strhash.Type(strhash.NumTypes) {
		if n := testing.AllocsPerRun(10, func() {
			strhash.Dirent(typ, vectorSeed(), name, false)
			strhash.Xattr(typ, vectorSeed(), 1, name)
		}); n != 0 {
			t.Errorf("%v allocates %v times", typ, n)
		}
	}
}

func FuzzHash(f *testing.F) {
	f.Add(uint64(1), []byte("name"))
	f.Add(uint64(0x0123456789abcdef), []byte("lost+found and more than two words"))
	f.Fuzz(func(t *testing.T, seedWord uint64, name []byte) {
		var seed [8]byte
		binary.LittleEndian.PutUint64(seed[:], seedWord)
		want := max(siphash.Hash(seedWord, 0, name)>>1, 2)
		if got := strhash.Dirent(strhash.Siphash, seed, name, false); got != want {
			t.Fatalf("siphash %#x, want %#x", got, want)
		}
		tab := crc32.MakeTable(crc32.Castagnoli)
		want = max(uint64(^crc32.Update(crc32.Update(0, tab, seed[:]), tab, name)), 2)
		if got := strhash.Dirent(strhash.CRC32C, seed, name, false); got != want {
			t.Fatalf("crc32c %#x, want %#x", got, want)
		}
		for typ := range strhash.Type(strhash.NumTypes) {
			strhash.Xattr(typ, seed, byte(seedWord), name)
		}
	})
}

func BenchmarkDirent(b *testing.B) {
	name := []byte("some-file-name.txt")
	for typ := range strhash.Type(strhash.NumTypes) {
		b.Run(typ.String(), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				strhash.Dirent(typ, vectorSeed(), name, false)
			}
		})
	}
}
