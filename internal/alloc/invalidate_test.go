package alloc

import (
	"errors"
	"slices"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// cachedBuckets fills n buckets with cached data, read at the times, and closes them.
func cachedBuckets(t *testing.T, a *Allocator, e *testEngine, times ...uint64) {
	t.Helper()
	for i, at := range times {
		e.clock.Store(at)
		req := userRequest(64)
		req.Cached, req.Watermark = true, WatermarkReclaim
		var al Allocation
		if err := a.AllocSectors(t.Context(), req, &al); err != nil {
			t.Fatal(err)
		}
		if err := e.commit(t.Context(), 5, uint64(i+1)*64, &al); err != nil {
			t.Fatal(err)
		}
		al.Done(t.Context())
	}
}

func (e *testEngine) typesOf(t *testing.T, n ondisk.Bucket) (types []ondisk.DataType) {
	for b := range n {
		types = append(types, e.alloc(t, 0, b).DataType)
	}
	return types
}

// TestInvalidate: the data read least recently goes first, times in the future before all others.
func TestInvalidate(t *testing.T) {
	a, e := newTestAllocator(t, testConfig{devs: []testDevice{{buckets: 200, size: 64}}})
	const future = 1 << 40
	cachedBuckets(t, a, e, 500, 300, future, 400)
	e.clock.Store(1000)
	// Open, and what an old entry of the LRU says: neither is touched.
	e.fs.SetKey(ondisk.BtreeLRU, ondisk.Key{Type: ondisk.KeySet, Pos: ondisk.LRUPos{Time: 7, Offset: ondisk.DevBucket(0, 0)}.Pos()})
	a.open.mu.Lock()
	ob := a.open.insert(a.DevSpace(0), 1)
	ob.filled = true
	a.DevSpace(0).opened.Add(-1)
	a.open.mu.Unlock()

	for _, want := range [][]ondisk.DataType{
		{ondisk.DataCached, ondisk.DataCached, ondisk.DataNeedDiscard, ondisk.DataCached},
		{ondisk.DataCached, ondisk.DataCached, ondisk.DataNeedDiscard, ondisk.DataNeedDiscard},
		{ondisk.DataNeedDiscard, ondisk.DataCached, ondisk.DataNeedDiscard, ondisk.DataNeedDiscard},
	} {
		if n, err := a.Invalidate(t.Context(), a.DevSpace(0), 1); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		if got := e.typesOf(t, 4); !slices.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
	}
	if n, err := a.Invalidate(t.Context(), a.DevSpace(0), 5); n != 0 || err != nil {
		t.Error(n, err)
	}
	a.put(t.Context(), ob)
	if n, err := a.Invalidate(t.Context(), a.DevSpace(0), 5); n != 1 || err != nil {
		t.Error(n, err)
	}
	if got := e.alloc(t, 0, 0); got.Gen != 1 || got.CachedSectors != 0 || got.NeedIncGen || !got.NeedDiscard {
		t.Errorf("bucket 0: %+v", got)
	}
	if err := e.check(a); err != nil {
		t.Error(err)
	}
	for p, c := range e.fs.Accounting() {
		if p.Type == ondisk.AccountingReplicas {
			t.Errorf("counters of %v are left: %v", p, c)
		}
	}
}

// TestCachedDataMakesRoom: a full device of which some is cached is not full.
func TestCachedDataMakesRoom(t *testing.T) {
	a, e := newTestAllocator(t, testConfig{devs: []testDevice{{buckets: 64, size: 64}}})
	a.Start(t.Context())
	defer a.Stop()
	cachedBuckets(t, a, e, slices.Repeat([]uint64{9}, 64)...)
	req := userRequest(64)
	req.Watermark = WatermarkBtreeCopygc
	for i := range uint64(64) {
		var al Allocation
		if err := a.AllocSectors(t.Context(), req, &al); err != nil {
			t.Fatalf("%d: %v", i, err)
		}
		if err := e.commit(t.Context(), 6, (i+1)*64, &al); err != nil {
			t.Fatal(err)
		}
		al.Done(t.Context())
	}
	if err := a.AllocSectors(t.Context(), req, new(Allocation)); !errors.Is(err, ErrNoSpace) {
		t.Errorf("got %v", err)
	}
	a.Stop()
	if err := e.check(a); err != nil {
		t.Error(err)
	}
	if s := a.Stats(); s.Invalidated != 64 || s.Discarded != 64 {
		t.Errorf("%+v", s)
	}
}

func TestShouldInvalidate(t *testing.T) {
	a, e := newTestAllocator(t, testConfig{devs: []testDevice{{buckets: 12800, size: 512}}, cfg: Config{NodeSectors: 512}})
	d := a.DevSpace(0)
	spare := d.reserve(WatermarkStripe)
	for _, tt := range []struct {
		free, discard, cached int64
		urgent                bool
		want                  int64
	}{
		{12800, 0, 0, false, 0},
		{spare, 0, 1000, false, 100},
		{spare + 30, 20, 1000, false, 50},
		{0, 0, 70, false, 70},
		{spare + 100, 0, 70, false, 0},
		{spare + 100, 0, 70, true, 1},
		{0, 0, 0, true, 0},
	} {
		e.counts[0][ondisk.DataFree].Store(tt.free)
		e.counts[0][ondisk.DataNeedDiscard].Store(tt.discard)
		e.counts[0][ondisk.DataCached].Store(tt.cached)
		if got := a.shouldInvalidate(d, tt.urgent); got != tt.want {
			t.Errorf("%+v: got %d", tt, got)
		}
	}
}

// TestInvalidateContradiction: a bucket that the LRU calls cached and that holds dirty data is never given up.
func TestInvalidateContradiction(t *testing.T) {
	a, e := newTestAllocator(t, testConfig{devs: []testDevice{{buckets: 64, size: 64}}})
	bad := ondisk.Alloc{DataType: ondisk.DataCached, CachedSectors: 4, DirtySectors: 4, IOTime: [2]uint64{7, 7}}.Upgrade()
	e.fs.SetKey(ondisk.BtreeAlloc, ondisk.Key{Type: ondisk.KeyAllocV4, Pos: allocPos(0, 3), Val: bad.Encode()})
	e.fs.SetKey(ondisk.BtreeLRU, ondisk.Key{Type: ondisk.KeySet, Pos: ondisk.LRUPos{Time: 7, Offset: ondisk.DevBucket(0, 3)}.Pos()})
	var be *BucketError
	if n, err := a.Invalidate(t.Context(), a.DevSpace(0), 1); n != 0 || !errors.As(err, &be) || be.Bucket != 3 {
		t.Errorf("%d, %v", n, err)
	}
	e.fs.SetKey(ondisk.BtreeLRU, ondisk.Key{Type: ondisk.KeySet, Pos: ondisk.LRUPos{Time: 5, Offset: ondisk.DevBucket(3, 3)}.Pos()})
	if _, err := a.Invalidate(t.Context(), a.DevSpace(0), 1); err == nil {
		t.Error("another device's bucket: no error")
	}
}

// TestGCGens: a bucket that went through too many generations waits until it is known how old its oldest pointer is.
func TestGCGens(t *testing.T) {
	a, e := newTestAllocator(t, testConfig{devs: []testDevice{{buckets: 64, size: 64}}})
	ctx := t.Context()
	set := func(b ondisk.Bucket, al ondisk.Alloc) {
		was := e.alloc(t, 0, b)
		al = al.Upgrade()
		al.DataType = al.DerivedDataType(al.DataType)
		e.fs.SetKey(ondisk.BtreeAlloc, ondisk.Key{Type: ondisk.KeyAllocV4, Pos: allocPos(0, b), Val: al.Encode()})
		e.counts[0][was.DataType].Add(-1)
		e.counts[0][al.DataType].Add(1)
	}
	free := func(b ondisk.Bucket, n uint32) {
		e.fs.SetKey(ondisk.BtreeFreespace, ondisk.FreespaceRange{First: b, Len: n}.Key())
	}
	// Buckets 1 and 2 are at the end of their generations; an extent still has a stale cached pointer to 2, of generation 90.
	e.fs.SetKey(ondisk.BtreeFreespace, ondisk.Key{Type: ondisk.KeyDeleted, Pos: ondisk.Pos{Offset: 64}})
	free(0, 1)
	free(4, 60)
	set(1, ondisk.Alloc{Gen: 96})
	set(2, ondisk.Alloc{Gen: 96})
	set(3, ondisk.Alloc{Gen: 40, DataType: ondisk.DataUser, DirtySectors: 64})
	stale := extentKey(9, 64, 64, []ondisk.ExtentPtr{{Offset: 3 * 64, Gen: 40}, {Offset: 2 * 64, Gen: 90, Cached: true}})
	e.fs.SetKey(ondisk.BtreeExtents, stale)

	if n, err := a.gcGensRound(ctx, false); n != 0 || err != nil {
		t.Errorf("not needed: %d, %v", n, err)
	}
	if n, err := a.gcGensRound(ctx, true); n != 3 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	for b, want := range map[ondisk.Bucket]ondisk.Alloc{1: {Gen: 96, OldestGen: 96}, 2: {Gen: 96, OldestGen: 90},
		3: {Gen: 40, OldestGen: 40, DataType: ondisk.DataUser}} {
		if got := e.alloc(t, 0, b); got.Gen != want.Gen || got.OldestGen != want.OldestGen || got.DataType != want.DataType {
			t.Errorf("bucket %d: %+v", b, got)
		}
	}
	if err := e.check(a); err != nil {
		t.Error(err)
	}
	// Only who runs it is interested in pointers.
	p := ondisk.ExtentPtr{Offset: 64, Gen: 20}
	if a.PointerInserted(&p); a.gens.oldest != nil {
		t.Error("remembered")
	}
}

// TestGCGensSeesMovedPointers: an extent that moves behind the scan's back counts.
func TestGCGensSeesMovedPointers(t *testing.T) {
	a, e := newTestAllocator(t, testConfig{devs: []testDevice{{buckets: 64, size: 64}}})
	al := ondisk.Alloc{Gen: 50, DataType: ondisk.DataUser, DirtySectors: 64}.Upgrade()
	e.fs.SetKey(ondisk.BtreeAlloc, ondisk.Key{Type: ondisk.KeyAllocV4, Pos: allocPos(0, 1), Val: al.Encode()})
	moved := ondisk.ExtentPtr{Offset: 64, Gen: 20, Cached: true}
	e.fs.Hook = func(point string, tx *FakeTx, btree ondisk.BtreeID, pos ondisk.Pos) {
		if point == "scan" && btree == ondisk.BtreeReflink {
			a.PointerInserted(&moved)
		}
	}
	e.counts[0][ondisk.DataFree].Add(-1)
	e.counts[0][ondisk.DataUser].Add(1)
	if n, err := a.GCGens(t.Context()); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if got := e.alloc(t, 0, 1); got.OldestGen != 20 {
		t.Errorf("%+v", got)
	}
}
