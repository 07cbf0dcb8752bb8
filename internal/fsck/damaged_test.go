package fsck_test

import (
	"maps"
	"regexp"
	"slices"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/fsck"
	"github.com/go-bcachefs/bcachefs/internal/golden"
)

// Why the reference finds something that we do not, or the other way round.
const (
	dropped = "the reference takes a lost btree for empty and finds all that then does not fit; we say that it is lost"
	anyway  = "the reference uses the keys of a node whose checksum is wrong as far as they make sense; we use none"
	known   = "the reference drops the pointer to a lost node, too, and so its bucket is free; we know it"
	scan    = "the reference looks for lost nodes; of the nodes that are left nothing more can be said"
	lax     = "the reference uses a journal entry whose checksum is wrong; we do not, so its changes are missing"
	stopped = "the reference stopped before the pass that would have told"
	unread  = "the reference does not read what it does not need"
	keys    = "the reference leaves out other keys of a bset that is not in order"
	empty   = "the reference counts what inodes hold only of those that hold something"
	older   = "the reference uses keys of the newest version of a node, whose checksum is wrong; we use an older version"
)

// damage is what is known of a damaged image.
type damage struct {
	found map[string]int // what we find; "" counts what has no name
	// theirs and ours are what only one side finds, and why.
	theirs, ours map[string]string
}

// because gives one reason for several findings.
func because(why string, names ...string) map[string]string {
	m := map[string]string{}
	for _, n := range names {
		m[n] = why
	}
	return m
}

func both(ms ...map[string]string) map[string]string {
	all := map[string]string{}
	for _, m := range ms {
		maps.Copy(all, m)
	}
	return all
}

var (
	lostRoot  = map[string]int{"bset_bad_csum": 1, "btree_root_read_error": 1}
	zeroRoot  = map[string]int{"btree_node_bad_magic": 1, "btree_root_read_error": 1}
	clean     = map[string]int{}
	lostEntry = map[string]int{"journal_entries_missing": 1, "accounting_mismatch": 1, "inode_points_to_missing_dirent": 75,
		"inode_dir_wrong_nlink": 5, "inode_unreachable": 75}
	badMaxKey   = because(anyway, "btree_node_bad_max_key", "btree_node_topology_bad_max_key")
	badNode     = because(anyway, "btree_node_bad_max_key")
	bucketFreed = because(known, "alloc_key_data_type_wrong", "alloc_key_dirty_sectors_wrong", "accounting_mismatch", "need_discard_key_wrong")
	freeBucket  = both(bucketFreed, because(known, "backpointer_to_missing_ptr"))
	noRoot      = because(anyway, "btree_root_read_error")
)

var damages = map[string]damage{
	"damaged/damaged-accounting": {found: lostRoot, theirs: badMaxKey},
	"damaged/damaged-alloc": {found: lostRoot, theirs: both(badNode, because(dropped, "ptr_to_missing_alloc_key", "alloc_key_data_type_wrong",
		"alloc_key_dirty_sectors_wrong", "accounting_mismatch", "freespace_hole_missing", "backpointer_to_missing_alloc", "backpointer_to_missing_ptr"))},
	"damaged/damaged-backpointers": {found: lostRoot, theirs: both(badNode, bucketFreed, because(dropped, "ptr_to_missing_backpointer"))},
	"damaged/damaged-data":         {found: clean},
	"damaged/damaged-dirents":      {found: lostRoot, theirs: badMaxKey},
	"damaged/damaged-dirents-last": {found: lostRoot, theirs: because(anyway, "inode_points_to_missing_dirent", "hash_table_key_wrong_offset",
		"inode_dir_missing_backpointer"), ours: noRoot},
	"damaged/damaged-extents":   {found: lostRoot, theirs: badMaxKey},
	"damaged/damaged-freespace": {found: zeroRoot, theirs: both(freeBucket, because(dropped, "freespace_hole_missing"))},
	"damaged/damaged-inodes":    {found: lostRoot, theirs: badMaxKey},
	"damaged/damaged-inodes-last": {found: lostRoot, theirs: because(anyway, "accounting_mismatch", "btree_node_bkey_out_of_order",
		"inode_unreachable", "deleted_inode_but_clean", "inode_has_child_snapshots_wrong", "unlinked_inode_not_on_deleted_list",
		"inode_i_sectors_wrong", "extent_past_end_of_inode", "inode_dir_wrong_nlink", "inode_unlinked_but_has_dirent", "inode_bi_subvol_wrong",
		"inode_wrong_backpointer", "inode_multiple_links_but_nlink_0"), ours: noRoot},
	"damaged/damaged-inodes-zero": {found: zeroRoot, theirs: both(freeBucket, because(dropped, "subvol_to_missing_root"),
		because(scan, "btree_root_unreadable_and_scan_found_nothing"))},
	"damaged/damaged-journal-newest":      {found: clean},
	"damaged/damaged-journal-newest-zero": {found: clean},
	"damaged/damaged-journal-oldest": {found: lostEntry, ours: because(lax, "journal_entries_missing", "accounting_mismatch",
		"inode_points_to_missing_dirent", "inode_dir_wrong_nlink", "inode_unreachable")},
	"damaged/damaged-journal-oldest-zero": {found: lostEntry},
	"damaged/damaged-layout":              {found: clean},
	"damaged/damaged-nocsum-alloc": {
		found: map[string]int{"btree_node_bkey_out_of_order": 1, "alloc_key_data_type_wrong": 1, "alloc_key_dirty_sectors_wrong": 1,
			"ptr_to_missing_alloc_key": 1, "freespace_hole_missing": 1, "backpointer_to_missing_alloc": 1},
		theirs: because(keys, "accounting_mismatch", "btree_node_read_error"),
		ours:   because(stopped, "freespace_hole_missing", "backpointer_to_missing_alloc")},
	"damaged/damaged-nocsum-dirent-dangling": {found: map[string]int{"inode_points_to_wrong_dirent": 1, "dirent_to_missing_inode": 1,
		"inode_unreachable": 1}},
	"damaged/damaged-nocsum-dirent-loop": {found: map[string]int{"dirent_to_itself": 1, "inode_points_to_missing_dirent": 1,
		"inode_unreachable": 1, "inode_dir_wrong_nlink": 1}, ours: because(empty, "inode_dir_wrong_nlink")},
	"damaged/damaged-nocsum-dirent-name": {found: map[string]int{"hash_table_key_wrong_offset": 1}},
	"damaged/damaged-nocsum-dirent-type": {found: map[string]int{"dirent_d_type_wrong": 1, "inode_dir_wrong_nlink": 1}},
	"damaged/damaged-nocsum-extents":     {found: map[string]int{"bkey_version_in_future": 1}},
	"damaged/damaged-nocsum-inodes": {found: map[string]int{"btree_node_bkey_out_of_order": 1, "inode_dir_wrong_nlink": 1},
		theirs: because(keys, "accounting_mismatch", "unlinked_inode_not_on_deleted_list", "inode_bi_subvol_wrong", "inode_i_sectors_wrong",
			"extent_past_end_of_inode", "inode_wrong_backpointer", "inode_multiple_links_but_nlink_0", "inode_unreachable",
			"deleted_inode_but_clean", "inode_unlinked_but_has_dirent", "inode_has_child_snapshots_wrong")},
	"damaged/damaged-reflink":       {found: lostRoot, theirs: badMaxKey},
	"damaged/damaged-sb-first":      {found: map[string]int{"": 1}},
	"damaged/damaged-sb-first-zero": {found: map[string]int{"": 1}},
	"damaged/damaged-sb-second":     {found: map[string]int{"": 1}, ours: because(unread, "")},
	"damaged/damaged-snapshots":     {found: lostRoot, theirs: badMaxKey},
	"damaged/damaged-subvolumes":    {found: lostRoot, theirs: badMaxKey},
	"damaged/damaged-xattrs": {found: zeroRoot, theirs: both(freeBucket,
		because(scan, "btree_root_unreadable_and_scan_found_nothing"))},

	"newer/v1.31-damaged-data":      {found: clean},
	"newer/v1.31-damaged-freespace": {found: lostRoot, theirs: because(dropped, "freespace_hole_missing")},
	"newer/v1.31-damaged-inodes": {found: map[string]int{"btree_root_read_error": 1}, theirs: both(because(scan, "bset_bad_csum",
		"btree_root_unreadable_and_scan_found_nothing"), because(dropped, "subvol_to_missing_root", "inode_wrong_backpointer", "inode_dir_wrong_nlink",
		"inode_unreachable", "inode_i_sectors_wrong", "hash_table_key_wrong_offset", "dirent_to_missing_inode", "inode_dir_missing_backpointer"))},
	"newer/v1.31-poisoned": {found: clean},
	"newer/v1.39-damaged-alloc": {found: zeroRoot, theirs: because(dropped, "ptr_to_missing_alloc_key", "freespace_hole_missing",
		"backpointer_to_missing_alloc", "bucket_gens_hole_wrong", "bucket_gens_key_wrong")},
	"newer/v1.39-damaged-data":           {found: clean},
	"newer/v1.39-damaged-dirent-missing": {found: map[string]int{"inode_points_to_missing_dirent": 1, "inode_unreachable": 1}},
	"newer/v1.39-damaged-dirents": {found: map[string]int{"btree_root_read_error": 1, "inode_points_to_missing_dirent": 24, "inode_unreachable": 24},
		theirs: because(scan, "bset_bad_csum"), ours: both(noRoot, because(older, "inode_points_to_missing_dirent", "inode_unreachable"))},
	"newer/v1.39-damaged-extents":       {found: lostRoot, theirs: because(anyway, "accounting_mismatch"), ours: noRoot},
	"newer/v1.39-damaged-inode-sectors": {found: map[string]int{"inode_i_sectors_wrong": 2}},
	"newer/v1.39-damaged-sb":            {found: map[string]int{"": 1}},
	"newer/v1.39-poisoned":              {found: clean},
}

// lines tell, by what the reference prints, what it found in the layers that we check.
var lines = []struct{ pattern, name string }{
	{`error reading btree root`, "btree_root_read_error"},
	{`bset u64s \d+: checksum error`, "bset_bad_csum"},
	{`incorrect max key U64`, "btree_node_bad_max_key"},
	{`bad magic: want`, "btree_node_bad_magic"},
	{`keys out of order`, "btree_node_bkey_out_of_order"},
	{`btree node with incorrect max_key`, "btree_node_topology_bad_max_key"},
	{`no nodes found for btree`, "btree_root_unreadable_and_scan_found_nothing"},
	{`btree node read error for`, "btree_node_read_error"},
	{`missing in alloc btree`, "ptr_to_missing_alloc_key"},
	{`has wrong data_type`, "alloc_key_data_type_wrong"},
	{`has wrong dirty_sectors`, "alloc_key_dirty_sectors_wrong"},
	{`has wrong gen:`, "alloc_key_gen_wrong"},
	{`accounting mismatch for`, "accounting_mismatch"},
	{`incorrect key in need_discard btree`, "need_discard_key_wrong"},
	{`hole in alloc btree missing in freespace`, "freespace_hole_missing"},
	{`hole in alloc btree at \d+:\d+ with nonzero gen`, "bucket_gens_hole_wrong"},
	{`incorrect gen in bucket_gens btree`, "bucket_gens_key_wrong"},
	{`ackpointer for nonexistent alloc key`, "backpointer_to_missing_alloc"},
	{`ackpointer for missing`, "backpointer_to_missing_ptr"},
	{`missing backpointer for btree`, "ptr_to_missing_backpointer"},
	{`incorrect lru entry`, "lru_entry_bad"},
	{`key version number higher`, "bkey_version_in_future"},
	{`journal entries \d+-\d+ missing`, "journal_entries_missing"},
	{`points to missing subvolume root`, "subvol_to_missing_root"},
	{`dirent points to own directory`, "dirent_to_itself"},
	{`key in missing snapshot`, "bkey_in_missing_snapshot"},
	{`inodes in different snapshots don't match`, "inode_snapshot_mismatch"},
	{`inode points to missing dirent`, "inode_points_to_missing_dirent"},
	{`inode points to dirent that does not point back`, "inode_points_to_wrong_dirent"},
	{`inode unlinked but has dirent`, "inode_unlinked_but_has_dirent"},
	{`dir unlinked but not empty`, "inode_dir_unlinked_but_not_empty"},
	{`has_child_snapshots flag wrong`, "inode_has_child_snapshots_wrong"},
	{`unlinked, but not on deleted list`, "unlinked_inode_not_on_deleted_list"},
	{`but nonzero parent subvol`, "inode_bi_parent_nonzero"},
	{`bi_subvol points to missing subvolume`, "inode_bi_subvol_missing"},
	{`points to subvol \d+, but subvol points to`, "inode_bi_subvol_wrong"},
	{`incorrect i_sectors: got`, "inode_i_sectors_wrong"},
	{`extent type past end of inode`, "extent_past_end_of_inode"},
	{`overlapping extents`, "extent_overlapping"},
	{`key in missing inode`, "key_in_missing_inode"},
	{`key for wrong inode mode`, "key_in_wrong_inode_type"},
	{`hash table key at wrong offset`, "hash_table_key_wrong_offset"},
	{`duplicate hash table keys`, "hash_table_key_duplicate"},
	{`dirent parent_subvol points to missing`, "dirent_to_missing_parent_subvol"},
	{`dirent not visible in parent_subvol`, "dirent_not_visible_in_parent_subvol"},
	{`dirent points to missing subvolume`, "dirent_to_missing_subvol"},
	{`subvol with wrong fs_path_parent`, "subvol_fs_path_parent_wrong"},
	{`has wrong bi_parent_subvol`, "inode_bi_parent_wrong"},
	{`dirent points to missing inode`, "dirent_to_missing_inode"},
	{`directory with missing backpointer`, "inode_dir_missing_backpointer"},
	{`has wrong backpointer|dirent points to inode that does not point back`, "inode_wrong_backpointer"},
	{`(directory|subvolume) \d+:\d+ with multiple links`, "inode_dir_multiple_links"},
	{`has multiple links but i_nlink 0`, "inode_multiple_links_but_nlink_0"},
	{`incorrect d_type: got`, "dirent_d_type_wrong"},
	{`directory \S* ?with wrong i_nlink`, "inode_dir_wrong_nlink"},
	{`root subvol missing`, "root_subvol_missing"},
	{`root directory missing`, "root_dir_missing"},
	{`root inode not a directory`, "root_inode_not_dir"},
	{`unreachable inode:`, "inode_unreachable"},
	{`subvolume loop`, "subvol_loop"},
	{`unreachable subvolume`, "subvol_unreachable"},
	{`directory structure loop`, "dir_loop"},
	{`type \w+ has wrong i_nlink`, "inode_wrong_nlink"},
	{`filesystem marked as clean but have deleted inode`, "deleted_inode_but_clean"},
	{`error reading default superblock|primary superblock unreadable`, ""},
}

// theirFindings reads what the reference found off its log.
func theirFindings(log string) map[string]bool {
	found := map[string]bool{}
	for _, l := range lines {
		if regexp.MustCompile(l.pattern).MatchString(log) {
			found[l.name] = true
		}
	}
	return found
}

// TestDamaged compares what we find in damaged images with what the reference found, and asks for a reason of each difference.
func TestDamaged(t *testing.T) {
	for _, img := range golden.Sample(t) {
		if !img.Damaged() {
			continue
		}
		t.Run(img.String(), func(t *testing.T) {
			t.Parallel()
			d, ok := damages[img.String()]
			if !ok {
				t.Fatal("what is to be found in it is not known")
			}
			r := check(t, openGolden(t, img), fsck.Options{})
			found := map[string]int{}
			for _, f := range r.Findings {
				found[f.Name()]++
			}
			if !maps.Equal(found, d.found) {
				t.Errorf("found %v, want %v", found, d.found)
				for _, f := range r.Findings[:min(len(r.Findings), 20)] {
					t.Logf("%s: %v", f.Pass, &f)
				}
			}
			log := img.Log("kernel-log") + img.Log("fsck-log")
			if log == "" {
				t.Skip("no log of the reference")
			}
			compareFindings(t, found, theirFindings(log), &d)
		})
	}
}

// compareFindings wants a reason for what only one side found, and none for anything else.
func compareFindings(t *testing.T, ours map[string]int, theirs map[string]bool, d *damage) {
	t.Helper()
	for name := range theirs {
		if ours[name] == 0 && d.theirs[name] == "" {
			t.Errorf("the reference finds %q, we do not", name)
		}
	}
	for name := range ours {
		if !theirs[name] && d.ours[name] == "" {
			t.Errorf("we find %q, the reference does not", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.theirs)) {
		if ours[name] > 0 || !theirs[name] {
			t.Errorf("%q needs no reason: ours %d, theirs %v", name, ours[name], theirs[name])
		}
	}
	for name := range d.ours {
		if theirs[name] || ours[name] == 0 {
			t.Errorf("%q needs no reason: ours %d, theirs %v", name, ours[name], theirs[name])
		}
	}
}
