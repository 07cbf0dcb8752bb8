package ondisk

import "encoding/binary"

// The layout that tools of 1.13 print, for filesystems of their time: pointers on one line, fewer fields. What is not here looks
// the same in both.

// versionTextLayout is the first version whose filesystems are printed in the newest layout.
const versionTextLayout MetadataVersion = 1<<10 | 14

// oldValue prints the value in the layout of 1.13; it reports false if there is no difference.
func (t *text) oldValue(k *Key, env *TextEnv) bool {
	switch k.Type {
	case KeyExtent, KeyBtreePtr:
		t.oldPtrs(k, env)
	case KeyReflinkV:
		v, _ := DecodeIndirect(*k)
		t.num("refcount: ", v.Refcount)
		t.str(" ")
		t.oldPtrs(k, env)
	case KeyBtreePtrV2:
		t.btreePtrHead(k)
		t.oldPtrs(k, env)
	case KeyInode, KeyInodeV2, KeyInodeV3:
		t.oldInode(k)
	case KeyAlloc, KeyAllocV2, KeyAllocV3, KeyAllocV4:
		t.oldAlloc(k, env)
	case KeySnapshot:
		s, _ := DecodeSnapshot(*k)
		t.printf("is_subvol %d deleted %d parent %10d children %10d %10d subvol %d tree %d", s.Flags>>1&1, s.Flags&1, s.Parent,
			s.Children[0], s.Children[1], s.Subvol, s.Tree)
		if s.Size > 24 {
			t.printf(" depth %d skiplist %d %d %d", s.Depth, s.Skip[0], s.Skip[1], s.Skip[2])
		}
	case KeySubvolume:
		s, _ := DecodeSubvolume(*k)
		t.printf("root %d snapshot id %d", s.Inode, s.Snapshot)
		if s.Size > 16 {
			t.printf(" creation_parent %d fs_parent %d", s.CreationParent, s.FSPathParent)
		}
	case KeyBackpointer:
		t.oldBackpointer(k, env)
	case KeyStripe:
		t.oldStripe(k, env)
	default:
		return false
	}
	return true
}

func (t *text) oldPtrs(k *Key, env *TextEnv) {
	t.num("durability: ", t.durability(k, env))
	t.str(" ")
	first := true
	for e, err := range ExtentEntries(k, env.ExtentTypeU64s) {
		t.flag(" ", !first)
		if first = false; err != nil {
			t.str("(invalid extent entry)")
			return
		}
		switch e.Type {
		case EntryPtr:
			t.oldPtr(e.Ptr, env)
		case EntryCRC32, EntryCRC64, EntryCRC128:
			t.str("crc: ")
			t.crc(&e.CRC)
		case EntryStripePtr:
			t.printf("ec: idx %d block %d", e.Stripe.Idx, e.Stripe.Block)
		case EntryRebalance:
			t.str("rebalance: target ")
			t.target(e.Rebalance.BackgroundTarget, env)
			t.str(" compression ")
			t.compressionOpt(e.Rebalance.BackgroundCompression)
		default:
			t.printf("(invalid extent entry %v)", e.Type)
		}
	}
}

func (t *text) oldPtr(p ExtentPtr, env *TextEnv) {
	t.str("ptr: ")
	d, ok := env.device(uint64(p.Dev))
	if !ok || d.BucketSize == 0 {
		t.printf("%d:%d gen %d", p.Dev, p.Offset, p.Gen)
		t.flag(" cached", p.Cached)
		return
	}
	size := Sector(d.BucketSize)
	t.printf("%d:%d:%d gen %d", p.Dev, p.Offset/size, p.Offset%size, p.Gen)
	if d.Durability != 1 {
		t.num(" d=", uint64(d.Durability))
	}
	t.flag(" cached", p.Cached)
	t.flag(" unwritten", p.Unwritten)
	if env.Stale != nil {
		n := env.Stale(p)
		t.flag(" stale", n > 0)
		t.flag(" invalid", n < 0)
	}
}

func (t *text) oldInode(k *Key) {
	in, err := DecodeInode(*k)
	if err != nil {
		t.str("(unpack error)")
		return
	}
	t.line()
	t.printf("mode=%o", in.Mode)
	t.inodeFlags(&in)
	t.field("journal_seq=", in.JournalSeq)
	t.inodeFields(&in, ifNocow)
}

func (t *text) oldAlloc(k *Key, env *TextEnv) {
	a, err := DecodeAlloc(*k)
	if err != nil {
		t.str("(invalid)")
		return
	}
	if a.Encoding != KeyAllocV4 {
		a = a.Upgrade()
	}
	t.line()
	t.printf("gen %d oldest_gen %d data_type ", a.Gen, a.OldestGen)
	t.dataType(a.DataType)
	t.field("journal_seq       ", a.JournalSeqNonempty)
	t.field("need_discard      ", bit(a.NeedDiscard))
	t.field("need_inc_gen      ", bit(a.NeedIncGen))
	t.field("dirty_sectors     ", uint64(a.DirtySectors))
	t.field("stripe_sectors    ", uint64(a.StripeSectors))
	t.field("cached_sectors    ", uint64(a.CachedSectors))
	t.field("stripe            ", uint64(a.Stripe))
	t.field("stripe_redundancy ", uint64(a.StripeRedundancy))
	t.field("io_time[READ]     ", a.IOTime[0])
	t.field("io_time[WRITE]    ", a.IOTime[1])
	if d, ok := env.device(k.Pos.Inode); ok {
		t.field("fragmentation     ", a.FragmentationLRU(d.BucketSize))
	}
	t.field("bp_start          ", uint64(a.FixedU64s))
}

func (t *text) oldBackpointer(k *Key, env *TextEnv) {
	b, _ := DecodeBackpointer(*k)
	if d, ok := env.device(k.Pos.Inode); ok && d.BucketSize > 0 {
		bucket := Pos{Inode: k.Pos.Inode, Offset: k.Pos.Offset >> DefaultBackpointerShift / uint64(d.BucketSize)}
		t.printf("bucket=%v ", bucket)
	}
	t.str("btree=")
	t.btree(uint64(b.Btree))
	off := b.BucketOffset()
	t.printf(" l=%d offset=%d:%d len=%d pos=%v", b.Level, off>>DefaultBackpointerShift, off&(1<<DefaultBackpointerShift-1), b.BucketLen, b.Pos)
}

func (t *text) oldStripe(k *Key, env *TextEnv) {
	s, err := DecodeStripe(*k)
	if err != nil {
		t.str("(invalid)")
		return
	}
	t.printf("algo %d sectors %d blocks %d:%d csum %v gran %d", s.Algorithm, s.Sectors, s.NrData(), s.NrRedundant, s.CsumType, s.CsumSectors())
	if s.DiskLabel != 0 {
		t.str(" label")
		t.label(uint16(s.DiskLabel)-1, env)
	}
	for i, p := range s.Ptrs {
		t.str(" ")
		t.oldPtr(p, env)
		if n, ok := s.BlockCount(i); ok && i < s.NrData() {
			t.num("#", uint64(n))
		}
	}
}

// btreePtrHead prints what a pointer to a node holds beside its pointers.
func (t *text) btreePtrHead(k *Key) {
	le := binary.LittleEndian
	t.printf("seq %x written %d min_key ", le.Uint64(k.Val[8:]), le.Uint16(k.Val[16:]))
	t.flag("R ", le.Uint16(k.Val[18:])&flagRangeUpdated != 0)
	t.str(DecodePos(k.Val[20:]).String())
	t.str(" ")
}
