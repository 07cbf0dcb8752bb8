package ondisk

import "encoding/binary"

var (
	csumOptNames        = []string{"none", "crc32c", "crc64", "xxhash"}
	compressionOptNames = []string{"none", "lz4", "gzip", "zstd"}
	extentFlagNames     = []string{"poisoned"}
	reconcileOptNames   = []string{"data_replicas", "data_checksum", "erasure_code", "background_compression", "background_target",
		"promote_target"}
)

func (t *text) btreePtrV2(k *Key, env *TextEnv) {
	t.line()
	t.btreePtrHead(k)
	t.ptrs(k, env)
}

// durability sums what the pointers contribute: the durability of their devices, or what their stripe survives plus one.
func (t *text) durability(k *Key, env *TextEnv) uint64 {
	n := uint64(0)
	ptrs, _, _ := AppendExtentPtrs(nil, k, env.ExtentTypeU64s)
	for _, p := range ptrs {
		switch {
		case p.Cached:
		case p.HasStripe:
			n += uint64(p.Stripe.Redundancy) + 1
		case p.Dev != DevInvalid:
			if d, ok := env.device(uint64(p.Dev)); ok {
				n += uint64(d.Durability)
			} else {
				n++
			}
		}
	}
	return n
}

func (t *text) ptrs(k *Key, env *TextEnv) {
	t.num("durability: ", t.durability(k, env))
	t.str(" ")
	for e, err := range ExtentEntries(k, env.ExtentTypeU64s) {
		t.line()
		if err != nil {
			t.str("(unknown extent entry)")
			return
		}
		if e.Type < NumExtentEntryTypes {
			t.str(extentEntryNames[e.Type])
			t.str(": ")
		}
		switch e.Type {
		case EntryPtr:
			t.ptr(e.Ptr, env)
		case EntryCRC32, EntryCRC64, EntryCRC128:
			t.crc(&e.CRC)
		case EntryStripePtr:
			t.printf("idx %d block %d", e.Stripe.Idx, e.Stripe.Block)
		case EntryRebalance:
			t.rebalance(&e.Rebalance, env)
		case EntryFlags:
			t.bitflags(extentFlagNames, e.Flags)
		case EntryReconcile:
			t.reconcile(&e.Reconcile, env)
		case EntryReconcileBP:
			t.num("idx ", e.Idx)
		default:
			t.printf("(unknown extent entry %.16x)", binary.LittleEndian.Uint64(e.Raw))
		}
	}
}

func (t *text) crc(c *CRC) {
	t.printf("c_size %d size %d offset %d nonce %d csum %v %x:%x  compress %v", c.CompressedSize, c.UncompressedSize, c.Offset, c.Nonce,
		c.Csum, c.Sum.Hi, c.Sum.Lo, c.Compression)
}

func (t *text) ptr(p ExtentPtr, env *TextEnv) {
	d, ok := env.device(uint64(p.Dev))
	if ok && d.BucketSize > 0 {
		size := Sector(d.BucketSize)
		t.printf("%6s %d:%d:%d gen %d", d.Name, p.Dev, p.Offset/size, p.Offset%size, p.Gen)
		if d.Durability != 1 {
			t.num(" d=", uint64(d.Durability))
		}
		if env.Stale != nil {
			if n := env.Stale(p); n != 0 {
				t.printf(" stale=%d", n)
			}
		}
	} else {
		t.printf("%d:%d gen %d", p.Dev, p.Offset, p.Gen)
	}
	t.flag(" cached", p.Cached)
	t.flag(" unwritten", p.Unwritten)
}

func (t *text) compressionOpt(v uint8) {
	t.choice(compressionOptNames, "compression opt", uint64(v&15))
	if v>>4 != 0 {
		t.num(":", uint64(v>>4))
	}
}

// Codes of targets: 0 is none, then devices, then labels.
const (
	targetDevStart   = 1
	targetGroupStart = 256 + targetDevStart
)

func (t *text) target(v uint16, env *TextEnv) {
	switch {
	case v == 0:
		t.str("none")
	case v >= targetGroupStart:
		t.label(v-targetGroupStart, env)
	default:
		if d, ok := env.device(uint64(v - targetDevStart)); ok {
			t.str("/dev/" + d.Name)
		} else {
			t.num("invalid device ", uint64(v-targetDevStart))
		}
	}
}

func (t *text) label(index uint16, env *TextEnv) {
	if env.Label == nil {
		t.num("label ", uint64(index))
		return
	}
	t.str(env.Label(index))
}

// ioOpts are the options that rebalance and reconcile entries hold.
type ioOpts struct {
	replicas, checksum, compression uint8
	target, promote                 uint16
	ec                              bool

	replicasInode, checksumInode, compressionInode, targetInode, promoteInode, ecInode bool
}

func (t *text) ioOpts(o *ioOpts, env *TextEnv) {
	t.num("replicas=", uint64(o.replicas))
	t.flag(" (inode)", o.replicasInode)
	t.str(" checksum=")
	t.choice(csumOptNames, "csum_opt", uint64(o.checksum))
	t.flag(" (inode)", o.checksumInode)
	if o.compression != 0 || o.compressionInode {
		t.str(" background_compression=")
		t.compressionOpt(o.compression)
		t.flag(" (inode)", o.compressionInode)
	}
	if o.target != 0 || o.targetInode {
		t.str(" background_target=")
		t.target(o.target, env)
		t.flag(" (inode)", o.targetInode)
	}
	if o.promote != 0 || o.promoteInode {
		t.str(" promote_target=")
		t.target(o.promote, env)
		t.flag(" (inode)", o.promoteInode)
	}
	if o.ec || o.ecInode {
		t.num(" ec=", bit(o.ec))
		t.flag(" (inode)", o.ecInode)
	}
}

func (t *text) rebalance(r *Rebalance, env *TextEnv) {
	from := func(f RebalanceFromInode) bool { return r.FromInode&f != 0 }
	t.ioOpts(&ioOpts{
		replicas: r.DataReplicas, replicasInode: from(RebalanceDataReplicas),
		checksum: r.DataChecksum, checksumInode: from(RebalanceDataChecksum),
		compression: r.BackgroundCompression, compressionInode: from(RebalanceBackgroundCompression),
		target: r.BackgroundTarget, targetInode: from(RebalanceBackgroundTarget),
		promote: r.PromoteTarget, promoteInode: from(RebalancePromoteTarget),
		ec: r.ErasureCode, ecInode: from(RebalanceErasureCode),
	}, env)
}

func (t *text) reconcile(r *Reconcile, env *TextEnv) {
	from := func(f ReconcileOpt) bool { return r.FromInode&f != 0 }
	t.str("need_rb=")
	t.bitflags(reconcileOptNames, uint64(r.NeedRB))
	t.flag(" hipri", r.Hipri)
	t.flag(" pending", r.Pending)
	t.str(" ")
	t.ioOpts(&ioOpts{
		replicas: r.DataReplicas, replicasInode: from(ReconcileDataReplicas),
		checksum: r.DataChecksum, checksumInode: from(ReconcileDataChecksum),
		compression: r.BackgroundCompression, compressionInode: from(ReconcileBackgroundCompression),
		target: r.BackgroundTarget, targetInode: from(ReconcileBackgroundTarget),
		promote: r.PromoteTarget, promoteInode: from(ReconcilePromoteTarget),
		ec: r.ErasureCode, ecInode: from(ReconcileErasureCode),
	}, env)
}

func (t *text) stripe(k *Key, env *TextEnv) {
	s, err := DecodeStripe(*k)
	if err != nil {
		t.str("(invalid)")
		return
	}
	t.printf("algo %d sectors %d blocks %d:%d csum %v gran %d label=", s.Algorithm, s.Sectors, s.NrData(), s.NrRedundant, s.CsumType,
		s.CsumSectors())
	if s.DiskLabel != 0 {
		t.label(uint16(s.DiskLabel)-1, env)
	} else {
		t.str("(none)")
	}
	t.flag(" needs_reconcile", s.NeedsReconcile)
	if s.CanWiden != 0 {
		t.num(" can_widen=", uint64(s.CanWiden))
	}
	t.indent += 2
	for i, p := range s.Ptrs {
		t.line()
		t.ptr(p, env)
		if n, ok := s.BlockCount(i); ok {
			t.num("#", uint64(n))
		}
	}
	t.indent -= 2
}

func (t *text) alloc(k *Key, env *TextEnv) {
	a, err := DecodeAlloc(*k)
	if err != nil {
		t.str("(invalid)")
		return
	}
	fixed := a.fixedBytes()
	if a.Encoding != KeyAllocV4 {
		a, fixed = a.Upgrade(), allocFixedBytes
	}
	t.line()
	t.printf("gen %d oldest_gen %d data_type ", a.Gen, a.OldestGen)
	t.dataType(a.DataType)
	t.field("journal_seq_nonempty ", a.JournalSeqNonempty)
	if fixed > 48 {
		t.field("journal_seq_empty    ", a.JournalSeqEmpty)
	}
	t.field("need_discard         ", bit(a.NeedDiscard))
	t.field("need_inc_gen         ", bit(a.NeedIncGen))
	t.field("dirty_sectors        ", uint64(a.DirtySectors))
	if fixed > 56 {
		t.field("stripe_sectors       ", uint64(a.StripeSectors))
	}
	t.field("cached_sectors       ", uint64(a.CachedSectors))
	t.field("stripe_refcount      ", uint64(a.Stripe))
	t.field("io_time[READ]        ", a.IOTime[0])
	t.field("io_time[WRITE]       ", a.IOTime[1])
	if d, ok := env.device(k.Pos.Inode); ok {
		t.field("fragmentation     ", a.FragmentationLRU(d.BucketSize))
	}
	t.field("bp_start          ", uint64(a.FixedU64s))
}

func (t *text) dataType(d DataType) { t.choice(dataTypeNames[:], "data_type", uint64(d)) }

func (t *text) btree(id uint64) {
	if id < uint64(NumBtrees) {
		t.str(btreeNames[id])
		return
	}
	t.printf("(unknown btree %d)", id)
}

func (t *text) backpointer(k *Key, env *TextEnv) {
	b, _ := DecodeBackpointer(*k)
	shift := env.backpointerShift()
	sector := k.Pos.Offset >> shift
	if d, ok := env.device(k.Pos.Inode); ok && d.BucketSize > 0 {
		size := uint64(d.BucketSize)
		t.printf("bucket=%d:%d:%d ", k.Pos.Inode, sector/size, sector%size)
	} else {
		t.printf("sector=%d:%d ", k.Pos.Inode, sector)
	}
	t.str("btree=")
	t.btree(uint64(b.Btree))
	t.printf(" level=%d data_type=", b.Level)
	t.dataType(b.DataType)
	t.printf(" suboffset=%d len=%d gen=%d pos=%v", k.Pos.Offset&(1<<shift-1), b.BucketLen, b.BucketGen, b.Pos)
	if env.version() >= VersionReconcile {
		t.flag(" phys", b.Flags&BackpointerReconcileMask != 0)
		t.flag(" stripe", b.Flags&BackpointerStripePtr != 0)
	}
}

func (t *text) accounting(k *Key, env *TextEnv) {
	a, _ := DecodeAccountingPos(k.Pos, env.version())
	t.accountingPos(&a, env)
	for i := range NrAccountingCounters(k) {
		t.printf(" %d", AccountingCounter(k, i))
	}
}

// accountingPos prints what is counted.
func (t *text) accountingPos(a *AccountingPos, env *TextEnv) {
	if a.Type >= NumAccountingTypes {
		t.num("unknown type ", uint64(a.Type))
		return
	}
	t.str(accountingTypeNames[a.Type])
	t.str(" ")
	switch a.Type {
	case AccountingPersistentReserved:
		t.num("replicas=", uint64(a.NrReplicas))
	case AccountingReplicas:
		t.dataType(a.DataType)
		t.printf(": %d/%d [", a.NrRequired, a.NrDevs)
		for i, d := range a.DevList() {
			t.flag(" ", i > 0)
			t.num("", uint64(d))
		}
		t.str("]")
	case AccountingDevDataType:
		t.num("dev=", uint64(a.Dev))
		t.str(" data_type=")
		t.dataType(a.DataType)
	case AccountingCompression:
		t.str(a.Compression.String())
	case AccountingSnapshot:
		t.num("id=", uint64(a.ID))
		if env.version() >= versionTextLayout {
			t.str(" btree=")
			t.btree(uint64(a.Btree))
		}
	case AccountingBtree:
		t.str("btree=")
		t.btree(uint64(a.Btree))
	case AccountingReconcileWork:
		t.choice(reconcileAccountingNames[:], "reconcile_accounting_type", uint64(a.Reconcile))
	case AccountingDevLeaving:
		if d, ok := env.device(uint64(a.Dev)); ok {
			t.str(d.Name + " ")
		} else {
			t.num("", uint64(a.Dev))
			t.str(" ")
		}
	}
}

// Text returns what is counted, as the reference prints it.
func (a *AccountingPos) Text(env *TextEnv) string {
	if env == nil {
		env = &TextEnv{}
	}
	var t text
	t.accountingPos(a, env)
	return string(t.b)
}
