package fsck_test

import (
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/fsck"
	"github.com/go-bcachefs/bcachefs/internal/golden"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// changeSnapshot changes the first snapshot that pred is true of.
func (p *patched) changeSnapshot(pred func(s *ondisk.Snapshot) bool, change func(s *ondisk.Snapshot)) {
	var s ondisk.Snapshot
	k := p.first(ondisk.BtreeSnapshots, func(k *ondisk.Key) bool {
		var err error
		s, err = ondisk.DecodeSnapshot(*k)
		return err == nil && s.EffectiveState() == ondisk.SnapshotStateLive && pred(&s)
	})
	change(&s)
	k.Val = s.Encode()
	p.put(ondisk.BtreeSnapshots, k)
}

// changeSubvol changes the first subvolume that pred is true of.
func (p *patched) changeSubvol(pred func(s *ondisk.Subvolume) bool, change func(s *ondisk.Subvolume)) {
	var s ondisk.Subvolume
	k := p.first(ondisk.BtreeSubvolumes, func(k *ondisk.Key) bool {
		var err error
		s, err = ondisk.DecodeSubvolume(*k)
		return err == nil && pred(&s)
	})
	change(&s)
	k.Val = s.Encode()
	p.put(ondisk.BtreeSubvolumes, k)
}

// changeTree changes a snapshot tree.
func (p *patched) changeTree(id uint32, change func(t *ondisk.SnapshotTree)) {
	k := p.first(ondisk.BtreeSnapshotTrees, func(k *ondisk.Key) bool { return k.Pos.Offset == uint64(id) })
	t, err := ondisk.DecodeSnapshotTree(k)
	if err != nil {
		p.t.Fatal(err)
	}
	change(&t)
	k.Val = t.Encode()
	p.put(ondisk.BtreeSnapshotTrees, k)
}

// treeOf returns the tree that the snapshot of a subvolume is in.
func (p *patched) treeOf(subvol ondisk.Key) uint32 {
	v, err := ondisk.DecodeSubvolume(subvol)
	if err != nil {
		p.t.Fatal(err)
	}
	k := p.first(ondisk.BtreeSnapshots, func(k *ondisk.Key) bool { return k.Pos.Offset == uint64(v.Snapshot) })
	s, err := ondisk.DecodeSnapshot(k)
	if err != nil {
		p.t.Fatal(err)
	}
	return s.Tree
}

// lowLeaf is true of leaves below other snapshots.
func lowLeaf(s *ondisk.Snapshot) bool { return s.Parent != 0 && s.Children[0] == 0 }

func isSnap(s *ondisk.Subvolume) bool { return s.Flags&ondisk.SubvolumeSnap != 0 }

var treeMutations = []struct {
	name, image string
	change      func(p *patched) found
}{
	{"depth", "snapshots", func(p *patched) found {
		p.changeSnapshot(lowLeaf, func(s *ondisk.Snapshot) { s.Depth++ })
		return found{"snapshot_bad_depth": 1}
	}},
	{"skip list", "snapshots", func(p *patched) found {
		p.changeSnapshot(lowLeaf, func(s *ondisk.Snapshot) { s.Skip[2] = 0 })
		return found{"snapshot_bad_skiplist": 1}
	}},
	{"tree", "v1.31-snapshots", func(p *patched) found {
		p.changeSnapshot(lowLeaf, func(s *ondisk.Snapshot) { s.Tree = 77 })
		return found{"snapshot_to_bad_snapshot_tree": 1}
	}},
	{"subvolume of a node that is none's", "snapshots", func(p *patched) found {
		p.changeSnapshot(func(s *ondisk.Snapshot) bool { return s.Children[0] != 0 }, func(s *ondisk.Snapshot) { s.Subvol = 1 })
		return found{"snapshot_should_not_have_subvol": 1}
	}},
	{"subvolume missing", "snapshots", func(p *patched) found {
		p.changeSnapshot(lowLeaf, func(s *ondisk.Snapshot) { s.Subvol = 99 })
		return found{"": 1}
	}},
	{"parent does not list it", "snapshots", func(p *patched) found {
		p.changeSnapshot(func(s *ondisk.Snapshot) bool { return s.Children[1] != 0 }, func(s *ondisk.Snapshot) { s.Children[1] = 0 })
		return found{"": 1}
	}},
	{"parent does not list it, 1.39", "v1.39-snapshots", func(p *patched) found {
		p.changeSnapshot(func(s *ondisk.Snapshot) bool { return s.Children[1] != 0 }, func(s *ondisk.Snapshot) { s.Children[1] = 0 })
		return found{"snapshot_edge_bad": 1}
	}},
	{"subvolume names another snapshot, 1.39", "v1.39-snapshots", func(p *patched) found {
		p.changeSnapshot(lowLeaf, func(s *ondisk.Snapshot) { s.Subvol = 1 })
		return found{"snapshot_subvol_backref_wrong": 2} // seen from both sides
	}},
	{"root of a tree", "snapshots", func(p *patched) found {
		p.changeTree(1, func(t *ondisk.SnapshotTree) { t.RootSnapshot = 5 })
		return found{"snapshot_tree_to_missing_snapshot": 1, "snapshot_to_bad_snapshot_tree": some}
	}},
	{"master of a tree missing", "snapshots", func(p *patched) found {
		p.changeTree(1, func(t *ondisk.SnapshotTree) { t.MasterSubvol = 55 })
		return found{"snapshot_tree_to_missing_subvol": 1, "subvol_not_master_and_not_snapshot": 1}
	}},
	{"master of a tree is a snapshot", "snapshots", func(p *patched) found {
		k := p.first(ondisk.BtreeSubvolumes, func(k *ondisk.Key) bool {
			s, err := ondisk.DecodeSubvolume(*k)
			return err == nil && isSnap(&s)
		})
		p.changeTree(p.treeOf(k), func(t *ondisk.SnapshotTree) { t.MasterSubvol = uint32(k.Pos.Offset) })
		return found{"snapshot_tree_to_snapshot_subvol": 1, "subvol_not_master_and_not_snapshot": 1}
	}},
	{"master of a tree is of another", "snapshots", func(p *patched) found {
		one := p.first(ondisk.BtreeSubvolumes, func(*ondisk.Key) bool { return true })
		other := p.first(ondisk.BtreeSubvolumes, func(k *ondisk.Key) bool { return p.treeOf(*k) != p.treeOf(one) })
		p.changeTree(p.treeOf(one), func(t *ondisk.SnapshotTree) { t.MasterSubvol = uint32(other.Pos.Offset) })
		return found{"snapshot_tree_to_wrong_subvol": 1, "subvol_not_master_and_not_snapshot": 1}
	}},
	{"snapshot that is not marked as one", "snapshots", func(p *patched) found {
		p.changeSubvol(isSnap, func(s *ondisk.Subvolume) { s.Flags &^= ondisk.SubvolumeSnap })
		return found{"subvol_not_master_and_not_snapshot": 1}
	}},
	{"root directory missing", "snapshots", func(p *patched) found {
		p.changeSubvol(isSnap, func(s *ondisk.Subvolume) { s.Inode = 1 << 50 })
		return found{"subvol_to_missing_root": 1}
	}},
	{"root directory is another one", "snapshots", func(p *patched) found {
		k := p.first(ondisk.BtreeInodes, func(k *ondisk.Key) bool {
			in, err := ondisk.DecodeInode(*k)
			return err == nil && in.IsDir() && in.Subvol == 0 && k.Pos.Snapshot == ^uint32(0)
		})
		p.changeSubvol(func(*ondisk.Subvolume) bool { return true }, func(s *ondisk.Subvolume) { s.Inode = k.Pos.Offset })
		return found{"subvol_root_wrong_bi_subvol": 1}
	}},
	{"parent of the first", "snapshots", func(p *patched) found {
		p.changeSubvol(func(*ondisk.Subvolume) bool { return true }, func(s *ondisk.Subvolume) { s.FSPathParent = 2 })
		return found{"subvol_root_fs_path_parent_nonzero": 1}
	}},
	{"child not listed", "snapshots", func(p *patched) found {
		k := p.first(ondisk.BtreeSubvolumeChildren, func(*ondisk.Key) bool { return true })
		p.delete(ondisk.BtreeSubvolumeChildren, k.Pos)
		return found{"subvol_children_not_set": 1}
	}},
	{"child of another", "snapshots", func(p *patched) found {
		k := p.first(ondisk.BtreeSubvolumeChildren, func(*ondisk.Key) bool { return true })
		k.Pos.Inode = 400
		p.put(ondisk.BtreeSubvolumeChildren, k)
		return found{"subvol_children_bad": 1}
	}},
}

func TestTreeMutations(t *testing.T) {
	passes := []string{"check_snapshot_trees", "check_snapshots", "check_subvols", "check_subvol_children"}
	for i, m := range treeMutations {
		t.Run(m.name, func(t *testing.T) {
			golden.OneIn(t, 6, i)
			t.Parallel()
			p := patch(t, m.image)
			want := m.change(p)
			r, err := fsck.Check(t.Context(), p, fsck.Options{Passes: passes})
			if err != nil {
				t.Fatal(err)
			}
			expect(t, r, want)
		})
	}
}

// changeChild changes a pointer in the lowest interior level of a btree.
func (p *patched) changeChild(id ondisk.BtreeID, n int, change func(ptr *ondisk.BtreePtr) bool) {
	i := 0
	for k, err := range p.Keys(p.t.Context(), id, 1, ondisk.PosMin, ondisk.SPosMax) {
		if err != nil {
			p.t.Fatal(err)
		}
		if i++; i <= n {
			continue
		}
		ptr, err := ondisk.DecodeBtreePtr(k.Clone())
		if err != nil {
			p.t.Fatal(err)
		}
		if !change(&ptr) {
			p.set(id, 1, k.Pos, nil)
			return
		}
		if ptr.Max != k.Pos {
			p.set(id, 1, k.Pos, nil)
		}
		c := ptr.Key()
		p.set(id, 1, c.Pos, &c)
		return
	}
	p.t.Fatal("no such child")
}

func TestTopology(t *testing.T) {
	const id = ondisk.BtreeInodes
	for i, tt := range []struct {
		name   string
		change func(p *patched)
		want   found
	}{
		{"first position of a child", func(p *patched) {
			p.changeChild(id, 1, func(ptr *ondisk.BtreePtr) bool { ptr.Min = ptr.Min.Next(); return true })
		}, found{"btree_node_topology_bad_min_key": 1}},
		{"last position of a child", func(p *patched) {
			p.changeChild(id, 0, func(ptr *ondisk.BtreePtr) bool { ptr.Max = ptr.Max.Prev(); return true })
		}, found{"btree_node_topology_bad_min_key": 1}},
		{"child missing", func(p *patched) {
			p.changeChild(id, 1, func(*ondisk.BtreePtr) bool { return false })
		}, found{"btree_node_topology_bad_min_key": 1}},
		{"last child missing", func(p *patched) {
			n := 0
			for k := range p.Keys(p.t.Context(), id, 1, ondisk.PosMin, ondisk.SPosMax) {
				if k.Pos != ondisk.SPosMax {
					n++
				}
			}
			p.changeChild(id, n, func(*ondisk.BtreePtr) bool { return false })
		}, found{"btree_node_topology_bad_max_key": 1}},
		{"all children missing", func(p *patched) {
			for k := range p.Keys(p.t.Context(), id, 1, ondisk.PosMin, ondisk.SPosMax) {
				p.set(id, 1, k.Pos, nil)
			}
		}, found{"btree_node_topology_interior_node_empty": some}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			golden.OneIn(t, 3, i)
			t.Parallel()
			p := patch(t, "btree-deep")
			tt.change(p)
			r, err := fsck.Check(t.Context(), p, fsck.Options{Passes: []string{"check_topology"}})
			if err != nil {
				t.Fatal(err)
			}
			expect(t, r, tt.want)
		})
	}
}
