package schedule

import (
	"context"
	"math/rand/v2"
	"time"
)

// Draw says what [Random] runs.
type Draw struct {
	Seed      uint64
	Schedules int
	// Depth is how many decisions have to be right for what is looked for, at least 1: a race of two accesses has depth 2.
	Depth int
	// FirstOnly ends it when something was found.
	FirstOnly bool
}

// Random runs a program under schedules that are drawn by priorities (probabilistic concurrency testing, PCT): each task has a
// random priority, the highest one that can run does, and at Depth-1 random steps the running task's becomes the lowest. If a failure needs d
// such decisions, n tasks and k steps, a schedule finds it with a probability of 1/(n·k^(d-1)) or better, however the code looks. The same draw
// runs the same schedules.
func Random(ctx context.Context, p Program, d Draw, o Options) (Report, error) {
	o.complete()
	var rep Report
	start := time.Now()
	steps := 0 // decisions of the longest run so far
	for rep.Schedules < d.Schedules {
		n := min(batch, d.Schedules-rep.Schedules)
		if steps == 0 {
			n = 1 // to know how long a run is
		}
		outs, errs := make([]*Outcome, n), make([]error, n)
		chosen := make([]*priorities, n)
		each(o.Workers, n, func(i int) {
			rnd := rand.New(rand.NewPCG(d.Seed, uint64(rep.Schedules+i)))
			chosen[i] = newPriorities(rnd, d.Depth, steps)
			outs[i], errs[i] = execute(ctx, p, &o, chosen[i], false)
		})
		x := explorer{report: rep}
		for i := range outs {
			if err := ctx.Err(); err != nil {
				return rep, err
			}
			if errs[i] != nil {
				return rep, errs[i]
			}
			x.count(outs[i])
			steps = max(steps, chosen[i].step)
			if outs[i].Err != nil && d.FirstOnly {
				break
			}
		}
		rep = x.report
		rep.Elapsed = time.Since(start)
		if rep.Found > 0 && d.FirstOnly {
			break
		}
	}
	return rep, nil
}

// priorities chooses by priority.
type priorities struct {
	rnd     *rand.Rand
	of      map[*task]int // higher ones first
	changes map[int]int   // the new priority of who runs, by step
	step    int
}

func newPriorities(rnd *rand.Rand, depth, steps int) *priorities {
	c := &priorities{rnd: rnd, of: map[*task]int{}, changes: map[int]int{}}
	for i := 1; i < depth && steps > 0; i++ {
		c.changes[1+rnd.IntN(steps)] = -i
	}
	return c
}

func (c *priorities) next(r *Run, stop Turn, ready []*task) *task {
	if len(c.of) == 0 {
		for i, n := range c.rnd.Perm(len(r.tasks)) {
			c.of[r.tasks[i]] = 1 + n
		}
	}
	if len(ready) == 1 {
		return ready[0]
	}
	c.step++
	if p, ok := c.changes[c.step]; ok && ready[0].Name == stop.Task {
		c.of[ready[0]] = p
	}
	best := ready[0]
	for _, t := range ready[1:] {
		if c.of[t] > c.of[best] {
			best = t
		}
	}
	return best
}
