package journal

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// findPlaces chooses where an entry is written, beside where it is already, and has these members noted in the superblock.
func (w *Writer) findPlaces(b *entryBuf) error {
	for {
		w.mu.Lock()
		copies := w.allocate(b)
		discard := copies < w.cfg.Replicas && w.canDiscard
		if !discard {
			b.account = 0
		}
		w.updateSpace()
		w.mu.Unlock()
		switch {
		case discard:
			if !w.doDiscards(w.ctx) { // somebody else does
				time.Sleep(time.Millisecond)
			}
		case copies < w.cfg.ReplicasRequired:
			return fmt.Errorf("%w: places of %d bytes for %d copies, %d needed", ErrNoDevices, b.bytes, copies, w.cfg.ReplicasRequired)
		default:
			return w.markReplicas(b.members())
		}
	}
}

// members is the set of members that hold a copy, or are to.
func (b *entryBuf) members() (set uint64) {
	for _, p := range b.places {
		if !p.failed {
			set |= 1 << p.m.index
		}
	}
	return set
}

// markReplicas has a set of members noted in the superblock before an entry that is on it is written.
func (w *Writer) markReplicas(set uint64) error {
	w.mu.Lock()
	known := w.marked[set]
	w.mu.Unlock()
	if known || w.cfg.MarkReplicas == nil {
		return nil
	}
	var members []uint8
	for i := range uint8(64) {
		if set>>i&1 != 0 {
			members = append(members, i)
		}
	}
	if err := w.cfg.MarkReplicas(w.ctx, members); err != nil {
		return err
	}
	w.mu.Lock()
	w.marked[set] = true
	w.mu.Unlock()
	return nil
}

// write writes the oldest entry in flight and retires it.
func (w *Writer) write(b *entryBuf) {
	seq, flush := b.seq, !b.noFlush
	err := w.writeCopies(b)
	w.mu.Lock()
	if err == nil {
		err = w.err
	}
	if err == nil {
		w.retire(b)
	}
	w.mu.Unlock()
	if err != nil {
		w.Halt(fmt.Errorf("entry %d: %w", seq, err))
		return
	}
	w.kickLoop()
	if w.cfg.Flushed != nil && flush {
		w.cfg.Flushed(seq)
	}
}

// unflushed is a device that knows whether something was written since the last flush, as [blockdev.FlushTracker].
type unflushed interface{ Unflushed() bool }

// writeCopies writes an entry to its places, and elsewhere if some of them fail. A flush entry must not be durable before all
// that was written before it, on whatever device, and is durable when this returns.
func (w *Writer) writeCopies(b *entryBuf) error {
	if !b.noFlush {
		if err := w.flushAll(); err != nil {
			return err
		}
	}
	for {
		first := len(b.places)
		if err := w.findPlaces(b); err != nil {
			return err
		}
		places := b.places[first:]
		w.each(len(places), func(i int) {
			if err := w.writeCopy(b, &places[i]); err != nil {
				places[i].failed = true
				w.deviceFailed(places[i].m, err)
			}
		})
		if !w.giveBack(b, places) {
			return nil
		}
	}
}

// giveBack gives back the places where writing failed, so that no gap is left before the next entry, and reports whether there
// were any.
func (w *Writer) giveBack(b *entryBuf, places []place) (any bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range places {
		if p.failed {
			any = true
			p.m.free += int64(b.bytes)
		}
	}
	return any
}

func (w *Writer) writeCopy(b *entryBuf, p *place) error {
	if err := p.m.dev.WriteAt(w.ctx, b.data[:b.bytes], p.off); err != nil || b.noFlush {
		return err
	}
	return p.m.dev.Flush(w.ctx)
}

// flushAll flushes the devices of all members.
func (w *Writer) flushAll() error {
	w.mu.Lock()
	var list []*member
	for _, m := range w.members {
		if d, ok := m.dev.(unflushed); !m.readOnly && !(ok && !d.Unflushed()) {
			list = append(list, m)
		}
	}
	w.mu.Unlock()
	errs := make([]error, len(list))
	w.each(len(list), func(i int) { errs[i] = list[i].dev.Flush(w.ctx) })
	for i, err := range errs {
		if err != nil && !w.deviceFailed(list[i], err) {
			return err
		}
	}
	return nil
}

// each calls fn for 0 … n-1 at once.
func (w *Writer) each(n int, fn func(i int)) {
	if n == 1 {
		fn(0)
		return
	}
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { fn(i) })
	}
	wg.Wait()
}

// deviceFailed reports whether the journal goes on without the member.
func (w *Writer) deviceFailed(m *member, err error) bool {
	if w.cfg.DeviceFailed == nil || !w.cfg.DeviceFailed(m.index, err) {
		return false
	}
	w.SetReadOnly(m.index, true)
	return true
}

// retire makes an entry that was written part of history. The caller holds mu.
func (w *Writer) retire(b *entryBuf) {
	if !b.noFlush {
		w.lastNeeded = b.lastSeq
		w.flushed.Store(b.seq)
	}
	w.seqOndisk.Store(b.seq)
	s := w.pins
	s.mu.Lock()
	e := s.at(b.seq)
	e.devices = b.members()
	e.count--
	s.pop()
	s.mu.Unlock()
	b.wakeWaiters()
	w.updateSpace()
	w.wake()
	if Watermark(w.watermark.Load()) > WatermarkStripe || w.canDiscard {
		w.kickReclaim()
	}
}

// doDiscards discards buckets that are not needed any more and makes them free. It reports whether there were any that nobody else
// was discarding.
func (w *Writer) doDiscards(ctx context.Context) (did bool) {
	for _, m := range w.members {
		for {
			w.mu.Lock()
			if m.discarding || m.readOnly || len(m.buckets) == 0 || m.discard == m.dirtyOndisk {
				w.mu.Unlock()
				break
			}
			m.discarding, did = true, true
			bucket := m.buckets[m.discard]
			w.mu.Unlock()
			// A device that fails to discard holds what it held.
			_ = m.dev.Discard(ctx, int64(bucket)*m.bucketBytes, m.bucketBytes)
			w.mu.Lock()
			m.discarding = false
			m.discard = m.next(m.discard)
			w.updateSpace()
			w.wake()
			w.mu.Unlock()
		}
	}
	return did
}
