package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// Exit codes of every command but fsck.
const (
	exitOK     = 0
	exitFailed = 1 // something could not be done or read; what could was
	exitUsage  = 2
)

// app is what a command knows of the world outside: its standard streams and environment. One app serves one
// invocation and is used by one goroutine.
type app struct {
	in     io.Reader
	out    *bufio.Writer // flushed by run
	err    io.Writer
	getenv func(string) string

	outTTY  bool // a person reads what is written to out
	errTTY  bool // a person reads what is written to err, so progress may be drawn there
	started bool // arguments were understood: errors from here on are not wrong usage
}

// run runs the command that args (the program's name first) ask for and returns its exit code. It writes at most one
// line for the error that ended the command; commands that go on after errors have written a line for each before.
func run(ctx context.Context, args []string, in io.Reader, out, errw io.Writer) int {
	return newApp(in, out, errw).run(ctx, args)
}

func newApp(in io.Reader, out, errw io.Writer) *app {
	a := &app{in: in, err: errw, getenv: os.Getenv, outTTY: isTerminal(out), errTTY: isTerminal(errw)}
	size := 64 << 10
	if a.outTTY {
		size = 16 // the least there is: who watches wants to see lines as they come
	}
	a.out = bufio.NewWriterSize(out, size)
	return a
}

func (a *app) run(ctx context.Context, args []string) int {
	root := a.rootCommand()
	args = fsckHelperArgs(args)
	root.SetArgs(chmodArgs(findArgs(mountHelperArgs(args)[1:])))
	err := root.ExecuteContext(ctx)
	if ferr := a.out.Flush(); err == nil && ferr != nil {
		err = failed("writing the output", "", ferr)
	}
	code := fsckExit(args, a.exit(err), err)
	if isMountHelper(args) {
		code = mountHelperExit(code)
	}
	return code
}

// rootCommand is the list of all commands.
func (a *app) rootCommand() *cobra.Command {
	root := a.group(&cobra.Command{
		Use:   "gobcachefs",
		Short: "Read, make and change bcachefs filesystems: no kernel module, no root",
		Long: "gobcachefs reads bcachefs filesystems of metadata versions 1.0 to 1.39 from devices or image files,\n" +
			"clean or not, and makes and changes those of 1.13. Commands that read never write to a device.\n\n" +
			"The devices of one filesystem are given as dev1:dev2 or, where nothing but devices is expected,\n" +
			"as several arguments.",
	})
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%s%v: see '%s --help'", about(cmd), err, cmd.CommandPath())
	})

	root.AddGroup(
		&cobra.Group{ID: groupFiles, Title: "Files:"},
		&cobra.Group{ID: groupFS, Title: "Filesystem:"},
		&cobra.Group{ID: groupInternals, Title: "Internals:"},
		&cobra.Group{ID: groupMisc, Title: "Other:"},
	)
	add := func(group string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add(groupFiles,
		newMountCmd(a),
		newLsCmd(a),
		newCatCmd(a),
		newStatCmd(a),
		newTreeCmd(a),
		newFindCmd(a),
		newDuCmd(a),
		newCpCmd(a),
		newExportCmd(a),
		newManifestCmd(a),
		newPutCmd(a),
		newImportCmd(a),
		newMkdirCmd(a),
		newRmCmd(a),
		newMvCmd(a),
		newLnCmd(a),
		newChmodCmd(a),
		newChownCmd(a),
		newSetfattrCmd(a),
		newTouchCmd(a),
	)
	add(groupFS,
		newFormatCmd(a),
		newImageCmd(a),
		newFSCmd(a),
		newSubvolumeCmd(a),
		newSnapshotCmd(a),
		newShowSuperCmd(a),
		newSetOptionCmd(a),
		newSetPassphraseCmd(a),
		newRemovePassphraseCmd(a),
		newRecoverSuperCmd(a),
		newFsckCmd(a),
	)
	add(groupInternals,
		newListCmd(a),
		newListJournalCmd(a),
		newDumpCmd(a),
		newRaceCmd(a),
	)
	add(groupMisc,
		newVersionCmd(a),
		newCompletionsCmd(a),
	)
	root.SetHelpCommandGroupID(groupMisc)
	root.AddCommand(optionsTopic())
	return root
}

const (
	groupFiles     = "files"
	groupFS        = "fs"
	groupInternals = "internals"
	groupMisc      = "misc"
)

// command finishes a command: fn runs it once flags and arguments have been accepted.
func (a *app) command(c *cobra.Command, fn func(ctx context.Context, args []string) error) *cobra.Command {
	c.SilenceUsage, c.SilenceErrors = true, true
	c.DisableFlagsInUseLine = true
	if accepts := c.Args; accepts != nil {
		c.Args = func(cmd *cobra.Command, args []string) error {
			if err := accepts(cmd, args); err != nil {
				return usagef("%s: want gobcachefs %s", cmd.Name(), strings.TrimPrefix(cmd.UseLine(), cmd.Root().Name()+" "))
			}
			return nil
		}
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		a.started = true
		return fn(cmd.Context(), args)
	}
	return c
}

// group finishes a command that only holds others.
func (a *app) group(c *cobra.Command, cmds ...*cobra.Command) *cobra.Command {
	c.SilenceUsage, c.SilenceErrors = true, true
	c.DisableFlagsInUseLine = true
	c.Args = cobra.ArbitraryArgs
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usagef("%sno command is given: see '%s --help'", about(cmd), cmd.CommandPath())
		}
		hint := ""
		if s := cmd.SuggestionsFor(args[0]); len(s) > 0 {
			hint = ", did you mean " + strings.Join(s, " or ") + "?"
		}
		return usagef("%sno command is named %q%s: see '%s --help'", about(cmd), args[0], hint, cmd.CommandPath())
	}
	c.SuggestionsMinimumDistance = 2
	c.AddCommand(cmds...)
	return c
}

// about names a command at the start of a message, but for the program itself.
func about(c *cobra.Command) string {
	if !c.HasParent() {
		return ""
	}
	return c.Name() + ": "
}

// humanFlag adds -h for human-readable sizes, which leaves --help without a short form, as in the reference tools.
func humanFlag(c *cobra.Command, human *bool) {
	c.Flags().BoolVarP(human, "human-readable", "h", false, "print sizes in human-readable units")
	c.Flags().Bool("help", false, "print help")
}

// jsonFlag adds --json.
func jsonFlag(c *cobra.Command, on *bool) {
	c.Flags().BoolVar(on, "json", false, "print JSON, for programs")
}

// writeJSON prints v indented.
func (a *app) writeJSON(v any) error {
	e := json.NewEncoder(a.out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return failed("writing the output", "", err)
	}
	return nil
}

func isTerminal(w any) bool {
	f, ok := w.(interface{ Fd() uintptr })
	return ok && term.IsTerminal(int(f.Fd()))
}

// errPartial ends a command that has reported each of its errors and did all else it was asked for.
var errPartial = errors.New("some things could not be read")
