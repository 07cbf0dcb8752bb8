package alloc

import (
	"context"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// Room makes sure that there are buckets for btree nodes of as many devices as nodes are kept on, for a request of watermark w: it waits for others to make them
// free, and fails with [ErrNoSpace] if nobody can. It is for who is about to add metadata: that takes nodes more urgently than it is itself, and could leave
// nothing to those who delete.
func (a *Allocator) Room(ctx context.Context, w Watermark) error {
	for {
		gen := a.freed.generation()
		if a.hasRoom(w) {
			return nil
		}
		req := Request{Watermark: w}
		again, err := a.makeRoom(ctx, &req, 0, gen)
		if err != nil {
			return err
		}
		if !again {
			if a.hasRoom(w) {
				return nil
			}
			return ErrNoSpace
		}
	}
}

// hasRoom reports whether a request of watermark w for a node gets one.
func (a *Allocator) hasRoom(w Watermark) bool {
	sp := a.spaces.Load()
	usable := sp.rw[ondisk.DataBtree]
	want, have := min(max(1, a.cfg.NodeReplicas), max(1, usable.Len())), 0
	for d := range a.Devices() {
		if usable.Has(d.Index) && a.Avail(d, w) > 0 {
			have++
		}
	}
	return have >= want
}
