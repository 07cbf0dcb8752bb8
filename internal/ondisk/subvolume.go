package ondisk

import "fmt"

// SubvolumeFlags are the flags of a subvolume.
type SubvolumeFlags uint32

// Flags of subvolumes.
const (
	SubvolumeRO       SubvolumeFlags = 1 << iota // writes are refused
	SubvolumeSnap                                // made as a snapshot of another
	SubvolumeUnlinked                            // deletion has begun
)

// SubvolumeState is the state of a subvolume since 1.39.
type SubvolumeState uint32

// States of subvolumes (enum bch_subvolume_state).
const (
	SubvolumeStateLive     SubvolumeState = 0x4ad5447e
	SubvolumeStateUnlinked SubvolumeState = 0x2d358e8f
	SubvolumeStateDeleted  SubvolumeState = 0x3c6b2d4c
)

// Valid reports whether s is one of the states.
func (s SubvolumeState) Valid() bool {
	switch s {
	case SubvolumeStateLive, SubvolumeStateUnlinked, SubvolumeStateDeleted:
		return true
	}
	return false
}

func (s SubvolumeState) String() string {
	switch s {
	case SubvolumeStateLive:
		return "live"
	case SubvolumeStateUnlinked:
		return "unlinked"
	case SubvolumeStateDeleted:
		return "deleted"
	}
	return fmt.Sprintf("(invalid state %#x)", uint32(s))
}

const (
	// RootSubvol is the id of the subvolume that the filesystem begins with.
	RootSubvol = 1

	maxSubvol        = 1<<31 - 1
	subvolumeKnown   = 48
	subvolumeDefault = 40 // what drivers of 1.13 write
)

// Subvolume is a subvolume (struct bch_subvolume); its id is the offset of its key.
type Subvolume struct {
	Flags          SubvolumeFlags
	Snapshot       uint32 // the leaf of the snapshot tree that it reads and writes
	Inode          uint64 // root directory
	CreationParent uint32 // of a snapshot: the subvolume it was made of; else 0
	FSPathParent   uint32 // the subvolume that holds its directory entry; 0 for the first
	OTime          U128
	State          SubvolumeState // as stored: 0 before 1.39, see [Subvolume.EffectiveState]
	Pad            uint32

	Size int    // bytes of the value as it was found; older writers leave fields off the end. 0 encodes 40
	Tail []byte // what a newer writer put behind; aliases the value
}

// EffectiveState returns the state, derived from the flags where the key holds none.
func (s *Subvolume) EffectiveState() SubvolumeState {
	switch {
	case s.State != 0:
		return s.State
	case s.Flags&SubvolumeUnlinked != 0:
		return SubvolumeStateUnlinked
	}
	return SubvolumeStateLive
}

// DecodeSubvolume decodes a key of type subvolume.
func DecodeSubvolume(k Key) (Subvolume, error) {
	switch {
	case k.Type != KeySubvolume:
		return Subvolume{}, errType(&k, "subvolume")
	case len(k.Val) < KeySubvolume.MinValSize():
		return Subvolume{}, errShort(&k, KeySubvolume.MinValSize())
	}
	var f fixedVal
	f.load(k.Val[:min(len(k.Val), subvolumeKnown)])
	return Subvolume{
		Flags:          SubvolumeFlags(f.u32(0)),
		Snapshot:       f.u32(4),
		Inode:          f.u64(8),
		CreationParent: f.u32(16),
		FSPathParent:   f.u32(20),
		OTime:          f.u128(24),
		State:          SubvolumeState(f.u32(40)),
		Pad:            f.u32(44),
		Size:           min(len(k.Val), subvolumeKnown),
		Tail:           tail(k.Val, subvolumeKnown),
	}, nil
}

// Encode returns the value of the key.
func (s *Subvolume) Encode() []byte {
	var f fixedVal
	f.put32(0, uint32(s.Flags))
	f.put32(4, s.Snapshot)
	f.put64(8, s.Inode)
	f.put32(16, s.CreationParent)
	f.put32(20, s.FSPathParent)
	f.put128(24, s.OTime)
	f.put32(40, uint32(s.State))
	f.put32(44, s.Pad)
	return f.encode(s.Size, s.Tail, subvolumeDefault, subvolumeKnown)
}
