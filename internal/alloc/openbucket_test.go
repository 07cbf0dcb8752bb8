package alloc

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// TestOpenTable compares the table with a map.
func TestOpenTable(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	tab := newOpenTable(64)
	devs := []*DevSpace{{Device: &Device{Index: 0, BucketSize: 8}}, {Device: &Device{Index: 200, BucketSize: 8}}}
	model := map[uint64]*OpenBucket{}
	var ids []uint64
	for range 20000 {
		d, b := devs[rnd.IntN(2)], ondisk.Bucket(rnd.IntN(60))
		id := ondisk.DevBucket(uint16(d.Index), b)
		if got := tab.find(id); got != model[id] {
			t.Fatalf("find(%#x) is %v, want %v", id, got, model[id])
		}
		if tab.isOpen(d.Index, b) != (model[id] != nil) {
			t.Fatalf("isOpen(%#x)", id)
		}
		switch {
		case model[id] == nil && tab.nrFree > 0:
			ob := tab.insert(d, b)
			model[id] = ob
			ids = append(ids, id)
		case len(ids) > 0:
			i := rnd.IntN(len(ids))
			ob := model[ids[i]]
			ob.filled = rnd.IntN(2) == 0
			if ob.filled {
				ob.dev.opened.Add(-1)
			}
			tab.remove(ob)
			delete(model, ids[i])
			ids[i] = ids[len(ids)-1]
			ids = ids[:len(ids)-1]
		}
		if tab.nrFree != 63-len(model) {
			t.Fatalf("%d free, %d open", tab.nrFree, len(model))
		}
	}
	for _, id := range ids {
		tab.remove(model[id])
	}
	if n := devs[0].opened.Load() + devs[1].opened.Load(); n != 0 {
		t.Errorf("%d count as open in the end", n)
	}
}

// TestOpenHintIsSafe reads the table without its lock while it changes: the race detector watches.
func TestOpenHintIsSafe(t *testing.T) {
	a, _ := newTestAllocator(t, testConfig{devs: []testDevice{{buckets: 64, size: 16}}})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				a.open.isOpenHint(0, ondisk.Bucket(rand.IntN(64)))
				a.OpenBuckets()
			}
		})
	}
	req := userRequest(16)
	req.Watermark = WatermarkReclaim
	for range 500 {
		var al Allocation
		if err := a.AllocSectors(t.Context(), req, &al); err != nil {
			t.Fatal(err)
		}
		al.Done(t.Context())
	}
	close(stop)
	wg.Wait()
}

func TestPutTooOften(t *testing.T) {
	a, _ := newTestAllocator(t, testConfig{devs: []testDevice{{buckets: 64, size: 16}}})
	var al Allocation
	if err := a.AllocSectors(t.Context(), userRequest(16), &al); err != nil {
		t.Fatal(err)
	}
	ob := al.obs[0]
	if ob.Dev() != 0 || ob.Bucket() != 0 || ob.Gen() != 0 || ob.String() == "" {
		t.Errorf("%v", ob)
	}
	al.Done(t.Context())
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	a.put(t.Context(), ob)
}

// TestClaimStates: what triggers are told of a bucket while it is open.
func TestClaimStates(t *testing.T) {
	a, e := newTestAllocator(t, testConfig{devs: []testDevice{{buckets: 200, size: 64}}})
	ctx := t.Context()
	free := a.Avail(a.DevSpace(0), WatermarkNormal)
	expect := func(when string, c Claim, avail int64) {
		t.Helper()
		if got := a.Claim(0, 0); got != c {
			t.Errorf("%s: claim is %v, want %v", when, got, c)
		}
		if got := a.Avail(a.DevSpace(0), WatermarkNormal); got != free-avail {
			t.Errorf("%s: %d buckets are taken, want %d", when, free-got, avail)
		}
	}
	expect("at first", NotClaimed, 0)
	var one, two Allocation
	if err := errors.Join(a.AllocSectors(ctx, userRequest(8), &one), a.AllocSectors(ctx, userRequest(56), &two)); err != nil {
		t.Fatal(err)
	}
	expect("opened", ClaimFresh, 1)
	if err := e.commit(ctx, 1, 64, &one); err != nil {
		t.Fatal(err)
	}
	expect("written", ClaimFilled, 1)
	if err := e.remove(ctx, 1, 64); err != nil {
		t.Fatal(err)
	}
	expect("emptied", ClaimFilled, 1)
	if err := e.commit(ctx, 1, 128, &two); err != nil {
		t.Fatal(err)
	}
	expect("written again", ClaimFilled, 1)
	one.Done(ctx)
	two.Done(ctx)
	expect("closed", NotClaimed, 1)
}

func TestCloseDevice(t *testing.T) {
	a, _ := newTestAllocator(t, testConfig{devs: []testDevice{{buckets: 200, size: 64}, {buckets: 200, size: 64}}})
	ctx := t.Context()
	var held Allocation
	req := userRequest(8)
	req.Replicas = 2
	for i := range 3 {
		req.WritePoint = WritePoint(i)
		if err := a.AllocSectors(ctx, req, &held); err != nil {
			t.Fatal(err)
		}
		if i < 2 {
			held.Done(ctx)
		}
	}
	a.points.fixed[0].mu.Lock()
	a.leave(ctx, &a.points.fixed[0])
	a.points.fixed[0].mu.Unlock()
	d := a.DevSpace(1)
	a.SetMemberState(1, ondisk.MemberRO)
	short, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- a.CloseDevice(short, d) }()
	until(t, a.freed.waiting)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	go func() { done <- a.CloseDevice(ctx, d) }()
	until(t, a.freed.waiting)
	held.Done(ctx)
	if err := <-done; err != nil {
		t.Error(err)
	}
	for _, ob := range a.OpenBuckets() {
		if ob.Dev == 1 {
			t.Errorf("open: %+v", ob)
		}
	}
	if a.OpenCount() != 3 {
		t.Errorf("open: %+v", a.OpenBuckets())
	}
	if err := a.CloseDevice(ctx, nil); err != nil || a.OpenCount() != 0 {
		t.Errorf("%v, open: %+v", err, a.OpenBuckets())
	}
}
