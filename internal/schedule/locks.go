package schedule

import (
	"context"

	"github.com/go-bcachefs/bcachefs/internal/six"
)

// Bind tells that a locker takes locks for the task of ctx from now on, or for none of the tasks. It is called when a transaction begins.
func (r *Run) Bind(ctx context.Context, lk *six.Locker) {
	t := taskOf(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	if t != nil && t.run == r {
		r.lockers[lk] = t
	} else {
		delete(r.lockers, lk)
	}
}

// Locks is what the graph of the program's locks tells of waits ([six.Graph.Hook]).
func (r *Run) Locks() six.Hook { return (*locks)(r) }

// locks is a Run as a six.Hook. Run.mu comes after the graph's mutex.
type locks Run

// Blocked implements [six.Hook]: the task gives its turn away.
func (h *locks) Blocked(lk *six.Locker, l *six.Lock, kind six.Kind) {
	r := (*Run)(h)
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.lockers[lk]
	if t == nil || r.free {
		return
	}
	t.blocked = true
	t.visits[PointBlocked]++
	if r.trace {
		detail := kind.String()
		if r.NameLock != nil {
			detail = r.NameLock(l)
		}
		r.event(t, PointBlocked, detail)
	}
	r.goOn(Turn{t.Name, PointBlocked, t.visits[PointBlocked]}, t)
}

// Woken implements [six.Hook]: the task can be given a turn again.
func (h *locks) Woken(lk *six.Locker) {
	r := (*Run)(h)
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.lockers[lk]
	if t == nil || !t.blocked {
		return // also of a locker that never slept as its wait would have been a deadlock
	}
	t.blocked = false
	if r.running == nil && !r.free { // by a background goroutine; all the tasks have waited for this
		r.running = t
		t.signal()
	}
}

// Resumed implements [six.Hook]: the task waits for its turn.
func (h *locks) Resumed(lk *six.Locker) {
	r := (*Run)(h)
	r.mu.Lock()
	t := r.lockers[lk]
	free := r.free
	r.mu.Unlock()
	if t == nil || free {
		return
	}
	<-t.wake
	r.mu.Lock()
	r.event(t, PointResumed, "")
	r.mu.Unlock()
}

// Deadlock implements [six.Hook]. What follows from it Woken tells.
func (h *locks) Deadlock([]*six.Locker, *six.Locker) {}
