package alloc_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/alloc"
	"github.com/go-bcachefs/bcachefs/internal/engine"
	"github.com/go-bcachefs/bcachefs/internal/golden"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// replay is a filesystem of a golden image that is built up again from nothing but its data, by triggers.
type replay struct {
	t    *testing.T
	img  *engine.FS
	fs   *alloc.FakeFS
	tr   *alloc.Triggers
	devs alloc.Devices
	disk map[ondisk.Pos]ondisk.Alloc // alloc keys of the image
	open map[ondisk.Pos]bool         // buckets that were open when they were emptied

	nodes []nodePtr // all pointers to nodes
}

type nodePtr struct {
	btree ondisk.BtreeID
	level uint8
	key   ondisk.Key
}

// TestReplayGolden inserts all pointers of images of the real driver into an empty filesystem and compares what the triggers made of them with
// what the driver had on disk: alloc keys, backpointers, indexes of buckets, generations, all counters, references of indirect extents.
//
// Generations, and the state of buckets that are empty, come from history, so they are set beforehand; io times and journal sequence
// numbers too, so these are not compared.
func TestReplayGolden(t *testing.T) {
	n := 0
	for _, img := range golden.Sample(t) {
		if img.Group != golden.GroupMain || img.Version != "1.13" {
			continue
		}
		n++
		t.Run(img.Name, func(t *testing.T) {
			fs, err := engine.Open(t.Context(), img.Unpack(t), engine.Options{
				NoScan:     true,
				Passphrase: func(context.Context) ([]byte, error) { return []byte(img.Passphrase), nil },
			})
			if err != nil {
				t.Fatal(err)
			}
			defer fs.Close()
			if !fs.SB.Initialized() || alloc.CheckVersion(fs.SB.Version) != nil {
				t.Skip("never mounted by the driver: there is nothing to compare")
			}
			r := newReplay(t, fs)
			r.history()
			r.insert()
			r.compare()
			r.remove()
		})
	}
	if n == 0 {
		if !golden.Full() {
			t.Skip("no images of version 1.13 among those of testdata/golden")
		}
		t.Fatal("no images of version 1.13")
	}
}

// openBuckets are the buckets of r.open; those are kept from getting a new generation.
type openBuckets struct{ r *replay }

func (o openBuckets) Claim(dev uint8, b ondisk.Bucket) alloc.Claim {
	if o.r.open[ondisk.Pos{Inode: uint64(dev), Offset: uint64(b)}] {
		return alloc.ClaimFilled
	}
	return alloc.NotClaimed
}
func (openBuckets) Filled(uint8, ondisk.Bucket)          {}
func (openBuckets) Emptied(uint8, ondisk.Bucket, uint64) {}

type snapshots struct{ *engine.Snapshots }

func (s snapshots) Parent(id uint32) uint32 { n, _ := s.Get(id); return n.Parent }
func (s snapshots) HasChildren(id uint32) bool {
	n, _ := s.Get(id)
	return n.Children[0] != 0
}

func newReplay(t *testing.T, img *engine.FS) *replay {
	r := &replay{t: t, img: img, fs: alloc.NewFakeFS(), disk: map[ondisk.Pos]ondisk.Alloc{}, open: map[ondisk.Pos]bool{}}
	for _, m := range img.Members {
		d := alloc.NewDevice(m.Index, &m.Member)
		d.SetFreespaceInitialized(false)
		r.devs.Set(d)
	}
	var err error
	checking := false
	r.tr, err = alloc.NewTriggers(alloc.TriggerConfig{
		Version:        img.SB.Version,
		Devices:        &r.devs,
		NodeSectors:    uint32(img.SB.BtreeNodeSize() / ondisk.SectorSize),
		ExtentTypeU64s: img.SB.ExtentTypeU64s(),
		Clock:          func(int) uint64 { return 7 },
		Claims:         openBuckets{r},
		Snapshots:      snapshots{img.Snapshots},
		Target:         r.target,
		IndexTrusted:   func() bool { return checking },
		Report:         func(err error) { t.Errorf("reported: %v", err) },
	})
	if err != nil {
		t.Fatal(err)
	}
	r.fs.Transactional, r.fs.SameTrigger = r.tr.Transactional, alloc.SameTrigger
	r.fs.Atomic = r.tr.Atomic
	return r
}

// target tells whether a device belongs to a target, by the labels.
func (r *replay) target(target uint16, dev uint8) (in, usable bool) {
	groups, err := r.img.SB.DiskGroups()
	if err != nil {
		r.t.Fatal(err)
	}
	switch {
	case target >= 257 && int(target-257) < len(groups):
		g, ok := r.img.Member(dev).Group()
		for ok && g >= 0 && g != int(target-257) {
			g = groups[g].Parent
		}
		return ok && g >= 0, true
	case target >= 1 && target < 257:
		return dev == uint8(target-1), true
	}
	return false, false
}

func (r *replay) keys(id ondisk.BtreeID, level uint8) []ondisk.Key {
	r.t.Helper()
	var keys []ondisk.Key
	for k, err := range r.img.Reader.KeysAt(r.t.Context(), id, level, ondisk.PosMin, ondisk.SPosMax) {
		if err != nil {
			r.t.Fatal(err)
		}
		keys = append(keys, k)
	}
	return keys
}

func (r *replay) update(fn func(tx alloc.Tx) error) {
	r.t.Helper()
	if err := r.fs.Update(func(tx *alloc.FakeTx) error { return fn(tx) }); err != nil {
		r.t.Fatal(err)
	}
}

func (r *replay) run(_ context.Context, fn func(tx alloc.Tx) error) error {
	return r.fs.Update(func(tx *alloc.FakeTx) error { return fn(tx) })
}

// history sets what cannot be known from the data: generations, and buckets that were emptied.
func (r *replay) history() {
	for d := range r.devs.All() {
		r.update(func(tx alloc.Tx) error { alloc.InitDeviceCounters(tx, d); return nil })
	}
	for _, k := range r.keys(ondisk.BtreeAlloc, 0) {
		a, err := ondisk.DecodeAlloc(k)
		if err != nil {
			r.t.Fatal(err)
		}
		r.disk[k.Pos] = a
		was := ondisk.Alloc{Gen: a.Gen, OldestGen: a.OldestGen}
		if a.DataType.IsEmpty() {
			was = a
			r.open[k.Pos] = a.NeedIncGen
		}
		r.update(func(tx alloc.Tx) error {
			return alloc.SetAlloc(tx, uint8(k.Pos.Inode), ondisk.Bucket(k.Pos.Offset), &was, 0)
		})
	}
	for _, m := range r.img.Members {
		d := r.devs.Get(m.Index)
		if err := r.tr.InitFreespace(r.t.Context(), r.run, d, 0, d.NBuckets); err != nil {
			r.t.Fatal(err)
		}
		d.SetFreespaceInitialized(true)
		journal, err := m.SB.Journal()
		if err != nil {
			r.t.Fatal(err)
		}
		if err := alloc.MarkMetadata(r.t.Context(), r.run, d, &m.SB.Layout, journal); err != nil {
			r.t.Fatal(err)
		}
	}
}

// insert inserts the data: the keys whose triggers make something.
func (r *replay) insert() {
	put := func(id ondisk.BtreeID, keys []ondisk.Key) {
		for _, k := range keys {
			r.update(func(tx alloc.Tx) error { return tx.Update(id, k, 0) })
		}
	}
	put(ondisk.BtreeStripes, r.keys(ondisk.BtreeStripes, 0))
	put(ondisk.BtreeInodes, r.keys(ondisk.BtreeInodes, 0))
	indirect := r.keys(ondisk.BtreeReflink, 0)
	put(ondisk.BtreeReflink, indirect)
	for _, k := range indirect { // references are counted anew
		k = k.Clone()
		clear(k.Val[:8])
		r.fs.SetKey(ondisk.BtreeReflink, k)
	}
	for _, k := range r.keys(ondisk.BtreeExtents, 0) {
		r.update(func(tx alloc.Tx) error { return tx.Update(ondisk.BtreeExtents, k, 0) })
	}
	for _, id := range r.img.Reader.Btrees() {
		root, ok := r.img.Reader.Root(id)
		if !ok || root.Key.Type == ondisk.KeyDeleted {
			continue
		}
		nodes := func(level uint8, keys ...ondisk.Key) {
			for _, k := range keys {
				r.nodes = append(r.nodes, nodePtr{id, level, k})
				if err := r.fs.Update(func(tx *alloc.FakeTx) error {
					tx.UpdateNode(id, level, ondisk.Key{Type: ondisk.KeyDeleted, Pos: k.Pos}, k)
					return nil
				}); err != nil {
					r.t.Fatal(err)
				}
			}
		}
		nodes(root.Level+1, root.Key)
		for level := root.Level; level > 0; level-- {
			nodes(level, r.keys(id, level)...)
		}
	}
}

// remove deletes all data again, in any order, and checks that nothing of it is counted any more.
func (r *replay) remove() {
	for _, id := range []ondisk.BtreeID{ondisk.BtreeExtents, ondisk.BtreeInodes, ondisk.BtreeReflink, ondisk.BtreeStripes} {
		keys := r.fs.Keys(id) // of reflink none is left then
		if id == ondisk.BtreeReflink && len(keys) != 0 {
			r.t.Errorf("%d indirect extents nothing refers to", len(keys))
		}
		rand.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
		for _, k := range keys {
			r.update(func(tx alloc.Tx) error {
				return tx.Update(id, ondisk.Key{Type: ondisk.KeyDeleted, Pos: k.Pos}, 0)
			})
		}
	}
	for _, n := range r.nodes {
		if err := r.fs.Update(func(tx *alloc.FakeTx) error {
			tx.UpdateNode(n.btree, n.level, n.key, ondisk.Key{Type: ondisk.KeyDeleted, Pos: n.key.Pos})
			return nil
		}); err != nil {
			r.t.Fatal(err)
		}
	}
	for p, c := range r.fs.Accounting() {
		if p.Type != ondisk.AccountingDevDataType || !p.DataType.IsEmpty() && p.DataType != ondisk.DataSB && p.DataType != ondisk.DataJournal {
			r.t.Errorf("all data is deleted, but there is %s", counter(&p, c))
		}
	}
	for _, id := range []ondisk.BtreeID{ondisk.BtreeBackpointers, ondisk.BtreeLRU, ondisk.BtreeReconcileWork, ondisk.BtreeDeletedInodes} {
		if n := len(r.fs.Keys(id)); n != 0 {
			r.t.Errorf("all data is deleted, but there are %d keys in %v", n, id)
		}
	}
}

// compare compares what was made with what is on disk.
func (r *replay) compare() {
	r.compareAlloc()
	for _, id := range []ondisk.BtreeID{ondisk.BtreeBackpointers, ondisk.BtreeNeedDiscard, ondisk.BtreeBucketGens, ondisk.BtreeReconcileWork,
		ondisk.BtreeDeletedInodes, ondisk.BtreeReflink} {
		r.compareKeys(id)
	}
	diffSets(r.t, "freespace", r.free(r.fs.Keys(ondisk.BtreeFreespace)), r.free(r.keys(ondisk.BtreeFreespace, 0)))
	diffSets(r.t, "lru", lru(r.fs.Keys(ondisk.BtreeLRU)), lru(r.keys(ondisk.BtreeLRU, 0)))
	r.compareAccounting()
	for _, k := range r.keys(ondisk.BtreeInodes, 0) {
		got, _ := r.fs.Key(ondisk.BtreeInodes, k.Pos)
		if len(k.Val) < 8 || len(got.Val) != len(k.Val) || !bytes.Equal(got.Val[8:], k.Val[8:]) {
			r.t.Errorf("inode %v: %x, on disk %x", k.Pos, got.Val, k.Val)
		}
	}
}

func (r *replay) compareAlloc() {
	seen := map[ondisk.Pos]bool{}
	for _, k := range r.fs.Keys(ondisk.BtreeAlloc) {
		seen[k.Pos] = true
		a, err := ondisk.DecodeAlloc(k)
		if err != nil {
			r.t.Fatal(err)
		}
		if err := a.Validate(&k); err != nil {
			r.t.Errorf("invalid: %v", err)
		}
		want := r.disk[k.Pos].Upgrade()
		for _, x := range []*ondisk.Alloc{&a, &want} {
			x.IOTime, x.JournalSeqNonempty, x.Tail = [2]uint64{}, 0, nil
			x.JournalSeqEmpty = 0
		}
		if !slices.Equal(a.Encode(), want.Encode()) {
			r.t.Errorf("bucket %v: %+v, on disk %+v", k.Pos, a, want)
		}
	}
	for p, a := range r.disk {
		if !seen[p] {
			r.t.Errorf("bucket %v has no key, on disk %+v", p, a)
		}
	}
}

func (r *replay) compareKeys(id ondisk.BtreeID) {
	set := func(keys []ondisk.Key) map[string]bool {
		m := map[string]bool{}
		for _, k := range keys {
			if k.Type != ondisk.KeyCookie {
				m[fmt.Sprintf("%v %v size %d %x", k.Type, k.Pos, k.Size, k.Val)] = true
			}
		}
		return m
	}
	diffSets(r.t, id.String(), set(r.fs.Keys(id)), set(r.keys(id, 0)))
}

// free returns the units that keys of the btree freespace stand for.
func (r *replay) free(keys []ondisk.Key) map[string]bool {
	m := map[string]bool{}
	for _, k := range keys {
		f := ondisk.DecodeFreespace(&k)
		for i := range f.Len {
			m[fmt.Sprintf("device %d bucket %d genbits %d", f.Dev, f.First+ondisk.Bucket(i), f.GenBits)] = true
		}
	}
	return m
}

// lru returns the entries of LRUs, those of reads without their times.
func lru(keys []ondisk.Key) map[string]bool {
	m := map[string]bool{}
	for _, k := range keys {
		p := ondisk.DecodeLRUPos(k.Pos)
		if p.ID != ondisk.LRUFragmentation {
			p.Time = 0
		}
		m[fmt.Sprintf("%+v", p)] = true
	}
	return m
}

func (r *replay) compareAccounting() {
	version := r.img.SB.Version
	inums, mem := map[string]bool{}, alloc.NewAccounting(version)
	want := map[string]bool{}
	for _, k := range r.keys(ondisk.BtreeAccounting, 0) {
		p, ok := ondisk.DecodeAccountingPos(k.Pos, version)
		if !ok {
			r.t.Fatalf("accounting at %v", k.Pos)
		}
		var c []int64
		for i := range ondisk.NrAccountingCounters(&k) {
			c = append(c, ondisk.AccountingCounter(&k, i))
		}
		if slices.ContainsFunc(c, func(n int64) bool { return n != 0 }) {
			want[counter(&p, c)] = true
			if p.Type == ondisk.AccountingInum {
				inums[counter(&p, c)] = true
			}
		}
		if err := mem.Load(&k); err != nil {
			r.t.Error(err)
		}
	}
	mem.Loaded()
	got := map[string]bool{}
	for p, c := range r.fs.Accounting() {
		got[counter(&p, c)] = true
	}
	diffSets(r.t, "accounting", got, want)

	loaded := maps.Clone(inums) // which are not kept in memory
	mem.All(func(p ondisk.AccountingPos, c []int64) { loaded[counter(&p, c)] = true })
	diffSets(r.t, "accounting in memory", loaded, want)
	r.checkUsage(mem)
}

// checkUsage checks that the buckets of a device add up.
func (r *replay) checkUsage(mem *alloc.Accounting) {
	for d := range r.devs.All() {
		var sum int64
		for typ, u := range mem.Device(d.Index) {
			if ondisk.DataType(typ) != ondisk.DataUnstriped {
				sum += u.Buckets
			}
			if n := mem.Buckets(d.Index, ondisk.DataType(typ)); n != u.Buckets {
				r.t.Errorf("device %d: %d and %d buckets of type %v", d.Index, n, u.Buckets, ondisk.DataType(typ))
			}
		}
		if want := int64(d.NBuckets - d.FirstBucket); sum != want {
			r.t.Errorf("device %d: %d buckets add up, want %d", d.Index, sum, want)
		}
	}
}

func counter(p *ondisk.AccountingPos, c []int64) string {
	for len(c) > 0 && c[len(c)-1] == 0 {
		c = c[:len(c)-1]
	}
	return fmt.Sprintf("%v %+v: %d", p.Type, *p, c)
}

// diffSets reports what is in one of two sets only.
func diffSets(t *testing.T, what string, got, want map[string]bool) {
	t.Helper()
	const limit = 10
	report := func(a, b map[string]bool, how string) {
		n := 0
		for _, s := range slices.Sorted(maps.Keys(a)) {
			if b[s] {
				continue
			}
			if n++; n <= limit {
				t.Errorf("%s: %s %s", what, s, how)
			}
		}
		if n > limit {
			t.Errorf("%s: and %d more %s", what, n-limit, how)
		}
	}
	report(got, want, "is not on disk")
	report(want, got, "was not made")
	t.Logf("%s: %d", what, len(want))
}
