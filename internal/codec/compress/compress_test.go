package compress

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"testing"
)

const testBlock = 512

func TestTypes(t *testing.T) {
	for i, want := range []string{"none", "lz4_old", "gzip", "lz4", "zstd", "incompressible"} {
		typ := Type(i)
		if !typ.Valid() || typ.String() != want || typ.IsCompressed() == (typ == None || typ == Incompressible) {
			t.Errorf("type %d: %v, compressed %v", i, typ, typ.IsCompressed())
		}
	}
	if bad := Type(NumTypes); bad.Valid() || bad.String() != "(unknown compression type 6)" {
		t.Errorf("type 6: %v %v", bad.Valid(), bad)
	}
	if err := Decompress(NumTypes, nil, nil); !errors.Is(err, ErrType) {
		t.Errorf("decompress type 6: %v", err)
	}
	if _, _, err := Compress(LZ4Old, 0, make([]byte, 1<<20), make([]byte, 1<<20), testBlock); !errors.Is(err, ErrType) {
		t.Errorf("compress lz4_old: %v", err)
	}
}

func TestStored(t *testing.T) {
	dst := make([]byte, 3)
	if err := Decompress(Incompressible, dst, []byte("abc")); err != nil || string(dst) != "abc" {
		t.Errorf("%q, %v", dst, err)
	}
	if err := Decompress(None, dst, []byte("abcd")); !errors.Is(err, ErrDecompress) {
		t.Errorf("other size: %v", err)
	}
}

func TestRoundTrip(t *testing.T) {
	for _, typ := range []Type{LZ4, Gzip, Zstd} {
		for _, size := range []int{1, testBlock, testBlock + 1, 2 * testBlock, 4096, 65536, 128 << 10, 1 << 20} {
			levels := []int{0, 1, 3, 9, 15}
			if size > 65536 {
				levels = levels[:1]
			}
			if testing.Short() {
				if size > 65536 {
					continue
				}
				levels = []int{0, 3}
			}
			for kind, data := range corpus(size) {
				for _, level := range levels {
					t.Run(fmt.Sprintf("%v:%d/%s/%d", typ, level, kind, size), func(t *testing.T) {
						checkRoundTrip(t, typ, level, data, size)
					})
				}
			}
		}
	}
}

// checkRoundTrip compresses data into room bytes and back.
func checkRoundTrip(t *testing.T, typ Type, level int, data []byte, room int) {
	t.Helper()
	const guard = 8
	blob := bytes.Repeat([]byte{0xee}, room+guard)
	n, ok, err := Compress(typ, level, blob[:room], data, testBlock)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(blob[room:], bytes.Repeat([]byte{0xee}, guard)) {
		t.Fatal("wrote behind the destination")
	}
	if !ok {
		return
	}
	if n%testBlock != 0 || n <= 0 || n >= len(data) || n > room {
		t.Fatalf("%d bytes became %d", len(data), n)
	}
	dst := bytes.Repeat([]byte{0xee}, len(data)+guard)
	if err := Decompress(typ, dst[:len(data)], blob[:n]); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(dst[:len(data)], data) {
		t.Fatal("data differs")
	}
	if !bytes.Equal(dst[len(data):], bytes.Repeat([]byte{0xee}, guard)) {
		t.Fatal("decoder wrote behind the destination")
	}
	// The size is exact in both directions.
	if err := Decompress(typ, make([]byte, len(data)+1), blob[:n]); !errors.Is(err, ErrDecompress) {
		t.Errorf("one byte more: %v", err)
	}
	if typ != LZ4 { // a shorter LZ4 block is one whose end falls between two sequences
		if err := Decompress(typ, make([]byte, len(data)-1), blob[:n]); !errors.Is(err, ErrDecompress) {
			t.Errorf("one byte less: %v", err)
		}
	}
	if err := Decompress(typ, dst[:len(data)], blob[:n/2]); n > testBlock && !errors.Is(err, ErrDecompress) {
		t.Errorf("half the blob: %v", err)
	}
}

func TestCompressible(t *testing.T) {
	data := corpus(65536)
	for _, typ := range []Type{LZ4, Gzip, Zstd} {
		for kind, want := range map[string]bool{"zeros": true, "text": true, "sparse": true, "random": false} {
			dst := make([]byte, 65536)
			if _, ok, err := Compress(typ, 0, dst, data[kind], 4096); err != nil || ok != want {
				t.Errorf("%v %s: %v, %v", typ, kind, ok, err)
			}
		}
		// Zeros fit into one block, and no data is stored in none.
		if n, ok, err := Compress(typ, 0, make([]byte, 4096), data["zeros"], 4096); err != nil || !ok || n != 4096 {
			t.Errorf("%v into one block: %d %v %v", typ, n, ok, err)
		}
		if _, ok, err := Compress(typ, 0, make([]byte, 4095), data["zeros"], 4096); err != nil || ok {
			t.Errorf("%v into less than a block: %v %v", typ, ok, err)
		}
		if _, ok, err := Compress(typ, 0, make([]byte, 4096), data["zeros"][:4096], 4096); err != nil || ok {
			t.Errorf("%v of one block: %v %v", typ, ok, err)
		}
		if _, _, err := Compress(typ, 16, make([]byte, 4096), data["zeros"], 4096); err == nil {
			t.Errorf("%v level 16 accepted", typ)
		}
		if _, _, err := Compress(typ, 0, make([]byte, 4096), data["zeros"], 0); err == nil {
			t.Errorf("%v block size 0 accepted", typ)
		}
	}
}

func TestLZ4Blocks(t *testing.T) {
	tests := []struct {
		name string
		src  string // hex
		want string // decoded, or
		size int    // size asked for if it fails
		err  error
	}{
		{"literals then padding", "30616263" + "0000000000", "abc", 0, nil},
		{"padding of other bytes", "30616263" + "ffffff", "abc", 0, nil},
		{"no padding", "30616263", "abc", 0, nil},
		{"overlap by one", "1061" + "0100" + "10" + "62" + "0000", "aaaaab", 0, nil},
		{"overlap by two", "236162" + "0200" + "1063", "ababababac"[:9] + "c", 0, nil},
		{"ends with a match", "1061" + "0100" + "0000", "aaaaa", 0, nil},
		{"long match", "1f61" + "0100" + "03" + "1062", "a" + string(bytes.Repeat([]byte("a"), 22)) + "b", 0, nil},
		{"long literals", "f001" + hex.EncodeToString([]byte("0123456789abcdef")), "0123456789abcdef", 0, nil},
		{"empty", "", "", 4, errLZ4Short},
		{"literals cut", "306162", "", 3, errLZ4Short},
		{"length cut", "f0", "", 20, errLZ4Short},
		{"length of 255 cut", "f0ff", "", 2000, errLZ4Short},
		{"offset cut", "106100", "", 9, errLZ4Short},
		{"match length cut", "1f610100", "", 90, errLZ4Short},
		{"offset zero", "10610000", "", 9, errLZ4Offset},
		{"offset too far", "10610200", "", 9, errLZ4Offset},
		{"literals too long", "30616263", "", 2, errLZ4Long},
		{"match too long", "10610100", "", 4, errLZ4Long},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			src, err := hex.DecodeString(tt.src)
			if err != nil {
				t.Fatal(err)
			}
			size := len(tt.want)
			if tt.err != nil {
				size = tt.size
			}
			dst := make([]byte, size)
			if _, err := decodeLZ4(dst, src); !errors.Is(err, tt.err) {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			if tt.err == nil && string(dst) != tt.want {
				t.Errorf("%q, want %q", dst, tt.want)
			}
			if err := Decompress(LZ4Old, dst, src); (err == nil) != (tt.err == nil) {
				t.Errorf("as lz4_old: %v", err)
			}
		})
	}
}

func TestZstdLength(t *testing.T) {
	blob := make([]byte, 4096)
	data := make([]byte, 8192)
	n, ok, err := Compress(Zstd, 0, blob, data, testBlock)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	blob = blob[:n]
	dst := make([]byte, len(data))
	for _, length := range []uint32{0, 1, uint32(n - 3), 0xffffffff} {
		bad := bytes.Clone(blob)
		binary.LittleEndian.PutUint32(bad, length)
		if err := Decompress(Zstd, dst, bad); !errors.Is(err, ErrDecompress) {
			t.Errorf("length %d: %v", length, err)
		}
	}
	for size := range 4 {
		if err := Decompress(Zstd, dst, blob[:size]); !errors.Is(err, ErrDecompress) {
			t.Errorf("blob of %d bytes: %v", size, err)
		}
	}
	if blob[4] != 0x28 || blob[5] != 0xb5 || blob[6] != 0x2f || blob[7] != 0xfd {
		t.Errorf("frame magic %x", blob[4:8])
	}
	if blob[8]&0x20 == 0 {
		t.Error("frame is not a single segment, so its window may exceed what the reference decodes")
	}
}

// TestPooledDecoderAfterError: a decoder that met damage must work for the next caller.
func TestPooledDecoderAfterError(t *testing.T) {
	data := text(65536)
	for _, typ := range []Type{LZ4, Gzip, Zstd} {
		blob := make([]byte, len(data))
		n, ok, err := Compress(typ, 0, blob, data, testBlock)
		if err != nil || !ok {
			t.Fatal(typ, ok, err)
		}
		dst := make([]byte, len(data))
		for i := range 50 {
			bad := bytes.Clone(blob[:n])
			bad[i*n/50] ^= 0xff
			_ = Decompress(typ, dst, bad) // damaged or not, it must not disturb what follows
			if err := Decompress(typ, dst, blob[:n]); err != nil || !bytes.Equal(dst, data) {
				t.Fatalf("%v after damage at %d: %v", typ, i*n/50, err)
			}
		}
	}
}

func TestConcurrent(t *testing.T) {
	for _, typ := range []Type{LZ4, Gzip, Zstd} {
		for g := range 4 {
			t.Run(fmt.Sprintf("%v/%d", typ, g), func(t *testing.T) {
				t.Parallel()
				for i := range 10 {
					checkRoundTrip(t, typ, i%3, mixed(32768+g*testBlock), 32768)
				}
			})
		}
	}
}
