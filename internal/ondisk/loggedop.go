package ondisk

import "encoding/binary"

// Inode fields of the keys of the btree logged_ops: operations, and since 1.18 cursors of inode numbers.
const (
	LoggedOpsInode    = 0
	InodeCursorsInode = 1
)

// LoggedOpTruncate is a truncation in progress (struct bch_logged_op_truncate).
type LoggedOpTruncate struct {
	Subvol  uint32
	Pad     uint32
	Inum    uint64
	NewSize uint64 // bytes
}

// DecodeLoggedOpTruncate decodes a key of type logged_op_truncate.
func DecodeLoggedOpTruncate(k Key) (LoggedOpTruncate, error) {
	v := k.Val
	switch {
	case k.Type != KeyLoggedOpTruncate:
		return LoggedOpTruncate{}, errType(&k, "logged_op_truncate")
	case len(v) < KeyLoggedOpTruncate.MinValSize():
		return LoggedOpTruncate{}, errShort(&k, KeyLoggedOpTruncate.MinValSize())
	}
	le := binary.LittleEndian
	return LoggedOpTruncate{le.Uint32(v), le.Uint32(v[4:]), le.Uint64(v[8:]), le.Uint64(v[16:])}, nil
}

// Encode returns the value of the key.
func (o *LoggedOpTruncate) Encode() []byte {
	v := make([]byte, 0, 24)
	v = binary.LittleEndian.AppendUint32(v, o.Subvol)
	v = binary.LittleEndian.AppendUint32(v, o.Pad)
	v = binary.LittleEndian.AppendUint64(v, o.Inum)
	return binary.LittleEndian.AppendUint64(v, o.NewSize)
}

// FinsertState is how far an insert or collapse of a range has come.
type FinsertState uint8

// States of [LoggedOpFinsert] (enum logged_op_finsert_state).
const (
	FinsertStart FinsertState = iota
	FinsertShiftExtents
	FinsertFinish
)

// LoggedOpFinsert is an insert or collapse of a range in progress (struct bch_logged_op_finsert). Offsets are in sectors.
type LoggedOpFinsert struct {
	State     FinsertState
	Pad       [3]byte
	Subvol    uint32
	Inum      uint64
	DstOffset uint64
	SrcOffset uint64
	Pos       uint64 // how far extents were moved
	Size      int    // bytes of the value as it was found; 0 encodes 40
}

const finsertKnown = 40

// DecodeLoggedOpFinsert decodes a key of type logged_op_finsert.
func DecodeLoggedOpFinsert(k Key) (LoggedOpFinsert, error) {
	switch {
	case k.Type != KeyLoggedOpFinsert:
		return LoggedOpFinsert{}, errType(&k, "logged_op_finsert")
	case len(k.Val) < KeyLoggedOpFinsert.MinValSize():
		return LoggedOpFinsert{}, errShort(&k, KeyLoggedOpFinsert.MinValSize())
	}
	var f fixedVal
	f.load(k.Val[:min(len(k.Val), finsertKnown)])
	return LoggedOpFinsert{FinsertState(f.b[0]), [3]byte(f.b[1:4]), f.u32(4), f.u64(8), f.u64(16), f.u64(24), f.u64(32),
		min(len(k.Val), finsertKnown)}, nil
}

// Encode returns the value of the key.
func (o *LoggedOpFinsert) Encode() []byte {
	var f fixedVal
	f.b[0] = byte(o.State)
	copy(f.b[1:4], o.Pad[:])
	f.put32(4, o.Subvol)
	f.put64(8, o.Inum)
	f.put64(16, o.DstOffset)
	f.put64(24, o.SrcOffset)
	f.put64(32, o.Pos)
	return f.encode(o.Size, nil, finsertKnown, finsertKnown)
}

// LoggedOpStripeUpdate is the move of a stripe's extents to its successor, in progress (struct bch_logged_op_stripe_update, since 1.37).
type LoggedOpStripeUpdate struct {
	OldIdx, NewIdx uint64
	OldBlocksNr    uint8
	OldBlockMap    [16]uint8 // block n of the new stripe was this one of the old
	Pad            [7]byte
}

// DecodeLoggedOpStripeUpdate decodes a key of type logged_op_stripe_update.
func DecodeLoggedOpStripeUpdate(k Key) (LoggedOpStripeUpdate, error) {
	v := k.Val
	switch {
	case k.Type != KeyLoggedOpStripeUpdate:
		return LoggedOpStripeUpdate{}, errType(&k, "logged_op_stripe_update")
	case len(v) < KeyLoggedOpStripeUpdate.MinValSize():
		return LoggedOpStripeUpdate{}, errShort(&k, KeyLoggedOpStripeUpdate.MinValSize())
	}
	le := binary.LittleEndian
	return LoggedOpStripeUpdate{le.Uint64(v), le.Uint64(v[8:]), v[16], [16]uint8(v[17:33]), [7]byte(v[33:40])}, nil
}

// Encode returns the value of the key.
func (o *LoggedOpStripeUpdate) Encode() []byte {
	v := make([]byte, 0, 40)
	v = binary.LittleEndian.AppendUint64(v, o.OldIdx)
	v = binary.LittleEndian.AppendUint64(v, o.NewIdx)
	v = append(append(v, o.OldBlocksNr), o.OldBlockMap[:]...)
	return append(v, o.Pad[:]...)
}

// InodeAllocCursor is where the search for a free inode number goes on (struct bch_inode_alloc_cursor, since 1.18).
type InodeAllocCursor struct {
	Bits       uint8
	Pad        [3]byte
	Generation uint32
	Idx        uint64
}

// DecodeInodeAllocCursor decodes a key of type inode_alloc_cursor.
func DecodeInodeAllocCursor(k Key) (InodeAllocCursor, error) {
	v := k.Val
	switch {
	case k.Type != KeyInodeAllocCursor:
		return InodeAllocCursor{}, errType(&k, "inode_alloc_cursor")
	case len(v) < KeyInodeAllocCursor.MinValSize():
		return InodeAllocCursor{}, errShort(&k, KeyInodeAllocCursor.MinValSize())
	}
	return InodeAllocCursor{v[0], [3]byte(v[1:4]), binary.LittleEndian.Uint32(v[4:]), binary.LittleEndian.Uint64(v[8:])}, nil
}

// Encode returns the value of the key.
func (c *InodeAllocCursor) Encode() []byte {
	v := append(make([]byte, 0, 16), c.Bits, c.Pad[0], c.Pad[1], c.Pad[2])
	v = binary.LittleEndian.AppendUint32(v, c.Generation)
	return binary.LittleEndian.AppendUint64(v, c.Idx)
}
