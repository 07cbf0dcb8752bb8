// Package racedemo shows the race in which two tasks are given the same bucket, and what makes it impossible.
//
// A few tasks allocate a bucket, write to it, commit a pointer to it, release it and allocate the next, on a filesystem in memory. Allocator,
// key cache, transactions, triggers and journal are the real ones. A schedule explorer (package schedule) decides at each of their
// named points which task goes on. Two protections can be switched off: the rule that whoever reads a position of a cached btree holds its slot
// in the key cache ([trans.FaultNoSlotRule]), and the early allocator's second look at what its scan found ([alloc.FaultNoRecheck]).
// With both off there are schedules in which a bucket gets two owners; with either on there are none.
//
// Two witnesses watch. One keeps a list, beside the filesystem, of which task was given which bucket since it was free. The other is the filesystem's own
// tripwire: the commit that would add the second owner's pointer fails with an [alloc.BucketError]. A schedule counts as found if
// either does; with all protections on that would be an error of the filesystem ([ErrBroken]).
//
// The story is told in docs/allocator.md.
package racedemo

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/alloc"
	"github.com/go-bcachefs/bcachefs/internal/schedule"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// Options say what is explored. The zero value is two tasks over the early allocator, with all protections on and no preemptions.
type Options struct {
	// Tasks is how many tasks allocate; 0: 2. Rounds is how many buckets each gets, one after the other; 0: 2.
	Tasks, Rounds int
	// Freelist makes them use the freelist allocator instead of the early one.
	Freelist bool
	// Remove makes each task delete its first bucket's extent in the end.
	Remove bool
	// Cleaner adds a task that gives up cached data and discards what was emptied.
	Cleaner bool

	// NoRule and NoRecheck switch off the two protections. NoSlotLock makes claims read the bucket's alloc key without keeping its
	// slot locked, which is what the freelist allocator stands on.
	NoRule, NoRecheck, NoSlotLock bool

	// Preemptions bounds the schedules that are all run. Random is how many are drawn by chance instead, from Seed and with so many
	// decisions that have to be right.
	Preemptions int
	Random      int
	Depth       int
	Seed        uint64
	// FirstOnly ends the exploration when a double allocation was found.
	FirstOnly bool
	// Fine lets tasks be switched at each lock and lookup too, not only where something was read, decided or done.
	Fine bool
	// Workers is how many schedules are run at a time; 0: 1.
	Workers int
}

func (o *Options) complete() {
	if o.Tasks == 0 {
		o.Tasks = 2
	}
	if o.Rounds == 0 {
		o.Rounds = 2
	}
}

// maxTasks is how many tasks have names.
const maxTasks = 6

var taskNames = [maxTasks]string{"first", "second", "third", "fourth", "fifth", "sixth"}

const cleanerName = "cleaner"

func (o *Options) check() error {
	if o.Tasks < 1 || o.Tasks > maxTasks || o.Rounds < 1 || o.Tasks*o.Rounds > 32 {
		return fmt.Errorf("race: %d tasks of %d rounds: there may be %d tasks, and 32 rounds in all", o.Tasks, o.Rounds, maxTasks)
	}
	return nil
}

// buckets is how many buckets were in use and are free.
func (o *Options) buckets() int { return o.Tasks*o.Rounds + 2 }

func (o *Options) allocFaults() (f alloc.Fault) {
	if o.NoRecheck {
		f |= alloc.FaultNoRecheck
	}
	if o.NoSlotLock {
		f |= alloc.FaultNoSlotLock
	}
	return f
}

func (o *Options) transFaults() (f trans.Fault) {
	if o.NoRule {
		f |= trans.FaultNoSlotRule
	}
	return f
}

// protected tells whether all protections are on.
func (o *Options) protected() bool { return !o.NoRule && !o.NoRecheck && !o.NoSlotLock }

// names are those of the tasks.
func (o *Options) names() []string {
	names := append([]string(nil), taskNames[:o.Tasks]...)
	if o.Cleaner {
		names = append(names, cleanerName)
	}
	return names
}

// Result is what an exploration came to.
type Result struct {
	Schedules int           // that were run
	Found     int           // how many of them gave a bucket to two tasks
	Caught    int           // how many of those the tripwire ended, before there was a second pointer
	Exhausted bool          // all schedules within the bound were run
	Elapsed   time.Duration // of the exploration
	Steps     int           // points that the tasks of a schedule come to, at most

	// Of the first schedule that was found, shrunk to its fewest switches.
	Schedule    string
	Preemptions int
	Timeline    Timeline
}

// Double is the error of a schedule in which a task got a bucket that it should not have got.
type Double struct {
	Bucket uint64
	// First is the task whose bucket it was, from when it was given to it until it was free again. It is empty if the bucket was free, but not any
	// more in the generation in which task Second opened it: what that writes would count as overwritten long ago.
	First, Second string
	Caught        error // what the tripwire said; nil if it did not
}

func (d *Double) Error() string {
	msg := fmt.Sprintf("bucket %d was given to task %s while it was task %s's", d.Bucket, d.Second, d.First)
	if d.First == "" {
		msg = fmt.Sprintf("bucket %d was given to task %s in a generation that is over", d.Bucket, d.Second)
	}
	if d.Caught != nil {
		return msg + ", which was caught: " + d.Caught.Error()
	}
	return msg + ", and nothing caught it"
}

// ErrBroken means that something else went wrong than what is demonstrated.
var ErrBroken = errors.New("race: the filesystem is broken")

// Run explores.
func Run(ctx context.Context, o Options) (*Result, error) {
	d, err := newDemo(ctx, &o)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	var rep schedule.Report
	if o.Random > 0 {
		rep, err = schedule.Random(ctx, d.program, schedule.Draw{Seed: o.Seed, Schedules: o.Random, Depth: max(1, o.Depth), FirstOnly: o.FirstOnly},
			d.explore)
	} else {
		rep, err = schedule.Explore(ctx, d.program, schedule.Bound{Preemptions: o.Preemptions, FirstOnly: o.FirstOnly}, d.explore)
	}
	if err == nil {
		err = d.err()
	}
	if err != nil {
		return nil, err
	}
	res := &Result{Schedules: rep.Schedules, Found: rep.Found, Exhausted: rep.Exhausted, Elapsed: time.Since(start), Steps: rep.Steps,
		Caught: int(d.caught.Load())}
	if rep.First == nil {
		return res, nil
	}
	least, err := schedule.Shrink(ctx, d.program, rep.First, d.explore)
	if err != nil {
		return nil, err
	}
	res.Schedule, res.Preemptions = least.Schedule.String(), least.Preemptions()
	out, err := schedule.Replay(ctx, d.program, least.Schedule, d.explore)
	if err != nil {
		return nil, err
	}
	res.Timeline = d.timeline(out)
	return res, d.err()
}

// Follow runs the tasks under a schedule as far as it can be followed, and returns what happens. The schedule may be one that was found with other
// protections: a task whose turn it is and that has to wait for a lock leaves its turn to the next.
func Follow(ctx context.Context, o Options, text string) (Timeline, error) {
	s, err := schedule.Parse(text)
	if err != nil {
		return Timeline{}, err
	}
	d, err := newDemo(ctx, &o)
	if err != nil {
		return Timeline{}, err
	}
	out, err := schedule.Follow(ctx, d.program, s, d.explore)
	if err != nil {
		return Timeline{}, err
	}
	return d.timeline(out), d.err()
}

// newDemo makes what all runs of an exploration start from.
func newDemo(ctx context.Context, o *Options) (*demo, error) {
	o.complete()
	if err := o.check(); err != nil {
		return nil, err
	}
	img, err := makeImage(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("%w: making it: %w", ErrBroken, err)
	}
	d := &demo{o: o, img: img, explore: schedule.Options{Workers: o.Workers, Points: coarse}}
	if o.Fine {
		d.explore.Points = fine
	}
	return d, nil
}

// coarse are the points at which something was read that a decision stands on, or after which others see something else.
func coarse(point string) bool {
	switch trans.Point(point) {
	case trans.PointBegin, trans.PointEnd, trans.PointLock, trans.PointLookup:
		return false
	}
	return true
}

// fine are all points but where transactions begin, as nothing has happened there since the point before.
func fine(point string) bool { return trans.Point(point) != trans.PointBegin }

// once keeps the first error of several runs at a time.
type once struct {
	mu  sync.Mutex
	err error
}

func (e *once) set(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err == nil {
		e.err = err
	}
}

func (e *once) get() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.err
}
