// Command gobcachefs reads bcachefs filesystems without the kernel: it lists, copies out, exports and mounts them.
//
// There is one file per subcommand. [run] is the whole program but for the process around it, so that tests call it
// with their own arguments and writers; everything a command touches outside the filesystem it is given comes through
// [app].
package main

import (
	"context"
	"os"
	"os/signal"
	"slices"
)

func main() {
	// Who started this with nohup, or in the background of a script, wants signals ignored that are.
	caught := slices.DeleteFunc(slices.Clone(stopSignals), signal.Ignored)
	ctx, stop := signal.NotifyContext(context.Background(), caught...)
	code := run(ctx, os.Args, os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
