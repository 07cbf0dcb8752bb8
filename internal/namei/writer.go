package namei

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"sync/atomic"
	"syscall"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// failure is an error with a number of the system.
type failure struct {
	text string
	no   syscall.Errno
}

func (e *failure) Error() string { return e.text }
func (e *failure) Unwrap() error { return e.no }

// Errors of operations that change things. All lead to a [syscall.Errno] with errors.As; those of missing and existing names also to what
// package fs calls them.
var (
	ErrExist       error = &failure{"the name exists", syscall.EEXIST}
	ErrNotEmpty    error = &failure{"directory not empty", syscall.ENOTEMPTY}
	ErrIsDir       error = &failure{"is a directory", syscall.EISDIR}
	ErrReadOnly    error = &failure{"the subvolume is read-only", syscall.EROFS}
	ErrCrossSubvol error = &failure{"would cross into another subvolume", syscall.EXDEV}
	ErrOptions     error = &failure{"options that are inherited would change", syscall.EXDEV}
	ErrSubvolRoot  error = &failure{"is the root of a subvolume", syscall.EXDEV}
	ErrLoop        error = &failure{"a directory would be in itself", syscall.EINVAL}
	ErrBadName     error = &failure{"not a name", syscall.EINVAL}
	ErrInvalid     error = &failure{"invalid argument", syscall.EINVAL}
	ErrProtected   error = &failure{"immutable or append-only", syscall.EPERM}
	ErrNotAllowed  error = &failure{"not possible with a file of this type", syscall.EPERM}
	ErrManyLinks   error = &failure{"too many links", syscall.EMLINK}
	ErrNoInums     error = &failure{"no inode numbers left", syscall.ENOSPC}
	ErrTableFull   error = &failure{"no place for the name", syscall.ENOSPC}
	ErrXattrSize   error = &failure{"name and value of the extended attribute are too long", syscall.ERANGE}
	ErrACLSize     error = &failure{"the ACL is too long", syscall.E2BIG}
	ErrACLOnFile   error = &failure{"only directories have a default ACL", syscall.EACCES}
	ErrNamespace   error = &failure{"no such namespace of extended attributes", syscall.EOPNOTSUPP}
	ErrInodeFlags  error = &failure{"no such flag of inodes", syscall.EOPNOTSUPP}
	// ErrInconsistent says that what is there contradicts itself; nothing was changed.
	ErrInconsistent error = &failure{"the filesystem has to be checked", syscall.EIO}
)

// Quota is asked to agree to each inode that a transaction creates (old is nil), deletes (new is nil) or gives another owner, group, project or number
// of sectors, and takes note through [trans.Tx.OnCommit]. What it is told adds up over the transaction. The id's subvolume is 0 where a version of an inode in a
// snapshot is meant, whoever sees it, and the snapshot is 0 too for the root of a subvolume that is being made.
type Quota func(tx *trans.Tx, id ID, old, new *ondisk.Inode) error

// WriterConfig is what a [Writer] needs to know of its filesystem.
type WriterConfig struct {
	Store *trans.Store
	// Now is the time in nanoseconds since 1970, TimeBase and TimePrecision are how the superblock has times.
	Now           func() int64
	TimeBase      uint64
	TimePrecision uint32
	// Rand is where the seeds of hashes come from.
	Rand func() uint64
	// HashType is that of new inodes, see [ondisk.Superblock.DirentHash].
	HashType uint8
	// Casefold is the filesystem's default for directories that do not say themselves.
	Casefold bool
	// ACL is the option of this name: new files inherit the default ACL of their directory.
	ACL bool
	// Inodes32bit keeps inode numbers below 2^31. Shards is among how many processors their range is divided; 0 and 1 are one.
	Inodes32bit bool
	Shards      int
	// ParseOption reads the value of an option as mount options have it.
	ParseOption func(name, text string) (uint64, error)
	// Quota is nil if nobody counts.
	Quota Quota
	// InUse reports whether somebody has an inode open as a snapshot sees it, or one below it; nil: nobody.
	InUse func(inum uint64, snapshot uint32) bool
}

// Writer changes inodes, names and attributes of one filesystem, as metadata version 1.13 has them.
//
// Its methods that take a [trans.Tx] are part of that transaction and may be run again with it; several can be composed. Ids name a subvolume and an
// inode; which snapshot the subvolume has is looked up in the transaction, whatever [ID.Snapshot] says. Permissions are the caller's concern, but not
// what the flags immutable and append-only forbid to everybody.
//
// Methods are safe for concurrent use with different transactions.
type Writer struct {
	cfg    WriterConfig
	inums  inumRange
	shards []atomic.Uint64 // number that was allocated last; 0: none yet
	left   []leftovers     // of deleted inodes, of each shard
}

// NewWriter returns a Writer.
func NewWriter(cfg WriterConfig) *Writer {
	w := &Writer{cfg: cfg, inums: newInumRange(cfg.Inodes32bit, cfg.Shards)}
	w.shards, w.left = make([]atomic.Uint64, w.inums.shards()), make([]leftovers, w.inums.shards())
	return w
}

// Attr is an inode and how it is in the transaction that returns it.
type Attr struct {
	ID    ID
	Inode ondisk.Inode
}

// held is an inode that a transaction has locked for intent: how it was found and how it is to be.
type held struct {
	Attr
	was   ondisk.Inode
	isNew bool
}

// DiskTime converts a time in nanoseconds since 1970 to the superblock's units.
func (w *Writer) DiskTime(ns int64) int64 {
	return (ns - int64(w.cfg.TimeBase)) / int64(max(w.cfg.TimePrecision, 1))
}

func (w *Writer) now() int64 { return w.DiskTime(w.cfg.Now()) }

// snapshotOf completes an id with the snapshot that its subvolume reads and writes now.
func (w *Writer) snapshotOf(tx *trans.Tx, id ID) (ID, ondisk.Subvolume, error) {
	k, ok, err := tx.Get(ondisk.BtreeSubvolumes, ondisk.Pos{Offset: uint64(id.Subvol)}, 0)
	if err != nil {
		return id, ondisk.Subvolume{}, err
	}
	if !ok || k.Type != ondisk.KeySubvolume {
		return id, ondisk.Subvolume{}, fmt.Errorf("subvolume %d: %w", id.Subvol, ErrNoSubvolume)
	}
	s, err := ondisk.DecodeSubvolume(k)
	if err == nil && s.EffectiveState() == ondisk.SubvolumeStateDeleted {
		err = fmt.Errorf("subvolume %d: %w", id.Subvol, ErrNoSubvolume)
	}
	id.Snapshot = s.Snapshot
	return id, s, err
}

// writable is snapshotOf for ids that are to be changed.
func (w *Writer) writable(tx *trans.Tx, id ID) (ID, error) {
	id, s, err := w.snapshotOf(tx, id)
	if err == nil && s.Flags&ondisk.SubvolumeRO != 0 {
		err = fmt.Errorf("subvolume %d: %w", id.Subvol, ErrReadOnly)
	}
	return id, err
}

func inodePos(id ID) ondisk.Pos { return ondisk.Pos{Offset: id.Inum, Snapshot: id.Snapshot} }

// lookup returns the inode of an id that has its snapshot.
func (w *Writer) lookup(tx *trans.Tx, id ID, flags trans.IterFlags) (ondisk.Inode, error) {
	k, ok, err := tx.Lookup(ondisk.BtreeInodes, inodePos(id), flags)
	if err != nil {
		return ondisk.Inode{}, err
	}
	if !ok || !isInode(k.Type) {
		return ondisk.Inode{}, fmt.Errorf("inode %d: %w", id.Inum, ErrNoInode)
	}
	return ondisk.DecodeInode(k)
}

func isInode(t ondisk.KeyType) bool {
	return t == ondisk.KeyInode || t == ondisk.KeyInodeV2 || t == ondisk.KeyInodeV3
}

// hold locks an inode of an id that has its snapshot, to change it.
func (w *Writer) hold(tx *trans.Tx, id ID) (*held, error) {
	in, err := w.lookup(tx, id, trans.Intent)
	if err != nil {
		return nil, err
	}
	return &held{Attr: Attr{id, in}, was: in}, nil
}

// change is hold for an id as callers have it.
func (w *Writer) change(tx *trans.Tx, id ID) (*held, error) {
	id, err := w.writable(tx, id)
	if err != nil {
		return nil, err
	}
	return w.hold(tx, id)
}

// changeDir is change for a directory in which names are to be made, or, with removes, taken away.
func (w *Writer) changeDir(tx *trans.Tx, id ID, removes bool) (*held, error) {
	h, err := w.change(tx, id)
	if err != nil {
		return nil, err
	}
	forbids := ondisk.InodeImmutable
	if removes {
		forbids |= ondisk.InodeAppend
	}
	switch {
	case !h.Inode.IsDir():
		err = ErrNotDir
	case h.Inode.Flags&ondisk.InodeUnlinked != 0:
		err = fmt.Errorf("directory %d is removed: %w", id.Inum, ErrNoInode)
	case h.Inode.Flags&forbids != 0:
		err = fmt.Errorf("directory %d: %w", id.Inum, ErrProtected)
	}
	return h, err
}

// save writes an inode as it is to be.
func (w *Writer) save(tx *trans.Tx, h *held) error {
	if w.cfg.Quota != nil {
		var err error
		switch {
		case h.isNew:
			err = w.cfg.Quota(tx, h.ID, nil, &h.Inode)
		case h.was.UID != h.Inode.UID || h.was.GID != h.Inode.GID || h.was.Project != h.Inode.Project || h.was.Sectors != h.Inode.Sectors:
			err = w.cfg.Quota(tx, h.ID, &h.was, &h.Inode)
		}
		if err != nil {
			return err
		}
		h.was, h.isNew = h.Inode, false
	}
	val := ondisk.AppendInode(tx.Bytes(inodeBytes)[:0], &h.Inode, ondisk.KeyInodeV3)
	return tx.Update(ondisk.BtreeInodes, ondisk.Key{Type: ondisk.KeyInodeV3, Pos: inodePos(h.ID), Val: val}, 0)
}

// inodeBytes is room for most inodes.
const inodeBytes = 160

// Inode returns an inode as the transaction sees it; with trans.Intent among the flags it is locked so that it can be changed, see [Writer.Put].
func (w *Writer) Inode(tx *trans.Tx, id ID, flags trans.IterFlags) (Attr, error) {
	id, _, err := w.snapshotOf(tx, id)
	if err != nil {
		return Attr{ID: id}, err
	}
	in, err := w.lookup(tx, id, flags)
	return Attr{id, in}, err
}

// Put writes an inode that [Writer.Inode] returned in this transaction, for changes of size, sectors and times. Owner, group and project
// are changed with [Writer.SetAttr] and [Writer.SetXattr].
func (w *Writer) Put(tx *trans.Tx, a *Attr) error {
	id, err := w.writable(tx, a.ID)
	if err != nil {
		return err
	}
	h := &held{Attr: Attr{id, a.Inode}}
	if w.cfg.Quota != nil {
		if h.was, err = w.lookup(tx, id, trans.Intent); err != nil {
			return err
		}
	}
	return w.save(tx, h)
}

// Lookup finds a name in a directory as the transaction sees it.
func (w *Writer) Lookup(tx *trans.Tx, dir ID, name []byte) (Attr, error) {
	dir, _, err := w.snapshotOf(tx, dir)
	if err != nil {
		return Attr{}, err
	}
	in, err := w.lookup(tx, dir, 0)
	if err != nil {
		return Attr{}, err
	}
	if !in.IsDir() {
		return Attr{}, ErrNotDir
	}
	d, err := w.findName(tx, dir, &in, name, 0)
	if err != nil {
		return Attr{}, err
	}
	id, err := w.target(tx, dir, &d.Dirent)
	if err != nil {
		return Attr{}, err
	}
	in, err = w.lookup(tx, id, 0)
	return Attr{id, in}, err
}

// newSeed returns what the hashes of an inode begin with.
func (w *Writer) newSeed() (seed [8]byte) {
	binary.LittleEndian.PutUint64(seed[:], w.cfg.Rand())
	return seed
}

// linkUp counts one link more.
func linkUp(in *ondisk.Inode) error {
	switch {
	case in.Flags&ondisk.InodeUnlinked != 0:
		in.Flags &^= ondisk.InodeUnlinked
	case in.NlinkRaw == 1<<32-1:
		return fmt.Errorf("inode %d: %w", in.Inum, ErrManyLinks)
	default:
		in.NlinkRaw++
	}
	return nil
}

// linkDown counts one link less; without any the inode is unlinked.
func linkDown(in *ondisk.Inode) error {
	switch {
	case in.Flags&ondisk.InodeUnlinked != 0:
		return fmt.Errorf("inode %d has a name but no link: %w", in.Inum, ErrInconsistent)
	case in.NlinkRaw > 0 && in.IsDir():
		return fmt.Errorf("directory %d is empty but has links of directories in it: %w", in.Inum, ErrInconsistent)
	case in.NlinkRaw > 0:
		in.NlinkRaw--
	default:
		in.Flags |= ondisk.InodeUnlinked
	}
	return nil
}

// countsAsSubdir reports whether a directory counts in the links of the one that it is in: roots of subvolumes do not.
func countsAsSubdir(in *ondisk.Inode) bool { return in.IsDir() && in.Subvol == 0 }

// subdirUp and subdirDown count directories in a directory.
func subdirUp(dir *ondisk.Inode) error {
	if dir.NlinkRaw == 1<<32-1 {
		return fmt.Errorf("directory %d: %w", dir.Inum, ErrManyLinks)
	}
	dir.NlinkRaw++
	return nil
}

func subdirDown(dir *ondisk.Inode) error {
	if dir.NlinkRaw == 0 {
		return fmt.Errorf("directory %d has more directories than links: %w", dir.Inum, ErrInconsistent)
	}
	dir.NlinkRaw--
	return nil
}

// reinherit gives an inode the options of a directory that were not set on itself, and reports whether any changed.
func reinherit(in, dir *ondisk.Inode) (changed bool) {
	for o := range ondisk.NumInodeOptions {
		if in.FieldsSet>>o&1 != 0 || o == ondisk.InodeOptCasefold && !in.IsDir() || in.Option(o) == dir.Option(o) {
			continue
		}
		in.SetOption(o, dir.Option(o))
		changed = true
	}
	return changed
}

// isMissing reports whether an error says that something is not there.
func isMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// update runs a transaction that is to succeed although there is little space, as it makes some.
func (w *Writer) update(ctx context.Context, fn func(tx *trans.Tx) error) error {
	return w.cfg.Store.UpdateAt(ctx, deleteWatermark, fn)
}
