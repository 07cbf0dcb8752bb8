//go:build linux

package fusefs_test

import (
	"os"
	"testing"
)

// partVar makes the test binary play a part in a test: another process, which may be killed or somebody else's.
const partVar = "FUSEFS_TEST_PART"

func TestMain(m *testing.M) {
	switch os.Getenv(partVar) {
	case "":
		os.Exit(m.Run())
	case "rights":
		rightsPart()
	case "server":
		serverPart()
	case "change":
		changePart()
	case "open":
		openPart()
	}
}
