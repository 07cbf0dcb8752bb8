package data_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/data"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// Many write to files of their own, and to blocks of one file, while others read, and snapshots are taken: each block is always one that
// was written to it, and never older than one that was seen before.
func TestConcurrent(t *testing.T) {
	for _, options := range []map[string]string{nil, {"compression": "lz4"}, {"nocow": "1"}} {
		w := newWorld(t, shape("concurrent", options, 96))
		const goroutines, blocks, size = 4, 64, 4096
		shared := w.file("shared")
		own := make([]*modelFile, goroutines)
		for i := range own {
			own[i] = w.file(string(rune('a' + i)))
		}
		shared.grow(blocks * size)
		w.write(shared, shared.content, 0)
		var writers, readers sync.WaitGroup
		var done atomic.Bool
		for i := range goroutines {
			writers.Go(func() {
				r := rand.New(rand.NewPCG(7, uint64(i)))
				p := make([]byte, size)
				for n := range uint64(50) {
					block := r.IntN(blocks/goroutines)*goroutines + i
					for j := 0; j < size; j += 16 {
						binary.LittleEndian.PutUint64(p[j:], n+1)
						binary.LittleEndian.PutUint64(p[j+8:], uint64(block))
					}
					if _, _, err := w.w.WriteAt(t.Context(), shared.id, p, int64(block*size), nil); err != nil {
						t.Error(err)
						return
					}
					copy(shared.content[block*size:], p)
					f, q, off := own[i], random(r, 1+r.IntN(30000)), r.IntN(100000)
					if _, _, err := w.w.WriteAt(t.Context(), f.id, q, int64(off), nil); err != nil {
						t.Error(err)
						return
					}
					f.grow(off + len(q))
					copy(f.content[off:], q)
					got := make([]byte, len(f.content))
					if _, err := w.w.ReadAt(t.Context(), f.id, got, 0); err != nil && !errors.Is(err, io.EOF) || !bytes.Equal(got, f.content) {
						t.Errorf("%s: %v, %s", f.name, err, difference(got, f.content))
						return
					}
				}
			})
		}
		for range 2 {
			readers.Go(func() {
				var seen [blocks]uint64
				p := make([]byte, blocks*size)
				for !done.Load() {
					if n, err := w.w.ReadAt(t.Context(), shared.id, p, 0); n != len(p) || err != nil {
						t.Errorf("%d bytes, %v", n, err)
						return
					}
					for b := range seen {
						v := binary.LittleEndian.Uint64(p[b*size:])
						for j := b * size; j < (b+1)*size; j += 16 {
							// What is written in place may be seen half written.
							n, of := binary.LittleEndian.Uint64(p[j:]), binary.LittleEndian.Uint64(p[j+8:])
							if n != v && options["nocow"] == "" || n != 0 && of != uint64(b) || n < seen[b] {
								t.Errorf("block %d has %d of block %d at byte %d, it begins with %d, and had %d before", b, n, of, j-b*size, v, seen[b])
								return
							}
						}
						if options["nocow"] == "" {
							seen[b] = v
						}
					}
				}
			})
		}
		writers.Wait()
		done.Store(true)
		readers.Wait()
		w.end()
	}
}

// Holes and data are found where they are: reservations are holes, inline data is data.
func TestSeekLive(t *testing.T) {
	w := newWorld(t, shape("plain", nil, 32))
	f := w.file("a")
	r := rand.New(rand.NewPCG(1, 1))
	w.write(f, random(r, 8192), 16384)
	if _, err := w.w.Allocate(t.Context(), f.id, 32768, 8192, 0, nil); err != nil {
		t.Fatal(err)
	}
	f.grow(40960)
	w.write(f, []byte("tail"), 65536)
	for _, c := range []struct {
		off, data, hole int64 // -1: none
	}{{0, 16384, 0}, {16384, 16384, 24576}, {20000, 20000, 24576}, {24576, 65536, 24576}, {33000, 65536, 33000}, {65536, 65536, 65540}, {65540, -1, -1}} {
		for _, k := range []struct {
			name string
			seek func(off int64) (int64, error)
			want int64
		}{
			{"data", func(off int64) (int64, error) { return w.w.SeekData(t.Context(), f.id, off) }, c.data},
			{"hole", func(off int64) (int64, error) { return w.w.SeekHole(t.Context(), f.id, off) }, c.hole},
		} {
			got, err := k.seek(c.off)
			if k.want < 0 && !errors.Is(err, data.ErrNoData) || k.want >= 0 && (err != nil || got != k.want) {
				t.Errorf("%s from %d: %d, %v; want %d", k.name, c.off, got, err, k.want)
			}
		}
	}
	w.end()
}

// A transaction that changes one file's inode does not keep others from being written to, although their inodes lie in the same leaf.
func TestInodesAlone(t *testing.T) {
	w := newWorld(t, shape("inodes", nil, 64))
	held, other := w.file("held"), w.file("other")
	p := make([]byte, 4096)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err := w.w.Truncate(ctx, held.id, 8192, &data.WriteOptions{Touch: func(*ondisk.Inode) {
		done := make(chan error)
		go func() {
			_, _, err := w.w.WriteAt(ctx, other.id, p, 0, nil)
			done <- err
		}()
		w.must(<-done)
	}})
	w.must(err)
}
