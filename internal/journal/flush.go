package journal

import (
	"context"
	"fmt"
	"time"
)

// FlushSeq makes entry seq and all before it durable. With an error it is not known whether they are.
func (w *Writer) FlushSeq(ctx context.Context, seq uint64) error {
	for {
		wait, err := w.requestFlush(seq)
		if err != nil || wait == nil {
			return err
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// FlushAsync starts what [Writer.FlushSeq] does and does not wait. It fails if the journal has halted.
func (w *Writer) FlushAsync(seq uint64) error {
	_, err := w.requestFlush(seq)
	return err
}

// Flush makes everything durable that was reserved so far.
func (w *Writer) Flush(ctx context.Context) error { return w.FlushSeq(ctx, w.Current()) }

// requestFlush has a flush entry made of the first entry from seq on that can be one, and returns what to wait for before looking again; nil if
// seq is durable.
func (w *Writer) requestFlush(seq uint64) (wait <-chan struct{}, err error) {
	if seq <= w.flushed.Load() {
		return nil, nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	cur, ondisk := w.cur.Load(), w.seqOndisk.Load()
	switch {
	case seq <= w.flushed.Load():
		return nil, nil
	case w.err != nil:
		return nil, w.err
	case seq > cur:
		return nil, fmt.Errorf("journal: entry %d cannot be flushed, the newest is %d", seq, cur)
	}
	target := max(seq, ondisk+1)
	for target <= cur && w.buf(target).noFlush {
		target++
	}
	if target > cur {
		w.flushWant = target // no entry is open: that would not have been decided on
		w.service(time.Now())
		w.kickLoop()
		if target > w.cur.Load() {
			return w.changed, nil
		}
	}
	b := w.buf(target)
	b.mustFlush, b.closeNow = true, true
	w.service(time.Now())
	w.kickLoop()
	return w.changedOf(b), nil
}

// changedOf returns a channel that is closed when the entry was retired or the journal halted. The caller holds mu.
func (w *Writer) changedOf(b *entryBuf) <-chan struct{} {
	if b.waiters == nil {
		b.waiters = make(chan struct{})
	}
	return b.waiters
}

// Deliver has all records of type write_buffer_keys that were reserved and given up so far passed to the write buffer. It does not wait
// for writes.
func (w *Writer) Deliver(ctx context.Context) error {
	seq := w.Current()
	for {
		w.mu.Lock()
		b := w.openBuf()
		if b != nil && b.seq <= seq {
			w.closeEntry(stateClosed)
			w.kickLoop()
		}
		err, changed := w.err, w.changed
		delivered := seq <= w.seqOndisk.Load() || seq <= w.cur.Load() && w.buf(seq).prepared
		w.mu.Unlock()
		if err != nil || delivered {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
