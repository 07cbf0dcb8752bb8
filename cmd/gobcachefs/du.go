package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/go-bcachefs/bcachefs"
)

type duCmd struct {
	*app
	fileFlags
	all, summary, total, apparent, bytes, human, json, countLinks, oneSubvol bool
	depth                                                                    int

	problems problems
	seen     map[bcachefs.InodeID]bool // files with several names that were counted
	rows     []duRow
}

// A duRow is what --json tells of a path. Sizes are in bytes, with all that is below.
type duRow struct {
	Path      string `json:"path"`
	RawPath   string `json:"path_base64,omitempty"`
	Allocated uint64 `json:"allocated"`
	Apparent  uint64 `json:"apparent"`
	Files     uint64 `json:"files"`
}

func (r *duRow) add(s duRow) {
	r.Allocated += s.Allocated
	r.Apparent += s.Apparent
	r.Files += s.Files
}

func newDuCmd(a *app) *cobra.Command {
	d := &duCmd{app: a, problems: problems{app: a}, seen: map[bcachefs.InodeID]bool{}}
	c := a.command(&cobra.Command{
		Use:   "du [flags] DEV[:DEV]... [PATH]...",
		Short: "Add up the space that files take",
		Long: "du prints what directories and all below them take, in units of 1024 bytes. Space is counted as the inodes tell:\n" +
			"before compression, for one replica, shared extents at each file.",
		Args: cobra.MinimumNArgs(1),
	}, d.run)
	f := c.Flags()
	f.BoolVarP(&d.all, "all", "a", false, "print files too")
	f.BoolVarP(&d.summary, "summarize", "s", false, "print a line for each PATH only")
	f.BoolVarP(&d.total, "total", "c", false, "print a total at the end")
	f.BoolVar(&d.apparent, "apparent-size", false, "add up sizes, not the space that is allocated")
	f.BoolVarP(&d.bytes, "bytes", "b", false, "print bytes; implies --apparent-size")
	f.BoolVarP(&d.countLinks, "count-links", "l", false, "count files with several names as often as they are met")
	f.BoolVarP(&d.oneSubvol, "one-file-system", "x", false, "leave out the subvolumes and snapshots below")
	f.IntVarP(&d.depth, "max-depth", "d", maxDepth, "print nothing deeper than `N` levels")
	humanFlag(c, &d.human)
	jsonFlag(c, &d.json)
	d.register(c)
	return c
}

func (d *duCmd) run(ctx context.Context, args []string) error {
	if d.summary {
		if d.all {
			return usagef("--summarize and --all exclude each other")
		}
		d.depth = 0
	}
	d.apparent = d.apparent || d.bytes
	paths := args[1:]
	if len(paths) == 0 {
		paths = []string{"/"}
	}
	return d.with(ctx, d.app, args[0], func(v *bcachefs.View) error {
		bar := d.progress("du", 0)
		d.problems.clear = bar.clear
		total := duRow{Path: "total"}
		for _, start := range paths {
			id, err := v.Resolve(ctx, start, false)
			if err != nil {
				d.problems.add("du", start, err)
				continue
			}
			sum, err := d.tree(ctx, v.FS(), id, start, bar)
			if err != nil {
				return err
			}
			total.add(sum)
		}
		bar.finish()
		if d.total {
			d.print(total)
		}
		if d.json {
			if d.rows == nil {
				d.rows = []duRow{}
			}
			if err := d.writeJSON(d.rows); err != nil {
				return err
			}
		}
		return d.problems.result()
	})
}

// tree adds up what is at start and below it and prints what is asked for.
func (d *duCmd) tree(ctx context.Context, f *bcachefs.FS, id bcachefs.InodeID, start string, bar *progressBar) (duRow, error) {
	open := []duRow{{}} // sums of the directories that the walk is in, below a first one for the whole
	finish := func(n *node) {
		row := open[len(open)-1]
		row.Path, row.RawPath = n.path, rawName(n.path)
		open = open[:len(open)-1]
		open[len(open)-1].add(row)
		if n.depth == 0 || n.depth <= d.depth && (d.all || n.stat.Mode.IsDir()) {
			bar.clear()
			d.print(row)
		}
	}
	w := walker{f: f, p: &d.problems, oneSubvol: d.oneSubvol}
	w.fn = func(n *node) error {
		row := duRow{Allocated: n.stat.Sectors * 512, Apparent: uint64(max(n.stat.Size, 0)), Files: 1}
		if n.stat.Nlink > 1 && !n.stat.Mode.IsDir() && !d.countLinks {
			if d.seen[n.stat.ID] {
				return nil
			}
			d.seen[n.stat.ID] = true
		}
		bar.add(1, int64(row.Allocated))
		open = append(open, row)
		if !n.stat.Mode.IsDir() || n.depth == maxDepth {
			finish(n)
		}
		return nil
	}
	w.after = func(n *node) error {
		finish(n)
		return nil
	}
	err := w.visit(ctx, id, start, start, 0)
	return open[0], err
}

func (d *duCmd) print(row duRow) {
	if d.json {
		d.rows = append(d.rows, row)
		return
	}
	n := row.Allocated
	if d.apparent {
		n = row.Apparent
	}
	var s string
	switch {
	case d.human:
		s = humanSize(n)
	case d.bytes:
		s = fmt.Sprint(n)
	default:
		s = fmt.Sprint((n + 1023) / 1024)
	}
	fmt.Fprintf(d.out, "%s\t%s\n", s, d.shownName(row.Path))
}
