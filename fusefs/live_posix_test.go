//go:build linux

package fusefs_test

import (
	"os"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"
)

// notOurs are those of go-fuse's tests that do not hold, and why.
var notOurs = map[string]string{
	"FcntlFlockLocksFile": "holds for a server that does the locking, by handles; here the kernel does, by processes, as on its own filesystems",
	"XAttrLarge":          "sets more than the format can hold in a key",
}

// TestLivePosix runs the tests that go-fuse has for filesystems, each in a directory of its own.
func TestLivePosix(t *testing.T) {
	m := newMount(t, 256)
	for name, fn := range posixtest.All {
		if notOurs[name] != "" {
			continue
		}
		dir := m.path(name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Run(name, func(t *testing.T) { fn(t, dir) })
	}
}
