package bcachefs

import (
	"context"
	"errors"
	"io/fs"

	"github.com/go-bcachefs/bcachefs/internal/engine"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// Errno is an error number of Linux, whatever the system this runs on.
type Errno uint32

// The numbers that [ErrnoOf] returns.
const (
	ENOENT       Errno = 2
	EINTR        Errno = 4
	EIO          Errno = 5
	ENXIO        Errno = 6
	EBADF        Errno = 9
	EACCES       Errno = 13
	ENOTDIR      Errno = 20
	EISDIR       Errno = 21
	EINVAL       Errno = 22
	ENAMETOOLONG Errno = 36
	ELOOP        Errno = 40
	ENODATA      Errno = 61
	EOPNOTSUPP   Errno = 95
)

// errnos are looked through in this order.
var errnos = []struct {
	err   error
	errno Errno
}{
	{context.Canceled, EINTR},
	{context.DeadlineExceeded, EINTR},
	{ErrNoXattr, ENODATA},
	{ErrNoData, ENXIO},
	{ErrNotDir, ENOTDIR},
	{ErrIsDir, EISDIR},
	{ErrNotRegular, EINVAL},
	{ErrTooManyLinks, ELOOP},
	{ErrNameTooLong, ENAMETOOLONG},
	{ErrPassphrase, EACCES},
	{ErrPassphraseNeeded, EACCES},
	{engine.ErrNoSubvolume, ENOENT},
	{fs.ErrNotExist, ENOENT},
	{fs.ErrInvalid, EINVAL},
	{fs.ErrClosed, EBADF},
	{ondisk.ErrACL, EINVAL},
	{errors.ErrUnsupported, EOPNOTSUPP},
}

// ErrnoOf returns the number that the Linux driver would return for an error of this package: 0 for nil, EIO for what
// has no number of its own, such as a [*ReadError].
func ErrnoOf(err error) Errno {
	if err == nil {
		return 0
	}
	var read *ReadError
	if errors.As(err, &read) && !errors.Is(err, context.Canceled) {
		return EIO
	}
	for _, e := range errnos {
		if errors.Is(err, e.err) {
			return e.errno
		}
	}
	return EIO
}
