package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/go-bcachefs/bcachefs"
)

type touchCmd struct {
	change
	noCreate, noDeref bool
	date              string
}

func newTouchCmd(a *app) *cobra.Command {
	t := &touchCmd{change: newChange(a, "touch")}
	c := a.command(&cobra.Command{
		Use:   "touch [flags] DEV[:DEV]... PATH...",
		Short: "Set times of files, and make empty ones",
		Long:  "touch sets the times of last access and modification of files in a filesystem that is not mounted, and makes files that are not there.",
		Args:  cobra.MinimumNArgs(2),
	}, t.run)
	f := c.Flags()
	f.BoolVarP(&t.noCreate, "no-create", "c", false, "make no files")
	f.StringVarP(&t.date, "date", "d", "", "this `TIME` instead of the present: 2024-05-06T07:08:09Z or seconds since 1970")
	f.BoolVarP(&t.noDeref, "no-dereference", "h", false, "change symbolic links themselves")
	f.Bool("help", false, "print help")
	t.register(c)
	return c
}

func (t *touchCmd) run(ctx context.Context, args []string) error {
	at := time.Now()
	if t.date != "" {
		var err error
		if at, err = parseTime(t.date); err != nil {
			return usagef("--date: %v", err)
		}
	}
	return t.each(ctx, args[0], args[1:], func(v *bcachefs.View, p string) error {
		_, err := v.Resolve(ctx, p, !t.noDeref)
		switch {
		case errors.Is(err, fs.ErrNotExist) && t.noCreate:
			return nil
		case errors.Is(err, fs.ErrNotExist):
			f, err := v.OpenFile(p, os.O_WRONLY|os.O_CREATE, 0o644)
			if err != nil {
				return err
			}
			if err := f.Close(); err != nil {
				return err
			}
		case err != nil:
			return err
		}
		if t.noDeref {
			return v.Lchtimes(p, at, at)
		}
		return v.Chtimes(p, at, at)
	})
}
