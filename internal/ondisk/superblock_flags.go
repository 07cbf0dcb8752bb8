package ondisk

import "fmt"

// flag returns bits [lo, hi) of a word of the flags.
func (sb *Superblock) flag(word, lo, hi int) uint64 {
	return sb.Flags[word] >> lo & (1<<(hi-lo) - 1)
}

// Initialized reports whether a first mount has made the filesystem's root directory.
func (sb *Superblock) Initialized() bool { return sb.flag(0, 0, 1) != 0 }

// IsClean reports whether the filesystem was shut down properly: the clean section counts, the journal does not.
func (sb *Superblock) IsClean() bool { return sb.flag(0, 1, 2) != 0 }

// BtreeNodeSize is the size of btree nodes in bytes.
func (sb *Superblock) BtreeNodeSize() int { return int(sb.flag(0, 12, 28)) * SectorSize }

// BlockBytes is the block size in bytes.
func (sb *Superblock) BlockBytes() int { return int(sb.BlockSize) * SectorSize }

// Encrypted reports whether new data and metadata are encrypted; older ones may be whenever there is a crypt section.
func (sb *Superblock) Encrypted() bool { return sb.flag(1, 10, 14) != 0 }

// EncodedExtentMax is the size of the largest checksummed or compressed extent, in bytes.
func (sb *Superblock) EncodedExtentMax() int64 { return SectorSize << min(sb.flag(1, 14, 20), 20) }

// VersionUpgradeComplete is the version up to which everything on disk was upgraded.
func (sb *Superblock) VersionUpgradeComplete() MetadataVersion {
	if v := MetadataVersion(sb.flag(5, 0, 16)); v != 0 {
		return v
	}
	return sb.Version
}

// hasIncompatVersion is the feature bit that says that the fields of incompatible versions mean something.
func (sb *Superblock) hasIncompatVersion() bool { return sb.HasFeature(FeatureIncompatVersionField) }

// VersionIncompat is the newest version of which an incompatible feature was used; 0 if none.
func (sb *Superblock) VersionIncompat() MetadataVersion {
	if !sb.hasIncompatVersion() {
		return 0
	}
	return MetadataVersion(sb.flag(5, 32, 48))
}

// VersionIncompatAllowed is the newest version of which incompatible features may be used; 0 if none.
func (sb *Superblock) VersionIncompatAllowed() MetadataVersion {
	if !sb.hasIncompatVersion() {
		return 0
	}
	return min(MetadataVersion(sb.flag(5, 48, 64)), sb.Version)
}

// BackpointerShift is how far the positions of backpointers are shifted.
func (sb *Superblock) BackpointerShift() uint {
	if s := sb.flag(6, 40, 48); s != 0 {
		return uint(s)
	}
	return 10
}

// DirentHash is the type of hash of new directories' names (enum bch_str_hash_type).
func (sb *Superblock) DirentHash() uint8 {
	t := uint8(sb.flag(1, 0, 4))
	if t == 2 && sb.HasFeature(FeatureNewSiphash) {
		return 3
	}
	return t
}

// Feature is a bit of incompatible features (enum bch_sb_feature): who does not know one that is set must not touch the filesystem.
type Feature uint8

// Features.
const (
	FeatureLZ4 Feature = iota
	FeatureGzip
	FeatureZstd
	FeatureAtomicNlink
	FeatureEC
	FeatureJournalSeqBlacklistV3
	FeatureReflink
	FeatureNewSiphash
	FeatureInlineData
	FeatureNewExtentOverwrite
	FeatureIncompressible
	FeatureBtreePtrV2
	FeatureExtentsAboveBtreeUpdates
	FeatureBtreeUpdatesJournalled
	FeatureReflinkInlineData
	FeatureNewVarint
	FeatureJournalNoFlush
	FeatureAllocV2
	FeatureExtentsAcrossBtreeNodes
	FeatureIncompatVersionField
	FeatureCasefolding
	FeatureNoAllocInfo
	FeatureSmallImage
	FeatureNoDefaultSB
	NumFeatures
)

var featureNames = [NumFeatures]string{"lz4", "gzip", "zstd", "atomic_nlink", "ec", "journal_seq_blacklist_v3", "reflink",
	"new_siphash", "inline_data", "new_extent_overwrite", "incompressible", "btree_ptr_v2", "extents_above_btree_updates",
	"btree_updates_journalled", "reflink_inline_data", "new_varint", "journal_no_flush", "alloc_v2",
	"extents_across_btree_nodes", "incompat_version_field", "casefolding", "no_alloc_info", "small_image", "no_default_sb"}

func (f Feature) String() string {
	if f < NumFeatures {
		return featureNames[f]
	}
	return fmt.Sprintf("(unknown feature %d)", uint8(f))
}

// HasFeature reports whether an incompatible feature is in use.
func (sb *Superblock) HasFeature(f Feature) bool { return sb.Features[f/64]>>(f%64)&1 != 0 }

var compatNames = []string{"alloc_info", "alloc_metadata", "extents_above_btree_updates_done", "bformat_overflow_done", "no_stale_ptrs"}

// FeatureNames lists the incompatible features in use.
func (sb *Superblock) FeatureNames() []string { return bitNames(sb.Features[:], featureNames[:]) }

// CompatNames lists the compatible features in use.
func (sb *Superblock) CompatNames() []string { return bitNames(sb.Compat[:], compatNames) }

func bitNames(words []uint64, names []string) (set []string) {
	for i, w := range words {
		for bit := range 64 {
			switch n := 64*i + bit; {
			case w>>bit&1 == 0:
			case n < len(names):
				set = append(set, names[n])
			default:
				set = append(set, fmt.Sprintf("(unknown bit %d)", n))
			}
		}
	}
	return set
}
