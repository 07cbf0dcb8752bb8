package schedule

import (
	"context"
	"fmt"
)

// Replay runs a program once under a schedule and traces it. If the program does not come to where a turn is to end, or a task that is to
// run cannot, the error is [ErrDiverged].
func Replay(ctx context.Context, p Program, s Schedule, o Options) (*Outcome, error) {
	o.complete()
	c := turns{s: s}
	out, err := execute(ctx, p, &o, &c, true)
	if err == nil && c.bad != "" {
		return nil, fmt.Errorf("%w: %s", ErrDiverged, c.bad)
	}
	return out, err
}

// Follow is [Replay] as far as the program follows the schedule: a turn whose task cannot run is left out, and one whose task blocks or ends
// before is over then.
func Follow(ctx context.Context, p Program, s Schedule, o Options) (*Outcome, error) {
	o.complete()
	return execute(ctx, p, &o, &turns{s: s}, true)
}

// Shrink looks for a schedule with fewer switches under which the program still fails: fewer preemptions, or as many and fewer turns. It
// leaves turns out, one or two at a time, as long as that helps.
func Shrink(ctx context.Context, p Program, failing *Outcome, o Options) (*Outcome, error) {
	o.complete()
	best := failing
	for {
		better, err := shrinkOnce(ctx, p, best, &o)
		if err != nil || better == nil {
			return best, err
		}
		best = better
	}
}

func shrinkOnce(ctx context.Context, p Program, best *Outcome, o *Options) (*Outcome, error) {
	s := best.Schedule
	for width := 1; width <= 2; width++ {
		for i := 0; i+width <= len(s); i++ {
			less := make(Schedule, 0, len(s))
			less = append(append(less, s[:i]...), s[i+width:]...)
			out, err := execute(ctx, p, o, &turns{s: less}, false)
			if err != nil {
				return nil, err
			}
			if out.Err != nil && simpler(out, best) {
				return out, nil
			}
		}
	}
	return nil, nil
}

func simpler(a, b *Outcome) bool {
	if a.preemptions != b.preemptions {
		return a.preemptions < b.preemptions
	}
	return len(a.Schedule) < len(b.Schedule)
}

// turns follows a schedule as far as that is possible.
type turns struct {
	s   Schedule
	i   int    // the turn that is going on
	bad string // the first reason why it was not possible
}

func (c *turns) diverged(format string, args ...any) {
	if c.bad == "" {
		c.bad = fmt.Sprintf(format, args...)
	}
}

func (c *turns) next(r *Run, stop Turn, ready []*task) *task {
	if c.i < len(c.s) && stop == c.s[c.i] {
		c.i++
	} else if stop.Point == PointEnd || stop.Point == PointBlocked {
		for c.i < len(c.s) && c.s[c.i].Task == stop.Task {
			c.diverged("turn %d, %v, ended at %v", c.i+1, c.s[c.i], stop)
			c.i++
		}
	}
	for ; c.i < len(c.s); c.i++ {
		want := c.s[c.i]
		for _, t := range ready {
			if t.Name == want.Task {
				return t
			}
		}
		c.diverged("turn %d, %v: the task cannot run", c.i+1, want)
	}
	return ready[0]
}
