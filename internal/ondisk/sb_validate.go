package ondisk

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// ValidateMode says what a superblock is validated for.
type ValidateMode uint8

// Modes of validation.
const (
	ValidateRead  ValidateMode = iota
	ValidateWrite              // what is about to be written, which is held to more
)

// Validate checks all that the reference checks before it reads, or writes, a superblock: the fixed fields, the options,
// the layout and every section of a known type. The error names the first thing wrong.
//
// [DecodeSuperblock] checks less, so that a filesystem can be read that has a superfluous section spoiled: what sections
// hold is checked by what decodes them.
func (sb *Superblock) Validate(mode ValidateMode) error {
	if err := sb.validateFixed(); err != nil {
		return err
	}
	if err := sb.validateOptions(mode); err != nil {
		return err
	}
	if incompat, allowed := sb.flag(5, 32, 48), sb.flag(5, 48, 64); mode == ValidateWrite && incompat > allowed {
		return fmt.Errorf("superblock: features of version %v are in use, allowed are those up to %v",
			MetadataVersion(incompat), MetadataVersion(allowed))
	}
	for i := range sb.Sections {
		s := &sb.Sections[i]
		if slices.ContainsFunc(sb.Sections[:i], func(o Section) bool { return o.Type == s.Type }) {
			continue // only the first one of a type counts
		}
		if err := sb.validateSection(s, mode); err != nil {
			return fmt.Errorf("superblock: section %v: %w", s.Type, err)
		}
	}
	return nil
}

func (sb *Superblock) validateSection(s *Section, mode ValidateMode) error {
	switch s.Type {
	case SectionJournal:
		return sb.validateJournal(journalV1Ranges(s.Data))
	case SectionJournalV2:
		return sb.validateJournal(journalV2Ranges(s.Data))
	case SectionMembersV1, SectionMembersV2:
		return sb.validateMembers(s, mode)
	case SectionCrypt:
		_, err := sb.Crypt()
		return err
	case SectionReplicasV0, SectionReplicas:
		return sb.validateReplicas(s)
	case SectionQuota:
		_, err := sb.Quota()
		return err
	case SectionDiskGroups:
		return sb.validateDiskGroups()
	case SectionClean:
		return sb.validateClean()
	case SectionJournalSeqBlacklist:
		_, err := sb.Blacklist()
		return err
	case SectionErrors, SectionErrorsV2:
		return validateErrors(s)
	case SectionExt:
		_, err := sb.Ext()
		return err
	case SectionDowngrade:
		return sb.validateDowngrade(mode)
	case SectionExtentTypeU64s:
		return sb.ExtentTypeU64s().validate()
	}
	return nil
}

// validateMembers checks all slots, those of no device too: their geometry must stay sound.
func (sb *Superblock) validateMembers(s *Section, mode ValidateMode) error {
	recs, err := sb.sectionMembers(s)
	if err != nil {
		return err
	}
	for i, rec := range recs {
		m := decodeMember(rec)
		if err := sb.checkGeometry(&m); err != nil {
			return fmt.Errorf("device %d: %w", i, err)
		}
		if m.FreespaceInitialized() && sb.HasFeature(FeatureNoAllocInfo) {
			return fmt.Errorf("device %d: has free space, but the filesystem has no allocation information", i)
		}
		if mode == ValidateWrite && s.Type == SectionMembersV2 && i == int(sb.DevIdx) && m.Seq != sb.Seq {
			return fmt.Errorf("device %d: sequence number %d, want that of the superblock, %d", i, m.Seq, sb.Seq)
		}
	}
	return nil
}

func (sb *Superblock) validateReplicas(s *Section) error {
	all, err := decodeReplicas(s.Data, s.Type == SectionReplicasV0)
	if err != nil {
		return err
	}
	recs, err := sb.memberRecords()
	if err != nil {
		return err
	}
	for i, r := range all {
		devs := slices.Sorted(slices.Values(r.Devs))
		for j, dev := range devs {
			switch {
			case j > 0 && dev == devs[j-1]:
				return fmt.Errorf("entry %v: device %d twice", r, dev)
			case dev == DevInvalid:
			case int(dev) >= len(recs):
				return fmt.Errorf("entry %v: device %d, there are %d", r, dev, len(recs))
			default:
				if m := decodeMember(recs[dev]); !m.Alive() {
					return fmt.Errorf("entry %v: device %d was removed", r, dev)
				}
			}
		}
		same := func(o Replicas) bool {
			return o.DataType == r.DataType && o.Required == r.Required && bytes.Equal(slices.Sorted(slices.Values(o.Devs)), devs)
		}
		if slices.ContainsFunc(all[:i], same) {
			return fmt.Errorf("entry %v twice", r)
		}
	}
	return nil
}

func (sb *Superblock) validateDiskGroups() error {
	groups, err := sb.DiskGroups()
	if err != nil {
		return err
	}
	type place struct {
		parent int
		name   string
	}
	seen := map[place]int{}
	for i, g := range groups {
		if g.Deleted {
			continue
		}
		if g.Name == "" {
			return fmt.Errorf("label %d is empty", i)
		}
		if j, ok := seen[place{g.Parent, g.Name}]; ok {
			return fmt.Errorf("labels %d and %d are both %q below label %d", j, i, g.Name, g.Parent)
		}
		seen[place{g.Parent, g.Name}] = i
	}
	recs, err := sb.memberRecords()
	if err != nil {
		return err
	}
	for i, rec := range recs {
		m := decodeMember(rec)
		switch g, ok := m.Group(); {
		case !m.Alive() || !ok:
		case g >= len(groups):
			return fmt.Errorf("device %d has label %d, there are %d", i, g, len(groups))
		case groups[g].Deleted:
			return fmt.Errorf("device %d has label %d, which was deleted", i, g)
		}
	}
	return nil
}

func (sb *Superblock) validateClean() error {
	c, err := sb.Clean()
	if err != nil {
		return err
	}
	for i := range c.Entries {
		if what := c.Entries[i].badRecord(); what != "" {
			return fmt.Errorf("record %d: %v: %s", i, c.Entries[i].Type, what)
		}
	}
	return nil
}

func validateErrors(s *Section) error {
	all := decodeErrors(s.Data, s.Type == SectionErrorsV2)
	for i, e := range all {
		switch {
		case e.Count == 0:
			return fmt.Errorf("entry %d (%v): count is 0", i, ErrorID(e.ID))
		case e.First > e.Last:
			return fmt.Errorf("entry %d (%v): first met at %d, last at %d", i, ErrorID(e.ID), e.First, e.Last)
		case i > 0 && all[i-1].ID >= e.ID:
			return fmt.Errorf("entry %d (%v): out of order", i, ErrorID(e.ID))
		}
	}
	return nil
}

// validateDowngrade checks the entries. One that reaches behind the section must not be written; when read it ends the list.
func (sb *Superblock) validateDowngrade(mode ValidateMode) error {
	all, err := sb.Downgrades()
	if mode == ValidateWrite && err != nil {
		return err
	}
	for i, d := range all {
		if d.Version.Major() != sb.Version.Major() {
			return fmt.Errorf("entry %d: version %v, the filesystem has %v", i, d.Version, sb.Version)
		}
	}
	return nil
}

// validate checks that the types of extent entries that are known have the lengths that are known.
func (u ExtentTypeU64s) validate() error {
	for t, n := range u {
		if t < int(NumExtentEntryTypes) && n != extentEntryU64s[t] {
			return fmt.Errorf("entries of type %v have %d words, want %d", ExtentEntryType(t), n, extentEntryU64s[t])
		}
	}
	return nil
}

// journalV1Ranges are the buckets of a section journal, one by one.
func journalV1Ranges(b []byte) []SeqRange {
	ranges := make([]SeqRange, 0, len(b)/8)
	for ; len(b) >= 8; b = b[8:] {
		bucket := binary.LittleEndian.Uint64(b)
		ranges = append(ranges, SeqRange{bucket, bucket + 1})
	}
	return ranges
}

// journalV2Ranges are the ranges of a section journal_v2; the end of one that is too long wraps.
func journalV2Ranges(b []byte) []SeqRange {
	ranges := make([]SeqRange, 0, len(b)/16)
	for ; len(b) >= 16; b = b[16:] {
		start := binary.LittleEndian.Uint64(b)
		ranges = append(ranges, SeqRange{start, start + binary.LittleEndian.Uint64(b[8:])})
	}
	return ranges
}

// errJournalTooLong: indexes of journal buckets have 32 bits.
var errJournalTooLong = errors.New("more than 2^32-1 buckets")

func (sb *Superblock) validateJournal(ranges []SeqRange) error {
	recs, err := sb.memberRecords()
	if err != nil {
		return err
	}
	if int(sb.DevIdx) >= len(recs) {
		return fmt.Errorf("device index %d, there are %d devices", sb.DevIdx, len(recs))
	}
	m := decodeMember(recs[sb.DevIdx])
	sorted := slices.SortedFunc(slices.Values(ranges), func(a, b SeqRange) int { return cmp.Compare(a.Start, b.Start) })
	total := uint64(0)
	for i, r := range sorted {
		switch {
		case r.End <= r.Start:
			return fmt.Errorf("no buckets from %d on", r.Start)
		case r.Start == 0 || r.Start < uint64(m.FirstBucket) || r.End > m.NBuckets:
			return fmt.Errorf("buckets %d to %d are not on a device of %d to %d", r.Start, r.End-1, max(m.FirstBucket, 1), m.NBuckets-1)
		case i > 0 && r.Start < sorted[i-1].End:
			return fmt.Errorf("bucket %d occurs twice", r.Start)
		}
		if total += r.End - r.Start; total > 1<<32-1 {
			return errJournalTooLong
		}
	}
	return nil
}
