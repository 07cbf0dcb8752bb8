package alloc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// FakeFS is the committed state of a filesystem in memory, for tests of triggers and allocators. Its transactions lock the slots of btrees
// with a key cache as real ones do, but they never wait: who meets a lock restarts. It is safe for concurrent use.
//
// Names are exported for the tests in package alloc_test.
type FakeFS struct {
	// Transactional and Atomic are the triggers; nil: none are run. Set before the first transaction.
	Transactional func(tx Tx, btree ondisk.BtreeID, level uint8, old, k *ondisk.Key, flags TriggerFlags) error
	Atomic        func(btree ondisk.BtreeID, level uint8, old, k *ondisk.Key, seq uint64)
	// SameTrigger says whether one call of Transactional is to get both sides of a change; nil: if the types are the same.
	SameTrigger func(old, k ondisk.KeyType) bool
	// Hook, if set, is called without locks of the FakeFS at "get", "scan" (before each key), "commit" (before locks are taken) and
	// "committed" (before the transaction's locks are given up), so that tests can pause there.
	Hook func(point string, tx *FakeTx, btree ondisk.BtreeID, pos ondisk.Pos)

	mu         sync.Mutex
	btrees     map[ondisk.BtreeID]*fakeBtree
	accounting map[ondisk.AccountingPos][]int64
	slots      map[fakeSlot]*fakeLock
	seq        uint64 // of the last commit; each is a journal entry of its own
	restarts   int
}

// ErrFakeRestart is what methods of a FakeTx return that met another's lock.
var ErrFakeRestart = errors.New("fake: restart transaction")

type fakeSlot struct {
	Btree ondisk.BtreeID
	Pos   ondisk.Pos
}

type fakeLock struct {
	shared map[*FakeTx]bool
	intent *FakeTx
}

// NewFakeFS returns an empty filesystem whose first commit has the sequence number 1.
func NewFakeFS() *FakeFS {
	return &FakeFS{
		btrees:     map[ondisk.BtreeID]*fakeBtree{},
		accounting: map[ondisk.AccountingPos][]int64{},
		slots:      map[fakeSlot]*fakeLock{},
	}
}

// fakeBtree holds keys by position, and the positions in order, among them some of keys that are gone.
type fakeBtree struct {
	keys   map[ondisk.Pos]ondisk.Key
	order  []ondisk.Pos
	sorted bool
}

func (b *fakeBtree) set(k ondisk.Key) {
	if k.Type == ondisk.KeyDeleted {
		delete(b.keys, k.Pos)
		return
	}
	if _, ok := b.keys[k.Pos]; !ok {
		switch {
		case b.sorted && (len(b.order) == 0 || b.order[len(b.order)-1].Less(k.Pos)):
			b.order = append(b.order, k.Pos)
		case b.sorted && len(b.order) < 1024:
			if i, found := slices.BinarySearchFunc(b.order, k.Pos, ondisk.Pos.Compare); !found {
				b.order = slices.Insert(b.order, i, k.Pos)
			}
		default:
			b.order, b.sorted = append(b.order, k.Pos), false
		}
	}
	b.keys[k.Pos] = k
}

// next returns the first key at pos or behind.
func (b *fakeBtree) next(pos ondisk.Pos) (ondisk.Key, bool) {
	if !b.sorted {
		slices.SortFunc(b.order, ondisk.Pos.Compare)
		b.order, b.sorted = slices.Compact(b.order), true
	}
	i, _ := slices.BinarySearchFunc(b.order, pos, ondisk.Pos.Compare)
	for ; i < len(b.order); i++ {
		if k, ok := b.keys[b.order[i]]; ok {
			return k, true
		}
	}
	return ondisk.Key{}, false
}

func (fs *FakeFS) btree(id ondisk.BtreeID) *fakeBtree {
	b := fs.btrees[id]
	if b == nil {
		b = &fakeBtree{keys: map[ondisk.Pos]ondisk.Key{}, sorted: true}
		fs.btrees[id] = b
	}
	return b
}

// Key returns a committed key.
func (fs *FakeFS) Key(btree ondisk.BtreeID, pos ondisk.Pos) (ondisk.Key, bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	k, ok := fs.btree(btree).keys[pos]
	return k, ok
}

// Keys returns all committed keys of a btree in order.
func (fs *FakeFS) Keys(btree ondisk.BtreeID) []ondisk.Key {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	var keys []ondisk.Key
	b := fs.btree(btree)
	for k, ok := b.next(ondisk.PosMin); ok; k, ok = b.next(k.Pos.Next()) {
		keys = append(keys, k)
		if k.Pos == ondisk.SPosMax {
			break
		}
	}
	return keys
}

// SetKey sets a committed key behind the back of all triggers.
func (fs *FakeFS) SetKey(btree ondisk.BtreeID, k ondisk.Key) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.btree(btree).set(k)
}

// Counters returns the counters of an accounting position; nil if it never had any.
func (fs *FakeFS) Counters(p ondisk.AccountingPos) []int64 {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return slices.Clone(fs.accounting[p])
}

// Accounting returns all counters that are not zero.
func (fs *FakeFS) Accounting() map[ondisk.AccountingPos][]int64 {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	all := map[ondisk.AccountingPos][]int64{}
	for p, c := range fs.accounting {
		if slices.ContainsFunc(c, func(n int64) bool { return n != 0 }) {
			all[p] = slices.Clone(c)
		}
	}
	return all
}

// Seq returns the sequence number of the last commit, Restarts how often transactions had to begin again.
func (fs *FakeFS) Seq() uint64 {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.seq
}

// Restarts returns how often [FakeFS.Update] had to begin again.
func (fs *FakeFS) Restarts() int {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.restarts
}

// SlotCount returns the number of slots that are locked, by whomever.
func (fs *FakeFS) SlotCount() int {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return len(fs.slots)
}

// Update runs fn in transactions until one commits or fails for another reason than a restart.
func (fs *FakeFS) Update(fn func(tx *FakeTx) error) error {
	return fs.UpdateContext(context.Background(), fn)
}

// UpdateContext is Update with a context, which ends the waiting for locks.
func (fs *FakeFS) UpdateContext(ctx context.Context, fn func(tx *FakeTx) error) error {
	for {
		tx := fs.Begin(ctx)
		err := fn(tx)
		if err == nil {
			err = tx.Commit()
		}
		tx.End()
		if !errors.Is(err, ErrFakeRestart) {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		fs.mu.Lock()
		fs.restarts++
		fs.mu.Unlock()
		runtime.Gosched()
	}
}

// fakeUpdate is a pending update.
type fakeUpdate struct {
	btree        ondisk.BtreeID
	level        uint8
	old, k       ondisk.Key
	flags        UpdateFlags
	oldRun, nRun bool
}

// FakeTx is a transaction of a FakeFS.
type FakeTx struct {
	fs       *FakeFS
	ctx      context.Context
	updates  []*fakeUpdate
	byPos    map[fakeSlot]*fakeUpdate // of level 0
	buffered []fakeUpdate
	deltas   map[ondisk.AccountingPos][]int64
	hooks    []func(uint64)
	held     map[fakeSlot]bool // true: intent
	ended    bool
}

var _ Tx = (*FakeTx)(nil)

// Begin starts a transaction, which [FakeTx.End] must end.
func (fs *FakeFS) Begin(ctx context.Context) *FakeTx {
	return &FakeTx{fs: fs, ctx: ctx, byPos: map[fakeSlot]*fakeUpdate{}, deltas: map[ondisk.AccountingPos][]int64{}, held: map[fakeSlot]bool{}}
}

// Context implements [Tx].
func (tx *FakeTx) Context() context.Context { return tx.ctx }

// Held tells whether the transaction holds the lock of a slot, and whether for intent.
func (tx *FakeTx) Held(btree ondisk.BtreeID, pos ondisk.Pos) (held, intent bool) {
	tx.fs.mu.Lock()
	defer tx.fs.mu.Unlock()
	intent, held = tx.held[fakeSlot{btree, pos}]
	return held, intent
}

// HeldCount returns the number of slots whose locks the transaction holds.
func (tx *FakeTx) HeldCount() int {
	tx.fs.mu.Lock()
	defer tx.fs.mu.Unlock()
	return len(tx.held)
}

// Pending returns the pending update of a position.
func (tx *FakeTx) Pending(btree ondisk.BtreeID, pos ondisk.Pos) (ondisk.Key, bool) {
	if u := tx.byPos[fakeSlot{btree, pos}]; u != nil {
		return u.k, true
	}
	return ondisk.Key{}, false
}

// lock takes the lock of a slot; fs.mu is held.
func (tx *FakeTx) lock(s fakeSlot, intent bool) error {
	if had, ok := tx.held[s]; ok && (had || !intent) {
		return nil
	}
	l := tx.fs.slots[s]
	if l == nil {
		l = &fakeLock{shared: map[*FakeTx]bool{}}
		tx.fs.slots[s] = l
	}
	if intent {
		if l.intent != nil && l.intent != tx {
			return ErrFakeRestart
		}
		l.intent = tx
	} else {
		l.shared[tx] = true
	}
	tx.held[s] = intent
	return nil
}

// End gives up what the transaction holds; it may be called more than once.
func (tx *FakeTx) End() {
	tx.fs.mu.Lock()
	defer tx.fs.mu.Unlock()
	for s := range tx.held {
		l := tx.fs.slots[s]
		delete(l.shared, tx)
		if l.intent == tx {
			l.intent = nil
		}
		if len(l.shared) == 0 && l.intent == nil {
			delete(tx.fs.slots, s)
		}
	}
	clear(tx.held)
	tx.ended = true
}

func (tx *FakeTx) hook(point string, btree ondisk.BtreeID, pos ondisk.Pos) {
	if tx.fs.Hook != nil {
		tx.fs.Hook(point, tx, btree, pos)
	}
}

// Get implements [Tx].
func (tx *FakeTx) Get(btree ondisk.BtreeID, pos ondisk.Pos, flags ReadFlags) (ondisk.Key, bool, error) {
	tx.hook("get", btree, pos)
	if err := tx.ctx.Err(); err != nil {
		return ondisk.Key{}, false, err
	}
	tx.fs.mu.Lock()
	defer tx.fs.mu.Unlock()
	if btree.Has(ondisk.BtreeIsCached) {
		if err := tx.lock(fakeSlot{btree, pos}, flags&ForUpdate != 0); err != nil {
			return ondisk.Key{}, false, err
		}
	}
	k, ok := tx.get(btree, pos, flags&Committed != 0)
	if !ok {
		k = ondisk.Key{Type: ondisk.KeyDeleted, Pos: pos}
	}
	return k, ok, nil
}

func (tx *FakeTx) get(btree ondisk.BtreeID, pos ondisk.Pos, committed bool) (ondisk.Key, bool) {
	b := tx.fs.btree(btree)
	if btree.Has(ondisk.BtreeIsExtents) {
		k, ok := tx.nextExtent(btree, pos, committed)
		return k, ok && !pos.Less(k.Start())
	}
	if u := tx.byPos[fakeSlot{btree, pos}]; u != nil && !committed {
		return u.k, u.k.Type != ondisk.KeyDeleted
	}
	k, ok := b.keys[pos]
	return k, ok
}

// nextExtent returns the first extent that ends behind pos.
func (tx *FakeTx) nextExtent(btree ondisk.BtreeID, pos ondisk.Pos, committed bool) (ondisk.Key, bool) {
	b := tx.fs.btree(btree)
	k, ok := b.next(pos.NextSlot())
	if committed {
		return k, ok
	}
	for ok && tx.byPos[fakeSlot{btree, k.Pos}] != nil {
		k, ok = b.next(k.Pos.Next())
	}
	for s, u := range tx.byPos {
		if s.Btree == btree && u.k.Type != ondisk.KeyDeleted && pos.Less(s.Pos) && (!ok || s.Pos.Less(k.Pos)) {
			k, ok = u.k, true
		}
	}
	return k, ok
}

// Scan implements [Tx].
func (tx *FakeTx) Scan(btree ondisk.BtreeID, from, to ondisk.Pos, flags ReadFlags,
	fn func(k ondisk.Key, holeEnd ondisk.Pos) (bool, error)) error {
	extents := btree.Has(ondisk.BtreeIsExtents)
	for !to.Less(from) {
		tx.hook("scan", btree, from)
		if err := tx.ctx.Err(); err != nil {
			return err
		}
		tx.fs.mu.Lock()
		var k ondisk.Key
		var ok bool
		if extents {
			k, ok = tx.nextExtent(btree, from, true)
			ok = ok && !to.Less(k.Start())
		} else {
			k, ok = tx.fs.btree(btree).next(from)
			ok = ok && !to.Less(k.Pos)
		}
		tx.fs.mu.Unlock()
		if flags&Slots != 0 && (!ok || from.Less(k.Start())) {
			end := to.NextSlot()
			if ok {
				end = k.Start()
			}
			if more, err := fn(ondisk.Key{Type: ondisk.KeyDeleted, Pos: from}, end); err != nil || !more {
				return err
			}
		}
		if !ok {
			return nil
		}
		if more, err := fn(k, ondisk.Pos{}); err != nil || !more {
			return err
		}
		if k.Pos == ondisk.SPosMax {
			return nil
		}
		switch {
		case extents:
			from = k.Pos
		case btree.Has(ondisk.BtreeHasSnapshots), btree.Has(ondisk.BtreeHasSnapshotField):
			from = k.Pos.Next()
		default:
			from = k.Pos.NextSlot()
		}
	}
	return nil
}

// Update implements [Tx]. Of extents, only those of freespace are cut and merged; in other btrees an update that overlaps with a key
// at another position of the same snapshot panics.
func (tx *FakeTx) Update(btree ondisk.BtreeID, k ondisk.Key, flags UpdateFlags) error {
	if err := tx.ctx.Err(); err != nil {
		return err
	}
	tx.fs.mu.Lock()
	defer tx.fs.mu.Unlock()
	if btree.Has(ondisk.BtreeIsCached) {
		if err := tx.lock(fakeSlot{btree, k.Pos}, true); err != nil {
			return err
		}
	}
	switch {
	case btree == ondisk.BtreeFreespace:
		tx.updateFreespace(k, flags)
		return nil
	case btree.Has(ondisk.BtreeIsExtents) && k.Type != ondisk.KeyDeleted:
		if o, ok := tx.nextExtent(btree, k.Start(), false); ok && o.Pos != k.Pos && o.Pos.Snapshot == k.Pos.Snapshot && o.Size > 0 &&
			o.Start().Less(k.Pos) {
			panic(fmt.Sprintf("fake: %v at %v overlaps with %v at %v", k.Type, k.Pos, o.Type, o.Pos))
		}
	}
	tx.set(btree, k, flags)
	return nil
}

// set makes an exact pending update.
func (tx *FakeTx) set(btree ondisk.BtreeID, k ondisk.Key, flags UpdateFlags) {
	s := fakeSlot{btree, k.Pos}
	if u := tx.byPos[s]; u != nil {
		if u.oldRun || u.nRun {
			panic(fmt.Sprintf("fake: update of %v %v after its triggers ran", btree, k.Pos))
		}
		u.k, u.flags = k, flags
		return
	}
	old, ok := tx.fs.btree(btree).keys[k.Pos]
	if !ok {
		old = ondisk.Key{Type: ondisk.KeyDeleted, Pos: k.Pos}
	}
	u := &fakeUpdate{btree: btree, k: k, old: old, flags: flags}
	tx.updates = append(tx.updates, u)
	tx.byPos[s] = u
}

// updateFreespace cuts what overlaps with k out of the btree, and merges k with its neighbours.
func (tx *FakeTx) updateFreespace(k ondisk.Key, flags UpdateFlags) {
	const id = ondisk.BtreeFreespace
	end := k.Pos
	del := func(p ondisk.Pos) { tx.set(id, ondisk.Key{Type: ondisk.KeyDeleted, Pos: p}, flags) }
	for {
		o, ok := tx.nextExtent(id, k.Start(), false)
		if !ok || !o.Start().Less(end) {
			break
		}
		del(o.Pos)
		if o.Start().Less(k.Start()) {
			front := ondisk.CutBack(&o, uint32(k.Start().Offset-o.Start().Offset))
			tx.set(id, front, flags)
		}
		if end.Less(o.Pos) {
			tx.set(id, ondisk.CutFront(&o, uint32(end.Offset-o.Start().Offset), nil), flags)
			break
		}
	}
	if k.Type == ondisk.KeyDeleted {
		return
	}
	if prev, ok := tx.nextExtent(id, k.Start().Prev(), false); ok && prev.Pos == k.Start() && k.Start().Offset > 0 &&
		uint64(prev.Size)+uint64(k.Size) <= math.MaxUint32 {
		del(prev.Pos)
		k.Size += prev.Size
	}
	if next, ok := tx.nextExtent(id, k.Pos, false); ok && next.Start() == k.Pos && uint64(next.Size)+uint64(k.Size) <= math.MaxUint32 {
		k.Pos, k.Size = next.Pos, k.Size+next.Size
	}
	tx.set(id, k, flags)
}

// UpdateNode makes a pending update of a key in an interior node, whose old value the caller knows.
func (tx *FakeTx) UpdateNode(btree ondisk.BtreeID, level uint8, old, k ondisk.Key) {
	tx.updates = append(tx.updates, &fakeUpdate{btree: btree, level: level, old: old, k: k})
}

// UpdateBuffered implements [Tx].
func (tx *FakeTx) UpdateBuffered(btree ondisk.BtreeID, k ondisk.Key) {
	if !btree.Has(ondisk.BtreeIsWriteBuffer) {
		panic(fmt.Sprintf("fake: buffered update of %v", btree))
	}
	tx.buffered = append(tx.buffered, fakeUpdate{btree: btree, k: k})
}

// Account implements [Tx].
func (tx *FakeTx) Account(p ondisk.AccountingPos, deltas ...int64) {
	tx.deltas[p] = addCounters(tx.deltas[p], deltas)
}

func addCounters(dst, deltas []int64) []int64 {
	for len(dst) < len(deltas) {
		dst = append(dst, 0)
	}
	for i, d := range deltas {
		dst[i] += d
	}
	return dst
}

// OnCommit implements [Tx].
func (tx *FakeTx) OnCommit(fn func(seq uint64)) { tx.hooks = append(tx.hooks, fn) }

// Commit runs the triggers and makes the updates, all at once.
func (tx *FakeTx) Commit() error {
	if tx.ended {
		return errors.New("fake: transaction has ended")
	}
	if err := tx.runTriggers(); err != nil {
		return err
	}
	tx.hook("commit", 0, ondisk.Pos{})
	if err := tx.apply(); err != nil {
		return err
	}
	tx.hook("committed", 0, ondisk.Pos{})
	return nil
}

func (tx *FakeTx) runTriggers() error {
	if tx.fs.Transactional == nil {
		return nil
	}
	for id := ondisk.BtreeID(0); id < ondisk.NumBtrees; id++ {
		if id != ondisk.BtreeAlloc {
			if err := tx.runBtreeTriggers(id); err != nil {
				return err
			}
		}
	}
	return tx.runBtreeTriggers(ondisk.BtreeAlloc)
}

// runBtreeTriggers runs overwrites, then inserts, until there are no new updates.
func (tx *FakeTx) runBtreeTriggers(id ondisk.BtreeID) error {
	same := tx.fs.SameTrigger
	if same == nil {
		same = func(a, b ondisk.KeyType) bool { return a == b }
	}
	for again := true; again; {
		again = false
		for _, overwrite := range []bool{true, false} {
			for i := 0; i < len(tx.updates); i++ {
				u := tx.updates[i]
				if u.btree != id || u.flags&NoTriggers != 0 {
					continue
				}
				flags := TriggerInsert
				switch {
				case !u.oldRun && !u.nRun && same(u.old.Type, u.k.Type):
					flags = TriggerInsert | TriggerOverwrite
					u.oldRun, u.nRun = true, true
				case overwrite && !u.oldRun:
					flags, u.oldRun = TriggerOverwrite, true
				case !overwrite && !u.nRun:
					u.nRun = true
				default:
					continue
				}
				if u.flags&BucketInvalidate != 0 {
					flags |= TriggerBucketInvalidate
				}
				again = true
				if err := tx.fs.Transactional(tx, u.btree, u.level, &u.old, &u.k, flags); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (tx *FakeTx) apply() error {
	fs := tx.fs
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for _, u := range tx.updates {
		l := fs.slots[fakeSlot{u.btree, u.k.Pos}]
		if u.level != 0 || l == nil || !u.btree.Has(ondisk.BtreeIsCached) {
			continue
		}
		for other := range l.shared {
			if other != tx {
				return ErrFakeRestart
			}
		}
	}
	fs.seq++
	for _, fn := range tx.hooks {
		fn(fs.seq)
	}
	slices.SortStableFunc(tx.updates, func(a, b *fakeUpdate) int { return cmp.Compare(a.btree, b.btree) })
	for _, u := range tx.updates {
		if fs.Atomic != nil {
			fs.Atomic(u.btree, u.level, &u.old, &u.k, fs.seq)
		}
		if u.level == 0 {
			fs.btree(u.btree).set(u.k)
		}
	}
	for _, u := range tx.buffered {
		fs.btree(u.btree).set(u.k)
	}
	for p, d := range tx.deltas {
		fs.accounting[p] = addCounters(fs.accounting[p], d)
	}
	return nil
}
