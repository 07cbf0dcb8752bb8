package alloc

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/codec/compress"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// triggerEnv is a filesystem of some devices of 128 buckets of 512 sectors, all free, with triggers, to which tests add keys.
type triggerEnv struct {
	t       testing.TB
	fs      *FakeFS
	tr      *Triggers
	devs    *Devices
	clock   uint64
	claims  *testClaims
	reports []error
	became  []string
	targets map[uint16][]uint8
}

// testClaims are buckets that are open.
type testClaims struct {
	open map[ondisk.Pos]Claim
	all  Claim // of buckets that are not in open
	log  []string
}

func (c *testClaims) Claim(dev uint8, b ondisk.Bucket) Claim {
	if cl, ok := c.open[allocPos(dev, b)]; ok {
		return cl
	}
	return c.all
}

func (c *testClaims) Filled(dev uint8, b ondisk.Bucket) {
	c.log = append(c.log, fmt.Sprintf("filled %d:%d", dev, b))
	if c.open[allocPos(dev, b)] == ClaimFresh {
		c.open[allocPos(dev, b)] = ClaimFilled
	}
}

func (c *testClaims) Emptied(dev uint8, b ondisk.Bucket, seq uint64) {
	c.log = append(c.log, fmt.Sprintf("emptied %d:%d seq %d", dev, b, seq))
}

const (
	testBuckets    = 128
	testBucketSize = 512
)

func newTriggerEnv(t testing.TB, devices int) *triggerEnv {
	e := &triggerEnv{t: t, fs: NewFakeFS(), devs: new(Devices), clock: 100, targets: map[uint16][]uint8{}}
	var err error
	e.tr, err = NewTriggers(TriggerConfig{
		Version:     ondisk.VersionDefault,
		Devices:     e.devs,
		NodeSectors: testBucketSize,
		Clock:       func(rw int) uint64 { return e.clock + uint64(rw) },
		Report:      func(err error) { e.reports = append(e.reports, err) },
		Became: func(dev uint8, b ondisk.Bucket, old, now ondisk.DataType) {
			e.became = append(e.became, fmt.Sprintf("%d:%d %v→%v", dev, b, old, now))
		},
		Target: func(target uint16, dev uint8) (in, usable bool) {
			devs, ok := e.targets[target]
			return slices.Contains(devs, dev), ok
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	e.fs.Transactional, e.fs.Atomic, e.fs.SameTrigger = e.tr.Transactional, e.tr.Atomic, SameTrigger
	for i := range devices {
		d := NewDevice(uint8(i), &ondisk.Member{NBuckets: testBuckets, FirstBucket: 0, BucketSize: testBucketSize})
		e.devs.Set(d)
		e.ok(func(tx Tx) error { InitDeviceCounters(tx, d); return nil })
		if err := e.tr.InitFreespace(context.Background(), e.run, d, 0, testBuckets); err != nil {
			t.Fatal(err)
		}
		d.SetFreespaceInitialized(true)
	}
	return e
}

func (e *triggerEnv) run(ctx context.Context, fn func(tx Tx) error) error {
	return e.fs.UpdateContext(ctx, func(tx *FakeTx) error { return fn(tx) })
}

// withClaims makes the table of open buckets count from now on.
func (e *triggerEnv) withClaims() *testClaims {
	e.claims = &testClaims{open: map[ondisk.Pos]Claim{}}
	e.tr.cfg.Claims = e.claims
	return e.claims
}

func (e *triggerEnv) ok(fn func(tx Tx) error) {
	e.t.Helper()
	if err := e.run(context.Background(), fn); err != nil {
		e.t.Fatal(err)
	}
}

// set updates keys of a btree in one commit.
func (e *triggerEnv) set(btree ondisk.BtreeID, keys ...ondisk.Key) {
	e.t.Helper()
	if err := e.trySet(btree, keys...); err != nil {
		e.t.Fatal(err)
	}
}

func (e *triggerEnv) trySet(btree ondisk.BtreeID, keys ...ondisk.Key) error {
	return e.run(context.Background(), func(tx Tx) error {
		for _, k := range keys {
			if err := tx.Update(btree, k, 0); err != nil {
				return err
			}
		}
		return nil
	})
}

func (e *triggerEnv) alloc(dev uint8, b ondisk.Bucket) ondisk.Alloc {
	e.t.Helper()
	k, _ := e.fs.Key(ondisk.BtreeAlloc, allocPos(dev, b))
	a, err := decodeAlloc(&k)
	if err != nil {
		e.t.Fatal(err)
	}
	if k.Type != ondisk.KeyDeleted {
		if err := a.Validate(&k); err != nil {
			e.t.Error(err)
		}
	}
	return a
}

// putAlloc sets the state of a bucket with its triggers, whatever the table of open buckets says.
func (e *triggerEnv) putAlloc(dev uint8, b ondisk.Bucket, change func(a *ondisk.Alloc), flags UpdateFlags) error {
	return e.run(context.Background(), func(tx Tx) error {
		a, err := GetAlloc(tx, dev, b, ForUpdate)
		if err != nil {
			return err
		}
		change(&a)
		return SetAlloc(tx, dev, b, &a, flags)
	})
}

// counters prints all counters that are not zero, but for the ones of devices' free buckets, in order.
func (e *triggerEnv) counters() []string {
	var all []string
	for p, c := range e.fs.Accounting() {
		all = append(all, counterText(&p, c))
	}
	slices.Sort(all)
	return all
}

func counterText(p *ondisk.AccountingPos, c []int64) string {
	name := p.Type.String()
	switch p.Type {
	case ondisk.AccountingReplicas:
		name = fmt.Sprintf("replicas %v %d %v", p.DataType, p.NrRequired, p.DevList())
	case ondisk.AccountingDevDataType:
		name = fmt.Sprintf("dev %d %v", p.Dev, p.DataType)
	case ondisk.AccountingCompression:
		name = "compression " + p.Compression.String()
	case ondisk.AccountingSnapshot:
		name = fmt.Sprintf("snapshot %d", p.ID)
	case ondisk.AccountingBtree:
		name = fmt.Sprintf("btree %v", ondisk.BtreeID(p.Btree))
	case ondisk.AccountingInum:
		name = fmt.Sprintf("inum %d", p.Inum)
	case ondisk.AccountingPersistentReserved:
		name = fmt.Sprintf("reserved x%d", p.NrReplicas)
	}
	return fmt.Sprint(name, " ", c)
}

// changes returns by how much fn changes counters, as text.
func (e *triggerEnv) changes(fn func()) []string {
	e.t.Helper()
	old := e.fs.Accounting()
	fn()
	var all []string
	now := e.fs.Accounting()
	for p := range old {
		if _, ok := now[p]; !ok {
			now[p] = nil
		}
	}
	for p, c := range now {
		d := make([]int64, 3)
		copy(d, c)
		for i, n := range old[p] {
			d[i] -= n
		}
		if d[0]|d[1]|d[2] != 0 {
			for len(d) > 1 && d[len(d)-1] == 0 {
				d = d[:len(d)-1]
			}
			all = append(all, counterText(&p, d))
		}
	}
	slices.Sort(all)
	return all
}

// positions prints the positions of all keys of a btree.
func (e *triggerEnv) positions(btree ondisk.BtreeID) []string {
	var all []string
	for _, k := range e.fs.Keys(btree) {
		all = append(all, k.Pos.String())
	}
	return all
}

func wantLines(t testing.TB, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n  %s\nwant\n  %s", what, strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

// ptr returns an entry of a pointer to a sector of a bucket.
func ptr(dev uint8, b ondisk.Bucket, off uint32, gen uint8) ondisk.ExtentEntry {
	return ondisk.ExtentEntry{Type: ondisk.EntryPtr, Ptr: ondisk.ExtentPtr{Dev: dev, Gen: gen,
		Offset: ondisk.Sector(uint64(b)*testBucketSize + uint64(off))}}
}

func cachedPtr(dev uint8, b ondisk.Bucket, off uint32, gen uint8) ondisk.ExtentEntry {
	e := ptr(dev, b, off, gen)
	e.Ptr.Cached = true
	return e
}

func crc(typ compress.Type, full, now, off uint32) ondisk.ExtentEntry {
	c := ondisk.CRC{UncompressedSize: full, CompressedSize: now, Offset: off, Compression: typ}
	t, _ := c.EntryType()
	return ondisk.ExtentEntry{Type: t, CRC: c}
}

func testExtent(inum, end uint64, size, snapshot uint32, entries ...ondisk.ExtentEntry) ondisk.Key {
	k := ondisk.Key{Type: ondisk.KeyExtent, Pos: ondisk.Pos{Inode: inum, Offset: end, Snapshot: snapshot}, Size: size}
	for i := range entries {
		k.Val = ondisk.AppendExtentEntry(k.Val, &entries[i])
	}
	return k
}

func deleted(k ondisk.Key) ondisk.Key { return ondisk.Key{Type: ondisk.KeyDeleted, Pos: k.Pos} }

const snap = math.MaxUint32

// v4 returns a as decoding an alloc_v4 gives it.
func v4(a ondisk.Alloc) ondisk.Alloc {
	a.Encoding = ondisk.KeyAllocV4
	return a.Upgrade()
}

// checkIndexes checks that all that repeats alloc keys agrees with them.
func (e *triggerEnv) checkIndexes() {
	e.t.Helper()
	discard, lru, gens := map[string]bool{}, map[string]bool{}, map[string]bool{}
	free := map[uint64]bool{}
	usage := map[ondisk.AccountingPos][3]int64{}
	for d := range e.devs.All() {
		for b := d.FirstBucket; b < d.NBuckets; b++ {
			a := e.alloc(d.Index, b)
			db := ondisk.DevBucket(uint16(d.Index), b)
			switch a.DataType {
			case ondisk.DataFree:
				free[uint64(d.Index)<<40|uint64(a.FreespaceGenBits())<<32|uint64(b)] = true
			case ondisk.DataNeedDiscard:
				discard[allocPos(d.Index, b).String()] = true
			}
			if n := ReadLRUTime(&a); n != 0 {
				lru[ondisk.LRUPos{ID: uint16(d.Index), Time: n, Offset: db}.Pos().String()] = true
			}
			if n := a.FragmentationLRU(d.BucketSize); n != 0 {
				lru[ondisk.LRUPos{ID: ondisk.LRUFragmentation, Time: n, Offset: db}.Pos().String()] = true
			}
			if a.Gen != 0 {
				gens[fmt.Sprint(d.Index, " ", b, " ", a.Gen)] = true
			}
			if gen, _ := d.Gen(b); gen != a.Gen {
				e.t.Errorf("bucket %d:%d: gen %d, %d in memory", d.Index, b, a.Gen, gen)
			}
			u := usage[devDataType(d.Index, a.DataType)]
			u[0]++
			u[1] += int64(a.Sectors())
			u[2] += int64(a.Fragmented(d.BucketSize))
			usage[devDataType(d.Index, a.DataType)] = u
		}
	}
	set := func(btree ondisk.BtreeID) map[string]bool {
		m := map[string]bool{}
		for _, p := range e.positions(btree) {
			m[p] = true
		}
		return m
	}
	gotFree := map[uint64]bool{}
	for _, k := range e.fs.Keys(ondisk.BtreeFreespace) {
		r := ondisk.DecodeFreespace(&k)
		for i := range r.Len {
			gotFree[r.Dev<<40|uint64(r.GenBits)<<32|uint64(r.First)+uint64(i)] = true
		}
	}
	gotGens := map[string]bool{}
	for _, k := range e.fs.Keys(ondisk.BtreeBucketGens) {
		for i, g := range k.Val {
			if g != 0 {
				gotGens[fmt.Sprint(k.Pos.Inode, " ", k.Pos.Offset<<8+uint64(i), " ", g)] = true
			}
		}
	}
	if got := set(ondisk.BtreeNeedDiscard); !maps.Equal(got, discard) {
		e.t.Errorf("need_discard: %v, want %v", got, discard)
	}
	if got := set(ondisk.BtreeLRU); !maps.Equal(got, lru) {
		e.t.Errorf("lru: %v, want %v", got, lru)
	}
	if !maps.Equal(gotFree, free) {
		e.t.Errorf("freespace: %x, want %x", slices.Sorted(maps.Keys(gotFree)), slices.Sorted(maps.Keys(free)))
	}
	if !maps.Equal(gotGens, gens) {
		e.t.Errorf("bucket_gens: %v, want %v", gotGens, gens)
	}
	for p, c := range e.fs.Accounting() {
		if p.Type != ondisk.AccountingDevDataType || p.DataType == ondisk.DataUnstriped {
			continue
		}
		if u := usage[p]; !slices.Equal(u[:], c) {
			e.t.Errorf("%s, want %d", counterText(&p, c), u)
		}
		delete(usage, p)
	}
	if len(usage) != 0 {
		e.t.Errorf("not counted: %v", usage)
	}
}

// discardAll makes all buckets free that wait for discard.
func (e *triggerEnv) discardAll() {
	e.t.Helper()
	for _, k := range e.fs.Keys(ondisk.BtreeNeedDiscard) {
		if err := e.putAlloc(uint8(k.Pos.Inode), ondisk.Bucket(k.Pos.Offset), func(a *ondisk.Alloc) { a.NeedDiscard = false }, 0); err != nil {
			e.t.Fatal(err)
		}
	}
}

func inodeKey(inum uint64, snapshot uint32, flags ondisk.InodeFlags) ondisk.Key {
	in := ondisk.Inode{Inum: inum, Snapshot: snapshot, Encoding: ondisk.KeyInodeV3, Mode: 0o100644, Flags: flags}
	return ondisk.Key{Type: ondisk.KeyInodeV3, Pos: ondisk.Pos{Offset: inum, Snapshot: snapshot}, Val: ondisk.EncodeInodeV3(&in)}
}
