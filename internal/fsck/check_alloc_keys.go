package fsck

import (
	"cmp"
	"context"
	"slices"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// devCounters are the buckets of a device, added up.
type devCounters [ondisk.NumDataTypes]values

// checkAllocKeys compares alloc keys with what was added up, and buckets without key with nothing.
func (m *marker) checkAllocKeys(ctx context.Context) error {
	c := m.c
	devs := map[uint8]*devCounters{}
	for i := range c.devices {
		devs[c.devices[i].Index] = &devCounters{}
	}
	err := c.each(ctx, ondisk.BtreeAlloc, 0, ondisk.PosMin, ondisk.SPosMax, func(k *ondisk.Key) error {
		b := ondisk.Bucket(k.Pos.Offset)
		d := c.device(k.Pos.Inode, b)
		a, err := ondisk.DecodeAlloc(*k)
		if d == nil || err != nil {
			return nil
		}
		a = a.Upgrade()
		g := m.buckets.get(d.Index, b)
		m.checkAllocKey(d, b, &a, &g, devs[d.Index])
		return nil
	})
	if err != nil {
		return err
	}
	m.checkKeyless(devs)
	for i := range c.devices {
		m.countDevice(&c.devices[i], devs[c.devices[i].Index])
	}
	return nil
}

// checkKeyless looks at the buckets that something points to but that have no alloc key.
func (m *marker) checkKeyless(devs map[uint8]*devCounters) {
	ids := make([]pieceID, 0, len(m.buckets.pieces))
	for id := range m.buckets.pieces {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b pieceID) int { return cmp.Or(cmp.Compare(a.dev, b.dev), cmp.Compare(a.n, b.n)) })
	for _, id := range ids {
		for i := range m.buckets.pieces[id] {
			g := &m.buckets.pieces[id][i]
			b := ondisk.Bucket(id.n<<bucketShift + uint64(i))
			if g.flags&bucketHasKey != 0 || g.empty() || m.c.lost.has(ondisk.BtreeAlloc, bucketPos(id.dev, b)) {
				continue
			}
			m.checkAllocKey(m.c.byIndex[id.dev], b, &ondisk.Alloc{}, g, devs[id.dev])
		}
	}
}

// checkAllocKey compares one bucket and adds what it should be to its device's counters.
func (m *marker) checkAllocKey(d *Device, b ondisk.Bucket, got *ondisk.Alloc, g *bucket, sum *devCounters) {
	c := m.c
	if d.SB == nil && (got.DataType == ondisk.DataSB || got.DataType == ondisk.DataJournal) && g.empty() {
		g.typ, g.dirty = got.DataType, got.DirtySectors // its superblock would tell
	}
	want := g.alloc(got)
	sum.add(&want, uint32(d.BucketSize), c.since(33))
	wrong := func(id ondisk.ErrorID, field string, got, want any) {
		c.at(id, ondisk.BtreeAlloc, 0, bucketPos(d.Index, b), "set it", "bucket %d:%d gen %d has wrong %s: got %v, should be %v", d.Index, b, g.gen,
			field, got, want)
	}
	if got.DataType != want.DataType {
		wrong(idAllocKeyDataTypeWrong, "data_type", got.DataType, want.DataType)
	}
	if got.Gen != want.Gen {
		wrong(idAllocKeyGenWrong, "gen", got.Gen, want.Gen)
	}
	if got.DirtySectors != want.DirtySectors {
		wrong(idAllocKeyDirtySectorsWrong, "dirty_sectors", got.DirtySectors, want.DirtySectors)
	}
	if got.StripeSectors != want.StripeSectors && c.since(8) {
		wrong(idAllocKeyStripeSectorsWrong, "stripe_sectors", got.StripeSectors, want.StripeSectors)
	}
	if got.CachedSectors != want.CachedSectors {
		wrong(idAllocKeyCachedSectorsWrong, "cached_sectors", got.CachedSectors, want.CachedSectors)
	}
	switch {
	case got.Stripe == want.Stripe:
	case c.since(35):
		wrong(idAllocKeyStripeRefcountWrong, "stripe_refcount", got.Stripe, want.Stripe)
	default:
		wrong(idAllocKeyStripeWrong, "stripe", got.Stripe, want.Stripe)
	}
	if got.StripeRedundancy != want.StripeRedundancy && !c.since(33) {
		wrong(idAllocKeyStripeRedundancyWrong, "stripe_redundancy", got.StripeRedundancy, want.StripeRedundancy)
	}
}

// add counts a bucket. Newer drivers count all of a block of a stripe in which nothing is left as fragmented, older ones nothing.
func (n *devCounters) add(a *ondisk.Alloc, bucketSize uint32, newer bool) {
	if a.DataType == ondisk.DataFree || a.DataType >= ondisk.NumDataTypes {
		return
	}
	v := values{1, int64(a.Sectors()), int64(a.Fragmented(bucketSize))}
	if newer && v[1] == 0 && !a.DataType.IsEmpty() {
		v[2] = int64(bucketSize)
	}
	n[a.DataType].add(v)
	if a.DataType == ondisk.DataStripe && a.DirtySectors != 0 {
		n[ondisk.DataUnstriped].add(values{1, int64(a.DirtySectors)})
	}
}

// countDevice makes counters of what a device's buckets add up to; those not met are free.
func (m *marker) countDevice(d *Device, sum *devCounters) {
	free := int64(d.NBuckets) - int64(d.FirstBucket)
	for t, v := range sum {
		if t != int(ondisk.DataUnstriped) {
			free -= v[0]
		}
	}
	sum[ondisk.DataFree] = values{free}
	for t, v := range sum {
		if v != (values{}) {
			m.n.add(&ondisk.AccountingPos{Type: ondisk.AccountingDevDataType, Dev: uint32(d.Index), DataType: ondisk.DataType(t)}, v)
		}
	}
}

// unknownCounter reports whether damage hides what counters of the type are to be.
func (m *marker) unknownCounter(t ondisk.AccountingType) bool {
	lost := &m.c.lost
	switch t {
	case ondisk.AccountingNrInodes:
		return lost.any(ondisk.BtreeInodes)
	case ondisk.AccountingDevDataType, ondisk.AccountingReplicas, ondisk.AccountingCompression: // which cached pointers count, buckets tell
		return lost.any(ondisk.BtreeAlloc)
	case ondisk.AccountingSnapshot:
		if !m.c.since(39) {
			return false
		}
		for id := range ondisk.NumBtrees {
			if id.Has(ondisk.BtreeHasSnapshots) && lost.any(id) {
				return true
			}
		}
	}
	return false
}
