package alloc

import (
	"encoding/binary"
	"fmt"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// allocTotal is the number of sectors of all pointers into a bucket.
func allocTotal(a *ondisk.Alloc) uint64 { return a.DirtyTotal() + uint64(a.CachedSectors) }

// unstriped is the number of sectors of a stripe's bucket that do not belong to the stripe.
func unstriped(a *ondisk.Alloc) uint32 {
	if a.DataType == ondisk.DataStripe {
		return a.DirtySectors
	}
	return 0
}

// isHiddenType reports whether buckets of the type hold no data of the filesystem's content: they are marked, not written by owners.
func isHiddenType(t ondisk.DataType) bool { return t == ondisk.DataSB || t == ondisk.DataJournal }

// alloc is the trigger of alloc keys (spec/04 § 4.3, § 6.2). It runs once for each bucket of a commit, when all that is counted in the
// key is known.
func (t *Triggers) alloc(tx Tx, s *scratch, old, k *ondisk.Key, flags TriggerFlags) error {
	dev, b, err := t.cfg.Devices.bucketAt(k.Pos)
	if err != nil {
		return err
	}
	if k.Type != ondisk.KeyAllocV4 {
		return keyErrorf(ondisk.BtreeAlloc, k.Pos, "key of type %v becomes one of type %v", old.Type, k.Type)
	}
	was, err := decodeAlloc(old)
	if err != nil {
		return err
	}
	a, err := decodeAlloc(k)
	if err != nil {
		return err
	}
	claim := NotClaimed
	if t.cfg.Claims != nil {
		claim = t.cfg.Claims.Claim(dev.Index, b)
	}
	a.DataType = derivedType(&a, a.DataType)
	if allocTotal(&a) > allocTotal(&was) {
		if err := t.checkClaim(tx, dev, b, &was, &a, claim); err != nil {
			return err
		}
		a.IOTime = [2]uint64{t.now(0), t.now(1)}
		a.NeedIncGen, a.NeedDiscard = true, true
	}
	// What is open keeps its generation: pointers that are still to come have it.
	if a.DataType.IsEmpty() && a.NeedIncGen && claim == NotClaimed {
		a.Gen++
		a.NeedIncGen = false
		a.DataType = derivedType(&a, a.DataType)
	}
	if a.DataType == ondisk.DataCached && a.IOTime[0] == 0 {
		a.IOTime[0] = t.now(0)
	}
	if was.DataType != a.DataType || a.DataType == ondisk.DataFree && was.FreespaceGenBits() != a.FreespaceGenBits() {
		if err := t.indexBucket(tx, dev, b, &was, false); err != nil {
			return err
		}
		if err := t.indexBucket(tx, dev, b, &a, true); err != nil {
			return err
		}
	}
	db := ondisk.DevBucket(uint16(dev.Index), b)
	changeLRU(tx, uint16(dev.Index), db, ReadLRUTime(&was), ReadLRUTime(&a))
	changeLRU(tx, ondisk.LRUFragmentation, db, was.FragmentationLRU(dev.BucketSize), a.FragmentationLRU(dev.BucketSize))
	if was.Gen != a.Gen {
		if err := setBucketGen(tx, dev.Index, b, a.Gen); err != nil {
			return err
		}
	}
	if flags&TriggerBucketInvalidate != 0 {
		s.account(tx, cachedReplicas(dev.Index), -int64(was.CachedSectors))
	}
	s.accountBucket(tx, dev, &was, &a)
	*k = allocKey(tx, k.Pos, &a)
	return nil
}

// checkClaim catches two owners of a bucket (invariant I9): data comes into a bucket only from whoever has opened it, and who opened it found
// it free.
func (t *Triggers) checkClaim(tx Tx, dev *Device, b ondisk.Bucket, was, a *ondisk.Alloc, claim Claim) error {
	if t.cfg.Claims == nil || !t.indexTrusted() || isHiddenType(a.DataType) {
		return nil
	}
	id, msg := "", ""
	switch empty := was.DataType.IsEmpty(); {
	case empty && claim == NotClaimed:
		id, msg = "alloc_key_to_nonempty_not_open", "data comes into an empty bucket that nobody has opened"
	case !empty && claim == ClaimFresh:
		id, msg = "bucket_allocated_twice", "data comes into a bucket that was free when it was opened, but was filled since"
	default:
		return nil
	}
	return refuse(tx, id, dev, b, was, pendingOwner(tx, dev, b, t.cfg.ExtentTypeU64s), fmt.Sprintf("%s: %d sectors become %d", msg, allocTotal(was), allocTotal(a)))
}

// accountBucket counts a bucket for its device by what it holds.
func (s *scratch) accountBucket(tx Tx, dev *Device, was, a *ondisk.Alloc) {
	sectors, frag := int64(a.Sectors()), int64(a.Fragmented(dev.BucketSize))
	oldSectors, oldFrag := int64(was.Sectors()), int64(was.Fragmented(dev.BucketSize))
	if was.DataType != a.DataType {
		s.account(tx, devDataType(dev.Index, a.DataType), 1, sectors, frag)
		s.account(tx, devDataType(dev.Index, was.DataType), -1, -oldSectors, -oldFrag)
	} else if sectors != oldSectors {
		s.account(tx, devDataType(dev.Index, a.DataType), 0, sectors-oldSectors, frag-oldFrag)
	}
	if u, o := unstriped(a), unstriped(was); u != o {
		s.account(tx, devDataType(dev.Index, ondisk.DataUnstriped), nonzero(u)-nonzero(o), int64(u)-int64(o), 0)
	}
}

func nonzero(n uint32) int64 {
	if n != 0 {
		return 1
	}
	return 0
}

// devDataType is where the buckets of a device that hold one type of data are counted.
func devDataType(dev uint8, t ondisk.DataType) ondisk.AccountingPos {
	return ondisk.AccountingPos{Type: ondisk.AccountingDevDataType, Dev: uint32(dev), DataType: t}
}

// allocAtomic is the atomic part of the trigger of alloc keys. The entry that made a bucket empty must be on disk before the bucket is
// written to again, for until then a crash brings back the keys that pointed to it (invariant I5, spec/04 § 4.2).
//
// The reference also claims, where that is possible, that journal entries since the bucket was filled will not be flushed. This
// does not: it costs an earlier flush at times, and needs no promise of the journal.
func (t *Triggers) allocAtomic(old, k *ondisk.Key, seq uint64) {
	was, err := decodeAlloc(old)
	if err != nil {
		return // the transactional trigger has refused it
	}
	a, err := decodeAlloc(k)
	if err != nil {
		return
	}
	dev, b, err := t.cfg.Devices.bucketAt(k.Pos)
	if err != nil {
		return
	}
	if empty := a.DataType.IsEmpty(); empty != was.DataType.IsEmpty() {
		j := seq
		if empty && was.JournalSeqNonempty == seq {
			j = 0 // the journal has filled and emptied it in one
		}
		binary.LittleEndian.PutUint64(k.Val, j)
		if t.cfg.Claims != nil {
			if empty {
				t.cfg.Claims.Emptied(dev.Index, b, j)
			} else {
				t.cfg.Claims.Filled(dev.Index, b)
			}
		}
	}
	if a.Gen != was.Gen {
		dev.SetGen(b, a.Gen)
	}
	if a.DataType != was.DataType && t.cfg.Became != nil {
		t.cfg.Became(dev.Index, b, was.DataType, a.DataType)
	}
}
