// Package vfs is a filesystem in use: what POSIX calls do, on inodes, put together from the transactions of packages namei, data and snapshot.
//
// # Ids
//
// Inodes are named by subvolume and number; the snapshot in an id is 0, since that of a subvolume changes when a snapshot of it is taken. What an
// operation does happens in the snapshot that the subvolume has in its transaction.
//
// # Holds
//
// Who has an inode open holds it. One without a name lives until the last hold is released; then a worker deletes it, as it does subvolumes of which nothing
// is held. Holds are counted within the transaction that finds or makes an inode, so that nobody deletes it in between. After a crash, and when the
// filesystem is closed, nobody holds anything.
//
// # Durability
//
// What an operation did is durable once [FS.SyncInode] of the inode concerned, or [FS.Sync], has returned; without these, the journal is flushed a second
// or so later. All is in order: what was done before something that is durable is durable, too.
//
// # Concurrency
//
// Methods are safe for concurrent use. There is no lock here but for moments: transactions order what concerns metadata, and package data has a lock
// for each inode.
package vfs

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/alloc"
	"github.com/go-bcachefs/bcachefs/internal/data"
	"github.com/go-bcachefs/bcachefs/internal/engine"
	"github.com/go-bcachefs/bcachefs/internal/namei"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/quota"
	"github.com/go-bcachefs/bcachefs/internal/snapshot"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// Config is what a filesystem is used with. The zero value is fine.
type Config struct {
	Now  func() time.Time // nil: the system's time
	Rand func() uint64    // nil: random
	// Target names a target, as options have them, by its stored code.
	Target func(code uint32) string
	// Data changes how data is written; for tests.
	Data func(*data.WriterConfig)
}

// FS is a filesystem in use.
type FS struct {
	rw    *engine.RW
	names *namei.Writer
	tree  *namei.Tree
	data  *data.Writer
	vols  *snapshot.Volumes
	open  *openTable
	reap  *reaper
	quota *quota.Quotas

	// snapshots has the current snapshot of each subvolume (uint32 to uint32), as far as it was met.
	snapshots sync.Map
	appending [64]sync.Mutex // writes at the end, by inode number
}

// New begins to use a filesystem: subvolumes whose deletion was begun are deleted first.
func New(ctx context.Context, rw *engine.RW, cfg Config) (*FS, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.Uint64
	}
	sb := rw.Super.Superblock()
	now := func() int64 { return cfg.Now().UnixNano() }
	f := &FS{rw: rw, open: newOpenTable()}
	f.vols = snapshot.New(snapshot.Config{Store: rw.Store, Table: rw.Snapshots, Now: now, TimeBase: sb.TimeBase,
		TimePrecision: sb.TimePrecision, Rand: cfg.Rand})
	f.quota = quota.New(quota.Config{Store: rw.Store, Snapshots: rw.Snapshots, Enabled: quota.TypesOf(sb), Superblock: rw.Super.Superblock,
		UpdateSuper: func(ctx context.Context, change func(sb *ondisk.Superblock) error) error {
			return rw.Super.Update(ctx, change, nil)
		}, Now: now})
	flag := func(name string) bool { o, ok := ondisk.FindOption(name); return ok && sb.Option(o) != 0 }
	shards := 1
	if flag("shard_inode_numbers") {
		shards = shardsOfInodes
	}
	f.names = namei.NewWriter(namei.WriterConfig{Store: rw.Store, Now: now, TimeBase: sb.TimeBase, TimePrecision: sb.TimePrecision, Rand: cfg.Rand,
		HashType: uint8(sb.DirentHash()), Casefold: flag("casefold"), ACL: flag("acl"), Inodes32bit: flag("inodes_32bit"), Shards: shards,
		ParseOption: parseOption(rw), Quota: f.quota.Names(), InUse: f.inUse})
	dc := rw.DataConfig()
	dc.Now, dc.Quota = now, f.quota.Data()
	if cfg.Data != nil {
		cfg.Data(&dc)
	}
	f.data = data.NewWriter(dc)
	f.tree = namei.New(namei.Config{Trees: f.Trees(), Subvolume: f.Subvolume, Casefold: flag("casefold"), HideACLs: !flag("acl"), Target: cfg.Target, ReadFile: f.readStart})
	if err := f.vols.Recover(ctx); err != nil {
		return nil, fmt.Errorf("subvolumes that were deleted: %w", err)
	}
	if err := f.quota.Load(ctx); err != nil {
		return nil, fmt.Errorf("quotas: %w", err)
	}
	f.reap = newReaper(f)
	return f, nil
}

// shardsOfInodes is among how many parts the inode numbers are divided: directories of one part give their files numbers that follow one another.
const shardsOfInodes = 4

// parseOption reads values of options that inodes have.
func parseOption(rw *engine.RW) func(name, text string) (uint64, error) {
	return func(name, text string) (uint64, error) {
		o, ok := ondisk.FindOption(name)
		if !ok {
			return 0, namei.ErrInvalid
		}
		v, err := rw.Super.Superblock().ParseOption(o, text)
		if err != nil {
			err = fmt.Errorf("%w: %w", err, syscall.EINVAL)
		}
		return v, err
	}
}

// Trees reads the btrees.
func (f *FS) Trees() Trees { return Trees{f.rw.Store} }

// Quotas are what users, groups and projects have, and may have.
func (f *FS) Quotas() *quota.Quotas { return f.quota }

// RW is the filesystem below.
func (f *FS) RW() *engine.RW { return f.rw }

// Close ends the use of the filesystem: what was held by nobody but us is deleted, and what is in memory is written. Nothing may be in progress.
func (f *FS) Close(ctx context.Context) error {
	f.reap.stop()
	if f.rw.Err() == nil {
		if err := f.deleteUnlinked(ctx); err != nil && f.rw.Err() == nil && ctx.Err() == nil {
			f.rw.Abandon()
			return err
		}
	}
	return f.rw.Close(ctx)
}

// Abandon ends the use at once, as a crash would.
func (f *FS) Abandon() {
	f.reap.stop()
	f.rw.Abandon()
}

// deleteUnlinked deletes what has no name, whoever holds it.
func (f *FS) deleteUnlinked(ctx context.Context) error {
	f.open = newOpenTable()
	for {
		if err := f.rw.Store.FlushWriteBuffer(ctx); err != nil {
			return err
		}
		all, err := f.names.Unlinked(ctx)
		if err != nil || len(all) == 0 {
			return err
		}
		for _, v := range all {
			if err := f.names.DeleteVersion(ctx, v.Inum, v.Snapshot); err != nil {
				return err
			}
		}
	}
}

// ErrReadOnly is the answer to operations that change things after nothing could be written any more.
var ErrReadOnly = fmt.Errorf("nothing can be written any more: %w", syscall.EROFS)

// update runs a transaction that changes metadata.
func (f *FS) update(ctx context.Context, fn func(tx *trans.Tx) error) error {
	return f.outward(f.rw.Store.Update(ctx, fn))
}

// outward gives errors the numbers of system calls.
func (f *FS) outward(err error) error {
	var n syscall.Errno
	switch {
	case err == nil || errors.As(err, &n):
	case errors.Is(err, alloc.ErrNoSpace):
		return fmt.Errorf("%w: %w", err, syscall.ENOSPC)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
	case f.rw.Err() != nil:
		return fmt.Errorf("%w: %w", err, ErrReadOnly)
	}
	return err
}

// moreSpace waits for the space that is about to become free: what is being deleted, and the nodes of btrees that hold less than they did. It
// reports whether there was anything to wait for.
func (f *FS) moreSpace(ctx context.Context) bool {
	deleted := f.reap.drain(ctx)
	shrunk, err := f.rw.Store.WaitShrunk(ctx)
	return err == nil && (deleted || shrunk)
}

// grow runs a transaction that makes the filesystem fuller, if there is space left. What is becoming free may have to be waited for.
func (f *FS) grow(ctx context.Context, fn func(tx *trans.Tx) error) error {
	err := f.growOnce(ctx, fn)
	if errors.Is(err, syscall.ENOSPC) && f.moreSpace(ctx) {
		err = f.growOnce(ctx, fn)
	}
	return err
}

// metadataSectors is what must be free before metadata is added: what is kept back for moving data is not to be taken by names.
const metadataSectors = 64

func (f *FS) growOnce(ctx context.Context, fn func(tx *trans.Tx) error) error {
	promise, err := f.rw.Space.Reserve(metadataSectors, 1, 0)
	if err != nil {
		return f.outward(err)
	}
	defer promise.Put()
	if err := f.rw.Alloc.Room(ctx, alloc.WatermarkNormal); err != nil {
		return f.outward(err)
	}
	return f.update(ctx, fn)
}

// view runs a transaction that reads.
func (f *FS) view(ctx context.Context, fn func(tx *trans.Tx) error) error {
	return f.outward(f.rw.Store.View(ctx, fn))
}

// dataID is the id of an inode for package data.
func dataID(id namei.ID) data.ID { return data.ID{Subvol: id.Subvol, Inum: id.Inum} }

// plain is the form of an inode's id that callers see.
func plain(a *namei.Attr) namei.Attr {
	a.ID.Snapshot = 0
	return *a
}

// inUse reports whether somebody holds an inode as a snapshot, or one below it, sees it.
func (f *FS) inUse(inum uint64, snapshot uint32) bool {
	return f.open.holders(inum, func(subvol uint32) bool {
		s, ok := f.snapshots.Load(subvol)
		return ok && f.rw.Snapshots.IsAncestor(snapshot, s.(uint32))
	})
}

// Hold holds an inode n times more. The caller knows that it is there, as he holds it already or it has a name.
func (f *FS) Hold(id namei.ID, n uint64) { f.open.hold(dataID(id), n) }

// Release gives up n holds of an inode.
func (f *FS) Release(id namei.ID, n uint64) {
	inode, subvol := f.open.release(dataID(id), n)
	if inode {
		f.reap.inode(dataID(id))
	}
	if subvol {
		f.reap.subvol(id.Subvol)
	}
}

// SyncInode returns when all that was done to an inode is durable: data, attributes, names in a directory.
func (f *FS) SyncInode(ctx context.Context, id namei.ID) error {
	var seq uint64
	err := f.view(ctx, func(tx *trans.Tx) error {
		a, err := f.names.Inode(tx, id, 0)
		seq = a.Inode.JournalSeq
		return err
	})
	if errors.Is(err, namei.ErrNoInode) {
		return nil // deleted: nobody will ask what it held
	}
	if err != nil {
		return err
	}
	return f.outward(f.rw.Journal.FlushSeq(ctx, seq))
}

// Sync returns when all that was done is durable.
func (f *FS) Sync(ctx context.Context) error { return f.outward(f.rw.Journal.Flush(ctx)) }

// SyncSeq returns when the changes of a journal entry are durable, as operations on data return it.
func (f *FS) SyncSeq(ctx context.Context, seq uint64) error {
	return f.outward(f.rw.Journal.FlushSeq(ctx, seq))
}

// Space returns how full the filesystem is.
func (f *FS) Space() alloc.Usage { return f.rw.Space.Usage() }
