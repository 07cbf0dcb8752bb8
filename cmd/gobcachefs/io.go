package main

import (
	"fmt"
	"io"

	"github.com/go-bcachefs/bcachefs"
)

// errWriter remembers the error of writing, which tells it from one of reading.
type errWriter struct {
	w   io.Writer
	n   int64
	err error
}

func (e *errWriter) Write(p []byte) (int, error) {
	n, err := e.w.Write(p)
	e.n += int64(n)
	if err != nil {
		e.err = err
	}
	return n, err
}

// notRegular is the error of reading something that is no file.
func notRegular(st *bcachefs.Stat) error {
	if st.Mode.IsDir() {
		return bcachefs.ErrIsDir
	}
	return fmt.Errorf("it is a %s, not a regular file", fileKind(st.Mode))
}
