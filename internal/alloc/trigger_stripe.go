package alloc

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// stripePos is the position of a stripe's key.
func stripePos(idx uint64) ondisk.Pos { return ondisk.Pos{Offset: idx} }

// stripeReplicas is where the data (user) or the parity of a stripe is counted.
func stripeReplicas(st *ondisk.Stripe, typ ondisk.DataType) ondisk.AccountingPos {
	p := ondisk.AccountingPos{Type: ondisk.AccountingReplicas, DataType: typ, NrRequired: uint8(st.NrData())}
	for _, ptr := range st.Ptrs {
		addDev(&p, ptr.Dev)
	}
	return p
}

// stripePointer counts an extent's pointer in the block of the stripe that it lies in.
func (t *Triggers) stripePointer(tx Tx, s *scratch, btree ondisk.BtreeID, k *ondisk.Key, p *ondisk.DecodedPtr, typ ondisk.DataType,
	sectors int64) error {
	sk, ok, err := tx.Get(ondisk.BtreeStripes, stripePos(p.Stripe.Idx), ForUpdate)
	if err != nil {
		return err
	}
	if !ok {
		return keyErrorf(btree, k.Pos, "pointer to stripe %d, which does not exist", p.Stripe.Idx)
	}
	st, err := ondisk.DecodeStripe(sk)
	if err != nil {
		return err
	}
	if !st.Matches(p.ExtentPtr, p.Stripe) {
		return keyErrorf(btree, k.Pos, "pointer to device %d sector %d does not lie in block %d of stripe %d", p.Dev, p.Offset, p.Stripe.Block,
			p.Stripe.Idx)
	}
	count, ok := st.BlockCount(int(p.Stripe.Block))
	if n := int64(count) + sectors; !ok || n < 0 || n > math.MaxUint16 {
		return keyErrorf(ondisk.BtreeStripes, sk.Pos, "block %d has %d sectors, %d more do not fit", p.Stripe.Block, count, sectors)
	}
	st.Counts = slices.Clone(st.Counts)
	binary.LittleEndian.PutUint16(st.Counts[2*int(p.Stripe.Block):], uint16(int64(count)+sectors))
	sk.Val = st.Encode()
	if err := tx.Update(ondisk.BtreeStripes, sk, 0); err != nil {
		return err
	}
	s.account(tx, stripeReplicas(&st, typ), sectors)
	return nil
}

// stripe is the trigger of stripes (spec/04 § 6.6). Nothing happens if the blocks stay where they are.
func (t *Triggers) stripe(tx Tx, s *scratch, old, k *ondisk.Key) error {
	var was, now *ondisk.Stripe
	for _, x := range []struct {
		k  *ondisk.Key
		st **ondisk.Stripe
	}{{old, &was}, {k, &now}} {
		if x.k.Type != ondisk.KeyStripe {
			continue
		}
		st, err := ondisk.DecodeStripe(*x.k)
		if err != nil {
			return err
		}
		*x.st = &st
	}
	if was != nil && now != nil {
		if was.NrBlocks != now.NrBlocks || was.NrRedundant != now.NrRedundant {
			return keyErrorf(ondisk.BtreeStripes, k.Pos, "stripe of %d blocks, %d of them parity, becomes one of %d and %d", was.NrBlocks,
				was.NrRedundant, now.NrBlocks, now.NrRedundant)
		}
		const head = 8
		n := head + 8*int(now.NrBlocks)
		if bytes.Equal(old.Val[head:n], k.Val[head:n]) {
			return nil
		}
	}
	blocks := 0
	if now != nil {
		s.account(tx, stripeReplicas(now, ondisk.DataParity), int64(now.Sectors)*int64(now.NrRedundant))
		blocks = len(now.Ptrs)
	}
	if was != nil {
		s.account(tx, stripeReplicas(was, ondisk.DataParity), -int64(was.Sectors)*int64(was.NrRedundant))
		blocks = len(was.Ptrs)
	}
	for i := range blocks {
		if was != nil && now != nil && was.Ptrs[i] == now.Ptrs[i] {
			continue
		}
		if now != nil {
			if err := t.stripeBlock(tx, k, now, i, false); err != nil {
				return err
			}
		}
		if was != nil {
			if err := t.stripeBlock(tx, old, was, i, true); err != nil {
				return err
			}
		}
	}
	return nil
}

// stripeBlock marks a bucket as a block of a stripe, or no longer so. Parity is counted as the bucket's data, for nothing else points to it.
func (t *Triggers) stripeBlock(tx Tx, k *ondisk.Key, st *ondisk.Stripe, block int, gone bool) error {
	p := &st.Ptrs[block]
	dev := t.cfg.Devices.Get(p.Dev)
	if dev == nil {
		if !gone && p.Dev != ondisk.DevInvalid {
			return keyErrorf(ondisk.BtreeStripes, k.Pos, "block %d on device %d, which does not exist", block, p.Dev)
		}
		return nil
	}
	b, _ := dev.Bucket(p.Offset)
	if !dev.Has(b) {
		return fmt.Errorf("stripe %d: block %d at sector %d of device %d: %w", k.Pos.Offset, block, p.Offset, p.Dev, ErrNoBucket)
	}
	a, err := GetAlloc(tx, p.Dev, b, ForUpdate)
	if err != nil {
		return err
	}
	typ, sectors := ondisk.DataStripe, int64(0)
	if parity := block >= st.NrData(); parity {
		typ, sectors = ondisk.DataParity, int64(st.Sectors)
	}
	if gone {
		sectors = -sectors
	}
	owner := Owner{Btree: ondisk.BtreeStripes, Pos: k.Pos, Type: k.Type, Sector: p.Offset, Sectors: uint32(st.Sectors)}
	if msg := stripeBlockConflict(k, st, &a, typ, gone); msg != "" {
		return bucketError(tx, "mark_stripe", dev, b, &a, owner, msg)
	}
	if sectors != 0 {
		res, err := t.countPointer(tx, dev, b, &a, &a.DirtySectors, p, sectors, typ, owner)
		if err != nil || res == refIgnored {
			return err
		}
	}
	a.Stripe, a.StripeRedundancy = uint32(k.Pos.Offset), st.NrRedundant
	if gone {
		a.Stripe, a.StripeRedundancy = 0, 0
	}
	a.DataType = derivedType(&a, typ)
	return SetAlloc(tx, p.Dev, b, &a, 0)
}

// stripeBlockConflict says what keeps a bucket from becoming a block of a stripe, or from having been one.
func stripeBlockConflict(k *ondisk.Key, st *ondisk.Stripe, a *ondisk.Alloc, typ ondisk.DataType, gone bool) string {
	parity := typ == ondisk.DataParity
	switch {
	case k.Pos.Offset == 0 || k.Pos.Offset > math.MaxUint32:
		return "the index of the stripe does not fit"
	case !gone && (a.Stripe != 0 || a.StripeRedundancy != 0):
		return fmt.Sprintf("it belongs to stripe %d already", a.Stripe)
	case !gone && parity && allocTotal(a) != 0:
		return fmt.Sprintf("it is to hold parity, but has %d sectors of data", allocTotal(a))
	case gone && (uint64(a.Stripe) != k.Pos.Offset || a.StripeRedundancy != st.NrRedundant):
		return fmt.Sprintf("the stripe goes away, but it belongs to stripe %d", a.Stripe)
	case gone && a.DataType != typ:
		return fmt.Sprintf("the stripe goes away, but its type is not %v", typ)
	case gone && parity && (a.DirtySectors != uint32(st.Sectors) || a.CachedSectors != 0):
		return fmt.Sprintf("the stripe goes away, but it has %d dirty and %d cached sectors", a.DirtySectors, a.CachedSectors)
	}
	return ""
}
