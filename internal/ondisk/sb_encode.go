package ondisk

import (
	"encoding/binary"
	"fmt"

	"github.com/go-bcachefs/bcachefs/internal/codec/crypt"
)

// The setters below replace what a section holds and keep what they do not know of it: reserved fields, unknown flags, and
// what newer writers appended.

// resized returns a copy of a section's data, grown with zeros to at least n bytes.
func (sb *Superblock) resized(t SectionType, n int) []byte {
	old := sb.Section(t)
	b := make([]byte, max(len(old), n))
	copy(b, old)
	return b
}

// SetJournal replaces the buckets of this device's journal, in the order of the ring, and drops the older form of the
// section. An empty list removes both.
func (sb *Superblock) SetJournal(ranges []SeqRange) {
	var b []byte
	for _, r := range ranges {
		b = binary.LittleEndian.AppendUint64(b, r.Start)
		b = binary.LittleEndian.AppendUint64(b, r.End-r.Start)
	}
	sb.SetSection(SectionJournalV2, b)
	sb.SetSection(SectionJournal, nil)
}

// SetCrypt replaces the encryption key and how its passphrase is used.
func (sb *Superblock) SetCrypt(c *Crypt) {
	b := sb.resized(SectionCrypt, 16+crypt.WrappedKeySize)
	le := binary.LittleEndian
	le.PutUint64(b, le.Uint64(b)&^15|uint64(c.KDF.Type&15))
	le.PutUint64(b[8:], le.Uint64(b[8:])&^(1<<48-1)|c.KDF.Flags())
	key := c.Key.Encode()
	copy(b[16:], key[:])
	sb.SetSection(SectionCrypt, b)
}

// SetClean replaces the clean section. It does not mark the filesystem clean.
func (sb *Superblock) SetClean(c *Clean) {
	b := append([]byte(nil), sb.resized(SectionClean, 8)[:8]...)
	binary.LittleEndian.PutUint32(b, c.Flags)
	b = binary.LittleEndian.AppendUint64(b, c.JournalSeq)
	for _, e := range c.Entries {
		b = AppendJsetEntry(b, e)
	}
	sb.SetSection(SectionClean, b)
}

// SetDiskGroups replaces the labels. None removes the section. It fails if a name is longer than 32 bytes or a parent is
// none of the labels.
func (sb *Superblock) SetDiskGroups(groups []DiskGroup) error {
	const nameSize, known = 32, 1<<24 - 1
	old := sb.Section(SectionDiskGroups)
	b := make([]byte, len(groups)*diskGroupSize)
	copy(b, old)
	for i, g := range groups {
		rec := b[i*diskGroupSize:]
		if len(g.Name) > nameSize || g.Parent < -1 || g.Parent >= len(groups) {
			return fmt.Errorf("superblock: disk group %d: name %q, parent %d", i, g.Name, g.Parent)
		}
		if cstring(rec[:nameSize]) != g.Name {
			clear(rec[copy(rec[:nameSize], g.Name):nameSize])
		}
		f := uint64(zeroOne(g.Deleted)) | uint64(g.DataAllowed&31)<<1 | uint64(g.Parent+1)<<6
		binary.LittleEndian.PutUint64(rec[nameSize:], binary.LittleEndian.Uint64(rec[nameSize:])&^known|f)
	}
	if len(groups) == 0 {
		b = nil
	}
	sb.SetSection(SectionDiskGroups, b)
	return nil
}

// SetCounters replaces the first counters and keeps the others: the section never shrinks.
func (sb *Superblock) SetCounters(counters []uint64) {
	b := sb.resized(SectionCounters, 8*len(counters))
	for i, n := range counters {
		binary.LittleEndian.PutUint64(b[8*i:], n)
	}
	sb.SetSection(SectionCounters, b)
}

// Largest numbers that a record of errors_v2 holds.
const (
	maxErrorCount = 1<<32 - 1
	maxErrorTime  = 1<<40 - 1
)

// SetErrors replaces the counts of errors, which must be in the order of their numbers, in the form that software of the
// filesystem's version knows.
func (sb *Superblock) SetErrors(all []FsckErrorCount) {
	b := make([]byte, 0, len(all)*errorEntrySize)
	set, drop := SectionErrors, SectionErrorsV2
	if sb.Version >= versionErrorsV2 {
		set, drop = drop, set
	}
	for _, e := range all {
		lo, hi := uint64(e.ID)|e.Count<<16, e.Last
		if set == SectionErrorsV2 {
			first, last := min(e.First, maxErrorTime), min(e.Last, maxErrorTime)
			lo = uint64(e.ID) | min(e.Count, maxErrorCount)<<16 | last<<48
			hi = last>>16 | first<<24
		}
		b = binary.LittleEndian.AppendUint64(b, lo)
		b = binary.LittleEndian.AppendUint64(b, hi)
	}
	sb.SetSection(set, b)
	sb.SetSection(drop, nil)
}

// versionErrorsV2 is the first version whose software keeps the times of the first errors too.
const versionErrorsV2 MetadataVersion = 1<<10 | 39

// SetExt replaces the ext section, which grows if there is something to say in fields that it did not have.
func (sb *Superblock) SetExt(e *Ext) {
	words := append(append([]uint64(nil), e.PassesRequired[:]...), e.ErrorsSilent[:]...)
	oldest := len(words)
	words = append(words, e.BtreesLostData, e.Flags, e.BtreesLostDataEver, e.BtreesClean)
	b := sb.resized(SectionExt, 8*oldest)
	for i, w := range words {
		if w != 0 {
			b = append(b, make([]byte, max(0, 8*(i+1)-len(b)))...)
		}
		if 8*i < len(b) {
			binary.LittleEndian.PutUint64(b[8*i:], w)
		}
	}
	sb.SetSection(SectionExt, b)
}

// SetDowngrades replaces the downgrade section.
func (sb *Superblock) SetDowngrades(all []Downgrade) {
	le := binary.LittleEndian
	b := []byte{}
	for _, d := range all {
		b = le.AppendUint16(b, uint16(d.Version))
		b = le.AppendUint64(b, d.Passes[0])
		b = le.AppendUint64(b, d.Passes[1])
		b = le.AppendUint16(b, uint16(len(d.Errors)))
		for _, id := range d.Errors {
			b = le.AppendUint16(b, id)
		}
	}
	sb.SetSection(SectionDowngrade, b)
}

// SetRecoveryPasses replaces when passes ran, by their stable numbers.
func (sb *Superblock) SetRecoveryPasses(all []PassRun) {
	const size = 16
	le := binary.LittleEndian
	b := sb.resized(SectionRecoveryPasses, size*len(all))
	for i, r := range all {
		rec := b[size*i:]
		le.PutUint64(rec, r.LastRun)
		le.PutUint32(rec[8:], r.Runtime)
		le.PutUint32(rec[12:], le.Uint32(rec[12:])&^1|uint32(zeroOne(r.NoRatelimit)))
	}
	sb.SetSection(SectionRecoveryPasses, b)
}

// SetExtentTypeU64s replaces the lengths of extent entries. Nil stands for those known here.
func (sb *Superblock) SetExtentTypeU64s(u ExtentTypeU64s) {
	if u == nil {
		u = extentEntryU64s[:]
	}
	sb.SetSection(SectionExtentTypeU64s, append([]byte{}, u...))
}

// SetQuota replaces the limits of users, groups and projects.
func (sb *Superblock) SetQuota(q [3]QuotaLimits) {
	const size = 24
	b := sb.resized(SectionQuota, size*len(q))
	le := binary.LittleEndian
	for i := range q {
		rec := b[size*i:]
		le.PutUint64(rec, q[i].Flags)
		for c := range q[i].TimeLimits {
			le.PutUint32(rec[8+8*c:], q[i].TimeLimits[c])
			le.PutUint32(rec[12+8*c:], q[i].WarnLimits[c])
		}
	}
	sb.SetSection(SectionQuota, b)
}

// GrowMembers makes the records of members_v2 at least as large as those written here; larger ones are kept.
func (sb *Superblock) GrowMembers() error {
	b := sb.Section(SectionMembersV2)
	if len(b) < memberV2Head {
		return fmt.Errorf("superblock: no section %v", SectionMembersV2)
	}
	size := int(binary.LittleEndian.Uint16(b))
	if size >= MemberSize {
		return nil
	}
	recs, err := sb.sectionMembers(&Section{SectionMembersV2, b})
	if err != nil {
		return err
	}
	grown := make([]byte, memberV2Head+len(recs)*MemberSize)
	copy(grown, b[:memberV2Head])
	binary.LittleEndian.PutUint16(grown, MemberSize)
	for i, rec := range recs {
		copy(grown[memberV2Head+i*MemberSize:], rec)
	}
	sb.SetSection(SectionMembersV2, grown)
	return nil
}
