package alloc

import (
	"fmt"
	"iter"
	"sync/atomic"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// Device is what allocation knows of a member: its geometry, and the generation of each bucket. All methods are safe for concurrent
// use.
type Device struct {
	Index       uint8
	FirstBucket ondisk.Bucket // buckets before it are never used
	NBuckets    ondisk.Bucket
	BucketSize  uint32 // sectors

	freespaceInit atomic.Bool
	gens          []atomic.Uint32 // four buckets a word
}

// NewDevice returns the device of a member's slot, all generations 0.
func NewDevice(index uint8, m *ondisk.Member) *Device {
	d := &Device{
		Index:       index,
		FirstBucket: ondisk.Bucket(m.FirstBucket),
		NBuckets:    ondisk.Bucket(m.NBuckets),
		BucketSize:  uint32(m.BucketSize),
		gens:        make([]atomic.Uint32, (m.NBuckets+3)/4),
	}
	d.freespaceInit.Store(m.FreespaceInitialized())
	return d
}

// Has reports whether b is a bucket that may hold something.
func (d *Device) Has(b ondisk.Bucket) bool { return b >= d.FirstBucket && b < d.NBuckets }

// Bucket returns the bucket of a sector, which need not be within the device, and the sector's offset in it.
func (d *Device) Bucket(s ondisk.Sector) (b ondisk.Bucket, offset uint32) {
	return ondisk.Bucket(uint64(s) / uint64(d.BucketSize)), uint32(uint64(s) % uint64(d.BucketSize))
}

// Sector returns the first sector of a bucket.
func (d *Device) Sector(b ondisk.Bucket) ondisk.Sector {
	return ondisk.Sector(uint64(b) * uint64(d.BucketSize))
}

// Gen returns the generation of a bucket as of the last commit that changed it; ok is false for buckets that the device does not have.
// It is for judging pointers that are read. Whatever is written gets its generation from the alloc key.
func (d *Device) Gen(b ondisk.Bucket) (gen uint8, ok bool) {
	if !d.Has(b) {
		return 0, false
	}
	return uint8(d.gens[b/4].Load() >> (b % 4 * 8)), true
}

// SetGen sets the generation of a bucket; buckets that the device does not have are ignored.
func (d *Device) SetGen(b ondisk.Bucket, gen uint8) {
	if !d.Has(b) {
		return
	}
	shift := b % 4 * 8
	for w := &d.gens[b/4]; ; {
		old := w.Load()
		if w.CompareAndSwap(old, old&^(0xff<<shift)|uint32(gen)<<shift) {
			return
		}
	}
}

// FreespaceInitialized reports whether the freespace btree covers the device, so that it can be relied on.
func (d *Device) FreespaceInitialized() bool { return d.freespaceInit.Load() }

// SetFreespaceInitialized is told when the flag of the member changed.
func (d *Device) SetFreespaceInitialized(v bool) { d.freespaceInit.Store(v) }

// Stale returns by how many generations the bucket is ahead of the pointer: 0 for pointers that are good, also those to buckets that
// do not exist, which is for others to find out.
func (d *Device) Stale(p *ondisk.ExtentPtr) int {
	b, _ := d.Bucket(p.Offset)
	gen, ok := d.Gen(b)
	if !ok {
		return 0
	}
	return max(0, genCmp(gen, p.Gen))
}

// genCmp compares generations, which wrap around: it is positive if a is after b.
func genCmp(a, b uint8) int { return int(int8(a - b)) }

// Devices are the devices of a filesystem by index. All methods are safe for concurrent use.
type Devices struct {
	devs [256]atomic.Pointer[Device]
}

// Get returns a device; nil if there is none.
func (ds *Devices) Get(index uint8) *Device { return ds.devs[index].Load() }

// Set adds a device, or replaces one.
func (ds *Devices) Set(d *Device) { ds.devs[d.Index].Store(d) }

// Remove forgets a device.
func (ds *Devices) Remove(index uint8) { ds.devs[index].Store(nil) }

// All goes over the devices in order of their indices.
func (ds *Devices) All() iter.Seq[*Device] {
	return func(yield func(*Device) bool) {
		for i := range ds.devs {
			if d := ds.devs[i].Load(); d != nil && !yield(d) {
				return
			}
		}
	}
}

// bucketAt returns the device and bucket of a position of an alloc key.
func (ds *Devices) bucketAt(pos ondisk.Pos) (*Device, ondisk.Bucket, error) {
	b := ondisk.Bucket(pos.Offset)
	if pos.Inode >= ondisk.DevInvalid {
		return nil, 0, fmt.Errorf("alloc key %v: device %d: %w", pos, pos.Inode, ErrNoBucket)
	}
	d := ds.Get(uint8(pos.Inode))
	switch {
	case d == nil:
		return nil, 0, fmt.Errorf("alloc key %v: device %d: %w", pos, pos.Inode, ErrNoBucket)
	case !d.Has(b):
		return nil, 0, fmt.Errorf("alloc key %v: bucket %d of device %d, which has %d to %d: %w", pos, b, d.Index, d.FirstBucket, d.NBuckets-1,
			ErrNoBucket)
	}
	return d, b, nil
}

// allocPos is the position of a bucket's alloc key.
func allocPos(dev uint8, b ondisk.Bucket) ondisk.Pos {
	return ondisk.Pos{Inode: uint64(dev), Offset: uint64(b)}
}

// decodeAlloc returns the state of a bucket in the form that is written, of the key, which may be a deleted one.
func decodeAlloc(k *ondisk.Key) (ondisk.Alloc, error) {
	if k.Type.IsWhiteout() {
		return ondisk.Alloc{}.Upgrade(), nil
	}
	a, err := ondisk.DecodeAlloc(*k)
	if err != nil {
		return ondisk.Alloc{}, err
	}
	return a.Upgrade(), nil
}

// GetAlloc reads the state of a bucket: the slot of its key stays locked until the transaction ends. A bucket without a key is free.
func GetAlloc(tx Tx, dev uint8, b ondisk.Bucket, flags ReadFlags) (ondisk.Alloc, error) {
	k, _, err := tx.Get(ondisk.BtreeAlloc, allocPos(dev, b), flags)
	if err != nil {
		return ondisk.Alloc{}, err
	}
	return decodeAlloc(&k)
}

// SetAlloc updates the state of a bucket, which was read with [ForUpdate].
func SetAlloc(tx Tx, dev uint8, b ondisk.Bucket, a *ondisk.Alloc, flags UpdateFlags) error {
	return tx.Update(ondisk.BtreeAlloc, allocKey(tx, allocPos(dev, b), a), flags)
}

// allocKey returns the key of a bucket's state in the transaction's memory.
func allocKey(tx Tx, pos ondisk.Pos, a *ondisk.Alloc) ondisk.Key {
	up := *a
	if up.Encoding == 0 {
		up.Encoding = ondisk.KeyAllocV4 // made, not read
	}
	up = up.Upgrade()
	val := txBytes(tx, ondisk.AllocV4Size)
	up.Put(val)
	return ondisk.Key{Type: ondisk.KeyAllocV4, Pos: pos, Val: val}
}

// derivedType returns the data type that follows from the counters of a bucket, where hint says what the sectors are. That a discard is still
// to come is told by the flag alone up to 1.37, so whoever clears it makes the bucket free.
func derivedType(a *ondisk.Alloc, hint ondisk.DataType) ondisk.DataType {
	if hint == ondisk.DataNeedDiscard {
		hint = ondisk.DataFree
	}
	return a.DerivedDataType(hint)
}
