package six

import (
	"context"
	"fmt"
	"runtime"
)

// Locker takes and releases locks for one transaction, and knows which it holds. It is used by one goroutine at a time. It can be used for
// one transaction after another ([Locker.Renew]) and does not allocate then.
//
// Using a lock in a way that the rules forbid, such as taking Exclusive without Intent or releasing what is not held, panics.
type Locker struct {
	// Name appears in what is printed, instead of the locker's age.
	Name string

	graph *Graph
	age   uint64 // when the transaction began, counted in transactions; unique
	holds []hold

	// index says where in holds a lock is, if there are many. It is used from the time there are more than maxScan holds until there are none.
	index   map[*Lock]int32
	indexed bool

	wait wait
}

// hold says how often a locker holds a lock by each kind. At least one kind it does.
type hold struct {
	lock *Lock
	n    [4]int32
}

// strongest returns the strongest kind of the hold that is not above k; None if there is none.
func (h *hold) strongest(k Kind) Kind {
	for k > None && h.n[k&3] == 0 {
		k--
	}
	return k
}

const (
	maxScan  = 64
	maxIndex = 4096 // an index that grew larger is not kept
)

// NewLocker returns a locker, as old as a transaction that begins now.
func (g *Graph) NewLocker() *Locker {
	return &Locker{
		graph: g,
		age:   g.births.Add(1),
		holds: make([]hold, 0, 16),
		wait:  wait{woken: make(chan struct{}, 1)},
	}
}

// Renew begins another transaction: all locks are released, and the locker is the youngest of its graph.
func (lk *Locker) Renew() {
	lk.UnlockAll()
	lk.age = lk.graph.births.Add(1)
}

// Restart begins the same transaction again: all locks are released, and the locker keeps its age.
func (lk *Locker) Restart() { lk.UnlockAll() }

// Age tells lockers of a graph apart; younger ones have a larger age.
func (lk *Locker) Age() uint64 { return lk.age }

// Holds returns the strongest kind by which the locker holds l, or None.
func (lk *Locker) Holds(l *Lock) Kind {
	i := lk.find(l)
	if i < 0 {
		return None
	}
	return lk.holds[i].strongest(Exclusive)
}

// Held returns how many different locks are held.
func (lk *Locker) Held() int { return len(lk.holds) }

// Lock takes l, in addition to what the locker holds of it, and waits if it has to. Exclusive can only be taken by a locker that holds Intent.
// Taking Intent while holding Shared is an upgrade that keeps the Shared hold too.
//
// The error is [ErrDeadlock], or that of ctx if it ends while waiting; nothing has changed then. A lock that is to be had without waiting is taken even if ctx has ended.
func (lk *Locker) Lock(ctx context.Context, l *Lock, kind Kind) error {
	i := lk.find(l)
	have := None
	if i >= 0 {
		have = lk.holds[i].strongest(Exclusive)
	}
	if have < kind {
		check(have, kind)
		if !l.take(have, kind) && !lk.spin(l, have, kind) {
			if err := lk.sleep(ctx, l, have, kind); err != nil {
				return err
			}
		}
	}
	lk.count(i, l, kind)
	return nil
}

// spinRounds is how often a lock is looked at before its locker goes to sleep: some microseconds, which is as long as a transaction of a few
// keys holds what it changes. Falling asleep and being woken takes ten times that, and a lock that is handed over is held all the while. A locker
// that holds others itself looks less often: who holds the lock may wait for one of these, which only one who sleeps finds out.
const (
	spinRounds        = 4000
	spinRoundsHolding = 500
)

// manyCores says whether whoever holds a lock can run on while another spins.
var manyCores = runtime.GOMAXPROCS(0) > 1

// spin tries to take l for a while without queuing. It gives up as soon as anybody waits for the kind, whom it must not overtake.
func (lk *Locker) spin(l *Lock, have, kind Kind) bool {
	if !manyCores || lk.graph.Hook != nil {
		return false
	}
	rounds := spinRounds
	if len(lk.holds) > 0 {
		rounds = spinRoundsHolding
	}
	for range rounds {
		s := l.state.Load()
		if s&waitBit(kind) != 0 {
			return false
		}
		if s&refuse[kind&3] == 0 && l.take(have, kind) {
			return true
		}
	}
	return false
}

// TryLock is [Locker.Lock], but reports false where that would wait.
func (lk *Locker) TryLock(l *Lock, kind Kind) bool {
	i := lk.find(l)
	have := None
	if i >= 0 {
		have = lk.holds[i].strongest(Exclusive)
	}
	if have < kind {
		check(have, kind)
		if !l.take(have, kind) {
			return false
		}
	}
	lk.count(i, l, kind)
	return true
}

// Relock takes l like [Locker.TryLock], provided that its sequence number is seq: if it reports true nothing that l guards was changed
// since [Lock.Seq] returned seq to a locker that held l. It may fail although nothing changed, where TryLock would.
func (lk *Locker) Relock(l *Lock, seq uint32, kind Kind) bool {
	i := lk.find(l)
	have := None
	if i >= 0 {
		have = lk.holds[i].strongest(Exclusive)
	}
	if have < kind {
		check(have, kind)
		if !l.retake(have, kind, seq) {
			return false
		}
	} else if l.Seq() != seq {
		return false
	}
	lk.count(i, l, kind)
	return true
}

// Upgrade makes an Intent hold of one of the locker's Shared holds of l. It waits, and fails, as [Locker.Lock] does; the Shared hold remains then.
func (lk *Locker) Upgrade(ctx context.Context, l *Lock) error {
	h := lk.must(l, Shared)
	if err := lk.Lock(ctx, l, Intent); err != nil {
		return err
	}
	h.n[Shared]--
	return nil
}

// TryUpgrade is [Locker.Upgrade], but reports false where that would wait.
func (lk *Locker) TryUpgrade(l *Lock) bool {
	h := lk.must(l, Shared)
	if !lk.TryLock(l, Intent) {
		return false
	}
	h.n[Shared]--
	return true
}

// Downgrade makes a Shared hold of one of the locker's Intent holds of l. It never waits. The last Intent hold cannot be
// downgraded while Exclusive is held.
func (lk *Locker) Downgrade(l *Lock) {
	h := lk.must(l, Intent)
	if h.n[Intent] == 1 && h.n[Exclusive] > 0 {
		panic("six: downgrade of the last intent hold below an exclusive one")
	}
	h.n[Intent]--
	h.n[Shared]++
	if h.strongest(Exclusive) == Shared && l.release(Intent, Shared) {
		lk.graph.handOver(l)
	}
}

// Unlock releases one hold of l. The last Intent hold cannot be released while Exclusive is held. It never waits.
func (lk *Locker) Unlock(l *Lock, kind Kind) {
	i := lk.find(l)
	if i < 0 || kind == None || lk.holds[i].n[kind&3] == 0 {
		panic(fmt.Sprintf("six: the locker has no %v hold of a lock to unlock", kind))
	}
	h := &lk.holds[i]
	h.n[kind&3]--
	if h.n[kind&3] > 0 {
		return
	}
	if h.strongest(Exclusive) > kind {
		if kind == Intent {
			h.n[Intent]++
			panic("six: unlock of the last intent hold below an exclusive one")
		}
		return
	}
	keep := h.strongest(kind)
	if keep == None {
		lk.forget(i)
	}
	if l.release(kind, keep) {
		lk.graph.handOver(l)
	}
}

// UnlockAllOf releases all holds of l, if there are any.
func (lk *Locker) UnlockAllOf(l *Lock) {
	i := lk.find(l)
	if i < 0 {
		return
	}
	have := lk.holds[i].strongest(Exclusive)
	lk.forget(i)
	if l.release(have, None) {
		lk.graph.handOver(l)
	}
}

// UnlockAll releases all holds, those taken last first.
func (lk *Locker) UnlockAll() {
	for i := len(lk.holds) - 1; i >= 0; i-- {
		h := &lk.holds[i]
		if h.lock.release(h.strongest(Exclusive), None) {
			lk.graph.handOver(h.lock)
		}
	}
	clear(lk.holds)
	lk.holds = lk.holds[:0]
	lk.dropIndex()
}

// check panics if a locker whose strongest hold is have may not ask for want, which is stronger.
func check(have, want Kind) {
	if want >= Exclusive {
		checkExclusive(have, want)
	}
}

func checkExclusive(have, want Kind) {
	if want > Exclusive {
		panic("six: no such kind of hold: " + want.String())
	}
	if have != Intent {
		panic("six: an exclusive hold is wanted by a locker that does not hold intent")
	}
}

// find returns where in holds l is, or -1.
func (lk *Locker) find(l *Lock) int {
	if lk.indexed {
		return lk.findIndexed(l)
	}
	for i := len(lk.holds) - 1; i >= 0; i-- {
		if lk.holds[i].lock == l {
			return i
		}
	}
	return -1
}

func (lk *Locker) findIndexed(l *Lock) int {
	if i, ok := lk.index[l]; ok {
		return int(i)
	}
	return -1
}

// must returns the hold of l, which must have the kind.
func (lk *Locker) must(l *Lock, kind Kind) *hold {
	i := lk.find(l)
	if i < 0 || lk.holds[i].n[kind&3] == 0 {
		panic(fmt.Sprintf("six: the locker has no %v hold of a lock to change", kind))
	}
	return &lk.holds[i]
}

// count adds a hold of l, where find returned i for l.
func (lk *Locker) count(i int, l *Lock, kind Kind) {
	if kind == None {
		panic("six: a hold of no kind")
	}
	if i >= 0 {
		lk.holds[i].n[kind&3]++
		return
	}
	i = len(lk.holds)
	if i < cap(lk.holds) {
		lk.holds = lk.holds[:i+1]
	} else {
		lk.holds = append(lk.holds, hold{})
	}
	h := &lk.holds[i]
	h.lock = l
	h.n[kind&3] = 1
	if i >= maxScan {
		lk.addIndex(i, l)
	}
}

// forget removes a hold. What was the last one takes its place.
func (lk *Locker) forget(i int) {
	last := len(lk.holds) - 1
	if lk.indexed {
		delete(lk.index, lk.holds[i].lock)
		if i != last {
			lk.index[lk.holds[last].lock] = int32(i)
		}
	}
	if i != last {
		lk.holds[i] = lk.holds[last]
	}
	lk.holds[last] = hold{}
	lk.holds = lk.holds[:last]
	if last == 0 {
		lk.dropIndex()
	}
}

// addIndex enters the newest hold, and all the others if there was no index.
func (lk *Locker) addIndex(i int, l *Lock) {
	if lk.indexed {
		lk.index[l] = int32(i)
		return
	}
	if lk.index == nil {
		lk.index = make(map[*Lock]int32, 4*maxScan)
	}
	lk.indexed = true
	for i := range lk.holds {
		lk.index[lk.holds[i].lock] = int32(i)
	}
}

func (lk *Locker) dropIndex() {
	if !lk.indexed {
		return
	}
	lk.indexed = false
	if cap(lk.holds) > maxIndex {
		lk.index, lk.holds = nil, make([]hold, 0, 16)
		return
	}
	clear(lk.index)
}
