package six

import (
	"fmt"
	"slices"
)

// What must hold whenever all lockers of a world are at rest, in terms as plain as can be, from holds and queues alone.

// conflicts reports whether a hold of kind a keeps another locker from having kind b.
func conflicts(a, b Kind) bool {
	switch b {
	case Shared:
		return a == Exclusive
	case Intent:
		return a == Intent || a == Exclusive
	case Exclusive:
		return a != None
	}
	return false
}

// holdsPlainly is Holds without its index.
func holdsPlainly(lk *Locker, l *Lock) Kind {
	strongest := None
	for _, h := range lk.holds {
		for k := Shared; k <= Exclusive; k++ {
			if h.lock == l && h.n[k] > 0 {
				strongest = max(strongest, k)
			}
		}
	}
	return strongest
}

// waitsFor reports whether x, which waits, can only go on after y did.
func waitsFor(x, y *Locker) bool {
	l := x.wait.lock
	if x == y || l == nil {
		return false
	}
	if conflicts(holdsPlainly(y, l), x.wait.kind) {
		return true
	}
	if y.wait.lock != l {
		return false
	}
	switch x.wait.kind {
	case Shared:
		return y.wait.kind == Exclusive
	case Intent:
		return y.wait.kind == Intent && slices.Index(queued(l, Intent), y) < slices.Index(queued(l, Intent), x)
	}
	return false
}

func queued(l *Lock, k Kind) (all []*Locker) {
	q := l.queue(k)
	for y := q.head; y != nil; y = q.after(y) {
		all = append(all, y)
	}
	return all
}

func (w *world) checkAll() error {
	for name, l := range w.locks {
		if err := w.checkLock(l); err != nil {
			return fmt.Errorf("lock %s (%s): %w", name, l, err)
		}
	}
	for _, x := range w.order {
		if x.wait.lock == nil {
			continue
		}
		if !slices.ContainsFunc(w.order, func(y *Locker) bool { return waitsFor(x, y) }) {
			return fmt.Errorf("%s waits for nobody: %s", x.Name, &w.g)
		}
	}
	// Who can go on, goes, and then those that waited for nobody else. Whoever is left is in a cycle or behind one.
	left := slices.Clone(w.order)
	for n := -1; n != len(left); {
		n = len(left)
		left = slices.DeleteFunc(left, func(x *Locker) bool {
			return !slices.ContainsFunc(left, func(y *Locker) bool { return waitsFor(x, y) })
		})
	}
	if len(left) > 0 {
		return fmt.Errorf("a cycle stands: %s", &w.g)
	}
	return nil
}

// checkLock checks that holders are compatible and that the state is what holds and queues say.
func (w *world) checkLock(l *Lock) error {
	var want uint64
	for i, x := range w.order {
		have := holdsPlainly(x, l)
		if x.Holds(l) != have {
			return fmt.Errorf("%s holds %v and not %v", x.Name, have, x.Holds(l))
		}
		switch have {
		case Shared:
			want++
		case Intent:
			want |= heldIntent
		case Exclusive:
			want |= heldIntent | heldExcl
		}
		for _, y := range w.order[:i] {
			if a, b := have, holdsPlainly(y, l); conflicts(a, b) {
				return fmt.Errorf("%s has %v while %s has %v", x.Name, a, y.Name, b)
			}
		}
	}
	for k := Shared; k <= Exclusive; k++ {
		if l.queue(k).head != nil {
			want |= 1 << (waitBitShift + int(k) - 1)
		}
	}
	if got := l.state.Load() & (1<<seqShift - 1); got != want {
		return fmt.Errorf("the state is %#x, should be %#x", got, want)
	}
	return nil
}
