package blockdev

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
)

// chunkSize is the unit in which Memory takes memory.
const chunkSize = 64 << 10

// chunk is shared between clones until one of them writes to it.
type chunk struct {
	shared atomic.Bool
	data   [chunkSize]byte
}

// Memory is a sparse Device in memory: what was never written reads as zeros
// and costs nothing. Writes are durable at once.
type Memory struct {
	name string
	size int64

	mu     sync.RWMutex // guards chunks and their data
	chunks map[int64]*chunk
}

// NewMemory returns a device of size bytes, all zero.
func NewMemory(size int64) *Memory {
	return &Memory{name: "memory", size: size, chunks: make(map[int64]*chunk)}
}

// LoadMemory returns a device with what is in the file at path, without its
// zeros.
func LoadMemory(path string) (*Memory, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	m := NewMemory(fi.Size())
	m.name = path
	if err := m.load(f); err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return m, nil
}

func (m *Memory) load(r io.ReaderAt) error {
	c := new(chunk)
	for off := int64(0); off < m.size; off += chunkSize {
		n := min(chunkSize, m.size-off)
		if _, err := r.ReadAt(c.data[:n], off); err != nil {
			return err
		}
		if !isZero(c.data[:]) {
			m.chunks[off/chunkSize] = c
			c = new(chunk)
		}
	}
	return nil
}

// isZero compares with itself, one byte on: many bytes at a time.
func isZero(p []byte) bool {
	return len(p) == 0 || p[0] == 0 && bytes.Equal(p[1:], p[:len(p)-1])
}

// Clone returns an independent device with the same content. It is cheap:
// memory is shared until one of the two writes to it.
func (m *Memory) Clone() *Memory {
	m.mu.RLock()
	defer m.mu.RUnlock()
	c := &Memory{name: m.name, size: m.size, chunks: make(map[int64]*chunk, len(m.chunks))}
	for i, ch := range m.chunks {
		ch.shared.Store(true)
		c.chunks[i] = ch
	}
	return c
}

// SetName changes what Name returns. Call it before others use the device.
func (m *Memory) SetName(name string) { m.name = name }

// MemBytes returns how much memory the content takes, clones counted in full.
func (m *Memory) MemBytes() int64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return int64(len(m.chunks)) * chunkSize
}

// Size returns the size in bytes.
func (m *Memory) Size() int64 { return m.size }

// Name returns "memory" or the path it was loaded from.
func (m *Memory) Name() string { return m.name }

// ReadOnly returns false.
func (m *Memory) ReadOnly() bool { return false }

// Close does nothing: the content stays, and the device can be used again, as
// a disk can after a reboot.
func (m *Memory) Close() error { return nil }

// ReadAt implements Device.
func (m *Memory) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := check(ctx, m, OpRead, off, int64(len(p))); err != nil {
		return err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	for len(p) > 0 {
		in := off % chunkSize
		n := int(min(int64(len(p)), chunkSize-in))
		if c := m.chunks[off/chunkSize]; c != nil {
			copy(p[:n], c.data[in:])
		} else {
			clear(p[:n])
		}
		p = p[n:]
		off += int64(n)
	}
	return nil
}

// WriteAt implements Device.
func (m *Memory) WriteAt(ctx context.Context, p []byte, off int64) error {
	if err := check(ctx, m, OpWrite, off, int64(len(p))); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(p) > 0 {
		n := copy(m.writable(off / chunkSize).data[off%chunkSize:], p)
		p = p[n:]
		off += int64(n)
	}
	return nil
}

// writable returns a chunk that no clone shares. The caller holds mu.
func (m *Memory) writable(i int64) *chunk {
	c := m.chunks[i]
	switch {
	case c == nil:
		c = new(chunk)
	case c.shared.Load():
		own := new(chunk)
		own.data = c.data
		c = own
	default:
		return c
	}
	m.chunks[i] = c
	return c
}

// Flush implements Device; there is nothing to do.
func (m *Memory) Flush(ctx context.Context) error {
	return check(ctx, m, OpFlush, 0, 0)
}

// Discard implements Device: what was discarded reads as zeros.
func (m *Memory) Discard(ctx context.Context, off, n int64) error {
	if err := check(ctx, m, OpDiscard, off, n); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for n > 0 {
		in := off % chunkSize
		step := min(n, chunkSize-in)
		switch {
		case m.chunks[off/chunkSize] == nil:
		case step == chunkSize:
			delete(m.chunks, off/chunkSize)
		default:
			clear(m.writable(off / chunkSize).data[in : in+step])
		}
		off += step
		n -= step
	}
	return nil
}
