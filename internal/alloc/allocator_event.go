package alloc

import (
	"context"
	"sync"
)

// event tells waiting tasks that space may have become free. It is safe for concurrent use.
type event struct {
	mu      sync.Mutex
	freed   uint64 // counts what became free
	waiters int
	ch      chan struct{} // closed at the next signal; nil if nobody waits
}

// generation changes whenever something becomes free.
func (e *event) generation() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.freed
}

// waiting tells whether anybody waits.
func (e *event) waiting() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.waiters > 0
}

// signal wakes those who wait, so that they look again; free says that something became free.
func (e *event) signal(free bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if free {
		e.freed++
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
		ch, gen := e.ch, e.freed
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
