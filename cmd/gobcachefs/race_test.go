package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/racedemo"
)

const raceSchedule = "first:claim:scanned second:end first:end"

func TestRace(t *testing.T) {
	svg := filepath.Join(t.TempDir(), "race.svg")
	r := runCLI(t.Context(), "", nil, "race", "--preemptions", "1", "--svg", svg)
	if r.code != 0 || r.err != "" {
		t.Fatalf("exit %d: %s", r.code, r.err)
	}
	for _, want := range []string{raceSchedule, "first   ", "│ second", "commit REFUSED: bucket 1 is not free", "bucket_allocated_twice",
		"has to wait for the slot of bucket 1", "iterators hold slots ", "4 of 34 schedules"} {
		if !strings.Contains(r.out, want) {
			t.Errorf("%q is not in what was printed:\n%s", want, r.out)
		}
	}
	if strings.Contains(r.out, "\x1b") {
		t.Error("colours although nobody looks")
	}
	picture, err := os.ReadFile(svg)
	if err != nil {
		t.Fatal(err)
	}
	texts := 0
	for d := xml.NewDecoder(bytes.NewReader(picture)); ; {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := tok.(xml.StartElement); ok && e.Name.Local == "text" {
			texts++
		}
	}
	if texts < 40 || !strings.Contains(string(picture), "REFUSED") || !strings.Contains(string(picture), "slot of bucket 1") {
		t.Errorf("the picture has %d texts", texts)
	}
}

// Programs get one object, in which the numbers are those of all schedules.
func TestRaceJSON(t *testing.T) {
	for _, tt := range []struct {
		args     []string
		schedule string
		cases    int
	}{
		{nil, raceSchedule, 4},
		{[]string{"--freelist"}, "first:claim:locked second:end first:end", 2},
		{[]string{"--tasks", "3", "--rounds", "1"}, raceSchedule + " third:end", 4},
		{[]string{"--rounds", "1", "--discard"}, raceSchedule + " cleaner:end", 4},
	} {
		t.Run(strings.Join(tt.args, " "), func(t *testing.T) {
			r := runCLI(t.Context(), "", nil, append([]string{"race", "--json", "--preemptions", "1"}, tt.args...)...)
			if r.code != 0 || r.err != "" {
				t.Fatalf("exit %d: %s", r.code, r.err)
			}
			var got map[string]raceJSON
			if err := json.Unmarshal([]byte(r.out), &got); err != nil {
				t.Fatal(err)
			}
			if len(got) != tt.cases {
				t.Errorf("%d cases", len(got))
			}
			for key, c := range got {
				if off := key == "protections_off"; c.Found > 0 != off || c.Caught != c.Found || !c.Exhausted || c.Schedules < 20 ||
					off && c.Schedule != tt.schedule || !off && c.Schedule != "" {
					t.Errorf("%s: %+v", key, c)
				}
			}
		})
	}
}

// A schedule can be run again by itself.
func TestRaceSchedule(t *testing.T) {
	r := runCLI(t.Context(), "", nil, "race", "--rounds", "1", "--schedule", "second:claim:scanned first:end second:end")
	if r.code != 0 || r.err != "" {
		t.Fatalf("exit %d: %s", r.code, r.err)
	}
	if !strings.Contains(r.out, "│ commit REFUSED: bucket 1 is not free") || strings.Contains(r.out, "double") {
		t.Errorf("printed\n%s", r.out)
	}
}

func TestRaceErrors(t *testing.T) {
	for _, tt := range []struct {
		args []string
		code int
		msg  string
	}{
		{[]string{"--preemptions", "-1"}, exitUsage, "preemptions"},
		{[]string{"--schedule", "first:end", "--json"}, exitUsage, "--schedule"},
		{[]string{"more"}, exitUsage, "want gobcachefs race"},
		{[]string{"--schedule", "first"}, exitFailed, "task:point"},
		{[]string{"--tasks", "7"}, exitFailed, "7 tasks"},
		{[]string{"--preemptions", "0"}, exitFailed, "no schedule gave a bucket to two tasks"},
		{[]string{"--preemptions", "1", "--svg", "/nowhere/race.svg"}, exitFailed, "/nowhere/race.svg"},
	} {
		r := runCLI(t.Context(), "", nil, append([]string{"race"}, tt.args...)...)
		if r.code != tt.code || !strings.Contains(r.err, tt.msg) || strings.Count(r.err, "\n") != 1 {
			t.Errorf("%v: exit %d: %s", tt.args, r.code, r.err)
		}
	}
}

func TestRaceVerdict(t *testing.T) {
	off, on := raceCase{name: "none", broken: true}, raceCase{name: "both"}
	for _, tt := range []struct {
		c      raceCase
		r      racedemo.Result
		accept bool
	}{
		{off, racedemo.Result{Found: 3, Caught: 3}, true},
		{off, racedemo.Result{}, false},
		{off, racedemo.Result{Found: 3, Caught: 2}, false},
		{on, racedemo.Result{}, true},
		{on, racedemo.Result{Found: 1, Caught: 1}, false},
	} {
		if err := verdict([]raceCase{tt.c}, []*racedemo.Result{&tt.r}); (err == nil) != tt.accept {
			t.Errorf("%+v: %v", tt, err)
		}
	}
}

// On a terminal, lines have colours, and are as wide as without.
func TestRaceColours(t *testing.T) {
	p := panel{"Title", racedemo.Timeline{Tasks: []string{"one", "two"}, Lines: []racedemo.Line{
		{Task: 0, Text: "plain"}, {Task: 1, Text: "bad", Mood: racedemo.Danger}, {Task: 0, Text: strings.Repeat("long ", 12), Mood: racedemo.Good}}}}
	print := func(tty bool) string {
		var out bytes.Buffer
		a := newApp(nil, &out, io.Discard)
		a.outTTY = tty
		if err := (&race{a: a}).show(t.Context(), &p); err != nil {
			t.Fatal(err)
		}
		a.out.Flush()
		return out.String()
	}
	plain, coloured := print(false), print(true)
	if strings.Contains(plain, "\x1b") || !strings.Contains(plain, "! ") || strings.Count(plain, "long") != 12 || strings.Count(plain, "\n") != 9 {
		t.Errorf("plain:\n%s", plain)
	}
	if !strings.Contains(coloured, "\x1b[1;31mbad") {
		t.Errorf("coloured:\n%q", coloured)
	}
	bare := strings.ReplaceAll(coloured, colourOff, "")
	for _, c := range raceColours {
		bare = strings.ReplaceAll(bare, c, "")
	}
	trim := func(s string) (lines []string) {
		for _, l := range strings.Split(s, "\n") {
			lines = append(lines, strings.TrimRight(l, " "))
		}
		return lines
	}
	if a, b := strings.Join(trim(bare), "\n"), strings.Join(trim(plain), "\n"); a != b {
		t.Errorf("without colours:\n%s\nwant\n%s", a, b)
	}
}
