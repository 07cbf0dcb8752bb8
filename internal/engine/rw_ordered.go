package engine

import (
	"context"
	"errors"

	"github.com/go-bcachefs/bcachefs/internal/alloc"
)

// startWorkers starts what works in the background. Where nothing may, what it would have begun with is done now.
func (rw *RW) startWorkers(ctx context.Context) error {
	if rw.wopts.Ordered {
		return rw.Settle(ctx, true)
	}
	rw.Alloc.Start(rw.ctx)
	rw.Nodes.Start(rw.ctx)
	return nil
}

// makeRoom is what the allocator calls instead of waiting for workers, nil if there are workers.
func (rw *RW) makeRoom() func(ctx context.Context) {
	if !rw.wopts.Ordered {
		return nil
	}
	return func(ctx context.Context) { _ = rw.settleAll(ctx, true) } // what goes wrong is seen by who waits
}

// starved is called by who waits for space in the journal.
func (rw *RW) starved(ctx context.Context) {
	if rw.settling.Load() {
		_ = rw.reclaim(ctx)
		return
	}
	_ = rw.settleAll(ctx, false)
}

// Settle does what goes on in the background otherwise, for a filesystem that is open with [WriteOptions].Ordered; for others it does nothing. Whoever changes the
// filesystem calls it between changes, often, and now and then with all: then the journal is flushed, its space given back as far as it is wanted, and
// buckets are made free.
func (rw *RW) Settle(ctx context.Context, all bool) error {
	if all {
		return rw.settleAll(ctx, false)
	}
	if !rw.wopts.Ordered || !rw.settling.CompareAndSwap(false, true) { // what it does itself may wait for room
		return nil
	}
	defer rw.settling.Store(false)
	return rw.settle(ctx)
}

func (rw *RW) settleAll(ctx context.Context, urgent bool) error {
	if !rw.wopts.Ordered || !rw.settling.CompareAndSwap(false, true) {
		return nil
	}
	defer rw.settling.Store(false)
	steps := []func(context.Context) error{rw.settle, rw.reclaim, rw.settle,
		func(ctx context.Context) error { _, err := rw.Alloc.Round(ctx, urgent); return full(err) }, rw.settle, rw.Journal.Flush}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// full takes a full filesystem for no error.
func full(err error) error {
	if errors.Is(err, alloc.ErrNoSpace) {
		return nil
	}
	return err
}

// settle brings to an end what was begun.
func (rw *RW) settle(ctx context.Context) error {
	if err := rw.Store.Settle(ctx); err != nil {
		return err
	}
	if err := full(rw.Nodes.Fill(ctx, false)); err != nil {
		return err
	}
	return rw.Store.Settle(ctx)
}

// reclaim gives back space of the journal, as far as it is wanted.
func (rw *RW) reclaim(ctx context.Context) error {
	if !rw.reclaiming.CompareAndSwap(false, true) {
		return nil
	}
	defer rw.reclaiming.Store(false)
	if err := rw.Journal.Flush(ctx); err != nil {
		return err
	}
	rw.Journal.Reclaim(ctx)
	rw.Store.MakeRoom(ctx)
	return rw.Journal.Flush(ctx)
}
