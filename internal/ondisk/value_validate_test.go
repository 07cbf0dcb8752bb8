package ondisk

import (
	"math"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
	"github.com/go-bcachefs/bcachefs/internal/codec/compress"
)

// extentOf encodes entries as an extent of 8 sectors.
func extentOf(entries ...ExtentEntry) Key {
	k := Key{Type: KeyExtent, Pos: Pos{4096, 8, 1}, Size: 8}
	for _, e := range entries {
		k.Val = AppendExtentEntry(k.Val, &e)
	}
	return k
}

func TestValidateExtent(t *testing.T) {
	ptr := func(dev uint8, at Sector) ExtentEntry {
		return ExtentEntry{Type: EntryPtr, Ptr: ExtentPtr{Dev: dev, Offset: at}}
	}
	cached := ExtentEntry{Type: EntryPtr, Ptr: ExtentPtr{Dev: 3, Cached: true}}
	unwritten := ExtentEntry{Type: EntryPtr, Ptr: ExtentPtr{Dev: 4, Unwritten: true}}
	stripe := ExtentEntry{Type: EntryStripePtr}
	crc := func(c CRC) ExtentEntry { return ExtentEntry{Type: EntryCRC64, CRC: c} }
	plain := crc(CRC{CompressedSize: 8, UncompressedSize: 8, Csum: checksum.CRC32C})
	secret := func(nonce, off uint32) ExtentEntry {
		return crc(CRC{CompressedSize: 16, UncompressedSize: 16, Csum: checksum.ChaCha20Poly1305_80, Nonce: nonce, Offset: off})
	}
	flags := ExtentEntry{Type: EntryFlags, Flags: 1}
	want := func(r Reconcile) ExtentEntry { return ExtentEntry{Type: EntryReconcile, Reconcile: r} }

	ctx := &ValidateContext{Device: func(dev uint8) (DeviceBuckets, bool) {
		return DeviceBuckets{FirstBucket: 1, NrBuckets: 10, BucketSize: 128}, dev == 7
	}}
	commit := &ValidateContext{Commit: true, MaxEncoded: 128}
	k13 := &ValidateContext{Version: 1<<10 | 13}
	for name, c := range map[string]struct {
		k   Key
		ctx *ValidateContext
		id  string
	}{
		"pointer":            {extentOf(ptr(0, 0)), nil, ""},
		"everything":         {extentOf(flags, plain, ptr(0, 0), stripe, ptr(1, 8), want(Reconcile{DataReplicas: 1})), nil, ""},
		"none":               {extentOf(), nil, "extent_ptrs_no_ptrs"},
		"two on a device":    {extentOf(ptr(1, 0), ptr(1, 8)), nil, "ptr_to_duplicate_device"},
		"two removed":        {extentOf(ptr(1, 0), ptr(255, 8), ptr(255, 16)), nil, ""},
		"only removed":       {extentOf(ptr(255, 8)), nil, "extent_ptrs_all_invalid"},
		"only removed, 1.13": {extentOf(ptr(255, 8)), k13, ""},
		"removed, stripe":    {extentOf(stripe, ptr(255, 8)), nil, ""},
		"only cached":        {extentOf(cached), nil, ""},
		"only cached, new":   {extentOf(cached), commit, "extent_ptrs_all_invalid"},
		"unwritten":          {extentOf(unwritten), nil, ""},
		"half written":       {extentOf(unwritten, ptr(0, 0)), nil, "extent_ptrs_written_and_unwritten"},
		"crc at end":         {extentOf(ptr(0, 0), plain), nil, "extent_ptrs_redundant_crc"},
		"two crcs":           {extentOf(plain, plain, ptr(0, 0)), nil, "ptr_crc_redundant"},
		"stripe at end":      {extentOf(ptr(0, 0), stripe), nil, "extent_ptrs_redundant_stripe"},
		"two stripes":        {extentOf(stripe, stripe, ptr(0, 0)), nil, "ptr_stripe_redundant"},
		"cached in stripe":   {extentOf(stripe, cached), nil, "ptr_cached_and_erasure_coded"},
		"flags not first":    {extentOf(ptr(0, 0), flags), nil, "extent_flags_not_at_start"},
		"too short":          {extentOf(crc(CRC{CompressedSize: 8, UncompressedSize: 8, Offset: 1}), ptr(0, 0)), nil, "ptr_crc_uncompressed_size_too_small"},
		"checksum type":      {extentOf(crc(CRC{CompressedSize: 8, UncompressedSize: 8, Csum: 8}), ptr(0, 0)), nil, "ptr_crc_csum_type_unknown"},
		"compression type":   {extentOf(crc(CRC{CompressedSize: 8, UncompressedSize: 8, Compression: 6}), ptr(0, 0)), nil, "ptr_crc_compression_type_unknown"},
		"compressed":         {extentOf(crc(CRC{CompressedSize: 1, UncompressedSize: 8, Compression: compress.Zstd}), ptr(0, 0)), nil, ""},
		"sizes differ":       {extentOf(crc(CRC{CompressedSize: 1, UncompressedSize: 8}), ptr(0, 0)), nil, "ptr_crc_uncompressed_size_mismatch"},
		"sizes differ, 1.13": {extentOf(crc(CRC{CompressedSize: 1, UncompressedSize: 8}), ptr(0, 0)), k13, ""},
		"too large, new":     {extentOf(crc(CRC{CompressedSize: 129, UncompressedSize: 129, Csum: 5}), ptr(0, 0)), commit, "ptr_crc_uncompressed_size_too_big"},
		"nonces":             {extentOf(secret(0, 8), ptr(0, 0), secret(8, 0), ptr(1, 0)), nil, ""},
		"nonces differ":      {extentOf(secret(0, 8), ptr(0, 0), secret(0, 0), ptr(1, 0)), nil, "ptr_crc_nonce_mismatch"},
		"pending":            {extentOf(ptr(0, 0), want(Reconcile{DataReplicas: 1, Pending: true})), nil, "extent_reconcile_bad_pending"},
		"hipri":              {extentOf(ptr(0, 0), want(Reconcile{DataReplicas: 1, Hipri: true, NeedRB: 2})), nil, "extent_reconcile_bad_hipri"},
		"no replicas":        {extentOf(ptr(0, 0), want(Reconcile{})), nil, "extent_reconcile_bad_replicas"},
		"in a bucket":        {extentOf(ptr(7, 128)), ctx, ""},
		"first bucket":       {extentOf(ptr(7, 0)), ctx, "ptr_before_first_bucket"},
		"last bucket":        {extentOf(ptr(7, 1280)), ctx, "ptr_after_last_bucket"},
		"two buckets":        {extentOf(ptr(7, 250)), ctx, "ptr_spans_multiple_buckets"},
		"two buckets, crc":   {extentOf(secret(0, 0), ptr(7, 241)), ctx, "ptr_spans_multiple_buckets"},
		"unknown device":     {extentOf(ptr(6, 0)), ctx, ""},
		"size 0":             {Key{Type: KeyExtent, Pos: Pos{4096, 8, 1}}, nil, "bkey_extent_size_zero"},
		"no snapshot":        {Key{Type: KeyExtent, Pos: Pos{4096, 8, 0}, Size: 8}, nil, "bkey_snapshot_zero"},
	} {
		checkID(t, name, ValidateKey(BtreeExtents, 0, &c.k, c.ctx), c.id)
	}
	var many []ExtentEntry
	for i := range 17 {
		many = append(many, ptr(uint8(i), 0))
	}
	k := extentOf(many...)
	checkID(t, "17 pointers", ValidateKey(BtreeExtents, 0, &k, nil), "extent_ptrs_too_many_ptrs")
	k = extentOf(unwritten)
	k.Type, k.Pos, k.Val = KeyReflinkV, Pos{0, 8, 0}, append(make([]byte, 8), k.Val...)
	checkID(t, "unwritten indirect", ValidateKey(BtreeReflink, 0, &k, nil), "extent_ptrs_unwritten")
	k.Pos.Offset = ReflinkIdxMax + 1
	checkID(t, "indirect too far", ValidateKey(BtreeReflink, 0, &k, nil), "reflink_v_pos_bad")
}

func TestValidateValues(t *testing.T) {
	inode := func(in Inode) Key {
		return Key{Type: KeyInodeV3, Pos: Pos{0, 4096, 1}, Val: EncodeInodeV3(&in)}
	}
	snapshot := func(s Snapshot) Key { return Key{Type: KeySnapshot, Pos: Pos{0, 10, 0}, Val: s.Encode()} }
	subvol := func(s Subvolume) Key { return Key{Type: KeySubvolume, Pos: Pos{0, 1, 0}, Val: s.Encode()} }
	btreePtr := func(first Pos, written byte, entries ...ExtentEntry) Key {
		v := make([]byte, 40)
		v[16] = written
		first.Put(v[20:])
		for _, e := range entries {
			v = AppendExtentEntry(v, &e)
		}
		return Key{Type: KeyBtreePtrV2, Pos: Pos{9, 9, 9}, Val: v}
	}
	ptr := ExtentEntry{Type: EntryPtr}
	k13 := &ValidateContext{Version: 1<<10 | 13, Device: func(uint8) (DeviceBuckets, bool) {
		return DeviceBuckets{NrBuckets: 100, BucketSize: 512}, true
	}}
	commit := &ValidateContext{Commit: true}
	backpointer := func(at uint64, b Backpointer) Key {
		return Key{Type: KeyBackpointer, Pos: Pos{0, at, 0}, Val: b.Encode()}
	}
	accounting := func(p AccountingPos, v MetadataVersion, n ...int64) Key {
		return Key{Type: KeyAccounting, Version: Version{Lo: 1}, Pos: p.Pos(v), Val: EncodeAccounting(n...)}
	}
	stripe := Key{Type: KeyStripe, Pos: Pos{0, 1, 0}, Val: hexVal(t, stripeVal)}
	stripeAt0 := stripe
	stripeAt0.Pos = PosMin
	long := Dirent{Inum: 1, Name: make([]byte, MaxName+1)}
	for i := range long.Name {
		long.Name[i] = 'x'
	}
	for name, c := range map[string]struct {
		btree BtreeID
		level uint8
		k     Key
		ctx   *ValidateContext
		id    string
	}{
		"inode":                  {BtreeInodes, 0, inode(Inode{Mode: 0o40755, Subvol: 1}), nil, ""},
		"inode number":           {BtreeInodes, 0, Key{Type: KeyInodeV3, Pos: Pos{0, 4095, 1}, Val: EncodeInodeV3(&Inode{})}, nil, "inode_pos_blockdev_range"},
		"inode field":            {BtreeInodes, 0, Key{Type: KeyInodeV3, Pos: Pos{1, 4096, 1}, Val: EncodeInodeV3(&Inode{})}, nil, "inode_pos_inode_nonzero"},
		"inode checksum":         {BtreeInodes, 0, inode(Inode{DataChecksum: 5}), nil, "inode_checksum_type_invalid"},
		"inode compression":      {BtreeInodes, 0, inode(Inode{Compression: 5}), nil, "inode_compression_type_invalid"},
		"inode level of none":    {BtreeInodes, 0, inode(Inode{Compression: 0x11}), nil, "inode_compression_type_invalid"},
		"inode zstd:15":          {BtreeInodes, 0, inode(Inode{Compression: 0xf4}), nil, ""},
		"inode unlinked":         {BtreeInodes, 0, inode(Inode{Flags: InodeUnlinked, NlinkRaw: 1}), nil, "inode_unlinked_but_nlink_nonzero"},
		"inode subvolume":        {BtreeInodes, 0, inode(Inode{Mode: 0o100644, Subvol: 1}), nil, "inode_subvol_root_but_not_dir"},
		"generation":             {BtreeInodes, 0, Key{Type: KeyInodeGeneration, Pos: Pos{1, 4096, 1}, Val: make([]byte, 8)}, nil, "inode_pos_inode_nonzero"},
		"in another btree":       {BtreeDirents, 0, inode(Inode{}), nil, "bkey_invalid_type_for_btree"},
		"cookie among xattrs":    {BtreeXattrs, 0, Key{Type: KeyCookie, Pos: Pos{1, 1, 1}, Val: make([]byte, 8)}, commit, ""},
		"cookie among inodes":    {BtreeInodes, 0, Key{Type: KeyCookie, Pos: Pos{1, 1, 1}, Val: make([]byte, 8)}, nil, ""},
		"new cookie there":       {BtreeInodes, 0, Key{Type: KeyCookie, Pos: Pos{1, 1, 1}, Val: make([]byte, 8)}, commit, "bkey_invalid_type_for_btree"},
		"set with a value":       {BtreeLRU, 0, Key{Type: KeySet, Pos: Pos{1, 1, 0}, Val: make([]byte, 8)}, nil, "bkey_val_size_nonzero"},
		"reservation":            {BtreeExtents, 0, Key{Type: KeyReservation, Pos: Pos{1, 8, 1}, Size: 8, Val: make([]byte, 8)}, nil, "reservation_key_nr_replicas_invalid"},
		"reflink pad":            {BtreeExtents, 0, Key{Type: KeyReflinkP, Pos: Pos{1, 8, 1}, Size: 8, Val: (&ReflinkP{Idx: 1, FrontPad: 2}).Encode()}, nil, "reflink_p_front_pad_bad"},
		"long name":              {BtreeDirents, 0, Key{Type: KeyDirent, Pos: Pos{4096, 2, 1}, Val: long.Encode()}, nil, ""},
		"new long name":          {BtreeDirents, 0, Key{Type: KeyDirent, Pos: Pos{4096, 2, 1}, Val: long.Encode()}, commit, "dirent_name_too_long"},
		"quota type":             {BtreeQuotas, 0, Key{Type: KeyQuota, Pos: Pos{3, 0, 0}, Val: make([]byte, 32)}, nil, "quota_type_invalid"},
		"stripe":                 {BtreeStripes, 0, stripe, nil, ""},
		"stripe at 0":            {BtreeStripes, 0, stripeAt0, nil, "stripe_pos_bad"},
		"subvolume":              {BtreeSubvolumes, 0, subvol(Subvolume{Snapshot: 1, Inode: 4096}), nil, ""},
		"subvolume snapshot":     {BtreeSubvolumes, 0, subvol(Subvolume{Inode: 4096}), nil, "subvol_snapshot_bad"},
		"subvolume inode":        {BtreeSubvolumes, 0, subvol(Subvolume{Snapshot: 1}), nil, "subvol_inode_bad"},
		"subvolume id":           {BtreeSubvolumes, 0, Key{Type: KeySubvolume, Pos: Pos{0, 1 << 31, 0}, Val: make([]byte, 16)}, nil, "subvol_pos_bad"},
		"snapshot":               {BtreeSnapshots, 0, snapshot(Snapshot{Parent: 11, Children: [2]uint32{9, 8}, Skip: [3]uint32{0, 11, 12}}), nil, ""},
		"snapshot parent":        {BtreeSnapshots, 0, snapshot(Snapshot{Parent: 10}), nil, "snapshot_parent_bad"},
		"snapshot order":         {BtreeSnapshots, 0, snapshot(Snapshot{Children: [2]uint32{8, 9}}), nil, "snapshot_children_not_normalized"},
		"snapshot twice":         {BtreeSnapshots, 0, snapshot(Snapshot{Children: [2]uint32{8, 8}}), nil, "snapshot_child_duplicate"},
		"snapshot child":         {BtreeSnapshots, 0, snapshot(Snapshot{Children: [2]uint32{10}}), nil, "snapshot_child_bad"},
		"snapshot skip order":    {BtreeSnapshots, 0, snapshot(Snapshot{Skip: [3]uint32{2, 1, 1}}), nil, "snapshot_skiplist_not_normalized"},
		"snapshot skip":          {BtreeSnapshots, 0, snapshot(Snapshot{Parent: 12, Skip: [3]uint32{11, 12, 12}}), nil, "snapshot_skiplist_bad"},
		"snapshot new state":     {BtreeSnapshots, 0, snapshot(Snapshot{State: 1, Size: 64}), commit, "snapshot_state_bad"},
		"snapshot id":            {BtreeSnapshots, 0, Key{Type: KeySnapshot, Pos: PosMin, Val: make([]byte, 24)}, nil, "snapshot_pos_bad"},
		"snapshot tree":          {BtreeSnapshotTrees, 0, Key{Type: KeySnapshotTree, Pos: PosMin, Val: make([]byte, 8)}, nil, "snapshot_tree_pos_bad"},
		"bucket gens":            {BtreeBucketGens, 0, Key{Type: KeyBucketGens, Val: make([]byte, 248)}, nil, "bucket_gens_val_size_bad"},
		"alloc":                  {BtreeAlloc, 0, Key{Type: KeyAllocV4, Val: (&Alloc{DataType: DataUser}).Encode()}, nil, "alloc_key_data_type_bad"},
		"backpointer level":      {BtreeBackpointers, 0, backpointer(0, Backpointer{Level: 5}), nil, "backpointer_level_bad"},
		"backpointer":            {BtreeBackpointers, 0, backpointer(19955712, Backpointer{Flags: 0x80}), k13, ""},
		"backpointer offset":     {BtreeBackpointers, 0, backpointer(19955712, Backpointer{Flags: 0x81}), k13, "backpointer_bucket_offset_wrong"},
		"cursor":                 {BtreeLoggedOps, 0, Key{Type: KeyInodeAllocCursor, Pos: Pos{0, 1, 0}, Val: make([]byte, 16)}, nil, "inode_alloc_cursor_inode_bad"},
		"accounting":             {BtreeAccounting, 0, accounting(AccountingPos{}, VersionMax, 1), nil, ""},
		"accounting, 1.13":       {BtreeAccounting, 0, accounting(AccountingPos{Type: AccountingDevDataType}, 1<<10|13, 1, 2, 3), k13, ""},
		"accounting mapping":     {BtreeAccounting, 0, accounting(AccountingPos{Type: AccountingDevDataType, Dev: 1}, VersionMax, 1, 2, 3), k13, "accounting_key_junk_at_end"},
		"accounting counters":    {BtreeAccounting, 0, accounting(AccountingPos{}, VersionMax, 1, 2, 3, 4), nil, "accounting_key_nr_counters_wrong"},
		"node pointer":           {BtreeExtents, 1, btreePtr(PosMin, 8, ptr), commit, ""},
		"node pointer range":     {BtreeExtents, 1, btreePtr(Pos{9, 9, 9}, 8, ptr), nil, "btree_ptr_v2_min_key_bad"},
		"node pointer written":   {BtreeExtents, 1, btreePtr(PosMin, 0, ptr), commit, "btree_ptr_v2_written_0"},
		"node pointer crc":       {BtreeExtents, 1, btreePtr(PosMin, 8, ExtentEntry{Type: EntryCRC32, CRC: CRC{CompressedSize: 1, UncompressedSize: 1}}, ptr), nil, "btree_ptr_has_non_ptr"},
		"node pointer reconcile": {BtreeExtents, 1, btreePtr(PosMin, 8, ptr, ExtentEntry{Type: EntryReconcileBP, Idx: 1}), nil, ""},
		"unknown btree":          {40, 0, Key{Type: 77, Pos: Pos{1, 2, 3}, Size: 7}, nil, ""},
		"unknown type":           {BtreeInodes, 0, Key{Type: 77, Pos: Pos{1, 2, 3}}, nil, ""},
		"last position":          {BtreeInodes, 0, Key{Type: KeyWhiteout, Pos: Pos{math.MaxUint64, math.MaxUint64, 1}}, nil, "bkey_at_pos_max"},
	} {
		checkID(t, name, ValidateKey(c.btree, c.level, &c.k, c.ctx), c.id)
	}
}

func TestValidateKeyDoesNotAllocate(t *testing.T) {
	ctx := &ValidateContext{}
	for btree, k := range map[BtreeID]Key{
		BtreeInodes:  {Type: KeyInodeV3, Pos: Pos{0, 4096, 1}, Val: hexVal(t, rootInodeVal)},
		BtreeDirents: {Type: KeyDirent, Pos: Pos{4096, 2, 1}, Val: hexVal(t, "0410000000000000 08 61")},
		BtreeXattrs:  {Type: KeyXattr, Pos: Pos{4096, 2, 1}, Val: hexVal(t, xattrVal)},
		BtreeExtents: {Type: KeyExtent, Pos: Pos{4096, 128, 1}, Size: 128, Val: hexVal(t, extentZstd)},
	} {
		var err error
		if n := testing.AllocsPerRun(100, func() { err = ValidateKey(btree, 0, &k, ctx) }); n != 0 || err != nil {
			t.Errorf("%v: %v allocations, %v", btree, n, err)
		}
	}
}

func BenchmarkValidateExtent(b *testing.B) {
	k := Key{Type: KeyExtent, Pos: Pos{4096, 128, 1}, Size: 128, Val: hexVal(b, extentZstd)}
	ctx := &ValidateContext{}
	b.ReportAllocs()
	for b.Loop() {
		if err := ValidateKey(BtreeExtents, 0, &k, ctx); err != nil {
			b.Fatal(err)
		}
	}
}
