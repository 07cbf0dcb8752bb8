package trans

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/golden"
	"github.com/go-bcachefs/bcachefs/internal/journal"
	"github.com/go-bcachefs/bcachefs/internal/node"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

var (
	crashSeeds = flag.Int("crash-seeds", 4, "how many runs TestCrash makes")
	crashSeed  = flag.Uint64("crash-seed", 0, "first seed of TestCrash")
	crashStep  = flag.Int("crash-step", 7, "TestCrash looks at every so many'th moment")
)

// crashTx is a transaction that was committed.
type crashTx struct {
	seq     uint64
	offset  int // in the journal entry: what is written without locks is ordered by nothing else
	keys    []crashKey
	deltas  [3]int64 // of some counters
	blindly []crashKey
}

type crashKey struct {
	btree ondisk.BtreeID
	key   ondisk.Key
}

// acked is a promise: from a tick on all entries up to seq are durable.
type acked struct {
	tick int
	seq  uint64
}

// crashRun is what a run on recorded devices did.
type crashRun struct {
	seed uint64
	log  *blockdev.Log
	mu   sync.Mutex
	txs  []crashTx
	acks []acked
}

var crashBtrees = []ondisk.BtreeID{ondisk.BtreeXattrs, ondisk.BtreeAlloc, ondisk.BtreeInodes, ondisk.BtreeQuotas, ondisk.BtreeBackpointers}

// geometry makes nodes, caches and journal small, so that all happens soon.
func geometry(w *world, rnd *rand.Rand) {
	w.cfg.NodeBytes = 2048 << rnd.IntN(3)
	w.cfg.CacheBytes = int64(w.cfg.NodeBytes) * int64(4+rnd.IntN(60))
	w.cfg.Version = ondisk.VersionDefault
	d := &w.jcfg.Devices[1]
	d.BucketBytes = 64 << 10 << rnd.IntN(2)
	d.Buckets = d.Buckets[:16+rnd.IntN(16)]
	d.Discard = rnd.IntN(2) == 0
	w.jcfg.FlushDelay, w.jcfg.ReclaimDelay = 3*time.Millisecond, time.Millisecond
}

// record runs transactions on recorded devices, and stops in the middle.
func (r *crashRun) record(t *testing.T, w *world, workers, txs int) {
	r.log = blockdev.NewLog()
	w.dev, w.jdev = r.log.Record(blockdev.NewMemory(1<<30)), r.log.Record(blockdev.NewMemory(8<<20))
	w.open()
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(r.seed, uint64(i)+1))
			for j := range txs {
				r.one(w, rnd, j/(txs/3+1) == 1)
			}
		})
	}
	wg.Wait()
	w.j.Abort()
	w.s.Close()
}

// one runs a transaction, that mostly deletes if so wanted.
func (r *crashRun) one(w *world, rnd *rand.Rand, deletes bool) {
	seed := rnd.Uint64()
	var rec crashTx
	err := w.s.Update(context.Background(), func(tx *Tx) error {
		rnd := rand.New(rand.NewPCG(seed, 0))
		rec = crashTx{}
		n := 1 + rnd.IntN(6)
		if deletes {
			n *= 5
		}
		for range n {
			btree := crashBtrees[rnd.IntN(len(crashBtrees))]
			p := ondisk.Pos{Inode: 1, Offset: rnd.Uint64N(400)}
			if btree.Has(ondisk.BtreeHasSnapshots) {
				p.Snapshot = 5
			}
			k := cookie(p, rnd.Uint64())
			if rnd.IntN(4) == 0 {
				k.Val = append(k.Val, make([]byte, 8*rnd.IntN(20))...)
			}
			if rnd.IntN(4) == 0 != deletes {
				k = ondisk.Key{Pos: p}
			}
			if btree == ondisk.BtreeBackpointers {
				tx.UpdateBuffered(btree, k)
				rec.blindly = append(rec.blindly, crashKey{btree, k})
				continue
			}
			if err := tx.Update(btree, k, 0); err != nil {
				return err
			}
			rec.keys = append(rec.keys, crashKey{btree, k})
		}
		for i := range rec.deltas {
			if rnd.IntN(2) == 0 {
				rec.deltas[i] = int64(rnd.IntN(100)) - 40
				tx.Account(counter(i), rec.deltas[i])
			}
		}
		tx.OnCommit(func(seq uint64) { rec.seq, rec.offset = seq, tx.res.Offset() })
		return nil
	})
	if err != nil {
		if !w.failing {
			w.Error(err)
		}
		return
	}
	if rec.seq == 0 {
		return // nothing changed
	}
	r.mu.Lock()
	r.txs = append(r.txs, rec)
	r.mu.Unlock()
	if rnd.IntN(12) == 0 {
		if err := w.j.FlushSeq(context.Background(), rec.seq); err != nil {
			if !w.failing {
				w.Error(err)
			}
			return
		}
		tick := r.log.Ticks()
		r.mu.Lock()
		r.acks = append(r.acks, acked{tick, rec.seq})
		r.mu.Unlock()
	}
}

// sort puts the transactions in the order of the journal.
func (r *crashRun) sort() {
	slices.SortFunc(r.txs, func(a, b crashTx) int { return cmp.Or(cmp.Compare(a.seq, b.seq), cmp.Compare(a.offset, b.offset)) })
}

func counter(i int) ondisk.AccountingPos {
	return ondisk.AccountingPos{Type: ondisk.AccountingInum, Inum: uint64(i)}
}

// state is what the filesystem holds after all transactions of entries up to seq.
type state struct {
	keys   map[ondisk.BtreeID]map[ondisk.Pos]ondisk.Key
	deltas [3]int64
}

func (r *crashRun) stateAt(seq uint64) *state {
	st := &state{keys: map[ondisk.BtreeID]map[ondisk.Pos]ondisk.Key{}}
	for _, b := range crashBtrees {
		st.keys[b] = map[ondisk.Pos]ondisk.Key{}
	}
	for i := range r.txs {
		tx := &r.txs[i]
		if tx.seq > seq {
			continue
		}
		for _, k := range append(slices.Clone(tx.keys), tx.blindly...) {
			if k.key.Type == ondisk.KeyDeleted {
				delete(st.keys[k.btree], k.key.Pos)
			} else {
				st.keys[k.btree][k.key.Pos] = k.key
			}
		}
		for i, d := range tx.deltas {
			st.deltas[i] += d
		}
	}
	return st
}

// compare says how a store differs from a state; with sums those of the counters count.
func (w *world) compareState(want *state, sums bool) error {
	ctx := context.Background()
	for btree, keys := range want.keys {
		sorted := slices.SortedFunc(maps.Values(keys), func(a, b ondisk.Key) int { return a.Pos.Compare(b.Pos) })
		var got []ondisk.Key
		err := w.s.View(ctx, func(tx *Tx) error {
			got = got[:0]
			it := tx.Iter(btree, ondisk.PosMin, AllSnapshots|Scanning)
			defer it.Close()
			for k, ok, err := it.Peek(); ok || err != nil; k, ok, err = it.Next() {
				if err != nil {
					return err
				}
				got = append(got, k)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("btree %v: %w", btree, err)
		}
		for i := range max(len(got), len(sorted)) {
			switch {
			case i >= len(got):
				return fmt.Errorf("btree %v: %v is missing (%d keys, want %d)", btree, sorted[i].Pos, len(got), len(sorted))
			case i >= len(sorted) || !got[i].Equal(&sorted[i]):
				return fmt.Errorf("btree %v: %v is not expected there or has another value (%d keys, want %d)", btree, got[i].Pos, len(got), len(sorted))
			}
		}
	}
	if !sums {
		return nil
	}
	return w.s.View(ctx, func(tx *Tx) error {
		for i, want := range want.deltas {
			c := counter(i)
			k, ok, err := tx.Get(ondisk.BtreeAccounting, c.Pos(w.cfg.Version), 0)
			if err != nil {
				return err
			}
			got := int64(0)
			if ok {
				got = int64(binary.LittleEndian.Uint64(k.Val))
			}
			if got != want {
				return fmt.Errorf("counter %d is %d, want %d", i, got, want)
			}
		}
		return nil
	})
}

// recover makes w one that was left by a crash with these devices. It returns the newest entry that counts.
func (w *world) recover(dev, jdev blockdev.Device) (uint64, error) {
	ctx := context.Background()
	w.dev, w.jdev = dev, jdev
	d := &w.jcfg.Devices[1]
	cfg := &journal.Config{Members: []journal.Member{{Index: 1, Device: jdev, BucketBytes: d.BucketBytes, Buckets: d.Buckets}},
		Params: w.jparams(), BlockSize: w.cfg.BlockBytes, Blacklist: w.blacklist}
	found, err := journal.Scan(ctx, cfg)
	if err != nil {
		return 0, err
	}
	sel := journal.Select(found.Candidates, w.blacklist, false)
	if sel.Flush == 0 {
		return 0, nil
	}
	c, err := journal.Load(ctx, cfg, sel, nil)
	if err != nil {
		return 0, err
	}
	for _, p := range append(sel.Problems, c.Problems...) {
		return 0, errors.New(p)
	}
	resume := sel.Resume(w.blacklist)
	w.first, w.blacklist = resume.First, resume.Blacklist
	w.replay = node.SeqRange{Oldest: sel.LastSeq, Newest: sel.Flush}
	w.ring = &found.Rings[0]
	w.cfg.Overlay, w.cfg.ReplaySeqs, w.cfg.Roots = c.Overlay, w.replay, map[ondisk.BtreeID]Root{}
	for id, r := range c.Roots {
		w.cfg.Roots[id] = Root{Level: r.Level, Key: r.Key}
	}
	return sel.Flush, nil
}

// check looks at what a power cut at a tick has left: first as it is, and if deep is set also after the journal was replayed, more was done,
// and all was written.
func (r *crashRun) check(t *testing.T, like *world, tick int, keep blockdev.Keep, deep bool) (err error) {
	devs := r.log.Crash(tick, keep)
	w := makeWorld(t)
	w.jcfg = like.jcfg
	w.cfg.NodeBytes, w.cfg.BlockBytes, w.cfg.CacheBytes, w.next = like.cfg.NodeBytes, like.cfg.BlockBytes, like.cfg.CacheBytes, like.next
	flush, err := w.recover(devs[0], devs[1])
	if err != nil {
		return err
	}
	for _, a := range r.acks {
		if a.tick <= tick && a.seq > flush {
			return fmt.Errorf("entry %d is lost, the journal ends with %d", a.seq, flush)
		}
	}
	want := r.stateAt(flush)
	w.open()
	defer func() {
		w.j.Abort()
		w.s.Close()
	}()
	if err := w.compareState(want, false); err != nil {
		return fmt.Errorf("with the journal up to %d: %w", flush, err)
	}
	if !deep {
		return nil
	}
	ctx := context.Background()
	if err := w.s.Replay(ctx); err != nil {
		return err
	}
	w.j.ReplayDone()
	if err := w.compareState(want, true); err != nil {
		return fmt.Errorf("after replay up to %d: %w", flush, err)
	}
	again := &crashRun{seed: r.seed + 1, log: r.log}
	rnd := rand.New(rand.NewPCG(r.seed, uint64(tick)))
	for range 50 {
		again.one(w, rnd, tick%2 == 0)
	}
	last := again.stateAt(^uint64(0))
	for i, d := range want.deltas {
		last.deltas[i] += d
	}
	for btree, keys := range want.keys {
		for p, k := range keys {
			if !again.touched(btree, p) {
				last.keys[btree][p] = k
			}
		}
	}
	if err := w.s.Quiesce(ctx); err != nil {
		return err
	}
	if err := w.compareState(last, true); err != nil {
		return fmt.Errorf("after more: %w", err)
	}
	w.reopen()
	if err := w.compareState(last, true); err != nil {
		return fmt.Errorf("after all was written: %w", err)
	}
	return nil
}

func (r *crashRun) touched(btree ondisk.BtreeID, p ondisk.Pos) bool {
	for i := range r.txs {
		for _, k := range append(slices.Clone(r.txs[i].keys), r.txs[i].blindly...) {
			if k.btree == btree && k.key.Pos == p {
				return true
			}
		}
	}
	return false
}

// After a power cut at any moment, whatever of the unflushed writes is lost or torn, what was acknowledged is there, and each transaction
// entirely or not at all, in order.
func TestCrash(t *testing.T) {
	for i := range golden.FlagTimes(t, "crash-seeds", *crashSeeds, 1) {
		seed := *crashSeed + uint64(i)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 99))
			w := makeWorld(t)
			geometry(w, rnd)
			r := &crashRun{seed: seed}
			r.record(t, w, 1+rnd.IntN(4), 150)
			r.sort()
			ends := r.log.Ticks()
			n := 0
			for tick := 0; tick <= ends; tick += 1 + rnd.IntN(2**crashStep-1) {
				keeps := []blockdev.Keep{blockdev.KeepNone, blockdev.KeepRandom(rnd)}
				if n%4 == 0 {
					keeps = append(keeps, blockdev.KeepAll)
				}
				for j, keep := range keeps {
					n++
					if err := r.check(t, w, tick, keep, n%5 == 0); err != nil {
						t.Fatalf("seed %d: cut at tick %d of %d, keeping by %d: %v", seed, tick, ends, j, err)
					}
				}
			}
			t.Logf("%d cuts of %d moments, %d transactions", n, ends, len(r.txs))
		})
	}
}
