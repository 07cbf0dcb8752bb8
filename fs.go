package bcachefs

import (
	"context"
	"errors"
	"iter"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// Key is a key of a btree and Pos a position, as they lie on disk.
type (
	Key = ondisk.Key
	Pos = ondisk.Pos
)

// FS is an open filesystem.
type FS struct{}

// Open opens the filesystem on the given devices: block devices or image files. A device may itself be several, joined by
// colons. One member is enough if opts.ScanDirs tells where the others are.
//
// Errors are one line and say what is wrong with which device.
func Open(ctx context.Context, devices []string, opts *OpenOptions) (*FS, error) {
	return nil, errors.ErrUnsupported
}

// Close closes the devices. Views and files of f must not be used afterwards.
func (f *FS) Close() error { return errors.ErrUnsupported }

// Messages returns what was noticed when opening that a user should know: damaged superblock copies, missing members, a
// replayed journal.
func (f *FS) Messages() []string { return nil }

// UUID returns the external UUID of the filesystem in its usual form.
func (f *FS) UUID() string { return "" }

// Label returns the name of the filesystem, often empty.
func (f *FS) Label() string { return "" }

// Version returns the metadata version as "1.13".
func (f *FS) Version() string { return "" }

// Keys iterates over the keys of a btree, named as in "extents", from one position to another, both inclusive, in all
// snapshots. An error may be followed by more keys: it stands for a range that could not be read. A key's value is valid until the next step;
// clone keys to keep them.
func (f *FS) Keys(ctx context.Context, btree string, from, to Pos) iter.Seq2[Key, error] {
	return func(yield func(Key, error) bool) { yield(Key{}, errors.ErrUnsupported) }
}
