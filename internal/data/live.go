package data

import (
	"context"
	"errors"
	"io"
	"iter"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// txTrees reads btrees within a transaction.
type txTrees struct {
	tx    *trans.Tx
	flags trans.IterFlags
	err   error // that made an iteration end
}

func (t *txTrees) KeysIn(_ context.Context, btree ondisk.BtreeID, from, to ondisk.Pos, snapshot uint32) iter.Seq2[ondisk.Key, error] {
	return func(yield func(ondisk.Key, error) bool) {
		from.Snapshot, to.Snapshot = snapshot, snapshot
		if to.Offset != ^uint64(0) {
			to.Offset++ // inclusive
		}
		it := t.tx.Iter(btree, from, t.flags)
		defer it.Close()
		for {
			k, ok, err := it.PeekMax(to)
			if err != nil {
				t.err = err
				yield(ondisk.Key{}, err)
				return
			}
			if !ok || !yield(k, nil) {
				return
			}
			it.Advance()
		}
	}
}

func (t *txTrees) Lookup(_ context.Context, btree ondisk.BtreeID, pos ondisk.Pos) (ondisk.Key, bool, error) {
	return t.tx.Lookup(btree, pos, 0)
}

// storeTrees reads single keys with transactions of their own; ranges are read within the caller's.
type storeTrees struct{ s *trans.Store }

func (t storeTrees) KeysIn(context.Context, ondisk.BtreeID, ondisk.Pos, ondisk.Pos, uint32) iter.Seq2[ondisk.Key, error] {
	panic("ranges are read within a transaction")
}

func (t storeTrees) Lookup(ctx context.Context, btree ondisk.BtreeID, pos ondisk.Pos) (k ondisk.Key, ok bool, err error) {
	err = t.s.View(ctx, func(tx *trans.Tx) (err error) {
		k, ok, err = tx.Lookup(btree, pos, 0)
		return err
	})
	return k, ok, err
}

// errReused says that what a read is about was given up while it went on, again and again.
var errReused = errors.New("the bucket of the data is used by other data")

// maxRereads bounds how often a read begins anew because buckets were reused meanwhile.
const maxRereads = 100

// ReadAt fills p with the bytes of a file from off on. At the end of the file it returns fewer, and io.EOF. What it returns was there at one
// moment of the read, window by window (4 MiB).
func (w *Writer) ReadAt(ctx context.Context, id ID, p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, errInvalid
	}
	for n < len(p) {
		got, end, err := w.readWindow(ctx, id, p[n:], off+int64(n), false)
		n += got
		if err != nil {
			return n, outward(err)
		}
		if end {
			return n, io.EOF
		}
	}
	return n, nil
}

// readWindow reads the start of p. Unless whole is set, the file's size ends it; else what is behind is zeros.
func (w *Writer) readWindow(ctx context.Context, id ID, p []byte, off int64, whole bool) (n int, end bool, err error) {
	q := w.reader.requests.Get().(*request)
	defer func() {
		q.trees = nil
		w.reader.requests.Put(q)
	}()
	for try := 0; ; try++ {
		filled, size := 0, uint64(0)
		err := w.view(ctx, id, func(tx *trans.Tx, snapshot uint32, in *ondisk.Inode) (err error) {
			size, filled = in.Size, 0
			want := min(uint64(len(p)), max(size, uint64(off))-uint64(off))
			if want == 0 {
				q.reset()
				return nil
			}
			trees := &txTrees{tx: tx}
			q.trees = trees
			filled, err = w.reader.prepare(ctx, q, id.Inum, snapshot, p[:want], off)
			return errors.Join(trees.err, err)
		})
		if err != nil {
			return 0, false, err
		}
		n, err = w.reader.fetch(ctx, q, id.Inum, p[:filled], off)
		if ctx.Err() == nil && w.reused(q) {
			if try < maxRereads {
				continue
			}
			clear(p[:filled])
			return 0, false, &ReadError{Sector: -1, Inum: id.Inum, Offset: off, Err: errReused}
		}
		switch {
		case err != nil:
			return n, false, err
		case uint64(off)+uint64(n) < size:
			return n, false, nil
		case whole:
			clear(p[n:])
			return len(p), false, nil
		}
		return n, n < len(p), nil
	}
}

// reused reports whether a bucket that a request read from may have got other data meanwhile.
func (w *Writer) reused(q *request) bool {
	for i := range q.units {
		u := &q.units[i]
		for j := range u.ext.numPtrs {
			p := &q.ptrs[u.ext.firstPtr+j]
			if p.Cached && (u.how == viaRetry || u.ptr != u.ext.firstPtr+j) {
				continue
			}
			if m := w.cfg.Members.Get(p.Dev); m != nil && m.Stale(&p.ExtentPtr) > 0 {
				return true
			}
		}
	}
	return false
}

// SeekData returns the offset of the first data at or behind off, see [Reader.SeekData].
func (w *Writer) SeekData(ctx context.Context, id ID, off int64) (int64, error) {
	return w.seek(ctx, id, off, false)
}

// SeekHole returns the offset of the first hole at or behind off, see [Reader.SeekHole].
func (w *Writer) SeekHole(ctx context.Context, id ID, off int64) (int64, error) {
	return w.seek(ctx, id, off, true)
}

func (w *Writer) seek(ctx context.Context, id ID, off int64, hole bool) (found int64, err error) {
	q := w.reader.requests.Get().(*request)
	defer func() {
		q.trees = nil
		w.reader.requests.Put(q)
	}()
	err = w.view(ctx, id, func(tx *trans.Tx, snapshot uint32, in *ondisk.Inode) (err error) {
		size := int64(min(in.Size, maxFileSize))
		if off < 0 || off >= size {
			return ErrNoData
		}
		trees := &txTrees{tx: tx, flags: trans.Scanning}
		q.trees = trees
		found, err = w.reader.seekWith(ctx, q, id.Inum, snapshot, size, off, hole)
		if trees.err != nil {
			return trees.err
		}
		return err
	})
	return found, err
}
