package engine

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// Where superblocks are, in sectors, and how large they may be.
const (
	sbSector       = 8
	sbLayoutSector = 7
	sbFixedBytes   = 752
	sbU64sAt       = 124
	sbMaxBytes     = ondisk.SectorSize << 16
)

// ErrNoSuperblock means that a device holds no bcachefs superblock that can be used.
var ErrNoSuperblock = errors.New("no usable bcachefs superblock")

// superRead is the best superblock of a device.
type superRead struct {
	*ondisk.Superblock
	sector ondisk.Sector // where it lies
	// problems are the other copies that cannot be used, in words.
	problems []string
}

// readSuper reads the copies of a device's superblock and returns the valid one that was written last. With only != 0, that sector
// alone is read. What else ails the device's copies is noted in problems.
//
// Copies are found by the layout in the first one; if that is damaged, by the layout in front of it; if that is too, where
// formatting puts them.
func readSuper(ctx context.Context, dev blockdev.Device, only ondisk.Sector) (*superRead, error) {
	if only != 0 {
		sb, err := readSuperAt(ctx, dev, only)
		if err != nil {
			return nil, err
		}
		return &superRead{Superblock: sb, sector: only}, nil
	}
	var r superRead
	first, firstErr := readSuperAt(ctx, dev, sbSector)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	var places []ondisk.Sector
	guessed := false
	if firstErr == nil {
		r.Superblock, r.sector = first, sbSector
		places = first.Layout.Sectors()
	} else {
		r.note("superblock at sector %d: %v", sbSector, firstErr)
		layout, err := readLayout(ctx, dev)
		if err == nil {
			places = layout.Sectors()
		} else {
			r.note("superblock layout at sector %d: %v", sbLayoutSector, err)
			places, guessed = usualPlaces(dev.Size()), true
		}
	}
	for _, at := range places {
		if at == sbSector {
			continue
		}
		sb, err := readSuperAt(ctx, dev, at)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil && guessed: // no wonder
		case err != nil:
			r.note("superblock at sector %d: %v", at, err)
		case r.Superblock == nil || r.older(sb):
			r.Superblock, r.sector = sb, at
		case sb.UUID != r.UUID:
			r.note("superblock at sector %d: of another filesystem, with uuid %v", at, sb.UserUUID)
		}
	}
	if r.Superblock == nil {
		return nil, fmt.Errorf("%w: %w", ErrNoSuperblock, firstErr)
	}
	return &r, nil
}

// older reports whether sb was written after the superblock of r. Of another filesystem, which formatting left behind, only
// the time tells something; a first superblock that is sound says to which one the device belongs.
func (r *superRead) older(sb *ondisk.Superblock) bool {
	if sb.UUID == r.UUID {
		return sb.Seq > r.Seq
	}
	return r.sector != sbSector && sb.WriteTime > r.WriteTime
}

func (r *superRead) note(format string, args ...any) {
	r.problems = append(r.problems, fmt.Sprintf(format, args...))
}

// readSuperAt reads and checks one copy.
func readSuperAt(ctx context.Context, dev blockdev.Device, at ondisk.Sector) (*ondisk.Superblock, error) {
	const piece = 4096
	off := int64(at) * ondisk.SectorSize
	if off < 0 || off+sbFixedBytes > dev.Size() {
		return nil, fmt.Errorf("sector %d is behind the end of the device", at)
	}
	b := make([]byte, min(piece, dev.Size()-off))
	if err := dev.ReadAt(ctx, b, off); err != nil {
		return nil, err
	}
	if !ondisk.IsSuperblock(b) {
		return nil, errors.New("no bcachefs superblock")
	}
	size := sbFixedBytes + 8*int64(binary.LittleEndian.Uint32(b[sbU64sAt:]))
	if size > sbMaxBytes || size > dev.Size()-off {
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

func readLayout(ctx context.Context, dev blockdev.Device) (*ondisk.Layout, error) {
	b := make([]byte, ondisk.SectorSize)
	if err := dev.ReadAt(ctx, b, sbLayoutSector*ondisk.SectorSize); err != nil {
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
		places = append(places, sbSector+n)
		if end > n {
			places = append(places, end-n, end&^(n-1)-n)
		}
	}
	slices.Sort(places)
	return slices.Compact(places)
}
