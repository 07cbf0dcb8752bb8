package blockdev

import (
	"context"
	"sync/atomic"
)

// FlushTracker is a device that knows whether a flush would have anything to do, so that who needs durability can do without it.
// A flush costs much, also on a disk that has nothing to write.
type FlushTracker struct {
	Device

	written atomic.Uint64 // writes and discards that have ended, with an error or not
	flushed atomic.Uint64 // value of written at the beginning of a flush that succeeded, the largest of them
}

// NewFlushTracker returns a device that does as d does. All that is written to d must be written through it. What was written before
// is taken for flushed.
func NewFlushTracker(d Device) *FlushTracker { return &FlushTracker{Device: d} }

// Unflushed reports whether a write or discard has ended since the beginning of the last successful flush.
func (t *FlushTracker) Unflushed() bool { return t.written.Load() != t.flushed.Load() }

// WriteAt implements Device.
func (t *FlushTracker) WriteAt(ctx context.Context, p []byte, off int64) error {
	defer t.written.Add(1)
	return t.Device.WriteAt(ctx, p, off)
}

// Discard implements Device.
func (t *FlushTracker) Discard(ctx context.Context, off, n int64) error {
	defer t.written.Add(1)
	return t.Device.Discard(ctx, off, n)
}

// Flush implements Device.
func (t *FlushTracker) Flush(ctx context.Context) error {
	began := t.written.Load()
	if err := t.Device.Flush(ctx); err != nil {
		return err
	}
	for old := t.flushed.Load(); old < began && !t.flushed.CompareAndSwap(old, began); {
		old = t.flushed.Load()
	}
	return nil
}
