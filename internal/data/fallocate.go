package data

import (
	"context"

	"github.com/go-bcachefs/bcachefs/internal/alloc"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// AllocateMode says what [Writer.Allocate] does.
type AllocateMode uint8

// Modes of allocation.
const (
	// KeepSize leaves the file's size as it is.
	KeepSize AllocateMode = 1 << iota
	// ZeroRange makes all of the range zeros.
	ZeroRange
)

// Allocate makes sure that writes to the n bytes at off do not fail for want of space: holes become reservations or, in files that are written in
// place, space that is not written yet. seq is as in [Writer.WriteAt].
func (w *Writer) Allocate(ctx context.Context, id ID, off, n int64, mode AllocateMode, o *WriteOptions) (seq uint64, err error) {
	switch {
	case off < 0 || n <= 0:
		return 0, errInvalid
	case off > maxFileSize-n:
		return 0, errTooBig
	}
	defer w.inodes.lock(id, true)()
	x, err := w.newOp(ctx, id, o)
	if err != nil {
		return 0, outward(err)
	}
	err = x.allocateRange(ctx, uint64(off), uint64(off+n), mode)
	return x.seq, outward(err)
}

func (x *op) allocateRange(ctx context.Context, start, end uint64, mode AllocateMode) error {
	w := x.w
	from, to := roundDown(start, w.block), roundUp(end, w.block)
	if mode&KeepSize == 0 {
		x.newSize = end
		if end > x.size {
			if err := x.cleanTail(ctx); err != nil {
				return err
			}
		}
	}
	if mode&ZeroRange != 0 {
		// Of blocks that are part of the range only what belongs to it becomes zeros.
		if err := x.zeroEdges(ctx, start, end); err != nil {
			return err
		}
		if err := x.fill(ctx, from/sectorSize, to/sectorSize, false); err != nil {
			return err
		}
		inFrom, inTo := roundUp(start, w.block), roundDown(end, w.block)
		if inFrom < inTo {
			if err := x.fill(ctx, inFrom/sectorSize, inTo/sectorSize, true); err != nil {
				return err
			}
		}
	} else if err := x.fill(ctx, from/sectorSize, to/sectorSize, false); err != nil {
		return err
	}
	return w.update(ctx, x.id, updateOpts{touch: x.touch, keepTimes: x.keep, seq: &x.seq}, func(t *inodeTx) error {
		x.grow(t, to)
		t.modified()
		return nil
	})
}

// fill allocates what has no space between two sectors; if all is set, also what has some with data.
func (x *op) fill(ctx context.Context, from, to uint64, all bool) error {
	promise, err := x.w.cfg.Space.Reserve(0, 1, 0)
	if err != nil {
		return err
	}
	defer promise.Put()
	for from < to {
		var next uint64
		if x.w.nocow(&x.opts) {
			next, err = x.fillUnwritten(ctx, from, to, all)
		} else {
			next, err = x.fillReserved(ctx, from, to, all, &promise)
		}
		if err != nil {
			return err
		}
		from = next
	}
	return nil
}

// wants tells whether the slot of a file that an iterator stands at is to be allocated, and where what is there ends.
func (x *op) wants(it *trans.Iter, to uint64, all bool) (want bool, end uint64, err error) {
	k, ok, err := it.PeekSlot()
	if err != nil {
		return false, 0, err
	}
	end = min(k.Pos.Offset, to)
	if !ok {
		return true, end, nil
	}
	if k.Type == ondisk.KeyReservation {
		n, err := x.w.replicasOf(&k)
		return n < x.opts.Replicas, end, err
	}
	if unwritten, err := x.w.isUnwritten(&k); err != nil || unwritten {
		n, err2 := x.w.replicasOf(&k)
		if err == nil {
			err = err2
		}
		return n < x.opts.Replicas, end, err
	}
	return all || !isAllocated(&k), end, nil
}

func (w *Writer) isUnwritten(k *ondisk.Key) (bool, error) {
	if k.Type != ondisk.KeyExtent {
		return false, nil
	}
	var buf [8]ondisk.DecodedPtr
	ptrs, _, err := ondisk.AppendExtentPtrs(buf[:0], k, w.cfg.ExtentTypes)
	return len(ptrs) > 0 && ptrs[0].Unwritten, err
}

// maxReserve bounds one reservation, in sectors: what a transaction promises itself while it has locks.
const maxReserve = 1 << 31

// fillReserved makes reservations, with one transaction.
func (x *op) fillReserved(ctx context.Context, from, to uint64, all bool, promise *alloc.Reservation) (next uint64, err error) {
	err = x.w.update(ctx, x.id, updateOpts{promise: promise, seq: &x.seq}, func(t *inodeTx) error {
		next = from
		need := uint64(0)
		for range maxKeysPerTx {
			if next >= to {
				break
			}
			want, end, err := x.wants(t.Iter(ondisk.BtreeExtents, t.pos(next), trans.Intent), to, all)
			if err != nil {
				return err
			}
			end = min(end, next+maxReserve)
			if want {
				need += (end - next) * uint64(x.opts.Replicas)
				if have := promise.Sectors(); have < need {
					if err := promise.Add(need-have, 1, 0); err != nil {
						return err
					}
				}
				r := ondisk.Reservation{NrReplicas: uint8(x.opts.Replicas)}
				k := ondisk.Key{Type: ondisk.KeyReservation, Pos: ondisk.Pos{Offset: end}, Size: uint32(end - next), Val: r.Encode()}
				if err := t.replace(k); err != nil {
					return err
				}
			}
			next = end
		}
		return nil
	})
	return next, err
}

// fillUnwritten allocates space that is not written yet for the first range that has none.
func (x *op) fillUnwritten(ctx context.Context, from, to uint64, all bool) (next uint64, err error) {
	w := x.w
	want, end := false, to
	err = w.view(ctx, x.id, func(tx *trans.Tx, snapshot uint32, _ *ondisk.Inode) (err error) {
		want, end, err = x.wants(tx.Iter(ondisk.BtreeExtents, ondisk.Pos{Inode: x.id.Inum, Offset: from, Snapshot: snapshot}, 0), to, all)
		return err
	})
	if err != nil || !want {
		return end, err
	}
	end = min(end, from+writeWindow/sectorSize)
	if err := x.room(ctx, from, end); err != nil {
		return 0, err
	}
	promise, err := w.cfg.Space.Reserve(end-from, x.opts.Replicas, 0)
	if err != nil {
		return 0, err
	}
	defer promise.Put()
	b := batch{w: w, opts: &x.opts}
	defer b.release(ctx)
	req := b.request(int(end-from), x.point)
	al, err := b.allocation(ctx, &req)
	if err != nil {
		return 0, err
	}
	k := ondisk.Key{Type: ondisk.KeyExtent, Pos: ondisk.Pos{Offset: from + uint64(al.Sectors)}, Size: al.Sectors}
	for _, p := range al.Ptrs() {
		p.Unwritten, p.Cached = true, false
		k.Val = ondisk.AppendExtentEntry(k.Val, &ondisk.ExtentEntry{Type: ondisk.EntryPtr, Ptr: p})
	}
	err = w.update(ctx, x.id, updateOpts{promise: &promise, seq: &x.seq}, func(t *inodeTx) error { return t.replace(k) })
	return k.Pos.Offset, err
}
