//go:build linux

package fusefs

import (
	"context"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/go-bcachefs/bcachefs"
)

// A directory counts as one in which names are found in any case as long as the kernel refers to it, in whatever order references come and go.
func TestFolded(t *testing.T) {
	yes, no := &bcachefs.Stat{Casefold: true}, &bcachefs.Stat{}
	var f folded
	f.found(1, no)
	f.forget(1, 1)
	if f.any.Load() || f.is(1) {
		t.Error("one was noted that is none")
	}
	f.found(2, yes)
	f.found(2, yes) // looked up again before the kernel's forgetting of the first is told
	f.forget(2, 1)
	if !f.is(2) {
		t.Error("forgotten with a reference left")
	}
	f.forget(2, 1)
	if f.is(2) {
		t.Error("not forgotten")
	}
	f.found(3, no)
	f.changed(3, yes) // with a reference that was not counted
	f.forget(3, 1)
	if !f.is(3) {
		t.Error("one that was changed is forgotten by a count that is wrong")
	}
	f.changed(3, no)
	if f.is(3) {
		t.Error("changed back, and still noted")
	}
	f.changed(3, yes)
	f.found(3, no)
	if f.is(3) || len(f.nodes) != 0 {
		t.Errorf("%d left", len(f.nodes))
	}
}

// A long operation ends when its caller got a signal, and with the mount; one that takes a moment does not.
func TestInterruptible(t *testing.T) {
	parent, endMount := context.WithCancel(t.Context())
	signal := make(chan struct{})
	close(signal)
	ctx, end := interruptible(parent, signal, time.Hour)
	if ctx.Err() != nil {
		t.Error("a signal ended it at once")
	}
	end()
	if ctx.Err() == nil {
		t.Error("it goes on after its end")
	}
	ctx, end = interruptible(parent, signal, time.Millisecond)
	defer end()
	select {
	case <-ctx.Done():
	case <-time.After(10 * time.Second):
		t.Error("a signal does not end it")
	}
	if toStatus(ctx.Err()) != fuse.EINTR {
		t.Error(ctx.Err())
	}
	ctx, end = interruptible(parent, make(chan struct{}), time.Millisecond)
	defer end()
	time.Sleep(5 * time.Millisecond)
	if ctx.Err() != nil {
		t.Error("it ended without a signal")
	}
	endMount()
	if ctx.Err() == nil {
		t.Error("the end of the mount does not end it")
	}
}

// Writers are counted: whoever is open twice is open until closed twice.
func TestWriters(t *testing.T) {
	var w writers
	w.init()
	a, b := bcachefs.InodeID{Subvol: 1, Inum: 5000}, bcachefs.InodeID{Subvol: 2, Inum: 5000}
	w.add(a)
	w.add(a)
	w.add(b)
	w.remove(a)
	if !w.has(a) || !w.has(b) || len(w.all()) != 2 {
		t.Errorf("%v", w.all())
	}
	w.remove(a)
	w.remove(b)
	if w.has(a) || len(w.all()) != 0 {
		t.Errorf("%v", w.all())
	}
}
