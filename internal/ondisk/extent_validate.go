package ondisk

import "encoding/binary"

// devSet is a set of device indexes.
type devSet [4]uint64

// add adds a device; it reports false if it was there.
func (s *devSet) add(dev uint8) bool {
	w, b := &s[dev>>6], uint64(1)<<(dev&63)
	if *w&b != 0 {
		return false
	}
	*w |= b
	return true
}

func validateBtreePtr(k *Key, ctx *ValidateContext) error {
	if k.Type == KeyBtreePtr {
		if n := len(k.Val) / 8; n > MaxReplicas {
			return keyErr(k, "btree_ptr_val_too_big", "value of %d u64s, want at most %d", n, MaxReplicas)
		}
		return validatePtrs(k, ctx)
	}
	if n := len(k.Val) / 8; n > maxBtreePtrV2U64s {
		return keyErr(k, "btree_ptr_v2_val_too_big", "value of %d u64s, want at most %d", n, maxBtreePtrV2U64s)
	}
	if first := DecodePos(k.Val[20:]); !first.Less(k.Pos) {
		return keyErr(k, "btree_ptr_v2_min_key_bad", "first position %v is not before the last", first)
	}
	if ctx.Commit && binary.LittleEndian.Uint16(k.Val[16:]) == 0 {
		return keyErr(k, "btree_ptr_v2_written_0", "no sectors written")
	}
	return validatePtrs(k, ctx)
}

// ptrCheck is what the check of a key's entries has seen so far.
type ptrCheck struct {
	k    *Key
	ctx  *ValidateContext
	btre bool

	onDisk     uint32 // sectors that the next pointer leads to
	nonce      int64  // nonce plus offset of encrypted entries; -1: none yet
	ptrs       int
	devs       devSet
	written    bool
	unwritten  bool
	usable     bool // a pointer that data can be read from, directly or by its stripe
	usableLive bool // such a pointer that is not cached
	stripe     bool // a stripe entry waits for its pointer
	crc        bool // a crc entry waits for its pointer
}

// validatePtrs checks the entries of an extent or a pointer to a btree node.
func validatePtrs(k *Key, ctx *ValidateContext) error {
	c := ptrCheck{k: k, ctx: ctx, btre: k.Type == KeyBtreePtr || k.Type == KeyBtreePtrV2, onDisk: k.Size, nonce: -1}
	if c.btre {
		c.onDisk = ctx.NodeSize
	}
	all, _ := extentEntries(k)
	for b := all; len(b) > 0; {
		t, n := nextEntry(b, ctx.ExtentTypeU64s)
		if n == 0 {
			return errEntry(k, b)
		}
		if err := c.entry(t, b[:n], len(b) == len(all)); err != nil {
			return err
		}
		b = b[n:]
	}
	switch {
	case c.ptrs == 0:
		return keyErr(k, "extent_ptrs_no_ptrs", "no pointers")
	case c.ptrs > MaxExtentPtrs:
		return keyErr(k, "extent_ptrs_too_many_ptrs", "%d pointers, want at most %d", c.ptrs, MaxExtentPtrs)
	case c.written && c.unwritten:
		return keyErr(k, "extent_ptrs_written_and_unwritten", "both written and unwritten pointers")
	case c.unwritten && k.Type != KeyExtent:
		return keyErr(k, "extent_ptrs_unwritten", "unwritten pointer in a %v", k.Type)
	case c.crc:
		return keyErr(k, "extent_ptrs_redundant_crc", "crc entry without a pointer")
	case c.stripe:
		return keyErr(k, "extent_ptrs_redundant_stripe", "stripe entry without a pointer")
	case !c.btre && !c.usable && ctx.newer(34):
		return keyErr(k, "extent_ptrs_all_invalid", "only pointers to removed devices")
	case !c.btre && !c.usableLive && ctx.Commit && ctx.newer(34):
		return keyErr(k, "extent_ptrs_all_invalid", "only cached pointers, or to removed devices")
	}
	return nil
}

func (c *ptrCheck) entry(t ExtentEntryType, b []byte, first bool) error {
	k := c.k
	w := binary.LittleEndian.Uint64(b)
	if c.btre && t < NumExtentEntryTypes && t != EntryPtr && !(c.ctx.newer(33) && (t == EntryReconcile || t == EntryReconcileBP)) {
		return keyErr(k, "btree_ptr_has_non_ptr", "%v entry in a pointer to a btree node", t)
	}
	switch t {
	case EntryPtr:
		return c.ptr(decodeExtentPtr(w))
	case EntryCRC32, EntryCRC64, EntryCRC128:
		crc := decodeCRC(t, b)
		return c.crcEntry(&crc)
	case EntryStripePtr:
		if c.stripe {
			return keyErr(k, "ptr_stripe_redundant", "two stripe entries for one pointer")
		}
		c.stripe = true
	case EntryFlags:
		if !first {
			return keyErr(k, "extent_flags_not_at_start", "flags entry is not the first")
		}
	case EntryReconcile:
		switch r := decodeReconcile(w); {
		case r.Pending && r.NeedRB == 0:
			return keyErr(k, "extent_reconcile_bad_pending", "pending, but nothing to do")
		case r.Hipri && r.NeedRB&ReconcileDataReplicas == 0:
			return keyErr(k, "extent_reconcile_bad_hipri", "high priority, but replicas are as they should be")
		case r.DataReplicas == 0:
			return keyErr(k, "extent_reconcile_bad_replicas", "no replicas wanted")
		}
	}
	return nil
}

func (c *ptrCheck) ptr(p ExtentPtr) error {
	if p.Dev != DevInvalid {
		if !c.devs.add(p.Dev) {
			return keyErr(c.k, "ptr_to_duplicate_device", "two pointers to device %d", p.Dev)
		}
		if err := c.place(p); err != nil {
			return err
		}
		c.written = c.written || !p.Unwritten
		c.unwritten = c.unwritten || p.Unwritten
	}
	if p.Cached && c.stripe {
		return keyErr(c.k, "ptr_cached_and_erasure_coded", "pointer is both cached and erasure coded")
	}
	if p.Dev != DevInvalid || c.stripe {
		c.usable = true
		c.usableLive = c.usableLive || !p.Cached
	}
	c.stripe, c.crc = false, false
	c.ptrs++
	return nil
}

// place checks that a pointer leads into one bucket of its device.
func (c *ptrCheck) place(p ExtentPtr) error {
	if c.ctx.Device == nil {
		return nil
	}
	dev, ok := c.ctx.Device(p.Dev)
	if !ok || dev.BucketSize == 0 {
		return nil
	}
	bucket, off := Bucket(p.Offset)/Bucket(dev.BucketSize), uint32(uint64(p.Offset)%uint64(dev.BucketSize))
	switch {
	case bucket >= dev.NrBuckets:
		return keyErr(c.k, "ptr_after_last_bucket", "device %d sector %d is in bucket %d of %d", p.Dev, p.Offset, bucket, dev.NrBuckets)
	case bucket < dev.FirstBucket:
		return keyErr(c.k, "ptr_before_first_bucket", "device %d sector %d is in bucket %d, the first is %d", p.Dev, p.Offset, bucket,
			dev.FirstBucket)
	case uint64(off)+uint64(c.onDisk) > uint64(dev.BucketSize):
		return keyErr(c.k, "ptr_spans_multiple_buckets", "device %d sector %d: %d sectors at %d of a bucket of %d", p.Dev, p.Offset,
			c.onDisk, off, dev.BucketSize)
	}
	return nil
}

func (c *ptrCheck) crcEntry(crc *CRC) error {
	k := c.k
	switch {
	case !crc.Csum.Valid():
		return keyErr(k, "ptr_crc_csum_type_unknown", "checksum type %d", uint8(crc.Csum))
	case !crc.Compression.Valid():
		return keyErr(k, "ptr_crc_compression_type_unknown", "compression type %d", uint8(crc.Compression))
	case uint64(crc.Offset)+uint64(k.Size) > uint64(crc.UncompressedSize):
		return keyErr(k, "ptr_crc_uncompressed_size_too_small", "sectors %d to %d of %d", crc.Offset, uint64(crc.Offset)+uint64(k.Size),
			crc.UncompressedSize)
	case c.ctx.Commit && c.ctx.MaxEncoded != 0 && crc.IsEncoded() && crc.UncompressedSize > c.ctx.MaxEncoded:
		return keyErr(k, "ptr_crc_uncompressed_size_too_big", "%d sectors, want at most %d", crc.UncompressedSize, c.ctx.MaxEncoded)
	case !crc.Compression.IsCompressed() && crc.CompressedSize != crc.UncompressedSize && c.ctx.newer(16):
		return keyErr(k, "ptr_crc_uncompressed_size_mismatch", "not compressed, but %d sectors of %d", crc.CompressedSize,
			crc.UncompressedSize)
	case c.crc:
		return keyErr(k, "ptr_crc_redundant", "two crc entries for one pointer")
	}
	if crc.Csum.IsEncryption() {
		n := int64(crc.Offset) + int64(crc.Nonce)
		if c.nonce >= 0 && c.nonce != n {
			return keyErr(k, "ptr_crc_nonce_mismatch", "nonce and offset add up to %d, want %d", n, c.nonce)
		}
		c.nonce = n
	}
	c.crc = true
	c.onDisk = crc.CompressedSize
	return nil
}
