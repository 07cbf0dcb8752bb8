package bcachefs

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/go-bcachefs/bcachefs/internal/data"
	"github.com/go-bcachefs/bcachefs/internal/engine"
	"github.com/go-bcachefs/bcachefs/internal/namei"
)

// Errors that callers may look for with errors.Is. Missing names and the like wrap fs.ErrNotExist, wrong arguments
// fs.ErrInvalid.
var (
	ErrNoXattr          = namei.ErrNoXattr
	ErrNoData           = data.ErrNoData
	ErrNotDir           = namei.ErrNotDir
	ErrIsDir            = errors.New("is a directory")
	ErrNotRegular       = errors.New("not a regular file")
	ErrTooManyLinks     = namei.ErrTooManyLinks
	ErrNameTooLong      = namei.ErrNameTooLong
	ErrNoSubvolume      = namei.ErrNoSubvolume
	ErrNoSnapshot       = fmt.Errorf("no such snapshot: %w", fs.ErrNotExist)
	ErrPassphraseNeeded = errors.New("filesystem is encrypted and no passphrase was given")
	ErrPassphrase       = engine.ErrPassphrase
	ErrChecksum         = data.ErrChecksum
	ErrExist            = namei.ErrExist
	ErrNotEmpty         = namei.ErrNotEmpty
	ErrReadOnly         = namei.ErrReadOnly // of a subvolume
	ErrNotWritable      = errors.New("the filesystem was opened for reading only")
	ErrWrongType        = errors.New("not possible with a file of this type")
)

// ReadError says which part of a file could not be read: which device and sector were tried last, which inode and offset in the
// file, and what went wrong there.
type ReadError = data.ReadError
