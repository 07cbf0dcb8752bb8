package data

import (
	"context"
	"sync"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// blobID names stored bytes and how they are decoded: pointer and CRC entry of an extent. With the checksum in it, what it names never changes: when the
// place is written again, an extent there has another one.
type blobID struct {
	sector       ondisk.Sector
	dev, gen     uint8
	csum, comp   uint8
	size, stored uint32 // sectors, decoded and on the device
	sum          uint64
	version      uint64
}

const cacheShards = 16

// cache keeps decoded extents, least recently used ones go first. Entries being used or filled are not dropped, so that the
// budget can be exceeded by as much as there are readers.
type cache struct {
	shards [cacheShards]cacheShard
	free   bufferPool
}

type cacheShard struct {
	mu      sync.Mutex
	budget  int64
	bytes   int64
	entries map[blobID]*cacheEntry
	head    cacheEntry // ring of all entries, most recently used first
}

// cacheEntry is a decoded extent. prev, next, pins belong to the shard's lock; buf and err are set before ready is closed.
type cacheEntry struct {
	id         blobID
	prev, next *cacheEntry
	pins       int
	ready      chan struct{}
	buf        []byte
	err        error
	shard      *cacheShard
}

func newCache(budget int64) *cache {
	c := &cache{}
	for i := range c.shards {
		s := &c.shards[i]
		s.budget = budget / cacheShards
		s.entries = make(map[blobID]*cacheEntry)
		s.head.next, s.head.prev = &s.head, &s.head
	}
	return c
}

// shard says which of the shards of what is kept by ids has this one.
func (id *blobID) shard() uint64 {
	return (uint64(id.sector) ^ uint64(id.dev)<<40) * 0x9e3779b97f4a7c15 >> 60
}

func (c *cache) shard(id *blobID) *cacheShard { return &c.shards[id.shard()] }

// peek returns a finished entry, pinned, or nil.
func (c *cache) peek(id blobID) *cacheEntry {
	s := c.shard(&id)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[id]
	if e == nil {
		return nil
	}
	select {
	case <-e.ready:
	default:
		return nil
	}
	if e.err != nil {
		return nil
	}
	e.pins++
	s.toFront(e)
	return e
}

// get returns a decoded extent, which fill makes if it is not there. Of concurrent callers one fills, the others wait. The
// caller must release the entry. Failures are not kept.
func (c *cache) get(ctx context.Context, id blobID, size int, fill func(dst []byte) error) (*cacheEntry, error) {
	s := c.shard(&id)
	for {
		s.mu.Lock()
		e := s.entries[id]
		if e == nil {
			e = &cacheEntry{id: id, ready: make(chan struct{}), pins: 1, shard: s}
			s.entries[id] = e
			s.link(e)
			s.mu.Unlock()
			return e, c.fill(e, size, fill)
		}
		e.pins++
		s.toFront(e)
		s.mu.Unlock()
		select {
		case <-e.ready:
		case <-ctx.Done():
			c.release(e)
			return nil, ctx.Err()
		}
		if e.err == nil {
			return e, nil
		}
		err := e.err
		c.release(e)
		if isCancel(err) && ctx.Err() == nil {
			continue // it was the other caller who gave up
		}
		return nil, err
	}
}

// fill makes the content of e, which nobody else can see finished yet.
func (c *cache) fill(e *cacheEntry, size int, fill func(dst []byte) error) error {
	buf := c.free.get(size)
	err := fill(buf)
	s := e.shard
	s.mu.Lock()
	e.buf, e.err = buf, err
	if err != nil {
		delete(s.entries, e.id)
		s.unlink(e)
	} else {
		s.bytes += int64(cap(buf))
		c.evict(s)
	}
	close(e.ready)
	s.mu.Unlock()
	if err != nil {
		c.release(e)
	}
	return err
}

// release unpins an entry. Its bytes must not be used afterwards.
func (c *cache) release(e *cacheEntry) {
	s := e.shard
	s.mu.Lock()
	e.pins--
	if e.pins == 0 && e.err != nil {
		c.free.put(e.buf)
		e.buf = nil
	} else if e.pins == 0 && s.bytes > s.budget {
		c.evict(s)
	}
	s.mu.Unlock()
}

// evict drops unused entries while there are too many.
func (c *cache) evict(s *cacheShard) {
	for e := s.head.prev; e != &s.head && s.bytes > s.budget; {
		prev := e.prev
		if e.pins == 0 {
			delete(s.entries, e.id)
			s.unlink(e)
			s.bytes -= int64(cap(e.buf))
			c.free.put(e.buf)
			e.buf = nil
		}
		e = prev
	}
}

func (s *cacheShard) link(e *cacheEntry) {
	e.next, e.prev = s.head.next, &s.head
	e.next.prev, s.head.next = e, e
}

func (s *cacheShard) unlink(e *cacheEntry) {
	e.prev.next, e.next.prev = e.next, e.prev
	e.prev, e.next = nil, nil
}

func (s *cacheShard) toFront(e *cacheEntry) {
	if e.prev == nil {
		return
	}
	s.unlink(e)
	s.link(e)
}
