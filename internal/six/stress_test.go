package six

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// guarded is a lock with what it guards: plain words, so that the race detector sees who is let in at the wrong time, and counters that see it too.
type guarded struct {
	Lock
	a, b    int // changed under Exclusive, always equal outside it
	planned int // changed under Intent

	readers, intenders, writers atomic.Int32
}

// TestStress has more lockers than processors do random transactions on few locks, in any order, with upgrades, relocks and cancellations, and
// checks by plain counters that nobody is in who should not be, that no update is lost, and that all get through.
func TestStress(t *testing.T) {
	const workers = 8
	transactions := 4000
	if testing.Short() {
		transactions = 500
	}
	var g Graph
	locks := make([]guarded, 5)
	var wrote, planned [5]int
	var mu sync.Mutex
	var wg sync.WaitGroup
	for worker := range workers {
		wg.Go(func() {
			s := stresser{t: t, lk: g.NewLocker(), r: rand.New(rand.NewPCG(uint64(worker), 66)), locks: locks}
			for range transactions {
				s.transaction()
			}
			mu.Lock()
			defer mu.Unlock()
			for i := range locks {
				wrote[i] += s.wrote[i]
				planned[i] += s.planned[i]
			}
		})
	}
	wg.Wait()
	for i := range locks {
		l := &locks[i]
		if l.a != wrote[i] || l.b != wrote[i] || l.planned != planned[i] {
			t.Errorf("lock %d: %d and %d of %d changes, %d of %d plans", i, l.a, l.b, wrote[i], l.planned, planned[i])
		}
		if s := l.state.Load(); uint32(s) != 0 || l.Seq() != uint32(wrote[i]) {
			t.Errorf("lock %d is left with %s after %d changes", i, l, wrote[i])
		}
	}
	if len(g.all) != 0 {
		t.Errorf("left waiting:\n%s", &g)
	}
	stats := g.Stats()
	t.Logf("%d waits, %d deadlocks", stats.Waits, stats.Deadlocks)
	if stats.Waits == 0 || stats.Deadlocks == 0 {
		t.Error("nobody ever waited, or never for each other: the test has become blind")
	}
}

type stresser struct {
	t              *testing.T
	lk             *Locker
	r              *rand.Rand
	locks          []guarded
	wrote, planned [5]int
}

// transaction takes some locks, restarting as often as it has to, and does something under them.
func (s *stresser) transaction() {
	s.lk.Renew()
	ctx := context.Background()
	if s.r.IntN(20) == 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(s.r.IntN(200))*time.Microsecond)
		defer cancel()
	}
	for {
		err := s.attempt(ctx)
		s.lk.Restart()
		switch {
		case err == nil:
			return
		case errors.Is(err, ErrDeadlock):
		case errors.Is(err, context.DeadlineExceeded) && ctx.Err() != nil:
			return
		default:
			s.t.Error(err)
			return
		}
	}
}

func (s *stresser) attempt(ctx context.Context) error {
	for range 1 + s.r.IntN(4) {
		if s.r.IntN(4) == 0 {
			runtime.Gosched() // with locks held, so that others meet them even on one processor
		}
		i := s.r.IntN(len(s.locks))
		l := &s.locks[i]
		var err error
		switch s.r.IntN(6) {
		case 0, 1:
			err = s.read(ctx, l)
		case 2:
			err = s.readAgain(ctx, l)
		default:
			err = s.change(ctx, i)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// read takes Shared and keeps it.
func (s *stresser) read(ctx context.Context, l *guarded) error {
	if err := s.lk.Lock(ctx, &l.Lock, Shared); err != nil {
		return err
	}
	s.look(l)
	return nil
}

// look is done under any kind.
func (s *stresser) look(l *guarded) {
	l.readers.Add(1)
	if l.writers.Load() != 0 {
		s.t.Error("a reader beside a writer")
	}
	if l.a != l.b {
		s.t.Errorf("half a change: %d and %d", l.a, l.b)
	}
	l.readers.Add(-1)
}

// readAgain reads, lets go, and reads again if nothing was changed.
func (s *stresser) readAgain(ctx context.Context, l *guarded) error {
	if s.lk.Holds(&l.Lock) != None {
		return nil
	}
	if err := s.lk.Lock(ctx, &l.Lock, Shared); err != nil {
		return err
	}
	was, seq := l.a, l.Seq()
	s.lk.Unlock(&l.Lock, Shared)
	if s.lk.Relock(&l.Lock, seq, Shared+Kind(s.r.IntN(2))) {
		if l.a != was {
			s.t.Errorf("relock by number %d: %d became %d", seq, was, l.a)
		}
		s.look(l)
	}
	return nil
}

// change takes Intent, by an upgrade or at once, and mostly Exclusive then, which it gives up again.
func (s *stresser) change(ctx context.Context, i int) error {
	l := &s.locks[i]
	var err error
	if s.lk.Holds(&l.Lock) == Shared && s.r.IntN(2) == 0 {
		err = s.lk.Upgrade(ctx, &l.Lock)
	} else {
		err = s.lk.Lock(ctx, &l.Lock, Intent)
	}
	if err != nil {
		return err
	}
	if l.intenders.Add(1) != 1 {
		s.t.Error("two with intent")
	}
	defer l.intenders.Add(-1)
	l.planned++
	s.planned[i]++
	s.look(l)
	if s.r.IntN(3) > 0 {
		if err := s.lk.Lock(ctx, &l.Lock, Exclusive); err != nil {
			return err
		}
		if l.writers.Add(1) != 1 || l.readers.Load() != 0 {
			s.t.Error("a writer beside others")
		}
		l.a++
		if s.r.IntN(8) == 0 {
			runtime.Gosched()
		}
		s.wrote[i]++
		l.b++
		l.writers.Add(-1)
		s.lk.Unlock(&l.Lock, Exclusive)
	}
	return nil
}

// TestNoWakeUpIsLost has one come to wait at the very moment that the other lets go, round by round: nobody comes later whose release would
// wake it up after all.
func TestNoWakeUpIsLost(t *testing.T) {
	rounds := uint64(100_000)
	if testing.Short() || race {
		rounds = 10_000
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var g Graph
	var l Lock
	var held, over atomic.Uint64 // rounds in which the first has the lock, and the second had it
	until := func(counter *atomic.Uint64, round uint64) {
		for n := 0; counter.Load() < round && ctx.Err() == nil; n++ {
			if n > 100 {
				runtime.Gosched()
			}
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		lk := g.NewLocker()
		for round := uint64(1); round <= rounds && ctx.Err() == nil; round++ {
			if err := lk.Lock(ctx, &l, Intent); err != nil {
				t.Errorf("round %d: %v", round, err)
				return
			}
			held.Store(round)
			for range round % 64 { // some nanoseconds, to meet the other at all places
				held.Load()
			}
			lk.UnlockAll()
			until(&over, round)
		}
	})
	wg.Go(func() {
		lk := g.NewLocker()
		for round := uint64(1); round <= rounds; round++ {
			until(&held, round)
			if err := lk.Lock(ctx, &l, Intent); err != nil {
				t.Errorf("round %d: %v", round, err)
				return
			}
			lk.UnlockAll()
			over.Store(round)
		}
	})
	wg.Wait()
	t.Logf("%d waits in %d rounds", g.Stats().Waits, rounds)
}

// TestNoneStarves has a crowd whose holds always overlap, and one who needs the lock alone; and then the other way around.
func TestNoneStarves(t *testing.T) {
	read := func(ctx context.Context, lk *Locker, l *Lock) error { return lk.Lock(ctx, l, Shared) }
	write := func(ctx context.Context, lk *Locker, l *Lock) error {
		if err := lk.Lock(ctx, l, Intent); err != nil {
			return err
		}
		return lk.Lock(ctx, l, Exclusive)
	}
	for _, tt := range []struct {
		name       string
		crowd, one func(context.Context, *Locker, *Lock) error
	}{
		{"a writer among readers", read, write},
		{"a reader among writers", write, read},
		{"a writer among writers", write, write},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var g Graph
			var l Lock
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			var stop atomic.Bool
			var wg, there sync.WaitGroup
			for range 8 {
				there.Add(1)
				wg.Go(func() {
					arrive := sync.OnceFunc(there.Done)
					defer arrive()
					for lk := g.NewLocker(); !stop.Load(); lk.UnlockAll() {
						if err := tt.crowd(ctx, lk, &l); err != nil {
							t.Error(err)
							return
						}
						arrive()
						time.Sleep(50 * time.Microsecond)
					}
				})
			}
			there.Wait()
			lk := g.NewLocker()
			for i := range 20 {
				if err := tt.one(ctx, lk, &l); err != nil {
					t.Errorf("after %d rounds: %v", i, err)
					break
				}
				lk.UnlockAll()
			}
			lk.UnlockAll()
			stop.Store(true)
			wg.Wait()
		})
	}
}

// TestAllocations shows that neither taking nor waiting allocates, once lockers have been used.
func TestAllocations(t *testing.T) {
	var g Graph
	locks := make([]Lock, 2*maxScan)
	ctx := context.Background()
	lk, other := g.NewLocker(), g.NewLocker()
	work, done := make(chan bool), make(chan error)
	defer close(work)
	go func() {
		for range work {
			err := other.Lock(ctx, &locks[0], Intent)
			other.Restart()
			done <- err
		}
	}()
	for _, tt := range []struct {
		name string
		op   func()
	}{
		{"a transaction with many locks", func() {
			for i := range locks {
				l := &locks[i]
				seq := l.Seq()
				if lk.Lock(ctx, l, Intent) != nil || lk.Lock(ctx, l, Exclusive) != nil || !lk.Relock(l, seq, Shared) {
					t.Fatal("refused")
				}
			}
			lk.UnlockAll()
		}},
		{"a wait", func() {
			if err := lk.Lock(ctx, &locks[0], Intent); err != nil {
				t.Fatal(err)
			}
			work <- true
			for locks[0].state.Load()&waitIntent == 0 {
				runtime.Gosched()
			}
			lk.UnlockAll()
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}},
		{"a deadlock", func() {
			if lk.Lock(ctx, &locks[0], Intent) != nil || lk.Lock(ctx, &locks[1], Shared) != nil || other.Lock(ctx, &locks[1], Shared) != nil {
				t.Fatal("refused")
			}
			work <- true
			for locks[0].state.Load()&waitIntent == 0 {
				runtime.Gosched()
			}
			// other is the younger one.
			if lk.Lock(ctx, &locks[1], Intent) != nil || lk.Lock(ctx, &locks[1], Exclusive) != nil {
				t.Fatal("refused")
			}
			lk.UnlockAll()
			if err := <-done; err != ErrDeadlock {
				t.Fatal(err)
			}
		}},
	} {
		lk.Renew()
		other.Renew()
		tt.op()
		if n := testing.AllocsPerRun(100, tt.op); n != 0 && !race {
			t.Errorf("%s: %v allocations", tt.name, n)
		}
	}
}
