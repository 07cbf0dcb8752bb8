package bcachefs

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"sync"
)

// Values of whence for [File.Seek] besides those of package io, with the numbers of lseek(2) on Linux.
const (
	SeekData = 3 // to the start of data at or behind the offset
	SeekHole = 4 // to the start of a hole at or behind the offset; the end of the file counts as one
)

// File is an open file or directory.
type File struct {
	fs   *FS
	ctx  context.Context // of the methods that io prescribes without one
	name string
	stat *Stat

	flag int // of open(2), see [View.OpenFile]

	mu      sync.Mutex // guards what follows
	pos     int64
	closed  bool
	entries []fs.DirEntry // of a directory, those not yet returned; nil before the first ReadDir
	listErr error
}

var (
	_ fs.ReadDirFile = (*File)(nil)
	_ io.ReaderAt    = (*File)(nil)
	_ io.ReadSeeker  = (*File)(nil)
	_ io.WriterTo    = (*File)(nil)
)

// OpenInode opens a regular file for reading. ctx is that of the methods of File that take none.
func (f *FS) OpenInode(ctx context.Context, id InodeID) (*File, error) {
	file, err := f.openAny(ctx, id, "")
	if err != nil {
		return nil, err
	}
	switch {
	case file.stat.Mode.IsDir():
		err = ErrIsDir
	case !file.stat.Mode.IsRegular():
		err = ErrNotRegular
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// openAny opens an inode of any type; only files have content and only directories entries.
func (f *FS) openAny(ctx context.Context, id InodeID, name string) (*File, error) {
	if f.live != nil {
		f.live.Hold(id, 1)
	}
	st, err := f.Stat(ctx, id)
	if err != nil {
		if f.live != nil {
			f.live.Release(id, 1)
		}
		return nil, err
	}
	return &File{fs: f, ctx: ctx, name: name, stat: st}, nil
}

// Stat describes the file. The Sys method of the result returns a [*Stat].
func (f *File) Stat() (fs.FileInfo, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, f.pathError("stat", fs.ErrClosed)
	}
	if f.fs.live == nil {
		return fileInfo{f.name, f.stat}, nil
	}
	st, err := f.fs.Stat(f.ctx, f.stat.ID)
	if err != nil {
		return nil, f.pathError("stat", err)
	}
	return fileInfo{f.name, st}, nil
}

// ID returns the inode of the file.
func (f *File) ID() InodeID { return f.stat.ID }

// Size returns the size in bytes.
func (f *File) Size() int64 {
	size, _ := f.size(f.ctx)
	return size
}

// size is the size as it is now.
func (f *File) size(ctx context.Context) (int64, error) {
	if f.fs.live == nil {
		return f.stat.Size, nil
	}
	in, err := f.fs.tree.Inode(ctx, f.stat.ID)
	return int64(min(in.Size, 1<<63-1)), err
}

func (f *File) pathError(op string, err error) error { return pathError(op, f.name, err) }

// readable reports why there is nothing to read. Pipes, sockets and devices can be read and are empty.
func (f *File) readable() error {
	if f.stat.Mode.IsDir() {
		return ErrIsDir
	}
	if f.flag&os.O_WRONLY != 0 {
		return errBadMode
	}
	return nil
}

// Read implements io.Reader.
func (f *File) Read(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return 0, f.pathError("read", fs.ErrClosed)
	}
	n, err := f.ReadAtContext(f.ctx, p, f.pos)
	f.pos += int64(n)
	if n > 0 && errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

// ReadAt implements io.ReaderAt. When part of the range cannot be read it returns what precedes it and a [*ReadError].
func (f *File) ReadAt(p []byte, off int64) (int, error) { return f.ReadAtContext(f.ctx, p, off) }

// ReadAtContext is ReadAt with a context of its own.
func (f *File) ReadAtContext(ctx context.Context, p []byte, off int64) (int, error) {
	if err := f.readable(); err != nil {
		return 0, f.pathError("read", err)
	}
	if off < 0 {
		return 0, f.pathError("read", fs.ErrInvalid)
	}
	size, err := f.size(ctx)
	if err != nil {
		return 0, f.pathError("read", err)
	}
	left := size - off
	switch {
	case len(p) == 0:
		return 0, nil
	case left <= 0:
		return 0, io.EOF
	}
	short := int64(len(p)) > left
	if short {
		p = p[:left]
	}
	n, err := f.fs.data.ReadAt(ctx, f.stat.ID, p, off)
	if err == nil && (short || n < len(p)) {
		err = io.EOF
	}
	return n, err
}

// Seek implements io.Seeker, with [SeekData] and [SeekHole] besides. Beyond the last data SeekData fails with [ErrNoData].
func (f *File) Seek(offset int64, whence int) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return 0, f.pathError("seek", fs.ErrClosed)
	}
	pos, err := f.seek(offset, whence)
	if err != nil {
		return 0, f.pathError("seek", err)
	}
	if f.stat.Mode.IsDir() {
		f.entries, f.listErr = nil, nil
	}
	f.pos = pos
	return pos, nil
}

func (f *File) seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		offset += f.pos
	case io.SeekEnd:
		size, err := f.size(f.ctx)
		if err != nil {
			return 0, err
		}
		offset += size
	case SeekData, SeekHole:
		if err := f.readable(); err != nil {
			return 0, err
		}
		return f.seekExtent(f.ctx, offset, whence)
	default:
		return 0, fs.ErrInvalid
	}
	if offset < 0 {
		return 0, fs.ErrInvalid
	}
	return offset, nil
}

func (f *File) seekExtent(ctx context.Context, offset int64, whence int) (int64, error) {
	if whence == SeekData {
		return f.fs.data.SeekData(ctx, f.stat.ID, f.stat.Size, offset)
	}
	return f.fs.data.SeekHole(ctx, f.stat.ID, f.stat.Size, offset)
}

// NextData returns the first range of data at or behind off; [ErrNoData] if there is none. It does not move the position.
func (f *File) NextData(ctx context.Context, off int64) (start, end int64, err error) {
	if err := f.readable(); err != nil {
		return 0, 0, f.pathError("seek", err)
	}
	if start, err = f.seekExtent(ctx, off, SeekData); err != nil {
		return 0, 0, err
	}
	end, err = f.seekExtent(ctx, start, SeekHole)
	return start, end, err
}

// WriteTo reads chunks of chunkSize bytes, chunksAhead of them at a time.
const (
	chunkSize   = 2 << 20
	chunksAhead = 3
)

// WriteTo implements io.WriterTo: it copies the file from its position to its end, reading what comes next while one chunk is written.
// Before an error all that precedes what could not be read was written.
func (f *File) WriteTo(w io.Writer) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return 0, f.pathError("read", fs.ErrClosed)
	}
	if err := f.readable(); err != nil {
		return 0, f.pathError("read", err)
	}
	n, err := f.writeTo(w)
	f.pos += n
	return n, err
}

func (f *File) writeTo(w io.Writer) (done int64, err error) {
	size, err := f.size(f.ctx)
	if err != nil {
		return 0, err
	}
	if size -= f.pos; size <= 0 {
		return 0, nil
	}
	if size <= chunkSize {
		return f.copyChunk(w, make([]byte, size))
	}
	type chunk struct {
		buf []byte
		err error
	}
	ctx, cancel := context.WithCancel(f.ctx)
	var reads sync.WaitGroup
	defer reads.Wait()
	defer cancel()
	end, next := f.pos+size, f.pos
	read := func(buf []byte) <-chan chunk {
		buf, off := buf[:min(chunkSize, end-next)], next
		next += int64(len(buf))
		c := make(chan chunk, 1)
		reads.Go(func() {
			n, err := f.ReadAtContext(ctx, buf, off)
			c <- chunk{buf[:n], err}
		})
		return c
	}
	var queue []<-chan chunk // in the order of the file
	for len(queue) < chunksAhead && next < end {
		queue = append(queue, read(make([]byte, chunkSize)))
	}
	for len(queue) > 0 {
		c := <-queue[0]
		queue = queue[1:]
		n, err := w.Write(c.buf)
		done += int64(n)
		if err != nil {
			return done, err
		}
		if c.err != nil && !errors.Is(c.err, io.EOF) {
			return done, c.err
		}
		if next < end {
			queue = append(queue, read(c.buf[:chunkSize]))
		}
	}
	return done, nil
}

func (f *File) copyChunk(w io.Writer, buf []byte) (int64, error) {
	n, err := f.ReadAtContext(f.ctx, buf, f.pos)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	m, werr := w.Write(buf[:n])
	if werr != nil {
		return int64(m), werr
	}
	return int64(m), err
}

// ReadDir implements fs.ReadDirFile for directories; entries come in the order of names.
func (f *File) ReadDir(n int) ([]fs.DirEntry, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closed:
		return nil, f.pathError("readdir", fs.ErrClosed)
	case !f.stat.Mode.IsDir():
		return nil, f.pathError("readdir", ErrNotDir)
	}
	if f.entries == nil {
		f.entries, f.listErr = f.fs.sortedEntries(f.ctx, f.stat.ID)
		if f.entries == nil {
			f.entries = []fs.DirEntry{}
		}
	}
	rest := f.entries
	if n <= 0 {
		f.entries = f.entries[len(f.entries):]
		err := f.listErr
		f.listErr = nil
		return rest, f.pathError("readdir", err)
	}
	if len(rest) == 0 {
		if err := f.listErr; err != nil {
			f.listErr = nil
			return nil, f.pathError("readdir", err)
		}
		return nil, io.EOF
	}
	n = min(n, len(rest))
	f.entries = rest[n:]
	return rest[:n:n], nil
}

// Close closes the file.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return f.pathError("close", fs.ErrClosed)
	}
	f.closed = true
	if f.fs.live != nil {
		f.fs.live.Release(f.stat.ID, 1)
	}
	return nil
}
