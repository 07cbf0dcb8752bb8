package trans

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
	"github.com/go-bcachefs/bcachefs/internal/journal"
	"github.com/go-bcachefs/bcachefs/internal/node"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// world is a store on two devices, the journal's and that of the nodes, with an allocator that uses a place again as soon as the pointer to it is
// durably gone.
type world struct {
	testing.TB
	s     *Store
	j     *journal.Writer
	cfg   Config
	dev   blockdev.Device
	jdev  blockdev.Device
	jcfg  journal.WriterConfig // as far as it differs from the usual
	first uint64               // entry that the journal begins with when the store is opened

	// Of a store that was not closed properly.
	ring      *journal.Ring
	replay    node.SeqRange
	blacklist journal.Blacklist

	// A test that makes devices fail expects that.
	failing bool

	mu    sync.Mutex
	next  ondisk.Sector
	freed []freedNode
}

// freedNode is a place to which the pointer was replaced in a journal entry.
type freedNode struct {
	at  ondisk.Sector
	seq uint64
}

const (
	testNode    = 16 << 10
	testBlock   = 512
	testMagic   = 0x1234
	testBuckets = 64
	testBucket  = 256 << 10
)

// newWorld opens an empty store that is closed at the end of the test. change may be nil.
func newWorld(t testing.TB, change func(*Config)) *world {
	return newWorldOn(t, func(w *world) {
		if change != nil {
			change(&w.cfg)
		}
	})
}

func newWorldOn(t testing.TB, change func(*world)) *world {
	w := makeWorld(t)
	change(w)
	w.open()
	t.Cleanup(w.close)
	return w
}

// makeWorld returns a world that was not opened yet.
func makeWorld(t testing.TB) *world {
	w := &world{TB: t, dev: blockdev.NewMemory(4 << 30), jdev: blockdev.NewMemory(32 << 20), first: 1, next: 8}
	w.cfg = Config{NodeBytes: testNode, BlockBytes: testBlock, Magic: testMagic, Version: ondisk.VersionDefault, Csum: checksum.CRC32CNonzero,
		CacheBytes: 64 << 20, ReadNode: w.readNode, WriteNode: w.writeNode, Alloc: w, Logf: t.Logf, OnError: func(err error) {
			if !w.failing {
				t.Errorf("store failed: %v", err)
			}
		}}
	w.cfg.Trigger = w.trigger
	d := journal.WriterDevice{Index: 1, BucketBytes: testBucket, Durability: 1}
	for i := range uint64(testBuckets) {
		d.Buckets = append(d.Buckets, i+1)
	}
	w.jcfg = journal.WriterConfig{Devices: []journal.WriterDevice{{Index: 0}, d}, Version: w.cfg.Version, Csum: w.cfg.Csum, Replicas: 1,
		ReplicasRequired: 1, OnHalt: func(err error) {
			if !errors.Is(err, journal.ErrStopped) && !w.failing {
				t.Errorf("journal halted: %v", err)
			}
		}}
	return w
}

func (w *world) jparams() ondisk.JsetParams {
	return ondisk.JsetParams{Magic: testMagic + 1, BlockBytes: w.cfg.BlockBytes}
}

func (w *world) open() {
	w.s = New(w.cfg)
	cfg := w.jcfg
	cfg.Devices = slices.Clone(cfg.Devices)
	cfg.Params, cfg.First, cfg.LastSeq, cfg.Flush = w.jparams(), w.first, w.replay.Oldest, w.replay.Newest
	cfg.Buffered, cfg.Pressure = w.s.TakeBuffered, w.s.Pressure
	cfg.Devices[0].Device = w.dev
	d := &cfg.Devices[1]
	d.Device, d.Ring = w.jdev, journal.FreshRing(d.BucketBytes)
	if w.ring != nil {
		d.Ring = *w.ring
	}
	for id, r := range w.cfg.Roots {
		cfg.Roots = append(cfg.Roots, ondisk.JsetEntry{Type: ondisk.JsetBtreeRoot, BtreeID: id, Level: r.Level, Data: ondisk.AppendKey(nil, r.Key)})
	}
	var err error
	w.j, err = journal.Start(cfg)
	if err != nil {
		w.Fatal(err)
	}
	w.s.Start(w.j)
}

// close writes everything and ends.
func (w *world) close() {
	if err := w.s.Quiesce(context.Background()); err != nil && !w.failing {
		w.Error(err)
	}
	if _, err := w.j.Stop(context.Background()); err != nil && !w.failing {
		w.Error(err)
	}
	w.first, w.ring, w.replay, w.cfg.Overlay, w.cfg.ReplaySeqs = w.j.Current()+1, nil, node.SeqRange{}, nil, node.SeqRange{}
	w.s.Close()
}

// trigger frees the places of nodes that are replaced.
func (w *world) trigger(tx *Tx, btree ondisk.BtreeID, level uint8, old, k *ondisk.Key, _ UpdateFlags) error {
	if level == 0 || old.Type == ondisk.KeyDeleted {
		return nil
	}
	was, err := sectorOf(*old)
	if err != nil {
		return err
	}
	if k.Type != ondisk.KeyDeleted {
		if now, err := sectorOf(*k); err != nil || now == was {
			return err
		}
	}
	tx.OnCommit(func(seq uint64) {
		w.mu.Lock()
		w.freed = append(w.freed, freedNode{was, seq})
		w.mu.Unlock()
	})
	return nil
}

func sectorOf(k ondisk.Key) (ondisk.Sector, error) {
	ptr, err := ondisk.DecodeBtreePtr(k)
	if err != nil {
		return 0, err
	}
	for a := range ptr.Addrs() {
		return a.Sector, nil
	}
	return 0, fmt.Errorf("a pointer to nowhere at %v", k.Pos)
}

func (w *world) AllocNodes(_ context.Context, n int, _ journal.Watermark, _ bool) (all []NodeSpace, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for range n {
		at := w.next
		if len(w.freed) > 0 && w.freed[0].seq <= w.j.Durable() {
			at = w.freed[0].at
			w.freed = w.freed[1:]
		} else {
			w.next += ondisk.Sector(w.cfg.NodeBytes / ondisk.SectorSize)
		}
		all = append(all, NodeSpace{Addrs: []ondisk.NodeAddr{{Dev: 0, Gen: 1, Sector: at}}, Return: func() { w.returned(at) }})
	}
	return all, nil
}

// returned gives back a place to which nothing was written. That a place was used is no matter for the world: it is free when the pointer to it is
// replaced, be that before whoever allocated it says that its pointer is there.
func (w *world) returned(at ondisk.Sector) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.freed = append(w.freed, freedNode{at: at})
}

func (w *world) writeNode(ctx context.Context, addrs []ondisk.NodeAddr, off ondisk.Sector, buf []byte) error {
	return w.dev.WriteAt(ctx, buf, int64(addrs[0].Sector+off)*ondisk.SectorSize)
}

func (w *world) readNode(ctx context.Context, btree ondisk.BtreeID, level uint8, key ondisk.Key) (*ondisk.Node, error) {
	ptr, err := ondisk.DecodeBtreePtr(key)
	if err != nil {
		return nil, err
	}
	buf := make([]byte, w.cfg.NodeBytes)
	for a := range ptr.Addrs() {
		if err := w.dev.ReadAt(ctx, buf, int64(a.Sector)*ondisk.SectorSize); err != nil {
			return nil, err
		}
	}
	n, err := ondisk.DecodeNode(buf, &ondisk.NodeWant{Btree: btree, Level: level, Ptr: ptr, Magic: testMagic, Blacklisted: w.blacklist.Contains,
		BlockSectors: uint(w.cfg.BlockBytes / ondisk.SectorSize), NodeSize: w.cfg.NodeBytes})
	if err == nil && len(n.Problems) > 0 {
		err = fmt.Errorf("node of btree %v with problems: %v", btree, n.Problems)
	}
	return n, err
}

func cookie(p ondisk.Pos, v uint64) ondisk.Key {
	return ondisk.Key{Type: ondisk.KeyCookie, Pos: p, Val: ondisk.EncodeCookie(v)}
}

func (w *world) update(fn func(tx *Tx) error) {
	w.Helper()
	if err := w.s.Update(context.Background(), fn); err != nil {
		w.Fatal(err)
	}
}

// TestSequential inserts, reads back, overwrites and deletes.
func TestSequential(t *testing.T) {
	w := newWorld(t, nil)
	const n = 20000
	rnd := rand.New(rand.NewPCG(1, 2))
	want := map[uint64]uint64{}
	for i := range n {
		k, v := rnd.Uint64N(n), uint64(i)
		del := rnd.IntN(4) == 0
		w.update(func(tx *Tx) error {
			key := cookie(ondisk.Pos{Inode: 1, Offset: k, Snapshot: 5}, v)
			if del {
				key = ondisk.Key{Pos: key.Pos}
			}
			return tx.Update(ondisk.BtreeXattrs, key, 0)
		})
		if del {
			delete(want, k)
		} else {
			want[k] = v
		}
	}
	w.check(ondisk.BtreeXattrs, want)
}

func (w *world) check(btree ondisk.BtreeID, want map[uint64]uint64) {
	w.Helper()
	n := 0
	err := w.s.View(context.Background(), func(tx *Tx) error {
		it := tx.Iter(btree, ondisk.Pos{}, AllSnapshots|Scanning)
		defer it.Close()
		n = 0
		last := ondisk.Pos{}
		for k, ok, err := it.Peek(); ok || err != nil; k, ok, err = it.Next() {
			if err != nil {
				return err
			}
			v, err := ondisk.DecodeCookie(k)
			if w2, ok := want[k.Pos.Offset]; !ok || err != nil || v != w2 {
				w.Errorf("%v: %d %v, want %d %v", k.Pos, v, err, w2, ok)
			}
			if n > 0 && !last.Less(k.Pos) {
				w.Errorf("%v behind %v", k.Pos, last)
			}
			last = k.Pos
			n++
		}
		return nil
	})
	if err != nil || n != len(want) {
		w.Fatalf("%d keys, want %d: %v", n, len(want), err)
	}
}
