//go:build !linux

package main

import (
	"context"
	"errors"
	"runtime"

	"github.com/spf13/cobra"
)

// newMountCmd makes a command that says what to use instead: FUSE is served on Linux only.
func newMountCmd(a *app) *cobra.Command {
	return a.command(&cobra.Command{
		Use:   "mount",
		Short: "Mount a filesystem (Linux only)",
		Args:  cobra.ArbitraryArgs,
	}, func(context.Context, []string) error {
		return failedTodo("mount", "", errors.New("not possible on "+runtime.GOOS), "use ls, cat, cp or export")
	})
}
