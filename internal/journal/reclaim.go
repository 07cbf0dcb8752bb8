package journal

import (
	"context"
	"errors"
	"time"
)

// reclaimLoop flushes pins so that the journal does not run out of space: it tries to keep half of the ring free. It also flushes
// one every ReclaimDelay, so that a filesystem at rest gets clean.
func (w *Writer) reclaimLoop() {
	defer w.wg.Done()
	timer := time.NewTimer(w.cfg.ReclaimDelay)
	defer timer.Stop()
	last := time.Now()
	for {
		if w.reclaimRound(w.ctx, &last) {
			timer.Reset(w.cfg.ReclaimDelay)
		} else {
			timer.Stop()
		}
		select {
		case <-w.reclaim:
		case <-timer.C:
		case <-w.quit:
			return
		}
	}
}

// Reclaim flushes pins as far as the journal wants space, for one that is [WriterConfig].Ordered.
func (w *Writer) Reclaim(ctx context.Context) {
	last := time.Now()
	w.reclaimRound(ctx, &last)
}

// reclaimRound reports whether pins are left. last is when a pin was flushed last.
func (w *Writer) reclaimRound(ctx context.Context, last *time.Time) (left bool) {
	if w.lockFlushing(ctx) != nil {
		return false
	}
	defer w.unlockFlushing()
	for {
		w.doDiscards(ctx)
		quota := w.reclaimQuota(*last)
		did, err := w.flushSome(ctx, quota)
		if did > 0 {
			*last = time.Now()
		}
		if err != nil || did == 0 || quota.any+quota.keyCache == 0 {
			break
		}
	}
	w.pins.mu.Lock()
	defer w.pins.mu.Unlock()
	return w.pins.used() > 0
}

// quota is what a round of reclaim is to flush.
type quota struct {
	upto          uint64 // all pins of entries up to here
	any, keyCache int    // and so many of newer ones
}

func (w *Writer) reclaimQuota(last time.Time) quota {
	var q quota
	q.any, q.keyCache = w.cfg.Pressure()
	q.keyCache = min(q.keyCache, 128)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return quota{}
	}
	for _, m := range w.members {
		if m.usable() {
			half := (m.cur + len(m.buckets)/2) % len(m.buckets)
			q.upto = max(q.upto, m.newest[half])
		}
	}
	if n := uint64(w.cfg.MaxPinned) / 2; w.cur.Load() > n {
		q.upto = max(q.upto, w.cur.Load()-n)
	}
	if time.Since(last) >= w.cfg.ReclaimDelay || Watermark(w.watermark.Load()) > WatermarkStripe {
		q.any = max(q.any, 1)
	}
	return q
}

// flushSome flushes pins and returns how many. The caller holds the token of flushing.
func (w *Writer) flushSome(ctx context.Context, q quota) (did int, err error) {
	for ctx.Err() == nil {
		below, above := allPins, pinSetOf()
		if q.any > 0 {
			above = allPins
		} else if q.keyCache > 0 {
			above = pinSetOf(PinKeyCache)
		}
		kind, err := w.flushNext(ctx, q.upto, below, above)
		if err != nil || kind == NumPinKinds {
			return did, err
		}
		did++
		q.any = max(q.any-1, 0)
		if kind == PinKeyCache {
			q.keyCache = max(q.keyCache-1, 0)
		}
	}
	return did, ctx.Err()
}

// kinds is a set of kinds of pins.
type kinds uint8

const allPins kinds = 1<<NumPinKinds - 1

func pinSetOf(list ...PinKind) (k kinds) {
	for _, kind := range list {
		k |= 1 << kind
	}
	return k
}

// flushNext calls the flush function of the oldest pin that is of a kind in below and pins upto or older, or that is of a kind in above.
// It returns the kind, NumPinKinds if there is none. The caller holds the token of flushing.
func (w *Writer) flushNext(ctx context.Context, upto uint64, below, above kinds) (PinKind, error) {
	s := w.pins
	s.mu.Lock()
	p, seq := s.oldest(upto, below, above)
	if p == nil {
		s.mu.Unlock()
		return NumPinKinds, nil
	}
	kind, flush := p.kind, p.flush
	s.flushing, s.dropped = p, false
	s.mu.Unlock()
	err := flush(ctx, p, seq)
	w.progress.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil && !s.dropped {
		e := s.at(seq)
		e.unlink(p)
		p.flushed = true
		e.link(p)
	}
	s.flushing = nil
	return kind, err
}

func (s *pinSet) oldest(upto uint64, below, above kinds) (*Pin, uint64) {
	for seq := s.front.Load(); seq < s.back; seq++ {
		allowed := above
		if seq <= upto {
			allowed |= below
		} else if above == 0 {
			break
		}
		e := s.at(seq)
		for kind, p := range e.pins {
			if p != nil && allowed>>kind&1 != 0 {
				return p, seq
			}
		}
	}
	return nil, 0
}

// lockFlushing takes the token of those who flush pins.
func (w *Writer) lockFlushing(ctx context.Context) error {
	select {
	case <-w.flushing:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-w.quit:
		return ErrStopped
	}
}

func (w *Writer) unlockFlushing() { w.flushing <- struct{}{} }

// FlushPins flushes the pins of all entries up to upto and waits until these are not needed any more; did says whether any pin was
// flushed. Before [Writer.ReplayDone] it does not wait. It must not be called by flush functions.
func (w *Writer) FlushPins(ctx context.Context, upto uint64) (did bool, err error) {
	for {
		w.mu.Lock()
		err, changed := w.err, w.changed
		w.mu.Unlock()
		if err != nil {
			return did, err
		}
		n, err := w.flushUpTo(ctx, upto)
		did = did || n > 0
		if err != nil {
			return did, err
		}
		if w.replaying.Load() || w.forgotten(upto) {
			return did, nil
		}
		if n > 0 {
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return did, ctx.Err()
		}
	}
}

// flushUpTo calls the flush functions of pins, those of btree nodes last as the others change nodes.
func (w *Writer) flushUpTo(ctx context.Context, upto uint64) (n int, err error) {
	if err := w.lockFlushing(ctx); err != nil {
		return 0, err
	}
	defer w.unlockFlushing()
	nodes := pinSetOf(PinBtreeNode)
	for _, which := range []kinds{allPins &^ nodes, nodes} {
		for {
			if err := errors.Join(ctx.Err(), w.Err()); err != nil {
				return n, err
			}
			kind, err := w.flushNext(ctx, upto, which, 0)
			if err != nil {
				return n, err
			}
			if kind == NumPinKinds {
				break
			}
			n++
		}
	}
	return n, nil
}

// forgotten reports whether no entry up to upto is needed. If one of them is open it is closed so that it will not be.
func (w *Writer) forgotten(upto uint64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if b := w.openBuf(); b != nil && b.seq <= upto {
		b.closeNow = true
		w.service(time.Now())
		w.kickLoop()
	}
	front := w.pins.front.Load()
	return front > upto || front > w.cur.Load()
}

// FlushMember makes the journal need nothing that is on a member, which must be read-only already. It makes the pins of all entries on it
// be flushed.
func (w *Writer) FlushMember(ctx context.Context, index uint8) error {
	var newest uint64
	w.pins.mu.Lock()
	for seq := w.pins.front.Load(); seq < w.pins.back; seq++ {
		// What is in flight may be on it too.
		if seq > w.seqOndisk.Load() || w.pins.at(seq).devices>>index&1 != 0 {
			newest = seq
		}
	}
	w.pins.mu.Unlock()
	if newest == 0 {
		return nil
	}
	if _, err := w.FlushPins(ctx, newest); err != nil {
		return err
	}
	return w.Flush(ctx) // a last_seq on other devices that says so
}
