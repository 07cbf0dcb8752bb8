package bcachefs

import (
	"context"
	"errors"
	"io/fs"
	"syscall"

	"github.com/go-bcachefs/bcachefs/internal/engine"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// Errno is an error number of Linux, whatever the system this runs on.
type Errno uint32

// The numbers that [ErrnoOf] returns.
const (
	EPERM        Errno = 1
	ENOENT       Errno = 2
	EINTR        Errno = 4
	EIO          Errno = 5
	ENXIO        Errno = 6
	E2BIG        Errno = 7
	EBADF        Errno = 9
	EAGAIN       Errno = 11
	EACCES       Errno = 13
	EBUSY        Errno = 16
	EEXIST       Errno = 17
	EXDEV        Errno = 18
	ENOTDIR      Errno = 20
	EISDIR       Errno = 21
	EINVAL       Errno = 22
	EFBIG        Errno = 27
	ENOSPC       Errno = 28
	EROFS        Errno = 30
	EMLINK       Errno = 31
	ERANGE       Errno = 34
	ENAMETOOLONG Errno = 36
	ENOTEMPTY    Errno = 39
	ELOOP        Errno = 40
	ENODATA      Errno = 61
	EOPNOTSUPP   Errno = 95
	ESTALE       Errno = 116
	EDQUOT       Errno = 122
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
	{ErrWrongType, EOPNOTSUPP},
	{ErrNotWritable, EROFS},
	{fs.ErrNotExist, ENOENT},
	{fs.ErrInvalid, EINVAL},
	{fs.ErrClosed, EBADF},
	{ondisk.ErrACL, EINVAL},
	{errors.ErrUnsupported, EOPNOTSUPP},
}

// linuxErrnos are Linux' numbers of the system's errors that the layers below return.
var linuxErrnos = map[syscall.Errno]Errno{
	syscall.EPERM: EPERM, syscall.ENOENT: ENOENT, syscall.EIO: EIO, syscall.ENXIO: ENXIO, syscall.E2BIG: E2BIG, syscall.EBADF: EBADF,
	syscall.EACCES: EACCES, syscall.EBUSY: EBUSY, syscall.EEXIST: EEXIST, syscall.EXDEV: EXDEV, syscall.ENOTDIR: ENOTDIR,
	syscall.EISDIR: EISDIR, syscall.EINVAL: EINVAL, syscall.EFBIG: EFBIG, syscall.ENOSPC: ENOSPC, syscall.EROFS: EROFS,
	syscall.EMLINK: EMLINK, syscall.ERANGE: ERANGE, syscall.ENAMETOOLONG: ENAMETOOLONG, syscall.ENOTEMPTY: ENOTEMPTY,
	syscall.ELOOP: ELOOP, syscall.EOPNOTSUPP: EOPNOTSUPP, syscall.EDQUOT: EDQUOT, syscall.ESTALE: ESTALE,
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
	var system syscall.Errno
	if errors.As(err, &system) {
		if n, ok := linuxErrnos[system]; ok {
			return n
		}
	}
	return EIO
}
