package main

import (
	"context"
	"io/fs"
	"regexp"
	"slices"

	"github.com/spf13/cobra"

	"github.com/go-bcachefs/bcachefs"
)

type chmodCmd struct {
	change
	recursive bool
}

func newChmodCmd(a *app) *cobra.Command {
	m := &chmodCmd{change: newChange(a, "chmod")}
	c := a.command(&cobra.Command{
		Use:   "chmod [flags] DEV[:DEV]... MODE PATH...",
		Short: "Change permissions",
		Long: "chmod changes permissions of files in a filesystem that is not mounted. MODE is an octal number or what chmod(1) takes, as in\n" +
			"u=rwx,go-w,+X; without \"ugoa\" it means all but what a umask of 022 takes away.",
		Args: cobra.MinimumNArgs(3),
	}, m.run)
	c.Flags().BoolVarP(&m.recursive, "recursive", "R", false, "change all below directories, too, but no symbolic links")
	m.register(c)
	return c
}

func (m *chmodCmd) run(ctx context.Context, args []string) error {
	mode, err := parseMode(args[1])
	if err != nil {
		return err
	}
	return m.each(ctx, args[0], args[2:], func(v *bcachefs.View, p string) error {
		return m.walk(ctx, v, p, true, m.recursive, func(st *bcachefs.Stat) error {
			if st.Mode&fs.ModeSymlink != 0 {
				return nil
			}
			want := mode.apply(st.RawMode&0o7777, st.Mode.IsDir())
			if want == st.RawMode&0o7777 {
				return nil
			}
			_, err := v.FS().SetAttr(ctx, st.ID, bcachefs.Attrs{RawMode: &want})
			return err
		})
	})
}

// minusMode is a mode that looks like flags.
var minusMode = regexp.MustCompile(`^-[rwxXst]+$|^-[rwxXst]*[+=,]`)

// chmodArgs keeps modes such as -x from being taken for flags.
func chmodArgs(args []string) []string {
	if len(args) == 0 || args[0] != "chmod" {
		return args
	}
	args = slices.Clone(args)
	for i, arg := range args {
		if arg == "--" {
			break
		}
		if minusMode.MatchString(arg) {
			args[i] = "," + arg
		}
	}
	return args
}
