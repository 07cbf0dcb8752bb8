package super

import (
	"context"
	"fmt"
	"sync"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// bootArea is what stands before the first superblock, in bytes: zeros, and at its end the layout.
const bootArea = ondisk.SuperblockSector * ondisk.SectorSize

// WriteNew writes the superblocks of a new filesystem, one for each device, and makes them durable. What the devices held
// before must be gone already, see package foreign. The first copies come last: as long as one of them is missing,
// formatting has not ended.
func WriteNew(ctx context.Context, devs []blockdev.Device, sbs []*ondisk.Superblock) error {
	steps := []func(dev blockdev.Device, sb *ondisk.Superblock) error{
		func(dev blockdev.Device, _ *ondisk.Superblock) error {
			if err := dev.WriteAt(ctx, make([]byte, bootArea), 0); err != nil {
				return err
			}
			return dev.Flush(ctx)
		},
		func(dev blockdev.Device, sb *ondisk.Superblock) error { return writeBackups(ctx, dev, sb) },
		func(dev blockdev.Device, sb *ondisk.Superblock) error { return writeFirst(ctx, dev, sb) },
	}
	for _, step := range steps {
		var wg sync.WaitGroup
		errs := make([]error, len(devs))
		for i := range devs {
			wg.Go(func() { errs[i] = step(devs[i], sbs[i]) })
		}
		wg.Wait()
		for _, err := range errs {
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// writeBackups writes all copies but the first.
func writeBackups(ctx context.Context, dev blockdev.Device, sb *ondisk.Superblock) error {
	for n := 1; n < int(sb.Layout.Copies); n++ {
		if err := writeCopy(ctx, dev, sb, n); err != nil {
			return err
		}
	}
	return nil
}

// writeFirst writes the layout in front of the first copy, and that.
func writeFirst(ctx context.Context, dev blockdev.Device, sb *ondisk.Superblock) error {
	if sb.Layout.Offsets[0] == ondisk.SuperblockSector {
		// What else is in the block of the layout stays: boot loaders may live there.
		b := make([]byte, sb.BlockBytes())
		off := int64(bootArea - len(b))
		if err := dev.ReadAt(ctx, b, off); err != nil {
			return err
		}
		copy(b[len(b)-ondisk.LayoutSize:], sb.Layout.Encode())
		if err := dev.WriteAt(ctx, b, off); err != nil {
			return err
		}
	}
	return writeCopy(ctx, dev, sb, 0)
}

// Restore writes a superblock that was found on a device, or made by [FromMember], to all places of its layout, and the layout
// itself. The copies at the end come first: should power be cut they can be found again.
func Restore(ctx context.Context, dev blockdev.Device, sb *ondisk.Superblock) error {
	if sb.BlockBytes() > bootArea {
		return fmt.Errorf("%s: blocks of %d bytes leave no room for the layout", dev.Name(), sb.BlockBytes())
	}
	sb = clone(sb)
	sb.SetDefaultMagic()
	if err := sb.Validate(ondisk.ValidateRead); err != nil {
		return fmt.Errorf("%s: %w", dev.Name(), err)
	}
	if err := writeBackups(ctx, dev, sb); err != nil {
		return err
	}
	return writeFirst(ctx, dev, sb)
}
