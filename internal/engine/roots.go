package engine

import (
	"context"
	"errors"
	"math"

	"github.com/go-bcachefs/bcachefs/internal/btree"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// rebuildable are the btrees that repair makes anew from others; nodes of theirs are not worth a scan.
var rebuildable = map[ondisk.BtreeID]bool{
	ondisk.BtreeAlloc: true, ondisk.BtreeFreespace: true, ondisk.BtreeNeedDiscard: true, ondisk.BtreeBackpointers: true,
	ondisk.BtreeBucketGens: true, ondisk.BtreeLRU: true, ondisk.BtreeAccounting: true, ondisk.BtreeStripeBackpointers: true,
	ondisk.BtreeReconcileWork: true, ondisk.BtreeReconcileHipri: true, ondisk.BtreeReconcilePending: true,
	ondisk.BtreeReconcileScan: true, ondisk.BtreeReconcileWorkPhys: true, ondisk.BtreeReconcileHipriPhys: true,
}

// checkRoots reads the root of each btree and replaces those that are lost by what a scan of the devices finds. With
// Salvage all nodes above the leaves are checked in this way.
func (fs *FS) checkRoots(ctx context.Context) error {
	lost := map[ondisk.BtreeID]bool{}
	for id := ondisk.BtreeID(0); id < ondisk.MaxBtrees; id++ {
		root, ok := fs.Reader.Root(id)
		if !ok {
			continue
		}
		err := fs.checkTop(ctx, id, min(root.Level, btree.MaxRootLevel))
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil {
			continue
		}
		fs.message("%v", err)
		if !rebuildable[id] {
			lost[id] = true
		}
	}
	if len(lost) == 0 {
		return nil
	}
	if !fs.opts.Salvage && fs.scanCost() > autoScanNodes {
		fs.message("the devices may hold older copies of what is lost: salvage looks for them")
		return nil
	}
	leaves, err := fs.scanNodes(ctx, lost)
	if err != nil {
		return err
	}
	for id := range lost {
		if len(leaves[id]) == 0 {
			fs.message("btree %v: no leaf was found on the devices", id)
			continue
		}
		fs.message("btree %v: read from %d leaves found by scanning the devices", id, len(leaves[id]))
		fs.Reader.SetRoot(id, btree.Root{Leaves: leaves[id]})
	}
	return nil
}

// checkTop reads the root of a btree, with Salvage all nodes above the leaves.
func (fs *FS) checkTop(ctx context.Context, id ondisk.BtreeID, level uint8) error {
	for at := int(level); at >= 0; at-- {
		for _, err := range fs.Reader.NodesAt(ctx, id, uint8(at)) {
			if err != nil {
				return err
			}
		}
		if !fs.opts.Salvage || at <= 1 {
			break
		}
	}
	return nil
}

// scanCost is the number of places that a scan looks at.
func (fs *FS) scanCost() (n int) {
	for _, m := range fs.Members {
		if m.Device != nil {
			fs.scanPlaces(m, func(ondisk.Sector) bool { n++; return n <= autoScanNodes })
		}
	}
	return n
}

// checkSubvolumes makes up the first subvolume, as it is in every filesystem, if it cannot be read.
func (fs *FS) checkSubvolumes(ctx context.Context) error {
	_, err := fs.Subvolume(ctx, ondisk.RootSubvol)
	if err == nil || ctx.Err() != nil {
		return ctx.Err()
	}
	fs.message("the first subvolume cannot be read (%v): taken to be what formatting made", err)
	snapshot := uint32(math.MaxUint32)
	var damage *btree.NodeError
	if errors.As(err, &damage) || errors.Is(err, ErrNoSubvolume) {
		// The snapshot that it reads is a leaf whose node says so; without snapshots it is the first one.
		for id, s := range fs.Snapshots.All() {
			if s.Subvol == ondisk.RootSubvol {
				snapshot = id
			}
		}
	}
	fs.fallback = map[uint32]ondisk.Subvolume{ondisk.RootSubvol: {Snapshot: snapshot, Inode: ondisk.RootInum}}
	return nil
}
