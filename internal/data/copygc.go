package data

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"

	"github.com/go-bcachefs/bcachefs/internal/alloc"
	"github.com/go-bcachefs/bcachefs/internal/journal"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// CopyGCConfig is what a [CopyGC] needs of its filesystem.
type CopyGCConfig struct {
	Writer *Writer
	// Usage counts what is in the buckets of a device.
	Usage func(dev uint8) [ondisk.NumDataTypes]alloc.DevUsage
	// Clock is the clock of writes, in sectors.
	Clock       func() uint64
	NodeSectors uint32 // of a btree node
	// Logf takes messages for people; nil: there are none.
	Logf func(format string, args ...any)
}

// CopyGC makes buckets free that are partly empty, by moving away what is in them (spec/04 § 13): space becomes empty sector by sector, but is handed out
// in buckets.
//
// # When
//
// It does nothing by itself: rounds are made by whoever calls [CopyGC.Round], as a reclaimer of the allocator does when requests wait for space, and when the
// clock of writes has passed [CopyGC.Due]. A device needs it when half of the space in buckets that can be had is less than what is lost in partly
// empty ones: as long as nobody writes it is not called. Rounds that gain nothing are followed by a pause that is as long as it takes to write a 64th of
// the smallest device.
//
// # What
//
// The emptiest buckets first, which the fragmentation LRU lists; if it has none the alloc btree is looked through. All that a bucket's backpointers lead
// to is moved: extents by [Writer.Move], nodes of btrees by being written anew. Buckets that are open are left alone, as are those of stripes.
//
// # Space
//
// Everything is done at the watermark of copygc, which has a reserve of its own. Its requests wait for discards, but never for copygc.
type CopyGC struct {
	cfg   CopyGCConfig
	w     *Writer
	alloc *alloc.Allocator

	due atomic.Uint64 // clock from which on a round is due

	// Of the goroutine that makes rounds.
	skip     map[uint64]uint64 // buckets that could not be emptied, by DevBucket, with the clock from which on to try again
	nextScan uint64            // clock from which on the alloc btree may be looked through again
	nodes    uint32            // sectors of nodes written since a bucket was counted as opened for them

	stats copyGCStats
}

type copyGCStats struct {
	rounds, buckets, opened, sectors, nodes, raced, failed, scans, errors atomic.Int64
}

// CopyGCStats are counters of a [CopyGC].
type CopyGCStats struct {
	Rounds  int64
	Buckets int64 // that were emptied
	Opened  int64 // that were begun for what was in them
	Sectors int64 // of data moved
	Nodes   int64 // of btrees moved
	Raced   int64 // keys that changed while they were moved
	Failed  int64 // keys that could not be moved
	Scans   int64 // of the alloc btree, as the LRU had nothing
	Errors  int64 // rounds that failed
	// Wait is how many sectors are to be written until a round is due.
	Wait uint64
}

// NewCopyGC returns a CopyGC.
func NewCopyGC(cfg CopyGCConfig) *CopyGC {
	if cfg.Logf == nil {
		cfg.Logf = func(string, ...any) {}
	}
	return &CopyGC{cfg: cfg, w: cfg.Writer, alloc: cfg.Writer.cfg.Alloc, skip: map[uint64]uint64{}}
}

// Due reports whether a round should be made at a time of the clock. It costs nothing, and is false from then on until the round was made.
func (g *CopyGC) Due(clock uint64) bool {
	due := g.due.Load()
	return clock >= due && g.due.CompareAndSwap(due, math.MaxUint64)
}

// Stats returns the counters.
func (g *CopyGC) Stats() CopyGCStats {
	c := &g.stats
	s := CopyGCStats{Rounds: c.rounds.Load(), Buckets: c.buckets.Load(), Opened: c.opened.Load(), Sectors: c.sectors.Load(), Nodes: c.nodes.Load(),
		Raced: c.raced.Load(), Failed: c.failed.Load(), Scans: c.scans.Load(), Errors: c.errors.Load()}
	if due, now := g.due.Load(), g.cfg.Clock(); due > now && due != math.MaxUint64 {
		s.Wait = due - now
	}
	return s
}

// movable are the types of data in buckets that count as fragmented.
var movable = [...]ondisk.DataType{ondisk.DataBtree, ondisk.DataUser, ondisk.DataStripe}

// wait returns how many sectors may be written before a device needs room to be made, negative if it is late; lost is what its partly empty buckets lack.
func (g *CopyGC) wait(d *alloc.DevSpace) (sectors, lost int64) {
	u := g.cfg.Usage(d.Index)
	for _, t := range movable {
		lost += u[t].Fragmented
	}
	return g.alloc.Available(d, alloc.WatermarkStripe)*int64(d.BucketSize)/2 - lost, lost
}

// needy returns the devices that need room to be made; urgent: somebody waits for it.
func (g *CopyGC) needy(urgent bool) (set alloc.DevSet) {
	for d := range g.alloc.Devices() {
		wait, lost := g.wait(d)
		if lost > 0 && g.alloc.Writable(d.Index) && (wait <= 0 || urgent && g.alloc.Avail(d, alloc.WatermarkNormal) == 0) {
			set.Add(d.Index)
		}
	}
	return set
}

// pause is how many sectors are written before another round is made after one that gained nothing.
func (g *CopyGC) pause() uint64 {
	least := uint64(math.MaxUint64)
	for d := range g.alloc.Devices() {
		least = min(least, uint64(d.NBuckets)*uint64(d.BucketSize))
	}
	return max(least>>6, 1)
}

// schedule says when the next round is due.
func (g *CopyGC) schedule(gained bool) {
	next := int64(math.MaxInt64)
	for d := range g.alloc.Devices() {
		if wait, lost := g.wait(d); (wait > 0 || lost > 0) && g.alloc.Writable(d.Index) {
			next = min(next, max(wait, 0))
		}
	}
	now := g.cfg.Clock()
	switch {
	case next == math.MaxInt64: // there is nothing to be gained yet
		next = int64(g.pause())
	case next == 0 && !gained:
		next = int64(g.pause())
	}
	g.due.Store(now + uint64(next))
}

// candidatesPerRound is how many buckets are taken from the LRU at a time.
const candidatesPerRound = 16

// futile is how many buckets' worth of sectors are moved together without a bucket gained before a round gives up: what is moved does not fit together
// better than it did.
const futile = 4

// Round makes buckets free. It returns how many more were emptied than filled. urgent says that somebody waits for one: then it ends with the first. It is
// called by one goroutine at a time.
func (g *CopyGC) Round(ctx context.Context, urgent bool) (gained int, err error) {
	g.stats.rounds.Add(1)
	defer func() {
		g.schedule(gained > 0)
		if err != nil {
			g.stats.errors.Add(1)
		}
	}()
	balance, sectors, size := 0, uint64(0), uint64(0)
	for {
		need := g.needy(urgent)
		if need.Len() == 0 {
			return max(balance, 0), nil
		}
		all, err := g.candidates(ctx, need)
		if err == nil && len(all) == 0 && g.alloc.Waiting() && g.alloc.ClosePartial(ctx) > 0 {
			all, err = g.candidates(ctx, need)
		}
		if err != nil || len(all) == 0 {
			return max(balance, 0), err
		}
		progress := false
		for _, c := range all {
			e, err := g.evacuate(ctx, c)
			balance += e.emptied - e.opened
			sectors += e.freed
			size = max(size, uint64(c.dev.BucketSize))
			progress = progress || e.emptied > 0
			if errors.Is(err, alloc.ErrNoSpace) {
				return max(balance, 0), nil // what was gained has to be discarded first
			}
			if err != nil {
				return max(balance, 0), err
			}
			if balance > 0 && g.alloc.Waiting() {
				return balance, nil
			}
		}
		if !progress || sectors > futile*size && balance <= 0 {
			return max(balance, 0), nil
		}
		if balance > 0 {
			sectors = 0
		}
	}
}

// evacuation is what became of a bucket.
type evacuation struct {
	emptied, opened int
	freed           uint64 // sectors that were empty in a bucket that was emptied
}

// evacuate moves everything out of a bucket.
func (g *CopyGC) evacuate(ctx context.Context, c gcBucket) (e evacuation, err error) {
	id := ondisk.DevBucket(uint16(c.dev.Index), c.bucket)
	for pass := range 2 {
		if pass > 0 { // pointers that came while the bucket was emptied
			if err := g.w.cfg.Store.FlushWriteBuffer(ctx); err != nil {
				return e, err
			}
		}
		a, ok, err := g.look(ctx, c)
		if err != nil || !ok {
			return e, err
		}
		res, err := g.moveAll(ctx, c, a.Gen)
		e.opened += res.Opened
		g.stats.opened.Add(int64(res.Opened))
		g.stats.sectors.Add(int64(res.Sectors))
		g.stats.raced.Add(int64(res.Raced))
		g.stats.failed.Add(int64(res.Failed))
		if err != nil {
			return e, err
		}
		now, err := g.state(ctx, c)
		if err != nil {
			return e, err
		}
		if now.DirtyTotal() == 0 || now.Gen != a.Gen {
			e.emptied, e.freed = 1, a.Fragmented(c.dev.BucketSize)
			g.stats.buckets.Add(1)
			delete(g.skip, id)
			return e, nil
		}
		if res.Err != nil {
			g.cfg.Logf("copygc: device %d bucket %d: %d extents stay: %v", c.dev.Index, c.bucket, res.Failed, res.Err)
			break
		}
	}
	if len(g.skip) > 1<<16 { // it is a hint
		clear(g.skip)
	}
	g.skip[id] = g.cfg.Clock() + g.pause()
	return e, nil
}

// state reads the state of a bucket.
func (g *CopyGC) state(ctx context.Context, c gcBucket) (a ondisk.Alloc, err error) {
	err = g.w.cfg.Store.View(ctx, func(tx *trans.Tx) (err error) {
		a, err = alloc.GetAlloc(tx, c.dev.Index, c.bucket, alloc.Committed)
		return err
	})
	return a, err
}

// look reads the state of a bucket; ok is false if it is not to be emptied.
func (g *CopyGC) look(ctx context.Context, c gcBucket) (a ondisk.Alloc, ok bool, err error) {
	if a, err = g.state(ctx, c); err != nil {
		return a, false, err
	}
	return a, g.isCandidate(c.dev, c.bucket, &a), nil
}

// isCandidate reports whether there is something to be gained by emptying a bucket.
func (g *CopyGC) isCandidate(d *alloc.DevSpace, b ondisk.Bucket, a *ondisk.Alloc) bool {
	switch {
	case a.FragmentationLRU(d.BucketSize) == 0, a.Stripe != 0, a.StripeSectors != 0, g.alloc.IsOpen(d.Index, b):
		return false
	case a.DataType == ondisk.DataBtree: // at least one node's place must be free
		return a.Fragmented(d.BucketSize) >= uint64(g.cfg.NodeSectors)
	}
	return a.DataType == ondisk.DataUser
}

// moveAll moves all that the backpointers of a bucket lead to.
func (g *CopyGC) moveAll(ctx context.Context, c gcBucket, gen uint8) (res MoveResult, err error) {
	from, to := alloc.BackpointersOf(c.dev.Device, c.bucket)
	nodes := false
	for {
		found, next, err := g.owners(ctx, c, gen, from, to)
		if err != nil {
			return res, err
		}
		r, err := g.moveData(ctx, found.moves)
		res.add(&r)
		if err != nil {
			return res, err
		}
		for i := range found.nodes {
			ok, err := g.moveNode(ctx, c, gen, &found.nodes[i])
			if err != nil {
				return res, err
			}
			if ok {
				nodes = true
				g.stats.nodes.Add(1)
				if g.nodes += g.cfg.NodeSectors; g.nodes >= c.dev.BucketSize {
					g.nodes -= c.dev.BucketSize
					res.Opened++
				}
			}
		}
		if next == (ondisk.Pos{}) {
			break
		}
		from = next
	}
	if nodes {
		return res, g.w.cfg.Store.WaitInterior(ctx)
	}
	return res, nil
}

// moveData moves extents, some at a time.
func (g *CopyGC) moveData(ctx context.Context, moves []Move) (res MoveResult, err error) {
	o := MoveOptions{Point: alloc.WritePointCopygc, Watermark: alloc.WatermarkCopygc, Target: g.w.cfg.Options.BackgroundTarget}
	for len(moves) > 0 {
		n, bytes := 0, 0
		for n < len(moves) && (n == 0 || bytes < maxMoveBytes) {
			bytes += int(moves[n].Key.Size) * sectorSize
			n++
		}
		r, err := g.w.Move(ctx, moves[:n], &o)
		res.add(&r)
		if err != nil {
			return res, err
		}
		moves = moves[n:]
	}
	return res, nil
}

// moveNode writes a node anew that lies in a bucket.
func (g *CopyGC) moveNode(ctx context.Context, c gcBucket, gen uint8, bp *ondisk.Backpointer) (bool, error) {
	ok, err := g.w.cfg.Store.RewriteNode(ctx, journal.WatermarkCopygc, bp.Btree, bp.Level-1, bp.Pos, func(a ondisk.NodeAddr) bool {
		b, _ := c.dev.Device.Bucket(a.Sector)
		return a.Dev == c.dev.Index && b == c.bucket && a.Gen == gen
	})
	if err != nil && ctx.Err() == nil {
		err = fmt.Errorf("btree %v level %d: node at %v: %w", bp.Btree, bp.Level-1, bp.Pos, err)
	}
	return ok, err
}
