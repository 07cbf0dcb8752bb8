//go:build !linux

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"

	"github.com/go-bcachefs/bcachefs"
)

// makeNode says that there are no such files here.
func makeNode(_ *os.File, _ string, st *bcachefs.Stat) error {
	return fmt.Errorf("a %s cannot be made on %s", fileKind(st.Mode), runtime.GOOS)
}

// applyMeta sets owner, permissions and times of a file in a directory. What cannot be set here goes to missed.
func applyMeta(d *destDir, name string, st *bcachefs.Stat, attrs map[string]string, skip metaKinds, missed *metaKinds) []error {
	if len(attrs) > 0 {
		missed.xattrs = true
	}
	if !skip.owner && d.root.Lchown(name, int(st.UID), int(st.GID)) != nil {
		missed.owner = true
	}
	if st.Mode&fs.ModeSymlink != 0 {
		return nil
	}
	var errs []error
	if !skip.mode {
		mode := st.Mode.Perm() | st.Mode&fs.ModeSticky
		if !missed.owner && !skip.owner {
			mode |= st.Mode & (fs.ModeSetuid | fs.ModeSetgid)
		}
		if err := d.root.Chmod(name, mode); err != nil {
			if !errors.Is(err, fs.ErrPermission) {
				errs = append(errs, err)
			}
			missed.mode = true
		}
	}
	if !skip.times {
		if err := d.root.Chtimes(name, st.Atime, st.Mtime); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}
