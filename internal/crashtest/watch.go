package crashtest

import (
	"runtime/debug"
	"time"
)

// patience is how long anything may take that is watched, on however busy a machine.
const patience = 3 * time.Minute

// Watch ends the process with the stacks of all goroutines if the function that it returns is not called in time: what hangs cannot be told in
// another way.
func Watch(what string) (done func()) {
	t := time.AfterFunc(patience, func() {
		debug.SetTraceback("all")
		panic(what + " hangs")
	})
	return func() { t.Stop() }
}
