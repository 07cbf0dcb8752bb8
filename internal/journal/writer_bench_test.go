package journal

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// benchRig is a journal of 64 MiB in buckets of 512 KiB.
func benchRig(b *testing.B, dev blockdev.Device) *rig {
	r := newRig(b, 1)
	d := &r.cfg.Devices[0]
	if dev == nil {
		dev = blockdev.NewMemory(130 * 512 << 10)
	}
	d.Device, d.BucketBytes, d.Buckets = dev, 512<<10, nil
	d.Ring = FreshRing(d.BucketBytes)
	for i := range uint64(128) {
		d.Buckets = append(d.Buckets, i+1)
	}
	r.cfg.MaxAhead = 1 << 20
	return r
}

// BenchmarkReserve is a reservation of 20 u64s that is filled and given back, writing the entries to memory included. Nothing is pinned.
func BenchmarkReserve(b *testing.B) {
	for _, goroutines := range []int{1, 2, 4} {
		b.Run(fmt.Sprint(goroutines), func(b *testing.B) {
			w := benchRig(b, nil).start()
			e := ondisk.JsetEntry{Type: ondisk.JsetLog, Data: make([]byte, 19*8)}
			b.ReportAllocs()
			b.ResetTimer()
			var left atomic.Int64
			left.Store(int64(b.N))
			var wg sync.WaitGroup
			for range goroutines {
				wg.Go(func() {
					var res Reservation
					const share = 64
					for left.Add(-share) > -share {
						for range share {
							err := w.TryReserve(20, WatermarkNormal, &res)
							if err == ErrWouldBlock {
								err = w.Reserve(ctx, 20, WatermarkNormal, &res)
							}
							if err != nil {
								b.Error(err)
								return
							}
							res.Append(e)
							res.Done()
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

// BenchmarkReserveAlone is the fast path alone: entries are never written, as a new one takes the place of a full one.
func BenchmarkReserveAlone(b *testing.B) {
	w := benchRig(b, nil).start()
	var hold, res Reservation
	if err := w.TryReserve(1, WatermarkNormal, &hold); err != nil {
		b.Fatal(err)
	}
	state := w.state.Load()
	b.ReportAllocs()
	for b.Loop() {
		if !w.reserveFast(20, WatermarkNormal, &res) {
			w.state.Store(state)
			continue
		}
		res.Done()
	}
	w.Abort()
}

// BenchmarkPin is a pin set and dropped.
func BenchmarkPin(b *testing.B) {
	r := benchRig(b, nil)
	w := r.start()
	h := &holder{w: w}
	seq := r.put(1, 2)
	h.hold(seq)
	var p Pin
	flush := func(context.Context, *Pin, uint64) error { return nil }
	b.ReportAllocs()
	for b.Loop() {
		w.AddPin(seq, &p, PinKeyCache, flush)
		w.DropPin(&p)
	}
}

// BenchmarkCommit is a small record made durable, by many at a time, in a file. Nothing else is written, so that a flush before is not needed.
func BenchmarkCommit(b *testing.B) {
	for _, goroutines := range []int{1, 4, 64} {
		b.Run(fmt.Sprint(goroutines), func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "journal")
			if err := os.WriteFile(path, make([]byte, 130*512<<10), 0o600); err != nil { // so that no write has to find space
				b.Fatal(err)
			}
			dev, err := blockdev.OpenFile(path, blockdev.FileOptions{})
			if err != nil {
				b.Fatal(err)
			}
			defer dev.Close()
			w := benchRig(b, blockdev.NewFlushTracker(dev)).start()
			b.ResetTimer()
			var left atomic.Int64
			left.Store(int64(b.N))
			var wg sync.WaitGroup
			for range goroutines {
				wg.Go(func() {
					for left.Add(-1) >= 0 {
						seq, err := putRecord(ctx, w, 1, 20, WatermarkNormal)
						if err == nil {
							err = w.FlushSeq(ctx, seq)
						}
						if err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			w.Abort()
		})
	}
}
