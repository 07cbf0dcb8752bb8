package trans

import (
	"context"
	"testing"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/journal"
	"github.com/go-bcachefs/bcachefs/internal/node"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// A btree that has no nodes, and of which the journal has deletions only, gets none and holds nothing back.
func TestReplayDeletions(t *testing.T) {
	var o journal.OverlayBuilder
	o.Add(ondisk.BtreeXattrs, 0, ondisk.Key{Pos: ondisk.Pos{Inode: 1, Offset: 7}})
	o.Add(ondisk.BtreeQuotas, 0, cookie(ondisk.Pos{Inode: 1, Offset: 7}, 1))
	w := newWorldOn(t, func(w *world) {
		w.cfg.Overlay, w.replay, w.first = o.Build(), node.SeqRange{Oldest: 1, Newest: 1}, 2
		w.cfg.ReplaySeqs = w.replay
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := w.s.Replay(ctx); err != nil {
		t.Fatal(err)
	}
	w.j.ReplayDone()
	if _, err := w.j.FlushPins(ctx, 1); err != nil {
		t.Errorf("what was replayed is not written: %v", err)
	}
	roots := w.s.Roots()
	if _, ok := roots[ondisk.BtreeXattrs]; ok || len(roots) != 1 {
		t.Errorf("roots: %v", roots)
	}
}
