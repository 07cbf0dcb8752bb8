package super

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// maxBytes is the size of the largest superblock.
const maxBytes = ondisk.SectorSize << 16

// ErrNone means that a device holds no bcachefs superblock that can be used.
var ErrNone = errors.New("no usable bcachefs superblock")

// Found is the best superblock of a device.
type Found struct {
	*ondisk.Superblock
	Sector ondisk.Sector // where it lies
	// Problems are the other copies that cannot be used, in words.
	Problems []string
}

// Read reads the copies of a device's superblock and returns the valid one that was written last. With only != 0, that sector
// alone is read. What else ails the device's copies is noted in Problems. The error wraps [ErrNone] if none can be used.
//
// Copies are found by the layout in the first one; if that is damaged, by the layout in front of it; if that is too, where
// formatting puts them.
func Read(ctx context.Context, dev blockdev.Device, only ondisk.Sector) (*Found, error) {
	if only != 0 {
		sb, err := ReadAt(ctx, dev, only)
		if err != nil {
			return nil, err
		}
		return &Found{Superblock: sb, Sector: only}, nil
	}
	var r Found
	first, firstErr := ReadAt(ctx, dev, ondisk.SuperblockSector)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	var places []ondisk.Sector
	guessed := false
	if firstErr == nil {
		r.Superblock, r.Sector = first, ondisk.SuperblockSector
		places = first.Layout.Sectors()
	} else {
		r.note("superblock at sector %d: %v", ondisk.SuperblockSector, firstErr)
		layout, err := ReadLayout(ctx, dev)
		if err == nil {
			places = layout.Sectors()
		} else {
			r.note("superblock layout at sector %d: %v", ondisk.LayoutSector, err)
			places, guessed = usualPlaces(dev.Size()), true
		}
	}
	for _, at := range places {
		if at == ondisk.SuperblockSector {
			continue
		}
		sb, err := ReadAt(ctx, dev, at)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil && guessed: // no wonder
		case err != nil:
			r.note("superblock at sector %d: %v", at, err)
		case r.Superblock == nil || r.older(sb):
			r.Superblock, r.Sector = sb, at
		case sb.UUID != r.UUID:
			r.note("superblock at sector %d: of another filesystem, with uuid %v", at, sb.UserUUID)
		}
	}
	if r.Superblock == nil {
		return nil, fmt.Errorf("%w: %w", ErrNone, firstErr)
	}
	return &r, nil
}

// older reports whether sb was written after the superblock of r. Of another filesystem, which formatting left behind, only
// the time tells something; a first superblock that is sound says to which one the device belongs.
func (r *Found) older(sb *ondisk.Superblock) bool {
	if sb.UUID == r.UUID {
		return sb.Seq > r.Seq
	}
	return r.Sector != ondisk.SuperblockSector && sb.WriteTime > r.WriteTime
}

func (r *Found) note(format string, args ...any) {
	r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
}

// ReadAt reads and checks the copy at a sector.
func ReadAt(ctx context.Context, dev blockdev.Device, at ondisk.Sector) (*ondisk.Superblock, error) {
	const piece = 4096
	off := int64(at) * ondisk.SectorSize
	if off < 0 || off+ondisk.SuperblockFixed > dev.Size() {
		return nil, fmt.Errorf("sector %d is behind the end of the device", at)
	}
	b := make([]byte, min(piece, dev.Size()-off))
	if err := dev.ReadAt(ctx, b, off); err != nil {
		return nil, err
	}
	if !ondisk.IsSuperblock(b) {
		return nil, errors.New("no bcachefs superblock")
	}
	size, err := ondisk.SuperblockBytes(b)
	if err != nil || size > maxBytes || size > dev.Size()-off {
		return nil, fmt.Errorf("superblock of %d bytes", size)
	}
	if size > int64(len(b)) {
		// Whole sectors, for devices that are read directly.
		whole := (size + ondisk.SectorSize - 1) / ondisk.SectorSize * ondisk.SectorSize
		b = make([]byte, min(whole, dev.Size()-off))
		if err := dev.ReadAt(ctx, b, off); err != nil {
			return nil, err
		}
	}
	return ondisk.DecodeSuperblock(b[:size])
}

// ReadLayout reads and checks the copy of the layout that stands in front of the first superblock.
func ReadLayout(ctx context.Context, dev blockdev.Device) (*ondisk.Layout, error) {
	b := make([]byte, ondisk.LayoutSize)
	if err := dev.ReadAt(ctx, b, ondisk.LayoutSector*ondisk.SectorSize); err != nil {
		return nil, err
	}
	return ondisk.DecodeLayout(b)
}

// usualPlaces are the sectors where formatting puts the second copy, for each maximal size of superblocks there may be, and
// the last one, at the end of the device.
func usualPlaces(size int64) []ondisk.Sector {
	var places []ondisk.Sector
	end := ondisk.Sector(size / ondisk.SectorSize)
	for bits := 4; bits <= 16; bits++ {
		n := ondisk.Sector(1) << bits
		places = append(places, ondisk.SuperblockSector+n)
		if end > n {
			places = append(places, end-n, end&^(n-1)-n)
		}
	}
	slices.Sort(places)
	return slices.Compact(places)
}
