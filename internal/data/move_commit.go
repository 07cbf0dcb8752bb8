package data

import (
	"fmt"
	"math"
	"slices"

	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
	"github.com/go-bcachefs/bcachefs/internal/codec/compress"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// update puts the new pointers into what a key has become. It returns how many keys that are.
func (m *mover) update(tx *trans.Tx, mv *moving) (n int, err error) {
	keys, err := m.heirs(tx, mv)
	if err != nil {
		return 0, err
	}
	for i := range keys {
		pieces, err := m.pieces(mv, &keys[i])
		if err != nil {
			return n, err
		}
		if pieces == nil {
			continue
		}
		if err := tx.ReplaceExtent(mv.Btree, keys[i], pieces...); err != nil {
			return n, err
		}
		if err := m.join(tx, mv, pieces); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// join makes one key of the first of the pieces and what is before it, and of the last and what is behind it, where that is possible: what was divided
// because it came into several buckets may lie in one piece again.
func (m *mover) join(tx *trans.Tx, mv *moving, pieces []ondisk.Key) error {
	if mv.Btree != ondisk.BtreeExtents {
		return nil // each indirect extent has references of its own
	}
	first, last := pieces[0], pieces[len(pieces)-1]
	left, ok, err := soleAt(tx, first.Start())
	if err != nil {
		return err
	}
	if ok {
		both, ok, err := m.joinTwo(tx, &left, &first)
		if err != nil {
			return err
		}
		if ok && len(pieces) == 1 {
			last = both
		}
	}
	it := tx.Iter(ondisk.BtreeExtents, last.Pos.Next(), trans.Intent|trans.AllSnapshots|trans.NotExtents)
	reach := last.Pos.WithSnapshot(math.MaxUint32)
	reach.Offset += m.reach()
	right, ok, err := it.PeekMax(reach)
	if err != nil || !ok || right.Start() != last.Pos {
		return err
	}
	_, _, err = m.joinTwo(tx, &last, &right)
	return err
}

// joinTwo makes two keys of one snapshot one, if the format allows and no other snapshot has a key where either ends: it would hide more than it did, or come to
// light.
func (m *mover) joinTwo(tx *trans.Tx, l, r *ondisk.Key) (both ondisk.Key, ok bool, err error) {
	mg := merger{members: m.w.cfg.Members, u64s: m.w.cfg.ExtentTypes, max: uint32(m.w.cfg.EncodedExtentMax / sectorSize)}
	if both, ok = mg.merge(l, r); !ok {
		return both, false, nil
	}
	for _, k := range [...]*ondisk.Key{l, r} {
		if _, ok, err := soleAt(tx, k.Pos); err != nil || !ok {
			return both, false, err
		}
	}
	if err := tx.Update(ondisk.BtreeExtents, ondisk.Key{Pos: l.Pos}, trans.Exact); err != nil {
		return both, false, err
	}
	return both, true, tx.Update(ondisk.BtreeExtents, both, trans.Exact)
}

// soleAt returns the extent that ends at a position, if that is the only key of all snapshots there.
func soleAt(tx *trans.Tx, p ondisk.Pos) (k ondisk.Key, ok bool, err error) {
	it := tx.Iter(ondisk.BtreeExtents, p.WithSnapshot(0), trans.Intent|trans.AllSnapshots|trans.NotExtents)
	last := p.WithSnapshot(math.MaxUint32)
	k, ok, err = it.PeekMax(last)
	if err != nil || !ok || k.Pos != p {
		return k, false, err
	}
	it.Advance()
	_, more, err := it.PeekMax(last)
	return k, err == nil && !more, err
}

// heirs returns the keys of the moved key's snapshot at its slots.
func (m *mover) heirs(tx *trans.Tx, mv *moving) (keys []ondisk.Key, err error) {
	start, end := mv.Key.Start(), mv.Key.Pos
	// It may have become one with its neighbours, within what lies in one bucket and under one checksum.
	reach := end
	reach.Offset += m.reach()
	reach.Snapshot = math.MaxUint32
	if reach.Offset < end.Offset {
		reach.Offset = math.MaxUint64
	}
	it := tx.Iter(mv.Btree, start.WithSnapshot(0).NextSlot(), trans.Intent|trans.AllSnapshots|trans.NotExtents)
	for {
		k, ok, err := it.PeekMax(reach)
		if err != nil || !ok {
			return keys, err
		}
		if k.Pos.Snapshot == end.Snapshot {
			if k.Start().Offset >= end.Offset {
				return keys, nil
			}
			keys = append(keys, k)
			if k.Pos.Offset >= end.Offset {
				return keys, nil
			}
		}
		it.Advance()
	}
}

// reach is how long a key with pointers can be, in sectors.
func (m *mover) reach() uint64 {
	n := uint64(m.w.cfg.EncodedExtentMax / sectorSize)
	for d := range m.w.cfg.Members.All() {
		n = max(n, uint64(d.BucketSize))
	}
	return n
}

// pieces returns what takes the place of a key that is there now; nil if nothing does, as it does not point to what was read.
func (m *mover) pieces(mv *moving, k *ondisk.Key) ([]ondisk.Key, error) {
	u64s := m.w.cfg.ExtentTypes
	drop, ok, err := m.matching(mv, k)
	if err != nil || !ok {
		return nil, err
	}
	var pieces []ondisk.Key
	at, changed := k.Start().Offset, false
	add := func(to uint64, p *part) error {
		if to <= at {
			return nil
		}
		base := *k
		if n := at - k.Start().Offset; n > 0 {
			base = ondisk.CutFront(&base, uint32(n), u64s)
		}
		base = ondisk.CutBack(&base, uint32(to-at))
		if p != nil {
			var ok bool
			if base, ok, err = m.repoint(mv, &base, drop, p); err != nil {
				return err
			}
			changed = changed || ok
		}
		pieces = append(pieces, base)
		at = to
		return nil
	}
	start := mv.Key.Start().Offset
	if err := add(min(start, k.Pos.Offset), nil); err != nil {
		return nil, err
	}
	for i, n := range mv.parts {
		to := mv.Key.Pos.Offset
		if i+1 < len(mv.parts) {
			to = start + m.parts[mv.parts[i+1]].start
		}
		if err := add(min(to, k.Pos.Offset), &m.parts[n]); err != nil {
			return nil, err
		}
	}
	if err := add(k.Pos.Offset, nil); err != nil || !changed {
		return nil, err
	}
	return pieces, nil
}

// matching returns which pointers of a key lead to what was moved and are to be replaced.
func (m *mover) matching(mv *moving, k *ondisk.Key) (drop uint32, ok bool, err error) {
	if k.Type != mv.Key.Type || k.Version != mv.Key.Version {
		return 0, false, nil
	}
	var buf [8]ondisk.DecodedPtr
	now, _, err := ondisk.AppendExtentPtrs(buf[:0], k, m.w.cfg.ExtentTypes)
	if err != nil {
		return 0, false, err
	}
	for j := range now {
		p := &now[j]
		if p.Cached {
			if mv.fresh {
				drop |= 1 << j
			}
			continue
		}
		found := false
		for i := range mv.ptrs {
			if mv.rewrite>>i&1 != 0 && samePlace(p, k, &mv.ptrs[i], &mv.Key) {
				found = true
			}
		}
		switch {
		case found:
			drop |= 1 << j
			ok = true
		case mv.fresh:
			return 0, false, nil // what stays could not be decrypted
		}
	}
	return drop, ok, nil
}

// samePlace reports whether p of k leads, for each slot, to where q of l does.
func samePlace(p *ondisk.DecodedPtr, k *ondisk.Key, q *ondisk.DecodedPtr, l *ondisk.Key) bool {
	if p.Dev != q.Dev || p.Gen != q.Gen || p.Cached != q.Cached || p.Unwritten != q.Unwritten || p.HasStripe != q.HasStripe ||
		p.CRC.Compression.IsCompressed() != q.CRC.Compression.IsCompressed() {
		return false
	}
	if p.CRC.Compression.IsCompressed() && p.Offset != q.Offset {
		return false
	}
	return uint64(p.Offset)+uint64(p.CRC.Offset)-k.Start().Offset == uint64(q.Offset)+uint64(q.CRC.Offset)-l.Start().Offset
}

// ptrGroup is pointers with the crc entry that governs them.
type ptrGroup struct {
	crc  *ondisk.CRC // nil: none
	ptrs []ondisk.ExtentEntry
}

// repoint returns base with the pointers in drop replaced by those to a part that covers it. ok is false, and base stays as it is, if it has pointers to all
// devices of the part.
func (m *mover) repoint(mv *moving, base *ondisk.Key, drop uint32, p *part) (k ondisk.Key, ok bool, err error) {
	u64s := m.w.cfg.ExtentTypes
	groups, others, head, err := splitEntries(base, drop, u64s)
	if err != nil {
		return *base, false, err
	}
	add, crc := newPtrs(mv, base, p)
	// Others may have put a copy on the same device meanwhile. Cached ones give way.
	has := func(dev uint8, cached bool) bool {
		for i := range groups {
			for _, e := range groups[i].ptrs {
				if e.Type == ondisk.EntryPtr && e.Ptr.Dev == dev && e.Ptr.Cached == cached {
					return true
				}
			}
		}
		return false
	}
	if add = slices.DeleteFunc(add, func(e ondisk.ExtentEntry) bool { return has(e.Ptr.Dev, false) }); len(add) == 0 {
		return *base, false, nil
	}
	for i := range groups {
		groups[i].ptrs = slices.DeleteFunc(groups[i].ptrs, func(e ondisk.ExtentEntry) bool {
			return e.Type == ondisk.EntryPtr && e.Ptr.Cached && slices.ContainsFunc(add, func(a ondisk.ExtentEntry) bool { return a.Ptr.Dev == e.Ptr.Dev })
		})
	}
	groups = joinGroup(groups, crc, add)
	k = *base
	if mv.fresh {
		k.Version = mv.version
	}
	k.Val = append([]byte(nil), head...)
	for i := range groups {
		g := &groups[i]
		if len(g.ptrs) == 0 {
			continue
		}
		if g.crc != nil {
			t, fits := g.crc.EntryType()
			if !fits {
				return *base, false, fmt.Errorf("no crc entry holds %d sectors with %v", g.crc.UncompressedSize, g.crc.Csum)
			}
			k.Val = ondisk.AppendExtentEntry(k.Val, &ondisk.ExtentEntry{Type: t, CRC: *g.crc})
		}
		for j := range g.ptrs {
			k.Val = ondisk.AppendExtentEntry(k.Val, &g.ptrs[j])
		}
	}
	for i := range others {
		k.Val = ondisk.AppendExtentEntry(k.Val, &others[i])
	}
	return k, true, nil
}

// splitEntries takes the entries of a key apart, without the pointers in drop. head is what comes before them in its value.
func splitEntries(k *ondisk.Key, drop uint32, u64s ondisk.ExtentTypeU64s) (groups []ptrGroup, others []ondisk.ExtentEntry, head []byte, err error) {
	if k.Type == ondisk.KeyReflinkV {
		head = k.Val[:8]
	}
	groups = append(groups, ptrGroup{})
	var stripe *ondisk.ExtentEntry
	n := 0
	for e, err := range ondisk.ExtentEntries(k, u64s) {
		if err != nil {
			return nil, nil, nil, err
		}
		g := &groups[len(groups)-1]
		switch e.Type {
		case ondisk.EntryCRC32, ondisk.EntryCRC64, ondisk.EntryCRC128:
			crc := e.CRC
			groups = append(groups, ptrGroup{crc: &crc})
		case ondisk.EntryStripePtr:
			stripe = &e
		case ondisk.EntryPtr:
			if drop>>n&1 == 0 {
				if stripe != nil {
					g.ptrs = append(g.ptrs, *stripe)
				}
				g.ptrs = append(g.ptrs, e)
			}
			stripe = nil
			n++
		default:
			others = append(others, e)
		}
	}
	return groups, others, head, nil
}

// joinGroup adds pointers to the group of the same crc entry, or makes one. Those without one come first, as an entry governs all behind it.
func joinGroup(groups []ptrGroup, crc *ondisk.CRC, ptrs []ondisk.ExtentEntry) []ptrGroup {
	for i := range groups {
		g := &groups[i]
		if g.crc == nil && crc == nil || g.crc != nil && crc != nil && *g.crc == *crc {
			g.ptrs = append(g.ptrs, ptrs...)
			return groups
		}
	}
	return append(groups, ptrGroup{crc, ptrs})
}

// newPtrs returns the pointers of a part, as they are for base, which lies within it, and their crc entry, nil if they need none.
func newPtrs(mv *moving, base *ondisk.Key, p *part) (ptrs []ondisk.ExtentEntry, crc *ondisk.CRC) {
	into := base.Start().Offset - (mv.Key.Start().Offset + p.start)
	encoded := p.crc.Csum != checksum.None || p.crc.Compression != compress.None
	if encoded {
		c := p.crc
		c.Offset += uint32(into)
		crc = &c
	}
	for _, ptr := range p.ptrs {
		if !encoded {
			ptr.Offset += ondisk.Sector(into)
		}
		ptrs = append(ptrs, ondisk.ExtentEntry{Type: ondisk.EntryPtr, Ptr: ptr})
	}
	return ptrs, crc
}
