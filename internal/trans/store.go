// Package trans is the write engine of the btrees: transactions, iterators, key cache, write buffer, and the changes of the
// trees themselves.
//
// # Transactions
//
// [Store.Update] and [Store.View] run a function with a [Tx]. What it reads it has locked, and keeps locked until it ends, so
// that transactions are serialisable over all btrees; only [Tx.Scan] and iterators with [Scanning] let go of what they have passed. Its
// updates are kept aside, in its own view, until the function returns; then triggers add their consequences, the
// nodes and slots concerned are locked exclusively, the journal gets one record of all, and they are applied: at once, for
// everybody else. Locks are six locks; a wait that would be a deadlock ends with a restart, as does a commit for which a
// node must be split first or the journal has no space: everything is forgotten and the function called again.
//
// # What is on the devices
//
// A committed change is in the journal and in memory. It reaches its node's place when the node is written: because the journal
// wants its space back, or the memory is wanted. See node writes (nodewrite.go) and changes of the tree (interior.go) for the
// order of things that makes each moment safe.
//
// # Goroutines
//
// A store has goroutines of its own: one completes interior updates, one evicts nodes, one flushes the write buffer, one merges small nodes, some
// write nodes; they end with [Store.Close]. The journal calls back from its own.
//
// # Order of locks
//
// Six locks of nodes and slots come first, in any order, as cycles are detected. While one is held, mutexes may be taken for a moment:
// bnode.wmu, those of key cache, node cache, write buffer, interior queue and tree. Under child.load a node is read from its device.
package trans

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
	"github.com/go-bcachefs/bcachefs/internal/codec/crypt"
	"github.com/go-bcachefs/bcachefs/internal/journal"
	"github.com/go-bcachefs/bcachefs/internal/node"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/six"
)

// ErrWouldBlock is returned by a [NodeAllocator] that may not wait.
var ErrWouldBlock = errors.New("would have to wait")

// NodeSpace is space for one btree node on as many devices as metadata is to be kept on.
type NodeSpace struct {
	Addrs []ondisk.NodeAddr
	// Release is called once the pointer to the node is journalled. Return is called instead if nothing was written there; nil: Release is.
	Release, Return func()
}

func (n *NodeSpace) release() {
	if n.Release != nil {
		n.Release()
	}
}

// giveBack is release of space to which nothing was written.
func (n *NodeSpace) giveBack() {
	if n.Return != nil {
		n.Return()
		return
	}
	n.release()
}

// NodeAllocator hands out space for nodes.
type NodeAllocator interface {
	// AllocNodes gets space for n nodes. If nonblocking it returns [ErrWouldBlock] rather than wait. It is not called with locks
	// held unless nonblocking.
	AllocNodes(ctx context.Context, n int, w journal.Watermark, nonblocking bool) ([]NodeSpace, error)
}

// Replicas knows which sets of devices the superblock lists as holding data.
type Replicas interface {
	Listed(p *ondisk.AccountingPos) bool
	// Add lists one; the superblock is written when it returns.
	Add(ctx context.Context, p *ondisk.AccountingPos) error
}

// Config is what a [Store] needs of its filesystem.
type Config struct {
	NodeBytes, BlockBytes int
	Magic                 uint64 // [ondisk.NodeMagic]
	Version               ondisk.MetadataVersion
	Csum                  checksum.Type // of nodes
	Key                   *crypt.Key
	ExtentTypeU64s        ondisk.ExtentTypeU64s
	CacheBytes            int64 // of nodes in memory
	CachedKeys            int64 // in the key cache; 0: 65536

	// Roots are where the btrees start; a btree without starts empty.
	Roots map[ondisk.BtreeID]Root
	// Overlay are the keys of the journal to be replayed, and ReplaySeqs the first and the last entry that they come from.
	Overlay    *journal.Overlay
	ReplaySeqs node.SeqRange

	// ReadNode reads and decodes the node that a pointer leads to, of a level.
	ReadNode func(ctx context.Context, btree ondisk.BtreeID, level uint8, ptr ondisk.Key) (*ondisk.Node, error)
	// WriteNode writes a part of a node, from sector off of it on, to all its replicas.
	WriteNode func(ctx context.Context, addrs []ondisk.NodeAddr, off ondisk.Sector, buf []byte) error
	// MarkNodes makes sure that the members' superblocks say that there are nodes at addrs.
	MarkNodes func(ctx context.Context, addrs []ondisk.NodeAddr) error
	Alloc     NodeAllocator
	Replicas  Replicas

	// Trigger adds to a transaction what an update of a key entails, and may change new. Atomic does what is left when the journal entry is
	// known, with all locks held; it must not fail. Counters is told of changes of accounting counters.
	Trigger func(tx *Tx, btree ondisk.BtreeID, level uint8, old, new *ondisk.Key, flags UpdateFlags) error
	// SameTrigger reports whether keys of two types are of one kind: then one call of Trigger gets both sides of a change, else there are two, the
	// first with what is replaced. nil: if the types are the same.
	SameTrigger func(old, new ondisk.KeyType) bool
	Atomic      func(btree ondisk.BtreeID, level uint8, old, new *ondisk.Key, seq uint64)
	Counters    func(tx *Tx, deltas []Delta)

	// IsAncestor reports whether snapshot a is b or an ancestor of it; nil: every snapshot is its own only one.
	IsAncestor func(a, b uint32) bool
	// Rand is where the identities of nodes come from; nil: random.
	Rand func() uint64
	// OnError is told once that no more can be written, and why.
	OnError func(error)
	Logf    func(format string, args ...any)

	// Ordered keeps the store from having goroutines, so that the same transactions make the same bytes: see [Store.Settle].
	Ordered bool

	// NoKeyCache are bits of btrees whose keys are not cached; for tests.
	NoKeyCache uint64

	// What follows is for tests and demonstrations that choose who runs when. Hook is called at named points and LockHook told of waits
	// for locks; nil: not. Faults are protections that are off. NoWorkers keeps the store from having goroutines: nothing is
	// merged, evicted or flushed by itself, and nodes must not need to be split.
	Hook      Hook
	LockHook  six.Hook
	Faults    Fault
	NoWorkers bool
}

func (c *Config) logf(format string, args ...any) {
	if c.Logf != nil {
		c.Logf(format, args...)
	}
}

// Root is where a btree starts.
type Root struct {
	Level uint8 // of the root node
	Key   ondisk.Key
}

// Store is the btrees of one filesystem, open for writing. Its methods are safe for concurrent use.
type Store struct {
	cfg     Config
	graph   six.Graph
	journal *journal.Writer
	trees   [ondisk.MaxBtrees]tree
	cached  uint64 // bits of btrees with a key cache

	keys        keyCache
	cache       nodeCache
	wb          writeBuffer
	interior    interiorQueue
	merges      mergeQueue
	writeParams node.WriteParams

	flushNode journal.PinFlush // flushNodePin
	writes    writeQueue

	txs     sync.Pool
	buffers sync.Pool

	overlay atomic.Pointer[journal.Overlay] // nil once it is in the nodes

	blockMu sync.Mutex

	ctx     context.Context // of the store's goroutines
	stop    context.CancelFunc
	wg      sync.WaitGroup
	failure atomic.Pointer[error]
}

// New returns a store. It reads nothing yet. The journal is given with [Store.Start].
func New(cfg Config) *Store {
	s := &Store{cfg: cfg}
	if cfg.Overlay.Len() > 0 {
		s.overlay.Store(cfg.Overlay)
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.cached = (1<<ondisk.BtreeAlloc | 1<<ondisk.BtreeInodes) &^ cfg.NoKeyCache
	s.writeParams = node.WriteParams{Version: cfg.Version, Csum: cfg.Csum, Key: cfg.Key}
	s.flushNode = s.flushNodePin
	s.graph.Hook = cfg.LockHook
	s.newBuffers()
	s.txs.New = func() any { return &Tx{s: s, locker: s.graph.NewLocker()} }
	s.keys.init(s, cmp.Or(cfg.CachedKeys, defaultCachedKeys))
	s.cache.init(s, max(cfg.CacheBytes, 1))
	s.wb.s, s.wb.wake = s, make(chan struct{}, 1)
	s.interior.wake, s.merges.wake = make(chan struct{}, 1), make(chan struct{}, 1)
	s.interior.space, s.merges.rest = sync.NewCond(&s.interior.mu), sync.NewCond(&s.merges.mu)
	for id := range s.trees {
		t := &s.trees[id]
		t.id = ondisk.BtreeID(id)
		if r, ok := cfg.Roots[t.id]; ok {
			t.root.Store(newChild(r.Level, r.Key))
			continue
		}
		t.root.Store(s.fakeRoot(t))
	}
	return s
}

// fakeRoot stands for a btree that has no nodes: an empty leaf, which is replaced when something is put there.
func (s *Store) fakeRoot(t *tree) *child {
	c := newChild(0, ondisk.Key{Pos: ondisk.SPosMax})
	p := s.nodeParams(t.id, 0)
	p.Min, p.Max = ondisk.PosMin, ondisk.SPosMax
	b := s.newNode(t, c, p.Min, p.Max)
	b.keys, b.fake = node.New(p), true
	s.replayInto(b)
	c.node.Store(b)
	return c
}

// nodeParams are those of nodes of a btree's level, without range and identity.
func (s *Store) nodeParams(btree ondisk.BtreeID, level uint8) node.Params {
	return node.Params{NodeIdentity: ondisk.NodeIdentity{Btree: btree, Level: level}, Magic: s.cfg.Magic, NodeBytes: s.cfg.NodeBytes,
		BlockBytes: s.cfg.BlockBytes}
}

// newSeq returns the identity of a new node.
func (s *Store) newSeq() uint64 {
	for {
		var v uint64
		if s.cfg.Rand != nil {
			v = s.cfg.Rand()
		} else {
			v = rand.Uint64()
		}
		if v != 0 {
			return v
		}
	}
}

func (s *Store) isAncestor(a, b uint32) bool {
	if a == b {
		return true
	}
	return s.cfg.IsAncestor != nil && s.cfg.IsAncestor(a, b)
}

func (s *Store) hasSnapshots(btree ondisk.BtreeID) bool { return btree.Has(ondisk.BtreeHasSnapshots) }

// Start begins the work of a store on a journal.
func (s *Store) Start(j *journal.Writer) {
	s.journal = j
	if s.cfg.NoWorkers || s.cfg.Ordered {
		return
	}
	s.wg.Go(func() { s.completeInterior(s.ctx) })
	s.wg.Go(func() { s.cache.run(s.ctx) })
	s.wg.Go(func() { s.wb.run(s.ctx) })
	s.wg.Go(func() { s.keys.run(s.ctx) })
	s.wg.Go(func() { s.merges.run(s.ctx, s) })
}

// Roots returns where the btrees start, with pointers as they are in memory: those of nodes that are not written yet among them.
func (s *Store) Roots() map[ondisk.BtreeID]Root {
	roots := map[ondisk.BtreeID]Root{}
	for i := range s.trees {
		if c := s.trees[i].root.Load(); c.key.Load().Type != ondisk.KeyDeleted {
			roots[s.trees[i].id] = Root{Level: c.level, Key: *c.key.Load()}
		}
	}
	return roots
}

// Pressure says how many keys of the key cache the journal is to have flushed although it does not need their space, for
// [journal.WriterConfig.Pressure].
func (s *Store) Pressure() (any, keyCache int) { return 0, s.keys.pressure() }

// block says whether write buffer or key cache hold so much that those have to wait who would add to it.
func (s *Store) block() {
	s.blockMu.Lock()
	defer s.blockMu.Unlock()
	s.journal.SetBlocked(s.wb.full.Load() || s.keys.full.Load())
}

// TakeBuffered is told by the journal of the records for the write buffer in an entry that is about to be written.
func (s *Store) TakeBuffered(seq uint64, records []ondisk.JsetEntry) {
	for i := range records {
		for k, err := range records[i].Keys() {
			if err != nil {
				s.fail(fmt.Errorf("journal entry %d: %w", seq, err))
				return
			}
			s.wb.take(seq, records[i].BtreeID, k)
		}
	}
}

// fail ends all writing.
func (s *Store) fail(err error) {
	if s.failure.CompareAndSwap(nil, &err) {
		s.journal.Halt(err)
		if s.cfg.OnError != nil && !errors.Is(err, journal.ErrStopped) {
			s.cfg.OnError(err)
		}
	}
}

// reclaimed judges the outcome of bringing to its node what the journal is to forget. If that is not possible nobody would ever get space in the
// journal again: better to say so.
func (s *Store) reclaimed(ctx context.Context, err error) error {
	if err != nil && ctx.Err() == nil && s.journal.Err() == nil {
		s.fail(fmt.Errorf("the journal holds what cannot be brought to its node: %w", err))
	}
	return err
}

// failed returns why nothing can be written any more, nil if it can.
func (s *Store) failed() error {
	if err := s.failure.Load(); err != nil {
		return fmt.Errorf("filesystem is read-only: %w", *err)
	}
	return nil
}

// writable returns why nothing can be written any more, the journal's reasons included; nil if it can.
func (s *Store) writable() error {
	if err := s.failed(); err != nil {
		return err
	}
	return s.journal.Err()
}

// Quiesce writes everything that is in memory only, until there is nothing left: then the journal is not needed any more. No transactions may be
// running but those of the allocator on behalf of this.
func (s *Store) Quiesce(ctx context.Context) error {
	for {
		s.settled(ctx)
		if err := s.failed(); err != nil {
			return err
		}
		wrote, err := s.keys.flushAll(ctx)
		if err != nil {
			return err
		}
		if s.wb.len() > 0 || s.journal.Current() != s.journal.Durable() {
			wrote = wrote || s.wb.len() > 0
			if err := s.FlushWriteBuffer(ctx); err != nil {
				return err
			}
		}
		more, err := s.writeDirty(ctx)
		if err != nil {
			return err
		}
		if !wrote && !more && s.wb.len() == 0 && s.merges.idle() && s.interior.idle() { // in this order: merges make interior updates
			return nil
		}
	}
}

// Close ends the store's goroutines. What was not written stays in the journal, which must have been stopped or aborted before.
func (s *Store) Close() {
	if s.cfg.Ordered {
		s.interior.drop()
	}
	s.interior.drain()
	s.writes.close()
	s.stop()
	s.wg.Wait()
	s.interior.wg.Wait()
}

// Stats tells how the caches fare.
type Stats struct {
	Nodes                  int
	NodeBytes              int64
	KeysCached, KeysDirty  int64
	Buffered               int
	InteriorUpdatesPending int
}

// Stats tells how the caches fare.
func (s *Store) Stats() Stats {
	s.interior.mu.Lock()
	pending := len(s.interior.queue)
	s.interior.mu.Unlock()
	return Stats{Nodes: s.cache.len(), NodeBytes: s.cache.bytes.Load(), KeysCached: s.keys.filled.Load(), KeysDirty: s.keys.dirty.Load(),
		Buffered: s.wb.len(), InteriorUpdatesPending: pending}
}
