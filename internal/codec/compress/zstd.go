package compress

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// zstdHeader is the size of the little-endian frame length in front of a zstd frame.
const zstdHeader = 4

var (
	errZstdLength = errors.New("frame length exceeds the blob")
	errZstdSize   = errors.New("frame does not hold the uncompressed size")
)

// zstdMaxWindow bounds what a frame header may claim. Decoding uses the destination as its window, so this limits no
// memory; it only refuses frames that cannot have come from an extent.
const zstdMaxWindow = 128 << 20

// zstdSlack is how much room behind the end, a block and what its copies overshoot, lets the library decode in its fast way also
// where the frame does not say its size.
const zstdSlack = 128<<10 + 16

// zstdMaxSize bounds what a frame is decoded to; an extent never exceeds 4 MiB.
const zstdMaxSize = 8 << 20

// zstdDecoder is a decoder with what it decodes into: a copy from there costs less than decoding without slack.
type zstdDecoder struct {
	*zstd.Decoder
	buf []byte
}

var zstdDecoders = sync.Pool{New: func() any {
	d, err := zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderMaxMemory(zstdMaxSize),
		zstd.WithDecoderMaxWindow(zstdMaxWindow))
	if err != nil {
		return err
	}
	return &zstdDecoder{Decoder: d}
}}

// decodeZstd decodes a blob of frame length, frame and padding.
func decodeZstd(dst, src []byte) error {
	if len(src) < zstdHeader {
		return errZstdLength
	}
	n := uint64(binary.LittleEndian.Uint32(src))
	src = src[zstdHeader:]
	if n > uint64(len(src)) {
		return errZstdLength
	}
	d, ok := zstdDecoders.Get().(*zstdDecoder)
	if !ok {
		return errors.New("zstd decoder unavailable")
	}
	defer zstdDecoders.Put(d)
	if cap(d.buf) < len(dst)+zstdSlack {
		d.buf = make([]byte, 0, len(dst)+zstdSlack)
	}
	out, err := d.DecodeAll(src[:n], d.buf[:0])
	if err != nil {
		return err
	}
	if len(out) != len(dst) {
		return errZstdSize
	}
	copy(dst, out)
	return nil
}

// zstdEncoders has a pool for each of the library's speeds.
var zstdEncoders [zstd.SpeedBestCompression + 1]sync.Pool

// encodeZstd writes frame length and frame. The level of the option times 3/2 is the level of zstd.
func encodeZstd(level int, dst, src []byte) (int, bool, error) {
	if len(dst) < zstdHeader {
		return 0, false, nil
	}
	const libraryDefault = 3
	zlevel := level * 3 / 2
	if level == 0 {
		zlevel = libraryDefault
	}
	speed := zstd.EncoderLevelFromZstd(zlevel)
	e, _ := zstdEncoders[speed].Get().(*zstd.Encoder)
	if e == nil {
		var err error
		e, err = zstd.NewWriter(nil,
			zstd.WithEncoderLevel(speed),
			zstd.WithEncoderConcurrency(1),
			zstd.WithEncoderCRC(false),
			zstd.WithSingleSegment(true),
			zstd.WithLowerEncoderMem(true))
		if err != nil {
			return 0, false, fmt.Errorf("zstd: %w", err)
		}
	}
	defer zstdEncoders[speed].Put(e)
	out := e.EncodeAll(src, dst[zstdHeader:zstdHeader:len(dst)])
	if len(out) > len(dst)-zstdHeader {
		return 0, false, nil // the library grew a slice of its own
	}
	if &out[0] != &dst[zstdHeader] {
		copy(dst[zstdHeader:], out)
	}
	binary.LittleEndian.PutUint32(dst, uint32(len(out)))
	return zstdHeader + len(out), true, nil
}
