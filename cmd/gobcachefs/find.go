package main

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/go-bcachefs/bcachefs"
)

type findCmd struct {
	*app
	fileFlags
	names, inames, paths, types []string
	size, mtime, newer          string
	inum, uid, gid              int64
	links                       string
	minDepth, maxDepth          int
	perm                        string
	xattr                       string
	empty, print0, json, list   bool
	oneSubvol                   bool

	fs       *bcachefs.FS
	problems problems
	tests    []func(ctx context.Context, n *node) bool
}

func newFindCmd(a *app) *cobra.Command {
	f := &findCmd{app: a, problems: problems{app: a}}
	c := a.command(&cobra.Command{
		Use:   "find [flags] DEV[:DEV]... [PATH]...",
		Short: "Find files by name, type, size, time, owner and more",
		Long: "find prints the paths of the files that pass all the given tests; names of tests may also be written with a\n" +
			"single dash, as in find(1). N is a number, +N more than it, -N less.",
		Args: cobra.MinimumNArgs(1),
	}, f.run)
	fl := c.Flags()
	fl.StringArrayVar(&f.names, "name", nil, "the name matches the shell `PATTERN`; one of several is enough")
	fl.StringArrayVar(&f.inames, "iname", nil, "as --name, in any case")
	fl.StringArrayVar(&f.paths, "path", nil, "the whole path matches the shell `PATTERN`, in which * matches / too")
	fl.StringSliceVar(&f.types, "type", nil, "the type is one of f, d, l, p, s, b, c")
	fl.StringVar(&f.size, "size", "", "the size in bytes is `N`, with an optional unit k, M, G, T")
	fl.StringVar(&f.mtime, "mtime", "", "changed `N` days ago")
	fl.StringVar(&f.newer, "newer", "", "changed later than the file at `PATH`")
	fl.Int64Var(&f.inum, "inum", -1, "the inode number is `N`")
	fl.Int64Var(&f.uid, "uid", -1, "owned by the user with this `ID`")
	fl.Int64Var(&f.gid, "gid", -1, "owned by the group with this `ID`")
	fl.StringVar(&f.links, "links", "", "has `N` names")
	fl.StringVar(&f.perm, "perm", "", "the permissions are `MODE` in octal; -MODE: at least; /MODE: one of them")
	fl.StringVar(&f.xattr, "xattr", "", "has the extended attribute `NAME`")
	fl.BoolVar(&f.empty, "empty", false, "an empty file or directory")
	fl.IntVar(&f.minDepth, "mindepth", 0, "no files less than `N` levels below a start")
	fl.IntVar(&f.maxDepth, "maxdepth", maxDepth, "do not descend deeper than `N` levels")
	fl.BoolVar(&f.oneSubvol, "xdev", false, "leave out the subvolumes and snapshots below")
	fl.BoolVar(&f.print0, "print0", false, "end each path with a null byte")
	fl.BoolVar(&f.list, "ls", false, "print what ls -l prints")
	jsonFlag(c, &f.json)
	f.register(c)
	return c
}

// findTests are the flags that find(1) has with a single dash.
var findTests = []string{"name", "iname", "path", "type", "size", "mtime", "newer", "inum", "uid", "gid", "links", "perm",
	"xattr", "empty", "mindepth", "maxdepth", "xdev", "print0", "ls"}

// findArgs gives the tests of find the second dash that flags have here.
func findArgs(args []string) []string {
	if len(args) == 0 || args[0] != "find" {
		return args
	}
	args = slices.Clone(args)
	for i, arg := range args {
		if arg == "--" {
			break
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(arg, "-"), "=")
		if strings.HasPrefix(arg, "-") && slices.Contains(findTests, name) {
			args[i] = "-" + arg
		}
	}
	return args
}

func (f *findCmd) run(ctx context.Context, args []string) error {
	if err := f.compile(); err != nil {
		return err
	}
	starts := args[1:]
	if len(starts) == 0 {
		starts = []string{"/"}
	}
	return f.with(ctx, f.app, args[0], func(v *bcachefs.View) error {
		f.fs = v.FS()
		if f.newer != "" {
			if err := f.addNewer(ctx, v); err != nil {
				return err
			}
		}
		for _, start := range starts {
			id, err := v.Resolve(ctx, start, false)
			if err != nil {
				f.problems.add("find", start, err)
				continue
			}
			w := walker{f: f.fs, p: &f.problems, oneSubvol: f.oneSubvol}
			w.fn = func(n *node) error { return f.visit(ctx, n) }
			if err := w.visit(ctx, id, start, path.Base(start), 0); err != nil {
				return err
			}
		}
		return f.problems.result()
	})
}

func (f *findCmd) visit(ctx context.Context, n *node) error {
	match := n.depth >= f.minDepth
	for _, test := range f.tests {
		match = match && test(ctx, n)
	}
	if match {
		if err := f.print(ctx, n); err != nil {
			return failed("writing the output", "", err)
		}
	}
	if n.depth >= f.maxDepth {
		return errSkip
	}
	return nil
}

func (f *findCmd) print(ctx context.Context, n *node) error {
	switch {
	case f.json: // one object a line, so that a pipe can begin before the walk has ended
		return json.NewEncoder(f.out).Encode(toJSON(ctx, f.fs, n.path, n.stat))
	case f.print0:
		_, err := f.out.WriteString(n.path + "\x00")
		return err
	case f.list:
		st := n.stat
		_, err := fmt.Fprintf(f.out, "%12d %s %3d %8d %8d %12d %s %s\n", st.ID.Inum, modeString(st), st.Nlink, st.UID, st.GID,
			st.Size, st.Mtime.UTC().Format("2006-01-02 15:04:05"), f.shownName(n.path))
		return err
	}
	_, err := fmt.Fprintln(f.out, f.shownName(n.path))
	return err
}

// compile turns the flags into tests.
func (f *findCmd) compile() error {
	test := func(fn func(n *node) bool) {
		f.tests = append(f.tests, func(_ context.Context, n *node) bool { return fn(n) })
	}
	for _, patterns := range [][]string{f.names, f.inames, f.paths} {
		for _, p := range patterns {
			if _, err := path.Match(p, ""); err != nil {
				return usagef("pattern %q: %v", p, err)
			}
		}
	}
	anyOf := func(patterns []string, match func(p string, n *node) bool) {
		if len(patterns) > 0 {
			test(func(n *node) bool {
				return slices.ContainsFunc(patterns, func(p string) bool { return match(p, n) })
			})
		}
	}
	anyOf(f.names, func(p string, n *node) bool { return matches(p, n.name) })
	anyOf(f.inames, func(p string, n *node) bool { return matches(strings.ToLower(p), strings.ToLower(n.name)) })
	anyOf(f.paths, func(p string, n *node) bool { return matchesPath(p, n.path) })
	for _, t := range f.types {
		if len(t) != 1 || !strings.Contains("fdlpsbc", t) {
			return usagef("--type %q: want f, d, l, p, s, b or c", t)
		}
	}
	if len(f.types) > 0 {
		test(func(n *node) bool { return slices.Contains(f.types, string(typeLetter(n.stat.Mode))) })
	}
	if f.size != "" {
		cmp, rest := comparison(f.size)
		want, err := parseSize(strings.TrimSuffix(rest, "c"))
		if err != nil {
			return usagef("--size: %v", err)
		}
		test(func(n *node) bool { return cmp(n.stat.Size, want) })
	}
	if f.mtime != "" {
		cmp, rest := comparison(f.mtime)
		want, err := strconv.ParseInt(rest, 10, 32)
		if err != nil {
			return usagef("--mtime %q: want a number of days, +N or -N", f.mtime)
		}
		now := time.Now()
		test(func(n *node) bool { return cmp(int64(now.Sub(n.stat.Mtime)/(24*time.Hour)), want) })
	}
	if f.links != "" {
		cmp, rest := comparison(f.links)
		want, err := strconv.ParseInt(rest, 10, 64)
		if err != nil {
			return usagef("--links %q: want a number, +N or -N", f.links)
		}
		test(func(n *node) bool { return cmp(int64(n.stat.Nlink), want) })
	}
	if f.inum >= 0 {
		test(func(n *node) bool { return n.stat.ID.Inum == uint64(f.inum) })
	}
	if f.uid >= 0 {
		test(func(n *node) bool { return int64(n.stat.UID) == f.uid })
	}
	if f.gid >= 0 {
		test(func(n *node) bool { return int64(n.stat.GID) == f.gid })
	}
	if f.perm != "" {
		if err := f.addPerm(test); err != nil {
			return err
		}
	}
	if f.xattr != "" {
		f.tests = append(f.tests, func(ctx context.Context, n *node) bool {
			_, err := f.fs.GetXattr(ctx, n.stat.ID, f.xattr)
			return err == nil
		})
	}
	if f.empty {
		f.tests = append(f.tests, f.isEmpty)
	}
	if f.minDepth < 0 || f.maxDepth < 0 {
		return usagef("--mindepth and --maxdepth: want 0 or more")
	}
	return nil
}

func (f *findCmd) addPerm(test func(func(*node) bool)) error {
	rest := strings.TrimLeft(f.perm, "-/")
	mode, err := strconv.ParseUint(rest, 8, 12)
	if err != nil || len(f.perm)-len(rest) > 1 {
		return usagef("--perm %q: want permissions in octal, -MODE or /MODE", f.perm)
	}
	want := uint16(mode)
	test(func(n *node) bool {
		have := n.stat.RawMode & 0o7777
		switch f.perm[0] {
		case '-':
			return have&want == want
		case '/':
			return want == 0 || have&want != 0
		}
		return have == want
	})
	return nil
}

func (f *findCmd) isEmpty(ctx context.Context, n *node) bool {
	switch {
	case n.stat.Mode.IsRegular():
		return n.stat.Size == 0
	case n.stat.Mode.IsDir():
		for range f.fs.ReadDir(ctx, n.stat.ID, 0) {
			return false
		}
		return true
	}
	return false
}

func (f *findCmd) addNewer(ctx context.Context, v *bcachefs.View) error {
	id, err := v.Resolve(ctx, f.newer, true)
	if err != nil {
		return fileFailed("find --newer", f.newer, err)
	}
	st, err := f.fs.Stat(ctx, id)
	if err != nil {
		return fileFailed("find --newer", f.newer, err)
	}
	f.tests = append(f.tests, func(_ context.Context, n *node) bool { return n.stat.Mtime.After(st.Mtime) })
	return nil
}

// comparison reads the sign of a number: + is more, - less, none equal.
func comparison(s string) (cmp func(have, want int64) bool, rest string) {
	switch {
	case strings.HasPrefix(s, "+"):
		return func(have, want int64) bool { return have > want }, s[1:]
	case strings.HasPrefix(s, "-"):
		return func(have, want int64) bool { return have < want }, s[1:]
	}
	return func(have, want int64) bool { return have == want }, s
}

// matches reports whether a name matches a shell pattern that was found to be well-formed.
func matches(pattern, name string) bool {
	ok, err := path.Match(pattern, name)
	return ok && err == nil
}

// matchesPath is matches with a * that matches slashes too.
func matchesPath(pattern, name string) bool {
	const slash = "\x01" // cannot be told from a slash here, and is as rare in names as anything
	return matches(strings.ReplaceAll(pattern, "/", slash), strings.ReplaceAll(name, "/", slash))
}
