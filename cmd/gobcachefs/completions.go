package main

import (
	"context"

	"github.com/spf13/cobra"
)

func newCompletionsCmd(a *app) *cobra.Command {
	shells := []string{"bash", "fish", "powershell", "zsh"}
	var c *cobra.Command
	c = a.command(&cobra.Command{
		Use:       "completions {bash|fish|powershell|zsh}",
		Short:     "Print a script that completes commands and flags in a shell",
		Example:   "  gobcachefs completions bash > /etc/bash_completion.d/gobcachefs",
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: shells,
	}, func(_ context.Context, args []string) error {
		root := c.Root()
		switch args[0] {
		case "bash":
			return root.GenBashCompletionV2(a.out, true)
		case "fish":
			return root.GenFishCompletion(a.out, true)
		case "powershell":
			return root.GenPowerShellCompletionWithDesc(a.out)
		}
		return root.GenZshCompletion(a.out)
	})
	return c
}
