// Package snapshot makes and deletes subvolumes and snapshots, and tells what differs between two of them.
//
// # Trees
//
// Every subvolume reads and writes one leaf of a tree of snapshot nodes: it sees the keys of that node and, where that has none, of the
// nodes above. Taking a snapshot gives the leaf two children. The new subvolume gets one, the subvolume it was taken of moves to the other; what
// there was stays where it is and is seen by both. Ids of nodes are given out downwards, so that children have smaller ones than
// their parents and of several keys at a position the nearest comes first (spec/05 § 12).
//
// # Deleting
//
// A subvolume is deleted in steps, each of which leaves a sound filesystem that [Volumes.Recover] goes on with after a crash:
//
//  1. [Volumes.Unlink] removes its name and marks it.
//  2. [Volumes.Delete], once nobody uses it any more, deletes it and marks its snapshot node as dead. The last one of a tree stays, with its
//     mark, until all else of the tree is gone, as the driver's check does not take trees without subvolumes.
//  3. [Volumes.DeleteDead] deletes the keys of dead nodes. Of inner nodes that have only one child left it moves those to the node below, as
//     far as there is none at the same position: nobody can tell the two apart any more. Then these nodes go themselves.
//
// # Locks
//
// Methods that take a [trans.Tx] are pieces of a transaction and may be run again. All that change the shape of trees lock the leaf with the
// lowest snapshot id for intent first, where the next id is taken from; so there is one at a time, and what they read of the table in memory is
// what the btree says.
package snapshot

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"math/rand/v2"
	"sync"
	"syscall"

	"github.com/go-bcachefs/bcachefs/internal/journal"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// Errors; all of them unwrap to the number that a system call would return.
var (
	ErrNoSubvolume = fmt.Errorf("no such subvolume: %w", syscall.ENOENT)
	// ErrHasSubvolumes is the answer to deleting a subvolume in which there are others.
	ErrHasSubvolumes = fmt.Errorf("there are subvolumes in it: %w", syscall.ENOTEMPTY)
	// ErrInUse is the answer to deleting a subvolume that still has a name.
	ErrInUse = fmt.Errorf("the subvolume was not unlinked: %w", syscall.EBUSY)
	// ErrNoIDs means that all ids were given out.
	ErrNoIDs = fmt.Errorf("no ids are left: %w", syscall.ENOSPC)
	// ErrUnrelated means that two snapshots are not of one tree.
	ErrUnrelated = fmt.Errorf("the snapshots have no common ancestor: %w", syscall.EINVAL)
)

// Table is the table of snapshot nodes in memory; *engine.Snapshots is one.
type Table interface {
	// Get returns a node.
	Get(id uint32) (ondisk.Snapshot, bool)
	// IsAncestor reports whether a is d or an ancestor of d.
	IsAncestor(a, d uint32) bool
	// All yields all nodes by ascending id.
	All() iter.Seq2[uint32, ondisk.Snapshot]
	// Update changes nodes, all at once; those that are nil are gone.
	Update(changes map[uint32]*ondisk.Snapshot)
}

// Config is what Volumes need of their filesystem.
type Config struct {
	Store *trans.Store
	Table Table
	// Now is the time in nanoseconds since 1970.
	Now func() int64
	// TimeBase and TimePrecision are the superblock's, in nanoseconds.
	TimeBase      uint64
	TimePrecision uint32
	// Rand is where random numbers come from, safe for concurrent use; nil: random.
	Rand func() uint64
}

// Volumes are the subvolumes and snapshots of one filesystem that is open for writing. Methods are safe for concurrent use.
type Volumes struct {
	cfg  Config
	dead sync.Mutex // one deletes what is dead at a time

	mu    sync.Mutex
	dying map[uint32]uint32 // subvolumes, by snapshot, that were deleted but stay until their keys are gone: the last of their trees

	each func() error // called before each transaction of deletions; for tests, nil otherwise
}

// New returns the subvolumes of a filesystem.
func New(cfg Config) *Volumes {
	if cfg.Rand == nil {
		cfg.Rand = rand.Uint64
	}
	cfg.TimePrecision = max(cfg.TimePrecision, 1)
	return &Volumes{cfg: cfg, dying: map[uint32]uint32{}}
}

// now is the time as inodes have it.
func (v *Volumes) now() int64 {
	return (v.cfg.Now() - int64(v.cfg.TimeBase)) / int64(v.cfg.TimePrecision)
}

// update runs a transaction that is to succeed although there is little space, as it makes some.
func (v *Volumes) update(ctx context.Context, fn func(tx *trans.Tx) error) error {
	if v.each != nil {
		if err := v.each(); err != nil {
			return err
		}
	}
	return v.cfg.Store.UpdateAt(ctx, journal.WatermarkBtree, fn)
}

func idPos(id uint32) ondisk.Pos { return ondisk.Pos{Offset: uint64(id)} }

// maxSubvol is the greatest id of a subvolume.
const maxSubvol = 1<<31 - 1

// Subvolume is a subvolume with its id.
type Subvolume struct {
	ID uint32
	ondisk.Subvolume
}

// Get returns a subvolume that is there, or going to be deleted; of others the error is [ErrNoSubvolume].
func Get(tx *trans.Tx, id uint32, flags trans.ReadFlags) (ondisk.Subvolume, error) {
	k, ok, err := tx.Get(ondisk.BtreeSubvolumes, idPos(id), flags)
	if err != nil {
		return ondisk.Subvolume{}, err
	}
	if ok {
		s, err := ondisk.DecodeSubvolume(k)
		if err != nil || s.EffectiveState() != ondisk.SubvolumeStateDeleted {
			return s, err
		}
	}
	return ondisk.Subvolume{}, fmt.Errorf("subvolume %d: %w", id, ErrNoSubvolume)
}

// live is Get for subvolumes that nobody is deleting, locked for intent.
func live(tx *trans.Tx, id uint32) (ondisk.Subvolume, error) {
	s, err := Get(tx, id, trans.ForUpdate)
	if err == nil && s.EffectiveState() != ondisk.SubvolumeStateLive {
		err = fmt.Errorf("subvolume %d: %w", id, ErrNoSubvolume)
	}
	return s, err
}

// put writes a subvolume, or deletes it if it is nil, and the entry among the children of the one that holds its name. was is what
// there is now, nil if nothing is.
func put(tx *trans.Tx, id uint32, was, s *ondisk.Subvolume) error {
	old, now := uint32(0), uint32(0)
	k := ondisk.Key{Pos: idPos(id)}
	if was != nil {
		old = was.FSPathParent
	}
	if s != nil {
		now = s.FSPathParent
		k.Type, k.Val = ondisk.KeySubvolume, s.Encode()
	}
	if old != now {
		for _, c := range []struct {
			parent uint32
			typ    ondisk.KeyType
		}{{old, ondisk.KeyDeleted}, {now, ondisk.KeySet}} {
			if c.parent == 0 {
				continue
			}
			child := ondisk.Key{Type: c.typ, Pos: ondisk.Pos{Inode: uint64(c.parent), Offset: uint64(id)}}
			if err := tx.Update(ondisk.BtreeSubvolumeChildren, child, 0); err != nil {
				return err
			}
		}
	}
	return tx.Update(ondisk.BtreeSubvolumes, k, 0)
}

// SetReadOnly makes a subvolume read-only or writable. What it says is enforced by whoever opens files.
func (v *Volumes) SetReadOnly(tx *trans.Tx, id uint32, ro bool) error {
	s, err := live(tx, id)
	if err != nil {
		return err
	}
	was := s
	if s.Flags &^= ondisk.SubvolumeRO; ro {
		s.Flags |= ondisk.SubvolumeRO
	}
	return put(tx, id, &was, &s)
}

// SetParent notes which subvolume holds the name of a subvolume, after it was moved to another.
func (v *Volumes) SetParent(tx *trans.Tx, id, parent uint32) error {
	s, err := live(tx, id)
	if err != nil {
		return err
	}
	if _, err := Get(tx, parent, 0); err != nil {
		return err
	}
	was := s
	s.FSPathParent = parent
	return put(tx, id, &was, &s)
}

// hasChildren reports whether the name of another subvolume is in a subvolume. It stays so until the transaction ends.
func hasChildren(tx *trans.Tx, id uint32) (bool, error) {
	it := tx.Iter(ondisk.BtreeSubvolumeChildren, ondisk.Pos{Inode: uint64(id)}, 0)
	_, ok, err := it.PeekMax(ondisk.Pos{Inode: uint64(id), Offset: math.MaxUint64})
	return ok, err
}

// List returns all subvolumes by ascending ids, those that are going to be deleted among them.
func (v *Volumes) List(ctx context.Context) (all []Subvolume, err error) {
	err = v.cfg.Store.View(ctx, func(tx *trans.Tx) error {
		all = all[:0]
		return eachSubvolume(tx, func(s Subvolume) error { all = append(all, s); return nil })
	})
	return all, err
}

// eachSubvolume calls fn for all subvolumes as they are committed. Nothing of them stays locked.
func eachSubvolume(tx *trans.Tx, fn func(s Subvolume) error) error {
	return tx.Scan(ondisk.BtreeSubvolumes, ondisk.PosMin, ondisk.SPosMax, 0, func(k ondisk.Key, _ ondisk.Pos) (bool, error) {
		s, err := ondisk.DecodeSubvolume(k)
		if err != nil || s.EffectiveState() == ondisk.SubvolumeStateDeleted {
			return true, err
		}
		s.Tail = append([]byte(nil), s.Tail...)
		return true, fn(Subvolume{uint32(k.Pos.Offset), s})
	})
}

// lockShape locks what everybody locks who changes the shape of trees, and returns the lowest id that is in use; 1<<32 if none is.
func lockShape(tx *trans.Tx) (lowest uint64, err error) {
	k, ok, err := tx.Iter(ondisk.BtreeSnapshots, ondisk.PosMin, trans.Intent).Peek()
	switch {
	case err != nil:
		return 0, err
	case !ok:
		return 1 << 32, nil
	}
	return k.Pos.Offset, nil
}

// edit are changes of nodes in one transaction, which has called lockShape.
type edit struct {
	v     *Volumes
	tx    *trans.Tx
	nodes map[uint32]*ondisk.Snapshot // as they are now in the transaction; nil: deleted
	dirty map[uint32]bool
}

func (v *Volumes) edit(tx *trans.Tx) *edit {
	return &edit{v: v, tx: tx, nodes: map[uint32]*ondisk.Snapshot{}, dirty: map[uint32]bool{}}
}

// errNoNode means that there is no node of an id that something refers to.
var errNoNode = errors.New("no such snapshot")

// get returns a node, locked for intent.
func (e *edit) get(id uint32) (*ondisk.Snapshot, error) {
	if n, ok := e.nodes[id]; ok && n != nil {
		return n, nil
	}
	k, ok, err := e.tx.Get(ondisk.BtreeSnapshots, idPos(id), trans.ForUpdate)
	if err != nil {
		return nil, err
	}
	if _, deleted := e.nodes[id]; !ok || deleted {
		return nil, fmt.Errorf("snapshot %d: %w", id, errNoNode)
	}
	n, err := ondisk.DecodeSnapshot(k)
	if err != nil {
		return nil, err
	}
	e.nodes[id] = &n
	return &n, nil
}

// set says that a node was changed, or is new.
func (e *edit) set(id uint32, n *ondisk.Snapshot) { e.nodes[id], e.dirty[id] = n, true }

// apply makes the changes part of the transaction, and of the table once that is committed.
func (e *edit) apply() error {
	changed := map[uint32]*ondisk.Snapshot{}
	for id := range e.dirty {
		n := e.nodes[id]
		k := ondisk.Key{Pos: idPos(id)}
		if n != nil {
			k.Type, k.Val = ondisk.KeySnapshot, n.Encode()
		}
		if err := e.tx.Update(ondisk.BtreeSnapshots, k, 0); err != nil {
			return err
		}
		changed[id] = n
	}
	e.tx.OnCommit(func(uint64) { e.v.cfg.Table.Update(changed) })
	return nil
}

// parent returns the parent of a node, 0 if it has none.
func (e *edit) parent(id uint32) uint32 {
	if n := e.nodes[id]; n != nil {
		return n.Parent
	}
	n, _ := e.v.cfg.Table.Get(id)
	return n.Parent
}

// place gives a node, whose parent is set, the depth and the skip list that belong there. Entries of the list that are ancestors stay.
func (e *edit) place(id uint32, n *ondisk.Snapshot) (changed bool, err error) {
	want := *n
	if n.Parent == 0 {
		want.Depth, want.Skip = 0, [3]uint32{}
	} else {
		p, err := e.get(n.Parent)
		if err != nil {
			return false, err
		}
		want.Depth = p.Depth + 1
		for i, s := range want.Skip {
			if !e.isAncestor(s, n.Parent) {
				want.Skip[i] = e.someAncestor(n.Parent, p.Depth)
			}
		}
		sort3(&want.Skip)
	}
	if want.Depth == n.Depth && want.Skip == n.Skip {
		return false, nil
	}
	n.Depth, n.Skip = want.Depth, want.Skip
	e.set(id, n)
	return true, nil
}

// isAncestor reports whether a node is there and is another or above it.
func (e *edit) isAncestor(a, id uint32) bool {
	if n, edited := e.nodes[a]; edited && n == nil {
		return false
	}
	return a != 0 && e.v.cfg.Table.IsAncestor(a, id)
}

// someAncestor returns a node of a given depth or one above it, as skip lists have them: all but the root are equally likely.
func (e *edit) someAncestor(id, depth uint32) uint32 {
	if depth == 0 {
		return id
	}
	for r := e.v.cfg.Rand() % uint64(depth); r > 0; r-- {
		if p := e.parent(id); p != 0 {
			id = p
		}
	}
	return id
}

// sort3 sorts ascending.
func sort3(s *[3]uint32) {
	if s[0] > s[1] {
		s[0], s[1] = s[1], s[0]
	}
	if s[1] > s[2] {
		s[1], s[2] = s[2], s[1]
	}
	if s[0] > s[1] {
		s[0], s[1] = s[1], s[0]
	}
}
