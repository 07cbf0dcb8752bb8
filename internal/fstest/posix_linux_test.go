package fstest

import "testing"

func TestPosix(t *testing.T) {
	fs := dirs(t)["disk"]
	Posix(t, fs.Dir, map[string]string{"OpenSymlinkRace": "it finds a race that is the system's: a name that is a file and then a link is followed"})
}
