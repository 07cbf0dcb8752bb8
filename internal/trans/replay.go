package trans

import (
	"context"

	"github.com/go-bcachefs/bcachefs/internal/journal"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/six"
)

// The keys of the journal that a crash left are put over each node when it is read, before anybody sees it: so from the
// first moment every read, descents included, sees nodes and journal as one. [Store.Replay] then reads all the nodes that they
// belong to. Until it is through no node is evicted, so that each gets them once.

// replayInto puts the journal's keys over a node that was just read and that nobody sees yet. It reports whether there were any.
func (s *Store) replayInto(b *bnode) (changed bool) {
	o := s.overlay.Load()
	if o == nil {
		return false
	}
	for _, k := range o.From(b.tree.id, b.level, b.min) {
		if b.max.Less(k.Pos) {
			break
		}
		changed = true
		if k.Type == ondisk.KeyDeleted {
			b.keys.Delete(k.Pos, s.cfg.ReplaySeqs.Newest)
		} else {
			b.keys.Set(&k, s.cfg.ReplaySeqs.Newest)
		}
	}
	return changed
}

// Replay brings to the nodes what the journal says that was found. The caller sees to it that the journal keeps the entries until it returns; from
// then on the nodes do.
func (s *Store) Replay(ctx context.Context) error {
	o := s.overlay.Load()
	if o == nil {
		return nil
	}
	for id := range s.trees {
		t := &s.trees[id]
		top := t.root.Load().level
		for level := int(top); level >= 0; level-- {
			if err := s.touch(ctx, t, uint8(level), o.Keys(t.id, uint8(level))); err != nil {
				return err
			}
		}
	}
	if err := s.replayAccounting(ctx, o.Deltas()); err != nil {
		return err
	}
	s.overlay.Store(nil)
	return nil
}

// touch reads the nodes of a level that the journal has keys for, and splits those that they overfill.
func (s *Store) touch(ctx context.Context, t *tree, level uint8, keys []ondisk.Key) error {
	for len(keys) > 0 {
		p := keys[0].Pos
		var max ondisk.Pos
		crowded := false
		var b *bnode
		err := s.run(ctx, journal.WatermarkReclaim, false, func(tx *Tx) (err error) {
			if b, err = tx.lockNode(t, level, p, six.Intent); b == nil || err != nil {
				max = ondisk.SPosMax
				return err
			}
			if err := tx.lockMore(b, six.Exclusive); err != nil {
				return err
			}
			max = b.max
			if b.fake && b.keys.Len() == 0 {
				return nil // deletions of nothing: no node comes of it
			}
			crowded = b.fake || !b.keys.Room(0)
			if !b.pinned && b.keys.Dirty() {
				b.pinned = true
				s.journal.AddPin(s.cfg.ReplaySeqs.Oldest, &b.pin, journal.PinBtreeNode, s.flushNode)
			}
			return nil
		})
		if err != nil {
			return err
		}
		if crowded {
			if err := s.grow(ctx, b, p, 0, journal.WatermarkReclaim); err != nil {
				return err
			}
			continue
		}
		keys = journal.KeysFrom(keys, max)
		if len(keys) > 0 && keys[0].Pos == max {
			keys = keys[1:]
		}
		if max == ondisk.SPosMax {
			break
		}
	}
	return nil
}

// replayAccounting adds the deltas of the journal that are newer than what the accounting btree says.
func (s *Store) replayAccounting(ctx context.Context, deltas []ondisk.Key) error {
	for len(deltas) > 0 {
		p := deltas[0].Pos
		n := 1
		for n < len(deltas) && deltas[n].Pos == p {
			n++
		}
		err := s.run(ctx, journal.WatermarkReclaim, true, func(tx *Tx) error {
			b, err := tx.lockNode(&s.trees[ondisk.BtreeAccounting], 0, p, six.Intent)
			if err != nil {
				return err
			}
			sum, ok := b.keys.Get(p)
			if !ok {
				sum = ondisk.Key{Type: ondisk.KeyAccounting, Pos: p}
			}
			seen := sum.Version
			changed := false
			for i := range deltas[:n] {
				if d := &deltas[i]; versionLess(seen, d.Version) {
					sum = addAccounting(&sum, d)
					changed = true
				}
			}
			if !changed {
				return nil
			}
			return tx.commitDirect(b, []directKey{{sum, s.cfg.ReplaySeqs.Oldest, s.cfg.ReplaySeqs.Newest}}, nil)
		})
		if err != nil {
			return err
		}
		deltas = deltas[n:]
	}
	return nil
}
