package node_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/btree"
	"github.com/go-bcachefs/bcachefs/internal/engine"
	"github.com/go-bcachefs/bcachefs/internal/golden"
	"github.com/go-bcachefs/bcachefs/internal/node"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// goldenNode is a node that the real driver wrote.
type goldenNode struct {
	want ondisk.NodeWant
	raw  []byte // what is written of it, as it is on disk
	fs   *engine.FS
}

// TestGolden loads, changes and rewrites all nodes of all images that are sound.
func TestGolden(t *testing.T) {
	ctx := context.Background()
	for _, img := range golden.Sample(t) {
		if img.Damaged() {
			continue
		}
		t.Run(img.String(), func(t *testing.T) {
			t.Parallel()
			fs, err := engine.Open(ctx, img.Unpack(t), engine.Options{
				Passphrase: func(context.Context) ([]byte, error) { return []byte(img.Passphrase), nil },
				OpenDevice: func(path string) (blockdev.Device, error) {
					return blockdev.OpenFile(path, blockdev.FileOptions{ReadOnly: true})
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			defer fs.Close()
			nodes := 0
			for _, id := range fs.Reader.Btrees() {
				for ref, err := range fs.Reader.Nodes(ctx, id) {
					if err != nil {
						t.Fatal(err)
					}
					g := readNode(t, fs, id, &ref)
					g.checkLoad(t)
					g.checkWrites(t)
					g.checkChange(t)
					nodes++
				}
			}
			t.Logf("%d nodes", nodes)
		})
	}
}

func readNode(t *testing.T, fs *engine.FS, id ondisk.BtreeID, ref *btree.NodeRef) *goldenNode {
	t.Helper()
	ptr, err := ondisk.DecodeBtreePtr(ref.Key.Clone())
	if err != nil {
		t.Fatal(err)
	}
	g := &goldenNode{fs: fs, want: ondisk.NodeWant{
		Btree: id, Level: ref.Level, Ptr: ptr, Magic: ondisk.NodeMagic(fs.SB.UUID), BlockSectors: uint(fs.SB.BlockSize),
		NodeSize: fs.SB.BtreeNodeSize(), Key: fs.Key,
	}}
	g.raw = make([]byte, int(ptr.SectorsWritten)*ondisk.SectorSize)
	for a := range ptr.Addrs() {
		if dev := fs.Device(a.Dev); dev != nil {
			if err := dev.ReadAt(context.Background(), g.raw, int64(a.Sector)*ondisk.SectorSize); err != nil {
				t.Fatal(err)
			}
			return g
		}
	}
	t.Fatal("no replica")
	return nil
}

func (g *goldenNode) blockBytes() int { return int(g.want.BlockSectors) * ondisk.SectorSize }

func (g *goldenNode) decode(t *testing.T) *ondisk.Node {
	t.Helper()
	d, err := ondisk.DecodeNode(bytes.Clone(g.raw), &g.want)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (g *goldenNode) load(t *testing.T) *node.Node {
	t.Helper()
	n := node.FromDisk(g.decode(t), g.want.Magic, g.want.NodeSize, g.blockBytes())
	if err := n.Check(); err != nil {
		t.Fatal(err)
	}
	return n
}

// same fails unless n has the keys that its area has.
func (g *goldenNode) same(t *testing.T, n *node.Node) {
	t.Helper()
	d := g.decode(t)
	i := 0
	for k := range n.Keys() {
		if i >= d.Len() {
			t.Fatalf("more keys than the %d on disk", d.Len())
		}
		if want := d.Key(i); !equal(k, want) {
			t.Fatalf("%v level %d: key %d: %+v, want %+v", g.want.Btree, g.want.Level, i, k, want)
		}
		i++
	}
	if i != d.Len() || n.Len() != i {
		t.Fatalf("%d keys, want %d", i, d.Len())
	}
}

// equal compares two keys, of pointers not what was memory of their writer.
func equal(a, b ondisk.Key) bool {
	if a.Type == ondisk.KeyBtreePtrV2 && b.Type == ondisk.KeyBtreePtrV2 {
		a.Val, b.Val = a.Val[8:], b.Val[8:]
	}
	return a.Type == b.Type && a.Version == b.Version && a.Size == b.Size && a.Pos == b.Pos && bytes.Equal(a.Val, b.Val)
}

// A node that was read is clean, has the keys and words that it has on disk, and says where the next write goes.
func (g *goldenNode) checkLoad(t *testing.T) {
	t.Helper()
	n := g.load(t)
	g.same(t, n)
	switch {
	case n.Dirty() || n.InFlight() || n.UnwrittenSeqs() != node.SeqRange{} || n.NeedsRewrite():
		t.Fatalf("dirty %v, in flight %v, seqs %+v, rewrite %v", n.Dirty(), n.InFlight(), n.UnwrittenSeqs(), n.NeedsRewrite())
	case n.Written() != ondisk.Sector(g.want.Ptr.SectorsWritten):
		t.Fatalf("written %d, the pointer says %d", n.Written(), g.want.Ptr.SectorsWritten)
	case n.LiveU64s()*8 != g.decode(t).LiveBytes():
		t.Fatalf("%d words live, want %d bytes", n.LiveU64s(), g.decode(t).LiveBytes())
	}
	if _, err := n.PrepareWrite(&node.WriteParams{}); !errors.Is(err, node.ErrClean) {
		t.Fatal(err)
	}
}

// A node that is changed and written decodes to what it holds.
func (g *goldenNode) checkChange(t *testing.T) {
	t.Helper()
	n := g.load(t)
	var keys []ondisk.Key
	for k := range n.Keys() {
		keys = append(keys, k)
	}
	const budget = 1200 // words
	for i, words := 0, 0; i < len(keys) && words < budget && n.Room(5+len(keys[i].Val)/8); i++ {
		switch k := keys[i]; {
		case i%3 == 0:
			n.Delete(k.Pos, uint64(7+i))
			words += 5
		case i%3 == 1:
			k.Val = slices.Clone(k.Val)
			if len(k.Val) > 0 {
				k.Val[len(k.Val)-1] ^= 1 // the last word of pointers is an entry
			}
			n.Set(&k, uint64(7+i))
			words += 5 + len(k.Val)/8
		}
	}
	if !n.Dirty() {
		return // empty, or full
	}
	p := node.WriteParams{Version: ondisk.MetadataVersion(g.fs.SB.Version), Csum: g.decode(t).Bsets[0].Csum, Key: g.want.Key}
	w, err := n.PrepareWrite(&p)
	if err != nil {
		t.Fatal(err)
	}
	g.raw = append(g.raw, w.Buf...)
	n.WriteDone()
	g.want.Ptr.SectorsWritten = uint16(w.End)
	g.same(t, n)
	if err := n.Check(); err != nil || n.Dirty() {
		t.Fatal(err, n.Dirty())
	}
}

// A node with the history of one of the driver's is written as the very bytes that the driver wrote, bset by bset.
func (g *goldenNode) checkWrites(t *testing.T) {
	t.Helper()
	r, err := ondisk.DecodeRawNode(bytes.Clone(g.raw), g.blockBytes(), g.want.Key)
	if err != nil {
		t.Fatal(err)
	}
	var n *node.Node
	for i := range r.Bsets {
		s := &r.Bsets[i]
		if i == 0 {
			n = firstBset(t, g, r)
		} else {
			replay(t, n, r, i)
		}
		w, err := n.PrepareWrite(&node.WriteParams{Version: s.Version, Csum: s.Csum(), Key: g.want.Key})
		if err != nil {
			t.Fatal(err)
		}
		if want := g.raw[s.Offset:][:len(w.Buf)]; int(w.Off)*ondisk.SectorSize != s.Offset || !bytes.Equal(w.Buf, want) {
			t.Fatalf("%v level %d: bset %d of %d: %d bytes at sector %d differ from those at byte %d", g.want.Btree, g.want.Level, i, len(r.Bsets), len(w.Buf), w.Off, s.Offset)
		}
		n.WriteDone()
	}
	g.same(t, n)
}

// firstBset makes a node with the keys of r's first bset. Nodes of versions without slack in their formats get r's format;
// for all others it has to be the one that is chosen.
func firstBset(t *testing.T, g *goldenNode, r *ondisk.RawNode) *node.Node {
	p := node.Params{
		NodeIdentity: ondisk.NodeIdentity{Btree: g.want.Btree, Level: g.want.Level, Gen: r.Gen() - 1, Seq: r.Bsets[0].Seq},
		Magic:        r.Magic, Min: r.Min, Max: r.Max, NodeBytes: g.want.NodeSize, BlockBytes: g.blockBytes(),
	}
	slack := r.Bsets[0].Version < ondisk.VersionMax
	if !slack {
		p.Format = r.Format
		p.Gen++
	}
	n := node.New(p)
	for k, err := range r.Keys(0) {
		if err != nil {
			t.Fatal(err)
		}
		n.Set(&k, 1)
	}
	if !slack {
		return n
	}
	return n.Compact(p.Seq)
}

// replay makes the changes of bset i.
func replay(t *testing.T, n *node.Node, r *ondisk.RawNode, i int) {
	for k, err := range r.Keys(i) {
		if err != nil {
			t.Fatal(err)
		}
		n.Set(&k, r.Bsets[i].JournalSeq)
	}
}
