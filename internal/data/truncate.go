package data

import (
	"context"
	"math"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// Truncate makes a file end at size. What is behind is deleted; if that takes more than one transaction, a crash in between does not
// keep it from being finished at the next mount. seq is as in [Writer.WriteAt].
func (w *Writer) Truncate(ctx context.Context, id ID, size int64, o *WriteOptions) (seq uint64, err error) {
	switch {
	case size < 0:
		return 0, errInvalid
	case size > maxFileSize:
		return 0, errTooBig
	}
	defer w.inodes.lock(id, true)()
	x, err := w.newOp(ctx, id, o)
	if err != nil {
		return 0, outward(err)
	}
	if uint64(size) >= x.size {
		err = x.extend(ctx, uint64(size))
	} else {
		err = x.shrink(ctx, uint64(size))
	}
	return x.seq, outward(err)
}

// extend makes a file larger, or only changes its times.
func (x *op) extend(ctx context.Context, size uint64) error {
	if size > x.size {
		if err := x.cleanTail(ctx); err != nil {
			return err
		}
	}
	return x.w.update(ctx, x.id, updateOpts{touch: x.touch, keepTimes: x.keep, seq: &x.seq}, func(t *inodeTx) error {
		t.in.Size = size
		t.modified()
		return nil
	})
}

// shrink makes a file smaller.
func (x *op) shrink(ctx context.Context, size uint64) error {
	w := x.w
	x.frees = true
	// The rest of the last block first: it is rewritten as long as the file still ends behind, as what is in a file that ends there
	// would be inline data.
	if err := x.zeroIn(ctx, size, roundUp(size, w.block)); err != nil {
		return err
	}
	w.freeze.RLock()
	defer w.freeze.RUnlock()
	from := roundUp(size, w.block) / sectorSize
	var note ondisk.Pos // in logged_ops, if it takes several transactions
	for first, done := true, false; !done; first = false {
		if !first {
			ctx = context.WithoutCancel(ctx) // what is begun is finished
			w.pause()
		}
		o := updateOpts{frees: true, keepTimes: x.keep, seq: &x.seq}
		if first {
			o.touch = x.touch
		}
		at := note
		err := w.update(ctx, x.id, o, func(t *inodeTx) error {
			t.in.Size = size
			if first {
				t.modified()
			}
			next, err := t.remove(from, math.MaxUint64)
			if err != nil {
				return err
			}
			if done = next == math.MaxUint64; done {
				return dropNote(t.Tx, note)
			}
			if note == (ondisk.Pos{}) {
				op := ondisk.LoggedOpTruncate{Subvol: x.id.Subvol, Inum: x.id.Inum, NewSize: size}
				at, err = addNote(t.Tx, ondisk.KeyLoggedOpTruncate, op.Encode())
			}
			return err
		})
		if err != nil {
			return err
		}
		note = at
	}
	return nil
}

func (w *Writer) pause() {
	if w.between != nil {
		w.between()
	}
}

// addNote notes an operation that takes several transactions.
func addNote(tx *trans.Tx, typ ondisk.KeyType, val []byte) (ondisk.Pos, error) {
	it := tx.Iter(ondisk.BtreeLoggedOps, ondisk.Pos{Inode: ondisk.LoggedOpsInode, Offset: math.MaxUint64}, trans.Intent)
	p := ondisk.Pos{Inode: ondisk.LoggedOpsInode, Offset: 1}
	last, ok, err := it.PeekPrev(ondisk.Pos{Inode: ondisk.LoggedOpsInode})
	if err != nil {
		return p, err
	}
	if ok {
		p.Offset = last.Pos.Offset + 1
	}
	return p, tx.Update(ondisk.BtreeLoggedOps, ondisk.Key{Type: typ, Pos: p, Val: val}, 0)
}

// dropNote removes a note; the zero position is none.
func dropNote(tx *trans.Tx, p ondisk.Pos) error {
	if p == (ondisk.Pos{}) {
		return nil
	}
	return tx.Update(ondisk.BtreeLoggedOps, ondisk.Key{Pos: p}, 0)
}

// Punch makes a hole from off on of n bytes. The file's size stays.
func (w *Writer) Punch(ctx context.Context, id ID, off, n int64, o *WriteOptions) (seq uint64, err error) {
	if off < 0 || n <= 0 || off > maxFileSize-n {
		return 0, errInvalid
	}
	defer w.inodes.lock(id, true)()
	x, err := w.newOp(ctx, id, o)
	if err != nil {
		return 0, outward(err)
	}
	err = x.punch(ctx, uint64(off), uint64(off+n))
	return x.seq, outward(err)
}

// punch makes the bytes start … end zeros, and whole blocks of them a hole.
func (x *op) punch(ctx context.Context, start, end uint64) error {
	if end >= x.size { // what is behind the end of the file goes too
		end = max(end, roundUp(x.size, x.w.block))
	}
	x.frees = true
	if err := x.zeroEdges(ctx, start, end); err != nil {
		return err
	}
	from, to := roundUp(start, x.w.block)/sectorSize, roundDown(end, x.w.block)/sectorSize
	return x.hole(ctx, from, max(from, to))
}

// zeroEdges makes those parts of a range zeros that are no whole blocks.
func (x *op) zeroEdges(ctx context.Context, start, end uint64) error {
	block := x.w.block
	if roundDown(start, block) == roundDown(end, block) {
		return x.zeroIn(ctx, start, end)
	}
	if err := x.zeroIn(ctx, start, roundUp(start, block)); err != nil {
		return err
	}
	return x.zeroIn(ctx, roundDown(end, block), end)
}

// hole deletes what is between two sectors, with as many transactions as it takes: each of them is at least one, for the times.
func (x *op) hole(ctx context.Context, from, to uint64) error {
	for first := true; first || from < to; first = false {
		o := updateOpts{frees: true, keepTimes: x.keep, seq: &x.seq}
		if first {
			o.touch = x.touch
		}
		next := to
		err := x.w.update(ctx, x.id, o, func(t *inodeTx) (err error) {
			t.modified()
			if from < to {
				next, err = t.remove(from, to)
			}
			return err
		})
		if err != nil {
			return err
		}
		from = next
	}
	return nil
}
