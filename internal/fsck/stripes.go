package fsck

import (
	"context"
	"sync"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// stripe is a stripe with the sectors that were counted in its blocks.
type stripe struct {
	ondisk.Stripe
	pos     ondisk.Pos
	sectors []int64 // protected by stripes.mu
}

// stripes are all stripes, by index. The table itself is fixed before goroutines share it.
type stripes struct {
	mu sync.Mutex
	by map[uint64]*stripe
}

// readStripes loads the stripes and marks their blocks.
func (m *marker) readStripes(ctx context.Context) error {
	c := m.c
	return c.each(ctx, ondisk.BtreeStripes, 0, ondisk.PosMin, ondisk.SPosMax, func(k *ondisk.Key) error {
		if err := m.limit(len(m.stripes.by), 512); err != nil {
			return err
		}
		s, err := ondisk.DecodeStripe(k.Clone())
		if err != nil {
			return nil
		}
		st := &stripe{Stripe: s, pos: k.Pos, sectors: make([]int64, s.NrBlocks)}
		m.stripes.by[k.Pos.Offset] = st
		return m.markStripe(k, st)
	})
}

// markStripe marks the buckets of a stripe's blocks and counts its parity. Facts: spec 04 §6.6.
func (m *marker) markStripe(k *ondisk.Key, s *stripe) error {
	c := m.c
	parity := ondisk.AccountingPos{Type: ondisk.AccountingReplicas, DataType: ondisk.DataParity, NrRequired: uint8(s.NrData())}
	for i, p := range s.Ptrs {
		s.addDevice(&parity, p.Dev)
		if p.Dev == ondisk.DevInvalid {
			continue
		}
		d := c.byIndex[p.Dev]
		if d == nil || d.BucketSize == 0 || !d.holds(d.bucketOf(p.Offset)) {
			c.at(idPtrToInvalidDevice, ondisk.BtreeStripes, 0, k.Pos, "drop the block", "block %d is at sector %d of device %d, which does not exist",
				i, p.Offset, p.Dev)
			continue
		}
		b := d.bucketOf(p.Offset)
		typ := ondisk.DataStripe
		if i >= s.NrData() {
			typ = ondisk.DataParity
		}
		err := m.buckets.change(p.Dev, b, func(g *bucket) {
			if !m.usable(d, b, g, ondisk.BtreeStripes, 0, k, &p, typ) {
				return
			}
			if typ == ondisk.DataParity {
				g.dirty += uint32(s.Sectors)
			}
			if g.typ != ondisk.DataParity {
				g.typ = typ
			}
			g.redundancy = s.NrRedundant
			if c.since(35) {
				g.stripe++
				g.redundancy = 0
			} else {
				g.stripe = uint32(k.Pos.Offset)
			}
		})
		if err != nil {
			return err
		}
	}
	m.n.add(&parity, values{int64(s.Sectors) * int64(s.NrRedundant)})
	return nil
}

// addDevice puts a device of a stripe into the position of a counter, in order.
func (s *stripe) addDevice(a *ondisk.AccountingPos, dev uint8) {
	if int(a.NrDevs) >= len(a.Devs) {
		return
	}
	i := int(a.NrDevs)
	for ; i > 0 && a.Devs[i-1] > dev; i-- {
		a.Devs[i] = a.Devs[i-1]
	}
	a.Devs[i] = dev
	a.NrDevs++
}

// stripeOf returns the stripe that a pointer lies in, nil if there is none; what is wrong is told.
func (m *marker) stripeOf(id ondisk.BtreeID, level uint8, k *ondisk.Key, p *pointer) *stripe {
	s := m.stripes.by[p.Stripe.Idx]
	switch {
	case s == nil:
		if !m.c.lost.has(ondisk.BtreeStripes, ondisk.Pos{Offset: p.Stripe.Idx}) {
			m.c.at(idPtrToMissingStripe, id, level, k.Pos, "drop the pointer's stripe entry", "pointer to device %d: there is no stripe %d", p.Dev,
				p.Stripe.Idx)
		}
		return nil
	case !s.Matches(p.ExtentPtr, p.Stripe):
		m.c.at(idPtrToIncorrectStripe, id, level, k.Pos, "drop the pointer's stripe entry", "pointer to device %d sector %d does not lie in "+
			"block %d of stripe %d", p.Dev, p.Offset, p.Stripe.Block, p.Stripe.Idx)
		return nil
	}
	return s
}

// countStriped counts a pointer that lies in a stripe: whoever reads it may need all the stripe's devices.
func (m *marker) countStriped(p *pointer, typ ondisk.DataType) {
	s := m.stripes.by[p.Stripe.Idx]
	if s == nil || !s.Matches(p.ExtentPtr, p.Stripe) {
		return
	}
	m.stripes.mu.Lock()
	s.sectors[p.Stripe.Block] += int64(p.sectors)
	m.stripes.mu.Unlock()
	a := ondisk.AccountingPos{Type: ondisk.AccountingReplicas, DataType: typ, NrRequired: uint8(s.NrData())}
	for _, b := range s.Ptrs {
		s.addDevice(&a, b.Dev)
	}
	m.n.add(&a, values{int64(p.sectors)})
}

// checkStripes compares the sectors counted in each block with those that the stripes say.
func (m *marker) checkStripes() {
	for _, s := range m.stripes.by {
		for i := range s.NrData() {
			got, ok := s.BlockCount(i)
			if ok && int64(got) != s.sectors[i] {
				m.c.at(idStripeSectorCountWrong, ondisk.BtreeStripes, 0, s.pos, "set it", "block %d has %d sectors, should be %d", i, got, s.sectors[i])
			}
		}
	}
}
