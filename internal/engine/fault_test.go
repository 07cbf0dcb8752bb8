package engine_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/alloc"
	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/crashtest"
	"github.com/go-bcachefs/bcachefs/internal/engine"
	"github.com/go-bcachefs/bcachefs/internal/golden"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

var (
	faultRuns = flag.Int("fault.runs", 2, "how often each fault is tried")
	faultSeed = flag.Uint64("fault.seed", 1, "first seed of the fault tests")
	faultStep = flag.Int("fault.step", 23, "TestFaultWhileOpening has each n-th operation fail")
)

// twins keeps metadata on two devices.
var twins = crashtest.Geometry{Devices: 2, DeviceBytes: 8 << 20, BucketBytes: 32 << 10, NodeBytes: 16 << 10,
	Options: map[string]string{"metadata_replicas": "2"}}

// faulty returns devices that fail by rules.
func faulty(mems []*blockdev.Memory) (devs []blockdev.Device, faulters []*blockdev.Faulter) {
	for _, m := range mems {
		f := blockdev.NewFaulter(m)
		devs, faulters = append(devs, f), append(faulters, f)
	}
	return devs, faulters
}

func flipBit(p []byte, off int64) { p[uint64(off)*7919%uint64(len(p))] ^= 1 << 3 }

// Faults of a device under load: what fails says so, nothing hangs, and once the fault is gone all that was promised is there.
func TestFaults(t *testing.T) {
	const changes = blockdev.OpWrite | blockdev.OpFlush | blockdev.OpDiscard
	for i, tt := range []struct {
		name     string
		rule     blockdev.Rule
		on       crashtest.Geometry
		survives bool // the filesystem may go on
	}{
		{"a write fails", blockdev.Rule{Ops: blockdev.OpWrite, Count: 1}, crashtest.Small, false},
		{"writes fail", blockdev.Rule{Ops: blockdev.OpWrite}, crashtest.Small, false},
		{"a flush fails", blockdev.Rule{Ops: blockdev.OpFlush, Count: 1}, crashtest.Small, false},
		{"flushes fail", blockdev.Rule{Ops: blockdev.OpFlush}, crashtest.Small, false},
		{"a read fails", blockdev.Rule{Ops: blockdev.OpRead, Count: 1}, crashtest.Small, true},
		{"reads fail", blockdev.Rule{Ops: blockdev.OpRead}, crashtest.Small, true},
		{"reads return wrong bytes", blockdev.Rule{Ops: blockdev.OpRead, Count: 3, Corrupt: flipBit}, crashtest.Small, true},
		{"it cannot be changed", blockdev.Rule{Ops: changes}, crashtest.Small, false},
		{"it disappears", blockdev.Rule{}, crashtest.Small, false},
		{"one of two: a write fails", blockdev.Rule{Ops: blockdev.OpWrite, Count: 1}, twins, false},
		{"one of two disappears", blockdev.Rule{}, twins, false},
		{"one of two: reads fail", blockdev.Rule{Ops: blockdev.OpRead}, twins, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			golden.OneIn(t, 3, i)
			for i := range uint64(*faultRuns) {
				r := faultRun{t: t, seed: *faultSeed + i, rule: tt.rule, survives: tt.survives}
				r.run(tt.on)
			}
		})
	}
}

// faultRun is one run with a fault.
type faultRun struct {
	t        *testing.T
	seed     uint64
	rule     blockdev.Rule
	survives bool
}

func (r *faultRun) run(g crashtest.Geometry) {
	t, ctx := r.t, r.t.Context()
	t.Helper()
	engine.NoLeaks(t)
	defer crashtest.Watch(fmt.Sprintf("%s, seed %d", t.Name(), r.seed))()
	rng := rand.New(rand.NewPCG(r.seed, 0))
	mems := format(t, g)
	devs, faulters := faulty(mems)
	rw, err := crashtest.OpenRW(ctx, devs, engine.WriteOptions{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer rw.Abandon()
	var h crashtest.History
	var failures atomic.Int64
	f := crashtest.Files{Count: 100, MaxSectors: 40, FlushEvery: 8, Workers: 3, GoOn: func(error) bool {
		failures.Add(1)
		return rw.Err() == nil && ctx.Err() == nil
	}}
	r.rule.Skip = rng.IntN(300)
	if r.rule.Ops == blockdev.OpFlush || r.rule.Ops == blockdev.OpRead { // there are fewer
		r.rule.Skip = rng.IntN(60)
	}
	faulters[rng.IntN(len(faulters))].SetRules(r.rule)
	runErr := f.Run(ctx, rw, &h, r.seed, 500)
	hits := 0
	for _, f := range faulters {
		hits += f.Hits()
	}
	if err := rw.Err(); err == nil && (runErr != nil || !r.survives && failures.Load() == 0 && hits > 0 && r.rule.Ops != blockdev.OpWrite) {
		t.Errorf("seed %d: goes on after %d faults, but %v", r.seed, hits, runErr)
	} else if err != nil && hits == 0 {
		t.Errorf("seed %d: failed without a fault: %v", r.seed, err)
	}
	closeErr := r.close(rw)
	for _, f := range faulters {
		f.SetRules()
	}
	if rw.Err() != nil && closeErr == nil {
		t.Errorf("seed %d: shut down cleanly after %v", r.seed, rw.Err())
	}
	rec := crashtest.Recovery{Timeline: h.End()}
	before := crashtest.Clone(mems)
	if err := rec.CheckEnd(ctx, mems); err != nil {
		t.Errorf("seed %d: %d faults, %v: afterwards: %v%s", r.seed, hits, rw.Err(), err, dump(t, before, fmt.Sprint("fault-", r.seed)))
	}
	t.Logf("seed %d: %d transactions, %d faults, %d failed; %v; %v", r.seed, h.Len(), hits, failures.Load(), rw.Err(), closeErr)
}

// close shuts down, for so long as it makes sense: a device that has reads fail now and then may keep nodes from being written.
func (r *faultRun) close(rw *engine.RW) error {
	ctx, cancel := context.WithTimeout(r.t.Context(), 10*time.Second)
	defer cancel()
	return rw.Close(ctx)
}

// Each operation of opening fails, of a first mount, of a recovery, of a clean filesystem: it is an error, or does not matter, and it works the
// next time.
func TestFaultWhileOpening(t *testing.T) {
	engine.NoLeaks(t)
	ctx := t.Context()
	never := format(t, crashtest.Small)
	clean := crashtest.Clone(never)
	r := newCrashRun(t, *faultSeed, clean)
	r.session(200)
	crashed := r.log.Crash(r.log.Ticks()*2/3, blockdev.KeepAll)
	var atCrash, atEnd = r.log.Ticks() * 2 / 3, r.log.Ticks()
	all := r.history.End()
	none := new(crashtest.History).End()
	for _, tt := range []struct {
		name string
		mems []*blockdev.Memory
		tl   *crashtest.Timeline
		tick int
	}{{"first mount", never, none, 0}, {"recovery", crashed, all, atCrash}, {"clean", clean, all, atEnd}} {
		for _, op := range []blockdev.Op{blockdev.OpRead, blockdev.OpWrite, blockdev.OpFlush} {
			t.Run(fmt.Sprint(tt.name, ", ", op), func(t *testing.T) {
				for n := int(*faultSeed) % *faultStep; ; n += *faultStep {
					mems := crashtest.Clone(tt.mems)
					devs, faulters := faulty(mems)
					faulters[0].SetRules(blockdev.Rule{Ops: op, Skip: n, Count: 1})
					done := crashtest.Watch(fmt.Sprint(t.Name(), ", ", n))
					rw, err := crashtest.OpenRW(ctx, devs, engine.WriteOptions{}, nil)
					if err == nil {
						err = rw.Close(ctx)
					}
					if err != nil && faulters[0].Hits() == 0 {
						t.Errorf("operation %d: failed without a fault: %v", n, err)
					}
					rec := crashtest.Recovery{Timeline: tt.tl}
					if err := rec.Check(ctx, crashtest.State{Tick: tt.tick, How: "all", Devices: mems}); err != nil {
						t.Errorf("operation %d: afterwards: %v", n, err)
					}
					done()
					if faulters[0].Hits() == 0 {
						break
					}
				}
			})
		}
	}
}

// Files fill the disk: there is an error for who wants more, and what goes makes room again.
func TestFullDisk(t *testing.T) {
	engine.NoLeaks(t)
	ctx := t.Context()
	defer crashtest.Watch(t.Name())()
	g := crashtest.Small
	g.DeviceBytes = 96 * g.BucketBytes
	mems := format(t, g)
	rw, err := crashtest.OpenRW(ctx, crashtest.DevicesOf(mems), engine.WriteOptions{}, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	defer rw.Abandon()
	var h crashtest.History
	f := crashtest.Files{Count: 150, MaxSectors: 200, FlushEvery: 16, Workers: 3}
	if err := f.Run(ctx, rw, &h, *faultSeed, 1500); err != nil {
		t.Fatal(err)
	}
	if f.Full() == 0 {
		t.Error("it was never full")
	}
	// Until there is no bucket left at all.
	req := alloc.Request{Sectors: 64, DataType: ondisk.DataUser, WritePoint: 99, Replicas: 1, Watermark: alloc.WatermarkNormal}
	for {
		var al alloc.Allocation
		if err := rw.Alloc.AllocSectors(ctx, &req, &al); err != nil {
			if !errors.Is(err, alloc.ErrNoSpace) {
				t.Error(err)
			}
			break
		}
		defer al.Done(ctx)
	}
	if err := f.Run(ctx, rw, &h, *faultSeed+1, 200); err != nil {
		t.Fatal(err)
	}
	if err := rw.Err(); err != nil {
		t.Fatal(err)
	}
	rw.Abandon()
	rec := crashtest.Recovery{Timeline: h.End()}
	if err := rec.CheckEnd(ctx, mems); err != nil {
		t.Error(err)
	}
}

// The smallest journal that format makes, 8 buckets of 16 KiB, carries the work of many: who fills it waits, and what empties it does not.
func TestSmallJournal(t *testing.T) {
	engine.NoLeaks(t)
	ctx := t.Context()
	defer crashtest.Watch(t.Name())()
	for seed := *faultSeed; seed < *faultSeed+uint64(*faultRuns); seed++ {
		mems := format(t, crashtest.Geometry{DeviceBytes: 8 << 20, BucketBytes: 16 << 10, NodeBytes: 16 << 10})
		devs, _ := faulty(mems)
		rw, err := crashtest.OpenRW(ctx, devs, engine.WriteOptions{}, t.Logf)
		if err != nil {
			t.Fatal(err)
		}
		defer rw.Abandon()
		var h crashtest.History
		f := crashtest.Files{Count: 200, MaxSectors: 40, FlushEvery: 8, Workers: 4}
		if err := f.Run(ctx, rw, &h, seed, golden.Times(t, 2000, 1000)); err != nil {
			t.Fatalf("seed %d: after %d transactions: %v", seed, h.Len(), err)
		}
		closeRW(t, rw)
		if err := (&crashtest.Recovery{Timeline: h.End()}).CheckEnd(ctx, mems); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
	}
}
