package fsck

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/go-bcachefs/bcachefs/internal/btree"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// checkTopology reads every node. The children of a node must cover exactly its range, in order and without gap, and every node must be
// readable; what reading had to leave out of nodes is told too.
func (c *checker) checkTopology(ctx context.Context) error {
	if !c.initialized() {
		return nil
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(c.opts.Parallel)
	for id := range ondisk.BtreeID(ondisk.MaxBtrees) {
		if root, ok := c.fs.Root(id); ok {
			g.Go(func() error { return c.checkTree(gctx, id, root) })
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	c.lost.sort()
	return nil
}

func (c *checker) checkTree(ctx context.Context, id ondisk.BtreeID, root btree.Root) error {
	level := root.Level
	switch {
	case root.Leaves != nil:
		c.at(idBtreeRootReadError, id, root.Level, ondisk.SPosMax, "make a new root over the leaves that were found on the devices",
			"the root cannot be read; %d leaves were found by looking for them", len(root.Leaves))
		c.mu.Lock()
		c.lost.above[id] = true
		c.mu.Unlock()
		level = 0
	case root.Lost:
		c.nodeLost(&btree.NodeError{Btree: id, Level: level, Max: ondisk.SPosMax, Err: btree.ErrRootLost}, true)
		return nil
	default:
		if ptr, err := ondisk.DecodeBtreePtr(root.Key); err == nil && ptr.V2 && ptr.Min != ondisk.PosMin {
			c.at(idBtreeRootBadMinKey, id, level, ondisk.SPosMax, "set it", "the root begins at %v, should be POS_MIN", ptr.Min)
		}
	}
	for at := int(min(level, ondisk.MaxBtreeDepth-1)); at >= 0; at-- {
		if err := c.checkLevel(ctx, id, uint8(at), uint8(at) == root.Level && root.Leaves == nil); err != nil {
			return err
		}
	}
	return nil
}

// checkLevel reads the nodes of a level.
func (c *checker) checkLevel(ctx context.Context, id ondisk.BtreeID, level uint8, top bool) error {
	for ref, err := range c.fs.Nodes(ctx, id, level) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var damage *btree.NodeError
		if errors.As(err, &damage) {
			if damage.Level == level { // else it was told when its own level was read
				c.nodeLost(damage, top)
			}
			continue
		}
		if err != nil {
			return err
		}
		c.looked(ref.Node.Len())
		for _, p := range ref.Node.Problems {
			c.at(idOf(p.ID), id, level, ref.Node.Max, "leave it out, and write the node anew", "node for %v - %v: byte %d: %s", ref.Node.Min,
				ref.Node.Max, p.Offset, p.Msg)
		}
		if level > 0 {
			if err := c.checkChildren(ctx, id, level, ref.Node); err != nil {
				return err
			}
		}
	}
	return nil
}

// nodeLost tells of a range that cannot be reached. Gaps are not told again: who found them knew the nodes around.
func (c *checker) nodeLost(e *btree.NodeError, root bool) {
	c.mu.Lock()
	c.lost.add(e)
	c.mu.Unlock()
	if errors.Is(e, btree.ErrGap) {
		return
	}
	id, what := idBtreeNodeUnreadable, "delete the pointer to it"
	if root {
		id, what = idBtreeRootReadError, "begin with an empty root"
	}
	if rebuilt(e.Btree) {
		what += ", and make the contents anew from the other btrees"
	} else {
		what += ", and look for the nodes below it on the devices"
	}
	c.at(id, e.Btree, e.Level, e.Max, what, "nothing can be read of %v - %v: %v", e.Min, e.Max, where(e))
	var why *ondisk.NodeError
	if errors.As(e.Err, &why) && idOf(why.ID) != NoID {
		c.at(idOf(why.ID), e.Btree, e.Level, e.Max, "use another replica", "%v", where(e))
	}
}

// where is a node error without what a finding says anyway.
func where(e *btree.NodeError) string {
	if e.Device == "" {
		return e.Err.Error()
	}
	return fmt.Sprintf("%s sector %d: %v", e.Device, e.Sector, e.Err)
}

// rebuilt reports whether repair makes the btree anew from others.
func rebuilt(id ondisk.BtreeID) bool {
	switch id {
	case ondisk.BtreeAlloc, ondisk.BtreeFreespace, ondisk.BtreeNeedDiscard, ondisk.BtreeBackpointers, ondisk.BtreeBucketGens, ondisk.BtreeLRU,
		ondisk.BtreeAccounting:
		return true
	}
	return false
}

// checkChildren looks at the pointers in a node: journal and node together.
func (c *checker) checkChildren(ctx context.Context, id ondisk.BtreeID, level uint8, n *ondisk.Node) error {
	want, last, children := n.Min, n.Min.Prev(), 0
	for k, err := range c.fs.Keys(ctx, id, level, n.Min, n.Max) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return nil
		}
		children++
		ptr, err := ondisk.DecodeBtreePtr(k)
		if err != nil {
			c.at(NoID, id, level, k.Pos, "delete it", "%v", err)
			continue
		}
		if ptr.V2 && ptr.Min != want {
			c.at(idTopologyBadMinKey, id, level, k.Pos, "set it, or insert what was found on the devices", "child begins at %v, should be %v",
				ptr.Min, want)
		}
		want, last = k.Pos.Next(), k.Pos
	}
	switch {
	case children == 0:
		c.at(idTopologyInteriorEmpty, id, level, n.Max, "delete the pointer to it", "node without children")
	case last != n.Max:
		c.at(idTopologyBadMaxKey, id, level, n.Max, "set it, or insert what was found on the devices",
			"the last child ends at %v, should be %v", last, n.Max)
	}
	return nil
}
