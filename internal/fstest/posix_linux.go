package fstest

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"
)

// posixWithout are the tests that ask for what POSIX does not say.
var posixWithout = map[string]string{
	// Locks of one process do not exclude each other, whatever descriptors they were taken through; it fails on ext4.
	"FcntlFlockLocksFile": "it takes a lock twice in one process and expects that to fail",
}

// Posix runs the tests of go-fuse's package posixtest, each in a directory of its own below dir, but for some that are named with the reason.
func Posix(t *testing.T, dir string, without map[string]string) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(posixtest.All)) {
		t.Run(name, func(t *testing.T) {
			for _, w := range []map[string]string{posixWithout, without} {
				if reason := w[name]; reason != "" {
					t.Skip(reason)
				}
			}
			own := filepath.Join(dir, "posix-"+name)
			if err := os.Mkdir(own, 0o755); err != nil {
				t.Fatal(err)
			}
			posixtest.All[name](t, own)
		})
	}
}
