package enginetest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/codec/strhash"
	"github.com/go-bcachefs/bcachefs/internal/engine"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// Errors of operations that others made impossible meanwhile; the filesystem is as before.
var (
	ErrGone     = errors.New("it is not there any more")
	ErrExists   = errors.New("the name exists")
	ErrNotEmpty = errors.New("the directory is not empty")
)

// Volume is a file layer over a filesystem that is open for writing, for its first subvolume. Each of its methods is one transaction, but where it
// says otherwise; they return its sequence number. They are safe for concurrent use.
type Volume struct {
	RW      *engine.RW
	History *History

	snapshot uint32
	next     *atomic.Uint64 // inode number
	contents *atomic.Uint64 // of blocks
	blockB   uint64         // bytes of a block
	blockS   uint64         // sectors of a block
	replicas int
}

// NewVolume returns the file layer of a filesystem whose history is known; h is nil if not: then nothing is recorded.
func NewVolume(ctx context.Context, rw *engine.RW, h *History) (*Volume, error) {
	v := &Volume{RW: rw, History: h, next: new(atomic.Uint64), contents: new(atomic.Uint64), blockB: uint64(rw.SB.BlockBytes()), blockS: uint64(rw.SB.BlockBytes() / ondisk.SectorSize)}
	o, _ := ondisk.FindOption("data_replicas")
	v.replicas = int(rw.SB.Option(o))
	err := rw.Store.View(ctx, func(tx *trans.Tx) error {
		k, ok, err := tx.Get(ondisk.BtreeSubvolumes, ondisk.Pos{Offset: ondisk.RootSubvol}, 0)
		if err != nil || !ok {
			return errors.Join(err, errors.New("no first subvolume"))
		}
		sub, err := ondisk.DecodeSubvolume(k)
		if err != nil {
			return err
		}
		v.snapshot = sub.Snapshot
		it := tx.Iter(ondisk.BtreeInodes, ondisk.Pos{Offset: math.MaxInt64, Snapshot: math.MaxUint32}, trans.AllSnapshots)
		k, ok, err = it.PeekPrev(ondisk.PosMin)
		if err != nil || !ok {
			return errors.Join(err, errors.New("no inodes"))
		}
		v.next.Store(k.Pos.Offset)
		return nil
	})
	if err == nil && h != nil { // inode numbers of what a crash undid are not used again either: a history is easier to read so
		h.mu.Lock()
		v.next.Store(max(v.next.Load(), h.inum))
		v.contents.Store(h.content)
		h.mu.Unlock()
	}
	return v, err
}

// update runs a transaction and records what it did.
func (v *Volume) update(ctx context.Context, c *change, fn func(tx *trans.Tx) error) (seq uint64, err error) {
	err = v.RW.Store.Update(ctx, func(tx *trans.Tx) error {
		if err := fn(tx); err != nil {
			return err
		}
		did := *c
		tx.OnCommit(func(s uint64) {
			seq = s
			if v.History != nil {
				v.History.committed(did, s)
			}
		})
		return nil
	})
	return seq, err
}

// Sync makes everything durable up to a sequence number, and notes that it is.
func (v *Volume) Sync(ctx context.Context, seq uint64) error {
	if err := v.RW.Journal.FlushSeq(ctx, seq); err != nil {
		return err
	}
	if v.History != nil {
		v.History.Acknowledge(seq)
	}
	return nil
}

func (v *Volume) pos(inum, offset uint64) ondisk.Pos {
	return ondisk.Pos{Inode: inum, Offset: offset, Snapshot: v.snapshot}
}

func (v *Volume) now() int64 {
	return (time.Now().UnixNano() - int64(v.RW.SB.TimeBase)) / int64(max(v.RW.SB.TimePrecision, 1))
}

// inode returns an inode that is linked somewhere, locked for intent.
func (v *Volume) inode(tx *trans.Tx, inum uint64) (ondisk.Inode, error) {
	in, err := v.anyInode(tx, inum, trans.Intent)
	if err == nil && in.Flags&ondisk.InodeUnlinked != 0 {
		return in, ErrGone
	}
	return in, err
}

func (v *Volume) anyInode(tx *trans.Tx, inum uint64, flags trans.IterFlags) (ondisk.Inode, error) {
	k, ok, err := tx.Lookup(ondisk.BtreeInodes, v.pos(0, inum), flags)
	switch {
	case err != nil:
		return ondisk.Inode{}, err
	case !ok:
		return ondisk.Inode{}, ErrGone
	}
	return ondisk.DecodeInode(k)
}

func (v *Volume) putInode(tx *trans.Tx, inum uint64, in *ondisk.Inode) error {
	in.Ctime = v.now()
	return tx.Update(ondisk.BtreeInodes, ondisk.Key{Type: ondisk.KeyInodeV3, Pos: v.pos(0, inum), Val: ondisk.EncodeInodeV3(in)}, 0)
}

// directory is inode for directories.
func (v *Volume) directory(tx *trans.Tx, inum uint64) (ondisk.Inode, error) {
	dir, err := v.inode(tx, inum)
	if err == nil && !dir.IsDir() {
		err = fmt.Errorf("inode %d is no directory", inum)
	}
	return dir, err
}

func direntStart(dir *ondisk.Inode, name string) uint64 {
	return strhash.Dirent(strhash.Type(dir.HashType), dir.HashSeed, []byte(name), dir.Flags&ondisk.Inode31bitDirentOffset != 0)
}

func xattrStart(in *ondisk.Inode, name string) uint64 {
	return strhash.Xattr(strhash.Type(in.HashType), in.HashSeed, uint8(ondisk.XattrUser), []byte(name))
}

// probe goes along the slots of a hash from start on. It returns the key for which is returns true, or the slot where one may be put.
func (v *Volume) probe(tx *trans.Tx, btree ondisk.BtreeID, inum, start uint64, is func(k *ondisk.Key) (bool, error)) (k ondisk.Key, found bool, free uint64, err error) {
	haveFree := false
	for off := start; ; off++ {
		k, ok, err := tx.Lookup(btree, v.pos(inum, off), trans.Intent)
		if err != nil {
			return k, false, 0, err
		}
		if !haveFree && (!ok || k.Type == ondisk.KeyHashWhiteout) {
			free, haveFree = off, true
		}
		if !ok {
			return k, false, free, nil
		}
		if k.Type == ondisk.KeyHashWhiteout {
			continue
		}
		if match, err := is(&k); match || err != nil {
			return k, match, off, err
		}
	}
}

// dirent looks for a name.
func (v *Volume) dirent(tx *trans.Tx, inum uint64, dir *ondisk.Inode, name string) (d ondisk.Dirent, found bool, off uint64, err error) {
	_, found, off, err = v.probe(tx, ondisk.BtreeDirents, inum, direntStart(dir, name), func(k *ondisk.Key) (bool, error) {
		d, err = ondisk.DecodeDirent(*k)
		return string(d.Name) == name, err
	})
	return d, found, off, err
}

// addDirent makes a name.
func (v *Volume) addDirent(tx *trans.Tx, inum uint64, dir *ondisk.Inode, name string, d ondisk.Dirent) (off uint64, err error) {
	_, found, off, err := v.dirent(tx, inum, dir, name)
	if err != nil {
		return 0, err
	}
	if found {
		return 0, ErrExists
	}
	d.Name = []byte(name)
	return off, tx.Update(ondisk.BtreeDirents, ondisk.Key{Type: ondisk.KeyDirent, Pos: v.pos(inum, off), Val: d.Encode()}, 0)
}

// unhash takes a key out of a hash table: if the chain of slots goes on behind it, it must not end here.
func (v *Volume) unhash(tx *trans.Tx, btree ondisk.BtreeID, inum, off uint64, start func(k *ondisk.Key) (uint64, error)) error {
	for o := off + 1; ; o++ {
		k, ok, err := tx.Lookup(btree, v.pos(inum, o), trans.Intent)
		if err != nil {
			return err
		}
		if !ok {
			return tx.Delete(btree, v.pos(inum, off), 0)
		}
		if k.Type == ondisk.KeyHashWhiteout {
			continue
		}
		s, err := start(&k)
		if err != nil {
			return err
		}
		if s <= off {
			return tx.Update(btree, ondisk.Key{Type: ondisk.KeyHashWhiteout, Pos: v.pos(inum, off)}, 0)
		}
	}
}

func (v *Volume) removeDirent(tx *trans.Tx, inum uint64, dir *ondisk.Inode, off uint64) error {
	return v.unhash(tx, ondisk.BtreeDirents, inum, off, func(k *ondisk.Key) (uint64, error) {
		d, err := ondisk.DecodeDirent(*k)
		return direntStart(dir, string(d.Name)), err
	})
}

// Create makes a file or directory in a directory.
func (v *Volume) Create(ctx context.Context, dir uint64, name string, isDir bool, seed uint64) (inum, seq uint64, err error) {
	inum = v.next.Add(1)
	mode, typ := uint16(ondisk.DTReg<<12|0o644), uint8(ondisk.DTReg)
	if isDir {
		mode, typ = ondisk.DTDir<<12|0o755, ondisk.DTDir
	}
	c := change{kind: kindCreate, isDir: isDir, inum: inum, dir: dir, name: name}
	seq, err = v.update(ctx, &c, func(tx *trans.Tx) error {
		parent, err := v.directory(tx, dir)
		if err != nil {
			return err
		}
		off, err := v.addDirent(tx, dir, &parent, name, ondisk.Dirent{Type: typ, Inum: inum})
		if err != nil {
			return err
		}
		now := v.now()
		in := ondisk.Inode{HashType: v.RW.SB.DirentHash(), Mode: mode, Dir: dir, DirOffset: off, Atime: now, Mtime: now, Otime: now}
		for i := range in.HashSeed {
			in.HashSeed[i] = byte(seed >> (8 * i))
		}
		if isDir {
			parent.NlinkRaw++
		}
		parent.Mtime = now
		return errors.Join(v.putInode(tx, dir, &parent), v.putInode(tx, inum, &in))
	})
	return inum, seq, err
}

// Link makes another name for a file.
func (v *Volume) Link(ctx context.Context, inum, dir uint64, name string) (seq uint64, err error) {
	c := change{kind: kindLink, inum: inum, dir: dir, name: name}
	return v.update(ctx, &c, func(tx *trans.Tx) error {
		parent, err := v.directory(tx, dir)
		if err != nil {
			return err
		}
		in, err := v.inode(tx, inum)
		if err != nil {
			return err
		}
		off, err := v.addDirent(tx, dir, &parent, name, ondisk.Dirent{Type: in.Type(), Inum: inum})
		if err != nil {
			return err
		}
		in.NlinkRaw++
		in.Dir, in.DirOffset = dir, off
		return errors.Join(v.putInode(tx, dir, &parent), v.putInode(tx, inum, &in))
	})
}

// Rename gives a file another name, in the same or another directory.
func (v *Volume) Rename(ctx context.Context, dir uint64, name string, toDir uint64, toName string) (seq uint64, err error) {
	c := change{kind: kindRename, dir: dir, name: name, toDir: toDir, toName: toName}
	return v.update(ctx, &c, func(tx *trans.Tx) error {
		from, err := v.directory(tx, dir)
		if err != nil {
			return err
		}
		d, found, off, err := v.dirent(tx, dir, &from, name)
		if err != nil {
			return err
		}
		if !found || d.Type == ondisk.DTDir {
			return ErrGone
		}
		c.inum = d.Inum
		in, err := v.inode(tx, d.Inum)
		if err != nil {
			return err
		}
		to := from
		if toDir != dir {
			if to, err = v.directory(tx, toDir); err != nil {
				return err
			}
		}
		// In this order, or the new name could land where a whiteout is needed.
		if err := v.removeDirent(tx, dir, &from, off); err != nil {
			return err
		}
		if in.DirOffset, err = v.addDirent(tx, toDir, &to, toName, ondisk.Dirent{Type: d.Type, Inum: d.Inum}); err != nil {
			return err
		}
		in.Dir = toDir
		return errors.Join(v.putInode(tx, dir, &from), v.putInode(tx, toDir, &to), v.putInode(tx, d.Inum, &in))
	})
}

// Unlink removes a name, and what it names if that was its last one. What the file holds goes away with further transactions, which no
// history needs to know of: nobody sees it any more.
func (v *Volume) Unlink(ctx context.Context, dir uint64, name string) (seq uint64, err error) {
	c, last, seq, err := v.unlink(ctx, dir, name)
	if err == nil && last {
		err = v.remove(ctx, c.inum)
	}
	return seq, err
}

// UnlinkOnly is the first transaction of Unlink: what the name named stays until somebody finishes the deletion.
func (v *Volume) UnlinkOnly(ctx context.Context, dir uint64, name string) (seq uint64, err error) {
	_, _, seq, err = v.unlink(ctx, dir, name)
	return seq, err
}

func (v *Volume) unlink(ctx context.Context, dir uint64, name string) (c change, last bool, seq uint64, err error) {
	c = change{kind: kindUnlink, dir: dir, name: name}
	seq, err = v.update(ctx, &c, func(tx *trans.Tx) error {
		parent, err := v.directory(tx, dir)
		if err != nil {
			return err
		}
		d, found, off, err := v.dirent(tx, dir, &parent, name)
		if err != nil {
			return err
		}
		if !found {
			return ErrGone
		}
		c.inum = d.Inum
		in, err := v.inode(tx, d.Inum)
		if err != nil {
			return err
		}
		if in.IsDir() {
			it := tx.Iter(ondisk.BtreeDirents, v.pos(d.Inum, 0), 0)
			for {
				k, ok, err := it.PeekMax(v.pos(d.Inum, math.MaxUint64))
				if err != nil {
					return err
				}
				if !ok {
					break
				}
				if k.Type == ondisk.KeyDirent {
					return ErrNotEmpty
				}
				it.Advance()
			}
			parent.NlinkRaw--
		}
		if last = in.IsDir() || in.NlinkRaw == 0; last {
			in.Flags |= ondisk.InodeUnlinked
		} else {
			in.NlinkRaw--
		}
		if last || in.Dir == dir && in.DirOffset == off {
			in.Dir, in.DirOffset = 0, 0
		}
		return errors.Join(v.removeDirent(tx, dir, &parent, off), v.putInode(tx, dir, &parent), v.putInode(tx, d.Inum, &in))
	})
	return c, last, seq, err
}

// remove deletes what an inode that has no name any more holds, and the inode.
func (v *Volume) remove(ctx context.Context, inum uint64) error {
	for {
		more := false
		err := v.RW.Store.Update(ctx, func(tx *trans.Tx) (err error) {
			in, err := v.anyInode(tx, inum, trans.Intent)
			if err != nil {
				return err
			}
			if more, err = v.deleteSome(tx, inum, &in); err != nil {
				return err
			}
			if more {
				return v.putInode(tx, inum, &in)
			}
			return tx.Delete(ondisk.BtreeInodes, v.pos(0, inum), 0)
		})
		if err != nil || !more {
			return err
		}
	}
}

// Empty removes everything but lost+found, with one transaction or several for each name.
func (v *Volume) Empty(ctx context.Context) error {
	for {
		dir, names := v.History.leaf()
		if len(names) == 0 {
			return nil
		}
		for _, name := range names {
			if _, err := v.Unlink(ctx, dir, name); err != nil {
				return fmt.Errorf("%q in inode %d: %w", name, dir, err)
			}
		}
	}
}

// maxPerTransaction bounds the keys that one transaction deletes.
const maxPerTransaction = 24

// deleteSome deletes some of what an inode holds; more says that there is more.
func (v *Volume) deleteSome(tx *trans.Tx, inum uint64, in *ondisk.Inode) (more bool, err error) {
	n := 0
	for _, id := range []ondisk.BtreeID{ondisk.BtreeExtents, ondisk.BtreeXattrs, ondisk.BtreeDirents} {
		it := tx.Iter(id, v.pos(inum, 0), trans.Intent)
		for {
			k, ok, err := it.PeekMax(v.pos(inum, math.MaxUint64))
			if err != nil {
				return false, err
			}
			if !ok {
				break
			}
			if n++; n > maxPerTransaction {
				return true, nil
			}
			it.Advance()
			if id == ondisk.BtreeExtents {
				if k.Type == ondisk.KeyExtent {
					in.Sectors -= uint64(k.Size)
				}
				err = tx.Update(id, ondisk.Key{Pos: k.Pos.WithSnapshot(v.snapshot), Size: k.Size}, 0)
			} else {
				err = tx.Delete(id, k.Pos.WithSnapshot(v.snapshot), 0)
			}
			if err != nil {
				return false, err
			}
		}
	}
	return false, nil
}
