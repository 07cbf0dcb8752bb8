package bcachefs

import (
	"context"
	"errors"
)

// StatFS are the figures of statfs(2).
type StatFS struct {
	BlockSize int64  // bytes
	Blocks    uint64 // capacity, in blocks
	Free      uint64
	Available uint64
	Files     uint64 // inodes in use
	NameMax   int    // bytes
	FSID      [2]uint32
}

// Usage says what the space of a filesystem is used for. All sizes are in bytes.
type Usage struct {
	UUID     string
	Version  string
	Capacity uint64 // of all members
	Used     uint64
	Reserved uint64 // by preallocation, without place yet
	Inodes   uint64
	Replicas []ReplicasUsage
	// Compression has, per type, what was compressed and to how much.
	Compression []CompressionUsage
	Btrees      []BtreeUsage
	Devices     []DeviceUsage
	// FromAlloc tells that the filesystem has no accounting (before 1.9), so that figures were added up from the
	// allocation information, and that fields which that does not tell are empty.
	FromAlloc bool
}

// ReplicasUsage is how much of a type of data lies on a set of devices.
type ReplicasUsage struct {
	DataType string
	Required int
	Devices  []int // indices
	Bytes    uint64
}

// CompressionUsage sums up what is stored with one type of compression.
type CompressionUsage struct {
	Type              string
	Extents           uint64
	CompressedBytes   uint64
	UncompressedBytes uint64
}

// BtreeUsage is the size of one btree.
type BtreeUsage struct {
	Btree string
	Bytes uint64
}

// DeviceUsage describes a member and what it holds.
type DeviceUsage struct {
	Index       int
	Name        string // as given to Open; "" if missing
	Label       string // "hdd.hdd1"; "" if none
	UUID        string
	State       string // rw, ro, failed, spare…
	Durability  int    // how many replicas one on it counts for: 1 for an ordinary device
	Missing     bool
	BucketBytes uint64
	Buckets     uint64
	Bytes       uint64 // capacity
	Types       []DataTypeUsage
}

// DataTypeUsage is what one type of data takes on a device.
type DataTypeUsage struct {
	DataType   string // free, sb, journal, btree, user, cached…
	Buckets    uint64
	Bytes      uint64
	Fragmented uint64 // bytes of partly used buckets that nothing uses
}

// StatFS returns the figures of statfs(2).
func (f *FS) StatFS(ctx context.Context) (*StatFS, error) { return nil, errors.ErrUnsupported }

// Usage returns what the space is used for, of the whole filesystem and of each device.
func (f *FS) Usage(ctx context.Context) (*Usage, error) { return nil, errors.ErrUnsupported }
