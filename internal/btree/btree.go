// Package btree reads btrees: node cache, iterators, and what of them is visible in a snapshot.
//
// # Layers of a read
//
// A [Reader] serves the btrees of one open filesystem. To find a position it descends from the root. At each level what counts
// is the node's keys overlaid by the journal's keys of that level ([journal.Overlay]): of two keys at one position the
// journal's wins, one of type deleted hides the position. This holds for interior nodes too, where the overlay's pointers lead
// to other children than the node on disk does.
//
// Above this come [Reader.Keys], all keys as they are, and [Reader.KeysIn] and [Reader.Lookup], what a snapshot sees.
//
// # Damage
//
// Nothing read from a device is trusted. A child must be exactly one level below its parent, cover exactly the range that its
// pointer says, and no root is higher than level 3: no image makes a descent endless. A node that cannot be used is a
// [NodeError] naming the range of positions it leaves unknown; iteration goes on behind the range if the caller goes on.
//
// # Memory and concurrency
//
// Decoded nodes are immutable. Keys alias them and stay valid as long as they are referenced, also after the node was evicted
// from the cache: keeping a key keeps its node in memory, so whoever keeps many clones them. All methods of Reader are safe
// for concurrent use, those of an [Iterator] are not. Lookups of cached nodes take no lock and do not allocate.
package btree

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/journal"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// MaxRootLevel is the greatest level that a root may have.
const MaxRootLevel = journal.MaxLevels - 1

// Errors that a [NodeError] may wrap.
var (
	ErrRootLost    = errors.New("root is lost")
	ErrGap         = errors.New("no child node covers this range")
	ErrNoDevice    = errors.New("device is missing")
	ErrBadPointer  = errors.New("invalid node pointer")
	ErrUnreachable = errors.New("no replica can be read")
	// ErrSnapshotLost means that a key may be visible or not: the table of snapshots has a gap where that would stand.
	ErrSnapshotLost = errors.New("the snapshots above are not known")
)

// NodeError tells that a node cannot be used and which positions are unknown for that.
type NodeError struct {
	Btree    ondisk.BtreeID
	Level    uint8
	Min, Max ondisk.Pos // inclusive
	Device   string     // of the last replica tried; "" if none was
	Sector   ondisk.Sector
	Err      error
}

func (e *NodeError) Error() string {
	where := ""
	if e.Device != "" {
		where = fmt.Sprintf(" at %s sector %d", e.Device, e.Sector)
	}
	return fmt.Sprintf("btree %v level %d: node%s for %v - %v: %v", e.Btree, e.Level, where, e.Min, e.Max, e.Err)
}

func (e *NodeError) Unwrap() error { return e.Err }

// Root is where a btree starts.
type Root struct {
	Key   ondisk.Key // pointer to the root node; type deleted if the btree is empty
	Level uint8      // of the root node
	Lost  bool       // the journal says that the root was unreadable
	// Leaves, if set, replaces the tree above its leaves: pointers to leaf nodes in order of position, from a node scan.
	Leaves []ondisk.Key
}

// Config is what a Reader needs to know of its filesystem.
type Config struct {
	// Device returns a member; nil if it is missing.
	Device func(dev uint8) blockdev.Device
	// Want is the template for decoding nodes; Btree, Level, Ptr and CheckKey are filled in for each. With Salvage, the
	// intact parts of nodes are used of which no replica is whole.
	Want ondisk.NodeWant
	// CheckKey judges values, see [ondisk.NodeWant]; nil: none are.
	CheckKey func(btree ondisk.BtreeID, level uint8, k *ondisk.Key) error
	// ExtentTypeU64s are the sizes of extent entries, to cut extents.
	ExtentTypeU64s ondisk.ExtentTypeU64s
	// CacheBytes bounds the memory of cached nodes. Nodes that iterators stand on are not evicted.
	CacheBytes int64
	Roots      map[ondisk.BtreeID]Root
	Overlay    *journal.Overlay
	// OnProblem, if set, is told once of each node that was read and found imperfect but usable. It may be called from
	// several goroutines.
	OnProblem func(ondisk.BtreeID, *ondisk.Node, ondisk.NodeProblem)
}

// Reader reads the btrees of one filesystem.
type Reader struct {
	cfg     Config
	cache   *cache
	roots   [ondisk.MaxBtrees]Root
	overlay *journal.Overlay
	buffers sync.Pool     // *[]byte of Want.NodeSize
	reads   chan struct{} // semaphore: node reads in progress

	// IsAncestor tells whether a is b or an ancestor of it; nil until the snapshots were read, when every snapshot is
	// its own only ancestor.
	isAncestor func(a, b uint32) bool
	// orphan tells of which snapshots not all ancestors are known.
	orphan func(snapshot uint32) bool

	prefetches chan struct{} // semaphore
	background sync.WaitGroup
	ctx        context.Context // of prefetches; ended by Close
	stop       context.CancelFunc
}

// Bounds on concurrent reading; each read holds a buffer of the size of a node.
const (
	maxReads      = 32
	maxPrefetches = 8
)

// NewReader returns a Reader. It reads nothing yet.
func NewReader(cfg Config) *Reader {
	r := &Reader{cfg: cfg, cache: newCache(cfg.CacheBytes), overlay: cfg.Overlay,
		reads: make(chan struct{}, maxReads), prefetches: make(chan struct{}, maxPrefetches)}
	size := cfg.Want.NodeSize
	r.buffers.New = func() any { b := make([]byte, size); return &b }
	for id, root := range cfg.Roots {
		if id < ondisk.MaxBtrees {
			r.roots[id] = root
		}
	}
	r.ctx, r.stop = context.WithCancel(context.Background())
	return r
}

// SetAncestor makes [Reader.KeysIn] and [Reader.Lookup] follow the snapshot tree. It must be called before they are used by
// several goroutines.
func (r *Reader) SetAncestor(isAncestor func(ancestor, descendant uint32) bool) {
	r.isAncestor = isAncestor
}

// SetOrphan has reads in snapshots of which orphan is true fail with [ErrSnapshotLost] where they come to a key that may be
// an ancestor's: what it says would else be missing without a word, as zeros in a file. It belongs to SetAncestor.
func (r *Reader) SetOrphan(orphan func(snapshot uint32) bool) {
	r.orphan = orphan
}

// SetRoot replaces the root of a btree. Like [Reader.SetAncestor] it belongs to opening.
func (r *Reader) SetRoot(id ondisk.BtreeID, root Root) {
	if id < ondisk.MaxBtrees {
		r.roots[id] = root
	}
}

// Root returns the root of a btree, and whether it has one: a btree without is empty but for the overlay.
func (r *Reader) Root(id ondisk.BtreeID) (Root, bool) {
	if id >= ondisk.MaxBtrees {
		return Root{}, false
	}
	root := r.roots[id]
	return root, root.Lost || root.Leaves != nil || root.Key.Type != ondisk.KeyDeleted
}

// Btrees returns the ids of the btrees that are not empty, as far as roots and overlay tell.
func (r *Reader) Btrees() []ondisk.BtreeID {
	var ids []ondisk.BtreeID
	for id := ondisk.BtreeID(0); id < ondisk.MaxBtrees; id++ {
		_, ok := r.Root(id)
		if ok || len(r.overlay.Keys(id, 0)) > 0 || id == ondisk.BtreeAccounting && len(r.overlay.Deltas()) > 0 {
			ids = append(ids, id)
		}
	}
	return ids
}

// Stats tells how the node cache fares.
func (r *Reader) Stats() CacheStats { return r.cache.stats() }

// Close waits for reads in the background. The devices may be closed after it.
func (r *Reader) Close() {
	r.stop()
	r.background.Wait()
}

// acquireBuffer waits for a turn to read and returns a buffer of the size of a node.
func (r *Reader) acquireBuffer(ctx context.Context) (*[]byte, error) {
	select {
	case r.reads <- struct{}{}:
		return r.buffers.Get().(*[]byte), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (r *Reader) releaseBuffer(b *[]byte) {
	r.buffers.Put(b)
	<-r.reads
}
