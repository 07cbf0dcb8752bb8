package data

import (
	"bytes"
	"context"

	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// home is a part of an extent that is written to where it is.
type home struct {
	key        ondisk.Key
	start, end uint64 // sectors of the file
	ptrs       []ondisk.ExtentPtr
	unwritten  bool
}

// inPlace writes the start of p to where the file has its blocks, as far as these are its own, plain, and on enough devices (spec/05 § 9).
// It returns how many bytes. What an in-place write leaves half done after a crash is what the option asks for.
func (x *op) inPlace(ctx context.Context, p []byte, start uint64) (n int, err error) {
	w := x.w
	// A snapshot that is taken meanwhile would see what is written.
	w.freeze.RLock()
	defer w.freeze.RUnlock()
	homes, locked, err := x.lockHomes(ctx, start, start+uint64(len(p))/sectorSize)
	if err != nil {
		return 0, err
	}
	defer w.cfg.Nocow.unlock(nocowWrite, locked)
	for i := range homes {
		h := &homes[i]
		size := int(h.end-h.start) * sectorSize
		failed, err := w.writeAll(ctx, h.ptrs, p[n:n+size])
		if err != nil {
			return 0, err
		}
		if failed != 0 { // the copies differ now; writing elsewhere makes the file whole
			homes = homes[:i]
			break
		}
		n += size
	}
	for len(homes) > 0 {
		part := homes[:min(len(homes), maxKeysPerTx)]
		if err := x.commitInPlace(ctx, part); err != nil {
			return 0, err
		}
		homes = homes[len(part):]
	}
	return n, nil
}

// lockHomes returns where the start of a range may be written in place. The buckets are locked: nothing is moved away from there, and whatever
// becomes of the file, nobody else gets them meanwhile.
func (x *op) lockHomes(ctx context.Context, start, end uint64) (homes []home, locked []uint64, err error) {
	for {
		ok := false
		err := x.w.view(ctx, x.id, func(tx *trans.Tx, snapshot uint32, _ *ondisk.Inode) (err error) {
			if homes, err = x.homes(tx, homes[:0], snapshot, start, end); err != nil {
				return err
			}
			locked = locked[:0]
			for i := range homes {
				locked = appendBuckets(locked, x.w.cfg.Members, homes[i].ptrs...)
			}
			ok = x.w.cfg.Nocow.tryLock(nocowWrite, locked) // the extents cannot change before
			return nil
		})
		if err != nil || ok {
			return homes, locked, err
		}
		if err := x.w.cfg.Nocow.wait(ctx, nocowWrite, locked); err != nil {
			return nil, nil, err
		}
	}
}

// homes appends where the start of a range may be written in place.
func (x *op) homes(tx *trans.Tx, all []home, snapshot uint32, start, end uint64) ([]home, error) {
	it := tx.Iter(ondisk.BtreeExtents, ondisk.Pos{Inode: x.id.Inum, Offset: start, Snapshot: snapshot}, 0)
	for at := start; at < end; {
		k, ok, err := it.PeekMax(ondisk.Pos{Inode: x.id.Inum, Offset: end, Snapshot: snapshot})
		if err != nil || !ok || k.Start().Offset > at || k.Pos.Snapshot != snapshot || k.Type != ondisk.KeyExtent {
			return all, err
		}
		h := home{key: k.Clone(), start: at, end: min(k.Pos.Offset, end)}
		if ok, err = x.isHome(&h); !ok || err != nil {
			return all, err
		}
		all = append(all, h)
		at = h.end
		it.Advance()
	}
	return all, nil
}

// isHome reports whether an extent may be written in place, and where that is.
func (x *op) isHome(h *home) (bool, error) {
	var buf [8]ondisk.DecodedPtr
	ptrs, flags, err := ondisk.AppendExtentPtrs(buf[:0], &h.key, x.w.cfg.ExtentTypes)
	if err != nil || flags.Bits != 0 {
		return false, err
	}
	for i := range ptrs {
		p := &ptrs[i]
		if p.Cached || p.HasStripe || p.CRC.Csum != checksum.None || p.CRC.Compression.IsCompressed() || p.Dev == ondisk.DevInvalid {
			return false, nil
		}
		h.unwritten = p.Unwritten
		to := p.ExtentPtr
		to.Offset += ondisk.Sector(uint64(p.CRC.Offset) + h.start - h.key.Start().Offset)
		h.ptrs = append(h.ptrs, to)
	}
	return len(h.ptrs) >= x.opts.Replicas, nil
}

// commitInPlace notes that extents were written in place: those that had never been written become ordinary ones.
func (x *op) commitInPlace(ctx context.Context, homes []home) error {
	return x.w.update(ctx, x.id, updateOpts{touch: x.touch, keepTimes: x.keep, seq: &x.seq}, func(t *inodeTx) error {
		for i := range homes {
			h := &homes[i]
			if !h.unwritten {
				continue
			}
			now, ok, err := t.Lookup(ondisk.BtreeExtents, t.pos(h.start), trans.Intent)
			if err != nil {
				return err
			}
			// Another write to the same blocks, at the same time, may have been quicker.
			if !ok || now.Type != ondisk.KeyExtent || now.Pos.Snapshot != t.snapshot {
				continue
			}
			if k, ok := x.written(&now, h); ok {
				if err := t.replace(k); err != nil {
					return err
				}
			}
		}
		x.grow(t, homes[len(homes)-1].end*sectorSize)
		t.modified()
		return nil
	})
}

// written returns the part of an extent that a home is, not unwritten any more; ok is false if it is another extent now.
func (x *op) written(now *ondisk.Key, h *home) (k ondisk.Key, ok bool) {
	cut := func(k *ondisk.Key) ondisk.Key {
		c := *k
		if n := h.start - c.Start().Offset; n > 0 {
			c = ondisk.CutFront(&c, uint32(n), x.w.cfg.ExtentTypes)
		}
		return ondisk.CutBack(&c, uint32(h.end-h.start))
	}
	if now.Start().Offset > h.start || now.Pos.Offset < h.end {
		return k, false
	}
	k = cut(now)
	if was := cut(&h.key); !bytes.Equal(k.Val, was.Val) {
		return k, false
	}
	var val []byte
	for e, err := range ondisk.ExtentEntries(&k, x.w.cfg.ExtentTypes) {
		if err != nil {
			return k, false
		}
		e.Ptr.Unwritten = false
		val = ondisk.AppendExtentEntry(val, &e)
	}
	k.Val = val
	return k, true
}
