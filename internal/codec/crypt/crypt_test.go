package crypt_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"testing"

	"golang.org/x/crypto/chacha20"
	//lint:ignore SA1019 reference for the benchmark
	"golang.org/x/crypto/poly1305"

	"github.com/go-bcachefs/bcachefs/internal/codec/crypt"
)

// countingKey is the key 00 01 … 1f of the specification's vectors.
func countingKey() *crypt.Key {
	var k crypt.Key
	for i := range k {
		k[i] = byte(i)
	}
	return &k
}

func counting(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}

// TestExtentVectors compares with values computed by a decoder that read an encrypted filesystem of the reference.
func TestExtentVectors(t *testing.T) {
	tests := []struct {
		name             string
		nonce            crypt.Nonce
		wantNonce        crypt.Nonce
		plain            []byte
		head, tail, poly string
	}{
		{
			"plain", crypt.ExtentNonceOf(0, 1, 0, 0, 0), crypt.Nonce{0, 1, 0, 0x10000000},
			make([]byte, 512), "230d971cbc9b4e3e6c6484070905de6d", "1bbc2691cd90f11b", "b173f17c490fd058fca35415b69ebed0",
		},
		{
			"offset of three sectors", crypt.ExtentNonceOf(0, 1, 3, 0, 0), crypt.Nonce{0x18, 1, 0, 0x10000000},
			counting(512), "79c7d70ffd4d3da701514809931eee11", "b0a5a87420257235", "4cd9f87ffe6b5f0238b0019d0740d77c",
		},
		{
			"zstd", crypt.ExtentNonceOf(0, 0x123456789a, 0, 4, 128), crypt.Nonce{0x20000000, 0x3456789a, 0x12, 0x14000000},
			make([]byte, 4096), "ceb24344f1b62e94e2e8d4b15fc77413", "ff831d920db55685", "df3a643e23af93f499545cc3926c6056",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.nonce != tt.wantNonce {
				t.Errorf("nonce %x, want %x", tt.nonce, tt.wantNonce)
			}
			k := countingKey()
			b := bytes.Clone(tt.plain)
			k.XOR(tt.nonce, b)
			if got := hex.EncodeToString(b[:16]); got != tt.head {
				t.Errorf("ciphertext starts %s, want %s", got, tt.head)
			}
			if got := hex.EncodeToString(b[len(b)-8:]); got != tt.tail {
				t.Errorf("ciphertext ends %s, want %s", got, tt.tail)
			}
			tag := k.Poly1305(tt.nonce, b[:100], nil, b[100:])
			if got := hex.EncodeToString(tag[:]); got != tt.poly {
				t.Errorf("tag %s, want %s", got, tt.poly)
			}
			k.XOR(tt.nonce, b)
			if !bytes.Equal(b, tt.plain) {
				t.Error("decryption does not give the plain text back")
			}
		})
	}
}

// keystream is the format's keystream one block at a time, each with a counter of its own: the definition of the wrap.
func keystream(k *crypt.Key, n crypt.Nonce, size int) []byte {
	out := make([]byte, 0, size+crypt.BlockSize)
	for len(out) < size {
		var iv [12]byte
		for i, w := range n[1:] {
			binary.LittleEndian.PutUint32(iv[4*i:], w)
		}
		c, err := chacha20.NewUnauthenticatedCipher(k[:], iv[:])
		if err != nil {
			panic(err)
		}
		c.SetCounter(n[0])
		var block [crypt.BlockSize]byte
		c.XORKeyStream(block[:], block[:])
		out = append(out, block[:]...)
		n = n.Add(crypt.BlockSize)
	}
	return out[:size]
}

func TestXORSizesAndWrap(t *testing.T) {
	k := countingKey()
	for _, counter := range []uint32{0, 1, 77, 0x7ffffffe, 0x80000000, 0xfffffff0, 0xfffffffd, 0xfffffffe, 0xffffffff} {
		n := crypt.Nonce{counter, 0x01020304, 0xffffffff, 0xdeadbeef}
		want := keystream(k, n, 2500)
		for size := range 1200 {
			checkXOR(t, k, n, want[:size])
		}
		for _, size := range []int{1535, 1536, 1537, 2047, 2048, 2049, 2500} {
			checkXOR(t, k, n, want[:size])
		}
	}
}

// checkXOR xors a buffer of ones surrounded by guard bytes, none of which may change.
func checkXOR(t *testing.T, k *crypt.Key, n crypt.Nonce, want []byte) {
	t.Helper()
	const guard = 16
	b := bytes.Repeat([]byte{0xff}, len(want)+2*guard)
	k.XOR(n, b[guard:guard+len(want)])
	for i, c := range b {
		w := byte(0xff)
		if i >= guard && i < guard+len(want) {
			w ^= want[i-guard]
		}
		if c != w {
			t.Fatalf("nonce %x, %d bytes: byte %d is %#02x, want %#02x", n, len(want), i-guard, c, w)
		}
	}
}

func TestNonceAdd(t *testing.T) {
	n := crypt.Nonce{0xfffffffe, 7, 8, 9}
	if got, want := n.Add(3*crypt.BlockSize), (crypt.Nonce{1, 7, 8, 9}); got != want {
		t.Errorf("Add wraps to %x, want %x", got, want)
	}
	if got, want := crypt.BtreeNodeNonce(4096, 0x1122334455667788, 0x99aabbcc), (crypt.Nonce{4096, 0x55667788, 0x11223344, 0x99aabbcc ^ 0x20000000}); got != want {
		t.Errorf("BtreeNodeNonce = %x, want %x", got, want)
	}
	if got, want := crypt.JournalNonceOf(0x0000000500000006), (crypt.Nonce{0, 6, 5, 0x30000000}); got != want {
		t.Errorf("JournalNonceOf = %x, want %x", got, want)
	}
}

func TestWrappedKey(t *testing.T) {
	uuid := [16]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	master, pass := crypt.NewKey(), *countingKey()
	w := crypt.Wrap(&master, &pass, uuid)
	if !w.Encrypted() {
		t.Fatal("wrapped key counts as clear")
	}
	enc := w.Encode()
	got, err := crypt.DecodeWrappedKey(&enc).Unwrap(&pass, uuid)
	if err != nil || got != master {
		t.Fatalf("Unwrap: %v, same key %v", err, got == master)
	}
	other := crypt.Key{9}
	if _, err := w.Unwrap(&other, uuid); !errors.Is(err, crypt.ErrPassphrase) {
		t.Errorf("wrong key: %v", err)
	}
	if _, err := w.Unwrap(&pass, [16]byte{7}); !errors.Is(err, crypt.ErrPassphrase) {
		t.Errorf("wrong uuid: %v", err)
	}
	if _, err := w.Unwrap(nil, uuid); !errors.Is(err, crypt.ErrPassphrase) {
		t.Errorf("no key: %v", err)
	}
	clear := crypt.Wrap(&master, nil, uuid)
	if clear.Encrypted() {
		t.Error("clear key counts as encrypted")
	}
	if got, err := clear.Unwrap(nil, uuid); err != nil || got != master {
		t.Errorf("clear key: %v", err)
	}
	if clear.Magic != binary.LittleEndian.Uint64([]byte("bch**key")) {
		t.Errorf("magic %#x", clear.Magic)
	}
}

func TestKDF(t *testing.T) {
	if got := crypt.DefaultKDF().Flags(); got != 0x000000040003000e {
		t.Errorf("flags of mkfs = %#x", got)
	}
	if got := crypt.ParseKDF(0, 0x000000040003000e); got != crypt.DefaultKDF() {
		t.Errorf("ParseKDF = %+v", got)
	}
	small := crypt.KDF{LogN: 4, LogR: 1, LogP: 0}
	a, err := crypt.DeriveKey([]byte("a"), small)
	if err != nil {
		t.Fatal(err)
	}
	b, err := crypt.DeriveKey([]byte("b"), small)
	if err != nil || a == b {
		t.Errorf("two passphrases, same key %v, error %v", a == b, err)
	}
	for _, bad := range []crypt.KDF{
		{},
		{Type: 1, LogN: 14, LogR: 3, LogP: 4},
		{LogN: 24, LogR: 3, LogP: 4},
		{LogN: 14, LogR: 3, LogP: 20},
		{LogN: 14, LogR: 12},
		{LogN: 0xffff, LogR: 0xffff, LogP: 0xffff},
	} {
		if _, err := crypt.DeriveKey(nil, bad); !errors.Is(err, crypt.ErrKDF) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

func TestKeyDoesNotPrint(t *testing.T) {
	k := *countingKey()
	for _, s := range []string{fmt.Sprint(k), fmt.Sprintf("%+v", struct{ K crypt.Key }{k}), fmt.Sprintf("%#v", k)} {
		if bytes.Contains([]byte(s), []byte("17")) {
			t.Errorf("key bytes in %q", s)
		}
	}
}

func TestNoAllocation(t *testing.T) {
	k, b := countingKey(), make([]byte, 4096)
	if n := testing.AllocsPerRun(10, func() { k.XOR(crypt.Nonce{}, b) }); n != 0 {
		t.Errorf("XOR allocates %v times", n)
	}
	if n := testing.AllocsPerRun(10, func() { k.Poly1305(crypt.Nonce{}, b[:100], b[100:]) }); n > 1 {
		// One for the state where the library has no assembly, none else.
		t.Errorf("Poly1305 allocates %v times", n)
	}
}

func FuzzXOR(f *testing.F) {
	f.Add(uint32(0), uint16(64), uint16(0))
	f.Add(uint32(0xfffffffe), uint16(300), uint16(3))
	f.Fuzz(func(t *testing.T, counter uint32, size, skipBlocks uint16) {
		k, n := countingKey(), crypt.Nonce{counter, 1, 2, 3}
		size %= 5000
		b := make([]byte, size)
		k.XOR(n, b)
		if want := keystream(k, n, int(size)); !bytes.Equal(b, want) {
			t.Fatalf("counter %#x, %d bytes: keystream differs", counter, size)
		}
		skip := uint64(skipBlocks) * crypt.BlockSize
		if skip < uint64(size) {
			tail := make([]byte, uint64(size)-skip)
			k.XOR(n.Add(skip), tail)
			if !bytes.Equal(tail, b[skip:]) {
				t.Fatalf("counter %#x: keystream after %d bytes differs", counter, skip)
			}
		}
	})
}

func BenchmarkXOR(b *testing.B) {
	k := countingKey()
	for _, size := range []int{512, 4096, 65536} {
		buf := make([]byte, size)
		b.Run(fmt.Sprintf("%d/ours", size), func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(size))
			for b.Loop() {
				k.XOR(crypt.Nonce{0, 1, 2, 3}, buf)
			}
		})
		b.Run(fmt.Sprintf("%d/library", size), func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(size))
			var iv [12]byte
			for b.Loop() {
				c, _ := chacha20.NewUnauthenticatedCipher(k[:], iv[:])
				c.XORKeyStream(buf, buf)
			}
		})
	}
}

func BenchmarkPoly1305(b *testing.B) {
	k := countingKey()
	for _, size := range []int{4096, 65536} {
		buf := make([]byte, size)
		b.Run(fmt.Sprintf("%d/ours", size), func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(size))
			for b.Loop() {
				k.Poly1305(crypt.Nonce{0, 1, 2, 3}, buf)
			}
		})
		b.Run(fmt.Sprintf("%d/library", size), func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(size))
			var tag [16]byte
			for b.Loop() {
				poly1305.Sum(&tag, buf, (*[32]byte)(k))
			}
		})
	}
}
