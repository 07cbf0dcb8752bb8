package trans

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/golden"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

var modelSeeds = flag.Int("model-seeds", 12, "how many runs TestModel makes")
var modelSeed = flag.Uint64("model-seed", 0, "first seed of TestModel")

// modelOp is what a transaction saw or did at a position.
type modelOp struct {
	btree  ondisk.BtreeID
	from   ondisk.Pos
	to     ondisk.Pos // of a range; from for a single position
	seen   []ondisk.Key
	update bool
	key    ondisk.Key
}

// modelTx is a transaction that ended, at its place in the order.
type modelTx struct {
	order int64
	ops   []modelOp
}

// model runs random transactions of several goroutines, and then checks that there is an order, that of their commits, in which
// one after the other would have seen the same.
type model struct {
	*world
	seed   uint64
	order  atomic.Int64
	mu     sync.Mutex
	done   []modelTx
	btrees []ondisk.BtreeID
	keys   uint64 // how many positions there are
}

func TestModel(t *testing.T) {
	for i := range golden.FlagTimes(t, "model-seeds", *modelSeeds, 4) {
		seed := *modelSeed + uint64(i)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 0))
			m := &model{seed: seed, btrees: []ondisk.BtreeID{ondisk.BtreeXattrs, ondisk.BtreeAlloc, ondisk.BtreeInodes, ondisk.BtreeQuotas},
				keys: 1 + rnd.Uint64N(1<<(3+rnd.IntN(12)))}
			cache := int64(1) << (14 + rnd.IntN(10))
			m.world = newWorld(t, func(c *Config) {
				c.CacheBytes = cache
				c.IsAncestor = func(a, b uint32) bool { return a == 10 || a == b }
			})
			m.run(2+rnd.IntN(6), 300)
		})
	}
}

func (m *model) run(workers, txs int) {
	stop := make(chan struct{})
	var bg sync.WaitGroup
	bg.Go(func() { // what the journal does when it wants space
		for {
			select {
			case <-stop:
				return
			default:
				if _, err := m.j.FlushPins(context.Background(), m.j.Current()); err != nil {
					m.Error(err)
				}
				m.s.keys.shrink(0)
			}
		}
	})
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(m.seed, uint64(i)+1))
			for range txs {
				m.one(rnd)
			}
		})
	}
	wg.Wait()
	close(stop)
	bg.Wait()
	m.verify()
}

// one runs a transaction. Its choices are the same if it restarts.
func (m *model) one(rnd *rand.Rand) {
	seed := rnd.Uint64()
	var rec modelTx
	fn := func(tx *Tx) error {
		rnd := rand.New(rand.NewPCG(seed, 0))
		rec = modelTx{}
		for range 1 + rnd.IntN(5) {
			if err := m.op(tx, rnd, &rec); err != nil {
				return err
			}
		}
		rec.order = m.order.Add(1)
		tx.OnCommit(func(uint64) { rec.order = m.order.Add(1) })
		return nil
	}
	run := m.s.Update
	if seed%4 == 0 {
		run = m.s.View
	}
	if err := run(context.Background(), func(tx *Tx) error { return fn(tx) }); err != nil {
		m.Error(err)
		return
	}
	m.mu.Lock()
	m.done = append(m.done, rec)
	m.mu.Unlock()
}

func (m *model) pos(rnd *rand.Rand, btree ondisk.BtreeID) ondisk.Pos {
	p := ondisk.Pos{Inode: 1 + rnd.Uint64N(2), Offset: rnd.Uint64N(m.keys)}
	if btree.Has(ondisk.BtreeHasSnapshots) {
		p.Snapshot = 5 + rnd.Uint32N(3)
		if rnd.IntN(4) == 0 {
			p.Snapshot = 10
		}
	}
	return p
}

func (m *model) op(tx *Tx, rnd *rand.Rand, rec *modelTx) error {
	btree := m.btrees[rnd.IntN(len(m.btrees))]
	p := m.pos(rnd, btree)
	switch n := rnd.IntN(10); {
	case n < 3:
		var f ReadFlags
		if n == 0 {
			f = ForUpdate
		}
		k, ok, err := tx.Get(btree, p, f)
		if err != nil {
			return err
		}
		o := modelOp{btree: btree, from: p, to: p}
		if ok {
			o.seen = []ondisk.Key{k}
		}
		rec.ops = append(rec.ops, o)
	case n < 5:
		return m.scan(tx, btree, p, rnd, rec)
	default:
		if !tx.write {
			return nil
		}
		k := cookie(p, rnd.Uint64())
		if rnd.IntN(3) == 0 {
			k.Val = append(k.Val, make([]byte, 8*rnd.IntN(40))...)
		}
		if rnd.IntN(3) == 0 {
			k = ondisk.Key{Pos: p}
		}
		if err := tx.Update(btree, k, 0); err != nil {
			return err
		}
		rec.ops = append(rec.ops, modelOp{btree: btree, from: p, update: true, key: k})
	}
	return nil
}

// scan reads some keys from p on, forwards or backwards.
func (m *model) scan(tx *Tx, btree ondisk.BtreeID, p ondisk.Pos, rnd *rand.Rand, rec *modelTx) error {
	o := modelOp{btree: btree, from: p, to: ondisk.SPosMax}
	it := tx.Iter(btree, p, AllSnapshots)
	n := 1 + rnd.IntN(6)
	if rnd.IntN(3) == 0 {
		k, ok, err := it.PeekPrev(ondisk.PosMin)
		if err != nil {
			return err
		}
		o.from, o.to = ondisk.PosMin, p
		if ok {
			o.from, o.seen = k.Pos, []ondisk.Key{k}
		}
		rec.ops = append(rec.ops, o)
		return nil
	}
	for {
		k, ok, err := it.Peek()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		o.seen = append(o.seen, k)
		if n--; n == 0 {
			o.to = k.Pos
			break
		}
		it.Advance()
	}
	rec.ops = append(rec.ops, o)
	return nil
}

// verify replays the transactions in their order on a plain map.
func (m *model) verify() {
	slices.SortFunc(m.done, func(a, b modelTx) int { return int(a.order - b.order) })
	state := map[ondisk.BtreeID]map[ondisk.Pos]ondisk.Key{}
	for _, b := range m.btrees {
		state[b] = map[ondisk.Pos]ondisk.Key{}
	}
	expect := func(o *modelOp, from map[ondisk.Pos]ondisk.Key) []ondisk.Key {
		var want []ondisk.Key
		for p, k := range from {
			if !p.Less(o.from) && !o.to.Less(p) {
				want = append(want, k)
			}
		}
		slices.SortFunc(want, func(a, b ondisk.Key) int { return a.Pos.Compare(b.Pos) })
		return want
	}
	for _, tx := range m.done {
		for i := range tx.ops {
			o := &tx.ops[i]
			if o.update {
				if o.key.Type == ondisk.KeyDeleted {
					delete(state[o.btree], o.key.Pos)
				} else {
					state[o.btree][o.key.Pos] = o.key
				}
				continue
			}
			want := expect(o, state[o.btree])
			if !slices.EqualFunc(want, o.seen, func(a, b ondisk.Key) bool { return a.Equal(&b) }) {
				m.Fatalf("seed %d: transaction %d of %v saw in %v … %v\n%v\nwant\n%v", m.seed, tx.order, o.btree, o.from, o.to, o.seen, want)
			}
		}
	}
	m.compare(state)
	// What is on the device after everything was written is the same.
	if err := m.s.Quiesce(context.Background()); err != nil {
		m.Fatal(err)
	}
	m.compare(state)
	m.reopen()
	m.compare(state)
}

func (m *model) compare(state map[ondisk.BtreeID]map[ondisk.Pos]ondisk.Key) {
	m.Helper()
	for btree, want := range state {
		keys := slices.SortedFunc(maps.Values(want), func(a, b ondisk.Key) int { return a.Pos.Compare(b.Pos) })
		var got []ondisk.Key
		err := m.s.View(context.Background(), func(tx *Tx) error {
			got = nil
			return tx.Scan(btree, ondisk.PosMin, ondisk.SPosMax, 0, func(k ondisk.Key, _ ondisk.Pos) (bool, error) {
				got = append(got, k)
				return true, nil
			})
		})
		if err != nil || !slices.EqualFunc(keys, got, func(a, b ondisk.Key) bool { return a.Equal(&b) }) {
			m.Fatalf("seed %d: btree %v holds %d keys, want %d (%v)", m.seed, btree, len(got), len(keys), err)
		}
	}
}

// reopen opens the store anew, from the roots as they are journalled last.
func (w *world) reopen() {
	w.close()
	w.cfg.Roots = w.s.Roots()
	w.open()
}
