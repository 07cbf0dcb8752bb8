package blockdev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// FileOptions says how OpenFile opens.
type FileOptions struct {
	// ReadOnly opens with O_RDONLY and takes no lock, so that a filesystem can
	// be looked at whoever else has it open. Otherwise the device is opened
	// for this program alone.
	ReadOnly bool
	// Direct reads and writes around the page cache where the system and the
	// alignment of the request allow it; elsewhere it changes nothing. It is
	// for scrubbing and benchmarks: the page cache helps everyone else.
	Direct bool
}

// File is a Device on an image file or a block device of the system.
type File struct {
	f        *os.File
	direct   *os.File // nil, or the same opened with O_DIRECT
	name     string
	size     int64
	readOnly bool
	block    bool  // a block device, or on some systems its character twin
	align    int64 // requests to f must be multiples of this; 0: any
	dioAlign int64 // the same for direct
	bounce   bouncePool
}

// OpenFile opens an image file or a block device. Its size is what it is now:
// a file that grows later is not noticed.
//
// The Device is a *File. Errors wrap fs.ErrNotExist, fs.ErrPermission, ErrBusy or ErrNotDevice where
// they apply, and name the path.
func OpenFile(path string, opts FileOptions) (Device, error) {
	d, err := openFile(path, opts)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, trimPathError(err))
	}
	return d, nil
}

func openFile(path string, opts FileOptions) (*File, error) {
	if err := checkPath(path); err != nil {
		return nil, err
	}
	flags := os.O_RDONLY
	if !opts.ReadOnly {
		flags = os.O_RDWR | exclusiveFlag(path)
	}
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		if !opts.ReadOnly && isBusy(err) {
			return nil, ErrBusy
		}
		return nil, err
	}
	d := &File{f: f, name: path, readOnly: opts.ReadOnly}
	if err := d.prepare(path, opts); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// prepare finds the size and the needs of what was opened.
func (d *File) prepare(path string, opts FileOptions) error {
	geo, err := geometryOf(d.f)
	if err != nil {
		return err
	}
	d.size, d.block, d.align = geo.size, geo.block, geo.align
	if !opts.ReadOnly && !d.block {
		if err := lockFile(d.f); err != nil {
			return err
		}
	}
	if opts.Direct {
		d.direct, d.dioAlign = openDirect(path, d.f, opts.ReadOnly)
	}
	return nil
}

// geometry is what the system knows about an open file or device.
type geometry struct {
	size  int64
	block bool
	align int64
}

// checkPath refuses what must not even be opened: a pipe would block.
func checkPath(path string) error {
	if isRawDevicePath(path) {
		return nil
	}
	fi, err := os.Stat(path)
	if err != nil {
		return err
	}
	mode := fi.Mode()
	if mode.IsRegular() || mode&fs.ModeDevice != 0 {
		return nil
	}
	return ErrNotDevice
}

// Size returns the size in bytes when it was opened.
func (d *File) Size() int64 { return d.size }

// Name returns the path it was opened by.
func (d *File) Name() string { return d.name }

// ReadOnly reports how it was opened.
func (d *File) ReadOnly() bool { return d.readOnly }

// IsBlockDevice says whether this is a block device and not a file.
func (d *File) IsBlockDevice() bool { return d.block }

// Close closes the file.
func (d *File) Close() error {
	var err error
	if d.direct != nil {
		err = d.direct.Close()
	}
	return errors.Join(err, d.f.Close())
}

// ReadAt implements Device. It does not allocate.
func (d *File) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := check(ctx, d, OpRead, off, int64(len(p))); err != nil {
		return err
	}
	var err error
	switch {
	case len(p) == 0:
	case d.direct != nil && aligned(off, int64(len(p)), d.dioAlign):
		err = d.bounceRead(d.direct, p, off, d.dioAlign)
	case d.align > 1:
		err = d.bounceRead(d.f, p, off, d.align)
	default:
		_, err = d.f.ReadAt(p, off)
	}
	return d.ioError(OpRead, off, int64(len(p)), err)
}

// WriteAt implements Device.
func (d *File) WriteAt(ctx context.Context, p []byte, off int64) error {
	if err := check(ctx, d, OpWrite, off, int64(len(p))); err != nil {
		return err
	}
	var err error
	switch {
	case len(p) == 0:
	case d.direct != nil && aligned(off, int64(len(p)), d.dioAlign):
		err = d.bounceWrite(d.direct, p, off)
	case d.align > 1 && !aligned(off, int64(len(p)), d.align):
		err = ErrUnaligned
	default:
		_, err = d.f.WriteAt(p, off)
	}
	return d.ioError(OpWrite, off, int64(len(p)), err)
}

// Flush implements Device.
func (d *File) Flush(ctx context.Context) error {
	if err := check(ctx, d, OpFlush, 0, 0); err != nil {
		return err
	}
	return d.ioError(OpFlush, 0, 0, flushFile(d.f))
}

// Discard implements Device: holes in files, discards on block devices.
func (d *File) Discard(ctx context.Context, off, n int64) error {
	if err := check(ctx, d, OpDiscard, off, n); err != nil || n == 0 {
		return err
	}
	return d.ioError(OpDiscard, off, n, discardFile(d.f, d.block, off, n))
}

func (d *File) ioError(op Op, off, n int64, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF // the file was cut short since it was opened
	}
	return &IOError{Op: op, Device: d.name, Offset: off, Len: n, Err: trimPathError(err)}
}
