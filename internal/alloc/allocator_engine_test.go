package alloc

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// testEngine is an engine over a FakeFS with the real triggers: what the allocator gets from a filesystem, without btrees and journal.
type testEngine struct {
	fs       *FakeFS
	triggers *Triggers
	devs     Devices
	counts   [4][ondisk.NumDataTypes]atomic.Int64
	clock    atomic.Uint64

	// manual makes entries durable only by FlushSeq or setDurable; else every commit is at once.
	manual  bool
	durable atomic.Uint64
	flushes atomic.Int64
	failing atomic.Bool // commits of discards fail
	full    atomic.Bool // there is no bucket for nodes but the last of those that are kept back

	// update makes updates come one after the other: a FakeFS locks the slots of alloc keys, but no leaves of freespace.
	update sync.Mutex

	mu       sync.Mutex
	reported []error
}

var errTestEngine = errors.New("engine: told to fail")

func (e *testEngine) View(ctx context.Context, fn func(tx Tx) error) error {
	for {
		tx := e.fs.Begin(ctx)
		err := fn(tx)
		tx.End()
		if !errors.Is(err, ErrFakeRestart) {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

func (e *testEngine) Update(ctx context.Context, w Watermark, fn func(tx Tx) error) error {
	if w == WatermarkBtree && e.failing.Load() {
		return errTestEngine
	}
	if w <= WatermarkBtree && e.full.Load() {
		return ErrNoSpace
	}
	e.update.Lock()
	defer e.update.Unlock()
	return e.fs.UpdateContext(ctx, func(tx *FakeTx) error { return fn(tx) })
}

func (e *testEngine) Durable() uint64 {
	if !e.manual {
		return 1 << 60
	}
	return e.durable.Load()
}

func (e *testEngine) FlushSeq(_ context.Context, seq uint64) error {
	e.flushes.Add(1)
	e.durable.Store(max(e.durable.Load(), seq))
	return nil
}

func (e *testEngine) FlushWriteBuffer(context.Context) error { return nil }

func (e *testEngine) Buckets(dev uint8, t ondisk.DataType) int64 { return e.counts[dev][t].Load() }

// testDevice describes a device of a test.
type testDevice struct {
	buckets    uint64
	size       uint16 // sectors
	first      uint16
	flags      uint64 // of the member, beside data allowed and freespace initialised
	group      int    // 1 + index
	durability int    // 1 + durability; 0 means 1
	early      bool   // freespace is not initialised
	hidden     []BucketRange
}

type testConfig struct {
	devs    []testDevice
	cfg     Config
	options []Option
	manual  bool
}

func newTestAllocator(t testing.TB, c testConfig) (*Allocator, *testEngine) {
	t.Helper()
	e := &testEngine{fs: NewFakeFS(), manual: c.manual}
	e.clock.Store(1000)
	cfg := c.cfg
	cfg.Engine, cfg.Usage = e, e
	if cfg.NodeSectors == 0 {
		cfg.NodeSectors = 16
	}
	cfg.Clock = func(int) uint64 { return e.clock.Load() }
	cfg.OnInconsistent = func(err error) {
		e.mu.Lock()
		e.reported = append(e.reported, err)
		e.mu.Unlock()
	}
	a, err := New(cfg, c.options...)
	if err != nil {
		t.Fatal(err)
	}
	trig, err := NewTriggers(TriggerConfig{Version: versionWritten, Devices: &e.devs, NodeSectors: cfg.NodeSectors, Clock: cfg.Clock, Claims: a,
		Became: func(dev uint8, b ondisk.Bucket, old, now ondisk.DataType) {
			e.counts[dev][old].Add(-1)
			e.counts[dev][now].Add(1)
			a.Became(dev, b, old, now)
		}})
	if err != nil {
		t.Fatal(err)
	}
	e.triggers = trig
	for i, td := range c.devs {
		m := ondisk.Member{NBuckets: td.buckets, BucketSize: td.size, FirstBucket: td.first, Flags: td.flags}
		m.UUID[0] = 1
		if m.DataAllowed() == 0 {
			m.Flags |= (1<<ondisk.DataJournal | 1<<ondisk.DataBtree | 1<<ondisk.DataUser) << 15
		}
		m.Flags |= uint64(td.group)<<20 | uint64(td.durability)<<28
		if !td.early {
			m.Flags |= 1 << 30
		}
		d := NewDevice(uint8(i), &m)
		e.devs.Set(d)
		e.counts[i][ondisk.DataFree].Store(int64(td.buckets) - int64(td.first))
		if _, err := a.AddDevice(DeviceConfig{Device: d, Member: m, Hidden: td.hidden}); err != nil {
			t.Fatal(err)
		}
		if !td.early {
			run := func(ctx context.Context, fn func(Tx) error) error { return e.Update(ctx, WatermarkNormal, fn) }
			if err := trig.InitFreespace(t.Context(), run, d, 0, d.NBuckets); err != nil {
				t.Fatal(err)
			}
		}
	}
	e.fs.Transactional, e.fs.Atomic, e.fs.SameTrigger = trig.Transactional, trig.Atomic, SameTrigger
	a.SetTrusted(true)
	return a, e
}

// extentKey is an extent of an inode that ends at a sector.
func extentKey(inode, end uint64, sectors uint32, ptrs []ondisk.ExtentPtr) ondisk.Key {
	k := ondisk.Key{Type: ondisk.KeyExtent, Size: sectors, Pos: ondisk.Pos{Inode: inode, Offset: end, Snapshot: 1<<32 - 1}}
	for i := range ptrs {
		k.Val = ondisk.AppendExtentEntry(k.Val, &ondisk.ExtentEntry{Type: ondisk.EntryPtr, Ptr: ptrs[i]})
	}
	return k
}

// commit makes an allocation an extent.
func (e *testEngine) commit(ctx context.Context, inode, end uint64, al *Allocation) error {
	k := extentKey(inode, end, al.Sectors, al.Ptrs())
	return e.Update(ctx, WatermarkNormal, func(tx Tx) error { return tx.Update(ondisk.BtreeExtents, k, 0) })
}

// remove deletes an extent.
func (e *testEngine) remove(ctx context.Context, inode, end uint64) error {
	k := ondisk.Key{Type: ondisk.KeyDeleted, Pos: ondisk.Pos{Inode: inode, Offset: end, Snapshot: 1<<32 - 1}}
	return e.Update(ctx, WatermarkNormal, func(tx Tx) error { return tx.Update(ondisk.BtreeExtents, k, 0) })
}

// alloc returns the state of a bucket.
func (e *testEngine) alloc(t testing.TB, dev uint8, b ondisk.Bucket) ondisk.Alloc {
	t.Helper()
	k, ok := e.fs.Key(ondisk.BtreeAlloc, allocPos(dev, b))
	if !ok {
		return ondisk.Alloc{}
	}
	a, err := decodeAlloc(&k)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// userRequest asks for user data on one device.
func userRequest(sectors uint32) *Request {
	return &Request{Sectors: sectors, DataType: ondisk.DataUser, WritePoint: 1, Replicas: 1, Watermark: WatermarkNormal}
}

// check compares counters, freespace and need_discard with the alloc keys.
func (e *testEngine) check(a *Allocator) error {
	for d := range a.Devices() {
		var want [ondisk.NumDataTypes]int64
		free := map[ondisk.Bucket]bool{}
		for _, k := range e.fs.Keys(ondisk.BtreeFreespace) {
			if f := ondisk.DecodeFreespace(&k); f.Dev == uint64(d.Index) {
				for i := range f.Len {
					free[f.First+ondisk.Bucket(i)] = true
				}
			}
		}
		for b := d.FirstBucket; b < d.NBuckets; b++ {
			al := ondisk.Alloc{}
			if k, ok := e.fs.Key(ondisk.BtreeAlloc, allocPos(d.Index, b)); ok {
				var err error
				if al, err = decodeAlloc(&k); err != nil {
					return err
				}
			}
			want[al.DataType]++
			if al.DirtyTotal() > uint64(d.BucketSize) {
				return fmt.Errorf("device %d bucket %d: %d sectors of %d are in use", d.Index, b, al.DirtyTotal(), d.BucketSize)
			}
			if d.FreespaceInitialized() && free[b] != (al.DataType == ondisk.DataFree) {
				return fmt.Errorf("device %d bucket %d: %v, in freespace: %v", d.Index, b, al.DataType, free[b])
			}
		}
		for t := range want {
			if got := e.counts[d.Index][t].Load(); got != want[t] {
				return fmt.Errorf("device %d: %d buckets are counted as %v, there are %d", d.Index, got, ondisk.DataType(t), want[t])
			}
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return errors.Join(e.reported...)
}
