package data

import (
	"fmt"

	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
	"github.com/go-bcachefs/bcachefs/internal/codec/compress"
	"github.com/go-bcachefs/bcachefs/internal/codec/crypt"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// nonce of the data that a CRC entry describes.
func nonce(v ondisk.Version, crc *ondisk.CRC) crypt.Nonce {
	var comp uint8
	var size uint32
	if crc.Compression.IsCompressed() {
		comp, size = uint8(crc.Compression), crc.UncompressedSize
	}
	return crypt.ExtentNonceOf(v.Hi, v.Lo, crc.Nonce, comp, size)
}

// open verifies stored bytes against their checksum and decrypts them in place.
func (r *Reader) open(stored []byte, v ondisk.Version, crc *ondisk.CRC) error {
	if crc.Csum == checksum.None {
		return nil
	}
	encrypted := crc.Csum.IsEncryption()
	if encrypted && r.cfg.Key == nil {
		return ErrNoKey
	}
	var n crypt.Nonce
	if encrypted {
		n = nonce(v, crc)
	}
	sum, err := checksum.Compute(crc.Csum, r.cfg.Key, n, stored)
	if err != nil {
		return err
	}
	if sum != crc.Sum {
		return fmt.Errorf("%w: %v, want %v (%v)", ErrChecksum, sum, crc.Sum, crc.Csum)
	}
	if encrypted {
		r.cfg.Key.XOR(n, stored)
	}
	return nil
}

// decode makes dst, of the uncompressed size, from stored bytes, which it may change.
func (r *Reader) decode(dst, stored []byte, v ondisk.Version, crc *ondisk.CRC) error {
	if err := r.open(stored, v, crc); err != nil {
		return err
	}
	if !crc.Compression.IsCompressed() {
		if len(dst) > len(stored) {
			return ErrBadExtent
		}
		copy(dst, stored)
		return nil
	}
	return compress.Decompress(crc.Compression, dst, stored)
}
