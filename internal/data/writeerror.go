package data

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/go-bcachefs/bcachefs/internal/alloc"
)

// errnoError is an error with the number that a front end answers with.
type errnoError struct {
	err   error
	errno syscall.Errno
}

func (e *errnoError) Error() string   { return e.err.Error() }
func (e *errnoError) Unwrap() []error { return []error{e.err, e.errno} }

// errno gives an error a number.
func errno(n syscall.Errno, format string, args ...any) error {
	return &errnoError{fmt.Errorf(format, args...), n}
}

// outward gives errors of lower layers the number that they mean.
func outward(err error) error {
	var n syscall.Errno
	switch {
	case err == nil || errors.As(err, &n):
	case errors.Is(err, alloc.ErrNoSpace):
		return &errnoError{err, syscall.ENOSPC}
	case errors.Is(err, alloc.ErrInsufficientDevices):
		return &errnoError{err, syscall.EROFS}
	}
	return err
}
