package alloc

import (
	"context"
	"fmt"
	"math"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// freeUnit is the key of a free bucket in the btree freespace, by itself: the btree may merge those that are next to each other.
func freeUnit(dev uint8, b ondisk.Bucket, a *ondisk.Alloc) ondisk.Key {
	r := ondisk.FreespaceRange{Dev: uint64(dev), GenBits: a.FreespaceGenBits(), First: b, Len: 1}
	return r.Key()
}

// bucketIndex returns the btree in which a bucket of the state stands for its being free or waiting for discard, and the key; ok is
// false for other states.
func (t *Triggers) bucketIndex(dev uint8, b ondisk.Bucket, a *ondisk.Alloc) (btree ondisk.BtreeID, k ondisk.Key, ok bool) {
	switch a.DataType {
	case ondisk.DataFree:
		return ondisk.BtreeFreespace, freeUnit(dev, b, a), true
	case ondisk.DataNeedDiscard:
		d := ondisk.NeedDiscard{Dev: uint64(dev), Bucket: b}
		return ondisk.BtreeNeedDiscard, ondisk.Key{Type: ondisk.KeySet, Pos: d.Pos(t.cfg.Version)}, true
	}
	return 0, ondisk.Key{}, false
}

// indexBucket sets or deletes the entry that a bucket of the state has in freespace or need_discard. Once these are known to be
// right, an entry that is there already, or not there, means that the bucket has two owners.
func (t *Triggers) indexBucket(tx Tx, dev *Device, b ondisk.Bucket, a *ondisk.Alloc, set bool) error {
	btree, k, ok := t.bucketIndex(dev.Index, b, a)
	if !ok {
		return nil
	}
	if dev.FreespaceInitialized() && t.indexTrusted() {
		_, there, err := tx.Get(btree, k.Start(), ForUpdate)
		if err != nil {
			return err
		}
		if there == set {
			msg := fmt.Sprintf("its entry is to be set in btree %v, but is there already", btree)
			if !set {
				msg = fmt.Sprintf("its entry is to be deleted from btree %v, but is not there", btree)
			}
			return bucketError(tx, "incorrect_bucket_index", dev, b, a, allocOwner(dev, b), msg)
		}
	}
	if !set {
		k.Type = ondisk.KeyDeleted
	}
	return tx.Update(btree, k, 0)
}

// freespaceChunk bounds the buckets that one transaction of the initialisation looks at.
const freespaceChunk = 1 << 16

// InitFreespace fills freespace and need_discard for the buckets first … end-1 of a device, whose member has the flag that they are there
// still clear: the caller sets it in the superblock afterwards, and then [Device.SetFreespaceInitialized]. Buckets may be allocated and
// freed meanwhile.
//
// Holes of the alloc btree become extents without their slots being locked, so that the key cache is not filled. What was allocated
// between the look and the commit is found by a second pass, under lock.
func (t *Triggers) InitFreespace(ctx context.Context, run Runner, dev *Device, first, end ondisk.Bucket) error {
	first, end = max(first, dev.FirstBucket), min(end, dev.NBuckets)
	for at := first; at < end; at = min(at+freespaceChunk, end) {
		if err := t.initFreespaceChunk(ctx, run, dev, at, min(at+freespaceChunk, end)); err != nil {
			return fmt.Errorf("free space of device %d: %w", dev.Index, err)
		}
	}
	return nil
}

func (t *Triggers) initFreespaceChunk(ctx context.Context, run Runner, dev *Device, first, end ondisk.Bucket) error {
	var keys, holes []BucketRange
	err := run(ctx, func(tx Tx) error {
		keys, holes = keys[:0], holes[:0]
		from, to := allocPos(dev.Index, first), allocPos(dev.Index, end-1)
		return tx.Scan(ondisk.BtreeAlloc, from, to, Slots, func(k ondisk.Key, holeEnd ondisk.Pos) (bool, error) {
			b := ondisk.Bucket(k.Pos.Offset)
			if k.Type == ondisk.KeyDeleted {
				hole := BucketRange{b, end}
				if holeEnd.Inode == k.Pos.Inode {
					hole.End = min(end, ondisk.Bucket(holeEnd.Offset))
				}
				holes = append(holes, hole)
			} else {
				keys = append(keys, BucketRange{b, b + 1})
			}
			return true, nil
		})
	})
	if err != nil {
		return err
	}
	for _, h := range holes {
		for at := h.First; at < h.End; {
			n := min(uint64(h.End-at), math.MaxUint32)
			r := ondisk.FreespaceRange{Dev: uint64(dev.Index), First: at, Len: uint32(n)}
			if err := run(ctx, func(tx Tx) error { return tx.Update(ondisk.BtreeFreespace, r.Key(), 0) }); err != nil {
				return err
			}
			at += ondisk.Bucket(n)
		}
	}
	for _, k := range keys {
		if err := run(ctx, func(tx Tx) error { return t.setIndex(tx, dev, k.First) }); err != nil {
			return err
		}
	}
	return t.recheckHoles(ctx, run, dev, holes)
}

// setIndex sets the entry of a bucket as its alloc key says, under the key's lock.
func (t *Triggers) setIndex(tx Tx, dev *Device, b ondisk.Bucket) error {
	a, err := GetAlloc(tx, dev.Index, b, 0)
	if err != nil {
		return err
	}
	if btree, k, ok := t.bucketIndex(dev.Index, b, &a); ok {
		return tx.Update(btree, k, 0)
	}
	return nil
}

// recheckHoles takes those buckets out of freespace that were holes when they were looked at, and in use when that was committed.
func (t *Triggers) recheckHoles(ctx context.Context, run Runner, dev *Device, holes []BucketRange) error {
	for _, h := range holes {
		var found []ondisk.Bucket
		err := run(ctx, func(tx Tx) error {
			found = found[:0]
			from, to := allocPos(dev.Index, h.First), allocPos(dev.Index, h.End-1)
			return tx.Scan(ondisk.BtreeAlloc, from, to, 0, func(k ondisk.Key, _ ondisk.Pos) (bool, error) {
				found = append(found, ondisk.Bucket(k.Pos.Offset))
				return true, nil
			})
		})
		if err != nil {
			return err
		}
		for _, b := range found {
			err := run(ctx, func(tx Tx) error {
				a, err := GetAlloc(tx, dev.Index, b, 0)
				if err != nil || a.DataType == ondisk.DataFree && a.FreespaceGenBits() == 0 {
					return err
				}
				unit := freeUnit(dev.Index, b, &ondisk.Alloc{})
				unit.Type = ondisk.KeyDeleted
				return tx.Update(ondisk.BtreeFreespace, unit, 0)
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}
