package snapshot

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"syscall"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// Created is a subvolume that was made.
type Created struct {
	Subvol, Snapshot uint32
	Root             uint64 // inode number of its root directory
}

// Options say how a subvolume is made.
type Options struct {
	ReadOnly bool
	// May is asked about the root directory of the subvolume that a snapshot is to be taken of, e.g. for who owns it; nil: all may.
	May func(root *ondisk.Inode) error
}

// Link makes the directory entry of a new subvolume, of type [ondisk.DTSubvol], and whatever else making a name changes in the directory. It
// returns the directory's inode number and the entry's offset. It runs in the transaction that makes the subvolume, when that is there already: if
// the directory is in the subvolume that a snapshot was taken of, it has another snapshot than before, so it is to be looked up again.
type Link func(tx *trans.Tx, c Created) (dir, offset uint64, err error)

// Create makes an empty subvolume whose name is in subvolume parent, with a tree of snapshots of its own. The inode number of its root
// directory is new; of root all fields but those about its place are the caller's.
func (v *Volumes) Create(tx *trans.Tx, parent uint32, inum uint64, root ondisk.Inode, o Options, link Link) (Created, error) {
	c, err := v.create(tx, 0, parent, inum, o)
	if err != nil {
		return c, err
	}
	return c, v.putRoot(tx, c, parent, root, link)
}

// Snapshot makes a snapshot of subvolume source, whose name is in subvolume parent. What others have not written to the btrees yet is not in it.
func (v *Volumes) Snapshot(tx *trans.Tx, source, parent uint32, o Options, link Link) (Created, error) {
	s, err := live(tx, source)
	if err != nil {
		return Created{}, err
	}
	root, err := rootOf(tx, &s)
	if err != nil {
		return Created{}, err
	}
	if root.Subvol != source {
		return Created{}, fmt.Errorf("subvolume %d: its root directory is not its own, but that of subvolume %d: %w", source, root.Subvol, syscall.EINVAL)
	}
	if o.May != nil {
		if err := o.May(&root); err != nil {
			return Created{}, err
		}
	}
	c, err := v.create(tx, source, parent, s.Inode, o)
	if err != nil {
		return c, err
	}
	return c, v.putRoot(tx, c, parent, root, link)
}

// rootOf returns the root directory of a subvolume, locked for intent.
func rootOf(tx *trans.Tx, s *ondisk.Subvolume) (ondisk.Inode, error) {
	k, ok, err := tx.Lookup(ondisk.BtreeInodes, ondisk.Pos{Offset: s.Inode, Snapshot: s.Snapshot}, trans.Intent)
	if err != nil {
		return ondisk.Inode{}, err
	}
	if !ok {
		return ondisk.Inode{}, fmt.Errorf("inode %d, the root of a subvolume, is not in snapshot %d: %w", s.Inode, s.Snapshot, syscall.EIO)
	}
	return ondisk.DecodeInode(k)
}

// putRoot gives a new subvolume its name and its root directory.
func (v *Volumes) putRoot(tx *trans.Tx, c Created, parent uint32, root ondisk.Inode, link Link) (err error) {
	root.Subvol, root.ParentSubvol = c.Subvol, parent
	root.Flags &^= ondisk.InodeHasChildSnapshot
	if root.Dir, root.DirOffset, err = link(tx, c); err != nil {
		return err
	}
	return putInode(tx, c.Root, c.Snapshot, &root)
}

func putInode(tx *trans.Tx, inum uint64, snapshot uint32, in *ondisk.Inode) error {
	return tx.Update(ondisk.BtreeInodes, ondisk.Key{Type: ondisk.KeyInodeV3, Pos: ondisk.Pos{Offset: inum, Snapshot: snapshot}, Val: ondisk.EncodeInodeV3(in)}, 0)
}

// create makes a subvolume and its snapshot node: in a tree of its own if source is 0, else one of two below the node of source, which gets
// the other.
func (v *Volumes) create(tx *trans.Tx, source, parent uint32, root uint64, o Options) (Created, error) {
	lowest, err := lockShape(tx)
	if err != nil {
		return Created{}, err
	}
	last, err := lastID(tx, ondisk.BtreeSubvolumes)
	if err != nil {
		return Created{}, err
	}
	if last >= maxSubvol || lowest <= 2 {
		return Created{}, fmt.Errorf("a subvolume cannot be made: %w", ErrNoIDs)
	}
	c := Created{Subvol: uint32(last + 1), Root: root, Snapshot: uint32(lowest - 1)}
	if source == 0 {
		err = v.plant(tx, c)
	} else {
		err = v.branch(tx, c, source)
	}
	if err != nil {
		return c, err
	}
	s := ondisk.Subvolume{Snapshot: c.Snapshot, Inode: root, CreationParent: source, FSPathParent: parent, OTime: ondisk.U128{Lo: uint64(v.now())}}
	if source != 0 {
		s.Flags |= ondisk.SubvolumeSnap
	}
	if o.ReadOnly {
		s.Flags |= ondisk.SubvolumeRO
	}
	return c, put(tx, c.Subvol, nil, &s)
}

// lastID returns the greatest id in a btree of things with ids, 0 if there are none. Nobody gets the next one until the transaction ends.
func lastID(tx *trans.Tx, btree ondisk.BtreeID) (uint64, error) {
	it := tx.Iter(btree, ondisk.Pos{Offset: math.MaxUint64}, trans.Intent)
	k, ok, err := it.PeekPrev(ondisk.PosMin)
	if err != nil || !ok {
		return 0, err
	}
	return k.Pos.Offset, nil
}

// plant makes a tree of one node.
func (v *Volumes) plant(tx *trans.Tx, c Created) error {
	last, err := lastID(tx, ondisk.BtreeSnapshotTrees)
	if err != nil {
		return err
	}
	if last >= math.MaxUint32 {
		return fmt.Errorf("a snapshot tree cannot be made: %w", ErrNoIDs)
	}
	tree := ondisk.SnapshotTree{MasterSubvol: c.Subvol, RootSnapshot: c.Snapshot}
	if err := putTree(tx, uint32(last+1), &tree); err != nil {
		return err
	}
	return v.nodes(tx, nil, 0, uint32(last+1), map[uint32]uint32{c.Snapshot: c.Subvol})
}

func putTree(tx *trans.Tx, id uint32, t *ondisk.SnapshotTree) error {
	return tx.Update(ondisk.BtreeSnapshotTrees, ondisk.Key{Type: ondisk.KeySnapshotTree, Pos: idPos(id), Val: t.Encode()}, 0)
}

// branch makes two nodes below that of a subvolume, for the new one and for the source.
func (v *Volumes) branch(tx *trans.Tx, c Created, source uint32) error {
	s, err := live(tx, source)
	if err != nil {
		return err
	}
	e := v.edit(tx)
	n, err := e.get(s.Snapshot)
	if err != nil {
		return err
	}
	if n.Children != [2]uint32{} || n.Subvol != source || n.EffectiveState() != ondisk.SnapshotStateLive {
		return fmt.Errorf("subvolume %d: its snapshot %d is that of subvolume %d, has children %d or is deleted: %w", source, s.Snapshot, n.Subvol, n.Children,
			syscall.EIO)
	}
	parent, second := s.Snapshot, c.Snapshot-1
	n.Children, n.Subvol = [2]uint32{c.Snapshot, second}, 0
	n.Flags &^= ondisk.SnapshotSubvol
	e.set(parent, n)
	was := s
	s.Snapshot = second
	if err := put(tx, source, &was, &s); err != nil {
		return err
	}
	return v.nodes(tx, e, parent, n.Tree, map[uint32]uint32{c.Snapshot: c.Subvol, second: source})
}

// nodes makes nodes for subvolumes. They come into the table at once, as the triggers of this transaction ask for their ancestors; if it is given up
// they stay there until somebody else gets their ids, and nothing refers to them.
func (v *Volumes) nodes(tx *trans.Tx, e *edit, parent, tree uint32, subvols map[uint32]uint32) error {
	if e == nil {
		e = v.edit(tx)
	}
	added := map[uint32]*ondisk.Snapshot{}
	for _, id := range slices.Sorted(maps.Keys(subvols)) {
		subvol := subvols[id]
		n := &ondisk.Snapshot{Flags: ondisk.SnapshotSubvol, Parent: parent, Subvol: subvol, Tree: tree, BTime: ondisk.U128{Lo: uint64(v.now())}}
		if _, err := e.place(id, n); err != nil {
			return err
		}
		e.set(id, n)
		added[id] = n
	}
	v.cfg.Table.Update(added)
	return e.apply()
}
