package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/go-bcachefs/bcachefs"
)

// Exit codes of fsck(8).
const (
	fsckUncorrected = 4  // errors were found and left
	fsckOperational = 8  // it could not be checked
	fsckUsage       = 16 // wrong usage
)

type fsckCmd struct {
	*app
	openFlags

	no, yes, preen, auto bool
	passes               []string
	verbose, json        bool
}

func newFsckCmd(a *app) *cobra.Command {
	f := &fsckCmd{app: a}
	c := a.command(&cobra.Command{
		Use:   "fsck -n [flags] DEV...",
		Short: "Check a filesystem",
		Long: "fsck checks superblock, journal, btrees, allocation, backpointers, counters, snapshots and subvolumes. It writes\n" +
			"nothing: there is no repair yet. A filesystem that was not unmounted is checked as replaying its journal would\n" +
			"leave it. Errors are named as the reference names them.\n\n" +
			"Exit codes: 0 clean, 4 errors were found, 8 it could not be checked, 16 wrong usage.",
		Args: cobra.MinimumNArgs(1),
	}, f.run)
	fl := c.Flags()
	fl.BoolVarP(&f.no, "no", "n", false, "check only, change nothing")
	fl.BoolVarP(&f.yes, "yes", "y", false, "repair without asking: not there yet")
	fl.BoolVarP(&f.preen, "preen", "p", false, "repair without asking: not there yet")
	fl.BoolVarP(&f.auto, "auto", "a", false, "the same as -p")
	fl.StringSliceVar(&f.passes, "passes", nil, "make these `CHECKS` only, separated by commas")
	fl.BoolVarP(&f.verbose, "verbose", "v", false, "print every error, not just the first of each kind, and the time of each check")
	f.ignored(c)
	jsonFlag(c, &f.json)
	f.openFlags.register(fl)
	return c
}

// ignored adds flags of fsck(8) and of the reference that make no difference.
func (f *fsckCmd) ignored(c *cobra.Command) {
	var on bool
	var fd string
	fl := c.Flags()
	fl.BoolVarP(&on, "force", "f", false, "check also if it is marked clean, as is always done")
	fl.BoolVarP(&on, "ratelimit_errors", "r", false, "do not print too many errors, as is done without -v")
	fl.BoolVarP(&on, "no-kernel", "K", false, "do not have the kernel do it, as is never done")
	fl.StringVarP(&fd, "completion", "C", "", "file descriptor for progress")
	for _, name := range []string{"force", "ratelimit_errors", "no-kernel", "completion"} {
		if err := fl.MarkHidden(name); err != nil {
			panic(err) // of a flag that was just defined
		}
	}
}

func (f *fsckCmd) run(ctx context.Context, args []string) error {
	m, err := parseMountOptions(f.options)
	switch {
	case err != nil:
		return err
	case f.yes || f.preen || f.auto:
		return usagef("fsck: repair is not there yet: use -n to check without changing anything")
	case m.noRecovery:
		return usagef("fsck: option norecovery: what is checked is what replaying the journal gives")
	}
	for _, p := range f.passes {
		if !slices.Contains(bcachefs.CheckPasses(), p) {
			return usagef("fsck: no check is named %q: there are %s", p, strings.Join(bcachefs.CheckPasses(), ", "))
		}
	}
	quiet := f.quiet
	f.quiet = true // what opening notices is found again, and named, by the checks
	fs, _, err := f.open(ctx, f.app, args)
	if err != nil {
		return err
	}
	defer fs.Close()
	if !f.no && !quiet {
		f.warnf("nothing is repaired, as repair is not there yet: as with -n")
	}
	progress := f.fsckProgress()
	start := time.Now()
	r, err := fs.Check(ctx, &bcachefs.CheckOptions{Passes: f.passes, Progress: progress.set})
	progress.clear()
	if err != nil {
		return failed("fsck", strings.Join(args, ":"), err)
	}
	if f.json {
		err = f.writeJSON(newFsckJSON(args, r))
	} else {
		f.print(strings.Join(args, ":"), r, quiet, time.Since(start))
	}
	if err == nil && r.Total > 0 {
		err = &exitError{fsckUncorrected}
	}
	return err
}

// fewOfAKind is how many errors of one name are printed without -v.
const fewOfAKind = 10

// print writes the report for people.
func (f *fsckCmd) print(where string, r *bcachefs.CheckReport, quiet bool, took time.Duration) {
	i := 0
	for _, p := range r.Passes {
		if f.verbose {
			fmt.Fprintf(f.out, "%s: %d keys\n", p.Name, p.Keys)
		} else if i < len(r.Findings) && r.Findings[i].Pass == p.Name {
			fmt.Fprintf(f.out, "%s:\n", p.Name)
		}
		shown := map[string]int{}
		for ; i < len(r.Findings) && r.Findings[i].Pass == p.Name; i++ {
			x := &r.Findings[i]
			if shown[x.Name]++; f.verbose || shown[x.Name] <= fewOfAKind {
				fmt.Fprintf(f.out, "  %s: would %s\n", oneLine(x.String()), x.Repair)
			}
		}
		for _, name := range sortedNames(shown) {
			if n := shown[name] - fewOfAKind; n > 0 && !f.verbose {
				fmt.Fprintf(f.out, "  %d more of %s\n", n, nameOr(name))
			}
		}
	}
	if !quiet {
		for _, n := range r.Notes {
			fmt.Fprintf(f.out, "note: %s\n", oneLine(n))
		}
	}
	f.summary(where, r)
	if f.verbose {
		fmt.Fprintf(f.out, "in %s\n", took.Round(time.Millisecond))
	}
}

func (f *fsckCmd) summary(where string, r *bcachefs.CheckReport) {
	if r.Silenced > 0 {
		fmt.Fprintf(f.out, "%d errors that the superblock says to expect\n", r.Silenced)
	}
	if r.Total == 0 {
		fmt.Fprintf(f.out, "%s: clean\n", where)
		return
	}
	fmt.Fprintln(f.out, "errors found:")
	width := 0
	for name := range r.ByName {
		width = max(width, len(nameOr(name)))
	}
	for _, name := range sortedNames(r.ByName) {
		fmt.Fprintf(f.out, "  %-*s  %d\n", width, nameOr(name), r.ByName[name])
	}
	fmt.Fprintf(f.out, "%s: errors not fixed\n", where)
}

// sortedNames are the names of errors, those most found first.
func sortedNames(counts map[string]int) []string {
	var names []string
	for name := range counts {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b)) })
	return names
}

func nameOr(name string) string {
	if name == "" {
		return "(no name)"
	}
	return name
}

// fsckJSON is what fsck --json tells.
type fsckJSON struct {
	Devices  []string          `json:"devices"`
	Clean    bool              `json:"clean"`
	Errors   int               `json:"errors"`
	ByName   map[string]int    `json:"by_name"`
	Silenced int               `json:"silenced,omitempty"`
	Findings []fsckFindingJSON `json:"findings"`
	Notes    []string          `json:"notes"`
	Passes   []fsckPassJSON    `json:"passes"`
}

type fsckFindingJSON struct {
	Name   string `json:"name,omitempty"`
	Number int    `json:"number"` // -1: the reference has none
	Pass   string `json:"pass"`
	Btree  string `json:"btree,omitempty"`
	Level  int    `json:"level"`
	Pos    string `json:"pos,omitempty"`
	Text   string `json:"text"`
	Repair string `json:"repair"`
}

type fsckPassJSON struct {
	Name   string `json:"name"`
	Errors int    `json:"errors"`
	Keys   uint64 `json:"keys"`
}

func newFsckJSON(devices []string, r *bcachefs.CheckReport) *fsckJSON {
	j := &fsckJSON{Devices: devices, Clean: r.Total == 0, Errors: r.Total, ByName: r.ByName, Silenced: r.Silenced,
		Findings: []fsckFindingJSON{}, Notes: append([]string{}, r.Notes...), Passes: []fsckPassJSON{}}
	for _, x := range r.Findings {
		j.Findings = append(j.Findings, fsckFindingJSON{x.Name, x.Number, x.Pass, x.Btree, x.Level, x.Pos, x.Text, x.Repair})
	}
	for _, p := range r.Passes {
		j.Passes = append(j.Passes, fsckPassJSON{p.Name, p.Findings, p.Keys})
	}
	return j
}

// fsckProgress tells on a terminal which check is at work. Its methods may be called from any goroutine.
type fsckProgress struct {
	app   *app
	start time.Time

	mu    sync.Mutex
	drawn time.Time
	width int
}

func (f *fsckCmd) fsckProgress() *fsckProgress { return &fsckProgress{app: f.app, start: time.Now()} }

func (p *fsckProgress) set(pass string, keys uint64) {
	if !p.app.errTTY {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if now.Sub(p.start) < progressAfter || now.Sub(p.drawn) < progressEvery {
		return
	}
	p.drawn = now
	s := fmt.Sprintf("%s: %d keys", pass, keys)
	fmt.Fprintf(p.app.err, "\r%s%s", s, strings.Repeat(" ", max(p.width-len(s), 0)))
	p.width = len(s)
}

func (p *fsckProgress) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.width > 0 {
		fmt.Fprintf(p.app.err, "\r%s\r", strings.Repeat(" ", p.width))
		p.width = 0
	}
}

// exitError ends a command that said all there is to say, with an exit code of its own.
type exitError struct{ code int }

func (e *exitError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// fsckHelperArgs turns a call as fsck(8) makes it, of a link fsck.gobcachefs or fsck.bcachefs, into a call of the fsck command.
func fsckHelperArgs(args []string) []string {
	if len(args) == 0 || !strings.HasPrefix(filepath.Base(args[0]), "fsck.") {
		return args
	}
	return slices.Concat([]string{args[0], "fsck"}, args[1:])
}

// fsckExit is the exit code of the fsck command for one of the program's, which other commands end with as it is.
func fsckExit(args []string, code int, err error) int {
	var e *exitError
	switch {
	case errors.As(err, &e):
		return e.code
	case len(args) < 2 || args[1] != "fsck":
		return code
	case code == exitFailed:
		return fsckOperational
	case code == exitUsage:
		return fsckUsage
	}
	return code
}
