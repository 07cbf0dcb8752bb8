package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/go-bcachefs/bcachefs/internal/golden"
)

// result is what a command wrote and returned.
type result struct {
	out, err string
	code     int
}

// runCLI runs a command with a standard input and an environment of its own.
func runCLI(ctx context.Context, stdin string, env map[string]string, args ...string) result {
	var out, errw bytes.Buffer
	a := newApp(strings.NewReader(stdin), &out, &errw)
	a.getenv = func(name string) string { return env[name] }
	code := a.run(ctx, append([]string{"gobcachefs"}, args...))
	return result{out.String(), errw.String(), code}
}

// place makes links to the devices of a golden image, whose names do not depend on where that was unpacked, and
// returns them joined by colons.
func place(t *testing.T, name string) string {
	t.Helper()
	dir := t.TempDir()
	var devices []string
	for i, path := range golden.Find(t, name).Unpack(t) {
		link := filepath.Join(dir, fmt.Sprintf("%s.%d", name, i))
		if err := os.Symlink(path, link); err != nil {
			t.Skipf("no symbolic links here: %v", err)
		}
		devices = append(devices, link)
	}
	return strings.Join(devices, ":")
}

// TestScripts runs the commands in testdata/scripts and compares what they print. Directives:
//
//	image NAME           $IMG are the devices of this golden image from here on; the rest is skipped if it is missing
//	run [stdin=…] [NAME=VALUE]…   run the command lines of the input, with these variables in the environment
//	run terse                     the same; what is on standard error, in words of other packages, is not compared
//
// $TMP is a directory. Output to standard error begins with "! ", and a last line tells exit codes other than 0.
// With -rewrite the files are written anew.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, filepath.Join("testdata", "scripts"), func(t *testing.T, path string) {
		if name := filepath.Base(path); name == "encrypted.txt" || name == "superblock.txt" {
			golden.DerivesKeys(t)
		}
		s := &script{img: "", tmp: t.TempDir()}
		datadriven.RunTest(t, path, s.step)
	})
}

type script struct{ img, tmp string }

func (s *script) step(t *testing.T, d *datadriven.TestData) string {
	switch d.Cmd {
	case "image":
		s.img = place(t, d.CmdArgs[0].Key)
		return ""
	case "run":
		env := map[string]string{}
		stdin, terse := "", false
		for _, arg := range d.CmdArgs {
			switch arg.Key {
			case "stdin":
				stdin = strings.Join(arg.Vals, " ")
			case "terse":
				terse = true
			default:
				env[arg.Key] = strings.Join(arg.Vals, " ")
			}
		}
		var b strings.Builder
		for _, line := range strings.Split(d.Input, "\n") {
			b.WriteString(s.run(stdin, env, terse, splitWords(line)))
		}
		return b.String()
	}
	t.Fatalf("unknown directive %q", d.Cmd)
	return ""
}

func (s *script) run(stdin string, env map[string]string, terse bool, args []string) string {
	for i := range args {
		args[i] = strings.NewReplacer("$IMG", s.img, "$TMP", s.tmp).Replace(args[i])
	}
	r := runCLI(context.Background(), stdin, env, args...)
	var b strings.Builder
	if terse && r.err != "" {
		r.err = "(errors)\n"
	}
	b.WriteString(strings.ReplaceAll(r.out, "\x00", "(null)"))
	if r.out != "" && !strings.HasSuffix(r.out, "\n") {
		b.WriteString("(no newline at the end)\n")
	}
	for _, line := range strings.SplitAfter(r.err, "\n") {
		if line != "" {
			b.WriteString("! " + line)
		}
	}
	if r.code != 0 {
		fmt.Fprintf(&b, "exit %d\n", r.code)
	}
	text := b.String()
	if s.img != "" {
		text = strings.ReplaceAll(text, filepath.Dir(strings.Split(s.img, ":")[0])+string(filepath.Separator), "")
	}
	return strings.ReplaceAll(text, s.tmp, "$TMP")
}

// splitWords splits a line at blanks that are not in single quotes.
func splitWords(line string) []string {
	var words []string
	word, quoted, any := "", false, false
	for _, r := range line {
		switch {
		case r == '\'':
			quoted, any = !quoted, true
		case r == ' ' && !quoted:
			if any {
				words = append(words, word)
			}
			word, any = "", false
		default:
			word += string(r)
			any = true
		}
	}
	if any {
		words = append(words, word)
	}
	return words
}
