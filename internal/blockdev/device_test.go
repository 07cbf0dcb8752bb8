package blockdev

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// devices returns one of each kind that can be written, of the same size.
func devices(t testing.TB, size int64) map[string]Device {
	t.Helper()
	open := func(name string, opts FileOptions) Device {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
		d, err := OpenFile(path, opts)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.Close() })
		return d
	}
	return map[string]Device{
		"file":     open("plain", FileOptions{}),
		"direct":   open("direct", FileOptions{Direct: true}),
		"memory":   NewMemory(size),
		"clone":    NewMemory(size).Clone(),
		"recorder": NewLog().Record(NewMemory(size)),
		"faulter":  NewFaulter(NewMemory(size)),
		"tearer":   NewTearer(NewMemory(size), NewPower(1<<30, KeepNone)),
		"delayer":  NewDelayer(NewMemory(size), func(context.Context, Op, int64, int64) error { return nil }),
	}
}

// TestModel runs random operations on every kind of device and on a slice.
func TestModel(t *testing.T) {
	const size = 3*chunkSize + 5*SectorSize
	for name, d := range devices(t, size) {
		t.Run(name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, 2))
			model := make([]byte, size)
			for step := range 400 {
				off := rng.Int64N(size)
				n := rng.Int64N(min(size-off, 2*chunkSize)) + 1
				if rng.IntN(2) == 0 { // as filesystems do
					off, n = off&^4095, max(n&^4095, 512)
					n = min(n, size-off)
				}
				switch rng.IntN(4) {
				case 0:
					p := make([]byte, n)
					for i := range p {
						p[i] = byte(rng.Uint32())
					}
					if err := d.WriteAt(t.Context(), p, off); err != nil {
						t.Fatal(err)
					}
					copy(model[off:], p)
				case 1:
					if err := d.Discard(t.Context(), off, n); err != nil {
						t.Fatal(err)
					}
					// Afterwards it may hold anything: make it known again.
					if err := d.WriteAt(t.Context(), model[off:off+n], off); err != nil {
						t.Fatal(err)
					}
				case 2:
					if err := d.Flush(t.Context()); err != nil {
						t.Fatal(err)
					}
				default:
					p := make([]byte, n)
					if err := d.ReadAt(t.Context(), p, off); err != nil {
						t.Fatal(err)
					}
					if !bytes.Equal(p, model[off:off+n]) {
						t.Fatalf("step %d: %d bytes at %d differ", step, n, off)
					}
				}
			}
		})
	}
}

func TestRange(t *testing.T) {
	const size = 10 * SectorSize
	for name, d := range devices(t, size) {
		t.Run(name, func(t *testing.T) {
			for _, c := range []struct {
				off int64
				n   int
			}{{-1, 1}, {size, 1}, {size - 1, 2}, {1 << 62, 1}, {-1 << 63, 512}} {
				p := make([]byte, c.n)
				for _, err := range []error{
					d.ReadAt(t.Context(), p, c.off),
					d.WriteAt(t.Context(), p, c.off),
					d.Discard(t.Context(), c.off, int64(c.n)),
				} {
					var ioErr *IOError
					if !errors.Is(err, ErrOutOfRange) || !errors.As(err, &ioErr) || ioErr.Offset != c.off || ioErr.Len != int64(c.n) {
						t.Errorf("%d bytes at %d: %v", c.n, c.off, err)
					}
				}
			}
			if err := d.ReadAt(t.Context(), nil, size); err != nil {
				t.Errorf("nothing at the end: %v", err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := d.ReadAt(ctx, make([]byte, 1), 0); !errors.Is(err, context.Canceled) {
				t.Errorf("cancelled: %v", err)
			}
		})
	}
}

func TestOpenFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "image")
	content := bytes.Repeat([]byte("0123456789abcdef"), 100)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, opts := range []FileOptions{{ReadOnly: true}, {ReadOnly: true, Direct: true}} {
		d, err := OpenFile(path, opts)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(content))
		if err := d.ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%+v: read differs, %v", opts, err)
		}
		for _, err := range []error{
			d.WriteAt(t.Context(), got, 0), d.Flush(t.Context()), d.Discard(t.Context(), 0, 1),
		} {
			if !errors.Is(err, ErrReadOnly) {
				t.Errorf("%+v: %v", opts, err)
			}
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}

	if _, err := OpenFile(filepath.Join(dir, "none"), FileOptions{}); !errors.Is(err, fs.ErrNotExist) ||
		strings.Count(err.Error(), "none") != 1 {
		t.Errorf("missing: %v", err)
	}
	if _, err := OpenFile(dir, FileOptions{ReadOnly: true}); !errors.Is(err, ErrNotDevice) {
		t.Errorf("directory: %v", err)
	}
}

// TestLock checks that two cannot write, but anyone can look.
func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := OpenFile(path, FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if other, err := OpenFile(path, FileOptions{}); !errors.Is(err, ErrBusy) {
		t.Errorf("second writer: %v, %v", other, err)
	}
	reader, err := OpenFile(path, FileOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	reader.Close()
	d.Close()
	d, err = OpenFile(path, FileOptions{})
	if err != nil {
		t.Fatalf("after closing: %v", err)
	}
	d.Close()
}

// TestShrunk reads from a file that was cut short behind our back.
func TestShrunk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, make([]byte, 64<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, opts := range []FileOptions{{ReadOnly: true}, {ReadOnly: true, Direct: true}} {
		if err := os.Truncate(path, 64<<10); err != nil {
			t.Fatal(err)
		}
		d, err := OpenFile(path, opts)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		if err := os.Truncate(path, 10000); err != nil {
			t.Fatal(err)
		}
		if err := d.ReadAt(t.Context(), make([]byte, 8192), 8192); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%+v: %v", opts, err)
		}
	}
}

// TestBounce reads any range through a descriptor that insists on alignment,
// as raw disks of macOS and Windows do.
func TestBounce(t *testing.T) {
	const size, align = 2*bounceSize + 3*SectorSize, 4096 // the last block is short
	content := make([]byte, size)
	rng := rand.New(rand.NewPCG(5, 6))
	for i := range content {
		content[i] = byte(rng.Uint32())
	}
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	dev, err := OpenFile(path, FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	dev.(*File).align = align
	for _, c := range []struct{ off, n int64 }{
		{0, 1}, {0, align}, {1, align}, {align - 1, 2}, {0, size}, {5, size - 5},
		{bounceSize - 3, 7}, {size - 1, 1}, {size - align, align}, {3, 2 * bounceSize},
	} {
		got := make([]byte, c.n)
		if err := dev.ReadAt(t.Context(), got, c.off); err != nil || !bytes.Equal(got, content[c.off:c.off+c.n]) {
			t.Errorf("%d bytes at %d: differ, error %v", c.n, c.off, err)
		}
	}
	if err := dev.WriteAt(t.Context(), content[:align], 1); !errors.Is(err, ErrUnaligned) {
		t.Errorf("unaligned write: %v", err)
	}
	if err := dev.WriteAt(t.Context(), content[:align], align); err != nil {
		t.Errorf("aligned write: %v", err)
	}
}

func TestErrorText(t *testing.T) {
	m := NewMemory(1 << 20)
	m.SetName("/dev/sdx")
	err := m.ReadAt(t.Context(), make([]byte, 4096), 1<<20)
	const want = "/dev/sdx: read of 4096 bytes at sector 2048: outside of the device"
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestClone(t *testing.T) {
	a := NewMemory(4 * chunkSize)
	write := func(m *Memory, s string, off int64) {
		t.Helper()
		if err := m.WriteAt(t.Context(), []byte(s), off); err != nil {
			t.Fatal(err)
		}
	}
	read := func(m *Memory, off int64) string {
		t.Helper()
		p := make([]byte, 5)
		if err := m.ReadAt(t.Context(), p, off); err != nil {
			t.Fatal(err)
		}
		return string(p)
	}
	write(a, "first", 0)
	write(a, "other", 2*chunkSize)
	b := a.Clone()
	write(a, "in a ", 0)
	write(b, "in b ", 2*chunkSize)
	if err := b.Discard(t.Context(), 0, chunkSize); err != nil {
		t.Fatal(err)
	}
	got := []string{read(a, 0), read(a, 2*chunkSize), read(b, 0), read(b, 2*chunkSize)}
	want := []string{"in a ", "other", "\x00\x00\x00\x00\x00", "in b "}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("got %q, want %q", got, want)
			break
		}
	}
	if a.MemBytes() != 2*chunkSize || b.MemBytes() != chunkSize {
		t.Errorf("memory: %d, %d", a.MemBytes(), b.MemBytes())
	}
}

func TestLoadMemory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image")
	content := make([]byte, 5*chunkSize+100)
	content[3*chunkSize] = 1
	content[len(content)-1] = 2
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := LoadMemory(path)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(content))
	if err := m.ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, content) {
		t.Errorf("differs (%v)", err)
	}
	if m.MemBytes() != 2*chunkSize || m.Name() != path {
		t.Errorf("%d bytes, name %s", m.MemBytes(), m.Name())
	}
}

// TestConcurrent is for the race detector.
func TestConcurrent(t *testing.T) {
	for name, d := range devices(t, 1<<20) {
		t.Run(name, func(t *testing.T) {
			var wg sync.WaitGroup
			for g := range 4 {
				wg.Go(func() {
					p := make([]byte, 4096)
					for i := range 50 {
						off := int64((i*7+g)%200) * 4096
						if err := errors.Join(d.WriteAt(t.Context(), p, off), d.ReadAt(t.Context(), p, off),
							d.Flush(t.Context()), d.Discard(t.Context(), off, 4096)); err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

func BenchmarkReadAt(b *testing.B) {
	for _, name := range []string{"memory", "file", "direct"} {
		d := devices(b, 64<<20)[name]
		if err := d.WriteAt(b.Context(), make([]byte, 64<<20), 0); err != nil {
			b.Fatal(err)
		}
		p := AlignedBuffer(4096)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(p)))
			var off int64
			for b.Loop() {
				if err := d.ReadAt(b.Context(), p, off); err != nil {
					b.Fatal(err)
				}
				off = (off + 37*4096) % (64 << 20)
			}
		})
	}
}
