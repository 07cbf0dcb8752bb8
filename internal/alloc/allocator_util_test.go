package alloc

import (
	"testing"
	"time"
)

// until waits for a condition that others make true.
func until(t testing.TB, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !cond(); time.Sleep(100 * time.Microsecond) {
		if time.Now().After(end) {
			t.Fatal("waited for 10 s in vain")
		}
	}
}
