package data

import (
	"context"
	"errors"
	"syscall"

	"github.com/go-bcachefs/bcachefs/internal/alloc"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// writeWindow bounds what of a write is in memory and in open buckets at a time, in bytes.
const writeWindow = 4 << 20

// WriteOptions say how one write is made. The zero value is fine.
type WriteOptions struct {
	// Point is where to write; what is written through one point lies close together. 0: one that the inode's number chooses.
	Point alloc.WritePoint
	// Touch changes the inode in the same transaction: set-user-id bits go when somebody else writes. It may be called again.
	Touch func(in *ondisk.Inode)
	// KeepTimes leaves the times of the inode as they are: who keeps a page cache, as a kernel, tells them.
	KeepTimes bool
}

// op is one operation that writes to a file, whose lock it has.
type op struct {
	w       *Writer
	id      ID
	opts    Options
	point   alloc.WritePoint
	touch   func(in *ondisk.Inode)
	keep    bool   // times stay
	size    uint64 // of the file at the start
	newSize uint64 // the file grows to it, as far as it was written; 0: it does not
	seq     uint64 // the newest journal entry with a change
	frees   bool   // it makes space in the end, and is not refused the little that it takes before
}

func (w *Writer) newOp(ctx context.Context, id ID, o *WriteOptions) (*op, error) {
	x := &op{w: w, id: id, point: alloc.WritePoint(id.Inum)}
	if o != nil {
		x.touch, x.keep = o.Touch, o.KeepTimes
		if o.Point != 0 {
			x.point = o.Point
		}
	}
	err := w.view(ctx, id, func(_ *trans.Tx, _ uint32, in *ondisk.Inode) error {
		if in.IsDir() {
			return errno(syscall.EISDIR, "%v is a directory", id)
		}
		x.opts, x.size = w.cfg.Options.of(in), in.Size
		return nil
	})
	return x, err
}

// WriteAt writes p to a file at off, which grows if it ends before. seq is the journal entry that has it: once that is flushed the data
// is durable. After an error n says how much of p is in the file.
func (w *Writer) WriteAt(ctx context.Context, id ID, p []byte, off int64, o *WriteOptions) (n int, seq uint64, err error) {
	switch {
	case off < 0:
		return 0, 0, errInvalid
	case off > maxFileSize-int64(len(p)):
		return 0, 0, errTooBig
	case len(p) == 0:
		return 0, 0, nil
	}
	aligned := (uint64(off)|uint64(len(p)))%w.block == 0
	unlock := w.inodes.lock(id, !aligned)
	defer func() { unlock() }()
	x, err := w.newOp(ctx, id, o)
	if err != nil {
		return 0, 0, outward(err)
	}
	if gap := x.size%w.block != 0 && uint64(off) >= roundUp(x.size, w.block); gap {
		if aligned { // others may be about to write there
			unlock()
			unlock = w.inodes.lock(id, true)
			if x, err = w.newOp(ctx, id, o); err != nil {
				return 0, 0, outward(err)
			}
		}
		if err := x.cleanTail(ctx); err != nil {
			return 0, x.seq, outward(err)
		}
	}
	x.newSize = uint64(off) + uint64(len(p))
	if aligned {
		n, err = x.write(ctx, p, uint64(off)/sectorSize)
	} else {
		n, err = x.writeEdges(ctx, p, uint64(off))
	}
	return n, x.seq, outward(err)
}

func roundUp(n, unit uint64) uint64   { return (n + unit - 1) / unit * unit }
func roundDown(n, unit uint64) uint64 { return n / unit * unit }

// writeEdges writes what does not consist of whole blocks: those that it begins and ends in are read and completed.
func (x *op) writeEdges(ctx context.Context, p []byte, off uint64) (n int, err error) {
	w := x.w
	for n < len(p) {
		at := off + uint64(n)
		start := roundDown(at, w.block)
		end := roundUp(min(at+uint64(len(p)-n), start+writeWindow), w.block)
		buf := w.buffers.get(int(end - start))
		piece := p[n:min(len(p), n+int(end-at))]
		err := x.complete(ctx, buf, start, at-start, at-start+uint64(len(piece)))
		if err == nil {
			copy(buf[at-start:], piece)
			_, err = x.write(ctx, buf, start/sectorSize)
		}
		w.buffers.put(buf)
		if err != nil {
			return n, err
		}
		n += len(piece)
	}
	return n, nil
}

// complete reads into buf, which holds whole blocks from start on, the parts of blocks before from and behind to.
func (x *op) complete(ctx context.Context, buf []byte, start, from, to uint64) error {
	block := x.w.block
	head, tail := from%block != 0, to%block != 0
	if head {
		if err := x.read(ctx, buf[:block], start); err != nil {
			return err
		}
	}
	if last := roundDown(to, block); tail && !(head && last == 0) {
		return x.read(ctx, buf[last:last+block], start+last)
	}
	return nil
}

// read fills p with what is in the file at off, zeros behind its end.
func (x *op) read(ctx context.Context, p []byte, off uint64) error {
	for len(p) > 0 {
		n, _, err := x.w.readWindow(ctx, x.id, p, int64(off), true)
		if err != nil {
			return err
		}
		p, off = p[n:], off+uint64(n)
	}
	return nil
}

// cleanTail makes the rest of the block that the file ends in zeros. It is no part of the file, but becomes one when that grows; writers make it
// zeros, but readers must not count on that (spec/05 § 8).
func (x *op) cleanTail(ctx context.Context) error {
	return x.zeroIn(ctx, x.size, roundUp(x.size, x.w.block))
}

// zeroIn makes the bytes from … to of a file zeros, all in one block, if they are not.
func (x *op) zeroIn(ctx context.Context, from, to uint64) error {
	w := x.w
	if from >= to {
		return nil
	}
	buf := w.buffers.get(int(w.block))
	defer w.buffers.put(buf)
	start := roundDown(from, w.block)
	raw, err := x.readRaw(ctx, buf, start)
	if err != nil || !raw {
		return err
	}
	part := buf[from-start : to-start]
	zero := true
	for _, b := range part {
		zero = zero && b == 0
	}
	if zero {
		return nil
	}
	clear(part)
	_, err = x.write(ctx, buf, start/sectorSize)
	return err
}

// readRaw fills p, whole blocks, with what the extents of the file hold, whatever its size; some is false if there are none.
func (x *op) readRaw(ctx context.Context, p []byte, off uint64) (some bool, err error) {
	w := x.w
	q := w.reader.requests.Get().(*request)
	defer func() {
		q.trees = nil
		w.reader.requests.Put(q)
	}()
	for try := 0; ; try++ {
		filled := 0
		some = false
		err := w.view(ctx, x.id, func(tx *trans.Tx, snapshot uint32, _ *ondisk.Inode) (err error) {
			_, some, err = tx.Lookup(ondisk.BtreeExtents, ondisk.Pos{Inode: x.id.Inum, Offset: off / sectorSize, Snapshot: snapshot}, 0)
			if err != nil || !some {
				return err
			}
			trees := &txTrees{tx: tx}
			q.trees = trees
			filled, err = w.reader.prepare(ctx, q, x.id.Inum, snapshot, p, int64(off))
			return errors.Join(trees.err, err)
		})
		if err != nil || !some {
			return false, err
		}
		_, err = w.reader.fetch(ctx, q, x.id.Inum, p[:filled], int64(off))
		if ctx.Err() == nil && w.reused(q) && try < maxRereads {
			continue
		}
		return true, err
	}
}

// write writes whole blocks from a sector on. It returns how many bytes are in the file.
func (x *op) write(ctx context.Context, p []byte, start uint64) (n int, err error) {
	for n < len(p) {
		piece := p[n:min(len(p), n+writeWindow)]
		at := start + uint64(n)/sectorSize
		done := 0
		inline, err := x.inline(ctx, piece, at)
		switch {
		case err != nil:
			return n, err
		case inline:
			done = len(piece)
		case x.w.nocow(&x.opts):
			if done, err = x.inPlace(ctx, piece, at); err != nil {
				return n, err
			}
		}
		if done < len(piece) {
			if err := x.window(ctx, piece[done:], at+uint64(done)/sectorSize); err != nil {
				return n + done, err
			}
		}
		n += len(piece)
	}
	return n, nil
}

// window writes whole blocks to new places.
func (x *op) window(ctx context.Context, p []byte, start uint64) error {
	promise, err := x.reserve(ctx, start, start+uint64(len(p))/sectorSize)
	if err != nil {
		return err
	}
	defer promise.Put()
	b := x.w.newBatch(&x.opts)
	defer b.recycle(ctx)
	b.cut(p, start)
	if err := b.compress(ctx); err != nil {
		return err
	}
	if err := b.allocate(ctx, x.point); err != nil {
		return err
	}
	if err := b.store(ctx); err != nil {
		return err
	}
	for i := range b.parts {
		k, err := b.key(&b.parts[i])
		if err != nil {
			return err
		}
		b.keys = append(b.keys, k)
	}
	per := max(1, maxKeysPerTx/x.opts.Replicas)
	for keys := b.keys; len(keys) > 0; {
		n := min(per, len(keys))
		end, err := x.commit(ctx, keys[:n], &promise)
		if err != nil {
			return err
		}
		for len(keys) > 0 && keys[0].Pos.Offset <= end {
			keys = keys[1:]
		}
		if len(keys) > 0 && keys[0].Start().Offset < end {
			keys[0] = ondisk.CutFront(&keys[0], uint32(end-keys[0].Start().Offset), x.w.cfg.ExtentTypes)
		}
	}
	return nil
}

// commit puts keys into the file, as much of them as one transaction can: up to end, in sectors.
func (x *op) commit(ctx context.Context, keys []ondisk.Key, promise *alloc.Reservation) (end uint64, err error) {
	err = x.w.update(ctx, x.id, updateOpts{promise: promise, touch: x.touch, keepTimes: x.keep, seq: &x.seq}, func(t *inodeTx) error {
		room := maxReplacedPerTx
		for _, k := range keys {
			start := k.Start().Offset
			next, err := t.fit(start, k.Pos.Offset, &room)
			if err != nil {
				return err
			}
			if next == start {
				break
			}
			cut := next < k.Pos.Offset
			if cut {
				if err := promise.Add(2*maxReplicas, 1, alloc.ReserveNoFail); err != nil {
					return err
				}
				k = ondisk.CutBack(&k, uint32(next-start))
			}
			if err := t.replace(k); err != nil {
				return err
			}
			if end = next; cut {
				break
			}
		}
		x.grow(t, end*sectorSize)
		t.modified()
		return nil
	})
	return end, err
}

// grow makes the file as large as what was written of it up to end asks for.
func (x *op) grow(t *inodeTx, end uint64) {
	if t.in.Flags&ondisk.InodeSizeDirty == 0 {
		t.in.Size = max(t.in.Size, min(x.newSize, end))
	}
}

// reserve promises space for a range that is written to. If there is none left, what the range has already will do.
func (x *op) reserve(ctx context.Context, start, end uint64) (alloc.Reservation, error) {
	if err := x.room(ctx, start, end); err != nil {
		return alloc.Reservation{}, err
	}
	promise, err := x.w.cfg.Space.Reserve(end-start, x.opts.Replicas, 0)
	if err == nil || !errors.Is(err, alloc.ErrNoSpace) {
		return promise, err
	}
	if !x.frees {
		if has, other := x.hasSpace(ctx, start, end); other != nil || !has {
			return promise, errors.Join(err, other)
		}
	}
	return x.w.cfg.Space.Reserve(end-start, x.opts.Replicas, alloc.ReserveNoFail)
}

// hasSpace reports whether overwriting a range frees or uses up as much space as it takes: all of it is the snapshot's own, of as many replicas and
// not compressed.
func (x *op) hasSpace(ctx context.Context, start, end uint64) (has bool, err error) {
	err = x.w.view(ctx, x.id, func(tx *trans.Tx, snapshot uint32, _ *ondisk.Inode) error {
		has = false
		it := tx.Iter(ondisk.BtreeExtents, ondisk.Pos{Inode: x.id.Inum, Offset: start, Snapshot: snapshot}, 0)
		for at := start; at < end; {
			k, ok, err := it.PeekMax(ondisk.Pos{Inode: x.id.Inum, Offset: end, Snapshot: snapshot})
			if err != nil || !ok || k.Start().Offset > at || k.Pos.Snapshot != snapshot {
				return err
			}
			replicas, err := x.w.replicasOf(&k)
			if err != nil || replicas < x.opts.Replicas {
				return err
			}
			at = k.Pos.Offset
			it.Advance()
		}
		has = true
		return nil
	})
	return has, err
}

// replicasOf returns how many times a key takes the space of its size.
func (w *Writer) replicasOf(k *ondisk.Key) (n int, err error) {
	switch k.Type {
	case ondisk.KeyReservation:
		r, err := ondisk.DecodeReservation(*k)
		return int(r.NrReplicas), err
	case ondisk.KeyExtent:
		var buf [8]ondisk.DecodedPtr
		ptrs, _, err := ondisk.AppendExtentPtrs(buf[:0], k, w.cfg.ExtentTypes)
		for i := range ptrs {
			if ptrs[i].CRC.Compression.IsCompressed() {
				return 0, err
			}
			if !ptrs[i].Cached {
				n++
			}
		}
		return n, err
	}
	return 0, nil
}
