package trans

import (
	"runtime"
	"strings"
	"testing"
	"time"
)

// noLeaks fails the test if goroutines of this module are left at its end that were not there before.
func noLeaks(t *testing.T) {
	t.Helper()
	count := func() (n int, stacks string) {
		buf := make([]byte, 4<<20)
		for _, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if strings.Contains(g, "go-bcachefs/bcachefs") {
				n++
				stacks += g + "\n\n"
			}
		}
		return n, stacks
	}
	before, _ := count()
	t.Cleanup(func() {
		var n int
		var stacks string
		for range 1000 {
			if n, stacks = count(); n <= before {
				return
			}
			time.Sleep(time.Millisecond)
		}
		t.Errorf("%d goroutines are left, there were %d:\n%s", n, before, stacks)
	})
}
