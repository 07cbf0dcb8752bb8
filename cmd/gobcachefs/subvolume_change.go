package main

import (
	"context"
	"errors"
	"os"
	"path"

	"github.com/spf13/cobra"

	"github.com/go-bcachefs/bcachefs"
)

// The commands that make and delete subvolumes take paths on a mounted filesystem, as those of the reference do, or devices of one that is not mounted and
// then paths in it. What comes first tells which: devices are no directories, and are there.

// givesDevices reports whether an argument names devices.
func givesDevices(arg string) bool {
	if isUUID(arg) {
		return true
	}
	devices, err := splitDevices([]string{arg})
	if err != nil {
		return false
	}
	for _, d := range devices {
		if st, err := os.Stat(d); (err != nil || st.IsDir()) && !isUUID(d) {
			return false
		}
	}
	return true
}

type subvolumeChangeCmd struct {
	change
	readOnly bool
}

func newSubvolumeCreateCmd(a *app) *cobra.Command {
	s := &subvolumeChangeCmd{change: newChange(a, "subvolume create")}
	c := a.command(&cobra.Command{
		Use:     "create [flags] [DEV[:DEV]...] PATH...",
		Aliases: []string{"new"},
		Short:   "Make subvolumes",
		Long: "create makes empty subvolumes: at paths on a mounted filesystem, the driver's or ours, or in the filesystem on DEV, which is\n" +
			"not mounted.",
		Args: cobra.MinimumNArgs(1),
	}, func(ctx context.Context, args []string) error {
		return s.run(ctx, args, createMounted, func(v *bcachefs.View, p string) error {
			_, err := v.CreateSubvolume(p, 0o755)
			return err
		})
	})
	s.register(c)
	return c
}

func newSubvolumeDeleteCmd(a *app) *cobra.Command {
	s := &subvolumeChangeCmd{change: newChange(a, "subvolume delete")}
	c := a.command(&cobra.Command{
		Use:     "delete [flags] [DEV[:DEV]...] PATH...",
		Aliases: []string{"del"},
		Short:   "Delete subvolumes and snapshots",
		Long: "delete deletes subvolumes and snapshots with all that is in them but other subvolumes, which have to be deleted before: at paths on\n" +
			"a mounted filesystem, or in the filesystem on DEV, which is not mounted; then their space has come back when it ends.",
		Args: cobra.MinimumNArgs(1),
	}, func(ctx context.Context, args []string) error {
		return s.run(ctx, args, deleteMounted, func(v *bcachefs.View, p string) error {
			if p == "." {
				return errIsRoot
			}
			if st, err := v.Lstat(p); err == nil && !st.Sys().(*bcachefs.Stat).SubvolRoot {
				return failedTodo(s.what, cleanPath(p), errors.New("it is no subvolume"), "'gobcachefs rm' removes files and directories")
			}
			if err := v.DeleteSubvolume(p); err != nil {
				return err
			}
			return v.FS().WaitDeleted(ctx)
		})
	})
	s.register(c)
	return c
}

// run makes a change at each path.
func (s *subvolumeChangeCmd) run(ctx context.Context, args []string, mounted func(p string) error, offline func(v *bcachefs.View, p string) error) error {
	if givesDevices(args[0]) {
		if len(args) < 2 {
			return usagef("%s: want paths in the filesystem on %s", s.what, args[0])
		}
		return s.each(ctx, args[0], args[1:], offline)
	}
	for _, p := range args {
		if err := mounted(p); err != nil {
			s.problems.count++
			s.report(s.mountedError(p, err))
		}
	}
	return s.problems.result()
}

func (s *subvolumeChangeCmd) mountedError(p string, err error) error {
	if errors.Is(err, errNotMounted) {
		return failedTodo(s.what, p, err, "for one that is not mounted give its devices first")
	}
	return failed(s.what, p, err)
}

func newSubvolumeSnapshotCmd(a *app) *cobra.Command {
	s := &subvolumeChangeCmd{change: newChange(a, "subvolume snapshot")}
	c := a.command(&cobra.Command{
		Use:     "snapshot [flags] [DEV[:DEV]...] [SOURCE] DEST",
		Aliases: []string{"snap"},
		Short:   "Take a snapshot of a subvolume",
		Long: "snapshot takes a snapshot of the subvolume that SOURCE is in, without SOURCE of the one that DEST is in, under the name DEST: on a\n" +
			"mounted filesystem, or in the filesystem on DEV, which is not mounted. It can be written to, unless with -r.",
		Args: cobra.RangeArgs(1, 3),
	}, s.snapshot)
	c.Flags().BoolVarP(&s.readOnly, "read-only", "r", false, "nothing in it can be changed")
	s.register(c)
	return c
}

func (s *subvolumeChangeCmd) snapshot(ctx context.Context, args []string) error {
	if !givesDevices(args[0]) {
		if len(args) > 2 {
			return usagef("%s: want [SOURCE] DEST", s.what)
		}
		src, dest := "", args[len(args)-1]
		if len(args) == 2 {
			src = args[0]
		}
		if err := snapshotMounted(dest, src, s.readOnly); err != nil {
			return s.mountedError(dest, err)
		}
		return nil
	}
	if len(args) < 2 {
		return usagef("%s: want [SOURCE] DEST in the filesystem on %s", s.what, args[0])
	}
	return s.each(ctx, args[0], args[len(args)-1:], func(v *bcachefs.View, p string) error {
		src := path.Dir(p)
		if len(args) == 3 {
			src = imagePath(args[1])
		}
		if _, err := v.Snapshot(src, p, s.readOnly); err != nil {
			if _, serr := v.Stat(src); serr != nil {
				return fileFailed(s.what, cleanPath(src), errors.Unwrap(serr))
			}
			return err
		}
		return nil
	})
}
