package main

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/go-bcachefs/bcachefs"
	"github.com/go-bcachefs/bcachefs/internal/visit"
)

type lsCmd struct {
	*app
	fileFlags
	long, all, dirs, recursive, human, inode, byTime, bySize, reverse, json bool

	fs       *bcachefs.FS
	problems problems
	seen     visit.Dirs
	headings bool // directories are announced by their names
	printed  bool
	rows     []*fileJSON
}

func newLsCmd(a *app) *cobra.Command {
	l := &lsCmd{app: a, problems: problems{app: a}}
	c := a.command(&cobra.Command{
		Use:     "ls [flags] DEV[:DEV]... [PATH]...",
		Aliases: []string{"dir"},
		Short:   "List directories",
		Args:    cobra.MinimumNArgs(1),
	}, l.run)
	f := c.Flags()
	f.BoolVarP(&l.long, "long", "l", false, "print mode, links, owner, group, size and time too")
	f.BoolVarP(&l.all, "all", "a", false, "list names that begin with a dot too")
	f.BoolVarP(&l.dirs, "directory", "d", false, "list directories themselves, not what is in them")
	f.BoolVarP(&l.recursive, "recursive", "R", false, "list what is below, too")
	f.BoolVarP(&l.inode, "inode", "i", false, "print inode numbers, with the subvolume")
	f.BoolVarP(&l.byTime, "time", "t", false, "sort by time, newest first")
	f.BoolVarP(&l.bySize, "size", "S", false, "sort by size, largest first")
	f.BoolVarP(&l.reverse, "reverse", "r", false, "reverse the order")
	humanFlag(c, &l.human)
	jsonFlag(c, &l.json)
	l.register(c)
	return c
}

func (l *lsCmd) run(ctx context.Context, args []string) error {
	paths := args[1:]
	if len(paths) == 0 {
		paths = []string{"/"}
	}
	return l.with(ctx, l.app, args[0], func(v *bcachefs.View) error {
		l.fs = v.FS()
		if err := l.list(ctx, v, paths); err != nil {
			return err
		}
		if l.json {
			if l.rows == nil {
				l.rows = []*fileJSON{}
			}
			if err := l.writeJSON(l.rows); err != nil {
				return err
			}
		}
		return l.problems.result()
	})
}

func (l *lsCmd) list(ctx context.Context, v *bcachefs.View, paths []string) error {
	l.headings = len(paths) > 1 || l.recursive
	var files, dirs []*node
	for _, p := range paths {
		// As ls does, a link to a directory is followed unless it is itself to be described.
		follow := !l.long && !l.dirs || strings.HasSuffix(p, "/")
		id, err := v.Resolve(ctx, p, follow)
		if err != nil {
			l.problems.add("ls", p, err)
			continue
		}
		st, err := l.fs.Stat(ctx, id)
		if err != nil {
			l.problems.add("ls", p, err)
			continue
		}
		n := &node{path: cleanPath(p), name: p, stat: st}
		if st.Mode.IsDir() && !l.dirs {
			dirs = append(dirs, n)
		} else {
			files = append(files, n)
		}
	}
	l.sort(files)
	l.print(ctx, files)
	l.printed = len(files) > 0
	for _, d := range dirs {
		l.seen = visit.Dirs{}
		l.seen.Start(d.stat.ID)
		if err := l.dir(ctx, d, 0); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (l *lsCmd) dir(ctx context.Context, d *node, depth int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if l.headings && !l.json {
		if l.printed {
			fmt.Fprintln(l.out)
		}
		fmt.Fprintf(l.out, "%s:\n", l.shownName(d.name))
		l.printed = true
	}
	var nodes []*node
	for _, e := range readDir(ctx, l.fs, d.stat.ID, d.path, &l.problems) {
		if strings.HasPrefix(e.Name, ".") && !l.all {
			continue
		}
		at := path.Join(d.path, e.Name)
		st, err := l.fs.Stat(ctx, e.ID)
		if err != nil {
			l.problems.add("ls", at, err)
			st = nil // the name is there, which is worth listing
		}
		nodes = append(nodes, &node{path: at, name: e.Name, stat: st, cookie: e.Cookie})
	}
	l.sort(nodes)
	l.print(ctx, nodes)
	if !l.recursive {
		return nil
	}
	for _, n := range nodes {
		if n.stat == nil || !n.stat.Mode.IsDir() {
			continue
		}
		if depth == maxDepth {
			l.problems.add("ls", n.path, errTooDeep)
			continue
		}
		if err := l.seen.Enter(n.stat, d.stat.ID, n.cookie); err != nil {
			l.problems.add("ls", n.path, err)
			continue
		}
		sub := &node{path: n.path, name: path.Join(d.name, n.name), stat: n.stat}
		if err := l.dir(ctx, sub, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (l *lsCmd) sort(nodes []*node) {
	value := func(n *node) (t time.Time, size int64) {
		if n.stat != nil {
			return n.stat.Mtime, n.stat.Size
		}
		return time.Time{}, 0
	}
	slices.SortStableFunc(nodes, func(x, y *node) int {
		xt, xs := value(x)
		yt, ys := value(y)
		c := 0
		switch {
		case l.byTime:
			c = yt.Compare(xt)
		case l.bySize:
			c = cmp.Compare(ys, xs)
		}
		if c == 0 {
			c = strings.Compare(x.name, y.name)
		}
		if l.reverse {
			return -c
		}
		return c
	})
}

func (l *lsCmd) print(ctx context.Context, nodes []*node) {
	if l.json {
		for _, n := range nodes {
			if n.stat == nil {
				l.rows = append(l.rows, &fileJSON{Path: n.path, RawPath: rawName(n.path), Type: "unknown", Error: "cannot be read"})
			} else {
				l.rows = append(l.rows, toJSON(ctx, l.fs, n.path, n.stat))
			}
		}
		return
	}
	var t table
	for _, n := range nodes {
		t.rows = append(t.rows, l.row(ctx, n))
	}
	t.print(l.out)
}

// row returns the columns of one line.
func (l *lsCmd) row(ctx context.Context, n *node) []cell {
	var row []cell
	st := n.stat
	if l.inode {
		switch {
		case st == nil:
			row = append(row, right("?"))
		case st.ID.Subvol != 0:
			row = append(row, right(fmt.Sprintf("%d:%d", st.ID.Subvol, st.ID.Inum)))
		default:
			row = append(row, right(fmt.Sprint(st.ID.Inum)))
		}
	}
	name := l.shownName(n.name)
	if !l.long {
		return append(row, left(name))
	}
	if st == nil {
		return append(row, left("??????????"), right("?"), right("?"), right("?"), right("?"), left("?"), left(name))
	}
	length := size(uint64(max(st.Size, 0)), l.human)
	if st.Mode&fs.ModeDevice != 0 {
		length = fmt.Sprintf("%d, %d", st.RdevMajor, st.RdevMinor)
	}
	if st.Mode&fs.ModeSymlink != 0 {
		target, err := l.fs.Readlink(ctx, st.ID)
		if err != nil {
			l.problems.add("readlink", n.path, err)
			target = "?"
		}
		name += " -> " + l.shownName(target)
	}
	return append(row, left(modeString(st)), right(fmt.Sprint(st.Nlink)), right(fmt.Sprint(st.UID)),
		right(fmt.Sprint(st.GID)), right(length), left(st.Mtime.UTC().Format("2006-01-02 15:04:05")), left(name))
}
