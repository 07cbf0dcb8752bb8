package six

// How cycles are found.
//
// The graph has an edge from a locker to each that waits for it: because it holds what the other wants, or waits for Exclusive where the other
// waits for Shared, which must not overtake. It is followed in this direction, from the waited for to the waiting, as a locker knows what it holds and a lock who waits
// for it, while a lock does not know who holds it. That those who wait for Intent do not overtake each other adds no cycles: each of them
// waits for the holder as well, and whatever the first one waits for, it does through the holder.
//
// Only waiting lockers are visited, but for the one that is about to wait, which is the one that searches. Their holds do not change, and neither do queues, as g.mu
// is held; so what is found is a cycle indeed.
//
// A new cycle must lead through the locker that was enqueued last: a locker that waits comes to wait for another only by being enqueued,
// or if the other gets what it waits for; but then the other does not wait itself.

// breakCycles aborts waits until lk, which has just been enqueued, is in no cycle. g.mu is held.
func (g *Graph) breakCycles(lk *Locker) {
	for lk.wait.lock != nil && g.findCycle(lk) {
		victim := lk
		for _, m := range g.cycle {
			if m.age > victim.age {
				victim = m
			}
		}
		g.stats.Deadlocks++
		if g.Hook != nil {
			g.Hook.Deadlock(g.cycle, victim)
		}
		g.abort(victim, ErrDeadlock)
	}
	clear(g.cycle)
	g.cycle = g.cycle[:0]
}

// findCycle looks for a shortest cycle that lk is in, and leaves it in g.cycle. The search is breadth-first. g.mu is held.
func (g *Graph) findCycle(lk *Locker) bool {
	g.epoch++
	g.reach = append(g.reach[:0], lk)
	found := false
	for i := 0; i < len(g.reach) && !found; i++ {
		found = g.visit(g.reach[i], lk)
	}
	clear(g.reach)
	g.reach = g.reach[:0]
	if !found {
		return false
	}
	// Each was reached from the one that it waits for.
	g.cycle = append(g.cycle[:0], lk)
	for m := lk.wait.from; m != lk; m = m.wait.from {
		g.cycle = append(g.cycle, m)
	}
	return true
}

// visit adds those that wait for x to what is still to be visited. It reports whether start is one of them.
func (g *Graph) visit(x, start *Locker) bool {
	for i := range x.holds {
		h := &x.holds[i]
		if h.lock.state.Load()&waitAny == 0 {
			continue
		}
		found := false
		switch h.strongest(Exclusive) {
		case Shared:
			found = g.add(x, start, h.lock, Exclusive)
		case Intent:
			found = g.add(x, start, h.lock, Intent)
		case Exclusive:
			found = g.add(x, start, h.lock, Intent) || g.add(x, start, h.lock, Shared)
		}
		if found {
			return true
		}
	}
	return x.wait.kind == Exclusive && g.add(x, start, x.wait.lock, Shared)
}

// add is visit for those in the queue of l for kind.
func (g *Graph) add(x, start *Locker, l *Lock, kind Kind) bool {
	q := l.queue(kind)
	for y := q.head; y != nil; y = q.after(y) {
		if y.wait.seen == g.epoch {
			continue
		}
		y.wait.seen, y.wait.from = g.epoch, x
		if y == start {
			return true
		}
		g.reach = append(g.reach, y)
	}
	return false
}
