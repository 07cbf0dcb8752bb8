package data

import (
	"context"
	"fmt"
	"sync"

	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
	"github.com/go-bcachefs/bcachefs/internal/codec/crypt"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// Bounds of stripes that are read, against the memory that an invalid one would ask for.
const (
	maxStripeBlocks = 16
	maxGranule      = 8192 // sectors under one checksum
	// rebuildPart is how much of each block is read at a time, in sectors, rounded up to whole granules.
	rebuildPart = 512
)

// rebuild fills dst, whole sectors, with what lies at sector of the device of p, from the other blocks of its stripe. Blocks are
// verified against the stripe's checksums; the caller verifies the result against the extent's.
func (r *Reader) rebuild(ctx context.Context, p *ondisk.DecodedPtr, sector ondisk.Sector, dst []byte) error {
	k, ok, err := r.cfg.Trees.Lookup(ctx, ondisk.BtreeStripes, ondisk.Pos{Offset: p.Stripe.Idx})
	switch {
	case err != nil:
		return err
	case !ok:
		return fmt.Errorf("%w: no stripe %d", ErrBadStripe, p.Stripe.Idx)
	}
	s, err := ondisk.DecodeStripe(k)
	if err != nil {
		return err
	}
	if !s.Matches(p.ExtentPtr, p.Stripe) {
		return fmt.Errorf("%w: stripe %d does not hold the extent", ErrBadStripe, p.Stripe.Idx)
	}
	if s.NrBlocks > maxStripeBlocks || s.NrRedundant > 2 || s.CsumSectors() > maxGranule || s.CsumType.IsEncryption() {
		return fmt.Errorf("%w: stripe %d has %d blocks, %d of them parity, checksums %v over %d sectors", ErrBadStripe,
			p.Stripe.Idx, s.NrBlocks, s.NrRedundant, s.CsumType, s.CsumSectors())
	}
	first := int64(sector) - int64(s.Ptrs[p.Stripe.Block].Offset)
	end := first + int64(len(dst))/sectorSize
	if first < 0 || end > int64(s.Sectors) {
		return fmt.Errorf("%w: extent reaches beyond its block of stripe %d", ErrBadStripe, p.Stripe.Idx)
	}
	granule := int64(s.CsumSectors())
	for at := first; at < end; {
		from := at / granule * granule
		to := min((min(from+rebuildPart, end)+granule-1)/granule*granule, int64(s.Sectors))
		if err := r.rebuildRange(ctx, &s, int(p.Stripe.Block), int(from), int(to), func(block []byte) {
			n := copy(dst, block[(at-from)*sectorSize:])
			dst = dst[n:]
		}); err != nil {
			return fmt.Errorf("stripe %d: %w", p.Stripe.Idx, err)
		}
		at = to
	}
	return nil
}

// rebuildRange recomputes sectors from … to, whole granules, of a block.
func (r *Reader) rebuildRange(ctx context.Context, s *ondisk.Stripe, want, from, to int, use func(block []byte)) error {
	size := (to - from) * sectorSize
	blocks := make([][]byte, s.NrBlocks)
	missing := make([]bool, s.NrBlocks)
	for i := range blocks {
		blocks[i] = r.buffers.get(size)
		defer r.buffers.put(blocks[i])
	}
	var wg sync.WaitGroup
	for i := range blocks {
		if missing[i] = true; i == want {
			continue
		}
		wg.Go(func() { missing[i] = r.readStripeBlock(ctx, s, i, from, blocks[i]) != nil })
	}
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return err
	}
	if !recoverBlock(blocks, s.NrData(), missing, want) {
		return errTooDamaged
	}
	use(blocks[want])
	return nil
}

// readStripeBlock reads a part of a block that begins at a granule, and verifies it.
func (r *Reader) readStripeBlock(ctx context.Context, s *ondisk.Stripe, block, from int, dst []byte) error {
	ptr := &s.Ptrs[block]
	if ptr.Dev == ondisk.DevInvalid {
		return ErrNoDevice
	}
	if err := r.readDevice(ctx, ptr.Dev, ptr.Offset+ondisk.Sector(from), dst); err != nil {
		return err
	}
	if s.CsumType == checksum.None {
		return nil
	}
	granule := s.CsumSectors()
	for i := from / granule; len(dst) > 0; i++ {
		n := min(granule*sectorSize, len(dst))
		want, ok := s.Csum(block, i)
		if !ok {
			return ErrBadStripe
		}
		sum, err := checksum.Compute(s.CsumType, nil, crypt.Nonce{}, dst[:n])
		if err != nil {
			return err
		}
		if sum != want {
			r.noteFault(ptr.Dev, ErrChecksum)
			return ErrChecksum
		}
		dst = dst[n:]
	}
	return nil
}
