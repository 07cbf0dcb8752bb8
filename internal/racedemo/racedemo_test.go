package racedemo

import (
	"errors"
	"slices"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/alloc"
)

const (
	theSchedule  = "first:claim:scanned second:end first:end"
	lockSchedule = "first:claim:locked second:end first:end"
)

// With both protections off there are schedules that give a bucket to two tasks, and the tripwire catches each; with either on, there
// are none among all within the bound.
func TestRace(t *testing.T) {
	off := func(o Options) Options { o.NoRule, o.NoRecheck = true, true; return o }
	rule := func(o Options) Options { o.NoRecheck = true; return o }
	recheck := func(o Options) Options { o.NoRule = true; return o }
	on := func(o Options) Options { return o }
	noSlotLock := func(o Options) Options { o.NoSlotLock = true; return o }
	two, three := Options{Preemptions: maxPreemptions}, Options{Tasks: 3, Rounds: 1, Preemptions: 1}
	cleaner := Options{Rounds: 1, Remove: true, Cleaner: true, Preemptions: 1}
	fine := Options{Fine: true, Preemptions: 1}
	freelist := Options{Freelist: true, Preemptions: 1}
	freelist3 := Options{Freelist: true, Tasks: 3, Rounds: 1, Preemptions: 1}
	freelistCleaner := Options{Freelist: true, Rounds: 1, Remove: true, Cleaner: true, Preemptions: 1}
	for _, tt := range []struct {
		name     string
		o        Options
		schedule string // "": none is found
	}{
		{"two tasks, off", off(two), theSchedule},
		{"two tasks, rule", rule(two), ""},
		{"two tasks, recheck", recheck(two), ""},
		{"two tasks, both", on(two), ""},
		{"two tasks, each lock, off", off(fine), theSchedule},
		{"two tasks, each lock, rule", rule(fine), ""},
		{"two tasks, each lock, recheck", recheck(fine), ""},
		{"three tasks, off", off(three), theSchedule + " third:end"},
		{"three tasks, rule", rule(three), ""},
		{"three tasks, recheck", recheck(three), ""},
		{"with discards, off", off(cleaner), theSchedule + " cleaner:end"},
		{"with discards, rule", rule(cleaner), ""},
		{"with discards, recheck", recheck(cleaner), ""},
		// The freelist allocator never claims without looking again; what it stands on is the slot's lock.
		{"freelist, off", off(freelist), ""},
		{"freelist, no lock", noSlotLock(freelist), lockSchedule},
		{"freelist, both", on(freelist), ""},
		{"freelist, three tasks, no lock", noSlotLock(freelist3), lockSchedule + " third:end"},
		{"freelist, three tasks, both", on(freelist3), ""},
		{"freelist, with discards, both", on(freelistCleaner), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.o.Workers = 2
			r, err := Run(t.Context(), tt.o)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d of %d schedules in %v", r.Found, r.Schedules, r.Elapsed)
			if found := r.Found > 0; found != (tt.schedule != "") || !r.Exhausted || r.Schedules < 20 {
				t.Fatalf("%d of %d schedules, exhausted: %v: %s", r.Found, r.Schedules, r.Exhausted, r.Schedule)
			}
			if r.Caught != r.Found {
				t.Errorf("%d of %d were caught", r.Caught, r.Found)
			}
			if r.Schedule != tt.schedule {
				t.Errorf("shrunk to %q, want %q", r.Schedule, tt.schedule)
			}
			if tt.schedule == "" {
				return
			}
			var bad *alloc.BucketError
			if d := r.Timeline.Double; d == nil || d.First != "second" || d.Second != "first" || !errors.As(d.Caught, &bad) || uint64(bad.Bucket) != d.Bucket {
				t.Errorf("found %v", d)
			}
		})
	}
}

// Chance finds it too, with more tasks than all schedules of which can be run.
func TestRandom(t *testing.T) {
	o := Options{Tasks: 4, Rounds: 2, Remove: true, Cleaner: true, Fine: true, Random: randomSchedules, Depth: 3, Seed: 1, Workers: 2, NoRecheck: true}
	r, err := Run(t.Context(), o)
	if err != nil || r.Found > 0 || r.Schedules != o.Random || r.Exhausted {
		t.Errorf("with the rule: %+v, %v", r, err)
	}
	o.NoRule, o.FirstOnly = true, true
	r, err = Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if r.Found != 1 || r.Preemptions != 1 {
		t.Errorf("without: %d of %d, %d preemptions: %s", r.Found, r.Schedules, r.Preemptions, r.Schedule)
	}
}

// The same options explore the same schedules.
func TestDeterministic(t *testing.T) {
	o := Options{Remove: true, Cleaner: true, Preemptions: 1, NoRule: true, NoRecheck: true, Workers: 1}
	first, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	o.Workers = 2
	second, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if first.Schedules != second.Schedules || first.Found != second.Found || first.Schedule != second.Schedule ||
		!slices.Equal(first.Timeline.Lines, second.Timeline.Lines) {
		t.Errorf("%+v\nand then %+v", first, second)
	}
}

// The timelines say what happens, without and with the rule.
func TestTimeline(t *testing.T) {
	for _, tt := range []struct {
		name string
		o    Options
		want []Line
	}{
		{"off", Options{Rounds: 1, NoRule: true, NoRecheck: true}, []Line{
			{0, "scan: bucket 1 is free", Plain},
			{0, "… is interrupted …", Pause},
			{1, "scan: bucket 1 is free", Plain},
			{1, "opens bucket 1: it is not open", Plain},
			{1, "writes its data to bucket 1", Plain},
			{1, "the write is done", Plain},
			{1, "commit: bucket 1 is in use", Plain},
			{1, "releases bucket 1", Plain},
			{0, "opens bucket 1: it is not open any more", Danger},
			{0, "writes its data to bucket 1", Plain},
			{0, "the write is done", Plain},
			{0, "starts its transaction again", Pause}, // to see in the backpointers whose the bucket is
			{0, "commit REFUSED: bucket 1 is not free", Caught},
			{0, "releases bucket 1", Plain},
		}},
		{"rule", Options{Rounds: 1, NoRecheck: true}, []Line{
			{0, "scan: bucket 1 is free", Plain},
			{0, "… is interrupted …", Pause},
			{1, "scan: bucket 1 is free", Plain},
			{1, "opens bucket 1: it is not open", Plain},
			{1, "writes its data to bucket 1", Plain},
			{1, "the write is done", Plain},
			{1, "has to wait for the slot of bucket 1", Good},
			{0, "bucket 1 is taken: on to the next", Good},
			{0, "scan: bucket 2 is free", Plain},
			{0, "opens bucket 2: it is not open", Plain},
			{0, "writes its data to bucket 2", Plain},
			{0, "the write is done", Plain},
			{0, "has to wait for a node of the extents btree", Pause},
			{1, "has what it waited for", Plain},
			{1, "commit: bucket 1 is in use", Plain},
			{1, "releases bucket 1", Plain},
			{0, "has what it waited for", Plain},
			{0, "commit: bucket 2 is in use", Plain},
			{0, "releases bucket 2", Plain},
		}},
		{"recheck", Options{Rounds: 1, NoRule: true}, []Line{
			{0, "scan: bucket 1 is free", Plain},
			{0, "… is interrupted …", Pause},
			{1, "scan: bucket 1 is free", Plain},
			{1, "locks its slot, reads it again", Plain},
			{1, "opens bucket 1: it is not open", Plain},
			{1, "writes its data to bucket 1", Plain},
			{1, "the write is done", Plain},
			{1, "commit: bucket 1 is in use", Plain},
			{1, "releases bucket 1", Plain},
			{0, "locks its slot, reads it again", Plain},
			{0, "bucket 1 is taken: on to the next", Good},
			{0, "scan: bucket 2 is free", Plain},
			{0, "locks its slot, reads it again", Plain},
			{0, "opens bucket 2: it is not open", Plain},
			{0, "writes its data to bucket 2", Plain},
			{0, "the write is done", Plain},
			{0, "commit: bucket 2 is in use", Plain},
			{0, "releases bucket 2", Plain},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tl, err := Follow(t.Context(), tt.o, theSchedule)
			if err != nil {
				t.Fatal(err)
			}
			if (tl.Double != nil) != (tt.name == "off") {
				t.Errorf("found %v", tl.Double)
			}
			if !slices.Equal(tl.Lines, tt.want) {
				for _, l := range tl.Lines {
					t.Logf("%+v", l)
				}
				t.Errorf("want %+v", tt.want)
			}
		})
	}
}

func TestOptions(t *testing.T) {
	for _, o := range []Options{{Tasks: -1}, {Tasks: maxTasks + 1}, {Rounds: -1}, {Tasks: 6, Rounds: 6}} {
		if _, err := Run(t.Context(), o); err == nil || errors.Is(err, ErrBroken) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	if _, err := Follow(t.Context(), Options{}, "nonsense"); err == nil {
		t.Error("nonsense was followed")
	}
}
