package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/alloc"
	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/btree"
	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
	"github.com/go-bcachefs/bcachefs/internal/journal"
	"github.com/go-bcachefs/bcachefs/internal/node"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/super"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// WriteOptions say how a filesystem is written to. The zero value is fine for most.
type WriteOptions struct {
	// NoFreespace leaves the freespace btree uninitialised where it is, so that the early allocator does all the work.
	NoFreespace bool
	// Rand is where random numbers come from, for reproducible results; nil: random.
	Rand func() uint64
	// Now is the time; nil: the system's.
	Now func() time.Time
	// Ordered has nothing done in the background, so that the same changes, made one after another with the same calls of [RW.Settle] in between, make the
	// same bytes. Rand and Now must give the same values then.
	Ordered bool
	// AllocOptions change the allocator, for tests.
	AllocOptions []alloc.Option
	// Hook is called at named points of the allocator, for tests.
	Hook alloc.Hook
	// OnError is told once that nothing can be written any more, and why.
	OnError func(error)
	// ErrorsInterval is how long the superblocks are not written for the sake of the members' counters of errors; 0: half a minute.
	ErrorsInterval time.Duration
}

// RW is a filesystem that is open for writing.
//
// Its parts are used as they are: transactions through Store, durability through Journal, space through Alloc and Space. Methods are
// safe for concurrent use.
type RW struct {
	*FS
	Store      *trans.Store
	Journal    *journal.Writer
	Super      *super.Set
	Alloc      *alloc.Allocator
	Nodes      *alloc.NodeReserve
	Triggers   *alloc.Triggers
	Accounting *alloc.Accounting
	Space      *alloc.Space
	Replicas   *alloc.ReplicasTable
	Devices    *alloc.Devices

	wopts    WriteOptions
	typeU64s ondisk.ExtentTypeU64s
	clocks   [2]atomic.Uint64 // sectors read and written
	trusted  atomic.Bool

	keyVersion atomic.Uint64 // the last one given out
	settling   atomic.Bool
	reclaiming atomic.Bool
	background

	ctx    context.Context // of workers
	stop   context.CancelFunc
	failed atomic.Pointer[error]
	once   sync.Once
}

// GoReadWrite makes a filesystem that was opened with [Options.Write] writable: what a crash left in the journal is replayed, a filesystem that
// was never mounted is made. The FS must not be used by itself any more; closing the RW closes it.
func (fs *FS) GoReadWrite(ctx context.Context, opts WriteOptions) (*RW, error) {
	if err := fs.writable(); err != nil {
		return nil, err
	}
	for _, m := range fs.Members { // from here on all writes go through these
		m.Device = blockdev.NewFlushTracker(m.Device)
	}
	rw := &RW{FS: fs, wopts: opts}
	rw.ctx, rw.stop = context.WithCancel(context.Background())
	if err := rw.start(ctx); err != nil {
		rw.abort()
		return nil, err
	}
	return rw, nil
}

// writable says why a filesystem cannot be written to.
func (fs *FS) writable() error {
	if !fs.opts.Write {
		return errors.New("the filesystem was opened for reading only")
	}
	if fs.unusable != nil {
		return fs.unusable
	}
	if err := alloc.CheckVersion(fs.SB.Version); err != nil {
		return err
	}
	if m := fs.Missing(); len(m) > 0 {
		return fmt.Errorf("%w: %s is not there; a filesystem is only written to with all of its devices", ErrDegraded, m[0].Name())
	}
	return nil
}

func (rw *RW) now() time.Time {
	if rw.wopts.Now != nil {
		return rw.wopts.Now()
	}
	return time.Now()
}

// start goes through the steps of a mount up to where everybody may write.
func (rw *RW) start(ctx context.Context) error {
	initialise := !rw.SB.Initialized()
	var err error
	if rw.Super, err = super.NewSet(rw.SB, rw.disks(), rw.ownSuperblocks()); err != nil {
		return err
	}
	if rw.wopts.Now != nil {
		rw.Super.SetClock(rw.wopts.Now)
	}
	var plan journalPlan
	if initialise {
		if plan.first, err = rw.makeJournals(ctx); err != nil {
			return err
		}
		plan.fresh = true
	} else {
		plan = rw.planJournal()
	}
	rw.writtenFrom.Store(plan.first)
	if err := rw.markDirty(ctx, &plan); err != nil {
		return err
	}
	if err := rw.wire(&plan); err != nil {
		return err
	}
	if err := rw.readAllocation(ctx, initialise); err != nil {
		return err
	}
	if err := rw.Store.Replay(ctx); err != nil {
		return fmt.Errorf("journal replay: %w", err)
	}
	rw.Journal.ReplayDone()
	if err := rw.startWorkers(ctx); err != nil {
		return err
	}
	rw.startBackground()
	if initialise {
		if err := rw.initialise(ctx); err != nil {
			return err
		}
		return rw.Settle(ctx, true)
	}
	if err := rw.initFreespace(ctx); err != nil {
		return err
	}
	return rw.finish(ctx)
}

func (rw *RW) disks() (all []blockdev.Device) {
	for _, m := range rw.Members {
		all = append(all, m.Device)
	}
	return all
}

func (rw *RW) ownSuperblocks() (all []*ondisk.Superblock) {
	for _, m := range rw.Members {
		all = append(all, m.SB)
	}
	return all
}

// journalPlan says how the journal goes on.
type journalPlan struct {
	fresh         bool   // nothing in its buckets counts
	first         uint64 // entry to be written
	replay        node.SeqRange
	addBlacklist  journal.Blacklist // to be written to the superblock; nil: it stays
	keyVersionAdd uint64
}

// planJournal chooses the sequence numbers of a filesystem that exists.
func (rw *RW) planJournal() journalPlan {
	c := rw.FS.Journal
	if c.Selection.Flush == 0 { // clean
		clean, _ := rw.SB.Clean() // it was read before
		return journalPlan{first: clean.JournalSeq + 1}
	}
	r := c.Selection.Resume(journal.NewBlacklist(append(slices.Clone(rw.blacklist()), c.Blacklist...)...))
	p := journalPlan{first: r.First, addBlacklist: r.Blacklist,
		replay: node.SeqRange{Oldest: c.Selection.LastSeq, Newest: c.Selection.Flush}}
	if rw.SB.Encrypted() {
		p.keyVersionAdd = 1 << 16 // so that no nonce is used again
	}
	return p
}

// markDirty writes superblocks that say that the journal counts.
func (rw *RW) markDirty(ctx context.Context, plan *journalPlan) error {
	now := uint64(rw.now().Unix())
	return rw.Super.Update(ctx, func(sb *ondisk.Superblock) error {
		sb.MarkDirty()
		if plan.addBlacklist != nil {
			sb.SetBlacklist(plan.addBlacklist)
			sb.SetFeature(ondisk.FeatureJournalSeqBlacklistV3)
		}
		return rw.eachMember(sb, func(m *ondisk.Member) { m.LastMount = now })
	}, nil)
}

// eachMember changes the table of members.
func (rw *RW) eachMember(sb *ondisk.Superblock, change func(m *ondisk.Member)) error {
	table, err := sb.RawMembers()
	if err != nil {
		return err
	}
	for i := range table {
		if table[i].Alive() {
			change(&table[i])
		}
	}
	return sb.SetMembers(table)
}

// wire makes journal, btrees and allocator and connects them.
func (rw *RW) wire(plan *journalPlan) error {
	sb := rw.Super.Superblock()
	if err := rw.makeStore(sb, plan); err != nil {
		return err
	}
	if err := rw.makeAllocator(sb); err != nil {
		return err
	}
	if err := rw.makeJournal(sb, plan); err != nil {
		return err
	}
	rw.makeBackground(sb)
	rw.Store.Start(rw.Journal)
	return nil
}

// option returns the value of an option of the superblock.
func option(sb *ondisk.Superblock, name string) uint64 {
	o, ok := ondisk.FindOption(name)
	if !ok {
		panic("no such option: " + name)
	}
	return sb.Option(o)
}

// metadataCsum is the checksum type of nodes and journal entries that are written.
func metadataCsum(sb *ondisk.Superblock) checksum.Type {
	if sb.Encrypted() {
		return checksum.ChaCha20Poly1305_128
	}
	return [4]checksum.Type{checksum.None, checksum.CRC32CNonzero, checksum.CRC64Nonzero, checksum.XXHash}[option(sb, "metadata_checksum")&3]
}

func (rw *RW) makeStore(sb *ondisk.Superblock, plan *journalPlan) error {
	roots := map[ondisk.BtreeID]trans.Root{}
	for id, r := range rw.FS.Journal.Roots {
		switch {
		case r.Lost || id >= ondisk.MaxBtrees:
			return fmt.Errorf("btree %v: its root is lost: the filesystem has to be repaired before it is written to", id)
		case r.Key.Type != ondisk.KeyDeleted:
			roots[id] = trans.Root{Level: r.Level, Key: r.Key}
		}
	}
	overlay := rw.FS.Journal.Overlay
	if !rw.SB.Initialized() {
		overlay = nil // made up; what is in it is made for real
	}
	key := rw.Key
	csum := metadataCsum(sb)
	if !csum.IsEncryption() {
		key = nil
	}
	rw.Store = trans.New(trans.Config{
		NodeBytes: sb.BtreeNodeSize(), BlockBytes: sb.BlockBytes(), Magic: ondisk.NodeMagic(sb.UUID), Version: sb.Version,
		Csum: csum, Key: key, ExtentTypeU64s: sb.ExtentTypeU64s(), CacheBytes: rw.opts.NodeCacheBytes,
		Roots: roots, Overlay: overlay, ReplaySeqs: plan.replay,
		ReadNode: rw.readNode, WriteNode: rw.writeNode, Alloc: nodeAllocator{rw}, Replicas: replicasTable{rw},
		Trigger: rw.trigger, SameTrigger: alloc.SameTrigger, Atomic: rw.atomic, Counters: rw.count,
		IsAncestor: rw.isAncestor, Rand: rw.wopts.Rand, OnError: rw.fail, Ordered: rw.wopts.Ordered,
		Logf: rw.message,
	})
	return nil
}

// NewKeyVersion returns a version that no key had before, for an extent whose data is encrypted: the nonce is made of it. It costs nothing to take
// one and not use it.
func (rw *RW) NewKeyVersion() ondisk.Version { return ondisk.Version{Lo: rw.keyVersion.Add(1)} }

func (rw *RW) isAncestor(a, b uint32) bool { return rw.Snapshots.IsAncestor(a, b) }

// readNode reads a node for the store.
func (rw *RW) readNode(ctx context.Context, id ondisk.BtreeID, level uint8, ptr ondisk.Key) (*ondisk.Node, error) {
	n, err := rw.Reader.ReadNode(ctx, id, level, ptr)
	if err == nil && len(n.Problems) > 0 {
		return nil, &btree.NodeError{Btree: id, Level: level, Min: n.Min, Max: n.Max,
			Err: fmt.Errorf("the node is damaged (%v): it has to be repaired before it is written to", n.Problems[0])}
	}
	return n, err
}

// writeNode writes a part of a node to all its replicas. If that fails for some of them it says which, so that the node goes on without these.
func (rw *RW) writeNode(ctx context.Context, addrs []ondisk.NodeAddr, off ondisk.Sector, buf []byte) error {
	errs := make([]error, len(addrs))
	var wg sync.WaitGroup
	write := func(i int) {
		dev := rw.Device(addrs[i].Dev)
		if dev == nil {
			errs[i] = btree.ErrNoDevice
			return
		}
		errs[i] = dev.WriteAt(ctx, buf, int64(addrs[i].Sector+off)*ondisk.SectorSize)
	}
	for i := 1; i < len(addrs); i++ {
		wg.Go(func() { write(i) })
	}
	write(0)
	wg.Wait()
	rw.wrote(uint64(len(buf)/ondisk.SectorSize) * uint64(len(addrs)))
	var lost []ondisk.NodeAddr
	for i, err := range errs {
		if err != nil {
			if ctx.Err() == nil {
				rw.errors.note(addrs[i].Dev, errorsWrite)
			}
			lost = append(lost, addrs[i])
			errs[i] = fmt.Errorf("device %d, sector %d: %w", addrs[i].Dev, addrs[i].Sector+off, err)
		}
	}
	err := errors.Join(errs...)
	if len(lost) > 0 && len(lost) < len(addrs) {
		return &trans.ReplicasError{Lost: lost, Err: err}
	}
	return err
}

func (rw *RW) trigger(tx *trans.Tx, id ondisk.BtreeID, level uint8, old, k *ondisk.Key, flags trans.UpdateFlags) error {
	if !alloc.HasTransactional(id, level) {
		return nil
	}
	err := rw.Triggers.Run(tx, id, level, old, k, flags)
	if errors.Is(err, alloc.ErrInconsistent) {
		rw.inconsistent(err)
	}
	return err
}

// inconsistent ends all writing as metadata contradicts itself: whatever is built on it could be wrong too.
func (rw *RW) inconsistent(err error) {
	rw.fail(err)
	rw.Journal.Halt(err)
}

func (rw *RW) atomic(id ondisk.BtreeID, level uint8, old, k *ondisk.Key, seq uint64) {
	rw.Triggers.Atomic(id, level, old, k, seq)
	if level == 0 && (k.Type == ondisk.KeyExtent || k.Type == ondisk.KeyReflinkV) {
		var buf [8]ondisk.DecodedPtr
		ptrs, _, err := ondisk.AppendExtentPtrs(buf[:0], k, rw.typeU64s)
		if err != nil {
			return // what cannot be read was judged before
		}
		for i := range ptrs {
			rw.Alloc.PointerInserted(&ptrs[i].ExtentPtr)
		}
	}
}

// count takes the changes of counters that a commit makes: into the accounting in memory, and into what space is left. A promise that
// the transaction has attached ([trans.Tx.Attach], of type *[alloc.Reservation]) is what it takes from.
func (rw *RW) count(tx *trans.Tx, deltas []trans.Delta) {
	var total alloc.UsageTotals
	for i := range deltas {
		d := &deltas[i]
		c := d.Counters()
		rw.Accounting.Add(&d.At, c...)
		switch {
		case d.At.Type == ondisk.AccountingNrInodes:
			total.NrInodes += c[0]
		case d.At.Type == ondisk.AccountingPersistentReserved:
			total.Reserved += c[0] * int64(d.At.NrReplicas)
		case d.At.Type != ondisk.AccountingReplicas:
		case d.At.DataType == ondisk.DataBtree:
			total.Btree += c[0]
		case d.At.DataType == ondisk.DataCached:
			total.Cached += c[0]
		case d.At.DataType == ondisk.DataUser || d.At.DataType == ondisk.DataParity:
			total.Data += c[0]
		}
	}
	promise, _ := tx.Attached().(*alloc.Reservation)
	if over := rw.Space.Commit(&total, promise); over > 0 && promise != nil {
		rw.message("a transaction made the usage grow by %d sectors more than it had been promised", over)
	}
}

// fail ends all writing. Reading goes on.
func (rw *RW) fail(err error) {
	if !rw.failed.CompareAndSwap(nil, &err) {
		return
	}
	rw.message("read-only from now on: %v", err)
	if rw.wopts.OnError != nil {
		rw.wopts.OnError(err)
	}
}

// Err is why nothing can be written any more, nil if it can.
func (rw *RW) Err() error {
	if err := rw.failed.Load(); err != nil {
		return *err
	}
	return nil
}

func (rw *RW) clock(rwIndex int) uint64 { return max(rw.clocks[rwIndex&1].Load(), 1) }

func (rw *RW) makeAllocator(sb *ondisk.Superblock) (err error) {
	nodeSectors := uint32(sb.BtreeNodeSize() / ondisk.SectorSize)
	rw.typeU64s = sb.ExtentTypeU64s()
	rw.Devices = &alloc.Devices{}
	rw.Accounting = alloc.NewAccounting(sb.Version)
	rw.Space = alloc.NewSpace()
	listed, err := sb.Replicas()
	if err != nil {
		return err
	}
	if rw.Replicas, err = alloc.NewReplicasTable(listed, rw.writeReplicas); err != nil {
		return err
	}
	rw.Alloc, err = alloc.New(alloc.Config{
		Engine: allocEngine{rw}, Usage: rw.Accounting, Clock: rw.clock,
		BlockSectors: uint32(sb.BlockSize), NodeSectors: nodeSectors, ExtentTypeU64s: sb.ExtentTypeU64s(),
		BackpointerShift: sb.BackpointerShift(),
		NodeReplicas:     int(option(sb, "metadata_replicas")), NodeReplicasRequired: 1, NodeTarget: uint16(option(sb, "metadata_target")),
		SaveBitmap: rw.saveBitmap, ForceEarly: rw.wopts.NoFreespace, OnInconsistent: rw.inconsistent, Logf: rw.message, Hook: rw.wopts.Hook,
		Busy: rw.nocow.Busy, MakeRoom: rw.makeRoom(),
	}, rw.wopts.AllocOptions...)
	if err != nil {
		return err
	}
	rw.Triggers, err = alloc.NewTriggers(alloc.TriggerConfig{
		Version: sb.Version, Devices: rw.Devices, NodeSectors: nodeSectors, ExtentTypeU64s: sb.ExtentTypeU64s(), Clock: rw.clock,
		Claims: rw.Alloc, Snapshots: snapshotTree{rw.Snapshots}, IndexTrusted: rw.trusted.Load, Report: rw.inconsistent, Became: rw.Alloc.Became,
		Target: rw.Alloc.InTarget,
	})
	if err != nil {
		return err
	}
	rw.Nodes = alloc.NewNodeReserve(rw.Alloc)
	return rw.addDevices(sb)
}

// addDevices tells the allocator of the members.
func (rw *RW) addDevices(sb *ondisk.Superblock) error {
	groups, err := sb.DiskGroups()
	if err != nil {
		return err
	}
	rw.Alloc.SetDiskGroups(groups)
	table, err := sb.Members()
	if err != nil {
		return err
	}
	var capacity []alloc.CapacityDevice
	for _, m := range rw.Members {
		member := table[m.Index]
		dev := alloc.NewDevice(m.Index, &member)
		rw.Devices.Set(dev)
		ranges, err := rw.Super.Own(int(m.Index)).Journal()
		if err != nil {
			return err
		}
		c := alloc.DeviceConfig{Device: dev, Member: member, Disk: m.Device}
		for _, s := range alloc.MetadataBuckets(dev, &m.SB.Layout, ranges) {
			c.Hidden = append(c.Hidden, alloc.BucketRange{First: s.Bucket, End: s.Bucket + 1})
		}
		if _, err := rw.Alloc.AddDevice(c); err != nil {
			return err
		}
		if member.State() == ondisk.MemberRW {
			capacity = append(capacity, alloc.CapacityDevice{NBuckets: member.NBuckets, FirstBucket: uint64(member.FirstBucket),
				BucketSize: uint32(member.BucketSize)})
		}
	}
	rw.Space.SetCapacity(alloc.NewCapacity(capacity, uint32(sb.BtreeNodeSize()/ondisk.SectorSize), option(sb, "gc_reserve_bytes"),
		option(sb, "gc_reserve_percent")))
	return nil
}

// writeReplicas puts the table of sets of devices into the superblocks.
func (rw *RW) writeReplicas(ctx context.Context, all []ondisk.Replicas) error {
	return rw.updateSuper(ctx, func(sb *ondisk.Superblock) error { sb.SetReplicas(all); return nil })
}

// updateSuper changes the superblocks while others write. If that fails nothing is written any more: a device tells only once that it could not flush,
// and what it lost may have been of the journal.
func (rw *RW) updateSuper(ctx context.Context, change func(sb *ondisk.Superblock) error) error {
	stored := func() {}
	err := rw.Super.Update(ctx, func(sb *ondisk.Superblock) (err error) {
		if stored, err = rw.errors.take(sb); err != nil {
			return err
		}
		return change(sb)
	}, nil)
	switch {
	case err == nil:
		stored()
	case ctx.Err() == nil:
		rw.Journal.Halt(err)
	}
	return err
}

// saveBitmap puts into the superblocks where on a device there are btree nodes.
func (rw *RW) saveBitmap(ctx context.Context, dev uint8, m alloc.BtreeBitmap) error {
	return rw.updateSuper(ctx, func(sb *ondisk.Superblock) error {
		table, err := sb.RawMembers()
		if err != nil {
			return err
		}
		table[dev].BtreeBitmapShift, table[dev].BtreeBitmap = m.Shift, m.Bits
		return sb.SetMembers(table)
	})
}

func (rw *RW) makeJournal(sb *ondisk.Superblock, plan *journalPlan) error {
	var key = rw.Key
	csum := metadataCsum(sb)
	if !csum.IsEncryption() {
		key = nil
	}
	cfg := journal.WriterConfig{
		Params: ondisk.JsetParams{Magic: ondisk.JsetMagic(sb.UUID), Key: key, BlockBytes: sb.BlockBytes()}, Version: sb.Version, Csum: csum,
		First: plan.first, LastSeq: plan.replay.Oldest, Flush: plan.replay.Newest,
		Replicas: int(option(sb, "metadata_replicas")), ReplicasRequired: 1,
		Clocks:   func() (r, w uint64) { return rw.clocks[0].Load(), rw.clocks[1].Load() },
		Now:      rw.wopts.Now,
		Pressure: rw.Store.Pressure, Buffered: rw.Store.TakeBuffered, MarkReplicas: rw.markJournalReplicas, Flushed: func(uint64) { rw.Alloc.Kick() },
		OnHalt: func(err error) {
			if !errors.Is(err, journal.ErrStopped) {
				rw.fail(err)
			}
		},
		Ordered:      rw.wopts.Ordered,
		Starved:      rw.starved,
		FlushDelay:   time.Duration(option(sb, "journal_flush_delay")) * time.Millisecond,
		ReclaimDelay: time.Duration(option(sb, "journal_reclaim_delay")) * time.Millisecond,
	}
	rw.keyVersion.Store(rw.FS.Journal.KeyVersion + plan.keyVersionAdd)
	cfg.KeyVersion = rw.keyVersion.Load
	for id, r := range rw.FS.Journal.Roots {
		if r.Key.Type != ondisk.KeyDeleted {
			cfg.Roots = append(cfg.Roots, ondisk.JsetEntry{Type: ondisk.JsetBtreeRoot, BtreeID: id, Level: r.Level,
				Data: ondisk.AppendKey(nil, r.Key)})
		}
	}
	slices.SortFunc(cfg.Roots, func(a, b ondisk.JsetEntry) int { return int(a.BtreeID) - int(b.BtreeID) })
	table, err := sb.Members()
	if err != nil {
		return err
	}
	for _, m := range rw.Members {
		d, err := rw.journalDevice(m, &table[m.Index], plan)
		if err != nil {
			return err
		}
		cfg.Devices = append(cfg.Devices, d)
	}
	rw.Journal, err = journal.Start(cfg)
	return err
}

// journalDevice says where on a member writing of the journal goes on.
func (rw *RW) journalDevice(m *Member, member *ondisk.Member, plan *journalPlan) (journal.WriterDevice, error) {
	d := journal.WriterDevice{Index: m.Index, Device: m.Device, BucketBytes: member.BucketBytes(), Durability: int(member.Durability()),
		Preferred: true, Discard: member.Discard(), ReadOnly: member.State() != ondisk.MemberRW}
	if member.DataAllowed()>>ondisk.DataJournal&1 == 0 {
		d.Durability = 0 // nothing is written to its journal
	}
	ranges, err := rw.Super.Own(int(m.Index)).Journal()
	if err != nil {
		return d, fmt.Errorf("%s: journal: %w", m.Path, err)
	}
	for _, r := range ranges {
		for b := r.Start; b < r.End && b < m.NBuckets && len(d.Buckets) <= journal.MaxBuckets; b++ {
			d.Buckets = append(d.Buckets, b)
		}
	}
	switch {
	case len(d.Buckets) == 0:
	case plan.fresh:
		d.Ring = journal.FreshRing(d.BucketBytes)
	case plan.replay.Newest == 0:
		d.Ring = journal.RingAt(member.LastJournalBucket, member.LastJournalOffset, len(d.Buckets), d.BucketBytes)
	default:
		d.Ring = journal.FreshRing(d.BucketBytes)
		if r, ok := rw.rings[m.Index]; ok && len(r.Newest) == len(d.Buckets) {
			d.Ring = r
		}
	}
	return d, nil
}

// markJournalReplicas lists a set of devices that journal entries lie on.
func (rw *RW) markJournalReplicas(ctx context.Context, members []uint8) error {
	return rw.Replicas.AddSet(ctx, ondisk.Replicas{DataType: ondisk.DataJournal, Required: 1, Devs: slices.Clone(members)})
}

// readAllocation reads generations and accounting, before the journal is replayed.
func (rw *RW) readAllocation(ctx context.Context, initialise bool) error {
	if initialise {
		rw.Accounting.Loaded()
		return nil
	}
	err := rw.Store.View(ctx, func(tx *trans.Tx) error {
		if err := alloc.ReadGens(tx, rw.Devices); err != nil {
			return err
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("generations of buckets: %w", err)
	}
	err = rw.Store.View(ctx, func(tx *trans.Tx) error {
		return tx.Scan(ondisk.BtreeAccounting, ondisk.PosMin, ondisk.SPosMax, 0, func(k ondisk.Key, _ ondisk.Pos) (bool, error) {
			return true, rw.Accounting.Load(&k)
		})
	})
	if err != nil {
		return fmt.Errorf("accounting: %w", err)
	}
	deltas := rw.FS.Journal.Overlay.Deltas()
	for i := range deltas {
		if _, err := rw.Accounting.LoadDelta(&deltas[i]); err != nil {
			return fmt.Errorf("accounting: %w", err)
		}
	}
	rw.Accounting.Loaded()
	rw.Space.SetTotals(rw.Accounting.Totals(rw.Devices))
	return nil
}

// Close shuts the filesystem down properly: everything is written, and the superblocks say that it was. If nothing could be written any more
// before, or ctx ends, the journal is left to the next who opens it.
func (rw *RW) Close(ctx context.Context) (err error) {
	rw.once.Do(func() { err = rw.shutdown(ctx) })
	return err
}

func (rw *RW) shutdown(ctx context.Context) error {
	defer rw.abort()
	if err := rw.Err(); err != nil {
		return fmt.Errorf("not shut down properly, as nothing could be written any more: %w", err)
	}
	rw.stopBackground()
	if err := rw.Settle(ctx, true); err != nil {
		return err
	}
	rw.Alloc.Stop()
	rw.Nodes.Close(ctx)
	// Nodes that are merged or split in the background open buckets. What is allocated is closed when there are none; what was still being
	// written by then is written now.
	if err := rw.Store.Quiesce(ctx); err != nil {
		return err
	}
	if err := rw.Alloc.CloseDevice(ctx, nil); err != nil && ctx.Err() != nil {
		return err
	}
	if err := rw.Store.Quiesce(ctx); err != nil {
		return err
	}
	end, err := rw.Journal.Stop(ctx)
	if err != nil {
		return err
	}
	if err := rw.Err(); err != nil {
		return err
	}
	return rw.Super.Update(ctx, func(sb *ondisk.Superblock) error {
		sb.MarkClean(&end.Clean)
		if _, err := rw.errors.take(sb); err != nil {
			return err
		}
		table, err := sb.RawMembers()
		if err != nil {
			return err
		}
		for _, p := range end.Positions {
			table[p.Member].LastJournalBucket, table[p.Member].LastJournalOffset = p.Bucket, p.Offset
		}
		return sb.SetMembers(table)
	}, nil)
}

// abort ends all that goes on and closes the devices.
func (rw *RW) abort() {
	rw.stop()
	rw.stopBackground()
	if rw.Nodes != nil {
		rw.Nodes.Close(rw.ctx)
	}
	if rw.Alloc != nil {
		rw.Alloc.Stop()
	}
	if rw.Journal != nil {
		rw.Journal.Abort()
		rw.Store.Close()
	}
	_ = rw.FS.Close() // for reading; what was written is flushed by others
}

// Abandon ends everything at once, as a crash would: the next who opens the filesystem replays the journal.
func (rw *RW) Abandon() { rw.once.Do(rw.abort) }

// nodeAllocator gives the store the allocator's reserve of nodes, which is made after it.
type nodeAllocator struct{ rw *RW }

func (a nodeAllocator) AllocNodes(ctx context.Context, n int, w journal.Watermark, nonblocking bool) ([]trans.NodeSpace, error) {
	return a.rw.Nodes.Nodes().AllocNodes(ctx, n, w, nonblocking)
}

// replicasTable gives the store the list of sets of devices.
type replicasTable struct{ rw *RW }

func (r replicasTable) Listed(p *ondisk.AccountingPos) bool { return r.rw.Replicas.Listed(p) }

func (r replicasTable) Add(ctx context.Context, p *ondisk.AccountingPos) error {
	return r.rw.Replicas.Add(ctx, p)
}

// allocEngine gives the allocator transactions and the journal.
type allocEngine struct{ rw *RW }

func (e allocEngine) View(ctx context.Context, fn func(tx alloc.Tx) error) error {
	return e.rw.Store.View(ctx, func(tx *trans.Tx) error { return fn(tx) })
}

func (e allocEngine) Update(ctx context.Context, w alloc.Watermark, fn func(tx alloc.Tx) error) error {
	return e.rw.Store.UpdateAt(ctx, w, func(tx *trans.Tx) error { return fn(tx) })
}

func (e allocEngine) Durable() uint64 { return e.rw.Journal.Durable() }

func (e allocEngine) FlushSeq(ctx context.Context, seq uint64) error {
	return e.rw.Journal.FlushSeq(ctx, seq)
}

func (e allocEngine) FlushWriteBuffer(ctx context.Context) error {
	return e.rw.Store.FlushWriteBuffer(ctx)
}

// snapshotTree gives triggers the table of snapshots.
type snapshotTree struct{ s *Snapshots }

func (t snapshotTree) Parent(id uint32) uint32 {
	if n, ok := t.s.Get(id); ok {
		return n.Parent
	}
	return 0
}

func (t snapshotTree) IsAncestor(a, d uint32) bool { return t.s.IsAncestor(a, d) }

func (t snapshotTree) HasChildren(id uint32) bool { return t.s.HasChildren(id) }
