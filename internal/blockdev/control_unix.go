//go:build linux || darwin

package blockdev

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// control runs a system call on the descriptor of f, again if a signal came.
func control(f *os.File, call func(fd int) error) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var callErr error
	err = conn.Control(func(fd uintptr) {
		for {
			callErr = call(int(fd))
			if !errors.Is(callErr, unix.EINTR) {
				return
			}
		}
	})
	return errors.Join(err, callErr)
}
