package bcachefs

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"syscall"
)

var (
	_ io.Writer       = (*File)(nil)
	_ io.WriterAt     = (*File)(nil)
	_ io.StringWriter = (*File)(nil)
	_ io.ReaderFrom   = (*File)(nil)
)

// errBadMode is the answer to writing to what was opened for reading, and the other way round.
var errBadMode = syscall.EBADF

// writable reports why a file is not to be written to.
func (f *File) writable() error {
	switch {
	case f.fs.live == nil:
		return ErrNotWritable
	case f.stat.Mode.IsDir():
		return ErrIsDir
	case f.flag&(os.O_WRONLY|os.O_RDWR) == 0:
		return errBadMode
	}
	return nil
}

// MayWrite reports why a file cannot be opened for writing, or for appending only: it is in a read-only subvolume, or immutable or append-only.
func (f *FS) MayWrite(ctx context.Context, id InodeID, appends bool) error {
	if f.live == nil {
		return ErrNotWritable
	}
	return f.live.MayWrite(ctx, id, appends)
}

// Write implements io.Writer. Files that were opened with O_APPEND are written to at their end.
func (f *File) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.write(p)
}

func (f *File) write(p []byte) (n int, err error) {
	if f.closed {
		return 0, f.pathError("write", fs.ErrClosed)
	}
	if err := f.writable(); err != nil {
		return 0, f.pathError("write", err)
	}
	off, seq := f.pos, uint64(0)
	if f.flag&os.O_APPEND != 0 {
		off, n, seq, err = f.fs.live.Append(f.ctx, f.stat.ID, p, nil)
	} else {
		n, seq, err = f.fs.live.WriteAt(f.ctx, f.stat.ID, p, off, nil)
	}
	f.pos = off + int64(n)
	return n, f.pathError("write", f.durable(seq, err))
}

// durable has what was written reach the disk if the file was opened with O_SYNC.
func (f *File) durable(seq uint64, err error) error {
	if err == nil && f.flag&os.O_SYNC != 0 {
		err = f.fs.live.SyncSeq(f.ctx, seq)
	}
	return err
}

// WriteString implements io.StringWriter.
func (f *File) WriteString(s string) (int, error) { return f.Write([]byte(s)) }

// WriteAt implements io.WriterAt; it is an error for files that were opened with O_APPEND. Writes to ranges of whole blocks go on at the same time.
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	if err := f.writable(); err != nil {
		return 0, f.pathError("write", err)
	}
	if off < 0 || f.flag&os.O_APPEND != 0 {
		return 0, f.pathError("write", fs.ErrInvalid)
	}
	n, seq, err := f.fs.live.WriteAt(f.ctx, f.stat.ID, p, off, nil)
	return n, f.pathError("write", f.durable(seq, err))
}

// ReadFrom implements io.ReaderFrom: it writes what r gives until that ends, in large pieces.
func (f *File) ReadFrom(r io.Reader) (total int64, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	buf := make([]byte, 2*chunkSize)
	for {
		n, err := io.ReadFull(r, buf)
		if n > 0 {
			m, werr := f.write(buf[:n])
			total += int64(m)
			if werr != nil {
				return total, werr
			}
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return total, nil
		case err != nil:
			return total, err
		}
	}
}

// Truncate makes the file end at size.
func (f *File) Truncate(size int64) error {
	err := f.writable()
	if err == nil {
		err = f.truncate(size)
	}
	return f.pathError("truncate", err)
}

func (f *File) truncate(size int64) error { return f.fs.truncate(f.ctx, f.stat.ID, size) }

// Allocate changes the space of a range, see [FS.Allocate].
func (f *File) Allocate(mode AllocateMode, off, n int64) error {
	err := f.writable()
	if err == nil {
		err = f.fs.Allocate(f.ctx, f.stat.ID, mode, off, n, 0)
	}
	return f.pathError("fallocate", err)
}

// CloneFrom has n bytes at off share their data with those of another file at fromOff, see [FS.CloneRange].
func (f *File) CloneFrom(from *File, fromOff, off, n int64) (int64, error) {
	if err := f.writable(); err != nil {
		return 0, f.pathError("clone", err)
	}
	cloned, err := f.fs.CloneRange(f.ctx, from.stat.ID, fromOff, f.stat.ID, off, n)
	return cloned, f.pathError("clone", err)
}

// Chmod changes permissions, set-id bits and sticky bit.
func (f *File) Chmod(mode fs.FileMode) error {
	m := posixMode(mode)
	_, err := f.fs.SetAttr(f.ctx, f.stat.ID, Attrs{RawMode: &m})
	return f.pathError("chmod", err)
}

// Chown changes owner and group; -1 leaves one as it is.
func (f *File) Chown(uid, gid int) error {
	_, err := f.fs.SetAttr(f.ctx, f.stat.ID, owners(uid, gid))
	return f.pathError("chown", err)
}

// Sync returns when all that was done to the file is durable.
func (f *File) Sync() error { return f.SyncContext(f.ctx) }

// SyncContext is Sync with a context of its own.
func (f *File) SyncContext(ctx context.Context) error {
	return f.pathError("sync", f.fs.SyncInode(ctx, f.stat.ID))
}
