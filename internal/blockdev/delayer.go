package blockdev

import (
	"context"
	"time"
)

// Delayer is a device that takes its time, or waits for a test to let it go on.
type Delayer struct {
	Device
	before func(ctx context.Context, op Op, off, n int64) error
}

// NewDelayer returns a device that calls before at the start of each operation.
// If that returns an error, the operation fails with it. A test may block in it to
// hold operations at a chosen point.
func NewDelayer(d Device, before func(ctx context.Context, op Op, off, n int64) error) *Delayer {
	return &Delayer{Device: d, before: before}
}

// Latency is a function for NewDelayer: each operation waits as delay says.
// Operations that wait do not hold up others.
func Latency(delay func(op Op, off, n int64) time.Duration) func(context.Context, Op, int64, int64) error {
	return func(ctx context.Context, op Op, off, n int64) error {
		timer := time.NewTimer(delay(op, off, n))
		defer timer.Stop()
		select {
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (d *Delayer) wait(ctx context.Context, op Op, off, n int64) error {
	if err := d.before(ctx, op, off, n); err != nil {
		return &IOError{Op: op, Device: d.Name(), Offset: off, Len: n, Err: err}
	}
	return nil
}

// ReadAt implements Device.
func (d *Delayer) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := d.wait(ctx, OpRead, off, int64(len(p))); err != nil {
		return err
	}
	return d.Device.ReadAt(ctx, p, off)
}

// WriteAt implements Device.
func (d *Delayer) WriteAt(ctx context.Context, p []byte, off int64) error {
	if err := d.wait(ctx, OpWrite, off, int64(len(p))); err != nil {
		return err
	}
	return d.Device.WriteAt(ctx, p, off)
}

// Flush implements Device.
func (d *Delayer) Flush(ctx context.Context) error {
	if err := d.wait(ctx, OpFlush, 0, 0); err != nil {
		return err
	}
	return d.Device.Flush(ctx)
}

// Discard implements Device.
func (d *Delayer) Discard(ctx context.Context, off, n int64) error {
	if err := d.wait(ctx, OpDiscard, off, n); err != nil {
		return err
	}
	return d.Device.Discard(ctx, off, n)
}
