package trans

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/journal"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/six"
)

// gate holds back the first writes of new nodes.
type gate struct {
	mu   sync.Mutex
	cond *sync.Cond
	held map[ondisk.Sector]bool
	all  bool
}

func newGate() *gate {
	g := &gate{held: map[ondisk.Sector]bool{}}
	g.cond = sync.NewCond(&g.mu)
	return g
}

func (g *gate) pass(at, off ondisk.Sector) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.all && off == 0 {
		g.held[at] = true
	}
	for g.held[at] {
		g.cond.Wait()
	}
}

// hold says whether new nodes are held back from now on, and returns those that were until now.
func (g *gate) hold(all bool) (held []ondisk.Sector) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.all = all
	for at := range g.held {
		held = append(held, at)
	}
	return held
}

func (g *gate) release(places []ondisk.Sector) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, at := range places {
		delete(g.held, at)
	}
	g.cond.Broadcast()
}

// A parent that takes new pointers and is replaced before these are journalled leaves it to what takes its place to keep their entry: until
// that can be reached the pointers are nowhere else.
func TestPointersOfReplacedParent(t *testing.T) {
	g := newGate()
	w := newWorld(t, func(c *Config) {
		c.NodeBytes = 4096
		write := c.WriteNode
		c.WriteNode = func(ctx context.Context, addrs []ondisk.NodeAddr, off ondisk.Sector, buf []byte) error {
			g.pass(addrs[0].Sector, off)
			return write(ctx, addrs, off, buf)
		}
	})
	t.Cleanup(func() { g.release(g.hold(false)) })
	put := func(i uint64) {
		w.update(func(tx *Tx) error { return tx.Update(ondisk.BtreeQuotas, cookie(ondisk.Pos{Offset: i}, i), 0) })
	}
	other := func(i uint64) {
		w.update(func(tx *Tx) error {
			return tx.Update(ondisk.BtreeXattrs, cookie(ondisk.Pos{Inode: 1, Offset: i, Snapshot: 5}, i), 0)
		})
	}
	for i := range uint64(1500) {
		put(i)
	}
	other(0)
	if err := w.s.Quiesce(t.Context()); err != nil {
		t.Fatal(err)
	}
	tree := &w.s.trees[ondisk.BtreeQuotas]
	root := tree.root.Load().node.Load()
	if root.level != 1 {
		t.Fatalf("%d levels", root.level+1)
	}
	leaf, err := w.s.find(t.Context(), tree, 0, ondisk.PosMin)
	if err != nil {
		t.Fatal(err)
	}
	// Both updates happen in memory, and wait for their writes.
	g.hold(true)
	if err := w.s.grow(t.Context(), leaf, leaf.min, 0, journal.WatermarkReclaim); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return len(g.hold(true)) == 1 })
	first := g.hold(true)
	if err := w.s.grow(t.Context(), root, ondisk.PosMin, 0, journal.WatermarkReclaim); err != nil {
		t.Fatal(err)
	}
	if !leaf.dead.Load() || !root.dead.Load() || root.replacedBy == nil {
		t.Fatal("the nodes were not replaced")
	}
	waitFor(t, func() bool { return len(g.hold(true)) == 2 })
	// The first one gets durable.
	g.release(first)
	waitFor(t, func() bool { return w.s.Stats().InteriorUpdatesPending == 1 })
	seq := w.j.Current()
	for i := range uint64(20) {
		if err := w.j.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		other(i)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err = w.j.FlushPins(ctx, seq)
	if last := w.j.LastSeq(); err == nil || last > seq {
		t.Errorf("the journal needs entries from %d on, but %d has pointers that nothing else has (%v)", last, seq, err)
	}
	g.release(g.hold(false))
	if err := w.s.Quiesce(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for range 5000 {
		if ok() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal("it does not happen")
}

// A node with pointers to what is not written yet is not written itself, nor is what no pointer leads to; both are once they may.
func TestBlockedNodesAreNotWritten(t *testing.T) {
	g := newGate()
	w := newWorld(t, func(c *Config) {
		c.NodeBytes = 4096
		write := c.WriteNode
		c.WriteNode = func(ctx context.Context, addrs []ondisk.NodeAddr, off ondisk.Sector, buf []byte) error {
			g.pass(addrs[0].Sector, off)
			return write(ctx, addrs, off, buf)
		}
	})
	t.Cleanup(func() { g.release(g.hold(false)) })
	put := func(i uint64) {
		w.update(func(tx *Tx) error { return tx.Update(ondisk.BtreeQuotas, cookie(ondisk.Pos{Offset: i}, i), 0) })
	}
	for i := range uint64(1000) {
		put(i)
	}
	if err := w.s.Quiesce(t.Context()); err != nil {
		t.Fatal(err)
	}
	tree := &w.s.trees[ondisk.BtreeQuotas]
	root := tree.root.Load().node.Load()
	find := func(p ondisk.Pos) *bnode {
		b, err := w.s.find(t.Context(), tree, 0, p)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	// A change of another leaf's pointer would be reason enough to write the parent.
	put(900)
	if _, err := w.s.writeNode(find(ondisk.Pos{Offset: 900})); err != nil {
		t.Fatal(err)
	}
	if !root.keys.Dirty() {
		t.Fatal("the parent has nothing to write")
	}
	g.hold(true)
	if err := w.s.grow(t.Context(), find(ondisk.PosMin), ondisk.PosMin, 0, journal.WatermarkReclaim); err != nil {
		t.Fatal(err)
	}
	fresh := find(ondisk.PosMin)
	put(0)
	for _, b := range []*bnode{root, fresh} {
		if did, err := w.s.writeNode(b); did || err != nil {
			t.Errorf("level %d: written: %v, %v", b.level, did, err)
		}
		w.s.writeSoon(b)
	}
	g.release(g.hold(false))
	waitFor(t, func() bool { return w.s.Stats().InteriorUpdatesPending == 0 })
	waitFor(t, func() bool {
		return fresh.pin.Seq() == 0 && fresh.writePin.Seq() == 0 && root.pin.Seq() == 0 && root.writePin.Seq() == 0
	})
}

// A root that was just made is not replaced again before its making is in the queue: the journal would be told of the two in the wrong order, and a
// crash would bring the older root back.
func TestRootsInOrder(t *testing.T) {
	ctx := t.Context()
	w := newWorld(t, nil)
	w.update(func(tx *Tx) error { return tx.Update(ondisk.BtreeQuotas, cookie(ondisk.Pos{Inode: 1}, 1), 0) })
	tree := &w.s.trees[ondisk.BtreeQuotas]
	g := &growth{reshape: reshape{s: w.s, tree: tree, watermark: journal.WatermarkBtree}}
	defer g.release()
	second := make(chan error, 1)
	err := w.s.run(ctx, g.watermark, false, func(tx *Tx) error {
		b, err := tx.lockNode(tree, 0, ondisk.PosMin, six.Intent)
		if err != nil {
			return err
		}
		if len(g.spaces) == 0 {
			return g.allocate(tx, 1)
		}
		u := &interiorUpdate{tree: tree, olds: []*bnode{b}, written: make(chan struct{})}
		below, err := g.build(u, u.olds, nil)
		if err != nil {
			return err
		}
		return g.publish(tx, u, func() {
			g.link(u, below)
			waits := w.s.graph.Stats().Waits
			go func() { second <- w.s.grow(ctx, below[0].node.Load(), ondisk.PosMin, 0, journal.WatermarkNormal) }()
			for len(second) == 0 && w.s.graph.Stats().Waits == waits {
				time.Sleep(time.Millisecond)
			}
		})
	})
	if err := errors.Join(err, <-second, w.s.WaitInterior(ctx), w.j.Flush(ctx)); err != nil {
		t.Fatal(err)
	}
	root := *tree.root.Load().key.Load()
	w.j.Abort()
	w.s.Close()
	if _, err := w.recover(w.dev, w.jdev); err != nil {
		t.Fatal(err)
	}
	if after := w.cfg.Roots[ondisk.BtreeQuotas].Key; !after.Equal(&root) {
		t.Errorf("the root is %x, after a crash %x", root.Val, after.Val)
	}
	w.open()
	if err := w.s.Replay(ctx); err != nil {
		t.Fatal(err)
	}
	w.j.ReplayDone()
}
