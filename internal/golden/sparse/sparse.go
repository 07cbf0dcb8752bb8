// Package sparse unpacks and copies disk images, which are mostly holes,
// without filling the holes.
package sparse

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"
)

// blockSize is the unit in which zeros are looked for: that of filesystems.
const blockSize = 4096

// Unzstd decompresses the file src to the file dst, which appears only once it
// is complete. Blocks of zeros become holes.
func Unzstd(dst, src string) error {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	zr, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
	if err != nil {
		return err
	}
	defer zr.Close()
	if err := writeFile(dst, zr); err != nil {
		return fmt.Errorf("unpacking %s: %w", src, err)
	}
	return nil
}

// Copy copies the file src to the file dst as Unzstd does.
func Copy(dst, src string) error {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := writeFile(dst, in); err != nil {
		return fmt.Errorf("copying %s: %w", src, err)
	}
	return nil
}

func writeFile(dst string, r io.Reader) (err error) {
	out, err := os.CreateTemp(filepath.Dir(dst), filepath.Base(dst)+".part*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(out.Name())
		}
	}()
	if err := errors.Join(writeSparse(out, r), out.Close()); err != nil {
		return err
	}
	return os.Rename(out.Name(), dst)
}

func writeSparse(out *os.File, r io.Reader) error {
	buf := make([]byte, 64*blockSize)
	var off int64
	for {
		n, err := io.ReadFull(r, buf)
		if n > 0 {
			if err := writeBlocks(out, buf[:n], off); err != nil {
				return err
			}
			off += int64(n)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return out.Truncate(off)
		}
		if err != nil {
			return err
		}
	}
}

// writeBlocks writes the runs of blocks in p that are not zero.
func writeBlocks(out *os.File, p []byte, off int64) error {
	for len(p) > 0 {
		zeros := run(p, true)
		p, off = p[zeros:], off+int64(zeros)
		data := run(p, false)
		if data == 0 {
			continue
		}
		if _, err := out.WriteAt(p[:data], off); err != nil {
			return err
		}
		p, off = p[data:], off+int64(data)
	}
	return nil
}

// run returns the length of the blocks at the start of p that are all zero,
// or all not.
func run(p []byte, zero bool) int {
	n := 0
	for n < len(p) {
		end := min(n+blockSize, len(p))
		if isZero(p[n:end]) != zero {
			break
		}
		n = end
	}
	return n
}

// isZero compares with itself, one byte on: many bytes at a time.
func isZero(p []byte) bool {
	return len(p) == 0 || p[0] == 0 && bytes.Equal(p[1:], p[:len(p)-1])
}
