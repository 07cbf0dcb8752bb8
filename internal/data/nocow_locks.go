package data

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/go-bcachefs/bcachefs/internal/alloc"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// NocowLocks keeps apart those who write to buckets in place and those who move what is in them (nocow_locks, spec/05 § 9): a bucket is locked by any
// number of either, never by both. Movers only try, as what they do may be what the others wait for. All users of a filesystem share one. Its zero value is
// ready for use, and its methods are safe for concurrent use.
type NocowLocks struct {
	inUse   atomic.Int32 // buckets that are locked
	mu      sync.Mutex
	held    map[uint64]int32 // by DevBucket; positive: by writers, negative: by movers
	changed chan struct{}    // closed when a bucket is free again; nil if nobody waits
}

// nocowKind is one of the two classes of locks.
type nocowKind int32

const (
	nocowWrite nocowKind = 1
	nocowMove  nocowKind = -1
)

// tryLock locks buckets, all or none.
func (l *NocowLocks) tryLock(kind nocowKind, ids []uint64) bool {
	if len(ids) == 0 {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.compatible(kind, ids) {
		return false
	}
	if l.held == nil {
		l.held = map[uint64]int32{}
	}
	for _, id := range ids {
		l.held[id] += int32(kind)
	}
	l.inUse.Store(int32(len(l.held)))
	return true
}

// compatible reports whether nobody of the other kind has one of the buckets; mu is held.
func (l *NocowLocks) compatible(kind nocowKind, ids []uint64) bool {
	for _, id := range ids {
		if l.held[id]*int32(kind) < 0 {
			return false
		}
	}
	return true
}

// unlock gives up what tryLock has locked.
func (l *NocowLocks) unlock(kind nocowKind, ids []uint64) {
	if len(ids) == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range ids {
		if l.held[id] -= int32(kind); l.held[id] == 0 {
			delete(l.held, id)
		}
	}
	l.inUse.Store(int32(len(l.held)))
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}

// wait waits until buckets could be locked, or the context ends.
func (l *NocowLocks) wait(ctx context.Context, kind nocowKind, ids []uint64) error {
	for {
		l.mu.Lock()
		if l.compatible(kind, ids) {
			l.mu.Unlock()
			return nil
		}
		if l.changed == nil {
			l.changed = make(chan struct{})
		}
		ch := l.changed
		l.mu.Unlock()
		select {
		case <-ch:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Busy reports whether somebody writes to a bucket in place; it must not be handed out then, even if it has become empty. It is a
// [alloc.Config.Busy].
func (l *NocowLocks) Busy(dev uint8, b ondisk.Bucket) bool {
	if l.inUse.Load() == 0 {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held[ondisk.DevBucket(uint16(dev), b)] > 0
}

// appendBuckets appends the buckets that pointers lead to.
func appendBuckets(ids []uint64, members *alloc.Devices, ptrs ...ondisk.ExtentPtr) []uint64 {
	for i := range ptrs {
		if m := members.Get(ptrs[i].Dev); m != nil {
			b, _ := m.Bucket(ptrs[i].Offset)
			ids = append(ids, ondisk.DevBucket(uint16(m.Index), b))
		}
	}
	return ids
}
