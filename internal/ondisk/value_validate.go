package ondisk

import "bytes"

// DeviceBuckets is how a device is divided into buckets.
type DeviceBuckets struct {
	FirstBucket, NrBuckets Bucket
	BucketSize             uint32 // sectors
}

// ValidateContext is what the checks of a key may depend on. The zero value makes those checks that need nothing else.
type ValidateContext struct {
	Version        MetadataVersion // of the filesystem; 0 is the newest
	ExtentTypeU64s ExtentTypeU64s
	// Commit makes the stricter checks of keys that are about to be written; older ones may fail them.
	Commit     bool
	MaxEncoded uint32 // largest encoded extent in sectors, checked with Commit; 0: not checked
	NodeSize   uint32 // of btree nodes, in sectors; 0: not checked
	// Device returns how a device is divided; false if there is none. Nil: places on devices are not checked.
	Device func(dev uint8) (DeviceBuckets, bool)
}

// newer reports whether checks apply that drivers make since the version.
func (c *ValidateContext) newer(minor uint16) bool {
	return c.Version == 0 || c.Version >= 1<<10|MetadataVersion(minor)
}

// ValidateKey checks a key that was found in, or is to go to, the given level of a btree: what holds for keys of all types, and its
// value. Values of unknown types and keys of unknown btrees are not checked. The error is an [*InvalidKeyError].
//
// Valid keys of the filesystem's namespace (inodes, dirents, xattrs, extents) are checked without allocation.
func ValidateKey(btree BtreeID, level uint8, k *Key, ctx *ValidateContext) error {
	if ctx == nil {
		ctx = &ValidateContext{}
	}
	if err := btree.CheckKey(level, k); err != nil {
		return err
	}
	if ctx.Commit && k.Type < NumKeyTypes && !btree.Allows(level, k.Type) {
		return keyErr(k, "bkey_invalid_type_for_btree", "type %v in btree %v level %d", k.Type, btree, level)
	}
	return ValidateValue(k, ctx)
}

// ValidateValue checks the value of a key, whatever btree it is in.
func ValidateValue(k *Key, ctx *ValidateContext) error {
	if ctx == nil {
		ctx = &ValidateContext{}
	}
	if n := k.Type.MinValSize(); len(k.Val) < n {
		return errShort(k, n)
	}
	switch k.Type {
	case KeyHashWhiteout, KeySet:
		if len(k.Val) != 0 {
			return keyErr(k, "bkey_val_size_nonzero", "value of %d bytes, want none", len(k.Val))
		}
	case KeyBtreePtr, KeyBtreePtrV2:
		return validateBtreePtr(k, ctx)
	case KeyExtent:
		return validatePtrs(k, ctx)
	case KeyReflinkV:
		if k.Pos.Inode != 0 || k.Pos.Offset > ReflinkIdxMax {
			return keyErr(k, "reflink_v_pos_bad", "indirect extent beyond 0:%d", uint64(ReflinkIdxMax))
		}
		return validatePtrs(k, ctx)
	case KeyReservation:
		if r, _ := DecodeReservation(*k); r.NrReplicas == 0 || r.NrReplicas > MaxReplicas {
			return keyErr(k, "reservation_key_nr_replicas_invalid", "%d replicas, want 1 to %d", r.NrReplicas, MaxReplicas)
		}
	case KeyInode, KeyInodeV2, KeyInodeV3:
		in := Inode{Encoding: k.Type}
		if err := in.decode(k); err != nil {
			return err
		}
		return in.Validate(k)
	case KeyInodeGeneration:
		if k.Pos.Inode != 0 {
			return keyErr(k, "inode_pos_inode_nonzero", "inode field is %d, want 0", k.Pos.Inode)
		}
	case KeyDirent:
		return validateDirent(k, ctx)
	case KeyXattr:
		x, err := DecodeXattr(*k)
		if err != nil {
			return err
		}
		return x.Validate(k)
	case KeyReflinkP:
		if p, _ := DecodeReflinkP(*k); p.Idx < uint64(p.FrontPad) {
			return keyErr(k, "reflink_p_front_pad_bad", "index %d is less than front pad %d", p.Idx, p.FrontPad)
		}
	default:
		return validateMeta(k, ctx)
	}
	return nil
}

// validateMeta checks the values of keys that are not part of the namespace.
func validateMeta(k *Key, ctx *ValidateContext) error {
	switch k.Type {
	case KeyAlloc, KeyAllocV2, KeyAllocV3, KeyAllocV4:
		a, err := DecodeAlloc(*k)
		if err != nil || k.Type != KeyAllocV4 {
			return err
		}
		return a.Validate(k)
	case KeyQuota:
		if k.Pos.Inode >= uint64(NumQuotaTypes) {
			return keyErr(k, "quota_type_invalid", "quota type %d, want at most %d", k.Pos.Inode, NumQuotaTypes-1)
		}
	case KeyStripe:
		return validateStripe(k)
	case KeySubvolume:
		return validateSubvolume(k, ctx)
	case KeySnapshot:
		return validateSnapshot(k, ctx)
	case KeySnapshotTree:
		if !idPos(k.Pos) {
			return keyErr(k, "snapshot_tree_pos_bad", "want 0:1 to 0:U32_MAX")
		}
	case KeyLRU:
		if DecodeLRUPos(k.Pos).Time == 0 {
			return keyErr(k, "lru_entry_at_time_0", "time is 0")
		}
	case KeyBackpointer:
		return validateBackpointer(k, ctx)
	case KeyBucketGens:
		_, err := DecodeBucketGens(*k)
		return err
	case KeyAccounting:
		return validateAccounting(k, ctx)
	case KeyInodeAllocCursor:
		if k.Pos.Inode != InodeCursorsInode {
			return keyErr(k, "inode_alloc_cursor_inode_bad", "inode field is %d, want %d", k.Pos.Inode, InodeCursorsInode)
		}
	case KeyDamage:
		d, err := DecodeDamage(*k)
		if err != nil {
			return err
		}
		return d.Validate(k)
	}
	return nil
}

// idPos reports whether p is that of a thing with a 32-bit id.
func idPos(p Pos) bool { return p.Inode == 0 && p.Offset >= 1 && p.Offset <= 1<<32-1 }

// Limits of the stored values of options that an inode's validity depends on.
const (
	inodeMaxDataChecksum = 4 // none, crc32c, crc64, xxhash, each plus one
	compressionTypes     = 4 // none, lz4, gzip, zstd
)

// ValidCompressionOption reports whether v is a compression option: type in the low half, level in the high.
func ValidCompressionOption(v uint8) bool {
	return v&15 < compressionTypes && (v&15 != 0 || v>>4 == 0)
}

// Validate reports what is wrong with an inode that was decoded from k.
func (in *Inode) Validate(k *Key) error {
	switch {
	case k.Pos.Inode != 0:
		return keyErr(k, "inode_pos_inode_nonzero", "inode field is %d, want 0", k.Pos.Inode)
	case k.Pos.Offset < MinInum:
		return keyErr(k, "inode_pos_blockdev_range", "inode number %d, want at least %d", k.Pos.Offset, MinInum)
	case in.DataChecksum > inodeMaxDataChecksum:
		return keyErr(k, "inode_checksum_type_invalid", "data checksum type %d, want at most %d", in.DataChecksum, inodeMaxDataChecksum)
	case in.Compression != 0 && !ValidCompressionOption(in.Compression-1):
		return keyErr(k, "inode_compression_type_invalid", "compression %#x", in.Compression-1)
	case in.Flags&InodeUnlinked != 0 && in.NlinkRaw != 0:
		return keyErr(k, "inode_unlinked_but_nlink_nonzero", "unlinked, but stored link count is %d", in.NlinkRaw)
	case in.Subvol != 0 && !in.IsDir():
		return keyErr(k, "inode_subvol_root_but_not_dir", "root of subvolume %d, but mode is %o", in.Subvol, in.Mode)
	}
	return nil
}

func validateDirent(k *Key, ctx *ValidateContext) error {
	d, err := DecodeDirent(*k)
	if err != nil {
		return err
	}
	if err := d.Validate(k); err != nil {
		return err
	}
	switch {
	case ctx.Commit && len(d.Name) > MaxName:
		return keyErr(k, "dirent_name_too_long", "name of %d bytes, want at most %d", len(d.Name), MaxName)
	case ctx.Commit && len(d.CfName) > MaxName:
		return keyErr(k, "dirent_cf_name_too_big", "folded name of %d bytes, want at most %d", len(d.CfName), MaxName)
	}
	return nil
}

func validateStripe(k *Key) error {
	if !idPos(k.Pos) || k.Pos.Snapshot != 0 {
		return keyErr(k, "stripe_pos_bad", "want 0:1 to 0:U32_MAX")
	}
	s, err := DecodeStripe(*k)
	if err != nil {
		return err
	}
	if s.Sectors == 0 {
		return keyErr(k, "stripe_sectors_zero", "blocks of no sectors")
	}
	var devs devSet
	for _, p := range s.Ptrs {
		if p.Dev != DevInvalid && !devs.add(p.Dev) {
			return keyErr(k, "ptr_to_duplicate_device", "two blocks on device %d", p.Dev)
		}
	}
	return nil
}

func validateSubvolume(k *Key, ctx *ValidateContext) error {
	if k.Pos.Inode != 0 || k.Pos.Offset < RootSubvol || k.Pos.Offset > maxSubvol {
		return keyErr(k, "subvol_pos_bad", "want 0:1 to 0:%d", maxSubvol)
	}
	s, err := DecodeSubvolume(*k)
	switch {
	case err != nil:
		return err
	case s.Snapshot == 0:
		return keyErr(k, "subvol_snapshot_bad", "no snapshot")
	case s.Inode == 0:
		return keyErr(k, "subvol_inode_bad", "no root directory")
	case s.Pad != 0:
		return keyErr(k, "subvol_pad_nonzero", "padding is %#x", s.Pad)
	case ctx.Commit && s.State != 0 && !s.State.Valid():
		return keyErr(k, "subvol_state_bad", "state %#x", uint32(s.State))
	}
	return nil
}

func validateSnapshot(k *Key, ctx *ValidateContext) error {
	if !idPos(k.Pos) {
		return keyErr(k, "snapshot_pos_bad", "want 0:1 to 0:U32_MAX")
	}
	s, err := DecodeSnapshot(*k)
	if err != nil {
		return err
	}
	id := uint32(k.Pos.Offset)
	switch {
	case s.Parent != 0 && s.Parent <= id:
		return keyErr(k, "snapshot_parent_bad", "parent %d is not greater", s.Parent)
	case s.Children[0] < s.Children[1]:
		return keyErr(k, "snapshot_children_not_normalized", "children %d, %d are not descending", s.Children[0], s.Children[1])
	case s.Children[0] != 0 && s.Children[0] == s.Children[1]:
		return keyErr(k, "snapshot_child_duplicate", "child %d twice", s.Children[0])
	case s.Children[0] >= id:
		return keyErr(k, "snapshot_child_bad", "child %d is not less", s.Children[0])
	case s.Skip[0] > s.Skip[1] || s.Skip[1] > s.Skip[2]:
		return keyErr(k, "snapshot_skiplist_not_normalized", "skip list %d is not ascending", s.Skip)
	case s.Pad != 0:
		return keyErr(k, "snapshot_pad_nonzero", "padding is %#x", s.Pad)
	case ctx.Commit && s.State != 0 && !s.State.Valid():
		return keyErr(k, "snapshot_state_bad", "state %#x", uint32(s.State))
	}
	for _, a := range s.Skip {
		if a != 0 && a < s.Parent {
			return keyErr(k, "snapshot_skiplist_bad", "skip list entry %d is less than parent %d", a, s.Parent)
		}
	}
	return nil
}

func validateBackpointer(k *Key, ctx *ValidateContext) error {
	b, err := DecodeBackpointer(*k)
	if err != nil {
		return err
	}
	if !ctx.newer(14) {
		if ctx.Device == nil || k.Pos.Inode > DevInvalid {
			return nil
		}
		dev, ok := ctx.Device(uint8(k.Pos.Inode))
		if !ok || dev.BucketSize == 0 {
			return nil
		}
		off := b.BucketOffset()
		start := k.Pos.Offset >> DefaultBackpointerShift / uint64(dev.BucketSize) * uint64(dev.BucketSize) << DefaultBackpointerShift
		if off>>DefaultBackpointerShift >= uint64(dev.BucketSize) || start+off != k.Pos.Offset {
			return keyErr(k, "backpointer_bucket_offset_wrong", "bucket offset %d, want %d", off, k.Pos.Offset-start)
		}
		return nil
	}
	switch {
	case b.Level > MaxBtreeDepth:
		return keyErr(k, "backpointer_level_bad", "level %d, want at most %d", b.Level, MaxBtreeDepth)
	case k.Pos.Inode == DevInvalid:
		return keyErr(k, "backpointer_dev_bad", "of a removed device")
	}
	return nil
}

func validateAccounting(k *Key, ctx *ValidateContext) error {
	v := ctx.Version
	if v == 0 {
		v = VersionMax
	}
	a, clean := DecodeAccountingPos(k.Pos, v)
	switch {
	case a.Type >= NumAccountingTypes:
		return nil
	// Drivers up to 1.13 checked it always, but of keys in the journal only; in btrees it is never 0 either.
	case k.Version.IsZero() && (ctx.Commit || !ctx.newer(14)):
		return keyErr(k, "accounting_key_version_0", "version is 0")
	case !clean && a.Type != AccountingInum:
		return keyErr(k, "accounting_key_junk_at_end", "%v with bytes behind its end", a.Type)
	case ctx.newer(16) && (NrAccountingCounters(k) == 0 || NrAccountingCounters(k) > 3):
		return keyErr(k, "accounting_key_nr_counters_wrong", "%d counters, want 1 to 3", NrAccountingCounters(k))
	}
	return a.Validate(k)
}

// Equal reports whether keys are the same in every field and byte.
func (k *Key) Equal(o *Key) bool {
	return k.Type == o.Type && k.Version == o.Version && k.Size == o.Size && k.Pos == o.Pos && bytes.Equal(k.Val, o.Val)
}
