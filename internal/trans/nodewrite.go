package trans

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

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

// writeQueue holds the nodes that are to be written in the background. Who puts one in does not wait.
type writeQueue struct {
	mu      sync.Mutex
	nodes   []*bnode
	workers int
	closed  bool
}

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
	q := &s.writes
	q.mu.Lock()
	defer q.mu.Unlock()
	if b.queued || q.closed {
		return
	}
	b.queued = true
	q.nodes = append(q.nodes, b)
	if q.workers < maxNodeWrites && !s.cfg.Ordered {
		q.workers++
		s.wg.Go(func() { q.work(s) })
	}
}

// work writes nodes until there are none.
func (q *writeQueue) work(s *Store) {
	for {
		b := q.next()
		if b == nil {
			return
		}
		_, _ = s.writeNode(b) // an error was told to all
	}
}

// next takes a node out of the queue. If there is none it returns nil, and a worker less works.
func (q *writeQueue) next() *bnode {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.nodes) == 0 {
		q.workers = max(q.workers-1, 0)
		q.nodes = nil
		return nil
	}
	b := q.nodes[0]
	q.nodes[0] = nil
	q.nodes = q.nodes[1:]
	b.queued = false
	return b
}

// close has no more goroutines started. What is in the queue is written yet, if that is possible.
func (q *writeQueue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
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
//
// A replica that cannot be written is not named by the pointer any more. If there is none left nothing can be written from then on.
func (s *Store) writeNode(b *bnode) (bool, error) {
	if err := s.writable(); err != nil {
		return false, err
	}
	scratch := s.buffers.Get().(*[]byte)
	defer s.buffers.Put(scratch)
	w, err := s.beginWrite(b, *scratch)
	switch {
	case errors.Is(err, node.ErrFull):
		// Keys of the journal were merged into it, or it was filled to the brim.
		if err = s.grow(s.ctx, b, b.min, 0, journal.WatermarkReclaim); err != nil {
			s.writeFailed(b, err)
		}
		return err == nil, err
	case err != nil:
		s.writeFailed(b, err)
		return false, err
	case w.Buf == nil:
		return false, nil
	}
	lost, err := s.writeReplicas(b.addrs(), w.Off, w.Buf)
	if err == nil {
		err = s.updatePointer(b, w.End, lost)
	}
	if err != nil {
		// The changes are neither lost nor written: the journal has them, and takes no more.
		s.writeFailed(b, err)
	}
	s.endWrite(b, err == nil)
	return err == nil, err
}

// writeFailed ends all writing as a node could not be written, unless the store is being closed.
func (s *Store) writeFailed(b *bnode, err error) {
	if s.ctx.Err() == nil {
		s.fail(fmt.Errorf("btree %v level %d: writing the node %v - %v: %w", b.tree.id, b.level, b.min, b.max, err))
	}
}

// ReplicasError is what [Config.WriteNode] returns if it wrote some of the replicas only.
type ReplicasError struct {
	Lost []ondisk.NodeAddr // could not be written
	Err  error
}

func (e *ReplicasError) Error() string {
	return fmt.Sprintf("%d replicas of a node were not written: %v", len(e.Lost), e.Err)
}

func (e *ReplicasError) Unwrap() error { return e.Err }

// writeReplicas writes a part of a node. It returns those of the replicas that could not be written if others were.
func (s *Store) writeReplicas(addrs []ondisk.NodeAddr, off ondisk.Sector, buf []byte) (lost []ondisk.NodeAddr, err error) {
	err = s.cfg.WriteNode(s.ctx, addrs, off, buf)
	if e := (*ReplicasError)(nil); errors.As(err, &e) && len(e.Lost) < len(addrs) && s.ctx.Err() == nil {
		s.cfg.logf("a btree node goes on with fewer replicas: %v", err)
		return e.Lost, nil
	}
	return nil, err
}

// without returns a pointer that does not name some replicas any more.
func without(ptr ondisk.BtreePtr, lost []ondisk.NodeAddr) ondisk.BtreePtr {
	if len(lost) == 0 {
		return ptr
	}
	kept := ptr
	kept.Ptrs = nil
	for a := range ptr.Addrs() {
		if !slices.Contains(lost, a) {
			kept.Ptrs = ondisk.AppendNodeAddr(kept.Ptrs, a)
		}
	}
	return kept
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
func (s *Store) beginWrite(b *bnode, scratch []byte) (w node.Write, err error) {
	err = s.run(s.ctx, journal.WatermarkReclaim, false, func(tx *Tx) error {
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
		s.writeSoon(b)
	}
}

// updatePointer makes the pointer to a node say how much of it is written, and where not any more. If the node was replaced meanwhile nothing is
// to be done: what replaced it has its keys.
func (s *Store) updatePointer(b *bnode, end ondisk.Sector, lost []ondisk.NodeAddr) error {
	return s.run(s.ctx, journal.WatermarkInteriorUpdates, true, func(tx *Tx) error {
		parent, err := tx.lockPointer(b)
		if err != nil || b.dead.Load() {
			return err
		}
		old := *b.self.key.Load()
		ptr, err := ondisk.DecodeBtreePtr(old)
		if err != nil {
			return err
		}
		ptr = without(ptr, lost)
		ptr.SectorsWritten = uint16(end)
		k := ptr.Key()
		var flags UpdateFlags
		if len(lost) == 0 {
			flags = NoTriggers
		}
		tx.setPointer(b, parent, old, k, flags)
		return nil
	})
}

// setPointer queues the update of the pointer to a node, whose parent is locked for intent or, if there is none, the node itself.
func (tx *Tx) setPointer(b, parent *bnode, old, k ondisk.Key, flags UpdateFlags) {
	if parent == nil {
		tx.addInterior(b.tree.id, b.level+1, old, k, flags|applied|rootPointer)
		tx.OnCommit(func(uint64) { b.self.key.Store(&k) })
		return
	}
	tx.addInterior(b.tree.id, b.level+1, old, k, flags)
	i, _ := tx.find(b.tree.id, b.level+1, k.Pos)
	tx.updates[i].node = parent
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
