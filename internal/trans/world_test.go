package trans

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
	"github.com/go-bcachefs/bcachefs/internal/journal"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// world is a store on a device in memory, with an allocator that never uses a place twice.
type world struct {
	testing.TB
	s   *Store
	dev *blockdev.Memory
	// The journal has a device of its own. It begins with entry first when the store is opened.
	jdev  *blockdev.Memory
	first uint64
	j     *journal.Writer

	mu   sync.Mutex
	next ondisk.Sector
	cfg  Config
}

const (
	testNode  = 16 << 10
	testBlock = 512
	testMagic = 0x1234
)

func newWorld(t testing.TB, change func(*Config)) *world {
	w := &world{TB: t, dev: blockdev.NewMemory(4 << 30), jdev: blockdev.NewMemory(32 << 20), first: 1, next: 8}
	w.cfg = Config{NodeBytes: testNode, BlockBytes: testBlock, Magic: testMagic, Version: ondisk.VersionDefault, Csum: checksum.CRC32CNonzero,
		CacheBytes: 64 << 20, ReadNode: w.readNode, WriteNode: w.writeNode, Alloc: w, Logf: t.Logf,
		OnError: func(err error) { t.Errorf("store failed: %v", err) }}
	if change != nil {
		change(&w.cfg)
	}
	w.open()
	t.Cleanup(w.close)
	return w
}

func (w *world) open() {
	w.s = New(w.cfg)
	const buckets, bucketBytes = 64, 256 << 10
	d := journal.WriterDevice{Device: w.jdev, BucketBytes: bucketBytes, Ring: journal.FreshRing(bucketBytes), Durability: 1}
	for i := range uint64(buckets) {
		d.Buckets = append(d.Buckets, i+1)
	}
	var err error
	w.j, err = journal.Start(journal.WriterConfig{Devices: []journal.WriterDevice{d}, Version: w.cfg.Version, Csum: w.cfg.Csum,
		Params: ondisk.JsetParams{Magic: testMagic + 1, BlockBytes: w.cfg.BlockBytes}, First: w.first, Replicas: 1, ReplicasRequired: 1,
		Buffered: w.s.TakeBuffered, OnHalt: func(err error) {
			if !errors.Is(err, journal.ErrStopped) {
				w.Errorf("journal halted: %v", err)
			}
		}})
	if err != nil {
		w.Fatal(err)
	}
	w.s.Start(w.j)
}

// close writes everything and ends.
func (w *world) close() {
	if err := w.s.Quiesce(context.Background()); err != nil {
		w.Error(err)
	}
	if _, err := w.j.Stop(context.Background()); err != nil {
		w.Error(err)
	}
	w.first = w.j.Current() + 1
	w.s.Close()
}

func (w *world) AllocNodes(_ context.Context, n int, _ journal.Watermark, _ bool) (all []NodeSpace, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for range n {
		all = append(all, NodeSpace{Addrs: []ondisk.NodeAddr{{Dev: 0, Gen: 1, Sector: w.next}}})
		w.next += ondisk.Sector(w.cfg.NodeBytes / ondisk.SectorSize)
	}
	return all, nil
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
	n, err := ondisk.DecodeNode(buf, &ondisk.NodeWant{Btree: btree, Level: level, Ptr: ptr, Magic: testMagic,
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
