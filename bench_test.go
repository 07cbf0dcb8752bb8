package bcachefs_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"io/fs"
	"math"
	"os"
	"runtime"
	"runtime/metrics"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"github.com/go-bcachefs/bcachefs"
	"github.com/go-bcachefs/bcachefs/internal/codec/compress"
	"github.com/go-bcachefs/bcachefs/internal/golden"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// largestFile finds the largest file of a view, through its directories.
func largestFile(b *testing.B, v *bcachefs.View) (path string, size int64) {
	b.Helper()
	err := fs.WalkDir(v, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Size() > size {
			path, size = p, info.Size()
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	return path, size
}

// benchImage is what sequential reads are measured on: BCACHEFS_BENCH_IMAGE, which should hold one large uncompressed file, or
// else a golden image.
func benchImage(b *testing.B, name string) *bcachefs.FS {
	b.Helper()
	if path := os.Getenv("BCACHEFS_BENCH_IMAGE"); path != "" {
		fsys, err := bcachefs.Open(b.Context(), []string{path}, &bcachefs.OpenOptions{NoScan: true})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { fsys.Close() })
		return fsys
	}
	return openGolden(b, golden.Find(b, name), bcachefs.OpenOptions{})
}

// BenchmarkReadSequential reads the largest file of an image, by the bytes: to be compared with pread of as many bytes
// of the image itself, both from the page cache.
func BenchmarkReadSequential(b *testing.B) {
	fsys := benchImage(b, "basic")
	v := fsys.Root()
	name, size := largestFile(b, v)
	for _, chunk := range []int{128 << 10, 1 << 20, 4 << 20} {
		b.Run("read-"+sizeName(chunk), func(b *testing.B) {
			benchReadAt(b, openFile(b, v, name), size, chunk)
		})
		b.Run("pread-"+sizeName(chunk), func(b *testing.B) {
			path := os.Getenv("BCACHEFS_BENCH_IMAGE")
			if path == "" {
				path = golden.Find(b, "basic").Unpack(b)[0]
			}
			f, err := os.Open(path)
			if err != nil {
				b.Fatal(err)
			}
			defer f.Close()
			benchReadAt(b, f, size, chunk)
		})
	}
	b.Run("writeto", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			f := openFile(b, v, name)
			if n, err := f.WriteTo(io.Discard); err != nil || n != size {
				b.Fatal(n, err)
			}
		}
	})
}

func sizeName(n int) string {
	if n >= 1<<20 {
		return string(rune('0'+n>>20)) + "MiB"
	}
	return "128KiB"
}

func openFile(b *testing.B, v *bcachefs.View, name string) *bcachefs.File {
	b.Helper()
	f, err := v.Open(name)
	if err != nil {
		b.Fatal(err)
	}
	return f.(*bcachefs.File)
}

func benchReadAt(b *testing.B, r io.ReaderAt, size int64, chunk int) {
	p := make([]byte, chunk)
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		for off := int64(0); off < size; off += int64(chunk) {
			n := min(int64(chunk), size-off)
			if m, err := r.ReadAt(p[:n], off); int64(m) != n {
				b.Fatal(m, err)
			}
		}
	}
}

// BenchmarkReadEncoded reads compressed files of BCACHEFS_BENCH_IMAGE through the library, on all cores, and has the codec's own
// library, and then ours, do nothing but decode the same blobs, already in memory, on as many.
func BenchmarkReadEncoded(b *testing.B) {
	image := os.Getenv("BCACHEFS_BENCH_IMAGE")
	if image == "" {
		b.Skip("needs BCACHEFS_BENCH_IMAGE, as bench/image.sh makes it")
	}
	fsys := benchImage(b, "")
	for _, typ := range []compress.Type{compress.LZ4, compress.Gzip, compress.Zstd} {
		name := typ.String() + "/packed"
		f := openFile(b, fsys.Root(), name)
		blobs := encodedBlobs(b, fsys, image, f.ID().Inum)
		b.Run(typ.String()+"/read", func(b *testing.B) {
			b.SetBytes(f.Size())
			b.ReportAllocs()
			for b.Loop() {
				f := openFile(b, fsys.Root(), name)
				if n, err := f.WriteTo(io.Discard); err != nil || n != f.Size() {
					b.Fatal(n, err)
				}
			}
		})
		b.Run(typ.String()+"/decode", func(b *testing.B) {
			b.SetBytes(f.Size())
			for b.Loop() {
				decodeBlobs(b, typ, blobs)
			}
		})
		b.Run(typ.String()+"/decode-ours", func(b *testing.B) {
			b.SetBytes(f.Size())
			for b.Loop() {
				decodeBlobs(b, compress.None, blobs)
			}
		})
	}
}

// blob is an extent as it is stored.
type blob struct {
	stored []byte
	typ    compress.Type
	data   []byte // without what the codec's library does not want
	size   int    // of what it decodes to, in bytes
}

// encodedBlobs reads all compressed extents of a file from an image of one device.
func encodedBlobs(b *testing.B, fsys *bcachefs.FS, image string, inum uint64) (blobs []blob) {
	file, err := os.Open(image)
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	from, to := bcachefs.Pos{Inode: inum}, bcachefs.Pos{Inode: inum, Offset: math.MaxUint64, Snapshot: math.MaxUint32}
	for k, err := range fsys.Keys(b.Context(), "extents", from, to) {
		if err != nil {
			b.Fatal(err)
		}
		ptrs, _, err := ondisk.AppendExtentPtrs(nil, &k, nil)
		if err != nil || len(ptrs) == 0 || !ptrs[0].CRC.Compression.IsCompressed() {
			continue
		}
		p := blob{
			stored: make([]byte, ptrs[0].CRC.CompressedSize*ondisk.SectorSize),
			typ:    ptrs[0].CRC.Compression,
			size:   int(ptrs[0].CRC.UncompressedSize * ondisk.SectorSize),
		}
		p.data = p.stored
		if _, err := file.ReadAt(p.stored, int64(ptrs[0].Offset)*ondisk.SectorSize); err != nil {
			b.Fatal(err)
		}
		switch p.typ {
		case compress.LZ4: // the end is not stored: it is where the zeros of the last block begin, or a little behind
			dst := make([]byte, p.size)
			end := len(bytes.TrimRight(p.data, "\x00"))
			for ; end < len(p.data); end++ {
				if n, err := lz4.UncompressBlock(p.data[:end], dst); err == nil && n == p.size {
					break
				}
			}
			p.data = p.data[:end]
		case compress.Zstd:
			p.data = p.data[4:][:binary.LittleEndian.Uint32(p.data)]
		}
		blobs = append(blobs, p)
	}
	if len(blobs) == 0 {
		b.Fatalf("inode %d has no compressed extents", inum)
	}
	return blobs
}

// decodeBlobs decodes all blobs on all cores, by the codec's library, or by ours if typ is none.
func decodeBlobs(b *testing.B, typ compress.Type, blobs []blob) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			dst := make([]byte, 1<<20)
			src := bytes.NewReader(nil)
			inflate := flate.NewReader(src)
			z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
			if err != nil {
				b.Error(err)
				return
			}
			defer z.Close()
			for i := next.Add(1) - 1; i < int64(len(blobs)); i = next.Add(1) - 1 {
				in, n := blobs[i], 0
				switch typ {
				case compress.None:
					n, err = in.size, compress.Decompress(in.typ, dst[:in.size], in.stored)
				case compress.LZ4:
					n, err = lz4.UncompressBlock(in.data, dst[:in.size])
				case compress.Gzip:
					src.Reset(in.data)
					if err = inflate.(flate.Resetter).Reset(src, nil); err == nil {
						n, err = io.ReadFull(inflate, dst[:in.size])
					}
				case compress.Zstd:
					var out []byte
					out, err = z.DecodeAll(in.data, dst[:0])
					n = len(out)
				}
				if err != nil || n != in.size {
					b.Errorf("%v: %d of %d bytes: %v", typ, n, in.size, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// BenchmarkWalk lists and stats all 50,000 files of BCACHEFS_BENCH_IMAGE, or of the image of three-level btrees, the filesystem
// opened anew for each run. It reports CPU time, the garbage collector's included.
func BenchmarkWalk(b *testing.B) {
	paths := []string{os.Getenv("BCACHEFS_BENCH_IMAGE")}
	if paths[0] == "" {
		paths = golden.Find(b, "btree-deep").Unpack(b)
	}
	inodes := 0
	runtime.GC()
	before := cpuTime(b)
	for b.Loop() {
		fsys, err := bcachefs.Open(b.Context(), paths, &bcachefs.OpenOptions{NoScan: true})
		if err != nil {
			b.Fatal(err)
		}
		inodes = walk(b, fsys, fsys.Root().RootInode())
		if err := fsys.Close(); err != nil {
			b.Fatal(err)
		}
	}
	runtime.GC() // the runtime accounts CPU time at the end of a collection
	cpu := cpuTime(b) - before
	b.ReportMetric(float64(inodes), "inodes")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*inodes), "ns/inode")
	b.ReportMetric(cpu.Seconds()/float64(b.N), "cpu-s/op")
}

// cpuTime is what the process used so far, in user and system mode.
func cpuTime(b *testing.B) time.Duration {
	s := []metrics.Sample{{Name: "/cpu/classes/total:cpu-seconds"}, {Name: "/cpu/classes/idle:cpu-seconds"}}
	metrics.Read(s)
	if s[0].Value.Kind() != metrics.KindFloat64 {
		b.Fatal("no CPU time on this system")
	}
	return time.Duration((s[0].Value.Float64() - s[1].Value.Float64()) * 1e9)
}

func walk(b *testing.B, fsys *bcachefs.FS, dir bcachefs.InodeID) (n int) {
	for e, err := range fsys.ReadDir(b.Context(), dir, 0) {
		if err != nil {
			b.Fatal(err)
		}
		st, err := fsys.Stat(b.Context(), e.ID)
		if err != nil {
			b.Fatal(err)
		}
		n++
		if st.Mode.IsDir() {
			n += walk(b, fsys, e.ID)
		}
	}
	return n
}

// BenchmarkStat stats one inode whose node is cached.
func BenchmarkStat(b *testing.B) {
	fsys := openGolden(b, golden.Find(b, "damage-base"), bcachefs.OpenOptions{})
	id := fsys.Root().RootInode()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := fsys.Stat(b.Context(), id); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLookup finds one name whose nodes are cached.
func BenchmarkLookup(b *testing.B) {
	fsys := openGolden(b, golden.Find(b, "damage-base"), bcachefs.OpenOptions{})
	dir := fsys.Root().RootInode()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := fsys.Lookup(b.Context(), dir, "lines"); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkReadSmall reads single bytes, as programs do that read without a buffer of their own.
func BenchmarkReadSmall(b *testing.B) {
	fsys := openGolden(b, golden.Find(b, "reflink"), bcachefs.OpenOptions{})
	v := fsys.Root()
	name, size := largestFile(b, v)
	f := openFile(b, v, name)
	var p [1]byte
	at := int64(0)
	for b.Loop() {
		if _, err := f.ReadAt(p[:], at); err != nil {
			b.Fatal(err)
		}
		at = (at + 1) % size
	}
}
