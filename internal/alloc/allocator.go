package alloc

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// Engine is what the allocator needs of the rest of the filesystem. All methods are safe for concurrent use.
type Engine interface {
	// View runs fn in a transaction that only reads, again if fn returns an error that demands a restart. The locks that fn's Get
	// takes are held until fn has returned.
	View(ctx context.Context, fn func(tx Tx) error) error
	// Update runs fn in a transaction and commits it; both are done again after a restart.
	Update(ctx context.Context, w Watermark, fn func(tx Tx) error) error
	// Durable returns the last journal sequence number that is on disk with all before it. What recovery replayed is.
	Durable() uint64
	// FlushSeq returns once the sequence number is durable.
	FlushSeq(ctx context.Context, seq uint64) error
	// FlushWriteBuffer returns once what was queued with UpdateBuffered is in the btrees.
	FlushWriteBuffer(ctx context.Context) error
}

// BucketUsage counts the buckets of a device by what is in them, as the accounting in memory says. It is called under the freelist lock
// and must not block.
type BucketUsage interface {
	Buckets(dev uint8, t ondisk.DataType) int64
}

// Config is what an allocator needs.
type Config struct {
	Engine Engine
	Usage  BucketUsage
	// Clock is the clock of the LRUs for reads and writes (direction 0 and 1); see io_time.
	Clock func(dir int) uint64

	BlockSectors   uint32 // unit of allocation; 0 means 1
	NodeSectors    uint32 // size of a btree node
	ExtentTypeU64s ondisk.ExtentTypeU64s
	// BackpointerShift is the superblock's; 0 means 10.
	BackpointerShift uint
	// NodeReplicas and NodeReplicasRequired are how many copies of nodes there are to be and have to be.
	NodeReplicas, NodeReplicasRequired int
	// NodeTarget is the target of nodes.
	NodeTarget uint16
	// SaveBitmap puts the bitmap of btree nodes of a device in the superblock on disk. It is called before nodes are handed out that
	// lie where the bitmap says nothing; nil: bitmaps are kept in memory only.
	SaveBitmap func(ctx context.Context, dev uint8, m BtreeBitmap) error

	// Busy reports whether somebody writes to a bucket in place, without having opened it, and may go on for a moment after the bucket was emptied
	// (nocow): then it is not handed out. It must not block. nil: nobody does.
	Busy func(dev uint8, b ondisk.Bucket) bool

	// ForceEarly makes the early allocator do all the work, whatever freespace says.
	ForceEarly bool
	// OpenBuckets is the size of the table; 0 means OpenBucketsCount.
	OpenBuckets int
	// DiscardsPerSecond limits how many buckets are discarded as long as nobody waits for them; 0: no limit.
	DiscardsPerSecond int
	// OnInconsistent is told of contradictions (I9), which are returned as errors too: the filesystem has to stop writing.
	OnInconsistent func(err error)
	// Logf takes messages for people; nil: there are none.
	Logf func(format string, args ...any)

	// MakeRoom, if it is not nil, is called in the place of workers, which must not be started then, by those who wait for buckets.
	MakeRoom func(ctx context.Context)

	// Hook is called at named points; nil but in tests.
	Hook Hook
}

// Errors of allocation.
var (
	// ErrNoSpace means that no bucket can be had and none will become free by waiting.
	ErrNoSpace = errors.New("no space left: no free bucket")
	// ErrInsufficientDevices means that there are fewer devices that may be written to than copies are required.
	ErrInsufficientDevices = errors.New("too few devices to write to")
	// ErrClosed is returned once the allocator was closed.
	ErrClosed = errors.New("allocator is closed")

	errFreelistEmpty    = fmt.Errorf("%w that is not kept back", ErrNoSpace)
	errNoBuckets        = fmt.Errorf("%w was found", ErrNoSpace)
	errOpenBucketsEmpty = fmt.Errorf("%w: too many buckets are being written", ErrNoSpace)
)

// Allocator hands out space. All methods are safe for concurrent use.
type Allocator struct {
	cfg   Config
	fault Fault

	bitmapMu sync.Mutex // serialises changes of bitmaps of btree nodes

	devMu   sync.Mutex // protects members and groups, and serialises changes of spaces
	members map[uint8]ondisk.Member
	groups  []ondisk.DiskGroup
	spaces  atomic.Pointer[spaces]

	open     *openTable
	waiting  journalWait
	points   writePoints
	freed    event
	last     sync.Mutex // of lastAttempt
	reclaim  *worker
	inFlight inFlight
	nodes    atomic.Pointer[NodeReserve] // nil: there is none
	extra    []*worker                   // reclaimers that others brought
	gens     gcGens

	trusted  atomic.Bool // freespace and alloc keys were checked to agree
	checkBPs atomic.Bool // buckets with backpointers are not taken, whatever their keys say
	stats    counters
}

// An Option changes an allocator beyond what its configuration says.
type Option func(*Allocator)

// New returns an allocator without devices. No workers run before [Allocator.Start].
func New(cfg Config, options ...Option) (*Allocator, error) {
	if cfg.Engine == nil || cfg.Usage == nil {
		return nil, errors.New("allocator: needs an engine and usage")
	}
	cfg.BlockSectors = max(1, cfg.BlockSectors)
	if cfg.OpenBuckets == 0 {
		cfg.OpenBuckets = OpenBucketsCount
	}
	if cfg.OpenBuckets < 2 || cfg.OpenBuckets > 1<<16 {
		return nil, fmt.Errorf("allocator: a table of %d open buckets", cfg.OpenBuckets)
	}
	if cfg.BackpointerShift == 0 {
		cfg.BackpointerShift = ondisk.DefaultBackpointerShift
	}
	if cfg.Clock == nil {
		cfg.Clock = func(int) uint64 { return 1 }
	}
	if cfg.Logf == nil {
		cfg.Logf = func(string, ...any) {}
	}
	a := &Allocator{cfg: cfg, members: map[uint8]ondisk.Member{}, open: newOpenTable(cfg.OpenBuckets)}
	a.spaces.Store(new(spaces))
	a.points.init()
	a.reclaim = newWorker("reclaim", a, a.reclaimRound)
	a.reclaim.rank = 0
	for _, o := range options {
		o(a)
	}
	return a, nil
}

// SetTrusted tells that freespace and alloc keys were checked to agree (check_alloc_info): from then on a difference is an error.
func (a *Allocator) SetTrusted(v bool) { a.trusted.Store(v) }

// SetCheckBackpointers makes claims look for backpointers, as long as alloc keys may not tell all (up to
// check_extents_to_backpointers).
func (a *Allocator) SetCheckBackpointers(v bool) { a.checkBPs.Store(v) }

// Start starts the workers that make buckets free. They end with [Allocator.Stop], or once ctx is done.
func (a *Allocator) Start(ctx context.Context) {
	for _, w := range a.workers() {
		w.start(ctx)
	}
}

// Stop ends the workers and waits for them. Requests that wait for space fail from then on, as nothing becomes free by itself any more.
func (a *Allocator) Stop() {
	for _, w := range a.workers() {
		w.stop()
	}
	a.freed.signal(false)
}

// Round does what the workers would do if they were started, each once; unless it is urgent, without what [Allocator.AddReclaimer] added. It returns how many
// buckets became free, or are on their way to that.
func (a *Allocator) Round(ctx context.Context, urgent bool) (n int, err error) {
	for i, w := range a.workers() {
		if i > 0 && !urgent {
			break
		}
		did, roundErr := w.round(context.WithValue(ctx, rankKey{}, w.rank), true)
		if n += did; roundErr != nil && err == nil {
			err = roundErr
		}
	}
	return n, err
}

func (a *Allocator) workers() []*worker {
	a.devMu.Lock()
	defer a.devMu.Unlock()
	return append([]*worker{a.reclaim}, a.extra...)
}

// AddReclaimer adds something that can make buckets free (copygc): round is called by a worker when requests wait for space, and
// returns how many buckets it made free or on their way to that. What it returns must be a gain: as long as there is one, who waits goes on
// waiting. Requests that round itself makes wait for those that were added before it only, so that none waits for itself. kick asks for a round and
// never blocks. Call it before [Allocator.Start].
func (a *Allocator) AddReclaimer(name string, round func(ctx context.Context, urgent bool) (int, error)) (kick func()) {
	a.devMu.Lock()
	defer a.devMu.Unlock()
	w := newWorker(name, a, round)
	a.extra = append(a.extra, w)
	w.rank = len(a.extra)
	return w.kick
}

// Waiting reports whether requests wait for buckets to become free.
func (a *Allocator) Waiting() bool { return a.freed.waiting() }

// Kick starts a round of making buckets free, without waiting for it.
func (a *Allocator) Kick() { a.reclaim.kick() }

// inconsistent reports a contradiction and returns it.
func (a *Allocator) inconsistent(err error) error {
	a.stats.inconsistent.Add(1)
	if a.cfg.OnInconsistent != nil {
		a.cfg.OnInconsistent(err)
	}
	return err
}

// view runs fn in the caller's transaction if it has one, else in one of its own.
func (a *Allocator) view(ctx context.Context, tx Tx, fn func(tx Tx) error) error {
	if tx != nil {
		return fn(tx)
	}
	return a.cfg.Engine.View(ctx, fn)
}

// isFull tells whether an error says that there is no space now.
func isFull(err error) bool { return errors.Is(err, ErrNoSpace) }
