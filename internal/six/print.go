package six

import (
	"fmt"
	"slices"
	"strings"
)

// String returns what the state of the lock says: how many hold and whether somebody waits. It does not know who. It can be called at any time.
func (l *Lock) String() string { return stateString(l.state.Load()) }

func stateString(s uint64) string {
	var b strings.Builder
	fmt.Fprintf(&b, "seq %d", s>>seqShift)
	if n := s & sharedMask; n > 0 {
		fmt.Fprintf(&b, ", shared by %d", n)
	}
	switch {
	case s&heldExcl != 0:
		b.WriteString(", exclusive")
	case s&heldIntent != 0:
		b.WriteString(", intent")
	}
	for k := Shared; k <= Exclusive; k++ {
		if s&waitBit(k) != 0 {
			fmt.Fprintf(&b, ", %v wanted", k)
		}
	}
	return b.String()
}

// String returns who the locker is and what it holds, and how often. It is for the goroutine that uses the locker, or others while it surely rests; but see [Graph.String].
func (lk *Locker) String() string {
	var b strings.Builder
	lk.print(&b)
	return b.String()
}

func (lk *Locker) print(b *strings.Builder) {
	b.WriteString(lk.title())
	for i := range lk.holds {
		h := &lk.holds[i]
		sep := ", "
		if i == 0 {
			sep = " holds "
		}
		fmt.Fprintf(b, "%s%s", sep, lk.graph.nameOf(h.lock))
		for k := Exclusive; k > None; k-- {
			switch n := h.n[k]; {
			case n == 1:
				fmt.Fprintf(b, " %v", k)
			case n > 1:
				fmt.Fprintf(b, " %v×%d", k, n)
			}
		}
	}
	if len(lk.holds) == 0 {
		b.WriteString(" holds nothing")
	}
}

func (lk *Locker) title() string {
	if lk.Name != "" {
		return lk.Name
	}
	return fmt.Sprintf("locker %d", lk.age)
}

func (g *Graph) nameOf(l *Lock) string {
	if g.LockName != nil {
		return g.LockName(l)
	}
	return fmt.Sprintf("%p", l)
}

// String returns a line for each locker that waits, the oldest first: what it waits for and the state of that lock, which of the others that wait
// keep it waiting, and what it holds. Lockers that run are not in it, as nobody else knows what they hold; where "running" is among those that keep
// a locker waiting, some of them do. It can be called at any time.
func (g *Graph) String() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := slices.Clone(g.all)
	slices.SortFunc(all, func(a, b *Locker) int {
		if a.age < b.age {
			return -1
		}
		return 1
	})
	var b strings.Builder
	for _, lk := range all {
		lk.print(&b)
		w := &lk.wait
		s := w.lock.state.Load()
		fmt.Fprintf(&b, "; waits for %v of %s (%s) because of ", w.kind, g.nameOf(w.lock), stateString(s))
		waiting, running := lk.blockers(all, s)
		sep := ""
		for _, x := range waiting {
			b.WriteString(sep + x.title())
			sep = ", "
		}
		if running {
			b.WriteString(sep + "running")
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// blockers returns which of those that wait keep lk waiting, where s is the state of the lock that it waits for, and whether others do too.
func (lk *Locker) blockers(all []*Locker, s uint64) (waiting []*Locker, running bool) {
	w := &lk.wait
	known := uint64(0)
	for _, x := range all {
		if x == lk {
			continue
		}
		i := x.find(w.lock)
		have := None
		if i >= 0 {
			have = x.holds[i].strongest(Exclusive)
		}
		conflict := w.kind == Shared && have == Exclusive || w.kind == Intent && have >= Intent || w.kind == Exclusive && have == Shared
		if conflict {
			known++
		}
		if conflict || x.wait.lock == w.lock && before(w.lock, x, lk) {
			waiting = append(waiting, x)
		}
	}
	holders := uint64(0)
	switch w.kind {
	case Shared:
		holders = s & heldExcl / heldExcl
	case Intent:
		holders = s & heldIntent / heldIntent
	case Exclusive:
		holders = s & sharedMask
	}
	return waiting, holders > known
}

// before reports whether lk, waiting for l, must not overtake x, waiting for l too.
func before(l *Lock, x, lk *Locker) bool {
	switch lk.wait.kind {
	case Shared:
		return x.wait.kind == Exclusive
	case Intent:
		if x.wait.kind != Intent {
			return false
		}
		q := l.queue(Intent)
		for y := q.head; y != nil && y != lk; y = q.after(y) {
			if y == x {
				return true
			}
		}
	}
	return false
}
