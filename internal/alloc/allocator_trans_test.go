package alloc

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
	"github.com/go-bcachefs/bcachefs/internal/journal"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// realEngine is transactions, key cache, write buffer and journal as they are, over memory, with btree nodes in buckets of the allocator
// under test.
type realEngine struct {
	t      testing.TB
	s      *trans.Store
	j      *journal.Writer
	disk   *blockdev.Memory
	trig   *Triggers
	a      *Allocator
	nodes  *NodeReserve
	devs   Devices
	counts [ondisk.NumDataTypes]atomic.Int64
	clock  atomic.Uint64
}

const (
	realNode    = 16 << 10
	realBuckets = 512
	realBucket  = 128 // sectors
	realMagic   = 0x1234
)

func newRealEngine(t testing.TB, early bool, fault Fault, hook Hook) *realEngine {
	t.Helper()
	e := &realEngine{t: t, disk: blockdev.NewMemory(realBuckets * realBucket * ondisk.SectorSize)}
	m := ondisk.Member{NBuckets: realBuckets, BucketSize: realBucket,
		Flags: (1<<ondisk.DataJournal|1<<ondisk.DataBtree|1<<ondisk.DataUser)<<15 | 1<<14}
	m.UUID[0] = 1
	d := NewDevice(0, &m)
	e.devs.Set(d)
	e.counts[ondisk.DataFree].Store(realBuckets)
	var err error
	clock := func(int) uint64 { return e.clock.Add(1) }
	e.a, err = New(Config{Engine: e, Usage: e, Clock: clock, NodeSectors: realNode / ondisk.SectorSize, NodeReplicas: 1, ForceEarly: early,
		OnInconsistent: func(err error) { t.Errorf("inconsistent: %v", err) }, Logf: t.Logf, Hook: hook}, WithFaults(fault))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.a.AddDevice(DeviceConfig{Device: d, Member: m, Disk: e.disk}); err != nil {
		t.Fatal(err)
	}
	e.nodes = NewNodeReserve(e.a)
	e.trig, err = NewTriggers(TriggerConfig{Version: versionWritten, Devices: &e.devs, NodeSectors: realNode / ondisk.SectorSize, Clock: clock,
		Claims: e.a, Became: func(dev uint8, b ondisk.Bucket, old, now ondisk.DataType) {
			e.counts[old].Add(-1)
			e.counts[now].Add(1)
			e.a.Became(dev, b, old, now)
		}})
	if err != nil {
		t.Fatal(err)
	}
	e.open(!early)
	return e
}

func (e *realEngine) open(freespace bool) {
	t := e.t
	e.s = trans.New(trans.Config{NodeBytes: realNode, BlockBytes: 512, Magic: realMagic, Version: ondisk.VersionDefault,
		Csum: checksum.CRC32CNonzero, CacheBytes: 64 << 20, ReadNode: e.readNode, WriteNode: e.writeNode, Alloc: e.nodes.Nodes(), Logf: t.Logf,
		Trigger: func(tx *trans.Tx, btree ondisk.BtreeID, level uint8, old, k *ondisk.Key, flags trans.UpdateFlags) error {
			return e.trig.Run(tx, btree, level, old, k, flags)
		},
		Atomic:  e.trig.Atomic,
		OnError: func(err error) { t.Errorf("store failed: %v", err) }})
	const bucketBytes = 256 << 10
	jd := journal.WriterDevice{Device: blockdev.NewMemory(64 << 20), BucketBytes: bucketBytes, Ring: journal.FreshRing(bucketBytes), Durability: 1}
	for i := range uint64(128) {
		jd.Buckets = append(jd.Buckets, i+1)
	}
	var err error
	e.j, err = journal.Start(journal.WriterConfig{Devices: []journal.WriterDevice{jd}, Version: ondisk.VersionDefault, Csum: checksum.CRC32CNonzero,
		Params: ondisk.JsetParams{Magic: realMagic + 1, BlockBytes: 512}, First: 1, Replicas: 1, ReplicasRequired: 1, Buffered: e.s.TakeBuffered,
		OnHalt: func(err error) {
			if !errors.Is(err, journal.ErrStopped) {
				t.Errorf("journal halted: %v", err)
			}
		}})
	if err != nil {
		t.Fatal(err)
	}
	e.s.Start(e.j)
	t.Cleanup(e.close)
	ctx := context.Background()
	if err := e.nodes.Fill(ctx, true); err != nil {
		t.Fatal(err)
	}
	if d := e.devs.Get(0); freespace {
		run := func(ctx context.Context, fn func(Tx) error) error { return e.Update(ctx, WatermarkNormal, fn) }
		if err := e.trig.InitFreespace(ctx, run, d, 0, d.NBuckets); err != nil {
			t.Fatal(err)
		}
		d.SetFreespaceInitialized(true)
	}
	// So that nobody else takes buckets when a test begins.
	if err := errors.Join(e.s.Quiesce(ctx), e.nodes.Fill(ctx, true)); err != nil {
		t.Fatal(err)
	}
	e.a.SetTrusted(true)
	e.nodes.Start(ctx)
	e.a.Start(ctx)
}

func (e *realEngine) close() {
	ctx := context.Background()
	e.a.Stop()
	if err := e.s.Quiesce(ctx); err != nil {
		e.t.Error(err)
	}
	if _, err := e.j.Stop(ctx); err != nil {
		e.t.Error(err)
	}
	e.s.Close()
	e.nodes.Close(ctx)
}

// View implements [Engine].
func (e *realEngine) View(ctx context.Context, fn func(tx Tx) error) error {
	return e.s.View(ctx, func(tx *trans.Tx) error { return fn(tx) })
}

// Update implements [Engine].
func (e *realEngine) Update(ctx context.Context, w Watermark, fn func(tx Tx) error) error {
	return e.s.UpdateAt(ctx, w, func(tx *trans.Tx) error { return fn(tx) })
}

// Durable implements [Engine].
func (e *realEngine) Durable() uint64 { return e.j.Durable() }

// FlushSeq implements [Engine].
func (e *realEngine) FlushSeq(ctx context.Context, seq uint64) error { return e.j.FlushSeq(ctx, seq) }

// FlushWriteBuffer implements [Engine].
func (e *realEngine) FlushWriteBuffer(ctx context.Context) error { return e.s.FlushWriteBuffer(ctx) }

// Buckets implements [BucketUsage].
func (e *realEngine) Buckets(_ uint8, t ondisk.DataType) int64 { return e.counts[t].Load() }

func (e *realEngine) writeNode(ctx context.Context, addrs []ondisk.NodeAddr, off ondisk.Sector, buf []byte) error {
	return e.disk.WriteAt(ctx, buf, int64(addrs[0].Sector+off)*ondisk.SectorSize)
}

func (e *realEngine) readNode(ctx context.Context, btree ondisk.BtreeID, level uint8, key ondisk.Key) (*ondisk.Node, error) {
	ptr, err := ondisk.DecodeBtreePtr(key)
	if err != nil {
		return nil, err
	}
	buf := make([]byte, realNode)
	for a := range ptr.Addrs() {
		if err := e.disk.ReadAt(ctx, buf, int64(a.Sector)*ondisk.SectorSize); err != nil {
			return nil, err
		}
	}
	n, err := ondisk.DecodeNode(buf, &ondisk.NodeWant{Btree: btree, Level: level, Ptr: ptr, Magic: realMagic, BlockSectors: 1, NodeSize: realNode})
	if err == nil && len(n.Problems) > 0 {
		err = fmt.Errorf("node of btree %v with problems: %v", btree, n.Problems)
	}
	return n, err
}

func (e *realEngine) commit(ctx context.Context, inode, end uint64, al *Allocation) error {
	k := extentKey(inode, end, al.Sectors, al.Ptrs())
	return e.Update(ctx, WatermarkNormal, func(tx Tx) error { return tx.Update(ondisk.BtreeExtents, k, 0) })
}

func (e *realEngine) remove(ctx context.Context, inode, end uint64) error {
	return e.Update(ctx, WatermarkNormal, func(tx Tx) error {
		pos := ondisk.Pos{Inode: inode, Offset: end - 1, Snapshot: 1<<32 - 1}
		k, ok, err := tx.Get(ondisk.BtreeExtents, pos, ForUpdate)
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("extent of inode %d that ends at %d is gone", inode, end)
		}
		return tx.Update(ondisk.BtreeExtents, ondisk.Key{Type: ondisk.KeyDeleted, Pos: k.Pos, Size: k.Size}, 0)
	})
}

// check compares counters and freespace with the alloc keys, and those with the backpointers.
func (e *realEngine) check(t *testing.T) {
	t.Helper()
	// Writing backpointers may make nodes, which have backpointers, and so on: until there is nothing left.
	if err := e.s.Quiesce(t.Context()); err != nil {
		t.Fatal(err)
	}
	err := e.View(t.Context(), func(tx Tx) error {
		var want [ondisk.NumDataTypes]int64
		var inFreespace [realBuckets]bool
		err := tx.Scan(ondisk.BtreeFreespace, ondisk.PosMin, ondisk.SPosMax, 0, func(k ondisk.Key, _ ondisk.Pos) (bool, error) {
			f := ondisk.DecodeFreespace(&k)
			for b := range ondisk.Bucket(f.Len) {
				inFreespace[f.First+b] = true
			}
			return true, nil
		})
		if err != nil {
			return err
		}
		for b := range ondisk.Bucket(realBuckets) {
			al, err := GetAlloc(tx, 0, b, Committed)
			if err != nil {
				return err
			}
			want[al.DataType]++
			if e.devs.Get(0).FreespaceInitialized() && inFreespace[b] != (al.DataType == ondisk.DataFree) {
				t.Errorf("bucket %d: %v, in freespace: %v", b, al.DataType, inFreespace[b])
			}
			owners, err := e.a.ownersOf(tx, e.a.DevSpace(0), b, 1000)
			if err != nil {
				return err
			}
			var sectors uint64
			end := ondisk.Sector(0)
			for _, o := range owners {
				if o.Sector < end {
					t.Errorf("bucket %d: %v overlaps with what is before it", b, o)
				}
				sectors += uint64(o.Sectors)
				end = o.Sector + ondisk.Sector(o.Sectors)
			}
			if sectors != al.DirtyTotal() {
				t.Errorf("bucket %d (%v): %d sectors in backpointers, its key has %d", b, al.DataType, sectors, al.DirtyTotal())
			}
		}
		for typ := range want {
			if got := e.counts[typ].Load(); got != want[typ] {
				t.Errorf("%d buckets are counted as %v, there are %d", got, ondisk.DataType(typ), want[typ])
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestRealTransactions is TestManyTasks over real transactions.
func TestRealTransactions(t *testing.T) {
	each(t, func(t *testing.T, early bool) {
		hook := func(context.Context, Point, uint8, ondisk.Bucket) {
			if rand.IntN(8) == 0 {
				time.Sleep(time.Duration(rand.IntN(50)) * time.Microsecond)
			}
		}
		e := newRealEngine(t, early, 0, hook)
		o := oracle{owners: map[uint8][]int{0: make([]int, realBuckets*realBucket)}}
		ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
		defer cancel()
		var wg sync.WaitGroup
		var n atomic.Int64
		for i := range 6 {
			wg.Go(func() {
				w := modelTask{a: e.a, e: e, o: &o, id: i + 1, rnd: rand.New(rand.NewPCG(uint64(i), 7))}
				for ctx.Err() == nil {
					if err := w.step(ctx); err != nil && ctx.Err() == nil {
						t.Error(err)
						cancel()
					}
				}
				n.Add(w.done)
			})
		}
		wg.Go(func() {
			for ctx.Err() == nil {
				if _, err := e.a.DiscardRound(ctx, rand.IntN(2) == 0); err != nil && ctx.Err() == nil {
					t.Error(err)
				}
				time.Sleep(time.Millisecond)
			}
		})
		wg.Wait()
		e.a.Stop()
		e.check(t)
		if n.Load() < 10 {
			t.Errorf("only %d allocations", n.Load())
		}
	})
}

// TestRealClaim is [TestClaimIsOneStep] over real transactions: their slots exclude what they have to, their commits catch the rest.
func TestRealClaim(t *testing.T) {
	for _, tt := range []struct {
		name  string
		early bool
		fault Fault
		at    Point
		dup   bool
	}{
		{"freelist, after the scan", false, 0, PointScanned, false},
		{"freelist, locked", false, 0, PointChecked, false},
		{"early, after the scan", true, 0, PointScanned, false},
		{"early, locked", true, 0, PointChecked, false},
		{"freelist without keeping the lock", false, FaultNoSlotLock, PointChecked, true},
		{"early without keeping the lock", true, FaultNoSlotLock, PointChecked, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var p pauses
			e := newRealEngine(t, tt.early, tt.fault, p.hook)
			stop := p.at("first", tt.at)
			got, done := make(chan error, 1), make(chan error, 1)
			var al1, al2 Allocation
			go func() { got <- e.a.AllocSectors(task(t.Context(), "first"), userRequest(realBucket), &al1) }()
			<-stop.reached
			var second ondisk.Sector
			go func() {
				req := userRequest(realBucket)
				req.WritePoint = 2
				err := e.a.AllocSectors(t.Context(), req, &al2)
				second = al2.Ptrs()[0].Offset
				if err == nil {
					err = e.commit(t.Context(), 2, realBucket, &al2)
					al2.Done(t.Context())
				}
				done <- err
			}()
			// If the first has locks the second waits for them, which there is no telling but by waiting.
			var err error
			var patience <-chan time.Time
			if tt.at == PointChecked && tt.fault == 0 {
				patience = time.After(50 * time.Millisecond)
			}
			ended := false
			select {
			case err = <-done:
				ended = true
			case <-patience:
			}
			close(stop.goOn)
			if err := <-got; err != nil {
				t.Fatal(err)
			}
			if !ended {
				err = <-done
			}
			if err != nil {
				t.Fatal(err)
			}
			if dup := al1.Ptrs()[0].Offset == second; dup != tt.dup {
				t.Errorf("the tasks got sectors %d and %d", al1.Ptrs()[0].Offset, second)
			}
			err = e.commit(t.Context(), 1, realBucket, &al1)
			if tt.dup != errors.Is(err, ErrInconsistent) || !tt.dup && err != nil {
				t.Errorf("commit of the first: %v", err)
			}
			al1.Done(t.Context())
			e.a.Stop()
			e.check(t)
		})
	}
}
