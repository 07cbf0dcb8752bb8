package fsck

import (
	"context"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// checkSnapshotTrees checks that every tree of snapshots has its root, and a subvolume that is not itself a snapshot.
func (c *checker) checkSnapshotTrees(ctx context.Context) error {
	if !c.initialized() {
		return nil
	}
	t, err := c.readTrees(ctx)
	if err != nil {
		return err
	}
	for id, tree := range t.trees {
		t.checkTree(id, &tree)
	}
	return nil
}

func (t *trees) checkTree(id uint32, tree *ondisk.SnapshotTree) {
	wrong := func(err ondisk.ErrorID, repair, format string, args ...any) {
		t.c.at(err, ondisk.BtreeSnapshotTrees, 0, idPos(id), repair, format, args...)
	}
	root, ok := t.snapshots[tree.RootSnapshot]
	switch {
	case !ok && t.lost(ondisk.BtreeSnapshots, tree.RootSnapshot):
		return
	case !ok:
		wrong(idSnapshotTreeToMissingSnapshot, "delete it", "snapshot tree points to missing snapshot %d", tree.RootSnapshot)
		return
	case root.Parent != 0 || root.Tree != id:
		wrong(idSnapshotTreeToMissingSnapshot, "delete it", "snapshot tree points to snapshot %d, which has parent %d and is of tree %d",
			tree.RootSnapshot, root.Parent, root.Tree)
		return
	}
	if tree.MasterSubvol == 0 && t.c.since(39) {
		return
	}
	s, ok := t.subvols[tree.MasterSubvol]
	switch {
	case !ok && t.lost(ondisk.BtreeSubvolumes, tree.MasterSubvol):
	case !ok:
		wrong(idSnapshotTreeToMissingSubvol, "choose another", "snapshot tree points to missing subvolume %d", tree.MasterSubvol)
	case !t.isAncestor(s.Snapshot, tree.RootSnapshot):
		if !t.c.lost.any(ondisk.BtreeSnapshots) {
			wrong(idSnapshotTreeToWrongSubvol, "choose another", "snapshot tree points to subvolume %d, whose snapshot %d is of another tree",
				tree.MasterSubvol, s.Snapshot)
		}
	case s.Flags&ondisk.SubvolumeSnap != 0:
		wrong(idSnapshotTreeToSnapshotSubvol, "choose another", "snapshot tree points to subvolume %d, which is a snapshot", tree.MasterSubvol)
	}
}
