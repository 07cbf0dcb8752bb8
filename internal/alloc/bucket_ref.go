package alloc

import (
	"fmt"
	"math"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// refResult says what became of a pointer that was to be counted in a bucket.
type refResult uint8

const (
	refCounted refResult = iota
	refStale             // cached, and its data is gone: it counts nowhere
	refIgnored           // it contradicts the bucket and goes away: its bucket stays as it is
)

// bucketClass is what types of data are compared by: a bucket holds one class.
func bucketClass(t ondisk.DataType) ondisk.DataType {
	if t == ondisk.DataCached || t == ondisk.DataStripe {
		return ondisk.DataUser
	}
	return t
}

// countPointer adds sectors, which may be negative, of a pointer to a counter of the state of its bucket, unless the pointer contradicts it
// (spec/04 § 6.4). Each contradiction means that somebody else's data is or was in the bucket: a pointer that is new is refused, of one
// that goes away it is reported.
func (t *Triggers) countPointer(tx Tx, dev *Device, b ondisk.Bucket, a *ondisk.Alloc, counter *uint32, p *ondisk.ExtentPtr, sectors int64,
	typ ondisk.DataType, owner Owner) (refResult, error) {
	id, msg := "", ""
	switch cmp := genCmp(a.Gen, p.Gen); {
	case cmp < 0:
		id, msg = "ptr_gen_newer_than_bucket_gen", fmt.Sprintf("pointer of gen %d is newer", p.Gen)
	case cmp > ondisk.BucketGCGenMax:
		id, msg = "ptr_too_stale", fmt.Sprintf("pointer of gen %d is too old", p.Gen)
	case cmp != 0 && p.Cached:
		return refStale, nil
	case cmp != 0:
		id, msg = "stale_dirty_ptr", fmt.Sprintf("pointer of gen %d is stale", p.Gen)
	case !a.DataType.IsEmpty() && bucketClass(a.DataType) != bucketClass(typ):
		id, msg = "ptr_bucket_data_type_mismatch", fmt.Sprintf("pointer is to data of type %v", typ)
	case int64(*counter)+sectors > math.MaxUint32 || int64(*counter)+sectors < 0:
		id, msg = "bucket_sector_count_overflow", fmt.Sprintf("%d sectors and %d more do not fit the counter", *counter, sectors)
		if sectors < 0 {
			*counter = 0
		}
	default:
		*counter = uint32(int64(*counter) + sectors)
		return refCounted, nil
	}
	err := bucketError(tx, id, dev, b, a, owner, msg)
	if sectors > 0 {
		return refIgnored, err
	}
	t.report(err)
	if id == "bucket_sector_count_overflow" {
		return refCounted, nil
	}
	return refIgnored, nil
}

// maxOwners bounds the owners that an error names.
const maxOwners = 4

// bucketError is the error for a change of a bucket in state a on behalf of owner.
func bucketError(tx Tx, id string, dev *Device, b ondisk.Bucket, a *ondisk.Alloc, owner Owner, msg string) error {
	return &BucketError{ID: id, Dev: dev.Index, Bucket: b, Gen: a.Gen, Type: a.DataType, Msg: msg, Owner: owner,
		Others: otherOwners(tx, dev, b, owner)}
}

// allocOwner stands for a change of a bucket's alloc key of which it is not known what it is made for.
func allocOwner(dev *Device, b ondisk.Bucket) Owner {
	return Owner{Btree: ondisk.BtreeAlloc, Pos: allocPos(dev.Index, b), Type: ondisk.KeyAllocV4, Sector: dev.Sector(b), Sectors: dev.BucketSize}
}

// otherOwners finds who else has pointers into a bucket, as far as backpointers tell, for an error: it is not worth failing for.
func otherOwners(tx Tx, dev *Device, b ondisk.Bucket, not Owner) []Owner {
	var owners []Owner
	from, to := BackpointersOf(dev, b)
	_ = tx.Scan(ondisk.BtreeBackpointers, from, to, 0, func(k ondisk.Key, _ ondisk.Pos) (bool, error) {
		bp, err := ondisk.DecodeBackpointer(k)
		if err != nil || bp.Btree == not.Btree && bp.Level == not.Level && bp.Pos == not.Pos {
			return true, nil
		}
		owners = append(owners, Owner{Btree: bp.Btree, Level: bp.Level, Pos: bp.Pos,
			Sector: ondisk.Sector(k.Pos.Offset >> ondisk.DefaultBackpointerShift), Sectors: bp.BucketLen})
		return len(owners) < maxOwners, nil
	})
	return owners
}
