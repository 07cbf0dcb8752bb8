//go:build !linux

package bcachefs

import (
	"io/fs"
	"os"
)

// hostStat fills in what a stat of this system tells beyond what package os does: nothing here.
func hostStat(*TreeFile, fs.FileInfo) (id hostInode, several bool) { return id, false }

// nextHostData returns the next range with data at or behind off; at the end both are size.
func nextHostData(_ *os.File, off, size int64) (start, end int64, err error) { return off, size, nil }

// hostXattrs returns the extended attributes of a file that other filesystems can hold: none here.
func hostXattrs(string) (map[string]string, error) { return nil, nil }
