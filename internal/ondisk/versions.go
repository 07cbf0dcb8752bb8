package ondisk

import (
	"fmt"
	"strconv"
	"strings"
)

// versionInfo describes one metadata version (BCH_METADATA_VERSIONS).
type versionInfo struct {
	name string
	// incompat: something that older readers cannot make sense of came with it, whose use VERSION_INCOMPAT records.
	incompat bool
}

// versionsOld are the versions before 1.0, from [firstNamedVersion] on.
var versionsOld = [...]string{"bkey_renumber", "inode_btree_change", "snapshot", "inode_backpointers",
	"btree_ptr_sectors_written", "snapshot_2", "reflink_p_fix", "subvol_dirent", "inode_v2", "freespace", "alloc_v4",
	"new_data_types", "backpointers", "inode_v3", "unwritten_extents", "bucket_gens", "lru_v2", "fragmentation_lru",
	"no_bps_in_alloc_keys", "snapshot_trees"}

const firstNamedVersion MetadataVersion = 10

// versions are the versions from 1.0 on, indexed by the minor number.
var versions = [...]versionInfo{
	{name: "major_minor"},
	{name: "snapshot_skiplists"},
	{name: "deleted_inodes"},
	{name: "rebalance_work"},
	{name: "member_seq"},
	{name: "subvolume_fs_parent"},
	{name: "btree_subvolume_children"},
	{name: "mi_btree_bitmap"},
	{name: "bucket_stripe_sectors"},
	{name: "disk_accounting_v2"},
	{name: "disk_accounting_v3"},
	{name: "disk_accounting_inum"},
	{name: "rebalance_work_acct_fix"},
	{name: "inode_has_child_snapshots"},
	{name: "backpointer_bucket_gen"},
	{name: "disk_accounting_big_endian"},
	{name: "reflink_p_may_update_opts", incompat: true},
	{name: "inode_depth"},
	{name: "persistent_inode_cursors"},
	{name: "autofix_errors"},
	{name: "directory_size"},
	{name: "cached_backpointers"},
	{name: "stripe_backpointers"},
	{name: "stripe_lru"},
	{name: "casefolding", incompat: true},
	{name: "extent_flags", incompat: true},
	{name: "snapshot_deletion_v2", incompat: true},
	{name: "fast_device_removal", incompat: true},
	{name: "inode_has_case_insensitive"},
	{name: "extent_snapshot_whiteouts", incompat: true},
	{name: "31bit_dirent_offset", incompat: true},
	{name: "btree_node_accounting"},
	{name: "sb_field_extent_type_u64s", incompat: true},
	{name: "reconcile", incompat: true},
	{name: "extented_key_type_error", incompat: true},
	{name: "bucket_stripe_index"},
	{name: "no_sb_user_data_replicas", incompat: true},
	{name: "erasure_coding"},
	{name: "need_discard_by_journal_seq"},
	{name: "per_dev_fragmentation_lru"},
}

// Name is the upstream name of the version, which is that of the change it came with; "" if it has none.
func (v MetadataVersion) Name() string {
	switch {
	case v.Major() == 1 && int(v.Minor()) < len(versions):
		return versions[v.Minor()].name
	case v >= firstNamedVersion && int(v-firstNamedVersion) < len(versionsOld):
		return versionsOld[v-firstNamedVersion]
	}
	return ""
}

// Incompatible reports whether what came with the version must not be used before VERSION_INCOMPAT allows and records it.
func (v MetadataVersion) Incompatible() bool {
	return v.Major() == 1 && int(v.Minor()) < len(versions) && versions[v.Minor()].incompat
}

// Long is the version with its name, as show-super prints it.
func (v MetadataVersion) Long() string {
	name := v.Name()
	if name == "" {
		name = "(unknown version)"
	}
	return v.String() + ": " + name
}

// ParseVersion reads a version as "1.13", as its name, or as the number that is stored.
func ParseVersion(s string) (MetadataVersion, error) {
	for minor := range versions {
		if versions[minor].name == s {
			return MetadataVersion(1<<10 | minor), nil
		}
	}
	for i, name := range versionsOld {
		if name == s {
			return firstNamedVersion + MetadataVersion(i), nil
		}
	}
	if major, minor, ok := strings.Cut(s, "."); ok {
		hi, err := strconv.ParseUint(major, 10, 6)
		lo, err2 := strconv.ParseUint(minor, 10, 10)
		if err == nil && err2 == nil {
			return MetadataVersion(hi<<10 | lo), nil
		}
	} else if n, err := strconv.ParseUint(s, 10, 16); err == nil {
		return MetadataVersion(n), nil
	}
	return 0, fmt.Errorf("version %q: want a number such as %v, or the name of a version", s, VersionDefault)
}
