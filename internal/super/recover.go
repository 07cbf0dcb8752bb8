package super

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// Scan looks at every sector of a range of bytes for superblocks that are whole, and returns them in the order in which they lie.
// What cannot be read is passed over. Memory is bounded whatever the range.
func Scan(ctx context.Context, dev blockdev.Device, from, to int64) ([]Found, error) {
	const piece = 1 << 20
	var all []Found
	b := make([]byte, piece)
	from, to = max(0, from)&^(ondisk.SectorSize-1), min(to, dev.Size())
	for off := from; off < to; off += piece {
		part := b[:min(piece, to-off)]
		if err := dev.ReadAt(ctx, part, off); err != nil {
			if ctx.Err() != nil {
				return all, ctx.Err()
			}
			continue
		}
		for at := 0; at < len(part); at += ondisk.SectorSize {
			if !ondisk.IsSuperblock(part[at:]) {
				continue
			}
			sector := ondisk.Sector((off + int64(at)) / ondisk.SectorSize)
			sb, err := ReadAt(ctx, dev, sector)
			switch {
			case ctx.Err() != nil:
				return all, ctx.Err()
			case err == nil:
				all = append(all, Found{Superblock: sb, Sector: sector})
			}
		}
	}
	return all, nil
}

// Places returns the superblocks that are whole at the places where they may be expected: those of a layout that is left, and where
// formatting puts them.
func Places(ctx context.Context, dev blockdev.Device) ([]Found, error) {
	places := append(usualPlaces(dev.Size()), ondisk.SuperblockSector)
	if l, err := ReadLayout(ctx, dev); err == nil {
		places = append(places, l.Sectors()...)
	}
	slices.Sort(places)
	var all []Found
	for _, at := range slices.Compact(places) {
		sb, err := ReadAt(ctx, dev, at)
		switch {
		case ctx.Err() != nil:
			return all, ctx.Err()
		case err == nil:
			all = append(all, Found{Superblock: sb, Sector: at})
		}
	}
	return all, nil
}

// Newest sorts what was found by filesystem and returns the newest superblock of each, the filesystem that was written last first.
func Newest(all []Found) []Found {
	best := map[ondisk.UUID]Found{}
	for _, f := range all {
		if b, ok := best[f.UUID]; !ok || (Candidate{SB: f.Superblock}).Newer(Candidate{SB: b.Superblock}) {
			best[f.UUID] = f
		}
	}
	list := make([]Found, 0, len(best))
	for _, f := range best {
		list = append(list, f)
	}
	slices.SortFunc(list, func(a, b Found) int {
		return cmp.Or(cmp.Compare(lastUse(b.Superblock), lastUse(a.Superblock)), slices.Compare(a.UUID[:], b.UUID[:]))
	})
	return list
}

// lastUse is when a filesystem was last written, mounted or made, in seconds since 1970.
func lastUse(sb *ondisk.Superblock) uint64 {
	last := max(sb.WriteTime, sb.TimeBase/1e9)
	if members, err := sb.Members(); err == nil {
		for i := range members {
			last = max(last, members[i].LastMount)
		}
	}
	return last
}

// FromMember makes the superblock of a device from that of another member of its filesystem. Where its journal lay the other's does
// not say: it has none, and the next mount makes one, unless the caller knows better.
func FromMember(src *ondisk.Superblock, index int, deviceSize int64) (*ondisk.Superblock, error) {
	members, err := src.Members()
	if err != nil {
		return nil, err
	}
	if index < 0 || index >= len(members) || !members[index].Alive() {
		return nil, fmt.Errorf("the filesystem has no device %d", index)
	}
	if index == int(src.DevIdx) {
		return nil, fmt.Errorf("device %d is the one that it would be recovered from", index)
	}
	m := &members[index]
	if need := m.Bytes(); need > deviceSize {
		return nil, fmt.Errorf("device %d has %d bytes, this one %d", index, need, deviceSize)
	}
	sb := clone(src)
	sb.Layout, err = newLayout(ondisk.SectorSize<<src.Layout.MaxSizeBits, deviceSize, m.BucketBytes(), int64(src.BlockBytes()))
	if err != nil {
		return nil, err
	}
	sb.DevIdx, sb.Offset = uint8(index), sb.Layout.Offsets[0]
	sb.SetDefaultMagic()
	sb.SetSection(ondisk.SectionJournal, nil)
	sb.SetSection(ondisk.SectionJournalV2, nil)
	return sb, sb.Validate(ondisk.ValidateRead)
}
