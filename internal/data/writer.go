package data

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/go-bcachefs/bcachefs/internal/alloc"
	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
	"github.com/go-bcachefs/bcachefs/internal/codec/compress"
	"github.com/go-bcachefs/bcachefs/internal/codec/crypt"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// ID names a file. The snapshot of its subvolume is looked up within each transaction, as it changes when a snapshot is taken.
type ID struct {
	Subvol uint32
	Inum   uint64
}

func (id ID) String() string { return fmt.Sprintf("inode %d of subvolume %d", id.Inum, id.Subvol) }

// Options say how data is written, as the filesystem or an inode has it.
type Options struct {
	Checksum              uint8 // number of the option: 0 none, 1 crc32c, 2 crc64, 3 xxhash
	Compression           uint8 // option byte: type in the lower half, level in the upper
	BackgroundCompression uint8
	Replicas              int
	ReplicasRequired      int // fewer make a write fail
	ForegroundTarget      uint16
	BackgroundTarget      uint16
	Nocow                 bool
	InlineData            bool // small files lie in their keys
	WideMACs              bool
}

// of returns the options that an inode has, by itself or from the filesystem (spec/05 § 1.6).
func (o Options) of(in *ondisk.Inode) Options {
	set := func(to *uint8, stored uint8) {
		if stored != 0 {
			*to = stored - 1
		}
	}
	set(&o.Checksum, in.DataChecksum)
	set(&o.Compression, in.Compression)
	set(&o.BackgroundCompression, in.BackgroundCompression)
	if in.DataReplicas > 1 {
		o.Replicas = int(in.DataReplicas) - 1
	}
	if in.ForegroundTarget != 0 {
		o.ForegroundTarget = in.ForegroundTarget - 1
	}
	if in.BackgroundTarget != 0 {
		o.BackgroundTarget = in.BackgroundTarget - 1
	}
	if in.Nocow != 0 {
		o.Nocow = in.Nocow == 2
	}
	if o.BackgroundCompression == 0 {
		o.BackgroundCompression = o.Compression
	}
	if o.Nocow {
		o.Checksum, o.Compression, o.BackgroundCompression = 0, 0, 0
	}
	o.Replicas = min(max(o.Replicas, 1), maxReplicas)
	o.ReplicasRequired = min(max(o.ReplicasRequired, 1), o.Replicas)
	return o
}

// maxReplicas is BCH_REPLICAS_MAX.
const maxReplicas = 4

// WriterConfig is what a [Writer] needs of its filesystem.
type WriterConfig struct {
	Store   *trans.Store
	Alloc   *alloc.Allocator
	Space   *alloc.Space
	Members *alloc.Devices // buckets and their generations
	Device  func(dev uint8) blockdev.Device
	// DeviceName names a member in messages.
	DeviceName func(dev uint8) string
	// Nocow locks buckets that are written to in place. All writers of a filesystem share one; nil: there is no other.
	Nocow *NocowLocks

	Key       *crypt.Key // to read what is encrypted; nil: there is none
	Encrypted bool       // what is written is encrypted
	// NewKeyVersion returns a version that no key had before; nil unless Encrypted.
	NewKeyVersion func() ondisk.Version

	Version          ondisk.MetadataVersion
	BlockBytes       int
	EncodedExtentMax int // bytes that are compressed, or have one checksum, at most
	ExtentTypes      ondisk.ExtentTypeU64s
	Options          Options // of files that have none of their own

	// Now is the time in nanoseconds since 1970.
	Now           func() int64
	TimeBase      int64  // of the superblock, nanoseconds
	TimePrecision uint32 // nanoseconds per unit
	// SetFeatures makes sure that the superblock lists features before a key is written that needs them.
	SetFeatures func(ctx context.Context, features ...ondisk.Feature) error
	// InTarget tells which devices belong to a target; nil: nothing waits to be moved to one.
	InTarget alloc.TargetFunc
	// Quota limits the sectors of files; nil: nobody counts.
	Quota Quota
	// OnWriteError is told of writes to members that failed; nil: nobody is.
	OnWriteError func(dev uint8, err error)
	// OnReadError and OnBadReplica are those of [Config].
	OnReadError  func(dev uint8, err error)
	OnBadReplica func(BadReplica)
	// Wrote is told how many sectors were written, for the clock; it may be nil.
	Wrote func(sectors uint64)

	CacheBytes int64 // of decoded extents; 0: as [Config]
	Parallel   int   // tasks of one read or write at a time; 0: the number of CPUs
}

// Writer writes the data of the files of one filesystem, and reads what was written. All methods are safe for concurrent use: a
// file's are in an order as if they came one after the other, but for writes of whole blocks, which go on at the same time.
//
// # From bytes to extents
//
// A write is cut into windows. Each window promises itself the space it may need ([alloc.Space]), is cut into pieces of at most
// encoded_extent_max if these are checksummed or compressed, is compressed, allocated, encrypted, checksummed and written to all
// replicas, several pieces at a time, long runs of them with one write. Only then transactions put the extents into their btree,
// which replaces what was there, together with the inode; neighbours become one key where the format allows. The
// buckets stay open until then, so that nobody else takes them. What is not a whole block is read, verified and completed first.
//
// # Failure
//
// A replica that cannot be written is left out of the extents, unless too few remain. Whatever fails before the transaction, or
// ends ctx, leaves nothing behind but buckets that nothing refers to, which are given back.
//
// # Locks
//
// Each inode has a lock, shared for writes of whole blocks and exclusive for all else that changes it. It is held while data is written, and
// comes before all locks of btrees. See also [Writer.Freeze].
type Writer struct {
	cfg     WriterConfig
	reader  *Reader
	buffers bufferPool
	batches sync.Pool // *batch
	inodes  lockTable
	freeze  sync.RWMutex
	listed  atomic.Uint64 // features that the superblock is known to list

	block        uint64 // bytes
	blockSectors uint64

	// between is called between the transactions of one operation, by tests.
	between func()
}

// NewWriter returns a Writer.
func NewWriter(cfg WriterConfig) *Writer {
	if cfg.Parallel <= 0 {
		cfg.Parallel = runtime.GOMAXPROCS(0)
	}
	if cfg.Nocow == nil {
		cfg.Nocow = new(NocowLocks)
	}
	w := &Writer{cfg: cfg, block: uint64(cfg.BlockBytes), blockSectors: uint64(cfg.BlockBytes) / sectorSize}
	w.inodes.locks = map[ID]*inodeLock{}
	w.reader = NewReader(Config{Trees: storeTrees{cfg.Store}, Devices: writerDevices{w}, Key: cfg.Key, ExtentTypes: cfg.ExtentTypes,
		CacheBytes: cfg.CacheBytes, Parallel: cfg.Parallel, OnFault: cfg.OnReadError, OnBadReplica: cfg.OnBadReplica})
	return w
}

// Freeze waits until no operation is in progress that takes several transactions, or that writes to space that a file has
// already, and keeps new ones from beginning until release is called. Who takes a snapshot needs it: such operations
// belong to the snapshot that they began in.
func (w *Writer) Freeze() (release func()) {
	w.freeze.Lock()
	return w.freeze.Unlock
}

// now is the time in units of the superblock.
func (w *Writer) now() int64 {
	return (w.cfg.Now() - w.cfg.TimeBase) / int64(max(w.cfg.TimePrecision, 1))
}

// checksumType is what data is checksummed with (spec/05 § 6.1).
func (w *Writer) checksumType(o *Options) checksum.Type {
	switch {
	case o.Nocow && !w.cfg.Encrypted:
		return checksum.None
	case w.cfg.Encrypted && o.WideMACs:
		return checksum.ChaCha20Poly1305_128
	case w.cfg.Encrypted:
		return checksum.ChaCha20Poly1305_80
	}
	return [4]checksum.Type{checksum.None, checksum.CRC32C, checksum.CRC64, checksum.XXHash}[o.Checksum&3]
}

// nocow reports whether data may be written where it was. What is encrypted never is: its nonce would be used twice.
func (w *Writer) nocow(o *Options) bool { return o.Nocow && !w.cfg.Encrypted }

// setFeatures makes the superblock list features. It does nothing if they were listed before, so that it may be called within a transaction then.
func (w *Writer) setFeatures(ctx context.Context, features ...ondisk.Feature) error {
	mask := uint64(0)
	for _, f := range features {
		mask |= 1 << f
	}
	if w.listed.Load()&mask == mask {
		return nil
	}
	if err := w.cfg.SetFeatures(ctx, features...); err != nil {
		return err
	}
	w.listed.Or(mask)
	return nil
}

// compression returns the type and level that an option byte asks for (spec/05 § 7.2).
func compression(option uint8) (t compress.Type, level int) {
	return [16]compress.Type{0, compress.LZ4, compress.Gzip, compress.Zstd}[option&15], int(option >> 4)
}

// features of the superblock that types of compression need.
func compressionFeature(t compress.Type) (f ondisk.Feature, ok bool) {
	switch t {
	case compress.LZ4:
		return ondisk.FeatureLZ4, true
	case compress.Gzip:
		return ondisk.FeatureGzip, true
	case compress.Zstd:
		return ondisk.FeatureZstd, true
	}
	return 0, false
}

// lockTable has a lock for each inode that is in use.
type lockTable struct {
	mu    sync.Mutex
	locks map[ID]*inodeLock
}

type inodeLock struct {
	sync.RWMutex
	users int // under lockTable.mu
}

// lock locks an inode and returns what unlocks it.
func (t *lockTable) lock(id ID, exclusive bool) (unlock func()) {
	t.mu.Lock()
	l := t.locks[id]
	if l == nil {
		l = new(inodeLock)
		t.locks[id] = l
	}
	l.users++
	t.mu.Unlock()
	if exclusive {
		l.Lock()
	} else {
		l.RLock()
	}
	return func() {
		if exclusive {
			l.Unlock()
		} else {
			l.RUnlock()
		}
		t.mu.Lock()
		if l.users--; l.users == 0 {
			delete(t.locks, id)
		}
		t.mu.Unlock()
	}
}

// lockBoth locks two inodes, which may be the same, in an order that all use.
func (t *lockTable) lockBoth(a, b ID) (unlock func()) {
	if a == b {
		return t.lock(a, true)
	}
	if b.Subvol < a.Subvol || b.Subvol == a.Subvol && b.Inum < a.Inum {
		a, b = b, a
	}
	first := t.lock(a, true)
	second := t.lock(b, true)
	return func() { second(); first() }
}

// writerDevices gives the reader the members as they are now.
type writerDevices struct{ w *Writer }

func (d writerDevices) Device(dev uint8) blockdev.Device { return d.w.cfg.Device(dev) }

func (d writerDevices) DeviceName(dev uint8) string { return d.w.cfg.DeviceName(dev) }

// Stale looks at the generations in memory, which change with the commit that empties a bucket.
func (d writerDevices) Stale(_ context.Context, dev uint8, sector ondisk.Sector, gen uint8) (bool, error) {
	m := d.w.cfg.Members.Get(dev)
	return m == nil || m.Stale(&ondisk.ExtentPtr{Dev: dev, Offset: sector, Gen: gen}) > 0, nil
}
