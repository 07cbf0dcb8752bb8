package bcachefs

import (
	"cmp"
	"context"
	"encoding/binary"
	"slices"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
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
	Capacity uint64 // of all members, without what is reserved for moving data and for superblocks and journals
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
	State       string // rw, ro, evacuating, spare
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

// gcReservePercent is what the driver keeps for moving data by default.
const gcReservePercent = 8

// StatFS returns the figures of statfs(2).
func (f *FS) StatFS(ctx context.Context) (*StatFS, error) {
	size := uint64(f.engine.SB.BlockBytes())
	uuid := f.engine.SB.UserUUID
	fsid := [2]uint32{binary.LittleEndian.Uint32(uuid[0:]) ^ binary.LittleEndian.Uint32(uuid[8:]), binary.LittleEndian.Uint32(uuid[4:]) ^ binary.LittleEndian.Uint32(uuid[12:])}
	if f.live != nil { // what can be promised, to the block
		s := f.live.Space().StatFS(size / sectorSize)
		return &StatFS{BlockSize: int64(size), Blocks: s.Blocks, Free: s.Free, Available: s.Avail, Files: s.Files - s.FilesFree, NameMax: ondisk.MaxName, FSID: fsid}, nil
	}
	u, err := f.Usage(ctx)
	if err != nil {
		return nil, err
	}
	free := (u.Capacity - min(u.Used, u.Capacity)) / size
	return &StatFS{BlockSize: int64(size), Blocks: u.Capacity / size, Free: free, Available: free, Files: u.Inodes,
		NameMax: ondisk.MaxName,
		FSID:    fsid}, nil
}

// Usage returns what the space is used for, of the whole filesystem and of each device. It reads the accounting btree, or in
// filesystems older than that all allocation information.
func (f *FS) Usage(ctx context.Context) (*Usage, error) {
	sb := f.engine.SB
	c := counting{u: &Usage{UUID: sb.UserUUID.String(), Version: sb.Version.String()}, devices: map[uint32]*DeviceUsage{},
		types: map[devType]*DataTypeUsage{}}
	for _, m := range f.engine.Members {
		d := &DeviceUsage{Index: int(m.Index), Name: m.Path, Label: m.Label, UUID: m.UUID.String(), State: m.State().String(), Durability: int(m.Durability()),
			Missing: m.Device == nil, BucketBytes: uint64(m.BucketSize) * sectorSize, Buckets: m.NBuckets,
			Bytes: m.NBuckets * uint64(m.BucketSize) * sectorSize}
		c.devices[uint32(m.Index)] = d
		c.total += d.Bytes - min(uint64(m.FirstBucket)*d.BucketBytes, d.Bytes)
	}
	var err error
	if c.u.FromAlloc = sb.Version < ondisk.VersionAccounting; c.u.FromAlloc {
		err = f.countAlloc(ctx, &c)
	} else {
		err = f.countAccounting(ctx, &c)
	}
	if err != nil {
		return nil, err
	}
	return c.finish(), nil
}

const sectorSize = ondisk.SectorSize

type devType struct {
	dev uint32
	typ ondisk.DataType
}

// counting adds up a Usage.
type counting struct {
	u       *Usage
	total   uint64 // bytes that can be allocated on all devices
	hidden  uint64 // of superblocks and journals
	devices map[uint32]*DeviceUsage
	types   map[devType]*DataTypeUsage
}

func (c *counting) device(dev uint32, t ondisk.DataType) *DataTypeUsage {
	d := c.devices[dev]
	if d == nil {
		return new(DataTypeUsage) // of a device that was removed
	}
	k := devType{dev, t}
	if c.types[k] == nil {
		c.types[k] = &DataTypeUsage{DataType: t.String()}
	}
	return c.types[k]
}

// bytes turns a count of sectors, which a damaged filesystem may have negative, into bytes.
func bytesOf(sectors int64) uint64 { return uint64(max(sectors, 0)) * sectorSize }

func (f *FS) countAccounting(ctx context.Context, c *counting) error {
	for k, err := range f.keys.Keys(ctx, ondisk.BtreeAccounting, ondisk.PosMin, ondisk.SPosMax) {
		if err != nil {
			return err
		}
		if k.Type != ondisk.KeyAccounting {
			continue
		}
		pos, _ := ondisk.DecodeAccountingPos(k.Pos, f.engine.SB.Version)
		c.add(&pos, &k)
	}
	return nil
}

// add counts one accounting key.
func (c *counting) add(p *ondisk.AccountingPos, k *ondisk.Key) {
	n := func(i int) int64 { return ondisk.AccountingCounter(k, i) }
	switch p.Type {
	case ondisk.AccountingNrInodes:
		c.u.Inodes += uint64(max(n(0), 0))
	case ondisk.AccountingPersistentReserved:
		c.u.Reserved += bytesOf(n(0)) * uint64(max(p.NrReplicas, 1))
	case ondisk.AccountingReplicas:
		c.addReplicas(p, bytesOf(n(0)))
	case ondisk.AccountingDevDataType:
		t := c.device(p.Dev, p.DataType)
		t.Buckets, t.Bytes, t.Fragmented = uint64(max(n(0), 0)), bytesOf(n(1)), bytesOf(n(2))
		if p.DataType == ondisk.DataSB || p.DataType == ondisk.DataJournal {
			if d := c.devices[p.Dev]; d != nil {
				c.hidden += t.Buckets * d.BucketBytes
			}
		}
	case ondisk.AccountingCompression:
		if n(0)|n(1)|n(2) != 0 {
			c.u.Compression = append(c.u.Compression, CompressionUsage{Type: p.Compression.String(), Extents: uint64(max(n(0), 0)),
				UncompressedBytes: bytesOf(n(1)), CompressedBytes: bytesOf(n(2))})
		}
	case ondisk.AccountingBtree:
		if n(0) != 0 {
			c.u.Btrees = append(c.u.Btrees, BtreeUsage{Btree: ondisk.BtreeID(p.Btree).String(), Bytes: bytesOf(n(0))})
		}
	}
}

func (c *counting) addReplicas(p *ondisk.AccountingPos, bytes uint64) {
	if bytes == 0 {
		return
	}
	r := ReplicasUsage{DataType: p.DataType.String(), Required: int(p.NrRequired), Bytes: bytes}
	for _, d := range p.DevList() {
		r.Devices = append(r.Devices, int(d))
	}
	c.u.Replicas = append(c.u.Replicas, r)
	switch p.DataType {
	case ondisk.DataBtree, ondisk.DataUser, ondisk.DataParity:
		c.u.Used += bytes
	}
}

// countAlloc adds up what buckets are used for, of filesystems without accounting.
func (f *FS) countAlloc(ctx context.Context, c *counting) error {
	seen := map[uint32]uint64{}
	for k, err := range f.keys.Keys(ctx, ondisk.BtreeAlloc, ondisk.PosMin, ondisk.SPosMax) {
		if err != nil {
			return err
		}
		a, err := ondisk.DecodeAlloc(k)
		d := c.devices[uint32(k.Pos.Inode)]
		if err != nil || d == nil || k.Pos.Inode > 255 || k.Pos.Offset >= d.Buckets {
			continue
		}
		dev := uint32(k.Pos.Inode)
		t := c.device(dev, a.DataType)
		t.Buckets++
		seen[dev]++
		bytes := a.Sectors() * sectorSize
		t.Bytes += bytes
		switch a.DataType {
		case ondisk.DataBtree, ondisk.DataUser, ondisk.DataParity, ondisk.DataStripe, ondisk.DataCached:
			t.Fragmented += a.Fragmented(uint32(d.BucketBytes/sectorSize)) * sectorSize
			if a.DataType != ondisk.DataCached {
				c.u.Used += bytes
			}
		case ondisk.DataSB, ondisk.DataJournal:
			c.hidden += d.BucketBytes
		}
	}
	for dev, d := range c.devices {
		c.device(dev, ondisk.DataFree).Buckets += d.Buckets - min(seen[dev], d.Buckets)
	}
	return nil
}

func (c *counting) finish() *Usage {
	u := c.u
	u.Capacity = c.total - c.total/100*gcReservePercent
	u.Capacity -= min(c.hidden, u.Capacity)
	const reserveShift = 6 // the driver reckons with a 64th more
	u.Used = min(u.Used+u.Reserved+u.Reserved>>reserveShift, u.Capacity)
	for dev, d := range c.devices {
		for t := range ondisk.NumDataTypes {
			if use := c.types[devType{dev, t}]; use != nil {
				d.Types = append(d.Types, *use)
			}
		}
		u.Devices = append(u.Devices, *d)
	}
	slices.SortFunc(u.Devices, func(a, b DeviceUsage) int { return cmp.Compare(a.Index, b.Index) })
	return u
}
