package ondisk

// Compatible features (enum bch_sb_compat): who does not know one may ignore it.
const (
	compatAllocInfo = iota
	compatAllocMetadata
	compatExtentsAboveBtreeUpdatesDone
	compatBformatOverflowDone
)

// MarkDirty says that the filesystem is being written to: from now on the journal counts. Versions up to 1.13 refuse an unclean
// filesystem without some of the features set here.
func (sb *Superblock) MarkDirty() {
	sb.setFlag(0, 1, 2, 0)
	for _, f := range []Feature{FeatureNewExtentOverwrite, FeatureExtentsAboveBtreeUpdates, FeatureBtreeUpdatesJournalled,
		FeatureAllocV2, FeatureExtentsAcrossBtreeNodes} {
		sb.SetFeature(f)
	}
}

// MarkClean says that the filesystem was shut down properly: c counts, the journal does not.
func (sb *Superblock) MarkClean(c *Clean) {
	sb.SetClean(c)
	sb.setFlag(0, 1, 2, 1)
	sb.Compat[0] |= 1<<compatAllocInfo | 1<<compatAllocMetadata
	sb.Features[0] &^= 1<<FeatureExtentsAboveBtreeUpdates | 1<<FeatureBtreeUpdatesJournalled
}

// MarkCurrent says of a filesystem that is being made that nothing in it is of an older form.
func (sb *Superblock) MarkCurrent() {
	sb.Compat[0] |= 1<<compatExtentsAboveBtreeUpdatesDone | 1<<compatBformatOverflowDone
}

// SetInitialized says that the filesystem has its root directory, and that all in it is of the filesystem's version.
func (sb *Superblock) SetInitialized() {
	sb.setFlag(0, 0, 1, 1)
	sb.setFlag(5, 0, 16, uint64(sb.Version))
}

// HasAllocInfo reports whether all that is said of allocation is there.
func (sb *Superblock) HasAllocInfo() bool { return sb.Compat[0]>>compatAllocInfo&1 != 0 }

// SetFreespaceInitialized says whether the freespace btree covers the device.
func (m *Member) SetFreespaceInitialized(v bool) { m.setFlag(30, 31, uint64(zeroOne(v))) }
