package alloc

import (
	"bytes"
	"fmt"

	"github.com/go-bcachefs/bcachefs/internal/codec/compress"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// ptrBytes returns the part of a key's value that holds its pointers.
func ptrBytes(k *ondisk.Key) []byte {
	skip := 0
	switch k.Type {
	case ondisk.KeyExtent, ondisk.KeyBtreePtr:
	case ondisk.KeyReflinkV:
		skip = 8
	case ondisk.KeyBtreePtrV2:
		skip = 40
	default:
		return nil
	}
	return k.Val[min(skip, len(k.Val)):]
}

// extent is the trigger of keys that point to data or to btree nodes (spec/04 § 6.3).
//
// Nothing happens if the pointers stay the same: cutting the front of an extent changes them, cutting its back moves the key, which
// is two changes.
func (t *Triggers) extent(tx Tx, s *scratch, btree ondisk.BtreeID, level uint8, old, k *ondisk.Key) error {
	if bytes.Equal(ptrBytes(old), ptrBytes(k)) {
		return nil
	}
	if old.Type != ondisk.KeyDeleted {
		if err := t.extentSide(tx, s, btree, level, old, -1); err != nil {
			return err
		}
	}
	if k.Type != ondisk.KeyDeleted {
		if err := t.extentSide(tx, s, btree, level, k, 1); err != nil {
			return err
		}
	}
	if level > 0 {
		return nil
	}
	return t.rebalance(tx, s, old, k)
}

// extentSide counts the pointers of a key that goes away (sign -1) or comes (1).
func (t *Triggers) extentSide(tx Tx, s *scratch, btree ondisk.BtreeID, level uint8, k *ondisk.Key, sign int64) error {
	ptrs, _, err := ondisk.AppendExtentPtrs(s.ptrs[:0], k, t.cfg.ExtentTypeU64s)
	if err != nil {
		return fmt.Errorf("btree %v: %w", btree, err)
	}
	size := k.Size
	typ := ondisk.DataUser
	if k.Type == ondisk.KeyBtreePtr || k.Type == ondisk.KeyBtreePtrV2 {
		size, typ = t.cfg.NodeSectors, ondisk.DataBtree
	}
	replicas := ondisk.AccountingPos{Type: ondisk.AccountingReplicas, DataType: typ, NrRequired: 1}
	dirty := int64(0)
	run := compressionRun{sign: sign}
	for i := range ptrs {
		p := &ptrs[i]
		sectors := ptrDiskSectors(size, p)
		stale, err := t.extentPointer(tx, btree, level, k, p, typ, sectors, sign)
		if err != nil {
			return err
		}
		switch {
		case stale:
			continue
		case p.Cached:
			s.account(tx, cachedReplicas(p.Dev), sign*int64(sectors))
		case !p.HasStripe:
			dirty += sign * int64(sectors)
			addDev(&replicas, p.Dev)
		default:
			if err := t.stripePointer(tx, s, btree, k, p, typ, sign*int64(sectors)); err != nil {
				return err
			}
			replicas.NrRequired = 0 // the stripe has it too
		}
		run.add(tx, s, &p.CRC)
	}
	run.end(tx, s)
	if replicas.NrDevs > 0 {
		s.account(tx, replicas, dirty)
		if level == 0 && k.Pos.Snapshot != 0 {
			s.account(tx, ondisk.AccountingPos{Type: ondisk.AccountingSnapshot, ID: k.Pos.Snapshot}, dirty)
		}
	}
	if level > 0 {
		s.account(tx, ondisk.AccountingPos{Type: ondisk.AccountingBtree, Btree: uint32(btree)}, dirty)
	} else {
		s.account(tx, ondisk.AccountingPos{Type: ondisk.AccountingInum, Inum: k.Pos.Inode}, sign, sign*int64(k.Size), dirty)
	}
	return nil
}

// ptrDiskSectors returns how many sectors of its bucket a pointer's share of an extent of the given size takes: of what is compressed
// its part, rounded up.
func ptrDiskSectors(size uint32, p *ondisk.DecodedPtr) uint32 {
	if !p.CRC.Compression.IsCompressed() || p.CRC.UncompressedSize == 0 {
		return size
	}
	full := uint64(p.CRC.UncompressedSize)
	return uint32((uint64(size)*uint64(p.CRC.CompressedSize) + full - 1) / full)
}

// extentPointer counts a pointer in its bucket, and changes its backpointer. stale is true of cached pointers whose data is gone.
func (t *Triggers) extentPointer(tx Tx, btree ondisk.BtreeID, level uint8, k *ondisk.Key, p *ondisk.DecodedPtr, typ ondisk.DataType,
	sectors uint32, sign int64) (stale bool, err error) {
	dev := t.cfg.Devices.Get(p.Dev)
	if dev == nil {
		if sign > 0 && p.Dev != ondisk.DevInvalid {
			return false, keyErrorf(btree, k.Pos, "pointer to device %d, which does not exist", p.Dev)
		}
		return false, nil
	}
	owner := Owner{Btree: btree, Level: level, Pos: k.Pos, Type: k.Type, Sector: p.Offset, Sectors: sectors}
	b, off := dev.Bucket(p.Offset)
	if !dev.Has(b) || uint64(off)+uint64(sectors) > uint64(dev.BucketSize) {
		if sign > 0 {
			return false, fmt.Errorf("%v: sectors %d to %d of device %d: %w", owner, p.Offset, p.Offset+ondisk.Sector(sectors), p.Dev, ErrNoBucket)
		}
		t.report(fmt.Errorf("%v: %w", owner, ErrNoBucket))
		return false, nil
	}
	if p.HasStripe {
		typ = ondisk.DataStripe
	}
	a, err := GetAlloc(tx, p.Dev, b, ForUpdate)
	if err != nil {
		return false, err
	}
	counter := &a.DirtySectors
	switch {
	case p.HasStripe:
		counter = &a.StripeSectors
	case p.Cached:
		counter = &a.CachedSectors
	}
	res, err := t.countPointer(tx, dev, b, &a, counter, &p.ExtentPtr, sign*int64(sectors), typ, owner)
	switch {
	case err != nil:
		return false, err
	case res == refStale:
		return true, nil
	case res == refCounted:
		if sign > 0 && !p.Cached && !p.HasStripe && !a.DataType.IsEmpty() {
			if err := t.checkBackpointer(tx, dev, b, &a, k, p, owner); err != nil {
				return false, err
			}
		}
		a.DataType = derivedType(&a, typ)
		if err := SetAlloc(tx, p.Dev, b, &a, 0); err != nil {
			return false, err
		}
	}
	if !p.Cached {
		changeBackpointer(tx, dev, btree, level, k, p, typ, sectors, sign > 0)
	}
	return false, nil
}

// cachedReplicas is where the cached pointers to a device are counted.
func cachedReplicas(dev uint8) ondisk.AccountingPos {
	p := ondisk.AccountingPos{Type: ondisk.AccountingReplicas, DataType: ondisk.DataCached, NrRequired: 1}
	addDev(&p, dev)
	return p
}

// addDev puts a device among those of a position of type replicas, in order. What does not fit is left out: keys cannot have so many.
func addDev(p *ondisk.AccountingPos, dev uint8) {
	n := int(p.NrDevs)
	if n >= len(p.Devs) {
		return
	}
	i := n
	for ; i > 0 && p.Devs[i-1] > dev; i-- {
		p.Devs[i] = p.Devs[i-1]
	}
	p.Devs[i] = dev
	p.NrDevs++
}

// compressionRun counts the pointers of an extent that are compressed in one way and follow each other.
type compressionRun struct {
	sign      int64
	typ       compress.Type
	full, now int64 // sectors uncompressed, compressed
}

func (r *compressionRun) add(tx Tx, s *scratch, crc *ondisk.CRC) {
	if r.typ != crc.Compression {
		r.end(tx, s)
		r.typ = crc.Compression
	}
	if r.typ != compress.None {
		r.full += int64(crc.UncompressedSize)
		r.now += int64(crc.CompressedSize)
	}
}

func (r *compressionRun) end(tx Tx, s *scratch) {
	if r.typ != compress.None {
		s.account(tx, ondisk.AccountingPos{Type: ondisk.AccountingCompression, Compression: r.typ}, r.sign, r.sign*r.full, r.sign*r.now)
	}
	r.full, r.now = 0, 0
}

// optCompression are the types of compression by the lower half of an option's byte.
var optCompression = [16]compress.Type{0, compress.LZ4, compress.Gzip, compress.Zstd}

// rebalanceSectors returns how many sectors of a key are not yet as its rebalance entry wants them (spec/04 § 14.1).
func (t *Triggers) rebalanceSectors(s *scratch, k *ondisk.Key) (uint64, error) {
	if k.Type != ondisk.KeyExtent && k.Type != ondisk.KeyReflinkV {
		return 0, nil
	}
	var want ondisk.Rebalance
	for e, err := range ondisk.ExtentEntries(k, t.cfg.ExtentTypeU64s) {
		if err != nil {
			return 0, err
		}
		if e.Type == ondisk.EntryRebalance {
			want = e.Rebalance
		}
	}
	if want == (ondisk.Rebalance{}) {
		return 0, nil
	}
	ptrs, _, err := ondisk.AppendExtentPtrs(s.ptrs[:0], k, t.cfg.ExtentTypeU64s)
	if err != nil {
		return 0, err
	}
	sectors := uint64(0)
	if want.BackgroundCompression != 0 {
		typ := optCompression[want.BackgroundCompression&15]
		for i := range ptrs {
			p := &ptrs[i]
			if p.CRC.Compression == compress.Incompressible || p.Unwritten {
				sectors = 0
				break
			}
			if !p.Cached && p.CRC.Compression != typ {
				sectors += uint64(p.CRC.CompressedSize)
			}
		}
	}
	if want.BackgroundTarget != 0 && t.cfg.Target != nil {
		for i := range ptrs {
			in, usable := t.cfg.Target(want.BackgroundTarget, ptrs[i].Dev)
			if usable && !in && !ptrs[i].Cached {
				sectors += uint64(ptrs[i].CRC.CompressedSize)
			}
		}
	}
	return sectors, nil
}

// rebalance keeps the list of extents that wait for rebalancing, and the sum of their sectors.
func (t *Triggers) rebalance(tx Tx, s *scratch, old, k *ondisk.Key) error {
	was, err := t.rebalanceSectors(s, old)
	if err != nil {
		return err
	}
	now, err := t.rebalanceSectors(s, k)
	if err != nil {
		return err
	}
	if (was != 0) != (now != 0) {
		typ := ondisk.KeyDeleted
		if now != 0 {
			typ = ondisk.KeySet
		}
		tx.UpdateBuffered(ondisk.BtreeReconcileWork, ondisk.Key{Type: typ, Pos: k.Pos})
	}
	if was != now {
		s.account(tx, ondisk.AccountingPos{Type: ondisk.AccountingRebalanceWork}, int64(now)-int64(was))
	}
	return nil
}

// reservation is the trigger of reservations: they are counted by how often they will be kept (spec/04 § 6.5).
func (t *Triggers) reservation(tx Tx, s *scratch, old, k *ondisk.Key) error {
	for i, k := range [...]*ondisk.Key{old, k} {
		if k.Type != ondisk.KeyReservation {
			continue
		}
		r, err := ondisk.DecodeReservation(*k)
		if err != nil {
			return err
		}
		sign := int64(2*i - 1)
		s.account(tx, ondisk.AccountingPos{Type: ondisk.AccountingPersistentReserved, NrReplicas: r.NrReplicas}, sign*int64(k.Size))
	}
	return nil
}
