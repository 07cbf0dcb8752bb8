package alloc

import (
	"fmt"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// candidate is a bucket that a scan found free some time ago.
type candidate struct {
	dev     *DevSpace
	bucket  ondisk.Bucket
	indexed bool  // freespace says so, in the class of genBits
	genBits uint8 // of freespace
	gen     uint8 // as the scan saw it; only FaultNoRecheck uses it
}

// bucketRequest is a request for one bucket of one device.
type bucketRequest struct {
	tx        Tx // nil: claims have transactions of their own
	dataType  ondisk.DataType
	watermark Watermark
	keep      int64
	owner     Owner
	mode      int // by bitmap

	// Told to the caller: the greatest sequence number that a bucket waits for that was passed over, and how many were.
	needSeq uint64
	waiting int
}

// claim opens the candidate's bucket if it is free: this is the only way that a bucket becomes open (I8). It returns nil without an error if
// somebody else was faster or the bucket may not be used now.
//
// From reading the alloc key until the bucket is in the table of open buckets the lock of the key's slot is held, and it is kept
// until tx ends (I1). Only committed state counts (I3). A contradiction is an error (I9).
func (a *Allocator) claim(tx Tx, c *candidate, r *bucketRequest) (*OpenBucket, error) {
	k, err := a.readForClaim(tx, c)
	if err != nil {
		return nil, err
	}
	a.hook(tx.Context(), PointLocked, c.dev.Index, c.bucket)
	if ok, err := a.claimable(tx, c, &k, r); err != nil || !ok {
		return nil, err
	}
	a.hook(tx.Context(), PointChecked, c.dev.Index, c.bucket)
	ob, err := a.openLocked(c, k.Gen, r)
	if ob != nil {
		a.hook(tx.Context(), PointClaimed, c.dev.Index, c.bucket)
	}
	return ob, err
}

// readForClaim reads the bucket's alloc key, and locks its slot until tx ends.
func (a *Allocator) readForClaim(tx Tx, c *candidate) (ondisk.Alloc, error) {
	flags := Committed
	if a.broken(FaultSeePending) {
		flags = 0
	}
	if !a.broken(FaultNoSlotLock) {
		return GetAlloc(tx, c.dev.Index, c.bucket, flags)
	}
	k := ondisk.Key{Type: ondisk.KeyDeleted}
	pos := allocPos(c.dev.Index, c.bucket)
	err := tx.Scan(ondisk.BtreeAlloc, pos, pos, 0, func(found ondisk.Key, _ ondisk.Pos) (bool, error) {
		k = found
		return false, nil
	})
	if err != nil {
		return ondisk.Alloc{}, err
	}
	return decodeAlloc(&k)
}

// claimable tells whether a bucket may be opened, its slot being locked, but for what the freelist lock protects.
func (a *Allocator) claimable(tx Tx, c *candidate, k *ondisk.Alloc, r *bucketRequest) (bool, error) {
	d := c.dev
	switch {
	case k.DataType != ondisk.DataFree, c.indexed && k.FreespaceGenBits() != c.genBits:
		a.stats.rejectedState.Add(1)
		return false, a.checkStale(tx, c, k, r)
	case k.DirtyTotal() != 0 || k.CachedSectors != 0 || k.Stripe != 0:
		if a.broken(FaultNoTripwire) {
			break
		}
		return false, a.tripwire(tx, c, k, r, "alloc_key_empty_but_have_data", fmt.Sprintf(
			"is free, but its key counts %d dirty, %d cached sectors and stripe %d", k.DirtyTotal(), k.CachedSectors, k.Stripe))
	}
	switch {
	case d.isHidden(c.bucket), d.isNoUse(c.bucket):
		a.stats.rejectedReserved.Add(1)
		return false, nil
	case a.open.isOpenHint(d.Index, c.bucket), a.cfg.Busy != nil && a.cfg.Busy(d.Index, c.bucket):
		a.stats.rejectedOpen.Add(1)
		return false, nil
	}
	if seq := a.waits(d.Index, c.bucket, k); seq != 0 {
		a.stats.rejectedJournal.Add(1)
		r.waiting++
		r.needSeq = max(r.needSeq, seq)
		return false, nil
	}
	if a.checkBPs.Load() {
		owners, err := a.ownersOf(tx, d, c.bucket, 1)
		if err != nil || len(owners) > 0 {
			a.stats.rejectedBackpointer.Add(1)
			return false, err
		}
	}
	return true, nil
}

// openLocked enters a bucket in the table, unless it is there already or the request may have no more.
func (a *Allocator) openLocked(c *candidate, gen uint8, r *bucketRequest) (*OpenBucket, error) {
	t := a.open
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case !a.broken(FaultNoOpenRecheck) && t.find(ondisk.DevBucket(uint16(c.dev.Index), c.bucket)) != nil:
		a.stats.rejectedOpen.Add(1)
		return nil, nil
	case t.nrFree <= openLimit(r.watermark, len(t.buckets)):
		return nil, errOpenBucketsEmpty
	case a.Avail(c.dev, r.watermark) <= r.keep: // others may have opened buckets since it was asked first
		return nil, errFreelistEmpty
	}
	ob := t.insert(c.dev, c.bucket)
	ob.gen, ob.dataType, ob.watermark, ob.owner = gen, r.dataType, r.watermark, r.owner
	a.stats.opened.Add(1)
	return ob, nil
}

// checkStale decides what a candidate means whose alloc key says otherwise: the scan's answer may simply be old. But the slot is
// locked now, and a commit that changes whether the bucket is free changes freespace too, so if freespace still says that the bucket is
// free the two contradict each other.
func (a *Allocator) checkStale(tx Tx, c *candidate, k *ondisk.Alloc, r *bucketRequest) error {
	if !c.indexed || !a.trusted.Load() || a.broken(FaultNoTripwire) {
		return nil
	}
	slot := freespaceSlot(c.dev.Index, c.genBits, c.bucket)
	still := false
	err := tx.Scan(ondisk.BtreeFreespace, slot, slot, 0, func(ondisk.Key, ondisk.Pos) (bool, error) {
		still = true
		return false, nil
	})
	if err != nil || !still {
		return err
	}
	return a.tripwire(tx, c, k, r, "need_discard_freespace_key_bad", fmt.Sprintf("freespace says that it is free with generation class %d",
		c.genBits))
}

// tripwire makes the error of a bucket that would get a second owner, and reports it.
func (a *Allocator) tripwire(tx Tx, c *candidate, k *ondisk.Alloc, r *bucketRequest, id, msg string) error {
	if err := flushBuffered(tx); err != nil {
		return err
	}
	owners, err := a.ownersOf(tx, c.dev, c.bucket, 2)
	if err != nil {
		return err
	}
	return a.inconsistent(&BucketError{ID: id, Dev: c.dev.Index, Bucket: c.bucket, Gen: k.Gen, Type: k.DataType, Msg: msg, Owner: r.owner,
		Others: owners})
}

// ownersOf returns who has pointers into a bucket as far as backpointers tell, at most so many.
func (a *Allocator) ownersOf(tx Tx, d *DevSpace, b ondisk.Bucket, limit int) (owners []Owner, err error) {
	shift := a.cfg.BackpointerShift
	from := ondisk.Pos{Inode: uint64(d.Index), Offset: uint64(d.Sector(b)) << shift}
	to := ondisk.Pos{Inode: uint64(d.Index), Offset: uint64(d.Sector(b+1))<<shift - 1}
	err = tx.Scan(ondisk.BtreeBackpointers, from, to, 0, func(k ondisk.Key, _ ondisk.Pos) (bool, error) {
		bp, err := ondisk.DecodeBackpointer(k)
		if err != nil {
			return false, err
		}
		owners = append(owners, Owner{Btree: bp.Btree, Level: bp.Level, Pos: bp.Pos, Type: ondisk.KeyDeleted,
			Sector: ondisk.Sector(k.Pos.Offset >> shift), Sectors: bp.BucketLen})
		return len(owners) < limit, nil
	})
	return owners, err
}
