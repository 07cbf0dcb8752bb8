// Package data reads and writes the content of files: [Reader] those of a filesystem that does not change, [Writer] those of one that does.
//
// # From a range of a file to bytes
//
// A read is cut into windows. For each window the extents that the snapshot sees are gathered as pieces: zeros (holes,
// reservations, unwritten extents), bytes that lie in a key (inline data), or parts of extents on devices; reflink pointers are
// followed to the extents they share. Each part of an extent becomes a unit with the replica it is to be read from and the way
// this is done:
//
//   - raw: nothing to verify, only the wanted sectors are read, straight into the caller's buffer;
//   - whole: the unit is all that one checksum covers, and is read and verified in the caller's buffer;
//   - blob: the whole of what is stored must be read and decoded (compressed data, or a part of what a checksum covers).
//     What was decoded for a part is kept in a cache of bounded size, so that small reads do not repeat it;
//   - blocks: of what is stored as it is read, and was verified as a whole before, only the blocks of 4 KiB that the unit lies in are read, and verified by
//     checksums of theirs that are remembered much longer than the data.
//
// Units that follow one another in the file and on a device are read together, and independent reads run in parallel.
//
// # Failure
//
// A unit that cannot be read or does not verify is tried again alone on every other replica, then by rebuilding it from its
// stripe. If all fails the read ends before it, with a [ReadError]. Bytes that were not verified are never handed out.
//
// # Concurrency
//
// All methods of [Reader] may be called by many goroutines. Memory besides the cache is bounded by the window of each read
// in progress.
package data

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/codec/crypt"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// Reasons why data cannot be read; a [ReadError] wraps one of them or an error of the device.
var (
	ErrChecksum   = errors.New("checksum does not match")
	ErrPoisoned   = errors.New("data is marked as damaged (poisoned)")
	ErrLost       = errors.New("data is marked as lost")
	ErrReflink    = errors.New("shared data that is pointed to does not exist")
	ErrNoDevice   = errors.New("device is missing")
	ErrNoReplica  = errors.New("no replica can be read")
	ErrNoKey      = errors.New("data is encrypted and there is no key")
	ErrBadExtent  = errors.New("invalid extent")
	ErrBadStripe  = errors.New("invalid stripe")
	ErrNoData     = errors.New("no data behind this offset")
	errTooDamaged = errors.New("too few blocks of the stripe can be read")
)

// ReadError says which part of a file could not be read, and why the last replica that was tried failed.
type ReadError struct {
	Device string // name of the device; "" if no device was asked
	Sector int64  // where on the device, in units of 512 bytes; -1 if no device was asked
	Inum   uint64
	Offset int64 // in the file, in bytes
	Err    error
}

func (e *ReadError) Error() string {
	if e.Device == "" {
		return fmt.Sprintf("inode %d offset %d: %v", e.Inum, e.Offset, e.Err)
	}
	return fmt.Sprintf("inode %d offset %d: %s sector %d: %v", e.Inum, e.Offset, e.Device, e.Sector, e.Err)
}

// Unwrap returns the cause.
func (e *ReadError) Unwrap() error { return e.Err }

// Trees is what is read of btrees, see [btree.Reader].
type Trees interface {
	KeysIn(ctx context.Context, btree ondisk.BtreeID, from, to ondisk.Pos, snapshot uint32) iter.Seq2[ondisk.Key, error]
	Lookup(ctx context.Context, btree ondisk.BtreeID, pos ondisk.Pos) (ondisk.Key, bool, error)
}

// Devices is what is known of the members.
type Devices interface {
	// Device returns a member for reading, nil if it is missing or failed.
	Device(dev uint8) blockdev.Device
	// DeviceName names a member in messages, also a missing one.
	DeviceName(dev uint8) string
	// Stale reports whether the bucket of a sector was reused since a pointer with generation gen was made. An
	// error means that this cannot be known.
	Stale(ctx context.Context, dev uint8, sector ondisk.Sector, gen uint8) (bool, error)
}

// Config is what a [Reader] needs to know of its filesystem.
type Config struct {
	Trees   Trees
	Devices Devices
	Key     *crypt.Key // nil if the filesystem is not encrypted
	// ExtentTypes has the lengths of extent entries, known and unknown.
	ExtentTypes ondisk.ExtentTypeU64s
	CacheBytes  int64 // bound of the cache of decoded extents, and of an eighth of it for checksums of blocks; 0 means 64 MiB
	Parallel    int   // bound of concurrent tasks of one read; 0 means the number of CPUs
	// OnBadReplica is told of replicas that could not be read or did not verify, while another one served. It must not block. It may be nil.
	OnBadReplica func(BadReplica)
	// OnFault is told of each read that failed, and of each that did not verify. It must not block. It may be nil.
	OnFault func(dev uint8, err error)
}

// BadReplica is a pointer to data that is damaged.
type BadReplica struct {
	Btree ondisk.BtreeID // extents or reflink
	Pos   ondisk.Pos     // of the key
	Ptr   ondisk.ExtentPtr
}

// Reader reads the data of one filesystem.
type Reader struct {
	cfg      Config
	cache    *cache
	sums     *blockSums
	buffers  bufferPool
	requests sync.Pool

	busy   [256]atomic.Int64  // bytes being read of each device
	faults [256]atomic.Uint32 // failed reads and checksums of each device
}

// NewReader returns a Reader.
func NewReader(cfg Config) *Reader {
	if cfg.CacheBytes <= 0 {
		cfg.CacheBytes = 64 << 20
	}
	if cfg.Parallel <= 0 {
		cfg.Parallel = runtime.GOMAXPROCS(0)
	}
	sums := cfg.CacheBytes / 8
	r := &Reader{cfg: cfg, cache: newCache(cfg.CacheBytes - sums), sums: newBlockSums(sums)}
	r.requests.New = func() any { return new(request) }
	return r
}

// Faults returns how many reads from a member failed, or gave bytes that did not match their checksum.
func (r *Reader) Faults(dev uint8) uint32 { return r.faults[dev].Load() }

// readDevice reads from a member.
func (r *Reader) readDevice(ctx context.Context, dev uint8, sector ondisk.Sector, p []byte) error {
	return r.readBytes(ctx, dev, uint64(sector)*sectorSize, p)
}
