package compress

import (
	"bytes"
	"errors"
	"testing"

	"github.com/pierrec/lz4/v4"
)

func addBlobs(f *testing.F, typ Type) {
	for _, data := range corpus(4096) {
		blob := make([]byte, len(data))
		if n, ok, err := Compress(typ, 0, blob, data, testBlock); err == nil && ok {
			f.Add(blob[:n], uint32(len(data)))
			f.Add(blob[:n/2], uint32(len(data)))
		}
	}
	f.Add([]byte{}, uint32(0))
	f.Add([]byte{0x1f, 'a', 1, 0, 255, 255, 3, 0x10, 'b'}, uint32(533))
}

// fuzzDecoder feeds hostile blobs: no panic, no write outside the destination, a typed error, and the same result twice.
func fuzzDecoder(f *testing.F, typ Type) {
	addBlobs(f, typ)
	f.Fuzz(func(t *testing.T, src []byte, size uint32) {
		const guard = 32
		size %= 1 << 18
		dst := bytes.Repeat([]byte{0xa5}, int(size)+2*guard)
		err := Decompress(typ, dst[guard:guard+size:guard+size], src)
		if err != nil && !errors.Is(err, ErrDecompress) {
			t.Fatalf("error of another kind: %v", err)
		}
		for i := range guard {
			if dst[i] != 0xa5 || dst[len(dst)-1-i] != 0xa5 {
				t.Fatal("wrote outside the destination")
			}
		}
		again := make([]byte, size)
		err2 := Decompress(typ, again, src)
		if (err == nil) != (err2 == nil) || err == nil && !bytes.Equal(again, dst[guard:guard+size]) {
			t.Fatalf("results differ: %v, then %v", err, err2)
		}
	})
}

func FuzzDecompressGzip(f *testing.F) { fuzzDecoder(f, Gzip) }
func FuzzDecompressZstd(f *testing.F) { fuzzDecoder(f, Zstd) }
func FuzzDecompressLZ4(f *testing.F)  { fuzzDecoder(f, LZ4) }

// FuzzLZ4AgainstLibrary: what we decode, the library decodes to the same bytes from the part we used, and what it decodes
// to exactly the size, we decode as well.
func FuzzLZ4AgainstLibrary(f *testing.F) {
	addBlobs(f, LZ4)
	f.Fuzz(func(t *testing.T, src []byte, size uint32) {
		size %= 1 << 18
		ours, theirs := make([]byte, size), make([]byte, size)
		used, err := decodeLZ4(ours, src)
		if size == 0 {
			return // the library takes an empty block for damage
		}
		if err == nil {
			n, err := lz4.UncompressBlock(src[:used], theirs)
			if err != nil || n != int(size) || !bytes.Equal(ours, theirs) {
				t.Fatalf("used %d of %d bytes for %d; library: %d, %v, same %v", used, len(src), size, n, err, bytes.Equal(ours, theirs))
			}
			return
		}
		if n, lerr := lz4.UncompressBlock(src, theirs); lerr == nil && n == int(size) {
			t.Fatalf("library decodes %d bytes, we say %v", n, err)
		}
	})
}

func FuzzRoundTrip(f *testing.F) {
	for _, data := range corpus(3000) {
		f.Add(data, uint8(LZ4), uint8(0), uint16(3000))
		f.Add(data, uint8(Gzip), uint8(1), uint16(3000))
		f.Add(data, uint8(Zstd), uint8(15), uint16(1024))
	}
	f.Fuzz(func(t *testing.T, data []byte, typ, level uint8, room uint16) {
		typs := []Type{LZ4, Gzip, Zstd}
		checkRoundTrip(t, typs[int(typ)%len(typs)], int(level%16), data, int(room))
	})
}
