package fsck

import (
	"cmp"
	"context"
	"slices"
	"sync/atomic"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// indirect is an indirect extent and the references to it that were counted.
type indirect struct {
	start, end uint64 // sectors of indirect space
	pos        ondisk.Pos
	stored     uint64
	counted    atomic.Uint64
}

// reflinks are the indirect extents in order. The slice is fixed before goroutines share it.
type reflinks struct{ all []*indirect }

// readReflinks loads the indirect extents.
func (m *marker) readReflinks(ctx context.Context) error {
	return m.c.each(ctx, ondisk.BtreeReflink, 0, ondisk.PosMin, ondisk.SPosMax, func(k *ondisk.Key) error {
		if err := m.limit(len(m.reflinks.all), 96); err != nil {
			return err
		}
		v, err := ondisk.DecodeIndirect(*k)
		if err != nil {
			return nil
		}
		m.reflinks.all = append(m.reflinks.all, &indirect{start: k.Start().Offset, end: k.Pos.Offset, pos: k.Pos, stored: v.Refcount})
		return nil
	})
}

// markReflinkP counts the references of one extent of a file.
func (m *marker) markReflinkP(k *ondisk.Key) {
	p, err := ondisk.DecodeReflinkP(*k)
	if err != nil {
		return
	}
	at, end := p.Idx-min(uint64(p.FrontPad), p.Idx), p.Idx+uint64(k.Size)+uint64(p.BackPad)
	all := m.reflinks.all
	i, _ := slices.BinarySearchFunc(all, at, func(v *indirect, at uint64) int { return cmp.Compare(v.end, at+1) })
	for ; at < end; i++ {
		next := end
		if i < len(all) && all[i].start < end {
			next = max(all[i].start, at)
		}
		if at < next {
			m.missingIndirect(k, &p, at, next)
		}
		if at = next; at < end && i < len(all) {
			all[i].counted.Add(1)
			at = all[i].end
		}
	}
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
	for _, v := range m.reflinks.all {
		if n := v.counted.Load(); n != v.stored {
			m.c.at(idReflinkVRefcountWrong, ondisk.BtreeReflink, 0, v.pos, "set it", "has refcount %d, should be %d", v.stored, n)
		}
	}
}
