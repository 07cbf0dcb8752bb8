package trans

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/go-bcachefs/bcachefs/internal/journal"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/six"
)

// keyU64s is the size of an unpacked key without value.
const keyU64s = 5

// sizeOf is the size of a key, unpacked, in u64s.
func sizeOf(k *ondisk.Key) int { return keyU64s + len(k.Val)/8 }

// Delta is a change of the counters of a position of the accounting btree.
type Delta struct {
	At ondisk.AccountingPos

	pos      ondisk.Pos
	n        int
	counters [3]int64
}

// Counters are by how much the counters change.
func (d *Delta) Counters() []int64 { return d.counters[:d.n] }

// Account adds deltas to the counters of a position of the accounting btree. Those of the same position add up.
func (tx *Tx) Account(p ondisk.AccountingPos, deltas ...int64) {
	pos := p.Pos(tx.s.cfg.Version)
	i := 0
	for ; i < len(tx.deltas) && tx.deltas[i].pos != pos; i++ {
	}
	if i == len(tx.deltas) {
		tx.deltas = append(tx.deltas, Delta{pos: pos, At: p})
	}
	d := &tx.deltas[i]
	d.n = max(d.n, len(deltas))
	for j, v := range deltas {
		d.counters[j] += v
	}
}

// commit makes the transaction's updates happen. Nothing has if it returns an error.
func (tx *Tx) commit() error {
	s := tx.s
	if len(tx.updates)+len(tx.buffered)+len(tx.deltas) == 0 {
		return nil
	}
	if err := s.failed(); err != nil {
		return err
	}
	if err := tx.runTriggers(); err != nil {
		return err
	}
	tx.dropZeroDeltas()
	if err := tx.checkReplicas(); err != nil {
		return err
	}
	if err := tx.lockForWrite(); err != nil {
		return err
	}
	if err := tx.makeRoom(); err != nil {
		return err
	}
	tx.hook(PointCommit, 0, ondisk.Pos{})
	switch err := s.journal.TryReserve(tx.journalU64s(), tx.watermark, &tx.res); {
	case errors.Is(err, journal.ErrWouldBlock):
		tx.unlock()
		if err := s.journal.WaitSpace(tx.ctx, tx.watermark); err != nil {
			return err
		}
		return restartJournal
	case err != nil:
		return err
	}
	// From here on nothing fails.
	tx.seq = tx.res.Seq()
	tx.atomicTriggers()
	tx.fillJournal()
	for i := range tx.updates {
		tx.apply(&tx.updates[i])
	}
	for _, fn := range tx.onCommit {
		fn(tx.seq)
	}
	tx.forgetAborts()
	tx.unlock()
	tx.res.Done()
	tx.hook(PointCommitted, 0, ondisk.Pos{})
	return nil
}

// overwritten marks updates of which the trigger has seen what they replace, but not what they put there.
const overwritten UpdateFlags = 1 << 4

// runTriggers lets updates carry their consequences. What goes comes before what is put in its place: a pointer that moves from one key to
// another has its backpointer removed and set, in this order. Shared extents come when all references to them are counted, those that go
// and those that come. The leaves of the alloc btree are last, as the others, its own interior nodes among them, change the keys there.
func (tx *Tx) runTriggers() error {
	if tx.s.cfg.Trigger == nil {
		return nil
	}
	for turn := range numTurns {
		for n := -1; n != len(tx.updates); {
			n = len(tx.updates)
			for _, insert := range []bool{false, true} {
				if err := tx.runTriggersOf(turn, insert); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// triggerTurn says which triggers run together.
type triggerTurn uint8

const (
	turnOthers triggerTurn = iota
	turnShared
	turnAlloc
	numTurns
)

func (u *update) turn() triggerTurn {
	switch {
	case u.level > 0:
	case u.btree == ondisk.BtreeReflink:
		return turnShared
	case u.btree == ondisk.BtreeAlloc:
		return turnAlloc
	}
	return turnOthers
}

// runTriggersOf runs the triggers that are due: of what is replaced, or of what is inserted.
func (tx *Tx) runTriggersOf(turn triggerTurn, insert bool) error {
	for i := 0; i < len(tx.updates); i++ {
		u := &tx.updates[i]
		if u.done || u.turn() > turn {
			continue
		}
		old, k, absent := u.old, u.key, ondisk.Key{Pos: u.key.Pos}
		switch {
		case u.flags&NoTriggers != 0:
			u.done = true
			continue
		case !insert && old.Type == ondisk.KeyDeleted:
			continue
		case !insert && k.Type != ondisk.KeyDeleted && !tx.sameTrigger(old.Type, k.Type):
			if u.flags&overwritten != 0 {
				continue
			}
			u.flags |= overwritten
			k = absent
		case u.flags&overwritten != 0:
			u.done = true
			old = absent
		default:
			u.done = true
		}
		btree, level, done, n := u.btree, u.level, u.done, len(tx.updates)
		t := &tx.trigger
		t.old, t.new = old, k
		if err := tx.s.cfg.Trigger(tx, btree, level, &t.old, &t.new, u.flags&^overwritten); err != nil {
			return err
		}
		if j, ok := tx.find(btree, level, k.Pos); ok && done {
			tx.updates[j].key = t.new
		}
		if len(tx.updates) != n {
			i = -1 // there may be new ones before
		}
	}
	return nil
}

func (tx *Tx) sameTrigger(a, b ondisk.KeyType) bool {
	if tx.s.cfg.SameTrigger != nil {
		return tx.s.cfg.SameTrigger(a, b)
	}
	return a == b
}

func (tx *Tx) dropZeroDeltas() {
	kept := tx.deltas[:0]
	for _, d := range tx.deltas {
		if d.counters != [3]int64{} {
			kept = append(kept, d)
		}
	}
	tx.deltas = kept
}

// checkReplicas makes sure that the superblock lists the sets of devices that the commit puts data on.
func (tx *Tx) checkReplicas() error {
	if tx.s.cfg.Replicas == nil {
		return nil
	}
	for i := range tx.deltas {
		d := &tx.deltas[i]
		if d.At.Type != ondisk.AccountingReplicas || d.counters[0] <= 0 || tx.s.cfg.Replicas.Listed(&d.At) {
			continue
		}
		tx.unlock()
		if err := tx.s.cfg.Replicas.Add(tx.ctx, &d.At); err != nil {
			return err
		}
		return restartReplicas
	}
	return nil
}

// lockForWrite locks exclusively what the updates change, in their order.
func (tx *Tx) lockForWrite() error {
	for i := range tx.updates {
		u := &tx.updates[i]
		if u.slot != nil && tx.locker.Holds(&u.slot.lock) < six.Exclusive {
			if err := tx.lock(&u.slot.lock, six.Exclusive); err != nil {
				return err
			}
		}
		if u.node != nil {
			if err := tx.lockMore(u.node, six.Exclusive); err != nil {
				return err
			}
		}
	}
	return nil
}

// makeRoom makes sure that the nodes have room for the updates. If one has not it is split, or what else helps, and the transaction
// restarts.
func (tx *Tx) makeRoom() error {
	for i := 0; i < len(tx.updates); {
		b := tx.updates[i].node
		if b == nil {
			i++
			continue
		}
		n := 0
		at := tx.updates[i].key.Pos
		for ; i < len(tx.updates); i++ {
			switch u := &tx.updates[i]; {
			case u.node == b:
				n += sizeOf(&u.key)
				continue
			case u.node == nil && u.slot != nil: // between others of a leaf
				continue
			}
			break
		}
		if b.hasRoom(n) {
			continue
		}
		tx.unlock()
		if err := tx.s.grow(tx.ctx, b, at, n, tx.watermark); err != nil {
			return err
		}
		return restartSplit
	}
	return nil
}

func (tx *Tx) journalU64s() int {
	n := 0
	for i := range tx.updates {
		if u := &tx.updates[i]; u.flags&noRecord == 0 {
			n += 1 + sizeOf(&u.key)
		}
	}
	for i := range tx.buffered {
		n += 1 + sizeOf(&tx.buffered[i].key)
	}
	for i := range tx.deltas {
		n += 1 + keyU64s + tx.deltas[i].n
	}
	return n
}

func (tx *Tx) atomicTriggers() {
	if tx.s.cfg.Atomic == nil {
		return
	}
	for i := range tx.updates {
		u := &tx.updates[i]
		tx.s.cfg.Atomic(u.btree, u.level, &u.old, &u.key, tx.seq)
	}
}

// fillJournal writes the records of the updates into the reservation.
func (tx *Tx) fillJournal() {
	b := tx.res.Bytes()[:0]
	for i := range tx.updates {
		u := &tx.updates[i]
		if u.flags&noRecord != 0 {
			continue
		}
		t := ondisk.JsetBtreeKeys
		if u.level > 0 && u.key.Type != ondisk.KeyDeleted && tx.isRoot(u) {
			t = ondisk.JsetBtreeRoot
		}
		b = appendRecord(b, t, u.btree, u.recordLevel(t), &u.key)
	}
	for i := range tx.buffered {
		b = appendRecord(b, ondisk.JsetWriteBufferKeys, tx.buffered[i].btree, 0, &tx.buffered[i].key)
	}
	if len(tx.deltas) > 0 {
		tx.fillDeltas(b)
	}
}

// recordLevel is the level that a journal record of the update names: that of the node that holds the key or, for roots, of the root itself.
func (u *update) recordLevel(t ondisk.JsetEntryType) uint8 {
	if t == ondisk.JsetBtreeRoot {
		return u.level - 1
	}
	return u.level
}

func (tx *Tx) isRoot(u *update) bool { return u.flags&rootPointer != 0 }

// fillDeltas writes the accounting records, each with a version of its own.
func (tx *Tx) fillDeltas(b []byte) {
	at := tx.res.Offset() + len(b)/8
	var val [24]byte
	for i := range tx.deltas {
		d := &tx.deltas[i]
		for j := range d.n {
			binary.LittleEndian.PutUint64(val[8*j:], uint64(d.counters[j]))
		}
		k := ondisk.Key{Type: ondisk.KeyAccounting, Pos: d.pos, Val: val[:8*d.n],
			Version: ondisk.Version{Hi: uint32(tx.seq >> 32), Lo: tx.seq<<32 | uint64(at)}}
		b = appendRecord(b, ondisk.JsetWriteBufferKeys, ondisk.BtreeAccounting, 0, &k)
		at += 1 + sizeOf(&k)
	}
	if tx.s.cfg.Counters != nil {
		tx.s.cfg.Counters(tx, tx.deltas)
	}
}

// appendRecord appends a record with one key.
func appendRecord(b []byte, t ondisk.JsetEntryType, btree ondisk.BtreeID, level uint8, k *ondisk.Key) []byte {
	b = binary.LittleEndian.AppendUint16(b, uint16(sizeOf(k)))
	b = append(b, byte(btree), level, byte(t), 0, 0, 0)
	return ondisk.AppendKey(b, *k)
}

// apply puts an update into its slot or leaf.
func (tx *Tx) apply(u *update) {
	s := tx.s
	if u.node != nil {
		s.applyToNode(u.node, &u.key, tx.seq)
		if u.slot != nil {
			s.keys.drop(u.slot)
		}
		if u.level > 0 {
			u.node.childChanged(&u.key)
		}
		return
	}
	if u.slot != nil {
		s.keys.store(u.slot, &u.key, tx.seq)
	}
}

// resizeStep is by how many bytes a node grows before the cache is told.
const resizeStep = 8 << 10

// applyToNode changes a node that is locked exclusively. It keeps the journal entry seq until the change is written.
func (s *Store) applyToNode(b *bnode, k *ondisk.Key, seq uint64) {
	before := b.keys.LiveU64s()
	if k.Type == ondisk.KeyDeleted {
		b.keys.Delete(k.Pos, seq)
	} else {
		b.keys.Set(k, seq)
	}
	if b.level == 0 && b.keys.LiveU64s() < before { // deleted, or less than before: what is left of an inode
		s.shrunk(b)
	}
	if !b.pinned {
		b.pinned = true
		s.journal.AddPin(seq, &b.pin, journal.PinBtreeNode, s.flushNode)
	}
	if n := int64(b.keys.MemBytes()); n > b.seenBytes+resizeStep {
		s.cache.resized(b)
	}
}

// directKey is a key that the journal has already, in an entry or several.
type directKey struct {
	key            ondisk.Key
	oldest, newest uint64
}

// commitDirect puts keys that the journal has already into a leaf that the transaction has locked for intent, then calls done, if
// it is not nil, with the leaf locked exclusively.
func (tx *Tx) commitDirect(b *bnode, keys []directKey, done func()) error {
	if err := tx.s.failed(); err != nil {
		return err
	}
	if err := tx.lockMore(b, six.Exclusive); err != nil {
		return err
	}
	n := 0
	for i := range keys {
		n += sizeOf(&keys[i].key)
	}
	if n > 0 && !b.hasRoom(n) {
		tx.unlock()
		if err := tx.s.grow(tx.ctx, b, keys[0].key.Pos, n, tx.watermark); err != nil {
			return err
		}
		return restartSplit
	}
	var oldest uint64
	for i := range keys {
		k := &keys[i]
		tx.s.applyToNode(b, &k.key, k.newest)
		if oldest == 0 || k.oldest < oldest {
			oldest = k.oldest
		}
	}
	if n > 0 { // the node may hold a pin already, of a newer entry
		tx.s.journal.AddPin(oldest, &b.pin, journal.PinBtreeNode, tx.s.flushNode)
	}
	if done != nil {
		done()
	}
	return nil
}

// childChanged renews an edge whose pointer was updated; the node is locked exclusively.
func (b *bnode) childChanged(k *ondisk.Key) {
	x := b.index.Load()
	i := x.find(k.Pos)
	if k.Type != ondisk.KeyDeleted && i < len(x.maxes) && x.maxes[i] == k.Pos {
		c := k.Clone()
		x.children[i].key.Store(&c)
	}
}

// NodeError tells that a node cannot be used.
type NodeError struct {
	Btree    ondisk.BtreeID
	Level    uint8
	Min, Max ondisk.Pos
	Err      error
}

func (e *NodeError) Error() string {
	return fmt.Sprintf("btree %v level %d: node for %v - %v: %v", e.Btree, e.Level, e.Min, e.Max, e.Err)
}

func (e *NodeError) Unwrap() error { return e.Err }
