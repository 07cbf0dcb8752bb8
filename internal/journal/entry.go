package journal

import (
	"time"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// buf is the buffer of an entry that is in flight.
func (w *Writer) buf(seq uint64) *entryBuf { return &w.bufs[seq%maxInFlight] }

// openBuf is the open entry, nil if there is none. The caller holds mu, without which none is opened or closed.
func (w *Writer) openBuf() *entryBuf {
	if w.state.Load()&offsetMask >= stateClosed {
		return nil
	}
	return w.buf(w.cur.Load())
}

// reservedBytes is what each entry takes beside what is reserved in it.
func (w *Writer) reservedBytes() int { return ondisk.JsetHeaderSize + 8*(w.rootU64s+extraU64s) }

// maxU64s is the largest reservation that there can be.
func (w *Writer) maxU64s() int { return (w.maxEntryBytes - w.reservedBytes()) / 8 }

// roundUp rounds to whole blocks.
func (w *Writer) roundUp(bytes int) int {
	block := w.cfg.Params.BlockBytes
	return (bytes + block - 1) &^ (block - 1)
}

// canOpen returns nil if an entry can be opened in which n u64s can be reserved, or why not. No entry is open; the caller holds mu.
func (w *Writer) canOpen(n int) error {
	switch {
	case w.err != nil:
		return w.err
	case w.cfg.Ordered && w.cur.Load() != w.seqOndisk.Load(): // how much space there is depends on what is being written
		return ErrWouldBlock
	case w.cur.Load()-w.seqOndisk.Load() >= maxInFlight, w.pins.free() == 0,
		w.space[spaceDiscarded].next < int64(w.reservedBytes()+8*n):
		return ErrWouldBlock
	}
	return nil
}

func (w *Writer) usableMembers() int {
	n := 0
	for _, m := range w.members {
		if m.usable() {
			n++
		}
	}
	return n
}

// openEntry opens the next entry, with room for n u64s at least. No entry is open; the caller holds mu.
func (w *Writer) openEntry(n int) error {
	if err := w.canOpen(n); err != nil {
		return err
	}
	for w.wantBytes < w.maxEntryBytes && w.wantBytes < w.reservedBytes()+8*n {
		w.wantBytes = min(2*w.wantBytes, w.maxEntryBytes)
	}
	seq := w.cur.Load() + 1
	b := w.buf(seq)
	if len(b.data) < w.wantBytes {
		b.data = blockdev.AlignedBuffer(w.wantBytes)
	}
	size := min(int64(len(b.data)), w.space[spaceDiscarded].next) &^ int64(w.cfg.Params.BlockBytes-1)
	if size < int64(w.reservedBytes()+8*n) {
		return ErrWouldBlock
	}
	if n >= w.wantU64s {
		w.wantU64s = 1
	}
	b.capacity.Store(uint64(int(size)-w.reservedBytes()) / 8)
	b.seq, b.spaceBytes, b.account = seq, w.space[spaceDiscarded].next, size
	b.closed, b.prepared, b.started = false, false, false
	b.noFlush, b.closeNow = false, false
	b.mustFlush = w.flushWant != 0 && w.flushWant <= seq
	if b.mustFlush {
		w.flushWant = 0
		b.closeNow = true
	}
	now := time.Now()
	b.deadline = w.lastFlush.Add(w.cfg.FlushDelay)
	if seq == w.flushed.Load()+1 { // there was nothing to flush
		b.deadline = now.Add(w.cfg.FlushDelay)
	}
	b.places = b.places[:0]
	w.pins.push(1)
	w.cur.Store(seq)
	w.updateSpace()
	w.state.Store(seq & seqMask << seqShift)
	w.wake()
	w.kickLoop() // for the deadline
	w.kickReclaim()
	return nil
}

// closeEntry closes the open entry, if there is one, and leaves the state as it is to be. The caller holds mu.
func (w *Writer) closeEntry(state uint64) {
	old := w.state.Load()
	for {
		if off := old & offsetMask; off == stateError || off == state {
			return
		}
		if w.state.CompareAndSwap(old, old&^offsetMask|state) {
			break
		}
		old = w.state.Load()
	}
	if old&offsetMask >= stateClosed {
		return
	}
	b := w.buf(w.cur.Load())
	b.used = int(old & offsetMask)
	b.closed = true
	b.account = int64(w.roundUp(w.reservedBytes() + 8*b.used))
	// This must be what is needed before the next entry is opened: a pin may be moved from an old entry to one that its owner
	// reserved in, and if that is the next entry then this one may not say yet that the old one is not needed.
	b.lastSeq = w.pins.front.Load()
	b.pending.Add(int64(old >> grantShift & grantMask))
	w.updateSpace()
}

// service closes the open entry if that is wanted and nothing is in flight before it, and opens one that somebody wants to flush.
// The caller holds mu.
func (w *Writer) service(now time.Time) {
	if w.err != nil {
		return
	}
	b := w.openBuf()
	if b == nil && w.flushWant > w.cur.Load() {
		if w.openEntry(1) != nil {
			return
		}
		b = w.openBuf()
	}
	if b != nil && (b.closeNow || !b.deadline.After(now)) && b.seq == w.seqOndisk.Load()+1 {
		w.closeEntry(stateClosed)
	}
}

// writeLoop prepares closed entries and has them written, one after the other.
func (w *Writer) writeLoop() {
	defer w.wg.Done()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		w.mu.Lock()
		now := time.Now()
		w.service(now)
		b := w.nextToPrepare()
		w.startWrite()
		if b == nil {
			timer.Reset(w.nextDeadline(now))
		}
		w.mu.Unlock()
		if b != nil {
			if err := w.prepare(b); err != nil {
				w.Halt(err)
			}
			continue
		}
		select {
		case <-w.loopKick:
		case <-timer.C:
		case <-w.quit:
			return
		}
	}
}

// nextToPrepare returns the oldest closed entry that is not prepared, if all reservations in it were given up. The caller holds mu.
func (w *Writer) nextToPrepare() *entryBuf {
	if w.err != nil {
		return nil
	}
	for seq := w.seqOndisk.Load() + 1; seq <= w.cur.Load(); seq++ {
		if b := w.buf(seq); !b.prepared {
			if b.closed && b.pending.Load() == 0 {
				return b
			}
			return nil
		}
	}
	return nil
}

// startWrite starts the write of the oldest entry if it is prepared. The caller holds mu.
func (w *Writer) startWrite() {
	if b := w.buf(w.seqOndisk.Load() + 1); w.err == nil && w.seqOndisk.Load() < w.cur.Load() && b.prepared && !b.started {
		b.started = true
		w.wg.Go(func() { w.write(b) })
	}
}

// nextDeadline is how long the loop may sleep. The caller holds mu.
func (w *Writer) nextDeadline(now time.Time) time.Duration {
	b := w.openBuf()
	// Not while another is in flight: its end wakes the loop.
	if b == nil || w.err != nil || b.seq != w.seqOndisk.Load()+1 {
		return time.Hour
	}
	return max(b.deadline.Sub(now), 0)
}
