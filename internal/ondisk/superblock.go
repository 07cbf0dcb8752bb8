package ondisk

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
)

// Where superblocks are and how large they may be.
const (
	SuperblockSector = 8        // of the first copy
	LayoutSector     = 7        // of the stand-alone copy of the layout
	SuperblockFixed  = 752      // bytes before the sections (struct bch_sb)
	LayoutSize       = 512      // bytes (struct bch_sb_layout)
	MaxSuperblock    = 32 << 20 // bytes
	maxLayoutCopies  = 61
	MaxMembers       = 255
	maxBlockSectors  = 128
)

// UUID is a UUID in the order of RFC 4122.
type UUID [16]byte

func (u UUID) String() string {
	s := hex.EncodeToString(u[:])
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
}

// IsZero reports whether all bytes are zero.
func (u UUID) IsZero() bool { return u == UUID{} }

// ParseUUID reads what [UUID.String] prints, with or without dashes.
func ParseUUID(s string) (UUID, error) {
	var u UUID
	bare := make([]byte, 0, len(s))
	for i := range len(s) {
		if s[i] != '-' {
			bare = append(bare, s[i])
		}
	}
	if len(bare) != 32 {
		return u, fmt.Errorf("uuid %q: want 32 hexadecimal digits", s)
	}
	if _, err := hex.Decode(u[:], bare); err != nil {
		return u, fmt.Errorf("uuid %q: %w", s, err)
	}
	return u, nil
}

// Magic numbers of superblock and layout, and the uuid of a member slot that was removed but may still be pointed to.
var (
	superblockMagic    = UUID{0xc6, 0x85, 0x73, 0xf6, 0x66, 0xce, 0x90, 0xa9, 0xd9, 0x6a, 0x60, 0xcf, 0x80, 0x3d, 0xf7, 0xef}
	superblockMagicOld = UUID{0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca, 0x82, 0x65, 0xf5, 0x7f, 0x48, 0xba, 0x6d, 0x81}
	deletedMember      = UUID{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xd9, 0x6a, 0x60, 0xcf, 0x80, 0x3d, 0xf7, 0xef}
)

// Errors of superblocks.
var (
	ErrNotSuperblock = errors.New("not a bcachefs superblock")
	ErrUnsupported   = errors.New("unsupported filesystem")
)

func isMagic(u UUID) bool { return u == superblockMagic || u == superblockMagicOld }

// IsSuperblock reports whether b begins like a superblock; 40 bytes are enough to tell.
func IsSuperblock(b []byte) bool { return len(b) >= 40 && isMagic(UUID(b[24:40])) }

// Layout says where the copies of a device's superblock are (struct bch_sb_layout).
type Layout struct {
	Magic       UUID
	Type        uint8
	MaxSizeBits uint8 // log2 of the size that each copy may grow to, in sectors
	Copies      uint8
	Offsets     [maxLayoutCopies]Sector
	pad         [5]byte
}

// DecodeLayout decodes and validates the layout in the first [LayoutSize] bytes of b.
func DecodeLayout(b []byte) (*Layout, error) {
	if len(b) < LayoutSize {
		return nil, fmt.Errorf("superblock layout: %d bytes, want %d", len(b), LayoutSize)
	}
	l := parseLayout(b)
	if err := l.Validate(); err != nil {
		return nil, err
	}
	return &l, nil
}

func parseLayout(b []byte) Layout {
	l := Layout{Magic: UUID(b[:16]), Type: b[16], MaxSizeBits: b[17], Copies: b[18], pad: [5]byte(b[19:24])}
	for i := range l.Offsets {
		l.Offsets[i] = Sector(binary.LittleEndian.Uint64(b[24+8*i:]))
	}
	return l
}

// Validate checks what the reference checks of a layout.
func (l *Layout) Validate() error {
	switch {
	case !isMagic(l.Magic):
		return fmt.Errorf("superblock layout: %w", ErrNotSuperblock)
	case l.Type != 0:
		return fmt.Errorf("superblock layout: type %d, want 0", l.Type)
	case l.Copies == 0 || l.Copies > maxLayoutCopies:
		return fmt.Errorf("superblock layout: %d superblocks, want 1 to %d", l.Copies, maxLayoutCopies)
	case l.MaxSizeBits > 16:
		return fmt.Errorf("superblock layout: superblocks of 2^%d sectors, want at most 2^16", l.MaxSizeBits)
	}
	for i := 1; i < int(l.Copies); i++ {
		if prev := l.Offsets[i-1]; l.Offsets[i] < prev || l.Offsets[i]-prev < 1<<l.MaxSizeBits {
			return fmt.Errorf("superblock layout: copy %d at sector %d overlaps the one at sector %d", i, l.Offsets[i], prev)
		}
	}
	return nil
}

// Sectors returns where the copies are.
func (l *Layout) Sectors() []Sector { return slices.Clone(l.Offsets[:min(l.Copies, maxLayoutCopies)]) }

// Encode returns the layout's [LayoutSize] bytes.
func (l *Layout) Encode() []byte {
	b := make([]byte, 24, LayoutSize)
	copy(b, l.Magic[:])
	b[16], b[17], b[18] = l.Type, l.MaxSizeBits, l.Copies
	copy(b[19:], l.pad[:])
	for _, o := range l.Offsets {
		b = binary.LittleEndian.AppendUint64(b, uint64(o))
	}
	return b
}

// Section is a section of the superblock as it lies on disk. Sections of unknown types are kept as they are.
type Section struct {
	Type SectionType
	Data []byte // behind the header of 8 bytes; a whole number of 8-byte words
}

// Superblock is a superblock (struct bch_sb). It is not safe for concurrent changes; reading is.
type Superblock struct {
	Sum           checksum.Sum
	Version       MetadataVersion
	VersionMin    MetadataVersion // the oldest that any btree node on disk may have
	Magic         UUID
	UUID          UUID // internal: never changes, seeds magics and nonces
	UserUUID      UUID // external: what users mount by
	RawLabel      [32]byte
	Offset        Sector // where this copy belongs
	Seq           uint64 // counts writes of the superblock
	BlockSize     uint16 // sectors
	DevIdx        uint8
	NrDevices     uint8  // member slots
	TimeBase      uint64 // nanoseconds since 1970
	TimeBaseHi    uint32
	TimePrecision uint32 // nanoseconds per unit of time
	Flags         [7]uint64
	WriteTime     uint64 // seconds since 1970
	Features      [2]uint64
	Compat        [2]uint64
	Layout        Layout
	Sections      []Section

	pad uint32
}

// SuperblockBytes returns how long the superblock that begins with b is, from its u64s field; b needs 128 bytes.
func SuperblockBytes(b []byte) (int64, error) {
	if !IsSuperblock(b) {
		return 0, ErrNotSuperblock
	}
	if len(b) < 128 {
		return 0, fmt.Errorf("superblock: %d bytes, want at least 128", len(b))
	}
	n := SuperblockFixed + 8*int64(binary.LittleEndian.Uint32(b[124:]))
	if n > MaxSuperblock {
		return 0, fmt.Errorf("superblock: %d bytes, want at most %d", n, MaxSuperblock)
	}
	return n, nil
}

// DecodeSuperblock decodes a superblock, verifies its checksum and validates its structure: what does not depend on whether
// we can open the filesystem, which is [Superblock.CheckSupported]. b must hold all of it and may be longer.
func DecodeSuperblock(b []byte) (*Superblock, error) {
	sb, err := parseSuperblock(b)
	if err != nil {
		return nil, err
	}
	if err := sb.verify(b); err != nil {
		return nil, err
	}
	return sb, sb.validateFixed()
}

// parseSuperblock takes a superblock apart, whatever its fields say.
func parseSuperblock(b []byte) (*Superblock, error) {
	n, err := SuperblockBytes(b)
	if err != nil {
		return nil, err
	}
	if int64(len(b)) < n {
		return nil, fmt.Errorf("superblock: %d bytes, of which %d are there", n, len(b))
	}
	le := binary.LittleEndian
	sb := &Superblock{
		Sum:           checksum.Sum{Lo: le.Uint64(b), Hi: le.Uint64(b[8:])},
		Version:       MetadataVersion(le.Uint16(b[16:])),
		VersionMin:    MetadataVersion(le.Uint16(b[18:])),
		pad:           le.Uint32(b[20:]),
		Magic:         UUID(b[24:40]),
		UUID:          UUID(b[40:56]),
		UserUUID:      UUID(b[56:72]),
		RawLabel:      [32]byte(b[72:104]),
		Offset:        Sector(le.Uint64(b[104:])),
		Seq:           le.Uint64(b[112:]),
		BlockSize:     le.Uint16(b[120:]),
		DevIdx:        b[122],
		NrDevices:     b[123],
		TimeBase:      le.Uint64(b[128:]),
		TimeBaseHi:    le.Uint32(b[136:]),
		TimePrecision: le.Uint32(b[140:]),
		WriteTime:     le.Uint64(b[200:]),
		Layout:        parseLayout(b[240:SuperblockFixed]),
	}
	for i := range sb.Flags {
		sb.Flags[i] = le.Uint64(b[144+8*i:])
	}
	for i := range sb.Features {
		sb.Features[i] = le.Uint64(b[208+8*i:])
		sb.Compat[i] = le.Uint64(b[224+8*i:])
	}
	for rest := slices.Clone(b[SuperblockFixed:n]); len(rest) > 0; {
		size := int64(le.Uint32(rest)) * 8
		t := SectionType(le.Uint32(rest[4:]))
		if size < 8 || size > int64(len(rest)) {
			return nil, fmt.Errorf("superblock: section %v at byte %d: %d bytes, %d are left", t, n-int64(len(rest)), size, len(rest))
		}
		sb.Sections = append(sb.Sections, Section{Type: t, Data: rest[8:size:size]})
		rest = rest[size:]
	}
	return sb, nil
}

// ChecksumType is the type of checksum of this superblock.
func (sb *Superblock) ChecksumType() checksum.Type { return checksum.Type(sb.flag(0, 2, 8)) }

// verify checks the checksum over the bytes that sb was parsed from.
func (sb *Superblock) verify(b []byte) error {
	want, err := sb.sum(b[:SuperblockFixed+8*int64(binary.LittleEndian.Uint32(b[124:]))])
	if err != nil {
		return err
	}
	if want != sb.Sum {
		return fmt.Errorf("superblock: %w: stored %#x, of the bytes %#x", ErrChecksum, sb.Sum.Lo, want.Lo)
	}
	return nil
}

func (sb *Superblock) sum(b []byte) (checksum.Sum, error) {
	t := sb.ChecksumType()
	if !t.Valid() || t.IsEncryption() {
		return checksum.Sum{}, fmt.Errorf("superblock: checksum type %d", t)
	}
	return checksum.Compute(t, nil, [4]uint32{}, b[16:])
}

// Encode returns the bytes of the superblock with the checksum that is in Sum.
func (sb *Superblock) Encode() []byte {
	size := 0
	for _, s := range sb.Sections {
		size += 8 + len(s.Data)
	}
	b := make([]byte, 240, SuperblockFixed+size)
	le := binary.LittleEndian
	le.PutUint64(b, sb.Sum.Lo)
	le.PutUint64(b[8:], sb.Sum.Hi)
	le.PutUint16(b[16:], uint16(sb.Version))
	le.PutUint16(b[18:], uint16(sb.VersionMin))
	le.PutUint32(b[20:], sb.pad)
	copy(b[24:], sb.Magic[:])
	copy(b[40:], sb.UUID[:])
	copy(b[56:], sb.UserUUID[:])
	copy(b[72:], sb.RawLabel[:])
	le.PutUint64(b[104:], uint64(sb.Offset))
	le.PutUint64(b[112:], sb.Seq)
	le.PutUint16(b[120:], sb.BlockSize)
	b[122], b[123] = sb.DevIdx, sb.NrDevices
	le.PutUint32(b[124:], uint32(size/8))
	le.PutUint64(b[128:], sb.TimeBase)
	le.PutUint32(b[136:], sb.TimeBaseHi)
	le.PutUint32(b[140:], sb.TimePrecision)
	for i, f := range sb.Flags {
		le.PutUint64(b[144+8*i:], f)
	}
	le.PutUint64(b[200:], sb.WriteTime)
	for i := range sb.Features {
		le.PutUint64(b[208+8*i:], sb.Features[i])
		le.PutUint64(b[224+8*i:], sb.Compat[i])
	}
	b = append(b, sb.Layout.Encode()...)
	for _, s := range sb.Sections {
		b = le.AppendUint32(b, uint32(1+len(s.Data)/8))
		b = le.AppendUint32(b, uint32(s.Type))
		b = append(b, s.Data...)
	}
	return b
}

// Seal computes the checksum anew and returns the bytes to write.
func (sb *Superblock) Seal() ([]byte, error) {
	s, err := sb.sum(sb.Encode())
	if err != nil {
		return nil, err
	}
	sb.Sum = s
	return sb.Encode(), nil
}

// validateFixed checks the fields that make sense or not whoever reads them, and the members.
func (sb *Superblock) validateFixed() error {
	bad := func(format string, args ...any) error { return fmt.Errorf("superblock: "+format, args...) }
	switch {
	case sb.VersionMin > sb.Version:
		return bad("oldest version %v is newer than version %v", sb.VersionMin, sb.Version)
	case sb.BlockSize == 0 || sb.BlockSize&(sb.BlockSize-1) != 0 || sb.BlockSize > maxBlockSectors:
		return bad("block size of %d sectors, want a power of two up to %d", sb.BlockSize, maxBlockSectors)
	case sb.UUID.IsZero():
		return bad("internal uuid is zero")
	case sb.UserUUID.IsZero():
		return bad("external uuid is zero")
	case sb.NrDevices == 0:
		return bad("no devices")
	case sb.DevIdx >= sb.NrDevices:
		return bad("device index %d, there are %d devices", sb.DevIdx, sb.NrDevices)
	case sb.TimePrecision == 0 || sb.TimePrecision > 1e9:
		return bad("time precision of %d ns, want 1 to 10^9", sb.TimePrecision)
	case sb.BtreeNodeSize() == 0 || sb.BtreeNodeSize()&(sb.BtreeNodeSize()-1) != 0 || sb.BtreeNodeSize() > maxNodeBytes:
		return bad("btree nodes of %d bytes, want a power of two up to %d", sb.BtreeNodeSize(), maxNodeBytes)
	}
	if err := sb.Layout.Validate(); err != nil {
		return err
	}
	_, err := sb.Members()
	return err
}

// maxNodeBytes is the largest btree node.
const maxNodeBytes = 512 << 10

// CheckSupported refuses what is not understood, in one line that says what it is.
func (sb *Superblock) CheckSupported() error {
	switch {
	case sb.Version < VersionMinMount || sb.Version > VersionMax:
		return fmt.Errorf("%w: metadata version %v, versions %v to %v can be read", ErrUnsupported, sb.Version, VersionMinMount, VersionMax)
	case sb.VersionIncompat() > VersionMax:
		return fmt.Errorf("%w: it uses incompatible features of metadata version %v, versions up to %v can be read",
			ErrUnsupported, sb.VersionIncompat(), VersionMax)
	case sb.flag(0, 62, 63) != 0:
		return fmt.Errorf("%w: written by a big-endian machine", ErrUnsupported)
	}
	for i, w := range sb.Features {
		for bit := range 64 {
			if n := 64*i + bit; w>>bit&1 != 0 && n >= int(NumFeatures) {
				return fmt.Errorf("%w: incompatible feature %d is not known", ErrUnsupported, n)
			}
		}
	}
	return nil
}

// Label is the name of the filesystem.
func (sb *Superblock) Label() string { return cstring(sb.RawLabel[:]) }

// cstring is what stands before the first zero byte.
func cstring(b []byte) string {
	if i := slices.Index(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}
