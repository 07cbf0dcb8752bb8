package trans

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/six"
)

// An iterator over the leaves holds the slot of what it shows, empty or filled; with the rule switched off, only if it is filled.
func TestSlotRule(t *testing.T) {
	pos := ondisk.Pos{Inode: 1, Offset: 7}
	for _, tt := range []struct {
		name         string
		faults       Fault
		filled, held bool
	}{
		{"empty", 0, false, true},
		{"filled", 0, true, true},
		{"empty, no rule", FaultNoSlotRule, false, false},
		{"filled, no rule", FaultNoSlotRule, true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, func(c *Config) { c.Faults = tt.faults })
			w.update(func(tx *Tx) error { return tx.Update(ondisk.BtreeAlloc, cookie(pos, 1), 0) })
			if tt.filled {
				w.update(func(tx *Tx) error { return tx.Update(ondisk.BtreeAlloc, cookie(pos, 2), 0) })
			}
			err := w.s.View(t.Context(), func(tx *Tx) error {
				return tx.Scan(ondisk.BtreeAlloc, pos, pos, 0, func(ondisk.Key, ondisk.Pos) (bool, error) {
					s := w.s.keys.get(ondisk.BtreeAlloc, pos)
					defer w.s.keys.put(s)
					if filled := s.key.Load() != nil; filled != tt.filled {
						t.Errorf("the slot is filled: %v", filled)
					}
					if btree, at, slot, ok := w.s.LockPlace(&s.lock); btree != ondisk.BtreeAlloc || at != pos || !slot || !ok {
						t.Errorf("the lock of the slot is taken for that of %v %v", btree, at)
					}
					if held := !w.free(&s.lock); held != tt.held {
						t.Errorf("the slot is locked: %v", held)
					}
					return true, nil
				})
			})
			if err != nil {
				t.Fatal(err)
			}
			b, err := w.s.find(t.Context(), &w.s.trees[ondisk.BtreeAlloc], 0, pos)
			if err != nil {
				t.Fatal(err)
			}
			if btree, _, slot, ok := w.s.LockPlace(&b.lock); btree != ondisk.BtreeAlloc || slot || !ok {
				t.Errorf("the lock of the leaf is taken for that of %v", btree)
			}
			if _, _, _, ok := w.s.LockPlace(new(six.Lock)); ok {
				t.Error("another lock was found")
			}
		})
	}
}

// Keys that come and go are known to the leaves at once (I7).
func TestWriteThrough(t *testing.T) {
	for _, fault := range []Fault{0, FaultNoWriteThrough} {
		w := newWorld(t, func(c *Config) { c.Faults = fault })
		pos := ondisk.Pos{Inode: 1, Offset: 7}
		for _, k := range []ondisk.Key{cookie(pos, 1), {Pos: pos}} {
			w.update(func(tx *Tx) error { return tx.Update(ondisk.BtreeAlloc, k, 0) })
			b, err := w.s.find(t.Context(), &w.s.trees[ondisk.BtreeAlloc], 0, pos)
			if err != nil {
				t.Fatal(err)
			}
			if _, there := b.keys.Get(pos); there != (k.Type != ondisk.KeyDeleted && fault == 0) {
				t.Errorf("faults %d: after a key of type %v the leaf has one: %v", fault, k.Type, there)
			}
		}
	}
}

// While a slot is being filled from its leaf nobody changes it (I7): else what was read there would hide the change.
func TestFillExcludesWriters(t *testing.T) {
	for _, fault := range []Fault{0, FaultFillUnlocked} {
		pos := ondisk.Pos{Inode: 1, Offset: 7}
		var w *world
		var armed atomic.Bool
		written := make(chan error, 1)
		w = newWorld(t, func(c *Config) {
			c.Faults = fault
			c.Hook = func(_ *Tx, p Point, _ ondisk.BtreeID, at ondisk.Pos) {
				if p != PointFill || at != pos || !armed.CompareAndSwap(true, false) {
					return
				}
				waits := w.s.graph.Stats().Waits
				go func() {
					written <- w.s.Update(t.Context(), func(tx *Tx) error { return tx.Update(ondisk.BtreeAlloc, cookie(pos, 2), 0) })
				}()
				for len(written) == 0 && w.s.graph.Stats().Waits == waits {
					time.Sleep(time.Millisecond)
				}
			}
		})
		w.update(func(tx *Tx) error { return tx.Update(ondisk.BtreeAlloc, cookie(pos, 1), 0) })
		get := func() (v uint64) {
			err := w.s.View(t.Context(), func(tx *Tx) error {
				k, _, err := tx.Get(ondisk.BtreeAlloc, pos, 0)
				if err == nil {
					v, err = ondisk.DecodeCookie(k)
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
		armed.Store(true)
		if v := get(); v != 1 {
			t.Errorf("faults %d: read %d", fault, v)
		}
		if err := <-written; err != nil {
			t.Fatal(err)
		}
		if lost := get() != 2; lost != (fault != 0) {
			t.Errorf("faults %d: the change is lost: %v", fault, lost)
		}
	}
}

// The points come in the order in which the transaction meets them.
func TestHook(t *testing.T) {
	var points []Point
	on := false
	w := newWorld(t, func(c *Config) {
		c.Hook = func(tx *Tx, p Point, btree ondisk.BtreeID, pos ondisk.Pos) {
			if !on {
				return
			}
			if tx.Locker() == nil {
				t.Error("a transaction without locker")
			}
			if p == PointLock {
				return // one for each lock
			}
			if (p == PointLookup || p == PointFill) && (btree != ondisk.BtreeAlloc || pos.Offset != 7) {
				t.Errorf("%v of %v %v", p, btree, pos)
			}
			points = append(points, p)
		}
	})
	pos := ondisk.Pos{Inode: 1, Offset: 7}
	w.update(func(tx *Tx) error { return tx.Update(ondisk.BtreeAlloc, cookie(pos, 1), 0) })
	if err := w.s.Quiesce(t.Context()); err != nil {
		t.Fatal(err)
	}
	on = true
	restarted := false
	w.update(func(tx *Tx) error {
		err := tx.Scan(ondisk.BtreeAlloc, pos, pos, 0, func(ondisk.Key, ondisk.Pos) (bool, error) { return false, nil })
		if err != nil {
			return err
		}
		if !restarted {
			restarted = true
			return restartDeadlock
		}
		return tx.Update(ondisk.BtreeAlloc, cookie(pos, 2), 0)
	})
	on = false
	want := []Point{PointBegin, PointLookup, PointRestart, PointLookup, PointFill, PointCommit, PointCommitted, PointEnd}
	if !slices.Equal(points, want) {
		t.Errorf("points %v, want %v", points, want)
	}
}

// What a transaction took ahead is given back when it restarts, fails or has nothing to commit, the last thing first, and not when it is committed.
func TestOnAbort(t *testing.T) {
	failed := errors.New("failed")
	for _, tt := range []struct {
		name     string
		restarts int
		change   bool
		err      error
		want     string
	}{
		{"committed", 0, true, nil, "committed "},
		{"restarted", 2, true, nil, "b0 a0 b1 a1 committed "},
		{"failed", 1, true, failed, "b0 a0 b1 a1 "},
		{"nothing changed", 0, false, nil, "b0 a0 "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, nil)
			w.update(func(tx *Tx) error { return tx.Update(ondisk.BtreeAlloc, cookie(ondisk.Pos{Inode: 1}, 1), 0) }) // the root comes with a restart
			got, n := "", 0
			err := w.s.Update(t.Context(), func(tx *Tx) error {
				run := n
				n++
				tx.OnAbort(func() { got += fmt.Sprintf("a%d ", run) })
				tx.OnAbort(func() { got += fmt.Sprintf("b%d ", run) })
				tx.OnCommit(func(uint64) { got += "committed " })
				if tt.change {
					if err := tx.Update(ondisk.BtreeAlloc, cookie(ondisk.Pos{Inode: 1}, 2), 0); err != nil {
						return err
					}
				}
				if run < tt.restarts {
					return restartSplit
				}
				return tt.err
			})
			if !errors.Is(err, tt.err) || got != tt.want {
				t.Errorf("%q, %v, want %q", got, err, tt.want)
			}
		})
	}
}
