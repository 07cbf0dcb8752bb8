package fsck

import (
	"context"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// checkSnapshots checks that the nodes of snapshots form trees: parents and children name each other, depths and skip lists fit, subvolumes
// and snapshots name each other.
func (c *checker) checkSnapshots(ctx context.Context) error {
	if !c.initialized() {
		return nil
	}
	t, err := c.readTrees(ctx)
	if err != nil {
		return err
	}
	for id, s := range t.snapshots {
		if s.State != 0 && !s.State.Valid() {
			c.at(idSnapshotStateBad, ondisk.BtreeSnapshots, 0, idPos(id), "make it live", "state %v", s.State)
			continue
		}
		if s.EffectiveState() == ondisk.SnapshotStateDeleted {
			continue // a tombstone
		}
		t.checkEdges(id, &s)
		t.checkSubvolOf(id, &s)
		t.checkPlaceInTree(id, &s)
	}
	return nil
}

// edgeID is the number of what is wrong between parent and child. Drivers of 1.13 have none: they give up.
func (c *checker) edgeID() ondisk.ErrorID {
	if c.since(39) {
		return idSnapshotEdgeBad
	}
	return NoID
}

func (t *trees) wrong(err ondisk.ErrorID, id uint32, repair, format string, args ...any) {
	t.c.at(err, ondisk.BtreeSnapshots, 0, idPos(id), repair, format, args...)
}

// checkEdges checks that parent and children know the node.
func (t *trees) checkEdges(id uint32, s *ondisk.Snapshot) {
	const repair = "take the side that tree and depth speak for"
	if s.Parent != 0 {
		p, ok := t.snapshots[s.Parent]
		switch {
		case !ok && t.lost(ondisk.BtreeSnapshots, s.Parent):
		case !ok:
			t.wrong(t.c.edgeID(), id, repair, "snapshot with missing parent %d", s.Parent)
		case p.Children[0] != id && p.Children[1] != id:
			t.wrong(t.c.edgeID(), id, repair, "parent %d has children %d and not this one", s.Parent, p.Children)
		}
	}
	for _, child := range s.Children {
		if child == 0 {
			continue
		}
		k, ok := t.snapshots[child]
		switch {
		case !ok && t.lost(ondisk.BtreeSnapshots, child):
		case !ok:
			t.wrong(t.c.edgeID(), id, repair, "snapshot with missing child %d", child)
		case k.Parent != id:
			t.wrong(t.c.edgeID(), id, repair, "child %d has parent %d", child, k.Parent)
		}
	}
}

// checkSubvolOf checks that the subvolume of a leaf reads that leaf, and that other nodes have none.
func (t *trees) checkSubvolOf(id uint32, s *ondisk.Snapshot) {
	if s.Flags&ondisk.SnapshotSubvol == 0 || s.EffectiveState() != ondisk.SnapshotStateLive {
		if s.Subvol != 0 && s.EffectiveState() == ondisk.SnapshotStateLive {
			t.wrong(idSnapshotShouldNotHaveSubvol, id, "set it to 0", "snapshot should not point to subvolume %d", s.Subvol)
		}
		return
	}
	backref := NoID
	if t.c.since(39) {
		backref = idSnapshotSubvolBackrefWrong
	}
	v, ok := t.subvols[s.Subvol]
	switch {
	case !ok && t.lost(ondisk.BtreeSubvolumes, s.Subvol):
	case !ok:
		t.wrong(backref, id, "make the subvolume anew", "snapshot points to missing subvolume %d", s.Subvol)
	case v.Snapshot != id:
		t.wrong(backref, id, "none", "snapshot points to subvolume %d, which is of snapshot %d", s.Subvol, v.Snapshot)
	}
}

// checkPlaceInTree checks tree, depth and skip list.
func (t *trees) checkPlaceInTree(id uint32, s *ondisk.Snapshot) {
	if t.c.lost.any(ondisk.BtreeSnapshots) {
		t.c.note("the snapshots btree cannot be read in whole: places in trees were not checked")
		return
	}
	tree, ok := t.trees[s.Tree]
	if !ok && t.lost(ondisk.BtreeSnapshotTrees, s.Tree) {
		ok, tree.RootSnapshot = true, t.root(id)
	}
	if !ok || !t.isAncestor(id, tree.RootSnapshot) {
		t.wrong(idSnapshotToBadSnapshotTree, id, "set it to that of its root", "snapshot points to snapshot tree %d, which is missing or of other "+
			"snapshots", s.Tree)
	}
	if !t.c.since(1) {
		return // depth and skip list came with 1.1
	}
	depth := uint32(0)
	if s.Parent != 0 {
		depth = t.snapshots[s.Parent].Depth + 1
	}
	if s.Depth != depth {
		t.wrong(idSnapshotBadDepth, id, "set it", "snapshot has depth %d, should be %d", s.Depth, depth)
	}
	for _, a := range s.Skip {
		if s.Parent == 0 && a != 0 || s.Parent != 0 && (a == id || !t.isAncestor(id, a)) {
			t.wrong(idSnapshotBadSkiplist, id, "make a new one", "snapshot has skip list %d: %d is not an ancestor", s.Skip, a)
			return
		}
	}
}
