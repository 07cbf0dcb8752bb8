package bcachefs

import (
	"context"
	"io/fs"
	"iter"
	"maps"
	"slices"
	"time"
)

// A FileTree is a tree of files outside of a filesystem that is to be put into one: a directory ([DirTree]) or an archive ([TarTree]).
type FileTree interface {
	// Files yields the files in an order that depends on nothing but the tree, a directory before what is in it. A file is valid until the next one. An
	// error that comes with a file is about that file only; one without a file is the last.
	Files(ctx context.Context) iter.Seq2[*TreeFile, error]
}

// A TreeFile is a file of a [FileTree].
type TreeFile struct {
	Path         string // as in io/fs; "." is the root of the tree
	RawMode      uint16 // type and permissions in POSIX bits
	UID, GID     uint32
	Size         int64     // bytes, of regular files
	Atime, Mtime time.Time // zero: not known
	RdevMajor    uint32    // of device files
	RdevMinor    uint32
	Target       string            // of symbolic links
	LinkTo       string            // the path of a file before, of which this is another name; all else but Path is then that of the file, or empty
	Linked       bool              // a LinkTo may follow that leads here
	Xattrs       map[string]string // extended attributes by their full names

	// Data calls write with the content of a regular file in order; what lies between is a hole, or zeros. p is valid for the call only. Errors of write are
	// returned as they are. It can be called once.
	Data func(ctx context.Context, write func(p []byte, off int64) error) error
}

// IsDir reports whether it is a directory.
func (f *TreeFile) IsDir() bool { return f.Mode().IsDir() }

// Mode returns type and permissions in Go's bits.
func (f *TreeFile) Mode() fs.FileMode { return fileMode(f.RawMode) }

// sortedNames returns the names of attributes in order.
func sortedNames(attrs map[string]string) []string { return slices.Sorted(maps.Keys(attrs)) }
