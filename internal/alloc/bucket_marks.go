package alloc

import (
	"context"
	"fmt"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// superblockSector is where the first superblock of a device is.
const superblockSector = 8

// MetadataSpan is part of a bucket that holds a superblock or is a journal bucket.
type MetadataSpan struct {
	Bucket  ondisk.Bucket
	Type    ondisk.DataType
	Sectors uint32
}

// MetadataBuckets returns the buckets of a device that its superblocks and its journal take, with the sectors that are used of
// them (spec/04 § 6.7). What lies behind the last bucket is left out, as the last superblock may.
func MetadataBuckets(dev *Device, layout *ondisk.Layout, journal []ondisk.SeqRange) []MetadataSpan {
	var spans []MetadataSpan
	add := func(start, end ondisk.Sector) {
		for start < end {
			b, off := dev.Bucket(start)
			n := min(uint64(end-start), uint64(dev.BucketSize-off))
			start += ondisk.Sector(n)
			switch last := len(spans) - 1; {
			case b >= dev.NBuckets:
			case last >= 0 && spans[last].Bucket == b:
				spans[last].Sectors += uint32(n)
			default:
				spans = append(spans, MetadataSpan{b, ondisk.DataSB, uint32(n)})
			}
		}
	}
	for _, s := range layout.Sectors() {
		if s == superblockSector {
			add(0, s)
		}
		add(s, s+1<<layout.MaxSizeBits)
	}
	for _, r := range journal {
		for b := r.Start; b < r.End && b < uint64(dev.NBuckets); b++ {
			spans = append(spans, MetadataSpan{ondisk.Bucket(b), ondisk.DataJournal, dev.BucketSize})
		}
	}
	return spans
}

// MarkMetadata sees to it that the alloc keys of a device say which buckets its superblocks and its journal take, with one
// transaction for each.
func MarkMetadata(ctx context.Context, run Runner, dev *Device, layout *ondisk.Layout, journal []ondisk.SeqRange) error {
	for _, s := range MetadataBuckets(dev, layout, journal) {
		if err := run(ctx, func(tx Tx) error { return MarkMetadataBucket(tx, dev, s) }); err != nil {
			return fmt.Errorf("marking bucket %d of device %d as %v: %w", s.Bucket, dev.Index, s.Type, err)
		}
	}
	return nil
}

// MarkMetadataBucket makes the alloc key of a bucket say that it holds a superblock, or is a journal bucket; of type free, that it
// is neither any more. Nothing is updated if it says so already.
func MarkMetadataBucket(tx Tx, dev *Device, s MetadataSpan) error {
	if !isHiddenType(s.Type) && s.Type != ondisk.DataFree {
		return fmt.Errorf("buckets of type %v are not marked", s.Type)
	}
	if s.Type == ondisk.DataFree {
		s.Sectors = 0
	}
	a, err := GetAlloc(tx, dev.Index, s.Bucket, ForUpdate)
	if err != nil {
		return err
	}
	if (s.Type != ondisk.DataFree || !isHiddenType(a.DataType)) && a.DataType != s.Type && !a.DataType.IsEmpty() {
		return bucketError(tx, "bucket_metadata_type_mismatch", dev, s.Bucket, &a, allocOwner(dev, s.Bucket),
			fmt.Sprintf("it is to be marked as %v", s.Type))
	}
	if a.DataType == s.Type && a.DirtySectors == s.Sectors || s.Type == ondisk.DataFree && a.DataType.IsEmpty() {
		return nil
	}
	a.DataType, a.DirtySectors = s.Type, s.Sectors
	return SetAlloc(tx, dev.Index, s.Bucket, &a, 0)
}

// InitDeviceCounters counts the buckets of a new device as free: what becomes of them is counted by the changes of their alloc keys.
func InitDeviceCounters(tx Tx, dev *Device) {
	tx.Account(devDataType(dev.Index, ondisk.DataFree), int64(dev.NBuckets-dev.FirstBucket), 0, 0)
}
