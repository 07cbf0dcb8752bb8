package main

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"strings"

	"github.com/go-bcachefs/bcachefs"
)

// A change is what the commands have in common that change some files of a filesystem that is not mounted, one after another.
type change struct {
	*app
	writeFlags
	problems problems
	what     string // the command
}

func newChange(a *app, what string) change {
	return change{app: a, problems: problems{app: a}, what: what}
}

// each opens the filesystem on dev and calls fn for each path, which is as methods of View want it. Errors are reported, and the other paths
// are gone on with.
func (c *change) each(ctx context.Context, dev string, paths []string, fn func(v *bcachefs.View, p string) error) error {
	return c.with(ctx, c.app, dev, func(v *bcachefs.View) error {
		for _, p := range paths {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := fn(v, imagePath(p)); err != nil {
				c.add(p, err)
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		return c.problems.result()
	})
}

// add reports an error about a path.
func (c *change) add(p string, err error) {
	if errors.Is(err, context.Canceled) {
		return
	}
	c.problems.count++
	var ce *cliError
	if !errors.As(err, &ce) {
		var pe *fs.PathError
		if errors.As(err, &pe) && pe == err {
			err = pe.Err
		}
		err = writeFailed(c.what, p, err)
	}
	c.report(err)
}

// walk calls fn for what a path leads to and, if recursive is set, for all below it; symbolic links below are not followed, but for one that is
// given if follow is set.
func (c *change) walk(ctx context.Context, v *bcachefs.View, p string, follow, recursive bool, fn func(st *bcachefs.Stat) error) error {
	st, err := statPath(ctx, v, p, follow)
	if err != nil || !recursive || !st.Mode.IsDir() {
		if err == nil {
			err = fn(st)
		}
		return err
	}
	w := walker{f: v.FS(), p: &c.problems}
	w.fn = func(n *node) error {
		if err := fn(n.stat); err != nil {
			c.add(n.path, err)
		}
		return nil
	}
	return w.visit(ctx, st.ID, cleanPath(p), path.Base(p), 0)
}

// splitPath returns the directory that a path is in, and its name there, which is not that of a root.
func splitPath(ctx context.Context, v *bcachefs.View, p string) (dir bcachefs.InodeID, base string, err error) {
	p = imagePath(p)
	if p == "." {
		return dir, "", errIsRoot
	}
	up, base := path.Split(p)
	dir, err = v.Resolve(ctx, strings.TrimSuffix(up, "/"), true)
	return dir, base, err
}

// errIsRoot is about the root directory where it cannot be meant.
var errIsRoot = errors.New("it is the root directory")

// into decides where things go that are to be put at a path: into it, if it is a directory (or, unless alone is set, leads to one), else they get this name.
func into(ctx context.Context, v *bcachefs.View, what, dest string, several, alone bool) (dir bool, err error) {
	st, err := statPath(ctx, v, dest, !alone || strings.HasSuffix(dest, "/"))
	switch {
	case err == nil && st.Mode.IsDir():
		return true, nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return false, writeFailed(what, dest, err)
	case several || strings.HasSuffix(dest, "/"):
		if err == nil {
			err = bcachefs.ErrNotDir
		}
		return false, failedTodo(what, dest, err, "'gobcachefs mkdir' makes directories")
	}
	return false, nil
}
