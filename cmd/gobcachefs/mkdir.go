package main

import (
	"context"
	"errors"
	"io/fs"
	"path"

	"github.com/spf13/cobra"

	"github.com/go-bcachefs/bcachefs"
)

type mkdirCmd struct {
	change
	parents, verbose bool
	mode             string
}

func newMkdirCmd(a *app) *cobra.Command {
	m := &mkdirCmd{change: newChange(a, "mkdir")}
	c := a.command(&cobra.Command{
		Use:     "mkdir [flags] DEV[:DEV]... PATH...",
		Short:   "Make directories",
		Long:    "mkdir makes directories in a filesystem that is not mounted. They belong to 0:0; 'gobcachefs chown' changes that.",
		Example: "  gobcachefs mkdir -p -m 700 disk.img /home/joe/.ssh",
		Args:    cobra.MinimumNArgs(2),
	}, m.run)
	f := c.Flags()
	f.BoolVarP(&m.parents, "parents", "p", false, "make the directories above, too, and do not mind those that are there")
	f.StringVarP(&m.mode, "mode", "m", "755", "permissions, as chmod takes them")
	f.BoolVarP(&m.verbose, "verbose", "v", false, "print the name of each directory that is made")
	m.register(c)
	return c
}

func (m *mkdirCmd) run(ctx context.Context, args []string) error {
	change, err := parseMode(m.mode)
	if err != nil {
		return err
	}
	perm := fileModeOf(change.apply(0o777, true))
	return m.each(ctx, args[0], args[1:], func(v *bcachefs.View, p string) error { return m.make(v, p, perm) })
}

func (m *mkdirCmd) make(v *bcachefs.View, p string, perm fs.FileMode) error {
	if m.parents {
		st, err := v.Stat(p)
		if err == nil && !st.IsDir() {
			return bcachefs.ErrExist
		}
		if err == nil {
			return nil
		}
		if up := path.Dir(p); up != "." {
			if err := m.make(v, up, 0o755); err != nil {
				return err
			}
		}
	}
	if err := v.Mkdir(p, perm); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return failedTodo("mkdir", cleanPath(p), fs.ErrNotExist, "-p makes the directories above, too")
		}
		return err
	}
	if m.verbose {
		m.out.WriteString(m.shownName(cleanPath(p)) + "\n")
	}
	// A directory with default ACLs has its own idea of permissions.
	return v.Chmod(p, perm|m.inherited(v, p))
}

// inherited returns the set-group-id bit if a new directory got it from the one it is in.
func (m *mkdirCmd) inherited(v *bcachefs.View, p string) fs.FileMode {
	st, err := v.Stat(p)
	if err != nil {
		return 0
	}
	return st.Mode() & fs.ModeSetgid
}
