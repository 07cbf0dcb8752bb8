package trans

import (
	"context"
	"testing"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/six"
)

// becomesFree is free, but waits a moment for who has the lock for a moment: a node that was just written, or made reachable.
func (w *world) becomesFree(l *six.Lock) bool {
	for range 1000 {
		if w.free(l) {
			return true
		}
		time.Sleep(time.Millisecond)
	}
	return false
}

// free reports whether another could lock l exclusively at once.
func (w *world) free(l *six.Lock) bool {
	lk := w.s.graph.NewLocker()
	defer lk.UnlockAll()
	return lk.TryLock(l, six.Intent) && lk.TryLock(l, six.Exclusive)
}

// What is read with Get while a scan passes stays locked when the scan has moved on; what only the scan saw does not.
func TestScanLeavesWhatOthersRead(t *testing.T) {
	for _, btree := range []ondisk.BtreeID{ondisk.BtreeAlloc, ondisk.BtreeQuotas} {
		t.Run(btree.String(), func(t *testing.T) {
			w := newWorld(t, nil)
			const n, chosen = 3000, 7
			at := func(i uint64) ondisk.Pos { return ondisk.Pos{Inode: 1, Offset: i} }
			for i := range uint64(n) {
				w.update(func(tx *Tx) error { return tx.Update(btree, cookie(at(i), i), 0) })
			}
			lockOf := func(i uint64) *six.Lock {
				if w.s.keys.caches(btree) {
					sl := w.s.keys.get(btree, at(i))
					defer w.s.keys.put(sl)
					return &sl.lock
				}
				b, err := w.s.find(t.Context(), &w.s.trees[btree], 0, at(i))
				if err != nil {
					t.Fatal(err)
				}
				return &b.lock
			}
			err := w.s.View(t.Context(), func(tx *Tx) error {
				seen := uint64(0)
				err := tx.Scan(btree, ondisk.PosMin, ondisk.SPosMax, 0, func(k ondisk.Key, _ ondisk.Pos) (bool, error) {
					seen++
					if k.Pos.Offset != chosen {
						return true, nil
					}
					_, ok, err := tx.Get(btree, k.Pos, Committed)
					if !ok {
						t.Errorf("nothing at %v", k.Pos)
					}
					return true, err
				})
				if seen != n {
					t.Errorf("saw %d keys", seen)
				}
				if w.free(lockOf(chosen)) {
					t.Error("what was read is not locked any more")
				}
				if !w.becomesFree(lockOf(n - 1)) {
					t.Error("what was only scanned is locked")
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			if !w.becomesFree(lockOf(chosen)) {
				t.Error("locked after the end of the transaction")
			}
		})
	}
}

// Two scans over the same leaf do not take each other's lock away.
func TestTwoScans(t *testing.T) {
	w := newWorld(t, nil)
	for i := range uint64(3000) {
		w.update(func(tx *Tx) error { return tx.Update(ondisk.BtreeQuotas, cookie(ondisk.Pos{Offset: i}, i), 0) })
	}
	err := w.s.View(t.Context(), func(tx *Tx) error {
		slow, fast := tx.Iter(ondisk.BtreeQuotas, ondisk.PosMin, Scanning), tx.Iter(ondisk.BtreeQuotas, ondisk.PosMin, Scanning)
		if _, ok, err := slow.Peek(); !ok || err != nil {
			return err
		}
		for _, ok, err := fast.Peek(); ok || err != nil; _, ok, err = fast.Next() {
			if err != nil {
				return err
			}
		}
		if w.free(&slow.leaf.lock) {
			t.Error("a scan stands at a leaf that is not locked")
		}
		fast.Close()
		slow.Close()
		if len(tx.nodes) > 0 || tx.locker.Held() > 0 {
			t.Errorf("%d nodes are left", len(tx.nodes))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A transaction that holds very many slots finds those that it has.
func TestManySlots(t *testing.T) {
	w := newWorld(t, nil)
	const n = 500
	for round := range 3 {
		w.update(func(tx *Tx) error {
			for i := range uint64(n) {
				k, ok, err := tx.Get(ondisk.BtreeAlloc, ondisk.Pos{Offset: i}, 0)
				if err != nil {
					return err
				}
				v := uint64(0)
				if ok {
					if v, err = ondisk.DecodeCookie(k); err != nil {
						return err
					}
				}
				if v != uint64(round) {
					t.Errorf("key %d is %d", i, v)
				}
				if err := tx.Update(ondisk.BtreeAlloc, cookie(ondisk.Pos{Offset: i}, v+1), 0); err != nil {
					return err
				}
			}
			if len(tx.slots) != n {
				t.Errorf("%d slots held", len(tx.slots))
			}
			return nil
		})
	}
}

// The journal may ask a slot to be flushed that was emptied just before. That must not hurt one that took its place.
func TestFlushOfEmptiedSlot(t *testing.T) {
	w := newWorld(t, nil)
	p := ondisk.Pos{Offset: 7}
	set := func(v uint64) {
		w.update(func(tx *Tx) error { return tx.Update(ondisk.BtreeAlloc, cookie(p, v), 0) })
	}
	set(1) // written through
	set(2)
	at := slotKey{p, ondisk.BtreeAlloc}
	slots := w.s.keys.shard(at).slots
	old := slots[at]
	if old == nil || !old.dirty.Load() {
		t.Fatal("no dirty slot")
	}
	w.update(func(tx *Tx) error { return tx.Update(ondisk.BtreeAlloc, ondisk.Key{Pos: p}, 0) })
	if slots[at] != nil {
		t.Fatal("the slot is still there")
	}
	set(3)
	err := w.s.View(t.Context(), func(tx *Tx) error {
		if _, _, err := tx.Get(ondisk.BtreeAlloc, p, 0); err != nil {
			return err
		}
		now := slots[at]
		if err := w.s.keys.flush(context.Background(), old, ^uint64(0)); err != nil {
			return err
		}
		if slots[at] != now || now == old {
			t.Error("the slot that is held is not the position's any more")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Iterators end behind the last position that there is, and begin at it.
func TestLastPosition(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.IsAncestor = func(a, b uint32) bool { return a == b } })
	last := ondisk.SPosMax
	for _, tt := range []struct {
		btree ondisk.BtreeID
		flags IterFlags
	}{{ondisk.BtreeXattrs, AllSnapshots}, {ondisk.BtreeXattrs, 0}, {ondisk.BtreeQuotas, 0}, {ondisk.BtreeQuotas, AllSnapshots}} {
		p := last
		if !tt.btree.Has(ondisk.BtreeHasSnapshots) {
			p.Snapshot = 0
		}
		w.update(func(tx *Tx) error { return tx.Update(tt.btree, cookie(p, 1), 0) })
		err := w.s.View(t.Context(), func(tx *Tx) error {
			it := tx.Iter(tt.btree, ondisk.Pos{Inode: 1, Snapshot: p.Snapshot}, tt.flags)
			n := 0
			for _, ok, err := it.Peek(); ok && n < 5; _, ok, err = it.Next() {
				if err != nil {
					return err
				}
				n++
			}
			if n != 1 {
				t.Errorf("%v with flags %d: %d keys or more", tt.btree, tt.flags, n)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		// A pending deletion of the last key does not send the iterator around either.
		w.update(func(tx *Tx) error {
			if err := tx.Update(tt.btree, ondisk.Key{Pos: p}, 0); err != nil {
				return err
			}
			if k, ok, err := tx.Iter(tt.btree, p, tt.flags).Peek(); ok || err != nil {
				t.Errorf("%v: after deletion: %v %v", tt.btree, k, err)
			}
			return nil
		})
	}
	// The pointers of a level end with the last position.
	for i := range uint64(2000) {
		w.update(func(tx *Tx) error { return tx.Update(ondisk.BtreeQuotas, cookie(ondisk.Pos{Offset: i}, i), 0) })
	}
	err := w.s.View(t.Context(), func(tx *Tx) error {
		it := tx.NodeIter(ondisk.BtreeQuotas, 1, ondisk.PosMin, 0)
		n := 0
		for _, ok, err := it.Peek(); ok && n < 1000; _, ok, err = it.Next() {
			if err != nil {
				return err
			}
			n++
		}
		if n < 2 || n >= 1000 {
			t.Errorf("%d pointers", n)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A transaction that puts very much into one small leaf makes it many, on more levels than one at once.
func TestLargeTransaction(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.NodeBytes = 2048 })
	want := map[uint64]uint64{}
	for round := range uint64(3) {
		w.update(func(tx *Tx) error {
			for i := range uint64(1000) {
				if err := tx.Update(ondisk.BtreeQuotas, cookie(ondisk.Pos{Inode: 1, Offset: i*3 + round}, i), 0); err != nil {
					return err
				}
				want[i*3+round] = i
			}
			return nil
		})
		w.check(ondisk.BtreeQuotas, want)
	}
	if err := w.s.Quiesce(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.check(ondisk.BtreeQuotas, want)
	w.reopen()
	w.check(ondisk.BtreeQuotas, want)
}
