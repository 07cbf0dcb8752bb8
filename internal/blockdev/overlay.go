package blockdev

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// ErrOverlayFull is the cause of errors of writes to an Overlay that has no memory left.
var ErrOverlayFull = errors.New("the memory for changes that are not written to the device is used up")

// overlayPage is the unit in which an Overlay keeps what was written.
const overlayPage = 4 << 10

// Overlay is a Device that takes what is written into memory and leaves the device below as it is.
type Overlay struct {
	Device
	limit int64

	mu    sync.RWMutex // guards what follows, and the content of pages
	pages map[int64]*[overlayPage]byte
}

// NewOverlay puts an overlay over a device, of which nothing but reading is asked. It takes at most limit bytes of memory for content.
func NewOverlay(d Device, limit int64) *Overlay {
	return &Overlay{Device: d, limit: limit, pages: map[int64]*[overlayPage]byte{}}
}

// ReadOnly returns false.
func (o *Overlay) ReadOnly() bool { return false }

// Flush does nothing: what was written lasts as long as the Overlay.
func (o *Overlay) Flush(ctx context.Context) error { return check(ctx, o, OpFlush, 0, 0) }

// Discard does nothing.
func (o *Overlay) Discard(ctx context.Context, off, n int64) error {
	return check(ctx, o, OpDiscard, off, n)
}

// pieces calls fn for the part of p on each page.
func pieces(p []byte, off int64, fn func(page, in int64, part []byte) error) error {
	for len(p) > 0 {
		page, in := off/overlayPage, off%overlayPage
		n := min(int64(len(p)), overlayPage-in)
		if err := fn(page, in, p[:n]); err != nil {
			return err
		}
		p, off = p[n:], off+n
	}
	return nil
}

// ReadAt implements Device.
func (o *Overlay) ReadAt(ctx context.Context, p []byte, off int64) error {
	o.mu.RLock()
	defer o.mu.RUnlock()
	if err := o.Device.ReadAt(ctx, p, off); err != nil {
		return err
	}
	return pieces(p, off, func(page, in int64, part []byte) error {
		if b := o.pages[page]; b != nil {
			copy(part, b[in:])
		}
		return nil
	})
}

// WriteAt implements Device.
func (o *Overlay) WriteAt(ctx context.Context, p []byte, off int64) error {
	if err := check(ctx, o, OpWrite, off, int64(len(p))); err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return pieces(p, off, func(page, in int64, part []byte) error {
		b := o.pages[page]
		if b == nil {
			if int64(len(o.pages)+1)*overlayPage > o.limit {
				return &IOError{Op: OpWrite, Device: o.Name(), Offset: off, Len: int64(len(p)), Err: fmt.Errorf("%w (%d bytes)", ErrOverlayFull, o.limit)}
			}
			b = new([overlayPage]byte)
			if len(part) < overlayPage {
				below := b[:min(overlayPage, o.Size()-page*overlayPage)]
				if err := o.Device.ReadAt(ctx, below, page*overlayPage); err != nil {
					return err
				}
			}
			o.pages[page] = b
		}
		copy(b[in:], part)
		return nil
	})
}
