package alloc

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// Of two devices one is smaller. Once it is full, tasks that want both get to know: what they give back of the other one is nothing that became
// free, for them or for each other.
func TestNoSpaceOnOneOfTwo(t *testing.T) {
	each(t, func(t *testing.T, early bool) {
		for _, tt := range []struct {
			name     string
			required int
			want     error
			copies   int
		}{{"both required", 2, ErrNoSpace, 0}, {"one is enough", 1, nil, 1}} {
			t.Run(tt.name, func(t *testing.T) {
				a, _ := newTestAllocator(t, testConfig{devs: []testDevice{{buckets: 400, size: 64, early: early}, {buckets: 200, size: 64, early: early}}})
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				a.Start(ctx)
				defer a.Stop()
				req := Request{Sectors: 64, DataType: ondisk.DataUser, Replicas: 2, Required: 2, Watermark: WatermarkNormal}
				n := 0
				for ; ; n++ {
					err := a.AllocSectors(ctx, &req, new(Allocation))
					if errors.Is(err, ErrNoSpace) {
						break
					}
					if err != nil {
						t.Fatalf("allocation %d: %v", n, err)
					}
				}
				if n < 150 {
					t.Errorf("full after %d allocations", n)
				}
				var wg sync.WaitGroup
				for i := range 4 {
					wg.Go(func() {
						req := req
						req.Required, req.WritePoint = tt.required, WritePoint(i)
						var al Allocation
						if err := a.AllocSectors(ctx, &req, &al); !errors.Is(err, tt.want) || len(al.Ptrs()) != tt.copies {
							t.Errorf("got %d copies, %v", len(al.Ptrs()), err)
						}
					})
				}
				wg.Wait()
			})
		}
	})
}

// Of two tasks of which each holds the last bucket of a device, one gets both devices.
func TestLastBuckets(t *testing.T) {
	each(t, func(t *testing.T, early bool) {
		for range 20 {
			a, _ := newTestAllocator(t, testConfig{devs: []testDevice{{buckets: 200, size: 64, early: early}, {buckets: 200, size: 64, early: early}}})
			a.Start(t.Context())
			req := Request{Sectors: 64, DataType: ondisk.DataUser, Replicas: 1, Required: 1, Watermark: WatermarkNormal}
			for i, d := range []uint8{0, 1} {
				req.Target, req.OnlySpecified, req.WritePoint = TargetDevice(d), true, WritePoint(i)
				for a.Avail(a.DevSpace(d), WatermarkNormal) > 1 {
					if err := a.AllocSectors(t.Context(), &req, new(Allocation)); err != nil {
						t.Fatal(err)
					}
				}
			}
			var wg sync.WaitGroup
			var got [3]error
			for i := range got {
				wg.Go(func() {
					req := Request{Sectors: 64, DataType: ondisk.DataUser, Replicas: 2, Required: 2, Watermark: WatermarkNormal, WritePoint: WritePoint(i)}
					got[i] = a.AllocSectors(t.Context(), &req, new(Allocation))
				})
			}
			wg.Wait()
			n := 0
			for _, err := range got {
				switch {
				case err == nil:
					n++
				case !errors.Is(err, ErrNoSpace):
					t.Error(err)
				}
			}
			a.Stop()
			if n != 1 {
				t.Fatalf("%d tasks got the last buckets: %v", n, got)
			}
		}
	})
}
