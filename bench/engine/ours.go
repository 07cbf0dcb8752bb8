package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"sync/atomic"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
	"github.com/go-bcachefs/bcachefs/internal/journal"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// Sizes as `format` chooses them for a device of some GB.
const (
	nodeBytes   = 256 << 10
	blockBytes  = 4096
	bucketBytes = 512 << 10
	nodesBytes  = 64 << 30 // sparse
	buckets     = 1 << 10  // of the journal: 512 MiB
)

// ourEngine is the write engine of this module: btrees of one filesystem with their journal, on two sparse files. Its allocator is a
// counter, as the reference's benchmark measures its btree too.
type ourEngine struct {
	store   *trans.Store
	journal *journal.Writer
	nodes   blockdev.Device
	log     blockdev.Device
	next    atomic.Uint64
}

func openOurs(path string) (engine, error) {
	e := &ourEngine{}
	e.next.Store(nodeBytes / ondisk.SectorSize)
	var err error
	open := func(name string, size int64) blockdev.Device {
		if err != nil {
			return nil
		}
		if err = os.WriteFile(path+name, nil, 0o600); err != nil {
			return nil
		}
		if err = os.Truncate(path+name, size); err != nil {
			return nil
		}
		var d blockdev.Device
		d, err = blockdev.OpenFile(path+name, blockdev.FileOptions{})
		return d
	}
	e.nodes, e.log = open(".nodes", nodesBytes), open(".journal", (buckets+1)*bucketBytes)
	if err != nil {
		return nil, err
	}
	e.store = trans.New(trans.Config{NodeBytes: nodeBytes, BlockBytes: blockBytes, Magic: 1, Version: ondisk.VersionDefault,
		Csum: checksum.CRC32CNonzero, CacheBytes: 512 << 20, ReadNode: e.readNode, WriteNode: e.writeNode, Alloc: e})
	d := journal.WriterDevice{Index: 1, Device: e.log, BucketBytes: bucketBytes, Ring: journal.FreshRing(bucketBytes), Durability: 1}
	for i := range uint64(buckets) {
		d.Buckets = append(d.Buckets, i+1)
	}
	e.journal, err = journal.Start(journal.WriterConfig{Devices: []journal.WriterDevice{{Device: unsynced{e.nodes}}, d}, Replicas: 1, ReplicasRequired: 1,
		Version: ondisk.VersionDefault, Csum: checksum.CRC32CNonzero, Params: ondisk.JsetParams{Magic: 2, BlockBytes: blockBytes}, First: 1,
		Buffered: e.store.TakeBuffered, Pressure: e.store.Pressure})
	if err != nil {
		return nil, err
	}
	e.store.Start(e.journal)
	return e, nil
}

// unsynced is a device of which flushes do nothing: none of the engines that this is compared with syncs.
type unsynced struct{ blockdev.Device }

func (unsynced) Flush(context.Context) error { return nil }

func (e *ourEngine) close() error {
	e.journal.Abort()
	e.store.Close()
	if err := e.nodes.Close(); err != nil {
		return err
	}
	return e.log.Close()
}

// AllocNodes implements [trans.NodeAllocator].
func (e *ourEngine) AllocNodes(_ context.Context, n int, _ journal.Watermark, _ bool) (all []trans.NodeSpace, err error) {
	for range n {
		at := e.next.Add(nodeBytes/ondisk.SectorSize) - nodeBytes/ondisk.SectorSize
		all = append(all, trans.NodeSpace{Addrs: []ondisk.NodeAddr{{Sector: ondisk.Sector(at)}}})
	}
	return all, nil
}

func (e *ourEngine) writeNode(ctx context.Context, addrs []ondisk.NodeAddr, off ondisk.Sector, buf []byte) error {
	return e.nodes.WriteAt(ctx, buf, int64(addrs[0].Sector+off)*ondisk.SectorSize)
}

func (e *ourEngine) readNode(ctx context.Context, btree ondisk.BtreeID, level uint8, key ondisk.Key) (*ondisk.Node, error) {
	ptr, err := ondisk.DecodeBtreePtr(key)
	if err != nil {
		return nil, err
	}
	buf := make([]byte, nodeBytes)
	for a := range ptr.Addrs() {
		if err := e.nodes.ReadAt(ctx, buf, int64(a.Sector)*ondisk.SectorSize); err != nil {
			return nil, err
		}
	}
	n, err := ondisk.DecodeNode(buf, &ondisk.NodeWant{Btree: btree, Level: level, Ptr: ptr, Magic: 1, BlockSectors: blockBytes / ondisk.SectorSize,
		NodeSize: nodeBytes})
	if err == nil && len(n.Problems) > 0 {
		err = fmt.Errorf("node with problems: %v", n.Problems)
	}
	return n, err
}

const (
	benchBtree    = ondisk.BtreeXattrs
	benchSnapshot = ^uint32(0)
)

func posOf(k uint64) ondisk.Pos { return ondisk.Pos{Offset: k, Snapshot: benchSnapshot} }

// ourSession keeps its functions, so that none is allocated for each transaction.
type ourSession struct {
	store *trans.Store
	keys  []uint64
	key   uint64
	found bool

	putFn, seekFn, updateFn, removeFn func(tx *trans.Tx) error
}

func (e *ourEngine) session() session {
	s := &ourSession{store: e.store}
	s.putFn = func(tx *trans.Tx) error {
		for _, k := range s.keys {
			if err := tx.Update(benchBtree, cookie(tx, k), 0); err != nil {
				return err
			}
		}
		return nil
	}
	s.seekFn = func(tx *trans.Tx) error {
		k, ok, err := tx.Iter(benchBtree, posOf(s.key), 0).Peek()
		s.key, s.found = k.Pos.Offset, ok
		return err
	}
	change := func(del bool) func(tx *trans.Tx) error {
		return func(tx *trans.Tx) error {
			k, ok, err := tx.Iter(benchBtree, posOf(s.key), trans.Intent).Peek()
			if s.found = ok; !ok || err != nil {
				return err
			}
			s.key = k.Pos.Offset
			n := ondisk.Key{Pos: k.Pos}
			if !del {
				n = cookie(tx, k.Pos.Offset)
			}
			return tx.Update(benchBtree, n, 0)
		}
	}
	s.updateFn, s.removeFn = change(false), change(true)
	return s
}

func cookie(tx *trans.Tx, k uint64) ondisk.Key {
	val := tx.Bytes(8)
	binary.LittleEndian.PutUint64(val, k)
	return ondisk.Key{Type: ondisk.KeyCookie, Pos: posOf(k), Val: val}
}

var background = context.Background()

func (s *ourSession) flush() error { return nil }

func (s *ourSession) put(keys ...uint64) error {
	s.keys = append(s.keys[:0], keys...)
	return s.store.Update(background, s.putFn)
}

func (s *ourSession) seek(k uint64) (uint64, bool, error) {
	s.key = k
	err := s.store.View(background, s.seekFn)
	return s.key, s.found, err
}

func (s *ourSession) update(k uint64) error {
	s.key = k
	return s.store.Update(background, s.updateFn)
}

func (s *ourSession) remove(k uint64) error {
	s.key = k
	return s.store.Update(background, s.removeFn)
}

// scan with write is a transaction per key.
func (s *ourSession) scan(write bool) error {
	if !write {
		return s.store.View(background, func(tx *trans.Tx) error {
			it := tx.Iter(benchBtree, posOf(0), trans.Scanning)
			defer it.Close()
			for _, ok, err := it.Peek(); ok || err != nil; _, ok, err = it.Next() {
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	return s.each(s.updateFn)
}

func (s *ourSession) clear() error { return s.each(s.removeFn) }

// each runs a transaction for each key, in order: fn finds it at the session's key or behind, and leaves there what it found.
func (s *ourSession) each(fn func(tx *trans.Tx) error) error {
	for s.key = 0; ; s.key++ {
		if err := s.store.Update(background, fn); err != nil || !s.found {
			return err
		}
	}
}
