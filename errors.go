package bcachefs

import (
	"errors"
	"fmt"
	"io/fs"
)

// Errors that callers may look for with errors.Is. Missing names wrap fs.ErrNotExist and wrong arguments fs.ErrInvalid.
var (
	ErrNoXattr          = errors.New("no such extended attribute")
	ErrNoData           = errors.New("no data behind this offset")
	ErrNotDir           = errors.New("not a directory")
	ErrIsDir            = errors.New("is a directory")
	ErrTooManyLinks     = errors.New("too many levels of symbolic links")
	ErrNameTooLong      = errors.New("name too long")
	ErrNoSubvolume      = fmt.Errorf("no such subvolume: %w", fs.ErrNotExist)
	ErrPassphraseNeeded = errors.New("filesystem is encrypted and no passphrase was given")
	ErrPassphrase       = errors.New("wrong passphrase")
)

// ReadError says which part of a file or tree could not be read.
type ReadError struct {
	Device string // name of the device; "" if it is missing or no device was asked
	Sector int64  // where on the device, in units of 512 bytes; -1 if unknown
	Inum   uint64 // inode; 0 if it is about no file
	Offset int64  // where in the file, in bytes
	Err    error  // what went wrong, of the last replica tried
}

func (e *ReadError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *ReadError) Unwrap() error { return e.Err }
