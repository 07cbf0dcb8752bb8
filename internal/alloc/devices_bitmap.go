package alloc

import "github.com/go-bcachefs/bcachefs/internal/ondisk"

// BtreeBitmap tells in which parts of a device btree nodes are or were (mi_btree_bitmap, spec/04 §10.9): bit n stands for the
// 2^Shift sectors from n·2^Shift on. Who looks for the nodes of a damaged filesystem reads only these.
type BtreeBitmap struct {
	Shift uint8
	Bits  uint64
}

// maxBitmapShift keeps 64 << Shift within a sector number.
const maxBitmapShift = 57

// Covers tells whether all sectors of the range are marked.
func (m BtreeBitmap) Covers(start ondisk.Sector, sectors uint32) bool {
	first, last := uint64(start)>>m.Shift, (uint64(start)+uint64(sectors)-1)>>m.Shift
	if sectors == 0 || last >= 64 {
		return sectors == 0
	}
	mask := (^uint64(0) >> (63 - (last - first))) << first
	return m.Bits&mask == mask
}

// Touches tells whether a sector of the range is marked.
func (m BtreeBitmap) Touches(start ondisk.Sector, sectors uint32) bool {
	if sectors == 0 {
		return false
	}
	first, last := uint64(start)>>m.Shift, min(63, (uint64(start)+uint64(sectors)-1)>>m.Shift)
	return first <= last && m.Bits&((^uint64(0)>>(63-(last-first)))<<first) != 0
}

// Mark marks a range. If it lies beyond what 64 bits stand for, each comes to stand for twice as much until it does not.
func (m *BtreeBitmap) Mark(start ondisk.Sector, sectors uint32) {
	if sectors == 0 {
		return
	}
	end := uint64(start) + uint64(sectors)
	for m.Shift < maxBitmapShift && end > 64<<m.Shift {
		var folded uint64
		for i := range 32 {
			if m.Bits>>(2*i)&3 != 0 {
				folded |= 1 << i
			}
		}
		m.Bits = folded
		m.Shift++
	}
	for bit := uint64(start) >> m.Shift; bit <= (end-1)>>m.Shift && bit < 64; bit++ {
		m.Bits |= 1 << bit
	}
}
