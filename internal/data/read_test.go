package data

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
	"github.com/go-bcachefs/bcachefs/internal/codec/compress"
	"github.com/go-bcachefs/bcachefs/internal/codec/crypt"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// check reads the file in pieces of several sizes and compares.
func (w *world) check() {
	w.t.Helper()
	for _, size := range []int{len(w.want), 64 << 10, 4096, 1000} {
		for off := 0; off < len(w.want); off += size {
			p := bytes.Repeat([]byte{0xaa}, min(size, len(w.want)-off))
			n, err := w.r.ReadAt(context.Background(), testInum, 1, p, int64(off))
			if err != nil || n != len(p) {
				w.t.Fatalf("read of %d at %d: %d, %v", len(p), off, n, err)
			}
			if !bytes.Equal(p, w.want[off:off+len(p)]) {
				w.t.Fatalf("read of %d at %d: wrong bytes", len(p), off)
			}
		}
	}
}

func testKey() *crypt.Key {
	var k crypt.Key
	for i := range k {
		k[i] = byte(i)
	}
	return &k
}

func TestReadEncodings(t *testing.T) {
	csums := []checksum.Type{checksum.None, checksum.CRC32C, checksum.CRC64, checksum.XXHash, checksum.ChaCha20Poly1305_80,
		checksum.ChaCha20Poly1305_128}
	comps := []compress.Type{compress.None, compress.LZ4, compress.Gzip, compress.Zstd, compress.Incompressible}
	for _, csum := range csums {
		for _, comp := range comps {
			t.Run(fmt.Sprintf("%v-%v", csum, comp), func(t *testing.T) {
				w := newWorld(t, 1)
				w.key = testKey()
				w.reader(Config{})
				for i, l := range []layout{{}, {}, {front: 8}, {back: 8}, {front: 3, back: 2}} {
					l.csum, l.comp, l.version = csum, comp, uint64(i+1)
					w.file(64, l)
				}
				w.check()
			})
		}
	}
}

func TestReadPieces(t *testing.T) {
	w := newWorld(t, 1)
	w.file(8, layout{noCRC: true})
	w.hole(5)
	inline := []byte("hello inline data, 24 b.")
	padded := append(bytes.Clone(inline), make([]byte, 8*sectorSize-len(inline))...)
	w.key1(ondisk.KeyInlineData, padded, inline, 0)
	w.key1(ondisk.KeyReservation, make([]byte, 8*sectorSize), make([]byte, 8), 0)
	unwritten := ondisk.AppendExtentEntry(nil, &ondisk.ExtentEntry{Ptr: ondisk.ExtentPtr{Offset: 64, Unwritten: true}})
	w.key1(ondisk.KeyExtent, make([]byte, 8*sectorSize), unwritten, 0)

	// Two indirect extents and inline data behind one pointer each, entered in the middle.
	shared := w.bytes(32)
	for i, part := range [][]byte{shared[:16*sectorSize], shared[16*sectorSize:]} {
		val := append(binary.LittleEndian.AppendUint64(nil, 1), w.extent(part, layout{csum: checksum.CRC32C})...)
		w.trees.add(ondisk.BtreeReflink, ondisk.Key{Type: ondisk.KeyReflinkV, Size: 16, Val: val, Pos: ondisk.Pos{Offset: uint64(100 + 16*(i+1))}})
	}
	ind := append(binary.LittleEndian.AppendUint64(nil, 1), inline...)
	w.trees.add(ondisk.BtreeReflink, ondisk.Key{Type: ondisk.KeyIndirectInlineData, Size: 8, Val: ind, Pos: ondisk.Pos{Offset: 140}})
	link := ondisk.ReflinkP{Idx: 104}
	w.key1(ondisk.KeyReflinkP, append(bytes.Clone(shared[4*sectorSize:]), padded...), link.Encode(), 0)
	w.check()

	bad := ondisk.ReflinkP{Idx: 138}
	good := len(w.want)
	w.key1(ondisk.KeyReflinkP, make([]byte, 8*sectorSize), bad.Encode(), 0)
	p := make([]byte, len(w.want))
	n, err := w.r.ReadAt(context.Background(), testInum, 1, p, 0)
	if !errors.Is(err, ErrReflink) || n != good+2*sectorSize {
		t.Errorf("read through a reflink pointer that leads beyond the shared data: %d, %v", n, err)
	}
}

func TestReadFails(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(w *world)
		want    error
	}{
		"checksum": {func(w *world) { w.file(8, layout{csum: checksum.CRC32C, scramble: true}) }, ErrChecksum},
		"device":   {func(w *world) { w.file(8, layout{csum: checksum.CRC32C}); w.disks[0].broken.Store(true) }, errBroken},
		"missing":  {func(w *world) { w.file(8, layout{csum: checksum.CRC32C}); w.gone[0] = true }, ErrNoDevice},
		"no key": {func(w *world) {
			w.key = testKey()
			w.file(8, layout{csum: checksum.ChaCha20Poly1305_80})
			w.key = nil
			w.reader(Config{})
		}, ErrNoKey},
		"lost": {func(w *world) { w.key1(ondisk.KeyError, make([]byte, 8*sectorSize), nil, 0) }, ErrLost},
		"poisoned": {func(w *world) {
			val := ondisk.AppendExtentEntry(nil, &ondisk.ExtentEntry{Type: ondisk.EntryFlags, Flags: 1})
			data := w.bytes(8)
			w.key1(ondisk.KeyExtent, data, append(val, w.extent(data, layout{})...), 0)
		}, ErrPoisoned},
		"crc beyond the data": {func(w *world) {
			data := w.bytes(8)
			w.key1(ondisk.KeyExtent, append(data, data...), w.extent(data, layout{csum: checksum.CRC32C}), 0)
		}, ErrBadExtent},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1)
			w.file(16, layout{csum: checksum.CRC64})
			c.prepare(w)
			good := 16 * sectorSize
			if name == "device" || name == "missing" {
				good = 0
			}
			p := make([]byte, len(w.want))
			n, err := w.r.ReadAt(context.Background(), testInum, 1, p, 0)
			if !errors.Is(err, c.want) || n != good {
				t.Fatalf("read: %d, %v, want %d, %v", n, err, good, c.want)
			}
			var re *ReadError
			if !errors.As(err, &re) || re.Inum != testInum || re.Offset != int64(good) {
				t.Errorf("error is %#v, want a ReadError at inode %d offset %d", err, testInum, good)
			}
		})
	}
}

func TestReadReplicas(t *testing.T) {
	for name, hurt := range map[string]func(w *world){
		"scrambled": func(*world) {},
		"broken":    func(w *world) { w.disks[0].broken.Store(true) },
		"missing":   func(w *world) { w.gone[0] = true },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 2)
			scramble := name == "scrambled"
			w.file(64, layout{csum: checksum.CRC32C, disks: []int{0, 1}, scramble: scramble})
			w.file(64, layout{csum: checksum.CRC32C, comp: compress.LZ4, disks: []int{0, 1}, scramble: scramble})
			w.file(64, layout{csum: checksum.XXHash, disks: []int{0, 1}, scramble: scramble, front: 2})
			hurt(w)
			w.check()
		})
	}
}

func TestReadCachedCopies(t *testing.T) {
	w := newWorld(t, 2)
	w.file(16, layout{csum: checksum.CRC32C, disks: []int{0, 1}, cached: true})
	w.gone[0] = true
	w.check()
	w.stale = true
	w.reader(Config{})
	p := make([]byte, len(w.want))
	if _, err := w.r.ReadAt(context.Background(), testInum, 1, p, 0); !errors.Is(err, ErrNoDevice) {
		t.Errorf("with only a stale copy left: %v, want %v", err, ErrNoDevice)
	}
	// If it cannot be known whether a copy is stale, what it held is neither shown nor taken for a hole.
	w.staleErr = errors.New("alloc cannot be read")
	w.reader(Config{})
	if _, err := w.r.ReadAt(context.Background(), testInum, 1, p, 0); !errors.Is(err, w.staleErr) {
		t.Errorf("with a copy that may be stale: %v, want %v", err, w.staleErr)
	}
}

func TestReadCoalesces(t *testing.T) {
	w := newWorld(t, 1)
	for range 16 {
		w.file(128, layout{csum: checksum.CRC32C})
	}
	p := make([]byte, len(w.want))
	if _, err := w.r.ReadAt(context.Background(), testInum, 1, p, 0); err != nil {
		t.Fatal(err)
	}
	if n, want := w.disks[0].reads.Load(), int64(16*64<<10/maxDirect); n != want {
		t.Errorf("16 adjacent extents of 64 KiB took %d reads of the device, want %d", n, want)
	}
	w.disks[0].reads.Store(0)
	for off := 0; off < len(w.want); off += 4096 {
		if _, err := w.r.ReadAt(context.Background(), testInum, 1, p[:4096], int64(off)); err != nil {
			t.Fatal(err)
		}
	}
	if n := w.disks[0].reads.Load(); n != 16 {
		t.Errorf("reading 16 extents by 4 KiB took %d reads of the device, want 16", n)
	}
}

func TestReadStripe(t *testing.T) {
	const blockSectors = 256
	for redundant := 1; redundant <= 2; redundant++ {
		for _, csum := range []checksum.Type{checksum.None, checksum.CRC32C} {
			t.Run(fmt.Sprintf("%d-%v", redundant, csum), func(t *testing.T) {
				w := newWorld(t, 3+redundant)
				w.next = 0
				w.file(64, layout{csum: csum, stripe: &ondisk.StripePtr{Block: 0, Redundancy: uint8(redundant), Idx: 7}})
				w.next = 80
				w.file(32, layout{csum: csum, front: 1, stripe: &ondisk.StripePtr{Block: 1, Redundancy: uint8(redundant), Idx: 7}, disks: []int{1}})
				w.next = 100
				w.file(128, layout{csum: csum, stripe: &ondisk.StripePtr{Block: 2, Redundancy: uint8(redundant), Idx: 7}, disks: []int{2}})
				w.addStripe(7, 3, redundant, blockSectors, 6)
				w.check()
				for a := range 3 + redundant {
					for b := range 3 + redundant {
						if redundant == 1 && a != b {
							continue
						}
						w.gone = [8]bool{}
						w.gone[a], w.gone[b] = true, true
						w.reader(Config{})
						w.check()
					}
				}
				w.gone = [8]bool{true, true, true}
				w.reader(Config{})
				if _, err := w.r.ReadAt(context.Background(), testInum, 1, make([]byte, 4096), 0); !errors.Is(err, errTooDamaged) {
					t.Errorf("with all data blocks gone: %v, want %v", err, errTooDamaged)
				}
			})
		}
	}
}

// addStripe makes the parity of what lies at the start of the disks and adds the stripe's key.
func (w *world) addStripe(idx uint64, data, redundant, sectors int, granularity uint8) {
	w.t.Helper()
	ctx := context.Background()
	blocks := make([][]byte, data+redundant)
	s := ondisk.Stripe{Sectors: uint16(sectors), NrBlocks: uint8(len(blocks)), NrRedundant: uint8(redundant),
		CsumGranularityBits: granularity, CsumType: checksum.CRC32C}
	for i := range blocks {
		blocks[i] = make([]byte, sectors*sectorSize)
		if i < data {
			if err := w.disks[i].Device.ReadAt(ctx, blocks[i], 0); err != nil {
				w.t.Fatal(err)
			}
		}
		s.Ptrs = append(s.Ptrs, ondisk.ExtentPtr{Dev: uint8(i)})
	}
	makeParity(blocks, data)
	for i, b := range blocks {
		if err := w.disks[i].Device.WriteAt(ctx, b, 0); err != nil {
			w.t.Fatal(err)
		}
		for at := 0; at < sectors; at += 1 << granularity {
			sum, err := checksum.Compute(checksum.CRC32C, nil, crypt.Nonce{}, b[at*sectorSize:min(at+1<<granularity, sectors)*sectorSize])
			if err != nil {
				w.t.Fatal(err)
			}
			s.Csums = binary.LittleEndian.AppendUint32(s.Csums, uint32(sum.Lo))
		}
	}
	s.Counts = make([]byte, 2*len(blocks))
	w.trees.add(ondisk.BtreeStripes, ondisk.Key{Type: ondisk.KeyStripe, Pos: ondisk.Pos{Offset: idx}, Val: s.Encode()})
}

func TestSeek(t *testing.T) {
	w := newWorld(t, 1)
	w.hole(8)
	w.file(8, layout{})
	w.hole(16)
	w.file(8, layout{})
	const s = sectorSize
	size := int64(len(w.want)) - 100
	ctx := context.Background()
	for _, c := range []struct{ off, data, hole int64 }{
		{0, 8 * s, 0}, {5, 8 * s, 5}, {8 * s, 8 * s, 16 * s}, {9 * s, 9 * s, 16 * s}, {16 * s, 32 * s, 16 * s},
		{20 * s, 32 * s, 20 * s}, {size - 1, size - 1, size},
	} {
		if got, err := w.r.SeekData(ctx, testInum, 1, size, c.off); err != nil || got != c.data {
			t.Errorf("data from %d: %d, %v, want %d", c.off, got, err, c.data)
		}
		if got, err := w.r.SeekHole(ctx, testInum, 1, size, c.off); err != nil || got != c.hole {
			t.Errorf("hole from %d: %d, %v, want %d", c.off, got, err, c.hole)
		}
	}
	for _, off := range []int64{-1, size} {
		if _, err := w.r.SeekHole(ctx, testInum, 1, size, off); !errors.Is(err, ErrNoData) {
			t.Errorf("hole from %d: %v, want %v", off, err, ErrNoData)
		}
	}
}

func TestReadConcurrently(t *testing.T) {
	w := newWorld(t, 2)
	w.reader(Config{CacheBytes: 256 << 10})
	for i := range 32 {
		w.file(128, layout{csum: checksum.CRC32C, comp: []compress.Type{compress.None, compress.LZ4}[i%2], disks: []int{0, 1}})
	}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 200 {
				off := (i*7919 + g*104729) % (len(w.want) - 9000)
				p := make([]byte, 9000)
				if _, err := w.r.ReadAt(context.Background(), testInum, 1, p, int64(off)); err != nil {
					t.Error(err)
					return
				}
				if !bytes.Equal(p, w.want[off:off+len(p)]) {
					t.Errorf("wrong bytes at %d", off)
					return
				}
			}
		})
	}
	wg.Wait()
	var total int64
	for i := range w.r.cache.shards {
		total += w.r.cache.shards[i].bytes
	}
	if total > 256<<10 {
		t.Errorf("cache holds %d bytes, more than its budget", total)
	}
}

func BenchmarkReadAt(b *testing.B) {
	w := newWorld(b, 1)
	for range 128 {
		w.file(128, layout{csum: checksum.CRC32C})
	}
	for _, size := range []int{4096, 128 << 10, 1 << 20} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			p := make([]byte, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			off := 0
			for b.Loop() {
				if _, err := w.r.ReadAt(context.Background(), testInum, 1, p, int64(off)); err != nil {
					b.Fatal(err)
				}
				if off += size; off+size > len(w.want) {
					off = 0
				}
			}
		})
	}
}
