package data

import (
	"context"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// maxInline bounds what lies in keys, in bytes (spec/05 § 9).
const maxInline = 1024

// inline puts one block that a file ends in into its key, if it is small enough.
func (x *op) inline(ctx context.Context, p []byte, start uint64) (done bool, err error) {
	w := x.w
	size := max(x.size, x.newSize) // of the file
	if !x.opts.InlineData || uint64(len(p)) != w.block || size <= start*sectorSize {
		return false, nil
	}
	n := size - start*sectorSize
	if n > min(w.block/2, maxInline) {
		return false, nil
	}
	if err := w.setFeatures(ctx, ondisk.FeatureInlineData); err != nil {
		return false, err
	}
	k := ondisk.Key{Type: ondisk.KeyInlineData, Pos: ondisk.Pos{Offset: start + w.blockSectors}, Size: uint32(w.blockSectors),
		Val: make([]byte, roundUp(n, 8))}
	copy(k.Val, p[:n])
	err = w.update(ctx, x.id, updateOpts{touch: x.touch, keepTimes: x.keep, seq: &x.seq}, func(t *inodeTx) error {
		if err := t.replace(k); err != nil {
			return err
		}
		x.grow(t, k.Pos.Offset*sectorSize)
		t.modified()
		return nil
	})
	return err == nil, err
}

// PrepareInline reports whether n bytes that are all of a file would lie in a key, see [Writer.PutInline], and prepares the filesystem for that.
func (w *Writer) PrepareInline(ctx context.Context, n int) (bool, error) {
	if !w.cfg.Options.InlineData || n == 0 || uint64(n) > min(w.block/2, maxInline) {
		return false, nil
	}
	return true, w.setFeatures(ctx, ondisk.FeatureInlineData)
}

// PutInline gives an inode that this transaction makes its content, which [Writer.PrepareInline] has found small enough: for the targets of symbolic links. The
// inode's size and sectors are changed in in, which the caller writes.
func (w *Writer) PutInline(tx *trans.Tx, id ID, snapshot uint32, in *ondisk.Inode, p []byte) error {
	k := ondisk.Key{Type: ondisk.KeyInlineData, Pos: ondisk.Pos{Inode: id.Inum, Offset: w.blockSectors, Snapshot: snapshot},
		Size: uint32(w.blockSectors), Val: make([]byte, roundUp(uint64(len(p)), 8))}
	copy(k.Val, p)
	in.Size, in.Sectors = uint64(len(p)), w.blockSectors
	return tx.Update(ondisk.BtreeExtents, k, 0)
}
