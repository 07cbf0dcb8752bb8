package alloc

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// CapacityDevice is a device that may be written to, for the calculation of the capacity.
type CapacityDevice struct {
	NBuckets, FirstBucket uint64
	BucketSize            uint32 // sectors
}

// Capacity is how much a filesystem can hold, in sectors.
type Capacity struct {
	Total    uint64 // of all devices that may be written to
	Reserved uint64 // of these, what is kept back so that data can always be moved and nodes be written
}

// Usable is the capacity that counts for reservations; superblocks and journal are in it.
func (c Capacity) Usable() uint64 { return c.Total - c.Reserved }

// NewCapacity calculates the capacity of devices (spec/04 § 9.1). gcReserveBytes is the option, if it is not 0, else
// gcReservePercent counts.
func NewCapacity(devs []CapacityDevice, nodeSectors uint32, gcReserveBytes, gcReservePercent uint64) Capacity {
	var c Capacity
	for _, d := range devs {
		const writePoints = 3 // of btree nodes, copygc, rebalance
		reserve := 2*uint64(nodeReserveBuckets(d.BucketSize, nodeSectors)) + d.NBuckets>>6 + writePoints
		c.Total += (d.NBuckets - d.FirstBucket) * uint64(d.BucketSize)
		c.Reserved += 2 * reserve * uint64(d.BucketSize)
	}
	gc := gcReserveBytes / ondisk.SectorSize
	if gcReserveBytes == 0 {
		gc = c.Total / 100 * gcReservePercent
		gc += c.Total % 100 * gcReservePercent / 100
	}
	c.Reserved = min(c.Total, max(c.Reserved, gc))
	return c
}

// UsageTotals are the totals that space is reckoned with, and what a commit changes of them, in sectors but for the inodes (spec/04 § 7.6).
type UsageTotals struct {
	NrInodes int64
	Reserved int64 // of reservation keys, times their replicas
	Btree    int64
	Data     int64 // and parity
	Cached   int64
	Hidden   int64 // superblocks and journal
}

// Add adds what the change of a counter means for the totals. Hidden sectors are those of whole buckets, of bucketSize sectors on the
// position's device.
func (u *UsageTotals) Add(p *ondisk.AccountingPos, delta int64, bucketSize uint32) {
	switch p.Type {
	case ondisk.AccountingNrInodes:
		u.NrInodes += delta
	case ondisk.AccountingPersistentReserved:
		u.Reserved += delta * int64(p.NrReplicas)
	case ondisk.AccountingReplicas:
		switch p.DataType {
		case ondisk.DataBtree:
			u.Btree += delta
		case ondisk.DataUser, ondisk.DataParity:
			u.Data += delta
		case ondisk.DataCached:
			u.Cached += delta
		}
	case ondisk.AccountingDevDataType:
		if isHiddenType(p.DataType) {
			u.Hidden += delta * int64(bucketSize)
		}
	}
}

func (u *UsageTotals) sum(v *UsageTotals) {
	u.NrInodes += v.NrInodes
	u.Reserved += v.Reserved
	u.Btree += v.Btree
	u.Data += v.Data
	u.Cached += v.Cached
	u.Hidden += v.Hidden
}

// Totals sums up the accounting.
func (a *Accounting) Totals(devs *Devices) UsageTotals {
	var u UsageTotals
	a.All(func(p ondisk.AccountingPos, c []int64) {
		size := uint32(0)
		if p.Type == ondisk.AccountingDevDataType && p.Dev < ondisk.DevInvalid {
			if d := devs.Get(uint8(p.Dev)); d != nil {
				size = d.BucketSize
			}
		}
		u.Add(&p, c[0], size)
	})
	return u
}

// Space is the space of a filesystem that can still be promised to somebody. Promises are about sectors, not buckets: what is kept back of
// the capacity, and moving data, make buckets of them. All methods are safe for concurrent use.
//
// Sectors to be had are handed to shards in portions, so that most promises touch one shard only. When there are not enough, all shards are
// locked and it is reckoned what there really is: a promise is refused only if it does not fit.
type Space struct {
	capacity  atomic.Uint64 // Capacity.Usable
	available atomic.Int64  // not handed to a shard
	shards    []spaceShard  // a power of two
}

// spaceShard is a part of the sums; single terms may be negative.
type spaceShard struct {
	mu        sync.Mutex
	available int64 // may be promised without asking
	promised  int64 // of reservations that are held
	totals    UsageTotals
	_         [64]byte // shards do not share cache lines
}

// spaceShardPortion is what a shard gets beyond the sectors that are asked for (SECTORS_CACHE).
const spaceShardPortion = 1024

// NewSpace returns the space of a filesystem, all of whose totals and capacity are 0.
func NewSpace() *Space {
	n := 1
	for n < 2*runtime.GOMAXPROCS(0) && n < 64 {
		n *= 2
	}
	return &Space{shards: make([]spaceShard, n)}
}

// SetCapacity is told when the capacity changes.
func (s *Space) SetCapacity(c Capacity) {
	s.lockAll()
	defer s.unlockAll()
	s.capacity.Store(c.Usable())
	s.available.Store(0) // to be reckoned at the next promise
	for i := range s.shards {
		s.shards[i].available = 0
	}
}

// SetTotals replaces the totals: what the accounting said when it was loaded.
func (s *Space) SetTotals(u UsageTotals) {
	s.lockAll()
	defer s.unlockAll()
	for i := range s.shards {
		s.shards[i].totals = UsageTotals{}
		s.shards[i].available = 0
	}
	s.shards[0].totals = u
	s.available.Store(0)
}

func (s *Space) lockAll() {
	for i := range s.shards {
		s.shards[i].mu.Lock()
	}
}

func (s *Space) unlockAll() {
	for i := range s.shards {
		s.shards[i].mu.Unlock()
	}
}

// some returns a shard: any is right, and different goroutines should not get the same.
func (s *Space) some() *spaceShard { return &s.shards[rand.Uint32()&uint32(len(s.shards)-1)] }

// Usage is how full a filesystem is, in sectors (spec/04 § 9.2).
type Usage struct {
	Capacity uint64 // without superblocks and journal, and what is kept back
	Used     uint64
	Free     uint64
	NrInodes uint64
	Totals   UsageTotals
	Promised int64 // to reservations that are held
}

// reserveShift is by what part (1/64) promises are reckoned to take more than their sectors, for the metadata that comes with them.
const reserveShift = 6

// inflate returns what n promised sectors are reckoned as.
func inflate(n uint64) uint64 {
	const unit = 1 << reserveShift
	return n + (n+unit-1)/unit
}

// deflate returns how many sectors may be promised of n free ones.
func deflate(n uint64) uint64 {
	const unit = 1 << reserveShift
	return n/(unit+1)*unit + n%(unit+1)*unit/(unit+1)
}

// usage is [Space.Usage] with all shards locked.
func (s *Space) usage() Usage {
	var u Usage
	for i := range s.shards {
		u.Totals.sum(&s.shards[i].totals)
		u.Promised += s.shards[i].promised
	}
	u.Capacity = s.capacity.Load()
	u.Capacity -= min(u.Capacity, clamp(u.Totals.Hidden))
	u.Used = min(u.Capacity, clamp(u.Totals.Data+u.Totals.Btree)+inflate(clamp(u.Totals.Reserved+u.Promised)))
	u.Free = u.Capacity - u.Used
	u.NrInodes = clamp(u.Totals.NrInodes)
	return u
}

func clamp(n int64) uint64 { return uint64(max(0, n)) }

// Usage returns how full the filesystem is.
func (s *Space) Usage() Usage {
	s.lockAll()
	defer s.unlockAll()
	return s.usage()
}

// StatFS are the numbers of statfs(2), in blocks but for the files.
type StatFS struct {
	Blocks, Free, Avail uint64
	Files, FilesFree    uint64
}

// StatFS returns the numbers of statfs for blocks of a size in sectors.
func (u Usage) StatFS(blockSectors uint64) StatFS {
	return StatFS{
		Blocks: u.Capacity / blockSectors,
		Free:   u.Free / blockSectors,
		Avail:  deflate(u.Free) / blockSectors,
		// Nobody knows how many inodes there will be room for: one for 64 bytes.
		Files:     u.NrInodes + 8*u.Free,
		FilesFree: 8 * u.Free,
	}
}

// NoSpaceError tells that sectors cannot be promised. It is [ErrNoSpace].
type NoSpaceError struct {
	Wanted, Free uint64 // sectors
}

func (e *NoSpaceError) Error() string {
	return fmt.Sprintf("no space left: %d sectors are wanted, %d can be had", e.Wanted, e.Free)
}

// Is makes a NoSpaceError [ErrNoSpace].
func (e *NoSpaceError) Is(target error) bool { return target == ErrNoSpace }
