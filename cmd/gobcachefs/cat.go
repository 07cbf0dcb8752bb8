package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/go-bcachefs/bcachefs"
)

func newCatCmd(a *app) *cobra.Command {
	var ff fileFlags
	c := a.command(&cobra.Command{
		Use:   "cat [flags] DEV[:DEV]... PATH...",
		Short: "Print the content of files",
		Args:  cobra.MinimumNArgs(2),
	}, func(ctx context.Context, args []string) error {
		return ff.with(ctx, a, args[0], func(v *bcachefs.View) error {
			p := problems{app: a}
			for _, name := range args[1:] {
				if err := catFile(ctx, a, v, name, &p); err != nil {
					return err
				}
			}
			return p.result()
		})
	})
	ff.register(c)
	return c
}

// catFile writes a file to standard output. What could not be read goes to p; the error is about the output.
func catFile(ctx context.Context, a *app, v *bcachefs.View, name string, p *problems) error {
	id, err := v.Resolve(ctx, name, true)
	if err != nil {
		p.add("cat", name, err)
		return nil
	}
	st, err := v.FS().Stat(ctx, id)
	if err != nil {
		p.add("cat", name, err)
		return nil
	}
	if !st.Mode.IsRegular() {
		p.add("cat", name, notRegular(st))
		return nil
	}
	f, err := v.FS().OpenInode(ctx, id)
	if err != nil {
		p.add("cat", name, err)
		return nil
	}
	defer f.Close()
	out := &errWriter{w: a.out}
	if _, err := f.WriteTo(out); err != nil && out.err == nil {
		if cerr := ctx.Err(); cerr != nil {
			return cerr
		}
		p.add("cat", name, err)
	}
	if out.err != nil {
		return failed("writing the output", "", out.err)
	}
	return nil
}
