package fsck

import (
	"context"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// checkIndirectExtents looks for indirect extents that are larger than the filesystem allows.
func (c *checker) checkIndirectExtents(ctx context.Context) error {
	if !c.initialized() {
		return nil
	}
	return c.eachParallel(ctx, ondisk.BtreeReflink, 0, func() func(k *ondisk.Key) error {
		return func(k *ondisk.Key) error {
			c.checkOverbig(ondisk.BtreeReflink, k)
			return nil
		}
	})
}

// checkOverbig notes an extent whose data must be read whole and is more than there may be. Such can be read all the same; the reference
// asks to report them.
func (c *checker) checkOverbig(id ondisk.BtreeID, k *ondisk.Key) {
	if k.Type != ondisk.KeyExtent && k.Type != ondisk.KeyReflinkV {
		return
	}
	limit := c.sb.EncodedExtentMax() / ondisk.SectorSize
	for e, err := range ondisk.ExtentEntries(k, c.types) {
		if err != nil {
			return
		}
		switch e.Type {
		case ondisk.EntryCRC32, ondisk.EntryCRC64, ondisk.EntryCRC128:
			if e.CRC.IsEncoded() && int64(e.CRC.UncompressedSize) > limit {
				c.note("btree %v %v: overbig encoded extent of %d sectors, want at most %d", id, k.Pos, e.CRC.UncompressedSize, limit)
			}
		}
	}
}
