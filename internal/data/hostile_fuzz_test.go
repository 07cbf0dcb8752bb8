package data

import (
	"context"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
	"github.com/go-bcachefs/bcachefs/internal/codec/compress"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// A key is given to FuzzReadAt as a header and its value:
//
//	0 btree, type  1 words of the value  2 position, in sectors  4 size  5 version
const fuzzKeyHeader = 6

var (
	fuzzBtrees = []ondisk.BtreeID{ondisk.BtreeExtents, ondisk.BtreeExtents, ondisk.BtreeReflink, ondisk.BtreeStripes}
	fuzzTypes  = []ondisk.KeyType{ondisk.KeyExtent, ondisk.KeyReflinkP, ondisk.KeyReflinkV, ondisk.KeyStripe, ondisk.KeyInlineData,
		ondisk.KeyIndirectInlineData, ondisk.KeyReservation, ondisk.KeyError, ondisk.KeyCookie, ondisk.KeyExtentWhiteout, ondisk.KeySet}
)

// fuzzKey encodes a key of a btree and type by their places in the tables.
func fuzzKey(btree, typ int, pos uint16, size uint8, val []byte) []byte {
	b := []byte{byte(btree<<4 | typ), byte(len(val) / 8)}
	b = binary.LittleEndian.AppendUint16(b, pos)
	return append(append(b, size, 1), val...)
}

func addFuzzKeys(w *world, b []byte) {
	for n := 0; len(b) >= fuzzKeyHeader && n < 40; n++ {
		val := b[fuzzKeyHeader:]
		val = val[:min(8*int(b[1]), len(val)&^7)]
		k := ondisk.Key{Type: fuzzTypes[int(b[0]&15)%len(fuzzTypes)], Val: val, Size: uint32(b[4]), Version: ondisk.Version{Lo: uint64(b[5])},
			Pos: ondisk.Pos{Inode: testInum, Offset: uint64(binary.LittleEndian.Uint16(b[2:]) % 4096), Snapshot: 1}}
		id := fuzzBtrees[int(b[0]>>4)%len(fuzzBtrees)]
		if id != ondisk.BtreeExtents {
			k.Pos.Inode, k.Pos.Snapshot = 0, 0
		}
		if id == ondisk.BtreeStripes {
			k.Size = 0
		}
		k.Size = min(k.Size, uint32(k.Pos.Offset)) // as the checks of keys see to
		w.trees.add(id, k)
		b = b[fuzzKeyHeader+len(val):]
	}
}

// FuzzReadAt reads a file whose extents, shared extents and stripes say anything. What is read ends within the buffer and what fails
// is a ReadError; data and holes alternate.
func FuzzReadAt(f *testing.F) {
	seed := newWorld(f, 3)
	plain := seed.extent(seed.bytes(8), layout{csum: checksum.CRC32C})
	zstd := seed.extent(seed.bytes(16), layout{csum: checksum.CRC64, comp: compress.Zstd})
	lz4 := seed.extent(seed.bytes(16), layout{csum: checksum.XXHash, comp: compress.LZ4, front: 2, back: 2})
	two := seed.extent(seed.bytes(8), layout{csum: checksum.CRC32C, disks: []int{0, 1}, stripe: &ondisk.StripePtr{Idx: 5, Redundancy: 1}, scramble: true})
	link := ondisk.ReflinkP{Idx: 8}
	stripe := ondisk.Stripe{Sectors: 64, NrBlocks: 3, NrRedundant: 1, CsumGranularityBits: 3, CsumType: checksum.None,
		Ptrs: []ondisk.ExtentPtr{{Offset: 64}, {Offset: 64, Dev: 1}, {Offset: 64, Dev: 2}}, Counts: make([]byte, 6)}
	f.Add(fuzzKey(0, 0, 8, 8, plain), uint16(0), uint16(9000))
	f.Add(append(fuzzKey(0, 0, 16, 16, zstd), fuzzKey(0, 0, 40, 16, lz4)...), uint16(3), uint16(20000))
	f.Add(append(fuzzKey(0, 0, 8, 8, two), fuzzKey(3, 3, 5, 0, stripe.Encode())...), uint16(0), uint16(4096))
	f.Add(append(fuzzKey(0, 1, 8, 8, link.Encode()), fuzzKey(2, 2, 20, 16, append(make([]byte, 8), plain...))...), uint16(0), uint16(4096))
	f.Add(append(fuzzKey(0, 1, 8, 8, link.Encode()), fuzzKey(2, 1, 20, 16, link.Encode())...), uint16(0), uint16(4096)) // to itself
	f.Add(fuzzKey(0, 4, 4, 1, []byte("inline data here")), uint16(0), uint16(600))
	ctx := context.Background()
	f.Fuzz(func(t *testing.T, keys []byte, off, length uint16) {
		w := *seed // with its disks, which nothing is written to
		w.trees = fakeTrees{map[ondisk.BtreeID][]ondisk.Key{}}
		w.gone = [8]bool{2: off&1 != 0}
		addFuzzKeys(&w, keys)
		r := w.reader(Config{CacheBytes: 1 << 20})
		for _, at := range []int64{int64(off), 0} {
			const guard = 16
			buf := make([]byte, int(length)+2*guard)
			n, err := r.ReadAt(ctx, testInum, 1, buf[guard:guard+int(length)], at)
			var re *ReadError
			switch {
			case err == nil && n != int(length) || n < 0 || n > int(length):
				t.Fatalf("%d bytes of %d, %v", n, length, err)
			case err != nil && !errors.As(err, &re):
				t.Fatalf("error of another kind: %v", err)
			case re != nil && (re.Offset < at || re.Offset >= at+int64(length)):
				t.Fatalf("%d bytes from %d failed at %d", length, at, re.Offset)
			}
			for i := range guard {
				if buf[i] != 0 || buf[len(buf)-1-i] != 0 {
					t.Fatal("wrote outside the buffer")
				}
			}
		}
		const size = 4096 * sectorSize
		for pos, n := int64(0), 0; pos < size; n++ {
			data, err := r.SeekData(ctx, testInum, 1, size, pos)
			if err != nil {
				break
			}
			hole, err := r.SeekHole(ctx, testInum, 1, size, data)
			if err != nil {
				break
			}
			if data < pos || hole <= data || n > 200 {
				t.Fatalf("data from %d is at %d - %d", pos, data, hole)
			}
			pos = hole
		}
	})
}
