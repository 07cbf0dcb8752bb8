package crashtest

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync/atomic"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/engine"
)

// Recovery says what is done with each state of a [Sweep].
type Recovery struct {
	Timeline *Timeline
	Write    engine.WriteOptions
	// Nested is how often the recovery of a state is recorded and cut short too, once in so many times; 0: never.
	Nested int
	// NestedStates are how many states of such a recovery are tried.
	NestedStates int
	Seed         uint64

	// Tried counts the states, those of recoveries cut short included.
	Tried atomic.Int64
}

// CheckEnd is Check of devices as they are after all that is in the timeline.
func (r *Recovery) CheckEnd(ctx context.Context, mems []*blockdev.Memory) error {
	return r.Check(ctx, State{Tick: math.MaxInt - 1, How: "all", Devices: mems})
}

// maxDepth is how often recovery is cut short on end.
const maxDepth = 3

// Check opens a state for reading, has it recover, and checks what comes of it: everything that was promised is there, no transaction
// happened in part, recovery changed nothing of that, and fsck finds nothing. The devices hold the recovered filesystem then.
func (r *Recovery) Check(ctx context.Context, s State) error {
	defer Watch(fmt.Sprintf("recovery from a power cut at tick %d, keeping %s", s.Tick, s.How))()
	rng := newRand(r.Seed, uint64(s.Tick), uint64(len(s.How)))
	if err := r.check(ctx, s.Devices, r.Timeline.Durable(s.Tick), nil, rng, 0); err != nil {
		return fmt.Errorf("power cut at tick %d, keeping %s: %w", s.Tick, s.How, err)
	}
	return nil
}

// check does it for devices on which one of the points must be found; nil: any where all up to entry durable happened.
func (r *Recovery) check(ctx context.Context, mems []*blockdev.Memory, durable uint64, points []int, rng *rand.Rand, depth int) error {
	r.Tried.Add(1)
	got, err := r.look(ctx, DevicesOf(mems), durable, false)
	if err != nil {
		return fmt.Errorf("before recovery: %w", err)
	}
	if points != nil && !slices.Equal(points, got) {
		return fmt.Errorf("was at entry %d, now it is at entry %d", r.Timeline.Points[points[0]].Seq, r.Timeline.Points[got[0]].Seq)
	}
	var log *blockdev.Log
	devs := DevicesOf(mems)
	if r.Nested > 0 && depth < maxDepth && rng.IntN(r.Nested) == 0 {
		log = blockdev.NewLog()
		devs = Record(log, mems)
	}
	rw, err := OpenRW(ctx, devs, r.Write, nil)
	if err != nil {
		return err
	}
	if err := rw.Close(ctx); err != nil {
		return fmt.Errorf("closing: %w", err)
	}
	after, err := r.look(ctx, devs, durable, true)
	if err != nil {
		return fmt.Errorf("after recovery: %w", err)
	}
	if !slices.Equal(got, after) {
		return fmt.Errorf("recovery went from entry %d to %d", r.Timeline.Points[got[0]].Seq, r.Timeline.Points[after[0]].Seq)
	}
	if log == nil {
		return nil
	}
	for range r.NestedStates {
		at := rng.IntN(log.Ticks() + 1)
		keep := []blockdev.Keep{blockdev.KeepAll, blockdev.KeepNone, blockdev.KeepRandom(rng)}[rng.IntN(3)]
		if err := r.check(ctx, log.Crash(at, keep), durable, got, rng, depth+1); err != nil {
			return fmt.Errorf("power cut at tick %d of %d of the recovery: %w", at, log.Ticks(), err)
		}
	}
	return nil
}

// look reads a filesystem and returns where in the timeline it is.
func (r *Recovery) look(ctx context.Context, devs []blockdev.Device, durable uint64, fsck bool) ([]int, error) {
	fs, err := Open(ctx, devs, nil)
	if err != nil {
		return nil, err
	}
	defer fs.Close()
	c, err := Read(ctx, fs)
	if err != nil {
		return nil, err
	}
	at, err := r.Timeline.Match(c, durable)
	if err == nil && fsck {
		err = Fsck(ctx, fs)
	}
	return at, err
}
