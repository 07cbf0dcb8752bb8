package journal

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

const (
	// maxInFlight is how many entries may be open or being written at a time. Those who recover after a crash leave out at least eight sequence
	// numbers behind the newest they find; no more may have been used.
	maxInFlight = 4

	minEntryBytes  = 64 << 10
	maxReplay      = 1 << 20 // distance from the oldest entry that is replayed to the first new one, for which memory is taken
	defaultMaxPins = 1 << 15

	// maxRootU64s is the size of the largest pointer to a root: key, struct bch_btree_ptr_v2, a pointer for each replica.
	maxRootU64s = 5 + 5 + 6
	// extraU64s is what is in each entry beside roots: datetime, usage, two clocks.
	extraU64s = 2 + 2 + 2*3
)

// WriterDevice is a member that can be written to. Devices without journal buckets take part too: what entries refer to
// may lie on them.
type WriterDevice struct {
	Index       uint8
	Device      blockdev.Device // a [blockdev.FlushTracker] is not flushed without need
	BucketBytes int64
	Buckets     []uint64 // ring order, as in the device's superblock
	Ring        Ring     // where writing goes on
	Durability  int      // copies that one on this device counts for; on 0 nothing is written
	Preferred   bool     // belongs to the target of metadata: others are used if these do not suffice
	Discard     bool     // buckets are discarded before they are used again
	ReadOnly    bool     // holds no new entries and is not flushed, see [Writer.SetReadOnly]
}

// WriterConfig is what writing a journal needs. Functions must not call back into the journal unless they say so.
type WriterConfig struct {
	Devices []WriterDevice
	Params  ondisk.JsetParams // magic, key, block size
	Version ondisk.MetadataVersion
	Csum    checksum.Type // chacha20_poly1305_128 if the filesystem is encrypted

	First   uint64 // sequence number of the first entry to be written
	LastSeq uint64 // oldest entry that is replayed, see [Writer.ReplayDone]; 0: none is
	Flush   uint64 // newest entry that is replayed

	Replicas         int // copies of each entry
	ReplicasRequired int // fewer and the journal halts

	Roots      []ondisk.JsetEntry          // of all btrees; later ones are learned from what is journaled
	KeyVersion func() uint64               // nil: 0
	Clocks     func() (read, write uint64) // sectors of I/O so far; nil: 0
	Now        func() time.Time            // for the datetime in each entry; nil: time.Now

	// Buffered gets the records of type write_buffer_keys of an entry, in order, before it is written with them as btree_keys. The data
	// is the journal's. It may set pins.
	Buffered func(seq uint64, records []ondisk.JsetEntry)
	// Check judges keys before they are written; a key that it refuses halts the journal. nil accepts all.
	Check KeyCheck
	// MarkReplicas puts a set of members, in rising order, that are to hold an entry into the superblock. It is asked once for each set.
	MarkReplicas func(ctx context.Context, members []uint8) error
	// Flushed is told of each entry that became durable, with all before it.
	Flushed func(seq uint64)
	// Pressure says how many pins, of any kind and of the key cache, are to be flushed although the journal does not need it.
	Pressure func() (any, keyCache int)
	// DeviceFailed is told of failed writes and flushes. If it returns true the device is not used any more and the journal goes on without it.
	DeviceFailed func(member uint8, err error) bool
	// OnHalt is called once when the journal halts for an error. It may call the journal, but must not wait for it to stop.
	OnHalt func(err error)

	EntryBytes   int           // of the first buffers, which grow; 0: 64 KiB
	FlushDelay   time.Duration // after which an entry is flushed although nobody asks; 0: 1 s
	ReclaimDelay time.Duration // after which a pin is flushed although nobody needs its space; 0: 100 ms
	StuckAfter   time.Duration // without progress; 0: 30 s

	// Ordered has entries begin and end, and pins flushed, at moments that depend on what is reserved and asked for only: nothing is done because of
	// time that has gone by, and [Writer.Reclaim] flushes pins when it is called. Starved is then told that somebody waits for space, with nothing
	// being written, and may make some.
	Ordered bool
	Starved func(ctx context.Context)

	MaxAhead  int // no-flush entries in a row; 0: as many as are safe if btree nodes are written ahead of the journal
	MaxPinned int // entries that may be pinned, a power of two; 0: 32768
}

// Writer is a journal open for writing.
//
// # Writing
//
// There is at most one open entry. Reservations in it are taken and given back without locks ([Writer.TryReserve]); when it is full, or
// somebody wants it durable, or its time has come, it is closed and the next one can be opened. A goroutine prepares closed entries, in
// order and once all reservations in them were given back: it adds what each entry must hold and computes the checksum. Meanwhile the entry
// before it may still be written; entries are written one after the other, so that sequence numbers grow along each ring even if
// a write fails and is made again elsewhere. Entries that nobody waits for may be written without flush; a flush entry is written after a
// flush of all devices, and followed by one.
//
// # Group commit
//
// Whoever wants an entry durable marks it. While an entry is in flight the open one is not closed for that, so it gathers all who come
// meanwhile, and one flush serves them.
//
// # Locks
//
// mu guards the entries in flight and the space; pinSet.mu, which comes after it, the pins. Neither is held over I/O or
// callbacks.
type Writer struct {
	cfg     WriterConfig
	members []*member
	pins    *pinSet

	state     atomic.Uint64 // see offsetBits
	watermark atomic.Uint32 // who may reserve
	cur       atomic.Uint64 // newest entry opened
	seqOndisk atomic.Uint64 // it and all before it were written
	flushed   atomic.Uint64 // newest flush entry among them
	progress  atomic.Uint64 // counts what may free space
	flushing  chan struct{} // holds a token while nobody flushes pins

	bufs          [maxInFlight]entryBuf
	maxEntryBytes int // that fit all buckets
	rootU64s      int // reserved in each entry for roots

	mu         sync.Mutex
	err        error // why the journal halted
	started    bool  // a flush entry was written since the start
	lastFlush  time.Time
	lastNeeded uint64        // last_seq of the newest flush entry on disk
	wantBytes  int           // size of buffers from the next entry on
	wantU64s   int           // that somebody waits for
	flushWant  uint64        // an entry not opened yet that is to be a flush entry
	blocked    bool          // see SetPressure
	changed    chan struct{} // closed, and replaced, when waiters shall look again
	space      [numSpaces]space
	maySkip    bool // there is space enough to go without a new last_seq
	canDiscard bool
	marked     map[uint64]bool // sets of members that MarkReplicas knows

	// Used by the goroutine that prepares entries only.
	roots    rootTable
	buffered []ondisk.JsetEntry

	replaying atomic.Bool
	quit      chan struct{}
	quitOnce  sync.Once
	wg        sync.WaitGroup
	ctx       context.Context // of the goroutines
	cancel    context.CancelFunc
	loopKick  chan struct{}
	reclaim   chan struct{}
}

// Start opens a journal for writing. Nothing is written before the first reservation; before that, the superblocks must say that the
// filesystem is dirty. Whoever starts a journal must stop it, with [Writer.Stop] or [Writer.Abort].
func Start(cfg WriterConfig) (*Writer, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	w := &Writer{cfg: cfg, changed: make(chan struct{}), flushing: make(chan struct{}, 1), quit: make(chan struct{}),
		loopKick: make(chan struct{}, 1), reclaim: make(chan struct{}, 1), marked: map[uint64]bool{}}
	w.flushing <- struct{}{}
	w.maxEntryBytes = ondisk.MaxJsetBytes
	for i := range cfg.Devices {
		m, err := newMember(&cfg.Devices[i])
		if err != nil {
			return nil, err
		}
		w.members = append(w.members, m)
		if len(m.buckets) > 0 {
			w.maxEntryBytes = int(min(int64(w.maxEntryBytes), m.bucketBytes))
		}
	}
	if n := w.usableMembers(); n < cfg.ReplicasRequired {
		return nil, fmt.Errorf("%w: %d, %d needed", ErrNoDevices, n, cfg.ReplicasRequired)
	}
	if err := w.roots.init(cfg.Roots); err != nil {
		return nil, err
	}
	w.rootU64s = w.roots.reserve()
	if w.maxU64s() < 1 {
		return nil, fmt.Errorf("journal: buckets of %d bytes are too small for an entry with all roots", w.maxEntryBytes)
	}
	w.wantBytes = min(w.roundUp(max(cfg.EntryBytes, minEntryBytes)), w.maxEntryBytes)
	w.wantU64s = 1
	w.startPins()
	w.cur.Store(cfg.First - 1)
	w.seqOndisk.Store(cfg.First - 1)
	w.flushed.Store(cfg.First - 1)
	w.state.Store((cfg.First-1)&seqMask<<seqShift | stateClosed)
	w.lastNeeded = w.pins.front.Load()
	w.lastFlush = time.Now()
	w.ctx, w.cancel = context.WithCancel(context.Background())
	w.mu.Lock()
	w.updateSpace()
	w.mu.Unlock()
	w.wg.Add(1)
	go w.writeLoop()
	if !cfg.Ordered {
		w.wg.Add(1)
		go w.reclaimLoop()
	}
	return w, nil
}

// complete checks the configuration and fills in defaults.
func (c *WriterConfig) complete() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("journal: "+format, args...)
	}
	n := c.Params.BlockBytes
	switch {
	case c.First == 0 || c.First >= 1<<63:
		return bad("first sequence number %d", c.First)
	case c.LastSeq > c.First || c.Flush >= c.First || c.LastSeq != 0 && c.Flush < c.LastSeq:
		return bad("entries %d to %d cannot be replayed before %d", c.LastSeq, c.Flush, c.First)
	case c.LastSeq != 0 && c.First-c.LastSeq > maxReplay:
		return bad("entries from %d on are needed, but the next is %d", c.LastSeq, c.First)
	case n < ondisk.SectorSize || n&(n-1) != 0:
		return bad("block size %d", n)
	case c.Replicas < 1 || c.ReplicasRequired < 1 || c.ReplicasRequired > c.Replicas:
		return bad("%d replicas, %d required", c.Replicas, c.ReplicasRequired)
	case c.Csum.IsEncryption() != (c.Params.Key != nil):
		return bad("checksum type %v and key do not go together", c.Csum)
	case !c.Csum.Valid():
		return bad("%w %d", checksum.ErrType, c.Csum)
	case c.MaxPinned&(c.MaxPinned-1) != 0:
		return bad("%d pins are no power of two", c.MaxPinned)
	}
	if c.Ordered {
		const never = 100 * 365 * 24 * time.Hour
		c.FlushDelay, c.ReclaimDelay = never, never
	}
	setDefault(&c.FlushDelay, time.Second)
	setDefault(&c.ReclaimDelay, 100*time.Millisecond)
	setDefault(&c.StuckAfter, 30*time.Second)
	setDefault(&c.MaxPinned, defaultMaxPins)
	setDefault(&c.MaxAhead, maxInFlight)
	if c.KeyVersion == nil {
		c.KeyVersion = func() uint64 { return 0 }
	}
	if c.Clocks == nil {
		c.Clocks = func() (read, write uint64) { return 0, 0 }
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Pressure == nil {
		c.Pressure = func() (any, keyCache int) { return 0, 0 }
	}
	return nil
}

func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// startPins pins the entries to be replayed.
func (w *Writer) startPins() {
	first := w.cfg.First
	if w.cfg.LastSeq != 0 {
		first = w.cfg.LastSeq
		w.replaying.Store(true)
	}
	limit := w.cfg.MaxPinned
	for uint64(limit) < 2*(w.cfg.First-first) {
		limit *= 2
	}
	w.pins = newPinSet(first, limit)
	for seq := first; seq < w.cfg.First; seq++ {
		count := 0
		if seq <= w.cfg.Flush {
			count = 1
		}
		w.pins.push(count)
	}
}

// ReplayDone says that all keys of the entries that were to be replayed are in nodes or pinned by what they went into. Until then
// the journal keeps these entries.
func (w *Writer) ReplayDone() {
	if !w.replaying.Swap(false) {
		return
	}
	w.changePin(func(s *pinSet) {
		for seq := s.front.Load(); seq <= w.cfg.Flush; seq++ {
			s.at(seq).count--
		}
	})
}

// Current is the newest entry opened.
func (w *Writer) Current() uint64 { return w.cur.Load() }

// Durable is the newest entry known to be durable, with all before it.
func (w *Writer) Durable() uint64 { return w.flushed.Load() }

// LastSeq is the oldest entry that is needed.
func (w *Writer) LastSeq() uint64 { return w.pins.front.Load() }

// Err is why the journal halted, nil if it did not.
func (w *Writer) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// Halt ends writing for an error: nothing that is not durable already becomes so, and all that asks for more fails with the error.
func (w *Writer) Halt(err error) {
	w.mu.Lock()
	first := w.halt(err)
	w.mu.Unlock()
	if first && w.cfg.OnHalt != nil {
		w.cfg.OnHalt(w.Err())
	}
}

// halt reports whether the journal was not halted before. The caller holds mu.
func (w *Writer) halt(err error) bool {
	if w.err != nil {
		return false
	}
	if errors.Is(err, ErrStopped) {
		w.err = err
	} else {
		w.err = fmt.Errorf("journal halted: %w", err)
	}
	w.closeEntry(stateError)
	for i := range w.bufs {
		w.bufs[i].wakeWaiters()
	}
	w.wake()
	w.kickLoop()
	return true
}

// wake makes waiters look again. The caller holds mu.
func (w *Writer) wake() {
	w.progress.Add(1)
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *Writer) kickLoop() {
	select {
	case w.loopKick <- struct{}{}:
	default:
	}
}

func (w *Writer) kickReclaim() {
	select {
	case w.reclaim <- struct{}{}:
	default:
	}
}

// Abort ends writing at once: what is not durable may never be. It returns when all that the journal was doing has ended.
func (w *Writer) Abort() {
	w.mu.Lock()
	w.halt(ErrStopped)
	w.mu.Unlock()
	w.quitOnce.Do(func() { close(w.quit) })
	w.cancel()
	w.wg.Wait()
}

// Position is where a member's journal ended, as its superblock keeps it (fields last_journal_bucket and last_journal_bucket_offset).
type Position struct {
	Member uint8
	Bucket uint32 // index in the ring
	Offset uint32 // sectors
}

// Shutdown is what the superblock keeps of a journal that was stopped properly.
type Shutdown struct {
	Clean     ondisk.Clean
	Positions []Position // of all members with a journal
}

// maxStops is how often [Writer.Stop] begins again because something was journalled while it wrote the last entry.
const maxStops = 100

// Stop flushes all pins, writes a last entry that needs none before it, and ends writing. Nobody else may use the journal any more but
// the flush functions of pins, and what they have begun. With an error, among them ctx's, the filesystem was not shut down cleanly; the journal is
// stopped in any case.
func (w *Writer) Stop(ctx context.Context) (*Shutdown, error) {
	defer w.Abort()
	if w.replaying.Load() {
		return nil, errors.New("journal: stopped before it was replayed")
	}
	for n := 1; ; n++ {
		seq, err := w.writeLast(ctx)
		if err != nil {
			return nil, err
		}
		w.mu.Lock()
		cur, needed, err := w.cur.Load(), w.lastNeeded, w.err
		if err == nil && cur == seq && needed == seq {
			defer w.mu.Unlock()
			return w.shutdown(seq), nil
		}
		w.mu.Unlock()
		switch {
		case err != nil:
			return nil, err
		case cur == seq || n == maxStops:
			return nil, fmt.Errorf("journal: entry %d is the last one, but %d was used while it was written, of which %d is needed", seq, cur, needed)
		}
	}
}

// writeLast flushes all pins and writes an entry.
func (w *Writer) writeLast(ctx context.Context) (seq uint64, err error) {
	// Flush functions may journal, and what they journal may have to be flushed.
	for {
		seq := w.Current()
		did, err := w.FlushPins(ctx, ^uint64(0))
		if err != nil {
			return 0, err
		}
		if !did && seq == w.Current() {
			break
		}
	}
	var res Reservation
	if err := w.Reserve(ctx, 1, WatermarkInteriorUpdates, &res); err != nil {
		return 0, err
	}
	seq = res.Seq()
	err = w.FlushAsync(seq) // while it is open still, so that it is this one that will be flushed
	res.Done()
	if err != nil {
		return 0, err
	}
	return seq, w.FlushSeq(ctx, seq)
}

// shutdown describes the journal after its last entry. The caller holds mu; no entry is being prepared.
func (w *Writer) shutdown(seq uint64) *Shutdown {
	s := &Shutdown{Clean: ondisk.Clean{JournalSeq: seq}}
	s.Clean.Entries = append(s.Clean.Entries, w.usageEntry())
	s.Clean.Entries = append(s.Clean.Entries, w.clockEntries()...)
	s.Clean.Entries = append(s.Clean.Entries, w.roots.entries()...)
	for _, m := range w.members {
		if len(m.buckets) > 0 {
			s.Positions = append(s.Positions, Position{m.index, uint32(m.cur),
				uint32((m.bucketBytes - m.free) / ondisk.SectorSize)})
		}
	}
	return s
}
