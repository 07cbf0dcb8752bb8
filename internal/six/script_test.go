package six

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
)

// world runs operations of lockers one after the other, each to the point where it is done or the locker sleeps, together with
// what it wakes. So every test that uses it is deterministic, but waits for nothing longer than it takes.
type world struct {
	g       Graph
	locks   map[string]*Lock
	names   map[*Lock]string
	lockers map[string]*Locker
	order   []*Locker

	cancel map[*Locker]context.CancelFunc // of those that sleep
	events chan event

	// onDeadlock is called from the hook, if set.
	onDeadlock func(cycle []*Locker, victim *Locker)
}

// event is what happened to a locker.
type event struct {
	lk     *Locker
	what   string // blocked, woken, done, deadlock
	result string
}

func newWorld() *world {
	w := &world{
		locks: map[string]*Lock{}, names: map[*Lock]string{}, lockers: map[string]*Locker{},
		cancel: map[*Locker]context.CancelFunc{},
		events: make(chan event, 1000),
	}
	w.g.Hook = w
	w.g.LockName = func(l *Lock) string { return w.names[l] }
	return w
}

func (w *world) Blocked(lk *Locker, _ *Lock, _ Kind) { w.events <- event{lk: lk, what: "blocked"} }
func (w *world) Woken(lk *Locker)                    { w.events <- event{lk: lk, what: "woken"} }
func (w *world) Resumed(*Locker)                     {}
func (w *world) Deadlock(cycle []*Locker, victim *Locker) {
	if w.onDeadlock != nil {
		w.onDeadlock(cycle, victim)
	}
	var names []string
	for _, lk := range cycle {
		names = append(names, lk.Name)
	}
	w.events <- event{what: "deadlock", result: "cycle " + strings.Join(names, " → ") + ", victim " + victim.Name}
}

func (w *world) lock(name string) *Lock {
	l := w.locks[name]
	if l == nil {
		l = &Lock{}
		w.locks[name], w.names[l] = l, name
	}
	return l
}

func (w *world) locker(name string) *Locker {
	lk := w.lockers[name]
	if lk == nil {
		lk = w.g.NewLocker()
		lk.Name = name
		w.lockers[name] = lk
		w.order = append(w.order, lk)
	}
	return lk
}

// do starts op of a locker that does not sleep, and returns when all are done or asleep: how the op ended, "waits" if it sleeps, and
// what became of others, in the order that they were woken, and cycles.
func (w *world) do(lk *Locker, op func(ctx context.Context) string) (own string, others []string) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer func() {
			if p := recover(); p != nil {
				w.events <- event{lk: lk, what: "done", result: fmt.Sprint("panic: ", p)}
			}
		}()
		r := op(ctx)
		w.events <- event{lk: lk, what: "done", result: r}
	}()
	w.cancel[lk] = cancel
	return w.settle(lk, 1)
}

// stop ends the wait of a locker.
func (w *world) stop(lk *Locker) (own string, others []string) {
	w.cancel[lk]()
	// It wakes up by itself, which is not known before the hook tells.
	return w.settle(lk, 0)
}

func (w *world) settle(self *Locker, running int) (own string, others []string) {
	var woken []*Locker
	results := map[*Locker]string{}
	blocked := false
	for first := true; running > 0 || first; {
		e := <-w.events
		switch e.what {
		case "deadlock":
			others = append(others, e.result)
		case "blocked":
			blocked = true
			running--
			first = false
		case "woken":
			if e.lk != self || blocked {
				running++
			} else if first && running == 0 {
				running++ // stopped
			}
			first = false
			woken = append(woken, e.lk)
		case "done":
			running--
			first = false
			results[e.lk] = e.result
			w.cancel[e.lk]()
			delete(w.cancel, e.lk)
		}
	}
	own = "waits"
	if r, ok := results[self]; ok {
		own = r
	}
	for _, lk := range woken {
		if lk != self {
			others = append(others, lk.Name+" "+results[lk])
		}
	}
	return own, others
}

func result(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, ErrDeadlock):
		return "deadlock"
	}
	return err.Error()
}

func yesno(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func parseKind(s string) Kind {
	for k := None; k <= Exclusive; k++ {
		if s == k.String() {
			return k
		}
	}
	return Exclusive + 1
}

// line runs one line of a script.
func (w *world) line(line string) (string, error) {
	f := strings.Fields(line)
	switch {
	case len(f) == 1 && f[0] == "graph":
		return strings.TrimSpace(w.g.String()), nil
	case len(f) == 2 && f[0] == "state":
		return w.lock(f[1]).String(), nil
	case len(f) < 2:
		return "", fmt.Errorf("bad line %q", line)
	case f[0] == "lockers":
		for _, name := range f[1:] {
			w.locker(name)
		}
		return "", nil
	case len(f) == 2 && f[1] == "holds":
		lk := w.locker(f[0])
		return strings.TrimPrefix(lk.String(), lk.Name+" "), nil
	}
	lk := w.locker(f[0])
	if _, asleep := w.cancel[lk]; asleep != (f[1] == "cancel") {
		return "", fmt.Errorf("%q: asleep is %v", line, asleep)
	}
	var own string
	var others []string
	switch {
	case f[1] == "cancel":
		own, others = w.stop(lk)
	case len(f) == 2:
		op := map[string]func(){"unlockall": lk.UnlockAll, "restart": lk.Restart, "renew": lk.Renew}[f[1]]
		if op == nil {
			return "", fmt.Errorf("bad line %q", line)
		}
		own, others = w.do(lk, func(context.Context) string { op(); return "ok" })
	default:
		op, err := w.op(lk, f)
		if err != nil {
			return "", err
		}
		own, others = w.do(lk, op)
	}
	return strings.Join(append([]string{own}, others...), "; "), nil
}

// op returns the operation on a lock that a line asks for.
func (w *world) op(lk *Locker, f []string) (func(ctx context.Context) string, error) {
	l := w.lock(f[2])
	kind := None
	if len(f) > 3 {
		kind = parseKind(f[3])
	}
	switch f[1] {
	case "lock":
		return func(ctx context.Context) string { return result(lk.Lock(ctx, l, kind)) }, nil
	case "trylock":
		return func(context.Context) string { return yesno(lk.TryLock(l, kind)) }, nil
	case "relock": // with the sequence number that the state shows, given as its last word
		var seq uint32
		if _, err := fmt.Sscan(f[4], &seq); err != nil {
			return nil, err
		}
		return func(context.Context) string { return yesno(lk.Relock(l, seq, kind)) }, nil
	case "upgrade":
		return func(ctx context.Context) string { return result(lk.Upgrade(ctx, l)) }, nil
	case "tryupgrade":
		return func(context.Context) string { return yesno(lk.TryUpgrade(l)) }, nil
	case "downgrade":
		return func(context.Context) string { lk.Downgrade(l); return "ok" }, nil
	case "unlock":
		return func(context.Context) string { lk.Unlock(l, kind); return "ok" }, nil
	case "unlockallof":
		return func(context.Context) string { lk.UnlockAllOf(l); return "ok" }, nil
	}
	return nil, fmt.Errorf("no operation %q", f[1])
}

// TestScripts runs testdata: a line each is an operation of a locker; the answer is how it ended, then what it did to others.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if d.Cmd != "run" {
				d.Fatalf(t, "unknown command %q", d.Cmd)
			}
			w := newWorld()
			var out strings.Builder
			for line := range strings.Lines(d.Input) {
				line = strings.TrimSpace(line)
				answer, err := w.line(line)
				if err != nil {
					d.Fatalf(t, "%v", err)
				}
				if err := w.checkAll(); err != nil {
					d.Fatalf(t, "after %q: %v", line, err)
				}
				if answer != "" {
					fmt.Fprintf(&out, "%s: %s\n", line, answer)
				}
			}
			w.finish(t)
			return out.String()
		})
	})
}

// finish ends all waits and releases all locks, and checks that nothing is left.
func (w *world) finish(t *testing.T) {
	t.Helper()
	for _, lk := range w.order {
		if w.cancel[lk] != nil {
			w.stop(lk)
		}
		w.do(lk, func(context.Context) string { lk.UnlockAll(); return "ok" })
	}
	for name, l := range w.locks {
		if s := l.state.Load(); s<<(64-seqShift) != 0 || slices.ContainsFunc(l.queues[:], func(q queue) bool { return q.head != nil }) {
			t.Errorf("lock %s is left with %s", name, l)
		}
	}
	if len(w.g.all) != 0 || len(w.cancel) != 0 {
		t.Errorf("lockers are left waiting: %s", &w.g)
	}
}
