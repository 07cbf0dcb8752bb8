package alloc

import (
	"sync/atomic"
	"testing"
)

func benchAllocator(b *testing.B, early bool, size uint16) *Allocator {
	a, _ := newTestAllocator(b, testConfig{devs: []testDevice{{buckets: 4096, size: size, early: early}, {buckets: 4096, size: size, early: early}}})
	return a
}

// BenchmarkAllocSectors takes 8 sectors at a time from buckets of 1024, which is what small writes do.
func BenchmarkAllocSectors(b *testing.B) {
	for _, bb := range []struct {
		name     string
		replicas int
	}{{"1 copy", 1}, {"2 copies", 2}} {
		b.Run(bb.name, func(b *testing.B) {
			a := benchAllocator(b, false, 8192)
			req := userRequest(8)
			req.Replicas = bb.replicas
			var al Allocation
			b.ReportAllocs()
			for b.Loop() {
				if err := a.AllocSectors(b.Context(), req, &al); err != nil {
					b.Fatal(err)
				}
				al.Done(b.Context())
			}
		})
	}
}

// BenchmarkAllocSectorsParallel has as many tasks as cores, with a write point each.
func BenchmarkAllocSectorsParallel(b *testing.B) {
	a := benchAllocator(b, false, 8192)
	var points atomic.Uint64
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		req := userRequest(8)
		req.WritePoint = WritePoint(points.Add(1))
		var al Allocation
		for pb.Next() {
			if err := a.AllocSectors(b.Context(), req, &al); err != nil {
				b.Fatal(err)
			}
			al.Done(b.Context())
		}
	})
}

// BenchmarkOpenBucket takes a whole bucket at a time: a search and a claim each.
func BenchmarkOpenBucket(b *testing.B) {
	for name, early := range map[string]bool{"freelist": false, "early": true} {
		b.Run(name, func(b *testing.B) {
			a := benchAllocator(b, early, 64)
			req := userRequest(64)
			var al Allocation
			b.ReportAllocs()
			for b.Loop() {
				if err := a.AllocSectors(b.Context(), req, &al); err != nil {
					b.Fatal(err)
				}
				al.Done(b.Context())
			}
		})
	}
}

func TestAllocSectorsDoesNotAllocate(t *testing.T) {
	a, _ := newTestAllocator(t, testConfig{devs: []testDevice{{buckets: 200, size: 16384}, {buckets: 200, size: 16384}}})
	req := userRequest(8)
	req.Replicas = 2
	var al Allocation
	ctx := t.Context()
	if n := testing.AllocsPerRun(200, func() {
		if err := a.AllocSectors(ctx, req, &al); err != nil {
			t.Fatal(err)
		}
		al.Done(ctx)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
