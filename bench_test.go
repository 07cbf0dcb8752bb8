package bcachefs_test

import (
	"io"
	"io/fs"
	"os"
	"testing"

	"github.com/go-bcachefs/bcachefs"
	"github.com/go-bcachefs/bcachefs/internal/golden"
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

// BenchmarkWalk lists and stats everything in the image of three-level btrees, the filesystem opened anew for each run.
func BenchmarkWalk(b *testing.B) {
	img := golden.Find(b, "btree-deep")
	paths := img.Unpack(b)
	inodes := 0
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
	b.ReportMetric(float64(inodes), "inodes")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*inodes), "ns/inode")
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
