package ondisk

import (
	"encoding/binary"
	"math/bits"
)

// MinInum is the smallest number of an inode; smaller ones are reserved.
const MinInum = 4096

// RootInum is the number of the root directory of the first subvolume.
const RootInum = 4096

// InodeFlags are the flags of an inode (bits 0-19 of bi_flags; the hash type above them is [Inode.HashType]).
type InodeFlags uint32

// Flags of inodes (enum bch_inode_flags).
const (
	InodeSync InodeFlags = 1 << iota
	InodeImmutable
	InodeAppend
	InodeNodump
	InodeNoatime
	InodeSizeDirty    // size is not to be trusted
	InodeSectorsDirty // sectors are not to be trusted
	InodeUnlinked
	InodeBackptrUntrusted
	InodeHasChildSnapshot
	InodeHasCaseInsensitive
	Inode31bitDirentOffset
	InodeHasOpts
	InodeHasAccessACL
	InodeHasDefaultACL

	inodeFlagBits = 20
	inodeFlagMask = 1<<inodeFlagBits - 1
)

// File types: the upper four bits of the mode, and of directory entries (DT_*).
const (
	DTUnknown  = 0
	DTFifo     = 1
	DTChr      = 2
	DTDir      = 4
	DTBlk      = 6
	DTReg      = 8
	DTLnk      = 10
	DTSock     = 12
	DTWhiteout = 14
	DTSubvol   = 16 // only in directory entries: the root of a subvolume
)

// InodeOption is a per-inode option; its number is its bit in [Inode.FieldsSet].
type InodeOption uint8

// Options of inodes, in the order of the bits of bi_fields_set.
const (
	InodeOptDataChecksum InodeOption = iota
	InodeOptCompression
	InodeOptProject
	InodeOptBackgroundCompression
	InodeOptDataReplicas
	InodeOptPromoteTarget
	InodeOptForegroundTarget
	InodeOptBackgroundTarget
	InodeOptErasureCode
	InodeOptNocow
	InodeOptInodes32bit
	InodeOptCasefold
	NumInodeOptions
)

var inodeOptionNames = [NumInodeOptions]string{"data_checksum", "compression", "project", "background_compression",
	"data_replicas", "promote_target", "foreground_target", "background_target", "erasure_code", "nocow", "inodes_32bit",
	"casefold"}

func (o InodeOption) String() string {
	if o < NumInodeOptions {
		return inodeOptionNames[o]
	}
	return "(unknown option)"
}

// Inode is an inode, of any of its three encodings (struct bch_inode_unpacked).
//
// Times count units of the superblock's time precision from its time base. Options hold the stored value: 0 is unset, else
// the option's value plus one.
type Inode struct {
	Inum     uint64
	Snapshot uint32
	Encoding KeyType // of the key it was decoded from: inode, inode_v2, inode_v3

	HashType   uint8 // string hash of names: 0 crc32c, 1 crc64, 2 siphash_old, 3 siphash
	OldVarint  bool  // only inode: packed in the old form of integers
	Mode       uint16
	Flags      InodeFlags
	HashSeed   [8]byte
	JournalSeq uint64
	Size       uint64 // bytes
	Sectors    uint64 // allocated, 512 bytes each
	Version    uint64

	Atime, Ctime, Mtime, Otime int64

	UID, GID   uint32
	NlinkRaw   uint32 // stored count, see [Inode.Nlink]
	Generation uint32
	Dev        uint32

	DataChecksum          uint8
	Compression           uint8
	Project               uint32
	BackgroundCompression uint8
	DataReplicas          uint8
	PromoteTarget         uint16
	ForegroundTarget      uint16
	BackgroundTarget      uint16
	ErasureCode           uint16
	FieldsSet             uint16 // bit n: option n was set on this very inode, not inherited

	Dir, DirOffset       uint64 // position of one entry that names the inode; 0 if none is known
	Subvol, ParentSubvol uint32 // of roots of subvolumes

	Nocow       uint8
	Depth       uint32 // of directories, below the root of their subvolume
	Inodes32bit uint8
	Casefold    uint8
	Unused27    uint8 // a field that writers of 1.39 reserve
}

// Type returns the file type: DT_*.
func (in *Inode) Type() uint8 { return uint8(in.Mode >> 12) }

// IsDir reports whether the inode is a directory.
func (in *Inode) IsDir() bool { return in.Type() == DTDir }

// nlinkBias is what the stored link count lacks.
func (in *Inode) nlinkBias() uint32 {
	if in.IsDir() {
		return 2
	}
	return 1
}

// Nlink returns the number of links: what is stored counts only those beyond the first (of directories, the first two).
func (in *Inode) Nlink() uint32 {
	if in.Flags&InodeUnlinked != 0 {
		return 0
	}
	if n := in.NlinkRaw + in.nlinkBias(); n >= in.NlinkRaw {
		return n
	}
	return 1<<32 - 1
}

// Option returns the stored value of an option: 0 if unset, else its value plus one.
func (in *Inode) Option(o InodeOption) uint32 {
	switch o {
	case InodeOptDataChecksum:
		return uint32(in.DataChecksum)
	case InodeOptCompression:
		return uint32(in.Compression)
	case InodeOptProject:
		return in.Project
	case InodeOptBackgroundCompression:
		return uint32(in.BackgroundCompression)
	case InodeOptDataReplicas:
		return uint32(in.DataReplicas)
	case InodeOptPromoteTarget:
		return uint32(in.PromoteTarget)
	case InodeOptForegroundTarget:
		return uint32(in.ForegroundTarget)
	case InodeOptBackgroundTarget:
		return uint32(in.BackgroundTarget)
	case InodeOptErasureCode:
		return uint32(in.ErasureCode)
	case InodeOptNocow:
		return uint32(in.Nocow)
	case InodeOptInodes32bit:
		return uint32(in.Inodes32bit)
	case InodeOptCasefold:
		return uint32(in.Casefold)
	}
	return 0
}

// SetOption sets the stored value of an option: 0 to unset it, else its value plus one. Bits that the field does not have are lost.
func (in *Inode) SetOption(o InodeOption, stored uint32) {
	switch o {
	case InodeOptDataChecksum:
		in.DataChecksum = uint8(stored)
	case InodeOptCompression:
		in.Compression = uint8(stored)
	case InodeOptProject:
		in.Project = stored
	case InodeOptBackgroundCompression:
		in.BackgroundCompression = uint8(stored)
	case InodeOptDataReplicas:
		in.DataReplicas = uint8(stored)
	case InodeOptPromoteTarget:
		in.PromoteTarget = uint16(stored)
	case InodeOptForegroundTarget:
		in.ForegroundTarget = uint16(stored)
	case InodeOptBackgroundTarget:
		in.BackgroundTarget = uint16(stored)
	case InodeOptErasureCode:
		in.ErasureCode = uint16(stored)
	case InodeOptNocow:
		in.Nocow = uint8(stored)
	case InodeOptInodes32bit:
		in.Inodes32bit = uint8(stored)
	case InodeOptCasefold:
		in.Casefold = uint8(stored)
	}
}

// Sizes of the fixed parts, and bits of the flags words (struct bch_inode, bch_inode_v2, bch_inode_v3).
const (
	inodeV1Head = 14
	inodeV2Head = 26
	inodeV3Head = 48

	inodeHashShift       = 20
	inodeNrFieldsShift   = 24
	inodeNewVarintBit    = 1 << 31
	inodeFieldsStart     = 31 // v3, 5 bits
	inodeModeShift       = 36 // v3, 16 bits
	inodeV3FirstFieldU64 = 6
)

// DecodeInode decodes a key of type inode, inode_v2 or inode_v3. Fields that the value does not hold are 0. It does not allocate.
func DecodeInode(k Key) (Inode, error) {
	in := Inode{Inum: k.Pos.Offset, Snapshot: k.Pos.Snapshot, Encoding: k.Type}
	if err := in.decode(&k); err != nil {
		return Inode{}, err
	}
	return in, nil
}

func (in *Inode) decode(k *Key) error {
	v := k.Val
	le := binary.LittleEndian
	if len(v) < k.Type.MinValSize() {
		return errShort(k, k.Type.MinValSize())
	}
	var flags uint64
	head := 0
	switch k.Type {
	case KeyInode:
		copy(in.HashSeed[:], v)
		flags = uint64(le.Uint32(v[8:]))
		in.Mode = le.Uint16(v[12:])
		in.OldVarint = flags&inodeNewVarintBit == 0
		head = inodeV1Head
	case KeyInodeV2:
		in.JournalSeq = le.Uint64(v)
		copy(in.HashSeed[:], v[8:])
		flags = le.Uint64(v[16:])
		in.Mode = le.Uint16(v[24:])
		head = inodeV2Head
	case KeyInodeV3:
		in.JournalSeq = le.Uint64(v)
		copy(in.HashSeed[:], v[8:])
		flags = le.Uint64(v[16:])
		in.Sectors = le.Uint64(v[24:])
		in.Size = le.Uint64(v[32:])
		in.Version = le.Uint64(v[40:])
		in.Mode = uint16(flags >> inodeModeShift)
		head = inodeV3Head
		if start := int(flags >> inodeFieldsStart & 31); start < inodeV3FirstFieldU64 || start > len(v)/8 {
			return keyErr(k, "inode_v3_fields_start_bad", "fields start at u64 %d, want %d to %d", start, inodeV3FirstFieldU64, len(v)/8)
		}
	default:
		return errType(k, "inode")
	}
	in.Flags = InodeFlags(flags & inodeFlagMask)
	in.HashType = uint8(flags >> inodeHashShift & 15)
	if in.HashType > 3 {
		return keyErr(k, "inode_str_hash_invalid", "string hash type %d, want at most 3", in.HashType)
	}
	return in.unpack(k, v[head:], int(flags>>inodeNrFieldsShift&127))
}

// inodeField is one packed field of the list of v3; those of the older lists are the same with size and sectors among them.
type inodeField uint8

// Packed fields in the order of v3 (BCH_INODE_FIELDS_v3), then the two that only the older encodings pack.
const (
	ifAtime inodeField = iota
	ifCtime
	ifMtime
	ifOtime
	ifUID
	ifGID
	ifNlink
	ifGeneration
	ifDev
	ifDataChecksum
	ifCompression
	ifProject
	ifBackgroundCompression
	ifDataReplicas
	ifPromoteTarget
	ifForegroundTarget
	ifBackgroundTarget
	ifErasureCode
	ifFieldsSet
	ifDir
	ifDirOffset
	ifSubvol
	ifParentSubvol
	ifNocow
	ifDepth
	ifInodes32bit
	ifCasefold
	ifUnused27
	ifSize
	ifSectors
	numInodeFields
)

// inodeFieldWidths are the widths in bits; 96 says: a second integer follows, and must be 0.
var inodeFieldWidths = [numInodeFields]uint8{
	96, 96, 96, 96, 32, 32, 32, 32, 32, 8, 8, 32, 8, 8, 16, 16, 16, 16, 16, 64, 64, 32, 32, 8, 32, 8, 8, 8, 64, 64,
}

var inodeFieldNames = [numInodeFields]string{
	"bi_atime", "bi_ctime", "bi_mtime", "bi_otime", "bi_uid", "bi_gid", "bi_nlink", "bi_generation", "bi_dev",
	"bi_data_checksum", "bi_compression", "bi_project", "bi_background_compression", "bi_data_replicas",
	"bi_promote_target", "bi_foreground_target", "bi_background_target", "bi_erasure_code", "bi_fields_set", "bi_dir",
	"bi_dir_offset", "bi_subvol", "bi_parent_subvol", "bi_nocow", "bi_depth", "bi_inodes_32bit", "bi_casefold",
	"bi_unused", "bi_size", "bi_sectors",
}

// inodeFieldsV3 and inodeFieldsV2 are the fields of each encoding in their order.
var (
	inodeFieldsV3 = [...]inodeField{
		ifAtime, ifCtime, ifMtime, ifOtime, ifUID, ifGID, ifNlink, ifGeneration, ifDev, ifDataChecksum, ifCompression,
		ifProject, ifBackgroundCompression, ifDataReplicas, ifPromoteTarget, ifForegroundTarget, ifBackgroundTarget,
		ifErasureCode, ifFieldsSet, ifDir, ifDirOffset, ifSubvol, ifParentSubvol, ifNocow, ifDepth, ifInodes32bit,
		ifCasefold, ifUnused27,
	}
	inodeFieldsV2 = [...]inodeField{
		ifAtime, ifCtime, ifMtime, ifOtime, ifSize, ifSectors, ifUID, ifGID, ifNlink, ifGeneration, ifDev,
		ifDataChecksum, ifCompression, ifProject, ifBackgroundCompression, ifDataReplicas, ifPromoteTarget,
		ifForegroundTarget, ifBackgroundTarget, ifErasureCode, ifFieldsSet, ifDir, ifDirOffset, ifSubvol, ifParentSubvol,
	}
)

func inodeFieldList(t KeyType) []inodeField {
	if t == KeyInodeV3 {
		return inodeFieldsV3[:]
	}
	return inodeFieldsV2[:]
}

// unpack decodes the packed fields in b, of which nr are present.
func (in *Inode) unpack(k *Key, b []byte, nr int) error {
	list := inodeFieldList(k.Type)
	for i, f := range list[:min(nr, len(list))] {
		var v, hi uint64
		var n int
		if in.OldVarint {
			v, n = oldVarint(b)
		} else {
			v, n = varint(b)
		}
		width := inodeFieldWidths[f]
		if n != 0 && width == 96 && !in.OldVarint {
			var n2 int
			if hi, n2 = varint(b[n:]); n2 == 0 {
				n = 0
			}
			n += n2
		}
		switch {
		case n == 0:
			return keyErr(k, "inode_unpack_error", "field %d (%s) is cut off", i, inodeFieldNames[f])
		case hi != 0 || bits.Len64(v) > int(width):
			return keyErr(k, "inode_unpack_error", "field %d (%s) does not fit in its %d bits", i, inodeFieldNames[f], min(width, 64))
		}
		b = b[n:]
		in.setField(f, v)
	}
	return nil
}

func (in *Inode) setField(f inodeField, v uint64) {
	switch f {
	case ifAtime:
		in.Atime = int64(v)
	case ifCtime:
		in.Ctime = int64(v)
	case ifMtime:
		in.Mtime = int64(v)
	case ifOtime:
		in.Otime = int64(v)
	case ifUID:
		in.UID = uint32(v)
	case ifGID:
		in.GID = uint32(v)
	case ifNlink:
		in.NlinkRaw = uint32(v)
	case ifGeneration:
		in.Generation = uint32(v)
	case ifDev:
		in.Dev = uint32(v)
	case ifDataChecksum:
		in.DataChecksum = uint8(v)
	case ifCompression:
		in.Compression = uint8(v)
	case ifProject:
		in.Project = uint32(v)
	case ifBackgroundCompression:
		in.BackgroundCompression = uint8(v)
	case ifDataReplicas:
		in.DataReplicas = uint8(v)
	case ifPromoteTarget:
		in.PromoteTarget = uint16(v)
	case ifForegroundTarget:
		in.ForegroundTarget = uint16(v)
	case ifBackgroundTarget:
		in.BackgroundTarget = uint16(v)
	case ifErasureCode:
		in.ErasureCode = uint16(v)
	case ifFieldsSet:
		in.FieldsSet = uint16(v)
	case ifDir:
		in.Dir = v
	case ifDirOffset:
		in.DirOffset = v
	case ifSubvol:
		in.Subvol = uint32(v)
	case ifParentSubvol:
		in.ParentSubvol = uint32(v)
	case ifNocow:
		in.Nocow = uint8(v)
	case ifDepth:
		in.Depth = uint32(v)
	case ifInodes32bit:
		in.Inodes32bit = uint8(v)
	case ifCasefold:
		in.Casefold = uint8(v)
	case ifUnused27:
		in.Unused27 = uint8(v)
	case ifSize:
		in.Size = v
	case ifSectors:
		in.Sectors = v
	}
}

func (in *Inode) field(f inodeField) uint64 {
	switch f {
	case ifAtime:
		return uint64(in.Atime)
	case ifCtime:
		return uint64(in.Ctime)
	case ifMtime:
		return uint64(in.Mtime)
	case ifOtime:
		return uint64(in.Otime)
	case ifUID:
		return uint64(in.UID)
	case ifGID:
		return uint64(in.GID)
	case ifNlink:
		return uint64(in.NlinkRaw)
	case ifGeneration:
		return uint64(in.Generation)
	case ifDev:
		return uint64(in.Dev)
	case ifDataChecksum:
		return uint64(in.DataChecksum)
	case ifCompression:
		return uint64(in.Compression)
	case ifProject:
		return uint64(in.Project)
	case ifBackgroundCompression:
		return uint64(in.BackgroundCompression)
	case ifDataReplicas:
		return uint64(in.DataReplicas)
	case ifPromoteTarget:
		return uint64(in.PromoteTarget)
	case ifForegroundTarget:
		return uint64(in.ForegroundTarget)
	case ifBackgroundTarget:
		return uint64(in.BackgroundTarget)
	case ifErasureCode:
		return uint64(in.ErasureCode)
	case ifFieldsSet:
		return uint64(in.FieldsSet)
	case ifDir:
		return in.Dir
	case ifDirOffset:
		return in.DirOffset
	case ifSubvol:
		return uint64(in.Subvol)
	case ifParentSubvol:
		return uint64(in.ParentSubvol)
	case ifNocow:
		return uint64(in.Nocow)
	case ifDepth:
		return uint64(in.Depth)
	case ifInodes32bit:
		return uint64(in.Inodes32bit)
	case ifCasefold:
		return uint64(in.Casefold)
	case ifUnused27:
		return uint64(in.Unused27)
	case ifSize:
		return in.Size
	case ifSectors:
		return in.Sectors
	}
	return 0
}

// EncodeInodeV3 returns the value of an inode_v3 key for in, as every driver since 0.23 writes it.
func EncodeInodeV3(in *Inode) []byte {
	return AppendInode(make([]byte, 0, 128), in, KeyInodeV3)
}

// AppendInode appends the value of a key of type t (inode, inode_v2, inode_v3) for in. What the older encodings cannot hold is
// lost. A field is packed only if it or one behind it is not 0.
func AppendInode(dst []byte, in *Inode, t KeyType) []byte {
	start := len(dst)
	le := binary.LittleEndian
	list := inodeFieldList(t)
	nr := len(list)
	for nr > 0 && in.field(list[nr-1]) == 0 {
		nr--
	}
	flags := uint64(in.Flags&inodeFlagMask) | uint64(in.HashType&15)<<inodeHashShift | uint64(nr)<<inodeNrFieldsShift
	old := false
	switch t {
	case KeyInode:
		old = in.OldVarint
		if !old {
			flags |= inodeNewVarintBit
		}
		dst = append(dst, in.HashSeed[:]...)
		dst = le.AppendUint32(dst, uint32(flags))
		dst = le.AppendUint16(dst, in.Mode)
	case KeyInodeV2:
		dst = le.AppendUint64(dst, in.JournalSeq)
		dst = append(dst, in.HashSeed[:]...)
		dst = le.AppendUint64(dst, flags)
		dst = le.AppendUint16(dst, in.Mode)
	default:
		flags |= inodeV3FirstFieldU64<<inodeFieldsStart | uint64(in.Mode)<<inodeModeShift
		dst = le.AppendUint64(dst, in.JournalSeq)
		dst = append(dst, in.HashSeed[:]...)
		dst = le.AppendUint64(dst, flags)
		dst = le.AppendUint64(dst, in.Sectors)
		dst = le.AppendUint64(dst, in.Size)
		dst = le.AppendUint64(dst, in.Version)
	}
	for _, f := range list[:nr] {
		switch v := in.field(f); {
		case old:
			dst = appendOldVarint(dst, v)
		case inodeFieldWidths[f] == 96:
			dst = append(appendVarint(dst, v), 0)
		default:
			dst = appendVarint(dst, v)
		}
	}
	return padVal(dst, start)
}

// InodeGeneration is what is left of a deleted inode (struct bch_inode_generation): its number's next user starts with it.
type InodeGeneration struct {
	Generation uint32
}

// DecodeInodeGeneration decodes a key of type inode_generation.
func DecodeInodeGeneration(k Key) (InodeGeneration, error) {
	switch {
	case k.Type != KeyInodeGeneration:
		return InodeGeneration{}, errType(&k, "inode_generation")
	case len(k.Val) < 8:
		return InodeGeneration{}, errShort(&k, 8)
	}
	return InodeGeneration{binary.LittleEndian.Uint32(k.Val)}, nil
}

// Encode returns the value of the key.
func (g InodeGeneration) Encode() []byte {
	return binary.LittleEndian.AppendUint64(nil, uint64(g.Generation))
}
