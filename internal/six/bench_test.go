package six

import (
	"context"
	"fmt"
	"sync"
	"testing"
)

// What a transaction pays if nobody else wants its locks.

func BenchmarkShared(b *testing.B) {
	var g Graph
	var l Lock
	lk := g.NewLocker()
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		if err := lk.Lock(ctx, &l, Shared); err != nil {
			b.Fatal(err)
		}
		lk.Unlock(&l, Shared)
	}
}

func BenchmarkIntent(b *testing.B) {
	var g Graph
	var l Lock
	lk := g.NewLocker()
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		if err := lk.Lock(ctx, &l, Intent); err != nil {
			b.Fatal(err)
		}
		lk.Unlock(&l, Intent)
	}
}

// An exclusive pair in a node locked for intent, as commits have it.
func BenchmarkExclusive(b *testing.B) {
	var g Graph
	var l Lock
	lk := g.NewLocker()
	ctx := context.Background()
	if err := lk.Lock(ctx, &l, Intent); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := lk.Lock(ctx, &l, Exclusive); err != nil {
			b.Fatal(err)
		}
		lk.Unlock(&l, Exclusive)
	}
}

func BenchmarkIntentExclusive(b *testing.B) {
	var g Graph
	var l Lock
	lk := g.NewLocker()
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		if err := lk.Lock(ctx, &l, Intent); err != nil {
			b.Fatal(err)
		}
		if err := lk.Lock(ctx, &l, Exclusive); err != nil {
			b.Fatal(err)
		}
		lk.UnlockAllOf(&l)
	}
}

func BenchmarkRelock(b *testing.B) {
	var g Graph
	var l Lock
	lk := g.NewLocker()
	seq := l.Seq()
	b.ReportAllocs()
	for b.Loop() {
		if !lk.Relock(&l, seq, Shared) {
			b.Fatal("relock failed")
		}
		lk.Unlock(&l, Shared)
	}
}

// Whole transactions that hold so many locks at once; the figure per lock is ns/lock.
func BenchmarkTransaction(b *testing.B) {
	for _, n := range []int{4, 16, 64, 1024} {
		b.Run(fmt.Sprintf("locks=%d", n), func(b *testing.B) {
			var g Graph
			locks := make([]Lock, n)
			lk := g.NewLocker()
			ctx := context.Background()
			run := func() {
				lk.Renew()
				for i := range locks {
					if err := lk.Lock(ctx, &locks[i], Shared); err != nil {
						b.Fatal(err)
					}
				}
				lk.UnlockAll()
			}
			run() // what grows, grows now
			b.ReportAllocs()
			for b.Loop() {
				run()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/lock")
		})
	}
}

// contend runs op on two goroutines until each has done its half.
func contend(b *testing.B, op func(lk *Locker) error) {
	var g Graph
	b.ReportAllocs()
	var wg sync.WaitGroup
	for half := range 2 {
		wg.Go(func() {
			lk := g.NewLocker()
			for i := half; i < b.N; i += 2 {
				if err := op(lk); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(g.Stats().Waits)/float64(b.N), "waits/op")
}

func BenchmarkContendedShared(b *testing.B) {
	var l Lock
	ctx := context.Background()
	contend(b, func(lk *Locker) error {
		if err := lk.Lock(ctx, &l, Shared); err != nil {
			return err
		}
		lk.Unlock(&l, Shared)
		return nil
	})
}

func BenchmarkContendedExclusive(b *testing.B) {
	var l Lock
	ctx := context.Background()
	n := 0
	contend(b, func(lk *Locker) error {
		if err := lk.Lock(ctx, &l, Intent); err != nil {
			return err
		}
		if err := lk.Lock(ctx, &l, Exclusive); err != nil {
			return err
		}
		n++
		lk.UnlockAllOf(&l)
		return nil
	})
	if n != b.N {
		b.Fatalf("%d of %d increments", n, b.N)
	}
}

// Nine readers for each writer.
func BenchmarkContendedMixed(b *testing.B) {
	var l Lock
	ctx := context.Background()
	n := 0
	contend(b, func(lk *Locker) error {
		lk.Renew()
		if lk.Age()%10 != 0 {
			if err := lk.Lock(ctx, &l, Shared); err != nil {
				return err
			}
			lk.Unlock(&l, Shared)
			return nil
		}
		if err := lk.Lock(ctx, &l, Intent); err != nil {
			return err
		}
		if err := lk.Lock(ctx, &l, Exclusive); err != nil {
			return err
		}
		n++
		lk.UnlockAllOf(&l)
		return nil
	})
}

// The same with what Go has, to compare.
func BenchmarkContendedMutexBaseline(b *testing.B) {
	var mu sync.Mutex
	n := 0
	contend(b, func(*Locker) error {
		mu.Lock()
		n++
		mu.Unlock()
		return nil
	})
}

func BenchmarkRWMutexBaseline(b *testing.B) {
	var mu sync.RWMutex
	n, sum := 1, 0
	for b.Loop() {
		mu.RLock()
		sum += n
		mu.RUnlock()
	}
	if sum < n {
		b.Fatal("nothing done")
	}
}
