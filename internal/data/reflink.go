package data

import (
	"context"
	"math"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// versionReflinkOpts is the first version in which a pointer says whether its file's options may be applied to what is shared.
const versionReflinkOpts = ondisk.MetadataVersion(1<<10 | 16)

// share makes the extent or inline data of a key shared: it becomes an indirect extent, and a pointer to it takes its place, in the key's own
// snapshot (spec/05 § 11.3). It returns the pointer. Other keys stay as they are. The superblock must list what that needs,
// see shareFeatures.
func (w *Writer) share(ctx context.Context, t *inodeTx, k ondisk.Key) (ondisk.Key, error) {
	v := ondisk.Key{Type: ondisk.KeyReflinkV, Version: k.Version, Size: k.Size}
	switch k.Type {
	case ondisk.KeyExtent:
	case ondisk.KeyInlineData:
		v.Type = ondisk.KeyIndirectInlineData
	default:
		return k, nil
	}
	if err := w.shareFeatures(ctx); err != nil {
		return k, err
	}
	it := t.Iter(ondisk.BtreeReflink, ondisk.Pos{Offset: math.MaxUint64}, trans.Intent)
	last, ok, err := it.PeekPrev(ondisk.PosMin)
	if err != nil {
		return k, err
	}
	idx := uint64(0)
	if ok {
		idx = last.Pos.Offset
	}
	v.Pos.Offset = idx + uint64(k.Size)
	v.Val = append(make([]byte, 8, 8+len(k.Val)), k.Val...)
	if err := t.Update(ondisk.BtreeReflink, v, 0); err != nil {
		return k, err
	}
	p := ondisk.ReflinkP{Idx: idx, MayUpdate: w.cfg.Version >= versionReflinkOpts}
	link := ondisk.Key{Type: ondisk.KeyReflinkP, Pos: k.Pos, Size: k.Size, Val: p.Encode()}
	return link, t.Update(ondisk.BtreeExtents, link, 0)
}

// shareFeatures makes the superblock list what shared data needs.
func (w *Writer) shareFeatures(ctx context.Context) error {
	return w.setFeatures(ctx, ondisk.FeatureReflink, ondisk.FeatureReflinkInlineData)
}

// checkRanges refuses ranges of two files that cannot be.
func checkRanges(fromOff, off, n int64) error {
	switch {
	case fromOff < 0 || off < 0 || n < 0 || fromOff > maxFileSize-n:
		return errInvalid
	case off > maxFileSize-n:
		return errTooBig
	}
	return nil
}

// Reflink makes n bytes of a file, at off, the same data as those of another or the same file at from: no data is copied, and neither
// sees what is written to the other later. All are whole blocks, but for the end of from if the
// range ends there and to ends with it. What is copied is at most up to the end of from; copied says how many bytes that is.
func (w *Writer) Reflink(ctx context.Context, from ID, fromOff int64, to ID, off, n int64, o *WriteOptions) (copied int64, seq uint64, err error) {
	if err := checkRanges(fromOff, off, n); err != nil {
		return 0, 0, err
	}
	defer w.inodes.lockBoth(from, to)()
	src, err := w.newOp(ctx, from, nil)
	if err != nil {
		return 0, 0, outward(err)
	}
	x, err := w.newOp(ctx, to, o)
	if err != nil {
		return 0, 0, outward(err)
	}
	if uint64(fromOff) >= src.size || n == 0 {
		return 0, 0, nil
	}
	n = min(n, int64(src.size)-fromOff)
	whole := int64(roundUp(uint64(n), w.block))
	switch {
	case uint64(fromOff|off)%w.block != 0:
		return 0, 0, errInvalid
	case whole != n && (uint64(fromOff+n) != src.size || uint64(off+n) < x.size):
		return 0, 0, errInvalid
	case from == to && fromOff < off+whole && off < fromOff+whole:
		return 0, 0, errInvalid
	}
	copied, err = x.remap(ctx, src, uint64(fromOff), uint64(off), uint64(n))
	return copied, x.seq, outward(err)
}

// remap is Reflink of a range that was checked, both locks held.
func (x *op) remap(ctx context.Context, src *op, fromOff, off, n uint64) (copied int64, err error) {
	w := x.w
	if n == 0 {
		return 0, nil
	}
	if err := w.shareFeatures(ctx); err != nil {
		return 0, err
	}
	if off > x.size {
		if err := x.cleanTail(ctx); err != nil {
			return 0, err
		}
	}
	// Pointers that are left to be made; what is behind the end of the last block of from is zeros (see Truncate), if not by others.
	if fromOff+n == src.size {
		if err := src.cleanTail(ctx); err != nil {
			return 0, err
		}
	}
	x.newSize = off + n
	start := fromOff / sectorSize
	end := roundUp(fromOff+n, w.block) / sectorSize
	shift := off/sectorSize - fromOff/sectorSize // modulo 2^64
	for at := start; at < end; {
		next := at
		promise, err := w.cfg.Space.Reserve(0, 1, 0)
		if err == nil {
			err = w.update(ctx, x.id, updateOpts{promise: &promise, touch: x.touch, keepTimes: x.keep, seq: &x.seq}, func(t *inodeTx) error {
				next = at
				room := maxReplacedPerTx
				for range maxKeysPerTx / 4 {
					if next >= end || room == 0 {
						break
					}
					to, err := x.remapKey(ctx, t, src, next, end, shift, &room)
					if err != nil {
						return err
					}
					next = to
				}
				x.grow(t, (next+shift)*sectorSize)
				t.modified()
				return nil
			})
			promise.Put()
		}
		if err != nil {
			return int64((at - start) * sectorSize), err
		}
		at = next
	}
	return int64(n), nil
}

// remapKey shares what the source has at a sector with the destination, as much of it as there is room for, see [inodeTx.fit]; next is where it ends.
func (x *op) remapKey(ctx context.Context, t *inodeTx, src *op, at, end, shift uint64, room *int) (next uint64, err error) {
	w := x.w
	from := t
	if src.id != x.id {
		sub, err := subvolumeOf(t.Tx, src.id.Subvol)
		if err != nil {
			return 0, err
		}
		from = &inodeTx{Tx: t.Tx, w: w, id: src.id, snapshot: sub.Snapshot, promise: t.promise}
	}
	it := t.Iter(ondisk.BtreeExtents, from.pos(at), trans.Intent)
	k, ok, err := it.PeekSlot()
	if err != nil {
		return 0, err
	}
	next = min(k.Pos.Offset, end)
	if !ok {
		return x.unmap(t, at+shift, next+shift, next)
	}
	skip, err := x.w.isUnwritten(&k)
	if err != nil {
		return 0, err
	}
	if skip || k.Type != ondisk.KeyExtent && k.Type != ondisk.KeyInlineData && k.Type != ondisk.KeyReflinkP && k.Type != ondisk.KeyError {
		return x.unmap(t, at+shift, next+shift, next)
	}
	fits, err := t.fit(at+shift, next+shift, room)
	if err != nil {
		return 0, err
	}
	if next = fits - shift; next == at {
		return next, nil
	}
	if k.Type == ondisk.KeyError { // what is lost is lost in the copy too
		e := ondisk.Key{Type: ondisk.KeyError, Pos: ondisk.Pos{Offset: next + shift}, Size: uint32(next - at), Val: k.Val}
		return next, t.replace(e)
	}
	if k, err = w.share(ctx, from, k); err != nil {
		return 0, err
	}
	p, err := ondisk.DecodeReflinkP(k)
	if err != nil {
		return 0, err
	}
	p.Idx += at - k.Start().Offset
	p.FrontPad, p.BackPad = 0, 0
	link := ondisk.Key{Type: ondisk.KeyReflinkP, Pos: ondisk.Pos{Offset: next + shift}, Size: uint32(next - at), Val: p.Encode()}
	return next, t.replace(link)
}

// unmap makes a hole of the destination where the source has one.
func (x *op) unmap(t *inodeTx, from, to, next uint64) (uint64, error) {
	end, err := t.remove(from, to)
	return next - (to - end), err
}

// CopyRange copies n bytes between files, or within one if the ranges do not overlap: whole blocks that lie alike are shared, see [Writer.Reflink],
// the rest is copied. It ends with the source.
func (w *Writer) CopyRange(ctx context.Context, from ID, fromOff int64, to ID, off, n int64, o *WriteOptions) (copied int64, seq uint64, err error) {
	if err := checkRanges(fromOff, off, n); err != nil {
		return 0, 0, err
	}
	defer w.inodes.lockBoth(from, to)()
	src, err := w.newOp(ctx, from, nil)
	if err != nil {
		return 0, 0, outward(err)
	}
	x, err := w.newOp(ctx, to, o)
	if err != nil {
		return 0, 0, outward(err)
	}
	if uint64(fromOff) >= src.size {
		return 0, 0, nil
	}
	n = min(n, int64(src.size)-fromOff)
	if from == to && fromOff < off+n && off < fromOff+n {
		return 0, 0, errInvalid
	}
	if x.size%w.block != 0 && uint64(off) >= roundUp(x.size, w.block) {
		if err := x.cleanTail(ctx); err != nil {
			return 0, x.seq, outward(err)
		}
	}
	a, b, left := uint64(fromOff), uint64(off), uint64(n)
	step := func(m uint64, share bool) error {
		if m == 0 || err != nil {
			return err
		}
		var done int64
		if share {
			done, err = x.remap(ctx, src, a, b, m)
		} else {
			done, err = x.copyBytes(ctx, src, a, b, m)
		}
		a, b, left = a+uint64(done), b+uint64(done), left-uint64(done)
		copied += done
		x.size = max(x.size, b)
		if from == to {
			src.size = x.size
		}
		return err
	}
	if (a^b)%w.block != 0 {
		err = step(left, false)
		return copied, x.seq, outward(err)
	}
	if step(min(left, roundUp(a, w.block)-a), false) == nil && step(roundDown(left, w.block), true) == nil {
		_ = step(left, false) // its error is err
	}
	return copied, x.seq, outward(err)
}

// copyBytes copies by reading and writing.
func (x *op) copyBytes(ctx context.Context, src *op, fromOff, off, n uint64) (copied int64, err error) {
	w := x.w
	buf := w.buffers.get(int(min(n, writeWindow)))
	defer w.buffers.put(buf)
	for n > 0 {
		p := buf[:min(n, uint64(len(buf)))]
		if err := src.read(ctx, p, fromOff); err != nil {
			return copied, err
		}
		x.newSize = off + uint64(len(p))
		var done int
		if (off|uint64(len(p)))%w.block == 0 {
			done, err = x.write(ctx, p, off/sectorSize)
		} else {
			done, err = x.writeEdges(ctx, p, off)
		}
		copied += int64(done)
		if err != nil {
			return copied, err
		}
		fromOff, off, n = fromOff+uint64(done), off+uint64(done), n-uint64(done)
		x.size = max(x.size, off)
	}
	return copied, nil
}
