package schedule

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Report is what an exploration found.
type Report struct {
	Schedules int // that were run
	Found     int // how many of them failed
	Exhausted bool
	Elapsed   time.Duration
	// First is the first that failed, nil if none did. With the fewest preemptions there are, if all were explored.
	First *Outcome
	// Steps is the greatest number of points that the tasks of a run came to.
	Steps int
}

// Bound says how much [Explore] explores.
type Bound struct {
	// Preemptions is how often a schedule may interrupt a task that could go on.
	Preemptions int
	// Schedules is how many are run at most; 0: no limit.
	Schedules int
	// FirstOnly ends the exploration when something was found.
	FirstOnly bool
}

// Explore runs a program under every schedule with no more preemptions than the bound allows, each once, those with few first. Which
// task goes on when one ends or blocks is no preemption: all possibilities are tried.
func Explore(ctx context.Context, p Program, b Bound, o Options) (Report, error) {
	o.complete()
	x := explorer{p: p, o: o, bound: b, levels: make([][]*path, b.Preemptions+1)}
	x.levels[0] = []*path{{}}
	start := time.Now()
	err := x.run(ctx)
	x.report.Elapsed = time.Since(start)
	return x.report, err
}

// path is a schedule to be run: the running task goes on, and the first of those that can does when it cannot, but for one switch, and those of
// the paths that it comes from.
type path struct {
	from   *path
	step   int // which decision, counted from 1 on
	option int // which of the tasks goes on
	stop   Turn
	ready  int // how many could
}

type explorer struct {
	p      Program
	o      Options
	bound  Bound
	levels [][]*path // to be run, by number of preemptions
	report Report
}

// batch is how many schedules are run between two looks at what they came to. What they lead to is taken up in order, so that what is
// explored does not depend on which of the runs is faster.
const batch = 64

func (x *explorer) run(ctx context.Context) error {
	type result struct {
		out  *Outcome
		err  error
		more []found
	}
	for level := 0; level < len(x.levels); level++ {
		for len(x.levels[level]) > 0 {
			todo := x.levels[level]
			n := min(len(todo), batch)
			if x.bound.Schedules > 0 {
				n = min(n, x.bound.Schedules-x.report.Schedules)
			}
			if n == 0 {
				return nil
			}
			results := make([]result, n)
			each(x.o.Workers, n, func(i int) {
				f := &follower{path: todo[i].steps()}
				r := &results[i]
				r.out, r.err = execute(ctx, x.p, &x.o, f, false)
				if r.err == nil {
					r.err = f.complete()
				}
				r.more = f.found
			})
			parents := todo[:n]
			x.levels[level] = todo[n:]
			for i, r := range results {
				if err := ctx.Err(); err != nil {
					return err
				}
				if r.err != nil {
					return r.err
				}
				x.count(r.out)
				if r.out.Err != nil && x.bound.FirstOnly {
					return nil
				}
				x.add(level, parents[i], r.more)
			}
		}
		x.levels[level] = nil
	}
	x.report.Exhausted = true
	return nil
}

func (x *explorer) count(out *Outcome) {
	x.report.Schedules++
	x.report.Steps = max(x.report.Steps, out.Steps)
	if out.Err != nil {
		x.report.Found++
		if x.report.First == nil {
			x.report.First = out
		}
	}
}

// add takes up the schedules that branch off one that was run.
func (x *explorer) add(level int, from *path, more []found) {
	for _, f := range more {
		l := level
		if f.preempts {
			l++
		}
		if l >= len(x.levels) {
			continue
		}
		for option := 1; option < f.ready; option++ {
			x.levels[l] = append(x.levels[l], &path{from: from, step: f.step, option: option, stop: f.stop, ready: f.ready})
		}
	}
}

// steps are the switches of a path in order.
func (p *path) steps() []*path {
	n := 0
	for q := p; q.from != nil; q = q.from {
		n++
	}
	all := make([]*path, n)
	for q := p; q.from != nil; q = q.from {
		n--
		all[n] = q
	}
	return all
}

// found is a decision behind a path that could have been another.
type found struct {
	step     int
	ready    int
	stop     Turn
	preempts bool // another would be a preemption
}

// follower follows a path, and notes what else could have been decided behind its end.
type follower struct {
	path  []*path
	step  int
	found []found
	bad   string
}

func (f *follower) next(_ *Run, stop Turn, ready []*task) *task {
	if len(ready) == 1 {
		return ready[0]
	}
	f.step++
	if len(f.path) > 0 {
		p := f.path[0]
		if f.step < p.step {
			return ready[0]
		}
		f.path = f.path[1:]
		if p.ready != len(ready) || p.stop != stop {
			f.bad = fmt.Sprintf("at decision %d %d tasks could go on after %v, not %d after %v", f.step, len(ready), stop, p.ready, p.stop)
			return ready[0]
		}
		return ready[p.option]
	}
	f.found = append(f.found, found{f.step, len(ready), stop, stop.Task != "" && stop.Task == ready[0].Name && !ready[0].ended})
	return ready[0]
}

// complete returns an error if the path could not be followed.
func (f *follower) complete() error {
	if f.bad == "" && len(f.path) > 0 {
		f.bad = fmt.Sprintf("there were only %d decisions, not %d", f.step, f.path[0].step)
	}
	if f.bad != "" {
		return fmt.Errorf("%w: %s", ErrDiverged, f.bad)
	}
	return nil
}

// each calls fn for 0 … n-1, by several goroutines.
func each(workers, n int, fn func(i int)) {
	var wg sync.WaitGroup
	var next atomic.Int64
	for range min(workers, n) {
		wg.Go(func() {
			for {
				i := next.Add(1) - 1
				if i >= int64(n) {
					return
				}
				fn(int(i))
			}
		})
	}
	wg.Wait()
}
