package racedemo

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/alloc"
	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
	"github.com/go-bcachefs/bcachefs/internal/journal"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/six"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// The filesystem of the demonstration. Its buckets are as large as its nodes, and none of its nodes ever gets full.
const (
	nodeBytes     = 16 << 10
	bucketSectors = nodeBytes / ondisk.SectorSize
	numBuckets    = 256
	firstBucket   = 1
	magic         = 0xbcac4ef5

	journalBucketBytes = 256 << 10
	journalBuckets     = 32

	// never is a delay of background work: nothing happens but what the tasks do.
	never = 24 * time.Hour
)

// image is a filesystem on a device in memory, shut down. Each run works on a clone of it.
type image struct {
	disk      *blockdev.Memory
	roots     map[ondisk.BtreeID]trans.Root
	seq       uint64 // of the last journal entry
	counts    [ondisk.NumDataTypes]int64
	freespace bool
}

// filesystem is what an open filesystem has of the real parts that deal with buckets: allocator, triggers, transactions with key cache and
// write buffer, journal. It implements what the allocator needs.
type filesystem struct {
	store    *trans.Store
	journal  *journal.Writer
	disk     *blockdev.Memory
	data     blockdev.Device // disk, by way of the hooks
	triggers *alloc.Triggers
	alloc    *alloc.Allocator
	nodes    *alloc.NodeReserve
	devs     alloc.Devices
	dev      *alloc.Device
	counts   [ondisk.NumDataTypes]atomic.Int64
	clock    atomic.Uint64
	tripped  func(error)         // told of contradictions
	freed    func(ondisk.Bucket) // told of buckets that became free, in the atomic part of a commit
	flushing bool                // a task is flushing the write buffer
}

// hooks are what a run puts into the parts.
type hooks struct {
	alloc   alloc.Hook
	trans   trans.Hook
	locks   six.Hook
	io      func(ctx context.Context, op blockdev.Op, off, n int64) error
	quiet   bool // no goroutines but those that work for who waits for them
	tripped func(error)
	freed   func(ondisk.Bucket)
}

// mount opens an image, or an empty device if it has no roots. The image must not be used any more, clones of its disk may.
func mount(img *image, o *Options, h *hooks) (*filesystem, error) {
	m := ondisk.Member{NBuckets: numBuckets, BucketSize: bucketSectors, FirstBucket: firstBucket,
		Flags: (1<<ondisk.DataJournal|1<<ondisk.DataBtree|1<<ondisk.DataUser)<<15 | 1<<14}
	m.UUID[0] = 1
	f := &filesystem{disk: img.disk, data: img.disk, dev: alloc.NewDevice(0, &m), tripped: h.tripped,
		freed: h.freed}
	if h.io != nil {
		f.data = blockdev.NewDelayer(img.disk, h.io)
	}
	f.dev.SetFreespaceInitialized(img.freespace)
	f.devs.Set(f.dev)
	for t := range img.counts {
		f.counts[t].Store(img.counts[t])
	}
	clock := func(int) uint64 { return f.clock.Add(1) }
	var err error
	f.alloc, err = alloc.New(alloc.Config{Engine: f, Usage: f, Clock: clock, NodeSectors: bucketSectors, NodeReplicas: 1, ForceEarly: !o.Freelist,
		OpenBuckets: 256, OnInconsistent: f.inconsistent, Hook: h.alloc}, alloc.WithFaults(o.allocFaults()))
	if err != nil {
		return nil, err
	}
	if _, err := f.alloc.AddDevice(alloc.DeviceConfig{Device: f.dev, Member: m, Disk: f.data}); err != nil {
		return nil, err
	}
	f.nodes = alloc.NewNodeReserve(f.alloc)
	f.triggers, err = alloc.NewTriggers(alloc.TriggerConfig{Version: ondisk.VersionDefault, Devices: &f.devs, NodeSectors: bucketSectors,
		Clock: clock, Claims: f.alloc, Became: f.became})
	if err != nil {
		return nil, err
	}
	f.store = trans.New(trans.Config{NodeBytes: nodeBytes, BlockBytes: ondisk.SectorSize, Magic: magic, Version: ondisk.VersionDefault,
		Csum: checksum.CRC32CNonzero, CacheBytes: 16 << 20, Roots: img.roots, ReadNode: f.readNode, WriteNode: f.writeNode,
		Alloc: f.nodes.Nodes(), Trigger: f.trigger, SameTrigger: alloc.SameTrigger, Atomic: f.triggers.Atomic,
		Hook: h.trans, LockHook: h.locks, Faults: o.transFaults(), NoWorkers: h.quiet})
	return f, f.startJournal(img.seq + 1)
}

func (f *filesystem) startJournal(first uint64) error {
	jd := journal.WriterDevice{Device: blockdev.NewMemory((journalBuckets + 1) * journalBucketBytes), BucketBytes: journalBucketBytes,
		Ring: journal.FreshRing(journalBucketBytes), Durability: 1}
	for i := range uint64(journalBuckets) {
		jd.Buckets = append(jd.Buckets, i+1)
	}
	var err error
	f.journal, err = journal.Start(journal.WriterConfig{Devices: []journal.WriterDevice{jd}, Version: ondisk.VersionDefault,
		Csum: checksum.CRC32CNonzero, Params: ondisk.JsetParams{Magic: magic + 1, BlockBytes: ondisk.SectorSize}, First: first,
		Replicas: 1, ReplicasRequired: 1, Buffered: f.store.TakeBuffered, FlushDelay: never, ReclaimDelay: never})
	if err != nil {
		return err
	}
	f.store.Start(f.journal)
	return nil
}

// abort ends what a filesystem does, without writing anything.
func (f *filesystem) abort() {
	f.journal.Abort()
	f.store.Close()
	f.nodes.Close(context.Background())
}

func (f *filesystem) inconsistent(err error) {
	if f.tripped != nil {
		f.tripped(err)
	}
}

func (f *filesystem) became(dev uint8, b ondisk.Bucket, old, now ondisk.DataType) {
	f.counts[old].Add(-1)
	f.counts[now].Add(1)
	if now == ondisk.DataFree && f.freed != nil {
		f.freed(b)
	}
	f.alloc.Became(dev, b, old, now)
}

func (f *filesystem) trigger(tx *trans.Tx, id ondisk.BtreeID, level uint8, old, k *ondisk.Key, flags trans.UpdateFlags) error {
	if !alloc.HasTransactional(id, level) {
		return nil
	}
	return f.triggers.Run(demoTx{tx, f}, id, level, old, k, flags)
}

// demoTx is a transaction that does not wait for another task's flush of the write buffer: that is a mutex, of which the explorer knows nothing. The
// error of a contradiction may leave out an owner then.
type demoTx struct {
	*trans.Tx
	f *filesystem
}

// FlushBuffered hides that of the transaction. One task runs at a time.
func (tx demoTx) FlushBuffered() error {
	if tx.f.flushing {
		return nil
	}
	tx.f.flushing = true
	defer func() { tx.f.flushing = false }()
	return tx.Tx.FlushBuffered()
}

// View implements [alloc.Engine].
func (f *filesystem) View(ctx context.Context, fn func(tx alloc.Tx) error) error {
	return f.store.View(ctx, func(tx *trans.Tx) error { return fn(demoTx{tx, f}) })
}

// Update implements [alloc.Engine].
func (f *filesystem) Update(ctx context.Context, w alloc.Watermark, fn func(tx alloc.Tx) error) error {
	return f.store.UpdateAt(ctx, w, func(tx *trans.Tx) error { return fn(demoTx{tx, f}) })
}

// Durable implements [alloc.Engine].
func (f *filesystem) Durable() uint64 { return f.journal.Durable() }

// FlushSeq implements [alloc.Engine]. What the journal's goroutine does for it is over when it returns.
func (f *filesystem) FlushSeq(ctx context.Context, _ uint64) error { return f.journal.Flush(ctx) }

// FlushWriteBuffer implements [alloc.Engine]. The journal is flushed first, so that none of its entries is in flight when it returns.
func (f *filesystem) FlushWriteBuffer(ctx context.Context) error {
	if err := f.journal.Flush(ctx); err != nil {
		return err
	}
	f.flushing = true
	defer func() { f.flushing = false }()
	return f.store.FlushWriteBuffer(ctx)
}

// Buckets implements [alloc.BucketUsage].
func (f *filesystem) Buckets(_ uint8, t ondisk.DataType) int64 { return f.counts[t].Load() }

func (f *filesystem) writeNode(ctx context.Context, addrs []ondisk.NodeAddr, off ondisk.Sector, buf []byte) error {
	return f.disk.WriteAt(ctx, buf, int64(addrs[0].Sector+off)*ondisk.SectorSize)
}

func (f *filesystem) readNode(ctx context.Context, btree ondisk.BtreeID, level uint8, key ondisk.Key) (*ondisk.Node, error) {
	ptr, err := ondisk.DecodeBtreePtr(key)
	if err != nil {
		return nil, err
	}
	buf := make([]byte, nodeBytes)
	for a := range ptr.Addrs() {
		if err := f.disk.ReadAt(context.WithoutCancel(ctx), buf, int64(a.Sector)*ondisk.SectorSize); err != nil {
			return nil, err
		}
	}
	n, err := ondisk.DecodeNode(buf, &ondisk.NodeWant{Btree: btree, Level: level, Ptr: ptr, Magic: magic, BlockSectors: 1, NodeSize: nodeBytes})
	if err == nil && len(n.Problems) > 0 {
		err = fmt.Errorf("node of btree %v with problems: %v", btree, n.Problems)
	}
	return n, err
}

// allocate gets a whole bucket.
func (f *filesystem) allocate(ctx context.Context, wp alloc.WritePoint, cached bool, al *alloc.Allocation) error {
	return f.alloc.AllocSectors(ctx, &alloc.Request{Sectors: bucketSectors, Min: bucketSectors, DataType: ondisk.DataUser, WritePoint: wp,
		Replicas: 1, Watermark: alloc.WatermarkNormal, Cached: cached, Nonblocking: true}, al)
}

// bucketOf is the bucket that an allocation got.
func (f *filesystem) bucketOf(al *alloc.Allocation) ondisk.Bucket {
	return ondisk.Bucket(al.Ptrs()[0].Offset / bucketSectors)
}

// extentPos is where the extent of a bucket ends that is the how manieth of an inode.
func extentPos(inode uint64, nr int) ondisk.Pos {
	return ondisk.Pos{Inode: inode, Offset: uint64(nr+1) * bucketSectors, Snapshot: 1<<32 - 1}
}

// commit makes an allocation an extent of an inode.
func (f *filesystem) commit(ctx context.Context, inode uint64, nr int, al *alloc.Allocation) error {
	k := ondisk.Key{Type: ondisk.KeyExtent, Size: al.Sectors, Pos: extentPos(inode, nr)}
	for _, p := range al.Ptrs() {
		k.Val = ondisk.AppendExtentEntry(k.Val, &ondisk.ExtentEntry{Type: ondisk.EntryPtr, Ptr: p})
	}
	return f.Update(ctx, alloc.WatermarkNormal, func(tx alloc.Tx) error { return tx.Update(ondisk.BtreeExtents, k, 0) })
}

// remove deletes an extent.
func (f *filesystem) remove(ctx context.Context, inode uint64, nr int) error {
	k := ondisk.Key{Type: ondisk.KeyDeleted, Pos: extentPos(inode, nr), Size: bucketSectors}
	return f.Update(ctx, alloc.WatermarkNormal, func(tx alloc.Tx) error { return tx.Update(ondisk.BtreeExtents, k, 0) })
}

// makeImage makes the filesystem that all runs start from: some buckets were in use and are free again, which their alloc keys say. They are the
// first that either allocator comes to.
func makeImage(ctx context.Context, o *Options) (*image, error) {
	img := &image{disk: blockdev.NewMemory(numBuckets * bucketSectors * ondisk.SectorSize)}
	img.counts[ondisk.DataFree] = numBuckets - firstBucket
	plain := *o
	plain.NoRule, plain.NoRecheck, plain.NoSlotLock = false, false, false
	var tripped error
	f, err := mount(img, &plain, &hooks{tripped: func(err error) { tripped = err }})
	if err != nil {
		return nil, err
	}
	defer f.abort()
	if err := f.populate(ctx, o); err != nil {
		return nil, err
	}
	if err := f.store.Quiesce(ctx); err != nil {
		return nil, err
	}
	end, err := f.journal.Stop(ctx)
	if err = errors.Join(err, tripped); err != nil {
		return nil, err
	}
	img.roots, img.seq, img.freespace = f.store.Roots(), end.Clean.JournalSeq, f.dev.FreespaceInitialized()
	for t := range img.counts {
		img.counts[t] = f.counts[t].Load()
	}
	return img, nil
}

// setupInode is the inode that owns what the image is made with.
const setupInode = 1000

func (f *filesystem) populate(ctx context.Context, o *Options) error {
	// All are claimed before the first node needs a place, so that they lie before the nodes.
	als := make([]alloc.Allocation, o.buckets())
	for i := range als {
		if err := f.allocate(ctx, 1, false, &als[i]); err != nil {
			return err
		}
	}
	if err := f.nodes.Fill(ctx, true); err != nil {
		return err
	}
	if o.Freelist {
		run := func(ctx context.Context, fn func(alloc.Tx) error) error {
			return f.Update(ctx, alloc.WatermarkNormal, fn)
		}
		if err := f.triggers.InitFreespace(ctx, run, f.dev, 0, f.dev.NBuckets); err != nil {
			return err
		}
		f.dev.SetFreespaceInitialized(true)
	}
	for i := range als {
		if err := f.commit(ctx, setupInode, i, &als[i]); err != nil {
			return err
		}
		als[i].Done(ctx)
	}
	for i := range als {
		if err := f.remove(ctx, setupInode, i); err != nil {
			return err
		}
	}
	if n, err := f.alloc.DiscardRound(ctx, true); err != nil || n != len(als) {
		return errors.Join(err, fmt.Errorf("%d of %d buckets were discarded", n, len(als)))
	}
	if !o.Cleaner {
		return nil
	}
	var al alloc.Allocation
	if err := f.allocate(ctx, 1, true, &al); err != nil {
		return err
	}
	defer al.Done(ctx)
	return f.commit(ctx, setupInode, 0, &al)
}
