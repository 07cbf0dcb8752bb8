package bcachefs_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/go-bcachefs/bcachefs"
	"github.com/go-bcachefs/bcachefs/internal/golden"
)

// memTree is a tree in memory.
type memTree []bcachefs.TreeFile

func (t memTree) Files(context.Context) iter.Seq2[*bcachefs.TreeFile, error] {
	return func(yield func(*bcachefs.TreeFile, error) bool) {
		for i := range t {
			f := t[i]
			if !yield(&f, nil) {
				return
			}
		}
	}
}

// file adds a regular file of random data, or of zeros and text that can be compressed.
func (t *memTree) file(name string, size int, rnd *rand.ChaCha8) {
	data := make([]byte, size)
	if rnd.Uint64()%3 > 0 {
		_, _ = rnd.Read(data)
	} else {
		for i := range data {
			data[i] = "a line of text\n"[i%15]
		}
	}
	f := bcachefs.TreeFile{Path: name, RawMode: 0o100644, UID: 1000, Size: int64(size), Mtime: time.Unix(1700000000, int64(size))}
	f.Data = func(_ context.Context, write func([]byte, int64) error) error {
		if size == 0 {
			return nil
		}
		return write(data, 0)
	}
	*t = append(*t, f)
}

// sampleTree has some of everything, and metadata enough for nodes to be split.
func sampleTree(seed byte, dirs, files, maxSize int) memTree {
	rnd := rand.NewChaCha8([32]byte{seed})
	at := time.Unix(1600000000, 5)
	t := memTree{{Path: ".", RawMode: 0o040755, Mtime: at}}
	for d := range dirs {
		dir := fmt.Sprintf("directory-%d", d)
		t = append(t, bcachefs.TreeFile{Path: dir, RawMode: 0o042750, GID: 7, Mtime: at, Xattrs: map[string]string{"user.dir": dir}})
		for i := range files {
			t.file(fmt.Sprintf("%s/file-%d", dir, i), int(rnd.Uint64()%uint64(maxSize)), rnd)
		}
	}
	t.file("empty", 0, rnd)
	t.file("large", 5<<20+77, rnd)
	t = append(t, bcachefs.TreeFile{Path: "link", RawMode: 0o120777, Target: "large", Mtime: at},
		bcachefs.TreeFile{Path: "other name", LinkTo: "large", RawMode: 0o100644},
		bcachefs.TreeFile{Path: "null", RawMode: 0o020666, RdevMajor: 1, RdevMinor: 3, Mtime: at},
		bcachefs.TreeFile{Path: "fifo", RawMode: 0o010600, Mtime: at, Xattrs: map[string]string{"trusted.a": "1", "trusted.b": "2"}})
	return t
}

func sumOf(t *testing.T, name string) [sha256.Size]byte {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// The same tree and options make the same bytes, on any number of processors, also where space is so short that things have to be moved out of the way.
func TestBuildImageIsReproducible(t *testing.T) {
	encrypted := bcachefs.FormatOptions{Seed: []byte("seed"), Encrypted: true, Options: map[string]string{"compression": "zstd"}}
	cases := []struct {
		name   string
		tree   memTree
		size   int64
		format bcachefs.FormatOptions
	}{
		{"small", sampleTree(1, 2, 10, 5000), 32 << 20, bcachefs.FormatOptions{Seed: []byte("seed")}},
		{"many files", sampleTree(2, 12, 80, 3000), 64 << 20, bcachefs.FormatOptions{Seed: []byte("seed")}},
		{"smallest", sampleTree(3, 4, 40, 60000), 0, bcachefs.FormatOptions{Seed: []byte("seed")}},
		{"encrypted, compressed", sampleTree(4, 4, 40, 60000), 64 << 20, encrypted},
	}
	for _, c := range cases[:golden.Times(t, len(cases), 1)] {
		t.Run(c.name, func(t *testing.T) {
			var first [sha256.Size]byte
			var size int64
			for i, procs := range []int{0, 1, 4} {
				defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
				img := filepath.Join(t.TempDir(), fmt.Sprint("image", i))
				info, err := bcachefs.BuildImage(context.Background(), img, c.tree, bcachefs.ImageOptions{Format: c.format, Device: bcachefs.FormatDevice{CreateBytes: c.size}})
				if err != nil {
					t.Fatal(err)
				}
				sum := sumOf(t, img)
				if i == 0 {
					first, size = sum, info.Bytes
					checkImage(t, img, c.tree)
				}
				if sum != first || info.Bytes != size {
					t.Fatalf("image %d is another one: %d bytes, %x; the first has %d, %x", i, info.Bytes, sum, size, first)
				}
			}
		})
	}
}

// checkImage compares an image with the tree that it was made of, and checks it.
func checkImage(t *testing.T, img string, tree memTree) {
	t.Helper()
	f, err := bcachefs.Open(context.Background(), []string{img}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, want := range tree {
		if want.LinkTo != "" {
			continue
		}
		info, err := f.Root().Lstat(want.Path)
		if err != nil {
			t.Fatal(err)
		}
		st := info.Sys().(*bcachefs.Stat)
		if st.RawMode != want.RawMode || st.UID != want.UID || st.GID != want.GID || st.Size != want.Size && want.Data != nil || !want.Mtime.IsZero() && !st.Mtime.Equal(want.Mtime) {
			t.Errorf("%s: %+v, want %+v", want.Path, st, want)
		}
		if want.Data == nil {
			continue
		}
		got, err := f.Root().ReadFile(want.Path)
		if err != nil {
			t.Fatal(err)
		}
		var data []byte
		_ = want.Data(context.Background(), func(p []byte, _ int64) error { data = p; return nil })
		if !bytes.Equal(got, data) {
			t.Errorf("%s: content differs", want.Path)
		}
	}
	r, err := bcachefs.Check(context.Background(), []string{img}, &bcachefs.OpenOptions{NoScan: true}, nil)
	if err != nil || len(r.Findings) > 0 {
		t.Fatalf("check: %v %v", err, r)
	}
}

// What is as small as it can be really is: a sixteenth less is too little.
func TestBuildImageSmallest(t *testing.T) {
	tree := sampleTree(5, 3, 30, 100000)
	img := filepath.Join(t.TempDir(), "img")
	opts := bcachefs.ImageOptions{Format: bcachefs.FormatOptions{Seed: []byte("x")}}
	info, err := bcachefs.BuildImage(context.Background(), img, tree, opts)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(img); err != nil || st.Size() != info.Bytes {
		t.Fatalf("%v %v, want %d bytes", st, err, info.Bytes)
	}
	t.Logf("%d bytes of data in an image of %d", info.Tree.Bytes, info.Bytes)
	if info.Bytes > 2*info.Tree.Bytes+24<<20 {
		t.Errorf("%d bytes of data in an image of %d", info.Tree.Bytes, info.Bytes)
	}
	opts.Device.CreateBytes = info.Bytes - max(info.Bytes/16, 2<<20)
	less := filepath.Join(t.TempDir(), "less")
	if _, err := bcachefs.BuildImage(context.Background(), less, tree, opts); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("in %d bytes: %v", opts.Device.CreateBytes, err)
	}
	if left, _ := filepath.Glob(less + "*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if _, err := bcachefs.BuildImage(context.Background(), img, tree, opts); !errors.Is(err, bcachefs.ErrInUse) {
		t.Errorf("over an image: %v", err)
	}
	opts.Device.CreateBytes, opts.SpareBytes = 0, 20<<20
	roomy, err := bcachefs.BuildImage(context.Background(), less, tree, opts)
	if err != nil {
		t.Fatal(err)
	}
	if d := roomy.Bytes - info.Bytes; d < 18<<20 || d > 28<<20 {
		t.Errorf("with 20 MiB to spare it is %d bytes larger", d)
	}
}
