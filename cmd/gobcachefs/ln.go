package main

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/spf13/cobra"

	"github.com/go-bcachefs/bcachefs"
)

type lnCmd struct {
	change
	symbolic, force, noDeref, verbose bool
}

func newLnCmd(a *app) *cobra.Command {
	l := &lnCmd{change: newChange(a, "ln")}
	c := a.command(&cobra.Command{
		Use:   "ln [flags] DEV[:DEV]... TARGET... DEST",
		Short: "Make links",
		Long: "ln gives files of a filesystem that is not mounted another name, in DEST if that is a directory, else DEST; with -s it makes\n" +
			"symbolic links, whose targets are taken as they are.",
		Example: "  gobcachefs ln -sf disk.img ../usr/lib/os-release /etc/os-release",
		Args:    cobra.MinimumNArgs(3),
	}, l.run)
	f := c.Flags()
	f.BoolVarP(&l.symbolic, "symbolic", "s", false, "make symbolic links")
	f.BoolVarP(&l.force, "force", "f", false, "replace files that are there")
	f.BoolVarP(&l.noDeref, "no-dereference", "n", false, "take DEST for a file if it is a symbolic link to a directory")
	f.BoolVarP(&l.verbose, "verbose", "v", false, "print each link that is made")
	l.register(c)
	return c
}

func (l *lnCmd) run(ctx context.Context, args []string) error {
	targets, dest := args[1:len(args)-1], args[len(args)-1]
	return l.with(ctx, l.app, args[0], func(v *bcachefs.View) error {
		dir, err := into(ctx, v, "ln", dest, len(targets) > 1, l.noDeref)
		if err != nil {
			return err
		}
		for _, target := range targets {
			at := imagePath(dest)
			if dir {
				at = path.Join(at, path.Base(target))
			}
			if err := l.link(ctx, v, target, at); err != nil {
				l.add(cleanPath(at), err)
			} else if l.verbose {
				fmt.Fprintf(l.out, "%s -> %s\n", l.shownName(cleanPath(at)), l.shownName(target))
			}
		}
		return l.problems.result()
	})
}

// link makes one link, in place of a file if that is wanted.
func (l *lnCmd) link(ctx context.Context, v *bcachefs.View, target, at string) error {
	dir, base, err := splitPath(ctx, v, at)
	if err != nil {
		return err
	}
	make := func(name string) error {
		_, err := v.FS().MakeSymlink(ctx, dir, name, target, bcachefs.NewInode{}, 0)
		return err
	}
	if !l.symbolic {
		id, err := v.Resolve(ctx, target, false)
		if err != nil {
			return fileFailed("ln", target, err)
		}
		if old, err := v.FS().LookupStat(ctx, dir, base, 0); err == nil && old.ID == id && l.force {
			return nil
		}
		make = func(name string) error {
			_, err := v.FS().MakeLink(ctx, id, dir, name, 0)
			return err
		}
	}
	err = make(base)
	if !errors.Is(err, bcachefs.ErrExist) {
		return err
	}
	if !l.force {
		return failedTodo("ln", cleanPath(at), bcachefs.ErrExist, "-f replaces it")
	}
	temp := strings.TrimRight(base[:min(len(base), 200)], "/") + ".gobcachefs-part"
	if err := make(temp); err != nil {
		return err
	}
	if _, err = v.FS().RenameName(ctx, dir, temp, dir, base, 0, 0, 0); err != nil {
		_, rerr := v.FS().RemoveName(ctx, dir, temp, bcachefs.RemoveFile)
		return errors.Join(err, rerr)
	}
	return nil
}
