package super

import (
	"errors"
	"fmt"
	"math"
	"math/bits"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// Sizes that formatting chooses by default or must keep to, in bytes unless said otherwise.
const (
	DefaultSuperblockSize = 1 << 20
	defaultNodeSize       = 256 << 10
	usualBucket           = 128 << 10 // buckets are at least this large if the device is not too small
	largestPicked         = 1 << 20   // and at most this large unless asked for
	maxBlock              = 4096      // a page
	maxDefaultBlock       = maxBlock
	minNode               = 16 << 10 // and minNodeBlocks: with less, the driver of version 1.13 uses up all space and hangs
	minNodeBlocks         = 8
	minBuckets            = 64
	maxBuckets            = 1<<31 - 1 - 64
	maxBucketSectors      = math.MaxUint16
)

// geometry is what the sizes of a new filesystem are.
type geometry struct {
	block, node int64
	buckets     []int64 // size, by device
}

// chooseGeometry decides on the sizes that were not asked for, as the reference's bch2_format does. block and node are 0 if
// they were not.
func chooseGeometry(devs []Device, block, node int64) (*geometry, error) {
	g := &geometry{block: block, node: node}
	for i := range devs {
		if d := &devs[i]; block == 0 {
			g.block = max(g.block, d.MinBlock, min(d.Block, maxDefaultBlock), ondisk.SectorSize)
		} else if block < d.MinBlock {
			return nil, fmt.Errorf("block_size: %d bytes, but %s has blocks of %d", block, d.Name, d.MinBlock)
		}
	}
	if g.block > maxBlock {
		return nil, fmt.Errorf("blocks of %d bytes: version %v allows at most %d", g.block, ondisk.VersionDefault, maxBlock)
	}
	least := int64(math.MaxInt64)
	for i := range devs {
		d := &devs[i]
		if d.Size < minBuckets*g.block {
			return nil, fmt.Errorf("%s: too small: %d bytes, want at least %d", d.Name, d.Size, minBuckets*g.block)
		}
		size := d.BucketSize
		if size == 0 {
			size = pickBucket(d.Size, g.block, node)
		}
		least = min(least, size)
	}
	for i := range devs {
		size := devs[i].BucketSize
		if size == 0 {
			size = least
		}
		g.buckets = append(g.buckets, size)
		if err := checkBucket(size, &devs[i], g.block, node); err != nil {
			return nil, fmt.Errorf("%s: %w", devs[i].Name, err)
		}
	}
	if g.node == 0 {
		g.node = defaultNodeSize
		for _, size := range g.buckets {
			g.node = min(g.node, size)
		}
		g.node = floorPow2(g.node) // buckets need not be a power of two, nodes must
	}
	if least := max(minNode, minNodeBlocks*g.block); g.node < least {
		return nil, fmt.Errorf("btree nodes of %d bytes: the driver needs at least %d, and buckets as large", g.node, least)
	}
	return g, nil
}

// pickBucket chooses the size of a device's buckets: the larger the device, the larger, but so that there are enough of them.
func pickBucket(size, block, node int64) int64 {
	bucket := max(block, node, usualBucket)
	if size < minBuckets*bucket {
		for size < minBuckets*bucket {
			bucket /= 2
		}
		return bucket
	}
	scale := max(1, (bits.Len64(uint64(size/(minBuckets*bucket)))-1)/4)
	return min(bucket*floorPow2(int64(scale)), largestPicked)
}

func floorPow2(n int64) int64 { return 1 << (bits.Len64(uint64(n)) - 1) }

func checkBucket(size int64, d *Device, block, node int64) error {
	switch n := d.Size / size; {
	case size%ondisk.SectorSize != 0:
		return fmt.Errorf("buckets of %d bytes are no whole sectors", size)
	case size < block:
		return fmt.Errorf("buckets of %d bytes are smaller than blocks of %d", size, block)
	case size%block != 0:
		return fmt.Errorf("buckets of %d bytes are no whole blocks of %d", size, block)
	case node != 0 && size < node:
		return fmt.Errorf("buckets of %d bytes are smaller than btree nodes of %d", size, node)
	case size > maxBucketSectors*ondisk.SectorSize:
		return fmt.Errorf("buckets of %d bytes: want at most %d", size, maxBucketSectors*ondisk.SectorSize)
	case n < minBuckets:
		return fmt.Errorf("%d buckets of %d bytes: want at least %d", n, size, minBuckets)
	case n > maxBuckets:
		return fmt.Errorf("%d buckets of %d bytes: want at most %d, so larger ones", n, size, maxBuckets)
	}
	return nil
}

// Limits on the size that superblocks may grow to, in sectors: what holds two members, and what is read.
const (
	minSuperblockSectors = 8
	maxSuperblockSectors = 1 << 16
)

// newLayout says where the copies of a superblock are: the first at the usual place, one behind it, and one at the end of the
// device, at the start of a bucket. bytes is how large they may grow, of which the power of two below is taken.
func newLayout(bytes, deviceSize, bucket, block int64) (ondisk.Layout, error) {
	sectors := bytes / ondisk.SectorSize
	if sectors < minSuperblockSectors || sectors > maxSuperblockSectors {
		return ondisk.Layout{}, fmt.Errorf("superblocks of %d bytes: want %d to %d", bytes,
			minSuperblockSectors*ondisk.SectorSize, maxSuperblockSectors*ondisk.SectorSize)
	}
	blockSectors := block / ondisk.SectorSize
	end := deviceSize / ondisk.SectorSize
	second := (ondisk.SuperblockSector + sectors + blockSectors - 1) / blockSectors * blockSectors
	size := floorPow2(sectors)
	last := (end - size) / (bucket / ondisk.SectorSize) * (bucket / ondisk.SectorSize)
	if last < second+size {
		return ondisk.Layout{}, errors.New("no room for three superblocks: use smaller ones, by superblock_size")
	}
	l := ondisk.Layout{MaxSizeBits: uint8(bits.Len64(uint64(size)) - 1), Copies: 3}
	l.Offsets[0], l.Offsets[1], l.Offsets[2] = ondisk.SuperblockSector, ondisk.Sector(second), ondisk.Sector(last)
	return l, nil
}
