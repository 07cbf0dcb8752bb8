package checksum_test

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc64"
	"math/rand/v2"
	"testing"

	"github.com/cespare/xxhash/v2"

	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
	"github.com/go-bcachefs/bcachefs/internal/codec/crypt"
)

func counting(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}

func compute(t testing.TB, typ checksum.Type, data ...[]byte) checksum.Sum {
	t.Helper()
	s, err := checksum.Compute(typ, &crypt.Key{1}, crypt.Nonce{}, data...)
	if err != nil {
		t.Fatalf("%v: %v", typ, err)
	}
	return s
}

func TestVectors(t *testing.T) {
	check := []byte("123456789")
	tests := []struct {
		typ  checksum.Type
		data []byte
		want uint64
	}{
		{checksum.None, check, 0},
		{checksum.CRC32CNonzero, check, 0xe3069283},
		{checksum.CRC64Nonzero, check, 0x62ec59e3f1a4f00a},
		{checksum.CRC32C, check, 0x58e3fa20},
		{checksum.CRC64, check, 0x6c40df5f0b497347},
		{checksum.XXHash, check, 0x8cb841db40e6ae83},
		{checksum.CRC32C, counting(512), 0x9eec039a},
		{checksum.CRC64, counting(512), 0x167b8ea9c273a319},
		{checksum.CRC32C, counting(4096), 0x0488bfbb},
		{checksum.CRC64, counting(4096), 0x60ead3273551da2b},
	}
	for _, tt := range tests {
		for _, cut := range []int{0, 1, len(tt.data) / 2, len(tt.data)} {
			got := compute(t, tt.typ, tt.data[:cut], tt.data[cut:])
			if got != (checksum.Sum{Lo: tt.want}) {
				t.Errorf("%v of %d bytes cut at %d = %v, want %x", tt.typ, len(tt.data), cut, got, tt.want)
			}
		}
		if got := compute(t, tt.typ, tt.data); got.Lo != tt.want {
			t.Errorf("%v of %d bytes = %v, want %x", tt.typ, len(tt.data), got, tt.want)
		}
	}
}

// TestMAC uses a vector of an encrypted extent; its tag is b173f17c490fd058 fca35415b69ebed0.
func TestMAC(t *testing.T) {
	var k crypt.Key
	copy(k[:], counting(32))
	n := crypt.Nonce{0, 1, 0, crypt.ExtentNonce}
	b := make([]byte, 512)
	k.XOR(n, b)
	full, err := checksum.Compute(checksum.ChaCha20Poly1305_128, &k, n, b)
	if want := (checksum.Sum{Lo: 0x58d00f497cf173b1, Hi: 0xd0be9eb61554a3fc}); err != nil || full != want {
		t.Errorf("128 bit: %v, %v, want %v", full, err, want)
	}
	short, err := checksum.Compute(checksum.ChaCha20Poly1305_80, &k, n, b)
	if want := (checksum.Sum{Lo: 0x58d00f497cf173b1, Hi: 0xa3fc}); err != nil || short != want {
		t.Errorf("80 bit: %v, %v, want %v", short, err, want)
	}
	if _, err := checksum.Compute(checksum.ChaCha20Poly1305_80, nil, n, b); !errors.Is(err, checksum.ErrNoKey) {
		t.Errorf("without key: %v", err)
	}
}

func TestTypes(t *testing.T) {
	for i, want := range []struct {
		name                  string
		bytes                 int
		encryption, mergeable bool
	}{
		{"none", 0, false, true},
		{"crc32c_nonzero", 4, false, false},
		{"crc64_nonzero", 8, false, false},
		{"chacha20_poly1305_80", 10, true, false},
		{"chacha20_poly1305_128", 16, true, false},
		{"crc32c", 4, false, true},
		{"crc64", 8, false, true},
		{"xxhash", 8, false, false},
	} {
		typ := checksum.Type(i)
		if !typ.Valid() || typ.String() != want.name || typ.Bytes() != want.bytes ||
			typ.IsEncryption() != want.encryption || typ.Mergeable() != want.mergeable {
			t.Errorf("type %d: %v %d %v %v", i, typ, typ.Bytes(), typ.IsEncryption(), typ.Mergeable())
		}
	}
	bad := checksum.Type(checksum.NumTypes)
	if bad.Valid() || bad.Bytes() != 0 || bad.String() != "(unknown csum type 8)" {
		t.Errorf("type 8: valid %v, %v", bad.Valid(), bad)
	}
	if _, err := checksum.Compute(bad, nil, crypt.Nonce{}); !errors.Is(err, checksum.ErrType) {
		t.Errorf("type 8: %v", err)
	}
}

// bitwiseCRC64 is the definition.
func bitwiseCRC64(reg uint64, b []byte) uint64 {
	for _, c := range b {
		reg ^= uint64(c) << 56
		for range 8 {
			top := reg >> 63
			reg <<= 1
			if top != 0 {
				reg ^= 0x42F0E1EBA9EA3693
			}
		}
	}
	return reg
}

func TestCRC64AgainstDefinition(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, 3000)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	for size := range 700 {
		reg, from := r.Uint64(), r.IntN(64)
		if got, want := checksum.CRC64Update(reg, b[from:from+size]), bitwiseCRC64(reg, b[from:from+size]); got != want {
			t.Fatalf("%d bytes from %#x: %#x, want %#x", size, reg, got, want)
		}
	}
	if got, want := checksum.CRC64Update(3, b), bitwiseCRC64(3, b); got != want {
		t.Fatalf("%#x, want %#x", got, want)
	}
}

func FuzzMerge(f *testing.F) {
	f.Add([]byte("123456789"), uint16(4))
	f.Add(bytes.Repeat([]byte{0xa5}, 600), uint16(512))
	f.Fuzz(func(t *testing.T, data []byte, cut uint16) {
		c := int(cut) % (len(data) + 1)
		a, b := data[:c], data[c:]
		for typ := range checksum.Type(checksum.NumTypes) {
			whole := compute(t, typ, data)
			if parts := compute(t, typ, a, b); parts != whole {
				t.Fatalf("%v: in parts %v, whole %v", typ, parts, whole)
			}
			if typ.Mergeable() {
				if m := checksum.Merge(typ, compute(t, typ, a), compute(t, typ, b), uint64(len(b))); m != whole {
					t.Fatalf("%v: merged at %d of %d: %v, want %v", typ, c, len(data), m, whole)
				}
			}
		}
		if got, want := checksum.CRC64Update(0, data), bitwiseCRC64(0, data); got != want {
			t.Fatalf("crc64 %#x, want %#x", got, want)
		}
	})
}

func TestNoAllocation(t *testing.T) {
	a, b := counting(100), counting(4096)
	key := crypt.Key{1}
	for typ := range checksum.Type(checksum.NumTypes) {
		n := testing.AllocsPerRun(10, func() {
			if _, err := checksum.Compute(typ, &key, crypt.Nonce{}, a, b); err != nil {
				t.Fatal(err)
			}
		})
		if n != 0 {
			t.Errorf("%v allocates %v times", typ, n)
		}
	}
}

func BenchmarkCompute(b *testing.B) {
	buf := counting(64 << 10)
	var key crypt.Key
	for typ := range checksum.Type(checksum.NumTypes) {
		b.Run(typ.String(), func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(buf)))
			for b.Loop() {
				checksum.Compute(typ, &key, crypt.Nonce{}, buf)
			}
		})
	}
	b.Run("library-xxhash", func(b *testing.B) {
		b.SetBytes(int64(len(buf)))
		for b.Loop() {
			xxhash.Sum64(buf)
		}
	})
	b.Run("library-crc64-reflected", func(b *testing.B) {
		b.SetBytes(int64(len(buf)))
		tab := crc64.MakeTable(crc64.ECMA)
		for b.Loop() {
			crc64.Update(0, tab, buf)
		}
	})
}

func BenchmarkMerge(b *testing.B) {
	for _, typ := range []checksum.Type{checksum.CRC32C, checksum.CRC64} {
		b.Run(fmt.Sprint(typ), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				checksum.Merge(typ, checksum.Sum{Lo: 1}, checksum.Sum{Lo: 2}, 128<<10)
			}
		})
	}
}
