package ondisk

import (
	"fmt"
	"math/bits"
	"slices"
	"strings"
)

// PassID numbers the recovery passes (enum bch_recovery_pass_stable). It is the bit in sets of passes on disk and the
// index in the section recovery_passes; passes run in another order, that of [PassOrder].
type PassID uint8

// NumPasses is the number of passes with a name, those of metadata version 1.39.
const NumPasses PassID = 50

// numPassesOld is the number of passes of metadata version 1.13.
const numPassesOld PassID = 41

// PassFlags say when a pass runs.
type PassFlags uint8

// When passes run. A pass with none of Always and Fsck runs only when something asks for it.
const (
	PassAlways  PassFlags = 1 << iota // at each mount
	PassFsck                          // when checking
	PassOnline                        // may run while the filesystem is in use
	PassAlloc                         // needs allocation information: left out with the feature no_alloc_info
	PassNoDefer                       // never put off to later
)

// passes is indexed by the stable number: name, flags in version 1.13, flags in 1.39.
var passes = [NumPasses]struct {
	name     string
	old, new PassFlags
}{
	{"alloc_read", PassAlways, PassAlways},
	{"stripes_read", PassAlways, 0},
	{"initialize_subvolumes", 0, 0},
	{"snapshots_read", PassAlways, PassAlways},
	{"check_topology", 0, 0},
	{"check_allocations", PassFsck, PassFsck | PassAlloc},
	{"trans_mark_dev_sbs", PassAlways, PassAlways | PassAlloc},
	{"fs_journal_alloc", PassAlways, PassAlways | PassAlloc},
	{"set_may_go_rw", PassAlways, PassAlways},
	{"journal_replay", PassAlways, PassAlways},
	{"check_alloc_info", PassOnline | PassFsck, PassOnline | PassFsck | PassAlloc},
	{"check_lrus", PassOnline | PassFsck, PassOnline | PassFsck | PassAlloc},
	{"check_btree_backpointers", PassOnline | PassFsck, PassOnline | PassFsck | PassAlloc},
	{"check_backpointers_to_extents", PassOnline | PassFsck, PassOnline},
	{"check_extents_to_backpointers", PassOnline | PassFsck, PassOnline | PassFsck | PassAlloc},
	{"check_alloc_to_lru_refs", PassOnline | PassFsck, PassOnline | PassFsck | PassAlloc},
	{"fs_freespace_init", PassAlways, PassAlways},
	{"bucket_gens_init", 0, 0},
	{"check_snapshot_trees", PassOnline | PassFsck, PassOnline | PassFsck},
	{"check_snapshots", PassOnline | PassFsck, PassAlways | PassOnline | PassFsck | PassNoDefer},
	{"check_subvols", PassOnline | PassFsck, PassOnline | PassFsck},
	{"delete_dead_snapshots", PassOnline | PassFsck, PassOnline | PassFsck},
	{"fs_upgrade_for_subvolumes", 0, 0},
	{"resume_logged_ops", PassAlways, PassAlways},
	{"check_inodes", PassFsck, PassFsck},
	{"check_extents", PassFsck, PassFsck},
	{"check_indirect_extents", PassFsck, PassOnline | PassFsck},
	{"check_dirents", PassFsck, PassFsck},
	{"check_xattrs", PassFsck, PassFsck},
	{"check_root", PassOnline | PassFsck, PassOnline | PassFsck},
	{"check_directory_structure", PassOnline | PassFsck, PassOnline | PassFsck},
	{"check_nlinks", PassFsck, PassFsck},
	{"delete_dead_inodes", PassAlways, PassAlways},
	{"fix_reflink_p", 0, 0},
	{"set_fs_needs_reconcile", 0, 0},
	{"check_subvol_children", PassOnline | PassFsck, PassOnline | PassFsck},
	{"check_subvolume_structure", PassOnline | PassFsck, PassOnline | PassFsck},
	{"scan_for_btree_nodes", 0, 0},
	{"reconstruct_snapshots", 0, 0},
	{"accounting_read", PassAlways, PassAlways},
	{"check_unreachable_inodes", PassOnline | PassFsck, PassFsck},
	{"recovery_pass_empty", 0, 0},
	{"lookup_root_inode", 0, PassAlways},
	{"check_reconcile_work", 0, PassOnline | PassFsck},
	{"delete_dead_interior_snapshots", 0, 0},
	{"merge_btree_nodes", 0, PassOnline},
	{"btree_bitmap_gc", 0, PassOnline},
	{"kill_i_generation_keys", 0, PassOnline},
	{"presplit_shard_boundaries", 0, PassAlways},
	{"check_damage", 0, PassFsck},
}

// passOrderOld and passOrder are the orders of execution in versions 1.13 and 1.39.
var (
	passOrderOld = [numPassesOld]PassID{
		37, 4, 39, 0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 38, 18, 19, 20, 35, 21, 22, 24, 25, 26,
		27, 28, 29, 40, 36, 30, 31, 23, 32, 33, 34,
	}
	passOrder = [NumPasses]PassID{
		41, 37, 4, 39, 0, 1, 2, 3, 5, 6, 7, 8, 9, 45, 48, 10, 11, 12, 13, 14, 15, 16, 17, 38, 44, 18, 19, 20, 35, 21,
		22, 24, 25, 26, 27, 28, 49, 29, 40, 36, 30, 31, 43, 23, 32, 47, 33, 34, 46, 42,
	}
)

func (p PassID) String() string {
	if p < NumPasses {
		return passes[p].name
	}
	return fmt.Sprintf("(unknown recovery pass %d)", uint8(p))
}

// Name is the name of the pass in version v.
func (p PassID) Name(v MetadataVersion) string {
	if p == passSetNeedsReconcile && v < VersionReconcile {
		return "set_fs_needs_rebalance"
	}
	return p.String()
}

const passSetNeedsReconcile PassID = 34

// Flags say when the pass runs in version v.
func (p PassID) Flags(v MetadataVersion) PassFlags {
	switch {
	case p >= NumPasses:
		return 0
	case v <= VersionDefault:
		return passes[p].old
	}
	return passes[p].new
}

// PassOrder is the order that passes run in, in version v.
func PassOrder(v MetadataVersion) []PassID {
	if v <= VersionDefault {
		return slices.Clone(passOrderOld[:])
	}
	return slices.Clone(passOrder[:])
}

// ParsePassID finds a pass by its name in any version.
func ParsePassID(name string) (PassID, error) {
	for p := range NumPasses {
		if name == p.String() || name == p.Name(VersionDefault) {
			return p, nil
		}
	}
	return 0, fmt.Errorf("no recovery pass is named %q", name)
}

// PassSet is a set of recovery passes, bit n of the first word being the pass with the stable number n.
type PassSet [2]uint64

// Has reports whether the pass is in the set.
func (s PassSet) Has(p PassID) bool { return p < 128 && s[p/64]>>(p%64)&1 != 0 }

// Add puts passes into the set.
func (s *PassSet) Add(ps ...PassID) {
	for _, p := range ps {
		s[p/64%2] |= 1 << (p % 64)
	}
}

// Passes lists the set in the order of execution of version v; those that it does not know come last.
func (s PassSet) Passes(v MetadataVersion) []PassID {
	var list []PassID
	for _, p := range PassOrder(v) {
		if s.Has(p) {
			list = append(list, p)
			s[p/64] &^= 1 << (p % 64)
		}
	}
	for i, w := range s {
		for ; w != 0; w &= w - 1 {
			list = append(list, PassID(64*i+bits.TrailingZeros64(w)))
		}
	}
	return list
}

// Text lists the names of the passes, separated by commas.
func (s PassSet) Text(v MetadataVersion) string {
	var names []string
	for _, p := range s.Passes(v) {
		names = append(names, p.Name(v))
	}
	return strings.Join(names, ",")
}
