package trans

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/golden"
	"github.com/go-bcachefs/bcachefs/internal/journal"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

var faultSeeds = flag.Int("fault-seeds", 8, "how many runs TestFaults makes")

// After writes or flushes begin to fail at some moment, updates fail with the reason, reading goes on, and what is on the devices is the state
// after some prefix of the transactions, with all that was acknowledged.
func TestFaults(t *testing.T) {
	for seed := range uint64(golden.FlagTimes(t, "fault-seeds", *faultSeeds, 3)) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			noLeaks(t)
			rnd := rand.New(rand.NewPCG(seed, 3))
			w := makeWorld(t)
			geometry(w, rnd)
			w.failing = true
			r := &crashRun{seed: seed, log: blockdev.NewLog()}
			rule := blockdev.Rule{Ops: blockdev.OpWrite, Skip: rnd.IntN(120)}
			if rnd.IntN(3) == 0 {
				rule = blockdev.Rule{Ops: blockdev.OpFlush, Skip: rnd.IntN(20)}
			}
			dev, jdev := blockdev.Device(r.log.Record(blockdev.NewMemory(1<<30))), blockdev.Device(r.log.Record(blockdev.NewMemory(8<<20)))
			if rnd.IntN(2) == 0 {
				dev = blockdev.NewFaulter(dev, rule)
			} else {
				jdev = blockdev.NewFaulter(jdev, rule)
			}
			w.dev, w.jdev = dev, jdev
			w.open()
			var wg sync.WaitGroup
			for i := range 3 {
				wg.Go(func() {
					rnd := rand.New(rand.NewPCG(seed, uint64(i)+1))
					for j := range 200 {
						r.one(w, rnd, j/70 == 1)
					}
				})
			}
			wg.Wait()
			r.sort()
			// What failed may be in the background, at last.
			ctx := context.Background()
			qerr := w.s.Quiesce(ctx)
			if werr := w.s.writable(); werr != nil {
				if qerr == nil {
					t.Error("all was written, though nothing can be")
				}
				err := w.s.Update(ctx, func(tx *Tx) error { return tx.Update(ondisk.BtreeQuotas, cookie(ondisk.Pos{Offset: 1 << 40}, 1), 0) })
				if err == nil || errors.Is(err, ErrRestart) || strings.Contains(err.Error(), "\n") {
					t.Errorf("an update when nothing can be written: %v", err)
				}
				if err := w.compareVisible(r); err != nil {
					t.Errorf("reading when nothing can be written: %v", err)
				}
			}
			w.j.Abort()
			w.s.Close()
			ends := r.log.Ticks()
			for i, keep := range []blockdev.Keep{blockdev.KeepAll, blockdev.KeepNone, blockdev.KeepRandom(rnd)} {
				if err := r.check(t, w, ends, keep, true); err != nil {
					t.Fatalf("seed %d, keeping by %d: %v", seed, i, err)
				}
			}
		})
	}
}

// compareVisible compares what transactions see with what all that were committed have made, but for what goes through the write buffer.
func (w *world) compareVisible(r *crashRun) error {
	want := r.stateAt(^uint64(0))
	delete(want.keys, ondisk.BtreeBackpointers)
	return w.compareState(want, false)
}

// A replica that cannot be written is not named by the pointer any more, be it of a new node or of one that is appended to; the others go on.
func TestLostReplica(t *testing.T) {
	var mu sync.Mutex
	fail := false
	w := newWorld(t, func(c *Config) {
		c.NodeBytes = 2048
		write := c.WriteNode
		c.WriteNode = func(ctx context.Context, addrs []ondisk.NodeAddr, off ondisk.Sector, buf []byte) error {
			mu.Lock()
			defer mu.Unlock()
			for _, a := range addrs {
				if a.Dev == 0 {
					if err := write(ctx, []ondisk.NodeAddr{a}, off, buf); err != nil {
						return err
					}
				}
			}
			if len(addrs) > 1 && fail {
				return &ReplicasError{Lost: addrs[1:], Err: blockdev.ErrFault}
			}
			return nil
		}
	})
	w.s.cfg.Alloc = twice{w}
	put := func(from, to int) {
		for i := from; i < to; i++ {
			w.update(func(tx *Tx) error {
				return tx.Update(ondisk.BtreeQuotas, cookie(ondisk.Pos{Offset: uint64(i * 7 % 1000)}, 1), 0)
			})
		}
		if err := w.s.Quiesce(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	count := func() (one, two int) {
		for _, b := range w.s.cache.all() {
			switch n := len(b.addrs()); n {
			case 1:
				one++
			case 2:
				two++
			}
			// The parent says the same as the edge.
			if p, err := w.s.find(t.Context(), b.tree, b.level+1, b.max); err == nil && p != nil {
				if k, _ := p.keys.Get(b.max); !k.Equal(b.self.key.Load()) {
					t.Errorf("the parent of %v - %v has another pointer", b.min, b.max)
				}
			}
		}
		return one, two
	}
	put(0, 400)
	if one, two := count(); one != 0 || two < 5 {
		t.Errorf("%d nodes on one device, %d on two", one, two)
	}
	mu.Lock()
	fail = true
	mu.Unlock()
	put(400, 1000)
	one, two := count()
	if one < 10 || two != 0 && one < two {
		t.Errorf("%d nodes on one device, %d on two", one, two)
	}
	mu.Lock()
	fail = false
	mu.Unlock()
	w.reopen()
	n := 0
	err := w.s.View(t.Context(), func(tx *Tx) error {
		return tx.Scan(ondisk.BtreeQuotas, ondisk.PosMin, ondisk.SPosMax, 0, func(ondisk.Key, ondisk.Pos) (bool, error) {
			n++
			return true, nil
		})
	})
	if err != nil || n != 1000 {
		t.Errorf("%d keys: %v", n, err)
	}
}

// twice allocates each node on two devices.
type twice struct{ *world }

func (w twice) AllocNodes(ctx context.Context, n int, wm journal.Watermark, nonblocking bool) ([]NodeSpace, error) {
	all, err := w.world.AllocNodes(ctx, n, wm, nonblocking)
	for i := range all {
		a := all[i].Addrs[0]
		a.Dev = 1
		all[i].Addrs = append(all[i].Addrs, a)
	}
	return all, err
}

// A journal of few small buckets is never in the way for good, however much is written through it.
func TestTinyJournal(t *testing.T) {
	noLeaks(t)
	w := newWorldOn(t, func(w *world) {
		w.cfg.NodeBytes, w.cfg.CacheBytes = 4096, 64<<10
		d := &w.jcfg.Devices[1]
		d.BucketBytes, d.Buckets, d.Discard = 64<<10, d.Buckets[:8], true
		w.jcfg.FlushDelay, w.jcfg.ReclaimDelay = 10*time.Millisecond, time.Millisecond
	})
	var wg sync.WaitGroup
	for g := range uint64(4) {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(g, 1))
			for range 700 {
				err := w.s.Update(t.Context(), func(tx *Tx) error {
					for _, id := range []ondisk.BtreeID{ondisk.BtreeAlloc, ondisk.BtreeQuotas} {
						k := cookie(ondisk.Pos{Inode: g, Offset: rnd.Uint64N(300)}, 1)
						k.Val = append(k.Val, make([]byte, 8*rnd.IntN(100))...)
						if err := tx.Update(id, k, 0); err != nil {
							return err
						}
					}
					tx.UpdateBuffered(ondisk.BtreeLRU, ondisk.Key{Type: ondisk.KeySet, Pos: ondisk.Pos{Inode: g, Offset: rnd.Uint64N(300)}})
					tx.Account(counter(0), 1)
					return nil
				})
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// Values as large as there may be, many to a node, are kept.
func TestHugeValues(t *testing.T) {
	for _, nodeBytes := range []int{4 << 10, 16 << 10} {
		w := newWorld(t, func(c *Config) { c.NodeBytes, c.BlockBytes = nodeBytes, 512 })
		rnd := rand.New(rand.NewPCG(1, 1))
		want := map[uint64]uint64{}
		for i := range uint64(600) {
			at := rnd.Uint64N(120)
			k := cookie(ondisk.Pos{Offset: at}, i)
			k.Val = append(k.Val, make([]byte, ondisk.MaxValSize/8*8-8-8*rnd.IntN(30))...)
			w.update(func(tx *Tx) error { return tx.Update(ondisk.BtreeQuotas, k, 0) })
			want[at] = i
		}
		look := func() {
			t.Helper()
			err := w.s.View(t.Context(), func(tx *Tx) error {
				for at, v := range want {
					k, ok, err := tx.Get(ondisk.BtreeQuotas, ondisk.Pos{Offset: at}, 0)
					if err != nil {
						return err
					}
					if !ok || k.Val[0] != byte(v) || k.Val[1] != byte(v>>8) {
						t.Errorf("nodes of %d: key %d is wrong", nodeBytes, at)
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		look()
		if err := w.s.Quiesce(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.reopen()
		look()
	}
}
