package fsck

import (
	"context"
	"math"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// checkSubvols checks that every subvolume has its snapshot, its root directory and its entry among the children of the subvolume above.
func (c *checker) checkSubvols(ctx context.Context) error {
	if !c.initialized() {
		return nil
	}
	t, err := c.readTrees(ctx)
	if err != nil {
		return err
	}
	for id, s := range t.subvols {
		if s.State != 0 && !s.State.Valid() {
			c.at(idSubvolStateBad, ondisk.BtreeSubvolumes, 0, idPos(id), "make it live", "state %v", s.State)
			continue
		}
		if s.EffectiveState() != ondisk.SubvolumeStateLive {
			continue // being deleted
		}
		if err := t.checkSubvol(ctx, id, &s); err != nil {
			return err
		}
	}
	return nil
}

func (t *trees) subvolWrong(err ondisk.ErrorID, id uint32, repair, format string, args ...any) {
	t.c.at(err, ondisk.BtreeSubvolumes, 0, idPos(id), repair, format, args...)
}

func (t *trees) checkSubvol(ctx context.Context, id uint32, s *ondisk.Subvolume) error {
	sn, ok := t.snapshots[s.Snapshot]
	if !ok {
		if !t.lost(ondisk.BtreeSnapshots, s.Snapshot) {
			t.subvolWrong(NoID, id, "make the snapshot anew", "subvolume points to missing snapshot %d", s.Snapshot)
		}
		return nil
	}
	if t.c.since(39) {
		switch {
		case sn.Children[0] != 0:
			t.subvolWrong(idSubvolSnapshotNotLeaf, id, "none", "snapshot %d of the subvolume is not a leaf", s.Snapshot)
		case sn.Subvol != id:
			t.subvolWrong(idSnapshotSubvolBackrefWrong, id, "set it", "snapshot %d of the subvolume points to subvolume %d", s.Snapshot, sn.Subvol)
		}
	}
	if s.Flags&ondisk.SubvolumeSnap == 0 {
		tree, ok := t.trees[t.snapshots[t.root(s.Snapshot)].Tree]
		if ok && tree.MasterSubvol != id {
			t.subvolWrong(idSubvolNotMasterAndNotSnapshot, id, "mark it as a snapshot", "subvolume is not set as snapshot but is not master subvolume, "+
				"that is %d", tree.MasterSubvol)
		}
	}
	if err := t.checkFSPathParent(ctx, id, s); err != nil {
		return err
	}
	return t.checkRootInode(ctx, id, s)
}

// checkFSPathParent checks the list of children of the subvolume that holds this one's directory entry, which is there since 1.6.
func (t *trees) checkFSPathParent(ctx context.Context, id uint32, s *ondisk.Subvolume) error {
	switch {
	case !t.c.since(6) || s.FSPathParent == 0:
		return nil
	case id == ondisk.RootSubvol:
		t.subvolWrong(idSubvolRootFSPathParentNonzero, id, "set it to 0", "root subvolume has fs_path_parent %d", s.FSPathParent)
		return nil
	}
	at := ondisk.Pos{Inode: uint64(s.FSPathParent), Offset: uint64(id)}
	k, ok, err := t.c.get(ctx, ondisk.BtreeSubvolumeChildren, at)
	if err == nil && (!ok || k.Type != ondisk.KeySet) && !t.c.lost.has(ondisk.BtreeSubvolumeChildren, at) {
		t.subvolWrong(idSubvolChildrenNotSet, id, "set it", "subvolume not set in subvolume_children btree at %v", at)
	}
	return err
}

// checkRootInode checks the directory that is the subvolume's root.
func (t *trees) checkRootInode(ctx context.Context, id uint32, s *ondisk.Subvolume) error {
	from := ondisk.Pos{Offset: s.Inode}
	to := ondisk.Pos{Offset: s.Inode, Snapshot: math.MaxUint32}
	if t.c.lost.overlaps(ondisk.BtreeInodes, from, to) || t.c.lost.any(ondisk.BtreeSnapshots) {
		return nil
	}
	for k, err := range t.c.fs.Keys(ctx, ondisk.BtreeInodes, 0, from, to) {
		if err != nil || !t.isAncestor(s.Snapshot, k.Pos.Snapshot) {
			continue
		}
		in, err := ondisk.DecodeInode(k)
		if err != nil {
			break // a whiteout: it was deleted
		}
		if in.Subvol != id {
			t.subvolWrong(idSubvolRootWrongBiSubvol, id, "set it", "subvolume root %d:%d has wrong bi_subvol field: got %d, should be %d", s.Inode,
				k.Pos.Snapshot, in.Subvol, id)
		}
		return ctx.Err()
	}
	if ctx.Err() == nil {
		t.subvolWrong(idSubvolToMissingRoot, id, "make an empty one", "subvolume points to missing subvolume root %d:%d", s.Inode, s.Snapshot)
	}
	return ctx.Err()
}
