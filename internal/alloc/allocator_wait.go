package alloc

import (
	"context"
	"errors"
	"math"
	"runtime"
	"time"
)

// allocSlow gets space after there was none at first. Each round of its loop has a reason to expect another outcome: something became
// free since the last attempt (gen was the count before it), write points gave up buckets, the journal was flushed, or workers
// have finished a round that began after the attempt. If there is no such reason left, no waiting would help.
func (a *Allocator) allocSlow(ctx context.Context, req *Request, out *Allocation, gen uint64) error {
	a.stats.waited.Add(1)
	a.shrinkPoints(ctx)
	left := false
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		now := a.freed.generation()
		seq, err := a.try(ctx, req, out)
		if err == nil || !isFull(err) {
			return err
		}
		if now != gen {
			gen = now
			left = false
		}
		if !left {
			left = true
			if a.leaveAll(ctx)+a.shrinkNodes(ctx) > 0 {
				continue
			}
		}
		if errors.Is(err, errOpenBucketsEmpty) {
			if a.dropPartial(ctx, 1+openLimit(req.Watermark, len(a.open.buckets))) > 0 {
				continue
			}
			// The others are being written, by tasks that will put them.
			if err := a.freed.wait(ctx, func(g uint64) bool { return g != now || !a.tableFull(req.Watermark) }); err != nil {
				return err
			}
			continue
		}
		if again, err := a.makeRoom(ctx, req, seq, now); err != nil {
			return err
		} else if again {
			continue
		}
		return a.lastAttempt(ctx, req, out)
	}
}

// shrinkNodes has the reserve of nodes give up what it has in plenty.
func (a *Allocator) shrinkNodes(ctx context.Context) int {
	if r := a.nodes.Load(); r != nil {
		return r.shrink(ctx)
	}
	return 0
}

// makeRoom waits until something has become free since gen; it returns false if that is not going to happen.
func (a *Allocator) makeRoom(ctx context.Context, req *Request, seq, gen uint64) (bool, error) {
	if req.Watermark >= WatermarkReclaim {
		// These are what makes room, or what that stands on: waiting for it may be waiting for themselves, as all that makes room writes to the
		// journal. But as long as that has space those get on who have some nodes of their own.
		return a.makeRoomFor(ctx, gen)
	}
	if seq > a.cfg.Engine.Durable() {
		return true, a.flushWaiting(ctx, seq)
	}
	if a.cfg.MakeRoom != nil {
		if rankOf(ctx) == math.MaxInt { // not on behalf of what it does itself
			a.cfg.MakeRoom(ctx)
		}
		return a.freed.generation() != gen, nil
	}
	a.hook(ctx, PointWait, 0, 0)
	return a.awaitRounds(ctx, gen)
}

// Those for whom nobody is sure to make room ask so often, and so long in all.
const (
	patientRounds = 3
	patientPause  = 50 * time.Millisecond
	patience      = 5 * time.Second
)

// makeRoomFor is makeRoom for those on whom it may depend that room is made.
func (a *Allocator) makeRoomFor(ctx context.Context, gen uint64) (again bool, err error) {
	patient, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for round := range patientRounds {
		if again, err = a.awaitRounds(patient, gen); again || err != nil {
			break
		}
		if round+1 < patientRounds && !a.idle(ctx) {
			select { // what was emptied may become free when the journal was flushed
			case <-patient.Done():
			case <-time.After(patientPause):
			}
		}
	}
	if err != nil && ctx.Err() == nil {
		err = nil // time is over
	}
	return again, err
}

// idle reports whether nobody is there who could make room for a request.
func (a *Allocator) idle(ctx context.Context) bool {
	rank := rankOf(ctx)
	for _, w := range a.workers() {
		if w.rank < rank && w.active() {
			return false
		}
	}
	return true
}

// awaitRounds has workers make a round, and waits until something has become free since gen, or they are through. It returns whether there is reason to
// try again.
func (a *Allocator) awaitRounds(ctx context.Context, gen uint64) (bool, error) {
	defer a.freed.announce()() // before rounds begin that are asked for here
	var buf [8]ticket
	tickets, rank := buf[:0], rankOf(ctx)
	for _, w := range a.workers() {
		if w.rank >= rank {
			continue
		}
		if t, ok := w.request(); ok {
			tickets = append(tickets, t)
		}
	}
	err := a.freed.wait(ctx, func(g uint64) bool {
		if g != gen {
			return true
		}
		for _, t := range tickets {
			if !t.done() {
				return false
			}
		}
		return true
	})
	again := a.freed.generation() != gen
	for _, t := range tickets { // what one has emptied, another one may still have to discard
		again = again || t.helped()
	}
	return again, err
}

// lastAttempt is made once nothing more will become free: with fewer replicas if that is enough. One task at a time makes it, so that of
// several that each hold what the others lack one gets all.
func (a *Allocator) lastAttempt(ctx context.Context, req *Request, out *Allocation) error {
	runtime.Gosched() // let a commit finish that has counted a bucket as used and not yet as open no more
	a.last.Lock()
	defer a.last.Unlock()
	if _, err := a.try(ctx, req, out); err == nil || !isFull(err) {
		return err
	}
	r := *req
	r.Replicas = max(1, req.Required)
	_, err := a.try(ctx, &r, out)
	if err == nil && r.Replicas < req.Replicas {
		a.stats.degraded.Add(1)
	}
	return err
}
