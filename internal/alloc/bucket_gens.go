package alloc

import (
	"context"
	"fmt"
	"math"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// The btree bucket_gens repeats the generations of alloc keys, 256 a key, so that mounting need not read all of these.

// setBucketGen notes the generation of a bucket.
func setBucketGen(tx Tx, dev uint8, b ondisk.Bucket, gen uint8) error {
	pos, i := ondisk.BucketGensPos(uint64(dev), b)
	k, ok, err := tx.Get(ondisk.BtreeBucketGens, pos, ForUpdate)
	if err != nil {
		return err
	}
	val := txBytes(tx, len(ondisk.BucketGens{}))
	if ok && k.Type == ondisk.KeyBucketGens {
		copy(val, k.Val)
	}
	val[i] = gen
	return tx.Update(ondisk.BtreeBucketGens, ondisk.Key{Type: ondisk.KeyBucketGens, Pos: pos, Val: val}, 0)
}

// ReadGens fills the generations of all devices from the btree bucket_gens. Keys of devices and buckets that do not exist are left
// to fsck.
func ReadGens(tx Tx, ds *Devices) error {
	return tx.Scan(ondisk.BtreeBucketGens, ondisk.PosMin, ondisk.PosMax, 0, func(k ondisk.Key, _ ondisk.Pos) (bool, error) {
		g, err := ondisk.DecodeBucketGens(k)
		if err != nil {
			return false, fmt.Errorf("btree %v: %w", ondisk.BtreeBucketGens, err)
		}
		if k.Pos.Inode >= ondisk.DevInvalid || k.Pos.Offset > math.MaxUint64>>8 {
			return true, nil
		}
		if d := ds.Get(uint8(k.Pos.Inode)); d != nil {
			for i, gen := range g {
				d.SetGen(ondisk.Bucket(k.Pos.Offset<<8)+ondisk.Bucket(i), gen)
			}
		}
		return true, nil
	})
}

// InitBucketGens writes the btree bucket_gens of a device anew from its alloc keys. Generations may change meanwhile.
func InitBucketGens(ctx context.Context, run Runner, dev *Device) error {
	for group := dev.FirstBucket &^ 255; group < dev.NBuckets; group += 256 {
		var found []ondisk.Bucket
		first, last := max(group, dev.FirstBucket), min(group+256, dev.NBuckets)-1
		err := run(ctx, func(tx Tx) error {
			found = found[:0]
			from, to := allocPos(dev.Index, first), allocPos(dev.Index, last)
			err := tx.Scan(ondisk.BtreeAlloc, from, to, 0, func(k ondisk.Key, _ ondisk.Pos) (bool, error) {
				found = append(found, ondisk.Bucket(k.Pos.Offset))
				return true, nil
			})
			if err != nil || len(found) == 0 {
				return err
			}
			return initGensGroup(tx, dev, group, found)
		})
		if err != nil {
			return fmt.Errorf("bucket generations of device %d: %w", dev.Index, err)
		}
	}
	return nil
}

// initGensGroup writes one key. The alloc keys are read again, under their locks, so that none changes before the commit.
func initGensGroup(tx Tx, dev *Device, group ondisk.Bucket, found []ondisk.Bucket) error {
	pos, _ := ondisk.BucketGensPos(uint64(dev.Index), group)
	val := txBytes(tx, len(ondisk.BucketGens{}))
	old, ok, err := tx.Get(ondisk.BtreeBucketGens, pos, ForUpdate)
	if err != nil {
		return err
	}
	if ok && old.Type == ondisk.KeyBucketGens {
		copy(val, old.Val) // buckets without alloc key, which another transaction may be making
	}
	any := ok
	for _, b := range found {
		a, err := GetAlloc(tx, dev.Index, b, 0)
		if err != nil {
			return err
		}
		val[b&255] = a.Gen
		any = any || a.Gen != 0
	}
	if !any {
		return nil
	}
	return tx.Update(ondisk.BtreeBucketGens, ondisk.Key{Type: ondisk.KeyBucketGens, Pos: pos, Val: val}, 0)
}
