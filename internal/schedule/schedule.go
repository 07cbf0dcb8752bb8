// Package schedule explores how concurrent tasks can be interleaved.
//
// # The idea
//
// Tasks are goroutines that run real code. Where it matters in which order things happen that code has named points: hooks that are
// nil in use. While a program is explored, exactly one task runs at any time; whenever it comes to a point, blocks or ends, it is
// decided who goes on. What happens is therefore determined by these decisions alone, and can be enumerated, drawn at random,
// repeated and made simpler.
//
// A [Program] makes a world anew for each run: the tasks, and a check of what they did. [Explore] runs all schedules
// with up to so many preemptions, fewest first; [Random] draws schedules by priorities; [Replay] repeats one with all its events;
// [Shrink] looks for the fewest switches with which a program still fails.
//
// # What a program has to do
//
//   - Its hooks call [Run.Point] with the context of the task. Calls with other contexts, those of background goroutines, do nothing.
//   - It hands [Run.Locks] to the graph of its six locks, and tells by [Run.Bind] which locker belongs to which task: so it
//     is known who is blocked and who is not, without timeouts.
//   - Nothing else may make a task wait for another: no mutex is held at a point that another task wants. A task may wait for a
//     background goroutine that needs nothing of the tasks; to the others that looks as if it had run all the time.
//   - Apart from the schedule, nothing may decide what it does: no timers, no random numbers, no background goroutines
//     that act by themselves.
//
// Breaking the last rule is noticed when a schedule cannot be repeated ([ErrDiverged]), breaking the one before it when a task does not come
// to a point for a long time ([ErrStuck]).
//
// # Schedules as text
//
// A schedule is written as the turns that the tasks take, each with where it ends:
//
//	first:claim:scanned second:end first:end
//
// The first task runs until it comes to the point claim:scanned, then the second runs to its end, then the first does. A number says at
// which of several visits of the task to the point its turn ends (claim:scanned#3); "blocked" and "end" stand for a lock
// that it has to wait for, and for its end.
package schedule

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Task is one of the goroutines whose interleavings are explored. Its name has neither spaces nor colons.
type Task struct {
	Name string
	Do   func(ctx context.Context) error
}

// World is what one run of a program consists of.
type World struct {
	Tasks []Task
	// Check is called once all tasks have ended, with what they returned. It judges the run: an error means that
	// the schedule has found something. It also cleans up. nil: the errors of the tasks are what there is to be found.
	Check func(errs []error) error
}

// Program makes the world of a run. Worlds have nothing to do with each other, as several may exist at a time. An error ends the exploration.
type Program func(r *Run) (*World, error)

// Points at which turns end, beside those that programs name.
const (
	PointBlocked = "blocked" // the task waits for a lock
	PointEnd     = "end"     // the task has ended
)

// Turn is what a task runs in one go.
type Turn struct {
	Task  string
	Point string // where it ends
	Visit int    // the how manieth visit of the task to the point it is, from 1 on
}

func (t Turn) String() string {
	if t.Visit > 1 {
		return fmt.Sprintf("%s:%s#%d", t.Task, t.Point, t.Visit)
	}
	return t.Task + ":" + t.Point
}

// Schedule is the turns of a run. What is behind the last one follows by itself: the running task goes on as long as it can.
type Schedule []Turn

func (s Schedule) String() string {
	words := make([]string, len(s))
	for i := range s {
		words[i] = s[i].String()
	}
	return strings.Join(words, " ")
}

// Parse reads the text of a schedule.
func Parse(text string) (Schedule, error) {
	var s Schedule
	for _, word := range strings.Fields(text) {
		task, point, ok := strings.Cut(word, ":")
		t := Turn{Task: task, Point: point, Visit: 1}
		if p, n, numbered := strings.Cut(point, "#"); numbered {
			v, err := strconv.Atoi(n)
			if err != nil || v < 1 {
				return nil, fmt.Errorf("schedule: %q: %q is no number of a visit", word, n)
			}
			t.Point, t.Visit = p, v
		}
		if !ok || t.Task == "" || t.Point == "" {
			return nil, fmt.Errorf("schedule: %q is no task:point", word)
		}
		s = append(s, t)
	}
	return s, nil
}

// Errors of the exploration itself, as opposed to what it finds.
var (
	// ErrDiverged means that a schedule could not be followed: the program does something else than when the schedule was made.
	ErrDiverged = errors.New("the program does not follow the schedule")
	// ErrStuck means that a task waits for something that is not known to be a wait.
	ErrStuck = errors.New("a task is stuck")
	// ErrEndless means that a run has more steps than [Options.MaxSteps].
	ErrEndless = errors.New("the tasks come to no end")
)

// Options say how programs are run. The zero value is good.
type Options struct {
	// Points chooses at which points tasks may be switched; nil: at all.
	Points func(point string) bool
	// Workers is how many runs there are at a time; 0: 1.
	Workers int
	// MaxSteps is how many points the tasks of a run may come to; 0: 100,000.
	MaxSteps int
	// StuckAfter is how long a task may take from one point to the next; 0: 20 s.
	StuckAfter time.Duration
}

func (o *Options) complete() {
	if o.Workers == 0 {
		o.Workers = 1
	}
	if o.MaxSteps == 0 {
		o.MaxSteps = 100_000
	}
	if o.StuckAfter == 0 {
		o.StuckAfter = 20 * time.Second
	}
}

// Event is something that happened in a run that was traced.
type Event struct {
	Task   int    // index
	Point  string // PointBlocked and PointEnd among them; "resumed", or "" for notes
	Detail string
	Turn   int // in how manieth turn
}

// PointResumed is the point of the event that a task runs on that was blocked.
const PointResumed = "resumed"

// Outcome is what came of one run.
type Outcome struct {
	Err      error // what [World.Check] found
	Schedule Schedule
	Events   []Event // of runs that were traced
	Steps    int     // points that the tasks came to

	preemptions int // switches away from a task that could have gone on
}

// Preemptions is how often a task was interrupted that could have gone on.
func (o *Outcome) Preemptions() int { return o.preemptions }
