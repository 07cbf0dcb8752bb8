package bcachefs

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"

	"github.com/go-bcachefs/bcachefs/internal/data"
	"github.com/go-bcachefs/bcachefs/internal/engine"
	"github.com/go-bcachefs/bcachefs/internal/namei"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/vfs"
)

// Key is a key of a btree and Pos a position, as they lie on disk.
type (
	Key = ondisk.Key
	Pos = ondisk.Pos
)

// FS is an open filesystem.
type FS struct {
	engine *engine.FS
	keys   keySource
	tree   nameSource
	data   contentSource
	live   *vfs.FS // nil if it was opened for reading
	clock  clock
	root   *View
	owner  owner // of what is created by path
}

// Open opens the filesystem on the given devices: block devices or image files. A device may itself be several, joined by
// colons. One member is enough if the others are found by scanning.
//
// Errors are one line and say what is wrong with which device.
func Open(ctx context.Context, devices []string, opts *OpenOptions) (*FS, error) {
	if opts == nil {
		opts = &OpenOptions{}
	}
	passphrase := opts.Passphrase
	if passphrase == nil {
		passphrase = func(context.Context) ([]byte, error) { return nil, ErrPassphraseNeeded }
	}
	e, err := engine.Open(ctx, devices, engine.Options{
		Passphrase: passphrase, Degraded: opts.Degraded, VeryDegraded: opts.VeryDegraded, NoRecovery: opts.NoRecovery,
		Salvage: opts.Salvage, NodeCacheBytes: opts.NodeCacheBytes, Logf: opts.Logf, OpenDevice: opts.OpenDevice,
		ScanDirs: opts.ScanDirs, NoScan: opts.NoScan, SBSector: ondisk.Sector(opts.SuperblockSector),
		NoSplitBrainCheck: opts.NoSplitBrainCheck, Write: opts.Write,
	})
	if err != nil {
		return nil, err
	}
	if opts.Write {
		return goReadWrite(ctx, e, opts) // closes e if it fails
	}
	f, err := wire(ctx, e, opts)
	if err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return f, nil
}

// wire puts names and data on top of the engine.
func wire(ctx context.Context, e *engine.FS, opts *OpenOptions) (*FS, error) {
	f := &FS{engine: e, keys: e.Reader, clock: newClock(e.SB)}
	reader := data.NewReader(data.Config{Trees: e.Reader, Devices: members{e}, Key: e.Key, ExtentTypes: e.SB.ExtentTypeU64s(),
		CacheBytes: opts.ExtentCacheBytes, Parallel: opts.ReadParallelism})
	f.tree = namei.New(namei.Config{Trees: e.Reader, Subvolume: f.subvolume, Casefold: isSet(e.SB, "casefold"), HideACLs: !isSet(e.SB, "acl"), Target: f.targetName,
		ReadFile: func(ctx context.Context, id InodeID, p []byte) (int, error) {
			return reader.ReadAt(ctx, id.Inum, id.Snapshot, p, 0)
		}})
	f.data = frozenContent{reader}
	root, err := f.tree.SubvolumeRoot(ctx, ondisk.RootSubvol)
	if err != nil && ctx.Err() != nil {
		return nil, err
	}
	f.root = &View{fs: f, root: root} // without a root subvolume, whatever is looked up in it fails
	return f, nil
}

// isSet reports whether an option of the filesystem is on.
func isSet(sb *ondisk.Superblock, name string) bool {
	o, ok := ondisk.FindOption(name)
	return ok && sb.Option(o) != 0
}

func (f *FS) subvolume(ctx context.Context, id uint32) (ondisk.Subvolume, error) {
	if f.live != nil {
		return f.live.Subvolume(ctx, id)
	}
	s, err := f.engine.Subvolume(ctx, id)
	if errors.Is(err, engine.ErrNoSubvolume) {
		err = fmt.Errorf("subvolume %d: %w", id, ErrNoSubvolume)
	}
	return s, err
}

// Close closes the devices. Views and files of f must not be used afterwards. A filesystem that is open for writing is written out first and
// marked as clean; an error says that it was not, and that whoever opens it next recovers it.
func (f *FS) Close() error {
	if f.live != nil {
		return f.live.Close(context.Background())
	}
	return f.engine.Close()
}

// Messages returns what a user should know of how the filesystem was found: damaged superblock copies, missing members, a
// replayed journal, nodes that could not be read so far.
func (f *FS) Messages() []string { return f.engine.Messages() }

// UUID returns the external UUID of the filesystem in its usual form.
func (f *FS) UUID() string { return f.engine.SB.UserUUID.String() }

// Label returns the name of the filesystem, often empty.
func (f *FS) Label() string {
	if f.live != nil {
		return f.live.RW().Super.Superblock().Label()
	}
	return f.engine.SB.Label()
}

// Version returns the metadata version as "1.13".
func (f *FS) Version() string { return f.engine.SB.Version.String() }

// Engine returns what f is built on, for the tools of this module.
func (f *FS) Engine() *engine.FS { return f.engine }

// Keys iterates over the keys of a btree, named as in "extents", from one position to another, both inclusive, in all
// snapshots. An error may be followed by more keys: it stands for a range that could not be read. Keys must not be changed; they
// keep the memory of their node alive, so those that are kept for long should be cloned.
func (f *FS) Keys(ctx context.Context, btree string, from, to Pos) iter.Seq2[Key, error] {
	id, err := ondisk.ParseBtreeID(btree)
	if err != nil {
		return func(yield func(Key, error) bool) { yield(Key{}, err) }
	}
	return f.keys.Keys(ctx, id, from, to)
}

// Root returns the filesystem as a plain mount shows it: subvolume 1.
func (f *FS) Root() *View { return f.root }

// Subvolume returns the subvolume with the given id ("12") or path ("home/snap", with or without a leading slash).
// An existing path wins over an id.
func (f *FS) Subvolume(nameOrID string) (*View, error) {
	ctx := context.Background()
	id, err := f.tree.Walk(ctx, f.root.root, strings.Trim(nameOrID, "/"), true)
	if err == nil {
		in, err := f.tree.Inode(ctx, id)
		switch {
		case err != nil:
			return nil, fmt.Errorf("%s: %w", nameOrID, err)
		case in.Subvol == 0:
			return nil, fmt.Errorf("%s: not the root of a subvolume: %w", nameOrID, ErrNoSubvolume)
		}
		return &View{fs: f, root: id}, nil
	}
	n, perr := strconv.ParseUint(nameOrID, 10, 32)
	if perr != nil {
		return nil, fmt.Errorf("%s: %w", nameOrID, err)
	}
	return f.SubvolumeByID(uint32(n))
}

// SubvolumeByID returns a subvolume by its id.
func (f *FS) SubvolumeByID(n uint32) (*View, error) {
	id, err := f.tree.SubvolumeRoot(context.Background(), n)
	if err != nil {
		return nil, err
	}
	return &View{fs: f, root: id}, nil
}

// SnapshotView returns the files as they are in a snapshot id, also of interior nodes of the tree of snapshots.
func (f *FS) SnapshotView(id uint32) (*View, error) {
	s, ok := f.engine.Snapshots.Get(id)
	if !ok {
		return nil, fmt.Errorf("snapshot %d: %w", id, ErrNoSnapshot)
	}
	if s.Subvol != 0 {
		if sub, err := f.subvolume(context.Background(), s.Subvol); err == nil && sub.Snapshot == id {
			return f.SubvolumeByID(s.Subvol)
		}
	}
	if f.live != nil {
		return nil, fmt.Errorf("snapshot %d is no subvolume's: such ones are shown of filesystems that are open for reading only: %w", id, ErrNoSnapshot)
	}
	inum, err := f.snapshotRoot(context.Background(), id)
	if err != nil {
		return nil, err
	}
	return &View{fs: f, root: InodeID{Snapshot: id, Inum: inum}}, nil
}

// snapshotRoot finds the root directory in a snapshot that is no subvolume's: all subvolumes of one tree of snapshots began as
// snapshots of one subvolume and have its root's inode number.
func (f *FS) snapshotRoot(ctx context.Context, id uint32) (uint64, error) {
	below, tree := uint64(0), uint64(0)
	want, _ := f.engine.Snapshots.Get(id)
	for other, s := range f.engine.Snapshots.All() {
		if s.Subvol == 0 || s.Tree != want.Tree {
			continue
		}
		v, err := f.subvolume(ctx, s.Subvol)
		switch {
		case ctx.Err() != nil:
			return 0, ctx.Err()
		case err != nil:
		case f.engine.Snapshots.IsAncestor(id, other):
			below = v.Inode
		default:
			tree = v.Inode
		}
	}
	for _, inum := range []uint64{below, tree} {
		if inum == 0 {
			continue
		}
		if _, err := f.tree.Inode(ctx, InodeID{Snapshot: id, Inum: inum}); err == nil {
			return inum, nil
		}
	}
	return 0, fmt.Errorf("snapshot %d: its root directory is not known: %w", id, ErrNoSnapshot)
}

// Subvolumes lists the subvolumes in the order of their ids.
func (f *FS) Subvolumes(ctx context.Context) ([]SubvolumeInfo, error) {
	var list []SubvolumeInfo
	for k, err := range f.keys.Keys(ctx, ondisk.BtreeSubvolumes, ondisk.PosMin, ondisk.SPosMax) {
		if err != nil {
			return list, err
		}
		if k.Type != ondisk.KeySubvolume {
			continue
		}
		s, err := ondisk.DecodeSubvolume(k)
		if err != nil {
			return list, err
		}
		state := s.EffectiveState()
		if state == ondisk.SubvolumeStateDeleted {
			continue
		}
		info := SubvolumeInfo{ID: uint32(k.Pos.Offset), Snapshot: s.Snapshot, RootInum: s.Inode, Parent: s.FSPathParent,
			CreationParent: s.CreationParent, ReadOnly: s.Flags&ondisk.SubvolumeRO != 0,
			IsSnapshot: s.Flags&ondisk.SubvolumeSnap != 0, Unlinked: state == ondisk.SubvolumeStateUnlinked,
			Created: f.clock.time(int64(s.OTime.Lo))}
		if info.Unlinked {
			info.Path = "?"
		} else if info.Path, err = f.tree.Path(ctx, InodeID{Subvol: info.ID, Snapshot: s.Snapshot, Inum: s.Inode}); err != nil {
			return list, err
		}
		list = append(list, info)
	}
	return list, nil
}

// Snapshots lists the nodes of all trees of snapshots in descending order of ids: parents before children.
func (f *FS) Snapshots(ctx context.Context) ([]SnapshotInfo, error) {
	var list []SnapshotInfo
	for id, s := range f.engine.Snapshots.All() {
		info := SnapshotInfo{ID: id, Parent: s.Parent, Subvol: s.Subvol, Tree: s.Tree, Depth: s.Depth,
			Created: f.clock.time(int64(s.BTime.Lo))}
		for _, c := range s.Children {
			if c != 0 {
				info.Children = append(info.Children, c)
			}
		}
		switch s.EffectiveState() {
		case ondisk.SnapshotStateWillDelete, ondisk.SnapshotStateDeleted:
			info.Deleted = true
		case ondisk.SnapshotStateNoKeys:
			info.NoKeys = true
		}
		list = append(list, info)
	}
	slices.Reverse(list)
	return list, ctx.Err()
}

type owner struct{ uid, gid uint32 }
