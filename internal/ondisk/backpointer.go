package ondisk

import "encoding/binary"

// BackpointerFlags are the flags of a backpointer, since 1.33.
type BackpointerFlags uint32

// Flags of backpointers.
const (
	BackpointerReconcileMask BackpointerFlags = 3      // class of work that reconcile has on it: 0 none, 1 hipri, 2 normal
	BackpointerErasureCoded  BackpointerFlags = 1 << 2 // the pointer is part of a stripe
	BackpointerStripePtr     BackpointerFlags = 1 << 3 // of a device that was removed: found through the stripe
)

// MaxBtreeDepth is the number of levels that a btree may have.
const MaxBtreeDepth = 4

// Backpointer leads from a place on a device to the key that points there (struct bch_backpointer).
type Backpointer struct {
	Btree     BtreeID
	Level     uint8 // of the node that holds the key: pointers to leaves have 1
	DataType  DataType
	BucketGen uint8            // since 1.14
	Flags     BackpointerFlags // since 1.33
	BucketLen uint32           // sectors
	Pos       Pos              // of the key
}

// BucketOffset returns what keys up to 1.13 hold instead of generation and flags: where in its bucket the data lies, in sectors
// shifted by [DefaultBackpointerShift], plus where in the encoded extent the live data begins. It has 40 bits.
func (b *Backpointer) BucketOffset() uint64 { return uint64(b.BucketGen) | uint64(b.Flags)<<8 }

// SetBucketOffset is the inverse of [Backpointer.BucketOffset].
func (b *Backpointer) SetBucketOffset(off uint64) {
	b.BucketGen, b.Flags = uint8(off), BackpointerFlags(off>>8)
}

// DecodeBackpointer decodes a key of type backpointer.
func DecodeBackpointer(k Key) (Backpointer, error) {
	v := k.Val
	switch {
	case k.Type != KeyBackpointer:
		return Backpointer{}, errType(&k, "backpointer")
	case len(v) < KeyBackpointer.MinValSize():
		return Backpointer{}, errShort(&k, KeyBackpointer.MinValSize())
	}
	return Backpointer{
		Btree:     BtreeID(v[0]),
		Level:     v[1],
		DataType:  DataType(v[2]),
		BucketGen: v[3],
		Flags:     BackpointerFlags(binary.LittleEndian.Uint32(v[4:])),
		BucketLen: binary.LittleEndian.Uint32(v[8:]),
		Pos:       DecodePos(v[12:]),
	}, nil
}

// BackpointerSize is the length in bytes of the value of a key of type backpointer.
const BackpointerSize = 32

// Encode returns the value of the key.
func (b *Backpointer) Encode() []byte {
	v := make([]byte, BackpointerSize)
	b.Put(v)
	return v
}

// Put writes the value to the first [BackpointerSize] bytes of v. It does not allocate.
func (b *Backpointer) Put(v []byte) {
	_ = v[BackpointerSize-1]
	v[0], v[1], v[2], v[3] = byte(b.Btree), b.Level, byte(b.DataType), b.BucketGen
	binary.LittleEndian.PutUint32(v[4:], uint32(b.Flags))
	binary.LittleEndian.PutUint32(v[8:], b.BucketLen)
	b.Pos.Put(v[12:])
}
