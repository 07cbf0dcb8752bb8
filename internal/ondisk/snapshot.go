package ondisk

import (
	"encoding/binary"
	"fmt"
)

// U128 is a little-endian 128-bit integer, as creation times are stored; only Lo is used, in units of inode times.
type U128 struct{ Lo, Hi uint64 }

// fixedVal decodes structures that grew over time: what a value lacks at its end reads as zero.
type fixedVal struct{ b [64]byte }

func (f *fixedVal) load(v []byte)          { copy(f.b[:], v) }
func (f *fixedVal) u32(at int) uint32      { return binary.LittleEndian.Uint32(f.b[at:]) }
func (f *fixedVal) u64(at int) uint64      { return binary.LittleEndian.Uint64(f.b[at:]) }
func (f *fixedVal) put32(at int, v uint32) { binary.LittleEndian.PutUint32(f.b[at:], v) }
func (f *fixedVal) put64(at int, v uint64) { binary.LittleEndian.PutUint64(f.b[at:], v) }
func (f *fixedVal) u128(at int) U128       { return U128{f.u64(at), f.u64(at + 8)} }
func (f *fixedVal) put128(at int, v U128)  { f.put64(at, v.Lo); f.put64(at+8, v.Hi) }
func (f *fixedVal) encode(size int, tail []byte, least, known int) []byte {
	if size == 0 {
		size = least
	}
	return append(append(make([]byte, 0, size+len(tail)), f.b[:min(size, known)]...), tail...)
}

// tail returns what a value holds beyond the known size.
func tail(v []byte, known int) []byte {
	if len(v) <= known {
		return nil
	}
	return v[known:]
}

// SnapshotFlags are the flags of a snapshot node.
type SnapshotFlags uint32

// Flags of snapshot nodes. Since 1.39 they only shadow the state.
const (
	SnapshotWillDelete SnapshotFlags = 1 << iota // no subvolume; keys are still to be removed. Named DELETED up to 1.25
	SnapshotSubvol                               // a subvolume's current snapshot
	SnapshotDeleted                              // tombstone, since 1.26
	SnapshotNoKeys                               // redundant interior node, since 1.26
)

// SnapshotState is the state of a snapshot node since 1.39; values are far apart so that flipped bits do not make another.
type SnapshotState uint32

// States of snapshot nodes (enum bch_snapshot_state).
const (
	SnapshotStateLive       SnapshotState = 0x757c47a2
	SnapshotStateWillDelete SnapshotState = 0x3316a8d2
	SnapshotStateNoKeys     SnapshotState = 0x372b5a01
	SnapshotStateDeleted    SnapshotState = 0x7cd4a225
)

// Valid reports whether s is one of the states.
func (s SnapshotState) Valid() bool {
	switch s {
	case SnapshotStateLive, SnapshotStateWillDelete, SnapshotStateNoKeys, SnapshotStateDeleted:
		return true
	}
	return false
}

func (s SnapshotState) String() string {
	switch s {
	case SnapshotStateLive:
		return "live"
	case SnapshotStateWillDelete:
		return "will_delete"
	case SnapshotStateNoKeys:
		return "no_keys"
	case SnapshotStateDeleted:
		return "deleted"
	}
	return fmt.Sprintf("(invalid state %#x)", uint32(s))
}

const (
	snapshotKnown   = 64
	snapshotDefault = 56 // what drivers of 1.13 write
)

// Snapshot is a node of a tree of snapshots (struct bch_snapshot). Parents have greater ids than their children.
type Snapshot struct {
	Flags    SnapshotFlags
	Parent   uint32 // 0 at the root
	Children [2]uint32
	Subvol   uint32 // whose current snapshot it is; else 0
	Tree     uint32
	Depth    uint32
	Skip     [3]uint32 // some ancestors, ascending, for quick tests of ancestry
	BTime    U128
	State    SnapshotState // as stored: 0 before 1.39, see [Snapshot.EffectiveState]
	Pad      uint32

	Size int    // bytes of the value as it was found; writers before 1.39 leave fields off the end. 0 encodes 56
	Tail []byte // what a newer writer put behind; aliases the value
}

// EffectiveState returns the state, derived from the flags where the key holds none.
func (s *Snapshot) EffectiveState() SnapshotState {
	switch {
	case s.State != 0:
		return s.State
	case s.Flags&SnapshotDeleted != 0:
		return SnapshotStateDeleted
	case s.Flags&SnapshotNoKeys != 0:
		return SnapshotStateNoKeys
	case s.Flags&SnapshotWillDelete != 0:
		return SnapshotStateWillDelete
	}
	return SnapshotStateLive
}

// DecodeSnapshot decodes a key of type snapshot.
func DecodeSnapshot(k Key) (Snapshot, error) {
	switch {
	case k.Type != KeySnapshot:
		return Snapshot{}, errType(&k, "snapshot")
	case len(k.Val) < KeySnapshot.MinValSize():
		return Snapshot{}, errShort(&k, KeySnapshot.MinValSize())
	}
	var f fixedVal
	f.load(k.Val)
	return Snapshot{
		Flags:    SnapshotFlags(f.u32(0)),
		Parent:   f.u32(4),
		Children: [2]uint32{f.u32(8), f.u32(12)},
		Subvol:   f.u32(16),
		Tree:     f.u32(20),
		Depth:    f.u32(24),
		Skip:     [3]uint32{f.u32(28), f.u32(32), f.u32(36)},
		BTime:    f.u128(40),
		State:    SnapshotState(f.u32(56)),
		Pad:      f.u32(60),
		Size:     min(len(k.Val), snapshotKnown),
		Tail:     tail(k.Val, snapshotKnown),
	}, nil
}

// Encode returns the value of the key.
func (s *Snapshot) Encode() []byte {
	var f fixedVal
	f.put32(0, uint32(s.Flags))
	f.put32(4, s.Parent)
	f.put32(8, s.Children[0])
	f.put32(12, s.Children[1])
	f.put32(16, s.Subvol)
	f.put32(20, s.Tree)
	f.put32(24, s.Depth)
	for i, id := range s.Skip {
		f.put32(28+4*i, id)
	}
	f.put128(40, s.BTime)
	f.put32(56, uint32(s.State))
	f.put32(60, s.Pad)
	return f.encode(s.Size, s.Tail, snapshotDefault, snapshotKnown)
}

// SnapshotTree is one tree of snapshots (struct bch_snapshot_tree).
type SnapshotTree struct {
	MasterSubvol uint32 // the subvolume that is not a snapshot; 0 if there is none
	RootSnapshot uint32
}

// DecodeSnapshotTree decodes a key of type snapshot_tree.
func DecodeSnapshotTree(k Key) (SnapshotTree, error) {
	switch {
	case k.Type != KeySnapshotTree:
		return SnapshotTree{}, errType(&k, "snapshot_tree")
	case len(k.Val) < 8:
		return SnapshotTree{}, errShort(&k, 8)
	}
	return SnapshotTree{binary.LittleEndian.Uint32(k.Val), binary.LittleEndian.Uint32(k.Val[4:])}, nil
}

// Encode returns the value of the key.
func (t SnapshotTree) Encode() []byte {
	return binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, t.MasterSubvol), t.RootSnapshot)
}
