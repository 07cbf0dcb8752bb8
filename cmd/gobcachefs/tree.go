package main

import (
	"context"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/spf13/cobra"

	"github.com/go-bcachefs/bcachefs"
	"github.com/go-bcachefs/bcachefs/internal/visit"
)

type treeCmd struct {
	*app
	fileFlags
	all, dirsOnly, human, sizes, json bool
	level                             int

	fs          *bcachefs.FS
	problems    problems
	dirs, files int
	seen        visit.Dirs
}

// treeJSON is a file with what is in it, for --json.
type treeJSON struct {
	*fileJSON
	Entries []*treeJSON `json:"entries,omitempty"`
}

func newTreeCmd(a *app) *cobra.Command {
	t := &treeCmd{app: a, problems: problems{app: a}}
	c := a.command(&cobra.Command{
		Use:   "tree [flags] DEV[:DEV]... [PATH]",
		Short: "Draw the tree of directories",
		Args:  cobra.RangeArgs(1, 2),
	}, t.run)
	f := c.Flags()
	f.BoolVarP(&t.all, "all", "a", false, "show names that begin with a dot too")
	f.BoolVarP(&t.dirsOnly, "dirs-only", "d", false, "show directories only")
	f.BoolVarP(&t.sizes, "size", "s", false, "show sizes in bytes")
	f.IntVarP(&t.level, "level", "L", maxDepth, "how deep to descend")
	humanFlag(c, &t.human)
	jsonFlag(c, &t.json)
	t.register(c)
	return c
}

func (t *treeCmd) run(ctx context.Context, args []string) error {
	if t.level < 1 {
		return usagef("--level %d: want at least 1", t.level)
	}
	start := "/"
	if len(args) == 2 {
		start = args[1]
	}
	return t.with(ctx, t.app, args[0], func(v *bcachefs.View) error {
		t.fs = v.FS()
		id, err := v.Resolve(ctx, start, true)
		if err != nil {
			return fileFailed("tree", start, err)
		}
		st, err := t.fs.Stat(ctx, id)
		if err != nil {
			return fileFailed("tree", start, err)
		}
		root := &treeJSON{}
		if t.json {
			root.fileJSON = toJSON(ctx, t.fs, cleanPath(start), st)
		} else {
			fmt.Fprintln(t.out, t.shownName(start))
		}
		if st.Mode.IsDir() {
			t.seen = visit.Dirs{}
			t.seen.Start(id)
			if err := t.dir(ctx, id, cleanPath(start), "", 1, root); err != nil {
				return err
			}
		}
		if t.json {
			if err := t.writeJSON(root); err != nil {
				return err
			}
		} else {
			fmt.Fprintf(t.out, "\n%d directories", t.dirs)
			if !t.dirsOnly {
				fmt.Fprintf(t.out, ", %d files", t.files)
			}
			fmt.Fprintln(t.out)
		}
		return t.problems.result()
	})
}

func (t *treeCmd) dir(ctx context.Context, dir bcachefs.InodeID, at, prefix string, depth int, parent *treeJSON) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	entries := readDir(ctx, t.fs, dir, at, &t.problems)
	kept := entries[:0]
	for _, e := range entries {
		if strings.HasPrefix(e.Name, ".") && !t.all || t.dirsOnly && !e.Type.IsDir() {
			continue
		}
		kept = append(kept, e)
	}
	for i, e := range kept {
		branch, below := "├── ", "│   "
		if i == len(kept)-1 {
			branch, below = "└── ", "    "
		}
		sub := path.Join(at, e.Name)
		st, err := t.fs.Stat(ctx, e.ID)
		t.problems.add("stat", sub, err)
		child := &treeJSON{}
		if t.json {
			if err != nil {
				child.fileJSON = &fileJSON{Path: sub, RawPath: rawName(sub), Type: fileKind(e.Type), Error: err.Error()}
			} else {
				child.fileJSON = toJSON(ctx, t.fs, sub, st)
			}
			parent.Entries = append(parent.Entries, child)
		} else {
			fmt.Fprintf(t.out, "%s%s%s\n", prefix, branch, t.label(ctx, e, st, sub))
		}
		if st == nil || !st.Mode.IsDir() {
			t.files++
			continue
		}
		t.dirs++
		if depth < t.level && depth < maxDepth {
			if err := t.seen.Enter(st, dir, e.Cookie); err != nil {
				t.problems.add("read directory", sub, err)
				continue
			}
			if err := t.dir(ctx, e.ID, sub, prefix+below, depth+1, child); err != nil {
				return err
			}
		}
	}
	return nil
}

// label is what is printed of an entry; st is nil if it cannot be read.
func (t *treeCmd) label(ctx context.Context, e bcachefs.DirEntry, st *bcachefs.Stat, at string) string {
	name := t.shownName(e.Name)
	if st == nil {
		return name + " [unreadable]"
	}
	if t.sizes || t.human {
		name = fmt.Sprintf("[%8s]  %s", size(uint64(max(st.Size, 0)), t.human), name)
	}
	if st.Mode&fs.ModeSymlink != 0 {
		target, err := t.fs.Readlink(ctx, st.ID)
		t.problems.add("readlink", at, err)
		name += " -> " + t.shownName(target)
	}
	return name
}
