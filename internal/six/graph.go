package six

import (
	"context"
	"sync"
	"sync/atomic"
)

// Graph is what the lockers of one filesystem share: who waits for what. Its zero value is ready for use. It is safe for concurrent use, but its
// exported fields are set before that.
type Graph struct {
	// Hook is told of waits if it is not nil.
	Hook Hook

	// LockName says how a lock is called in what is printed. Without it that is its address. It is called with the graph's mutex held and
	// must not use the package.
	LockName func(*Lock) string

	births atomic.Uint64

	mu    sync.Mutex // guards the queues of all locks, and the wait of all lockers
	all   []*Locker  // those that wait
	epoch uint64     // of the newest search
	reach []*Locker  // scratch of the search
	cycle []*Locker  // scratch: what it found
	stats Stats
}

// Stats counts since the graph was made.
type Stats struct {
	Waits     uint64 // times that a locker was queued
	Deadlocks uint64 // cycles found, each broken
}

// Stats returns the counters.
func (g *Graph) Stats() Stats {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.stats
}

// Hook sees waits come and go, in an order that is that of the events. A schedule explorer that lets one goroutine run at a time learns
// from it which are blocked.
//
// But for Resumed, its methods are called with the graph's mutex held: they must neither block nor use the package, apart from a locker's Name and Age.
type Hook interface {
	// Blocked is called by lk, which is going to sleep until it gets l.
	Blocked(lk *Locker, l *Lock, kind Kind)
	// Woken is called by whoever ended a wait, before the locker runs on.
	Woken(lk *Locker)
	// Resumed is called by lk once it runs on, before its wait returns, and may block.
	Resumed(lk *Locker)
	// Deadlock is called for every cycle, of which each member waits for the next, and the last for the first. The victim is among them. The slice is only lent.
	Deadlock(cycle []*Locker, victim *Locker)
}

// wait is the part of a locker that has to do with waiting. It is guarded by Graph.mu while lock is set, and the locker's own business otherwise.
type wait struct {
	lock  *Lock // nil if the locker does not wait
	kind  Kind
	delta uint64        // what getting the lock adds to its state
	err   error         // how the wait ended
	woken chan struct{} // gets one token when the wait ends

	prev, next *Locker // in a queue
	at         int     // in Graph.all

	seen uint64  // newest search that came here
	from *Locker // who it came from: it is waited for by this one
}

// queue is a first-in first-out queue of waiting lockers: a ring of which head is the first.
type queue struct{ head *Locker }

func (q *queue) push(lk *Locker) {
	first := q.head
	if first == nil {
		q.head, lk.wait.prev, lk.wait.next = lk, lk, lk
		return
	}
	last := first.wait.prev
	lk.wait.prev, lk.wait.next = last, first
	last.wait.next, first.wait.prev = lk, lk
}

func (q *queue) remove(lk *Locker) {
	prev, next := lk.wait.prev, lk.wait.next
	lk.wait.prev, lk.wait.next = nil, nil
	if next == lk {
		q.head = nil
		return
	}
	prev.wait.next, next.wait.prev = next, prev
	if q.head == lk {
		q.head = next
	}
}

// after returns the locker behind lk, or nil.
func (q *queue) after(lk *Locker) *Locker {
	if lk.wait.next == q.head {
		return nil
	}
	return lk.wait.next
}

// sleep waits until the locker, whose strongest hold of l is have, has kind.
func (lk *Locker) sleep(ctx context.Context, l *Lock, have, kind Kind) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	g, w := lk.graph, &lk.wait
	g.mu.Lock()
	if !g.enqueue(lk, l, have, kind) {
		g.mu.Unlock()
		return nil
	}
	g.breakCycles(lk)
	slept := w.lock != nil
	if slept && g.Hook != nil {
		g.Hook.Blocked(lk, l, kind)
	}
	g.mu.Unlock()

	select {
	case <-w.woken:
	case <-ctx.Done():
		g.mu.Lock()
		if w.lock != nil {
			g.abort(lk, ctx.Err())
		}
		g.mu.Unlock()
		<-w.woken
	}
	if slept && g.Hook != nil {
		g.Hook.Resumed(lk)
	}
	return w.err
}

// enqueue puts a locker into the queue for l, unless it gets the lock at once. The latter is decided by the same atomic operation that announces that somebody
// waits, so whoever releases either lets the locker have it here or hands it over. g.mu is held.
func (g *Graph) enqueue(lk *Locker, l *Lock, have, kind Kind) bool {
	g.grant(l) // somebody may have released and not yet come to hand over
	delta := weight[kind] - weight[have]
	for {
		s := l.state.Load()
		if s&refuse[kind] == 0 {
			if l.state.CompareAndSwap(s, s+delta) {
				return false
			}
		} else if l.state.CompareAndSwap(s, s|waitBit(kind)) {
			break
		}
	}
	w := &lk.wait
	w.lock, w.kind, w.delta, w.err = l, kind, delta, nil
	l.queue(kind).push(lk)
	w.at = len(g.all)
	g.all = append(g.all, lk)
	g.stats.Waits++
	return true
}

// handOver gives a lock to those whose turn it is.
func (g *Graph) handOver(l *Lock) {
	g.mu.Lock()
	g.grant(l)
	g.mu.Unlock()
}

// grant is handOver with g.mu held.
//
// The state can change meanwhile, by those who release and those who take what nobody waits for. What was decided is therefore only valid if the
// state is still the one that it was decided on.
func (g *Graph) grant(l *Lock) {
	for {
		s := l.state.Load()
		kind := next(s)
		if kind == None {
			return
		}
		q := l.queue(kind)
		n := s + q.head.wait.delta
		if q.after(q.head) == nil {
			n &^= waitBit(kind)
		}
		if l.state.CompareAndSwap(s, n) {
			lk := q.head
			q.remove(lk)
			g.end(lk, nil)
		}
	}
}

// abort ends the wait of a locker that does not get the lock. g.mu is held.
func (g *Graph) abort(lk *Locker, err error) {
	l, kind := lk.wait.lock, lk.wait.kind
	q := l.queue(kind)
	q.remove(lk)
	if q.head == nil {
		l.state.And(^waitBit(kind))
	}
	g.end(lk, err)
	g.grant(l) // others may have waited only because of this one
}

// end lets a locker run on that has left its queue. g.mu is held.
func (g *Graph) end(lk *Locker, err error) {
	w := &lk.wait
	last := len(g.all) - 1
	g.all[w.at] = g.all[last]
	g.all[w.at].wait.at = w.at
	g.all[last] = nil
	g.all = g.all[:last]

	w.lock, w.err = nil, err
	if g.Hook != nil {
		g.Hook.Woken(lk)
	}
	w.woken <- struct{}{}
}
