package btree

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// nodeID identifies a node in the cache: the sequence number of the node for pointers of version 2, which is random, else the
// first device pointer. The other of the two is 0.
type nodeID struct {
	seq  uint64
	word uint64
}

func (id nodeID) hash() uint64 {
	h := (id.seq ^ id.word) * 0x9e3779b97f4a7c15
	return h ^ h>>29
}

// entry is a node in the cache, or the reason why it cannot be read. Everything but used, pins and next is fixed once it is in
// the table.
type entry struct {
	id   nodeID
	node *ondisk.Node
	err  error // set if node is nil: damage that reading again would meet again
	size int64

	used atomic.Bool  // since the clock's hand passed
	pins atomic.Int32 // iterators that stand on it
	next atomic.Pointer[entry]
	slot int // place in cache.ring; protected by cache.mu
}

// cache keeps decoded nodes within a budget of bytes, evicting by the CLOCK rule.
//
// Lookups take no lock: the table is a fixed array of lists of immutable entries whose links are atomic; an entry that was
// unlinked stays valid for those who found it before, until the garbage collector takes it. Changes are made under mu.
type cache struct {
	budget int64
	table  []atomic.Pointer[entry] // length is a power of two

	mu       sync.Mutex
	bytes    int64
	ring     []*entry
	hand     int
	inflight map[nodeID]*load

	misses, evictions atomic.Int64
}

// load is a read in progress that others may wait for.
type load struct {
	done  chan struct{}
	entry *entry // nil if err is set
	err   error
}

// errorSize is what an entry that holds only an error counts.
const errorSize = 512

func newCache(budget int64) *cache {
	slots := int64(256)
	for slots < 1<<16 && slots*(16<<10) < budget {
		slots *= 2
	}
	return &cache{budget: budget, table: make([]atomic.Pointer[entry], slots), inflight: map[nodeID]*load{}}
}

// find returns the entry of id, or nil. It does not block and does not allocate.
func (c *cache) find(id nodeID) *entry {
	for e := c.table[id.hash()&uint64(len(c.table)-1)].Load(); e != nil; e = e.next.Load() {
		if e.id == id {
			if !e.used.Load() {
				e.used.Store(true)
			}
			return e
		}
	}
	return nil
}

// get returns the entry of id, calling read if it is not there; of concurrent calls for one id a single one reads.
// Errors of read that are *permanentError are kept as entries.
func (c *cache) get(ctx context.Context, id nodeID, read func(context.Context) (*ondisk.Node, error)) (*entry, error) {
	for {
		c.mu.Lock()
		if e := c.find(id); e != nil {
			c.mu.Unlock()
			return e, nil
		}
		l, waiting := c.inflight[id]
		if !waiting {
			l = &load{done: make(chan struct{})}
			c.inflight[id] = l
		}
		c.mu.Unlock()

		if !waiting {
			c.misses.Add(1)
			c.load(ctx, id, l, read)
			return l.entry, l.err
		}
		select {
		case <-l.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		// The leader's context may have ended while ours has not: then it is our turn to read.
		if l.err != nil && (errors.Is(l.err, context.Canceled) || errors.Is(l.err, context.DeadlineExceeded)) {
			continue
		}
		return l.entry, l.err
	}
}

// claim makes the caller the one who reads id, if it is neither there nor being read; else it returns nil. The caller must
// then call c.load.
func (c *cache) claim(id nodeID) *load {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.find(id) != nil || c.inflight[id] != nil {
		return nil
	}
	l := &load{done: make(chan struct{})}
	c.inflight[id] = l
	c.misses.Add(1)
	return l
}

// permanentError marks an error that reading again would not cure.
type permanentError struct{ err error }

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }

func (c *cache) load(ctx context.Context, id nodeID, l *load, read func(context.Context) (*ondisk.Node, error)) {
	l.err = errors.New("btree: node read did not finish")
	defer func() {
		c.mu.Lock()
		delete(c.inflight, id)
		if l.entry != nil {
			c.insert(l.entry)
		}
		c.mu.Unlock()
		close(l.done)
	}()
	node, err := read(ctx)
	var permanent *permanentError
	switch {
	case err == nil:
		l.entry, l.err = &entry{id: id, node: node, size: int64(node.MemBytes())}, nil
	case errors.As(err, &permanent):
		l.entry, l.err = &entry{id: id, err: permanent.err, size: errorSize}, nil
	default:
		l.err = err
	}
	if l.entry != nil {
		l.entry.used.Store(true)
	}
}

// insert adds e, evicting others until it fits. An entry larger than the whole budget is not kept: its reader has it.
// Called with mu held.
func (c *cache) insert(e *entry) {
	if e.size > c.budget {
		return
	}
	c.evict(c.budget - e.size)
	if c.bytes+e.size > c.budget {
		return // everything else is in use
	}
	head := &c.table[e.id.hash()&uint64(len(c.table)-1)]
	e.next.Store(head.Load())
	head.Store(e)
	e.slot = len(c.ring)
	c.ring = append(c.ring, e)
	c.bytes += e.size
}

// evict drops entries that were not used lately and are not pinned until at most limit bytes are held, or none can be dropped.
func (c *cache) evict(limit int64) {
	for passes := 2 * len(c.ring); c.bytes > limit && passes > 0 && len(c.ring) > 0; passes-- {
		if c.hand >= len(c.ring) {
			c.hand = 0
		}
		e := c.ring[c.hand]
		if e.pins.Load() > 0 || e.used.Swap(false) {
			c.hand++
			continue
		}
		c.drop(e)
	}
}

// drop removes e from table and ring.
func (c *cache) drop(e *entry) {
	link := &c.table[e.id.hash()&uint64(len(c.table)-1)]
	for at := link.Load(); at != nil && at != e; at = link.Load() {
		link = &at.next
	}
	link.Store(e.next.Load())
	last := len(c.ring) - 1
	c.ring[e.slot] = c.ring[last]
	c.ring[e.slot].slot = e.slot
	c.ring[last] = nil
	c.ring = c.ring[:last]
	c.bytes -= e.size
	c.evictions.Add(1)
}

// CacheStats tells how the node cache fares.
type CacheStats struct {
	Nodes, Bytes, Budget int64
	Pinned               int64 // nodes that iterators stand on
	Misses, Evictions    int64
	InFlight             int64 // reads in progress
	PinnedBytes          int64
	BiggestNode          int64
	Failed               int64 // entries that are errors
}

func (c *cache) stats() CacheStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := CacheStats{Nodes: int64(len(c.ring)), Bytes: c.bytes, Budget: c.budget, Misses: c.misses.Load(),
		Evictions: c.evictions.Load(), InFlight: int64(len(c.inflight))}
	for _, e := range c.ring {
		s.BiggestNode = max(s.BiggestNode, e.size)
		if e.pins.Load() > 0 {
			s.Pinned++
			s.PinnedBytes += e.size
		}
		if e.node == nil {
			s.Failed++
		}
	}
	return s
}
