package alloc

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// TestDeviceGens checks generations in memory, of which several share a word.
func TestDeviceGens(t *testing.T) {
	d := NewDevice(3, &ondisk.Member{NBuckets: 1001, FirstBucket: 5, BucketSize: 256})
	var wg sync.WaitGroup
	for part := range 4 {
		wg.Go(func() {
			for b := part; b < 1001; b += 4 {
				d.SetGen(ondisk.Bucket(b), uint8(b*7))
			}
		})
	}
	wg.Wait()
	d.SetGen(1001, 1)
	d.SetGen(1<<60, 1)
	for b := range ondisk.Bucket(1010) {
		want, has := uint8(b*7), b >= 5 && b < 1001
		if !has {
			want = 0
		}
		if gen, ok := d.Gen(b); gen != want || ok != has {
			t.Fatalf("bucket %d: %d, %v", b, gen, ok)
		}
	}
	d.SetGen(10, 3)
	for gen, want := range map[uint8]int{3: 0, 2: 1, 4: 0, 255: 4} {
		if got := d.Stale(&ondisk.ExtentPtr{Dev: 3, Offset: 10 * 256, Gen: gen}); got != want {
			t.Errorf("pointer of gen %d: stale by %d, want %d", gen, got, want)
		}
	}
	if n := d.Stale(&ondisk.ExtentPtr{Offset: 1 << 43, Gen: 9}); n != 0 {
		t.Errorf("pointer behind the device: %d", n)
	}
	if b, off := d.Bucket(10*256 + 7); b != 10 || off != 7 || d.Sector(b) != 2560 {
		t.Errorf("sector 2567 is in bucket %d at %d", b, off)
	}
}

func TestDevices(t *testing.T) {
	var ds Devices
	for _, i := range []uint8{7, 0, 200} {
		ds.Set(NewDevice(i, &ondisk.Member{NBuckets: 64, BucketSize: 8}))
	}
	ds.Remove(7)
	var got []uint8
	for d := range ds.All() {
		got = append(got, d.Index)
	}
	if !slices.Equal(got, []uint8{0, 200}) || ds.Get(7) != nil || ds.Get(200) == nil {
		t.Errorf("devices %d", got)
	}
}

// TestMetadataBuckets checks the buckets of superblocks and journal against an image of the reference (spec/04 § 6.7): 256 MiB in buckets of
// 256 KiB, superblocks of 1 MiB, the last one reaching over the end of the last whole bucket.
func TestMetadataBuckets(t *testing.T) {
	d := NewDevice(0, &ondisk.Member{NBuckets: 1024, BucketSize: 512})
	l := &ondisk.Layout{MaxSizeBits: 11, Copies: 3}
	copy(l.Offsets[:], []ondisk.Sector{8, 2056, 522240})
	spans := MetadataBuckets(d, l, []ondisk.SeqRange{{Start: 9, End: 11}, {Start: 1023, End: 1030}})
	var want []MetadataSpan
	for b := range ondisk.Bucket(8) {
		want = append(want, MetadataSpan{b, ondisk.DataSB, 512})
	}
	want = append(want, MetadataSpan{8, ondisk.DataSB, 8})
	for b := range ondisk.Bucket(4) {
		want = append(want, MetadataSpan{1020 + b, ondisk.DataSB, 512})
	}
	want = append(want, MetadataSpan{9, ondisk.DataJournal, 512}, MetadataSpan{10, ondisk.DataJournal, 512}, MetadataSpan{1023, ondisk.DataJournal, 512})
	if !slices.Equal(spans, want) {
		t.Errorf("%v\nwant %v", spans, want)
	}
	d.NBuckets = 1022
	if spans := MetadataBuckets(d, l, nil); len(spans) != 11 || spans[10].Bucket != 1021 {
		t.Errorf("shorter device: %v", spans)
	}
}

// TestMarkMetadata checks that marking changes alloc keys once only, and never those of buckets that hold something else.
func TestMarkMetadata(t *testing.T) {
	e := newTriggerEnv(t, 1)
	d := e.devs.Get(0)
	l := &ondisk.Layout{MaxSizeBits: 9, Copies: 1}
	l.Offsets[0] = 8
	mark := func() error {
		return MarkMetadata(context.Background(), e.run, d, l, []ondisk.SeqRange{{Start: 20, End: 22}})
	}
	wantLines(t, "marked", e.changes(func() {
		if err := mark(); err != nil {
			t.Fatal(err)
		}
	}), "dev 0 free [-4]", "dev 0 journal [2 1024]", "dev 0 sb [2 520 504]")
	seq := e.fs.Seq()
	keys := e.fs.Keys(ondisk.BtreeAlloc)
	if err := mark(); err != nil {
		t.Fatal(err)
	}
	for i, k := range e.fs.Keys(ondisk.BtreeAlloc) {
		if !slices.Equal(k.Val, keys[i].Val) {
			t.Errorf("marking again after commit %d changed %v", seq, k.Pos)
		}
	}
	e.checkIndexes()
	e.set(ondisk.BtreeExtents, testExtent(1, 8, 8, snap, ptr(0, 30, 0, 0)))
	var be *BucketError
	err := MarkMetadata(context.Background(), e.run, d, l, []ondisk.SeqRange{{Start: 30, End: 31}})
	if !errors.As(err, &be) || be.ID != "bucket_metadata_type_mismatch" || be.Bucket != 30 || len(be.Others) != 1 {
		t.Errorf("bucket with data: %v", err)
	}
	// A journal bucket is given up.
	e.ok(func(tx Tx) error { return MarkMetadataBucket(tx, d, MetadataSpan{20, ondisk.DataFree, 0}) })
	if a := e.alloc(0, 20); a.DataType != ondisk.DataNeedDiscard || a.Gen != 1 {
		t.Errorf("journal bucket given up: %+v", a)
	}
	if err := e.run(context.Background(), func(tx Tx) error { return MarkMetadataBucket(tx, d, MetadataSpan{30, ondisk.DataFree, 0}) }); !errors.As(err, &be) {
		t.Errorf("freeing a bucket with data: %v", err)
	}
	if err := e.run(context.Background(), func(tx Tx) error { return MarkMetadataBucket(tx, d, MetadataSpan{40, ondisk.DataUser, 8}) }); err == nil {
		t.Error("data is not marked")
	}
	e.checkIndexes()
}

// TestInitFreespace checks that initialisation finds all that is free, also if buckets are allocated and freed while it runs.
func TestInitFreespace(t *testing.T) {
	e := newTriggerEnv(t, 1)
	d := e.devs.Get(0)
	d.SetFreespaceInitialized(false)
	for _, k := range e.fs.Keys(ondisk.BtreeFreespace) {
		e.fs.SetKey(ondisk.BtreeFreespace, deleted(k))
	}
	set := func(b ondisk.Bucket, change func(a *ondisk.Alloc)) {
		if err := e.putAlloc(0, b, change, 0); err != nil {
			t.Fatal(err)
		}
	}
	fill := func(a *ondisk.Alloc) { a.DataType, a.DirtySectors = ondisk.DataUser, 8 }
	empty := func(a *ondisk.Alloc) { a.DirtySectors = 0 }
	discard := func(a *ondisk.Alloc) { a.NeedDiscard = false }
	set(10, fill)
	for _, b := range []ondisk.Bucket{20, 21} { // 20 waits for discard, 21 is free with a key
		set(b, fill)
		set(b, empty)
	}
	set(21, discard)
	e.fs.SetKey(ondisk.BtreeNeedDiscard, ondisk.Key{Type: ondisk.KeyDeleted, Pos: allocPos(0, 20)})
	for range 20 { // genbits 1
		set(30, fill)
		set(30, empty)
		set(30, discard)
	}
	e.fs.SetKey(ondisk.BtreeFreespace, ondisk.Key{Type: ondisk.KeyDeleted, Pos: ondisk.Pos{Offset: 31}})

	commits := 0
	e.fs.Hook = func(point string, _ *FakeTx, _ ondisk.BtreeID, _ ondisk.Pos) {
		if point != "commit" {
			return
		}
		commits++
		hook := e.fs.Hook
		e.fs.Hook = nil
		switch commits {
		case 2: // holes were looked at, and are about to be committed as free
			set(50, fill)
			set(51, fill)
			set(51, empty)
			set(53, fill)
			set(53, empty)
			set(53, discard) // is free again, with a key
		case 3:
			set(52, fill)
		}
		e.fs.Hook = hook
	}
	if err := e.tr.InitFreespace(context.Background(), e.run, d, 0, 1<<40); err != nil {
		t.Fatal(err)
	}
	e.fs.Hook = nil
	if commits < 5 {
		t.Fatalf("%d commits", commits)
	}
	d.SetFreespaceInitialized(true)
	e.checkIndexes()
	set(50, empty)
	set(52, empty)
	set(60, fill)
	e.checkIndexes()
}

// TestInitBucketGens checks that bucket_gens can be made anew from the alloc keys, and read.
func TestInitBucketGens(t *testing.T) {
	e := newTriggerEnv(t, 2)
	for i, b := range []ondisk.Bucket{3, 3, 64, 127} {
		k := testExtent(1, 8, 8, snap, ptr(uint8(i%2), b, 0, e.alloc(uint8(i%2), b).Gen))
		e.set(ondisk.BtreeExtents, k)
		e.set(ondisk.BtreeExtents, deleted(k))
	}
	want := e.fs.Keys(ondisk.BtreeBucketGens)
	if len(want) != 2 {
		t.Fatalf("bucket_gens: %v", want)
	}
	for _, k := range want {
		e.fs.SetKey(ondisk.BtreeBucketGens, deleted(k))
	}
	for d := range e.devs.All() {
		if err := InitBucketGens(context.Background(), e.run, d); err != nil {
			t.Fatal(err)
		}
	}
	got := e.fs.Keys(ondisk.BtreeBucketGens)
	for i := range want {
		if i >= len(got) || got[i].Pos != want[i].Pos || !slices.Equal(got[i].Val, want[i].Val) {
			t.Errorf("bucket_gens: %v, want %v", got, want)
		}
	}
	for d := range e.devs.All() {
		for b := range d.NBuckets {
			d.SetGen(b, 99)
		}
	}
	e.ok(func(tx Tx) error { return ReadGens(tx, e.devs) })
	e.checkIndexes()
	e.fs.SetKey(ondisk.BtreeBucketGens, ondisk.Key{Type: ondisk.KeyBucketGens, Pos: ondisk.Pos{Inode: 1 << 40, Offset: 1 << 60}, Val: make([]byte, 256)})
	e.ok(func(tx Tx) error { return ReadGens(tx, e.devs) })
	e.fs.SetKey(ondisk.BtreeBucketGens, ondisk.Key{Type: ondisk.KeyBucketGens, Pos: ondisk.Pos{Inode: 1, Offset: 9}, Val: make([]byte, 8)})
	if err := e.run(context.Background(), func(tx Tx) error { return ReadGens(tx, e.devs) }); err == nil {
		t.Error("short key is read")
	}
}
