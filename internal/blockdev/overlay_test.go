package blockdev

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"testing"
)

// TestOverlay writes at random to an overlay and to a copy of what it lies over: both read the same, and what lies below stays as it was.
func TestOverlay(t *testing.T) {
	const size = 64<<10 + 512
	ctx, rng := context.Background(), rand.New(rand.NewPCG(1, 2))
	below := NewMemory(size)
	content := make([]byte, size)
	for i := range content {
		content[i] = byte(rng.Uint32())
	}
	if err := below.WriteAt(ctx, content, 0); err != nil {
		t.Fatal(err)
	}
	o, want := NewOverlay(below, 1<<20), bytes.Clone(content)
	for range 300 {
		off := rng.Int64N(size)
		p := make([]byte, rng.Int64N(min(size-off, 10000))+1)
		for i := range p {
			p[i] = byte(rng.Uint32())
		}
		if err := o.WriteAt(ctx, p, off); err != nil {
			t.Fatal(err)
		}
		copy(want[off:], p)
		off = rng.Int64N(size)
		got := make([]byte, rng.Int64N(size-off)+1)
		if err := o.ReadAt(ctx, got, off); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want[off:off+int64(len(got))]) {
			t.Fatalf("%d bytes at %d differ", len(got), off)
		}
	}
	got := make([]byte, size)
	if err := below.ReadAt(ctx, got, 0); err != nil || !bytes.Equal(got, content) {
		t.Errorf("what lies below was changed: %v", err)
	}
}

// TestOverlayFull writes more than may be kept.
func TestOverlayFull(t *testing.T) {
	ctx := context.Background()
	o := NewOverlay(NewMemory(1<<20), 2*overlayPage)
	if err := o.WriteAt(ctx, make([]byte, 2*overlayPage), overlayPage); err != nil {
		t.Fatal(err)
	}
	if err := o.WriteAt(ctx, []byte{1}, 0); !errors.Is(err, ErrOverlayFull) {
		t.Errorf("one page more: %v", err)
	}
	if err := o.WriteAt(ctx, []byte{1}, 2*overlayPage); err != nil {
		t.Errorf("a page that is there: %v", err)
	}
}
