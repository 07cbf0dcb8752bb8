package fsck_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/fsck"
	"github.com/go-bcachefs/bcachefs/internal/fsck/fscktest"
	"github.com/go-bcachefs/bcachefs/internal/fuzzing"
	"github.com/go-bcachefs/bcachefs/internal/golden"
	"github.com/go-bcachefs/bcachefs/internal/kernelvm"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// More reasons why the reference finds something that we do not, or the other way round: it repairs as it goes, be it in memory.
const (
	fixed = "the reference had repaired the cause by then"
	left  = "the reference does not repair the cause, and goes on from what is wrong"
	first = "the reference says so of a second name before it knows that there is a first"
)

// driverCases are single changes of a sound image on which the real driver and we are to agree.
var driverCases = []struct {
	name   string
	btree  ondisk.BtreeID
	which  func(k *ondisk.Key) bool
	change fuzzing.Mutation
	want   string
	ours   map[string]string // what else we find, and why
	theirs map[string]string
}{
	{"dirty sectors", ondisk.BtreeAlloc, ofType(ondisk.DataUser), value(16, 4, 1000), "alloc_key_dirty_sectors_wrong",
		because(fixed, "lru_entry_bad"), nil},
	{"data type", ondisk.BtreeAlloc, ofType(ondisk.DataUser), value(14, 1, uint64(ondisk.DataBtree)), "alloc_key_data_type_wrong", nil, nil},
	{"alloc key missing", ondisk.BtreeAlloc, ofType(ondisk.DataBtree), remove, "ptr_to_missing_alloc_key",
		because(fixed, "freespace_hole_missing", "backpointer_to_missing_alloc"), nil},
	{"backpointer missing", ondisk.BtreeBackpointers, anyKey, remove, "ptr_to_missing_backpointer", nil, nil},
	{"backpointer changed", ondisk.BtreeBackpointers, anyKey, value(8, 4, 3), "backpointer_to_missing_ptr", nil, nil},
	{"lru entry missing", ondisk.BtreeLRU, anyKey, remove, "alloc_key_to_missing_lru_entry", nil, nil},
	{"lru entry moved", ondisk.BtreeLRU, anyKey, fuzzing.Mutation{Op: fuzzing.OpAddField, Off: 0, Value: 1}, "lru_entry_bad", nil, nil},
	{"freespace", ondisk.BtreeFreespace, func(k *ondisk.Key) bool { return k.Size > 1 }, fuzzing.Mutation{Op: fuzzing.OpAddField, Off: 3, Value: ^uint64(0)}, "freespace_hole_missing", nil, nil},
	{"counter of inodes", ondisk.BtreeAccounting, counterOf(ondisk.AccountingNrInodes), value(0, 1, 7), "accounting_mismatch", nil, nil},
	{"counter of buckets", ondisk.BtreeAccounting, counterOf(ondisk.AccountingDevDataType), value(0, 1, 7), "accounting_mismatch", nil, nil},
	{"counter of an inode", ondisk.BtreeAccounting, counterOf(ondisk.AccountingInum), value(8, 1, 7), "", nil, nil},
	{"refcount", ondisk.BtreeReflink, anyKey, value(0, 1, 77), "reflink_v_refcount_wrong", nil, nil},
	{"depth", ondisk.BtreeSnapshots, isLeaf, value(24, 1, 9), "snapshot_bad_depth", nil, nil},
	{"skip list", ondisk.BtreeSnapshots, isLeaf, value(28, 4, 0), "snapshot_bad_skiplist", nil, nil},
	{"tree", ondisk.BtreeSnapshots, isLeaf, value(20, 4, 55), "snapshot_to_bad_snapshot_tree", nil, nil},
	{"master of a tree", ondisk.BtreeSnapshotTrees, anyKey, value(0, 4, 55), "snapshot_tree_to_missing_subvol",
		because(fixed, "subvol_not_master_and_not_snapshot"), nil},
	{"child not listed", ondisk.BtreeSubvolumeChildren, anyKey, remove, "subvol_children_not_set", nil, nil},
	{"sectors of a file", ondisk.BtreeInodes, isFile, value(24, 8, 16), "inode_i_sectors_wrong", nil, nil},
	{"size of a file", ondisk.BtreeInodes, isFile, value(32, 8, 0), "extent_past_end_of_inode", nil, nil},
	{"mark of an unlinked file", ondisk.BtreeInodes, isFile, value(16, 1, uint64(ondisk.InodeUnlinked)), "inode_unlinked_but_has_dirent",
		nil, because(left, "unlinked_inode_not_on_deleted_list", "deleted_inode_but_clean")},
	{"mark of child snapshots", ondisk.BtreeInodes, isFile, value(17, 1, uint64(ondisk.InodeHasChildSnapshot>>8)), "inode_has_child_snapshots_wrong", nil, nil},
	{"inode removed", ondisk.BtreeInodes, isLaterFile, remove, "dirent_to_missing_inode", nil, nil},
	{"version of an inode removed", ondisk.BtreeInodes, isFile, remove, "inode_has_child_snapshots_wrong", nil,
		because(first, "inode_wrong_backpointer")},
	{"name removed", ondisk.BtreeDirents, isName, remove, "inode_points_to_missing_dirent", nil, nil},
	{"type of a name", ondisk.BtreeDirents, isName, value(8, 1, ondisk.DTFifo), "dirent_d_type_wrong", nil, nil},
	{"target of a name", ondisk.BtreeDirents, isName, value(0, 8, nowhere), "dirent_to_missing_inode", nil, nil},
	{"letter of a name", ondisk.BtreeDirents, isName, value(9, 1, 'Z'), "hash_table_key_wrong_offset", nil, nil},
	{"name moved", ondisk.BtreeDirents, isName, fuzzing.Mutation{Op: fuzzing.OpAddField, Off: 1, Value: 1}, "hash_table_key_wrong_offset",
		because(fixed, "inode_wrong_backpointer"), nil},
	{"subvolume of a name", ondisk.BtreeDirents, isSubvolName, value(0, 4, 77), "dirent_to_missing_subvol", nil, nil},
	{"parent subvolume of a name", ondisk.BtreeDirents, isSubvolName, value(4, 4, 77), "dirent_to_missing_parent_subvol", nil, nil},
	{"attribute moved", ondisk.BtreeXattrs, isType(ondisk.KeyXattr), fuzzing.Mutation{Op: fuzzing.OpAddField, Off: 1, Value: 1},
		"hash_table_key_wrong_offset", nil, nil},
	{"attribute of another inode", ondisk.BtreeXattrs, isType(ondisk.KeyXattr), fuzzing.Mutation{Op: fuzzing.OpField, Off: 0, Value: 4098},
		"key_in_missing_inode", nil, nil},
	{"extent removed", ondisk.BtreeExtents, isExtent, remove, "backpointer_to_missing_ptr", because(empty, "inode_i_sectors_wrong"),
		because(fixed, "lru_entry_bad", "alloc_key_to_missing_lru_entry")},
	{"given out twice", ondisk.BtreeExtents, isExtent, fuzzing.Mutation{Op: fuzzing.OpSplice, Value: 3}, "ptr_to_missing_backpointer", nil, nil},
}

var remove = fuzzing.Mutation{Op: fuzzing.OpField, Off: 4} // type deleted

// value overwrites bytes of a key's value.
func value(off, size uint8, v uint64) fuzzing.Mutation {
	return fuzzing.Mutation{Op: fuzzing.OpValue, Off: off, Width: map[uint8]uint8{1: 0, 2: 1, 4: 2, 8: 3}[size], Value: v}
}

func anyKey(*ondisk.Key) bool { return true }

func isExtent(k *ondisk.Key) bool { return k.Type == ondisk.KeyExtent }

// isFile is true of files with one name and data, in one snapshot.
func isFile(k *ondisk.Key) bool {
	in, err := ondisk.DecodeInode(*k)
	return err == nil && in.Type() == ondisk.DTReg && in.Dir != 0 && in.NlinkRaw == 0 && in.Flags == 0 && in.Sectors >= 8 && in.Sectors != 16
}

// isLaterFile is true of such that were made when a second processor did.
func isLaterFile(k *ondisk.Key) bool { return isFile(k) && k.Pos.Offset >= 1<<30 }

func isName(k *ondisk.Key) bool {
	d, err := ondisk.DecodeDirent(*k)
	return err == nil && d.Type == ondisk.DTReg && k.Pos.Inode != ondisk.RootInum
}

func isSubvolName(k *ondisk.Key) bool {
	d, err := ondisk.DecodeDirent(*k)
	return err == nil && d.Type == ondisk.DTSubvol
}

func ofType(typ ondisk.DataType) func(k *ondisk.Key) bool {
	return func(k *ondisk.Key) bool {
		a, err := ondisk.DecodeAlloc(*k)
		return err == nil && a.DataType == typ
	}
}

func counterOf(typ ondisk.AccountingType) func(k *ondisk.Key) bool {
	return func(k *ondisk.Key) bool {
		a, ok := ondisk.DecodeAccountingPos(k.Pos, ondisk.VersionDefault)
		return ok && a.Type == typ
	}
}

func isLeaf(k *ondisk.Key) bool {
	s, err := ondisk.DecodeSnapshot(*k)
	return err == nil && lowLeaf(&s)
}

// moreLines are what the driver prints of these, beside lines.
var moreLines = []struct{ pattern, name string }{
	{`missing \S+ lru entry|missing lru entry`, "alloc_key_to_missing_lru_entry"},
	{`reflink key has wrong refcount|has wrong refcount`, "reflink_v_refcount_wrong"},
	{`snapshot with incorrect depth field`, "snapshot_bad_depth"},
	{`snapshot with bad skiplist field`, "snapshot_bad_skiplist"},
	{`snapshot points to missing/incorrect tree`, "snapshot_to_bad_snapshot_tree"},
	{`snapshot tree points to missing subvolume`, "snapshot_tree_to_missing_subvol"},
	{`subvolume not set in subvolume_children btree`, "subvol_children_not_set"},
	{`duplicate versions of same extent`, "ptr_to_missing_backpointer"}, // it has no number for this
	{`subvolume \d+ is not set as snapshot but is not master subvolume`, "subvol_not_master_and_not_snapshot"},
}

// driverImages writes the image of each case to a file.
func driverImages(t *testing.T) (filesystems [][]string) {
	g := golden.Find(t, "damage-base")
	img, err := fuzzing.Load(t.Context(), g.Name, g.Unpack(t), "")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for i, c := range driverCases {
		part, index := findKey(t, img, c.btree, c.which)
		c.change.Kind, c.change.Part, c.change.Index = fuzzing.Node, part, index
		devices, err := img.Changed(t.Context(), img.Mutate([]fuzzing.Mutation{c.change}))
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, fmt.Sprintf("%d.img", i))
		save(t, devices[0], path)
		filesystems = append(filesystems, []string{path})
	}
	return filesystems
}

// ourNames counts what we find by names.
func ourNames(t *testing.T, devices []string) (found, *fsck.Report) {
	t.Helper()
	r := fscktest.Options{}.Check(t, devices...)
	ours := found{}
	for _, f := range r.Findings {
		ours[f.Name()]++
	}
	return ours, r
}

// TestDriverCases looks whether we find what the driver is to agree on.
func TestDriverCases(t *testing.T) {
	for i, devices := range driverImages(t) {
		c := driverCases[i]
		t.Run(c.name, func(t *testing.T) {
			golden.OneIn(t, 6, i)
			ours, r := ourNames(t, devices)
			if r.Clean() != (c.want == "") || c.want != "" && ours[c.want] == 0 {
				t.Errorf("found %v, want %q", ours, c.want)
			}
		})
	}
}

// TestDriverAgrees has the real driver check the same changed images as we do.
func TestDriverAgrees(t *testing.T) {
	kernelvm.Available(t)
	filesystems := driverImages(t)
	var results []kernelvm.Result
	for batch := range slices.Chunk(filesystems, 20) { // a machine takes no more
		results = append(results, kernelvm.Check(t, batch, kernelvm.CheckOptions{})...)
	}
	for i, c := range driverCases {
		t.Run(c.name, func(t *testing.T) {
			ours, r := ourNames(t, filesystems[i])
			theirs := theirFindings(results[i].Log)
			for _, l := range moreLines {
				if regexp.MustCompile(l.pattern).MatchString(results[i].Log) {
					theirs[l.name] = true
				}
			}
			if c.want != "" && (ours[c.want] == 0 || !theirs[c.want]) {
				t.Errorf("want %s from both", c.want)
			}
			compareFindings(t, ours, theirs, &damage{ours: c.ours, theirs: c.theirs})
			if t.Failed() {
				t.Logf("ours: %v", r.Findings)
				t.Logf("theirs: %s", results[i].Log)
			}
		})
	}
}

// findKey returns the place of the newest version of the first key of a btree that which is true of.
func findKey(t *testing.T, img *fuzzing.Image, id ondisk.BtreeID, which func(k *ondisk.Key) bool) (part, index uint16) {
	t.Helper()
	for i, p := range img.Parts[fuzzing.Node] {
		if p.Btree != id || p.Level != 0 {
			continue
		}
		newest := map[ondisk.Pos]int{}
		keys := p.Keys()
		for j, k := range keys {
			newest[k.Pos] = j
		}
		for j, k := range keys {
			if newest[k.Pos] == j && k.Type != ondisk.KeyDeleted && which(&k) {
				return uint16(i), uint16(j)
			}
		}
	}
	t.Fatalf("no such key in btree %v", id)
	panic("unreachable")
}

// save writes a device to a file, with holes.
func save(t *testing.T, d blockdev.Device, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	buf := make([]byte, 1<<16)
	for off := int64(0); off < d.Size(); off += int64(len(buf)) {
		b := buf[:min(int64(len(buf)), d.Size()-off)]
		if err := d.ReadAt(context.Background(), b, off); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b, make([]byte, len(b))) {
			if _, err := f.WriteAt(b, off); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := f.Truncate(d.Size()); err != nil {
		t.Fatal(err)
	}
}
