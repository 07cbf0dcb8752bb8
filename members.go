package bcachefs

import (
	"context"
	"fmt"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/engine"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// members is what reading data needs to know of the devices.
type members struct{ engine *engine.FS }

func (m members) Device(dev uint8) blockdev.Device { return m.engine.Device(dev) }

func (m members) DeviceName(dev uint8) string {
	member := m.engine.Member(dev)
	switch {
	case member == nil:
		return "(no such device)"
	case member.Device == nil:
		return member.Name()
	}
	return member.Device.Name()
}

// Stale looks up the generation of a bucket.
func (m members) Stale(ctx context.Context, dev uint8, sector ondisk.Sector, gen uint8) (bool, error) {
	member := m.engine.Member(dev)
	if member == nil || member.BucketSize == 0 {
		return true, nil
	}
	bucket := uint64(sector) / uint64(member.BucketSize)
	k, ok, err := m.engine.Reader.Lookup(ctx, ondisk.BtreeAlloc, ondisk.Pos{Inode: uint64(dev), Offset: bucket})
	if err != nil {
		return false, fmt.Errorf("whether bucket %d was reused is not known: %w", bucket, err)
	}
	var now uint8
	if ok {
		a, err := ondisk.DecodeAlloc(k)
		if err != nil {
			return false, fmt.Errorf("whether bucket %d was reused is not known: %w", bucket, err)
		}
		now = a.Gen
	}
	return now != gen, nil
}

// Codes of targets, as options have them: 0 is none, then come devices, then labels.
const (
	targetDevice = 1
	targetLabel  = 256
)

// targetName names a target as options do: a device by its path, a label by its own.
func (f *FS) targetName(code uint32) string {
	switch {
	case code == 0:
		return "none"
	case code < targetLabel:
		if m := f.engine.Member(uint8(code - targetDevice)); m != nil && m.Path != "" {
			return m.Path
		}
		return fmt.Sprintf("device %d", code-targetDevice)
	}
	if name := f.engine.SB.GroupPath(int(code - targetLabel)); name != "" {
		return name
	}
	return fmt.Sprintf("label %d", code-targetLabel)
}
