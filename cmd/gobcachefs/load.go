package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/go-bcachefs/bcachefs"
)

// A loading puts trees of files of this machine into a filesystem.
type loading struct {
	app      *app
	what     string // the command
	view     *bcachefs.View
	opts     bcachefs.LoadOptions
	verbose  bool
	bar      *progressBar
	problems problems
	source   func(rel string) string // the name of a file of the tree in messages
	dest     func(rel string) string // and in the filesystem
}

// load loads a tree. Errors that concern one file are reported and go to problems.
func (l *loading) load(ctx context.Context, tree bcachefs.FileTree) error {
	return l.run(ctx, func(opts bcachefs.LoadOptions) error { return l.view.Load(ctx, tree, opts) })
}

// run calls what loads a tree.
func (l *loading) run(ctx context.Context, fn func(opts bcachefs.LoadOptions) error) error {
	l.bar = l.app.progress(l.what, 0)
	defer l.bar.finish()
	l.problems.app, l.problems.clear = l.app, l.bar.clear
	opts := l.opts
	opts.Problem = func(rel string, err error) error {
		l.problems.count++
		l.bar.clear()
		l.app.report(failed(l.what, l.source(rel), err))
		return nil
	}
	opts.Progress = func(n int64) { l.bar.add(0, n) }
	opts.Loaded = func(f *bcachefs.TreeFile, changed bool) {
		l.bar.add(1, 0)
		if l.verbose && changed {
			l.bar.clear()
			fmt.Fprintf(l.app.out, "%s -> %s\n", l.app.shownName(l.source(f.Path)), l.app.shownName(l.dest(f.Path)))
		}
	}
	err := fn(opts)
	var pe *fs.PathError
	switch {
	case err == nil || errors.Is(err, context.Canceled):
		return err
	case errors.As(err, &pe) && pe.Op == "load":
		return l.stopped(l.source(pe.Path), pe.Err)
	}
	return failed(l.what, l.source("."), err)
}

// stopped is the error of what cannot go on.
func (l *loading) stopped(at string, err error) error {
	if errors.Is(err, bcachefs.ErrTar) {
		return failed(l.what, at, err)
	}
	if bcachefs.ErrnoOf(err) == bcachefs.ENOSPC {
		return failedTodo(l.what, at, err, "what was written before it stays")
	}
	return failed(l.what, at, err)
}

// skipDevices leaves out the devices of the filesystem that is written to.
func (o *openFlags) skipDevices(_ string, st fs.FileInfo) error {
	if o.isDevice(st) {
		return errWrittenDevice
	}
	return nil
}

// errWrittenDevice is about a source that is a device of the destination.
var errWrittenDevice = errors.New("it is a device of the filesystem that is written to")

// localTree is the tree of a file or directory of this machine, which must be there.
func (o *openFlags) localTree(name string, links bool) (bcachefs.DirTree, error) {
	_, err := os.Lstat(name)
	return bcachefs.DirTree{Dir: name, Skip: o.skipDevices, NoLinks: !links}, err
}
