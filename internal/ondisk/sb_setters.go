package ondisk

import (
	"fmt"
	"strings"

	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
)

// SetDefaultMagic gives the superblock and its layout the magic number of today; older ones are read too.
func (sb *Superblock) SetDefaultMagic() { sb.Magic, sb.Layout.Magic = superblockMagic, superblockMagic }

// SetFeature marks an incompatible feature as in use.
func (sb *Superblock) SetFeature(f Feature) { sb.Features[f/64] |= 1 << (f % 64) }

// SetEncrypted says whether new data and metadata are encrypted.
func (sb *Superblock) SetEncrypted(on bool) { sb.setFlag(1, 10, 14, uint64(zeroOne(on))) }

// SetChecksumType chooses the checksum of the superblock itself, by the option metadata_checksum, as each write does.
func (sb *Superblock) SetChecksumType() {
	types := [...]checksum.Type{checksum.None, checksum.CRC32CNonzero, checksum.CRC64Nonzero, checksum.XXHash}
	sb.setFlag(0, 2, 8, uint64(types[sb.flag(0, 40, 44)%uint64(len(types))]))
}

// SetLabel names the filesystem, in at most 32 bytes.
func (sb *Superblock) SetLabel(label string) error {
	if len(label) > len(sb.RawLabel) || strings.ContainsRune(label, 0) {
		return fmt.Errorf("label %q: want at most %d bytes", label, len(sb.RawLabel))
	}
	sb.RawLabel = [len(sb.RawLabel)]byte{}
	copy(sb.RawLabel[:], label)
	return nil
}

// SetNewMembers makes the sections of members, with records as large as those of version 1.13.
func (sb *Superblock) SetNewMembers(members []Member) error {
	const memberBytes113 = 144
	sb.NrDevices = uint8(len(members))
	v2 := make([]byte, memberV2Head+memberBytes113*len(members))
	v2[0] = memberBytes113
	sb.SetSection(SectionMembersV2, v2)
	return sb.SetMembers(members)
}

// CopyMembersV1 makes or refreshes the section members_v1 from members_v2.
func (sb *Superblock) CopyMembersV1() error {
	members, err := sb.RawMembers()
	if err != nil {
		return err
	}
	sb.SetSection(SectionMembersV1, make([]byte, memberV1Size*len(members)))
	return sb.SetMembers(members)
}

// RawMembers decodes all slots without judging them, as [Superblock.Members] does.
func (sb *Superblock) RawMembers() ([]Member, error) {
	recs, err := sb.memberRecords()
	if err != nil {
		return nil, err
	}
	members := make([]Member, len(recs))
	for i, rec := range recs {
		members[i] = decodeMember(rec)
	}
	return members, nil
}

func (m *Member) setFlag(lo, hi int, v uint64) {
	mask := uint64(1)<<(hi-lo) - 1
	m.Flags = m.Flags&^(mask<<lo) | v&mask<<lo
}

// MaxDurability is the largest that a record can hold.
const MaxDurability = 2

// SetDiscard says whether freed buckets are discarded.
func (m *Member) SetDiscard(on bool) { m.setFlag(14, 15, uint64(zeroOne(on))) }

// SetDataAllowed sets what the device may hold, see [Member.DataAllowed].
func (m *Member) SetDataAllowed(types uint64) { m.setFlag(15, 20, types) }

// SetGroup puts the device into a disk group, -1 for none.
func (m *Member) SetGroup(index int) { m.setFlag(20, 28, uint64(index+1)) }

// SetDurability says how many replicas one on this device counts for, up to [MaxDurability].
func (m *Member) SetDurability(n uint8) { m.setFlag(28, 30, uint64(n)+1) }

// maxGroups is how many labels the members' fields can tell apart.
const maxGroups = 254

// FindGroup finds a disk group by its path, "ssd.fast".
func (sb *Superblock) FindGroup(path string) (index int, ok bool) {
	groups, err := sb.DiskGroups()
	if err != nil {
		return 0, false
	}
	at := -1
	for _, name := range strings.Split(path, ".") {
		if at = findGroup(groups, at, name); at < 0 {
			return 0, false
		}
	}
	return at, true
}

func findGroup(groups []DiskGroup, parent int, name string) int {
	for i, g := range groups {
		if !g.Deleted && g.Parent == parent && g.Name == name {
			return i
		}
	}
	return -1
}

// AddGroup finds a disk group by its path and makes those that are missing.
func (sb *Superblock) AddGroup(path string) (index int, err error) {
	const allTypes = 0x1f
	groups, err := sb.DiskGroups()
	if err != nil {
		return 0, err
	}
	at := -1
	for _, name := range strings.Split(path, ".") {
		if name == "" || len(name) > 32 || strings.ContainsRune(name, 0) {
			return 0, fmt.Errorf("label %q: want names of 1 to 32 bytes, separated by dots", path)
		}
		i := findGroup(groups, at, name)
		if i < 0 {
			g := DiskGroup{Name: name, DataAllowed: allTypes, Parent: at}
			if i = firstDeleted(groups); i < len(groups) {
				groups[i] = g
			} else {
				groups = append(groups, g)
			}
		}
		at = i
	}
	if len(groups) > maxGroups {
		return 0, fmt.Errorf("label %q: there are %d labels, want at most %d", path, len(groups), maxGroups)
	}
	return at, sb.SetDiskGroups(groups)
}

func firstDeleted(groups []DiskGroup) int {
	for i, g := range groups {
		if g.Deleted {
			return i
		}
	}
	return len(groups)
}
