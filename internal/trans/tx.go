package trans

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/go-bcachefs/bcachefs/internal/journal"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/six"
)

// ErrRestart is wrapped by the errors after which a transaction has to be run again from its start. [Store.Update] and
// [Store.View] do so if the transaction's function returns one.
var ErrRestart = errors.New("transaction restart")

// restart says why a transaction has to be run again.
type restart string

func (r restart) Error() string { return "transaction restart: " + string(r) }
func (r restart) Is(err error) bool {
	return err == ErrRestart
}

// Reasons to restart, named as the reference names them.
const (
	restartDeadlock     = restart("would_deadlock")
	restartSplit        = restart("split_race")
	restartJournal      = restart("journal_res_get_blocked")
	restartFlushed      = restart("write_buffer_flushed")
	restartReplicas     = restart("replicas entry was not listed")
	restartCommitFailed = restart("commit was not possible at once")
)

// ReadFlags say what a read within a transaction locks and sees.
type ReadFlags uint8

// Flags of reads.
const (
	// ForUpdate locks the position for intent rather than shared: the caller means to update it in this transaction.
	ForUpdate ReadFlags = 1 << iota
	// Committed hides the transaction's own pending updates. Whatever decides on something that outlives the transaction, such
	// as that a bucket may be handed out, reads this way.
	Committed
	// Slots makes [Tx.Scan] report holes too.
	Slots
)

// UpdateFlags say how an update within a transaction is made.
type UpdateFlags uint8

// Flags of updates.
const (
	// NoTriggers makes the update bypass transactional triggers: the caller has made all other updates that belong to it.
	NoTriggers UpdateFlags = 1 << iota
	// BucketInvalidate is for the trigger of the alloc btree: the bucket's cached pointers become stale.
	BucketInvalidate
	// Exact sets or deletes the key at exactly its position also in btrees of extents: nothing that it overlaps is cut. It is for keys of
	// snapshots that nobody sees any more, and for what takes a key's place without being of another size.
	Exact

	applied // a pointer: the node has it already, only the journal is to get it
)

// Tx is a transaction: what it reads stays as it is until it ends, and what it updates happens at once or not at all.
//
// A Tx is used by one goroutine, within the function that [Store.Update] or [Store.View] calls with it, and may not be used
// afterwards. An error of its methods is returned by that function as it is, or wrapped: those that wrap [ErrRestart] have the
// function called again. The function must therefore have no effects but through the Tx, [Tx.OnCommit] among it, or undo them with [Tx.OnAbort].
//
// Keys that it hands out stay valid, also after the transaction, and must not be changed.
type Tx struct {
	s      *Store
	ctx    context.Context
	locker *six.Locker
	write  bool // inside Update

	nodes []heldNode // locked, each once
	slots []heldSlot // locked, each once; references are held

	updates  []update // sorted
	buffered []bufferedUpdate
	deltas   []Delta
	onCommit []func(seq uint64)
	onAbort  []func()
	arena    arena
	iter     Iter // of Get and Lookup
	iters    []*Iter
	nIters   int                           // of iters are in use
	trigger  struct{ old, new ondisk.Key } // that are shown to triggers

	attached  any
	flushed   bool // [Tx.FlushBuffered] has done it
	watermark journal.Watermark
	restarts  int
	seq       uint64 // of the commit
	res       journal.Reservation
}

// held says for how long a transaction keeps a lock: to its end, or until iterators that scan have moved on.
type held struct {
	keep  bool
	scans int // iterators that give it up when they move on
}

func (h *held) use(scan bool) {
	if scan {
		h.scans++
	} else {
		h.keep = true
	}
}

// leave is called for an iterator that scans and has moved on. It reports whether nobody needs the lock any more.
func (h *held) leave() bool {
	h.scans--
	return h.scans == 0 && !h.keep
}

type heldNode struct {
	b *bnode
	held
}

type heldSlot struct {
	s *slot
	held
}

// update is a pending change of one key.
type update struct {
	btree ondisk.BtreeID
	level uint8
	flags UpdateFlags
	key   ondisk.Key // of type deleted: the key goes away
	old   ondisk.Key // what is there; of type deleted if nothing is
	node  *bnode     // the leaf, but for cached btrees, where it is set only if the update is written through
	slot  *slot      // in btrees with a key cache
	done  bool       // triggers were run for key
}

// bufferedUpdate is a change that goes through the write buffer.
type bufferedUpdate struct {
	btree ondisk.BtreeID
	key   ondisk.Key
}

// Context is the context of the transaction.
func (tx *Tx) Context() context.Context { return tx.ctx }

// Bytes returns n zero bytes for a value of an update. They may be used until the transaction ends or restarts.
func (tx *Tx) Bytes(n int) []byte { return tx.arena.alloc(n) }

// OnCommit registers fn to run in the atomic part of the commit, all locks held, with the sequence number of the commit's
// journal entry. It must neither fail nor block. A transaction that restarts or is given up forgets it.
func (tx *Tx) OnCommit(fn func(seq uint64)) { tx.onCommit = append(tx.onCommit, fn) }

// OnAbort registers fn to run if the transaction is not committed, or restarts: it undoes what was taken ahead of the commit, such as a share of
// something that is limited. Those registered last run first. A commit forgets it.
func (tx *Tx) OnAbort(fn func()) { tx.onAbort = append(tx.onAbort, fn) }

// Attach has [Config.Counters] find v with the transaction: a promise of space that its commit takes from. A restart forgets it.
func (tx *Tx) Attach(v any) { tx.attached = v }

// Attached returns what was attached, nil if nothing was.
func (tx *Tx) Attached() any { return tx.attached }

// Watermark is how deep into the reserves of journal and allocator the transaction may go.
func (tx *Tx) Watermark() journal.Watermark { return tx.watermark }

// SetWatermark changes what [Tx.Watermark] returns.
func (tx *Tx) SetWatermark(w journal.Watermark) { tx.watermark = w }

// lock locks a node or slot; if that would be a deadlock the transaction is to restart.
func (tx *Tx) lock(l *six.Lock, kind six.Kind) error {
	tx.hook(PointLock, 0, ondisk.Pos{})
	err := tx.locker.Lock(tx.ctx, l, kind)
	if errors.Is(err, six.ErrDeadlock) {
		return restartDeadlock
	}
	return err
}

// lockNode returns the node of a level that covers p, locked until the transaction ends; nil if the btree is not that high.
func (tx *Tx) lockNode(t *tree, level uint8, p ondisk.Pos, kind six.Kind) (*bnode, error) {
	return tx.holdNode(t, level, p, kind, false)
}

// holdNode is [Tx.lockNode], but if scan is set then the lock is only kept until [Tx.leaveNode], unless somebody else in the
// transaction keeps it.
func (tx *Tx) holdNode(t *tree, level uint8, p ondisk.Pos, kind six.Kind, scan bool) (*bnode, error) {
	for i := len(tx.nodes) - 1; i >= 0; i-- { // few
		h := &tx.nodes[i]
		if b := h.b; b.tree == t && b.level == level && b.covers(p) {
			if err := tx.lockMore(b, kind); err != nil {
				return nil, err
			}
			h.use(scan)
			return b, nil
		}
	}
	for {
		b, err := tx.s.find(tx.ctx, t, level, p)
		if b == nil {
			return nil, err
		}
		if err := tx.lock(&b.lock, kind); err != nil {
			return nil, err
		}
		if !b.dead.Load() && b.level == level && b.covers(p) {
			if !b.used.Load() {
				b.used.Store(true)
			}
			tx.nodes = append(tx.nodes, heldNode{b: b})
			tx.nodes[len(tx.nodes)-1].use(scan)
			return b, nil
		}
		tx.locker.Unlock(&b.lock, kind)
	}
}

// lockMore takes a stronger lock on a node that the transaction has locked. The weaker one stays with it.
func (tx *Tx) lockMore(b *bnode, kind six.Kind) error {
	if tx.locker.Holds(&b.lock) >= kind {
		return nil
	}
	return tx.lock(&b.lock, kind)
}

// leaveNode ends what [Tx.holdNode] began for an iterator that scans.
func (tx *Tx) leaveNode(b *bnode) {
	for i := len(tx.nodes) - 1; i >= 0; i-- {
		if tx.nodes[i].b != b {
			continue
		}
		if tx.nodes[i].leave() {
			n := len(tx.nodes) - 1
			tx.nodes[i] = tx.nodes[n]
			tx.nodes[n] = heldNode{}
			tx.nodes = tx.nodes[:n]
			tx.locker.UnlockAllOf(&b.lock)
		}
		return
	}
}

// unlock gives up all locks.
func (tx *Tx) unlock() {
	tx.locker.UnlockAll()
	clear(tx.nodes)
	tx.nodes = tx.nodes[:0]
	for i := range tx.slots {
		tx.s.keys.put(tx.slots[i].s)
	}
	clear(tx.slots)
	tx.slots = tx.slots[:0]
}

// reset forgets everything but the transaction's age.
func (tx *Tx) reset() {
	tx.unlock()
	for _, fn := range slices.Backward(tx.onAbort) {
		fn()
	}
	tx.forgetAborts()
	clear(tx.updates)
	tx.updates = tx.updates[:0]
	clear(tx.buffered)
	tx.buffered = tx.buffered[:0]
	clear(tx.deltas)
	tx.deltas = tx.deltas[:0]
	clear(tx.onCommit)
	tx.onCommit = tx.onCommit[:0]
	tx.arena.reset()
	for _, it := range tx.iters[:tx.nIters] {
		it.reset(nil) // keeps no memory, and is of no use any more
	}
	tx.nIters = 0
	tx.seq, tx.attached = 0, nil
}

func (tx *Tx) forgetAborts() {
	clear(tx.onAbort)
	tx.onAbort = tx.onAbort[:0]
}

// View runs a transaction that only reads. What fn sees is one state of the filesystem.
func (s *Store) View(ctx context.Context, fn func(*Tx) error) error {
	s.cache.throttle(ctx)
	return s.run(ctx, journal.WatermarkNormal, false, fn)
}

// Update runs a transaction. If fn returns nil what it asked for is committed: at once, entirely, and durable once the journal
// entry of the sequence number that [Tx.OnCommit] tells was flushed. If fn, or the commit, asks for a restart everything is forgotten and
// fn is called again. After any other error nothing has happened.
func (s *Store) Update(ctx context.Context, fn func(*Tx) error) error {
	s.cache.throttle(ctx)
	return s.run(ctx, journal.WatermarkNormal, true, fn)
}

// UpdateAt is [Store.Update] with a watermark other than normal.
func (s *Store) UpdateAt(ctx context.Context, w journal.Watermark, fn func(*Tx) error) error {
	return s.run(ctx, w, true, fn)
}

func (s *Store) run(ctx context.Context, w journal.Watermark, write bool, fn func(*Tx) error) error {
	tx := s.begin(ctx, w, write)
	defer s.end(tx)
	for {
		err := fn(tx)
		if err == nil && write {
			err = tx.commit()
		}
		if !errors.Is(err, ErrRestart) {
			return err
		}
		tx.reset()
		if err := ctx.Err(); err != nil {
			return err
		}
		tx.restarts++
		if tx.restarts%maxRestarts == 0 {
			s.cfg.logf("a transaction was restarted %d times: %v", tx.restarts, err)
		}
		tx.locker.Restart()
		tx.hook(PointRestart, 0, ondisk.Pos{})
	}
}

// maxRestarts is after how many restarts of one transaction a message is due.
const maxRestarts = 10000

func (s *Store) begin(ctx context.Context, w journal.Watermark, write bool) *Tx {
	tx := s.txs.Get().(*Tx)
	tx.ctx, tx.watermark, tx.write, tx.restarts, tx.flushed = ctx, w, write, 0, false
	tx.locker.Renew()
	tx.hook(PointBegin, 0, ondisk.Pos{})
	return tx
}

func (s *Store) end(tx *Tx) {
	tx.reset()
	tx.hook(PointEnd, 0, ondisk.Pos{})
	tx.ctx = nil
	s.txs.Put(tx)
}

// arena hands out memory that lives as long as one run of a transaction. Old pieces stay intact as long as somebody refers to them: what was
// committed from them does not matter, as nodes copy what they keep, but keys handed out may.
type arena struct{ free []byte }

const arenaBytes = 4096

func (a *arena) alloc(n int) []byte {
	if n > arenaBytes/4 {
		return make([]byte, n)
	}
	if n > len(a.free) {
		a.free = make([]byte, arenaBytes)
	}
	b := a.free[:n:n]
	a.free = a.free[n:]
	return b
}

func (a *arena) reset() {} // what is left is still zero

// find returns the place of the first pending update of a btree's level at p or behind.
func (tx *Tx) find(btree ondisk.BtreeID, level uint8, p ondisk.Pos) (i int, exact bool) {
	return slices.BinarySearchFunc(tx.updates, p, func(u update, p ondisk.Pos) int {
		switch {
		case u.btree != btree:
			return int(u.btree) - int(btree)
		case u.level != level:
			return int(u.level) - int(level)
		}
		return u.key.Pos.Compare(p)
	})
}

// Update sets a key, or deletes what is at its position if it is of type deleted. Triggers run at commit. An update of the same
// position replaces the earlier one. In btrees of extents it replaces what is at its slots: keys that reach beyond are cut or
// split, pending ones too. The transaction keeps k.Val, which must not be changed any more.
func (tx *Tx) Update(btree ondisk.BtreeID, k ondisk.Key, flags UpdateFlags) error {
	if !tx.write {
		return fmt.Errorf("btree %v: update of %v in a transaction that only reads", btree, k.Pos)
	}
	if btree.Has(ondisk.BtreeIsExtents) && flags&Exact == 0 {
		return tx.updateExtent(btree, k, flags)
	}
	return tx.set(btree, k, flags)
}

// set queues an update of exactly one position of a leaf.
func (tx *Tx) set(btree ondisk.BtreeID, k ondisk.Key, flags UpdateFlags) error {
	i, pending := tx.find(btree, 0, k.Pos)
	if pending {
		u := &tx.updates[i]
		u.key, u.flags = k, flags
		return tx.lockThrough(u)
	}
	u := update{btree: btree, flags: flags, key: k}
	if err := tx.prepare(&u); err != nil {
		return err
	}
	if k.Type == ondisk.KeyDeleted && u.old.Type == ondisk.KeyDeleted {
		return nil
	}
	i, _ = tx.find(btree, 0, k.Pos)
	tx.updates = slices.Insert(tx.updates, i, u)
	return nil
}

// prepare locks for intent what an update is going to change and reads what is there.
func (tx *Tx) prepare(u *update) error {
	t := &tx.s.trees[u.btree]
	if tx.s.keys.caches(u.btree) {
		s, err := tx.lockSlot(u.btree, u.key.Pos, six.Intent)
		if err != nil {
			return err
		}
		u.slot = s
		if u.old, err = tx.fill(s); err != nil {
			return err
		}
	}
	if u.slot != nil {
		return tx.lockThrough(u)
	}
	b, err := tx.lockNode(t, 0, u.key.Pos, six.Intent)
	if err != nil {
		return err
	}
	u.node = b
	k, ok := b.keys.Get(u.key.Pos)
	if !ok {
		k = ondisk.Key{Pos: u.key.Pos}
	}
	u.old = k
	return nil
}

// lockThrough locks the leaf too if an update of a cached key creates or deletes it: it is written through.
func (tx *Tx) lockThrough(u *update) error {
	if u.slot == nil || u.node != nil || u.old.Type != ondisk.KeyDeleted && u.key.Type != ondisk.KeyDeleted || tx.s.broken(FaultNoWriteThrough) {
		return nil
	}
	b, err := tx.lockNode(&tx.s.trees[u.btree], 0, u.key.Pos, six.Intent)
	u.node = b
	return err
}

// Updates calls fn for what the transaction is going to change, but for buffered updates, until fn returns false. The keys must not be changed.
func (tx *Tx) Updates(fn func(btree ondisk.BtreeID, level uint8, k *ondisk.Key) bool) {
	for i := range tx.updates {
		if u := &tx.updates[i]; !fn(u.btree, u.level, &u.key) {
			return
		}
	}
}

// Replaced returns, as it was before the transaction, the first key at p or behind of the same inode and snapshot that the transaction changes or
// deletes.
func (tx *Tx) Replaced(btree ondisk.BtreeID, p ondisk.Pos) (k ondisk.Key, ok bool) {
	i, _ := tx.find(btree, 0, p)
	for ; i < len(tx.updates); i++ {
		u := &tx.updates[i]
		if u.btree != btree || u.level != 0 || u.key.Pos.Inode != p.Inode {
			break
		}
		if u.old.Type != ondisk.KeyDeleted && u.old.Pos.Snapshot == p.Snapshot {
			return u.old, true
		}
	}
	return k, false
}

// Buffered returns the pending buffered update of a position, if there is one.
func (tx *Tx) Buffered(btree ondisk.BtreeID, p ondisk.Pos) (k ondisk.Key, ok bool) {
	for i := range tx.buffered {
		if b := &tx.buffered[i]; b.btree == btree && b.key.Pos == p {
			return b.key, true
		}
	}
	return k, false
}

// UpdateBuffered queues an update that is blind to what is there, through the write buffer. The transaction keeps k.Val.
func (tx *Tx) UpdateBuffered(btree ondisk.BtreeID, k ondisk.Key) {
	for i := range tx.buffered {
		if b := &tx.buffered[i]; b.btree == btree && b.key.Pos == k.Pos {
			b.key = k
			return
		}
	}
	tx.buffered = append(tx.buffered, bufferedUpdate{btree, k})
}
