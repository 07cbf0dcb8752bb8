package ondisk

// Positions of the btrees that index buckets. Their keys, of type set, have no value: the position says everything.

// Bucket is the index of a bucket on its device.
type Bucket uint64

const devBucketShift = 48

// DevBucket packs device and bucket into one word, as LRU, bucket_to_stripe and since 1.38 need_discard keys hold them.
func DevBucket(dev uint16, b Bucket) uint64 {
	return uint64(dev)<<devBucketShift | uint64(b)&(1<<devBucketShift-1)
}

// SplitDevBucket is the inverse of [DevBucket].
func SplitDevBucket(v uint64) (dev uint16, b Bucket) {
	return uint16(v >> devBucketShift), Bucket(v & (1<<devBucketShift - 1))
}

// Ids of LRUs. That of a device's cached buckets is the index of the device.
const (
	LRUFragmentation       = 1<<16 - 1 // up to 1.38
	LRUStripeFragmentation = 1<<16 - 2 // since 1.23; the offset is the stripe's index
	LRUDevFragmentation    = 8192      // since 1.39: plus the index of the device
)

// LRUPos is the position of an entry of an LRU: of the btree lru.
type LRUPos struct {
	ID     uint16
	Time   uint64 // 48 bits, not 0
	Offset uint64 // [DevBucket], or the index of a stripe
}

// DecodeLRUPos splits a position of the btree lru.
func DecodeLRUPos(p Pos) LRUPos {
	return LRUPos{uint16(p.Inode >> 48), p.Inode & LRUTimeMax, p.Offset}
}

// Pos returns the position in the btree.
func (l LRUPos) Pos() Pos { return Pos{Inode: uint64(l.ID)<<48 | l.Time&LRUTimeMax, Offset: l.Offset} }

const freespaceGenShift = 56

// FreespaceRange is what a key of the btree freespace says: Len buckets from First on are free, with the same distance to their
// oldest generation.
type FreespaceRange struct {
	Dev     uint64
	GenBits uint8 // upper four bits of the distance
	First   Bucket
	Len     uint32
}

// DecodeFreespace reads a key of the btree freespace.
func DecodeFreespace(k *Key) FreespaceRange {
	start := k.Start()
	return FreespaceRange{
		Dev:     start.Inode,
		GenBits: uint8(start.Offset >> freespaceGenShift),
		First:   Bucket(start.Offset & (1<<freespaceGenShift - 1)),
		Len:     k.Size,
	}
}

// Key returns the key.
func (r FreespaceRange) Key() Key {
	return Key{
		Type: KeySet,
		Size: r.Len,
		Pos:  Pos{Inode: r.Dev, Offset: (uint64(r.GenBits)<<freespaceGenShift | uint64(r.First)) + uint64(r.Len)},
	}
}

// FreespaceGenBits returns the GenBits of a free bucket.
func (a *Alloc) FreespaceGenBits() uint8 { return a.GCGen() >> 4 }

// NeedDiscard is what a key of the btree need_discard says.
type NeedDiscard struct {
	Dev    uint64
	Bucket Bucket
	Seq    uint64 // since 1.38: the journal entry that emptied the bucket
}

// versionNeedDiscardBySeq is the first version whose need_discard btree is ordered by journal sequence number.
const versionNeedDiscardBySeq MetadataVersion = 1<<10 | 38

// DecodeNeedDiscard splits a position of the btree need_discard, as filesystems of the version have it.
func DecodeNeedDiscard(p Pos, v MetadataVersion) NeedDiscard {
	if v < versionNeedDiscardBySeq {
		return NeedDiscard{Dev: p.Inode, Bucket: Bucket(p.Offset)}
	}
	dev, b := SplitDevBucket(p.Offset)
	return NeedDiscard{Dev: uint64(dev), Bucket: b, Seq: p.Inode}
}

// Pos returns the position in the btree.
func (d NeedDiscard) Pos(v MetadataVersion) Pos {
	if v < versionNeedDiscardBySeq {
		return Pos{Inode: d.Dev, Offset: uint64(d.Bucket)}
	}
	return Pos{Inode: d.Seq, Offset: DevBucket(uint16(d.Dev), d.Bucket)}
}

// BucketGensPos returns the position of the key that holds the generation of a bucket, and where in it.
func BucketGensPos(dev uint64, b Bucket) (Pos, int) {
	return Pos{Inode: dev, Offset: uint64(b) >> 8}, int(b & 255)
}

// DefaultBackpointerShift is by how much the sectors in positions of backpointers are shifted, where the superblock says nothing else.
const DefaultBackpointerShift = 10

// BackpointerPos returns the position of the backpointer of a pointer to sector s of a device whose live data begins off sectors
// into the encoded extent.
func BackpointerPos(dev uint64, s Sector, off uint32, shift uint8) Pos {
	return Pos{Inode: dev, Offset: uint64(s)<<shift + uint64(off)}
}
