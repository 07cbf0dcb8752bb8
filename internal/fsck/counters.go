package fsck

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/go-bcachefs/bcachefs/internal/codec/compress"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// values are the counters of one accounting key; what a type does not have is 0.
type values [3]int64

func (v *values) add(w values) {
	for i := range v {
		v[i] += w[i]
	}
}

// inumCounters are the counters of one inode.
type inumCounters struct {
	inum uint64
	v    values
	seen bool // its key was met
}

// counters is what a walk adds up. Each goroutine of a walk has its own.
type counters struct {
	version ondisk.MetadataVersion
	by      map[ondisk.Pos]values
	// last is where add went last: neighbours mostly count the same.
	last    ondisk.AccountingPos
	lastPos ondisk.Pos
	// inums is in order of inums, as extents are walked.
	inums []inumCounters
}

func newCounters(v ondisk.MetadataVersion) *counters {
	return &counters{version: v, by: map[ondisk.Pos]values{}}
}

func (n *counters) add(a *ondisk.AccountingPos, v values) {
	if n.last != *a || n.lastPos == (ondisk.Pos{}) {
		n.last, n.lastPos = *a, a.Pos(n.version)
	}
	sum := n.by[n.lastPos]
	sum.add(v)
	n.by[n.lastPos] = sum
}

func (n *counters) addInum(inum uint64, v values) {
	if len(n.inums) == 0 || n.inums[len(n.inums)-1].inum != inum {
		n.inums = append(n.inums, inumCounters{inum: inum})
	}
	n.inums[len(n.inums)-1].v.add(v)
}

// merge takes in what another goroutine counted.
func (n *counters) merge(o *counters) {
	for pos, v := range o.by {
		sum := n.by[pos]
		sum.add(v)
		n.by[pos] = sum
	}
	n.inums = append(n.inums, o.inums...)
}

// finish sorts the inodes and adds up what two goroutines counted of one.
func (n *counters) finish() {
	slices.SortStableFunc(n.inums, func(a, b inumCounters) int { return cmp.Compare(a.inum, b.inum) })
	out := n.inums[:0]
	for _, i := range n.inums {
		if len(out) > 0 && out[len(out)-1].inum == i.inum {
			out[len(out)-1].v.add(i.v)
		} else {
			out = append(out, i)
		}
	}
	n.inums = out
}

// take returns what was counted at a position and marks it as met.
func (n *counters) take(pos ondisk.Pos, a *ondisk.AccountingPos) values {
	if a.Type == ondisk.AccountingInum {
		i, ok := slices.BinarySearchFunc(n.inums, a.Inum, func(e inumCounters, inum uint64) int { return cmp.Compare(e.inum, inum) })
		if !ok {
			return values{}
		}
		n.inums[i].seen = true
		return n.inums[i].v
	}
	v := n.by[pos]
	delete(n.by, pos)
	return v
}

// countedType reports whether check_allocations counts the type in this version, and if not, whether that is to be said.
func (c *checker) countedType(t ondisk.AccountingType) (counted, say bool) {
	switch t {
	case ondisk.AccountingNrInodes, ondisk.AccountingPersistentReserved, ondisk.AccountingReplicas, ondisk.AccountingDevDataType,
		ondisk.AccountingCompression, ondisk.AccountingBtree:
		return true, false
	case ondisk.AccountingSnapshot:
		return true, false
	case ondisk.AccountingInum:
		return c.since(11), false
	case ondisk.AccountingRebalanceWork: // drivers before 1.12 counted it wrong
		return c.since(12) && !c.since(14), c.since(14) && !c.since(33)
	}
	return false, true
}

// checkCounters holds the accounting btree against what was counted.
func (c *checker) checkCounters(ctx context.Context, n *counters, skip func(t ondisk.AccountingType) bool) error {
	err := c.each(ctx, ondisk.BtreeAccounting, 0, ondisk.PosMin, ondisk.SPosMax, func(k *ondisk.Key) error {
		a, ok := ondisk.DecodeAccountingPos(k.Pos, c.version)
		if k.Type != ondisk.KeyAccounting || !ok || a.Type >= ondisk.NumAccountingTypes {
			return nil
		}
		want := n.take(k.Pos, &a)
		if skip(a.Type) {
			return nil
		}
		if counted, say := c.countedType(a.Type); !counted {
			if say && counts(k) {
				c.note("counters of type %v of version %v were not checked", a.Type, c.version)
			}
			return nil
		}
		c.checkCounter(k, &a, want)
		return nil
	})
	if err != nil {
		return err
	}
	c.checkMissingCounters(n, skip)
	if c.inumsOff > 0 {
		c.note("%d inodes, the first of them %d, have counters of extents and sectors that are not theirs: nothing relies on these", c.inumsOff, c.inumOff)
	}
	return nil
}

func (c *checker) checkCounter(k *ondisk.Key, a *ondisk.AccountingPos, want values) {
	var got values
	nr := ondisk.NrAccountingCounters(k)
	for i := range min(nr, len(got)) {
		got[i] = ondisk.AccountingCounter(k, i)
	}
	if got != want {
		c.mismatch(k.Pos, a, got, want, min(max(nr, 1), len(got)))
	}
}

// mismatch tells of a counter that is not what was counted. Those of inodes are no error: no driver compares or uses them, and that of 6.12 adds what
// it finds in its journal to them once more (bch2_accounting_read leaves out what it does not keep in memory).
func (c *checker) mismatch(pos ondisk.Pos, a *ondisk.AccountingPos, got, want values, nr int) {
	if a.Type == ondisk.AccountingInum {
		if c.inumsOff++; c.inumsOff == 1 {
			c.inumOff = a.Inum
		}
		return
	}
	text := func(v values) string { return strings.Trim(fmt.Sprint(v[:nr]), "[]") }
	c.at(idAccountingMismatch, ondisk.BtreeAccounting, 0, pos, "add the difference", "accounting mismatch for %s: got %s should be %s",
		c.counterName(a), text(got), text(want))
}

// checkMissingCounters tells of what was counted but has no key.
func (c *checker) checkMissingCounters(n *counters, skip func(t ondisk.AccountingType) bool) {
	missing := func(pos ondisk.Pos, a *ondisk.AccountingPos, want values) {
		counted, _ := c.countedType(a.Type)
		if counted && want != (values{}) && !skip(a.Type) && !c.lost.has(ondisk.BtreeAccounting, pos) {
			c.mismatch(pos, a, values{}, want, len(want))
		}
	}
	for pos, want := range n.by {
		a, _ := ondisk.DecodeAccountingPos(pos, c.version)
		missing(pos, &a, want)
	}
	for i := range n.inums {
		if e := &n.inums[i]; !e.seen {
			a := ondisk.AccountingPos{Type: ondisk.AccountingInum, Inum: e.inum}
			missing(a.Pos(c.version), &a, e.v)
		}
	}
}

// countExtent adds what an extent or a pointer to a node is counted as beside its buckets: ptrs are its pointers without those that
// count nowhere. Facts: spec 04 §6.3.
func (m *marker) countExtent(id ondisk.BtreeID, level uint8, k *ondisk.Key, ptrs []pointer) {
	typ := ondisk.DataUser
	if level > 0 {
		typ = ondisk.DataBtree
	}
	replicas := ondisk.AccountingPos{Type: ondisk.AccountingReplicas, DataType: typ, NrRequired: 1}
	var sectors int64
	for i := range ptrs {
		p := &ptrs[i]
		switch {
		case p.Cached:
			m.n.add(cachedOn(p.Dev), values{int64(p.sectors)})
		case p.HasStripe:
			m.countStriped(p, typ)
			replicas.NrRequired = 0
		case int(replicas.NrDevs) < len(replicas.Devs):
			sectors += int64(p.sectors)
			replicas.Devs[replicas.NrDevs] = p.Dev
			replicas.NrDevs++
		}
	}
	m.countCompression(ptrs)
	if replicas.NrDevs > 0 {
		slices.Sort(replicas.DevList())
		m.n.add(&replicas, values{sectors})
		if level == 0 && k.Pos.Snapshot != 0 && !m.c.since(39) {
			m.n.add(&ondisk.AccountingPos{Type: ondisk.AccountingSnapshot, ID: k.Pos.Snapshot}, values{sectors})
		}
	}
	if level > 0 {
		v := values{sectors}
		if m.c.since(31) {
			v[1] = 1
			if level > 1 {
				v[2] = 1
			}
		}
		m.n.add(&ondisk.AccountingPos{Type: ondisk.AccountingBtree, Btree: uint32(id)}, v)
		return
	}
	m.sectors = sectors
	m.n.addInum(k.Pos.Inode, values{1, int64(k.Size), sectors})
}

// countKey adds what every key in a btree with snapshots, but for whiteouts, is counted as from 1.39 on.
func (m *marker) countKey(id ondisk.BtreeID, k *ondisk.Key, sectors int64) {
	if m.c.since(39) && id.Has(ondisk.BtreeHasSnapshots) && k.Pos.Snapshot != 0 && !k.Type.IsWhiteout() {
		m.n.add(&ondisk.AccountingPos{Type: ondisk.AccountingSnapshot, ID: k.Pos.Snapshot, Btree: uint32(id)},
			values{1, ondisk.KeySize + int64(len(k.Val)), sectors})
	}
}

func cachedOn(dev uint8) *ondisk.AccountingPos {
	return &ondisk.AccountingPos{Type: ondisk.AccountingReplicas, DataType: ondisk.DataCached, NrDevs: 1, NrRequired: 1,
		Devs: [len(ondisk.AccountingPos{}.Devs)]uint8{dev}}
}

// countCompression counts pointers that follow each other with one type of compression as one.
func (m *marker) countCompression(ptrs []pointer) {
	var run values
	for i := range ptrs {
		t := ptrs[i].CRC.Compression
		if t != compress.None {
			run[0] = 1
			run[1] += int64(ptrs[i].CRC.UncompressedSize)
			run[2] += int64(ptrs[i].CRC.CompressedSize)
		}
		if i+1 == len(ptrs) || ptrs[i+1].CRC.Compression != t {
			if t != compress.None {
				m.n.add(&ondisk.AccountingPos{Type: ondisk.AccountingCompression, Compression: t}, run)
			}
			run = values{}
		}
	}
}

// countRebalance counts the sectors that are not yet as the extent says they should be, as drivers of 1.12 and 1.13 do.
func (m *marker) countRebalance(k *ondisk.Key, all []pointer) {
	want, ok := rebalanceOf(k, m.c.types)
	if !ok {
		return
	}
	var sectors int64
	if want.BackgroundCompression != 0 {
		for i := range all {
			if all[i].CRC.Compression == compress.Incompressible || all[i].Unwritten {
				sectors = 0
				break
			}
			if !all[i].Cached && all[i].CRC.Compression != compressionOption(want.BackgroundCompression) {
				sectors += int64(all[i].CRC.CompressedSize)
			}
		}
	}
	if target := want.BackgroundTarget; target != 0 && m.c.targets.acceptsData(target) {
		for i := range all {
			if !all[i].Cached && !m.c.targets.has(target, all[i].Dev) {
				sectors += int64(all[i].CRC.CompressedSize)
			}
		}
	}
	if sectors != 0 {
		m.n.add(&ondisk.AccountingPos{Type: ondisk.AccountingRebalanceWork}, values{sectors})
	}
}

func rebalanceOf(k *ondisk.Key, types ondisk.ExtentTypeU64s) (ondisk.Rebalance, bool) {
	for e, err := range ondisk.ExtentEntries(k, types) {
		if err == nil && e.Type == ondisk.EntryRebalance {
			return e.Rebalance, true
		}
	}
	return ondisk.Rebalance{}, false
}
