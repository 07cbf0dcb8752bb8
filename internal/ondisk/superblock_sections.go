package ondisk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/go-bcachefs/bcachefs/internal/codec/crypt"
)

// SectionType is the type of a superblock section (enum bch_sb_field_type).
type SectionType uint32

// Section types.
const (
	SectionJournal SectionType = iota
	SectionMembersV1
	SectionCrypt
	SectionReplicasV0
	SectionQuota
	SectionDiskGroups
	SectionClean
	SectionReplicas
	SectionJournalSeqBlacklist
	SectionJournalV2
	SectionCounters
	SectionMembersV2
	SectionErrors
	SectionExt
	SectionDowngrade
	SectionRecoveryPasses
	SectionExtentTypeU64s
	SectionErrorsV2
	NumSections
)

var sectionNames = [NumSections]string{"journal", "members_v1", "crypt", "replicas_v0", "quota", "disk_groups", "clean", "replicas",
	"journal_seq_blacklist", "journal_v2", "counters", "members_v2", "errors", "ext", "downgrade", "recovery_passes",
	"extent_type_u64s", "errors_v2"}

func (t SectionType) String() string {
	if t < NumSections {
		return sectionNames[t]
	}
	return fmt.Sprintf("(unknown section %d)", uint32(t))
}

// ParseSectionType finds a section by its name.
func ParseSectionType(name string) (SectionType, error) {
	if i := slices.Index(sectionNames[:], name); i >= 0 {
		return SectionType(i), nil
	}
	return 0, fmt.Errorf("no superblock section is named %q", name)
}

// Section returns the data of the first section of a type, nil if there is none.
func (sb *Superblock) Section(t SectionType) []byte {
	for _, s := range sb.Sections {
		if s.Type == t {
			return s.Data
		}
	}
	return nil
}

// SetSection replaces the data of a section, padded with zeros to whole words, or appends one. nil removes it.
func (sb *Superblock) SetSection(t SectionType, data []byte) {
	for len(data)%8 != 0 {
		data = append(data, 0)
	}
	i := slices.IndexFunc(sb.Sections, func(s Section) bool { return s.Type == t })
	switch {
	case data == nil && i >= 0:
		sb.Sections = slices.Delete(sb.Sections, i, i+1)
	case data == nil:
	case i >= 0:
		sb.Sections[i].Data = data
	default:
		sb.Sections = append(sb.Sections, Section{t, data})
	}
}

// need returns a section's data if it has at least n bytes; nil without error if there is no such section.
func (sb *Superblock) need(t SectionType, n int) ([]byte, error) {
	data := sb.Section(t)
	if data != nil && len(data) < n {
		return nil, fmt.Errorf("superblock: section %v: %d bytes, want at least %d", t, len(data)+8, n+8)
	}
	return data, nil
}

// SeqRange is a range of journal sequence numbers, or of buckets: Start ≤ n < End.
type SeqRange struct{ Start, End uint64 }

// Journal returns the buckets of this device's journal as ranges, in the order of the ring.
func (sb *Superblock) Journal() ([]SeqRange, error) {
	var ranges []SeqRange
	if v2 := sb.Section(SectionJournalV2); v2 != nil {
		ranges = journalV2Ranges(v2)
	} else {
		ranges = journalV1Ranges(sb.Section(SectionJournal))
	}
	if err := sb.validateJournal(ranges); err != nil {
		return ranges, fmt.Errorf("superblock: journal: %w", err)
	}
	return ranges, nil
}

// Crypt holds the key of an encrypted filesystem (struct bch_sb_field_crypt).
type Crypt struct {
	KDF crypt.KDF
	Key crypt.WrappedKey
}

// Crypt decodes the crypt section; nil if there is none.
func (sb *Superblock) Crypt() (*Crypt, error) {
	b, err := sb.need(SectionCrypt, 16+crypt.WrappedKeySize)
	if b == nil {
		return nil, err
	}
	le := binary.LittleEndian
	c := &Crypt{
		KDF: crypt.ParseKDF(le.Uint64(b), le.Uint64(b[8:])),
		Key: crypt.DecodeWrappedKey((*[crypt.WrappedKeySize]byte)(b[16:])),
	}
	if t := le.Uint64(b) & 15; t != 0 {
		return nil, fmt.Errorf("superblock: section crypt: key derivation function %d is not known", t)
	}
	return c, nil
}

// Clean is what a proper shutdown left (struct bch_sb_field_clean).
type Clean struct {
	Flags      uint32
	JournalSeq uint64 // of the last journal entry
	Entries    []JsetEntry
}

// Clean decodes the clean section; nil if there is none. It counts only if [Superblock.IsClean].
func (sb *Superblock) Clean() (*Clean, error) {
	b, err := sb.need(SectionClean, 16)
	if b == nil {
		return nil, err
	}
	es, err := DecodeJsetEntries(b[16:])
	if err != nil {
		return nil, fmt.Errorf("superblock: section clean: %w", err)
	}
	return &Clean{Flags: binary.LittleEndian.Uint32(b), JournalSeq: binary.LittleEndian.Uint64(b[8:]), Entries: es}, nil
}

// Replicas is a set of devices that data of a type lies on (struct bch_replicas_entry).
type Replicas struct {
	DataType DataType
	Required uint8 // of the devices, to read it
	Devs     []uint8
}

// Replicas decodes the replicas section; if both forms are there, the newer one counts.
func (sb *Superblock) Replicas() ([]Replicas, error) {
	if b := sb.Section(SectionReplicas); b != nil {
		return decodeReplicas(b, false)
	}
	return decodeReplicas(sb.Section(SectionReplicasV0), true)
}

// decodeReplicas decodes a replicas section of either form. With an error it returns the entries before it.
func decodeReplicas(b []byte, old bool) ([]Replicas, error) {
	head := 3
	if old {
		head = 2
	}
	var all []Replicas
	for len(b) >= head && b[0] != 0 {
		n := int(b[1])
		if n == 0 || len(b) < head+n {
			return all, fmt.Errorf("superblock: section replicas: entry %d of %d devices, %d bytes are left", len(all), n, len(b))
		}
		r := Replicas{DataType: DataType(b[0]), Required: 1, Devs: slices.Clone(b[head : head+n])}
		if !old {
			r.Required = b[2]
		}
		if r.Required > 1 && int(r.Required) >= n {
			return all, fmt.Errorf("superblock: section replicas: entry %d needs %d of %d devices", len(all), r.Required, n)
		}
		all = append(all, r)
		b = b[head+n:]
	}
	return all, nil
}

// SetReplicas replaces the replicas section, in the older form if that can express it.
func (sb *Superblock) SetReplicas(all []Replicas) {
	old := !slices.ContainsFunc(all, func(r Replicas) bool { return r.Required != 1 })
	b := []byte{}
	for _, r := range all {
		b = append(b, byte(r.DataType), byte(len(r.Devs)))
		if !old {
			b = append(b, r.Required)
		}
		b = append(b, slices.Sorted(slices.Values(r.Devs))...)
	}
	set, drop := SectionReplicasV0, SectionReplicas
	if !old {
		set, drop = drop, set
	}
	sb.SetSection(set, b)
	sb.SetSection(drop, nil)
}

// Blacklist returns the journal sequence numbers that never happened.
func (sb *Superblock) Blacklist() ([]SeqRange, error) {
	var ranges []SeqRange
	for b := sb.Section(SectionJournalSeqBlacklist); len(b) >= 16; b = b[16:] {
		r := SeqRange{binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])}
		switch {
		case r.Start >= r.End:
			return ranges, fmt.Errorf("superblock: section journal_seq_blacklist: %d to %d is no range", r.Start, r.End)
		case len(ranges) > 0 && r.Start < ranges[len(ranges)-1].End:
			return ranges, fmt.Errorf("superblock: section journal_seq_blacklist: %d to %d is out of order", r.Start, r.End)
		}
		ranges = append(ranges, r)
	}
	return ranges, nil
}

// SetBlacklist replaces the blacklist; an empty one removes the section.
func (sb *Superblock) SetBlacklist(ranges []SeqRange) {
	var b []byte
	for _, r := range ranges {
		b = binary.LittleEndian.AppendUint64(b, r.Start)
		b = binary.LittleEndian.AppendUint64(b, r.End)
	}
	sb.SetSection(SectionJournalSeqBlacklist, b)
}

// Counters decodes the counters section, indexed by the number of the counter.
func (sb *Superblock) Counters() []uint64 {
	var c []uint64
	for b := sb.Section(SectionCounters); len(b) >= 8; b = b[8:] {
		c = append(c, binary.LittleEndian.Uint64(b))
	}
	return c
}

// FsckErrorCount counts how often fsck met an error, by its number.
type FsckErrorCount struct {
	ID          uint16
	Count       uint64
	First, Last uint64 // seconds since 1970
}

// Errors decodes the sections errors and errors_v2 and adds them up, in the order of their numbers.
func (sb *Superblock) Errors() []FsckErrorCount {
	var all []FsckErrorCount
	for _, e := range append(decodeErrors(sb.Section(SectionErrors), false), decodeErrors(sb.Section(SectionErrorsV2), true)...) {
		i, ok := slices.BinarySearchFunc(all, e.ID, func(x FsckErrorCount, id uint16) int { return int(x.ID) - int(id) })
		if !ok {
			all = slices.Insert(all, i, e)
			continue
		}
		x := &all[i]
		x.Count += e.Count
		x.First, x.Last = min(x.First, e.First), max(x.Last, e.Last)
	}
	return all
}

const errorEntrySize = 16

// decodeErrors decodes the section errors or errors_v2. The former knows the time of the last error only.
func decodeErrors(b []byte, v2 bool) []FsckErrorCount {
	le := binary.LittleEndian
	all := make([]FsckErrorCount, 0, len(b)/errorEntrySize)
	for ; len(b) >= errorEntrySize; b = b[errorEntrySize:] {
		lo, hi := le.Uint64(b), le.Uint64(b[8:])
		if v2 {
			all = append(all, FsckErrorCount{ID: uint16(lo), Count: lo >> 16 & (1<<32 - 1), Last: lo>>48 | hi&(1<<24-1)<<16, First: hi >> 24})
		} else {
			all = append(all, FsckErrorCount{uint16(lo), lo >> 16, hi, hi})
		}
	}
	return all
}

// Ext is the section for what found no place elsewhere (struct bch_sb_field_ext).
type Ext struct {
	PassesRequired     [2]uint64 // recovery passes to run, by their stable numbers
	ErrorsSilent       [8]uint64 // errors to repair without asking
	BtreesLostData     uint64
	Flags              uint64
	BtreesLostDataEver uint64
	BtreesClean        uint64
}

// Ext decodes the ext section; what it is too short for is zero. nil if there is none.
func (sb *Superblock) Ext() (*Ext, error) {
	data, err := sb.need(SectionExt, 80)
	if data == nil {
		return nil, err
	}
	var b [112]byte
	copy(b[:], data)
	le := binary.LittleEndian
	e := &Ext{BtreesLostData: le.Uint64(b[80:]), Flags: le.Uint64(b[88:]), BtreesLostDataEver: le.Uint64(b[96:]),
		BtreesClean: le.Uint64(b[104:])}
	for i := range e.PassesRequired {
		e.PassesRequired[i] = le.Uint64(b[8*i:])
	}
	for i := range e.ErrorsSilent {
		e.ErrorsSilent[i] = le.Uint64(b[16+8*i:])
	}
	return e, nil
}

// Downgrade is what software older than a version must do before it uses the filesystem (struct bch_sb_field_downgrade).
type Downgrade struct {
	Version MetadataVersion
	Passes  [2]uint64
	Errors  []uint16
}

// Downgrades decodes the downgrade section.
func (sb *Superblock) Downgrades() ([]Downgrade, error) {
	const head = 20
	le := binary.LittleEndian
	var all []Downgrade
	for b := sb.Section(SectionDowngrade); len(b) >= head; {
		d := Downgrade{Version: MetadataVersion(le.Uint16(b)), Passes: [2]uint64{le.Uint64(b[2:]), le.Uint64(b[10:])}}
		n := int(le.Uint16(b[18:]))
		b = b[head:]
		if len(b) < 2*n {
			return all, errors.New("superblock: section downgrade: an entry ends behind it")
		}
		if d.Version == 0 && n == 0 {
			break // padding
		}
		for i := range n {
			d.Errors = append(d.Errors, le.Uint16(b[2*i:]))
		}
		all = append(all, d)
		b = b[2*n:]
	}
	return all, nil
}

// PassRun says when a recovery pass ran last.
type PassRun struct {
	LastRun     uint64 // seconds since 1970
	Runtime     uint32 // seconds
	NoRatelimit bool
}

// RecoveryPasses decodes the section recovery_passes, indexed by the stable number of the pass.
func (sb *Superblock) RecoveryPasses() []PassRun {
	le := binary.LittleEndian
	var all []PassRun
	for b := sb.Section(SectionRecoveryPasses); len(b) >= 16; b = b[16:] {
		all = append(all, PassRun{le.Uint64(b), le.Uint32(b[8:]), le.Uint32(b[12:])&1 != 0})
	}
	return all
}

// ExtentTypeU64s returns the lengths of extent entries by type, so that unknown ones can be stepped over; nil if unknown.
func (sb *Superblock) ExtentTypeU64s() ExtentTypeU64s {
	b := sb.Section(SectionExtentTypeU64s)
	if i := slices.Index(b, 0); i >= 0 {
		b = b[:i]
	}
	return ExtentTypeU64s(slices.Clone(b))
}

// QuotaLimits are the limits of grace of one type of quota.
type QuotaLimits struct {
	Flags      uint64
	TimeLimits [2]uint32 // seconds, of space and inodes
	WarnLimits [2]uint32
}

// Quota decodes the quota section: users, groups, projects. nil if there is none.
func (sb *Superblock) Quota() ([]QuotaLimits, error) {
	b, err := sb.need(SectionQuota, 72)
	if b == nil {
		return nil, err
	}
	le := binary.LittleEndian
	all := make([]QuotaLimits, 3)
	for i := range all {
		r := b[24*i:]
		all[i] = QuotaLimits{le.Uint64(r), [2]uint32{le.Uint32(r[8:]), le.Uint32(r[16:])}, [2]uint32{le.Uint32(r[12:]), le.Uint32(r[20:])}}
	}
	return all, nil
}
