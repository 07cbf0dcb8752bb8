package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"github.com/go-bcachefs/bcachefs/internal/racedemo"
)

// race is one invocation of the command.
type race struct {
	a        *app
	o        racedemo.Options
	json     bool
	svg      string
	schedule string
	pace     time.Duration // between two lines of a timeline, for a person to follow
}

func newRaceCmd(a *app) *cobra.Command {
	r := &race{a: a}
	c := a.command(&cobra.Command{
		Use:   "race [flags]",
		Short: "Show the race in which two tasks get the same bucket, and what prevents it",
		Long: "Runs the allocator, key cache, transactions and journal on a filesystem in memory, with tasks that allocate a\n" +
			"bucket, write to it, commit, release it and allocate the next, under all schedules with a few preemptions:\n" +
			"first with the protections against the duplicate-bucket race switched off, then on. Prints what the tasks do\n" +
			"in the simplest schedule that gives a bucket to two of them, and in the same one with a protection on.\n" +
			"docs/allocator.md tells the story.",
		Args: cobra.NoArgs,
	}, func(ctx context.Context, _ []string) error { return r.run(ctx) })
	f := c.Flags()
	f.IntVar(&r.o.Tasks, "tasks", 2, "how many tasks allocate")
	f.IntVar(&r.o.Rounds, "rounds", 2, "how many buckets each gets, one after the other")
	f.IntVar(&r.o.Preemptions, "preemptions", 2, "run all schedules that interrupt tasks so often")
	f.BoolVar(&r.o.Freelist, "freelist", false, "use the freelist allocator instead of the early one")
	f.BoolVar(&r.o.Cleaner, "discard", false, "tasks delete too, and one more gives up cached data and discards")
	f.BoolVar(&r.o.Fine, "each-lock", false, "let tasks be interrupted before each lock too")
	f.StringVar(&r.schedule, "schedule", "", "run this schedule only, with protections off and on")
	f.StringVar(&r.svg, "svg", "", "write the timelines to this file, as a picture")
	jsonFlag(c, &r.json)
	return c
}

// raceCase is a set of protections.
type raceCase struct {
	key, name string
	o         racedemo.Options
	broken    bool // double allocations are to be found
}

// cases are what is explored: all protections off, each alone, all on.
func (r *race) cases() []raceCase {
	with := func(noRule, noRecheck, noSlotLock bool) racedemo.Options {
		o := r.o
		o.NoRule, o.NoRecheck, o.NoSlotLock = noRule, noRecheck, noSlotLock
		return o
	}
	if r.o.Freelist {
		return []raceCase{
			{"protections_off", "the bucket's slot is not kept locked", with(true, true, true), true},
			{"protections_on", "it is", with(false, false, false), false},
		}
	}
	return []raceCase{
		{"protections_off", "none", with(true, true, false), true},
		{"rule_only", "iterators hold slots", with(false, true, false), false},
		{"recheck_only", "looks again", with(true, false, false), false},
		{"protections_on", "both", with(false, false, false), false},
	}
}

// raceJSON is what is told of a case.
type raceJSON struct {
	Found       int     `json:"found"`
	Caught      int     `json:"caught"`
	Schedules   int     `json:"schedules"`
	Exhausted   bool    `json:"exhausted"`
	Preemptions int     `json:"preemptions"`
	Seconds     float64 `json:"seconds"`
	Schedule    string  `json:"schedule,omitempty"`
}

func (r *race) run(ctx context.Context) error {
	if r.o.Preemptions < 0 {
		return usagef("race: %d preemptions", r.o.Preemptions)
	}
	if r.schedule != "" && r.json {
		return usagef("race: --schedule runs one schedule, of which --json has nothing to count")
	}
	r.o.Remove = r.o.Cleaner
	r.o.Workers = runtime.GOMAXPROCS(0)
	if r.a.outTTY {
		r.pace = 80 * time.Millisecond
	}
	if r.schedule != "" {
		return r.panels(ctx, r.schedule)
	}
	return r.explore(ctx)
}

// explore runs all cases.
func (r *race) explore(ctx context.Context) error {
	if !r.json {
		r.intro()
	}
	var results []*racedemo.Result
	cases := r.cases()
	for i, c := range cases {
		res, err := racedemo.Run(ctx, c.o)
		if err != nil {
			return failed("race", "", err)
		}
		results = append(results, res)
		if i > 0 || r.json && r.svg == "" || res.Schedule == "" {
			continue
		}
		if !r.json {
			r.foundOne(res)
		}
		if err := r.panels(ctx, res.Schedule); err != nil {
			return err
		}
	}
	if r.json {
		all := map[string]raceJSON{}
		for i, c := range cases {
			res := results[i]
			all[c.key] = raceJSON{res.Found, res.Caught, res.Schedules, res.Exhausted, r.o.Preemptions, res.Elapsed.Seconds(), res.Schedule}
		}
		if err := r.a.writeJSON(all); err != nil {
			return err
		}
	} else {
		r.table(cases, results)
	}
	return verdict(cases, results)
}

// verdict is an error if anything came out that should not.
func verdict(cases []raceCase, results []*racedemo.Result) error {
	for i, c := range cases {
		switch res := results[i]; {
		case !c.broken && res.Found > 0:
			return failed("race", "", fmt.Errorf("a bucket was given to two tasks although it was protected (%s): %s", c.name, res.Schedule))
		case c.broken && res.Found == 0:
			return failed("race", "", errors.New("no schedule gave a bucket to two tasks: there are too few tasks, rounds or preemptions"))
		case res.Caught != res.Found:
			return failed("race", "", fmt.Errorf("%d double allocations were not caught", res.Found-res.Caught))
		}
	}
	return nil
}

// panel is a timeline under a title.
type panel struct {
	title string
	racedemo.Timeline
}

// panels runs a schedule with the protections off and with the first one on, and shows both.
func (r *race) panels(ctx context.Context, schedule string) error {
	var all []panel
	titles := []string{"Without protection", "The same schedule, iterators hold the slots of what they read"}
	if r.o.Freelist {
		titles[1] = "The same schedule, with the slot's lock kept"
	}
	for i, c := range r.cases()[:len(titles)] {
		t, err := racedemo.Follow(ctx, c.o, schedule)
		if err != nil {
			return failed("race", "", err)
		}
		all = append(all, panel{titles[i], t})
		if r.json {
			continue
		}
		if err := r.show(ctx, &all[i]); err != nil {
			return err
		}
	}
	if r.svg == "" {
		return nil
	}
	if err := os.WriteFile(r.svg, raceSVG(schedule, all), 0o666); err != nil {
		return failed("writing the picture", r.svg, err)
	}
	return nil
}
