package fsck

import (
	"context"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// checkExtents checks that extents belong to files, that they neither overlap nor lie behind the end of the file, and that inodes know how many
// sectors they have.
func (c *checker) checkExtents(ctx context.Context) error {
	f, err := c.readFiles(ctx)
	if f == nil {
		return err
	}
	return f.eachHolder(ctx, ondisk.BtreeExtents, func() holder { return &extentCheck{f: f, block: uint64(max(c.sb.BlockSize, 1))} })
}

// extentCheck checks one file after the other.
type extentCheck struct {
	f       *files
	block   uint64 // sectors
	inum    uint64
	vs      versions
	sectors []uint64 // of the versions
	ends    []extentEnd
}

// extentEnd is how far the extents of a snapshot reach.
type extentEnd struct {
	snapshot uint32
	offset   uint64
	lower    []uint32 // snapshots of other keys that end there
}

func (x *extentCheck) begin(inum uint64, vs versions) {
	x.inum, x.vs, x.ends = inum, vs, x.ends[:0]
	x.sectors = append(x.sectors[:0], make([]uint64, len(vs))...)
}

func (x *extentCheck) flush(context.Context) error { return nil }

func mayHaveExtents(in *ondisk.Inode) bool {
	return in.Type() == ondisk.DTReg || in.Type() == ondisk.DTLnk
}

// allocated reports whether a key of a type counts among the sectors of a file.
func allocated(t ondisk.KeyType) bool {
	switch t {
	case ondisk.KeyExtent, ondisk.KeyReservation, ondisk.KeyReflinkP, ondisk.KeyReflinkV, ondisk.KeyInlineData, ondisk.KeyIndirectInlineData,
		ondisk.KeyError:
		return true
	}
	return false
}

// reservation reports whether space was set aside that nothing was written to.
func (c *checker) reservation(k *ondisk.Key) bool {
	if k.Type != ondisk.KeyExtent {
		return k.Type == ondisk.KeyReservation
	}
	for e, err := range ondisk.ExtentEntries(k, c.types) {
		if err == nil && e.Type == ondisk.EntryPtr && e.Ptr.Unwritten {
			return true
		}
	}
	return false
}

func (x *extentCheck) key(_ context.Context, k *ondisk.Key, lower []uint32) error {
	if k.Type.IsWhiteout() {
		return nil
	}
	own := x.f.holds(ondisk.BtreeExtents, k, x.vs, mayHaveExtents)
	if own == nil {
		return nil
	}
	x.checkOverlap(k, lower)
	x.f.c.checkOverbig(ondisk.BtreeExtents, k)
	reserved := x.f.c.reservation(k)
	for i := range x.vs {
		v := &x.vs[i]
		sees := v == own || v.snapshot <= k.Pos.Snapshot && x.f.sees(v.at, k.Pos.Snapshot, lower)
		if !v.inode || !sees {
			continue
		}
		if end := (v.in.Size + x.block*ondisk.SectorSize - 1) / (x.block * ondisk.SectorSize) * x.block; k.Pos.Offset > end && !reserved &&
			v.in.Size <= 1<<63 {
			x.f.c.at(idExtentPastEndOfInode, ondisk.BtreeExtents, 0, k.Pos, "delete what lies behind the end", "extent type past end of inode %d:%d, "+
				"i_size %d: %s", x.inum, v.snapshot, v.in.Size, x.f.c.keyText(ondisk.BtreeExtents, k))
		}
		if v.snapshot <= k.Pos.Snapshot && allocated(k.Type) {
			x.sectors[i] += uint64(k.Size)
		}
	}
	return nil
}

// checkOverlap compares an extent with those before: two overlap if there is a snapshot that sees both.
func (x *extentCheck) checkOverlap(k *ondisk.Key, lower []uint32) {
	start, n := k.Start().Offset, 0
	at := x.f.seenFrom(k.Pos.Snapshot)
	for _, e := range x.ends {
		if e.offset <= start {
			continue // nothing that follows begins before
		}
		below := x.f.seenFrom(e.snapshot)
		both := e.snapshot == k.Pos.Snapshot
		switch {
		case e.snapshot > k.Pos.Snapshot:
			both = x.f.sees(at, e.snapshot, e.lower)
		case e.snapshot < k.Pos.Snapshot:
			both = x.f.sees(below, k.Pos.Snapshot, lower)
		}
		if both {
			x.f.c.at(idExtentOverlapping, ondisk.BtreeExtents, 0, k.Pos, "cut the older one", "overlapping extents: %s begins before sector %d, where "+
				"one of snapshot %d ends", x.f.c.keyText(ondisk.BtreeExtents, k), e.offset, e.snapshot)
		}
		if e.snapshot != k.Pos.Snapshot {
			x.ends[n] = e
			n++
		}
	}
	x.ends = append(x.ends[:n], extentEnd{k.Pos.Snapshot, k.Pos.Offset, append([]uint32(nil), lower...)})
}

func (x *extentCheck) end(context.Context, int) error {
	if x.f.c.lost.overlapsRange(ondisk.BtreeExtents, allOf(x.inum)) {
		return nil
	}
	for i := range x.vs {
		v := &x.vs[i]
		// What has no name any more is deleted at the next mount. A crash may have come while that was going on: extents go first, and the inode does not keep
		// count of that.
		const untrusted = ondisk.InodeSectorsDirty | ondisk.InodeUnlinked
		if v.inode && v.in.Sectors != x.sectors[i] && v.in.Flags&untrusted == 0 {
			x.f.c.at(idInodeISectorsWrong, ondisk.BtreeInodes, 0, v.pos(), "set it", "incorrect i_sectors: got %d, should be %d", v.in.Sectors,
				x.sectors[i])
		}
	}
	return nil
}
