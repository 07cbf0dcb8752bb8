package bcachefs_test

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
)

// sickDevice fails all reads when told.
type sickDevice struct {
	blockdev.Device
	fail atomic.Bool
}

func (d *sickDevice) ReadAt(ctx context.Context, p []byte, off int64) error {
	if d.fail.Load() {
		return errors.New("medium error")
	}
	return d.Device.ReadAt(ctx, p, off)
}

func (d *sickDevice) WriteAt(context.Context, []byte, int64) error { panic("a device was written to") }
func (d *sickDevice) Discard(context.Context, int64, int64) error  { panic("a device was written to") }
