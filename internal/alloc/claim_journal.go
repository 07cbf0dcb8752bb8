package alloc

import (
	"context"
	"fmt"
	"sync"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// journalWait is the table of emptied buckets that wait for the journal: until the entry that emptied a bucket is on disk, a crash
// would bring back what was in it (I5, spec/04 §4.2). The alloc keys say so too; the table saves locking them.
type journalWait struct {
	mu   sync.RWMutex
	seqs map[uint64]uint64 // by DevBucket
	last int               // size after the last pruning
	// latest is the greatest sequence number that was ever set.
	latest uint64
}

// set notes that a bucket was emptied by a journal entry.
func (w *journalWait) set(id, seq, durable uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.seqs == nil {
		w.seqs = map[uint64]uint64{}
	}
	w.seqs[id] = seq
	w.latest = max(w.latest, seq)
	if len(w.seqs) < 2*w.last+64 {
		return
	}
	for id, s := range w.seqs {
		if s <= durable {
			delete(w.seqs, id)
		}
	}
	w.last = len(w.seqs)
}

// flushTo returns up to where to have the journal flushed for a bucket that waits for seq: to where all others need it too, so that one
// flush serves.
func (w *journalWait) flushTo(seq uint64) uint64 {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return max(seq, w.latest)
}

// get returns the sequence number that a bucket waits for; 0 if it is not in the table.
func (w *journalWait) get(id uint64) uint64 {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.seqs[id]
}

// flushWaiting has the journal flushed for a bucket that waits for seq.
func (a *Allocator) flushWaiting(ctx context.Context, seq uint64) error {
	a.stats.journalFlushes.Add(1)
	if err := a.cfg.Engine.FlushSeq(ctx, a.waiting.flushTo(seq)); err != nil {
		return err
	}
	if d := a.cfg.Engine.Durable(); d < seq { // who relies on it would try for ever
		return fmt.Errorf("journal entry %d is not durable after a flush, only %d is", seq, d)
	}
	return nil
}

// waitsHint returns the sequence number that a bucket waits for as far as the table knows; 0 if it does not wait.
func (a *Allocator) waitsHint(dev uint8, b ondisk.Bucket) uint64 {
	if a.broken(FaultNoJournalWait) {
		return 0
	}
	seq := a.waiting.get(ondisk.DevBucket(uint16(dev), b))
	if seq == 0 || seq <= a.cfg.Engine.Durable() {
		return 0
	}
	return seq
}

// waits is waitsHint with what the alloc key of a bucket that holds nothing says.
func (a *Allocator) waits(dev uint8, b ondisk.Bucket, k *ondisk.Alloc) uint64 {
	if a.broken(FaultNoJournalWait) {
		return 0
	}
	// In an empty bucket the field has the entry that emptied it. The table may know of a later one while a commit is under way.
	seq := max(k.JournalSeqNonempty, a.waiting.get(ondisk.DevBucket(uint16(dev), b)))
	if seq <= a.cfg.Engine.Durable() {
		return 0
	}
	return seq
}
