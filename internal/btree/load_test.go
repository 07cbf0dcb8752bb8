package btree

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// traffic counts the reads of a device: all, those that began while another was in progress, and the most at a time.
type traffic struct {
	mu                         sync.Mutex
	now, reads, overlaps, most int
}

// slow returns a device that takes its time for each read.
func (tr *traffic) slow(d blockdev.Device, latency time.Duration) blockdev.Device {
	return blockdev.NewDelayer(d, func(ctx context.Context, _ blockdev.Op, _, _ int64) error {
		tr.mu.Lock()
		tr.reads++
		if tr.now > 0 {
			tr.overlaps++
		}
		tr.now++
		tr.most = max(tr.most, tr.now)
		tr.mu.Unlock()
		time.Sleep(latency)
		tr.mu.Lock()
		tr.now--
		tr.mu.Unlock()
		return ctx.Err()
	})
}

// A walk reads nodes ahead: most reads overlap others, and no node is read twice for that.
func TestPrefetchOverlaps(t *testing.T) {
	const leaves = 400
	tt := newTestTree(t, 1)
	keys := someKeys(leaves * 10)
	tt.build(testID, keys, 10, leaves)
	var tr traffic
	dev := tr.slow(tt.devs[0], time.Millisecond)
	r := tt.reader(func(c *Config) { c.Device = func(uint8) blockdev.Device { return dev } })
	got, damage := collect(t, r, testID, ondisk.PosMin, ondisk.SPosMax)
	if len(got) != len(keys) || damage != nil {
		t.Fatalf("%d keys, want %d; damage %v", len(got), len(keys), damage)
	}
	if tr.reads != leaves+1 {
		t.Errorf("%d reads for %d nodes", tr.reads, leaves+1)
	}
	if tr.overlaps < leaves*9/10 || tr.most < maxPrefetches {
		t.Errorf("%d of %d reads began during another, at most %d at a time; want nearly all, and %d", tr.overlaps, tr.reads,
			tr.most, maxPrefetches)
	}
}

// Who asks for one key reads the nodes above it and no other; who stops at once reads no leaf ahead.
func TestLookupReadsNoSiblings(t *testing.T) {
	tt := newTestTree(t, 1)
	keys := someKeys(1000)
	tt.build(testID, keys, 10, 100)
	var tr traffic
	dev := tr.slow(tt.devs[0], 0)
	r := tt.reader(func(c *Config) { c.Device = func(uint8) blockdev.Device { return dev } })
	if _, ok, err := r.Get(ctx, testID, keys[500].Pos); !ok || err != nil {
		t.Fatal(ok, err)
	}
	for range r.Keys(ctx, testID, keys[700].Pos, ondisk.SPosMax) {
		break
	}
	r.Close()
	if tr.reads != 3 {
		t.Errorf("%d reads for the root and two leaves", tr.reads)
	}
}

// Nodes are decoded once, however often keys are looked up in them.
func TestDecodesOnce(t *testing.T) {
	tt := newTestTree(t, 1)
	keys := someKeys(5000)
	tt.build(testID, keys, 50, 10)
	r := tt.reader(nil)
	for seed := range uint64(3) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		for range 2 * len(keys) {
			k := keys[rnd.IntN(len(keys))]
			if _, ok, err := r.Lookup(ctx, testID, k.Pos); !ok || err != nil {
				t.Fatal(k.Pos, ok, err)
			}
		}
		for range r.Keys(ctx, testID, ondisk.PosMin, ondisk.SPosMax) {
		}
		if s := r.Stats(); s.Misses != int64(len(tt.nodes)) {
			t.Fatalf("%d nodes were decoded %d times", len(tt.nodes), s.Misses)
		}
	}
}

// Walks with a budget of a few nodes decode each node once or nearly so: what is read ahead is still there when it is needed,
// and the nodes above the leaves stay.
func TestSmallBudgetWalk(t *testing.T) {
	tt := newTestTree(t, 1)
	keys := someKeys(40000)
	tt.build(testID, keys, 1000, 10)
	for _, nodes := range []int64{2, 4, 8, 16} {
		r := tt.reader(nil)
		collect(t, r, testID, ondisk.PosMin, ondisk.SPosMax)
		budget := nodes * r.Stats().BiggestNode
		r = tt.reader(func(c *Config) { c.CacheBytes = budget })
		n := 0
		for _, err := range r.Keys(ctx, testID, ondisk.PosMin, ondisk.SPosMax) {
			if err != nil {
				t.Fatal(err)
			}
			n++
			if s := r.Stats(); s.Bytes > budget {
				t.Fatalf("budget %d: %d bytes held", budget, s.Bytes)
			}
		}
		r.Close()
		if s := r.Stats(); n != len(keys) || s.Misses > int64(len(tt.nodes))*5/4 {
			t.Errorf("budget of %d nodes: %d keys, %d nodes decoded %d times", nodes, n, len(tt.nodes), s.Misses)
		}
	}
}

// gate is a device whose reads wait until it opens or their context ends.
type gate struct {
	blockdev.Device
	open    chan struct{}
	waiting atomic.Int32
}

func newGate(d blockdev.Device) *gate { return &gate{Device: d, open: make(chan struct{})} }

func (g *gate) ReadAt(ctx context.Context, p []byte, off int64) error {
	g.waiting.Add(1)
	defer g.waiting.Add(-1)
	select {
	case <-g.open:
		return g.Device.ReadAt(ctx, p, off)
	case <-ctx.Done():
		return &blockdev.IOError{Op: blockdev.OpRead, Device: g.Name(), Offset: off, Err: ctx.Err()}
	}
}

// eventually waits for something that must come soon.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for range 5000 {
		if done() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("%s: does not happen", what)
}

// Of two that wait for one node, either may give up: that concerns nobody else, and it returns at once.
func TestGivingUpOnANode(t *testing.T) {
	for _, tc := range []struct {
		name  string
		first bool // who gives up: the one who reads, or the one who waits for that
	}{{"reader", true}, {"waiter", false}} {
		t.Run(tc.name, func(t *testing.T) {
			tt := newTestTree(t, 1)
			keys := someKeys(10)
			tt.build(testID, keys, 20, 10)
			g := newGate(tt.devs[0])
			r := tt.reader(func(c *Config) { c.Device = func(uint8) blockdev.Device { return g } })
			get := func(ctx context.Context) chan error {
				done := make(chan error, 1)
				go func() {
					_, ok, err := r.Get(ctx, testID, keys[3].Pos)
					if err == nil && !ok {
						err = errors.New("no such key")
					}
					done <- err
				}()
				return done
			}
			giveUp, cancel := context.WithCancel(ctx)
			defer cancel()
			ctxs := []context.Context{ctx, giveUp}
			if tc.first {
				ctxs = []context.Context{giveUp, ctx}
			}
			first := get(ctxs[0])
			eventually(t, "the first reads", func() bool { return g.waiting.Load() == 1 })
			second := get(ctxs[1])
			eventually(t, "the second waits", func() bool { return waitsInCache() >= 1 })
			cancel()
			quitter, stayer := second, first
			if tc.first {
				quitter, stayer = first, second
			}
			if err := <-quitter; !errors.Is(err, context.Canceled) {
				t.Errorf("who gave up: %v", err)
			}
			select {
			case err := <-stayer:
				t.Fatalf("the other one came back too: %v", err)
			default:
			}
			eventually(t, "the other one reads", func() bool { return g.waiting.Load() == 1 })
			close(g.open)
			if err := <-stayer; err != nil {
				t.Errorf("the other one: %v", err)
			}
		})
	}
}

// waitsInCache counts the goroutines that wait in cache.get for others' reads.
func waitsInCache() (n int) {
	buf := make([]byte, 1<<20)
	buf = buf[:runtime.Stack(buf, true)]
	for _, g := range splitStacks(string(buf)) {
		if containsAll(g, "[select", "btree.(*cache).get(") && !containsAll(g, "(*gate).ReadAt") {
			n++
		}
	}
	return n
}

// A walk that is stopped early leaves no goroutine behind once the reader is closed, and nothing pinned.
func TestStoppedWalks(t *testing.T) {
	before := runtime.NumGoroutine()
	tt := newTestTree(t, 1)
	keys := someKeys(2000)
	tt.build(testID, keys, 10, 20)
	for stop := 1; stop < 200; stop += 13 {
		var tr traffic
		dev := tr.slow(tt.devs[0], 100*time.Microsecond)
		r := NewReader(func() Config {
			c := tt.config()
			c.Device = func(uint8) blockdev.Device { return dev }
			return c
		}())
		n := 0
		for range r.Keys(ctx, testID, ondisk.PosMin, ondisk.SPosMax) {
			if n++; n == stop {
				break
			}
		}
		r.Close()
		if s := r.Stats(); s.Pinned != 0 || s.InFlight != 0 {
			t.Errorf("stopped after %d keys: %+v", stop, s)
		}
	}
	eventually(t, "goroutines end", func() bool { return runtime.NumGoroutine() <= before })
}

// Close ends reads ahead that hang in the device.
func TestCloseDuringPrefetch(t *testing.T) {
	tt := newTestTree(t, 1)
	keys := someKeys(400)
	tt.build(testID, keys, 10, 100)
	hang := make(chan struct{})
	reads := 0
	dev := blockdev.NewDelayer(tt.devs[0], func(ctx context.Context, _ blockdev.Op, _, _ int64) error {
		tt.mu.Lock()
		reads++
		n := reads
		tt.mu.Unlock()
		if n > 3 { // the root and the two first leaves pass
			select {
			case <-hang:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	r := tt.reader(func(c *Config) { c.Device = func(uint8) blockdev.Device { return dev } })
	n := 0
	for range r.Keys(ctx, testID, ondisk.PosMin, ondisk.SPosMax) {
		if n++; n == 11 {
			break
		}
	}
	if s := r.Stats(); s.InFlight == 0 {
		t.Error("nothing is read ahead")
	}
	done := make(chan struct{})
	go func() { r.Close(); close(done) }()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("Close hangs")
	}
}

// A read error that a device may not have next time is not remembered; damage is.
func TestErrorsRemembered(t *testing.T) {
	tt := newTestTree(t, 1)
	keys := someKeys(100)
	tt.build(testID, keys, 20, 10)
	f := blockdev.NewFaulter(tt.devs[0])
	r := tt.reader(func(c *Config) { c.Device = func(uint8) blockdev.Device { return f } })
	f.SetRules(blockdev.Rule{Ops: blockdev.OpRead})
	if _, _, err := r.Get(ctx, testID, keys[3].Pos); !errors.Is(err, blockdev.ErrFault) {
		t.Errorf("device fails: %v", err)
	}
	f.SetRules()
	if _, ok, err := r.Get(ctx, testID, keys[3].Pos); !ok || err != nil {
		t.Errorf("device works again: %v, %v", ok, err)
	}
	tt.smash(3, 0)
	for range 3 {
		if _, _, err := r.Get(ctx, testID, keys[50].Pos); !errors.Is(err, ondisk.ErrChecksum) {
			t.Errorf("damaged: %v", err)
		}
	}
	if s := r.Stats(); s.Failed != 1 || s.Misses != 4 {
		t.Errorf("cache: %+v, want one failed entry and 4 reads", s)
	}
}

// What the cache says it holds is what the memory holds.
func TestMemoryIsWhatIsCounted(t *testing.T) {
	tt := newTestTree(t, 1)
	keys := someKeys(300000)
	tt.build(testID, keys, 1000, 20)
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	r := tt.reader(nil)
	before := heap()
	for range r.Keys(ctx, testID, ondisk.PosMin, ondisk.SPosMax) {
	}
	grown, counted := heap()-before, r.Stats().Bytes
	if grown > counted*5/4+1<<20 || counted < 1<<20 {
		t.Errorf("%d bytes counted, the heap grew by %d", counted, grown)
	}
	runtime.KeepAlive(fmt.Sprint(tt.devs, keys[0]))
}
