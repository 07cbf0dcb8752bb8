package alloc

import (
	"context"
	"sync"
)

// MaxOpenPerWrite bounds the buckets that one allocation is made of.
const MaxOpenPerWrite = 15

// WritePoint names a place where data is written one after the other: what is written through the same one lies close together. Any
// number will do, such as an inode's or a process's; they share 32.
type WritePoint uint64

// Write points that share with nobody.
const (
	WritePointBtree WritePoint = ^WritePoint(iota)
	WritePointCopygc
	WritePointRebalance

	fixedPoints  = 3
	hashedPoints = 32
)

// writePoint is a write point's state.
type writePoint struct {
	mu       sync.Mutex
	id       WritePoint // changes under mu and writePoints.mu
	lastUsed uint64     // under writePoints.mu

	// Its open buckets, with a reference to each, and what has room of them. Under mu.
	obs   [MaxOpenPerWrite]*OpenBucket
	n     int
	clock choiceClock
	sel   selection // scratch
}

// writePoints is the table of write points (spec/04 §10.8). mu is taken for moments only and before or without that of a write point,
// never after it.
type writePoints struct {
	mu     sync.Mutex
	time   uint64
	nr     int // how many of the hashed ones are in use
	hashed [hashedPoints]writePoint
	fixed  [fixedPoints]writePoint
}

func (p *writePoints) init() {
	p.nr = hashedPoints
	for i := range p.hashed {
		p.hashed[i].id = ^WritePoint(fixedPoints) - WritePoint(i) // nobody's
	}
	for i := range p.fixed {
		p.fixed[i].id = ^WritePoint(i)
	}
}

// lockPoint returns the write point of a request, locked. A request within a transaction gets one of its own: it holds locks that others
// may wait for with the lock of a write point.
func (a *Allocator) lockPoint(req *Request) *writePoint {
	if req.Tx != nil {
		wp := new(writePoint)
		wp.mu.Lock()
		return wp
	}
	p, id := &a.points, req.WritePoint
	if i := ^id; i < fixedPoints {
		wp := &p.fixed[i]
		wp.mu.Lock()
		return wp
	}
	for {
		p.mu.Lock()
		wp := p.find(id)
		if wp == nil {
			a.growPoints()
			wp = p.oldest()
			wp.id = id
		}
		p.time++
		wp.lastUsed = p.time
		p.mu.Unlock()

		wp.mu.Lock()
		p.mu.Lock()
		mine := wp.id == id
		p.mu.Unlock()
		if mine {
			return wp
		}
		wp.mu.Unlock() // another writer took it over
	}
}

// unlockPoint is the opposite of lockPoint.
func (a *Allocator) unlockPoint(ctx context.Context, wp *writePoint, req *Request) {
	if req.Tx != nil {
		a.leave(ctx, wp)
	}
	wp.mu.Unlock()
}

// find returns the hashed write point of an id, or nil; mu is held.
func (p *writePoints) find(id WritePoint) *writePoint {
	for i := range p.hashed[:p.nr] {
		if wp := &p.hashed[i]; wp.id == id {
			return wp
		}
	}
	return nil
}

// oldest returns the hashed write point that was not used for longest; mu is held.
func (p *writePoints) oldest() *writePoint {
	oldest := &p.hashed[0]
	for i := range p.hashed[1:p.nr] {
		if wp := &p.hashed[1+i]; wp.lastUsed < oldest.lastUsed {
			oldest = wp
		}
	}
	return oldest
}

// growPoints brings one more write point into use if what may be left over in all of them is little beside the free space;
// points.mu is held.
func (a *Allocator) growPoints() {
	p := &a.points
	if p.nr < hashedPoints && a.stranded(p.nr)*32 <= a.freeSectors() {
		p.nr++
	}
}

// shrinkPoints takes a write point out of use if what may be left over in all of them is much beside the free space. The caller
// has locked none.
func (a *Allocator) shrinkPoints(ctx context.Context) {
	p := &a.points
	p.mu.Lock()
	shrink := p.nr > 1 && a.stranded(p.nr)*8 > a.freeSectors()
	var wp *writePoint
	if shrink {
		p.nr--
		wp = &p.hashed[p.nr]
		wp.id = ^WritePoint(fixedPoints) - WritePoint(p.nr)
	}
	p.mu.Unlock()
	if shrink {
		wp.mu.Lock()
		a.leave(ctx, wp)
		wp.mu.Unlock()
	}
}

// stranded returns how many sectors may be left over in nr write points.
func (a *Allocator) stranded(nr int) uint64 {
	return uint64(nr) * uint64(a.spaces.Load().largestBucket)
}

// freeSectors returns the sectors that ordinary requests may hope for.
func (a *Allocator) freeSectors() (n uint64) {
	for d := range a.Devices() {
		n += uint64(a.Available(d, WatermarkNormal)) * uint64(d.BucketSize)
	}
	return n
}

// leave gives up all buckets of a write point, which is locked.
func (a *Allocator) leave(ctx context.Context, wp *writePoint) (left int) {
	for _, ob := range wp.obs[:wp.n] {
		a.putUnused(ctx, ob, true)
		left++
	}
	clear(wp.obs[:wp.n])
	wp.n = 0
	return left
}

// leaveAll makes the write points give up their buckets, so that others can use what room they have left. It returns how many there
// were. The caller has locked none.
func (a *Allocator) leaveAll(ctx context.Context) (left int) {
	for wp := range a.points.all {
		wp.mu.Lock()
		left += a.leave(ctx, wp)
		wp.mu.Unlock()
	}
	return left
}

func (p *writePoints) all(yield func(*writePoint) bool) {
	for i := range p.hashed {
		if !yield(&p.hashed[i]) {
			return
		}
	}
	for i := range p.fixed {
		if !yield(&p.fixed[i]) {
			return
		}
	}
}

// CloseDevice makes write points and the partial list give up their buckets on a device, or on all for nil, and waits until nobody
// writes to it any more, or ctx is done. The device should not be read-write any more.
func (a *Allocator) CloseDevice(ctx context.Context, d *DevSpace) error {
	on := func(ob *OpenBucket) bool { return d == nil || ob.dev == d }
	for wp := range a.points.all {
		wp.mu.Lock()
		kept := 0
		for _, ob := range wp.obs[:wp.n] {
			if on(ob) {
				a.put(ctx, ob)
			} else {
				wp.obs[kept] = ob
				kept++
			}
		}
		clear(wp.obs[kept:wp.n])
		wp.n = kept
		wp.mu.Unlock()
	}
	for {
		var ob *OpenBucket
		a.open.mu.Lock()
		for i, p := range a.open.partial {
			if on(p) {
				ob = a.open.unlinkPartial(i)
				break
			}
		}
		a.open.mu.Unlock()
		if ob == nil {
			break
		}
		a.put(ctx, ob)
	}
	return a.freed.wait(ctx, func(uint64) bool { return !a.anyOpen(on) })
}

// anyOpen tells whether a bucket is open for which fn returns true.
func (a *Allocator) anyOpen(fn func(*OpenBucket) bool) bool {
	a.open.mu.Lock()
	defer a.open.mu.Unlock()
	for h := range a.open.heads {
		for i := a.open.heads[h].Load(); i != 0; i = a.open.buckets[i].next.Load() {
			if fn(&a.open.buckets[i]) {
				return true
			}
		}
	}
	return false
}
