package ondisk

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Sector counts 512-byte sectors, whatever the block size of the filesystem or the device.
type Sector uint64

// SectorSize is the size of a [Sector] in bytes.
const SectorSize = 512

// PosSize is the size of an encoded [Pos] in bytes (struct bpos).
const PosSize = 20

// Pos is the position of a key in a btree (struct bpos). For keys of extent btrees it is the end of the extent.
type Pos struct {
	Inode    uint64
	Offset   uint64
	Snapshot uint32
}

// Smallest and greatest positions. PosMax has no snapshot; SPosMax is the greatest position there is.
var (
	PosMin  = Pos{}
	PosMax  = Pos{math.MaxUint64, math.MaxUint64, 0}
	SPosMax = Pos{math.MaxUint64, math.MaxUint64, math.MaxUint32}
)

// Compare orders positions by inode, offset, snapshot: the order of keys in nodes.
func (p Pos) Compare(q Pos) int {
	if c := cmp.Compare(p.Inode, q.Inode); c != 0 {
		return c
	}
	if c := cmp.Compare(p.Offset, q.Offset); c != 0 {
		return c
	}
	return cmp.Compare(p.Snapshot, q.Snapshot)
}

// Less reports whether p is before q.
func (p Pos) Less(q Pos) bool {
	if p.Inode != q.Inode {
		return p.Inode < q.Inode
	}
	if p.Offset != q.Offset {
		return p.Offset < q.Offset
	}
	return p.Snapshot < q.Snapshot
}

// SameSlot reports whether p and q agree in inode and offset, whatever their snapshots.
func (p Pos) SameSlot(q Pos) bool { return p.Inode == q.Inode && p.Offset == q.Offset }

// Next returns the position just after p. It wraps to [PosMin] at [SPosMax].
func (p Pos) Next() Pos {
	p.Snapshot++
	if p.Snapshot == 0 {
		return p.NextSlot()
	}
	return p
}

// Prev returns the position just before p. It wraps to [SPosMax] at [PosMin].
func (p Pos) Prev() Pos {
	p.Snapshot--
	if p.Snapshot == math.MaxUint32 {
		p.Offset--
		if p.Offset == math.MaxUint64 {
			p.Inode--
		}
	}
	return p
}

// NextSlot returns the first position whose (inode, offset) is greater than p's, in snapshot 0.
func (p Pos) NextSlot() Pos {
	p.Snapshot = 0
	p.Offset++
	if p.Offset == 0 {
		p.Inode++
	}
	return p
}

// WithSnapshot returns p in another snapshot.
func (p Pos) WithSnapshot(s uint32) Pos { p.Snapshot = s; return p }

// DecodePos reads a little-endian position from the first [PosSize] bytes of b.
func DecodePos(b []byte) Pos {
	_ = b[PosSize-1]
	return Pos{
		Snapshot: binary.LittleEndian.Uint32(b),
		Offset:   binary.LittleEndian.Uint64(b[4:]),
		Inode:    binary.LittleEndian.Uint64(b[12:]),
	}
}

// Put writes p to the first [PosSize] bytes of b.
func (p Pos) Put(b []byte) {
	_ = b[PosSize-1]
	binary.LittleEndian.PutUint32(b, p.Snapshot)
	binary.LittleEndian.PutUint64(b[4:], p.Offset)
	binary.LittleEndian.PutUint64(b[12:], p.Inode)
}

// String prints p as the reference does: inode:offset:snapshot, with the names of extreme values.
func (p Pos) String() string {
	switch p {
	case PosMin:
		return "POS_MIN"
	case PosMax:
		return "POS_MAX"
	case SPosMax:
		return "SPOS_MAX"
	}
	var b strings.Builder
	num := func(v, limit uint64) {
		if v == limit {
			b.WriteString("U")
			b.WriteString(map[uint64]string{math.MaxUint64: "64", math.MaxUint32: "32"}[limit])
			b.WriteString("_MAX")
			return
		}
		b.WriteString(strconv.FormatUint(v, 10))
	}
	num(p.Inode, math.MaxUint64)
	b.WriteByte(':')
	num(p.Offset, math.MaxUint64)
	b.WriteByte(':')
	num(uint64(p.Snapshot), math.MaxUint32)
	return b.String()
}

// ParsePos reads what [Pos.String] prints; trailing fields may be left out and are 0.
func ParsePos(s string) (Pos, error) {
	switch s {
	case "POS_MIN":
		return PosMin, nil
	case "POS_MAX":
		return PosMax, nil
	case "SPOS_MAX":
		return SPosMax, nil
	}
	var p Pos
	parts := strings.Split(s, ":")
	if len(parts) > 3 {
		return p, fmt.Errorf("position %q: want inode:offset:snapshot", s)
	}
	for i, f := range parts {
		bits := 64
		if i == 2 {
			bits = 32
		}
		var v uint64
		var err error
		switch f {
		case "U64_MAX":
			v = math.MaxUint64
		case "U32_MAX":
			v = math.MaxUint32
		default:
			if v, err = strconv.ParseUint(f, 10, bits); err != nil {
				return p, fmt.Errorf("position %q: field %d: want a number of %d bits", s, i+1, bits)
			}
		}
		switch i {
		case 0:
			p.Inode = v
		case 1:
			p.Offset = v
		case 2:
			p.Snapshot = uint32(v)
		}
	}
	return p, nil
}
