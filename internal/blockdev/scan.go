package blockdev

import (
	"cmp"
	"errors"
	"os"
	"path/filepath"
	"slices"
)

// Candidate is a place where a filesystem may be.
type Candidate struct {
	Path      string
	Size      int64    // in bytes; 0 if unknown
	Block     bool     // a block device, not an image file
	Partition bool     // a part of another device
	ReadOnly  bool     // the system does not let anyone write to it
	Model     string   // of the disk, if the system knows it
	Holders   []string // devices built upon it (device mapper, RAID), if known
}

// Scan lists what may hold a filesystem: the files and devices named by paths,
// and those directly within the directories among them. Without paths, it lists
// the block devices of the system, partitions included, as far as the
// system tells: on Linux from /sys, on macOS from /dev; on Windows none.
//
// Nothing is opened: whether they hold anything is for the caller to see.
// Candidates come in the order of their paths, each once. Paths that do not
// exist are errors, which do not keep the others from being listed.
func Scan(paths []string) ([]Candidate, error) {
	if len(paths) == 0 {
		found, err := scanSystem()
		return tidy(found), err
	}
	var found []Candidate
	var errs []error
	for _, path := range paths {
		c, err := scanPath(path)
		found = append(found, c...)
		errs = append(errs, err)
	}
	return tidy(found), errors.Join(errs...)
}

func scanPath(path string) ([]Candidate, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !fi.IsDir() {
		if c, ok := candidate(path, fi); ok {
			return []Candidate{c}, nil
		}
		return nil, &os.PathError{Op: "scan", Path: path, Err: ErrNotDevice}
	}
	entries, err := os.ReadDir(path)
	var found []Candidate
	for _, e := range entries {
		name := filepath.Join(path, e.Name())
		fi, err := os.Stat(name)
		if err != nil {
			continue // removed since, or a dangling link
		}
		if c, ok := candidate(name, fi); ok {
			found = append(found, c)
		}
	}
	return found, err
}

func candidate(path string, fi os.FileInfo) (Candidate, bool) {
	switch mode := fi.Mode(); {
	case mode.IsRegular():
		return Candidate{Path: path, Size: fi.Size()}, fi.Size() > 0
	case mode&os.ModeDevice != 0 && mode&os.ModeCharDevice == 0:
		return describeDevice(path), true
	}
	return Candidate{}, false
}

func tidy(found []Candidate) []Candidate {
	slices.SortFunc(found, func(a, b Candidate) int { return cmp.Compare(a.Path, b.Path) })
	return slices.CompactFunc(found, func(a, b Candidate) bool { return a.Path == b.Path })
}
