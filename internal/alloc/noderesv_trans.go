package alloc

import (
	"context"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// Nodes returns the reserve as transactions want it.
func (r *NodeReserve) Nodes() trans.NodeAllocator { return transNodes{r} }

type transNodes struct{ r *NodeReserve }

// AllocNodes implements [trans.NodeAllocator].
func (n transNodes) AllocNodes(ctx context.Context, count int, w Watermark, nonblocking bool) ([]trans.NodeSpace, error) {
	spaces, err := n.r.AllocNodes(ctx, count, w, nonblocking)
	if nonblocking && isFull(err) {
		return nil, trans.ErrWouldBlock
	}
	if err != nil {
		return nil, err
	}
	// Hooks find the task in the context, also after the update that asked for the nodes was given up.
	bg := context.WithoutCancel(ctx)
	all := make([]trans.NodeSpace, len(spaces))
	for i, s := range spaces {
		addrs := make([]ondisk.NodeAddr, len(s.Ptrs))
		for j, p := range s.Ptrs {
			addrs[j] = ondisk.NodeAddr{Dev: p.Dev, Gen: p.Gen, Sector: p.Offset}
		}
		all[i] = trans.NodeSpace{Addrs: addrs, Release: func() { s.Done(bg) }, Return: func() { s.Return(bg) }}
	}
	return all, nil
}
