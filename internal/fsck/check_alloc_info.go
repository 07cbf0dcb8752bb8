package fsck

import (
	"context"
	"math"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// checkAllocInfo compares the alloc btree with what is derived from it, both ways: freespace, need_discard, bucket_gens and, from 1.35 on,
// bucket_to_stripe.
//
// All of them are in order of buckets (but need_discard from 1.38 on, and the few free buckets whose generations are far apart), so that
// they are read side by side. Buckets without alloc key are free, of generation 0.
func (c *checker) checkAllocInfo(ctx context.Context) error {
	if !c.initialized() {
		return nil
	}
	if err := c.checkAllocPositions(ctx); err != nil {
		return err
	}
	for i := range c.devices {
		d := &c.devices[i]
		if d.BucketSize == 0 {
			continue
		}
		if !d.FreespaceInitialized() {
			c.note("device %d: the freespace btree is still to be made: it was not checked", d.Index)
			continue
		}
		if err := c.checkAllocInfoOf(ctx, d); err != nil {
			return err
		}
	}
	if err := c.checkIndexesOfNoDevice(ctx); err != nil {
		return err
	}
	if c.since(38) {
		if err := c.checkNeedDiscardBySeq(ctx); err != nil {
			return err
		}
	}
	return c.checkBucketToStripe(ctx)
}

// checkAllocPositions looks for alloc keys of buckets that do not exist.
func (c *checker) checkAllocPositions(ctx context.Context) error {
	return c.each(ctx, ondisk.BtreeAlloc, 0, ondisk.PosMin, ondisk.SPosMax, func(k *ondisk.Key) error {
		if c.device(k.Pos.Inode, ondisk.Bucket(k.Pos.Offset)) == nil {
			c.at(idAllocKeyToMissingDevBucket, ondisk.BtreeAlloc, 0, k.Pos, "delete it", "alloc key for nonexistent device or bucket")
		}
		return nil
	})
}

// allocInfo is the state of reading one device's indexes side by side.
type allocInfo struct {
	c           *checker
	d           *Device
	freespace   coverage // of generations that are close to the oldest
	needDiscard coverage // up to 1.37
	gens        gensCursor
}

// checkAllocInfoOf goes over the buckets of one device.
func (c *checker) checkAllocInfoOf(ctx context.Context, d *Device) error {
	dev := uint64(d.Index)
	first, last := ondisk.Pos{Inode: dev}, ondisk.Pos{Inode: dev, Offset: math.MaxUint64, Snapshot: math.MaxUint32}
	alloc := c.cursor(ctx, ondisk.BtreeAlloc, first, last)
	defer alloc.stop()
	in := allocInfo{c: c, d: d}
	in.freespace = coverage{cursor: c.cursor(ctx, ondisk.BtreeFreespace, first, ondisk.Pos{Inode: dev, Offset: 1 << freespaceGenShift})}
	defer in.freespace.stop()
	in.needDiscard = coverage{cursor: &cursor{stop: func() {}}}
	if !c.since(38) {
		in.needDiscard.cursor = c.cursor(ctx, ondisk.BtreeNeedDiscard, first, last)
	}
	defer in.needDiscard.stop()
	in.gens = gensCursor{cursor: c.cursor(ctx, ondisk.BtreeBucketGens, first, last)}
	defer in.gens.stop()

	begin, end := uint64(d.FirstBucket), d.NBuckets
	in.outside(0, begin)
	at := begin
	for ; alloc.key != nil; alloc.advance() {
		b := alloc.key.Pos.Offset
		a, err := ondisk.DecodeAlloc(*alloc.key)
		if b < at || b >= end || err != nil {
			continue
		}
		in.hole(at, b)
		a = a.Upgrade()
		if err := in.bucket(ctx, b, &a); err != nil {
			return err
		}
		at = b + 1
	}
	in.hole(at, end)
	in.outside(end, 1<<freespaceGenShift)
	if err := ctx.Err(); err != nil {
		return err
	}
	return c.checkFarFreespace(ctx, d)
}

// freespaceGenShift is where a freespace position holds the distance of generations.
const freespaceGenShift = 56

// coverage is a cursor over ranges of buckets, which are taken from front to back.
type coverage struct {
	*cursor
	at, end uint64 // of the key before cursor.key, what was not taken yet
}

// take calls fn for the parts of from … to, which is exclusive, with whether they are covered. Calls must go upwards.
func (v *coverage) take(from, to uint64, fn func(from, to uint64, covered bool)) {
	for from < to {
		for v.end <= from && v.key != nil {
			v.end = v.key.Pos.Offset
			v.at = v.end - uint64(v.key.Size)
			if v.key.Size == 0 { // not of an extent btree: the position itself
				v.at, v.end = v.key.Pos.Offset, v.key.Pos.Offset+1
			}
			v.advance()
		}
		switch {
		case v.end <= from || v.at >= to:
			fn(from, to, false)
			return
		case v.at > from:
			fn(from, v.at, false)
			from = v.at
		}
		n := min(v.end, to)
		fn(from, n, true)
		from = n
	}
}

// gensCursor is a cursor over the keys of bucket_gens.
type gensCursor struct{ *cursor }

// take calls fn for the buckets of from … to, which is exclusive, whose stored generation is not 0. Calls must go upwards.
func (g *gensCursor) take(from, to uint64, fn func(b uint64, gen uint8)) {
	for ; g.key != nil && from < to; g.advance() {
		first := g.key.Pos.Offset << 8
		if g.key.Pos.Offset >= 1<<56 || first >= to {
			return
		}
		if gens, err := ondisk.DecodeBucketGens(*g.key); err == nil {
			for b := max(from, first); b < min(to, first+256); b++ {
				if gen := gens[b-first]; gen != 0 {
					fn(b, gen)
				}
			}
		}
		if to < first+256 {
			return // the rest of the key is for the next call
		}
	}
}

func (in *allocInfo) pos(b uint64) ondisk.Pos {
	return ondisk.Pos{Inode: uint64(in.d.Index), Offset: b}
}

// lostAt reports whether a btree's keys for the buckets from … to are unknown.
func (in *allocInfo) lostAt(id ondisk.BtreeID, from, to uint64) bool {
	lo, hi := in.pos(from), in.pos(to)
	if id == ondisk.BtreeBucketGens {
		lo.Offset, hi.Offset = from>>8, to>>8
	}
	if id == ondisk.BtreeFreespace {
		hi.Offset++
	}
	return in.c.lost.overlaps(id, lo, hi)
}

// bucket checks a bucket that has an alloc key.
func (in *allocInfo) bucket(ctx context.Context, b uint64, a *ondisk.Alloc) error {
	c := in.c
	in.set(&in.needDiscard, ondisk.BtreeNeedDiscard, b, a.DataType == ondisk.DataNeedDiscard, idNeedDiscardKeyWrong, c.since(38))
	free := a.DataType == ondisk.DataFree
	in.set(&in.freespace, ondisk.BtreeFreespace, b, free && a.FreespaceGenBits() == 0, idFreespaceKeyWrong, false)
	var gen uint8
	in.gens.take(b, b+1, func(_ uint64, g uint8) { gen = g })
	if gen != a.Gen && !in.lostAt(ondisk.BtreeBucketGens, b, b) {
		c.at(idBucketGensKeyWrong, ondisk.BtreeBucketGens, 0, in.pos(b>>8), "set it", "bucket %d:%d has generation %d, should be %d", in.d.Index, b,
			gen, a.Gen)
	}
	if !free || a.FreespaceGenBits() == 0 {
		return nil
	}
	at := in.pos(uint64(a.FreespaceGenBits())<<freespaceGenShift | b)
	there, err := c.covered(ctx, ondisk.BtreeFreespace, at)
	if err == nil && !there && !c.lost.has(ondisk.BtreeFreespace, at) {
		in.wrong(idFreespaceKeyWrong, ondisk.BtreeFreespace, b, "deleted", "set")
	}
	return err
}

// set checks one bucket in one of the btrees whose keys say nothing but that they are there.
func (in *allocInfo) set(v *coverage, id ondisk.BtreeID, b uint64, want bool, wrong ondisk.ErrorID, elsewhere bool) {
	if elsewhere {
		return
	}
	v.take(b, b+1, func(_, _ uint64, covered bool) {
		switch {
		case covered == want, in.lostAt(id, b, b):
		case want:
			in.wrong(wrong, id, b, "deleted", "set")
		default:
			in.wrong(wrong, id, b, "set", "deleted")
		}
	})
}

func (in *allocInfo) wrong(id ondisk.ErrorID, btree ondisk.BtreeID, b uint64, got, want string) {
	in.c.at(id, ondisk.BtreeAlloc, 0, in.pos(b), "set it, or delete it", "incorrect key in %v btree for bucket %d:%d (got %s should be %s)", btree,
		in.d.Index, b, got, want)
}

// hole checks buckets from … to, which is exclusive, that have no alloc key.
func (in *allocInfo) hole(from, to uint64) {
	if from >= to {
		return
	}
	unknown := in.lostAt(ondisk.BtreeAlloc, from, to-1)
	in.freespace.take(from, to, func(from, to uint64, covered bool) {
		if !covered && !unknown && !in.lostAt(ondisk.BtreeFreespace, from, to-1) {
			in.c.at(idFreespaceHoleMissing, ondisk.BtreeAlloc, 0, in.pos(from), "insert it", "hole in alloc btree missing in freespace btree: "+
				"device %d buckets %d-%d", in.d.Index, from, to-1)
		}
	})
	in.needDiscard.take(from, to, func(from, to uint64, covered bool) {
		if covered && !unknown {
			in.c.at(idFreespaceKeyBad, ondisk.BtreeNeedDiscard, 0, in.pos(from), "delete it", "need_discard for device %d buckets %d-%d, which have "+
				"no alloc key", in.d.Index, from, to-1)
		}
	})
	in.gens.take(from, to, func(b uint64, gen uint8) {
		if !unknown {
			in.c.at(idBucketGensHoleWrong, ondisk.BtreeBucketGens, 0, in.pos(b>>8), "set it to 0", "bucket %d:%d has generation %d but no alloc key",
				in.d.Index, b, gen)
		}
	})
}

// outside checks that nothing is said of buckets that the device does not have.
func (in *allocInfo) outside(from, to uint64) {
	extra := func(id ondisk.BtreeID) func(from, to uint64, covered bool) {
		return func(from, to uint64, covered bool) {
			if covered {
				in.c.at(idFreespaceKeyToInvalidDevBucket, id, 0, in.pos(from), "delete it", "%v for nonexistent buckets %d:%d-%d", id, in.d.Index, from,
					to-1)
			}
		}
	}
	in.freespace.take(from, to, extra(ondisk.BtreeFreespace))
	in.needDiscard.take(from, to, extra(ondisk.BtreeNeedDiscard))
	in.gens.take(from, to, func(b uint64, gen uint8) {
		switch whole := b &^ 255; {
		case whole+256 > uint64(in.d.FirstBucket) && whole < in.d.NBuckets:
			in.c.at(idBucketGensNonzeroInvalid, ondisk.BtreeBucketGens, 0, in.pos(b>>8), "set it to 0", "generation %d for nonexistent bucket %d:%d",
				gen, in.d.Index, b)
		default:
			in.c.at(idBucketGensToInvalidBuckets, ondisk.BtreeBucketGens, 0, in.pos(b>>8), "delete it", "generations of nonexistent buckets from "+
				"%d:%d on", in.d.Index, b)
		}
	})
}

// covered reports whether a position of an extent btree is covered by a key.
func (c *checker) covered(ctx context.Context, id ondisk.BtreeID, at ondisk.Pos) (bool, error) {
	from := at
	from.Offset++
	for k, err := range c.fs.Keys(ctx, id, 0, from, ondisk.Pos{Inode: at.Inode, Offset: math.MaxUint64, Snapshot: math.MaxUint32}) {
		if err == nil {
			return !at.Less(k.Start()), nil
		}
		break
	}
	return false, ctx.Err()
}

// checkFarFreespace checks freespace of buckets whose generation is far from the oldest one's: they are behind all others.
func (c *checker) checkFarFreespace(ctx context.Context, d *Device) error {
	dev := uint64(d.Index)
	from := ondisk.Pos{Inode: dev, Offset: 1<<freespaceGenShift + 1}
	to := ondisk.Pos{Inode: dev, Offset: math.MaxUint64, Snapshot: math.MaxUint32}
	done := from.Offset - 1 // up to here keys were looked at: none is to overlap another, but who knows
	return c.each(ctx, ondisk.BtreeFreespace, 0, from, to, func(k *ondisk.Key) error {
		r := ondisk.DecodeFreespace(k)
		if r.GenBits == 0 || r.Len == 0 || k.Pos.Offset <= done {
			return nil
		}
		const mask = 1<<freespaceGenShift - 1
		want, end := uint64(r.First), uint64(r.First)+uint64(r.Len)
		if done > k.Start().Offset {
			want = done & mask
		}
		done = k.Pos.Offset
		bad := func(to uint64) {
			if want < to && !c.lost.overlaps(ondisk.BtreeAlloc, bucketPos(d.Index, ondisk.Bucket(want)), bucketPos(d.Index, ondisk.Bucket(to-1))) {
				c.at(idFreespaceKeyBad, ondisk.BtreeFreespace, 0, k.Pos, "delete it", "freespace for buckets %d:%d-%d with generation bits %d, "+
					"which are not free or of other generations", dev, want, to-1, r.GenBits)
			}
		}
		for a, err := range c.fs.Keys(ctx, ondisk.BtreeAlloc, 0, ondisk.Pos{Inode: dev, Offset: want}, ondisk.Pos{Inode: dev, Offset: end - 1}) {
			if err != nil {
				continue
			}
			v, err := ondisk.DecodeAlloc(a)
			v = v.Upgrade()
			// A free bucket whose freespace key has other bits was told of when its alloc key was looked at.
			if err == nil && (v.DataType != ondisk.DataFree || v.FreespaceGenBits() != r.GenBits) {
				continue
			}
			bad(a.Pos.Offset)
			want = a.Pos.Offset + 1
		}
		bad(end)
		return ctx.Err()
	})
}

// checkIndexesOfNoDevice looks for keys of devices that do not exist.
func (c *checker) checkIndexesOfNoDevice(ctx context.Context) error {
	ids := map[ondisk.BtreeID]ondisk.ErrorID{ondisk.BtreeFreespace: idFreespaceKeyToInvalidDevBucket,
		ondisk.BtreeBucketGens: idBucketGensToInvalidDev}
	if !c.since(38) {
		ids[ondisk.BtreeNeedDiscard] = idFreespaceKeyToInvalidDevBucket
	}
	for btree, id := range ids {
		from := ondisk.PosMin
		for _, to := range append(c.deviceStarts(), ondisk.SPosMax) {
			if from.Less(to) {
				err := c.each(ctx, btree, 0, from, to.Prev(), func(k *ondisk.Key) error {
					c.at(id, btree, 0, k.Pos, "delete it", "there is no device %d", k.Pos.Inode)
					return nil
				})
				if err != nil {
					return err
				}
			}
			from = ondisk.Pos{Inode: to.Inode + 1}
		}
	}
	return nil
}

// deviceStarts are the first positions of each device.
func (c *checker) deviceStarts() []ondisk.Pos {
	var starts []ondisk.Pos
	for i := range c.devices {
		starts = append(starts, ondisk.Pos{Inode: uint64(c.devices[i].Index)})
	}
	return starts
}

// checkNeedDiscardBySeq checks the need_discard btree of 1.38 and later, which is in order of journal entries.
func (c *checker) checkNeedDiscardBySeq(ctx context.Context) error {
	err := c.each(ctx, ondisk.BtreeAlloc, 0, ondisk.PosMin, ondisk.SPosMax, func(k *ondisk.Key) error {
		a, err := ondisk.DecodeAlloc(*k)
		d := c.device(k.Pos.Inode, ondisk.Bucket(k.Pos.Offset))
		if err != nil || a.DataType != ondisk.DataNeedDiscard || d == nil || !d.FreespaceInitialized() {
			return nil
		}
		at := ondisk.NeedDiscard{Dev: k.Pos.Inode, Bucket: ondisk.Bucket(k.Pos.Offset), Seq: a.JournalSeqEmpty}.Pos(c.version)
		_, ok, err := c.get(ctx, ondisk.BtreeNeedDiscard, at)
		if err == nil && !ok && !c.lost.has(ondisk.BtreeNeedDiscard, at) {
			c.at(idNeedDiscardKeyWrong, ondisk.BtreeAlloc, 0, k.Pos, "set it", "incorrect key in need_discard btree for bucket %d:%d (got deleted "+
				"should be set) at %v", k.Pos.Inode, k.Pos.Offset, at)
		}
		return err
	})
	if err != nil {
		return err
	}
	return c.each(ctx, ondisk.BtreeNeedDiscard, 0, ondisk.PosMin, ondisk.SPosMax, func(k *ondisk.Key) error {
		n := ondisk.DecodeNeedDiscard(k.Pos, c.version)
		if c.device(n.Dev, n.Bucket) == nil {
			c.at(idFreespaceKeyToInvalidDevBucket, ondisk.BtreeNeedDiscard, 0, k.Pos, "delete it", "need_discard for nonexistent bucket %d:%d", n.Dev,
				n.Bucket)
			return nil
		}
		a, known, err := c.alloc(ctx, bucketPos(uint8(n.Dev), n.Bucket))
		if known && (a.DataType != ondisk.DataNeedDiscard || a.JournalSeqEmpty != n.Seq) {
			c.at(idFreespaceKeyBad, ondisk.BtreeNeedDiscard, 0, k.Pos, "delete it", "need_discard for bucket %d:%d, which is %v since entry %d", n.Dev,
				n.Bucket, a.DataType, a.JournalSeqEmpty)
		}
		return err
	})
}
