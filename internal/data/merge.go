package data

import (
	"math"

	"github.com/go-bcachefs/bcachefs/internal/alloc"
	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// merge makes k, which was just put into the file, one with the keys before and behind it if the format allows.
func (t *inodeTx) merge(k ondisk.Key) error {
	if k.Type != ondisk.KeyExtent && k.Type != ondisk.KeyReservation {
		return nil
	}
	m := merger{members: t.w.cfg.Members, u64s: t.w.cfg.ExtentTypes, max: uint32(t.w.cfg.EncodedExtentMax / sectorSize)}
	merged := k
	if start := k.Start(); start.Offset > 0 {
		left, ok, err := t.Lookup(ondisk.BtreeExtents, start, trans.NotExtents|trans.Intent)
		if err != nil {
			return err
		}
		if ok && left.Pos == start {
			if both, ok := m.merge(&left, &merged); ok {
				merged = both
			}
		}
	}
	right, ok, err := t.Lookup(ondisk.BtreeExtents, k.Pos, trans.Intent)
	if err != nil {
		return err
	}
	if ok && right.Start() == k.Pos {
		if both, ok := m.merge(&merged, &right); ok {
			merged = both
		}
	}
	if merged.Size == k.Size {
		return nil
	}
	return t.Update(ondisk.BtreeExtents, merged, 0)
}

// merger knows what it takes to make two keys one (spec/05 § 5.8).
type merger struct {
	members *alloc.Devices
	u64s    ondisk.ExtentTypeU64s
	max     uint32 // sectors under one checksum
}

// merge returns one key for two of which one ends where the other begins, if there is such a key.
func (m *merger) merge(l, r *ondisk.Key) (ondisk.Key, bool) {
	if l.Type != r.Type || l.Version != r.Version || l.Pos != r.Start() || uint64(l.Size)+uint64(r.Size) > math.MaxUint32 {
		return ondisk.Key{}, false
	}
	both := ondisk.Key{Type: l.Type, Version: l.Version, Pos: r.Pos, Size: l.Size + r.Size}
	switch l.Type {
	case ondisk.KeyReservation:
		a, errA := ondisk.DecodeReservation(*l)
		b, errB := ondisk.DecodeReservation(*r)
		both.Val = l.Val
		return both, errA == nil && errB == nil && a.Generation == b.Generation && a.NrReplicas == b.NrReplicas
	case ondisk.KeyExtent:
		var ok bool
		both.Val, ok = m.entries(l, r)
		return both, ok
	}
	return ondisk.Key{}, false
}

// entries returns the value of the merged extent.
func (m *merger) entries(l, r *ondisk.Key) ([]byte, bool) {
	var bufs [2][8]ondisk.ExtentEntry
	a, okA := m.decode(bufs[0][:0], l)
	b, okB := m.decode(bufs[1][:0], r)
	if !okA || !okB || len(a) != len(b) {
		return nil, false
	}
	val := make([]byte, 0, len(l.Val))
	how := mergePlain
	// What governs the pointers that follow, of both.
	ca := ondisk.CRC{CompressedSize: l.Size, UncompressedSize: l.Size}
	cb := ondisk.CRC{CompressedSize: r.Size, UncompressedSize: r.Size}
	for i := range a {
		x, y := &a[i], &b[i]
		if x.Type != y.Type {
			return nil, false
		}
		switch x.Type {
		case ondisk.EntryCRC32, ondisk.EntryCRC64, ondisk.EntryCRC128:
			ca, cb = x.CRC, y.CRC
			crc, h, ok := m.crc(l.Size, r.Size, &ca, &cb)
			if !ok {
				return nil, false
			}
			if t, fits := crc.EntryType(); !fits || t > x.Type {
				return nil, false
			}
			how = h
			val = ondisk.AppendExtentEntry(val, &ondisk.ExtentEntry{Type: x.Type, CRC: crc})
		case ondisk.EntryPtr:
			if !m.adjacent(l.Size, &ca, &cb, &x.Ptr, &y.Ptr) {
				return nil, false
			}
			p := *x
			if how == mergeRight {
				p = *y
			}
			val = ondisk.AppendExtentEntry(val, &p)
		case ondisk.EntryStripePtr:
			if x.Stripe != y.Stripe {
				return nil, false
			}
			val = ondisk.AppendExtentEntry(val, x)
		case ondisk.EntryRebalance:
			if x.Rebalance != y.Rebalance {
				return nil, false
			}
			val = ondisk.AppendExtentEntry(val, x)
		default: // flags and what nobody knows
			return nil, false
		}
	}
	return val, true
}

func (m *merger) decode(dst []ondisk.ExtentEntry, k *ondisk.Key) ([]ondisk.ExtentEntry, bool) {
	for e, err := range ondisk.ExtentEntries(k, m.u64s) {
		if err != nil {
			return nil, false
		}
		dst = append(dst, e)
	}
	return dst, true
}

// mergeHow says whose description of what is stored serves for both.
type mergeHow uint8

const (
	mergePlain mergeHow = iota // there is none, or one for both is made
	mergeLeft
	mergeRight
)

// crc returns the entry for two extents of the given live sizes.
func (m *merger) crc(liveL, liveR uint32, l, r *ondisk.CRC) (crc ondisk.CRC, how mergeHow, ok bool) {
	if l.Compression != r.Compression || l.Nonce != r.Nonce || l.Csum != r.Csum {
		return crc, 0, false
	}
	compressed := l.Compression.IsCompressed()
	if compressed && *l != withOffset(r, l.Offset) { // not the same blob
		return crc, 0, false
	}
	switch {
	case uint64(l.Offset)+uint64(liveL)+uint64(liveR) <= uint64(l.UncompressedSize):
		return *l, mergeLeft, true
	case compressed:
		return crc, 0, false
	case liveL <= r.Offset:
		return withOffset(r, r.Offset-liveL), mergeRight, true
	case l.Csum != checksum.None && !l.Csum.Mergeable() || l.Offset+liveL != l.CompressedSize || r.Offset != 0:
		return crc, 0, false
	}
	crc = *l
	crc.CompressedSize += r.CompressedSize
	crc.UncompressedSize += r.UncompressedSize
	if l.Csum != checksum.None {
		if crc.UncompressedSize > m.max {
			return crc, 0, false
		}
		crc.Sum = checksum.Merge(l.Csum, l.Sum, r.Sum, uint64(r.CompressedSize)*sectorSize)
	}
	return crc, mergePlain, true
}

func withOffset(c *ondisk.CRC, offset uint32) ondisk.CRC {
	d := *c
	d.Offset = offset
	return d
}

// adjacent reports whether what the right pointer leads to lies right behind what the left one leads to, in the same bucket.
func (m *merger) adjacent(liveL uint32, l, r *ondisk.CRC, p, q *ondisk.ExtentPtr) bool {
	if p.Dev != q.Dev || p.Gen != q.Gen || p.Cached != q.Cached || p.Unwritten != q.Unwritten {
		return false
	}
	if l.Compression.IsCompressed() {
		return p.Offset == q.Offset && l.Offset+liveL == r.Offset
	}
	if uint64(p.Offset)+uint64(l.Offset)+uint64(liveL) != uint64(q.Offset)+uint64(r.Offset) {
		return false
	}
	dev := m.members.Get(p.Dev)
	if dev == nil {
		return false
	}
	a, _ := dev.Bucket(p.Offset)
	b, _ := dev.Bucket(q.Offset)
	return a == b
}
