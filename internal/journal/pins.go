package journal

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
)

// PinKind says what holds a journal entry back. Reclaim flushes pins of the oldest entry first and, of one entry, those of smaller kind first;
// a full flush does those of btree nodes last, as the others change nodes.
type PinKind uint8

// Kinds of pins.
const (
	PinInteriorUpdate PinKind = iota
	PinKeyCache
	PinWriteBuffer
	PinOther
	PinBtreeNode
	NumPinKinds
)

var pinKindNames = [NumPinKinds]string{"interior update", "key cache", "write buffer", "other", "btree node"}

func (k PinKind) String() string {
	if k < NumPinKinds {
		return pinKindNames[k]
	}
	return "(unknown kind of pin)"
}

// PinFlush is called, without locks of the journal, so that a pin's owner writes what the pin stands for and drops it. seq is the
// entry whose space is wanted: the owner may also move the pin to a newer one. It may drop the pin later than it returns: it is not asked
// again unless the pin is set anew. One such function runs at a time. It may make reservations with [WatermarkReclaim] or above only.
// The pin may be dropped by somebody else while the function runs, or just before it does.
type PinFlush func(ctx context.Context, p *Pin, seq uint64) error

// Pin keeps a journal entry, and all newer ones, in the journal for as long as what they say is in memory only. The zero value pins nothing.
// It must not be copied while it pins something. Each change of one pin must be made under a lock of its owner.
type Pin struct {
	// Owner is for the flush function; the journal does not look at it. It is set before the pin is first used.
	Owner any

	seq atomic.Uint64 // 0: none

	// Guarded by pinSet.mu.
	kind       PinKind
	flushed    bool // in the list of those whose flush function was called
	flush      PinFlush
	prev, next *Pin
}

// Seq is the entry that is pinned, 0 if there is none.
func (p *Pin) Seq() uint64 { return p.seq.Load() }

// pinnedEntry counts what pins one entry.
type pinnedEntry struct {
	count   int
	devices uint64            // where the entry was written; bit n: member n
	pins    [NumPinKinds]*Pin // whose flush function was not called
	flushed *Pin              // whose was
}

func (e *pinnedEntry) list(p *Pin) **Pin {
	if p.flushed {
		return &e.flushed
	}
	return &e.pins[p.kind]
}

func (e *pinnedEntry) link(p *Pin) {
	head := e.list(p)
	p.prev, p.next = nil, *head
	if p.next != nil {
		p.next.prev = p
	}
	*head = p
}

func (e *pinnedEntry) unlink(p *Pin) {
	if p.prev != nil {
		p.prev.next = p.next
	} else {
		*e.list(p) = p.next
	}
	if p.next != nil {
		p.next.prev = p.prev
	}
	p.prev, p.next = nil, nil
}

// pinSet counts pins for the entries front … back-1. Its lock comes after Writer.mu.
type pinSet struct {
	mu    sync.Mutex
	ring  []pinnedEntry // entry seq is at seq modulo length, a power of two
	back  uint64
	limit int // length that ring may grow to

	// front is the oldest entry needed. It is written under mu.
	front atomic.Uint64

	flushing *Pin // whose flush function is running
	dropped  bool // it was dropped or set meanwhile
}

func newPinSet(first uint64, limit int) *pinSet {
	const initial = 1 << 10
	s := &pinSet{ring: make([]pinnedEntry, min(initial, limit)), back: first, limit: limit}
	s.front.Store(first)
	return s
}

func (s *pinSet) at(seq uint64) *pinnedEntry { return &s.ring[seq&uint64(len(s.ring)-1)] }

func (s *pinSet) used() int { return int(s.back - s.front.Load()) }

// free is how many entries may still be opened.
func (s *pinSet) free() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.limit - s.used()
}

// push adds the next entry, pinned count times. There must be space.
func (s *pinSet) push(count int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used() == len(s.ring) {
		bigger := make([]pinnedEntry, 2*len(s.ring))
		for seq := s.front.Load(); seq < s.back; seq++ {
			bigger[seq&uint64(len(bigger)-1)] = *s.at(seq)
		}
		s.ring = bigger
	}
	*s.at(s.back) = pinnedEntry{count: count}
	s.back++
}

// pop moves front over what is not pinned. An entry is pinned until it was written. It reports whether front moved. The caller holds mu.
func (s *pinSet) pop() bool {
	front := s.front.Load()
	seq := front
	for seq < s.back && s.at(seq).count == 0 {
		seq++
	}
	s.front.Store(seq)
	return seq != front
}

// set makes p pin seq instead of what it pinned before.
func (s *pinSet) set(seq uint64, p *Pin, kind PinKind, flush PinFlush) {
	s.drop(p)
	if front := s.front.Load(); seq < front || seq >= s.back {
		panic(fmt.Sprintf("journal: %v pins entry %d, but there are %d to %d", kind, seq, front, s.back-1))
	}
	p.kind, p.flush, p.flushed = kind, flush, false
	e := s.at(seq)
	e.count++
	e.link(p)
	p.seq.Store(seq)
}

func (s *pinSet) drop(p *Pin) {
	seq := p.seq.Load()
	if p == s.flushing {
		s.dropped = true
	}
	if seq == 0 {
		return
	}
	e := s.at(seq)
	e.unlink(p)
	e.count--
	p.seq.Store(0)
	p.flush = nil
}

// AddPin makes p pin entry seq, which must still be there: the caller holds a reservation in it, or knows of another pin of it. If
// p pins an older entry or the same it is left as it is.
func (w *Writer) AddPin(seq uint64, p *Pin, kind PinKind, flush PinFlush) {
	if old := p.seq.Load(); old != 0 && old <= seq {
		return
	}
	w.changePin(func(s *pinSet) { s.set(seq, p, kind, flush) })
	w.pinned(seq)
}

// UpdatePin makes p pin entry seq if it pins nothing or an older entry.
func (w *Writer) UpdatePin(seq uint64, p *Pin, kind PinKind, flush PinFlush) {
	if old := p.seq.Load(); old >= seq {
		return
	}
	w.changePin(func(s *pinSet) { s.set(seq, p, kind, flush) })
	w.pinned(seq)
}

// CopyPin makes dst pin what src pins, instead of what it pinned before. If src pins nothing, dst is left as it is.
func (w *Writer) CopyPin(dst, src *Pin, kind PinKind, flush PinFlush) {
	var seq uint64
	w.changePin(func(s *pinSet) {
		if seq = src.seq.Load(); seq != 0 {
			s.set(seq, dst, kind, flush)
		}
	})
	w.pinned(seq)
}

// MovePin is [Writer.CopyPin], after which src pins nothing; of two entries dst keeps the older.
func (w *Writer) MovePin(dst, src *Pin, kind PinKind, flush PinFlush) {
	var seq uint64
	w.changePin(func(s *pinSet) {
		seq = src.seq.Load()
		if old := dst.seq.Load(); seq != 0 && (old == 0 || old > seq) {
			s.set(seq, dst, kind, flush)
		}
		s.drop(src)
	})
	w.pinned(seq)
}

// DropPin makes p pin nothing.
func (w *Writer) DropPin(p *Pin) {
	if p.seq.Load() != 0 {
		w.changePin(func(s *pinSet) { s.drop(p) })
	}
}

// stuck is [ErrStuck] with what holds the oldest entry.
func (w *Writer) stuck() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.pins
	s.mu.Lock()
	defer s.mu.Unlock()
	front := s.front.Load()
	if front == s.back {
		return ErrStuck
	}
	e := s.at(front)
	var held [NumPinKinds]int
	for kind, p := range e.pins {
		for ; p != nil; p = p.next {
			held[kind]++
		}
	}
	asked := 0
	for p := e.flushed; p != nil; p = p.next {
		held[p.kind]++
		asked++
	}
	var b strings.Builder
	for kind, n := range held {
		if n > 0 {
			fmt.Fprintf(&b, ", %d of kind %v", n, PinKind(kind))
		}
	}
	return fmt.Errorf("%w: the oldest entry is %d of up to %d, on disk up to %d; it has %d pins%s (%d were asked to go); %v", ErrStuck, front, w.cur.Load(),
		w.seqOndisk.Load(), e.count, b.String(), asked, w.space)
}

// PinSeq is [Pin.Seq].
func (w *Writer) PinSeq(p *Pin) uint64 { return p.seq.Load() }

// changePin runs fn with the pins locked, and lets the journal forget the oldest entries if fn freed them.
func (w *Writer) changePin(fn func(*pinSet)) {
	s := w.pins
	s.mu.Lock()
	fn(s)
	moved := s.pop()
	s.mu.Unlock()
	if moved {
		w.mu.Lock()
		w.updateSpace()
		w.wake()
		w.mu.Unlock()
	}
}

// pinned has what was pinned flushed if the journal is waiting for its entry.
func (w *Writer) pinned(seq uint64) {
	if seq == w.pins.front.Load() && Watermark(w.watermark.Load()) > WatermarkStripe {
		w.kickReclaim()
	}
}
