package trans

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/go-bcachefs/bcachefs/internal/journal"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/six"
)

// The key cache holds single keys of some btrees, so that those that change all the time, as the states of buckets do, need not
// be written to their leaf each time: a change stays in its slot and in the journal until the journal wants its space back.
//
// # The rule
//
// Whoever reads a position of such a btree, through whatever iterator, holds the position's slot, filled or empty, until the
// transaction ends; only scans give it up when they move on. Every change of the position needs the slot exclusively. So there is
// one lock for the truth about a position, and it exists even if the cache has nothing for it: a slot that is empty lives as
// long as somebody holds or wants its lock.
//
// # What a slot may hold
//
// A filled slot holds a live key, and the leaf has a live key at the same position: creation and deletion are written through
// to the leaf in the same commit, and leave the slot empty. Therefore whoever goes over the leaves misses no position. A slot that is not
// dirty holds what the leaf does.
type keyCache struct {
	s      *Store
	shards [64]keyShard

	filled, dirty atomic.Int64
	full          atomic.Bool // too many are dirty
	limit         int64       // of filled slots
	shrinkAt      atomic.Int64
	wake          chan struct{} // of capacity 1
	flushPin      journal.PinFlush
}

type keyShard struct {
	mu    sync.Mutex
	slots map[slotKey]*slot
	_     [48]byte
}

type slotKey struct {
	pos   ondisk.Pos
	btree ondisk.BtreeID
}

// slot is the place of one key.
type slot struct {
	lock six.Lock
	at   slotKey

	refs int // lockers that hold or want lock; guarded by the shard's mutex

	// key is nil if the slot is empty. Going from nil to a key needs the lock shared, and is done by whoever is first; other
	// changes need it exclusively. A key that was stored does not change any more.
	key   atomic.Pointer[ondisk.Key]
	dirty atomic.Bool
	used  atomic.Bool

	pin journal.Pin // of the newest change, while dirty
	seq uint64      // of the newest change; guarded by lock
}

// defaultCachedKeys is how many slots are filled at most if nobody says otherwise.
const defaultCachedKeys = 1 << 16

func (c *keyCache) init(s *Store, limit int64) {
	c.s, c.limit, c.wake = s, limit, make(chan struct{}, 1)
	c.shrinkAt.Store(limit)
	c.flushPin = func(ctx context.Context, p *journal.Pin, seq uint64) error {
		return c.s.reclaimed(ctx, c.flush(ctx, p.Owner.(*slot), seq))
	}
	for i := range c.shards {
		c.shards[i].slots = map[slotKey]*slot{}
	}
}

// caches reports whether a btree has a key cache: those of which this version of the format's driver caches keys and that profit here.
func (c *keyCache) caches(btree ondisk.BtreeID) bool { return c.s.cached>>btree&1 != 0 }

func (c *keyCache) shard(at slotKey) *keyShard {
	h := (at.pos.Offset ^ at.pos.Inode*0x9e3779b97f4a7c15 ^ uint64(at.btree)<<32) * 0xff51afd7ed558ccd
	return &c.shards[h>>58]
}

// get returns the slot of a position with a reference, made if there was none.
func (c *keyCache) get(btree ondisk.BtreeID, p ondisk.Pos) *slot {
	at := slotKey{p, btree}
	sh := c.shard(at)
	sh.mu.Lock()
	s := sh.slots[at]
	if s == nil {
		s = &slot{at: at}
		s.pin.Owner = s
		sh.slots[at] = s
	}
	s.refs++
	sh.mu.Unlock()
	return s
}

// put gives up a reference. An empty slot goes with the last one.
func (c *keyCache) put(s *slot) {
	sh := c.shard(s.at)
	sh.mu.Lock()
	s.refs--
	if s.refs == 0 && s.key.Load() == nil {
		delete(sh.slots, s.at)
	}
	sh.mu.Unlock()
}

// lockSlot locks the slot of a position until the transaction ends.
func (tx *Tx) lockSlot(btree ondisk.BtreeID, p ondisk.Pos, kind six.Kind) (*slot, error) {
	return tx.holdSlot(btree, p, kind, false)
}

// holdSlot is [Tx.lockSlot], but if scan is set then the lock is only kept until [Tx.leaveSlot], unless somebody else in the
// transaction keeps it.
func (tx *Tx) holdSlot(btree ondisk.BtreeID, p ondisk.Pos, kind six.Kind, scan bool) (*slot, error) {
	if len(tx.slots) <= maxSlotScan {
		for i := range tx.slots {
			if h := &tx.slots[i]; h.s.at.btree == btree && h.s.at.pos == p {
				return h.s, tx.useSlot(h, kind, scan)
			}
		}
	}
	s := tx.s.keys.get(btree, p)
	if len(tx.slots) > maxSlotScan && tx.locker.Holds(&s.lock) != six.None {
		tx.s.keys.put(s)
		for i := range tx.slots {
			if h := &tx.slots[i]; h.s == s {
				return s, tx.useSlot(h, kind, scan)
			}
		}
	}
	if err := tx.lock(&s.lock, kind); err != nil {
		tx.s.keys.put(s)
		return nil, err
	}
	tx.slots = append(tx.slots, heldSlot{s: s})
	tx.slots[len(tx.slots)-1].use(scan)
	return s, nil
}

// maxSlotScan is among how many slots of a transaction one is searched by its position. If there are more, the cache finds it and the locker
// tells whether it is among them.
const maxSlotScan = 32

func (tx *Tx) useSlot(h *heldSlot, kind six.Kind, scan bool) error {
	if tx.locker.Holds(&h.s.lock) < kind {
		if err := tx.lock(&h.s.lock, kind); err != nil {
			return err
		}
	}
	h.use(scan)
	return nil
}

// leaveSlot ends what [Tx.holdSlot] began for an iterator that scans.
func (tx *Tx) leaveSlot(s *slot) {
	for i := len(tx.slots) - 1; i >= 0; i-- {
		if tx.slots[i].s != s {
			continue
		}
		if tx.slots[i].leave() {
			n := len(tx.slots) - 1
			tx.slots[i] = tx.slots[n]
			tx.slots[n] = heldSlot{}
			tx.slots = tx.slots[:n]
			tx.locker.UnlockAllOf(&s.lock)
			tx.s.keys.put(s)
		}
		return
	}
}

// fill returns the key at the position of a slot that the transaction has locked: from the slot or, if that is empty, from the
// leaf, and then the slot has it too. It is of type deleted if there is none.
//
// The leaf cannot say anything else until the slot is given up, so its own lock need not be kept.
func (tx *Tx) fill(s *slot) (ondisk.Key, error) {
	if k := s.key.Load(); k != nil {
		s.used.Store(true)
		return *k, nil
	}
	if tx.s.broken(FaultFillUnlocked) {
		return tx.fillUnlocked(s)
	}
	k, err := tx.leafKey(s.at.btree, s.at.pos)
	if err != nil || k.Type == ondisk.KeyDeleted {
		return k, err
	}
	tx.hook(PointFill, s.at.btree, s.at.pos)
	kept := k.Clone() // must not keep the leaf's memory
	if s.key.CompareAndSwap(nil, &kept) {
		tx.s.keys.gained()
	}
	return k, nil
}

// leafKey returns what the leaf says of a position.
func (tx *Tx) leafKey(btree ondisk.BtreeID, p ondisk.Pos) (ondisk.Key, error) {
	b, err := tx.holdNode(&tx.s.trees[btree], 0, p, six.Shared, true)
	if err != nil {
		return ondisk.Key{}, err
	}
	defer tx.leaveNode(b)
	if k, ok := b.keys.Get(p); ok {
		return k, nil
	}
	return ondisk.Key{Pos: p}, nil
}

// store puts a committed change into a slot that is locked exclusively.
func (c *keyCache) store(s *slot, k *ondisk.Key, seq uint64) {
	kept := k.Clone()
	if s.key.Swap(&kept) == nil {
		c.gained()
	}
	s.seq = seq
	s.used.Store(true)
	if !s.dirty.Swap(true) {
		c.soiled(1)
		c.s.journal.AddPin(seq, &s.pin, journal.PinKeyCache, c.flushPin)
	}
}

// drop empties a slot that is locked exclusively: the leaf has the truth now.
func (c *keyCache) drop(s *slot) {
	if s.key.Swap(nil) != nil {
		c.filled.Add(-1)
	}
	if s.dirty.Swap(false) {
		c.soiled(-1)
		c.s.journal.DropPin(&s.pin)
	}
}

// flush writes a slot to its leaf. If the slot was changed since the journal entry whose space is wanted, it is enough that it
// pins the entry of that change instead.
func (c *keyCache) flush(ctx context.Context, s *slot, wanted uint64) error {
	sh := c.shard(s.at)
	sh.mu.Lock()
	if sh.slots[s.at] != s { // it was emptied meanwhile; another may have taken its place
		sh.mu.Unlock()
		return nil
	}
	s.refs++ // it stays in the map
	sh.mu.Unlock()
	defer c.put(s)
	return c.s.run(ctx, journal.WatermarkReclaim, true, func(tx *Tx) error {
		s, err := tx.lockSlot(s.at.btree, s.at.pos, six.Intent)
		if err != nil {
			return err
		}
		if !s.dirty.Load() {
			return nil
		}
		if s.seq > wanted {
			c.s.journal.UpdatePin(s.seq, &s.pin, journal.PinKeyCache, c.flushPin)
			return nil
		}
		b, err := tx.lockNode(&c.s.trees[s.at.btree], 0, s.at.pos, six.Intent)
		if err != nil {
			return err
		}
		return tx.commitDirect(b, []directKey{{*s.key.Load(), s.seq, s.seq}}, func() {
			s.dirty.Store(false)
			c.soiled(-1)
			c.s.journal.DropPin(&s.pin)
		})
	})
}

// shrink drops clean slots that were not used lately, until at most want are filled.
func (c *keyCache) shrink(want int64) {
	for i := range c.shards {
		sh := &c.shards[i]
		sh.mu.Lock()
		for _, s := range sh.slots {
			if c.filled.Load() <= want {
				break
			}
			c.dropClean(sh, s)
		}
		sh.mu.Unlock()
	}
}

// dropClean drops a slot if it is clean and was not used lately. The caller holds the shard's lock.
func (c *keyCache) dropClean(sh *keyShard, s *slot) {
	// Nobody holds or wants the lock of a slot without references.
	if s.refs > 0 || s.dirty.Load() || s.used.Swap(false) {
		return
	}
	if s.key.Swap(nil) != nil {
		c.filled.Add(-1)
	}
	delete(sh.slots, s.at)
}

// run empties slots when there are too many, until the context ends.
func (c *keyCache) run(ctx context.Context) {
	for {
		select {
		case <-c.wake:
		case <-ctx.Done():
			return
		}
		c.shrinkSome()
	}
}

// shrinkSome empties slots when there are too many.
func (c *keyCache) shrinkSome() {
	for range 2 { // slots that were used get a second chance
		if c.s.cfg.Ordered {
			c.shrinkOrdered(c.limit * 7 / 8)
		} else {
			c.shrink(c.limit * 7 / 8)
		}
	}
	// Those that are left are in use, or dirty: they have to be flushed first.
	c.shrinkAt.Store(max(c.limit, c.filled.Load()+c.limit/16))
}

// gained counts a slot that was filled.
func (c *keyCache) gained() {
	if c.filled.Add(1) > c.shrinkAt.Load() {
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
}

// Of how many keys in the cache so many may be dirty before the journal is to flush some; before those have to wait who would make more so; until they
// may go on.
func pressAbove(keys int64) int64 { return 1024 + keys/2 }
func fullAbove(keys int64) int64  { return 4096 + keys/4*3 }
func fullUntil(keys int64) int64  { return 2048 + keys/8*5 }

func (c *keyCache) pressure() int {
	return int(max(c.dirty.Load()-pressAbove(c.filled.Load()), 0))
}

// soiled counts a slot that has become dirty, or with -1 clean.
func (c *keyCache) soiled(n int64) {
	dirty, filled := c.dirty.Add(n), c.filled.Load()
	if full := c.full.Load(); !full && dirty > fullAbove(filled) || full && dirty <= fullUntil(filled) {
		c.full.Store(!full)
		c.s.block()
	}
}

// flushAll writes all dirty slots to their leaves, and reports whether there were any.
func (c *keyCache) flushAll(ctx context.Context) (bool, error) {
	var dirty []*slot
	for i := range c.shards {
		sh := &c.shards[i]
		sh.mu.Lock()
		for _, s := range sh.slots {
			if s.dirty.Load() {
				s.refs++ // until it is flushed
				dirty = append(dirty, s)
			}
		}
		sh.mu.Unlock()
	}
	inOrder(dirty)
	var err error
	for _, s := range dirty {
		if err == nil {
			err = c.flush(ctx, s, ^uint64(0))
		}
		c.put(s)
	}
	return len(dirty) > 0, err
}
