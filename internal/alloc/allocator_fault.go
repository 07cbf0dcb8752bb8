package alloc

import (
	"context"
	"strings"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// A Fault is a protection that is switched off, to show what it is good for. Nothing but tests and the demonstration of the race set any.
type Fault uint16

// Faults, and the invariants that they break.
const (
	// FaultNoRecheck makes the early allocator claim what its scan found without looking again under the slot's lock (I1). It does so
	// within the scan, so that it is as safe as what the scan holds.
	FaultNoRecheck Fault = 1 << iota
	// FaultNoSlotLock makes claims read the alloc key without keeping its slot locked (I1).
	FaultNoSlotLock
	// FaultEarlyRelease makes allocations keep no reference to the buckets that they were made from (I2).
	FaultEarlyRelease
	// FaultSeePending makes claims see what their own transaction has not committed (I3).
	FaultSeePending
	// FaultDiscardTestsFirst makes discards ask whether a bucket is open before they lock its alloc key (I4).
	FaultDiscardTestsFirst
	// FaultNoJournalWait makes claims and discards ignore that the journal entry that emptied a bucket is not on disk (I5).
	FaultNoJournalWait
	// FaultNoOpenRecheck makes claims not ask again under the freelist lock whether a bucket is open (I1).
	FaultNoOpenRecheck
	// FaultNoTripwire makes claims pass over contradictions (I9).
	FaultNoTripwire
)

var faultNames = []string{"no-recheck", "no-slot-lock", "early-release", "see-pending", "discard-tests-first", "no-journal-wait",
	"no-open-recheck", "no-tripwire"}

func (f Fault) String() string {
	var names []string
	for i, n := range faultNames {
		if f>>i&1 != 0 {
			names = append(names, n)
		}
	}
	return strings.Join(names, ",")
}

// WithFaults returns an option that switches protections off. A filesystem that is written to with it may be damaged.
func WithFaults(f Fault) Option { return func(a *Allocator) { a.fault |= f } }

func (a *Allocator) broken(f Fault) bool { return a.fault&f != 0 }

// A Point is a place in the allocator between whose neighbours anything may happen.
type Point string

// The points, in the order in which a bucket meets them.
const (
	PointScanned   Point = "claim:scanned"   // a scan found the bucket free; it holds no lock of it
	PointLocked    Point = "claim:locked"    // the slot of its alloc key is locked and was read
	PointChecked   Point = "claim:checked"   // it is free and not open as far as seen without the freelist lock
	PointClaimed   Point = "claim:claimed"   // it is open now; the slot is still locked
	PointRelease   Point = "release:before"  // a reference is about to be put
	PointReleased  Point = "release:closed"  // the last reference was put, the bucket is not open any more
	PointDiscard   Point = "discard:scanned" // the discard worker found it, it holds no lock
	PointTested    Point = "discard:tested"  // it was found not to be open (under the lock of its alloc key, but for FaultDiscardTestsFirst)
	PointDiscarded Point = "discard:issued"  // its sectors were discarded; the commit that says so comes next
	PointWait      Point = "alloc:wait"      // a request waits for space; device and bucket are 0
)

// Hook is called at a point, by the task that gets there, with the context of what it does. Locks may be held: see [Point].
type Hook func(ctx context.Context, p Point, dev uint8, b ondisk.Bucket)

func (a *Allocator) hook(ctx context.Context, p Point, dev uint8, b ondisk.Bucket) {
	if a.cfg.Hook != nil {
		a.cfg.Hook(ctx, p, dev, b)
	}
}
