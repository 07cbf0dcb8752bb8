package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/go-bcachefs/bcachefs/internal/golden"
)

// commands calls fn for each command that does something, with its name as typed.
func commands(fn func(name string, c *cobra.Command)) {
	a := newApp(strings.NewReader(""), &bytes.Buffer{}, &bytes.Buffer{})
	root := a.rootCommand()
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		if c.Runnable() && !c.HasSubCommands() {
			fn(strings.TrimPrefix(c.CommandPath(), root.Name()+" "), c)
		}
		for _, sub := range c.Commands() {
			visit(sub)
		}
	}
	visit(root)
}

func TestEveryCommandHasHelpAndIsInTheManual(t *testing.T) {
	manual, err := os.ReadFile(filepath.Join("..", "..", "docs", "manual.md"))
	if err != nil {
		t.Fatal(err)
	}
	commands(func(name string, c *cobra.Command) {
		if !bytes.Contains(manual, []byte("\n### "+name+"\n")) {
			t.Errorf("docs/manual.md has no section on %s", name)
		}
		r := runCLI(context.Background(), "", nil, append(strings.Fields(name), "--help")...)
		if r.code != 0 || !strings.Contains(r.out, "Usage:") || r.err != "" {
			t.Errorf("%s --help: exit %d, %q, %q", name, r.code, r.out, r.err)
		}
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: short description %q", name, c.Short)
		}
	})
}

// exitCodes are those of a command for what failed and for wrong usage.
func exitCodes(command string) (failed, usage int) {
	if command == "fsck" {
		return fsckOperational, fsckUsage
	}
	return exitFailed, exitUsage
}

// TestNonsenseNeverPanics gives every command flags and arguments that make no sense; whatever comes of it is one of the
// exit codes, and a line for each error.
func TestNonsenseNeverPanics(t *testing.T) {
	bad := []string{"", ":", "-", "--", "/", "\x00", strings.Repeat("x", 5000), "-o", "--=", "-1", "/dev/null:/dev/zero"}
	commands(func(name string, c *cobra.Command) {
		if name == "mount" || name == "completions" || name == "version" || name == "race" {
			return // race wants no arguments: "--" alone is none, and it would run each time
		}
		for _, x := range bad {
			for n := 1; n <= 4; n++ {
				args := strings.Fields(name)
				for range n {
					args = append(args, x)
				}
				r := runCLI(context.Background(), "", nil, args...)
				if failed, usage := exitCodes(name); r.code != failed && r.code != usage {
					t.Errorf("%s with %d times %.20q: exit %d", name, n, x, r.code)
				}
				for line := range strings.Lines(r.err) {
					if !strings.HasPrefix(line, "gobcachefs: ") || !strings.HasSuffix(line, "\n") {
						t.Errorf("%s with %d times %.20q: error line %.200q", name, n, x, line)
					}
				}
			}
		}
	})
}

func TestCompletions(t *testing.T) {
	for _, shell := range []string{"bash", "fish", "powershell", "zsh"} {
		r := runCLI(context.Background(), "", nil, "completions", shell)
		if r.code != 0 || len(r.out) < 1000 || r.err != "" {
			t.Errorf("%s: exit %d, %d bytes, %q", shell, r.code, len(r.out), r.err)
		}
	}
	r := runCLI(context.Background(), "", nil, "__complete", "list", "-b", "")
	if !strings.Contains(r.out, "subvolumes\n") {
		t.Errorf("btrees are not completed: %q", r.out)
	}
}

func TestVersion(t *testing.T) {
	if r := runCLI(context.Background(), "", nil, "version"); r.code != 0 || strings.TrimSpace(r.out) == "" {
		t.Errorf("version: exit %d, %q", r.code, r.out)
	}
	if r := runCLI(context.Background(), "", nil, "version", "--json"); !strings.Contains(r.out, `"metadata_max": "1.39"`) {
		t.Errorf("version --json: %q", r.out)
	}
}

// fullWriter fails as a full device does.
type fullWriter struct{ left int }

func (w *fullWriter) Write(p []byte) (int, error) {
	if len(p) > w.left {
		n := w.left
		w.left = 0
		return n, errors.New("no space left on device")
	}
	w.left -= len(p)
	return len(p), nil
}

func TestOutputThatFails(t *testing.T) {
	img := place(t, "damage-base")
	for _, args := range [][]string{{"ls"}, {"cat"}, {"find"}, {"manifest"}, {"export"}, {"list", "-b", "dirents"}, {"list_journal", "-a"},
		{"show-super"}, {"fs", "usage"}} {
		for _, room := range []int{0, 100000} {
			full := append(append([]string{"gobcachefs"}, args...), "-q", img)
			switch args[0] {
			case "cat":
				full = append(full, "/lines", "/victim", "/reflinked")
			case "show-super":
				full = []string{"gobcachefs", "show-super", img}
			}
			var errw bytes.Buffer
			a := newApp(strings.NewReader(""), &fullWriter{room}, &errw)
			code := a.run(context.Background(), full)
			if room == 0 && (code != exitFailed || strings.Count(errw.String(), "\n") != 1) {
				t.Errorf("%v: exit %d, %q", args, code, errw.String())
			}
			if code != exitOK && !strings.Contains(errw.String(), "no space left") {
				t.Errorf("%v with room for %d bytes: exit %d, %q", args, room, code, errw.String())
			}
		}
	}
}

func TestInterrupted(t *testing.T) {
	img := place(t, "damage-base")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, args := range [][]string{{"ls", img}, {"find", img}, {"manifest", img}, {"export", img}, {"cp", img, "/", t.TempDir()},
		{"list", img}, {"list_journal", img}} {
		if r := runCLI(ctx, "", nil, args...); r.code != exitFailed || !strings.Contains(r.err, "interrupted") && !strings.Contains(r.err, "canceled") {
			t.Errorf("%s: exit %d, %q", args[0], r.code, r.err)
		}
	}
}

func TestPassphraseSources(t *testing.T) {
	golden.DerivesKeys(t)
	img := place(t, "encrypted")
	const passphrase = "correct horse battery staple"
	file := filepath.Join(t.TempDir(), "passphrase")
	if err := os.WriteFile(file, []byte(passphrase+"\nsecond line\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := runCLI(context.Background(), "", nil, "ls", "--passphrase-file", file, img); r.code != 0 {
		t.Errorf("--passphrase-file: %s", r.err)
	}
}

func TestProgressBar(t *testing.T) {
	var errw bytes.Buffer
	a := &app{err: &errw, errTTY: true}
	b := a.progress("cp", 4096)
	b.add(1, 1024)
	if errw.Len() > 0 {
		t.Errorf("a bar within the first second: %q", errw.String())
	}
	b.start = b.start.Add(-2 * time.Second)
	b.add(1, 1024)
	if got := errw.String(); !strings.Contains(got, "50%") || !strings.Contains(got, "2 files, 2.00K of 4.00K") || strings.Contains(got, "\n") {
		t.Errorf("bar %q", got)
	}
	n := errw.Len()
	b.add(1, 1)
	if errw.Len() != n {
		t.Error("the bar is drawn too often")
	}
	b.finish()
	if !strings.HasSuffix(errw.String(), " \r") {
		t.Errorf("the bar is not removed: %q", errw.String())
	}
	silent := &app{err: &errw}
	if silent.progress("cp", 1) != nil {
		t.Error("a bar without a terminal")
	}
	silent.progress("cp", 1).add(1, 1) // must do nothing
}

func TestBadName(t *testing.T) {
	for name, want := range map[string]bool{"": true, ".": true, "..": true, "a/b": true, "a\x00": true, "...": false, "a\nb": false} {
		if badName(name) != want {
			t.Errorf("%q: %v", name, !want)
		}
	}
}

// TestOutputNeverGoesToADevice asks for archives and copies over the image that they are made of.
func TestOutputNeverGoesToADevice(t *testing.T) {
	img := filepath.Join(t.TempDir(), "lines") // the name of a file in it
	if err := os.Rename(golden.Find(t, "damage-base").UnpackCopy(t)[0], img); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(img)
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"export", img, "-f", img}, {"cp", img, "/lines", img}, {"cp", img, "/", filepath.Dir(img)}} {
		if r := runCLI(context.Background(), "", nil, args...); r.code != exitFailed || !strings.Contains(r.err, errIsDevice.Error()) {
			t.Errorf("%v: exit %d, %q", args, r.code, r.err)
		}
		after, err := os.Stat(img)
		if err != nil || !os.SameFile(before, after) || after.Size() != before.Size() || !after.ModTime().Equal(before.ModTime()) {
			t.Fatalf("%v: the image was changed", args)
		}
	}
}
