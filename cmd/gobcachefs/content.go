package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/go-bcachefs/bcachefs"
)

// How file content is read, in bytes: in chunks, and around damage in blocks.
const (
	chunkSize   = 4 << 20
	salvageSize = 4096
)

// A segment is a range of a file that holds data, in bytes.
type segment struct{ start, end int64 }

// dataSegments returns where a file has data from offset on: all of it if it has no holes. Behind the last one is a hole
// up to the file's size.
func dataSegments(f *bcachefs.File, from, size int64) ([]segment, error) {
	var segs []segment
	for off := from; off < size; {
		start, err := f.Seek(off, bcachefs.SeekData)
		if errors.Is(err, bcachefs.ErrNoData) {
			break
		}
		if err != nil {
			return nil, err
		}
		if start >= size {
			break
		}
		end, err := f.Seek(start, bcachefs.SeekHole)
		if err != nil {
			return nil, err
		}
		end = min(end, size)
		if end <= start {
			return nil, fmt.Errorf("data at offset %d has no end", start)
		}
		segs = append(segs, segment{start, end})
		off = end
	}
	return segs, nil
}

// A lossError says that parts of a file were replaced by zeros.
type lossError struct {
	bytes int64
	first error
}

func (e *lossError) Error() string {
	return fmt.Sprintf("%d bytes are unreadable and were replaced by zeros, the first: %v", e.bytes, e.first)
}

func (e *lossError) Unwrap() error { return e.first }

// contentReader reads ranges of a file in chunks.
type contentReader struct {
	f       *bcachefs.File
	buf     []byte
	salvage bool // go on after damage, with zeros in its place
	loss    lossError
}

// copy gives the content from start to end to write, in order. Errors of write are returned as they are.
func (c *contentReader) copy(ctx context.Context, start, end int64, write func(p []byte, off int64) error) error {
	if c.buf == nil {
		c.buf = make([]byte, min(chunkSize, max(end-start, salvageSize)))
	}
	for off := start; off < end; {
		if err := ctx.Err(); err != nil {
			return err
		}
		p := c.buf[:min(int64(len(c.buf)), end-off)]
		n, err := c.f.ReadAtContext(ctx, p, off)
		if n < len(p) {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			if !c.salvage || ctx.Err() != nil {
				return err
			}
			c.readAround(ctx, p, off, n)
		}
		if err := write(p, off); err != nil {
			return err
		}
		off += int64(len(p))
	}
	return nil
}

// readAround reads what of p can be read, block by block from its n-th byte on, and makes the rest zeros.
func (c *contentReader) readAround(ctx context.Context, p []byte, off int64, n int) {
	for n < len(p) {
		next := min(len(p), int((off+int64(n))/salvageSize*salvageSize+salvageSize-off))
		got, err := c.f.ReadAtContext(ctx, p[n:next], off+int64(n))
		if n += got; n < next {
			if c.loss.bytes == 0 {
				c.loss.first = err
			}
			c.loss.bytes += int64(next - n)
			clear(p[n:next])
			n = next
		}
	}
}

// lost returns what was replaced by zeros as an error, nil if nothing was.
func (c *contentReader) lost() error {
	if c.loss.bytes == 0 {
		return nil
	}
	if c.loss.first == nil {
		c.loss.first = io.ErrUnexpectedEOF
	}
	return &c.loss
}
