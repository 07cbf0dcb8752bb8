package trans

import (
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/journal"
	"github.com/go-bcachefs/bcachefs/internal/node"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// What the journal deletes in a btree without nodes keeps nothing in the journal, as no node will be written for it.
func TestReplayDeletionsWithoutNodes(t *testing.T) {
	w := newWorldOn(t, func(w *world) {
		var b journal.OverlayBuilder
		b.Add(ondisk.BtreeDeletedInodes, 0, ondisk.Key{Pos: ondisk.Pos{Offset: 5000, Snapshot: 7}})
		w.first, w.replay = 10, node.SeqRange{Oldest: 3, Newest: 9}
		w.cfg.Overlay, w.cfg.ReplaySeqs = b.Build(), w.replay
	})
	if err := w.s.Replay(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.j.ReplayDone()
	if b := w.s.trees[ondisk.BtreeDeletedInodes].root.Load().node.Load(); !b.fake || b.pin.Seq() != 0 {
		t.Errorf("without nodes: %v, pins entry %d", b.fake, b.pin.Seq())
	}
	if _, err := w.j.FlushPins(t.Context(), 9); err != nil {
		t.Error(err)
	}
}
