package trans

import (
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/six"
)

// A Fault is a protection that is switched off, to show what it is good for. Nothing but tests and the demonstration of the race set any.
type Fault uint8

// Faults, and the invariants of package alloc that they break.
const (
	// FaultNoSlotRule makes iterators that go over the leaves of a cached btree lock a position's slot only if it is filled: what they read
	// where it is empty may change at any moment (I6).
	FaultNoSlotRule Fault = 1 << iota
	// FaultNoWriteThrough keeps keys that are created or deleted in the key cache: an iterator over the leaves does not know of them (I7).
	FaultNoWriteThrough
	// FaultFillUnlocked gives up a slot while it is filled from its leaf: it may be changed meanwhile (I7).
	FaultFillUnlocked
)

// A Point is a place in a transaction between whose neighbours anything may happen.
type Point string

// The points. At those without btree that is 0, as is the position.
const (
	PointBegin     Point = "tx:begin"     // a transaction begins; it holds nothing
	PointRestart   Point = "tx:restart"   // it begins again, and has given everything up
	PointLock      Point = "tx:lock"      // it is about to take a lock, and may come to wait
	PointLookup    Point = "cache:lookup" // an iterator over a leaf is about to ask the key cache; has btree and position
	PointFill      Point = "cache:fill"   // a slot that is locked is about to be filled from its leaf; has btree and position
	PointCommit    Point = "tx:commit"    // everything that the commit changes is locked exclusively
	PointCommitted Point = "tx:committed" // the commit has happened, all locks are given up
	PointEnd       Point = "tx:end"       // a transaction is over
)

// Hook is called at a point by the goroutine of the transaction, and may block. Locks of nodes and slots may be held, mutexes are not.
type Hook func(tx *Tx, p Point, btree ondisk.BtreeID, pos ondisk.Pos)

func (tx *Tx) hook(p Point, btree ondisk.BtreeID, pos ondisk.Pos) {
	if tx.s.cfg.Hook != nil {
		tx.s.cfg.Hook(tx, p, btree, pos)
	}
}

// Locker is what takes the transaction's locks, for hooks that want to know whose waits [Config.LockHook] tells of.
func (tx *Tx) Locker() *six.Locker { return tx.locker }

// isFilled reports whether the cache has a key for a position, without its lock: for [FaultNoSlotRule].
func (c *keyCache) isFilled(btree ondisk.BtreeID, p ondisk.Pos) bool {
	at := slotKey{p, btree}
	sh := c.shard(at)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	s := sh.slots[at]
	return s != nil && s.key.Load() != nil
}

// fillUnlocked is [Tx.fill] of an empty slot with [FaultFillUnlocked].
func (tx *Tx) fillUnlocked(s *slot) (ondisk.Key, error) {
	kind := tx.locker.Holds(&s.lock)
	tx.locker.UnlockAllOf(&s.lock)
	k, err := tx.leafKey(s.at.btree, s.at.pos)
	if err != nil {
		return k, err
	}
	tx.hook(PointFill, s.at.btree, s.at.pos)
	if err := tx.lock(&s.lock, kind); err != nil || k.Type == ondisk.KeyDeleted {
		return k, err
	}
	kept := k.Clone()
	if s.key.Swap(&kept) == nil {
		tx.s.keys.gained()
	}
	return k, nil
}

func (s *Store) broken(f Fault) bool { return s.cfg.Faults&f != 0 }

// LockPlace says what one of the store's locks is for: the slot of a position in the key cache, or the node whose last position it is.
// It looks at everything in memory, which is for traces; ok is false if it is not found.
func (s *Store) LockPlace(l *six.Lock) (btree ondisk.BtreeID, pos ondisk.Pos, slot, ok bool) {
	for i := range s.keys.shards {
		sh := &s.keys.shards[i]
		sh.mu.Lock()
		for at, sl := range sh.slots {
			if &sl.lock == l {
				sh.mu.Unlock()
				return at.btree, at.pos, true, true
			}
		}
		sh.mu.Unlock()
	}
	for _, b := range s.cache.all() {
		if &b.lock == l {
			return b.tree.id, b.max, false, true
		}
	}
	return 0, pos, false, false
}
