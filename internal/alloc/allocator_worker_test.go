package alloc

import (
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// TestWorkers: rounds that were asked for come, one at a time; stopping ends the goroutine; what is asked afterwards is not promised.
func TestWorkers(t *testing.T) {
	a, _ := newTestAllocator(t, testConfig{devs: []testDevice{{buckets: 64, size: 64}}})
	var running, rounds atomic.Int32
	w := newWorker("test", a, func(context.Context, bool) (int, error) {
		if running.Add(1) != 1 {
			t.Error("two rounds at once")
		}
		time.Sleep(time.Millisecond)
		running.Add(-1)
		rounds.Add(1)
		return 2, errors.New("always")
	})
	if _, ok := w.request(); ok {
		t.Error("a worker that does not run gave a ticket")
	}
	w.stop() // of what was never started
	before := runtime.NumGoroutine()
	w.start(t.Context())
	w.start(t.Context())
	for range 3 {
		tk, ok := w.request()
		if !ok {
			t.Fatal("no ticket")
		}
		had := rounds.Load()
		if err := a.freed.wait(t.Context(), func(uint64) bool { return tk.done() }); err != nil {
			t.Fatal(err)
		}
		if rounds.Load() == had {
			t.Error("the round did not come")
		}
	}
	tk, _ := w.request()
	w.stop()
	w.stop()
	if !tk.done() {
		t.Error("a ticket of a worker that has ended is waited for")
	}
	until(t, func() bool { return runtime.NumGoroutine() <= before })
	if w.errors.Load() < 3 || w.progress.Load() != 2*w.rounds.Load() {
		t.Errorf("%d errors, %d progress in %d rounds", w.errors.Load(), w.progress.Load(), w.rounds.Load())
	}
}

// TestStopEndsWaiting: nobody waits for workers that have ended.
func TestStopEndsWaiting(t *testing.T) {
	a, _ := newTestAllocator(t, testConfig{devs: []testDevice{{buckets: 64, size: 64}}})
	a.AddReclaimer("slow", func(ctx context.Context, _ bool) (int, error) {
		<-ctx.Done()
		return 0, ctx.Err()
	})
	a.Start(t.Context())
	req := userRequest(64)
	req.Watermark = WatermarkBtreeCopygc
	for range 64 {
		if err := a.AllocSectors(t.Context(), req, new(Allocation)); err != nil {
			t.Fatal(err)
		}
	}
	got := make(chan error, 1)
	go func() { got <- a.AllocSectors(t.Context(), req, new(Allocation)) }()
	until(t, a.freed.waiting)
	a.Stop()
	if err := <-got; !errors.Is(err, ErrNoSpace) {
		t.Errorf("got %v", err)
	}
	if s := a.Stats(); len(s.Workers) != 2 || s.Workers[0].Running || s.Waited != 1 || s.Opened != 64 {
		t.Errorf("%+v", s)
	}
}

// TestDiscardsAreLimited: without hurry so many a second, if somebody waits all at once.
func TestDiscardsAreLimited(t *testing.T) {
	a, e := newTestAllocator(t, testConfig{devs: []testDevice{{buckets: 200, size: 64}}, cfg: Config{DiscardsPerSecond: 20}})
	ctx := t.Context()
	empty := func(from uint64) {
		for i := from; i < from+5; i++ {
			var al Allocation
			if err := a.AllocSectors(ctx, userRequest(64), &al); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(e.commit(ctx, 1, i*64, &al)); err != nil {
				t.Fatal(err)
			}
			al.Done(ctx)
			if err := e.remove(ctx, 1, i*64); err != nil {
				t.Fatal(err)
			}
		}
	}
	empty(1)
	begin := time.Now()
	if n, err := a.DiscardRound(ctx, false); n != 5 || err != nil {
		t.Fatal(n, err)
	}
	if took := time.Since(begin); took < 200*time.Millisecond {
		t.Errorf("5 discards took %v", took)
	}
	empty(10)
	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	if n, err := a.DiscardRound(short, false); n == 5 || !errors.Is(err, context.DeadlineExceeded) {
		t.Error(n, err)
	}
	begin = time.Now()
	if n, err := a.DiscardRound(ctx, true); n == 0 || err != nil || time.Since(begin) > 150*time.Millisecond {
		t.Error(n, err, time.Since(begin))
	}
	if err := e.check(a); err != nil {
		t.Error(err)
	}
}

func TestNewRefuses(t *testing.T) {
	e := &testEngine{fs: NewFakeFS()}
	for _, cfg := range []Config{{}, {Engine: e}, {Usage: e}, {Engine: e, Usage: e, OpenBuckets: 1}, {Engine: e, Usage: e, OpenBuckets: 1 << 20}} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%+v: no error", cfg)
		}
	}
	if got := (FaultNoRecheck | FaultNoTripwire).String(); got != "no-recheck,no-tripwire" {
		t.Error(got)
	}
}

func TestJournalWait(t *testing.T) {
	var w journalWait
	if w.get(1) != 0 || w.flushTo(3) != 3 {
		t.Error("empty")
	}
	for id := range uint64(1000) {
		w.set(id+1, id+10, id)
		if w.get(id+1) != id+10 {
			t.Fatal("lost")
		}
	}
	if len(w.seqs) > 200 { // what is durable is forgotten sooner or later
		t.Errorf("%d entries", len(w.seqs))
	}
	if w.flushTo(5) != 1009 || w.flushTo(2000) != 2000 {
		t.Error(w.flushTo(5))
	}
}

// TestReclaimerWaitsForOthers: what a reclaimer allocates itself waits for those before it, but never for itself; who waits for it goes on as long as it
// gains something.
func TestReclaimerWaitsForOthers(t *testing.T) {
	a, e := newTestAllocator(t, testConfig{devs: []testDevice{{buckets: 64, size: 64}}})
	req := userRequest(64)
	req.Watermark = WatermarkBtreeCopygc
	held := make([]Allocation, 64)
	var rounds, failed atomic.Int32
	kick := a.AddReclaimer("mover", func(ctx context.Context, urgent bool) (int, error) {
		n := rounds.Add(1)
		if n > 3 {
			return 0, nil // there is space then, which the other one has not taken yet
		}
		if err := a.AllocSectors(ctx, req, new(Allocation)); !errors.Is(err, ErrNoSpace) {
			t.Errorf("round %d got space where there is none: %v", n, err)
		}
		failed.Add(1)
		switch {
		case n < 3:
			return 1, nil // a gain that nobody sees yet
		case n == 3:
			if err := e.remove(ctx, 1, 1*64); err != nil { // it needs a discard, by the one before
				t.Error(err)
			}
			held[0].Done(ctx)
		}
		return 1, nil
	})
	for i := range held {
		if err := a.AllocSectors(t.Context(), req, &held[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.commit(t.Context(), 1, 64, &held[0]); err != nil {
		t.Fatal(err)
	}
	a.Start(t.Context())
	defer a.Stop()
	var al Allocation
	if err := a.AllocSectors(t.Context(), req, &al); err != nil {
		t.Fatalf("after %d rounds: %v", rounds.Load(), err)
	}
	if n := rounds.Load(); n < 3 || failed.Load() < 3 {
		t.Errorf("%d rounds, %d failed requests", n, failed.Load())
	}
	before := rounds.Load()
	kick()
	until(t, func() bool { return rounds.Load() > before })
}

// TestBusyBucket: a bucket that somebody writes to in place is not handed out.
func TestBusyBucket(t *testing.T) {
	busy := ondisk.Bucket(17)
	a, _ := newTestAllocator(t, testConfig{devs: []testDevice{{buckets: 64, size: 64}},
		cfg: Config{Busy: func(dev uint8, b ondisk.Bucket) bool { return dev == 0 && b == busy }}})
	req := userRequest(64)
	req.Watermark = WatermarkBtreeCopygc
	for i := range 64 {
		var al Allocation
		err := a.AllocSectors(t.Context(), req, &al)
		if i == 63 {
			if !errors.Is(err, ErrNoSpace) {
				t.Errorf("the busy bucket: %v", err)
			}
			busy = 0
			err = a.AllocSectors(t.Context(), req, &al)
		}
		if err != nil {
			t.Fatal(i, err)
		}
		if b := ondisk.Bucket(al.Ptrs()[0].Offset / 64); b == 17 != (i == 63) {
			t.Errorf("request %d got bucket %d", i, b)
		}
	}
}

// TestRoundsKnowOfWaiters: a round that a request asks for knows that somebody waits, however soon it begins.
func TestRoundsKnowOfWaiters(t *testing.T) {
	a, _ := newTestAllocator(t, testConfig{devs: []testDevice{{buckets: 64, size: 64}}})
	urgent := make(chan bool, 1)
	a.AddReclaimer("first", func(_ context.Context, u bool) (int, error) { urgent <- u; return 0, nil })
	a.AddReclaimer("second", func(context.Context, bool) (int, error) { return 0, nil })
	req := userRequest(64)
	req.Watermark = WatermarkBtreeCopygc
	for range 64 {
		if err := a.AllocSectors(t.Context(), req, new(Allocation)); err != nil {
			t.Fatal(err)
		}
	}
	a.Start(t.Context())
	defer a.Stop()
	a.extra[1].mu.Lock() // the request goes on only after the first has made its round
	got := make(chan error, 1)
	go func() { got <- a.AllocSectors(t.Context(), req, new(Allocation)) }()
	if !<-urgent {
		t.Error("the round knew of nobody who waits")
	}
	a.extra[1].mu.Unlock()
	if err := <-got; !errors.Is(err, ErrNoSpace) {
		t.Error(err)
	}
}
