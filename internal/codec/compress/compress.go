// Package compress is the compression of extent data: LZ4 blocks, raw deflate streams and zstd frames, each stored in a
// blob that is padded with zeros to the block size of the filesystem.
//
// The uncompressed size is never part of the blob: the crc entry of the extent has it, so decoders are given a destination
// of exactly that size and fail if the blob does not fill it exactly. Decoders treat their input as hostile: memory is
// bounded by the destination and a fixed workspace, which is pooled. All functions may be called concurrently.
package compress

import (
	"errors"
	"fmt"
)

// Type is enum bch_compression_type, as stored in crc entries of extents.
type Type uint8

const (
	None           Type = 0
	LZ4Old         Type = 1 // read only; the same format as LZ4
	Gzip           Type = 2 // a raw deflate stream without gzip or zlib header
	LZ4            Type = 3
	Zstd           Type = 4
	Incompressible Type = 5 // stored as it is; compression was tried

	NumTypes = 6
)

var (
	// ErrDecompress means that a blob is damaged: it does not decode to exactly the size asked for.
	ErrDecompress = errors.New("decompression failed")
	// ErrType means a compression type this package cannot decode or encode.
	ErrType = errors.New("unsupported compression type")
)

var typeNames = [NumTypes]string{"none", "lz4_old", "gzip", "lz4", "zstd", "incompressible"}

// String is the name of the reference implementation, or "(unknown compression type N)".
func (t Type) String() string {
	if !t.Valid() {
		return fmt.Sprintf("(unknown compression type %d)", uint8(t))
	}
	return typeNames[t]
}

// Valid reports whether t is a defined type.
func (t Type) Valid() bool { return t < NumTypes }

// IsCompressed reports whether stored bytes differ from the data, in other words whether [Decompress] is needed.
func (t Type) IsCompressed() bool { return t != None && t != Incompressible }

// Decompress decodes src, a stored blob with its padding, into dst, whose length is the uncompressed size in bytes. After
// an error the content of dst is undefined. The error wraps [ErrDecompress], or [ErrType] for a type that is unknown.
func Decompress(t Type, dst, src []byte) error {
	var err error
	switch t {
	case None, Incompressible:
		if len(src) != len(dst) {
			return fmt.Errorf("%w: %d stored bytes for %d bytes of data", ErrDecompress, len(src), len(dst))
		}
		copy(dst, src)
		return nil
	case LZ4, LZ4Old:
		_, err = decodeLZ4(dst, src)
	case Gzip:
		err = inflate(dst, src)
	case Zstd:
		err = decodeZstd(dst, src)
	default:
		return fmt.Errorf("%w %d", ErrType, uint8(t))
	}
	if err != nil {
		return fmt.Errorf("%w: %v: %w", ErrDecompress, t, err)
	}
	return nil
}

// Compress encodes src into dst and pads the result with zeros to a multiple of blockSize; n is the padded size in bytes.
// ok is false if that would not be smaller than src, or does not fit into dst; the data is then to be stored as it is and
// dst is undefined. level is that of the compression option: 0 is the default, 1 to 15 as [Type] maps them.
func Compress(t Type, level int, dst, src []byte, blockSize int) (n int, ok bool, err error) {
	if blockSize <= 0 {
		return 0, false, fmt.Errorf("compress: block size %d", blockSize)
	}
	if level < 0 || level > 15 {
		return 0, false, fmt.Errorf("compress: level %d is not between 0 and 15", level)
	}
	if t == Incompressible || t == None || len(src) <= blockSize {
		return 0, false, nil
	}
	// Output that leaves no whole block to save is of no use, so the encoders need not produce it.
	limit := min(len(dst), (len(src)-1)/blockSize*blockSize) / blockSize * blockSize
	if limit == 0 {
		return 0, false, nil
	}
	switch t {
	case LZ4:
		n, ok, err = encodeLZ4(level, dst[:limit:limit], src)
	case Gzip:
		n, ok, err = deflate(level, dst[:limit:limit], src)
	case Zstd:
		n, ok, err = encodeZstd(level, dst[:limit:limit], src)
	default:
		return 0, false, fmt.Errorf("%w %v", ErrType, t)
	}
	if err != nil || !ok {
		return 0, false, err
	}
	padded := (n + blockSize - 1) / blockSize * blockSize
	clear(dst[n:padded])
	return padded, true, nil
}
