package alloc

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// oracle knows whose each sector is.
type oracle struct {
	mu     sync.Mutex
	owners map[uint8][]int // by device and sector; 0: nobody's
}

// take makes sectors somebody's, or says who has them.
func (o *oracle) take(al *Allocation, owner int) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, p := range al.Ptrs() {
		for i := range al.Sectors {
			s := uint64(p.Offset) + uint64(i)
			if was := o.owners[p.Dev][s]; was != 0 {
				return fmt.Errorf("device %d sector %d is %d's and becomes %d's", p.Dev, s, was, owner)
			}
			o.owners[p.Dev][s] = owner
		}
	}
	return nil
}

func (o *oracle) give(ptrs []ondisk.ExtentPtr, sectors uint32) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, p := range ptrs {
		clear(o.owners[p.Dev][p.Offset:][:sectors])
	}
}

// TestManyTasks has tasks allocate, write, commit, release and delete, while buckets are discarded, invalidated and looked through. No
// sector ever has two owners, and in the end all counters and indexes agree with the alloc keys.
func TestManyTasks(t *testing.T) {
	each(t, func(t *testing.T, early bool) {
		_, dup := manyTasks(t, early, 0, 400*time.Millisecond)
		if dup != nil {
			t.Error(dup)
		}
	})
}

// TestManyTasksFindsFaults: the same finds each fault that gives a bucket two owners.
func TestManyTasksFindsFaults(t *testing.T) {
	for _, tt := range []struct {
		fault Fault
		early bool
	}{{FaultNoRecheck, true}, {FaultNoSlotLock, true}, {FaultNoSlotLock, false}, {FaultEarlyRelease, false}, {FaultEarlyRelease, true}} {
		t.Run(fmt.Sprintf("%v early=%v", tt.fault, tt.early), func(t *testing.T) {
			var dup error
			for end := time.Now().Add(20 * time.Second); dup == nil && time.Now().Before(end); {
				_, dup = manyTasks(t, tt.early, tt.fault|FaultNoTripwire, time.Second)
			}
			if dup == nil {
				t.Error("nothing was found")
			}
		})
	}
}

func manyTasks(t *testing.T, early bool, fault Fault, long time.Duration) (allocations int64, dup error) {
	t.Helper()
	const size = 16
	hook := func(context.Context, Point, uint8, ondisk.Bucket) {
		if rand.IntN(8) == 0 { // let others in between
			time.Sleep(time.Duration(rand.IntN(50)) * time.Microsecond)
		}
	}
	a, e := newTestAllocator(t, testConfig{
		devs:    []testDevice{{buckets: 96, size: size, early: early}, {buckets: 128, size: size, early: early, first: 3}},
		cfg:     Config{Hook: hook, NodeSectors: size},
		manual:  true,
		options: []Option{WithFaults(fault)}})
	o := oracle{owners: map[uint8][]int{0: make([]int, 96*size), 1: make([]int, 128*size)}}
	ctx, cancel := context.WithTimeout(t.Context(), long)
	defer cancel()
	a.Start(t.Context())
	defer a.Stop()

	var first atomic.Pointer[error]
	fail := func(err error) {
		if err != nil && ctx.Err() == nil {
			first.CompareAndSwap(nil, &err)
			cancel()
		}
	}
	var wg sync.WaitGroup
	var n atomic.Int64
	for i := range 6 {
		wg.Go(func() {
			w := modelTask{a: a, e: e, o: &o, id: i + 1, rnd: rand.New(rand.NewPCG(uint64(i), uint64(long)))}
			for ctx.Err() == nil {
				fail(w.step(ctx))
			}
			n.Add(w.done)
			for len(w.live) > 0 {
				if err := w.remove(t.Context(), len(w.live)-1); err != nil {
					first.CompareAndSwap(nil, &err)
					return
				}
			}
		})
	}
	wg.Go(func() {
		for ctx.Err() == nil {
			_, err := a.DiscardRound(ctx, rand.IntN(2) == 0)
			fail(err)
			if rand.IntN(4) == 0 {
				_, err = a.GCGens(ctx)
				fail(err)
			}
			time.Sleep(time.Millisecond)
		}
	})
	wg.Wait()
	if p := first.Load(); p != nil {
		return n.Load(), *p
	}
	a.Stop() // what the worker is at is not counted yet
	a.leaveAll(t.Context())
	a.dropPartial(t.Context(), 1000)
	if a.OpenCount() != 0 {
		t.Errorf("open in the end: %+v", a.OpenBuckets())
	}
	if _, err := a.DiscardRound(t.Context(), true); err != nil {
		t.Error(err)
	}
	for i := range e.counts[:2] {
		if d := a.DevSpace(uint8(i)); e.counts[i][ondisk.DataFree].Load() != int64(d.NBuckets-d.FirstBucket) || d.opened.Load() != 0 {
			t.Errorf("device %d: %d free, %d open", i, e.counts[i][ondisk.DataFree].Load(), d.opened.Load())
		}
	}
	if err := e.check(a); err != nil {
		t.Error(err)
	}
	if fault == 0 && n.Load() < 10 {
		t.Errorf("only %d allocations", n.Load())
	}
	return n.Load(), nil
}

// modelEngine is what tasks do with what they got.
type modelEngine interface {
	commit(ctx context.Context, inode, end uint64, al *Allocation) error
	remove(ctx context.Context, inode, end uint64) error
}

// modelTask is one task of the model.
type modelTask struct {
	a    *Allocator
	e    modelEngine
	o    *oracle
	id   int
	rnd  *rand.Rand
	end  uint64
	live []modelExtent
	done int64
}

type modelExtent struct {
	end     uint64
	sectors uint32
	ptrs    []ondisk.ExtentPtr
}

func (w *modelTask) step(ctx context.Context) error {
	if len(w.live) > 8 || len(w.live) > 0 && w.rnd.IntN(3) == 0 {
		return w.remove(ctx, w.rnd.IntN(len(w.live)))
	}
	req := userRequest(1 + w.rnd.Uint32N(16))
	req.WritePoint = WritePoint(w.id / 2)
	req.Replicas = 1 + w.rnd.IntN(2)
	req.Required = 1
	req.Watermark = Watermark(w.rnd.IntN(4))
	req.Nonblocking = w.rnd.IntN(4) == 0
	var al Allocation
	err := w.a.AllocSectors(ctx, req, &al)
	if errors.Is(err, ErrNoSpace) {
		if len(w.live) > 0 {
			return w.remove(ctx, 0)
		}
		return nil
	}
	if err != nil {
		return err
	}
	w.done++
	defer al.Done(ctx)
	if err := w.o.take(&al, w.id); err != nil {
		return err
	}
	if w.rnd.IntN(8) == 0 { // the write failed
		w.o.give(al.Ptrs(), al.Sectors)
		return nil
	}
	w.end += 64
	if err := w.e.commit(ctx, uint64(w.id), w.end, &al); err != nil {
		w.o.give(al.Ptrs(), al.Sectors) // nothing was committed
		return err
	}
	w.live = append(w.live, modelExtent{w.end, al.Sectors, append([]ondisk.ExtentPtr(nil), al.Ptrs()...)})
	return nil
}

func (w *modelTask) remove(ctx context.Context, i int) error {
	x := w.live[i]
	w.o.give(x.ptrs, x.sectors)
	if err := w.e.remove(ctx, uint64(w.id), x.end); err != nil {
		if ctx.Err() != nil {
			// It is still there, so that its sectors must stay its.
			al := Allocation{n: len(x.ptrs), Sectors: x.sectors}
			copy(al.ptrs[:], x.ptrs)
			return w.o.take(&al, w.id)
		}
		return err
	}
	w.live = append(w.live[:i], w.live[i+1:]...)
	return nil
}

// bucketOp is an operation on a bucket as an observer sees it.
type bucketOp struct {
	kind   string // claim, commit, close, free, open?
	bucket ondisk.Bucket
}

// bucketState is what the model of a bucket remembers.
type bucketState struct {
	open, used bool
	gen        uint8
}

// bucketModel says what may happen to a bucket: it is claimed only if free, with its generation; and becomes free again only by being
// closed unused, or by being emptied, which raises the generation.
var bucketModel = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		by := map[ondisk.Bucket][]porcupine.Operation{}
		for _, op := range history {
			b := op.Input.(bucketOp).bucket
			by[b] = append(by[b], op)
		}
		var parts [][]porcupine.Operation
		for _, p := range by {
			parts = append(parts, p)
		}
		return parts
	},
	Init: func() any { return bucketState{} },
	Step: func(state, input, output any) (bool, any) {
		s := state.(bucketState)
		switch input.(bucketOp).kind {
		case "claim":
			ok := !s.open && !s.used && s.gen == output.(uint8)
			s.open = true
			return ok, s
		case "commit":
			ok := s.open && !s.used
			s.used = true
			return ok, s
		case "close":
			ok := s.open
			s.open = false
			return ok, s
		case "free":
			ok := !s.open && s.used
			s.used = false
			s.gen++
			return ok, s
		}
		return s.open == output.(bool), s
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v -> %v", input, output) },
}

// TestClaimsAreLinearizable records when operations on buckets began and ended, and has it checked that there is an order of them, one after
// the other, that makes sense.
func TestClaimsAreLinearizable(t *testing.T) {
	each(t, func(t *testing.T, early bool) {
		if res := recordHistory(t, early, 0); res != porcupine.Ok {
			t.Errorf("history is not linearizable: %v", res)
		}
	})
	t.Run("with a fault", func(t *testing.T) {
		for range 200 {
			if recordHistory(t, true, FaultNoRecheck|FaultNoTripwire) == porcupine.Illegal {
				return
			}
		}
		t.Error("the fault was not found")
	})
}

func recordHistory(t *testing.T, early bool, fault Fault) porcupine.CheckResult {
	t.Helper()
	hook := func(context.Context, Point, uint8, ondisk.Bucket) {
		if rand.IntN(4) == 0 {
			time.Sleep(time.Duration(rand.IntN(100)) * time.Microsecond)
		}
	}
	a, e := newTestAllocator(t, testConfig{devs: []testDevice{{buckets: 24, size: 16, early: early}}, cfg: Config{Hook: hook, NodeSectors: 16},
		options: []Option{WithFaults(fault)}})
	begin := time.Now()
	var mu sync.Mutex
	var history []porcupine.Operation
	record := func(client int, op bucketOp, call time.Duration, out any) {
		mu.Lock()
		defer mu.Unlock()
		history = append(history, porcupine.Operation{ClientId: client, Input: op, Call: call.Nanoseconds(), Output: out,
			Return: time.Since(begin).Nanoseconds()})
	}
	var discards sync.Mutex // so that a bucket is free by the end of the operation that freed it
	var wg sync.WaitGroup
	for c := range 4 {
		wg.Go(func() {
			ctx := t.Context()
			for i := range uint64(25) {
				call := time.Since(begin)
				req := userRequest(16)
				req.Watermark, req.WritePoint, req.Nonblocking = WatermarkReclaim, WritePoint(c), true
				var al Allocation
				if err := a.AllocSectors(ctx, req, &al); err != nil {
					continue
				}
				p := al.Ptrs()[0]
				b := ondisk.Bucket(p.Offset / 16)
				record(c, bucketOp{"claim", b}, call, p.Gen)

				if call = time.Since(begin); i%4 != 0 {
					if err := e.commit(ctx, uint64(c+1), 64*(i+1), &al); err != nil {
						al.Done(ctx) // what was written is lost, but nobody else's
						return
					}
					record(c, bucketOp{"commit", b}, call, nil)
				}
				call = time.Since(begin)
				al.Done(ctx)
				record(c, bucketOp{"close", b}, call, nil)
				for range 2 {
					other := ondisk.Bucket(rand.IntN(24))
					call = time.Since(begin)
					record(c, bucketOp{"open?", other}, call, a.IsOpen(0, other))
				}
				if i%4 != 0 {
					call = time.Since(begin)
					discards.Lock()
					err := e.remove(ctx, uint64(c+1), 64*(i+1))
					if err == nil {
						_, err = a.DiscardRound(ctx, false)
					}
					discards.Unlock()
					if err != nil {
						return
					}
					record(c, bucketOp{"free", b}, call, nil)
				}
			}
		})
	}
	wg.Wait()
	if fault == 0 && len(history) < 200 {
		t.Errorf("only %d operations", len(history))
	}
	res, _ := porcupine.CheckOperationsVerbose(bucketModel, history, 10*time.Second)
	return res
}
