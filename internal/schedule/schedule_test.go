package schedule

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/six"
)

// counters is a program whose tasks add one to a counter, so many times each, reading and writing it in two steps. With lock, they
// do so under a lock.
func counters(tasks, times int, lock bool) Program {
	return func(r *Run) (*World, error) {
		var n int
		var l six.Lock
		g := &six.Graph{Hook: r.Locks()}
		w := &World{}
		for i := range tasks {
			w.Tasks = append(w.Tasks, Task{Name: fmt.Sprintf("t%d", i+1), Do: func(ctx context.Context) error {
				lk := g.NewLocker()
				r.Bind(ctx, lk)
				for range times {
					if lock {
						if err := lk.Lock(ctx, &l, six.Intent); err != nil {
							return err
						}
					}
					v := n
					r.Point(ctx, "read", "")
					n = v + 1
					lk.UnlockAll()
				}
				return nil
			}})
		}
		w.Check = func(errs []error) error {
			if err := errors.Join(errs...); err != nil {
				return err
			}
			if n != tasks*times {
				return fmt.Errorf("counted %d of %d", n, tasks*times)
			}
			return nil
		}
		return w, nil
	}
}

// steps is a program whose tasks come to so many points each, and notes the orders in which they did.
func steps(points []int, seen *sync.Map) Program {
	return func(r *Run) (*World, error) {
		var order strings.Builder
		w := &World{Check: func([]error) error {
			if _, again := seen.LoadOrStore(order.String(), true); again {
				return errors.New("the same order twice")
			}
			return nil
		}}
		for i, n := range points {
			w.Tasks = append(w.Tasks, Task{Name: string(rune('a' + i)), Do: func(ctx context.Context) error {
				order.WriteByte(byte('a' + i))
				for range n {
					r.Point(ctx, "p", "")
					order.WriteByte(byte('a' + i))
				}
				return nil
			}})
		}
		return w, nil
	}
}

// All interleavings are run, each once, and no more are if preemptions are bounded.
func TestExploreAll(t *testing.T) {
	for _, tt := range []struct {
		points []int
		bound  int
		want   int
	}{
		{[]int{2, 2}, 100, 20},    // C(6,3)
		{[]int{3, 1}, 100, 15},    // C(6,2)
		{[]int{1, 1, 1}, 100, 90}, // 6!/2!^3
		{[]int{0, 0, 0}, 0, 6},
		{[]int{3, 3}, 0, 2},
		{[]int{3, 3}, 1, 8}, // 2 + 2·3 places
		{[]int{9, 9}, 1, 20},
		{[]int{9, 9}, 2, 20 + 2*81}, // one interrupts the other, which interrupts it back: at one of 9 points each, from either
	} {
		for _, workers := range []int{1, 2} {
			var seen sync.Map
			rep, err := Explore(t.Context(), steps(tt.points, &seen), Bound{Preemptions: tt.bound}, Options{Workers: workers})
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			seen.Range(func(any, any) bool { n++; return true })
			if rep.Schedules != tt.want || n != tt.want || !rep.Exhausted || rep.Found != 0 {
				t.Errorf("%v with %d preemptions: %d schedules, %d orders, want %d; exhausted: %v, %d twice", tt.points, tt.bound, rep.Schedules, n,
					tt.want, rep.Exhausted, rep.Found)
			}
		}
	}
}

func TestExploreFinds(t *testing.T) {
	for _, tt := range []struct {
		name  string
		p     Program
		bound Bound
		found bool
		first string // shrunk
	}{
		{"without preemptions", counters(2, 2, false), Bound{}, false, ""},
		{"one preemption", counters(2, 2, false), Bound{Preemptions: 1, FirstOnly: true}, true, "t1:read t2:end t1:end"},
		{"three tasks", counters(3, 1, false), Bound{Preemptions: 1, FirstOnly: true}, true, "t1:read t2:end t1:end t3:end"},
		{"locked", counters(2, 2, true), Bound{Preemptions: 3}, false, ""},
		{"three tasks, locked", counters(3, 2, true), Bound{Preemptions: 2}, false, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rep, err := Explore(t.Context(), tt.p, tt.bound, Options{Workers: 2})
			if err != nil {
				t.Fatal(err)
			}
			if rep.Found > 0 != tt.found || rep.Exhausted == tt.found {
				t.Fatalf("%+v", rep)
			}
			if !tt.found {
				return
			}
			least, err := Shrink(t.Context(), tt.p, rep.First, Options{})
			if err != nil {
				t.Fatal(err)
			}
			if least.Schedule.String() != tt.first {
				t.Errorf("shrunk to %v, want %v", least.Schedule, tt.first)
			}
			again, err := Replay(t.Context(), tt.p, least.Schedule, Options{})
			if err != nil || again.Err == nil || again.Schedule.String() != tt.first || len(again.Events) == 0 {
				t.Errorf("repeated: %+v, %v", again, err)
			}
		})
	}
}

func TestExploreLimit(t *testing.T) {
	rep, err := Explore(t.Context(), counters(3, 5, false), Bound{Preemptions: 5, Schedules: 100}, Options{})
	if err != nil || rep.Schedules != 100 || rep.Exhausted || rep.Found == 0 {
		t.Errorf("%+v, %v", rep, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Explore(ctx, counters(2, 2, false), Bound{}, Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// Points that are not chosen make no difference to what turns are called.
func TestPoints(t *testing.T) {
	var seen sync.Map
	p := func(r *Run) (*World, error) {
		w, err := steps([]int{2, 2}, &seen)(r)
		for i, do := range []func(context.Context) error{w.Tasks[0].Do, w.Tasks[1].Do} {
			w.Tasks[i].Do = func(ctx context.Context) error {
				r.Point(ctx, "hidden", "")
				return do(ctx)
			}
		}
		return w, err
	}
	rep, err := Explore(t.Context(), p, Bound{Preemptions: 100}, Options{Points: func(p string) bool { return p != "hidden" }})
	if err != nil || rep.Schedules != 20 || !rep.Exhausted {
		t.Errorf("%+v, %v", rep, err)
	}
}

// philosophers each take two locks, in an order that invites deadlocks, which six breaks.
func philosophers(n int, deadlocks *atomic.Int64) Program {
	return func(r *Run) (*World, error) {
		locks := make([]six.Lock, n)
		g := &six.Graph{Hook: r.Locks()}
		meals := 0
		w := &World{Check: func(errs []error) error {
			deadlocks.Add(int64(g.Stats().Deadlocks))
			if meals != n {
				return fmt.Errorf("%d meals: %v", meals, errors.Join(errs...))
			}
			return errors.Join(errs...)
		}}
		for i := range n {
			w.Tasks = append(w.Tasks, Task{Name: fmt.Sprint(i), Do: func(ctx context.Context) error {
				lk := g.NewLocker()
				r.Bind(ctx, lk)
				for {
					err := lk.Lock(ctx, &locks[i], six.Intent)
					if err == nil {
						r.Point(ctx, "one fork", "")
						err = lk.Lock(ctx, &locks[(i+1)%n], six.Intent)
					}
					if err == nil {
						r.Point(ctx, "both", "")
						meals++
						lk.UnlockAll()
						return nil
					}
					if !errors.Is(err, six.ErrDeadlock) {
						return err
					}
					lk.Restart()
					r.Point(ctx, "restart", "")
				}
			}})
		}
		return w, nil
	}
}

func TestLocksThatDeadlock(t *testing.T) {
	for n := 2; n <= 3; n++ {
		var deadlocks atomic.Int64
		rep, err := Explore(t.Context(), philosophers(n, &deadlocks), Bound{Preemptions: 3}, Options{Workers: 2})
		if err != nil || rep.Found > 0 || !rep.Exhausted || deadlocks.Load() == 0 {
			t.Errorf("%d: %+v, %v, %d deadlocks", n, rep, err, deadlocks.Load())
		}
	}
}

// A failure that needs several decisions is found at random, and shrunk to what it needs.
func TestRandom(t *testing.T) {
	p := func(r *Run) (*World, error) {
		a, b := 0, 0
		var got error
		return &World{
			Tasks: []Task{
				{Name: "one", Do: func(ctx context.Context) error {
					for i := range 6 {
						a = i
						r.Point(ctx, "a", "")
					}
					return nil
				}},
				{Name: "two", Do: func(ctx context.Context) error {
					for range 3 {
						if a == 2 {
							b++
						}
						r.Point(ctx, "b", "")
						if b == 1 && a == 4 {
							got = errors.New("met")
						}
					}
					return nil
				}},
			},
			Check: func([]error) error { return got },
		}, nil
	}
	draw := Draw{Seed: 1, Schedules: 20000, Depth: 4, FirstOnly: true}
	rep, err := Random(t.Context(), p, draw, Options{Workers: 2})
	if err != nil || rep.Found != 1 {
		t.Fatalf("%+v, %v", rep, err)
	}
	again, err := Random(t.Context(), p, draw, Options{Workers: 1})
	if err != nil || again.First.Schedule.String() != rep.First.Schedule.String() || again.Schedules != rep.Schedules {
		t.Errorf("%+v the second time, %v", again, err)
	}
	least, err := Shrink(t.Context(), p, rep.First, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if want := "one:a#3 two:b one:a#5 two:end one:end"; least.Schedule.String() != want || least.Preemptions() != 3 {
		t.Errorf("shrunk to %v (from %v), want %v", least.Schedule, rep.First.Schedule, want)
	}
}

func TestRandomFindsNothing(t *testing.T) {
	rep, err := Random(t.Context(), counters(4, 5, true), Draw{Seed: 2, Schedules: 300, Depth: 3}, Options{Workers: 2})
	if err != nil || rep.Found != 0 || rep.Schedules != 300 || rep.Exhausted {
		t.Errorf("%+v, %v", rep, err)
	}
	rep, err = Random(t.Context(), counters(4, 5, false), Draw{Seed: 2, Schedules: 300, Depth: 3}, Options{Workers: 2})
	if err != nil || rep.Found < 2 || rep.Schedules != 300 {
		t.Errorf("%+v, %v", rep, err)
	}
}

// Programs that do something else each time are not taken for explored.
func TestDiverged(t *testing.T) {
	n := 0
	p := func(r *Run) (*World, error) {
		var seen sync.Map
		n++
		return steps([]int{3 + n%2, 3}, &seen)(r)
	}
	if _, err := Explore(t.Context(), p, Bound{Preemptions: 3}, Options{}); !errors.Is(err, ErrDiverged) {
		t.Error(err)
	}
	for _, text := range []string{"t1:read#9 t2:end", "t3:end", "t1:wrong t2:end"} {
		s, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Replay(t.Context(), counters(2, 2, false), s, Options{}); !errors.Is(err, ErrDiverged) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// A wait that is not known of, and tasks without end, are errors and no hanging.
func TestStuck(t *testing.T) {
	unseen := func(r *Run) (*World, error) {
		var mu sync.Mutex
		do := func(ctx context.Context) error {
			mu.Lock()
			defer mu.Unlock()
			r.Point(ctx, "held", "")
			return nil
		}
		return &World{Tasks: []Task{{"a", do}, {"b", do}}}, nil
	}
	if _, err := Explore(t.Context(), unseen, Bound{Preemptions: 1}, Options{StuckAfter: 20 * time.Millisecond}); !errors.Is(err, ErrStuck) {
		t.Error(err)
	}
	endless := func(r *Run) (*World, error) {
		do := func(ctx context.Context) error {
			for ctx.Err() == nil {
				r.Point(ctx, "again", "")
			}
			return nil
		}
		return &World{Tasks: []Task{{"a", do}, {"b", do}}}, nil
	}
	if _, err := Explore(t.Context(), endless, Bound{}, Options{MaxSteps: 50}); !errors.Is(err, ErrEndless) {
		t.Error(err)
	}
	twice := func(r *Run) (*World, error) {
		do := func(ctx context.Context) error {
			var wg sync.WaitGroup
			for range 2 {
				wg.Go(func() { r.Point(ctx, "p", ""); time.Sleep(time.Millisecond); r.Point(ctx, "p", "") })
			}
			wg.Wait()
			return nil
		}
		return &World{Tasks: []Task{{"a", do}, {"b", do}}}, nil
	}
	if _, err := Explore(t.Context(), twice, Bound{Preemptions: 2}, Options{StuckAfter: time.Second}); !errors.Is(err, ErrStuck) {
		t.Error(err)
	}
}

func TestPanic(t *testing.T) {
	p := func(r *Run) (*World, error) {
		return &World{Tasks: []Task{{"a", func(ctx context.Context) error { panic("oh") }}, {"b", func(context.Context) error { return nil }}}}, nil
	}
	rep, err := Explore(t.Context(), p, Bound{}, Options{})
	if err != nil || rep.Found != 2 || !strings.Contains(rep.First.Err.Error(), "oh") {
		t.Errorf("%+v, %v", rep, err)
	}
	bad := errors.New("no world")
	if _, err := Explore(t.Context(), func(*Run) (*World, error) { return nil, bad }, Bound{}, Options{}); err != bad {
		t.Error(err)
	}
}

// Waits for what a background goroutine holds end when it lets go.
func TestBackground(t *testing.T) {
	p := func(r *Run) (*World, error) {
		var l six.Lock
		g := &six.Graph{Hook: r.Locks()}
		bg := g.NewLocker()
		if err := bg.Lock(context.Background(), &l, six.Intent); err != nil {
			return nil, err
		}
		do := func(ctx context.Context) error {
			lk := g.NewLocker()
			r.Bind(ctx, lk)
			defer lk.UnlockAll()
			return lk.Lock(ctx, &l, six.Intent)
		}
		go func() {
			for g.Stats().Waits < 2 {
				time.Sleep(10 * time.Microsecond)
			}
			bg.UnlockAll()
		}()
		return &World{Tasks: []Task{{"a", do}, {"b", do}}}, nil
	}
	rep, err := Explore(t.Context(), p, Bound{}, Options{})
	if err != nil || rep.Found > 0 {
		t.Errorf("%+v, %v", rep, err)
	}
}

func TestTrace(t *testing.T) {
	p := func(r *Run) (*World, error) {
		w, err := counters(2, 1, true)(r)
		r.NameLock = func(*six.Lock) string { return "the lock" }
		do := w.Tasks[0].Do
		w.Tasks[0].Do = func(ctx context.Context) error {
			r.Note(ctx, fmt.Sprint("task ", TaskOf(ctx)))
			return do(ctx)
		}
		return w, err
	}
	s, err := Parse("t1:read t2:blocked t1:end t2:end")
	if err != nil {
		t.Fatal(err)
	}
	out, err := Replay(t.Context(), p, s, Options{})
	if err != nil || out.Err != nil {
		t.Fatal(err, out)
	}
	var b strings.Builder
	for _, e := range out.Events {
		fmt.Fprintf(&b, "%d.%d %s %s\n", e.Turn, e.Task, e.Point, e.Detail)
	}
	want := "0.0  task 0\n0.0 read \n1.1 blocked the lock\n2.0 end \n3.1 resumed \n3.1 read \n3.1 end \n"
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}

func TestParse(t *testing.T) {
	for _, text := range []string{"", "a:b", "first:claim:scanned#3 second:end first:blocked"} {
		s, err := Parse(text)
		if err != nil || s.String() != text {
			t.Errorf("%q: %v, %v", text, s, err)
		}
	}
	for _, text := range []string{"a", ":b", "a:", "a:b#", "a:b#0", "a:b#x", "a:#1"} {
		if s, err := Parse(text); err == nil {
			t.Errorf("%q: %v", text, s)
		}
	}
}

func BenchmarkRun(b *testing.B) {
	p := counters(2, 20, true)
	o := Options{}
	o.complete()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := execute(b.Context(), p, &o, &follower{}, false); err != nil {
			b.Fatal(err)
		}
	}
}
