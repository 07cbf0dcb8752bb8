package alloc

import (
	"context"
	"sync"
	"sync/atomic"
)

// event tells waiting tasks that space may have become free. It is safe for concurrent use.
type event struct {
	freed atomic.Uint64 // counts what became free

	mu      sync.Mutex
	waiters int
	ch      chan struct{} // closed at the next signal; nil if nobody waits
}

// generation changes whenever something becomes free.
func (e *event) generation() uint64 { return e.freed.Load() }

// waiting tells whether anybody waits.
func (e *event) waiting() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.waiters > 0
}

// announce tells that somebody is about to wait, so that what is started for them is made in a hurry; done takes it back.
func (e *event) announce() (done func()) {
	e.mu.Lock()
	e.waiters++
	e.mu.Unlock()
	return func() {
		e.mu.Lock()
		e.waiters--
		e.mu.Unlock()
	}
}

// signal wakes those who wait, so that they look again; free says that something became free.
func (e *event) signal(free bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if free {
		e.freed.Add(1)
	}
	if e.ch != nil {
		close(e.ch)
		e.ch = nil
	}
}

// wait returns once done returns true, which is asked at each signal, without locks, or with the error of the context.
func (e *event) wait(ctx context.Context, done func(generation uint64) bool) error {
	for {
		e.mu.Lock()
		if e.ch == nil {
			e.ch = make(chan struct{})
		}
		ch, gen := e.ch, e.freed.Load()
		e.waiters++
		e.mu.Unlock()

		ok := done(gen)
		var err error
		if !ok {
			select {
			case <-ch:
			case <-ctx.Done():
				err = ctx.Err()
			}
		}
		e.mu.Lock()
		e.waiters--
		e.mu.Unlock()
		if ok || err != nil {
			return err
		}
	}
}
