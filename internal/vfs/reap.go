package vfs

import (
	"context"
	"errors"
	"io/fs"
	"sync"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/data"
	"github.com/go-bcachefs/bcachefs/internal/namei"
	"github.com/go-bcachefs/bcachefs/internal/snapshot"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// reaper deletes what nobody holds any more, in the background. What it did not come to is deleted when the filesystem is closed, or opened next.
//
// It lets a moment pass between waking up and beginning: who deletes many files would else wake it for each, which costs more than what it does then.
type reaper struct {
	fs   *FS
	ctx  context.Context
	end  context.CancelFunc
	done sync.WaitGroup

	mu      sync.Mutex
	changed sync.Cond
	inodes  []data.ID
	subvols []uint32
	added   int // things that were to be deleted so far
	ended   int // of them, those that were dealt with
	stopped bool
	asleep  bool // it waits for something to do
	hurry   bool // it is to begin at once
	drains  int  // who waits for what it does
}

// moment is how long what is to be deleted may gather.
const moment = 5 * time.Millisecond

// maxWaiting bounds the inodes that wait to be deleted: who adds more of them deletes himself.
const maxWaiting = 1 << 12

func newReaper(f *FS) *reaper {
	r := &reaper{fs: f}
	r.changed.L = &r.mu
	r.ctx, r.end = context.WithCancel(context.Background())
	r.done.Go(r.work)
	return r
}

// stop ends the work, wherever it is.
func (r *reaper) stop() {
	r.mu.Lock()
	r.stopped = true
	r.changed.Broadcast()
	r.mu.Unlock()
	r.end()
	r.done.Wait()
}

// inode has an inode deleted.
func (r *reaper) inode(id data.ID) {
	r.mu.Lock()
	if r.stopped {
		r.mu.Unlock()
		return
	}
	r.inodes = append(r.inodes, id)
	r.added++
	full := len(r.inodes) > maxWaiting
	r.rouse()
	r.mu.Unlock()
	if full {
		r.one(false)
	}
}

// subvol has a subvolume deleted.
func (r *reaper) subvol(id uint32) {
	r.mu.Lock()
	if !r.stopped {
		r.subvols = append(r.subvols, id)
		r.added++
		r.rouse()
	}
	r.mu.Unlock()
}

// rouse wakes the reaper. The caller holds mu.
func (r *reaper) rouse() {
	if r.asleep {
		r.asleep = false
		r.changed.Broadcast()
	}
}

// work is the goroutine of the reaper.
func (r *reaper) work() {
	for r.wait() {
		for r.one(true) {
		}
	}
}

// wait waits for something to do, and reports false at the end.
func (r *reaper) wait() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for !r.stopped && len(r.inodes) == 0 && len(r.subvols) == 0 {
		r.asleep = true
		r.changed.Wait()
	}
	r.asleep = false
	over := false
	t := time.AfterFunc(moment, func() {
		r.mu.Lock()
		over = true
		r.changed.Broadcast()
		r.mu.Unlock()
	})
	defer t.Stop()
	for !r.stopped && !r.hurry && !over {
		r.changed.Wait()
	}
	r.hurry = false
	return !r.stopped
}

// one deletes one thing, a subvolume only if those are wanted, and reports false if there is none.
func (r *reaper) one(subvols bool) bool {
	r.mu.Lock()
	var do func()
	switch {
	case r.stopped:
	case len(r.inodes) > 0:
		id := r.inodes[len(r.inodes)-1]
		r.inodes = r.inodes[:len(r.inodes)-1]
		do = func() { r.check(r.fs.names.Delete(r.ctx, namei.ID{Subvol: id.Subvol, Inum: id.Inum})) }
	case len(r.subvols) > 0 && subvols:
		id := r.subvols[0]
		r.subvols = r.subvols[1:]
		do = func() { r.check(r.deleteSubvol(id)) }
	}
	if do == nil {
		r.mu.Unlock()
		return false
	}
	r.mu.Unlock()
	do()
	r.mu.Lock()
	if r.ended++; r.drains > 0 {
		r.changed.Broadcast()
	}
	r.mu.Unlock()
	return true
}

func (r *reaper) deleteSubvol(id uint32) error {
	r.fs.open.forgetSubvol(id) // before another one can have the id
	err := r.fs.vols.Delete(r.ctx, id)
	if err != nil && !errors.Is(err, snapshot.ErrNoSubvolume) {
		return err
	}
	if _, err = r.fs.vols.DeleteDead(r.ctx); err != nil {
		return err
	}
	return r.fs.quota.Recount(r.ctx) // what the main subvolume of a tree had is another's now
}

// check tells of what could not be deleted: it stays until the filesystem is opened next.
func (r *reaper) check(err error) {
	if err == nil || r.ctx.Err() != nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, trans.ErrRestart) || r.fs.rw.Err() != nil {
		return
	}
	r.fs.rw.Note("what is not needed any more was not deleted: %v", err)
}

// drain waits until all is deleted that was to be when it began, and reports whether there was anything.
func (r *reaper) drain(ctx context.Context) bool {
	stop := context.AfterFunc(ctx, func() {
		r.mu.Lock()
		r.changed.Broadcast()
		r.mu.Unlock()
	})
	defer stop()
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.added
	any := r.ended < all
	r.drains++
	r.hurry = r.hurry || any
	r.changed.Broadcast()
	defer func() { r.drains-- }()
	for !r.stopped && ctx.Err() == nil && r.ended < all {
		r.changed.Wait()
	}
	return any
}
