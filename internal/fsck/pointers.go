package fsck

import (
	"context"

	"github.com/go-bcachefs/bcachefs/internal/codec/compress"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// pointer is one pointer of a key and what follows from it for its bucket.
type pointer struct {
	ondisk.DecodedPtr
	sectors uint32          // that it takes of its bucket
	typ     ondisk.DataType // of the bucket, as far as the pointer goes
}

// appendPointers appends the pointers of a key in a node of the given level. What cannot be decoded was told when its node was read.
func (c *checker) appendPointers(dst []pointer, k *ondisk.Key, level uint8) []pointer {
	var buf [ondisk.MaxExtentPtrs]ondisk.DecodedPtr
	ptrs, _, _ := ondisk.AppendExtentPtrs(buf[:0], k, c.types)
	for i := range ptrs {
		p := pointer{DecodedPtr: ptrs[i]}
		p.sectors, p.typ = c.sectorsOf(k, &p.DecodedPtr, level)
		dst = append(dst, p)
	}
	return dst
}

// sectorsOf returns how much of its bucket a pointer takes, and what it makes of it.
func (c *checker) sectorsOf(k *ondisk.Key, p *ondisk.DecodedPtr, level uint8) (uint32, ondisk.DataType) {
	if level > 0 {
		return uint32(c.sb.BtreeNodeSize() / ondisk.SectorSize), ondisk.DataBtree
	}
	n := k.Size
	if p.CRC.Compression.IsCompressed() && p.CRC.UncompressedSize != 0 {
		u := uint64(p.CRC.UncompressedSize)
		n = uint32((uint64(k.Size)*uint64(p.CRC.CompressedSize) + u - 1) / u)
	}
	switch {
	case p.HasStripe:
		return n, ondisk.DataStripe
	case p.Cached:
		return n, ondisk.DataCached
	}
	return n, ondisk.DataUser
}

// bucketOf returns the bucket that a sector of a device is in.
func (d *Device) bucketOf(s ondisk.Sector) ondisk.Bucket {
	return ondisk.Bucket(uint64(s) / uint64(d.BucketSize))
}

// backpointer is a backpointer with its place.
type backpointer struct {
	pos ondisk.Pos
	ondisk.Backpointer
}

// backpointerOf returns the backpointer that belongs to a pointer of a key.
func (c *checker) backpointerOf(d *Device, id ondisk.BtreeID, level uint8, k *ondisk.Key, p *pointer) backpointer {
	b := backpointer{pos: ondisk.BackpointerPos(uint64(p.Dev), p.Offset, p.CRC.Offset, c.bpShift),
		Backpointer: ondisk.Backpointer{Btree: id, Level: level, DataType: p.typ, BucketLen: p.sectors, Pos: k.Pos}}
	if level > 0 {
		b.pos.Offset = uint64(p.Offset) << c.bpShift
	}
	if c.since(14) {
		b.BucketGen = p.Gen
	} else {
		off := uint64(p.Offset) % uint64(d.BucketSize) << ondisk.DefaultBackpointerShift
		b.SetBucketOffset(off + b.pos.Offset - uint64(p.Offset)<<c.bpShift)
	}
	return b
}

// stripeBackpointer returns the backpointer that belongs to a block of a stripe, from 1.22 on. Its length is 0: the reference computes it
// from the size of the key.
func (c *checker) stripeBackpointer(k *ondisk.Key, s *ondisk.Stripe, block int) backpointer {
	p := s.Ptrs[block]
	typ := ondisk.DataUser
	if block >= s.NrData() {
		typ = ondisk.DataParity
	}
	end := uint64(p.Offset) + uint64(s.Sectors)
	return backpointer{pos: ondisk.Pos{Inode: uint64(p.Dev), Offset: end<<c.bpShift - 1},
		Backpointer: ondisk.Backpointer{Btree: ondisk.BtreeStripes, DataType: typ, BucketGen: p.Gen, Pos: k.Pos}}
}

// same compares backpointers but for their flags from 1.33 on, most of which tell what is still to be done.
func (c *checker) sameBackpointer(a, b *ondisk.Backpointer) bool {
	x, y := *a, *b
	if c.since(14) {
		x.Flags, y.Flags = 0, 0
	}
	return x == y
}

// forBackpointers calls fn with each backpointer that the key is to have.
//
// Up to 1.20 cached pointers have none. Later ones have, but not for a bucket that holds other data by now.
func (c *checker) forBackpointers(ctx context.Context, id ondisk.BtreeID, level uint8, k *ondisk.Key, fn func(b *backpointer)) error {
	if id == ondisk.BtreeStripes && level == 0 {
		s, err := ondisk.DecodeStripe(*k)
		if err != nil || !c.since(22) {
			return nil
		}
		for i, p := range s.Ptrs {
			if d := c.byIndex[p.Dev]; d != nil && d.BucketSize != 0 {
				b := c.stripeBackpointer(k, &s, i)
				fn(&b)
			}
		}
		return nil
	}
	var buf [ondisk.MaxExtentPtrs]pointer
	ptrs := c.appendPointers(buf[:0], k, level)
	for i := range ptrs {
		p := &ptrs[i]
		d := c.byIndex[p.Dev]
		if d == nil || d.BucketSize == 0 || !d.holds(d.bucketOf(p.Offset)) {
			continue
		}
		if p.Cached {
			if !c.since(21) {
				continue
			}
			if stale, err := c.stale(ctx, d, p); stale || err != nil {
				if err != nil {
					return err
				}
				continue
			}
		}
		b := c.backpointerOf(d, id, level, k, p)
		fn(&b)
	}
	return nil
}

// stale reports whether the bucket of a pointer has another generation, or one that cannot be known.
func (c *checker) stale(ctx context.Context, d *Device, p *pointer) (bool, error) {
	pos := ondisk.Pos{Inode: uint64(p.Dev), Offset: uint64(d.bucketOf(p.Offset))}
	a, known, err := c.alloc(ctx, pos)
	return !known || a.Gen != p.Gen, err
}

// alloc returns the state of a bucket, the zero value if it has no key; known is false if its key cannot be read.
func (c *checker) alloc(ctx context.Context, pos ondisk.Pos) (a ondisk.Alloc, known bool, err error) {
	k, ok, err := c.get(ctx, ondisk.BtreeAlloc, pos)
	switch {
	case err != nil:
		return a, false, err
	case !ok:
		return a, !c.lost.has(ondisk.BtreeAlloc, pos), nil
	}
	if a, err = ondisk.DecodeAlloc(k); err != nil {
		return ondisk.Alloc{}, true, nil // as the reader of the node would have it
	}
	return a.Upgrade(), true, nil
}

// get is the filesystem's Get, in which what damage hides is not there. The error is the context's.
func (c *checker) get(ctx context.Context, id ondisk.BtreeID, pos ondisk.Pos) (ondisk.Key, bool, error) {
	k, ok, err := c.fs.Get(ctx, id, pos)
	if err != nil {
		return ondisk.Key{}, false, ctx.Err()
	}
	return k, ok, nil
}

// compressionOption turns the type in an option's low half into what extents are marked with.
func compressionOption(v uint8) compress.Type {
	types := [...]compress.Type{compress.None, compress.LZ4, compress.Gzip, compress.Zstd}
	if t := v & 15; int(t) < len(types) {
		return types[t]
	}
	return compress.None
}
