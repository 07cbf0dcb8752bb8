package btree

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
	"github.com/go-bcachefs/bcachefs/internal/journal"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

const (
	testNodeSize = 64 << 10
	testMagic    = 0x1234
)

// testTree builds btrees on devices in memory.
type testTree struct {
	t     testing.TB
	devs  []*blockdev.Memory
	next  ondisk.Sector
	seq   uint64
	roots map[ondisk.BtreeID]Root
	nodes map[uint64]ondisk.Key // by sequence number
	mu    sync.Mutex            // for tests that count
}

func newTestTree(t testing.TB, devices int) *testTree {
	tt := &testTree{t: t, next: 128, roots: map[ondisk.BtreeID]Root{}, nodes: map[uint64]ondisk.Key{}}
	for range devices {
		tt.devs = append(tt.devs, blockdev.NewMemory(256<<20))
	}
	return tt
}

// node writes a node to all devices and returns the pointer to it.
func (tt *testTree) node(id ondisk.BtreeID, level uint8, first, last ondisk.Pos, keys []ondisk.Key) ondisk.Key {
	tt.t.Helper()
	tt.seq++
	h := ondisk.NodeHeader{Magic: testMagic, Min: first, Max: last, Format: ondisk.ChooseFormat(first, last, keys)}
	n, err := ondisk.NewRawNode(h, id, level, 1, tt.seq, ondisk.BsetParams{Version: ondisk.VersionDefault,
		Csum: checksum.CRC32CNonzero, BlockBytes: 4096, NodeSize: testNodeSize}, keys)
	if err != nil {
		tt.t.Fatal(err)
	}
	b, err := n.Encode(4096, nil)
	if err != nil {
		tt.t.Fatal(err)
	}
	p := ondisk.BtreePtr{V2: true, Seq: tt.seq, SectorsWritten: uint16(len(b) / ondisk.SectorSize), Min: first, Max: last}
	for i, d := range tt.devs {
		if err := d.WriteAt(context.Background(), b, int64(tt.next)*ondisk.SectorSize); err != nil {
			tt.t.Fatal(err)
		}
		p.Ptrs = ondisk.AppendNodeAddr(p.Ptrs, ondisk.NodeAddr{Dev: uint8(i), Sector: tt.next})
	}
	tt.next += testNodeSize / ondisk.SectorSize
	k := p.Key()
	tt.nodes[tt.seq] = k
	return k
}

// build writes a btree with the given numbers of keys a leaf and children an interior node.
func (tt *testTree) build(id ondisk.BtreeID, keys []ondisk.Key, leaf, fan int) {
	tt.t.Helper()
	ptrs := tt.level(id, 0, keys, leaf)
	level := uint8(0)
	for len(ptrs) > 1 {
		level++
		ptrs = tt.level(id, level, ptrs, fan)
	}
	tt.roots[id] = Root{Key: ptrs[0], Level: level}
}

func (tt *testTree) level(id ondisk.BtreeID, level uint8, keys []ondisk.Key, n int) (ptrs []ondisk.Key) {
	first := ondisk.PosMin
	for {
		take := min(n, len(keys))
		last := ondisk.SPosMax
		if take < len(keys) {
			last = keys[take-1].Pos
		}
		ptrs = append(ptrs, tt.node(id, level, first, last, keys[:take]))
		if take == len(keys) {
			return ptrs
		}
		keys = keys[take:]
		first = last.Next()
	}
}

func (tt *testTree) config() Config {
	return Config{
		Device: func(i uint8) blockdev.Device {
			if int(i) < len(tt.devs) && tt.devs[i] != nil {
				return tt.devs[i]
			}
			return nil
		},
		Want: ondisk.NodeWant{Magic: testMagic, BlockSectors: 8, NodeSize: testNodeSize,
			VersionMin: ondisk.VersionDefault},
		CacheBytes: 64 << 20,
		Roots:      tt.roots,
	}
}

func (tt *testTree) reader(change func(*Config)) *Reader {
	cfg := tt.config()
	if change != nil {
		change(&cfg)
	}
	r := NewReader(cfg)
	tt.t.Cleanup(r.Close)
	return r
}

// smash makes the node with a sequence number unreadable on a device.
func (tt *testTree) smash(seq uint64, dev int) {
	tt.t.Helper()
	p, err := ondisk.DecodeBtreePtr(tt.nodes[seq])
	if err != nil {
		tt.t.Fatal(err)
	}
	for a := range p.Addrs() {
		if int(a.Dev) == dev {
			b := []byte("damage in the keys, behind the headers")
			if err := tt.devs[dev].WriteAt(context.Background(), b, int64(a.Sector)*ondisk.SectorSize+164); err != nil {
				tt.t.Fatal(err)
			}
		}
	}
}

// setKey is a key without value.
func setKey(inode, offset uint64, snapshot uint32) ondisk.Key {
	return ondisk.Key{Type: ondisk.KeySet, Pos: ondisk.Pos{Inode: inode, Offset: offset, Snapshot: snapshot}}
}

func someKeys(n int) []ondisk.Key {
	keys := make([]ondisk.Key, n)
	for i := range keys {
		keys[i] = setKey(uint64(i/10), uint64(i%10*2), 0)
	}
	return keys
}

func overlayOf(add func(*journal.OverlayBuilder)) *journal.Overlay {
	var b journal.OverlayBuilder
	add(&b)
	return b.Build()
}

// collect returns all keys and the number of errors, none of which may be fatal.
func collect(t testing.TB, r *Reader, id ondisk.BtreeID, from, to ondisk.Pos) (keys []ondisk.Key, damage []*NodeError) {
	t.Helper()
	for k, err := range r.Keys(context.Background(), id, from, to) {
		if err != nil {
			damage = append(damage, err.(*NodeError))
			continue
		}
		keys = append(keys, k)
	}
	return keys, damage
}

// splitStacks returns what runtime.Stack says of each goroutine.
func splitStacks(s string) []string { return strings.Split(s, "\n\n") }

func containsAll(s string, parts ...string) bool {
	for _, p := range parts {
		if !strings.Contains(s, p) {
			return false
		}
	}
	return true
}
