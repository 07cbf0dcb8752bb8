//go:build linux

package fusefs

import (
	"context"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-bcachefs/bcachefs"
)

// signalPatience is how long an operation goes on after which a signal to its caller ends it. Programs do not expect EINTR of one that takes a moment, and for
// io_uring the kernel tells of signals that are none.
const signalPatience = 2 * time.Second

// interruptible returns the context of an operation that may take long: it ends with the mount, or when the caller got a signal and it has taken long. Others
// are not interrupted. end is called when the operation has ended.
func interruptible(parent context.Context, signal <-chan struct{}, patience time.Duration) (ctx context.Context, end func()) {
	ctx, cancel := context.WithCancel(parent)
	t := time.AfterFunc(patience, func() {
		select {
		case <-signal:
			cancel()
		case <-ctx.Done():
		}
	})
	return ctx, func() {
		t.Stop()
		cancel()
	}
}

// folded are the directories known to the kernel in which names are found in any case: what it remembers of one name would be wrong after
// a change of another that means the same. Safe for concurrent use.
type folded struct {
	any   atomic.Bool // so that filesystems without such directories pay nothing
	mu    sync.Mutex
	nodes map[uint64]uint64 // the kernel's references by node id; keep if they were not counted from the start
}

const keep = math.MaxUint64

// found counts a reference to a node.
func (f *folded) found(node uint64, s *bcachefs.Stat) {
	if !s.Casefold && !f.any.Load() {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	n, is := f.nodes[node]
	switch {
	case !s.Casefold && n == keep: // it was changed; a count that began late would say nothing
		delete(f.nodes, node)
	case n != keep && (s.Casefold || is):
		f.set(node, n+1)
	}
}

// set notes a node. The caller holds mu.
func (f *folded) set(node, n uint64) {
	if f.nodes == nil {
		f.nodes = map[uint64]uint64{}
	}
	f.nodes[node] = n
	f.any.Store(true)
}

// changed notes whether a node that the kernel knows is such a directory now.
func (f *folded) changed(node uint64, s *bcachefs.Stat) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s.Casefold {
		f.set(node, keep)
	} else {
		delete(f.nodes, node)
	}
}

// forget drops n references to a node.
func (f *folded) forget(node, n uint64) {
	if !f.any.Load() {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch has, is := f.nodes[node]; {
	case !is || has == keep:
	case has <= n:
		delete(f.nodes, node)
	default:
		f.nodes[node] = has - n
	}
}

// is reports whether a node is such a directory.
func (f *folded) is(node uint64) bool {
	if !f.any.Load() {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	_, is := f.nodes[node]
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

// directs are the files that are open for direct writing. Before such a write the kernel forgets what it keeps of the range, but not after it: what
// somebody read into its cache meanwhile would be old, and stay. Safe for concurrent use.
type directs struct {
	any   atomic.Int64 // how many there are, so that a mount without them pays nothing
	mu    sync.RWMutex
	files map[bcachefs.InodeID]*directFile
}

type directFile struct {
	opened int
	cached atomic.Bool // something was read into the kernel's cache since it was opened so
}

func (d *directs) add(id bcachefs.InodeID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.files[id]
	if f == nil {
		if d.files == nil {
			d.files = map[bcachefs.InodeID]*directFile{}
		}
		f = new(directFile)
		d.files[id] = f
		d.any.Add(1)
	}
	f.opened++
}

func (d *directs) remove(id bcachefs.InodeID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.files[id]
	if f == nil {
		return
	}
	if f.opened--; f.opened == 0 {
		delete(d.files, id)
		d.any.Add(-1)
	}
}

func (d *directs) get(id bcachefs.InodeID) *directFile {
	if d.any.Load() == 0 {
		return nil
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.files[id]
}

// caches notes, before it is read, that something will be in the kernel's cache.
func (d *directs) caches(id bcachefs.InodeID) {
	if f := d.get(id); f != nil && !f.cached.Load() {
		f.cached.Store(true)
	}
}

// cached reports whether the kernel's cache may have, after a direct write, what was there before.
func (d *directs) cached(id bcachefs.InodeID) bool {
	f := d.get(id)
	return f != nil && f.cached.Load()
}
