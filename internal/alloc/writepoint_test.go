package alloc

import (
	"errors"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// TestWritePoints: what goes through one lies together, whoever comes in between.
func TestWritePoints(t *testing.T) {
	a, _ := newTestAllocator(t, testConfig{devs: []testDevice{{buckets: 1000, size: 64}}})
	next := map[WritePoint]ondisk.Sector{}
	for range 8 {
		for p := range WritePoint(hashedPoints) {
			req := userRequest(8)
			req.WritePoint = p * 1000
			var al Allocation
			if err := a.AllocSectors(t.Context(), req, &al); err != nil {
				t.Fatal(err)
			}
			at := al.Ptrs()[0].Offset
			if want, ok := next[p]; ok && at != want {
				t.Errorf("write point %d: sector %d, want %d", p, at, want)
			}
			next[p] = at + 8
			al.Done(t.Context())
		}
	}
	if n := a.OpenCount(); n != 0 {
		t.Errorf("%d open", n)
	}
	// One more takes over that which was not used for longest, and what is left of its bucket.
	for p := range WritePoint(hashedPoints + 1) {
		req := userRequest(8)
		req.WritePoint = p
		var al Allocation
		if err := a.AllocSectors(t.Context(), req, &al); err != nil {
			t.Fatal(err)
		}
		al.Done(t.Context())
	}
	if n := a.OpenCount(); n != hashedPoints {
		t.Errorf("%d open", n)
	}
}

// TestWritePointsAreFew: when space gets short write points are given up, so that it is not spread over buckets that are hardly used.
func TestWritePointsAreFew(t *testing.T) {
	a, e := newTestAllocator(t, testConfig{devs: []testDevice{{buckets: 128, size: 64}}})
	req := userRequest(8)
	n := uint64(0)
	for {
		req.WritePoint = WritePoint(n)
		var al Allocation
		err := a.AllocSectors(t.Context(), req, &al)
		if errors.Is(err, ErrNoSpace) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		n++
		if err := e.commit(t.Context(), 1, n*8, &al); err != nil {
			t.Fatal(err)
		}
		al.Done(t.Context())
	}
	// 128 buckets but for the reserve of 2 + 2·7, to the last sector.
	if want := uint64(128-16) * 64 / 8; n != want {
		t.Errorf("%d allocations of 8 sectors, want %d", n, want)
	}
	if a.points.nr >= hashedPoints {
		t.Errorf("%d write points", a.points.nr)
	}
	if err := e.check(a); err != nil {
		t.Error(err)
	}
}

// TestPartialKeepsReserves: what copygc opened from its reserve is not for ordinary writes once there is nothing else.
func TestPartialKeepsReserves(t *testing.T) {
	a, _ := newTestAllocator(t, testConfig{devs: []testDevice{{buckets: 64, size: 64}}}) // 1 + 14 kept back from normal
	req := userRequest(64)
	for range 64 - 15 {
		if err := a.AllocSectors(t.Context(), req, new(Allocation)); err != nil {
			t.Fatal(err)
		}
	}
	gc := *req
	gc.Watermark, gc.WritePoint, gc.Sectors = WatermarkCopygc, WritePointCopygc, 8
	var al Allocation
	if err := a.AllocSectors(t.Context(), &gc, &al); err != nil {
		t.Fatal(err)
	}
	al.Done(t.Context())
	a.leaveAll(t.Context())
	req.Sectors = 8
	if err := a.AllocSectors(t.Context(), req, &al); !errors.Is(err, ErrNoSpace) {
		t.Errorf("normal: %v %+v", err, al.Ptrs())
	}
	if err := a.AllocSectors(t.Context(), &gc, &al); err != nil || al.Ptrs()[0].Offset%64 != 8 {
		t.Errorf("copygc: %v %+v", err, al.Ptrs())
	}
}

// TestRequestInTransaction: claims in the caller's transaction keep its locks, and leave no bucket behind.
func TestRequestInTransaction(t *testing.T) {
	each(t, func(t *testing.T, early bool) {
		a, e := newTestAllocator(t, testConfig{devs: []testDevice{{buckets: 64, size: 64, early: early}}})
		var al Allocation
		err := e.Update(t.Context(), WatermarkNormal, func(tx Tx) error {
			req := userRequest(16)
			req.Tx = tx
			if err := a.AllocSectors(t.Context(), req, &al); err != nil {
				return err
			}
			if held, _ := tx.(*FakeTx).Held(ondisk.BtreeAlloc, allocPos(0, 0)); !held {
				t.Error("the slot is not locked")
			}
			return tx.Update(ondisk.BtreeExtents, extentKey(1, 16, 16, al.Ptrs()), 0)
		})
		if err != nil {
			t.Fatal(err)
		}
		al.Done(t.Context())
		if e.alloc(t, 0, 0).DirtySectors != 16 {
			t.Errorf("bucket: %+v", e.alloc(t, 0, 0))
		}
		if obs := a.OpenBuckets(); len(obs) != 1 || !obs[0].Partial || obs[0].SectorsFree != 48 {
			t.Errorf("open: %+v", obs)
		}
	})
}
