package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/go-bcachefs/bcachefs"
	"github.com/go-bcachefs/bcachefs/internal/manifest"
)

func newManifestCmd(a *app) *cobra.Command {
	var ff fileFlags
	c := a.command(&cobra.Command{
		Use:   "manifest [flags] DEV[:DEV]... [PATH]",
		Short: "List everything in one line each, with checksums of the content",
		Long: "manifest prints a line for each file: its path, all that its inode holds, the SHA-256 of its content and\n" +
			"its extended attributes. A diff of two manifests tells whether two trees are the same; the first eleven\n" +
			"fields (cut -f 1-11) are what the tree is, the rest how it is stored.",
		Args: cobra.RangeArgs(1, 2),
	}, func(ctx context.Context, args []string) error {
		return ff.with(ctx, a, args[0], func(v *bcachefs.View) error {
			p := problems{app: a}
			bar := a.progress("manifest", 0)
			defer bar.finish()
			p.clear = bar.clear
			o := manifest.Options{
				Report:   p.add,
				Progress: func(lines int, bytes int64) { bar.set(lines, bytes) },
			}
			if len(args) == 2 {
				id, err := v.Resolve(ctx, args[1], true)
				if err != nil {
					return fileFailed("manifest", args[1], err)
				}
				o.Start = id
			}
			err := manifest.WriteOptions(ctx, a.out, v, o)
			var unread *manifest.ReadErrors
			switch {
			case errors.As(err, &unread):
				return errPartial
			case err != nil && ctx.Err() == nil:
				return failed("writing the output", "", err)
			}
			return err
		})
	})
	ff.register(c)
	return c
}
