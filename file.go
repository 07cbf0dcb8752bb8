package bcachefs

import (
	"context"
	"errors"
	"io"
	"io/fs"
)

// Values of whence for [File.Seek] besides those of package io, with the numbers of lseek(2) on Linux.
const (
	SeekData = 3 // to the start of data at or behind the offset
	SeekHole = 4 // to the start of a hole at or behind the offset; the end of the file counts as one
)

// File is an open file or directory.
type File struct{}

var (
	_ fs.ReadDirFile = (*File)(nil)
	_ io.ReaderAt    = (*File)(nil)
	_ io.ReadSeeker  = (*File)(nil)
	_ io.WriterTo    = (*File)(nil)
)

// Stat describes the file. The Sys method of the result returns a [*Stat].
func (f *File) Stat() (fs.FileInfo, error) { return nil, errors.ErrUnsupported }

// ID returns the inode of the file.
func (f *File) ID() InodeID { return InodeID{} }

// Size returns the size in bytes.
func (f *File) Size() int64 { return 0 }

// Read implements io.Reader.
func (f *File) Read(p []byte) (int, error) { return 0, errors.ErrUnsupported }

// ReadAt implements io.ReaderAt. When part of the range cannot be read it returns what precedes it and a [*ReadError].
func (f *File) ReadAt(p []byte, off int64) (int, error) { return 0, errors.ErrUnsupported }

// ReadAtContext is ReadAt with a context of its own.
func (f *File) ReadAtContext(ctx context.Context, p []byte, off int64) (int, error) {
	return 0, errors.ErrUnsupported
}

// Seek implements io.Seeker, with [SeekData] and [SeekHole] besides. Beyond the last data SeekData fails with [ErrNoData].
func (f *File) Seek(offset int64, whence int) (int64, error) { return 0, errors.ErrUnsupported }

// WriteTo implements io.WriterTo: it copies the file from its position to its end, reading ahead.
func (f *File) WriteTo(w io.Writer) (int64, error) { return 0, errors.ErrUnsupported }

// ReadDir implements fs.ReadDirFile for directories.
func (f *File) ReadDir(n int) ([]fs.DirEntry, error) { return nil, errors.ErrUnsupported }

// Close closes the file.
func (f *File) Close() error { return nil }
