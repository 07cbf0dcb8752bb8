package data

import (
	"context"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
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
	err = w.update(ctx, x.id, updateOpts{touch: x.touch, seq: &x.seq}, func(t *inodeTx) error {
		if err := t.replace(k); err != nil {
			return err
		}
		x.grow(t, k.Pos.Offset*sectorSize)
		t.modified()
		return nil
	})
	return err == nil, err
}
