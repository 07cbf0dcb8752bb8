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
	lostRoot    = map[string]int{"bset_bad_csum": 1, "btree_root_read_error": 1}
	zeroRoot    = map[string]int{"btree_node_bad_magic": 1, "btree_root_read_error": 1}
	clean       = map[string]int{}
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
	"damaged/damaged-dirents-last": {found: lostRoot, ours: noRoot},
	"damaged/damaged-extents":      {found: lostRoot, theirs: badMaxKey},
	"damaged/damaged-freespace":    {found: zeroRoot, theirs: both(freeBucket, because(dropped, "freespace_hole_missing"))},
	"damaged/damaged-inodes":       {found: lostRoot, theirs: badMaxKey},
	"damaged/damaged-inodes-last": {found: lostRoot, theirs: because(anyway, "accounting_mismatch", "btree_node_bkey_out_of_order"),
		ours: noRoot},
	"damaged/damaged-inodes-zero": {found: zeroRoot, theirs: both(freeBucket, because(dropped, "subvol_to_missing_root"),
		because(scan, "btree_root_unreadable_and_scan_found_nothing"))},
	"damaged/damaged-journal-newest":      {found: clean},
	"damaged/damaged-journal-newest-zero": {found: clean},
	"damaged/damaged-journal-oldest": {found: map[string]int{"journal_entries_missing": 1, "accounting_mismatch": 1},
		ours: because(lax, "journal_entries_missing", "accounting_mismatch")},
	"damaged/damaged-journal-oldest-zero": {found: map[string]int{"journal_entries_missing": 1, "accounting_mismatch": 1}},
	"damaged/damaged-layout":              {found: clean},
	"damaged/damaged-nocsum-alloc": {
		found: map[string]int{"btree_node_bkey_out_of_order": 1, "alloc_key_data_type_wrong": 1, "alloc_key_dirty_sectors_wrong": 1,
			"ptr_to_missing_alloc_key": 1, "freespace_hole_missing": 1, "backpointer_to_missing_alloc": 1},
		theirs: because(keys, "accounting_mismatch", "btree_node_read_error"),
		ours:   because(stopped, "freespace_hole_missing", "backpointer_to_missing_alloc")},
	"damaged/damaged-nocsum-dirent-dangling": {found: clean},
	"damaged/damaged-nocsum-dirent-loop":     {found: map[string]int{"dirent_to_itself": 1}},
	"damaged/damaged-nocsum-dirent-name":     {found: clean},
	"damaged/damaged-nocsum-dirent-type":     {found: clean},
	"damaged/damaged-nocsum-extents":         {found: map[string]int{"bkey_version_in_future": 1}},
	"damaged/damaged-nocsum-inodes": {found: map[string]int{"btree_node_bkey_out_of_order": 1},
		theirs: because(keys, "accounting_mismatch")},
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
	"newer/v1.31-damaged-inodes":    {found: map[string]int{"btree_root_read_error": 1}, theirs: because(scan, "bset_bad_csum", "btree_root_unreadable_and_scan_found_nothing", "subvol_to_missing_root")},
	"newer/v1.31-poisoned":          {found: clean},
	"newer/v1.39-damaged-alloc": {found: zeroRoot, theirs: because(dropped, "ptr_to_missing_alloc_key", "freespace_hole_missing",
		"backpointer_to_missing_alloc", "bucket_gens_hole_wrong", "bucket_gens_key_wrong")},
	"newer/v1.39-damaged-data":           {found: clean},
	"newer/v1.39-damaged-dirent-missing": {found: clean},
	"newer/v1.39-damaged-dirents":        {found: map[string]int{"btree_root_read_error": 1}, theirs: because(scan, "bset_bad_csum"), ours: noRoot},
	"newer/v1.39-damaged-extents":        {found: lostRoot, theirs: because(anyway, "accounting_mismatch"), ours: noRoot},
	"newer/v1.39-damaged-inode-sectors":  {found: clean},
	"newer/v1.39-damaged-sb":             {found: map[string]int{"": 1}},
	"newer/v1.39-poisoned":               {found: clean},
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
	for _, img := range golden.Images(t) {
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
