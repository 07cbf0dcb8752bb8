package main

import (
	"context"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-bcachefs/bcachefs/internal/racedemo"
)

// raceColours are the terminal's, by what a line means.
var raceColours = map[racedemo.Mood]string{
	racedemo.Pause:  "\x1b[2m",
	racedemo.Danger: "\x1b[1;31m",
	racedemo.Caught: "\x1b[1;33m",
	racedemo.Good:   "\x1b[32m",
}

const colourOff = "\x1b[0m"

// raceMarks say without colours what a line means.
var raceMarks = map[racedemo.Mood]string{racedemo.Danger: "!", racedemo.Caught: "X", racedemo.Good: "+"}

func (r *race) printf(format string, args ...any) { fmt.Fprintf(r.a.out, format, args...) }

func (r *race) intro() {
	which := "early"
	if r.o.Freelist {
		which = "freelist"
	}
	r.printf("%d tasks each allocate a bucket, write, commit, release it, and again: %d rounds, by the %s allocator.\n", r.o.Tasks, r.o.Rounds,
		which)
	r.printf("All schedules with up to %s are run.\n", count(r.o.Preemptions, "preemption"))
}

func count(n int, what string) string {
	if n == 1 {
		return fmt.Sprintf("1 %s", what)
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// foundOne tells what was found without protection.
func (r *race) foundOne(res *racedemo.Result) {
	r.printf("\nWithout protection %d of %s give a bucket to two tasks. The simplest one is\n\n    %s\n", res.Found,
		count(res.Schedules, "schedule"), res.Schedule)
}

// show prints a timeline, a column for each task.
func (r *race) show(ctx context.Context, p *panel) error {
	width := max(28, 84/len(p.Tasks))
	r.printf("\n%s:\n\n", p.title)
	row := func(task int, text, mark, colour string) {
		var b strings.Builder
		fmt.Fprintf(&b, "%1s ", mark)
		for i := range p.Tasks {
			cell := ""
			if i == task || task < 0 {
				cell = text
			}
			if task < 0 {
				cell = p.Tasks[i]
			}
			if i > 0 {
				b.WriteString(" │ ")
			}
			if cell != "" && colour != "" {
				cell = colour + pad(cell, width) + colourOff
			} else {
				cell = pad(cell, width)
			}
			b.WriteString(cell)
		}
		r.printf("%s\n", strings.TrimRight(b.String(), " "))
	}
	row(-1, "", "", "")
	r.printf("  %s\n", strings.Repeat(strings.Repeat("─", width)+"─┼─", len(p.Tasks)-1)+strings.Repeat("─", width))
	for _, l := range p.Lines {
		colour := ""
		if r.a.outTTY {
			colour = raceColours[l.Mood]
		}
		for i, text := range wrap(l.Text, width) {
			mark := ""
			if i == 0 {
				mark = raceMarks[l.Mood]
			}
			row(l.Task, text, mark, colour)
		}
		if err := r.wait(ctx); err != nil {
			return err
		}
	}
	if p.Double != nil {
		r.printf("\n  %s\n", strings.Join(wrap(p.Double.Error(), 100), "\n  "))
	}
	return nil
}

// wait lets a person read a line.
func (r *race) wait(ctx context.Context) error {
	if r.pace == 0 {
		return nil
	}
	if err := r.a.out.Flush(); err != nil {
		return failed("writing the output", "", err)
	}
	select {
	case <-time.After(r.pace):
		return nil
	case <-ctx.Done():
		return failed("race", "", ctx.Err())
	}
}

// table prints what came of all cases.
func (r *race) table(cases []raceCase, results []*racedemo.Result) {
	r.printf("\n  %-38s %10s %8s %8s %9s %8s\n", "protection", "schedules", "double", "caught", "complete", "seconds")
	for i, c := range cases {
		res := results[i]
		complete := "no"
		if res.Exhausted {
			complete = "yes"
		}
		r.printf("  %-38s %10d %8d %8d %9s %8.2f\n", c.name, res.Schedules, res.Found, res.Caught, complete, res.Elapsed.Seconds())
	}
}

func pad(s string, width int) string {
	return s + strings.Repeat(" ", max(0, width-utf8.RuneCountInString(s)))
}

// wrap breaks a text at spaces into lines of a width. Longer words are left whole.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		switch {
		case line == "":
			line = word
		case utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) <= width:
			line += " " + word
		default:
			lines = append(lines, line)
			line = word
		}
	}
	return append(lines, line)
}
