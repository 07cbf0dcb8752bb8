package schedule

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/six"
)

// Run is one execution of a program's tasks. Its methods are what hooks call; they are safe for concurrent use.
type Run struct {
	opts  *Options
	trace bool
	// NameLock, if the program sets it, says in traces what a lock protects. It is called by who waits for it, and must not take six locks.
	NameLock func(*six.Lock) string

	mu      sync.Mutex
	choose  chooser
	tasks   []*task
	running *task // nil: nobody can run
	ready   []*task
	lockers map[*six.Locker]*task
	events  []Event
	turns   Schedule
	out     Outcome
	left    int  // tasks that have not ended
	free    bool // the run was given up: tasks run as they like
	failure error
	done    chan struct{} // closed when no task is left, or the run is given up
	cancel  context.CancelFunc
}

// task is the state of one task.
type task struct {
	Task
	run     *Run
	index   int
	wake    chan struct{} // gets a token when it is the task's turn
	visits  map[string]int
	blocked bool
	ended   bool
	err     error
}

// chooser decides who goes on. It is called under Run.mu.
type chooser interface {
	// next returns one of ready, which has one task at least: those that can run, in their order, but first the one that
	// stopped if it is among them. stop is where it stopped; its task is empty at the start.
	next(r *Run, stop Turn, ready []*task) *task
}

type taskKey struct{}

func taskOf(ctx context.Context) *task {
	t, _ := ctx.Value(taskKey{}).(*task)
	return t
}

// execute runs a program once.
func execute(ctx context.Context, p Program, o *Options, c chooser, trace bool) (*Outcome, error) {
	r := &Run{opts: o, trace: trace, choose: c, lockers: map[*six.Locker]*task{}, done: make(chan struct{})}
	world, err := p(r)
	if err != nil {
		return nil, err
	}
	ctx, r.cancel = context.WithCancel(ctx)
	defer r.cancel()
	var wg sync.WaitGroup
	r.mu.Lock()
	r.left = len(world.Tasks)
	for i, t := range world.Tasks {
		r.tasks = append(r.tasks, &task{Task: t, run: r, index: i, wake: make(chan struct{}, 1), visits: map[string]int{}})
	}
	for _, t := range r.tasks {
		wg.Go(func() { t.main(context.WithValue(ctx, taskKey{}, t)) })
	}
	r.goOn(Turn{}, nil)
	r.mu.Unlock()
	if !r.wait() {
		return nil, r.failure // its goroutines are lost
	}
	wg.Wait()
	errs := make([]error, len(r.tasks))
	for i, t := range r.tasks {
		errs[i] = t.err
	}
	if world.Check == nil {
		r.out.Err = errors.Join(errs...)
	} else {
		r.out.Err = world.Check(errs)
	}
	r.out.Schedule, r.out.Events = r.turns, r.events
	return &r.out, r.failure
}

// wait waits until the tasks have ended; false: one is stuck.
func (r *Run) wait() bool {
	timer := time.NewTicker(r.opts.StuckAfter)
	defer timer.Stop()
	steps := -1
	for {
		select {
		case <-r.done:
			return true
		case <-timer.C:
		}
		r.mu.Lock()
		if r.free { // and has not ended all the same
			r.mu.Unlock()
			return false
		}
		if r.out.Steps == steps {
			name := "no task"
			if r.running != nil {
				name = "task " + r.running.Name
			}
			r.giveUp(fmt.Errorf("%w: %s has not come to a point for long; schedule %v", ErrStuck, name, r.turns))
			r.mu.Unlock()
			return false
		}
		steps = r.out.Steps
		r.mu.Unlock()
	}
}

// giveUp ends a run that is good for nothing: tasks run freely from now on, with their context cancelled. The caller holds mu.
func (r *Run) giveUp(err error) {
	if r.free {
		return
	}
	r.free, r.failure = true, err
	r.cancel()
	for _, t := range r.tasks {
		t.signal()
	}
}

func (t *task) signal() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// main is the goroutine of a task.
func (t *task) main(ctx context.Context) {
	<-t.wake
	defer t.end()
	defer func() {
		if p := recover(); p != nil {
			t.err = fmt.Errorf("task %s panicked: %v\n%s", t.Name, p, debug.Stack())
		}
	}()
	t.err = t.Do(ctx)
}

func (t *task) end() {
	r := t.run
	r.mu.Lock()
	defer r.mu.Unlock()
	t.ended = true
	t.visits[PointEnd]++
	r.event(t, PointEnd, "")
	r.left--
	if r.left == 0 {
		if !r.free {
			r.turns = append(r.turns, Turn{t.Name, PointEnd, 1})
		}
		close(r.done)
		return
	}
	if !r.free {
		r.goOn(Turn{t.Name, PointEnd, 1}, t)
	}
}

// goOn decides who runs after t stopped, which is nil at the start, and lets it. It returns who that is, nil if nobody can run. The
// caller holds mu.
func (r *Run) goOn(stop Turn, t *task) *task {
	r.ready = r.ready[:0]
	if t != nil && t.canRun() {
		r.ready = append(r.ready, t)
	}
	for _, o := range r.tasks {
		if o != t && o.canRun() {
			r.ready = append(r.ready, o)
		}
	}
	if len(r.ready) == 0 { // a background goroutine has what all wait for
		r.turns = append(r.turns, stop)
		r.running = nil
		return nil
	}
	next := r.choose.next(r, stop, r.ready)
	if next == t {
		return t
	}
	if t != nil {
		r.turns = append(r.turns, stop)
		if t.canRun() {
			r.out.preemptions++
		}
	}
	r.running = next
	next.signal()
	return next
}

func (t *task) canRun() bool { return !t.ended && !t.blocked }

// event traces. The caller holds mu.
func (r *Run) event(t *task, point, detail string) {
	if r.trace {
		r.events = append(r.events, Event{t.index, point, detail, len(r.turns)})
	}
}

// Tracing reports whether details of points are wanted.
func (r *Run) Tracing() bool { return r.trace }

// Point is called by a task that comes to a point, with its context. It returns when it is the task's turn to go on. The detail is for
// traces only, see [Run.Tracing].
func (r *Run) Point(ctx context.Context, point, detail string) {
	t := taskOf(ctx)
	if t == nil || t.run != r {
		return
	}
	r.mu.Lock()
	if r.free {
		r.mu.Unlock()
		return
	}
	if r.running != t {
		r.giveUp(fmt.Errorf("%w: task %s comes to %s and it is not its turn; schedule %v", ErrStuck, t.Name, point, r.turns))
		r.mu.Unlock()
		return
	}
	t.visits[point]++
	r.event(t, point, detail)
	if r.out.Steps++; r.out.Steps > r.opts.MaxSteps {
		r.giveUp(fmt.Errorf("%w after %d steps; schedule %v", ErrEndless, r.opts.MaxSteps, r.turns))
	}
	if r.free || r.opts.Points != nil && !r.opts.Points(point) || r.goOn(Turn{t.Name, point, t.visits[point]}, t) == t {
		r.mu.Unlock()
		return
	}
	r.mu.Unlock()
	<-t.wake
}

// Note adds a remark of a task to the trace; tasks are not switched there.
func (r *Run) Note(ctx context.Context, text string) {
	t := taskOf(ctx)
	if t == nil || t.run != r || !r.trace {
		return
	}
	r.mu.Lock()
	r.event(t, "", text)
	r.mu.Unlock()
}

// TaskOf returns the index of the task that a context belongs to, -1 if it is none.
func TaskOf(ctx context.Context) int {
	if t := taskOf(ctx); t != nil {
		return t.index
	}
	return -1
}
