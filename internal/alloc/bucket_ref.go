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
	if sectors > 0 {
		return refIgnored, refuse(tx, id, dev, b, a, owner, msg)
	}
	t.report(bucketError(tx, id, dev, b, a, owner, msg))
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

// refuse is bucketError for a change that does not happen, with all owners: some may be known to the write buffer only, and then the error
// demands a restart.
func refuse(tx Tx, id string, dev *Device, b ondisk.Bucket, a *ondisk.Alloc, owner Owner, msg string) error {
	if err := flushBuffered(tx); err != nil {
		return err
	}
	return bucketError(tx, id, dev, b, a, owner, msg)
}

// witness is implemented by transactions that know who has a part in a contradiction.
type witness interface {
	// FlushBuffered demands a restart if buffered updates may not be in their btrees yet.
	FlushBuffered() error
	// Updates calls fn for all pending updates that are not buffered, until it returns false.
	Updates(fn func(btree ondisk.BtreeID, level uint8, k *ondisk.Key) (more bool))
	// Buffered returns the pending buffered update of a position, if there is one.
	Buffered(btree ondisk.BtreeID, p ondisk.Pos) (k ondisk.Key, ok bool)
	// Watermark is above [WatermarkNormal] for those for which FlushBuffered does nothing.
	Watermark() Watermark
	// Replaced returns, as it was before the transaction, the first key at p or behind of the same inode and snapshot that the transaction changes or
	// deletes.
	Replaced(btree ondisk.BtreeID, p ondisk.Pos) (k ondisk.Key, ok bool)
}

func flushBuffered(tx Tx) error {
	if w, ok := tx.(witness); ok {
		return w.FlushBuffered()
	}
	return nil
}

// checkBackpointer catches a pointer that comes into a bucket which nobody fills although another key points to the same place (invariant I9).
// Whoever fills a bucket has claimed it; what comes otherwise are keys that move to another position, and pieces of keys that are cut.
//
// A key that moves has its backpointer removed by the same transaction, which says enough. So has the first piece of a key that is cut; the others have
// new ones. Their place was the key's own, which no transaction after this could see otherwise, so the write buffer is not flushed for them,
// unless there is somebody else's backpointer in the btree: that may be a remnant.
func (t *Triggers) checkBackpointer(tx Tx, dev *Device, b ondisk.Bucket, a *ondisk.Alloc, k *ondisk.Key, p *ondisk.DecodedPtr, owner Owner) error {
	w, ok := tx.(witness)
	if !ok || t.cfg.Claims == nil || !t.indexTrusted() || t.cfg.Claims.Claim(dev.Index, b) != NotClaimed {
		return nil
	}
	pos := backpointerPos(p)
	found, pending := w.Buffered(ondisk.BtreeBackpointers, pos)
	if pending && found.Type == ondisk.KeyDeleted {
		return nil
	}
	if !pending {
		switch piece := t.isPiece(w, k, p, owner); {
		case piece && w.Watermark() > WatermarkNormal: // which cannot flush: what it found would say nothing
			return nil
		case !piece:
			if err := w.FlushBuffered(); err != nil {
				return err
			}
		}
		var err error
		if found, ok, err = tx.Get(ondisk.BtreeBackpointers, pos, 0); err != nil || !ok {
			return err
		}
	}
	bp, err := ondisk.DecodeBackpointer(found)
	if err != nil || bp.Btree == owner.Btree && bp.Level == owner.Level && bp.Pos == owner.Pos {
		return err
	}
	// This flushes, and has the transaction look again.
	return refuse(tx, "duplicate_backpointer", dev, b, a, owner, fmt.Sprintf("sector %d has an owner already", p.Offset))
}

// isPiece reports whether a pointer of k leads to where that of a key led that the transaction replaces, for the same slots.
func (t *Triggers) isPiece(w witness, k *ondisk.Key, p *ondisk.DecodedPtr, owner Owner) bool {
	if owner.Level > 0 || !owner.Btree.Has(ondisk.BtreeIsExtents) {
		return false
	}
	whole, ok := w.Replaced(owner.Btree, k.Pos)
	if !ok || whole.Type != k.Type || whole.Pos.Offset < k.Pos.Offset || whole.Start().Offset > k.Start().Offset {
		return false
	}
	cut := k.Start().Offset - whole.Start().Offset
	var buf [ondisk.MaxExtentPtrs + 4]ondisk.DecodedPtr
	ptrs, _, err := ondisk.AppendExtentPtrs(buf[:0], &whole, t.cfg.ExtentTypeU64s)
	if err != nil {
		return false
	}
	for i := range ptrs {
		q := &ptrs[i]
		if q.Dev != p.Dev || q.Gen != p.Gen || q.CRC.Compression != p.CRC.Compression {
			continue
		}
		if q.CRC.Compression.IsCompressed() && q.Offset != p.Offset {
			continue
		}
		if uint64(q.Offset)+uint64(q.CRC.Offset)+cut == uint64(p.Offset)+uint64(p.CRC.Offset) {
			return true
		}
	}
	return false
}

// pendingOwner returns the key with a pointer into a bucket that the transaction is going to insert, else what stands for a change of the alloc key.
func pendingOwner(tx Tx, dev *Device, b ondisk.Bucket, typeU64s ondisk.ExtentTypeU64s) Owner {
	owner := allocOwner(dev, b)
	w, ok := tx.(witness)
	if !ok {
		return owner
	}
	w.Updates(func(btree ondisk.BtreeID, level uint8, k *ondisk.Key) bool {
		ptrs, _, err := ondisk.AppendExtentPtrs(nil, k, typeU64s)
		if err != nil || ptrBytes(k) == nil {
			return true
		}
		for i := range ptrs {
			p := &ptrs[i]
			if at, _ := dev.Bucket(p.Offset); p.Dev == dev.Index && at == b {
				owner = Owner{Btree: btree, Level: level, Pos: k.Pos, Type: k.Type, Sector: p.Offset, Sectors: ptrDiskSectors(k.Size, p)}
				return false
			}
		}
		return true
	})
	return owner
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
