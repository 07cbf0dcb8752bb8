//go:build linux

package fusefs

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/go-bcachefs/bcachefs"
)

// interruptible is a context of an operation that may take long: it ends with the mount, or when the caller got a signal. Others are not interrupted:
// programs do not expect EINTR of them.
type interruptible struct {
	context.Context
	cancel <-chan struct{}
}

func (c interruptible) Done() <-chan struct{} { return c.cancel }

func (c interruptible) Err() error {
	select {
	case <-c.cancel:
		return context.Canceled
	default:
		return c.Context.Err()
	}
}

// folded are the directories known to the kernel in which names are found in any case: what it remembers of one name would be wrong after
// a change of another that means the same. Safe for concurrent use.
type folded struct {
	n     atomic.Int64
	nodes sync.Map // node id to nil
}

// note remembers whether a node is such a directory.
func (f *folded) note(node uint64, s *bcachefs.Stat) {
	switch {
	case s.Casefold:
		if _, old := f.nodes.LoadOrStore(node, nil); !old {
			f.n.Add(1)
		}
	case f.n.Load() > 0:
		f.forget(node)
	}
}

func (f *folded) forget(node uint64) {
	if f.n.Load() == 0 {
		return
	}
	if _, was := f.nodes.LoadAndDelete(node); was {
		f.n.Add(-1)
	}
}

// is reports whether a node is such a directory.
func (f *folded) is(node uint64) bool {
	if f.n.Load() == 0 {
		return false
	}
	_, is := f.nodes.Load(node)
	return is
}

// writers counts how often each inode is open for writing. Safe for concurrent use.
type writers struct {
	shards [16]writerShard
}

type writerShard struct {
	mu sync.Mutex
	n  map[bcachefs.InodeID]int
}

func (w *writers) init() {
	for i := range w.shards {
		w.shards[i].n = map[bcachefs.InodeID]int{}
	}
}

func (w *writers) add(id bcachefs.InodeID) {
	s := &w.shards[id.Inum%uint64(len(w.shards))]
	s.mu.Lock()
	s.n[id]++
	s.mu.Unlock()
}

func (w *writers) remove(id bcachefs.InodeID) {
	s := &w.shards[id.Inum%uint64(len(w.shards))]
	s.mu.Lock()
	if s.n[id]--; s.n[id] <= 0 {
		delete(s.n, id)
	}
	s.mu.Unlock()
}

// has reports whether an inode is open for writing.
func (w *writers) has(id bcachefs.InodeID) bool {
	s := &w.shards[id.Inum%uint64(len(w.shards))]
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n[id] > 0
}

// all returns the inodes that are open for writing.
func (w *writers) all() (ids []bcachefs.InodeID) {
	for i := range w.shards {
		s := &w.shards[i]
		s.mu.Lock()
		for id := range s.n {
			ids = append(ids, id)
		}
		s.mu.Unlock()
	}
	return ids
}
