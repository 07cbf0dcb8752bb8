package data

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
)

// noCache is a bound of the cache too small for anything but sums: of decoded extents nothing is kept.
const noCache = 128 << 10

// damage flips a bit of what a disk holds at a byte offset.
func (w *world) damage(disk int, at int64) {
	w.t.Helper()
	var b [1]byte
	d := w.disks[disk].Device
	if err := d.ReadAt(context.Background(), b[:], at); err != nil {
		w.t.Fatal(err)
	}
	b[0] ^= 0x40
	if err := d.WriteAt(context.Background(), b[:], at); err != nil {
		w.t.Fatal(err)
	}
}

// read reads a range and compares it.
func (w *world) read(off, n int) error {
	p := bytes.Repeat([]byte{0xaa}, n)
	if _, err := w.r.ReadAt(context.Background(), testInum, 1, p, int64(off)); err != nil {
		return err
	}
	if !bytes.Equal(p, w.want[off:off+n]) {
		return fmt.Errorf("read of %d at %d: wrong bytes", n, off)
	}
	return nil
}

// Once an extent was verified, a small read takes only the blocks it lies in from the device, wherever it begins and ends, and what does not verify by then
// is found: the others are good still.
func TestReadBlocks(t *testing.T) {
	const base, sectors = 64, 125 // the last block is a part of one
	for _, csum := range []checksum.Type{checksum.CRC32C, checksum.CRC64, checksum.XXHash} {
		for _, front := range []int{0, 3} {
			t.Run(fmt.Sprintf("%v-%d", csum, front), func(t *testing.T) {
				w := newWorld(t, 1)
				w.reader(Config{CacheBytes: noCache})
				w.file(sectors, layout{csum: csum, front: front})
				if err := w.read(0, 512); err != nil {
					t.Fatal(err)
				}
				for off := 0; off < len(w.want); off += 700 {
					for _, n := range []int{1, 512, 4096, 9000} {
						n = min(n, len(w.want)-off)
						before := w.disks[0].bytes.Load()
						if err := w.read(off, n); err != nil {
							t.Fatal(err)
						}
						if got, most := w.disks[0].bytes.Load()-before, int64(n+2*sumBlock); got > most {
							t.Fatalf("read of %d at %d took %d bytes from the device, more than %d", n, off, got, most)
						}
					}
				}
				const bad = 5 // the block that is damaged
				w.damage(0, base*sectorSize+bad*sumBlock+17)
				for off := 0; off < len(w.want); off += 512 {
					at := off + front*sectorSize
					err := w.read(off, 512)
					if inBad := at/sumBlock == bad; inBad != errors.Is(err, ErrChecksum) || !inBad && err != nil {
						t.Fatalf("read at %d with block %d damaged: %v", off, bad, err)
					}
				}
			})
		}
	}
}

// What is found damaged when it is read in part comes from another replica.
func TestReadBlocksReplica(t *testing.T) {
	w := newWorld(t, 2)
	var told []BadReplica
	w.reader(Config{CacheBytes: noCache, OnBadReplica: func(b BadReplica) { told = append(told, b) }})
	w.file(128, layout{csum: checksum.CRC32C, disks: []int{0, 1}})
	w.file(128, layout{csum: checksum.CRC32C, disks: []int{0, 1}})
	for range 3 {
		for off := 0; off < len(w.want); off += 4096 {
			if err := w.read(off, 4096); err != nil {
				t.Fatal(err)
			}
		}
	}
	for disk := range w.disks {
		w.damage(disk, (64+int64(disk)*128)*sectorSize+9*sumBlock)
	}
	for off := 0; off < len(w.want); off += 4096 {
		if err := w.read(off, 4096); err != nil {
			t.Fatal(err)
		}
	}
	if len(told) == 0 {
		t.Error("no damaged replica was told of")
	}
}

// What is remembered stays within its bound, and what had to go is read as a whole again.
func TestBlockSumsBounded(t *testing.T) {
	w := newWorld(t, 1)
	w.reader(Config{CacheBytes: noCache})
	for range 300 {
		w.file(128, layout{csum: checksum.CRC32C})
	}
	for range 2 {
		for off := 0; off < len(w.want); off += 64 << 10 {
			if err := w.read(off, 4096); err != nil {
				t.Fatal(err)
			}
		}
	}
	var total, counted int64
	for i := range w.r.sums.shards {
		s := &w.r.sums.shards[i]
		total += s.bytes
		for _, sums := range s.sums {
			counted += sumsCost(len(sums))
		}
	}
	if total != counted || total > noCache/8 || total == 0 {
		t.Errorf("checksums are said to take %d bytes, take %d, and may take %d", total, counted, noCache/8)
	}
}

// BenchmarkReadAtRandom reads 4 KiB here and there of more than the cache holds.
func BenchmarkReadAtRandom(b *testing.B) {
	w := newWorld(b, 1)
	for range 128 {
		w.file(128, layout{csum: checksum.CRC32C})
	}
	w.reader(Config{CacheBytes: 1 << 20})
	p := make([]byte, 4096)
	b.ReportAllocs()
	at := 0
	for b.Loop() {
		at = (at*5 + 4099) % (len(w.want) / len(p)) // goes through all
		if _, err := w.r.ReadAt(context.Background(), testInum, 1, p, int64(at*len(p))); err != nil {
			b.Fatal(err)
		}
	}
}
