package crypt

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/crypto/scrypt"
)

// KeyMagic is "bch**key" as a little-endian number: what the first eight bytes of an unwrapped key read.
const KeyMagic uint64 = 0x79656b2a2a686362

// KDFScrypt is the only key derivation function of the format (BCH_KDF_SCRYPT).
const KDFScrypt uint8 = 0

// Limits on what DeriveKey accepts. A damaged or hostile superblock may name any parameters; those of mkfs need
// 16 MiB and 2^21 units of work.
const (
	maxScryptLogBytes = 30
	maxScryptLogWork  = 27
)

var (
	// ErrPassphrase means that the passphrase key does not unwrap the stored key.
	ErrPassphrase = errors.New("wrong passphrase")
	// ErrKDF means that the key derivation parameters are invalid or demand more memory or time than is reasonable.
	ErrKDF = errors.New("unusable key derivation parameters")
)

// scryptSalt is "bcache" and the zero byte that ends the string: the format hashes both.
var scryptSalt = [...]byte{'b', 'c', 'a', 'c', 'h', 'e', 0}

// KDF is how a passphrase becomes a key: type and binary logarithms of the scrypt parameters, from the flags of struct
// bch_sb_field_crypt.
type KDF struct {
	Type             uint8
	LogN, LogR, LogP uint16
}

// DefaultKDF is what mkfs writes: N=16384, r=8, p=16.
func DefaultKDF() KDF { return KDF{Type: KDFScrypt, LogN: 14, LogR: 3, LogP: 4} }

// ParseKDF reads the flags and kdf_flags fields of struct bch_sb_field_crypt.
func ParseKDF(flags, kdfFlags uint64) KDF {
	return KDF{
		Type: uint8(flags & 0xf),
		LogN: uint16(kdfFlags),
		LogR: uint16(kdfFlags >> 16),
		LogP: uint16(kdfFlags >> 32),
	}
}

// Flags is the kdf_flags field that stands for k.
func (k KDF) Flags() uint64 {
	return uint64(k.LogN) | uint64(k.LogR)<<16 | uint64(k.LogP)<<32
}

// Validate reports parameters scrypt does not define or that ask for too much, as [ErrKDF].
func (k KDF) Validate() error {
	if k.Type != KDFScrypt {
		return fmt.Errorf("%w: type %d is unknown", ErrKDF, k.Type)
	}
	n, r, p := int(k.LogN), int(k.LogR), int(k.LogP)
	const log128 = 7 // scrypt needs 128*N*r bytes
	if n < 1 || log128+n+r > maxScryptLogBytes || n+r+p > maxScryptLogWork {
		return fmt.Errorf("%w: scrypt log2 of N, r, p = %d, %d, %d", ErrKDF, n, r, p)
	}
	return nil
}

// DeriveKey turns a passphrase, as typed and without a newline, into the key that wraps the master key. It takes about
// a tenth of a second and 16 MiB with the usual parameters.
func DeriveKey(passphrase []byte, kdf KDF) (Key, error) {
	if err := kdf.Validate(); err != nil {
		return Key{}, err
	}
	b, err := scrypt.Key(passphrase, scryptSalt[:], 1<<kdf.LogN, 1<<kdf.LogR, 1<<kdf.LogP, len(Key{}))
	if err != nil {
		return Key{}, fmt.Errorf("%w: %w", ErrKDF, err)
	}
	return Key(b), nil
}

// WrappedKey is struct bch_encrypted_key: the master key as the superblock stores it, encrypted with a passphrase key or
// in clear.
type WrappedKey struct {
	Magic uint64
	Key   [32]byte
}

// WrappedKeySize is the size of a wrapped key in the superblock, in bytes.
const WrappedKeySize = 40

// DecodeWrappedKey reads a wrapped key from the 40 bytes of b.
func DecodeWrappedKey(b *[WrappedKeySize]byte) WrappedKey {
	return WrappedKey{Magic: binary.LittleEndian.Uint64(b[:]), Key: [32]byte(b[8:])}
}

// Encode is the inverse of [DecodeWrappedKey].
func (w WrappedKey) Encode() (b [WrappedKeySize]byte) {
	binary.LittleEndian.PutUint64(b[:], w.Magic)
	copy(b[8:], w.Key[:])
	return b
}

// Encrypted reports whether a passphrase is needed.
func (w WrappedKey) Encrypted() bool { return w.Magic != KeyMagic }

// Unwrap returns the master key. passphraseKey may be nil if the key is stored in clear. sbUUID is the internal UUID of
// the superblock (sb.uuid), not the one shown to users. The error wraps [ErrPassphrase].
func (w WrappedKey) Unwrap(passphraseKey *Key, sbUUID [16]byte) (Key, error) {
	if !w.Encrypted() {
		return Key(w.Key), nil
	}
	if passphraseKey == nil {
		return Key{}, fmt.Errorf("%w: none given", ErrPassphrase)
	}
	b := w.Encode()
	passphraseKey.XOR(wrapNonce(sbUUID), b[:])
	plain := DecodeWrappedKey(&b)
	if plain.Encrypted() {
		return Key{}, ErrPassphrase
	}
	return Key(plain.Key), nil
}

// Wrap encrypts the master key with passphraseKey; with nil it is stored in clear.
func Wrap(master, passphraseKey *Key, sbUUID [16]byte) WrappedKey {
	w := WrappedKey{Magic: KeyMagic, Key: *master}
	if passphraseKey == nil {
		return w
	}
	b := w.Encode()
	passphraseKey.XOR(wrapNonce(sbUUID), b[:])
	return DecodeWrappedKey(&b)
}

// NewKey returns a fresh random master key.
func NewKey() Key {
	var k Key
	rand.Read(k[:])
	return k
}

// wrapNonce is the nonce of the wrapped key: the first half of the superblock's UUID.
func wrapNonce(sbUUID [16]byte) Nonce {
	return Nonce{0, 0, binary.LittleEndian.Uint32(sbUUID[0:]), binary.LittleEndian.Uint32(sbUUID[4:])}
}
