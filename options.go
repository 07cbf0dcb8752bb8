package bcachefs

import (
	"context"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
)

// OpenOptions says how to open a filesystem. The zero value, or nil, is what most callers want.
type OpenOptions struct {
	// Passphrase is asked for the passphrase of an encrypted filesystem; it is not called for others. Without it encrypted
	// filesystems are refused with [ErrPassphraseNeeded].
	Passphrase func(context.Context) ([]byte, error)

	// Degraded opens although members are missing, if every piece of data still has a replica or can be rebuilt.
	Degraded bool
	// VeryDegraded opens although data is missing; reading what is missing fails.
	VeryDegraded bool

	// NoRecovery ignores the journal of a filesystem that was not unmounted cleanly and shows the trees as they lie on disk,
	// which may be inconsistent.
	NoRecovery bool

	// ScanDirs are directories (or single devices) in which members that were not given are looked for by the UUID of the
	// filesystem.
	ScanDirs []string

	// SuperblockSector is where to read the superblock of each device, in sectors of 512 bytes; 0 means the usual places.
	SuperblockSector uint64

	// NodeCacheBytes bounds the memory for btree nodes; 0 means 256 MiB.
	NodeCacheBytes int64
	// ExtentCacheBytes bounds the memory for verified and decompressed file data; 0 means 64 MiB.
	ExtentCacheBytes int64
	// ReadParallelism bounds the number of extents of one large read that are decoded at once; 0 means the number of CPUs.
	ReadParallelism int

	// OpenDevice replaces the opening of device files, for tests and for devices that are no files.
	OpenDevice func(path string) (blockdev.Device, error)
}
