package blockdev

import (
	"path/filepath"
	"strings"
)

// scanSystem lists /dev/diskN and the slices /dev/diskNsM. Only opening them
// would tell their sizes.
func scanSystem() ([]Candidate, error) {
	paths, err := filepath.Glob("/dev/disk[0-9]*")
	var found []Candidate
	for _, path := range paths {
		found = append(found, describeDevice(path))
	}
	return found, err
}

func describeDevice(path string) Candidate {
	number := strings.TrimPrefix(filepath.Base(path), "disk")
	return Candidate{Path: path, Block: true, Partition: strings.Contains(number, "s")}
}
