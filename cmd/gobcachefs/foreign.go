package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/go-bcachefs/bcachefs/internal/engine"
	"github.com/go-bcachefs/bcachefs/internal/foreign"
)

// recognize returns what a file looks like, and what to do about that; nothing if it is not known.
func recognize(path string) (what, todo string) {
	f, err := os.Open(path)
	if err != nil {
		return "", ""
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd) // of block devices too
	if err != nil {
		return "", ""
	}
	found, _ := foreign.Probe(f, size)
	for _, x := range found {
		if !x.Bcachefs {
			return x.What, x.Todo
		}
	}
	return "", ""
}

// noSuperblock is the error of doing what at where, one of whose devices has no superblock.
func noSuperblock(what, where string, devices []string, err error) error {
	for _, d := range devices {
		if len(devices) > 1 && !strings.HasPrefix(err.Error(), d+": ") {
			continue
		}
		if kind, todo := recognize(d); kind != "" {
			return failedTodo(what, d, fmt.Errorf("%w: it looks like %s", engine.ErrNoSuperblock, kind), todo)
		}
		if st, serr := os.Stat(d); serr == nil && st.Mode().IsRegular() && st.Size() < minDevice {
			return failedTodo(what, d, fmt.Errorf("%w: the file has %d bytes", engine.ErrNoSuperblock, st.Size()),
				"check that it is the right file, and whole")
		}
	}
	return failedTodo(what, where, err, "check that it is the right device or image, and whole")
}

// minDevice is less than any filesystem takes, in bytes.
const minDevice = 64 << 10
