package crypt

import (
	"encoding/binary"
	"testing"
)

// FuzzUnwrap: what a superblock says of its key neither panics nor takes more memory or time than the limits; a key that
// unwraps wraps to the same bytes.
func FuzzUnwrap(f *testing.F) {
	pass := Key{1, 2, 3}
	w := Wrap(&Key{9}, &pass, [16]byte{4}).Encode()
	plain := Wrap(&Key{9}, nil, [16]byte{4}).Encode()
	f.Add(uint64(0), DefaultKDF().Flags(), w[:], uint8(4))
	f.Add(uint64(0), uint64(1)<<60, plain[:], uint8(4))
	f.Fuzz(func(t *testing.T, flags, kdfFlags uint64, wrapped []byte, uuid uint8) {
		kdf := ParseKDF(flags, kdfFlags)
		if kdf.Validate() == nil {
			if bits := 7 + int(kdf.LogN) + int(kdf.LogR); bits > maxScryptLogBytes {
				t.Fatalf("2^%d bytes of memory are accepted", bits)
			}
			if kdf.LogN+kdf.LogR+kdf.LogP < 8 {
				if _, err := DeriveKey([]byte("x"), kdf); err != nil {
					t.Fatal(err)
				}
			}
		}
		if len(wrapped) < WrappedKeySize {
			return
		}
		w := DecodeWrappedKey((*[WrappedKeySize]byte)(wrapped))
		for _, pk := range []*Key{nil, {}, &pass} {
			key, err := w.Unwrap(pk, [16]byte{uuid})
			if err != nil {
				continue
			}
			if !w.Encrypted() {
				pk = nil
			}
			if again := Wrap(&key, pk, [16]byte{uuid}); again != w {
				t.Fatalf("wraps to %x, was %x", binary.LittleEndian.AppendUint64(nil, again.Magic), wrapped[:8])
			}
		}
	})
}
