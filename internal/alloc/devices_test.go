package alloc

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

func TestDevSet(t *testing.T) {
	s := Devs(0, 63, 64, 254)
	if got := slices.Collect(s.All()); !slices.Equal(got, []uint8{0, 63, 64, 254}) || s.Len() != 4 {
		t.Errorf("got %v", got)
	}
	for d := range s.All() {
		if d == 63 {
			break
		}
	}
	s.Remove(63)
	if s.Has(63) || !s.Has(64) || s.And(Devs(64, 65)) != Devs(64) || s.Without(Devs(64, 65)) != Devs(0, 254) {
		t.Errorf("got %v", s)
	}
}

// TestBtreeBitmap compares with the plain meaning: a sector is marked if its bit is.
func TestBtreeBitmap(t *testing.T) {
	// Made by the reference: nodes of 512 sectors in these buckets of 512 sectors.
	var m BtreeBitmap
	m.Shift = 9
	var want uint64
	for _, b := range []uint{18, 19, 21, 23, 24, 27, 30, 33, 36} {
		m.Mark(ondisk.Sector(b*512), 512)
		want |= 1 << b
	}
	if m != (BtreeBitmap{9, want}) {
		t.Errorf("got %+v, want bits %#x", m, want)
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var m BtreeBitmap
		type place struct {
			at ondisk.Sector
			n  uint32
		}
		var places []place
		for range rnd.IntN(8) {
			p := place{ondisk.Sector(rnd.Uint64() >> (20 + rnd.IntN(40))), 1 + rnd.Uint32N(1000)}
			places = append(places, p)
			m.Mark(p.at, p.n)
			for _, q := range places {
				if !m.Covers(q.at, q.n) || !m.Touches(q.at, q.n) {
					t.Fatalf("%+v does not cover %+v of %+v", m, q, places)
				}
			}
		}
		// Touches and Covers agree with each sector by itself.
		for range 50 {
			at, n := ondisk.Sector(rnd.Uint64N(64<<m.Shift+10)), 1+rnd.Uint32N(5)
			all, any := true, false
			for i := range n {
				bit := (uint64(at) + uint64(i)) >> m.Shift
				set := bit < 64 && m.Bits>>bit&1 != 0
				all, any = all && set, any || set
			}
			if m.Covers(at, n) != all || m.Touches(at, n) != any {
				t.Fatalf("%+v: sectors %d+%d: covers %v, touches %v, want %v, %v", m, at, n, m.Covers(at, n), m.Touches(at, n), all, any)
			}
		}
	}
	m = BtreeBitmap{}
	if m.Mark(5, 0); m.Bits != 0 || m.Touches(5, 0) || !m.Covers(5, 0) {
		t.Error("a range of no sectors")
	}
	m.Mark(1<<62, 1) // farther than any device
	if m.Shift > maxBitmapShift {
		t.Errorf("shift %d", m.Shift)
	}
}

func TestReserves(t *testing.T) {
	for _, tt := range []struct {
		bucket, node uint32
		want         int64
	}{{512, 512, 28}, {1024, 512, 14}, {4096, 512, 4}, {768, 512, 28}, {256, 512, 28}, {64, 0, 1}} {
		if got := nodeReserveBuckets(tt.bucket, tt.node); got != tt.want {
			t.Errorf("buckets of %d, nodes of %d: %d, want %d", tt.bucket, tt.node, got, tt.want)
		}
	}
	a, e := newTestAllocator(t, testConfig{devs: []testDevice{{buckets: 6400, size: 512}}, cfg: Config{NodeSectors: 512}})
	d := a.DevSpace(0)
	for w, want := range []int64{100 + 100 + 56, 100 + 56, 56, 28, 0, 0, 0} {
		if got := d.reserve(Watermark(w)); got != want {
			t.Errorf("%v: %d, want %d", Watermark(w), got, want)
		}
		if got := a.Avail(d, Watermark(w)); got != 6400-want {
			t.Errorf("%v: %d available", Watermark(w), got)
		}
	}
	e.counts[0][ondisk.DataFree].Store(50)
	e.counts[0][ondisk.DataCached].Store(1000)
	e.counts[0][ondisk.DataNeedDiscard].Store(10)
	e.counts[0][ondisk.DataNeedGCGens].Store(1)
	if got := a.Avail(d, WatermarkNormal); got != 0 {
		t.Errorf("%d", got)
	}
	if got := a.Available(d, WatermarkNormal); got != 1061-156 {
		t.Errorf("%d", got)
	}
}

// TestDeviceChanges: what may change while a device is in use does.
func TestDeviceChanges(t *testing.T) {
	a, e := newTestAllocator(t, testConfig{devs: []testDevice{{buckets: 64, size: 64}}})
	var al Allocation
	if err := a.AllocSectors(t.Context(), userRequest(8), &al); err != nil {
		t.Fatal(err)
	}
	m := ondisk.Member{NBuckets: 64, BucketSize: 64, Flags: 1<<14 | 1<<ondisk.DataUser<<15 | 3<<28}
	d, err := a.AddDevice(DeviceConfig{Device: e.devs.Get(0), Member: m, Hidden: []BucketRange{{1, 5}}})
	if err != nil || d != a.DevSpace(0) || !d.discard.Load() || d.durability() != 2 || !d.isHidden(4) || !a.IsOpen(0, 0) {
		t.Errorf("%+v, %v", d, err)
	}
	if err := a.AllocSectors(t.Context(), userRequest(56), &al); err != nil || al.Durability != 2 {
		t.Errorf("durability %d, %v", al.Durability, err)
	}
	if err := a.AllocSectors(t.Context(), userRequest(56), &al); err != nil || al.Ptrs()[0].Offset != 5*64 {
		t.Errorf("%+v, %v", al.Ptrs(), err)
	}
	req := userRequest(8)
	req.DataType = ondisk.DataBtree
	if err := a.AllocSectors(t.Context(), req, &al); !errors.Is(err, ErrInsufficientDevices) {
		t.Errorf("btree: %v", err)
	}
}

func TestAddDeviceRefuses(t *testing.T) {
	a, _ := newTestAllocator(t, testConfig{devs: []testDevice{{buckets: 64, size: 64}}})
	for name, m := range map[string]ondisk.Member{
		"other size":         {NBuckets: 65, BucketSize: 64},
		"other buckets":      {NBuckets: 64, BucketSize: 128},
		"buckets of no size": {NBuckets: 64},
	} {
		if _, err := a.AddDevice(DeviceConfig{Device: NewDevice(0, &m), Member: m}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	m := ondisk.Member{NBuckets: 64, BucketSize: 64}
	if _, err := a.AddDevice(DeviceConfig{Device: NewDevice(255, &m), Member: m}); err == nil {
		t.Error("index 255: no error")
	}
	if n := 0; true {
		for range a.Devices() {
			n++
		}
		if n != 1 {
			t.Errorf("%d devices", n)
		}
	}
}
