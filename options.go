package bcachefs

import (
	"context"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
)

// OpenOptions says how to open a filesystem. The zero value, or nil, is what most callers want.
type OpenOptions struct {
	// Passphrase is asked for the passphrase of an encrypted filesystem; it is not called for others. Without it encrypted
	// filesystems are refused with [ErrPassphraseNeeded].
	Passphrase func(context.Context) ([]byte, error)

	// Degraded says that missing members are no surprise, so long as every piece of data can be read without them. For
	// reading that is allowed anyway; without it, a message tells which are missing.
	Degraded bool
	// VeryDegraded opens although data or metadata is absent; reading what is absent fails.
	VeryDegraded bool

	// NoRecovery ignores the journal of a filesystem that was not unmounted cleanly and shows the trees as they lie on disk,
	// which are old and may be inconsistent.
	NoRecovery bool
	// Salvage looks on the devices for btree nodes that nothing points to any more if the upper part of a btree is
	// damaged, however long that takes.
	Salvage bool

	// ScanDirs are directories (or single devices) in which members that were not given are looked for by the UUID of the
	// filesystem; none means all block devices.
	ScanDirs []string
	// NoScan opens just the given devices.
	NoScan bool
	// NoSplitBrainCheck accepts members that were written to without the others.
	NoSplitBrainCheck bool

	// Write opens the filesystem for writing, too: what a crash left in the journal is replayed, and the devices belong to this program
	// alone until [FS.Close], which must be called. Filesystems that hold what is not fully understood are refused, as are those of which members
	// are missing.
	Write bool
	// UID and GID own what methods of [View] create.
	UID, GID uint32
	// ForceEarlyAllocator has free space found by going over all buckets, as it is before the index of free space is made; for tests.
	ForceEarlyAllocator bool
	// Now and Rand are where times and random numbers of what is written come from, so that the same changes make the same bytes; nil: the
	// system's time, and random. Both are called from several goroutines.
	Now  func() time.Time
	Rand func() uint64
	// Ordered has nothing done in the background: with Now and Rand that give the same each time, the same changes, made one after another, make the same bytes.
	// Whoever makes them calls [FS.Settle] in between.
	Ordered bool

	// SuperblockSector is where to read the superblock of each device, in sectors of 512 bytes; 0 means the usual places.
	SuperblockSector uint64

	// NodeCacheBytes bounds the memory for btree nodes; 0 means 256 MiB.
	NodeCacheBytes int64
	// ExtentCacheBytes bounds the memory for verified and decompressed file data; 0 means 64 MiB.
	ExtentCacheBytes int64
	// ReadParallelism bounds the number of extents of one large read that are decoded at once; 0 means the number of CPUs.
	ReadParallelism int

	// Logf, if set, is told messages as they arise, beside their being kept for [FS.Messages]. It may be called from
	// several goroutines.
	Logf func(format string, args ...any)

	// OpenDevice replaces the opening of device files, for tests and for devices that are no files.
	OpenDevice func(path string) (Device, error)
}

// Device is what a filesystem lies on: a disk, a file, or what [OpenOptions].OpenDevice makes. Reads come from several goroutines
// at once; [Open] writes to it only with [OpenOptions].Write.
type Device = blockdev.Device
