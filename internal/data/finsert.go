package data

import (
	"context"
	"errors"
	"io/fs"
	"math"
	"syscall"

	"github.com/go-bcachefs/bcachefs/internal/alloc"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// InsertRange moves what a file has from off on by n bytes towards its end, and leaves a hole. CollapseRange takes n bytes at off out of a file, and
// moves what is behind towards its start. Both are for whole blocks within the file only. They take many transactions: what a crash leaves half
// done is finished at the next mount (spec/05 § 10.4). seq is as in [Writer.WriteAt].
func (w *Writer) InsertRange(ctx context.Context, id ID, off, n int64, o *WriteOptions) (seq uint64, err error) {
	return w.shift(ctx, id, off, n, true, o)
}

// CollapseRange is the opposite of [Writer.InsertRange].
func (w *Writer) CollapseRange(ctx context.Context, id ID, off, n int64, o *WriteOptions) (seq uint64, err error) {
	return w.shift(ctx, id, off, n, false, o)
}

func (w *Writer) shift(ctx context.Context, id ID, off, n int64, insert bool, o *WriteOptions) (seq uint64, err error) {
	if off < 0 || n <= 0 || uint64(off|n)%w.block != 0 || off > maxFileSize-n {
		return 0, errInvalid
	}
	defer w.inodes.lock(id, true)()
	x, err := w.newOp(ctx, id, o)
	if err != nil {
		return 0, outward(err)
	}
	switch {
	case insert && uint64(off) >= x.size, !insert && uint64(off+n) >= x.size:
		return 0, errInvalid
	case insert && x.size > maxFileSize-uint64(n):
		return 0, errTooBig
	}
	if insert {
		// What was allocated behind the end would be moved beyond where files may end; nobody misses it.
		if err := x.cleanTail(ctx); err != nil {
			return x.seq, outward(err)
		}
	}
	w.freeze.RLock()
	defer w.freeze.RUnlock()
	s := shifter{w: w, id: id, touch: x.touch, keep: x.keep, op: ondisk.LoggedOpFinsert{Subvol: id.Subvol, Inum: id.Inum,
		SrcOffset: uint64(off) / sectorSize, DstOffset: uint64(off+n) / sectorSize, Pos: math.MaxUint64}}
	if !insert {
		s.op.DstOffset, s.op.Pos = uint64(off-n)/sectorSize, uint64(off)/sectorSize
		if off < n { // only the difference counts
			s.op.DstOffset = s.op.SrcOffset - uint64(n)/sectorSize
		}
	}
	err = w.cfg.Store.Update(ctx, func(tx *trans.Tx) (err error) {
		s.note, err = addNote(tx, ondisk.KeyLoggedOpFinsert, s.op.Encode())
		return err
	})
	if err == nil {
		err = s.run(context.WithoutCancel(ctx)) // what is begun is finished
	}
	return s.seq, outward(err)
}

// ResumeShift finishes an insertion or collapse that was noted in the btree of logged operations: k is the note's key.
func (w *Writer) ResumeShift(ctx context.Context, k ondisk.Key) error {
	op, err := ondisk.DecodeLoggedOpFinsert(k)
	if err != nil {
		return err
	}
	s := shifter{w: w, id: ID{Subvol: op.Subvol, Inum: op.Inum}, op: op, note: k.Pos}
	err = s.run(ctx)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EROFS) { // nobody sees the file, or may change it, any more
		return w.cfg.Store.Update(ctx, func(tx *trans.Tx) error { return dropNote(tx, k.Pos) })
	}
	return err
}

// shifter is an insertion or collapse in progress.
type shifter struct {
	w     *Writer
	id    ID
	op    ondisk.LoggedOpFinsert
	note  ondisk.Pos
	touch func(in *ondisk.Inode)
	keep  bool // times stay
	seq   uint64
}

// by is how far extents are moved, in sectors, modulo 2^64.
func (s *shifter) by() uint64 { return s.op.DstOffset - s.op.SrcOffset }

func (s *shifter) insert() bool { return int64(s.by()) > 0 }

// step runs a transaction that changes the file and notes how far the operation has come.
func (s *shifter) step(ctx context.Context, fn func(t *inodeTx, op *ondisk.LoggedOpFinsert) error) error {
	s.w.pause()
	next := s.op
	promise, err := s.w.cfg.Space.Reserve(0, 1, 0)
	if err != nil {
		return err
	}
	defer promise.Put()
	err = s.w.update(ctx, s.id, updateOpts{promise: &promise, frees: true, touch: s.touch, keepTimes: s.keep, seq: &s.seq}, func(t *inodeTx) error {
		next = s.op
		if err := fn(t, &next); err != nil {
			return err
		}
		return t.Update(ondisk.BtreeLoggedOps, ondisk.Key{Type: ondisk.KeyLoggedOpFinsert, Pos: s.note, Val: next.Encode()}, 0)
	})
	if err == nil {
		s.op, s.touch = next, nil
	}
	return err
}

// prepare makes the superblock list what is needed if extents have to be shared: those that other snapshots see too.
func (s *shifter) prepare(ctx context.Context) error {
	shared := false
	err := s.w.view(ctx, s.id, func(tx *trans.Tx, snapshot uint32, _ *ondisk.Inode) error {
		k, ok, err := tx.Get(ondisk.BtreeSnapshots, ondisk.Pos{Offset: uint64(snapshot)}, 0)
		if err != nil || !ok {
			return err
		}
		node, err := ondisk.DecodeSnapshot(k)
		shared = node.Parent != 0
		return err
	})
	if err != nil || !shared {
		return err
	}
	return s.w.shareFeatures(ctx)
}

// run goes on from wherever the operation is.
func (s *shifter) run(ctx context.Context) error {
	if err := s.prepare(ctx); err != nil {
		return err
	}
	if s.op.State == ondisk.FinsertStart {
		if err := s.start(ctx); err != nil {
			return err
		}
	}
	for s.op.State == ondisk.FinsertShiftExtents {
		err := s.step(ctx, func(t *inodeTx, op *ondisk.LoggedOpFinsert) error {
			// One key at a time: a second one could come to where the first was, and triggers see each position once.
			more, err := s.move(ctx, t, op)
			if err != nil || more {
				return err
			}
			op.State = ondisk.FinsertFinish
			if !s.insert() {
				t.in.Size += s.by() * sectorSize
			}
			t.modified()
			return nil
		})
		if err != nil {
			return err
		}
	}
	return s.w.cfg.Store.Update(ctx, func(tx *trans.Tx) error {
		tx.OnCommit(func(seq uint64) { s.seq = max(s.seq, seq) })
		return dropNote(tx, s.note)
	})
}

// start makes room: an inserted range is at first at the file's end, what is collapsed becomes a hole.
func (s *shifter) start(ctx context.Context) error {
	if s.insert() {
		return s.step(ctx, func(t *inodeTx, op *ondisk.LoggedOpFinsert) error {
			t.in.Size += s.by() * sectorSize
			t.modified()
			op.State = ondisk.FinsertShiftExtents
			return nil
		})
	}
	from, to := s.op.SrcOffset, s.op.SrcOffset-s.by()
	for from < to {
		next := from
		err := s.step(ctx, func(t *inodeTx, op *ondisk.LoggedOpFinsert) (err error) {
			if next, err = t.remove(from, to); err == nil && next == to {
				op.State = ondisk.FinsertShiftExtents
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

// move moves the next extent.
func (s *shifter) move(ctx context.Context, t *inodeTx, op *ondisk.LoggedOpFinsert) (more bool, err error) {
	src := op.SrcOffset
	var k ondisk.Key
	var ok bool
	if s.insert() {
		it := t.Iter(ondisk.BtreeExtents, t.pos(op.Pos), trans.Intent)
		if k, ok, err = it.PeekPrev(t.pos(0).WithSnapshot(0)); ok && k.Pos.Offset <= src {
			ok = false
		}
	} else {
		it := t.Iter(ondisk.BtreeExtents, t.pos(op.Pos), trans.Intent)
		if k, ok, err = it.PeekMax(t.pos(math.MaxUint64)); ok && k.Pos.Offset <= src {
			ok = false
		}
	}
	if err != nil || !ok {
		return false, err
	}
	moved := k
	if k.Pos.Snapshot != t.snapshot {
		// The copy would be a second owner of what the other snapshots go on seeing.
		if moved, err = s.own(ctx, t, k); err != nil {
			return false, err
		}
	}
	if n := max(src, k.Start().Offset) - k.Start().Offset; n > 0 {
		if err := t.promise.Add(2*maxReplicas, 1, alloc.ReserveNoFail); err != nil {
			return false, err
		}
		moved = ondisk.CutFront(&moved, uint32(n), s.w.cfg.ExtentTypes)
	}
	if err := t.clear(moved.Start().Offset, k.Pos.Offset); err != nil {
		return false, err
	}
	if op.Pos = k.Pos.Offset; s.insert() {
		op.Pos = moved.Start().Offset
	}
	if moved.Type == ondisk.KeyDeleted {
		t.in.Sectors -= min(t.in.Sectors, uint64(moved.Size))
		return true, nil
	}
	moved.Pos = t.pos(k.Pos.Offset + s.by())
	return true, t.Update(ondisk.BtreeExtents, moved, 0)
}

// own returns what stands for a key of another snapshot in this one, at its place: a pointer to shared data or, for space that is not written yet, a
// reservation. If there is no space for that it is of type deleted: a hole reads the same.
func (s *shifter) own(ctx context.Context, t *inodeTx, k ondisk.Key) (ondisk.Key, error) {
	empty, err := s.w.isUnwritten(&k)
	if err != nil {
		return k, err
	}
	if !empty && k.Type != ondisk.KeyReservation {
		return s.w.share(ctx, t, k)
	}
	n, err := s.w.replicasOf(&k)
	if err != nil {
		return k, err
	}
	n = min(max(n, 1), maxReplicas)
	r := ondisk.Reservation{NrReplicas: uint8(n)}
	stand := ondisk.Key{Type: ondisk.KeyReservation, Pos: k.Pos, Size: k.Size, Val: r.Encode()}
	need := uint64(k.Size) * uint64(n)
	if have := t.promise.Sectors(); have < need {
		err = t.promise.Add(need-have, 1, 0)
	}
	if errors.Is(err, alloc.ErrNoSpace) {
		stand.Type, stand.Val, err = ondisk.KeyDeleted, nil, nil
	}
	return stand, err
}
