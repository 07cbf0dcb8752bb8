package fsck

import (
	"context"

	"github.com/go-bcachefs/bcachefs/internal/journal"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// checkAllocations adds up, from all pointers there are, what every bucket holds and what every counter counts, and compares that with
// the alloc and accounting btrees.
//
// A pointer that cannot be (to no bucket, of a wrong generation, to data of another kind) is told and not counted.
func (c *checker) checkAllocations(ctx context.Context) error {
	if !c.initialized() {
		return nil
	}
	m := newMarker(c)
	for _, step := range []func(context.Context) error{m.readAlloc, m.markSuperblocks, m.readStripes, m.readReflinks, m.markBtrees} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	if id, unknown := c.lost.pointersUnknown(); unknown {
		c.note("btree %v cannot be read in whole: what it points to is not known, so buckets and counters were not compared", id)
		return nil
	}
	m.checkRefcounts()
	m.checkStripes()
	if err := m.checkAllocKeys(ctx); err != nil {
		return err
	}
	if c.version < ondisk.VersionAccounting {
		c.note("version %v keeps its counters in the journal: they were not checked", c.version)
		return nil
	}
	m.n.finish()
	return c.checkCounters(ctx, m.n, m.unknownCounter)
}

// marker is the state of checkAllocations. Goroutines have one of their own each, which differ in n and sectors.
type marker struct {
	c        *checker
	buckets  *shadow
	stripes  *stripes
	reflinks *reflinks
	n        *counters
	sectors  int64 // of the extent that was counted last, on all its devices

	keyVersion      uint64
	keyVersionKnown bool
}

func newMarker(c *checker) *marker {
	c.targets = newTargets(c.sb, c.devices)
	m := &marker{c: c, buckets: newShadow(c.opts.MemoryBytes / 2), stripes: &stripes{by: map[uint64]*stripe{}}, reflinks: &reflinks{},
		n: newCounters(c.version)}
	m.keyVersion, m.keyVersionKnown = c.keyVersionKnown()
	return m
}

// limit fails if a table of so many entries of about the given size takes more than its share of memory.
func (m *marker) limit(entries, size int) error {
	if int64(entries)*int64(size) > m.c.opts.MemoryBytes/8 {
		return ErrMemory
	}
	return nil
}

// readAlloc takes the generations of all buckets from their keys.
func (m *marker) readAlloc(ctx context.Context) error {
	return m.c.each(ctx, ondisk.BtreeAlloc, 0, ondisk.PosMin, ondisk.SPosMax, func(k *ondisk.Key) error {
		d := m.c.device(k.Pos.Inode, ondisk.Bucket(k.Pos.Offset))
		if d == nil {
			return nil // check_alloc_info tells of it
		}
		a, err := ondisk.DecodeAlloc(*k)
		if err != nil {
			return nil
		}
		return m.buckets.change(d.Index, ondisk.Bucket(k.Pos.Offset), func(g *bucket) {
			g.gen = a.Gen
			g.flags |= bucketGenKnown | bucketHasKey
		})
	})
}

// markSuperblocks marks what devices keep for their superblocks and journals. Facts: spec 04 §6.7.
func (m *marker) markSuperblocks(context.Context) error {
	for i := range m.c.devices {
		d := &m.c.devices[i]
		if d.SB == nil || d.BucketSize == 0 {
			continue
		}
		const maxBits = 16 // no superblock is larger
		size := ondisk.Sector(1) << min(d.SB.Layout.MaxSizeBits, maxBits)
		for _, at := range d.SB.Layout.Sectors() {
			from := at
			if at == ondisk.SuperblockSector {
				from = 0
			}
			if err := m.markMeta(d, from, at+size, ondisk.DataSB); err != nil {
				return err
			}
		}
		ranges, err := d.SB.Journal()
		if err != nil {
			m.c.nowhere(NoID, "write the superblock anew", "%s: %v", d.Name, err)
		}
		n := 0
		for _, r := range ranges {
			for b := r.Start; b < r.End && b < d.NBuckets && n < journal.MaxBuckets; b++ {
				n++
				from := ondisk.Sector(b) * ondisk.Sector(d.BucketSize)
				if err := m.markMeta(d, from, from+ondisk.Sector(d.BucketSize), ondisk.DataJournal); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// markMeta marks a range of sectors of a device.
func (m *marker) markMeta(d *Device, from, to ondisk.Sector, typ ondisk.DataType) error {
	size := ondisk.Sector(d.BucketSize)
	for from < to {
		b := d.bucketOf(from)
		if uint64(b) >= d.NBuckets {
			return nil
		}
		n := min(to, (ondisk.Sector(b)+1)*size) - from
		from += n
		err := m.buckets.change(d.Index, b, func(g *bucket) {
			if g.typ != ondisk.DataFree && g.typ != typ && g.flags&bucketClash == 0 {
				g.flags |= bucketClash
				m.c.at(idBucketMetadataTypeMismatch, ondisk.BtreeAlloc, 0, bucketPos(d.Index, b), "none", "bucket is both %v and %v", g.typ, typ)
				return
			}
			g.typ = typ
			g.dirty += uint32(n)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func bucketPos(dev uint8, b ondisk.Bucket) ondisk.Pos {
	return ondisk.Pos{Inode: uint64(dev), Offset: uint64(b)}
}

// markBtrees walks all btrees and their roots.
func (m *marker) markBtrees(ctx context.Context) error {
	for id := range ondisk.BtreeID(ondisk.MaxBtrees) {
		root, ok := m.c.fs.Root(id)
		for level := ondisk.MaxBtreeDepth - 1; level >= 0; level-- {
			if ok && level > int(root.Level) {
				continue
			}
			if err := m.markLevel(ctx, id, uint8(level)); err != nil {
				return err
			}
		}
		if ok && root.Leaves == nil && !root.Lost {
			if err := m.mark(id, min(root.Level, ondisk.MaxBtreeDepth-1)+1, &root.Key); err != nil {
				return err
			}
		}
	}
	return nil
}

// markLevel walks one level of a btree.
func (m *marker) markLevel(ctx context.Context, id ondisk.BtreeID, level uint8) error {
	if level == 0 && id == ondisk.BtreeAccounting {
		return nil // counters count nothing themselves
	}
	var own []*marker
	err := m.c.eachParallel(ctx, id, level, func() func(k *ondisk.Key) error {
		w := *m
		w.n = newCounters(m.c.version)
		own = append(own, &w)
		return func(k *ondisk.Key) error { return w.mark(id, level, k) }
	})
	for _, w := range own {
		m.n.merge(w.n)
	}
	return err
}

// mark counts one key.
func (m *marker) mark(id ondisk.BtreeID, level uint8, k *ondisk.Key) error {
	if m.keyVersionKnown && k.Version.Lo > m.keyVersion {
		m.c.at(idBkeyVersionInFuture, id, level, k.Pos, "record it", "key version %d is higher than recorded %d", k.Version.Lo, m.keyVersion)
	}
	if err := m.limit(len(m.n.inums), 40); err != nil {
		return err
	}
	if err := m.limit(len(m.n.by), 96); err != nil {
		return err
	}
	var sectors int64
	switch k.Type {
	case ondisk.KeyBtreePtr, ondisk.KeyBtreePtrV2, ondisk.KeyExtent, ondisk.KeyReflinkV:
		m.sectors = 0
		if err := m.markExtent(id, level, k); err != nil {
			return err
		}
		sectors = m.sectors
	case ondisk.KeyReflinkP:
		m.markReflinkP(k)
	case ondisk.KeyReservation:
		if r, err := ondisk.DecodeReservation(*k); err == nil {
			m.n.add(&ondisk.AccountingPos{Type: ondisk.AccountingPersistentReserved, NrReplicas: r.NrReplicas}, values{int64(k.Size)})
			sectors = int64(k.Size)
		}
	case ondisk.KeyInode, ondisk.KeyInodeV2, ondisk.KeyInodeV3:
		m.n.add(&ondisk.AccountingPos{Type: ondisk.AccountingNrInodes}, values{1})
	}
	if level == 0 {
		m.countKey(id, k, sectors)
	}
	return nil
}

// markExtent marks the buckets of a key's pointers.
func (m *marker) markExtent(id ondisk.BtreeID, level uint8, k *ondisk.Key) error {
	var buf [ondisk.MaxExtentPtrs]pointer
	all := m.c.appendPointers(buf[:0], k, level)
	if level > 0 {
		m.checkBitmap(id, level, k, all)
	}
	if level == 0 && m.c.version < ondisk.VersionReconcile {
		m.countRebalance(k, all)
	}
	var keep [ondisk.MaxExtentPtrs]pointer
	counted := keep[:0]
	for i := range all {
		ok, err := m.markPointer(id, level, k, &all[i])
		if err != nil {
			return err
		}
		if ok {
			counted = append(counted, all[i])
		}
	}
	m.countExtent(id, level, k, counted)
	return nil
}

// markPointer counts one pointer in its bucket; it reports whether it counts elsewhere too.
func (m *marker) markPointer(id ondisk.BtreeID, level uint8, k *ondisk.Key, p *pointer) (bool, error) {
	c := m.c
	if p.HasStripe {
		m.stripeOf(id, level, k, p)
	}
	if p.Dev == ondisk.DevInvalid {
		return p.HasStripe, nil
	}
	d := c.byIndex[p.Dev]
	if d == nil || d.BucketSize == 0 || !d.holds(d.bucketOf(p.Offset)) {
		c.at(idPtrToInvalidDevice, id, level, k.Pos, "drop the pointer", "pointer to sector %d of device %d: there is no such device or bucket",
			p.Offset, p.Dev)
		return false, nil
	}
	m.checkSpan(d, id, level, k, p)
	b := d.bucketOf(p.Offset)
	ok := false
	err := m.buckets.change(p.Dev, b, func(g *bucket) {
		if ok = m.usable(d, b, g, id, level, k, &p.ExtentPtr, p.typ); !ok {
			return
		}
		sum := &g.dirty
		switch {
		case p.HasStripe:
			sum = &g.striped
		case p.Cached:
			sum = &g.cached
		}
		if *sum+p.sectors < *sum {
			if g.flags&bucketOverflow == 0 {
				g.flags |= bucketOverflow
				c.at(idBucketSectorCountOverflow, ondisk.BtreeAlloc, 0, bucketPos(p.Dev, b), "none", "more sectors than can be counted")
			}
			return
		}
		*sum += p.sectors
		switch {
		case g.stripe != 0: // stays what its stripe made it
		case g.typ == ondisk.DataFree, g.typ == ondisk.DataCached && p.typ != ondisk.DataCached:
			g.typ = p.typ
		}
		if g.stripe == 0 && g.typ == ondisk.DataStripe {
			g.typ = ondisk.DataUser
		}
	})
	return ok, err
}

// checkSpan tells of a pointer to what does not lie in one bucket.
func (m *marker) checkSpan(d *Device, id ondisk.BtreeID, level uint8, k *ondisk.Key, p *pointer) {
	n := p.sectors
	if level == 0 && p.HasCRC {
		n = p.CRC.CompressedSize
	}
	if off := uint64(p.Offset) % uint64(d.BucketSize); off+uint64(n) > uint64(d.BucketSize) {
		m.c.at(idPtrSpansMultipleBuckets, id, level, k.Pos, "delete the key", "pointer to device %d sector %d: %d sectors at %d of a bucket of %d",
			p.Dev, p.Offset, n, off, d.BucketSize)
	}
}

// usable judges a pointer by its bucket, which the caller holds: generations and types must fit. Facts: spec 04 §6.4, spec 03 §20.1.
func (m *marker) usable(d *Device, b ondisk.Bucket, g *bucket, id ondisk.BtreeID, level uint8, k *ondisk.Key, p *ondisk.ExtentPtr,
	typ ondisk.DataType) bool {
	c := m.c
	if g.flags&bucketGenKnown == 0 {
		if !c.lost.has(ondisk.BtreeAlloc, bucketPos(d.Index, b)) && g.flags&bucketNoKey == 0 {
			g.flags |= bucketNoKey
			c.at(idPtrToMissingAllocKey, ondisk.BtreeAlloc, 0, bucketPos(d.Index, b), "make one with the pointer's generation",
				"%v holds a pointer to this bucket, which has no alloc key", id)
		}
		if p.Cached {
			return false
		}
		g.gen = p.Gen
		g.flags |= bucketGenKnown
	}
	switch age := int8(g.gen - p.Gen); {
	case age < 0:
		c.at(idPtrGenNewerThanBucketGen, id, level, k.Pos, "take the pointer's generation", "pointer to device %d bucket %d has generation %d, "+
			"newer than the bucket's %d", d.Index, b, p.Gen, g.gen)
		return false
	case age > ondisk.BucketGCGenMax:
		c.at(idPtrTooStale, id, level, k.Pos, "drop the pointer", "pointer to device %d bucket %d has generation %d, the bucket %d", d.Index, b,
			p.Gen, g.gen)
		return false
	case age != 0 && p.Cached:
		return false // what it led to is gone
	case age != 0:
		c.at(idStaleDirtyPtr, id, level, k.Pos, "drop the pointer", "pointer to device %d bucket %d has generation %d, the bucket %d: the data is "+
			"gone", d.Index, b, p.Gen, g.gen)
		return false
	}
	if g.typ != ondisk.DataFree && kind(g.typ) != kind(typ) {
		c.at(idPtrBucketDataTypeMismatch, id, level, k.Pos, "drop the pointer", "pointer to device %d bucket %d makes it %v, but it holds %v too",
			d.Index, b, typ, g.typ)
		return false
	}
	return true
}

// kind is what may lie in one bucket together.
func kind(t ondisk.DataType) ondisk.DataType {
	if t == ondisk.DataCached || t == ondisk.DataStripe {
		return ondisk.DataUser
	}
	return t
}

// checkBitmap looks whether the members' bitmaps, in which a search for lost nodes looks, cover the nodes that are there.
func (m *marker) checkBitmap(id ondisk.BtreeID, level uint8, k *ondisk.Key, ptrs []pointer) {
	if m.c.sb.VersionUpgradeComplete() < 1<<10|7 {
		return
	}
	for i := range ptrs {
		p := &ptrs[i]
		d := m.c.byIndex[p.Dev]
		if p.Dev == ondisk.DevInvalid || d == nil {
			continue
		}
		first, last := p.Offset>>min(d.BtreeBitmapShift, 63), (p.Offset+ondisk.Sector(p.sectors)-1)>>min(d.BtreeBitmapShift, 63)
		for bit := first; bit <= last; bit++ {
			if bit > 63 || d.BtreeBitmap>>bit&1 == 0 {
				m.c.at(idBtreeBitmapNotMarked, id, level, k.Pos, "mark it", "node at device %d sector %d is not marked in the member's bitmap",
					p.Dev, p.Offset)
				break
			}
		}
	}
}
