package engine

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// Snapshots is the table of all snapshot nodes, made for tests of ancestry.
//
// Its methods are safe for concurrent use. Those that read take no locks: each looks at the table as some [Snapshots.Update] left it.
type Snapshots struct {
	table  atomic.Pointer[snapshotTable]
	update sync.Mutex // one makes a new table at a time
}

// snapshotTable is one state of the table; it does not change any more once it was built.
//
// Each node has an interval [in, out] of a depth-first numbering; a node is below another exactly if its interval lies within
// the other's.
type snapshotTable struct {
	ids   []uint32 // descending: parents before their children
	nodes []snapshotNode
	dense bool // node i has id MaxUint32-i: the usual case, as ids are given out downwards
}

type snapshotNode struct {
	ondisk.Snapshot
	in, out uint32
	orphan  bool // not all of its ancestors are known
}

// maxSnapshots bounds the table: more nodes than fit into this need a hostile image or an outlandish filesystem.
const maxSnapshots = 1 << 24

// newSnapshots builds the table. Parents that cannot be (smaller ids, unknown ones) are reported and make roots: what follows
// is free of cycles.
func newSnapshots(found map[uint32]ondisk.Snapshot) (*Snapshots, []string) {
	t := &snapshotTable{ids: make([]uint32, 0, len(found)), nodes: make([]snapshotNode, 0, len(found))}
	for id := range found {
		t.ids = append(t.ids, id)
	}
	slices.SortFunc(t.ids, func(a, b uint32) int { return cmp.Compare(b, a) })
	for _, id := range t.ids {
		t.add(found[id])
	}
	problems := t.link()
	s := new(Snapshots)
	s.table.Store(t)
	return s, problems
}

// Update changes nodes of the table, all at once: those that are nil are gone. It takes time in proportion to the size of the table, and does
// not wait for anybody but others who do the same.
func (s *Snapshots) Update(changes map[uint32]*ondisk.Snapshot) {
	s.update.Lock()
	defer s.update.Unlock()
	old := s.table.Load()
	t := &snapshotTable{ids: make([]uint32, 0, len(old.ids)+len(changes)), nodes: make([]snapshotNode, 0, len(old.ids)+len(changes))}
	changed := slices.SortedFunc(maps.Keys(changes), func(a, b uint32) int { return cmp.Compare(b, a) })
	for i := 0; i < len(old.ids) || len(changed) > 0; {
		switch {
		case len(changed) == 0 || i < len(old.ids) && old.ids[i] > changed[0]:
			t.ids = append(t.ids, old.ids[i])
			t.nodes = append(t.nodes, snapshotNode{Snapshot: old.nodes[i].Snapshot})
			i++
		default:
			if i < len(old.ids) && old.ids[i] == changed[0] {
				i++
			}
			if n := changes[changed[0]]; n != nil {
				t.ids = append(t.ids, changed[0])
				t.add(*n)
			}
			changed = changed[1:]
		}
	}
	t.link()
	s.table.Store(t)
}

// add appends a node.
func (s *snapshotTable) add(n ondisk.Snapshot) {
	n.Tail = nil // would keep its btree node in memory
	s.nodes = append(s.nodes, snapshotNode{Snapshot: n})
}

// link finds what each node needs to know of the others; it reports parents that cannot be.
func (s *snapshotTable) link() (problems []string) {
	children := make([][]int32, len(s.ids))
	var roots []int32
	s.dense = true
	for i, id := range s.ids {
		s.dense = s.dense && id == math.MaxUint32-uint32(i)
	}
	for i, id := range s.ids { // parents come first
		parent := s.nodes[i].Parent
		pi := -1
		switch {
		case parent == 0:
		case parent <= id:
			problems = append(problems, fmt.Sprintf("snapshot %d: parent %d is not greater: taken for a root", id, parent))
		default:
			if pi = s.index(parent); pi < 0 {
				problems = append(problems, fmt.Sprintf("snapshot %d: parent %d does not exist: taken for a root", id, parent))
			}
		}
		if pi < 0 {
			s.nodes[i].orphan = parent != 0
			roots = append(roots, int32(i))
		} else {
			s.nodes[i].orphan = s.nodes[pi].orphan
			children[pi] = append(children[pi], int32(i))
		}
	}
	s.number(roots, children)
	return problems
}

// number gives out the intervals, without recursion: trees may be as deep as they have nodes.
func (s *snapshotTable) number(roots []int32, children [][]int32) {
	type frame struct{ node, child int32 }
	var clock uint32
	var stack []frame
	for _, root := range roots {
		stack = append(stack, frame{node: root})
		s.nodes[root].in = clock
		clock++
		for len(stack) > 0 {
			top := &stack[len(stack)-1]
			if int(top.child) < len(children[top.node]) {
				next := children[top.node][top.child]
				top.child++
				s.nodes[next].in = clock
				clock++
				stack = append(stack, frame{node: next})
				continue
			}
			s.nodes[top.node].out = clock
			stack = stack[:len(stack)-1]
		}
	}
}

// index returns where id is, or -1.
func (s *snapshotTable) index(id uint32) int {
	if s.dense {
		if i := int(math.MaxUint32 - id); i < len(s.ids) {
			return i
		}
		return -1
	}
	lo, hi := 0, len(s.ids)
	for lo < hi {
		m := int(uint(lo+hi) >> 1)
		if s.ids[m] > id {
			lo = m + 1
		} else {
			hi = m
		}
	}
	if lo < len(s.ids) && s.ids[lo] == id {
		return lo
	}
	return -1
}

// IsAncestor reports whether a is d or an ancestor of d. Unknown snapshots have no relatives.
func (s *Snapshots) IsAncestor(a, d uint32) bool {
	if a == d {
		return true
	}
	if a < d {
		return false
	}
	t := s.table.Load()
	ai, di := t.index(a), t.index(d)
	if ai < 0 || di < 0 {
		return false
	}
	return t.nodes[ai].in <= t.nodes[di].in && t.nodes[di].out <= t.nodes[ai].out
}

// HasChildren reports whether there are nodes below a snapshot.
func (s *Snapshots) HasChildren(id uint32) bool {
	t := s.table.Load()
	i := t.index(id)
	return i >= 0 && t.nodes[i].out-t.nodes[i].in > 1
}

// Orphan reports whether not all ancestors of a snapshot are known, because it or one of them is not in the table.
func (s *Snapshots) Orphan(id uint32) bool {
	t := s.table.Load()
	i := t.index(id)
	return i < 0 || t.nodes[i].orphan
}

// Get returns a snapshot node.
func (s *Snapshots) Get(id uint32) (ondisk.Snapshot, bool) {
	t := s.table.Load()
	i := t.index(id)
	if i < 0 {
		return ondisk.Snapshot{}, false
	}
	return t.nodes[i].Snapshot, true
}

// Len is the number of snapshot nodes.
func (s *Snapshots) Len() int { return len(s.table.Load().ids) }

// All yields all nodes by ascending id, as they are when it begins.
func (s *Snapshots) All() iter.Seq2[uint32, ondisk.Snapshot] {
	return func(yield func(uint32, ondisk.Snapshot) bool) {
		t := s.table.Load()
		for i, id := range slices.Backward(t.ids) {
			if !yield(id, t.nodes[i].Snapshot) {
				return
			}
		}
	}
}

// readSnapshots fills fs.Snapshots from the snapshots btree. Damage there is a message: in snapshots of which not all
// ancestors are known what may be an ancestor's cannot be read.
func (fs *FS) readSnapshots(ctx context.Context) error {
	found := map[uint32]ondisk.Snapshot{}
	for k, err := range fs.Reader.Keys(ctx, ondisk.BtreeSnapshots, ondisk.PosMin, ondisk.SPosMax) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			fs.message("snapshots: %v", err)
			continue
		}
		if k.Type != ondisk.KeySnapshot || k.Pos.Offset == 0 || k.Pos.Offset > math.MaxUint32 {
			continue
		}
		sn, err := ondisk.DecodeSnapshot(k)
		if err != nil {
			fs.message("snapshot %d: %v", k.Pos.Offset, err)
			continue
		}
		if len(found) == maxSnapshots {
			fs.message("more than %d snapshots: the others are ignored", maxSnapshots)
			break
		}
		found[uint32(k.Pos.Offset)] = sn
	}
	var problems []string
	fs.Snapshots, problems = newSnapshots(found)
	for _, p := range problems {
		fs.message("%s", p)
	}
	fs.Reader.SetAncestor(fs.Snapshots.IsAncestor)
	fs.Reader.SetOrphan(fs.Snapshots.Orphan)
	return nil
}
