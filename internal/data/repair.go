package data

import (
	"context"
	"sync"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/alloc"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// maxRepairs is how many replicas wait at most to be repaired. What is left out is found again by who reads it next.
const maxRepairs = 256

// Repair writes replicas anew that could not be read or did not verify, while another one served a read (self-healing): what the good one has is
// written elsewhere, and the pointer to what is damaged is replaced ([Writer.Move]). Reads do not wait for that. Its methods are safe for concurrent use.
type Repair struct {
	w    *Writer
	logf func(format string, args ...any)
	wake chan struct{} // of capacity 1

	mu      sync.Mutex
	queue   []BadReplica
	waiting map[BadReplica]bool // in the queue, or being repaired
	failed  map[BadReplica]time.Time
	stats   RepairStats
}

// repairAgain is how long after a failure the same replica may be tried again.
const repairAgain = time.Minute

// RepairStats are counters of a [Repair].
type RepairStats struct {
	Told     int64 // replicas, each once as long as it waits
	Dropped  int64 // of these, because too many waited
	Repaired int64
	Gone     int64 // that nothing points to any more
	Fine     int64 // that can be read after all
	Failed   int64 // that could not be repaired
	Waiting  int
}

// NewRepair returns a Repair that does nothing before [Repair.Run]. logf takes messages for people; nil: there are none.
func NewRepair(w *Writer, logf func(format string, args ...any)) *Repair {
	if logf == nil {
		logf = func(string, ...any) {}
	}
	return &Repair{w: w, logf: logf, wake: make(chan struct{}, 1), waiting: map[BadReplica]bool{},
		failed: map[BadReplica]time.Time{}}
}

// Add has a replica repaired, some time. It is a [WriterConfig.OnBadReplica].
func (r *Repair) Add(b BadReplica) {
	if b.Ptr.Cached {
		return // it is only a copy
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.waiting[b], time.Since(r.failed[b]) < repairAgain:
		return
	case len(r.queue) == maxRepairs:
		r.stats.Told++
		r.stats.Dropped++
		return
	}
	r.stats.Told++
	r.queue = append(r.queue, b)
	r.waiting[b] = true
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Stats returns the counters.
func (r *Repair) Stats() RepairStats {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.stats
	s.Waiting = len(r.waiting)
	return s
}

// Run repairs what is added, one after the other, until the context ends.
func (r *Repair) Run(ctx context.Context) {
	for {
		select {
		case <-r.wake:
		case <-ctx.Done():
			return
		}
		for ctx.Err() == nil {
			r.mu.Lock()
			if len(r.queue) == 0 {
				r.mu.Unlock()
				break
			}
			b := r.queue[0]
			r.queue = r.queue[1:]
			r.mu.Unlock()
			count, err := r.one(ctx, b)
			if err != nil && ctx.Err() == nil {
				count = &r.stats.Failed
				r.logf("device %d: the damaged replica at sector %d was not repaired: %v", b.Ptr.Dev, b.Ptr.Offset, err)
			}
			r.mu.Lock()
			delete(r.waiting, b)
			delete(r.failed, b)
			if count == &r.stats.Failed {
				if len(r.failed) >= maxRepairs { // it is a hint
					clear(r.failed)
				}
				r.failed[b] = time.Now()
			}
			if count != nil {
				*count++
			}
			r.mu.Unlock()
		}
	}
}

// one repairs a replica, and returns what counts the outcome.
func (r *Repair) one(ctx context.Context, b BadReplica) (count *int64, err error) {
	w := r.w
	mv := Move{Btree: b.Btree}
	err = w.cfg.Store.View(ctx, func(tx *trans.Tx) error {
		mv.Ptrs = 0
		k, ok, err := tx.Iter(b.Btree, b.Pos, trans.AllSnapshots|trans.NotExtents).PeekMax(b.Pos)
		if err != nil || !ok {
			return err
		}
		mv.Key = k.Clone()
		mv.Ptrs, err = r.find(&k, &b.Ptr)
		return err
	})
	if err != nil {
		return nil, err
	}
	if mv.Ptrs == 0 {
		return &r.stats.Gone, nil
	}
	mv.Bad = mv.Ptrs
	o := MoveOptions{Point: alloc.WritePoint(b.Pos.Inode), Watermark: alloc.WatermarkNormal, Target: w.cfg.Options.BackgroundTarget}
	if r.fine(ctx, &mv, &o) {
		return &r.stats.Fine, nil
	}
	res, err := w.Move(ctx, []Move{mv}, &o)
	switch {
	case err != nil:
		return nil, err
	case res.Err != nil:
		return nil, res.Err
	case res.Keys == 0:
		return &r.stats.Gone, nil
	}
	return &r.stats.Repaired, nil
}

// find returns the set of the pointer of a key that leads to the same as p, if there is one.
func (r *Repair) find(k *ondisk.Key, p *ondisk.ExtentPtr) (set uint32, err error) {
	if k.Type != ondisk.KeyExtent && k.Type != ondisk.KeyReflinkV {
		return 0, nil
	}
	var buf [8]ondisk.DecodedPtr
	ptrs, _, err := ondisk.AppendExtentPtrs(buf[:0], k, r.w.cfg.ExtentTypes)
	for i := range ptrs {
		if ptrs[i].ExtentPtr == *p {
			return 1 << i, err
		}
	}
	return 0, err
}

// fine reports whether the replica can be read after all: what failed was the moment, or its bucket was reused while it was read.
func (r *Repair) fine(ctx context.Context, mv *Move, o *MoveOptions) bool {
	m := &mover{batch: batch{w: r.w}, o: o}
	defer m.end(ctx)
	probe := moving{Move: &Move{Btree: mv.Btree, Key: mv.Key, Ptrs: mv.Ptrs}}
	if err := m.plan(ctx, &probe); err != nil {
		return false
	}
	for i := range probe.ptrs {
		if probe.Ptrs>>i&1 != 0 && !probe.unwritten {
			return m.readFrom(ctx, &probe, &probe.ptrs[i]) == nil
		}
	}
	return true
}
