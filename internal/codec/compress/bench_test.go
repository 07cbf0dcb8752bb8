package compress

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"testing"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// BenchmarkDecompress compares each decoder with the library's own on the same blob without its padding. The bar is 90 %
// of the library.
func BenchmarkDecompress(b *testing.B) {
	const size = 128 << 10
	for _, typ := range []Type{LZ4, Gzip, Zstd} {
		for _, kind := range []string{"text", "records", "sparse", "mixed"} {
			data := corpus(size)[kind]
			blob := make([]byte, size)
			n, ok, err := Compress(typ, 0, blob, data, 4096)
			if err != nil || !ok {
				b.Fatalf("%v %s: %v %v", typ, kind, ok, err)
			}
			blob = blob[:n]
			dst := make([]byte, size)
			b.Run(fmt.Sprintf("%v/%s/ours", typ, kind), func(b *testing.B) {
				b.ReportAllocs()
				b.SetBytes(size)
				for b.Loop() {
					if err := Decompress(typ, dst, blob); err != nil {
						b.Fatal(err)
					}
				}
			})
			b.Run(fmt.Sprintf("%v/%s/library", typ, kind), func(b *testing.B) {
				b.ReportAllocs()
				b.SetBytes(size)
				decode := libraryDecoder(b, typ, dst, blob)
				for b.Loop() {
					if n, err := decode(); err != nil || n != size {
						b.Fatal(n, err)
					}
				}
			})
		}
	}
}

// libraryDecoder returns a function that decodes blob into dst by the library alone.
func libraryDecoder(tb testing.TB, typ Type, dst, blob []byte) func() (int, error) {
	switch typ {
	case LZ4:
		used, err := decodeLZ4(dst, blob)
		if err != nil {
			tb.Fatal(err)
		}
		return func() (int, error) { return lz4.UncompressBlock(blob[:used], dst) }
	case Gzip:
		src := bytes.NewReader(nil)
		z := flate.NewReader(src)
		return func() (int, error) {
			src.Reset(blob)
			if err := z.(flate.Resetter).Reset(src, nil); err != nil {
				return 0, err
			}
			return io.ReadFull(z, dst)
		}
	default:
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
		if err != nil {
			tb.Fatal(err)
		}
		frame := blob[4 : 4+binary.LittleEndian.Uint32(blob)]
		dst := make([]byte, 0, len(dst)+zstdSlack) // where it is fastest
		return func() (int, error) {
			out, err := d.DecodeAll(frame, dst)
			return len(out), err
		}
	}
}

func BenchmarkCompress(b *testing.B) {
	const size = 128 << 10
	for _, typ := range []Type{LZ4, Gzip, Zstd} {
		for _, kind := range []string{"text", "random"} {
			data := corpus(size)[kind]
			dst := make([]byte, size)
			b.Run(fmt.Sprintf("%v/%s", typ, kind), func(b *testing.B) {
				b.ReportAllocs()
				b.SetBytes(size)
				for b.Loop() {
					if _, _, err := Compress(typ, 0, dst, data, 4096); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
