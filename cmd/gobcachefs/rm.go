package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"github.com/go-bcachefs/bcachefs"
)

type rmCmd struct {
	change
	recursive, force, dir, verbose bool
}

func newRmCmd(a *app) *cobra.Command {
	r := &rmCmd{change: newChange(a, "rm")}
	c := a.command(&cobra.Command{
		Use:   "rm [flags] DEV[:DEV]... PATH...",
		Short: "Remove files",
		Long: "rm removes files of a filesystem that is not mounted; with -r directories with all that is in them, subvolumes and snapshots\n" +
			"too. Their space has come back when it ends.",
		Args: cobra.MinimumNArgs(2),
	}, r.run)
	f := c.Flags()
	f.BoolVarP(&r.recursive, "recursive", "r", false, "remove directories and all that is in them")
	f.BoolP("R", "R", false, "the same")
	f.Lookup("R").Hidden = true
	f.BoolVarP(&r.force, "force", "f", false, "do not mind what is not there")
	f.BoolVarP(&r.dir, "dir", "d", false, "remove empty directories, too")
	f.BoolVarP(&r.verbose, "verbose", "v", false, "print what is removed")
	r.register(c)
	return c
}

func (r *rmCmd) run(ctx context.Context, args []string) error {
	return r.each(ctx, args[0], args[1:], func(v *bcachefs.View, p string) error {
		err := r.remove(ctx, v, p)
		if r.force && errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			if r.verbose {
				fmt.Fprintf(r.out, "removed %s\n", r.shownName(cleanPath(p)))
			}
			err = v.FS().WaitDeleted(ctx)
		}
		return err
	})
}

func (r *rmCmd) remove(ctx context.Context, v *bcachefs.View, p string) error {
	dir, base, err := splitPath(ctx, v, p)
	if err != nil {
		return err
	}
	st, err := v.FS().LookupStat(ctx, dir, base, 0)
	switch {
	case err != nil:
		return err
	case r.recursive:
		return v.RemoveAll(p)
	case !st.Mode.IsDir():
		_, err = v.FS().RemoveName(ctx, dir, base, bcachefs.RemoveFile)
		return err
	case r.dir:
		_, err = v.FS().RemoveName(ctx, dir, base, bcachefs.RemoveDir)
		return err
	}
	return failedTodo("rm", cleanPath(p), bcachefs.ErrIsDir, "-r removes it with all that is in it")
}
