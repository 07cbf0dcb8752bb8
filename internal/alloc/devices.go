package alloc

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// BucketRange is a range of buckets: those from First to before End.
type BucketRange struct{ First, End ondisk.Bucket }

// DeviceConfig is what the allocator is told of a device.
type DeviceConfig struct {
	*Device
	Member ondisk.Member   // state, data allowed, group, durability, discard, bitmap of btree nodes are looked at
	Disk   blockdev.Device // for discards; nil: none are issued
	// Hidden are the buckets of superblocks and of the journal, which are never handed out even if their alloc keys say nothing.
	Hidden []BucketRange
	// Start is the bucket from which the early allocator begins, in a filesystem that is being made.
	Start ondisk.Bucket
}

// Ways to choose buckets by the bitmap of btree nodes. Each has a cursor of its own.
const (
	bitmapOutside = iota // buckets in which no btree node ever was: data goes there
	bitmapInside         // buckets that are marked: nodes go there, so that few bits are set
	bitmapAny
	numBitmapModes
)

// DevSpace is the space of a device, as the allocator sees it. Its methods are safe for concurrent use.
type DevSpace struct {
	*Device
	disk     blockdev.Device
	discard  atomic.Bool
	replicas atomic.Int32                  // what a copy on the device counts for
	hidden   atomic.Pointer[[]BucketRange] // sorted, apart

	// opened counts the open buckets that are free as far as the alloc keys say. It changes under the freelist lock.
	opened      atomic.Int64
	held        atomic.Int64 // those that were emptied, and cannot be discarded before they are closed; likewise
	nodeReserve int64        // buckets that BtreeNodeReserve nodes take
	start       ondisk.Bucket

	// Cursors are hints where to look next: bucket numbers.
	freelistCursor, earlyCursor [numBitmapModes]atomic.Uint64

	mu     sync.Mutex
	nouse  map[ondisk.Bucket]bool // kept back by whoever shrinks or migrates the device
	bitmap BtreeBitmap
}

func newDevSpace(c *DeviceConfig, nodeSectors uint32) *DevSpace {
	d := &DevSpace{
		Device:      c.Device,
		disk:        c.Disk,
		nodeReserve: nodeReserveBuckets(c.BucketSize, nodeSectors),
		start:       max(c.Start, c.FirstBucket),
		bitmap:      BtreeBitmap{c.Member.BtreeBitmapShift, c.Member.BtreeBitmap},
	}
	d.update(c)
	return d
}

// update takes over what may change while the device is in use.
func (d *DevSpace) update(c *DeviceConfig) {
	hidden := slices.Clone(c.Hidden)
	slices.SortFunc(hidden, func(a, b BucketRange) int { return cmp.Compare(a.First, b.First) })
	d.hidden.Store(&hidden)
	d.discard.Store(c.Member.Discard())
	d.replicas.Store(int32(c.Member.Durability()))
}

// Durability is how many replicas a copy on the device counts for.
func (d *DevSpace) Durability() int { return d.durability() }

func (d *DevSpace) durability() int { return int(d.replicas.Load()) }

// isHidden tells whether a bucket holds a superblock or a part of the journal.
func (d *DevSpace) isHidden(b ondisk.Bucket) bool {
	hidden := *d.hidden.Load()
	i, _ := slices.BinarySearchFunc(hidden, b, func(r BucketRange, b ondisk.Bucket) int {
		if r.End <= b {
			return -1
		}
		return 1
	})
	return i < len(hidden) && hidden[i].First <= b
}

// SetNoUse keeps a bucket from being handed out, or gives it back.
func (d *DevSpace) SetNoUse(b ondisk.Bucket, keep bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if keep {
		if d.nouse == nil {
			d.nouse = map[ondisk.Bucket]bool{}
		}
		d.nouse[b] = true
	} else {
		delete(d.nouse, b)
	}
}

func (d *DevSpace) isNoUse(b ondisk.Bucket) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.nouse[b]
}

// Bitmap returns where btree nodes are.
func (d *DevSpace) Bitmap() BtreeBitmap {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.bitmap
}

// setBitmap is called once a bitmap is in the superblock on disk. Bits are never cleared by it.
func (d *DevSpace) setBitmap(m BtreeBitmap) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.bitmap = m
}

// Targets of allocations, as inodes and options hold them: 0 for all devices, a device, or a label with all below it.
const (
	targetDevs   = 1
	targetGroups = 1 + 256
)

// TargetDevice returns the target of a device, TargetGroup that of a disk group.
func TargetDevice(dev uint8) uint16 { return targetDevs + uint16(dev) }

// TargetGroup returns the target of the disk group with an index.
func TargetGroup(group int) uint16 { return targetGroups + uint16(group) }

// spaces are the devices that there are, with the sets that follow from them. It is replaced as a whole.
type spaces struct {
	devs   [MaxDevices]*DevSpace
	all    DevSet
	rw     [ondisk.NumDataTypes]DevSet // that may get new data of a type
	groups []DevSet                    // members of each disk group and of those below it
	gone   []bool                      // groups that do not exist any more
	// largest bucket size in sectors
	largestBucket uint32
	// maxPartial is how many buckets are kept open for what room they have left, though they are nobody's: as long as they are open what is in them
	// cannot be moved.
	maxPartial int
}

// AddDevice adds a device. For one that is there already it changes what its member's slot says and which buckets are hidden; its open
// buckets stay as they are.
func (a *Allocator) AddDevice(c DeviceConfig) (*DevSpace, error) {
	switch {
	case c.Index >= MaxDevices:
		return nil, fmt.Errorf("device %d: indexes end at %d", c.Index, MaxDevices-1)
	case c.BucketSize == 0:
		return nil, fmt.Errorf("device %d: buckets of no size", c.Index)
	}
	a.devMu.Lock()
	defer a.devMu.Unlock()
	d := newDevSpace(&c, a.cfg.NodeSectors)
	if old := a.spaces.Load().devs[c.Index]; old != nil {
		if old.NBuckets != d.NBuckets || old.BucketSize != d.BucketSize {
			return nil, fmt.Errorf("device %d: %d buckets of %d sectors become %d of %d while it is in use", c.Index, old.NBuckets,
				old.BucketSize, d.NBuckets, d.BucketSize)
		}
		d = old
		d.update(&c)
	}
	a.members[c.Index] = c.Member
	a.updateSpaces(func(s *spaces) { s.devs[c.Index] = d })
	return d, nil
}

// SetDiskGroups tells which labels there are.
func (a *Allocator) SetDiskGroups(groups []ondisk.DiskGroup) {
	a.devMu.Lock()
	defer a.devMu.Unlock()
	a.groups = slices.Clone(groups)
	a.updateSpaces(func(*spaces) {})
}

// SetMemberState changes what a device may be used for. Open buckets of a device that is not read-write any more stay with
// whoever has them until [Allocator.CloseDevice].
func (a *Allocator) SetMemberState(dev uint8, state ondisk.MemberState) {
	a.devMu.Lock()
	defer a.devMu.Unlock()
	m := a.members[dev]
	m.Flags = m.Flags&^15 | uint64(state)
	a.members[dev] = m
	a.updateSpaces(func(*spaces) {})
}

// updateSpaces replaces a.spaces; devMu is held.
func (a *Allocator) updateSpaces(change func(*spaces)) {
	s := new(spaces)
	s.devs = a.spaces.Load().devs
	change(s)
	s.groups = make([]DevSet, len(a.groups))
	s.gone = make([]bool, len(a.groups))
	for i, g := range a.groups {
		s.gone[i] = g.Deleted
	}
	buckets := uint64(0)
	for i, d := range s.devs {
		if d == nil {
			continue
		}
		buckets += uint64(d.NBuckets)
		dev, m := uint8(i), a.members[uint8(i)]
		s.all.Add(dev)
		s.largestBucket = max(s.largestBucket, d.BucketSize)
		if m.State() == ondisk.MemberRW {
			for t := range s.rw {
				if m.DataAllowed()>>allowedAs(ondisk.DataType(t))&1 != 0 {
					s.rw[t].Add(dev)
				}
			}
		}
		g, ok := m.Group()
		for n := 0; ok && g >= 0 && g < len(a.groups) && n < len(a.groups); n++ {
			s.groups[g].Add(dev)
			g = a.groups[g].Parent
		}
	}
	s.maxPartial = int(min(max(buckets/64, 4), 64))
	a.spaces.Store(s)
	a.freed.signal(true)
}

// allowedAs returns which bit of a member's data_allowed a type goes by.
func allowedAs(t ondisk.DataType) ondisk.DataType {
	switch t {
	case ondisk.DataJournal, ondisk.DataBtree:
		return t
	}
	return ondisk.DataUser
}

// InTarget tells whether a device belongs to a target, and whether the target has devices that data may be written to. It is a [TargetFunc].
func (a *Allocator) InTarget(target uint16, dev uint8) (in, usable bool) {
	sp := a.spaces.Load()
	set, ok := sp.target(target)
	return ok && set.Has(dev), ok && sp.rw[ondisk.DataUser].And(set).Len() > 0
}

// Writable reports whether a device may get new data of any type.
func (a *Allocator) Writable(dev uint8) bool {
	sp := a.spaces.Load()
	for t := range sp.rw {
		if sp.rw[t].Has(dev) {
			return true
		}
	}
	return false
}

// target returns the devices of a target; ok is false if it means all, also because what it names does not exist any more.
func (s *spaces) target(t uint16) (set DevSet, ok bool) {
	switch {
	case t >= targetGroups:
		g := int(t - targetGroups)
		if g >= len(s.groups) || s.gone[g] {
			return DevSet{}, false
		}
		return s.groups[g], true
	case t >= targetDevs && t-targetDevs < MaxDevices:
		dev := uint8(t - targetDevs)
		if s.devs[dev] == nil {
			return DevSet{}, false
		}
		return Devs(dev), true
	}
	return DevSet{}, false
}

// get returns a device by its index; nil if there is none.
func (s *spaces) get(dev uint8) *DevSpace {
	if int(dev) >= len(s.devs) {
		return nil
	}
	return s.devs[dev]
}

// Devices iterates over the devices in order of their indexes.
func (a *Allocator) Devices() iter.Seq[*DevSpace] {
	s := a.spaces.Load()
	return func(yield func(*DevSpace) bool) {
		for dev := range s.all.All() {
			if !yield(s.devs[dev]) {
				return
			}
		}
	}
}

// DevSpace returns the space of a device; nil if there is none of that index.
func (a *Allocator) DevSpace(dev uint8) *DevSpace { return a.spaces.Load().get(dev) }
