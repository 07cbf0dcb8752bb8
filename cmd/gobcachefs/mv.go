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

type mvCmd struct {
	change
	noClobber, exchange, verbose bool
}

func newMvCmd(a *app) *cobra.Command {
	m := &mvCmd{change: newChange(a, "mv")}
	c := a.command(&cobra.Command{
		Use:   "mv [flags] DEV[:DEV]... PATH... DEST",
		Short: "Rename and move files",
		Long: "mv gives files and directories of a filesystem that is not mounted other names: in DEST if that is a directory, else DEST,\n" +
			"in place of a file or an empty directory of that name. Between subvolumes nothing can be moved.",
		Args: cobra.MinimumNArgs(3),
	}, m.run)
	f := c.Flags()
	f.BoolVarP(&m.noClobber, "no-clobber", "n", false, "leave what would replace something where it is")
	f.BoolP("force", "f", true, "accepted for the habit: nothing is asked")
	f.BoolVar(&m.exchange, "exchange", false, "exchange PATH and DEST")
	f.BoolVarP(&m.verbose, "verbose", "v", false, "print what is renamed")
	m.register(c)
	return c
}

func (m *mvCmd) run(ctx context.Context, args []string) error {
	sources, dest := args[1:len(args)-1], args[len(args)-1]
	if m.exchange && (len(sources) > 1 || m.noClobber) {
		return usagef("mv: --exchange wants two paths and no -n")
	}
	return m.with(ctx, m.app, args[0], func(v *bcachefs.View) error {
		dir := false
		if !m.exchange {
			var err error
			if dir, err = into(ctx, v, "mv", strings.TrimRight(dest, "/"), len(sources) > 1, false); err != nil {
				return err
			}
		}
		for _, p := range sources {
			to := imagePath(dest)
			if dir {
				to = path.Join(to, path.Base(p))
			}
			if err := m.rename(ctx, v, p, to); err != nil {
				m.add(p, err)
			}
		}
		return m.problems.result()
	})
}

func (m *mvCmd) rename(ctx context.Context, v *bcachefs.View, from, to string) error {
	dir, base, err := splitPath(ctx, v, from)
	if err != nil {
		return err
	}
	toDir, toBase, err := splitPath(ctx, v, to)
	if err != nil {
		return writeFailed("mv", cleanPath(to), err)
	}
	st, err := v.FS().LookupStat(ctx, dir, base, 0)
	if err != nil {
		return err
	}
	if old, err := v.FS().LookupStat(ctx, toDir, toBase, 0); err == nil && old.ID == st.ID && !m.noClobber {
		if dir == toDir && base == toBase {
			return failed("mv", cleanPath(to), errors.New("it would replace itself"))
		}
		// Two names of one file: renaming would do nothing.
		_, err := v.FS().RemoveName(ctx, dir, base, bcachefs.RemoveFile)
		return err
	}
	var flags bcachefs.RenameFlags
	switch {
	case m.exchange:
		flags = bcachefs.RenameExchange
	case m.noClobber:
		flags = bcachefs.RenameNoReplace
	}
	_, err = v.FS().RenameName(ctx, dir, base, toDir, toBase, flags, 0, 0)
	switch {
	case m.noClobber && errors.Is(err, bcachefs.ErrExist):
		return nil
	case bcachefs.ErrnoOf(err) == bcachefs.EXDEV:
		return failedTodo("mv", cleanPath(from), err, "copy it out with 'gobcachefs cp' and in with 'gobcachefs put'")
	case err != nil:
		return writeFailed("mv", cleanPath(from), err)
	}
	if m.verbose {
		fmt.Fprintf(m.out, "%s -> %s\n", m.shownName(cleanPath(from)), m.shownName(cleanPath(to)))
	}
	return nil
}
