package bcachefs_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/go-bcachefs/bcachefs"
)

// benchDisk is a filesystem in memory-backed storage for benchmarks.
func benchDisk(b *testing.B) *disk {
	d := newDisk(b, 4096, nil)
	return d
}

func BenchmarkCreate(b *testing.B) {
	d := benchDisk(b)
	root := d.RootInode()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := d.fs.MakeInode(b.Context(), root, fmt.Sprintf("file-%d", i), bcachefs.NewInode{RawMode: 0o644}, 0); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCreateParallel(b *testing.B) {
	d := benchDisk(b)
	var n atomic.Int64
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		w := n.Add(1)
		dir, err := d.fs.MakeInode(b.Context(), d.RootInode(), fmt.Sprintf("dir-%d", w), bcachefs.NewInode{RawMode: 0o40755}, 0)
		if err != nil {
			b.Error(err)
			return
		}
		for i := 0; pb.Next(); i++ {
			if _, err := d.fs.MakeInode(b.Context(), dir.ID, fmt.Sprintf("file-%d", i), bcachefs.NewInode{RawMode: 0o644}, 0); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func BenchmarkLiveLookup(b *testing.B) {
	d := benchDisk(b)
	root := d.RootInode()
	for i := range 10000 {
		if _, err := d.fs.MakeInode(b.Context(), root, fmt.Sprintf("file-%d", i), bcachefs.NewInode{RawMode: 0o644}, 0); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := d.fs.LookupStat(b.Context(), root, fmt.Sprintf("file-%d", i%10000), 0); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWrite4k(b *testing.B)    { benchWrite(b, 4096, 64<<20) }
func BenchmarkWrite1M(b *testing.B)    { benchWrite(b, 1<<20, 512<<20) }
func BenchmarkLiveRead4k(b *testing.B) { benchRead(b, 4096, 64<<20) }
func BenchmarkLiveRead1M(b *testing.B) { benchRead(b, 1<<20, 512<<20) }
func BenchmarkSmallFile(b *testing.B) {
	d := benchDisk(b)
	data := make([]byte, 1024)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if err := d.WriteFile(fmt.Sprintf("file-%d", i), data, 0o644); err != nil {
			b.Fatal(err)
		}
	}
}

func benchWrite(b *testing.B, size int, limit int64) {
	d := benchDisk(b)
	f, err := d.Create("f")
	d.must(err)
	defer f.Close()
	buf := make([]byte, size)
	b.SetBytes(int64(size))
	b.ReportAllocs()
	for i := int64(0); b.Loop(); i++ {
		off := i * int64(size) * 7919 % limit / int64(size) * int64(size)
		if _, err := f.WriteAt(buf, off); err != nil {
			b.Fatal(err)
		}
	}
}

func benchRead(b *testing.B, size int, limit int64) {
	d := benchDisk(b)
	f, err := d.Create("f")
	d.must(err)
	defer f.Close()
	buf := make([]byte, 1<<20)
	for off := int64(0); off < limit; off += 1 << 20 {
		if _, err := f.WriteAt(buf, off); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(int64(size))
	b.ReportAllocs()
	for i := int64(0); b.Loop(); i++ {
		off := i * int64(size) * 7919 % limit / int64(size) * int64(size)
		if _, err := f.ReadAt(buf[:size], off); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkOverwrite4k writes single blocks, at random, in the middle of a file that was written in large pieces: each cuts an extent that has one
// checksum. From several goroutines it is as a mount does direct writes.
func BenchmarkOverwrite4k(b *testing.B) {
	for _, writers := range []int{1, 4} {
		b.Run(fmt.Sprint("writers-", writers), func(b *testing.B) {
			d := benchDisk(b)
			const size = 256 << 20
			f, err := d.Create("f")
			d.must(err)
			defer f.Close()
			buf := make([]byte, 1<<20)
			for off := int64(0); off < size; off += 1 << 20 {
				if _, err := f.WriteAt(buf, off); err != nil {
					b.Fatal(err)
				}
			}
			b.SetBytes(4096)
			b.ReportAllocs()
			b.ResetTimer()
			var left atomic.Int64
			left.Store(int64(b.N))
			var wg sync.WaitGroup
			for w := range writers {
				wg.Go(func() {
					r := rand.New(rand.NewPCG(uint64(w), 1))
					buf := make([]byte, 4096)
					for left.Add(-1) >= 0 {
						if _, err := f.WriteAt(buf, r.Int64N(size/4096)*4096); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.StopTimer()
		})
	}
}
