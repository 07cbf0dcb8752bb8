// Package namei finds inodes by number and by name, and changes them: directories, extended attributes, paths, and the crossing from one
// subvolume into another. [Tree] reads; [Writer] makes the parts of transactions that change things.
//
// An inode is seen in a snapshot, see [ID]. Within a subvolume everything is looked up in its snapshot; a directory entry that leads to
// another subvolume is visible only in the subvolume that it was made in, so that snapshots do not show what was mounted
// in their original, and what it leads to is looked up in the other subvolume's snapshot.
//
// Directories and attributes are hash tables in a btree: a name is at the offset that is its hash, or, when others were there first,
// at one of the offsets behind without a gap. Hash whiteouts keep such runs together.
//
// # Writing
//
// What an operation changes it first locks for intent, directories before what is in them; a [held] inode is written once at the end, so that two
// roles of one inode, as of the directory that a rename leaves and enters, cannot overwrite each other. A name, the links of its inode, the links of its
// directory and where the inode says that it is are always changed by the same transaction.
//
// An inode that loses its last name is marked as unlinked, which a trigger notes in the btree deleted_inodes. Once nobody has it open
// it is deleted in as many transactions as it takes; after a crash whoever opens the filesystem finishes that.
//
// All methods of [Tree] are safe for concurrent use. They keep no state: what is read often is in the node cache.
package namei

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"math"
	"syscall"

	"github.com/go-bcachefs/bcachefs/internal/codec/strhash"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// Errors that lookups return; those of missing names and inodes wrap fs.ErrNotExist.
var (
	ErrNoInode      = fmt.Errorf("no such inode: %w", fs.ErrNotExist)
	ErrNoName       = fmt.Errorf("no such name: %w", fs.ErrNotExist)
	ErrNoSubvolume  = fmt.Errorf("no such subvolume: %w", fs.ErrNotExist)
	ErrNoXattr      = errors.New("no such extended attribute")
	ErrNotDir       = error(&failure{"not a directory", syscall.ENOTDIR})
	ErrNotSymlink   = fmt.Errorf("not a symbolic link: %w", fs.ErrInvalid)
	ErrTooManyLinks = errors.New("too many levels of symbolic links")
	ErrNameTooLong  = error(&failure{"name too long", syscall.ENAMETOOLONG})
)

// ID names an inode as seen in a subvolume or snapshot.
type ID struct {
	Subvol   uint32 // subvolume; 0 in views of a snapshot that is no subvolume's
	Snapshot uint32 // snapshot in which keys are looked up
	Inum     uint64
}

// Trees is what is read of btrees, see [btree.Reader].
type Trees interface {
	KeysIn(ctx context.Context, btree ondisk.BtreeID, from, to ondisk.Pos, snapshot uint32) iter.Seq2[ondisk.Key, error]
	Lookup(ctx context.Context, btree ondisk.BtreeID, pos ondisk.Pos) (ondisk.Key, bool, error)
}

// Config is what a [Tree] needs to know of its filesystem.
type Config struct {
	Trees Trees
	// Subvolume returns a subvolume by its id.
	Subvolume func(ctx context.Context, id uint32) (ondisk.Subvolume, error)
	// Casefold is the filesystem's default for directories that do not say themselves.
	Casefold bool
	// HideACLs keeps ACLs from being shown, as the driver does where the option "acl" is off.
	HideACLs bool
	// Target names a target, as options have them, by its stored code.
	Target func(code uint32) string
	// ReadFile reads the start of an inode's data, for the targets of symbolic links.
	ReadFile func(ctx context.Context, id ID, p []byte) (int, error)
}

// Tree looks up names and inodes of one filesystem.
type Tree struct{ cfg Config }

// New returns a Tree.
func New(cfg Config) *Tree { return &Tree{cfg} }

// Inode returns the inode as it is in the snapshot of id.
func (t *Tree) Inode(ctx context.Context, id ID) (ondisk.Inode, error) {
	k, ok, err := t.cfg.Trees.Lookup(ctx, ondisk.BtreeInodes, ondisk.Pos{Offset: id.Inum, Snapshot: id.Snapshot})
	if err != nil {
		return ondisk.Inode{}, err
	}
	if !ok {
		return ondisk.Inode{}, ErrNoInode
	}
	switch k.Type {
	case ondisk.KeyInode, ondisk.KeyInodeV2, ondisk.KeyInodeV3:
		return ondisk.DecodeInode(k)
	}
	return ondisk.Inode{}, ErrNoInode // what is left of a deleted one
}

// directory returns an inode that must be a directory.
func (t *Tree) directory(ctx context.Context, id ID) (ondisk.Inode, error) {
	in, err := t.Inode(ctx, id)
	if err == nil && !in.IsDir() {
		err = ErrNotDir
	}
	return in, err
}

// Subvolume returns a subvolume that was not deleted; of others the error wraps [ErrNoSubvolume] or what the filesystem said.
func (t *Tree) Subvolume(ctx context.Context, id uint32) (ondisk.Subvolume, error) {
	s, err := t.cfg.Subvolume(ctx, id)
	if err == nil && s.EffectiveState() == ondisk.SubvolumeStateDeleted {
		err = fmt.Errorf("subvolume %d: %w", id, ErrNoSubvolume)
	}
	return s, err
}

// SubvolumeRoot returns the root directory of a subvolume.
func (t *Tree) SubvolumeRoot(ctx context.Context, id uint32) (ID, error) {
	s, err := t.Subvolume(ctx, id)
	if err != nil {
		return ID{Subvol: id}, err
	}
	return ID{Subvol: id, Snapshot: s.Snapshot, Inum: s.Inode}, nil
}

// Entry is a name in a directory.
type Entry struct {
	Name   string
	ID     ID    // of what it names; Inum 0 if it leads to a subvolume that does not exist
	Type   uint8 // DT_*; directories for subvolumes
	Offset uint64
	// Stray tells that the name cannot be looked up: it does not lie where its hash leads.
	Stray bool
}

// visible reports whether an entry is visible in a directory of the given id.
func visible(d *ondisk.Dirent, dir ID) bool {
	return d.Type != ondisk.DTSubvol || d.ParentSubvol == dir.Subvol
}

// target returns what an entry leads to.
func (t *Tree) target(ctx context.Context, d *ondisk.Dirent, dir ID) (ID, error) {
	if d.Type != ondisk.DTSubvol {
		return ID{Subvol: dir.Subvol, Snapshot: dir.Snapshot, Inum: d.Inum}, nil
	}
	return t.SubvolumeRoot(ctx, d.ChildSubvol)
}

// Lookup finds a name in a directory. The result may be an ID of an inode that does not exist, if the filesystem is damaged.
func (t *Tree) Lookup(ctx context.Context, dir ID, name []byte) (ID, error) {
	in, err := t.directory(ctx, dir)
	if err != nil {
		return ID{}, err
	}
	key, err := t.hashName(&in, name)
	if err != nil {
		return ID{}, err
	}
	d, err := t.find(ctx, dir, &in, key)
	if err != nil {
		return ID{}, err
	}
	return t.target(ctx, &d, dir)
}

// find looks for a name, folded if the directory wants that.
func (t *Tree) find(ctx context.Context, dir ID, in *ondisk.Inode, name []byte) (ondisk.Dirent, error) {
	for off := direntHash(in, name); off != math.MaxUint64; off++ {
		k, ok, err := t.cfg.Trees.Lookup(ctx, ondisk.BtreeDirents, ondisk.Pos{Inode: dir.Inum, Offset: off, Snapshot: dir.Snapshot})
		switch {
		case err != nil:
			return ondisk.Dirent{}, err
		case ok && k.Type == ondisk.KeyHashWhiteout:
			continue
		case !ok || k.Type != ondisk.KeyDirent:
			return ondisk.Dirent{}, ErrNoName
		}
		d, err := ondisk.DecodeDirent(k)
		switch {
		case err != nil:
			return d, err
		case !visible(&d, dir):
			return d, ErrNoName
		case string(d.LookupName()) == string(name):
			return d, nil
		}
	}
	return ondisk.Dirent{}, ErrNoName
}

// casefolded reports whether names in a directory are found in any case.
func (t *Tree) casefolded(in *ondisk.Inode) bool {
	if in.Casefold != 0 {
		return in.Casefold > 1
	}
	return t.cfg.Casefold
}

// Casefolded reports whether names in the directory are found in any case.
func (t *Tree) Casefolded(in *ondisk.Inode) bool { return in.IsDir() && t.casefolded(in) }

// hashName returns what of a name is hashed and compared.
func (t *Tree) hashName(in *ondisk.Inode, name []byte) ([]byte, error) {
	if len(name) > ondisk.MaxName {
		return nil, ErrNameTooLong
	}
	if !t.casefolded(in) {
		return name, nil
	}
	folded, err := foldName(name)
	if err != nil {
		return nil, ErrNoName // such names cannot be made in the directory
	}
	return folded, nil
}

func direntHash(in *ondisk.Inode, name []byte) uint64 {
	return strhash.Dirent(strhash.Type(in.HashType), in.HashSeed, name, in.Flags&ondisk.Inode31bitDirentOffset != 0)
}

// ReadDir goes over the names in a directory in the order of their offsets, from behind the given one; 0 begins at the start.
// After an error it goes on.
func (t *Tree) ReadDir(ctx context.Context, dir ID, after uint64) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		in, err := t.directory(ctx, dir)
		if err != nil {
			yield(Entry{}, err)
			return
		}
		if after == math.MaxUint64 {
			return
		}
		from := ondisk.Pos{Inode: dir.Inum, Offset: after + 1}
		to := ondisk.Pos{Inode: dir.Inum, Offset: math.MaxUint64}
		for k, err := range t.cfg.Trees.KeysIn(ctx, ondisk.BtreeDirents, from, to, dir.Snapshot) {
			if err != nil {
				if !yield(Entry{}, err) {
					return
				}
				continue
			}
			if k.Type != ondisk.KeyDirent {
				continue
			}
			e, show, err := t.entry(ctx, dir, &in, &k)
			if err == nil && !show {
				continue
			}
			if !yield(e, err) {
				return
			}
		}
	}
}

// entry decodes a key of a directory.
func (t *Tree) entry(ctx context.Context, dir ID, in *ondisk.Inode, k *ondisk.Key) (e Entry, show bool, err error) {
	d, err := ondisk.DecodeDirent(*k)
	if err != nil {
		return e, false, err
	}
	if !visible(&d, dir) {
		return e, false, nil
	}
	if err := checkName(&d, k); err != nil {
		return e, false, err
	}
	e = Entry{Name: string(d.Name), Type: d.Type, Offset: k.Pos.Offset}
	if d.Type == ondisk.DTSubvol {
		e.Type = ondisk.DTDir
	}
	if e.ID, err = t.target(ctx, &d, dir); err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			return e, false, err
		}
		e.ID = ID{Subvol: d.ChildSubvol}
	}
	if name := d.LookupName(); direntHash(in, name) != k.Pos.Offset {
		found, err := t.find(ctx, dir, in, name)
		e.Stray = err != nil || string(found.Name) != e.Name
	}
	return e, true, nil
}

// checkName refuses names that must not get out: those that would be taken for a path.
func checkName(d *ondisk.Dirent, k *ondisk.Key) error {
	err := d.Validate(k)
	var invalid *ondisk.InvalidKeyError
	if errors.As(err, &invalid) && invalid.ID == "dirent_to_itself" {
		return nil // the name is sound, whoever walks notices the loop
	}
	return err
}

// Parent returns the directory that a directory is in; the root of the first subvolume is in itself. Of a subvolume it is the one
// in the subvolume above.
func (t *Tree) Parent(ctx context.Context, dir ID) (ID, error) {
	in, err := t.Inode(ctx, dir)
	if err != nil {
		return ID{}, err
	}
	return t.parent(ctx, dir, &in)
}

func (t *Tree) parent(ctx context.Context, id ID, in *ondisk.Inode) (ID, error) {
	switch {
	case in.Dir == 0 && in.Subvol != 0:
		return id, nil
	case in.Dir == 0:
		return ID{}, fmt.Errorf("inode %d does not say which directory it is in: %w", id.Inum, fs.ErrNotExist)
	case in.Subvol != 0 && in.ParentSubvol != 0:
		s, err := t.Subvolume(ctx, in.ParentSubvol)
		if err != nil {
			return ID{}, err
		}
		return ID{Subvol: in.ParentSubvol, Snapshot: s.Snapshot, Inum: in.Dir}, nil
	}
	return ID{Subvol: id.Subvol, Snapshot: id.Snapshot, Inum: in.Dir}, nil
}
