package blockdev

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// Device is a disk, or something like it.
//
// Errors of ReadAt, WriteAt, Flush and Discard are of type [*IOError], those of
// a cancelled context included.
type Device interface {
	// ReadAt fills all of p from byte offset off, or returns an error; p then
	// holds nothing of use.
	ReadAt(ctx context.Context, p []byte, off int64) error
	// WriteAt writes all of p at byte offset off. After an error, any part of
	// it may have been written.
	WriteAt(ctx context.Context, p []byte, off int64) error
	// Flush makes all writes durable that returned before it was called.
	Flush(ctx context.Context) error
	// Discard says that nobody needs these n bytes any more. They may read as
	// anything afterwards. A device that cannot discard does nothing.
	Discard(ctx context.Context, off, n int64) error
	// Size returns the size in bytes. It does not change.
	Size() int64
	// Name returns what messages call the device: for a file, its path.
	Name() string
	// ReadOnly says that WriteAt, Discard and Flush fail with ErrReadOnly.
	ReadOnly() bool
	// Close releases the device. It does not flush. No other method may be
	// running or be called after it.
	Close() error
}

var (
	// ErrReadOnly is returned for changes to a device opened for reading.
	ErrReadOnly = errors.New("opened for reading only")
	// ErrOutOfRange is returned for access beyond the end of a device.
	ErrOutOfRange = errors.New("outside of the device")
	// ErrBusy is returned by OpenFile if another program has the device open
	// for writing or has mounted it.
	ErrBusy = errors.New("in use: unmount it or stop the program that has it open")
	// ErrNotDevice is returned by OpenFile for a directory, pipe or the like.
	ErrNotDevice = errors.New("neither a file nor a block device")
	// ErrUnaligned is returned for writes in units smaller than a device takes.
	ErrUnaligned = errors.New("not aligned to the sectors of the device")
)

// Op is a kind of operation on a device.
type Op uint8

// The operations. They are bits, so that rules can name several.
const (
	OpRead Op = 1 << iota
	OpWrite
	OpFlush
	OpDiscard

	// OpAny matches all operations.
	OpAny = OpRead | OpWrite | OpFlush | OpDiscard
)

// String names a single operation.
func (op Op) String() string {
	switch op {
	case OpRead:
		return "read"
	case OpWrite:
		return "write"
	case OpFlush:
		return "flush"
	case OpDiscard:
		return "discard"
	}
	return fmt.Sprintf("op(%#x)", uint8(op))
}

// IOError says which operation failed on which device and where.
type IOError struct {
	Op     Op
	Device string // as Device.Name
	Offset int64  // in bytes
	Len    int64  // in bytes; 0 for a flush
	Err    error
}

func (e *IOError) Error() string {
	if e.Op == OpFlush {
		return fmt.Sprintf("%s: flush: %v", e.Device, e.Err)
	}
	return fmt.Sprintf("%s: %s of %d bytes at sector %d: %v",
		e.Device, e.Op, e.Len, e.Offset/SectorSize, e.Err)
}

func (e *IOError) Unwrap() error { return e.Err }

// check refuses what no device can do: operations of a cancelled context,
// outside of the device, or writing to what is read-only.
func check(ctx context.Context, d Device, op Op, off, n int64) error {
	err := ctx.Err()
	switch {
	case err != nil:
	case op != OpRead && d.ReadOnly():
		err = ErrReadOnly
	case off < 0 || n < 0 || off > d.Size()-n:
		err = ErrOutOfRange
	default:
		return nil
	}
	return &IOError{Op: op, Device: d.Name(), Offset: off, Len: n, Err: err}
}

// trimPathError drops from err the operation and path that IOError says anyway.
func trimPathError(err error) error {
	var pe *os.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
