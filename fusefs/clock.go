//go:build linux

package fusefs

import (
	"time"

	"golang.org/x/sys/unix"
)

// Now is the clock that the kernel takes the times of files from, which stands still between its ticks. A filesystem that is mounted should be opened
// with it ([bcachefs.OpenOptions].Now): what is changed later, by the kernel, would else look older than what was made before.
func Now() time.Time {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &t) != nil {
		return time.Now()
	}
	return time.Unix(t.Unix())
}
