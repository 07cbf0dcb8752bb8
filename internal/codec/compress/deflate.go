package compress

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/flate"
)

var errDeflateLong = errors.New("stream holds more than the uncompressed size")

// inflater is a reusable deflate decoder with the reader it takes its input from.
type inflater struct {
	src   bytes.Reader
	z     io.ReadCloser
	extra [1]byte // where a byte too many would go
}

var inflaters = sync.Pool{New: func() any {
	f := new(inflater)
	f.z = flate.NewReader(&f.src)
	return f
}}

// inflate decodes a raw deflate stream. The stream says where it ends; bytes behind that are padding.
func inflate(dst, src []byte) error {
	f := inflaters.Get().(*inflater)
	defer func() {
		f.src.Reset(nil) // the pool must not keep the caller's buffer alive
		inflaters.Put(f)
	}()
	f.src.Reset(src)
	if err := f.z.(flate.Resetter).Reset(&f.src, nil); err != nil {
		return err
	}
	if _, err := io.ReadFull(f.z, dst); err != nil {
		return err
	}
	switch n, err := io.ReadFull(f.z, f.extra[:]); {
	case n != 0:
		return errDeflateLong
	case err != io.EOF:
		return err
	}
	return nil
}

// deflater is a reusable deflate encoder of one level.
type deflater struct {
	dst limitedBuffer
	z   *flate.Writer
}

var deflaters [flate.BestCompression + 1]sync.Pool

var errBufferFull = errors.New("output buffer full")

// limitedBuffer is a writer into a slice that refuses what does not fit.
type limitedBuffer struct {
	b []byte
	n int
}

func (l *limitedBuffer) Write(p []byte) (int, error) {
	if len(p) > len(l.b)-l.n {
		return 0, errBufferFull
	}
	l.n += copy(l.b[l.n:], p)
	return len(p), nil
}

// deflate writes a raw deflate stream. Level 0 is the library's default, others are clamped to 1 to 9.
func deflate(level int, dst, src []byte) (int, bool, error) {
	const libraryDefault = 6
	if level == 0 {
		level = libraryDefault
	}
	level = min(level, flate.BestCompression)
	f, _ := deflaters[level].Get().(*deflater)
	if f == nil {
		f = new(deflater)
		z, err := flate.NewWriter(&f.dst, level)
		if err != nil {
			return 0, false, fmt.Errorf("gzip: %w", err)
		}
		f.z = z
	}
	defer func() {
		f.dst = limitedBuffer{}
		deflaters[level].Put(f)
	}()
	f.dst = limitedBuffer{b: dst}
	f.z.Reset(&f.dst)
	_, err := f.z.Write(src)
	if err == nil {
		err = f.z.Close()
	}
	if errors.Is(err, errBufferFull) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("gzip: %w", err)
	}
	return f.dst.n, true, nil
}
