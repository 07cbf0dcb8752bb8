// Package six has shared, intent and exclusive locks ("six locks", as bcachefs calls them) with deadlock detection, for the nodes
// and key cache slots of btrees.
//
// # The three kinds
//
//	held \ wanted by another   Shared   Intent   Exclusive
//	Shared                     yes      yes      waits for all to leave
//	Intent                     yes      no       only who holds Intent may want it
//	Exclusive                  no       no       no
//
// [Shared] is for reading. [Intent] says that its holder will perhaps change what is locked: others may read on, but nobody else can
// have the same plan. [Exclusive] is for the moment of the change; only a holder of Intent can take it, so two who both read and then want to
// write never wait for each other, and the many steps between the decision and the change do not keep readers out.
//
// # Lockers
//
// Locks are taken and released through a [Locker], of which every transaction has one. It counts: the same lock can be held several
// times and by different kinds at once, as by several iterators of one transaction, and none of a locker's holds ever stands in the way of another of its own.
// What others see of a locker is only the strongest kind that it holds. Going from Intent back to Shared is therefore always possible.
//
// # Sequence numbers
//
// A lock's number, [Lock.Seq], changes whenever an Exclusive hold ends. Who read something under the lock, remembers the number and lets go, can
// later [Locker.Relock]: if that succeeds, nothing that the lock guards was changed in between. The number has 32 bits; 2^32 changes within one such gap would go unnoticed.
//
// # Fairness
//
// A locker that cannot have a lock waits in the lock's queue for its kind, and whoever releases hands the lock over to the first there:
// the lock is never free in between. Newcomers do not overtake a waiter that they would keep waiting: no Shared is given out while one
// waits for Exclusive, no Intent while others wait for Intent. When Exclusive ends, all who wait for Shared get it before it can be taken again. So none starves.
//
// # Deadlocks
//
// Lockers may take locks in any order. A locker about to sleep looks, over all waiting lockers of its [Graph], for a cycle of lockers that wait
// for the next one. If there is one, the youngest of its members gets [ErrDeadlock] from its wait, be it the one that looked or another that is woken up for it:
// it has to release all its locks and start again. A locker keeps its age when it starts again, and the oldest is never chosen, so each gets through at last.
//
// A cycle never stands: queues change only under the graph's mutex, and all new waits are checked before it is released. Nor is there a
// false alarm. What the detector cannot see is waiting by other means: a locker must not wait for a mutex, channel or the like while it holds locks,
// if another that holds it may wait for one of these.
//
// # Memory ordering
//
// The state of a lock is one atomic word, and every acquisition and release is a read-modify-write of it. In terms of the Go memory model each release
// of an Exclusive hold happens before every later acquisition of any kind, and each release of a Shared or Intent hold before every later acquisition of Exclusive, by [Locker.Lock],
// [Locker.TryLock], [Locker.Relock] or an upgrade alike, also if the lock was handed over. So what is only changed under Exclusive can be
// read under any kind without further care.
//
// What is changed under Intent alone is seen by the next holder of Intent, but not safely by holders of Shared.
//
// # Cost
//
// Taking and releasing a lock that nobody else wants is one atomic operation each and allocates nothing. Only waiting, and handing over
// to one who waits, goes through the graph's mutex.
package six

import (
	"errors"
	"fmt"
	"sync/atomic"
)

// ErrDeadlock is returned to a locker whose wait would never have ended, as those it waits for wait for it. It holds what it held before; it must
// release that ([Locker.Restart]) and begin again.
var ErrDeadlock = errors.New("deadlock: all locks are to be released and taken anew")

// Kind is a kind of hold. Kinds are ordered: a stronger one permits all that a weaker one does.
type Kind uint8

// The kinds, from weakest to strongest. None is not a kind to be taken: it is what [Locker.Holds] says of a lock that is not held.
const (
	None Kind = iota
	Shared
	Intent
	Exclusive
)

func (k Kind) String() string {
	switch k {
	case None:
		return "none"
	case Shared:
		return "shared"
	case Intent:
		return "intent"
	case Exclusive:
		return "exclusive"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Lock is a lock. Its zero value is unlocked. All lockers that use it belong to the same [Graph]. It must not be copied.
type Lock struct {
	// state is, from the low end: 24 bits that count the lockers that hold no more than Shared; a bit each for Intent and
	// Exclusive being held; a bit each for queues that are not empty; the sequence number in the upper half.
	state atomic.Uint64

	queues [3]queue // by kind, from Shared on; guarded by Graph.mu
}

// Parts of Lock.state.
const (
	sharedMask   = 1<<24 - 1
	heldIntent   = 1 << 24
	heldExcl     = 1 << 25
	waitShared   = 1 << 26
	waitIntent   = 1 << 27
	waitExcl     = 1 << 28
	waitAny      = waitShared | waitIntent | waitExcl
	seqShift     = 32
	seqOne       = 1 << seqShift
	waitBitShift = 26
)

// weight is what a locker whose strongest hold is of a kind adds to the state.
var weight = [4]uint64{
	None:      0,
	Shared:    1,
	Intent:    heldIntent,
	Exclusive: heldIntent | heldExcl,
}

// refuse are the parts of the state any of which keeps a locker from taking a kind. Exclusive is taken by the holder of Intent only, so nobody competes
// for it; but those who waited for Shared while it was held have their turn first.
var refuse = [4]uint64{
	Shared:    heldExcl | waitExcl,
	Intent:    heldIntent | waitIntent,
	Exclusive: sharedMask | waitShared,
}

// waitBit is the bit that says whether the queue of a kind has somebody in it.
func waitBit(k Kind) uint64 { return 1 << (waitBitShift + k - Shared) }

// queue is the queue of those that wait for kind k.
func (l *Lock) queue(k Kind) *queue { return &l.queues[k-Shared] }

// Seq returns the sequence number, to be given to [Locker.Relock] later. It is stable as long as the caller holds the lock
// by any kind, and goes up by one, wrapping around, when Exclusive is released.
func (l *Lock) Seq() uint32 { return uint32(l.state.Load() >> seqShift) }

// take makes the strongest hold of a locker want rather than have, if that is possible at once.
func (l *Lock) take(have, want Kind) bool {
	no, delta := refuse[want&3], weight[want&3]-weight[have&3]
	for {
		s := l.state.Load()
		if s&no != 0 {
			return false
		}
		if l.state.CompareAndSwap(s, s+delta) {
			return true
		}
	}
}

// retake is take, if the sequence number is still seq.
func (l *Lock) retake(have, want Kind, seq uint32) bool {
	no, delta := refuse[want&3], weight[want&3]-weight[have&3]
	for {
		s := l.state.Load()
		if s&no != 0 || uint32(s>>seqShift) != seq {
			return false
		}
		if l.state.CompareAndSwap(s, s+delta) {
			return true
		}
	}
}

// release makes the strongest hold of a locker keep rather than have. It reports whether somebody has to be given the lock now.
func (l *Lock) release(have, keep Kind) bool {
	delta := weight[keep&3] - weight[have&3]
	if have == Exclusive {
		delta += seqOne
	}
	s := l.state.Add(delta)
	return s&waitAny != 0 && next(s) != None
}

// next returns the kind that those who wait for it can have in a state, or None.
func next(s uint64) Kind {
	switch {
	case s&waitExcl != 0 && s&(sharedMask|heldExcl) == 0:
		return Exclusive
	case s&waitShared != 0 && s&(heldExcl|waitExcl) == 0:
		return Shared
	case s&waitIntent != 0 && s&heldIntent == 0:
		return Intent
	}
	return None
}
