package node

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// at returns a key with some value.
func at(offset uint64, words int, fill byte) ondisk.Key {
	return ondisk.Key{Type: ondisk.KeyCookie, Pos: ondisk.Pos{Offset: offset}, Val: bytes.Repeat([]byte{fill}, words*8)}
}

func mustSet(n *Node, seq uint64, keys ...ondisk.Key) {
	for i := range keys {
		n.Set(&keys[i], seq)
	}
}

// write writes what is unwritten into area.
func write(t *testing.T, n *Node, area []byte) Write {
	t.Helper()
	w, err := n.PrepareWrite(&WriteParams{Version: ondisk.VersionDefault, Csum: checksum.CRC32CNonzero})
	if err != nil {
		t.Fatal(err)
	}
	copy(area[int(w.Off)*ondisk.SectorSize:], w.Buf)
	n.WriteDone()
	return w
}

// rawKeys returns the keys of the last bset in area as offsets, those of whiteouts negative.
func rawKeys(t *testing.T, n *Node, area []byte) (keys []int) {
	t.Helper()
	r, err := ondisk.DecodeRawNode(bytes.Clone(area[:n.written]), n.p.BlockBytes, nil)
	if err != nil {
		t.Fatal(err)
	}
	for k, err := range r.Keys(len(r.Bsets) - 1) {
		if err != nil {
			t.Fatal(err)
		}
		o := int(k.Pos.Offset)
		if k.Type == ondisk.KeyDeleted {
			o = -o
		}
		keys = append(keys, o)
	}
	return keys
}

// What is written is what changed: overwrites without, deletions of what is on disk with a whiteout, no others.
func TestBsets(t *testing.T) {
	n := New(testParams(64<<10, 512))
	area := make([]byte, 64<<10)
	steps := []struct {
		name string
		do   func()
		want []int
	}{
		{"first", func() {
			mustSet(n, 5, at(3, 1, 1), at(1, 1, 1), at(2, 1, 1), at(9, 0, 0))
			n.Delete(ondisk.Pos{Offset: 9}, 5)
		}, []int{1, 2, 3}},
		{"overwritten", func() { mustSet(n, 6, at(2, 3, 2)) }, []int{2}},
		{"deleted", func() { n.Delete(ondisk.Pos{Offset: 2}, 7); mustSet(n, 7, at(4, 1, 1)) }, []int{-2, 4}},
		{"set anew", func() { mustSet(n, 8, at(2, 1, 1)) }, []int{2}},
		{"deleted and set anew", func() { n.Delete(ondisk.Pos{Offset: 2}, 9); mustSet(n, 9, at(2, 2, 9)) }, []int{2}},
		{"set, deleted; another deleted", func() {
			mustSet(n, 10, at(7, 1, 1))
			n.Delete(ondisk.Pos{Offset: 7}, 10)
			n.Delete(ondisk.Pos{Offset: 4}, 10)
			n.Delete(ondisk.Pos{Offset: 1}, 10)
		}, []int{-1, -4}},
		{"overwritten, then deleted", func() { mustSet(n, 11, at(3, 4, 4)); n.Delete(ondisk.Pos{Offset: 3}, 11) }, []int{-3}},
	}
	for _, s := range steps {
		s.do()
		write(t, n, area)
		if got := rawKeys(t, n, area); !slices.Equal(got, s.want) {
			t.Errorf("%s: %v, want %v", s.name, got, s.want)
		}
		if n.Dirty() {
			t.Errorf("%s: dirty after its write", s.name)
		}
	}
	if n.Len() != 1 {
		t.Errorf("%d keys are left", n.Len())
	}
}

// Keys that change while they are in flight are written again, wherever the write ends.
func TestChangesInFlight(t *testing.T) {
	for _, good := range []bool{true, false} {
		n := New(testParams(64<<10, 512))
		area := make([]byte, 64<<10)
		mustSet(n, 1, at(1, 1, 1), at(2, 1, 1), at(3, 1, 1))
		write(t, n, area)
		mustSet(n, 2, at(1, 1, 2), at(4, 1, 2), at(5, 1, 2))
		n.Delete(ondisk.Pos{Offset: 2}, 3)
		n.Delete(ondisk.Pos{Offset: 3}, 3)
		w, err := n.PrepareWrite(&WriteParams{Version: ondisk.VersionDefault})
		if err != nil || w.Seqs != (SeqRange{2, 3}) || w.JournalSeq != 3 || n.Dirty() {
			t.Fatal(w, err, n.Dirty())
		}
		mustSet(n, 4, at(1, 1, 3), at(2, 1, 3)) // overwritten, and set anew
		n.Delete(ondisk.Pos{Offset: 4}, 5)      // new, and in flight
		if n.Delete(ondisk.Pos{Offset: 3}, 5) { // deleted in flight
			t.Error("deleted twice")
		}
		if got := n.UnwrittenSeqs(); got != (SeqRange{4, 5}) || n.InFlightSeqs() != (SeqRange{2, 3}) {
			t.Errorf("unwritten %+v, in flight %+v", got, n.InFlightSeqs())
		}
		want, seqs := []int{1, 2, -4}, SeqRange{4, 5}
		if good {
			copy(area[int(w.Off)*ondisk.SectorSize:], w.Buf)
			n.WriteDone()
		} else {
			n.WriteFailed()
			n.Delete(ondisk.Pos{Offset: 2}, 5) // the state before is on disk still
			want, seqs = []int{1, -2, -3, -4, 5}, SeqRange{2, 5}
		}
		if err := n.Check(); err != nil || n.UnwrittenSeqs() != seqs || n.InFlightSeqs() != (SeqRange{}) {
			t.Fatal(err, n.UnwrittenSeqs(), n.InFlightSeqs())
		}
		if w := write(t, n, area); w.JournalSeq != 5 {
			t.Errorf("journal_seq %d", w.JournalSeq)
		}
		if got := rawKeys(t, n, area); !slices.Equal(got, want) {
			t.Errorf("good %v: %v, want %v", good, got, want)
		}
	}
}

// A first write that fails leaves a node that is written as a whole.
func TestFirstWriteFails(t *testing.T) {
	n := New(testParams(64<<10, 512))
	area := make([]byte, 64<<10)
	mustSet(n, 1, at(1, 1, 1), at(2, 1, 1))
	if _, err := n.PrepareWrite(&WriteParams{Version: ondisk.VersionDefault}); err != nil {
		t.Fatal(err)
	}
	n.Delete(ondisk.Pos{Offset: 1}, 2)
	n.Delete(ondisk.Pos{Offset: 2}, 2)
	mustSet(n, 3, at(2, 2, 2))
	n.WriteFailed()
	n.Delete(ondisk.Pos{Offset: 2}, 3)
	if err := n.Check(); err != nil || n.Len() != 0 || !n.Dirty() {
		t.Fatal(err, n.Len(), n.Dirty())
	}
	if w := write(t, n, area); !w.First || w.JournalSeq != 0 || len(rawKeys(t, n, area)) != 0 {
		t.Errorf("write %+v", w)
	}
}

func TestSeqs(t *testing.T) {
	n := New(testParams(64<<10, 512))
	area := make([]byte, 64<<10)
	n.NoteSeq(3)
	if n.UnwrittenSeqs() != (SeqRange{}) {
		t.Error("a sequence number without a change")
	}
	mustSet(n, 0, at(1, 1, 1))
	if w := write(t, n, area); w.JournalSeq != 0 || w.Seqs != (SeqRange{}) {
		t.Errorf("first write %+v", w)
	}
	mustSet(n, 0, at(2, 1, 1))
	if _, err := n.PrepareWrite(&WriteParams{}); !errors.Is(err, ErrNoSeq) {
		t.Errorf("append without sequence number: %v", err)
	}
	n.NoteSeq(8)
	mustSet(n, 7, at(3, 1, 1))
	if w := write(t, n, area); w.JournalSeq != 8 || w.Seqs != (SeqRange{7, 8}) {
		t.Errorf("append %+v", w)
	}
	mustSet(n, 9, at(4, 1, 1))
	n.Delete(ondisk.Pos{Offset: 4}, 10)
	if n.Dirty() || n.UnwrittenSeqs() != (SeqRange{}) {
		t.Errorf("changes that cancel each other: dirty %v, %+v", n.Dirty(), n.UnwrittenSeqs())
	}
}

// Room and PrepareWrite agree on what fits, in the last word.
func TestRoom(t *testing.T) {
	const size = 4096
	spare := (size - ondisk.NodeHeaderSize) / 8
	n := New(testParams(size, 512))
	if n.MaxU64s() != spare || !n.Room(spare-1) || n.Room(spare) {
		t.Errorf("%d words, room for all but one %v, for all %v", spare, n.Room(spare-1), n.Room(spare))
	}
	k := at(1, spare-1-250-int(n.p.Format.KeyU64s)*2, 1)
	mustSet(n, 1, k, at(2, 250, 1))
	if n.LiveU64s() != spare-1 || n.Room(1) {
		t.Fatalf("%d words of %d, room for one %v", n.LiveU64s(), spare, n.Room(1))
	}
	area := make([]byte, size)
	write(t, n, area)
	n.Delete(k.Pos, 2)
	if _, err := n.PrepareWrite(&WriteParams{}); !errors.Is(err, ErrFull) || !errors.Is(err, ondisk.ErrNodeFull) {
		t.Errorf("append to a full node: %v", err)
	}
	mustSet(n, 2, at(3, 250, 1), at(4, 250, 1))
	if n = n.Compact(9); n.Room(0) || n.Parts() < 2 {
		t.Errorf("overfull: room %v, parts %d", n.Room(0), n.Parts())
	}
	if _, err := n.PrepareWrite(&WriteParams{}); !errors.Is(err, ErrFull) {
		t.Errorf("write of an overfull node: %v", err)
	}
	n = New(testParams(size, 512))
	if n.MarkRewrite(); n.Room(1) || !n.NeedsRewrite() {
		t.Error("room in a node that needs rewriting")
	}
}

func TestNoKey(t *testing.T) {
	n := New(testParams(4096, 512))
	mustSet(n, 1, at(1, 1, 1))
	if _, err := n.PrepareWrite(&WriteParams{Csum: checksum.ChaCha20Poly1305_128}); !errors.Is(err, checksum.ErrNoKey) {
		t.Errorf("encrypted without a key: %v", err)
	}
	if err := n.Check(); err != nil || !n.Dirty() || n.InFlight() {
		t.Error(err, n.Dirty(), n.InFlight())
	}
}

// Nodes are split before the first key in front of which there are 3/5 of the words, or where it is allowed.
func TestSplitPlace(t *testing.T) {
	n := New(testParams(64<<10, 512))
	for i := range uint64(10) {
		mustSet(n, 1, at(i, 1, 1))
	}
	for _, c := range []struct {
		name string
		ok   []uint64 // nil: all
		want uint64   // last of the left node
		err  error
	}{
		{"reference", nil, 5, nil},
		{"moved to the right", []uint64{0, 7, 8, 9}, 7, nil},
		{"the last stays on the right", []uint64{0, 3, 9}, 3, nil},
		{"nowhere", []uint64{9}, 0, ErrSplit},
	} {
		ok := func(p ondisk.Pos) bool { return slices.Contains(c.ok, p.Offset) }
		if c.ok == nil {
			ok = nil
		}
		l, r, err := n.Split([2]uint64{1, 2}, ok)
		if !errors.Is(err, c.err) {
			t.Errorf("%s: %v", c.name, err)
		}
		if err == nil && (l.Max().Offset != c.want || r.Min() != l.Max().Next() || l.Len()+r.Len() != 10) {
			t.Errorf("%s: left up to %v, right from %v", c.name, l.Max(), r.Min())
		}
	}
}

// Each node of a split gets a key, even if one of them is as large as all others.
func TestSplitUneven(t *testing.T) {
	for _, sizes := range [][]int{{1, 1, 1, 200}, {200, 1, 1, 1}, {1, 200, 1, 1}} {
		n := New(testParams(64<<10, 512))
		for i, words := range sizes {
			mustSet(n, 1, at(uint64(i), words, 1))
		}
		nodes, err := n.SplitN(make([]uint64, 4), nil)
		if err != nil {
			t.Fatal(err)
		}
		for i, m := range nodes {
			if m.Len() != 1 {
				t.Errorf("%v: node %d has %d keys", sizes, i, m.Len())
			}
		}
	}
}

// Nodes that were not sound when they were read are to be rewritten.
func TestFromDiskRewrite(t *testing.T) {
	n := New(testParams(64<<10, 512))
	area := make([]byte, 64<<10)
	mustSet(n, 1, at(1, 1, 1))
	write(t, n, area)
	mustSet(n, 5, at(2, 1, 1))
	write(t, n, area)
	for _, c := range []struct {
		name   string
		change func(d *ondisk.Node)
		want   bool
	}{
		{"sound", func(*ondisk.Node) {}, false},
		{"problem", func(d *ondisk.Node) { d.Problems = append(d.Problems, ondisk.NodeProblem{}) }, true},
		{"blacklisted", func(d *ondisk.Node) { d.Bsets[1].Blacklisted = true }, true},
		{"format that overflows", func(d *ondisk.Node) { d.Format.Offset[3] = 1<<32 - 1; d.Format.Bits[3] = 8 }, true},
		{"old", func(d *ondisk.Node) { d.Bsets[0].Version = 11 }, true},
	} {
		d := decodeNode(t, n, area, nil)
		c.change(d)
		m := FromDisk(d, testMagic, 64<<10, 512)
		if m.NeedsRewrite() != c.want || m.Room(1) == c.want || m.Len() != 2 || m.Dirty() {
			t.Errorf("%s: rewrite %v, room %v, %d keys, dirty %v", c.name, m.NeedsRewrite(), m.Room(1), m.Len(), m.Dirty())
		}
	}
}

// Split makes three nodes or more of one that is more than full, each of which can be written and has room.
func TestSplitOverfull(t *testing.T) {
	for _, keys := range []int{30, 100, 1000} {
		n := New(testParams(8<<10, 512))
		for i := range keys {
			mustSet(n, 1, at(uint64(i), 30, 1))
		}
		seqs := make([]uint64, n.Parts())
		if len(seqs) < 2 {
			t.Errorf("%d words in %d parts", n.LiveU64s(), len(seqs))
		}
		nodes, err := n.SplitN(seqs, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range nodes {
			if !m.Room(60) {
				t.Errorf("%d keys: part with %d of %d words", keys, m.LiveU64s(), m.MaxU64s())
			}
		}
	}
}

// Insertions that go up leave full chunks, wherever they start; random ones at least half full ones; deletions put small ones
// together.
func TestChunks(t *testing.T) {
	fill := func(n *Node) float64 { return float64(n.Len()) / float64(len(n.index)*chunkKeys) }
	up, mid, random := New(testParams(64<<10, 512)), New(testParams(64<<10, 512)), New(testParams(64<<10, 512))
	for i := range uint64(3000) {
		mustSet(up, 1, at(i, 0, 0))
		mustSet(random, 1, at(i*2654435761%100003, 0, 0))
	}
	mustSet(mid, 1, at(0, 0, 0), at(5000, 0, 0))
	for i := range uint64(3000) {
		mustSet(mid, 1, at(i, 0, 0))
	}
	if f := fill(up); f < 0.97 {
		t.Errorf("up: %.2f full", f)
	}
	if f := fill(mid); f < 0.95 {
		t.Errorf("up before another key: %.2f full", f)
	}
	between := New(testParams(64<<10, 512))
	for i := range uint64(2 * chunkKeys) {
		mustSet(between, 1, at(i*10000, 0, 0))
	}
	for i := range uint64(3000) {
		mustSet(between, 1, at((chunkKeys-1)*10000+1+i, 0, 0))
	}
	if f := fill(between); f < 0.95 {
		t.Errorf("up between full chunks: %.2f full", f)
	}
	if f := fill(random); f < 0.5 {
		t.Errorf("random: %.2f full", f)
	}
	for i := range uint64(3000) {
		if i%20 != 0 {
			up.Delete(ondisk.Pos{Offset: i}, 1)
		}
	}
	if f := fill(up); f < 0.2 {
		t.Errorf("after deletions: %.2f full", f)
	}
}

// Keys that were handed out stay as they are.
func TestKeysStay(t *testing.T) {
	n := New(testParams(64<<10, 512))
	for i := range uint64(200) {
		mustSet(n, 1, at(i, 3, byte(i)))
	}
	var got, was []ondisk.Key
	for k := range n.Keys() {
		got, was = append(got, k), append(was, k.Clone())
	}
	for round := range 50 {
		for i := range uint64(200) {
			mustSet(n, 1, at(i, 1+round%5, 0xee))
		}
	}
	for i := range uint64(200) {
		n.Delete(ondisk.Pos{Offset: i}, 1)
	}
	for i := range got {
		if !sameKey(got[i], was[i]) {
			t.Fatalf("key %d was %+v, is %+v", i, was[i], got[i])
		}
		if v := got[i].Val; cap(v) != len(v) {
			t.Fatalf("key %d: appending to its value would change another", i)
		}
	}
	// A key of the node itself may be set.
	mustSet(n, 1, at(1, 3, 1))
	k, _ := n.Get(ondisk.Pos{Offset: 1})
	for i := range uint64(100) {
		k.Pos.Offset = i
		n.Set(&k, 1)
	}
	for k := range n.Keys() {
		if !bytes.Equal(k.Val, bytes.Repeat([]byte{1}, 24)) {
			t.Fatalf("%+v", k)
		}
	}
}

func TestRefused(t *testing.T) {
	p := testParams(4096, 512)
	p.Min, p.Max = ondisk.Pos{Offset: 5}, ondisk.Pos{Offset: 9}
	for _, k := range []ondisk.Key{at(4, 1, 1), at(10, 1, 1), {Pos: ondisk.Pos{Offset: 5}, Val: make([]byte, 7)}, at(5, 251, 1)} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("key at %v with %d bytes was taken", k.Pos, len(k.Val))
				}
			}()
			n := New(p)
			n.Set(&k, 1)
		}()
	}
}

// Reading allocates nothing, changes and writes next to nothing.
func TestAllocs(t *testing.T) {
	n, poss := benchNode()
	var k ondisk.Key
	check := func(name string, most float64, fn func()) {
		if got := testing.AllocsPerRun(5, fn); got > most*float64(len(poss)) {
			t.Errorf("%s: %.2f allocations a key", name, got/float64(len(poss)))
		}
	}
	check("get", 0, func() {
		for _, p := range poss {
			n.Get(p)
		}
	})
	check("iterate", 0, func() {
		for cur := n.Seek(poss[0]); cur.Valid(); cur.Next() {
			cur.Load(&k)
		}
		for cur := n.Last(); cur.Valid(); cur.Prev() {
			k = cur.Key()
		}
	})
	check("overwrite", 0.05, func() {
		for i, p := range poss {
			k := extent(i)
			k.Pos = p
			n.Set(&k, 1)
		}
	})
	p := WriteParams{Version: ondisk.VersionDefault, Csum: checksum.CRC32CNonzero, Scratch: make([]byte, 256<<10)}
	check("write", 0, func() {
		if _, err := n.PrepareWrite(&p); err != nil {
			t.Fatal(err)
		}
		n.WriteFailed()
	})
	check("insert", 0.1, func() {
		n := New(n.Params())
		for i := range poss {
			k := extent(i)
			n.Set(&k, 1)
		}
	})
}
