package data

import (
	"context"
	"errors"

	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// retry reads a unit into dst from any replica: first the chosen one unless it failed on its own (alone), then the others, dirty
// ones first, then by rebuilding those that lie in stripes. The error is a *ReadError about the replica tried last, its
// Inum and Offset not set.
func (r *Reader) retry(ctx context.Context, q *request, u *unit, dst []byte, alone bool) error {
	ptrs := q.ptrs[u.ext.firstPtr : u.ext.firstPtr+u.ext.numPtrs]
	chosen := -1
	var last error
	bad := uint32(0) // bit n: pointer n leads to damage
	if u.how != viaRetry {
		chosen = u.ptr - u.ext.firstPtr
		if !errors.Is(u.failed, errPending) && (alone || !isIO(u.failed)) {
			last = r.errorOf(&ptrs[chosen], u.failed)
		} else if last = r.readFrom(ctx, u, &ptrs[chosen], dst, false); last == nil {
			return nil
		}
		if isDamage(last) {
			bad |= 1 << chosen
		}
	}
	for _, cached := range []bool{false, true} {
		for i := range ptrs {
			p := &ptrs[i]
			if i == chosen || p.Cached != cached || p.Dev == ondisk.DevInvalid {
				continue
			}
			if cached {
				switch usable, err := r.cachedUsable(ctx, p); {
				case err != nil && last == nil:
					last = err
					continue
				case !usable:
					continue
				}
			}
			err := r.readFrom(ctx, u, p, dst, false)
			if err == nil && bad != 0 && r.cfg.OnBadReplica != nil {
				r.tellBad(u, ptrs, bad)
			}
			if err == nil || ctx.Err() != nil {
				return err
			}
			if isDamage(err) {
				bad |= 1 << i
			}
			if last == nil || !errors.Is(err, ErrNoDevice) {
				last = err
			}
		}
	}
	for i := range ptrs {
		if !ptrs[i].HasStripe {
			continue
		}
		err := r.readFrom(ctx, u, &ptrs[i], dst, true)
		if err == nil || ctx.Err() != nil {
			return err
		}
		last = err
	}
	if last == nil {
		last = &ReadError{Sector: -1, Err: ErrNoReplica}
	}
	return last
}

// isDamage reports whether an error means that a replica is not what it should be, rather than that it cannot be asked.
func isDamage(err error) bool {
	return !errors.Is(err, ErrNoDevice) && !errors.Is(err, ErrNoKey) && !errors.Is(err, ErrBadExtent)
}

// tellBad tells of the damaged replicas of an extent.
func (r *Reader) tellBad(u *unit, ptrs []ondisk.DecodedPtr, bad uint32) {
	btree := ondisk.BtreeExtents
	if u.ext.shared {
		btree = ondisk.BtreeReflink
	}
	for i := range ptrs {
		if bad>>i&1 != 0 {
			r.cfg.OnBadReplica(BadReplica{Btree: btree, Pos: u.ext.pos, Ptr: ptrs[i].ExtentPtr})
		}
	}
}

// isIO reports whether err may be about another part of a joint read.
func isIO(err error) bool {
	return !errors.Is(err, ErrChecksum) && !errors.Is(err, ErrNoKey)
}

func (r *Reader) errorOf(p *ondisk.DecodedPtr, err error) error {
	return &ReadError{Device: r.cfg.Devices.DeviceName(p.Dev), Sector: int64(p.Offset), Err: err}
}

// readFrom reads a unit through one pointer, from its device or by rebuilding it from the other blocks of its stripe.
func (r *Reader) readFrom(ctx context.Context, u *unit, p *ondisk.DecodedPtr, dst []byte, rebuild bool) error {
	crc := &p.CRC
	err := checkCRC(crc, u.ext.size)
	switch {
	case err != nil:
	case !crc.IsEncoded():
		err = r.readPlain(ctx, p, u.from(crc), dst, rebuild)
	default:
		err = r.readCached(ctx, u, p, dst, rebuild)
	}
	if err == nil || ctx.Err() != nil {
		return err
	}
	return r.errorOf(p, err)
}

// readPlain reads unencoded bytes, which begin from bytes behind the pointer.
func (r *Reader) readPlain(ctx context.Context, p *ondisk.DecodedPtr, from uint64, dst []byte, rebuild bool) error {
	if !rebuild {
		return r.readBytes(ctx, p.Dev, uint64(p.Offset)*sectorSize+from, dst)
	}
	const part = 256 << 10
	for len(dst) > 0 {
		sector, before := from/sectorSize, int(from%sectorSize)
		n := min(len(dst), part-before)
		buf := r.buffers.get((before + n + sectorSize - 1) / sectorSize * sectorSize)
		err := r.rebuild(ctx, p, p.Offset+ondisk.Sector(sector), buf)
		copy(dst[:n], buf[before:])
		r.buffers.put(buf)
		if err != nil {
			return err
		}
		dst, from = dst[n:], from+uint64(n)
	}
	return nil
}

// readCached reads a part of an encoded extent through the cache.
func (r *Reader) readCached(ctx context.Context, u *unit, p *ondisk.DecodedPtr, dst []byte, rebuild bool) error {
	crc := &p.CRC
	id := blobID{sector: p.Offset, dev: p.Dev, gen: p.Gen, csum: uint8(crc.Csum), comp: uint8(crc.Compression),
		size: crc.UncompressedSize, stored: crc.CompressedSize, sum: crc.Sum.Lo, version: u.ext.version.Lo}
	if e := r.cache.peek(id); e != nil {
		copy(dst, e.buf[u.from(crc):])
		r.cache.release(e)
		return nil
	}
	if hasBlockSums(crc) && !rebuild {
		if sums := r.sums.get(&id); sums != nil && r.readBlocks(ctx, p, sums, u.from(crc), dst) {
			return nil
		}
	}
	e, err := r.cache.get(ctx, id, int(crc.UncompressedSize)*sectorSize, func(blob []byte) error {
		err := r.fill(ctx, u, p, blob, rebuild)
		if err == nil && hasBlockSums(crc) && !rebuild {
			r.sums.put(&id, blob)
		}
		return err
	})
	if err != nil {
		return err
	}
	copy(dst, e.buf[u.from(crc):])
	r.cache.release(e)
	return nil
}

// fill reads and decodes all that a CRC entry describes.
func (r *Reader) fill(ctx context.Context, u *unit, p *ondisk.DecodedPtr, blob []byte, rebuild bool) error {
	crc := &p.CRC
	stored := blob
	if crc.Compression.IsCompressed() {
		stored = r.buffers.get(int(crc.CompressedSize) * sectorSize)
		defer r.buffers.put(stored)
	}
	var err error
	if rebuild {
		err = r.rebuild(ctx, p, p.Offset, stored)
	} else {
		err = r.readDevice(ctx, p.Dev, p.Offset, stored)
	}
	if err != nil {
		return err
	}
	if crc.Compression.IsCompressed() {
		err = r.decode(blob, stored, u.ext.version, crc)
	} else {
		err = r.open(stored, u.ext.version, crc)
	}
	if crc.Csum != checksum.None && !rebuild {
		r.noteFault(p.Dev, err)
	}
	return err
}
