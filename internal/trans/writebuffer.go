package trans

import (
	"cmp"
	"context"
	"encoding/binary"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/go-bcachefs/bcachefs/internal/journal"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/six"
)

// writeBuffer holds updates of btrees that are updated blindly and often, in no useful order: backpointers, LRUs, accounting. They
// are journalled like others, but come to their leaves later, sorted, many at once.
//
// They enter it when the journal entry that holds them is about to be written, that is when it takes no more: so what
// is here of an entry is all that it has, and a leaf never has a delta of the accounting without those before it.
type writeBuffer struct {
	s *Store

	mu   sync.Mutex
	keys []wbKey
	pin  journal.Pin // of the oldest

	flushMu  sync.Mutex // held by who flushes
	flushing []wbKey
	held     journal.Pin // of the oldest being flushed

	direct []directKey // memory of flushLeaf; guarded by flushMu

	full atomic.Bool   // more may not be added before it was flushed
	wake chan struct{} // of capacity 1
}

// wbKey is a buffered update. Those of one entry are in order.
type wbKey struct {
	key            ondisk.Key
	btree          ondisk.BtreeID
	oldest, newest uint64 // journal entries that it comes from
	order          int
}

// wbFlushAt is how many updates are held before they are flushed unasked, wbBlockAt before those who make more have to wait.
const (
	wbFlushAt = 32 << 10
	wbBlockAt = 4 * wbFlushAt
)

// take adds the updates of a journal entry that is about to be written.
func (w *writeBuffer) take(seq uint64, btree ondisk.BtreeID, k ondisk.Key) {
	k.Val = slices.Clone(k.Val)
	w.mu.Lock()
	if len(w.keys) == 0 {
		w.s.journal.AddPin(seq, &w.pin, journal.PinWriteBuffer, w.flushPin)
	}
	w.keys = append(w.keys, wbKey{key: k, btree: btree, oldest: seq, newest: seq, order: len(w.keys)})
	n := len(w.keys)
	w.mu.Unlock()
	if n == wbBlockAt {
		w.full.Store(true)
		w.s.block()
	}
	if n%wbFlushAt == 0 {
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

func (w *writeBuffer) flushPin(ctx context.Context, _ *journal.Pin, _ uint64) error {
	return w.s.reclaimed(ctx, w.flush(ctx))
}

// run flushes when there is much, until the context ends.
func (w *writeBuffer) run(ctx context.Context) {
	for {
		select {
		case <-w.wake:
		case <-ctx.Done():
			return
		}
		if err := w.flush(ctx); err != nil && ctx.Err() == nil {
			w.s.fail(err)
			return
		}
	}
}

// len returns how many updates are held.
func (w *writeBuffer) len() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.keys)
}

// flush brings to their leaves what the buffer holds. If it fails it may be called again.
func (w *writeBuffer) flush(ctx context.Context) error {
	w.flushMu.Lock()
	defer w.flushMu.Unlock()
	if err := w.apply(ctx); err != nil { // what is left of one that failed
		return err
	}
	w.mu.Lock()
	w.flushing, w.keys = w.keys, w.flushing[:0]
	w.s.addPinOf(&w.held, &w.pin, journal.PinWriteBuffer, w.flushPin) // if this fails it is tried again
	w.s.journal.DropPin(&w.pin)
	w.mu.Unlock()
	w.flushing = sortBuffered(w.flushing)
	if err := w.apply(ctx); err != nil {
		return err
	}
	if w.full.Load() && w.len() < wbFlushAt {
		w.full.Store(false)
		w.s.block()
	}
	return nil
}

// apply brings to their leaves what is being flushed. The caller holds flushMu.
func (w *writeBuffer) apply(ctx context.Context) error {
	todo := w.flushing
	for len(todo) > 0 {
		n, err := w.flushLeaf(ctx, todo)
		if err != nil {
			w.flushing = append(w.flushing[:0], todo...)
			return err
		}
		todo = todo[n:]
	}
	clear(w.flushing)
	w.flushing = w.flushing[:0]
	w.s.journal.DropPin(&w.held)
	return nil
}

// sortBuffered sorts updates by position. Of several of the same position the newest counts, but those of accounting add up.
func sortBuffered(keys []wbKey) []wbKey {
	slices.SortFunc(keys, func(a, b wbKey) int {
		if a.btree != b.btree {
			return int(a.btree) - int(b.btree)
		}
		if c := a.key.Pos.Compare(b.key.Pos); c != 0 {
			return c
		}
		return cmp.Or(cmp.Compare(a.newest, b.newest), cmp.Compare(a.order, b.order))
	})
	out := keys[:0]
	for _, k := range keys {
		n := len(out)
		if n == 0 || out[n-1].btree != k.btree || out[n-1].key.Pos != k.key.Pos {
			out = append(out, k)
			continue
		}
		last := &out[n-1]
		last.newest = k.newest
		if k.btree == ondisk.BtreeAccounting {
			last.key = addAccounting(&last.key, &k.key)
		} else {
			last.key = k.key
			last.oldest = k.oldest
		}
	}
	clear(keys[len(out):])
	return out
}

// addAccounting returns the sum of two keys at the same position, with the newer version.
func addAccounting(a, b *ondisk.Key) ondisk.Key {
	sum := *a
	sum.Type = ondisk.KeyAccounting
	sum.Val = make([]byte, max(len(a.Val), len(b.Val)))
	copy(sum.Val, a.Val)
	for i := 0; i+8 <= len(b.Val); i += 8 {
		binary.LittleEndian.PutUint64(sum.Val[i:], binary.LittleEndian.Uint64(sum.Val[i:])+binary.LittleEndian.Uint64(b.Val[i:]))
	}
	if versionLess(a.Version, b.Version) {
		sum.Version = b.Version
	}
	return sum
}

func versionLess(a, b ondisk.Version) bool { return a.Hi < b.Hi || a.Hi == b.Hi && a.Lo < b.Lo }

// flushLeaf applies the first of keys, and those behind it that belong to the same leaf and have room there. It returns how many these
// were.
func (w *writeBuffer) flushLeaf(ctx context.Context, keys []wbKey) (n int, err error) {
	err = w.s.run(ctx, journal.WatermarkReclaim, true, func(tx *Tx) error {
		b, err := tx.lockNode(&w.s.trees[keys[0].btree], 0, keys[0].key.Pos, six.Intent)
		if err != nil {
			return err
		}
		if err := tx.lockMore(b, six.Exclusive); err != nil {
			return err
		}
		n = 0
		words := 0
		direct := w.direct[:0]
		for n < len(keys) && keys[n].btree == b.tree.id && b.covers(keys[n].key.Pos) && n < 1024 {
			k := keys[n].key
			old, ok := b.keys.Get(k.Pos)
			if k.Type == ondisk.KeyDeleted && !ok {
				n++
				continue
			}
			if ok && b.tree.id == ondisk.BtreeAccounting {
				k = addAccounting(&old, &k)
			}
			words += sizeOf(&k)
			if len(direct) > 0 && !b.keys.Room(words) {
				break
			}
			direct = append(direct, directKey{k, keys[n].oldest, keys[n].newest})
			n++
		}
		w.direct = direct
		return tx.commitDirect(b, direct, nil)
	})
	clear(w.direct)
	return n, err
}

// FlushBuffered makes sure that the buffered updates of others are in their btrees, for a transaction that has to know all of them: the first time
// it brings them there and asks for a restart. For transactions that others may wait for when room is made, those above [journal.WatermarkNormal],
// it does nothing.
func (tx *Tx) FlushBuffered() error {
	if tx.flushed || tx.watermark > journal.WatermarkNormal {
		return nil
	}
	tx.flushed = true
	tx.unlock()
	if err := tx.s.FlushWriteBuffer(tx.ctx); err != nil {
		return err
	}
	return restartFlushed
}

// FlushWriteBuffer brings all buffered updates to their btrees that were committed before.
func (s *Store) FlushWriteBuffer(ctx context.Context) error {
	if err := s.journal.Deliver(ctx); err != nil {
		return err
	}
	return s.wb.flush(ctx)
}
