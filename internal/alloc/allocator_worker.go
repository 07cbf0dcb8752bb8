package alloc

import (
	"context"
	"errors"
	"math"
	"sync"
	"time"
)

// worker runs rounds of something that makes buckets free, in one goroutine. Its methods are safe for concurrent use.
type worker struct {
	name  string
	a     *Allocator
	round func(ctx context.Context, urgent bool) (int, error)
	rank  int // requests within a round wait for workers of lower ranks only

	mu       sync.Mutex
	started  uint64 // rounds begun
	finished uint64
	running  bool
	cancel   context.CancelFunc
	done     chan struct{}
	kicked   chan struct{}

	rounds, progress, errors counter
}

// pause is the least time between two rounds as long as nobody waits, so that a storm of small changes makes few of them.
const pause = 20 * time.Millisecond

func newWorker(name string, a *Allocator, round func(ctx context.Context, urgent bool) (int, error)) *worker {
	return &worker{name: name, a: a, round: round, kicked: make(chan struct{}, 1), rank: math.MaxInt}
}

type rankKey struct{}

// rankOf returns the rank of the worker in whose round a request is made; for others it is above all.
func rankOf(ctx context.Context) int {
	if rank, ok := ctx.Value(rankKey{}).(int); ok {
		return rank
	}
	return math.MaxInt
}

// active reports whether the worker runs.
func (w *worker) active() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.running
}

func (w *worker) start(ctx context.Context) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.running {
		return
	}
	ctx, w.cancel = context.WithCancel(context.WithValue(ctx, rankKey{}, w.rank))
	w.running = true
	w.done = make(chan struct{})
	go w.run(ctx, w.done)
}

// stop ends the worker and waits for it.
func (w *worker) stop() {
	w.mu.Lock()
	cancel, done := w.cancel, w.done
	w.mu.Unlock()
	if cancel == nil {
		return
	}
	cancel()
	<-done
}

func (w *worker) run(ctx context.Context, done chan struct{}) {
	defer func() {
		w.mu.Lock()
		w.running = false
		w.mu.Unlock()
		w.a.freed.signal(false) // whoever waits for a round waits in vain
		close(done)
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.kicked:
		}
		w.one(ctx)
		if !w.a.freed.waiting() {
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
		}
	}
}

func (w *worker) one(ctx context.Context) {
	w.mu.Lock()
	w.started++
	w.mu.Unlock()
	n, err := w.round(ctx, w.a.freed.waiting())
	w.rounds.Add(1)
	w.progress.Add(int64(n))
	if err != nil && !errors.Is(err, context.Canceled) {
		w.errors.Add(1)
		w.a.cfg.Logf("%s: %v", w.name, err)
	}
	w.mu.Lock()
	w.finished = w.started
	w.mu.Unlock()
	w.a.freed.signal(false)
}

// kick asks for a round. It never blocks.
func (w *worker) kick() {
	select {
	case w.kicked <- struct{}{}:
	default:
	}
}

// ticket stands for a round that begins after it was asked for.
type ticket struct {
	w        *worker
	n        uint64
	progress int64 // of the worker before
}

// request asks for a round that begins from now on; ok is false if the worker does not run.
func (w *worker) request() (t ticket, ok bool) {
	w.mu.Lock()
	t, ok = ticket{w, w.started + 1, w.progress.Load()}, w.running
	w.mu.Unlock()
	if ok {
		w.kick()
	}
	return t, ok
}

// helped tells whether the worker got anything done since the ticket was got.
func (t ticket) helped() bool { return t.w.progress.Load() != t.progress }

// done tells whether the round is over, or will not come because the worker has ended.
func (t ticket) done() bool {
	t.w.mu.Lock()
	defer t.w.mu.Unlock()
	return !t.w.running || t.w.finished >= t.n
}
