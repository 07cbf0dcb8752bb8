package ondisk

import "fmt"

// CounterID numbers the event counters kept in the superblock (enum bch_persistent_counters_stable).
type CounterID uint16

const (
	// NumCounters is the number of counters with a name, those of metadata version 1.39.
	NumCounters CounterID = 136
)

// versionCounters is when counters got their present names; 32 and 33 changed places then.
const versionCounters MetadataVersion = 1<<10 | 20

// counterNames is indexed by the number of the counter.
var counterNames = [NumCounters]string{
	"data_read", "data_write", "data_update", "bucket_invalidate", "bucket_discard", "bucket_alloc",
	"bucket_alloc_fail", "btree_cache_scan", "btree_cache_reap", "btree_cache_cannibalize",
	"btree_cache_cannibalize_lock", "btree_cache_cannibalize_lock_fail", "btree_cache_cannibalize_unlock",
	"btree_node_write", "btree_node_read", "btree_node_compact", "btree_node_merge", "btree_node_split",
	"btree_node_rewrite", "btree_node_alloc", "btree_node_free", "btree_node_set_root", "btree_path_relock_fail",
	"btree_path_upgrade_fail", "btree_reserve_get_fail", "journal_res_get_blocked", "journal_full",
	"journal_reclaim_finish", "journal_reclaim_start", "journal_write", "data_read_promote", "data_read_bounce",
	"data_read_retry", "data_read_split", "data_read_reuse_race", "data_update_read", "data_update_write",
	"data_update_key", "data_update_key_fail", "move_extent_start_fail", "copygc", "copygc_wait", "gc_gens_end",
	"gc_gens_start", "trans_blocked_journal_reclaim", "trans_restart_btree_node_reused",
	"trans_restart_btree_node_split", "trans_restart_fault_inject", "trans_restart_iter_upgrade",
	"trans_restart_journal_preres_get", "trans_restart_journal_reclaim", "trans_restart_journal_res_get",
	"trans_restart_key_cache_key_realloced", "trans_restart_key_cache_raced", "trans_restart_mark_replicas",
	"trans_restart_mem_realloced", "trans_restart_memory_allocation_failure", "trans_restart_relock",
	"trans_restart_relock_after_fill", "trans_restart_relock_key_cache_fill", "trans_restart_relock_next_node",
	"trans_restart_relock_parent_for_fill", "trans_restart_relock_path", "trans_restart_relock_path_intent",
	"trans_restart_too_many_iters", "trans_restart_traverse", "trans_restart_upgrade",
	"trans_restart_would_deadlock", "trans_restart_would_deadlock_write", "trans_restart_injected",
	"trans_restart_key_cache_upgrade", "transaction_begin", "transaction_commit", "write_super",
	"trans_restart_would_deadlock_recursion_limit", "trans_restart_write_buffer_flush", "trans_restart_split_race",
	"write_buffer_flush_slowpath", "write_buffer_flush_sync", "bucket_discard_fast", "data_read_inline",
	"data_read_hole", "data_update_fail", "reconcile_set_pending", "evacuate_bucket", "data_read_nopromote",
	"data_read_nopromote_may_not", "data_read_nopromote_already_promoted", "data_read_nopromote_unwritten",
	"data_read_nopromote_congested", "data_update_in_flight", "data_update_no_io", "data_update_noop_obsolete",
	"error_throw", "accounting_key_to_wb_slowpath", "data_read_fail_and_poison", "data_update_pred",
	"data_read_narrow_crcs", "data_read_narrow_crcs_fail", "stripe_update_extent", "stripe_update_extent_fail",
	"btree_node_merge_attempt", "stripe_create", "stripe_create_fail", "stripe_update_bucket", "write_buffer_flush",
	"write_buffer_maybe_flush", "btree_key_cache_fill", "bucket_discard_worker", "bucket_discard_fast_worker",
	"sync_fs", "fsync", "bkey_pack_pos_fail", "reconcile_scan_fs", "reconcile_scan_metadata",
	"reconcile_scan_pending", "reconcile_scan_device", "reconcile_scan_inum", "reconcile_btree", "reconcile_data",
	"reconcile_phys", "cached_ptr_drop", "open_bucket_alloc_fail", "stripe_reuse", "stripe_delete", "stripe_alloc",
	"sectors_alloc", "bucket_alloc_from_stripe", "data_update_useless_write_fail", "reconcile_clear_scan",
	"reconcile_stripe", "stripe_repair_race", "trans_restart_deadlock_waitlist_alloc", "reconcile_scan_stripes",
	"journal_pin_resize", "journal_flush",
}

// oldCounterName is the name before 1.20 of the counters that were named otherwise.
func oldCounterName(id CounterID) (string, bool) {
	switch id {
	case 0:
		return "io_read", true
	case 1:
		return "io_write", true
	case 2:
		return "io_move", true
	case 25:
		return "journal_entry_full", true
	case 30:
		return "read_promote", true
	case 31:
		return "read_bounce", true
	case 32:
		return "read_split", true
	case 33:
		return "read_retry", true
	case 34:
		return "read_reuse_race", true
	case 35:
		return "move_extent_read", true
	case 36:
		return "move_extent_write", true
	case 37:
		return "move_extent_finish", true
	case 38:
		return "move_extent_fail", true
	case 71:
		return "trans_traverse_all", true
	}
	return "", false
}

func (id CounterID) String() string {
	if id < NumCounters {
		return counterNames[id]
	}
	return fmt.Sprintf("(unknown counter %d)", uint16(id))
}

// Name is the name of the counter in filesystems last written by software of version v, as far as can be told.
func (id CounterID) Name(v MetadataVersion) string {
	if v < versionCounters {
		if n, ok := oldCounterName(id); ok {
			return n
		}
	}
	return id.String()
}
