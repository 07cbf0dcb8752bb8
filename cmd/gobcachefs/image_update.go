package main

import (
	"context"
	"fmt"
	"path"

	"github.com/spf13/cobra"

	"github.com/go-bcachefs/bcachefs"
)

type imageUpdateCmd struct {
	*app
	writeFlags
	loadFlags
	delete, checksum bool
}

func newImageUpdateCmd(a *app) *cobra.Command {
	u := &imageUpdateCmd{app: a}
	c := a.command(&cobra.Command{
		Use:   "update [flags] SOURCE IMAGE",
		Short: "Make a filesystem hold what a directory or an archive holds now",
		Long: "update puts the files of a directory or a tar archive (\"-\": of standard input) into a filesystem that is not mounted, as far as they\n" +
			"are not there yet: files whose type, size or time of modification differs, with --checksum whose content does, and attributes.\n" +
			"With --delete, what the source does not have is removed first. The image does not grow.",
		Example: "  gobcachefs image update --delete rootfs/ root.img",
		Args:    cobra.ExactArgs(2),
	}, u.run)
	f := c.Flags()
	f.BoolVar(&u.delete, "delete", false, "remove what the source does not have")
	f.BoolVarP(&u.checksum, "checksum", "c", false, "compare contents, not times")
	u.loadFlags.register(f)
	u.writeFlags.register(c)
	return c
}

func (u *imageUpdateCmd) run(ctx context.Context, args []string) error {
	source, image := args[0], args[1]
	opts, links, err := u.loadFlags.loadOptions()
	if err != nil {
		return err
	}
	in := imageCreateCmd{formatCmd: &formatCmd{app: u.app}}
	tree, done, err := in.sourceTree(source, image, links)
	if err != nil {
		return failed("image update", source, err)
	}
	defer done()
	opts.Compare = u.checksum
	return u.with(ctx, u.app, image, func(v *bcachefs.View) error {
		l := &loading{app: u.app, what: "image update", view: v, opts: opts, verbose: u.verbose}
		l.source, l.dest = sourceNames(tree, source), func(rel string) string { return path.Join("/", rel) }
		var deleted func(string)
		if u.verbose {
			deleted = func(name string) { fmt.Fprintf(u.out, "removed %s\n", u.shownName(path.Join("/", name))) }
		}
		if err := l.run(ctx, func(opts bcachefs.LoadOptions) error {
			return v.UpdateFrom(ctx, tree, bcachefs.UpdateOptions{Load: opts, Delete: u.delete, Deleted: deleted})
		}); err != nil {
			return err
		}
		return l.problems.result()
	})
}
