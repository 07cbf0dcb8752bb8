package alloc

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// nodeCacheSize is how many nodes the reserve is filled to: what must always be there, and what updates take from it without
// waiting.
const nodeCacheSize = BtreeNodeReserve + 16

// copygcKeeps are the buckets of a device that copygc takes no nodes from.
const copygcKeeps = 3

// NodeSpace is space for one btree node. Exactly one of its methods is called in the end.
type NodeSpace struct {
	// Ptrs are where to write its copies. The slice must not be changed.
	Ptrs []ondisk.ExtentPtr
	r    *NodeReserve
	al   *Allocation
}

// Done gives up the buckets, after the commit that made the node reachable.
func (s NodeSpace) Done(ctx context.Context) { s.al.Done(ctx) }

// Return gives back space to which nothing was written.
func (s NodeSpace) Return(ctx context.Context) { s.r.put(ctx, s.al) }

// NodeReserve hands out space for btree nodes. It keeps some ready, so that whoever holds locks of nodes, and whoever makes room for
// others, need not look for buckets. All methods are safe for concurrent use.
type NodeReserve struct {
	a      *Allocator
	w      *worker
	fillMu sync.Mutex // one refill at a time; taken before mu

	mu     sync.Mutex
	spaces []*Allocation // the last one is taken first
	closed bool
}

// NewNodeReserve returns an empty reserve, the one that the allocator asks to give up nodes when space is short.
func NewNodeReserve(a *Allocator) *NodeReserve {
	r := &NodeReserve{a: a}
	a.nodes.Store(r)
	r.w = newWorker("btree node reserve", a, func(ctx context.Context, _ bool) (int, error) {
		if err := r.Fill(ctx, false); !isFull(err) {
			return 0, err
		}
		return 0, nil // until something becomes free, the next request tries again
	})
	return r
}

// Start starts a worker that fills the reserve whenever something was taken. It ends with [NodeReserve.Close], or once ctx is done.
func (r *NodeReserve) Start(ctx context.Context) {
	r.w.start(ctx)
	r.w.kick()
}

// AllocNodes gets space for n btree nodes, for all or none of them.
//
// Nonblocking requests are served from the reserve alone: they do no I/O and take no locks of btrees. Below
// [WatermarkReclaim] the last [BtreeNodeReserve] nodes are not for them; at and above they are. Others get new space if there
// is not enough in the reserve, and wait for it; they must be made without holding locks of btrees.
func (r *NodeReserve) AllocNodes(ctx context.Context, n int, w Watermark, nonblocking bool) ([]NodeSpace, error) {
	if n < 0 || n > BtreeNodeReserve {
		return nil, fmt.Errorf("space for %d btree nodes at once, at most %d are possible", n, BtreeNodeReserve)
	}
	defer r.w.kick()
	got := make([]NodeSpace, 0, n)
	if got = r.take(got, n, w); len(got) == n {
		return got, nil
	}
	if nonblocking {
		for _, s := range got {
			s.Return(ctx)
		}
		return nil, fmt.Errorf("%w in the reserve for btree nodes", ErrNoSpace)
	}
	w, keep := nodeWatermark(w)
	for len(got) < n {
		al, err := r.alloc(ctx, w, keep, false)
		if err != nil {
			for _, s := range got {
				s.Return(ctx)
			}
			return nil, err
		}
		got = append(got, r.space(al))
	}
	return got, nil
}

func (r *NodeReserve) space(al *Allocation) NodeSpace {
	return NodeSpace{Ptrs: al.Ptrs(), r: r, al: al}
}

// take takes up to n nodes from the reserve, as far as a request of the watermark may.
func (r *NodeReserve) take(got []NodeSpace, n int, w Watermark) []NodeSpace {
	keep := BtreeNodeReserve
	if w >= WatermarkReclaim {
		keep = 0
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(got) < n && len(r.spaces) > keep {
		last := len(r.spaces) - 1
		al := r.spaces[last]
		r.spaces[last] = nil
		r.spaces = r.spaces[:last]
		r.raise(al)
		got = append(got, r.space(al))
	}
	return got
}

// raise makes the nodes beside one that was taken come next: as long as one is here, its bucket cannot be used for anything else, even when what was
// written to the others is gone again. mu is held.
func (r *NodeReserve) raise(taken *Allocation) {
	top := len(r.spaces)
	for i := top - 1; i >= 0; i-- {
		if al := r.spaces[i]; al.obs[0] == taken.obs[0] {
			top--
			r.spaces[i], r.spaces[top] = r.spaces[top], al
		}
	}
}

// put takes a node's space back: it is taken next. What the reserve really has no room for is given up: what is left of its bucket is lost until all that is in it is gone. It may
// have been filled since the space was got, by as much as one update asks for.
func (r *NodeReserve) put(ctx context.Context, al *Allocation) {
	r.mu.Lock()
	keep := len(r.spaces) < nodeCacheSize+BtreeNodeReserve && !r.closed
	if keep {
		r.spaces = append(r.spaces, al)
	}
	r.mu.Unlock()
	if !keep {
		al.Done(ctx)
	}
}

// nodeWatermark returns the watermark at which nodes are got for an update of watermark w, and how many buckets of a device they leave beyond it: nodes are
// more urgent than what they are for.
func nodeWatermark(w Watermark) (Watermark, int64) {
	switch w {
	case WatermarkStripe, WatermarkNormal:
		return WatermarkBtree, 0
	case WatermarkCopygc: // what it empties comes back only when the journal was flushed
		return WatermarkBtreeCopygc, copygcKeeps
	}
	return w, 0
}

// alloc gets the space of one node, in a place that the superblock's bitmap tells of.
func (r *NodeReserve) alloc(ctx context.Context, w Watermark, keep int64, nonblocking bool) (*Allocation, error) {
	a := r.a
	req := Request{Sectors: a.cfg.NodeSectors, Min: a.cfg.NodeSectors, DataType: ondisk.DataBtree, WritePoint: WritePointBtree,
		Replicas: max(1, a.cfg.NodeReplicas), Required: a.cfg.NodeReplicasRequired, Target: a.cfg.NodeTarget, Watermark: w, Keep: keep,
		Nonblocking: nonblocking}
	al := new(Allocation)
	if err := a.AllocSectors(ctx, &req, al); err != nil {
		return nil, err
	}
	for i := range al.Ptrs() {
		if err := a.markBtree(ctx, &al.ptrs[i], a.cfg.NodeSectors); err != nil {
			al.Done(ctx)
			return nil, err
		}
	}
	return al, nil
}

// markBtree makes the bitmap in the superblock tell of a node, before it can be reachable.
func (a *Allocator) markBtree(ctx context.Context, p *ondisk.ExtentPtr, sectors uint32) error {
	d := a.DevSpace(p.Dev)
	if d == nil {
		return fmt.Errorf("device %d is gone", p.Dev)
	}
	if d.Bitmap().Covers(p.Offset, sectors) {
		return nil
	}
	a.bitmapMu.Lock()
	defer a.bitmapMu.Unlock()
	m := d.Bitmap()
	if m.Covers(p.Offset, sectors) {
		return nil
	}
	m.Mark(p.Offset, sectors)
	if a.cfg.SaveBitmap != nil {
		if err := a.cfg.SaveBitmap(ctx, d.Index, m); err != nil {
			return fmt.Errorf("device %d: marking where btree nodes are: %w", d.Index, err)
		}
	}
	d.setBitmap(m)
	return nil
}

// shrink gives up what the reserve has beyond the nodes that must be there, as far as whole buckets become free by it. It returns how many nodes those were.
func (r *NodeReserve) shrink(ctx context.Context) int {
	r.mu.Lock()
	most := len(r.spaces) - BtreeNodeReserve
	if most <= 0 {
		r.mu.Unlock()
		return 0
	}
	here := make(map[*OpenBucket]int32, len(r.spaces)) // nodes of a bucket
	for _, al := range r.spaces {
		for _, ob := range al.obs[:al.n] {
			here[ob]++
		}
	}
	give := map[*OpenBucket]bool{}
	for nodes := int32(1); int(nodes) <= most; nodes++ { // few nodes for a bucket
		for _, al := range r.spaces {
			if ob := al.obs[0]; here[ob] == nodes && !give[ob] && int(nodes) <= most && ob.pins.Load() == nodes && ob.isEmpty(r.a) {
				give[ob] = true
				most -= int(nodes)
			}
		}
	}
	var drop []*Allocation
	kept := r.spaces[:0]
	for _, al := range r.spaces {
		if give[al.obs[0]] {
			drop = append(drop, al)
		} else {
			kept = append(kept, al)
		}
	}
	clear(r.spaces[len(kept):])
	r.spaces = kept
	r.mu.Unlock()
	for _, al := range drop {
		al.Done(ctx)
	}
	return len(drop)
}

// Fill fills the reserve as far as there is space: the nodes that must be there go as deep into what is kept back as nodes may, the others leave
// room for all who would wait. It is called without locks of btrees, before the filesystem becomes writable. wait makes it wait for space as far as the reserve
// must have it.
func (r *NodeReserve) Fill(ctx context.Context, wait bool) error {
	r.fillMu.Lock()
	defer r.fillMu.Unlock()
	for {
		r.mu.Lock()
		n, closed := len(r.spaces), r.closed
		r.mu.Unlock()
		if n >= nodeCacheSize || closed {
			return nil
		}
		w, spare := WatermarkBtree, n >= BtreeNodeReserve
		if spare {
			w = WatermarkStripe
		}
		al, err := r.alloc(ctx, w, 0, !wait || spare)
		if isFull(err) && spare {
			return nil
		}
		if err != nil {
			return err
		}
		r.mu.Lock()
		keep := !r.closed
		if keep { // to be taken last
			r.spaces = slices.Insert(r.spaces, 0, al)
		}
		r.mu.Unlock()
		if !keep {
			al.Done(ctx)
		}
	}
}

// Len returns how many nodes are in the reserve.
func (r *NodeReserve) Len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.spaces)
}

// DropDevice gives up what the reserve has on a device, or everything for nil.
func (r *NodeReserve) DropDevice(ctx context.Context, d *DevSpace) {
	r.mu.Lock()
	var drop []*Allocation
	kept := r.spaces[:0]
	for _, al := range r.spaces {
		if d == nil || al.on(d) {
			drop = append(drop, al)
		} else {
			kept = append(kept, al)
		}
	}
	clear(r.spaces[len(kept):])
	r.spaces = kept
	r.mu.Unlock()
	for _, al := range drop {
		al.Done(ctx)
	}
}

// Close ends the worker and gives up everything; what is returned afterwards is given up too.
func (r *NodeReserve) Close(ctx context.Context) {
	r.w.stop()
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.DropDevice(ctx, nil)
}

// on tells whether a part of the allocation is on a device.
func (al *Allocation) on(d *DevSpace) bool {
	for _, p := range al.Ptrs() {
		if p.Dev == d.Index {
			return true
		}
	}
	return false
}
