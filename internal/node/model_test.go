package node

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
	"github.com/go-bcachefs/bcachefs/internal/codec/crypt"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

const testMagic = 0x2a52031dace649ec

var testKey = crypt.Key{1, 2, 3}

// testBtree is one that is not known, so that no key is wrong in it.
const testBtree = ondisk.NumBtrees + 3

// testParams are those of a leaf.
func testParams(nodeBytes, blockBytes int) Params {
	return Params{
		NodeIdentity: ondisk.NodeIdentity{Btree: testBtree, Gen: 1, Seq: 77}, Magic: testMagic,
		Max: ondisk.SPosMax, NodeBytes: nodeBytes, BlockBytes: blockBytes,
	}
}

// model is a node beside a plain map, and what was written of it beside what it held then.
type model struct {
	t    testing.TB
	in   *choices
	n    *Node
	keys map[ondisk.Pos]ondisk.Key
	seq  uint64 // of the journal

	wp       WriteParams
	area     []byte                    // of the node
	disk     map[ondisk.Pos]ondisk.Key // what it holds
	write    Write                     // in flight
	writing  map[ondisk.Pos]ondisk.Key // what it holds with that
	dirty    map[ondisk.Pos]uint64     // first change of what is unwritten
	sent     map[ondisk.Pos]uint64     // first change of what is in flight
	overfull bool                      // keys were put in without asking for room
	history  []held
	ops      int
}

// held is a key that was handed out, and what it was.
type held struct{ got, was ondisk.Key }

// choices are what decides what a test does: bytes of a fuzzer or a generator of random numbers.
type choices struct {
	data []byte
	rnd  *rand.Rand
}

func (c *choices) done() bool { return c.rnd == nil && len(c.data) == 0 }

// n returns a number below limit.
func (c *choices) n(limit int) int {
	if c.rnd != nil {
		return c.rnd.IntN(limit)
	}
	v := 0
	for l := limit; l > 1 && len(c.data) > 0; l >>= 8 {
		v = v<<8 | int(c.data[0])
		c.data = c.data[1:]
	}
	return v % limit
}

func newModel(t testing.TB, in *choices) *model {
	m := &model{t: t, in: in, keys: map[ondisk.Pos]ondisk.Key{}, seq: 1}
	block := 512 << in.n(4)
	p := testParams(block*(4+4*in.n(8)), block)
	m.wp = WriteParams{Version: ondisk.VersionDefault}
	m.wp.Csum = []checksum.Type{checksum.CRC32CNonzero, checksum.None, checksum.CRC64Nonzero, checksum.XXHash,
		checksum.ChaCha20Poly1305_128, checksum.ChaCha20Poly1305_80}[in.n(6)]
	if m.wp.Csum.IsEncryption() {
		m.wp.Key = &testKey
	}
	if in.n(2) == 0 {
		p.Min, p.Max = ondisk.Pos{Offset: 5}, ondisk.Pos{Inode: 3, Offset: 900, Snapshot: 3}
	}
	if in.n(3) == 0 {
		p.Format = ondisk.Format{KeyU64s: 1, Bits: [6]uint8{8, 16, 8}}
	}
	m.become(New(p))
	return m
}

// become goes on with a node of which nothing is written.
func (m *model) become(n *Node) {
	m.n = n
	m.area = make([]byte, n.p.NodeBytes)
	m.disk, m.writing = nil, nil
	m.overfull = false
	m.dirty = map[ondisk.Pos]uint64{}
}

func (m *model) pos() ondisk.Pos {
	lo, hi := m.n.Min(), m.n.Max()
	switch m.in.n(8) {
	case 0:
		return lo
	case 1:
		return hi
	case 2, 3, 4: // near another
		if m.n.Len() > 0 {
			cur := m.n.nth(m.in.n(m.n.Len()))
			p := cur.Pos()
			switch m.in.n(4) {
			case 0, 1:
				return p
			case 2:
				p = p.Next()
			case 3:
				p = p.Prev()
			}
			if m.n.Covers(p) {
				return p
			}
		}
	}
	p := ondisk.Pos{Inode: uint64(m.in.n(4)), Offset: uint64(m.in.n(1000)), Snapshot: uint32(m.in.n(4))}
	if !m.n.Covers(p) {
		return lo
	}
	return p
}

func (m *model) key(p ondisk.Pos) ondisk.Key {
	k := ondisk.Key{Type: ondisk.KeyDirent, Pos: p, Val: make([]byte, 8*m.in.n(12))}
	if m.in.n(40) == 0 {
		k.Val = make([]byte, 8*m.in.n(251))
	}
	for i, fill := 0, m.in.n(256); i < len(k.Val); i++ {
		k.Val[i] = byte(fill + i)
	}
	if m.in.n(4) == 0 {
		k.Version = ondisk.Version{Hi: uint32(m.in.n(3)), Lo: uint64(m.in.n(1000))}
	}
	return k
}

func (m *model) set(k ondisk.Key) {
	words := 5 + len(k.Val)/8
	if m.in.n(16) != 0 && !m.n.Room(words) {
		return
	}
	if !m.n.Room(words) {
		m.overfull = true
	}
	m.note(k.Pos)
	m.n.Set(&k, m.seq)
	m.keys[k.Pos] = k.Clone()
	clear(k.Val) // the node has a copy
}

// note notes that the key at p changes.
func (m *model) note(p ondisk.Pos) {
	if _, ok := m.dirty[p]; !ok {
		m.dirty[p] = m.seq
	}
}

func (m *model) delete(p ondisk.Pos) {
	if !m.n.Room(5) {
		if m.in.n(16) != 0 {
			return
		}
		m.overfull = true
	}
	_, want := m.keys[p]
	if want {
		m.note(p)
	}
	if got := m.n.Delete(p, m.seq); got != want {
		m.t.Fatalf("delete %v: %v, want %v", p, got, want)
	}
	delete(m.keys, p)
	base := m.disk
	if m.writing != nil {
		base = m.writing
	}
	if _, ok := base[p]; !ok {
		delete(m.dirty, p) // the changes cancel each other
	}
}

// step does one thing.
func (m *model) step() {
	m.ops++
	if m.in.n(8) == 0 {
		m.seq++
	}
	switch op := m.in.n(64); {
	case op < 24:
		m.set(m.key(m.pos()))
	case op < 28: // a run up or down
		p, up := m.pos(), m.in.n(3) > 0
		for range m.in.n(100) {
			m.set(m.key(p))
			if p = p.Next(); !up {
				p = p.Prev().Prev()
			}
			if !m.n.Covers(p) {
				break
			}
		}
	case op < 36:
		m.delete(m.pos())
	case op < 38: // a run of deletions
		cur := m.n.Seek(m.pos())
		var all []ondisk.Pos
		for n := m.in.n(100); n > 0 && cur.Valid(); n-- {
			all = append(all, cur.Pos())
			cur.Next()
		}
		for _, p := range all {
			m.delete(p)
		}
	case op < 44:
		m.look(m.pos())
	case op < 52:
		m.prepare()
	case op < 58:
		m.end(true)
	case op < 60:
		m.end(false)
	case op < 61:
		m.reload()
	case op < 63:
		m.reshape()
	default:
		m.compare()
	}
	if err := m.n.Check(); err != nil {
		m.t.Fatalf("after %d steps: %v", m.ops, err)
	}
}

// look compares what is at p and around it.
func (m *model) look(p ondisk.Pos) {
	got, ok := m.n.Get(p)
	want, wantOK := m.keys[p]
	if ok != wantOK || ok && !sameKey(got, want) {
		m.t.Fatalf("get %v: %+v %v, want %+v %v", p, got, ok, want, wantOK)
	}
	if ok {
		m.history = append(m.history, held{got, want})
	}
	all := slices.SortedFunc(maps.Keys(m.keys), ondisk.Pos.Compare)
	i, _ := slices.BinarySearchFunc(all, p, ondisk.Pos.Compare)
	cur := m.n.Seek(p)
	for range 10 {
		switch inside := i >= 0 && i < len(all); {
		case inside != cur.Valid():
			m.t.Fatalf("cursor valid is %v at key %d of %d", cur.Valid(), i, len(all))
		case inside && (cur.Pos() != all[i] || !sameKey(cur.Key(), m.keys[all[i]])):
			m.t.Fatalf("cursor at %+v, want %+v", cur.Key(), m.keys[all[i]])
		}
		if m.in.n(3) > 0 {
			cur.Next()
			i = min(i+1, len(all))
		} else {
			cur.Prev()
			i = max(i-1, -1)
		}
	}
}

func sameKey(a, b ondisk.Key) bool {
	return a.Type == b.Type && a.Version == b.Version && a.Size == b.Size && a.Pos == b.Pos && bytes.Equal(a.Val, b.Val)
}

// compare compares all keys.
func (m *model) compare() {
	m.t.Helper()
	sameKeys(m.t, m.n.Keys(), m.keys)
	if m.n.Len() != len(m.keys) {
		m.t.Fatalf("%d keys, want %d", m.n.Len(), len(m.keys))
	}
	prev, first := ondisk.Pos{}, true
	for cur := m.n.Last(); cur.Valid(); cur.Prev() {
		if !first && !cur.Pos().Less(prev) {
			m.t.Fatalf("backwards: %v after %v", cur.Pos(), prev)
		}
		prev, first = cur.Pos(), false
	}
}

func sameKeys(t testing.TB, got func(func(ondisk.Key) bool), want map[ondisk.Pos]ondisk.Key) {
	t.Helper()
	all := slices.SortedFunc(maps.Keys(want), ondisk.Pos.Compare)
	i := 0
	for k := range got {
		if i >= len(all) || !sameKey(k, want[all[i]]) {
			t.Fatalf("key %d at %v with %d bytes is wrong, want one of %d", i, k.Pos, len(k.Val), len(all))
		}
		i++
	}
	if i != len(all) {
		t.Fatalf("%d keys, want %d", i, len(all))
	}
}

func (m *model) prepare() {
	if m.in.n(2) == 0 {
		m.wp.Scratch = bytes.Repeat([]byte{0xa5}, m.n.p.NodeBytes)
	}
	before := m.n.UnwrittenSeqs()
	dirty := m.n.Dirty()
	w, err := m.n.PrepareWrite(&m.wp)
	switch {
	case m.writing != nil:
		if !errors.Is(err, ErrInFlight) {
			m.t.Fatalf("prepared during a write: %v", err)
		}
		return
	case !dirty:
		if !errors.Is(err, ErrClean) {
			m.t.Fatalf("prepared with nothing to write: %v", err)
		}
		return
	case errors.Is(err, ErrFull) && m.overfull:
		m.split()
		return
	case err != nil:
		m.t.Fatalf("after %d steps: prepare: %v", m.ops, err)
	}
	m.checkSeqs(before)
	m.write = w
	m.wp.Scratch = nil
	m.writing = maps.Clone(m.keys)
	m.sent, m.dirty = m.dirty, map[ondisk.Pos]uint64{}
	switch {
	case w.First != (m.disk == nil), w.First && w.JournalSeq != 0, !w.First && w.JournalSeq != before.Newest:
		m.t.Fatalf("write %+v of %+v", w, before)
	case w.Seqs != before || m.n.InFlightSeqs() != before || m.n.UnwrittenSeqs() != SeqRange{}:
		m.t.Fatalf("write of %+v, in flight %+v, want %+v", w.Seqs, m.n.InFlightSeqs(), before)
	case w.Off != m.n.Written() || int(w.End-w.Off)*ondisk.SectorSize != len(w.Buf) || len(w.Buf)%m.n.p.BlockBytes != 0:
		m.t.Fatalf("write of %d bytes at %d - %d", len(w.Buf), w.Off, w.End)
	}
}

// checkSeqs checks that the sequence numbers cover all that is unwritten.
func (m *model) checkSeqs(r SeqRange) {
	for p, seq := range m.dirty {
		_, now := m.keys[p]
		_, old := m.disk[p]
		if (now || old) && (seq < r.Oldest || seq > r.Newest) {
			m.t.Fatalf("%v changed by %d, unwritten are %+v", p, seq, r)
		}
	}
}

// end ends the write in flight. One that fails leaves part of it on disk.
func (m *model) end(good bool) {
	if m.writing == nil {
		return
	}
	at := int(m.write.Off) * ondisk.SectorSize
	if good {
		copy(m.area[at:], m.write.Buf)
		m.n.WriteDone()
		m.disk = m.writing
	} else {
		torn := m.in.n(len(m.write.Buf) + 1)
		copy(m.area[at:], m.write.Buf[:torn])
		m.n.WriteFailed()
		for p, seq := range m.sent {
			if have, ok := m.dirty[p]; !ok || seq < have {
				m.dirty[p] = seq
			}
		}
		maps.DeleteFunc(m.dirty, func(p ondisk.Pos, _ uint64) bool {
			_, now := m.keys[p]
			_, old := m.disk[p]
			return !now && !old // the changes cancel each other
		})
	}
	m.writing = nil
	m.decode()
}

// decode compares what is on disk with what has to be there, and returns it.
func (m *model) decode() *ondisk.Node {
	m.t.Helper()
	if m.disk == nil {
		return nil
	}
	d := decodeNode(m.t, m.n, m.area, m.wp.Key)
	written := m.area[:m.n.written]
	r, err := ondisk.DecodeRawNode(bytes.Clone(written), m.n.p.BlockBytes, m.wp.Key)
	if err != nil {
		m.t.Fatal(err)
	}
	if again, err := r.Encode(m.n.p.BlockBytes, m.wp.Key); err != nil || !bytes.Equal(again, written) {
		m.t.Fatalf("not as ondisk encodes it, padding included: %v", err)
	}
	for _, p := range d.Problems {
		m.t.Fatalf("decode: %v", p)
	}
	sameKeys(m.t, func(yield func(ondisk.Key) bool) {
		for i := range d.Len() {
			if !yield(d.Key(i)) {
				return
			}
		}
	}, m.disk)
	return d
}

// decodeNode decodes n's area as far as it was written.
func decodeNode(t testing.TB, n *Node, area []byte, key *crypt.Key) *ondisk.Node {
	t.Helper()
	id := n.Identity()
	d, err := ondisk.DecodeNode(bytes.Clone(area), &ondisk.NodeWant{
		Btree: id.Btree, Level: id.Level, Magic: testMagic, BlockSectors: uint(n.p.BlockBytes / ondisk.SectorSize),
		NodeSize: n.p.NodeBytes, Key: key,
		Ptr: ondisk.BtreePtr{V2: true, Seq: id.Seq, Min: n.Min(), Max: n.Max(), SectorsWritten: uint16(n.Written())},
	})
	if err != nil {
		t.Fatalf("decode: %v", err)
	}
	if d.Gen != id.Gen || d.Seq != id.Seq || d.Format != n.p.Format || d.Written != n.written {
		t.Fatalf("decoded %+v", d)
	}
	return d
}

// flush writes what is unwritten; false if it does not fit.
func (m *model) flush() bool {
	m.end(true)
	for m.n.Dirty() {
		n := m.n
		m.prepare()
		if m.n != n {
			return false
		}
		m.end(true)
	}
	return true
}

// checkHeld checks that no key that was handed out changed.
func (m *model) checkHeld() {
	m.t.Helper()
	for _, h := range m.history {
		if !sameKey(h.got, h.was) {
			m.t.Fatalf("key was %+v, is %+v", h.was, h.got)
		}
	}
}

func TestModel(t *testing.T) {
	seeds := 120
	if testing.Short() {
		seeds = 50
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			m := newModel(t, &choices{rnd: rand.New(rand.NewPCG(uint64(seed), 1))})
			for range 400 {
				m.step()
			}
			m.compare()
			m.checkHeld()
		})
	}
}

func FuzzNode(f *testing.F) {
	for seed := range uint64(4) {
		data := make([]byte, 400)
		r := rand.New(rand.NewPCG(seed, 2))
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 4096 {
			return
		}
		m := newModel(t, &choices{data: data})
		for !m.in.done() {
			m.step()
		}
		m.compare()
		m.checkHeld()
	})
}
