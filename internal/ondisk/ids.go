package ondisk

import (
	"fmt"
	"slices"
)

// KeyType says what a key's value is (enum bch_bkey_type).
type KeyType uint8

// Key types. Unknown ones are carried as opaque bytes.
const (
	KeyDeleted KeyType = iota
	KeyWhiteout
	KeyError
	KeyCookie
	KeyHashWhiteout
	KeyBtreePtr
	KeyExtent
	KeyReservation
	KeyInode
	KeyInodeGeneration
	KeyDirent
	KeyXattr
	KeyAlloc
	KeyQuota
	KeyStripe
	KeyReflinkP
	KeyReflinkV
	KeyInlineData
	KeyBtreePtrV2
	KeyIndirectInlineData
	KeyAllocV2
	KeySubvolume
	KeySnapshot
	KeyInodeV2
	KeyAllocV3
	KeySet
	KeyLRU
	KeyAllocV4
	KeyBackpointer
	KeyInodeV3
	KeyBucketGens
	KeySnapshotTree
	KeyLoggedOpTruncate
	KeyLoggedOpFinsert
	KeyAccounting
	KeyInodeAllocCursor
	KeyExtentWhiteout
	KeyLoggedOpStripeUpdate
	KeyDamage
	NumKeyTypes
)

var keyTypeNames = [NumKeyTypes]string{
	"deleted", "whiteout", "error", "cookie", "hash_whiteout", "btree_ptr", "extent", "reservation", "inode",
	"inode_generation", "dirent", "xattr", "alloc", "quota", "stripe", "reflink_p", "reflink_v", "inline_data",
	"btree_ptr_v2", "indirect_inline_data", "alloc_v2", "subvolume", "snapshot", "inode_v2", "alloc_v3", "set", "lru",
	"alloc_v4", "backpointer", "inode_v3", "bucket_gens", "snapshot_tree", "logged_op_truncate", "logged_op_finsert",
	"accounting", "inode_alloc_cursor", "extent_whiteout", "logged_op_stripe_update", "damage",
}

func (t KeyType) String() string {
	if t < NumKeyTypes {
		return keyTypeNames[t]
	}
	return fmt.Sprintf("(unknown key type %d)", uint8(t))
}

// IsWhiteout reports whether t hides other keys and holds nothing: deleted, whiteout, extent_whiteout.
func (t KeyType) IsWhiteout() bool {
	return t == KeyDeleted || t == KeyWhiteout || t == KeyExtentWhiteout
}

// BtreeID names a btree (enum btree_id). Ids from [NumBtrees] on may be met in images of newer writers.
type BtreeID uint8

// Btrees.
const (
	BtreeExtents BtreeID = iota
	BtreeInodes
	BtreeDirents
	BtreeXattrs
	BtreeAlloc
	BtreeQuotas
	BtreeStripes
	BtreeReflink
	BtreeSubvolumes
	BtreeSnapshots
	BtreeLRU
	BtreeFreespace
	BtreeNeedDiscard
	BtreeBackpointers
	BtreeBucketGens
	BtreeSnapshotTrees
	BtreeDeletedInodes
	BtreeLoggedOps
	BtreeReconcileWork // named rebalance_work before 1.33
	BtreeSubvolumeChildren
	BtreeAccounting
	BtreeReconcileHipri
	BtreeReconcilePending
	BtreeReconcileScan
	BtreeReconcileWorkPhys
	BtreeReconcileHipriPhys
	BtreeBucketToStripe
	BtreeStripeBackpointers
	BtreeDamage
	NumBtrees

	// MaxBtrees bounds the ids that may occur: 0 … MaxBtrees-1.
	MaxBtrees = 63
)

var btreeNames = [NumBtrees]string{
	"extents", "inodes", "dirents", "xattrs", "alloc", "quotas", "stripes", "reflink", "subvolumes", "snapshots", "lru",
	"freespace", "need_discard", "backpointers", "bucket_gens", "snapshot_trees", "deleted_inodes", "logged_ops",
	"reconcile_work", "subvolume_children", "accounting", "reconcile_hipri", "reconcile_pending", "reconcile_scan",
	"reconcile_work_phys", "reconcile_hipri_phys", "bucket_to_stripe", "stripe_backpointers", "damage",
}

func (id BtreeID) String() string {
	if id < NumBtrees {
		return btreeNames[id]
	}
	return fmt.Sprintf("(unknown btree %d)", uint8(id))
}

// ParseBtreeID finds a btree by its name; rebalance_work, the older name of reconcile_work, is known too.
func ParseBtreeID(s string) (BtreeID, error) {
	if s == "rebalance_work" {
		return BtreeReconcileWork, nil
	}
	if i := slices.Index(btreeNames[:], s); i >= 0 {
		return BtreeID(i), nil
	}
	return 0, fmt.Errorf("no btree is named %q", s)
}

// BtreeFlags are the properties of a btree.
type BtreeFlags uint8

// Properties of btrees (enum btree_id flags).
const (
	BtreeIsExtents        BtreeFlags = 1 << iota // keys have a size and cover (offset-size, offset]
	BtreeHasSnapshots                            // the snapshot field is a snapshot id; lookups filter by ancestry
	BtreeHasSnapshotField                        // the snapshot field is an ordinary part of the position
	BtreeHasData                                 // values may hold device pointers
	BtreeIsWriteBuffer                           // updates go through the write buffer
	BtreeIsCached                                // has a key cache
)

type btreeInfo struct {
	flags BtreeFlags
	types uint64 // bit n: key type n may occur in a leaf (deleted may anywhere)
}

func typeMask(types ...KeyType) (m uint64) {
	for _, t := range types {
		m |= 1 << t
	}
	return m
}

var btreeInfos = [NumBtrees]btreeInfo{
	BtreeExtents: {BtreeIsExtents | BtreeHasSnapshots | BtreeHasData, typeMask(KeyWhiteout, KeyExtentWhiteout, KeyError,
		KeyCookie, KeyExtent, KeyReservation, KeyReflinkP, KeyInlineData)},
	BtreeInodes:             {BtreeHasSnapshots | BtreeIsCached, typeMask(KeyWhiteout, KeyInode, KeyInodeV2, KeyInodeV3, KeyInodeGeneration)},
	BtreeDirents:            {BtreeHasSnapshots, typeMask(KeyWhiteout, KeyHashWhiteout, KeyDirent)},
	BtreeXattrs:             {BtreeHasSnapshots, typeMask(KeyWhiteout, KeyCookie, KeyHashWhiteout, KeyXattr)},
	BtreeAlloc:              {BtreeIsCached, typeMask(KeyAlloc, KeyAllocV2, KeyAllocV3, KeyAllocV4)},
	BtreeQuotas:             {0, typeMask(KeyQuota)},
	BtreeStripes:            {BtreeHasData, typeMask(KeyStripe)},
	BtreeReflink:            {BtreeIsExtents | BtreeHasData, typeMask(KeyReflinkV, KeyIndirectInlineData, KeyError)},
	BtreeSubvolumes:         {0, typeMask(KeySubvolume)},
	BtreeSnapshots:          {0, typeMask(KeySnapshot)},
	BtreeLRU:                {BtreeIsWriteBuffer, typeMask(KeySet)},
	BtreeFreespace:          {BtreeIsExtents, typeMask(KeySet)},
	BtreeNeedDiscard:        {0, typeMask(KeySet)},
	BtreeBackpointers:       {BtreeIsWriteBuffer, typeMask(KeyBackpointer)},
	BtreeBucketGens:         {0, typeMask(KeyBucketGens)},
	BtreeSnapshotTrees:      {0, typeMask(KeySnapshotTree)},
	BtreeDeletedInodes:      {BtreeHasSnapshotField | BtreeIsWriteBuffer, typeMask(KeySet)},
	BtreeLoggedOps:          {BtreeIsCached, typeMask(KeyLoggedOpTruncate, KeyLoggedOpFinsert, KeyInodeAllocCursor, KeyLoggedOpStripeUpdate)},
	BtreeReconcileWork:      {BtreeHasSnapshotField | BtreeIsWriteBuffer, typeMask(KeySet, KeyCookie)},
	BtreeSubvolumeChildren:  {0, typeMask(KeySet)},
	BtreeAccounting:         {BtreeHasSnapshotField | BtreeIsWriteBuffer, typeMask(KeyAccounting)},
	BtreeReconcileHipri:     {BtreeHasSnapshotField | BtreeIsWriteBuffer, typeMask(KeySet)},
	BtreeReconcilePending:   {BtreeHasSnapshotField | BtreeIsWriteBuffer, typeMask(KeySet)},
	BtreeReconcileScan:      {0, typeMask(KeyCookie, KeyBackpointer)},
	BtreeReconcileWorkPhys:  {BtreeIsWriteBuffer, typeMask(KeySet)},
	BtreeReconcileHipriPhys: {BtreeIsWriteBuffer, typeMask(KeySet)},
	BtreeBucketToStripe:     {0, typeMask(KeySet)},
	BtreeStripeBackpointers: {BtreeIsWriteBuffer, typeMask(KeyBackpointer)},
	BtreeDamage:             {BtreeHasSnapshots, typeMask(KeyWhiteout, KeyDamage)},
}

// Has reports whether the btree has all the given properties; unknown btrees have none.
func (id BtreeID) Has(f BtreeFlags) bool {
	return id < NumBtrees && btreeInfos[id].flags&f == f
}

// Allows reports whether a key of type t may occur in the btree at the level; anything may in unknown btrees' leaves.
func (id BtreeID) Allows(level uint8, t KeyType) bool {
	switch {
	case t == KeyDeleted:
		return true
	case level > 0:
		return t == KeyBtreePtr || t == KeyBtreePtrV2
	case id >= NumBtrees:
		return true
	}
	return t < 64 && btreeInfos[id].types>>t&1 != 0
}

// DataType says what a bucket or a backpointer's target holds (enum bch_data_type).
type DataType uint8

// Data types.
const (
	DataFree DataType = iota
	DataSB
	DataJournal
	DataBtree
	DataUser
	DataCached
	DataParity
	DataStripe
	DataNeedGCGens
	DataNeedDiscard
	DataUnstriped
	DataMultiple
	NumDataTypes
)

var dataTypeNames = [NumDataTypes]string{"free", "sb", "journal", "btree", "user", "cached", "parity", "stripe",
	"need_gc_gens", "need_discard", "unstriped", "multiple"}

func (t DataType) String() string {
	if t < NumDataTypes {
		return dataTypeNames[t]
	}
	return fmt.Sprintf("(unknown data type %d)", uint8(t))
}

// MetadataVersion is a version of the on-disk format, major<<10 | minor; versions before 1.0 are plain numbers.
type MetadataVersion uint16

// The versions that are understood, and a few that behaviour depends on.
const (
	VersionMin        MetadataVersion = 9       // oldest with this numbering
	VersionMinMount   MetadataVersion = 1 << 10 // 1.0, the oldest that is opened
	VersionDefault    MetadataVersion = 1<<10 | 13
	VersionMax        MetadataVersion = 1<<10 | 39
	VersionReconcile  MetadataVersion = 1<<10 | 33
	VersionCasefold   MetadataVersion = 1<<10 | 24
	VersionAccounting MetadataVersion = 1<<10 | 9
)

// Major and Minor are the parts of the version.
func (v MetadataVersion) Major() uint16 { return uint16(v) >> 10 }

// Minor is the part after the point.
func (v MetadataVersion) Minor() uint16 { return uint16(v) & (1<<10 - 1) }

func (v MetadataVersion) String() string { return fmt.Sprintf("%d.%d", v.Major(), v.Minor()) }
