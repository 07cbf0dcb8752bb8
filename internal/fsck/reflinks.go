package fsck

import (
	"cmp"
	"context"
	"slices"
	"sync/atomic"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// indirect is an indirect extent.
type indirect struct {
	start, end uint64 // sectors of indirect space
	pos        ondisk.Pos
	stored     uint64
	// first is the index of the extent with which the run begins that this one is part of: up to it there is no gap.
	first int
	// change is what the number of references differs by from that of the extent before.
	change atomic.Int64
}

// reflinks are the indirect extents in order. The slice is fixed before goroutines share it.
type reflinks struct {
	all []*indirect
	end atomic.Int64 // as indirect.change, behind the last
}

// readReflinks loads the indirect extents.
func (m *marker) readReflinks(ctx context.Context) error {
	return m.c.each(ctx, ondisk.BtreeReflink, 0, ondisk.PosMin, ondisk.SPosMax, func(k *ondisk.Key) error {
		if err := m.limit(len(m.reflinks.all), 112); err != nil {
			return err
		}
		v, err := ondisk.DecodeIndirect(*k)
		if err != nil {
			return nil
		}
		x := &indirect{start: k.Start().Offset, end: k.Pos.Offset, pos: k.Pos, stored: v.Refcount, first: len(m.reflinks.all)}
		if n := len(m.reflinks.all); n > 0 && m.reflinks.all[n-1].end >= x.start {
			x.first = m.reflinks.all[n-1].first
		}
		m.reflinks.all = append(m.reflinks.all, x)
		return nil
	})
}

// markReflinkP counts the references of one extent of a file: one on each indirect extent that its range overlaps, which may be many.
func (m *marker) markReflinkP(k *ondisk.Key) {
	p, err := ondisk.DecodeReflinkP(*k)
	if err != nil {
		return
	}
	from, to := p.Idx-min(uint64(p.FrontPad), p.Idx), p.Idx+uint64(k.Size)+uint64(p.BackPad)
	all := m.reflinks.all
	i, _ := slices.BinarySearchFunc(all, from+1, func(v *indirect, at uint64) int { return cmp.Compare(v.end, at) })
	j, _ := slices.BinarySearchFunc(all, to, func(v *indirect, at uint64) int { return cmp.Compare(v.start, at) })
	if i < j {
		all[i].change.Add(1)
		m.reflinks.at(j).Add(-1)
	}
	switch {
	case from >= to:
	case i >= j:
		m.missingIndirect(k, &p, from, to)
	case all[i].start > from:
		m.missingIndirect(k, &p, from, all[i].start)
	case all[j-1].first > i:
		m.missingIndirect(k, &p, all[all[j-1].first-1].end, all[all[j-1].first].start)
	case all[j-1].end < to:
		m.missingIndirect(k, &p, all[j-1].end, to)
	}
}

func (r *reflinks) at(i int) *atomic.Int64 {
	if i < len(r.all) {
		return &r.all[i].change
	}
	return &r.end
}

// missingIndirect tells of references to nothing.
func (m *marker) missingIndirect(k *ondisk.Key, p *ondisk.ReflinkP, from, to uint64) {
	if p.Error || m.c.lost.overlaps(ondisk.BtreeReflink, ondisk.Pos{Offset: from}, ondisk.Pos{Offset: to}) {
		return
	}
	m.c.at(idReflinkPToMissingReflinkV, ondisk.BtreeExtents, 0, k.Pos, "take it out of the extent", "refers to sectors %d-%d of indirect space, "+
		"where there is nothing", from, to-1)
}

// checkRefcounts compares the references counted with those that the indirect extents say.
func (m *marker) checkRefcounts() {
	if m.c.lost.any(ondisk.BtreeExtents) {
		return
	}
	var n int64
	for _, v := range m.reflinks.all {
		if n += v.change.Load(); uint64(n) != v.stored {
			m.c.at(idReflinkVRefcountWrong, ondisk.BtreeReflink, 0, v.pos, "set it", "has refcount %d, should be %d", v.stored, n)
		}
	}
}
