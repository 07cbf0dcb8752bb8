package fsck_test

import (
	"slices"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/fsck"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// TestPassesOfFilesAlone: the passes need none of those before.
func TestPassesOfFilesAlone(t *testing.T) {
	p := patch(t, "basic")
	in := p.file()
	p.delete(ondisk.BtreeDirents, p.nameOf(&in).Pos)
	in.Dir, in.DirOffset = 0, 0
	p.putInode(in)
	r, err := fsck.Check(t.Context(), p, fsck.Options{Passes: []string{"check_unreachable_inodes"}})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, r, found{"inode_unreachable": 1})
}

// TestCountingInTurns: with little memory, names are counted in several walks.
func TestCountingInTurns(t *testing.T) {
	p := patch(t, "basic")
	lost, wrong := 0, 0
	for k := range p.Filesystem.Keys(t.Context(), ondisk.BtreeInodes, 0, ondisk.PosMin, ondisk.SPosMax) {
		in, err := ondisk.DecodeInode(k)
		switch {
		case err != nil || in.Type() != ondisk.DTReg || in.Dir == 0:
		case in.NlinkRaw == 0 && lost < 50:
			p.delete(ondisk.BtreeDirents, p.nameOf(&in).Pos)
			in.Dir, in.DirOffset = 0, 0
			p.putInode(in)
			lost++
		case wrong < 50:
			in.NlinkRaw += 7
			p.putInode(in)
			wrong++
		}
	}
	if lost < 20 || wrong < 20 {
		t.Fatalf("%d files lose their name, %d are said to have more", lost, wrong)
	}
	for _, memory := range []int64{4 << 10, 1 << 30} {
		r, err := fsck.Check(t.Context(), p, fsck.Options{MemoryBytes: memory, Passes: []string{"check_unreachable_inodes", "check_nlinks"}})
		if err != nil {
			t.Fatal(err)
		}
		expect(t, r, found{"inode_unreachable": lost, "inode_wrong_nlink": wrong})
	}
}

// TestDyingSnapshots: what only snapshots see that are about to be deleted is not looked at.
func TestDyingSnapshots(t *testing.T) {
	p := patch(t, "snapshots")
	var sibling ondisk.Snapshot
	in := p.inode(func(in *ondisk.Inode) bool {
		if in.Type() != ondisk.DTReg || p.older(in) == nil || p.snapshot(in.Snapshot).Subvol == 0 {
			return false
		}
		for _, id := range p.snapshot(p.snapshot(in.Snapshot).Parent).Children {
			if id != 0 && id != in.Snapshot {
				sibling = p.snapshot(id)
				return sibling.Subvol != 0
			}
		}
		return false
	})
	check := func(what string, want found) {
		t.Helper()
		r, err := fsck.Check(t.Context(), p, fsck.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Log(what)
		expect(t, r, want)
	}
	old := p.older(&in)
	old.Sectors += 8
	p.putInode(*old)
	stray := ondisk.Key{Type: ondisk.KeyError, Size: 8,
		Pos: ondisk.Pos{Inode: nowhere, Offset: 8, Snapshot: p.subvol(sibling.Subvol).Snapshot}}
	p.put(ondisk.BtreeExtents, stray)
	check("both leaves live", found{"inode_i_sectors_wrong": 1, "key_in_missing_inode": 1})

	s := p.subvol(sibling.Subvol)
	s.Flags |= ondisk.SubvolumeUnlinked
	p.put(ondisk.BtreeSubvolumes, ondisk.Key{Type: ondisk.KeySubvolume, Pos: ondisk.Pos{Offset: uint64(sibling.Subvol)}, Val: s.Encode()})
	check("one is about to be deleted, and the node above merged with the other", found{})

	stray.Pos.Snapshot = old.Snapshot
	p.put(ondisk.BtreeExtents, stray)
	check("a key above counts as the other's", found{"key_in_missing_inode": 1})
}

// TestFilesInParallel: however the btrees are divided, the same is found.
func TestFilesInParallel(t *testing.T) {
	p := patch(t, "btree-deep")
	n := 0
	for k := range p.Filesystem.Keys(t.Context(), ondisk.BtreeInodes, 0, ondisk.PosMin, ondisk.SPosMax) {
		if n++; n%500 != 0 {
			continue
		}
		in, err := ondisk.DecodeInode(k)
		if err != nil {
			t.Fatal(err)
		}
		in.Sectors += 8
		in.DirOffset++
		p.putInode(in)
	}
	n = 0
	for k := range p.Filesystem.Keys(t.Context(), ondisk.BtreeDirents, 0, ondisk.PosMin, ondisk.SPosMax) {
		if n++; n%500 == 250 {
			p.delete(ondisk.BtreeDirents, k.Pos)
		}
	}
	passes := []string{"check_inodes", "check_extents", "check_dirents", "check_xattrs", "check_unreachable_inodes", "check_directory_structure", "check_nlinks"}
	var first *fsck.Report
	for _, parallel := range []int{1, 7} {
		r, err := fsck.Check(t.Context(), p, fsck.Options{Parallel: parallel, Passes: passes})
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = r
			if r.Total < 50 {
				t.Fatalf("%d findings", r.Total)
			}
		}
		if !slices.Equal(r.Findings, first.Findings) {
			t.Errorf("%d goroutines find %d things, one finds %d", parallel, r.Total, first.Total)
		}
	}
}
