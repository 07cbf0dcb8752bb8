package six

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// TestRandomSchedules runs random operations one at a time, and after each checks against plain definitions that holders are compatible, that nobody
// waits for nobody, that no cycle stands, and, of each cycle reported, that it was one and that its youngest member was chosen.
func TestRandomSchedules(t *testing.T) {
	seeds := 300
	if testing.Short() {
		seeds = 50
	}
	var total Stats
	for seed := range seeds {
		w := newWorld()
		log, err := w.random(rand.New(rand.NewPCG(uint64(seed), 6)))
		if err != nil {
			t.Fatalf("seed %d: %v\nafter\n%s", seed, err, strings.Join(log, "\n"))
		}
		total.Waits += w.g.Stats().Waits
		total.Deadlocks += w.g.Stats().Deadlocks
		w.finish(t)
	}
	if total.Waits < uint64(seeds) || total.Deadlocks < uint64(seeds) {
		t.Errorf("only %d waits and %d deadlocks: the test has become blind", total.Waits, total.Deadlocks)
	}
}

// random runs one seed, and returns the lines of the script that it made up.
func (w *world) random(r *rand.Rand) (log []string, err error) {
	names := []string{"x", "y", "z"}[:1+r.IntN(3)]
	lockers := 2 + r.IntN(4)
	for i := range lockers {
		w.locker(string(rune('A' + i)))
	}
	for _, name := range names {
		w.lock(name)
	}
	var bad error
	w.onDeadlock = func(cycle []*Locker, victim *Locker) {
		for i, x := range cycle {
			if y := cycle[(i+1)%len(cycle)]; !waitsFor(x, y) {
				bad = fmt.Errorf("in the cycle found %s does not wait for %s", x.Name, y.Name)
			}
			if x.age > victim.age {
				bad = fmt.Errorf("victim %s is older than %s", victim.Name, x.Name)
			}
		}
		if !slices.Contains(cycle, victim) {
			bad = fmt.Errorf("victim %s is not in the cycle", victim.Name)
		}
	}
	for range 60 {
		line := w.randomLine(r, w.order[r.IntN(lockers)], names[r.IntN(len(names))])
		log = append(log, line)
		answer, err := w.line(line)
		if err != nil {
			return log, err
		}
		log[len(log)-1] += ": " + answer
		if bad != nil {
			return log, bad
		}
		if strings.Contains(answer, "panic") {
			return log, fmt.Errorf("unexpected panic")
		}
		if err := w.checkAll(); err != nil {
			return log, err
		}
		_ = w.g.String() // must not get in a muddle
	}
	return log, nil
}

// randomLine returns a line that the rules allow.
func (w *world) randomLine(r *rand.Rand, lk *Locker, name string) string {
	if w.cancel[lk] != nil {
		if r.IntN(4) > 0 { // mostly let it wait, and ask somebody else
			for _, x := range w.order {
				if w.cancel[x] == nil {
					return w.randomLine(r, x, name)
				}
			}
		}
		return lk.Name + " cancel"
	}
	l := w.lock(name)
	var n [4]int32
	if i := lk.find(l); i >= 0 {
		n = lk.holds[i].n
	}
	kind := Shared + Kind(r.IntN(3))
	if kind == Exclusive && n[Intent] == 0 {
		kind = Intent
	}
	var can []string
	add := func(weight int, format string, args ...any) {
		for range weight {
			can = append(can, fmt.Sprintf(format, args...))
		}
	}
	add(20, "lock %s %v", name, kind)
	add(2, "trylock %s %v", name, kind)
	add(2, "relock %s %v %d", name, kind, l.Seq()-uint32(r.IntN(2)))
	add(1, "restart")
	add(1, "unlockallof %s", name)
	last := n[Intent] == 1 && n[Exclusive] > 0 // intent has to stay
	for k := Shared; k <= Exclusive; k++ {
		if n[k] > 0 && !(k == Intent && last) {
			add(3, "unlock %s %v", name, k)
		}
	}
	if n[Shared] > 0 {
		add(3, "upgrade %s", name)
		add(1, "tryupgrade %s", name)
	}
	if n[Intent] > 0 && !last {
		add(2, "downgrade %s", name)
	}
	return lk.Name + " " + can[r.IntN(len(can))]
}

// TestRing has n lockers wait in a ring, closed by each of them in turn: always the youngest has to go, and the others then get through.
func TestRing(t *testing.T) {
	for n := 2; n <= 9; n++ {
		for closer := range n {
			w := newWorld()
			lockers := make([]*Locker, n)
			for i := range lockers {
				lockers[i] = w.locker(fmt.Sprintf("locker %d of %d", i, n))
			}
			lockOf := func(i int) *Lock { return w.lock(fmt.Sprint("lock ", i%n)) }
			for i, lk := range lockers {
				l := lockOf(i)
				w.do(lk, func(ctx context.Context) string { return result(lk.Lock(ctx, l, Intent)) })
			}
			for step := range n {
				i := (closer + 1 + step) % n
				lk, l := lockers[i], lockOf(i+1)
				own, others := w.do(lk, func(ctx context.Context) string { return result(lk.Lock(ctx, l, Intent)) })
				switch closes := step == n-1; {
				case !closes && (own != "waits" || others != nil):
					t.Fatalf("%s: %s, %q before the ring was closed", lk.Name, own, others)
				case closes && i == n-1 && own != "deadlock":
					t.Errorf("%s closes the ring and is the youngest: %s", lk.Name, own)
				case closes && i != n-1 && (own != "waits" || !slices.Contains(others, lockers[n-1].Name+" deadlock")):
					t.Errorf("%s closes the ring: %s, %q", lk.Name, own, others)
				}
			}
			w.finish(t)
		}
	}
}

// TestLateHandOver shows that whoever released Exclusive and was interrupted before it came to hand over does no harm to those who wait for Shared: who
// wants Exclusive next comes after them.
func TestLateHandOver(t *testing.T) {
	w := newWorld()
	script := func(lines ...string) (answers []string) {
		for _, line := range lines {
			answer, err := w.line(line)
			if err != nil {
				t.Fatal(err)
			}
			answers = append(answers, answer)
		}
		return answers
	}
	script("A lock x intent", "A lock x exclusive", "B lock x shared", "C lock x shared")
	a, x := w.locker("A"), w.lock("x")
	a.holds[0].n[Exclusive]--
	if !x.release(Exclusive, Intent) {
		t.Error("there is nobody to hand over to")
	}
	got := script("A trylock x exclusive", "A lock x exclusive", "B unlock x shared", "D lock x shared", "C unlock x shared")
	w.g.handOver(x) // the late one
	got = append(got, script("A unlock x exclusive")...)
	want := []string{"no", "waits; B ok; C ok", "ok", "waits", "ok; A ok", "ok; D ok"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if err := w.checkAll(); err != nil {
		t.Error(err)
	}
	w.finish(t)
}

// TestManyHolds compares the bookkeeping of a locker with more holds than it searches one by one with a plain map.
func TestManyHolds(t *testing.T) {
	var g Graph
	lk := g.NewLocker()
	locks := make([]Lock, 4*maxScan)
	model := map[*Lock]int{}
	r := rand.New(rand.NewPCG(1, 2))
	check := func(step int) {
		t.Helper()
		if lk.Held() != len(model) {
			t.Fatalf("step %d: %d holds, should be %d", step, lk.Held(), len(model))
		}
		for i := range locks {
			want := None
			if model[&locks[i]] > 0 {
				want = Shared
			}
			if got := lk.Holds(&locks[i]); got != want {
				t.Fatalf("step %d: lock %d is held %v, should be %v", step, i, got, want)
			}
			if got := locks[i].state.Load(); got != weight[want] {
				t.Fatalf("step %d: lock %d has state %#x, should be %#x", step, i, got, weight[want])
			}
		}
	}
	for step := range 5000 {
		// The number of holds goes up and down between none and nearly all.
		l := &locks[r.IntN(len(locks))]
		if up := step/500%2 == 0; up != (r.IntN(8) == 0) {
			if !lk.TryLock(l, Shared) {
				t.Fatal("shared refused")
			}
			model[l]++
		} else if model[l] > 0 {
			lk.Unlock(l, Shared)
			if model[l]--; model[l] == 0 {
				delete(model, l)
			}
		}
		switch r.IntN(1000) {
		case 0:
			lk.UnlockAll()
			clear(model)
		case 1:
			lk.UnlockAllOf(l)
			delete(model, l)
		}
		if step%10 == 0 {
			check(step)
		}
	}
	lk.UnlockAll()
	clear(model)
	check(-1)
}

// TestSeqWraps shows that the sequence number goes from its largest to 0 and touches nothing else.
func TestSeqWraps(t *testing.T) {
	var g Graph
	var l Lock
	l.state.Store(uint64(1<<32-1) << seqShift)
	lk := g.NewLocker()
	if !lk.TryLock(&l, Intent) || !lk.TryLock(&l, Exclusive) || l.Seq() != 1<<32-1 {
		t.Fatalf("locked: %s", &l)
	}
	lk.Unlock(&l, Exclusive)
	if got := l.state.Load(); got != heldIntent {
		t.Errorf("state %#x after the number wrapped, should be %#x", got, uint64(heldIntent))
	}
}

func TestKindString(t *testing.T) {
	if got := fmt.Sprint(None, Shared, Intent, Exclusive, Kind(9)); got != "none shared intent exclusive kind 9" {
		t.Error(got)
	}
}
