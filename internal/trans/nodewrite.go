package trans

import (
	"context"
	"errors"
	"fmt"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/journal"
	"github.com/go-bcachefs/bcachefs/internal/node"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/six"
)

// waitWrite waits for the end of the write of a node that is in flight, if there is one. No other begins if the node is dead.
func (b *bnode) waitWrite() {
	for {
		b.wmu.Lock()
		if !b.writing {
			b.wmu.Unlock()
			return
		}
		c := b.wcond
		b.wmu.Unlock()
		<-c
	}
}

// maxNodeWrites is how many nodes are written at once because the journal wants their space.
const maxNodeWrites = 16

// flushNodePin has the node of a pin written, as the journal wants the space of what it holds. It does not wait for that.
func (s *Store) flushNodePin(_ context.Context, p *journal.Pin, _ uint64) error {
	s.writeSoon(p.Owner.(*bnode))
	return nil
}

// writeSoon writes a node in the background, if it cannot be now then once it can.
func (s *Store) writeSoon(b *bnode) {
	b.wmu.Lock()
	b.wanted = true
	b.wmu.Unlock()
	s.writers <- struct{}{}
	s.wg.Go(func() {
		defer func() { <-s.writers }()
		if _, err := s.writeNode(s.ctx, b); err != nil && s.ctx.Err() == nil {
			s.fail(err)
		}
	})
}

// addPinOf makes dst pin what src pins, unless it pins an older entry already. Both belong to the caller.
func (s *Store) addPinOf(dst, src *journal.Pin, kind journal.PinKind, flush journal.PinFlush) {
	if seq := src.Seq(); seq != 0 {
		s.journal.AddPin(seq, dst, kind, flush)
	}
}

// writeNode writes what of a node is not on its devices yet, and then the pointer to it. It is false if nothing could be done now:
// somebody else writes the node, or it waits for an interior update.
//
// What was written is invisible until the journal entry that holds the pointer's new sectors_written is durable, and that comes
// after a flush of the devices; until then the journal keeps the keys.
func (s *Store) writeNode(ctx context.Context, b *bnode) (bool, error) {
	scratch := s.buffers.Get().(*[]byte)
	defer s.buffers.Put(scratch)
	w, err := s.beginWrite(ctx, b, *scratch)
	switch {
	case errors.Is(err, node.ErrFull):
		// Keys of the journal were merged into it, or it was filled to the brim.
		return true, s.grow(ctx, b, b.min, 0, journal.WatermarkReclaim)
	case err != nil || w.Buf == nil:
		return false, err
	}
	addrs := b.addrs()
	err = s.cfg.WriteNode(ctx, addrs, w.Off, w.Buf)
	if err == nil {
		err = s.updatePointer(ctx, b, w.End)
	}
	if err != nil {
		// The changes are neither lost nor written: the journal has them, and takes no more.
		s.fail(fmt.Errorf("btree %v level %d: writing the node %v - %v: %w", b.tree.id, b.level, b.min, b.max, err))
	}
	s.endWrite(b, err == nil)
	return err == nil, err
}

// addrs are the places of a node's replicas.
func (b *bnode) addrs() []ondisk.NodeAddr {
	ptr, err := ondisk.DecodeBtreePtr(*b.self.key.Load())
	if err != nil {
		panic(fmt.Sprintf("btree %v: pointer of a node in use: %v", b.tree.id, err)) // it was decoded when the node was read
	}
	var addrs []ondisk.NodeAddr
	for a := range ptr.Addrs() {
		addrs = append(addrs, a)
	}
	return addrs
}

// beginWrite encodes the next write of a node. Its buffer is nil if there is none to be made now.
func (s *Store) beginWrite(ctx context.Context, b *bnode, scratch []byte) (w node.Write, err error) {
	err = s.run(ctx, journal.WatermarkReclaim, false, func(tx *Tx) error {
		w = node.Write{}
		if err := tx.lockExclusive(b); err != nil {
			return err
		}
		b.wmu.Lock()
		defer b.wmu.Unlock()
		if b.dead.Load() || b.fake || b.writing || b.blocked > 0 || !b.reachable {
			return nil
		}
		b.wanted = false
		params := s.writeParams
		params.Scratch = scratch
		made, err := b.keys.PrepareWrite(&params)
		switch {
		case errors.Is(err, node.ErrClean): // changes cancelled each other
			s.journal.DropPin(&b.pin)
			b.pinned = false
			return nil
		case err != nil:
			return err
		}
		w = made
		b.writing, b.wcond = true, make(chan struct{})
		s.addPinOf(&b.writePin, &b.pin, journal.PinBtreeNode, noFlush)
		s.journal.DropPin(&b.pin)
		b.pinned = false
		return nil
	})
	return w, err
}

// endWrite ends the write of a node.
func (s *Store) endWrite(b *bnode, ok bool) {
	// It must be told of its end, whatever became of the context.
	again := false
	err := s.run(context.WithoutCancel(s.ctx), journal.WatermarkReclaim, false, func(tx *Tx) error {
		if err := tx.lockExclusive(b); err != nil {
			return err
		}
		if ok {
			b.keys.WriteDone()
		} else {
			b.keys.WriteFailed()
		}
		b.wmu.Lock()
		defer b.wmu.Unlock()
		if ok {
			s.journal.DropPin(&b.writePin)
		}
		b.writing = false
		again = b.wanted
		close(b.wcond)
		return nil
	})
	switch {
	case err != nil:
		s.fail(err)
	case again && ok:
		s.wg.Go(func() { s.writeSoon(b) })
	}
}

// updatePointer makes the pointer to a node say how much of it is written. If the node was replaced meanwhile nothing is to be
// done: what replaced it has its keys.
func (s *Store) updatePointer(ctx context.Context, b *bnode, end ondisk.Sector) error {
	return s.run(ctx, journal.WatermarkInteriorUpdates, true, func(tx *Tx) error {
		parent, err := tx.lockPointer(b)
		if err != nil || b.dead.Load() {
			return err
		}
		old := *b.self.key.Load()
		ptr, err := ondisk.DecodeBtreePtr(old)
		if err != nil {
			return err
		}
		ptr.SectorsWritten = uint16(end)
		k := ptr.Key()
		if parent != nil {
			tx.addInterior(b.tree.id, b.level+1, old, k, NoTriggers)
			i, _ := tx.find(b.tree.id, b.level+1, k.Pos)
			tx.updates[i].node = parent
			return nil
		}
		tx.addInterior(b.tree.id, b.level+1, old, k, NoTriggers|applied|rootPointer)
		tx.OnCommit(func(uint64) { b.self.key.Store(&k) })
		return nil
	})
}

// lockPointer locks for intent what holds the pointer to a node: its parent or, if it is the root, itself; then parent is nil. If the node is dead
// by then nothing may be locked.
func (tx *Tx) lockPointer(b *bnode) (parent *bnode, err error) {
	for !b.dead.Load() {
		if b.tree.root.Load() == b.self {
			if err := tx.lock(&b.lock, six.Intent); err != nil {
				return nil, err
			}
			if b.dead.Load() || b.tree.root.Load() == b.self {
				return nil, nil
			}
			return nil, restartSplit
		}
		p, err := tx.lockNode(b.tree, b.level+1, b.max, six.Intent)
		if err != nil || p != nil {
			return p, err
		}
	}
	return nil, nil
}

// newBuffers makes the pool of aligned buffers of the size of a node.
func (s *Store) newBuffers() {
	s.buffers.New = func() any {
		b := blockdev.AlignedBuffer(s.cfg.NodeBytes)
		return &b
	}
}
