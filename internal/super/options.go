package super

import (
	"fmt"
	"slices"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// When an option may be set.
const (
	whenFormat  = 1 << iota // when a filesystem is made
	whenMount               // by set-fs-option: what may be given at mount too
	whenRuntime             // on a mounted filesystem
)

// optionInfo is what version 1.13 knows of an option beside how it is stored (BCH_OPTS).
type optionInfo struct {
	name  string
	when  int
	value uint64 // the default
	help  string
}

const (
	fmr = whenFormat | whenMount | whenRuntime
	fm  = whenFormat | whenMount
	mr  = whenMount | whenRuntime
)

// infos are the options of version 1.13, in the order in which the reference lists them. The defaults of block_size and
// btree_node_size depend on the devices.
var infos = []optionInfo{
	{"block_size", whenFormat, 0, "Size of blocks; by default the largest physical block of the devices"},
	{"btree_node_size", whenFormat, 0, "Size of btree nodes, at least 16k and eight blocks; by default 256k, or the size of buckets if that is less"},
	{"errors", fmr, 1, "What to do when the filesystem is found damaged"},
	{"metadata_replicas", fmr, 1, "Number of metadata replicas"},
	{"data_replicas", fmr, 1, "Number of data replicas"},
	{"metadata_replicas_required", fm, 1, "Number of metadata replicas below which writes fail"},
	{"data_replicas_required", fm, 1, "Number of data replicas below which writes fail"},
	{"encoded_extent_max", whenFormat, 64 << 10, "Size of the largest checksummed or compressed extent"},
	{"metadata_checksum", fmr, 1, "Checksum of metadata"},
	{"data_checksum", fmr, 1, "Checksum of data"},
	{"compression", fmr, 0, "Compression of data, with a level as in zstd:3 or without"},
	{"background_compression", fmr, 0, "Compression of data afterwards, in the background"},
	{"str_hash", fmr, 2, "Hash function for the names of directory entries and xattrs"},
	{"metadata_target", fmr, 0, "Device or label for metadata"},
	{"foreground_target", fmr, 0, "Device or label for data as it is written"},
	{"background_target", fmr, 0, "Device or label that data is moved to in the background"},
	{"promote_target", fmr, 0, "Device or label that data is copied to when it is read"},
	{"erasure_code", fmr, 0, "Erasure coding of data: not finished in the driver of version 1.13"},
	{"inodes_32bit", fmr, 1, "Inode numbers of 32 bits only"},
	{"shard_inode_numbers", fmr, 1, "New inode numbers by CPU"},
	{"inodes_use_key_cache", fm, 1, "Key cache for the inodes btree"},
	{"gc_reserve_percent", fmr, 8, "Percentage of space that is reserved for copygc"},
	{"gc_reserve_bytes", fmr, 0, "Space that is reserved for copygc, instead of a percentage"},
	{"root_reserve_percent", fm, 0, "Percentage of space that is reserved for the superuser"},
	{"wide_macs", fmr, 0, "Message authentication codes of encrypted data in full: 128 bits, not 80"},
	{"promote_whole_extents", mr, 1, "Promote whole extents and not just what was read"},
	{"acl", fm, 1, "POSIX ACLs"},
	{"usrquota", fm, 0, "Quotas of users"},
	{"grpquota", fm, 0, "Quotas of groups"},
	{"prjquota", fm, 0, "Quotas of projects"},
	{"journal_flush_delay", mr, 1000, "Milliseconds until the journal is committed by itself"},
	{"journal_flush_disabled", mr, 0, "No journal commits on sync and fsync: what was written since the last is lost in a crash"},
	{"journal_reclaim_delay", mr, 100, "Milliseconds until the journal is reclaimed by itself"},
	{"journal_transaction_names", fmr, 1, "Names of transactions in the journal"},
	{"allocator_stuck_timeout", fmr, 30, "Seconds until a stuck allocator is told of"},
	{"version_upgrade", whenMount, 0, "Upgrade to the driver's version when it is mounted"},
	{"nocow", fmr, 0, "Write in place where possible, without checksums, compression and encryption"},
}

// Option is an option that can be set when a filesystem is made or later.
type Option struct {
	ondisk.Option
	Help    string
	Default string // as text; "" if it depends on the devices
	// Format, Mount and Runtime say when it may be set: when formatting, in the superblock of an existing filesystem, and
	// while that is mounted.
	Format, Mount, Runtime bool
}

// Options lists the options of the filesystems that [Build] makes, in the reference's order.
func Options() []Option {
	all := make([]Option, 0, len(infos))
	for _, info := range infos {
		all = append(all, info.option())
	}
	return all
}

// FindOption finds an option by its name. The reference takes quota for usrquota.
func FindOption(name string) (Option, bool) {
	if name == "quota" {
		name = "usrquota"
	}
	i := slices.IndexFunc(infos, func(info optionInfo) bool { return info.name == name })
	if i < 0 {
		return Option{}, false
	}
	return infos[i].option(), true
}

func (info *optionInfo) option() Option {
	stored, ok := ondisk.FindOption(info.name)
	if !ok {
		panic("super: option " + info.name + " is not stored")
	}
	o := Option{Option: stored, Help: info.help, Format: info.when&whenFormat != 0, Mount: info.when&whenMount != 0,
		Runtime: info.when&whenRuntime != 0}
	if info.value != 0 || !stored.IsSize() {
		var sb ondisk.Superblock
		if err := sb.SetOption(stored, info.value); err != nil {
			panic(err)
		}
		o.Default = sb.OptionText(stored)
	}
	return o
}

// limits113 are the largest values of version 1.13 where later versions allow more.
var limits113 = map[string]uint64{
	"block_size":           4096, // a page
	"metadata_replicas":    3,
	"data_replicas":        3,
	"encoded_extent_max":   1 << 20,
	"root_reserve_percent": 99,
}

// ParseOption reads a value of an option and checks that a filesystem of sb's version may have it. Targets are labels, or
// indexes of devices, as [ondisk.Superblock.TargetText] writes them.
func ParseOption(sb *ondisk.Superblock, o Option, text string) (uint64, error) {
	stored := o.Option
	if most, ok := limits113[o.Name]; ok && sb.Version <= ondisk.VersionDefault {
		stored = stored.Limited(most)
	}
	return sb.ParseOption(stored, text)
}

// SetOption stores an option in the superblock of an existing filesystem and marks the features that it makes use of.
func SetOption(sb *ondisk.Superblock, o Option, v uint64) error {
	if err := sb.SetOption(o.Option, v); err != nil {
		return err
	}
	switch o.Name {
	case "compression", "background_compression":
		features := [...]ondisk.Feature{1: ondisk.FeatureLZ4, 2: ondisk.FeatureGzip, 3: ondisk.FeatureZstd}
		if t := v & 15; t != 0 && t < uint64(len(features)) {
			sb.SetFeature(features[t])
		}
	case "erasure_code":
		if v != 0 {
			sb.SetFeature(ondisk.FeatureEC)
		}
	}
	return nil
}

// CheckOptions checks what options must agree on.
func CheckOptions(sb *ondisk.Superblock) error {
	for _, r := range [][2]string{{"metadata_replicas_required", "metadata_replicas"}, {"data_replicas_required", "data_replicas"}} {
		required, _ := FindOption(r[0])
		want, _ := FindOption(r[1])
		if r, w := sb.Option(required.Option), sb.Option(want.Option); r > w {
			return fmt.Errorf("%s=%d: it is more than %s=%d", required.Name, r, want.Name, w)
		}
	}
	return nil
}
