package bcachefs

import (
	"context"
	"errors"
	"io"
	"iter"

	"github.com/go-bcachefs/bcachefs/internal/data"
	"github.com/go-bcachefs/bcachefs/internal/namei"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/vfs"
)

// What an FS is read from: a filesystem as it was found, which does not change, or one that is open for writing.

// keySource reads btrees.
type keySource interface {
	Keys(ctx context.Context, btree ondisk.BtreeID, from, to ondisk.Pos) iter.Seq2[ondisk.Key, error]
	Lookup(ctx context.Context, btree ondisk.BtreeID, pos ondisk.Pos) (ondisk.Key, bool, error)
}

// nameSource reads inodes, names and attributes.
type nameSource interface {
	Inode(ctx context.Context, id InodeID) (ondisk.Inode, error)
	SubvolumeRoot(ctx context.Context, id uint32) (InodeID, error)
	Lookup(ctx context.Context, dir InodeID, name []byte) (InodeID, error)
	Walk(ctx context.Context, root InodeID, path string, follow bool) (InodeID, error)
	ReadDir(ctx context.Context, dir InodeID, after uint64) iter.Seq2[namei.Entry, error]
	Parent(ctx context.Context, dir InodeID) (InodeID, error)
	Path(ctx context.Context, id InodeID) (string, error)
	Readlink(ctx context.Context, id InodeID) (string, error)
	ListXattr(ctx context.Context, id InodeID) ([]string, error)
	GetXattr(ctx context.Context, id InodeID, name string) ([]byte, error)
	Casefolded(in *ondisk.Inode) bool
	OptionText(in *ondisk.Inode, o ondisk.InodeOption) string
}

// contentSource reads what files hold. Sizes and ends of files are the callers' concern.
type contentSource interface {
	ReadAt(ctx context.Context, id InodeID, p []byte, off int64) (int, error)
	SeekData(ctx context.Context, id InodeID, size, off int64) (int64, error)
	SeekHole(ctx context.Context, id InodeID, size, off int64) (int64, error)
}

// frozenContent is that of a filesystem that does not change.
type frozenContent struct{ r *data.Reader }

func (c frozenContent) ReadAt(ctx context.Context, id InodeID, p []byte, off int64) (int, error) {
	return c.r.ReadAt(ctx, id.Inum, id.Snapshot, p, off)
}

func (c frozenContent) SeekData(ctx context.Context, id InodeID, size, off int64) (int64, error) {
	return c.r.SeekData(ctx, id.Inum, id.Snapshot, size, off)
}

func (c frozenContent) SeekHole(ctx context.Context, id InodeID, size, off int64) (int64, error) {
	return c.r.SeekHole(ctx, id.Inum, id.Snapshot, size, off)
}

// live is a filesystem that is open for writing.
type live struct{ *vfs.FS }

func (l live) Inode(ctx context.Context, id InodeID) (ondisk.Inode, error) {
	a, err := l.FS.Inode(ctx, id)
	return a.Inode, err
}

func (l live) Lookup(ctx context.Context, dir InodeID, name []byte) (InodeID, error) {
	a, err := l.FS.Lookup(ctx, dir, string(name), 0)
	return a.ID, err
}

func (l live) ReadAt(ctx context.Context, id InodeID, p []byte, off int64) (int, error) {
	n, err := l.FS.ReadAt(ctx, id, p, off)
	if errors.Is(err, io.EOF) {
		err = nil // it became shorter meanwhile
	}
	return n, err
}

func (l live) SeekData(ctx context.Context, id InodeID, _, off int64) (int64, error) {
	return l.FS.SeekData(ctx, id, off)
}

func (l live) SeekHole(ctx context.Context, id InodeID, _, off int64) (int64, error) {
	return l.FS.SeekHole(ctx, id, off)
}
