package data

import (
	"context"
	"io/fs"
	"math"
	"syscall"

	"github.com/go-bcachefs/bcachefs/internal/alloc"
	"github.com/go-bcachefs/bcachefs/internal/journal"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// maxFileSize is where files end: what a signed offset can name, in whole blocks of any size.
const maxFileSize = math.MaxInt64 &^ (1<<16 - 1)

var (
	errInvalid = errno(syscall.EINVAL, "invalid range")
	errTooBig  = errno(syscall.EFBIG, "a file cannot be that large")
)

// subvolumeOf returns a subvolume, within a transaction.
func subvolumeOf(tx *trans.Tx, id uint32) (ondisk.Subvolume, error) {
	k, ok, err := tx.Get(ondisk.BtreeSubvolumes, ondisk.Pos{Offset: uint64(id)}, 0)
	if err != nil {
		return ondisk.Subvolume{}, err
	}
	if !ok {
		return ondisk.Subvolume{}, &errnoError{fs.ErrNotExist, syscall.ENOENT}
	}
	return ondisk.DecodeSubvolume(k)
}

// lookupInode returns an inode as a snapshot sees it. Mostly that is its own: then only the key's slot is locked, not the leaf with the inodes of
// others, who would wait for each other with [trans.Intent].
func lookupInode(tx *trans.Tx, inum uint64, snapshot uint32, flags trans.IterFlags) (ondisk.Inode, error) {
	pos := ondisk.Pos{Offset: inum, Snapshot: snapshot}
	f := trans.ReadFlags(0)
	if flags&trans.Intent != 0 {
		f = trans.ForUpdate
	}
	k, ok, err := tx.Get(ondisk.BtreeInodes, pos, f)
	if err == nil && !(ok && isInode(&k)) {
		k, ok, err = tx.Lookup(ondisk.BtreeInodes, pos, flags)
	}
	if err != nil {
		return ondisk.Inode{}, err
	}
	if !ok || !isInode(&k) {
		return ondisk.Inode{}, &errnoError{fs.ErrNotExist, syscall.ENOENT}
	}
	return ondisk.DecodeInode(k)
}

func isInode(k *ondisk.Key) bool {
	return k.Type == ondisk.KeyInode || k.Type == ondisk.KeyInodeV2 || k.Type == ondisk.KeyInodeV3
}

// view runs a transaction that reads a file.
func (w *Writer) view(ctx context.Context, id ID, fn func(tx *trans.Tx, snapshot uint32, in *ondisk.Inode) error) error {
	return w.cfg.Store.View(ctx, func(tx *trans.Tx) error {
		sub, err := subvolumeOf(tx, id.Subvol)
		if err != nil {
			return err
		}
		in, err := lookupInode(tx, id.Inum, sub.Snapshot, 0)
		if err != nil {
			return err
		}
		return fn(tx, sub.Snapshot, &in)
	})
}

// inodeTx is a transaction that changes a file's extents and its inode.
type inodeTx struct {
	*trans.Tx
	w        *Writer
	id       ID
	snapshot uint32
	in       ondisk.Inode // written when the transaction's function returns
	promise  *alloc.Reservation
	quiet    bool // the inode stays as it is
	keep     bool // its times do
}

// updateOpts say how a transaction on a file is made.
type updateOpts struct {
	promise *alloc.Reservation
	// frees: it makes space, so that it may go deeper into the reserves.
	frees bool
	touch func(in *ondisk.Inode)
	// keepTimes leaves times as they are.
	keepTimes bool
	seq       *uint64 // is set to the journal entry of the commit
}

// update runs a transaction that changes a file.
func (w *Writer) update(ctx context.Context, id ID, o updateOpts, fn func(t *inodeTx) error) error {
	mark := journal.WatermarkNormal
	if o.frees {
		mark = journal.WatermarkBtree
	}
	return w.cfg.Store.UpdateAt(ctx, mark, func(tx *trans.Tx) error {
		if o.promise != nil {
			tx.Attach(o.promise)
		}
		sub, err := subvolumeOf(tx, id.Subvol)
		if err != nil {
			return err
		}
		if sub.Flags&ondisk.SubvolumeRO != 0 {
			return errno(syscall.EROFS, "subvolume %d is read-only", id.Subvol)
		}
		t := inodeTx{Tx: tx, w: w, id: id, snapshot: sub.Snapshot, promise: o.promise, keep: o.keepTimes}
		if t.in, err = lookupInode(tx, id.Inum, sub.Snapshot, trans.Intent); err != nil {
			return err
		}
		if t.in.IsDir() {
			return errno(syscall.EISDIR, "%v is a directory", id)
		}
		had := t.in.Sectors
		if err := fn(&t); err != nil {
			return err
		}
		if t.quiet {
			return nil
		}
		if w.cfg.Quota != nil && t.in.Sectors != had {
			if err := w.cfg.Quota.Change(tx, id, sub.Snapshot, &t.in, int64(t.in.Sectors-had)); err != nil {
				return err
			}
		}
		if o.touch != nil {
			o.touch(&t.in)
		}
		if o.seq != nil {
			tx.OnCommit(func(seq uint64) { *o.seq = max(*o.seq, seq) })
		}
		return tx.Update(ondisk.BtreeInodes, ondisk.Key{Type: ondisk.KeyInodeV3,
			Pos: ondisk.Pos{Offset: id.Inum, Snapshot: sub.Snapshot}, Val: ondisk.EncodeInodeV3(&t.in)}, 0)
	})
}

// modified sets the times of an inode whose content changes.
func (t *inodeTx) modified() {
	if t.keep {
		return
	}
	t.in.Mtime = t.w.now()
	t.in.Ctime = t.in.Mtime
}

func (t *inodeTx) pos(offset uint64) ondisk.Pos {
	return ondisk.Pos{Inode: t.id.Inum, Offset: offset, Snapshot: t.snapshot}
}

// isAllocated reports whether a key of the extents btree counts as sectors of its inode (spec/05 § 1.9).
func isAllocated(k *ondisk.Key) bool {
	switch k.Type {
	case ondisk.KeyExtent, ondisk.KeyReservation, ondisk.KeyReflinkP, ondisk.KeyInlineData, ondisk.KeyError:
		return true
	}
	return false
}

// counted returns how many sectors of a range are allocated. If what a key with compressed data is to be cut, its parts may count for
// more than the whole, as each is rounded up; the promise grows by that.
func (t *inodeTx) counted(start, end uint64) (n uint64, err error) {
	it := t.Iter(ondisk.BtreeExtents, t.pos(start), trans.Intent)
	for {
		k, ok, err := it.PeekMax(t.pos(end))
		if err != nil || !ok {
			return n, err
		}
		if isAllocated(&k) {
			n += min(k.Pos.Offset, end) - max(k.Start().Offset, start)
		}
		if cut := k.Start().Offset < start || k.Pos.Offset > end; cut && k.Type == ondisk.KeyExtent && t.promise != nil {
			if err := t.promise.Add(2*maxReplicas, 1, alloc.ReserveNoFail); err != nil {
				return n, err
			}
		}
		it.Advance()
	}
}

// replace puts a key of the file, whose snapshot is set here, in place of what is there, and keeps the inode's sectors. It becomes one with its neighbours
// if the format allows.
func (t *inodeTx) replace(k ondisk.Key) error {
	k.Pos.Inode, k.Pos.Snapshot = t.id.Inum, t.snapshot
	had, err := t.counted(k.Start().Offset, k.Pos.Offset)
	if err != nil {
		return err
	}
	t.in.Sectors -= min(had, t.in.Sectors)
	if isAllocated(&k) {
		t.in.Sectors += uint64(k.Size)
	}
	if err := t.Update(ondisk.BtreeExtents, k, 0); err != nil {
		return err
	}
	if k.Type == ondisk.KeyDeleted {
		return nil
	}
	return t.merge(k)
}

// maxKeysPerTx bounds the keys that one transaction replaces or deletes.
const maxKeysPerTx = 32

// maxReplacedPerTx bounds the keys that are replaced by larger ones in one transaction: all of them are in one journal entry.
const maxReplacedPerTx = 4 * maxKeysPerTx

// fit returns where the part of a range ends in which a new key replaces at most room keys. room shrinks by their number.
func (t *inodeTx) fit(start, end uint64, room *int) (next uint64, err error) {
	if n := (end - start) / t.w.blockSectors; n <= uint64(*room) { // a key is a block at least
		*room -= int(n)
		return end, nil
	}
	it := t.Iter(ondisk.BtreeExtents, t.pos(start), trans.Intent)
	for {
		k, ok, err := it.PeekMax(t.pos(end))
		if err != nil || !ok {
			return end, err
		}
		if *room == 0 {
			return min(max(k.Start().Offset, start), end), nil
		}
		*room--
		it.Advance()
	}
}

// remove makes a hole, with at most maxKeysPerTx keys that go; next is where it ends.
func (t *inodeTx) remove(start, end uint64) (next uint64, err error) {
	it := t.Iter(ondisk.BtreeExtents, t.pos(start), trans.Intent)
	next = end
	for n := 0; ; n++ {
		k, ok, err := it.PeekMax(t.pos(end))
		if err != nil {
			return 0, err
		}
		if !ok {
			break
		}
		if n == maxKeysPerTx {
			next = max(k.Start().Offset, start)
			break
		}
		it.Advance()
	}
	had, err := t.counted(start, next)
	if err != nil {
		return 0, err
	}
	t.in.Sectors -= min(had, t.in.Sectors)
	return next, t.clear(start, next)
}

// clear deletes the keys of a range, without looking at the inode's sectors.
func (t *inodeTx) clear(start, end uint64) error {
	// From key to key, as one deletion cannot be larger than a key.
	it := t.Iter(ondisk.BtreeExtents, t.pos(start), trans.Intent)
	for {
		k, ok, err := it.PeekMax(t.pos(end))
		if err != nil || !ok {
			return err
		}
		from, to := max(k.Start().Offset, start), min(k.Pos.Offset, end)
		if err := t.Update(ondisk.BtreeExtents, ondisk.Key{Pos: t.pos(to), Size: uint32(to - from)}, 0); err != nil {
			return err
		}
		if to == end {
			return nil
		}
		it.Seek(t.pos(to))
	}
}
