package racedemo

import (
	"errors"
	"fmt"
	"strings"

	"github.com/go-bcachefs/bcachefs/internal/alloc"
	"github.com/go-bcachefs/bcachefs/internal/schedule"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// Mood says what a line of a timeline means for the story.
type Mood string

// Moods of lines.
const (
	Plain  Mood = ""
	Pause  Mood = "pause"  // a task is interrupted, or waits
	Danger Mood = "danger" // a bucket gets a second owner
	Caught Mood = "caught" // the tripwire
	Good   Mood = "good"   // a protection at work
)

// Line is something that a task did.
type Line struct {
	Task int    `json:"task"`
	Text string `json:"text"`
	Mood Mood   `json:"mood,omitempty"`
}

// Timeline is what the tasks of a run did, in order.
type Timeline struct {
	Tasks []string `json:"tasks"`
	Lines []Line   `json:"lines"`
	// Double is the bucket that had two owners, and what they were; nil if there was none.
	Double *Double `json:"-"`
}

// Notes of tasks.
const (
	noteGot     = "got"
	noteDouble  = "double"
	noteRemove  = "remove"
	noteTripped = "tripped "
)

// slotOfBucket is how the lock is called that the protections stand on.
const slotOfBucket = "the slot of bucket "

// timeline tells the story of a run.
func (d *demo) timeline(out *schedule.Outcome) Timeline {
	t := Timeline{Tasks: d.o.names()}
	errors.As(out.Err, &t.Double)
	s := teller{t: &t, state: make([]taskState, len(t.Tasks)), unlocked: d.o.NoSlotLock}
	for i, e := range out.Events {
		s.tell(&e)
		if i+1 < len(out.Events) && out.Events[i+1].Turn != e.Turn && e.Point != schedule.PointBlocked && e.Point != schedule.PointEnd {
			s.add(e.Task, "… is interrupted …", Pause)
		}
	}
	return t
}

type taskState struct {
	scanned, open string // buckets
}

// teller makes lines of events.
type teller struct {
	t     *Timeline
	state []taskState
	// unlocked: claims do not keep the slot locked.
	unlocked bool
}

func (s *teller) add(task int, text string, m Mood) {
	s.t.Lines = append(s.t.Lines, Line{task, text, m})
}

func (s *teller) tell(e *schedule.Event) {
	st := &s.state[e.Task]
	say := func(m Mood, format string, args ...any) { s.add(e.Task, fmt.Sprintf(format, args...), m) }
	switch alloc.Point(e.Point) {
	case alloc.PointScanned:
		if st.scanned != "" && st.scanned != e.Detail {
			say(Good, "bucket %s is taken: on to the next", st.scanned)
		}
		st.scanned = e.Detail
		say(Plain, "scan: bucket %s is free", e.Detail)
	case alloc.PointLocked:
		if s.unlocked {
			say(Plain, "reads its key again, keeps no lock")
			break
		}
		say(Plain, "locks its slot, reads it again")
	case alloc.PointReleased:
		say(Plain, "releases bucket %s", e.Detail)
		st.open = ""
	case alloc.PointDiscard:
		say(Plain, "bucket %s is to be discarded", e.Detail)
	case alloc.PointDiscarded:
		say(Plain, "discards bucket %s", e.Detail)
	}
	switch e.Point {
	case pointSubmit:
		say(Plain, "writes its data to bucket %s", e.Detail)
	case pointComplete:
		say(Plain, "the write is done")
	case string(trans.PointCommitted):
		if st.open != "" {
			say(Plain, "commit: bucket %s is in use", st.open)
		}
	case string(trans.PointRestart):
		say(Pause, "starts its transaction again")
	case schedule.PointBlocked:
		m := Pause
		if strings.HasPrefix(e.Detail, slotOfBucket) {
			m = Good
		}
		say(m, "has to wait for %s", e.Detail)
	case schedule.PointResumed:
		say(Plain, "has what it waited for")
	}
	if e.Point != "" {
		return
	}
	// What a task was given is what it scanned last.
	switch b := st.scanned; {
	case e.Detail == noteGot:
		say(Plain, "opens bucket %s: it is not open", b)
		st.open, st.scanned = b, ""
	case e.Detail == noteDouble:
		say(Danger, "opens bucket %s: it is not open any more", b)
		st.open, st.scanned = b, ""
	case e.Detail == noteRemove:
		say(Plain, "deletes its first extent")
	case strings.HasPrefix(e.Detail, noteTripped):
		say(Caught, "commit REFUSED: bucket %s is not free", st.open)
	}
}
