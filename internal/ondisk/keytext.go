package ondisk

import (
	"fmt"
	"math/bits"
	"strconv"
	"time"
)

// TextDevice is what the text of keys tells about a device.
type TextDevice struct {
	Name       string
	BucketSize uint32 // sectors
	Durability uint8
}

// TextEnv is what the text of keys depends on beside the keys. Every field may be left zero: text is plainer then.
type TextEnv struct {
	Version        MetadataVersion // of the filesystem; 0 is the newest
	ExtentTypeU64s ExtentTypeU64s
	// BackpointerShift is by how much sectors in positions of backpointers are shifted; 0 is [DefaultBackpointerShift].
	BackpointerShift uint8
	InodeShardBits   uint8                              // bits of inode numbers that say which shard allocated them
	Device           func(dev uint8) (TextDevice, bool) // by index; false if there is none
	Stale            func(ptr ExtentPtr) int            // how many generations a pointer's bucket is ahead of it
	Label            func(index uint16) string          // path of a disk label
	ErrorName        func(id uint16) string             // of errors that damage keys count
}

func (e *TextEnv) version() MetadataVersion {
	if e.Version == 0 {
		return VersionMax
	}
	return e.Version
}

func (e *TextEnv) device(dev uint64) (TextDevice, bool) {
	if e.Device == nil || dev >= DevInvalid {
		return TextDevice{}, false
	}
	return e.Device(uint8(dev))
}

func (e *TextEnv) backpointerShift() uint8 {
	if e.BackpointerShift == 0 {
		return DefaultBackpointerShift
	}
	return e.BackpointerShift
}

// KeyText returns k as `bcachefs list` of the reference prints it: position, size and version, then the value. Long values take
// several lines, indented by two. Keys of filesystems up to 1.13 look as the tools of 1.13 print them, others as the newest do. It
// prints keys of any content, valid or not. env may be nil.
func KeyText(btree BtreeID, k *Key, env *TextEnv) string {
	return string(AppendKeyText(nil, btree, k, env))
}

// AppendKeyText appends what [KeyText] returns.
func AppendKeyText(dst []byte, _ BtreeID, k *Key, env *TextEnv) []byte {
	t := text{b: dst}
	t.key(k)
	if len(k.Val) > 0 {
		t.str(": ")
		t.indent = 2
		t.value(k, env)
	}
	return t.b
}

// AppendValueText appends the text of k's value only.
func AppendValueText(dst []byte, k *Key, env *TextEnv) []byte {
	t := text{b: dst}
	t.value(k, env)
	return t.b
}

// text builds indented text.
type text struct {
	b      []byte
	indent int
}

func (t *text) str(s string)              { t.b = append(t.b, s...) }
func (t *text) printf(f string, a ...any) { t.b = fmt.Appendf(t.b, f, a...) }
func (t *text) num(name string, v uint64) { t.b = strconv.AppendUint(append(t.b, name...), v, 10) }
func (t *text) flag(name string, set bool) {
	if set {
		t.str(name)
	}
}

// line begins a new line.
func (t *text) line() {
	t.b = append(t.b, '\n')
	for range t.indent {
		t.b = append(t.b, ' ')
	}
}

// field begins a line with a name and a number.
func (t *text) field(name string, v uint64) {
	t.line()
	t.num(name, v)
}

// bitflags lists the names of the bits that are set.
func (t *text) bitflags(names []string, v uint64) {
	for first := true; v != 0; first = false {
		n := bits.TrailingZeros64(v)
		if n >= len(names) {
			return
		}
		t.flag(",", !first)
		t.str(names[n])
		v &^= 1 << n
	}
}

func (t *text) datetime(sec uint64) { t.str(time.Unix(int64(sec), 0).Format(time.ANSIC)) }

// choice prints one of the names, or that it is none of them.
func (t *text) choice(names []string, kind string, v uint64) {
	if v < uint64(len(names)) {
		t.str(names[v])
		return
	}
	t.printf("(unknown %s %d)", kind, v)
}

func (t *text) key(k *Key) {
	t.num("u64s ", uint64(KeyU64s+len(k.Val)/8))
	t.str(" type ")
	if k.Type < NumKeyTypes {
		t.str(keyTypeNames[k.Type])
	} else {
		t.num("", uint64(k.Type))
	}
	t.str(" ")
	t.str(k.Pos.String())
	t.num(" len ", uint64(k.Size))
	t.num(" ver ", k.Version.Lo)
}

func (t *text) value(k *Key, env *TextEnv) {
	if env == nil {
		env = &TextEnv{}
	}
	if n := k.Type.MinValSize(); len(k.Val) < n {
		t.printf("(value too small: %d < %d)", len(k.Val), n)
		return
	}
	if env.version() < versionTextLayout && t.oldValue(k, env) {
		return
	}
	switch k.Type {
	case KeyError:
		r, _ := DecodeError(*k)
		t.choice(keyErrorReasons[:], "key_type_error_reason", uint64(r))
	case KeyCookie:
		v, _ := DecodeCookie(*k)
		t.num("", v)
	case KeyBtreePtr:
		t.ptrs(k, env)
	case KeyBtreePtrV2:
		t.btreePtrV2(k, env)
	case KeyExtent:
		t.ptrs(k, env)
	case KeyReflinkV:
		v, _ := DecodeIndirect(*k)
		t.num("refcount: ", v.Refcount)
		t.str(" ")
		t.ptrs(k, env)
	case KeyReservation:
		r, _ := DecodeReservation(*k)
		t.printf("generation %d replicas %d", r.Generation, r.NrReplicas)
	case KeyInode, KeyInodeV2, KeyInodeV3:
		t.inode(k)
	case KeyInodeGeneration:
		g, _ := DecodeInodeGeneration(*k)
		t.num("generation: ", uint64(g.Generation))
	case KeyDirent:
		t.dirent(k)
	case KeyXattr:
		t.xattr(k)
	case KeyReflinkP:
		p, _ := DecodeReflinkP(*k)
		t.printf("idx %d front_pad %d back_pad %d", p.Idx, p.FrontPad, p.BackPad)
		t.flag(" error", p.Error)
		t.flag(" may_update_opts", p.MayUpdate)
	case KeyInlineData:
		t.inline(k.Val)
	case KeyIndirectInlineData:
		v, _ := DecodeIndirect(*k)
		t.num("refcount ", v.Refcount)
		t.str(" ")
		t.inline(v.Data)
	default:
		t.meta(k, env)
	}
}

// maxInlineText is how many bytes of inline data are shown.
const maxInlineText = 32

func (t *text) inline(b []byte) {
	t.printf("datalen %d: %x", len(b), b[:min(len(b), maxInlineText)])
}

// meta prints the values of keys that are not part of the namespace.
func (t *text) meta(k *Key, env *TextEnv) {
	switch k.Type {
	case KeyAlloc, KeyAllocV2, KeyAllocV3, KeyAllocV4:
		t.alloc(k, env)
	case KeyQuota:
		q, _ := DecodeQuota(*k)
		t.printf("space hardlimit %d softlimit %d", q.Space.Hard, q.Space.Soft)
		t.printf("inodes hardlimit %d softlimit %d", q.Inodes.Hard, q.Inodes.Soft)
	case KeyStripe:
		t.stripe(k, env)
	case KeySubvolume:
		t.subvolume(k)
	case KeySnapshot:
		t.snapshot(k)
	case KeySnapshotTree:
		s, _ := DecodeSnapshotTree(*k)
		t.printf("subvol %d root snapshot %d", s.MasterSubvol, s.RootSnapshot)
	case KeyLRU:
		v, _ := LRUIdx(*k)
		t.num("idx ", v)
	case KeyBackpointer:
		t.backpointer(k, env)
	case KeyBucketGens:
		for i, g := range k.Val[:min(len(k.Val), len(BucketGens{}))] {
			t.flag(" ", i > 0)
			t.num("", uint64(g))
		}
	case KeyAccounting:
		t.accounting(k, env)
	case KeyLoggedOpTruncate:
		o, _ := DecodeLoggedOpTruncate(*k)
		t.printf("subvol=%d inum=%d new_i_size=%d", o.Subvol, o.Inum, o.NewSize)
	case KeyLoggedOpFinsert:
		o, _ := DecodeLoggedOpFinsert(*k)
		t.printf("subvol=%d inum=%d dst_offset=%d src_offset=%d", o.Subvol, o.Inum, int64(o.DstOffset), o.SrcOffset)
	case KeyLoggedOpStripeUpdate:
		o, _ := DecodeLoggedOpStripeUpdate(*k)
		t.printf("old_idx=%d new_idx=%d old_blocks_nr=%d", o.OldIdx, o.NewIdx, o.OldBlocksNr)
	case KeyInodeAllocCursor:
		t.inodeCursor(k, env)
	case KeyDamage:
		t.damage(k, env)
	}
}

// inodeCursor prints the range of numbers that the cursor is for: the first 31 bits, or those of a shard.
func (t *text) inodeCursor(k *Key, env *TextEnv) {
	c, _ := DecodeInodeAllocCursor(*k)
	first, last := uint64(MinInum), uint64(1<<31-1)
	if k.Pos.Offset > 0 {
		width := 63 - min(env.InodeShardBits, 62)
		shard := (k.Pos.Offset - 1) << width
		first, last = max(shard, 1<<31), shard|(1<<width-1)
	}
	t.printf("min %d max %d consumed %d idx %d generation %d", first, last, c.Idx-first, c.Idx, c.Generation)
}

func (t *text) damage(k *Key, env *TextEnv) {
	d, err := DecodeDamage(*k)
	if err != nil {
		t.str("(invalid)")
		return
	}
	for i, e := range d.Entries {
		if i > 0 {
			t.line()
		}
		if env.ErrorName != nil {
			t.str(env.ErrorName(e.ID))
		} else {
			t.printf("(unknown error %d)", e.ID)
		}
		t.num(" nr ", uint64(e.Nr))
		t.flag("+", e.Nr == 1<<32-1)
		t.str(" first ")
		t.datetime(e.First)
		t.str(" last ")
		t.datetime(e.Last)
	}
}
