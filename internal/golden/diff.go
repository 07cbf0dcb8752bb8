package golden

import (
	"fmt"
	"strings"
)

// Fields are the names of the fields of a manifest line, in order.
var Fields = [...]string{
	"path", "type", "mode", "uid", "gid", "nlink", "size", "mtime", "rdev", "data", "xattrs",
	"ino", "subvol", "sectors", "flags", "atime", "ctime", "btime",
}

const (
	contentFields = 11 // so many say what the tree is, the rest how it is stored
	subvolField   = 12
)

// Diff compares a manifest of what was read with one of the image's, and
// returns a line for each difference. Of an image that is Computed, only what
// its manifest knows is compared, and of the fields after the eleventh only
// the subvolume. Comments and the order of lines do not matter.
func (img Image) Diff(got, want []byte) []string {
	var diff []string
	wantLines := strings.Split(string(want), "\n")
	wanted := make(map[string][]string, len(wantLines))
	for _, line := range wantLines {
		if fields, ok := splitLine(line); ok {
			wanted[fields[0]] = fields
		}
	}
	seen := make(map[string]bool, len(wantLines))
	for line := range strings.SplitSeq(string(got), "\n") {
		fields, ok := splitLine(line)
		if !ok {
			continue
		}
		path := fields[0]
		if seen[path] {
			diff = append(diff, path+": listed twice")
			continue
		}
		seen[path] = true
		if want, ok := wanted[path]; ok {
			diff = append(diff, img.diffFields(fields, want)...)
		} else {
			diff = append(diff, path+": is not in the manifest")
		}
	}
	for _, line := range wantLines {
		if fields, ok := splitLine(line); ok && !seen[fields[0]] {
			diff = append(diff, fields[0]+": is missing")
		}
	}
	return diff
}

func splitLine(line string) ([]string, bool) {
	return strings.Split(line, "\t"), line != "" && line[0] != '#'
}

func (img Image) diffFields(got, want []string) []string {
	if len(got) != len(want) {
		return []string{fmt.Sprintf("%s: %d fields, want %d", got[0], len(got), len(want))}
	}
	var diff []string
	for i := range min(len(got), len(Fields)) {
		if got[i] == want[i] || img.Computed && (want[i] == "-" || i >= contentFields && i != subvolField) {
			continue
		}
		diff = append(diff, fmt.Sprintf("%s: %s is %s, want %s", got[0], Fields[i], got[i], want[i]))
	}
	return diff
}
