package alloc

import (
	"context"
	"errors"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

func TestNodeReserve(t *testing.T) {
	var saved []BtreeBitmap
	fail := errors.New("superblock cannot be written")
	var saveErr error
	a, _ := newTestAllocator(t, testConfig{devs: []testDevice{{buckets: 200, size: 64}, {buckets: 200, size: 64}},
		cfg: Config{NodeReplicas: 2, SaveBitmap: func(_ context.Context, _ uint8, m BtreeBitmap) error {
			saved = append(saved, m)
			return saveErr
		}}})
	ctx := t.Context()
	r := NewNodeReserve(a)
	if _, err := r.AllocNodes(ctx, 1, WatermarkInteriorUpdates, true); !errors.Is(err, ErrNoSpace) {
		t.Errorf("empty: %v", err)
	}
	if err := r.Fill(ctx, true); err != nil || r.Len() != nodeCacheSize {
		t.Fatalf("filled to %d, %v", r.Len(), err)
	}
	if len(saved) == 0 {
		t.Error("bitmap was not saved")
	}
	seen := map[ondisk.Sector]bool{}
	spaces, err := r.AllocNodes(ctx, nodeCacheSize-BtreeNodeReserve, WatermarkNormal, true)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range spaces {
		if len(s.Ptrs) != 2 || s.Ptrs[0].Dev == s.Ptrs[1].Dev || seen[s.Ptrs[0].Offset+ondisk.Sector(s.Ptrs[0].Dev)<<32] {
			t.Errorf("pointers %+v", s.Ptrs)
		}
		for _, p := range s.Ptrs {
			seen[p.Offset+ondisk.Sector(p.Dev)<<32] = true
			if p.Offset%16 != 0 || !a.DevSpace(p.Dev).Bitmap().Covers(p.Offset, 16) || !a.IsOpen(p.Dev, ondisk.Bucket(p.Offset/64)) {
				t.Errorf("pointer %+v", p)
			}
		}
	}
	// The last ones are for those who make room.
	if _, err := r.AllocNodes(ctx, 1, WatermarkNormal, true); !errors.Is(err, ErrNoSpace) {
		t.Errorf("got %v", err)
	}
	if _, err := r.AllocNodes(ctx, BtreeNodeReserve+1, WatermarkReclaim, true); err == nil {
		t.Error("too many at once")
	}
	urgent, err := r.AllocNodes(ctx, BtreeNodeReserve, WatermarkReclaim, true)
	if err != nil || r.Len() != 0 {
		t.Fatalf("%v, %d left", err, r.Len())
	}
	// A request that is refused leaves the reserve as it was.
	urgent[0].Return(ctx)
	if _, err := r.AllocNodes(ctx, 2, WatermarkReclaim, true); !errors.Is(err, ErrNoSpace) || r.Len() != 1 {
		t.Errorf("%v, %d left", err, r.Len())
	}
	fresh, err := r.AllocNodes(ctx, 3, WatermarkNormal, false)
	if err != nil || len(fresh) != 3 || r.Len() != 1 {
		t.Errorf("%v, %d, %d left", err, len(fresh), r.Len())
	}
	for _, s := range append(append(spaces, fresh...), urgent[1:]...) {
		s.Return(ctx)
	}
	if r.Len() != nodeCacheSize+3 { // more than it is filled to, as it was filled while they were out
		t.Errorf("%d", r.Len())
	}
	var more []NodeSpace
	for range 2 {
		got, err := r.AllocNodes(ctx, BtreeNodeReserve, WatermarkInteriorUpdates, false)
		if err != nil {
			t.Fatal(err)
		}
		more = append(more, got...)
	}
	if err := r.Fill(ctx, true); err != nil {
		t.Fatal(err)
	}
	for _, s := range more {
		s.Return(ctx)
	}
	if r.Len() != nodeCacheSize+BtreeNodeReserve {
		t.Errorf("%d are kept", r.Len())
	}
	r.DropDevice(ctx, a.DevSpace(0))
	if r.Len() != 0 { // all have a copy there
		t.Errorf("%d", r.Len())
	}
	// Nothing is handed out that the superblock does not tell of.
	for i := range a.points.fixed {
		a.points.fixed[i].mu.Lock()
		a.leave(ctx, &a.points.fixed[i])
		a.points.fixed[i].mu.Unlock()
	}
	a.dropPartial(ctx, 100)
	for d := range a.Devices() {
		d.setBitmap(BtreeBitmap{})
	}
	saveErr = fail
	if _, err := r.AllocNodes(ctx, 1, WatermarkNormal, false); !errors.Is(err, fail) {
		t.Errorf("got %v", err)
	}
	saveErr = nil
	if err := r.Fill(ctx, false); err != nil {
		t.Error(err)
	}
	// The worker fills up what was taken.
	r.Start(ctx)
	taken, err := r.AllocNodes(ctx, 10, WatermarkNormal, true)
	if err != nil {
		t.Fatal(err)
	}
	until(t, func() bool { return r.Len() == nodeCacheSize })
	for _, s := range taken {
		s.Done(ctx)
	}
	r.Close(ctx)
	if r.Len() != 0 || r.Fill(ctx, true) != nil || r.Len() != 0 {
		t.Errorf("%d after it was closed", r.Len())
	}
	a.leaveAll(ctx)
	a.dropPartial(ctx, 100)
	if a.OpenCount() != 0 {
		t.Errorf("open: %+v", a.OpenBuckets())
	}
}

// TestNodeReserveWithoutSpace: filling never takes what is kept back for the most urgent.
func TestNodeReserveWithoutSpace(t *testing.T) {
	a, _ := newTestAllocator(t, testConfig{devs: []testDevice{{buckets: 40, size: 16}}}) // a node a bucket: 28 are kept back
	r := NewNodeReserve(a)
	if err := r.Fill(t.Context(), true); !errors.Is(err, ErrNoSpace) || r.Len() != 12 {
		t.Errorf("%v, %d", err, r.Len())
	}
	spaces, err := r.AllocNodes(t.Context(), 20, WatermarkInteriorUpdates, false)
	if err != nil || len(spaces) != 20 {
		t.Fatalf("%v", err)
	}
	if _, err := r.AllocNodes(t.Context(), 21, WatermarkInteriorUpdates, false); !errors.Is(err, ErrNoSpace) || a.OpenCount() != 40 {
		t.Errorf("%v, %d open", err, a.OpenCount())
	}
}

// TestNodeReserveShrinks: what is in the reserve beyond what must be there goes to who would wait otherwise, if that makes buckets free, and
// filling it does not take what is kept back for data.
func TestNodeReserveShrinks(t *testing.T) {
	a, _ := newTestAllocator(t, testConfig{devs: []testDevice{{buckets: 60, size: 32}}}) // two nodes a bucket: 14 are kept back for nodes, 28 for copygc
	r := NewNodeReserve(a)
	ctx := t.Context()
	if err := r.Fill(ctx, true); err != nil || r.Len() != nodeCacheSize {
		t.Fatalf("%v, %d", err, r.Len())
	}
	var out []NodeSpace
	for len(out) < 60 {
		got, err := r.AllocNodes(ctx, 20, WatermarkNormal, false)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, got...)
	}
	half, out := out[len(out)-1], out[:len(out)-1] // one is used, so that the other one of its bucket is no gain
	for _, s := range out {
		s.Return(ctx)
	}
	if err := r.Fill(ctx, false); err != nil || r.Len() != nodeCacheSize+BtreeNodeReserve {
		t.Fatalf("%v, %d", err, r.Len())
	}
	req := userRequest(32)
	req.Watermark = WatermarkCopygc
	var all []*Allocation
	for {
		al := new(Allocation)
		if err := a.AllocSectors(ctx, req, al); errors.Is(err, ErrNoSpace) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, al)
	}
	if n := r.Len(); n < BtreeNodeReserve || n > BtreeNodeReserve+1 || len(all) != 60-28-15 {
		t.Errorf("%d nodes are left, copygc got %d buckets", n, len(all))
	}
	if err := r.Fill(ctx, false); err != nil || r.Len() > BtreeNodeReserve+1 {
		t.Errorf("filled to %d, %v", r.Len(), err)
	}
	half.Done(ctx)
	for _, al := range all {
		al.Done(ctx)
	}
	r.Close(ctx)
	a.leaveAll(ctx)
	a.dropPartial(ctx, 100)
	if a.OpenCount() != 0 {
		t.Errorf("open: %+v", a.OpenBuckets())
	}
}

// TestNodeReserveNeighbours: a bucket of which a node was taken is taken to its end next, as what stays of it in the reserve keeps all of it from being
// discarded; such a one goes before others when space is short, and counts as nothing that is to be had.
func TestNodeReserveNeighbours(t *testing.T) {
	a, e := newTestAllocator(t, testConfig{devs: []testDevice{{buckets: 100, size: 32}}})
	r := NewNodeReserve(a)
	ctx := t.Context()
	if err := r.Fill(ctx, true); err != nil {
		t.Fatal(err)
	}
	bucket := func(s NodeSpace) ondisk.Bucket { return ondisk.Bucket(s.Ptrs[0].Offset / 32) }
	take := func() NodeSpace {
		got, err := r.AllocNodes(ctx, 1, WatermarkNormal, true)
		if err != nil {
			t.Fatal(err)
		}
		return got[0]
	}
	one := take()
	if err := r.Fill(ctx, true); err != nil || r.Len() != nodeCacheSize { // what is new does not come before
		t.Fatal(err)
	}
	if two := take(); bucket(two) != bucket(one) {
		t.Errorf("bucket %d, then %d", bucket(one), bucket(two))
	} else {
		two.Return(ctx)
	}
	// The first one is used, and is not any more.
	d := a.DevSpace(0)
	before := a.Available(d, WatermarkNormal)
	a.Filled(0, bucket(one))
	one.Done(ctx)
	e.counts[0][ondisk.DataFree].Add(-1)
	a.Emptied(0, bucket(one), 0)
	e.counts[0][ondisk.DataNeedDiscard].Add(1)
	if got := a.Available(d, WatermarkNormal); got != before {
		t.Errorf("%d buckets to be had, then %d", before, got)
	}
	if r.shrink(ctx); a.IsOpen(0, bucket(one)) || r.Len() < BtreeNodeReserve || r.Len() > BtreeNodeReserve+1 {
		t.Errorf("open %v, %d left", a.IsOpen(0, bucket(one)), r.Len())
	}
	if got := a.Available(d, WatermarkNormal); got <= before || d.held.Load() != 0 {
		t.Errorf("%d buckets to be had, then %d; %d held", before, got, d.held.Load())
	}
}

// TestBitmapKeepsApart: nodes go where nodes are, data where none are.
func TestBitmapKeepsApart(t *testing.T) {
	each(t, func(t *testing.T, early bool) {
		a, _ := newTestAllocator(t, testConfig{devs: []testDevice{{buckets: 64, size: 64, early: early}}})
		a.DevSpace(0).setBitmap(BtreeBitmap{Shift: 6, Bits: 1<<10 | 1<<11 | 1})
		for _, tt := range []struct {
			t    ondisk.DataType
			want ondisk.Bucket
		}{{ondisk.DataUser, 1}, {ondisk.DataBtree, 0}, {ondisk.DataUser, 2}, {ondisk.DataBtree, 10}, {ondisk.DataBtree, 11}, {ondisk.DataBtree, 3}} {
			req := userRequest(64)
			req.DataType, req.Watermark = tt.t, WatermarkReclaim
			if tt.t == ondisk.DataBtree {
				req.WritePoint = WritePointBtree
			}
			var al Allocation
			if err := a.AllocSectors(t.Context(), req, &al); err != nil {
				t.Fatal(err)
			}
			if got := ondisk.Bucket(al.Ptrs()[0].Offset / 64); got != tt.want {
				t.Errorf("%v: bucket %d, want %d", tt.t, got, tt.want)
			}
		}
	})
}
