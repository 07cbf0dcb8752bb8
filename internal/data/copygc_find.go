package data

import (
	"cmp"
	"context"
	"slices"

	"github.com/go-bcachefs/bcachefs/internal/alloc"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// gcBucket is a bucket that may be emptied.
type gcBucket struct {
	dev    *alloc.DevSpace
	bucket ondisk.Bucket
	time   uint64 // in the fragmentation LRU: how full it is
}

// candidates returns some buckets of devices, the emptiest first.
func (g *CopyGC) candidates(ctx context.Context, devs alloc.DevSet) ([]gcBucket, error) {
	if err := g.w.cfg.Store.FlushWriteBuffer(ctx); err != nil {
		return nil, err
	}
	found, listed, err := g.fromLRU(ctx, devs)
	if err != nil || len(found) > 0 {
		return found, err
	}
	now := g.cfg.Clock()
	if now < g.nextScan {
		return nil, nil
	}
	if devs = devs.Without(listed); devs.Len() == 0 {
		return nil, nil
	}
	g.nextScan = now + g.pause()
	return g.fromAlloc(ctx, devs)
}

// fromLRU looks into the fragmentation LRU. listed are the devices of which it has any buckets that may be emptied.
func (g *CopyGC) fromLRU(ctx context.Context, devs alloc.DevSet) (found []gcBucket, listed alloc.DevSet, err error) {
	const batch = 256
	from := ondisk.LRUPos{ID: ondisk.LRUFragmentation}.Pos()
	to := ondisk.LRUPos{ID: ondisk.LRUFragmentation, Time: ondisk.LRUTimeMax, Offset: ^uint64(0)}.Pos()
	for {
		var entries []ondisk.LRUPos
		err := g.w.cfg.Store.View(ctx, func(tx *trans.Tx) error {
			entries = entries[:0]
			return tx.Scan(ondisk.BtreeLRU, from, to, 0, func(k ondisk.Key, _ ondisk.Pos) (bool, error) {
				entries = append(entries, ondisk.DecodeLRUPos(k.Pos))
				return len(entries) < batch, nil
			})
		})
		if err != nil {
			return nil, listed, err
		}
		for _, e := range entries {
			dev, b := ondisk.SplitDevBucket(e.Offset)
			if dev >= alloc.MaxDevices || !devs.Has(uint8(dev)) {
				continue
			}
			d := g.alloc.DevSpace(uint8(dev))
			if d == nil || !d.Has(b) {
				continue
			}
			c := gcBucket{d, b, e.Time}
			a, err := g.state(ctx, c)
			if err != nil {
				return nil, listed, err
			}
			if a.FragmentationLRU(d.BucketSize) != e.Time {
				continue // it is old
			}
			if !g.isCandidate(d, b, &a) {
				continue // one that is being written to, say, of which there always are some
			}
			listed.Add(d.Index)
			if !g.skipped(c) {
				found = append(found, c)
			}
			if len(found) == candidatesPerRound {
				return found, listed, nil
			}
		}
		if len(entries) < batch {
			return found, listed, nil
		}
		from = entries[len(entries)-1].Pos().NextSlot()
	}
}

// skipped reports whether a bucket could not be emptied not long ago.
func (g *CopyGC) skipped(c gcBucket) bool {
	until, ok := g.skip[ondisk.DevBucket(uint16(c.dev.Index), c.bucket)]
	return ok && g.cfg.Clock() < until
}

// fromAlloc looks through the alloc keys of devices.
func (g *CopyGC) fromAlloc(ctx context.Context, devs alloc.DevSet) (found []gcBucket, err error) {
	g.stats.scans.Add(1)
	byTime := func(x, y gcBucket) int { return cmp.Compare(x.time, y.time) }
	for dev := range devs.All() {
		d := g.alloc.DevSpace(dev)
		if d == nil {
			continue
		}
		from := ondisk.Pos{Inode: uint64(dev), Offset: uint64(d.FirstBucket)}
		to := ondisk.Pos{Inode: uint64(dev), Offset: uint64(d.NBuckets - 1)}
		err := g.w.cfg.Store.View(ctx, func(tx *trans.Tx) error {
			found = slices.DeleteFunc(found, func(c gcBucket) bool { return c.dev == d }) // of a run that was restarted
			return tx.Scan(ondisk.BtreeAlloc, from, to, 0, func(k ondisk.Key, _ ondisk.Pos) (bool, error) {
				a, err := ondisk.DecodeAlloc(k)
				if err != nil {
					return false, err
				}
				c := gcBucket{d, ondisk.Bucket(k.Pos.Offset), a.FragmentationLRU(d.BucketSize)}
				if !g.isCandidate(d, c.bucket, &a) || g.skipped(c) {
					return true, nil
				}
				found = append(found, c)
				if len(found) > 8*candidatesPerRound {
					slices.SortFunc(found, byTime)
					found = found[:candidatesPerRound]
				}
				return true, nil
			})
		})
		if err != nil {
			return nil, err
		}
	}
	slices.SortFunc(found, byTime)
	return found[:min(len(found), candidatesPerRound)], nil
}

// gcOwners are what has pointers into a bucket.
type gcOwners struct {
	moves []Move
	nodes []ondisk.Backpointer
}

// ownersPerView bounds the keys that are looked up at a time.
const ownersPerView = 64

// owners returns what some backpointers of a range lead to, as far as it really points into the bucket, and where to go on; the zero position if there
// is no more.
func (g *CopyGC) owners(ctx context.Context, c gcBucket, gen uint8, from, to ondisk.Pos) (found gcOwners, next ondisk.Pos, err error) {
	err = g.w.cfg.Store.View(ctx, func(tx *trans.Tx) error {
		found, next = gcOwners{}, ondisk.Pos{}
		var bps []ondisk.Backpointer
		err := tx.Scan(ondisk.BtreeBackpointers, from, to, 0, func(k ondisk.Key, _ ondisk.Pos) (bool, error) {
			if len(bps) == ownersPerView {
				next = k.Pos
				return false, nil
			}
			bp, err := ondisk.DecodeBackpointer(k)
			if err == nil {
				bps = append(bps, bp)
			}
			return true, err
		})
		if err != nil {
			return err
		}
		for i := range bps {
			bp := &bps[i]
			switch {
			case bp.Level > 0:
				found.nodes = append(found.nodes, *bp)
				continue
			case bp.Btree != ondisk.BtreeExtents && bp.Btree != ondisk.BtreeReflink:
				continue
			case len(found.moves) > 0 && found.moves[len(found.moves)-1].Btree == bp.Btree && found.moves[len(found.moves)-1].Key.Pos == bp.Pos:
				continue // a key with two pointers into one bucket has both in its set
			}
			k, ok, err := tx.Iter(bp.Btree, bp.Pos, trans.AllSnapshots|trans.NotExtents).PeekMax(bp.Pos)
			if err != nil {
				return err
			}
			if !ok || k.Pos != bp.Pos {
				continue
			}
			if set := g.pointersInto(c, gen, &k); set != 0 {
				found.moves = append(found.moves, Move{Btree: bp.Btree, Key: k.Clone(), Ptrs: set})
			}
		}
		return nil
	})
	return found, next, err
}

// pointersInto returns which pointers of a key lead into a bucket, cached ones aside.
func (g *CopyGC) pointersInto(c gcBucket, gen uint8, k *ondisk.Key) (set uint32) {
	var buf [8]ondisk.DecodedPtr
	ptrs, _, err := ondisk.AppendExtentPtrs(buf[:0], k, g.w.cfg.ExtentTypes)
	if err != nil {
		return 0 // it will be found by who reads it
	}
	for i := range ptrs {
		p := &ptrs[i]
		if b, _ := c.dev.Device.Bucket(p.Offset); p.Dev == c.dev.Index && b == c.bucket && p.Gen == gen && !p.Cached {
			set |= 1 << i
		}
	}
	return set
}
