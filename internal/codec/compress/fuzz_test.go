package compress

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"
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

// FuzzLZ4AgainstDefinition compares our decoder with the definition of the format.
func FuzzLZ4AgainstDefinition(f *testing.F) {
	addBlobs(f, LZ4)
	f.Fuzz(func(t *testing.T, src []byte, size uint32) {
		checkLZ4AgainstDefinition(t, src, int(size%(1<<14)))
	})
}

// TestLZ4Mutations is the same with blocks that are damaged in a few places, which the fuzzer is slow to come by.
func TestLZ4Mutations(t *testing.T) {
	rounds := 20000
	if testing.Short() {
		rounds = 2000
	}
	var blobs [][]byte
	for _, size := range []int{600, 3000} {
		for _, data := range corpus(size) {
			blob := make([]byte, size)
			if n, ok, err := Compress(LZ4, 0, blob, data, 16); err == nil && ok {
				blobs = append(blobs, blob[:n])
			}
		}
	}
	for seed := range uint64(rounds) {
		r := rand.New(rand.NewPCG(seed, 7))
		src := bytes.Clone(blobs[r.IntN(len(blobs))])
		for range r.IntN(4) {
			at := r.IntN(len(src))
			switch r.IntN(4) {
			case 0:
				src[at] = byte(r.Uint32())
			case 1:
				src[at] ^= 1 << r.IntN(8)
			case 2:
				src[at] |= 0xf0 >> (4 * r.IntN(2))
			case 3:
				src = src[:max(at, 1)]
			}
		}
		checkLZ4AgainstDefinition(t, src, 1+r.IntN(3200))
	}
}

// checkLZ4AgainstDefinition: same verdict, same bytes and same end as the format's definition taken literally, and
// nothing written outside of the destination. The library is no measure here: it has demands on how a block ends.
func checkLZ4AgainstDefinition(t *testing.T, src []byte, size int) {
	t.Helper()
	const guard = 80
	room := bytes.Repeat([]byte{0xa5}, size+2*guard)
	ours := room[guard : guard+size : guard+size]
	used, err := decodeLZ4(ours, src)
	for i := range guard {
		if room[i] != 0xa5 || room[len(room)-1-i] != 0xa5 {
			t.Fatal("wrote outside the destination")
		}
	}
	want, wantUsed := defineLZ4(src, size)
	if (err == nil) != (want != nil) {
		t.Fatalf("%d bytes of %x: %v, by definition decodable %v", size, src, err, want != nil)
	}
	if err != nil {
		return
	}
	if used != wantUsed || !bytes.Equal(ours, want) {
		t.Fatalf("%d bytes of %x: used %d, want %d, same %v", size, src, used, wantUsed, bytes.Equal(ours, want))
	}
}

// defineLZ4 decodes a block a byte at a time. The result is nil unless there are exactly size bytes at the end of literals or
// of a match.
func defineLZ4(src []byte, size int) (out []byte, used int) {
	out = []byte{}
	next := func() int {
		if used++; used > len(src) {
			return -1
		}
		return int(src[used-1])
	}
	length := func(n int) int {
		for b := 255; n >= 15 && b == 255; n += b {
			if b = next(); b < 0 {
				return size + 1
			}
		}
		return n
	}
	for len(out) < size {
		token := next()
		if token < 0 {
			return nil, used
		}
		for range length(token >> 4) {
			b := next()
			if b < 0 || len(out) == size {
				return nil, used
			}
			out = append(out, byte(b))
		}
		if len(out) == size {
			return out, used
		}
		lo, hi := next(), next()
		if offset := lo | hi<<8; lo < 0 || hi < 0 || offset == 0 || offset > len(out) {
			return nil, used
		}
		offset := lo | hi<<8
		for range length(token&15) + 4 {
			if len(out) == size {
				return nil, used
			}
			out = append(out, out[len(out)-offset])
		}
	}
	return out, used
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
