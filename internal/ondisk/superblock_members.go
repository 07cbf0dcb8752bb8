package ondisk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Sizes of encoded members (struct bch_member), in bytes.
const (
	memberV1Size = 56
	MemberSize   = 328 // of the newest version known
	memberV2Head = 8   // member_bytes and padding in front of the records
)

// MemberState is what a device may be used for (enum bch_member_state).
type MemberState uint8

// States of members.
const (
	MemberRW MemberState = iota
	MemberRO
	MemberFailed // evacuating, from 1.33 on
	MemberSpare
)

var memberStates = []string{"rw", "ro", "failed", "spare"}

func (s MemberState) String() string {
	if int(s) < len(memberStates) {
		return memberStates[s]
	}
	return fmt.Sprintf("(unknown state %d)", uint8(s))
}

// Name is the name of the state in version v: failed became evacuating.
func (s MemberState) Name(v MetadataVersion) string {
	if s == MemberFailed && v >= VersionReconcile {
		return "evacuating"
	}
	return s.String()
}

// Member is the slot of a device (struct bch_member).
type Member struct {
	UUID              UUID
	NBuckets          uint64
	FirstBucket       uint16
	BucketSize        uint16 // sectors
	BtreeBitmapShift  uint8  // log2 of the sectors that one bit of BtreeBitmap stands for
	LastMount         uint64 // seconds since 1970
	Flags             uint64
	IOPS              [4]uint32 // sequential read and write, random read and write
	Errors            [3]uint64 // read, write, checksum
	ErrorsAtReset     [3]uint64
	ErrorsResetTime   uint64 // seconds since 1970
	Seq               uint64 // of the last superblock that was written here too
	BtreeBitmap       uint64
	LastJournalBucket uint32 // index in the ring of journal buckets
	LastJournalOffset uint32 // sectors
	DeviceName        string
	DeviceModel       string
	FlushErrors       uint64
	DeviceSerial      string
	FailureDomain     string
}

func (m *Member) flag(lo, hi int) uint64 { return m.Flags >> lo & (1<<(hi-lo) - 1) }

// Alive reports whether the slot is a device's.
func (m *Member) Alive() bool { return !m.UUID.IsZero() && m.UUID != deletedMember }

// State says what the device may be used for.
func (m *Member) State() MemberState { return MemberState(m.flag(0, 4)) }

// Discard reports whether freed buckets are discarded.
func (m *Member) Discard() bool { return m.flag(14, 15) != 0 }

// DataAllowed has bit n set if the device may hold data of type n.
func (m *Member) DataAllowed() uint64 { return m.flag(15, 20) }

// Group is the index of the device's disk group; false if it is in none.
func (m *Member) Group() (int, bool) {
	g := int(m.flag(20, 28))
	return g - 1, g > 0
}

// Durability is how many replicas one on this device counts for.
func (m *Member) Durability() uint8 {
	if d := m.flag(28, 30); d > 0 {
		return uint8(d - 1)
	}
	return 1
}

// FreespaceInitialized reports whether the freespace btree covers the device.
func (m *Member) FreespaceInitialized() bool { return m.flag(30, 31) != 0 }

// ResizeOnMount reports whether the next mount grows the filesystem to the size of the device.
func (m *Member) ResizeOnMount() bool { return m.flag(31, 32) != 0 }

// Rotational reports whether the device is a spinning disk, if that is known.
func (m *Member) Rotational() (is, known bool) { return m.flag(32, 33) != 0, m.flag(33, 34) != 0 }

// BucketBytes is the size of a bucket in bytes.
func (m *Member) BucketBytes() int64 { return int64(m.BucketSize) * SectorSize }

// Bytes is the size of the device in bytes, as far as the filesystem uses it.
func (m *Member) Bytes() int64 { return int64(m.NBuckets) * m.BucketBytes() }

// decodeMember reads a record; what it is too short for is zero.
func decodeMember(rec []byte) Member {
	var b [MemberSize]byte
	copy(b[:], rec)
	le := binary.LittleEndian
	m := Member{
		UUID:              UUID(b[:16]),
		NBuckets:          le.Uint64(b[16:]),
		FirstBucket:       le.Uint16(b[24:]),
		BucketSize:        le.Uint16(b[26:]),
		BtreeBitmapShift:  b[28],
		LastMount:         le.Uint64(b[32:]),
		Flags:             le.Uint64(b[40:]),
		ErrorsResetTime:   le.Uint64(b[112:]),
		Seq:               le.Uint64(b[120:]),
		BtreeBitmap:       le.Uint64(b[128:]),
		LastJournalBucket: le.Uint32(b[136:]),
		LastJournalOffset: le.Uint32(b[140:]),
		DeviceName:        cstring(b[144:160]),
		DeviceModel:       cstring(b[160:224]),
		FlushErrors:       le.Uint64(b[224:]),
		DeviceSerial:      cstring(b[232:296]),
		FailureDomain:     cstring(b[296:328]),
	}
	for i := range m.IOPS {
		m.IOPS[i] = le.Uint32(b[48+4*i:])
	}
	for i := range m.Errors {
		m.Errors[i] = le.Uint64(b[64+8*i:])
		m.ErrorsAtReset[i] = le.Uint64(b[88+8*i:])
	}
	return m
}

// put writes a record of len(rec) bytes; bytes that no field covers stay as they are.
func (m *Member) put(rec []byte) {
	var b [MemberSize]byte
	copy(b[:], rec)
	le := binary.LittleEndian
	copy(b[:], m.UUID[:])
	le.PutUint64(b[16:], m.NBuckets)
	le.PutUint16(b[24:], m.FirstBucket)
	le.PutUint16(b[26:], m.BucketSize)
	b[28] = m.BtreeBitmapShift
	le.PutUint64(b[32:], m.LastMount)
	le.PutUint64(b[40:], m.Flags)
	for i := range m.IOPS {
		le.PutUint32(b[48+4*i:], m.IOPS[i])
	}
	for i := range m.Errors {
		le.PutUint64(b[64+8*i:], m.Errors[i])
		le.PutUint64(b[88+8*i:], m.ErrorsAtReset[i])
	}
	le.PutUint64(b[112:], m.ErrorsResetTime)
	le.PutUint64(b[120:], m.Seq)
	le.PutUint64(b[128:], m.BtreeBitmap)
	le.PutUint32(b[136:], m.LastJournalBucket)
	le.PutUint32(b[140:], m.LastJournalOffset)
	for _, f := range []struct {
		lo, hi int
		s      string
	}{{144, 160, m.DeviceName}, {160, 224, m.DeviceModel}, {232, 296, m.DeviceSerial}, {296, 328, m.FailureDomain}} {
		n := copy(b[f.lo:f.hi], f.s)
		clear(b[f.lo+n : f.hi])
	}
	le.PutUint64(b[224:], m.FlushErrors)
	copy(rec, b[:])
}

// memberRecords cuts the newest members section into the records of the slots.
func (sb *Superblock) memberRecords() ([][]byte, error) {
	for _, t := range []SectionType{SectionMembersV2, SectionMembersV1} {
		if data := sb.Section(t); data != nil {
			return sb.sectionMembers(&Section{t, data})
		}
	}
	return nil, errors.New("superblock: no section members_v2 or members_v1")
}

// sectionMembers cuts a members section of either form into the records of the slots.
func (sb *Superblock) sectionMembers(s *Section) ([][]byte, error) {
	size, data := memberV1Size, s.Data
	if s.Type == SectionMembersV2 {
		if len(data) < memberV2Head {
			return nil, fmt.Errorf("superblock: section members_v2: %d bytes, want at least %d", len(data), memberV2Head)
		}
		size, data = int(binary.LittleEndian.Uint16(data)), data[memberV2Head:]
		if size < memberV1Size {
			return nil, fmt.Errorf("superblock: section members_v2: records of %d bytes, want at least %d", size, memberV1Size)
		}
	}
	if len(data) < size*int(sb.NrDevices) {
		return nil, fmt.Errorf("superblock: section %v: %d bytes, want %d records of %d", s.Type, len(data), sb.NrDevices, size)
	}
	recs := make([][]byte, sb.NrDevices)
	for i := range recs {
		recs[i] = data[i*size : (i+1)*size]
	}
	return recs, nil
}

// Members decodes and validates the slots of all devices; those that are no device's are not [Member.Alive].
func (sb *Superblock) Members() ([]Member, error) {
	recs, err := sb.memberRecords()
	if err != nil {
		return nil, err
	}
	members := make([]Member, len(recs))
	for i, rec := range recs {
		members[i] = decodeMember(rec)
		if err := sb.checkMember(&members[i]); err != nil {
			return nil, fmt.Errorf("superblock: member %d: %w", i, err)
		}
	}
	return members, nil
}

// Bounds of the buckets of a device.
const (
	maxBuckets = 1<<31 - 1 - 64
	minBuckets = 64
)

func (sb *Superblock) checkMember(m *Member) error {
	if !m.Alive() {
		return nil
	}
	return sb.checkGeometry(m)
}

func (sb *Superblock) checkGeometry(m *Member) error {
	switch {
	case m.NBuckets > maxBuckets:
		return fmt.Errorf("%d buckets, want at most %d", m.NBuckets, maxBuckets)
	case m.NBuckets < minBuckets+uint64(m.FirstBucket):
		return fmt.Errorf("%d buckets from %d on, want at least %d", m.NBuckets, m.FirstBucket, minBuckets)
	case m.BucketSize < sb.BlockSize:
		return fmt.Errorf("buckets of %d sectors, smaller than blocks of %d", m.BucketSize, sb.BlockSize)
	case int(m.BucketSize)*SectorSize < sb.BtreeNodeSize():
		return fmt.Errorf("buckets of %d sectors, smaller than btree nodes of %d bytes", m.BucketSize, sb.BtreeNodeSize())
	case m.BtreeBitmapShift >= 58:
		return fmt.Errorf("btree bitmap shift %d, want less than 58", m.BtreeBitmapShift)
	}
	return nil
}

// SetMembers replaces the records of members_v2, and of members_v1 if it is there, keeping their size and what is unknown in
// them. There must be as many members as slots.
func (sb *Superblock) SetMembers(members []Member) error {
	if len(members) != int(sb.NrDevices) {
		return fmt.Errorf("superblock: %d members for %d slots", len(members), sb.NrDevices)
	}
	for _, t := range []SectionType{SectionMembersV1, SectionMembersV2} {
		data := sb.Section(t)
		if data == nil {
			continue
		}
		size := memberV1Size
		if t == SectionMembersV2 {
			size, data = int(binary.LittleEndian.Uint16(data)), data[memberV2Head:]
		}
		if len(data) < size*len(members) {
			return fmt.Errorf("superblock: section %v: too small for %d members", t, len(members))
		}
		for i := range members {
			members[i].put(data[i*size : (i+1)*size])
		}
	}
	return nil
}

// DiskGroup is a label of devices (struct bch_disk_group).
type DiskGroup struct {
	Name        string
	Deleted     bool
	DataAllowed uint8
	Parent      int // index; -1 at the root
}

const diskGroupSize = 48

// DiskGroups decodes the labels.
func (sb *Superblock) DiskGroups() ([]DiskGroup, error) {
	data := sb.Section(SectionDiskGroups)
	var groups []DiskGroup
	for ; len(data) >= diskGroupSize; data = data[diskGroupSize:] {
		f := binary.LittleEndian.Uint64(data[32:])
		groups = append(groups, DiskGroup{Name: cstring(data[:32]), Deleted: f&1 != 0, DataAllowed: uint8(f >> 1 & 31),
			Parent: int(f>>6&(1<<18-1)) - 1})
	}
	for i, g := range groups {
		if g.Parent >= len(groups) {
			return nil, fmt.Errorf("superblock: disk group %d: parent %d, there are %d groups", i, g.Parent, len(groups))
		}
	}
	return groups, nil
}

// GroupPath is the label of a disk group with those above it: "ssd.fast". It is "" for groups that do not exist.
func (sb *Superblock) GroupPath(group int) string {
	groups, err := sb.DiskGroups()
	if err != nil {
		return ""
	}
	var path []string
	for n := 0; group >= 0 && group < len(groups) && n <= len(groups); n++ {
		if groups[group].Deleted {
			return ""
		}
		path = append(path, groups[group].Name)
		group = groups[group].Parent
	}
	slices.Reverse(path)
	return strings.Join(path, ".")
}

// MemberLabel is the label of a device, "" if it has none.
func (sb *Superblock) MemberLabel(index int) string {
	recs, err := sb.memberRecords()
	if err != nil || index < 0 || index >= len(recs) {
		return ""
	}
	m := decodeMember(recs[index])
	g, ok := m.Group()
	if !ok {
		return ""
	}
	return sb.GroupPath(g)
}
