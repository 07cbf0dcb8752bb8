package alloc

import (
	"context"
	"errors"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// each runs a test with either allocator.
func each(t *testing.T, fn func(t *testing.T, early bool)) {
	t.Run("freelist", func(t *testing.T) { fn(t, false) })
	t.Run("early", func(t *testing.T) { fn(t, true) })
}

func TestAllocWriteFree(t *testing.T) {
	each(t, func(t *testing.T, early bool) {
		a, e := newTestAllocator(t, testConfig{devs: []testDevice{{buckets: 200, size: 64, first: 2, early: early}}})
		ctx := t.Context()
		var al Allocation
		if err := a.AllocSectors(ctx, userRequest(40), &al); err != nil {
			t.Fatal(err)
		}
		if al.Sectors != 40 || len(al.Ptrs()) != 1 || al.Ptrs()[0] != (ondisk.ExtentPtr{Offset: 128}) || al.Durability != 1 {
			t.Fatalf("got %d sectors at %+v", al.Sectors, al.Ptrs())
		}
		if err := e.commit(ctx, 10, 40, &al); err != nil {
			t.Fatal(err)
		}
		al.Done(ctx)
		al.Done(ctx) // once more does nothing

		// The rest of the bucket, then the next one.
		for i, want := range []struct {
			sectors uint32
			at      ondisk.Sector
		}{{24, 168}, {40, 192}} {
			if err := a.AllocSectors(ctx, userRequest(40), &al); err != nil {
				t.Fatal(err)
			}
			if al.Sectors != want.sectors || al.Ptrs()[0].Offset != want.at {
				t.Errorf("got %d sectors at %+v, want %+v", al.Sectors, al.Ptrs(), want)
			}
			if err := e.commit(ctx, 11, uint64(100*(i+1)), &al); err != nil {
				t.Fatal(err)
			}
			al.Done(ctx)
		}
		if a.IsOpen(0, 2) || !a.IsOpen(0, 3) || a.OpenCount() != 1 {
			t.Errorf("open: %+v", a.OpenBuckets())
		}
		if got := e.alloc(t, 0, 2); got.DataType != ondisk.DataUser || got.DirtySectors != 64 {
			t.Errorf("bucket 2: %+v", got)
		}

		// Emptied, discarded, and used again with the next generation.
		if err := errors.Join(e.remove(ctx, 10, 40), e.remove(ctx, 11, 100)); err != nil {
			t.Fatal(err)
		}
		if got := e.alloc(t, 0, 2); got.DataType != ondisk.DataNeedDiscard || got.Gen != 1 {
			t.Errorf("bucket 2: %+v", got)
		}
		if n, err := a.DiscardRound(ctx, false); n != 1 || err != nil {
			t.Errorf("discarded %d buckets, %v", n, err)
		}
		if got := e.alloc(t, 0, 2); got.DataType != ondisk.DataFree || got.Gen != 1 {
			t.Errorf("bucket 2: %+v", got)
		}
		if err := e.check(a); err != nil {
			t.Error(err)
		}
		if s := a.Stats(); early != (s.EarlySearches > 0) || early != (s.FreelistSearches == 0) {
			t.Errorf("searches: %+v", s)
		}
	})
}

func TestEmptiedWhileOpen(t *testing.T) {
	a, e := newTestAllocator(t, testConfig{devs: []testDevice{{buckets: 200, size: 64}}})
	ctx := t.Context()
	var al Allocation
	if err := a.AllocSectors(ctx, userRequest(40), &al); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(e.commit(ctx, 10, 40, &al), e.remove(ctx, 10, 40)); err != nil {
		t.Fatal(err)
	}
	al.Done(ctx)
	if got := e.alloc(t, 0, 0); got.DataType != ondisk.DataNeedDiscard || got.Gen != 0 || !got.NeedIncGen {
		t.Fatalf("bucket: %+v", got)
	}
	// The write point still has it: nothing must be discarded.
	if n, err := a.DiscardRound(ctx, true); n != 0 || err != nil {
		t.Fatalf("discarded %d buckets, %v", n, err)
	}
	if err := a.AllocSectors(ctx, userRequest(24), &al); err != nil {
		t.Fatal(err)
	}
	if p := al.Ptrs()[0]; p.Offset != 40 || p.Gen != 0 {
		t.Fatalf("pointer %+v", p)
	}
	al.Done(ctx) // unused: the bucket is full now and closed
	if n, err := a.DiscardRound(ctx, true); n != 1 || err != nil {
		t.Fatalf("discarded %d buckets, %v", n, err)
	}
	if got := e.alloc(t, 0, 0); got.DataType != ondisk.DataFree || got.Gen != 1 || got.NeedIncGen {
		t.Errorf("bucket: %+v", got)
	}
	if err := e.check(a); err != nil {
		t.Error(err)
	}
}

// TestNoSpace fills a device at each watermark: exactly the buckets that are not kept back can be had.
func TestNoSpace(t *testing.T) {
	const buckets = 256 // 256>>6 = 4; 28 nodes of 16 sectors in buckets of 64 are 7 buckets
	kept := map[Watermark]int64{WatermarkStripe: 4 + 4 + 14, WatermarkNormal: 4 + 14, WatermarkCopygc: 14, WatermarkBtree: 7}
	each(t, func(t *testing.T, early bool) {
		for w := WatermarkStripe; w <= WatermarkInteriorUpdates; w++ {
			t.Run(w.String(), func(t *testing.T) {
				a, e := newTestAllocator(t, testConfig{devs: []testDevice{{buckets: buckets, size: 64, early: early}}})
				a.Start(t.Context())
				defer a.Stop()
				req := userRequest(64)
				req.Watermark = w
				var n int64
				for ; ; n++ {
					var al Allocation
					err := a.AllocSectors(t.Context(), req, &al)
					if errors.Is(err, ErrNoSpace) {
						break
					}
					if err != nil {
						t.Fatal(err)
					}
					if n%2 == 0 { // committed or not, it is taken
						if err := e.commit(t.Context(), 1, uint64(n+1)*64, &al); err != nil {
							t.Fatal(err)
						}
						al.Done(t.Context())
					}
				}
				if want := buckets - kept[w]; n != want {
					t.Errorf("got %d buckets, want %d", n, want)
				}
				// One that becomes free can be had, after a discard that the request waits for.
				if err := e.remove(t.Context(), 1, 64); err != nil {
					t.Fatal(err)
				}
				var al Allocation
				if w >= WatermarkReclaim { // these do not wait
					if _, err := a.DiscardRound(t.Context(), true); err != nil {
						t.Fatal(err)
					}
				}
				if err := a.AllocSectors(t.Context(), req, &al); err != nil {
					t.Fatal(err)
				}
				if err := a.AllocSectors(t.Context(), req, new(Allocation)); !errors.Is(err, ErrNoSpace) {
					t.Errorf("one more: %v", err)
				}
				al.Done(t.Context()) // without having been written
				if err := a.AllocSectors(t.Context(), req, &al); err != nil {
					t.Error(err)
				}
				if err := e.check(a); err != nil {
					t.Error(err)
				}
			})
		}
	})
}

func TestNonblockingDoesNotWait(t *testing.T) {
	a, e := newTestAllocator(t, testConfig{devs: []testDevice{{buckets: 64, size: 64}}})
	a.Start(t.Context())
	defer a.Stop()
	req := userRequest(64)
	req.Nonblocking, req.Watermark = true, WatermarkBtreeCopygc
	var al Allocation
	for i := range 64 {
		if err := a.AllocSectors(t.Context(), req, &al); err != nil {
			t.Fatal(err)
		}
		if err := e.commit(t.Context(), 1, uint64(i+1)*64, &al); err != nil {
			t.Fatal(err)
		}
		al.Done(t.Context())
	}
	if err := a.AllocSectors(t.Context(), req, &al); !errors.Is(err, ErrNoSpace) {
		t.Errorf("got %v", err)
	}
	if s := a.Stats(); s.Waited != 0 {
		t.Errorf("waited %d times", s.Waited)
	}
}

// TestWaits: a request that found no bucket gets one once somebody else gives it back, or ends with its context.
func TestWaits(t *testing.T) {
	block := make(chan struct{})
	a, e := newTestAllocator(t, testConfig{devs: []testDevice{{buckets: 64, size: 64}}})
	// A reclaimer that takes its time, so that there is something to wait for.
	a.AddReclaimer("slow", func(ctx context.Context, _ bool) (int, error) {
		select {
		case <-block:
		case <-ctx.Done():
		}
		return 0, nil
	})
	a.Start(t.Context())
	defer a.Stop()
	req := userRequest(64)
	req.Watermark = WatermarkBtreeCopygc
	als := make([]Allocation, 64)
	for i := range als {
		if err := a.AllocSectors(t.Context(), req, &als[i]); err != nil {
			t.Fatal(err)
		}
	}
	waiting := func() bool { return a.freed.waiting() }
	got := make(chan error, 1)
	var al Allocation
	go func() { got <- a.AllocSectors(t.Context(), req, &al) }()
	until(t, waiting)
	als[17].Done(t.Context())
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	if al.Ptrs()[0].Offset != 17*64 {
		t.Errorf("got %+v", al.Ptrs())
	}

	ctx, cancel := context.WithCancel(t.Context())
	go func() { got <- a.AllocSectors(ctx, req, new(Allocation)) }()
	until(t, waiting)
	cancel()
	if err := <-got; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}

	go func() { got <- a.AllocSectors(t.Context(), req, new(Allocation)) }()
	until(t, waiting)
	close(block) // the round ends without success: nothing more is to be hoped for
	if err := <-got; !errors.Is(err, ErrNoSpace) {
		t.Errorf("got %v", err)
	}
	if err := e.check(a); err != nil {
		t.Error(err)
	}
}

// TestWorkersFail: requests do not wait for workers that cannot do anything.
func TestWorkersFail(t *testing.T) {
	a, e := newTestAllocator(t, testConfig{devs: []testDevice{{buckets: 64, size: 64}}})
	a.Start(t.Context())
	defer a.Stop()
	req := userRequest(64)
	req.Watermark = WatermarkBtreeCopygc
	var al Allocation
	for i := range 64 {
		if err := a.AllocSectors(t.Context(), req, &al); err != nil {
			t.Fatal(err)
		}
		if err := e.commit(t.Context(), 1, uint64(i+1)*64, &al); err != nil {
			t.Fatal(err)
		}
		al.Done(t.Context())
	}
	e.failing.Store(true)
	if err := e.remove(t.Context(), 1, 64); err != nil {
		t.Fatal(err)
	}
	if err := a.AllocSectors(t.Context(), req, &al); !errors.Is(err, ErrNoSpace) {
		t.Errorf("got %v", err)
	}
	e.failing.Store(false)
	if err := a.AllocSectors(t.Context(), req, &al); err != nil {
		t.Error(err)
	}
}

// TestTableFull: too many open buckets are waited for, those of write points and partly written ones are given up.
func TestTableFull(t *testing.T) {
	a, _ := newTestAllocator(t, testConfig{devs: []testDevice{{buckets: 256, size: 64}}, cfg: Config{OpenBuckets: 33}})
	req := userRequest(16)
	var als []Allocation
	for i := range 48 { // each leaves a partly written bucket in a write point of its own
		var al Allocation
		req.WritePoint = WritePoint(i)
		if err := a.AllocSectors(t.Context(), req, &al); err != nil {
			t.Fatal(err)
		}
		al.Done(t.Context())
	}
	req.Sectors, req.Min = 64, 64
	for range 16 {
		var al Allocation
		if err := a.AllocSectors(t.Context(), req, &al); err != nil {
			t.Fatal(err)
		}
		als = append(als, al)
	}
	req.Nonblocking = true
	if err := a.AllocSectors(t.Context(), req, new(Allocation)); !errors.Is(err, errOpenBucketsEmpty) {
		t.Errorf("got %v", err)
	}
	urgent := *req
	urgent.Watermark = WatermarkBtree
	var al Allocation
	if err := a.AllocSectors(t.Context(), &urgent, &al); err != nil {
		t.Error(err)
	}
	al.Done(t.Context())
	req.Nonblocking = false
	got := make(chan error, 1)
	go func() { got <- a.AllocSectors(t.Context(), req, new(Allocation)) }()
	until(t, func() bool { return a.freed.waiting() })
	als[3].Done(t.Context())
	if err := <-got; err != nil {
		t.Error(err)
	}
}

func TestRequestsAreChecked(t *testing.T) {
	a, _ := newTestAllocator(t, testConfig{devs: []testDevice{{buckets: 64, size: 64}}})
	for name, change := range map[string]func(*Request){
		"no sectors":       func(r *Request) { r.Sectors = 0 },
		"min":              func(r *Request) { r.Min = r.Sectors + 1 },
		"no replicas":      func(r *Request) { r.Replicas = 0 },
		"many replicas":    func(r *Request) { r.Replicas = 16 },
		"required":         func(r *Request) { r.Required = 2 },
		"cached type":      func(r *Request) { r.DataType = ondisk.DataCached },
		"type":             func(r *Request) { r.DataType = 200 },
		"more in a bucket": func(r *Request) { r.Sectors, r.Min = 128, 128 },
	} {
		req := userRequest(8)
		change(req)
		if err := a.AllocSectors(t.Context(), req, new(Allocation)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if a.OpenCount() != 0 {
		t.Errorf("open: %+v", a.OpenBuckets())
	}
}

func TestHiddenAndNoUse(t *testing.T) {
	each(t, func(t *testing.T, early bool) {
		a, _ := newTestAllocator(t, testConfig{devs: []testDevice{{buckets: 64, size: 64, early: early,
			hidden: []BucketRange{{5, 20}, {0, 2}}}}})
		a.DevSpace(0).SetNoUse(2, true)
		a.DevSpace(0).SetNoUse(4, true)
		a.DevSpace(0).SetNoUse(4, false)
		req := userRequest(64)
		req.Watermark = WatermarkBtreeCopygc
		for _, want := range []ondisk.Sector{3, 4, 20, 21} {
			var al Allocation
			if err := a.AllocSectors(t.Context(), req, &al); err != nil {
				t.Fatal(err)
			}
			if got := al.Ptrs()[0].Offset / 64; got != want {
				t.Errorf("got bucket %d, want %d", got, want)
			}
		}
	})
}

// TestAround: searches go on where the last one ended, and once around.
func TestAround(t *testing.T) {
	each(t, func(t *testing.T, early bool) {
		a, e := newTestAllocator(t, testConfig{devs: []testDevice{{buckets: 40, size: 64, first: 1, early: early}}})
		req := userRequest(64)
		req.Watermark = WatermarkBtreeCopygc
		var al Allocation
		for i := range uint64(30) {
			if err := a.AllocSectors(t.Context(), req, &al); err != nil {
				t.Fatal(err)
			}
			if err := e.commit(t.Context(), 1, 64*(i+1), &al); err != nil {
				t.Fatal(err)
			}
			al.Done(t.Context())
		}
		for _, i := range []uint64{4, 7} {
			if err := e.remove(t.Context(), 1, 64*(i+1)); err != nil {
				t.Fatal(err)
			}
		}
		if n, err := a.DiscardRound(t.Context(), false); n != 2 || err != nil {
			t.Fatal(n, err)
		}
		var got []ondisk.Sector
		for range 11 {
			var al Allocation
			if err := a.AllocSectors(t.Context(), req, &al); err != nil {
				t.Fatal(err)
			}
			got = append(got, al.Ptrs()[0].Offset/64)
		}
		for i, want := range []ondisk.Sector{31, 32, 33, 34, 35, 36, 37, 38, 39, 5, 8} {
			if got[i] != want {
				t.Fatalf("got buckets %d", got)
			}
		}
		if err := a.AllocSectors(t.Context(), req, &al); !errors.Is(err, ErrNoSpace) {
			t.Error(err)
		}
	})
}
