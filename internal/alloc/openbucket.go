package alloc

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// OpenBucketsCount is the size of the table of open buckets (OPEN_BUCKETS_COUNT). Entry 0 means none.
const OpenBucketsCount = 1024

// noBucket is the id of entries of the table that are free.
const noBucket = ^uint64(0)

// OpenBucket is a bucket that somebody is writing to: it is theirs though its alloc key may still say that it is free. Whoever has a
// reference has a pin. The last one to put its pin closes the bucket.
type OpenBucket struct {
	id   atomic.Uint64 // DevBucket
	next atomic.Int32  // in the chain of the hash table, or in the list of free entries
	idx  int32
	pins atomic.Int32

	// What it was opened for: constant while it is open.
	dev       *DevSpace
	bucket    ondisk.Bucket
	gen       uint8
	dataType  ondisk.DataType
	watermark Watermark
	owner     Owner

	// sectorsFree are those at the end of the bucket that were not given away. The lock of the write point that has the bucket
	// protects it, or the freelist lock while it is on the partial list.
	sectorsFree uint32

	// The freelist lock protects these.
	filled  bool // a commit has counted data in it: its alloc key does not say any more that it is free
	emptied bool // the alloc key became empty again: there is something to discard after the last put
	partial bool
}

// Dev returns the index of the device, Bucket the bucket, Gen the generation that pointers to it get.
func (ob *OpenBucket) Dev() uint8 { return ob.dev.Index }

// Bucket returns the number of the bucket on its device.
func (ob *OpenBucket) Bucket() ondisk.Bucket { return ob.bucket }

// Gen returns the generation that the bucket's alloc key had when it was opened, and has until it is closed.
func (ob *OpenBucket) Gen() uint8 { return ob.gen }

func (ob *OpenBucket) String() string {
	return fmt.Sprintf("device %d bucket %d gen %d (%v, %d sectors left, %d pins)", ob.dev.Index, ob.bucket, ob.gen, ob.dataType,
		ob.sectorsFree, ob.pins.Load())
}

// untouched tells whether no sector was given away.
func (ob *OpenBucket) untouched() bool { return ob.sectorsFree == ob.dev.BucketSize }

// isEmpty tells whether nothing is in it, as far as its alloc key says.
func (ob *OpenBucket) isEmpty(a *Allocator) bool {
	a.open.mu.Lock()
	defer a.open.mu.Unlock()
	return !ob.filled || ob.emptied
}

// pin takes one more reference; the caller has one.
func (ob *OpenBucket) pin() { ob.pins.Add(1) }

// openTable is the table of open buckets. A bucket is open if and only if it is in the hash.
//
// mu is the freelist lock: it makes testing whether a bucket is open and opening it one step. It is taken after all btree locks and
// no other lock is taken under it.
type openTable struct {
	mu      sync.Mutex
	free    int32 // first of the list of free entries
	nrFree  int
	partial []*OpenBucket // partly written and nobody's; the newest last
	heads   []atomic.Int32
	buckets []OpenBucket
}

func newOpenTable(size int) *openTable {
	t := &openTable{heads: make([]atomic.Int32, size), buckets: make([]OpenBucket, size), partial: make([]*OpenBucket, 0, size)}
	for i := size - 1; i > 0; i-- {
		ob := &t.buckets[i]
		ob.idx = int32(i)
		ob.id.Store(noBucket)
		ob.next.Store(t.free)
		t.free = int32(i)
		t.nrFree++
	}
	return t
}

func (t *openTable) head(id uint64) *atomic.Int32 {
	id *= 0x9e3779b97f4a7c15
	return &t.heads[(id>>32)%uint64(len(t.heads))]
}

// find returns the open bucket of an id, or nil. Without the lock the answer may be out of date either way.
func (t *openTable) find(id uint64) *OpenBucket {
	// An entry that moves to another chain while it is looked at may lead into that: the bound keeps this from going on for ever.
	i := t.head(id).Load()
	for range len(t.buckets) {
		if i == 0 {
			return nil
		}
		ob := &t.buckets[i]
		if ob.id.Load() == id {
			return ob
		}
		i = ob.next.Load()
	}
	return nil
}

// isOpenHint tells whether a bucket is open without taking the lock.
func (t *openTable) isOpenHint(dev uint8, b ondisk.Bucket) bool {
	return t.find(ondisk.DevBucket(uint16(dev), b)) != nil
}

// isOpen tells whether a bucket is open; that it is not stays true only as long as something keeps others from opening it, which is
// the lock of its alloc key.
func (t *openTable) isOpen(dev uint8, b ondisk.Bucket) bool {
	if t.isOpenHint(dev, b) {
		return true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.find(ondisk.DevBucket(uint16(dev), b)) != nil
}

// insert opens a bucket; mu is held, there is a free entry.
func (t *openTable) insert(d *DevSpace, b ondisk.Bucket) *OpenBucket {
	ob := &t.buckets[t.free]
	t.free = ob.next.Load()
	t.nrFree--
	ob.pins.Store(1)
	ob.dev, ob.bucket, ob.sectorsFree = d, b, d.BucketSize
	ob.filled, ob.emptied, ob.partial = false, false, false
	id := ondisk.DevBucket(uint16(d.Index), b)
	ob.id.Store(id)
	h := t.head(id)
	ob.next.Store(h.Load())
	h.Store(ob.idx)
	d.opened.Add(1)
	return ob
}

// remove closes a bucket; mu is held.
func (t *openTable) remove(ob *OpenBucket) {
	link := t.head(ob.id.Load())
	for link.Load() != ob.idx {
		if link.Load() == 0 {
			panic(fmt.Sprintf("open buckets: %v is not in the hash", ob))
		}
		link = &t.buckets[link.Load()].next
	}
	link.Store(ob.next.Load())
	if !ob.filled {
		ob.dev.opened.Add(-1)
	}
	if ob.emptied {
		ob.dev.held.Add(-1)
	}
	ob.id.Store(noBucket)
	ob.next.Store(t.free)
	t.free = ob.idx
	t.nrFree++
}

// unlinkPartial takes a bucket from the partial list; mu is held.
func (t *openTable) unlinkPartial(i int) *OpenBucket {
	ob := t.partial[i]
	t.partial = append(t.partial[:i], t.partial[i+1:]...)
	ob.partial = false
	return ob
}

// put gives up one reference. The last one closes the bucket: from then on only the alloc key tells whether it is free, so that
// whoever wrote to it puts after the commit that says so (I2). The context is for hooks alone.
func (a *Allocator) put(ctx context.Context, ob *OpenBucket) { a.putBack(ctx, ob, true) }

// putBack is put; news is false for what an attempt that failed gives back: others may go on looking, but nothing has become free.
func (a *Allocator) putBack(ctx context.Context, ob *OpenBucket, news bool) {
	a.hook(ctx, PointRelease, ob.dev.Index, ob.bucket)
	switch n := ob.pins.Add(-1); {
	case n > 0:
		return
	case n < 0:
		panic(fmt.Sprintf("open buckets: %v was put more often than it was got", ob))
	}
	a.open.mu.Lock()
	d, b := ob.dev, ob.bucket
	emptied := ob.emptied
	a.open.remove(ob)
	a.open.mu.Unlock()
	a.hook(ctx, PointReleased, d.Index, b)
	if emptied {
		a.reclaim.kick()
	}
	a.freed.signal(news) // entries of the table are waited for too
}

// putUnused gives up the reference of a write point: what was not written at all is closed, what has room left goes to the partial
// list, reference and all. news as in putBack.
func (a *Allocator) putUnused(ctx context.Context, ob *OpenBucket, news bool) {
	if ob.untouched() {
		a.putBack(ctx, ob, news)
		return
	}
	a.open.mu.Lock()
	ob.partial = true
	a.open.partial = append(a.open.partial, ob)
	a.open.mu.Unlock()
	a.freed.signal(news)
}

// trimPartial closes the buckets with the least room on the partial list if that has become long.
func (a *Allocator) trimPartial(ctx context.Context) {
	for {
		a.open.mu.Lock()
		ob := a.open.leastPartial(a.spaces.Load().maxPartial)
		a.open.mu.Unlock()
		if ob == nil {
			return
		}
		a.put(ctx, ob)
	}
}

// leastPartial takes the bucket with the least room from the partial list if that has more than most; else it returns nil. mu is held.
func (t *openTable) leastPartial(most int) *OpenBucket {
	if len(t.partial) <= most {
		return nil
	}
	least := 0
	for i, ob := range t.partial {
		if ob.sectorsFree < t.partial[least].sectorsFree {
			least = i
		}
	}
	return t.unlinkPartial(least)
}

// ClosePartial closes the buckets that were left partly written and are nobody's, so that what is in them may be moved. It returns how many there were.
func (a *Allocator) ClosePartial(ctx context.Context) int {
	return a.dropPartial(ctx, len(a.open.buckets))
}

// dropPartial closes the oldest buckets of the partial list, so that entries of the table become free. What room they have left is lost
// until they are empty.
func (a *Allocator) dropPartial(ctx context.Context, n int) (dropped int) {
	for dropped < n {
		a.open.mu.Lock()
		if len(a.open.partial) == 0 {
			a.open.mu.Unlock()
			return dropped
		}
		ob := a.open.unlinkPartial(0)
		a.open.mu.Unlock()
		a.put(ctx, ob)
		dropped++
	}
	return dropped
}

// IsOpen tells whether somebody is writing to a bucket. The answer no holds for as long as the caller holds the lock of the
// bucket's alloc key: the generation of an open bucket must not change, it must be neither discarded nor freed (I4).
func (a *Allocator) IsOpen(dev uint8, b ondisk.Bucket) bool { return a.open.isOpen(dev, b) }

// OpenCount returns the number of open buckets.
func (a *Allocator) OpenCount() int {
	a.open.mu.Lock()
	defer a.open.mu.Unlock()
	return len(a.open.buckets) - 1 - a.open.nrFree
}

// OpenBucketInfo describes an open bucket for people.
type OpenBucketInfo struct {
	Dev         uint8
	Bucket      ondisk.Bucket
	Gen         uint8
	DataType    ondisk.DataType
	Pins        int
	Partial     bool
	Filled      bool // the alloc key says that it is in use
	Watermark   Watermark
	SectorsFree uint32 // out of date while somebody writes
}

// OpenBuckets lists the open buckets.
func (a *Allocator) OpenBuckets() []OpenBucketInfo {
	a.open.mu.Lock()
	defer a.open.mu.Unlock()
	var list []OpenBucketInfo
	for h := range a.open.heads {
		for i := a.open.heads[h].Load(); i != 0; {
			ob := &a.open.buckets[i]
			info := OpenBucketInfo{ob.dev.Index, ob.bucket, ob.gen, ob.dataType, int(ob.pins.Load()), ob.partial, ob.filled,
				ob.watermark, 0}
			if ob.partial {
				info.SectorsFree = ob.sectorsFree
			}
			list = append(list, info)
			i = ob.next.Load()
		}
	}
	return list
}
