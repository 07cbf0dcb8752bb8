package vfs

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/go-bcachefs/bcachefs/internal/data"
	"github.com/go-bcachefs/bcachefs/internal/namei"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// ReadAt reads from a file, see [data.Writer.ReadAt].
func (f *FS) ReadAt(ctx context.Context, id namei.ID, p []byte, off int64) (int, error) {
	if id.Subvol == 0 {
		return 0, errSnapshot
	}
	n, err := f.data.ReadAt(ctx, dataID(id), p, off)
	return n, f.outward(err)
}

// SeekData returns the offset of the first data at or behind off.
func (f *FS) SeekData(ctx context.Context, id namei.ID, off int64) (int64, error) {
	n, err := f.data.SeekData(ctx, dataID(id), off)
	return n, f.outward(err)
}

// SeekHole returns the offset of the first hole at or behind off.
func (f *FS) SeekHole(ctx context.Context, id namei.ID, off int64) (int64, error) {
	n, err := f.data.SeekHole(ctx, dataID(id), off)
	return n, f.outward(err)
}

// again runs an operation that needs space once more after what is becoming free is so, if it had none.
func (f *FS) again(ctx context.Context, op func() (seq uint64, err error)) (seq uint64, err error) {
	seq, err = op()
	if errors.Is(err, syscall.ENOSPC) && f.moreSpace(ctx) {
		var second uint64
		second, err = op()
		seq = max(seq, second)
	}
	return seq, f.outward(err)
}

// WriteAt writes to a file. seq is what to give to [FS.SyncSeq] so that it is durable.
func (f *FS) WriteAt(ctx context.Context, id namei.ID, p []byte, off int64, o *data.WriteOptions) (n int, seq uint64, err error) {
	seq, err = f.again(ctx, func() (seq uint64, err error) {
		did := 0
		did, seq, err = f.data.WriteAt(ctx, dataID(id), p[n:], off+int64(n), o)
		n += did
		return seq, err
	})
	return n, seq, err
}

// Append writes at the end of a file, where no other Append writes meanwhile, and returns where that was.
func (f *FS) Append(ctx context.Context, id namei.ID, p []byte, o *data.WriteOptions) (off int64, n int, seq uint64, err error) {
	mu := &f.appending[id.Inum%uint64(len(f.appending))]
	mu.Lock()
	defer mu.Unlock()
	a, err := f.Inode(ctx, id)
	if err != nil {
		return 0, 0, 0, err
	}
	off = int64(a.Inode.Size)
	n, seq, err = f.WriteAt(ctx, id, p, off, o)
	return off, n, seq, err
}

// mayChange refuses what the flags of an inode forbid to everybody.
func (f *FS) mayChange(ctx context.Context, id namei.ID, forbids ondisk.InodeFlags) error {
	a, err := f.Inode(ctx, id)
	if err == nil && a.Inode.Flags&forbids != 0 {
		err = namei.ErrProtected
	}
	return err
}

// MayWrite reports why a file may not be opened for writing, or only for appending.
func (f *FS) MayWrite(ctx context.Context, id namei.ID, appends bool) error {
	if id.Subvol == 0 {
		return namei.ErrReadOnly
	}
	if err := f.rw.Err(); err != nil {
		return fmt.Errorf("%w: %w", ErrReadOnly, err)
	}
	s, err := f.Subvolume(ctx, id.Subvol)
	if err == nil && s.Flags&ondisk.SubvolumeRO != 0 {
		err = namei.ErrReadOnly
	}
	if err != nil {
		return err
	}
	forbids := immutable | appendOnly
	if appends {
		forbids = immutable
	}
	return f.mayChange(ctx, id, forbids)
}

const immutable, appendOnly = ondisk.InodeImmutable, ondisk.InodeAppend

// Truncate makes a file end at size.
func (f *FS) Truncate(ctx context.Context, id namei.ID, size int64, o *data.WriteOptions) (seq uint64, err error) {
	if err := f.mayChange(ctx, id, immutable|appendOnly); err != nil {
		return 0, err
	}
	return f.again(ctx, func() (uint64, error) { return f.data.Truncate(ctx, dataID(id), size, o) })
}

// Allocate makes sure that there is space, see [data.Writer.Allocate].
func (f *FS) Allocate(ctx context.Context, id namei.ID, off, n int64, mode data.AllocateMode, o *data.WriteOptions) (seq uint64, err error) {
	forbids := immutable
	if mode&^data.KeepSize != 0 {
		forbids |= appendOnly
	}
	if err := f.mayChange(ctx, id, forbids); err != nil {
		return 0, err
	}
	return f.again(ctx, func() (uint64, error) { return f.data.Allocate(ctx, dataID(id), off, n, mode, o) })
}

// Punch makes a hole.
func (f *FS) Punch(ctx context.Context, id namei.ID, off, n int64, o *data.WriteOptions) (seq uint64, err error) {
	if err := f.mayChange(ctx, id, immutable|appendOnly); err != nil {
		return 0, err
	}
	return f.again(ctx, func() (uint64, error) { return f.data.Punch(ctx, dataID(id), off, n, o) })
}

// InsertRange moves what is behind off towards the end, see [data.Writer.InsertRange].
func (f *FS) InsertRange(ctx context.Context, id namei.ID, off, n int64, o *data.WriteOptions) (seq uint64, err error) {
	if err := f.mayChange(ctx, id, immutable|appendOnly); err != nil {
		return 0, err
	}
	return f.again(ctx, func() (uint64, error) { return f.data.InsertRange(ctx, dataID(id), off, n, o) })
}

// CollapseRange is the opposite of InsertRange.
func (f *FS) CollapseRange(ctx context.Context, id namei.ID, off, n int64, o *data.WriteOptions) (seq uint64, err error) {
	if err := f.mayChange(ctx, id, immutable|appendOnly); err != nil {
		return 0, err
	}
	return f.again(ctx, func() (uint64, error) { return f.data.CollapseRange(ctx, dataID(id), off, n, o) })
}

// Reflink has two files share data, see [data.Writer.Reflink].
func (f *FS) Reflink(ctx context.Context, from namei.ID, fromOff int64, to namei.ID, off, n int64, o *data.WriteOptions) (copied int64, seq uint64, err error) {
	if err := f.mayChange(ctx, to, immutable|appendOnly); err != nil {
		return 0, 0, err
	}
	seq, err = f.again(ctx, func() (seq uint64, err error) {
		copied, seq, err = f.data.Reflink(ctx, dataID(from), fromOff, dataID(to), off, n, o)
		return seq, err
	})
	return copied, seq, err
}

// CopyRange copies between files, see [data.Writer.CopyRange].
func (f *FS) CopyRange(ctx context.Context, from namei.ID, fromOff int64, to namei.ID, off, n int64, o *data.WriteOptions) (copied int64, seq uint64, err error) {
	if err := f.mayChange(ctx, to, immutable); err != nil {
		return 0, 0, err
	}
	seq, err = f.again(ctx, func() (seq uint64, err error) {
		copied, seq, err = f.data.CopyRange(ctx, dataID(from), fromOff, dataID(to), off, n, o)
		return seq, err
	})
	return copied, seq, err
}
