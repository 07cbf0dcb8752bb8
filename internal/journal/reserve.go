package journal

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// The state of the open entry is one word, so that a reservation is one compare-and-swap: how many u64s of the entry are
// reserved, how many reservations there were, and the low bits of its sequence number, which name the buffer and keep
// a stale word from ever being taken for a new one.
const (
	offsetBits  = 20
	offsetMask  = 1<<offsetBits - 1
	grantShift  = offsetBits
	grantOne    = 1 << grantShift
	grantMask   = 1<<20 - 1
	seqShift    = 40
	seqMask     = 1<<(64-seqShift) - 1
	stateClosed = offsetMask - 1 // in place of the offset; both are more than any entry has u64s
	stateError  = offsetMask
)

// Errors of reservations.
var (
	// ErrWouldBlock means that there is no space at the moment. Give up locks, then see [Writer.WaitSpace].
	ErrWouldBlock = errors.New("journal has no space at the moment")
	// ErrTooLarge means that no journal entry can be as large as what is to be reserved.
	ErrTooLarge = errors.New("too large for a journal entry")
	// ErrStuck means that the journal is full and nothing that holds its space back can be written.
	ErrStuck = errors.New("journal is full, and nothing in it can be reclaimed")
	// ErrStopped is the error of a journal that was shut down.
	ErrStopped = errors.New("journal is shut down")
	// ErrNoDevices means that fewer devices can be written to than entries have to be on.
	ErrNoDevices = errors.New("too few writable devices with a journal")
)

// Reservation is a part of the open journal entry, for its holder to fill with records. The entry is not written before [Reservation.Done].
// The zero value is none. It is for one goroutine.
type Reservation struct {
	w    *Writer
	buf  *entryBuf
	seq  uint64
	off  int // u64s
	data []byte
	used int // bytes that Append filled
}

// Seq is the sequence number of the entry.
func (r *Reservation) Seq() uint64 { return r.seq }

// Offset is where the part begins, in u64s from the start of the entry's records. It is unique within the entry.
func (r *Reservation) Offset() int { return r.off }

// Bytes is the part, zero at first, to be filled with records (struct jset_entry) from its beginning on. What is left zero reads as
// empty records.
func (r *Reservation) Bytes() []byte { return r.data }

// Append adds records behind those of earlier calls. It panics if there is not enough space.
func (r *Reservation) Append(entries ...ondisk.JsetEntry) {
	for i := range entries {
		if n := 8 + len(entries[i].Data); n > len(r.data)-r.used {
			panic(fmt.Sprintf("journal: record of %d bytes in a reservation of %d, %d used", n, len(r.data), r.used))
		}
		r.used += len(ondisk.AppendJsetEntry(r.data[r.used:r.used], entries[i]))
	}
}

// Done gives the part up: it is written as it is. A second call does nothing.
func (r *Reservation) Done() {
	w, b := r.w, r.buf
	if b == nil {
		return
	}
	r.w, r.buf, r.data = nil, nil, nil
	if b.pending.Add(-1) == 0 {
		w.kickLoop()
	}
}

// TryReserve gets n u64s, at least one, of the open entry into *res, or fails with [ErrWouldBlock]; [ErrTooLarge] and errors
// of the journal as a whole are for good. It neither blocks on I/O nor allocates.
func (w *Writer) TryReserve(n int, wm Watermark, res *Reservation) error {
	n = max(n, 1)
	if w.reserveFast(n, wm, res) {
		return nil
	}
	w.mu.Lock()
	err := w.reserveSlow(n, wm, res)
	w.mu.Unlock()
	if err == ErrWouldBlock {
		w.kickReclaim()
	}
	return err
}

// reserveFast takes a part of the open entry, if there is one with enough space.
func (w *Writer) reserveFast(n int, wm Watermark, res *Reservation) bool {
	if Watermark(w.watermark.Load()) > wm {
		return false
	}
	for {
		old := w.state.Load()
		off := old & offsetMask
		b := &w.bufs[old>>seqShift%maxInFlight]
		// Of a buffer that is about to be used again this may be a wrong capacity, but then the state has changed.
		if off+uint64(n) > b.capacity.Load() {
			return false
		}
		if w.state.CompareAndSwap(old, old+uint64(n)+grantOne) {
			at := ondisk.JsetHeaderSize + 8*int(off)
			data := b.data[at : at+8*n : at+8*n]
			clear(data)
			*res = Reservation{w: w, buf: b, seq: b.seq, off: int(off), data: data}
			return true
		}
	}
}

// reserveSlow closes the open entry, which is too full, and opens the next. The caller holds mu.
func (w *Writer) reserveSlow(n int, wm Watermark, res *Reservation) error {
	for {
		if w.reserveFast(n, wm, res) {
			return nil
		}
		switch {
		case w.err != nil:
			return w.err
		case n > w.maxU64s():
			return fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, 8*n, 8*w.maxU64s())
		case Watermark(w.watermark.Load()) > wm:
			return ErrWouldBlock
		}
		if b := w.openBuf(); b != nil {
			if len(b.data) < w.maxEntryBytes && int64(len(b.data)) < b.spaceBytes {
				w.wantBytes = max(w.wantBytes, min(2*len(b.data), w.maxEntryBytes))
			}
			w.closeEntry(stateClosed)
			w.kickLoop()
		}
		if err := w.openEntry(n); err != nil {
			if err == ErrWouldBlock {
				w.wantU64s = max(w.wantU64s, n)
			}
			return err
		}
	}
}

// Reserve is [Writer.TryReserve] that waits for space, and that fails with ctx's error too.
func (w *Writer) Reserve(ctx context.Context, n int, wm Watermark, res *Reservation) error {
	for {
		if err := w.TryReserve(n, wm, res); err != ErrWouldBlock {
			return err
		}
		if err := w.WaitSpace(ctx, wm); err != nil {
			return err
		}
	}
}

// WaitSpace waits until a reservation may succeed again, after one with this watermark failed with [ErrWouldBlock]. The caller
// holds no locks that what is pinned in the journal needs to be flushed. If the journal is full, nothing is being written and nothing
// moves for a while although the watermark is as high as that of reclaim, the journal halts with [ErrStuck].
func (w *Writer) WaitSpace(ctx context.Context, wm Watermark) error {
	var stuck stuckTimer
	defer stuck.stop()
	hungry := w.cfg.Ordered && w.cfg.Starved != nil
	fed := ^uint64(0) // progress when that was tried last
	for {
		w.mu.Lock()
		err := w.err
		ready := Watermark(w.watermark.Load()) <= wm && (w.openBuf() != nil || w.canOpen(w.wantU64s) == nil)
		written := w.seqOndisk.Load() == w.cur.Load()
		idle := written || w.openBuf() != nil && w.seqOndisk.Load()+1 == w.cur.Load()
		hopeless := wm >= WatermarkReclaim && !ready && written || w.cfg.Ordered && !ready && idle
		progress := w.progress.Load()
		changed := w.changed
		w.mu.Unlock()
		if err != nil || ready {
			return err
		}
		if hungry && idle && progress != fed {
			fed = progress
			w.cfg.Starved(ctx)
			continue
		}
		w.kickReclaim()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-stuck.arm(hopeless, progress, w.cfg.StuckAfter):
			w.Halt(w.stuck())
		}
	}
}

// stuckTimer runs out when there was no progress for a time.
type stuckTimer struct {
	timer    *time.Timer
	progress uint64
}

// arm starts the timer, or lets it run on if nothing has moved since it was started.
func (s *stuckTimer) arm(hopeless bool, progress uint64, after time.Duration) <-chan time.Time {
	if !hopeless {
		s.stop()
		return nil
	}
	if s.timer == nil || s.progress != progress {
		s.stop()
		s.timer, s.progress = time.NewTimer(after), progress
	}
	return s.timer.C
}

func (s *stuckTimer) stop() {
	if s.timer != nil {
		s.timer.Stop()
		s.timer = nil
	}
}

// entryBuf is a journal entry in memory, of which there are maxInFlight that take turns.
type entryBuf struct {
	// capacity in u64s, of which reservations are made.
	capacity atomic.Uint64
	// pending is the number of reservations held. It is negative while the entry is open: the grants are added when it is closed.
	pending atomic.Int64

	// Constant from when the entry is opened to when its buffer is free again.
	seq        uint64
	data       []byte // header and records
	spaceBytes int64  // of an entry that the journal had space for

	// Guarded by Writer.mu.
	closed    bool
	used      int    // u64s reserved, once closed
	lastSeq   uint64 // oldest entry needed, as of when this one was closed
	mustFlush bool   // somebody waits for it
	noFlush   bool   // it was decided that it is no flush entry
	closeNow  bool   // to be closed as soon as none before it is in flight
	deadline  time.Time
	prepared  bool  // ready to be written
	started   bool  // being written
	account   int64 // bytes of journal that it may take; 0 once it has its places
	bytes     int   // on disk, once prepared
	places    []place
	waiters   chan struct{} // closed when it was written or the journal halted; nil if nobody waits
}

// wakeWaiters wakes those who wait for the entry. The caller holds Writer.mu.
func (b *entryBuf) wakeWaiters() {
	if b.waiters != nil {
		close(b.waiters)
		b.waiters = nil
	}
}
