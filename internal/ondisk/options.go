package ondisk

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// optionKind is how the value of an option is stored and written.
type optionKind uint8

const (
	optUint        optionKind = iota
	optBool                   // 0 or 1
	optSectors                // stored in sectors, written in bytes
	optSectors2               // stored as log2 of sectors
	optEnum                   // an index into names
	optCompression            // type | level<<4, the nibbles stored apart
	optTarget                 // nothing, a device or a disk group
)

// Option is an option of the filesystem that the superblock stores (enum bch_opt_id).
type Option struct {
	Name         string
	Since, Until MetadataVersion // versions that have it: Since ≤ v < Until; 0 bounds nothing
	kind         optionKind
	word, lo, hi int // where in the flags; word -1 is the block size
	hiWord, hiLo int // of the level of a compression option
	names        []string
	min, max     uint64 // values that it may have, as [Superblock.Option] returns them; max 0 bounds nothing
}

var (
	errorActions    = []string{"continue", "fix_safe", "panic", "ro"}
	csumOptions     = []string{"none", "crc32c", "crc64", "xxhash"}
	compressOptions = []string{"none", "lz4", "gzip", "zstd"}
	strHashOptions  = []string{"crc32c", "crc64", "siphash"}
	upgradeOptions  = []string{"compatible", "incompatible", "none"}
	degradedOptions = []string{"ask", "yes", "very", "no"}
	scrubOptions    = []string{"unclean", "no", "always"}
)

func minor(n uint16) MetadataVersion { return MetadataVersion(1<<10 | n) }

// options is the table of all stored options, in the order in which the reference prints them.
var options = []Option{
	{Name: "block_size", kind: optSectors, word: -1},
	{Name: "btree_node_size", kind: optSectors, word: 0, lo: 12, hi: 28, min: 512, max: maxNodeBytes},
	{Name: "errors", kind: optEnum, word: 0, lo: 8, hi: 12, names: errorActions},
	{Name: "write_error_timeout", Since: minor(25), word: 6, lo: 4, hi: 14, min: 1, max: 300},
	{Name: "metadata_replicas", word: 0, lo: 48, hi: 52, min: 1, max: 4},
	{Name: "data_replicas", word: 0, lo: 52, hi: 56, min: 1, max: 4},
	{Name: "metadata_replicas_required", Until: minor(14), word: 1, lo: 20, hi: 24, min: 1, max: 3},
	{Name: "data_replicas_required", Until: minor(14), word: 1, lo: 24, hi: 28, min: 1, max: 3},
	{Name: "encoded_extent_max", kind: optSectors2, word: 1, lo: 14, hi: 20, min: 4096, max: 2 << 20},
	{Name: "metadata_checksum", kind: optEnum, word: 0, lo: 40, hi: 44, names: csumOptions},
	{Name: "data_checksum", kind: optEnum, word: 0, lo: 44, hi: 48, names: csumOptions},
	{Name: "checksum_err_retry_nr", Since: minor(25), word: 6, lo: 14, hi: 20, max: 32},
	{Name: "compression", kind: optCompression, word: 1, lo: 4, hi: 8, hiWord: 4, hiLo: 56},
	{Name: "background_compression", kind: optCompression, word: 2, lo: 0, hi: 4, hiWord: 4, hiLo: 60},
	{Name: "str_hash", kind: optEnum, word: 1, lo: 0, hi: 4, names: strHashOptions},
	{Name: "metadata_target", kind: optTarget, word: 3, lo: 16, hi: 28},
	{Name: "foreground_target", kind: optTarget, word: 1, lo: 40, hi: 52},
	{Name: "background_target", kind: optTarget, word: 1, lo: 52, hi: 64},
	{Name: "promote_target", kind: optTarget, word: 1, lo: 28, hi: 40},
	{Name: "erasure_code", kind: optBool, word: 3, lo: 0, hi: 16},
	{Name: "ec_max_data_blocks", Since: minor(38), word: 6, lo: 50, hi: 58, max: 15},
	{Name: "casefold", Since: minor(25), kind: optBool, word: 6, lo: 22, hi: 23},
	{Name: "inodes_32bit", kind: optBool, word: 1, lo: 8, hi: 9},
	{Name: "shard_inode_numbers", Until: minor(18), kind: optBool, word: 3, lo: 28, hi: 29},
	{Name: "shard_inode_numbers_bits", Since: minor(18), word: 6, lo: 0, hi: 4},
	{Name: "inodes_use_key_cache", Until: minor(32), kind: optBool, word: 3, lo: 29, hi: 30},
	{Name: "gc_reserve_percent", word: 0, lo: 28, hi: 33, min: 5, max: 20},
	{Name: "gc_reserve_bytes", kind: optSectors, word: 2, lo: 4, hi: 64},
	{Name: "root_reserve_percent", word: 0, lo: 33, hi: 40, max: 100},
	{Name: "wide_macs", kind: optBool, word: 1, lo: 9, hi: 10},
	{Name: "promote_whole_extents", kind: optBool, word: 0, lo: 63, hi: 64},
	{Name: "acl", kind: optBool, word: 0, lo: 56, hi: 57},
	{Name: "usrquota", kind: optBool, word: 0, lo: 57, hi: 58},
	{Name: "grpquota", kind: optBool, word: 0, lo: 58, hi: 59},
	{Name: "prjquota", kind: optBool, word: 0, lo: 59, hi: 60},
	{Name: "degraded", Since: minor(25), kind: optEnum, word: 6, lo: 20, hi: 22, names: degradedOptions},
	{Name: "journal_flush_delay", word: 3, lo: 30, hi: 62, min: 1, max: 1<<32 - 2},
	{Name: "journal_flush_disabled", kind: optBool, word: 3, lo: 62, hi: 63},
	{Name: "journal_reclaim_delay", word: 4, lo: 0, hi: 32, max: 1<<32 - 2},
	{Name: "move_writes_fua", Since: minor(38), kind: optBool, word: 6, lo: 58, hi: 59},
	{Name: "writeback_timeout", Since: minor(33), word: 6, lo: 24, hi: 40},
	{Name: "journal_transaction_names", kind: optBool, word: 4, lo: 32, hi: 33},
	{Name: "allocator_stuck_timeout", word: 5, lo: 16, hi: 32, max: 65534},
	{Name: "version_upgrade", kind: optEnum, word: 4, lo: 54, hi: 56, names: upgradeOptions},
	{Name: "nocow", kind: optBool, word: 4, lo: 33, hi: 34},
	{Name: "reconcile_on_ac_only", Since: minor(27), kind: optBool, word: 6, lo: 23, hi: 24},
	{Name: "scrub_recent_journal_entries", Since: minor(36), kind: optEnum, word: 6, lo: 48, hi: 50, names: scrubOptions},
}

// Options lists the stored options that filesystems of a version have.
func Options(v MetadataVersion) []Option {
	return slices.DeleteFunc(slices.Clone(options), func(o Option) bool { return o.Since > v || o.Until != 0 && o.Until <= v })
}

// FindOption finds a stored option by its name.
func FindOption(name string) (Option, bool) {
	i := slices.IndexFunc(options, func(o Option) bool { return o.Name == name })
	if i < 0 {
		return Option{}, false
	}
	return options[i], true
}

// Option returns the value of an option: a number, bytes for sizes, an index for names, type | level<<4 for compression.
func (sb *Superblock) Option(o Option) uint64 {
	if o.word < 0 {
		return uint64(sb.BlockBytes())
	}
	v := sb.flag(o.word, o.lo, o.hi)
	switch o.kind {
	case optSectors:
		return v * SectorSize
	case optSectors2:
		return SectorSize << min(v, 50)
	case optCompression:
		return v | sb.flag(o.hiWord, o.hiLo, o.hiLo+4)<<4
	}
	return v
}

// SetOption stores a value as [Superblock.Option] returns it. It fails if there is no room for it.
func (sb *Superblock) SetOption(o Option, v uint64) error {
	stored := v
	switch {
	case o.kind == optSectors && v%SectorSize == 0:
		stored = v / SectorSize
	case o.kind == optSectors2 && v >= SectorSize && v&(v-1) == 0:
		for stored = 0; SectorSize<<stored < v; stored++ {
		}
	case o.kind == optSectors || o.kind == optSectors2:
		return fmt.Errorf("option %s: %d bytes cannot be stored", o.Name, v)
	case o.kind == optCompression && v < 1<<8:
		sb.setFlag(o.hiWord, o.hiLo, o.hiLo+4, v>>4)
		stored = v & 15
	}
	if o.word < 0 {
		if stored == 0 || stored > maxBlockSectors {
			return fmt.Errorf("option %s: %d bytes cannot be stored", o.Name, v)
		}
		sb.BlockSize = uint16(stored)
		return nil
	}
	if o.hi-o.lo < 64 && stored>>(o.hi-o.lo) != 0 {
		return fmt.Errorf("option %s: %d cannot be stored", o.Name, v)
	}
	sb.setFlag(o.word, o.lo, o.hi, stored)
	return nil
}

func (sb *Superblock) setFlag(word, lo, hi int, v uint64) {
	mask := uint64(1)<<(hi-lo) - 1
	sb.Flags[word] = sb.Flags[word]&^(mask<<lo) | v&mask<<lo
}

// OptionText writes the value of an option as mount options have it, "zstd:3".
func (sb *Superblock) OptionText(o Option) string { return sb.optionText(o, false) }

// optionText with full writes all names there are, the one chosen in brackets.
func (sb *Superblock) optionText(o Option, full bool) string {
	v := sb.Option(o)
	switch o.kind {
	case optSectors, optSectors2:
		return sizeText(v)
	case optEnum:
		if full {
			return fullList(o.names, v)
		}
		if v < uint64(len(o.names)) {
			return o.names[v]
		}
	case optCompression:
		return CompressionText(uint8(v))
	case optTarget:
		return sb.TargetText(uint16(v))
	}
	return strconv.FormatUint(v, 10)
}

func fullList(names []string, v uint64) string {
	var b strings.Builder
	for i, n := range names {
		if i > 0 {
			b.WriteByte(' ')
		}
		if uint64(i) == v {
			n = "[" + n + "]"
		}
		b.WriteString(n)
	}
	if v >= uint64(len(names)) {
		fmt.Fprintf(&b, " (invalid option %d)", v)
	}
	return b.String()
}

// CompressionText writes a compression option: "zstd:3", without level for the default one.
func CompressionText(v uint8) string {
	t, level := v&15, v>>4
	if int(t) >= len(compressOptions) {
		return fmt.Sprintf("(invalid compression type %d)", t)
	}
	if level == 0 {
		return compressOptions[t]
	}
	return fmt.Sprintf("%s:%d", compressOptions[t], level)
}

// Targets: 0 is none, then come devices, from targetGroups on disk groups.
const targetGroups = 257

// TargetText writes a target: none, a device or the label of a disk group.
func (sb *Superblock) TargetText(t uint16) string {
	switch {
	case t == 0:
		return "none"
	case t < targetGroups:
		return fmt.Sprintf("device %d", t-1)
	}
	if p := sb.GroupPath(int(t) - targetGroups); p != "" {
		return p
	}
	return fmt.Sprintf("invalid label %d", t-targetGroups)
}

// validateOptions checks that the options have values that they may have. One that must not be 0 may be so when read, for
// then its default holds: who wrote the superblock did not know the option.
func (sb *Superblock) validateOptions(mode ValidateMode) error {
	for _, o := range Options(sb.Version) {
		v := sb.Option(o)
		if v == 0 && mode == ValidateRead {
			continue
		}
		if err := o.check(v); err != nil {
			return fmt.Errorf("superblock: %w", err)
		}
	}
	return nil
}

// check reports whether an option may have a value.
func (o Option) check(v uint64) error {
	most, ok := o.max, true
	switch o.kind {
	case optBool:
		most = 1
	case optEnum:
		most = uint64(len(o.names) - 1)
	case optCompression: // without compression there is no level
		most, ok = 0xff, v&15 < uint64(len(compressOptions)) && (v&15 != 0 || v == 0)
	case optSectors2:
		ok = v&(v-1) == 0
	}
	if ok && v >= o.min && (most == 0 || v <= most) {
		return nil
	}
	return fmt.Errorf("option %s: invalid value %d", o.Name, v)
}
