package ondisk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"maps"
	"math"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
	"github.com/go-bcachefs/bcachefs/internal/codec/crypt"
)

const (
	testMagic    = 0x2a52031dace649ec
	testSeq      = 0x1228d40469326fb5
	testBlock    = 512 // small, so that fuzzing has little to change
	testNodeSize = 256 << 10
)

var testKey = crypt.Key{1, 2, 3}

// nodeBuilder builds nodes bset by bset.
type nodeBuilder struct {
	t     testing.TB
	id    BtreeID
	level uint8
	csum  checksum.Type
	key   *crypt.Key
	n     *RawNode
}

func (b *nodeBuilder) params(journalSeq uint64) BsetParams {
	return BsetParams{JournalSeq: journalSeq, Version: VersionDefault, Csum: b.csum, BlockBytes: testBlock, NodeSize: testNodeSize}
}

// newNode starts a node that covers everything.
func newNode(t testing.TB, id BtreeID, csum checksum.Type, keys ...Key) *nodeBuilder {
	t.Helper()
	b := &nodeBuilder{t: t, id: id, csum: csum}
	if csum.IsEncryption() {
		b.key = &testKey
	}
	h := NodeHeader{Magic: testMagic, Min: PosMin, Max: SPosMax, Format: Format{KeyU64s: 3, Bits: [6]uint8{64, 64, 32}}}
	if len(keys) > 0 {
		h.Format = ChooseFormat(keys[0].Pos, keys[len(keys)-1].Pos, keys)
	}
	n, err := NewRawNode(h, id, 0, 1, testSeq, b.params(0), keys)
	if err != nil {
		t.Fatal(err)
	}
	b.n = n
	return b
}

func (b *nodeBuilder) append(journalSeq uint64, keys ...Key) *nodeBuilder {
	b.t.Helper()
	if err := b.n.Append(b.params(journalSeq), keys); err != nil {
		b.t.Fatal(err)
	}
	return b
}

func (b *nodeBuilder) bytes() []byte {
	b.t.Helper()
	buf, err := b.n.Encode(testBlock, b.key)
	if err != nil {
		b.t.Fatal(err)
	}
	return buf
}

func (b *nodeBuilder) want() *NodeWant {
	return &NodeWant{
		Btree: b.id, Level: b.level, Magic: testMagic, BlockSectors: testBlock / SectorSize, NodeSize: testNodeSize, Key: b.key,
		Ptr: BtreePtr{V2: true, Seq: testSeq, Min: b.n.Min, Max: b.n.Max, SectorsWritten: uint16(b.n.Written(testBlock) / SectorSize)},
	}
}

func inodeKey(inum uint64, val byte) Key {
	return Key{Type: KeyInodeV3, Pos: Pos{0, inum, math.MaxUint32}, Val: bytes.Repeat([]byte{val}, 48)}
}

func deletedKey(p Pos) Key { return Key{Type: KeyDeleted, Pos: p} }

func keysOf(n *Node) (keys []Key) {
	for i := range n.Len() {
		keys = append(keys, n.Key(i))
	}
	return keys
}

// TestNodeVector decodes and encodes the node that the format's description works through.
func TestNodeVector(t *testing.T) {
	buf := make([]byte, 8192)
	copy(buf, unhex(t, "b64ded6e00000000 0000000000000000 ec49e6ac1d03522a 0f01000001000000"))
	copy(buf[52:], bytes.Repeat([]byte{0xff}, 20))
	copy(buf[80:], unhex(t, "0306404020000000"))
	copy(buf[136:], unhex(t, "b56f326904d42812 0000000000000000 01000000 0d04 0000"))
	copy(buf[4096:], unhex(t, "026294e8000000000000000000000000 b56f326904d42812 0100000000000000 01000800 0d04 0400"+
		"04 00 1f 0000000000 0100000000000000 0000000000000000 01000000ffffffff"))
	uuid := [16]byte(unhex(t, "194e7815655f41baa81396fe646de1dd"))
	if m := NodeMagic(uuid); m != testMagic {
		t.Errorf("magic %#x, want %#x", m, uint64(testMagic))
	}
	ptr := append(unhex(t, "0000000000000000 b56f326904d42812 1000 0000"), make([]byte, 20)...)
	ptr = append(ptr, unhex(t, "0100020000000000")...)
	p, err := DecodeBtreePtr(Key{Type: KeyBtreePtrV2, Pos: SPosMax, Val: ptr})
	if err != nil {
		t.Fatal(err)
	}
	if a := slices.Collect(p.Addrs()); !slices.Equal(a, []NodeAddr{{0, 0, 8192}}) {
		t.Errorf("addresses %v", a)
	}
	if k := p.Key(); !bytes.Equal(k.Val, ptr) {
		t.Errorf("pointer encodes to %x, want %x", k.Val, ptr)
	}
	w := &NodeWant{Btree: BtreeSnapshotTrees, Ptr: p, Magic: testMagic, BlockSectors: 8, NodeSize: testNodeSize}
	n, err := DecodeNode(bytes.Clone(buf), w)
	if err != nil {
		t.Fatal(err)
	}
	want := []Key{{Type: KeySnapshotTree, Pos: Pos{0, 1, 0}, Val: unhex(t, "01000000ffffffff")}}
	if d := cmp.Diff(want, keysOf(n)); d != "" {
		t.Error(d)
	}
	if n.Seq != testSeq || n.JournalSeq != 1 || n.Gen != 1 || n.Written != 8192 || len(n.Problems) != 0 {
		t.Errorf("node %+v", n)
	}
	r, err := DecodeRawNode(bytes.Clone(buf), 4096, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := r.Encode(4096, nil); err != nil || !bytes.Equal(got, buf) {
		t.Errorf("encodes to other bytes, %v", err)
	}
}

// TestNodeMerge: what was written last counts, over bsets in all combinations of deletions and overwrites.
func TestNodeMerge(t *testing.T) {
	csums := []checksum.Type{checksum.None, checksum.CRC32CNonzero, checksum.ChaCha20Poly1305_128, checksum.XXHash}
	rapid.Check(t, func(rt *rapid.T) {
		model := map[uint64]byte{}
		draw := func(deletions bool) (keys []Key) {
			changed := map[uint64]bool{}
			for range rapid.IntRange(1, 12).Draw(rt, "keys") {
				inum := rapid.Uint64Range(4096, 4110).Draw(rt, "inum")
				if changed[inum] {
					continue
				}
				changed[inum] = true
				if deletions && rapid.Bool().Draw(rt, "delete") {
					delete(model, inum)
					keys = append(keys, deletedKey(Pos{0, inum, math.MaxUint32}))
					continue
				}
				v := rapid.Byte().Draw(rt, "val")
				model[inum] = v
				k := inodeKey(inum, v)
				if rapid.Bool().Draw(rt, "versioned") {
					k.Version.Lo = 7 // does not pack
				}
				keys = append(keys, k)
			}
			slices.SortFunc(keys, func(a, b Key) int { return a.Pos.Compare(b.Pos) })
			return keys
		}
		b := newNode(t, BtreeInodes, rapid.SampledFrom(csums).Draw(rt, "csum"), draw(false)...)
		b.n.Min, b.n.Max = PosMin, SPosMax
		for i := range rapid.IntRange(0, 5).Draw(rt, "bsets") {
			b.append(uint64(10+i), draw(true)...)
		}
		n, err := DecodeNode(b.bytes(), b.want())
		if err != nil {
			rt.Fatal(err)
		}
		if len(n.Problems) > 0 {
			rt.Fatal(n.Problems)
		}
		got := map[uint64]byte{}
		for i := range n.Len() {
			k := n.Key(i)
			got[k.Pos.Offset] = k.Val[0]
			if i > 0 && !n.Pos(i-1).Less(k.Pos) {
				rt.Fatalf("%v after %v", k.Pos, n.Pos(i-1))
			}
			if s := n.Search(k.Pos); s != i {
				rt.Fatalf("search %v: %d, want %d", k.Pos, s, i)
			}
		}
		if !maps.Equal(got, model) {
			rt.Fatalf("have %v, want %v", got, model)
		}
	})
}

// nodeOf decodes what b built and fails the test on errors.
func nodeOf(t *testing.T, buf []byte, w *NodeWant) *Node {
	t.Helper()
	n, err := DecodeNode(buf, w)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func inums(n *Node) (s []uint64) {
	for i := range n.Len() {
		s = append(s, n.Pos(i).Offset)
	}
	return s
}

func problemIDs(n *Node) (s []string) {
	for _, p := range n.Problems {
		s = append(s, p.ID)
	}
	return s
}

// TestNodeRefused: nodes that are not what the pointer means, or that another replica may have intact.
func TestNodeRefused(t *testing.T) {
	for _, c := range []struct {
		name       string
		change     func(buf []byte, w *NodeWant) []byte
		id         string
		is         error
		salvage    bool // Salvageable
		salvageErr bool // fails with Salvage as well
	}{
		{"magic", func(b []byte, w *NodeWant) []byte { w.Magic++; return b }, "btree_node_bad_magic", nil, false, true},
		{"seq", func(b []byte, w *NodeWant) []byte { w.Ptr.Seq++; return b }, "btree_node_bad_seq", nil, false, true},
		{"btree", func(b []byte, w *NodeWant) []byte { w.Btree = BtreeDirents; return b }, "btree_node_bad_btree", nil, false, true},
		{"level", func(b []byte, w *NodeWant) []byte { w.Level = 1; return b }, "btree_node_bad_level", nil, false, true},
		{"min", func(b []byte, w *NodeWant) []byte { w.Ptr.Min.Offset = 1; return b }, "btree_node_bad_min_key", nil, false, true},
		{"max", func(b []byte, w *NodeWant) []byte { w.Ptr.Max.Offset = 1; return b }, "btree_node_bad_max_key", nil, false, true},
		{"range", func(b []byte, w *NodeWant) []byte { // a pointer that does not say where its node starts
			w.Ptr.V2, w.Ptr.Max = false, Pos{5, 0, 0}
			Pos{6, 0, 0}.Put(b[32:])
			w.Ptr.Max.Put(b[52:])
			reseal(b)
			return b
		}, "btree_node_bad_min_key", nil, false, true},
		{"first checksum", func(b []byte, w *NodeWant) []byte { b[200] ^= 1; return b }, "bset_bad_csum", ErrChecksum, true, true},
		{"second checksum", func(b []byte, w *NodeWant) []byte { b[testBlock+60] ^= 1; return b }, "bset_bad_csum", ErrChecksum, true, false},
		{"missing", func(b []byte, w *NodeWant) []byte { clear(b[2*testBlock:]); return b }, "btree_node_data_missing", nil, true, false},
		{"short", func(b []byte, w *NodeWant) []byte { return b[:testBlock] }, "btree_node_data_missing", nil, false, true},
		{"length", func(b []byte, w *NodeWant) []byte { b[testBlock+38] = 0xff; b[testBlock+39] = 0xff; return b }, "bset_past_end_of_btree_node", ErrChecksum, true, false},
		{"no key", func(b []byte, w *NodeWant) []byte { b[testBlock+32] = 4; return b }, "bset_unknown_csum", checksum.ErrNoKey, false, true},
		{"checksum type", func(b []byte, w *NodeWant) []byte { b[testBlock+32] = 9; return b }, "bset_unknown_csum", checksum.ErrType, true, false},
		{"offset", func(b []byte, w *NodeWant) []byte { b[testBlock+34]++; return b }, "bset_wrong_sector_offset", nil, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newNode(t, BtreeInodes, checksum.CRC32CNonzero, inodeKey(4096, 1), inodeKey(4097, 1))
			b.append(5, inodeKey(4096, 2)).append(6, inodeKey(4097, 3))
			w := b.want()
			buf := c.change(b.bytes(), w)
			_, err := DecodeNode(bytes.Clone(buf), w)
			var ne *NodeError
			if !errors.As(err, &ne) || ne.ID != c.id || ne.Salvageable != c.salvage || c.is != nil && !errors.Is(err, c.is) {
				t.Fatalf("error %v (%+v), want %s", err, ne, c.id)
			}
			w.Salvage = true
			n, err := DecodeNode(buf, w)
			if c.salvageErr {
				if err == nil {
					t.Fatal("salvaged")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(problemIDs(n), []string{c.id}) {
				t.Errorf("problems %v", n.Problems)
			}
			// The second bset is lost; the third one is intact unless it was cut off.
			if k := n.Key(0); k.Val[0] != 1 && c.id != "btree_node_data_missing" {
				t.Errorf("data of a bad bset: %x", k.Val[0])
			}
			if k := n.Key(1); k.Val[0] != 3 && c.id != "btree_node_data_missing" {
				t.Errorf("intact bset not used: %x", k.Val[0])
			}
		})
	}
}

// reseal rewrites all checksums of an unencrypted node.
func reseal(buf []byte) {
	for off := 0; off < len(buf); {
		a, ok := bsetAt(buf, off, len(buf))
		if !ok || a.end > len(buf) {
			return
		}
		if sum, err := checksum.Compute(a.Csum(), nil, crypt.Nonce{}, buf[off+csumSize:a.end]); err == nil {
			putSum(buf[off:], sum)
		}
		off = roundUp(a.end, testBlock)
	}
}

// TestNodeRepaired: keys that no writer writes are left out, and nothing else is.
func TestNodeRepaired(t *testing.T) {
	all := []uint64{4096, 4097, 4098, 4099}
	const at, size = nodeHdrSize, 56 // of the packed keys: one word and the value
	for _, c := range []struct {
		name   string
		change func(keys []byte)
		want   []uint64
		ids    []string
	}{
		{"nothing", func(k []byte) {}, all, nil},
		{"needs_whiteout bit", func(k []byte) { k[1] |= 0x80 }, all, nil},
		{"type of another btree", func(k []byte) { k[2] = byte(KeyDirent) }, all[1:], []string{"bkey_invalid_type_for_btree"}},
		{"unknown type", func(k []byte) { k[2] = 200 }, all, nil},
		{"format", func(k []byte) { k[size+1] = 2 }, []uint64{4096, 4098, 4099}, []string{"btree_node_bkey_bad_format"}},
		{"length 0", func(k []byte) { k[2*size] = 0 }, all[:2], []string{"btree_node_bkey_past_bset_end"}},
		{"length too great", func(k []byte) { k[2*size] = 200 }, all[:2], []string{"btree_node_bkey_past_bset_end"}},
		{"one key too great", func(k []byte) { k[7] = 0xf0 }, all[1:], []string{"btree_node_bkey_out_of_order"}},
		{"one key too small", func(k []byte) { k[2*size+7] = 0 }, []uint64{4096, 4097, 4099}, []string{"btree_node_bkey_out_of_order"}},
		{"same position", func(k []byte) { copy(k[size:size+8], k[:8]) }, []uint64{4096, 4098, 4099}, []string{"btree_node_bkey_out_of_order"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var keys []Key
			for _, i := range all {
				keys = append(keys, inodeKey(i, 1))
			}
			b := newNode(t, BtreeInodes, checksum.XXHash, keys...)
			b.n.Max = SPosMax
			b.n.Format = Format{KeyU64s: 1, Bits: [6]uint8{0, 8}, Offset: [6]uint64{0, 4096, math.MaxUint32}}
			b.n.Bsets[0].Keys = nil
			for i := range keys {
				b.n.Bsets[0].Keys = AppendNodeKey(b.n.Bsets[0].Keys, &b.n.Format, &keys[i])
			}
			if len(b.n.Bsets[0].Keys) != len(all)*size {
				t.Fatalf("keys take %d bytes", len(b.n.Bsets[0].Keys))
			}
			buf := b.bytes()
			c.change(buf[at:])
			reseal(buf)
			n := nodeOf(t, buf, b.want())
			if !slices.Equal(inums(n), c.want) || !slices.Equal(problemIDs(n), c.ids) {
				t.Errorf("have %v, problems %v, want %v, %v", inums(n), n.Problems, c.want, c.ids)
			}
		})
	}
}

func TestNodeBlacklist(t *testing.T) {
	b := newNode(t, BtreeInodes, checksum.CRC32CNonzero, inodeKey(4096, 1), inodeKey(4099, 1))
	b.append(5, inodeKey(4096, 2)).append(6, inodeKey(4097, 3))
	w := b.want()
	w.Blacklisted = func(seq uint64) bool { return seq == 5 }
	n := nodeOf(t, b.bytes(), w)
	if !slices.Equal(inums(n), []uint64{4096, 4097, 4099}) || n.Key(0).Val[0] != 1 || n.JournalSeq != 6 {
		t.Errorf("keys %v, journal_seq %d", inums(n), n.JournalSeq)
	}
	if !slices.Equal(problemIDs(n), []string{"first_bset_blacklisted_journal_seq"}) || !n.Bsets[1].Blacklisted {
		t.Errorf("problems %v", n.Problems)
	}
	// A pointer that does not say how much is written: the bset was never committed, which is not remarkable.
	w.Ptr.SectorsWritten = 0
	buf := append(b.bytes(), make([]byte, testNodeSize)...)[:testNodeSize]
	if n := nodeOf(t, buf, w); n.Len() != 3 || len(n.Problems) != 0 {
		t.Errorf("keys %v, problems %v", inums(n), n.Problems)
	}
}

func TestNodeRangeUpdated(t *testing.T) {
	b := newNode(t, BtreeInodes, checksum.CRC32CNonzero, inodeKey(4096, 1), inodeKey(4097, 1), inodeKey(4098, 1))
	w := b.want()
	w.Ptr.Flags = flagRangeUpdated
	w.Ptr.Min, w.Ptr.Max = Pos{0, 4097, 0}, Pos{0, 4097, math.MaxUint32}
	n := nodeOf(t, b.bytes(), w)
	if !slices.Equal(inums(n), []uint64{4097}) || len(n.Problems) != 0 || n.Min != w.Ptr.Min {
		t.Errorf("keys %v from %v, problems %v", inums(n), n.Min, n.Problems)
	}
}

func TestNodeCheckKey(t *testing.T) {
	b := newNode(t, BtreeInodes, checksum.CRC32CNonzero, inodeKey(4096, 1), inodeKey(4097, 2), inodeKey(4098, 3))
	w := b.want()
	w.CheckKey = func(k *Key) error {
		if k.Val[0] == 2 {
			return &InvalidKeyError{ID: "inode_unpack_error", Type: k.Type, Pos: k.Pos, Msg: "no good"}
		}
		return nil
	}
	n := nodeOf(t, b.bytes(), w)
	if !slices.Equal(inums(n), []uint64{4096, 4098}) || !slices.Equal(problemIDs(n), []string{"inode_unpack_error"}) {
		t.Errorf("keys %v, problems %v", inums(n), n.Problems)
	}
}

// TestNodeOldVersion: bsets of versions 0.9 to 0.11 are converted, newer ones in the same node are not.
func TestNodeOldVersion(t *testing.T) {
	b := newNode(t, BtreeInodes, checksum.CRC32CNonzero)
	b.n.Format = Format{KeyU64s: 3, Bits: [6]uint8{64, 64}}
	b.n.Min, b.n.Max = PosMin, PosMax
	old := Key{Type: 128, Pos: Pos{4096, 0, 0}, Val: make([]byte, 16)} // an inode by its old number, fields swapped
	b.n.Bsets[0].Keys = AppendNodeKey(nil, &b.n.Format, &old)
	b.n.Bsets[0].Version = 9
	raw := b.n.Format
	b.n.Format.Offset[fieldSnapshot] = math.MaxUint32 // as a newer writer sees it
	b.n.Max = SPosMax
	b.append(5, Key{Type: KeyInode, Pos: Pos{0, 4097, math.MaxUint32}, Val: make([]byte, 16)})
	b.n.Format, b.n.Max = raw, PosMax
	w := b.want()
	w.Ptr.Max, w.VersionMin = SPosMax, 9
	n := nodeOf(t, b.bytes(), w)
	if len(n.Problems) != 0 || n.Len() != 2 || n.Type(0) != KeyInode || n.Pos(0) != (Pos{0, 4096, math.MaxUint32}) ||
		n.Pos(1) != (Pos{0, 4097, math.MaxUint32}) {
		t.Errorf("keys %v, problems %v", keysOf(n), n.Problems)
	}
}

// TestNodeInterior: the memory pointer of the writing host is not kept.
func TestNodeInterior(t *testing.T) {
	ptr := BtreePtr{V2: true, Seq: 9, SectorsWritten: 8, Min: PosMin, Max: SPosMax, Ptrs: AppendNodeAddr(nil, NodeAddr{1, 2, 3 << 10})}
	k := ptr.Key()
	binary.LittleEndian.PutUint64(k.Val, 0xffff8880deadbeef)
	b := &nodeBuilder{t: t, id: BtreeExtents, level: 1, csum: checksum.CRC32CNonzero}
	h := NodeHeader{Magic: testMagic, Max: SPosMax, Format: Format{KeyU64s: 3, Bits: [6]uint8{64, 64, 32}}}
	var err error
	if b.n, err = NewRawNode(h, b.id, 1, 1, testSeq, b.params(0), []Key{k}); err != nil {
		t.Fatal(err)
	}
	n := nodeOf(t, b.bytes(), b.want())
	got, err := DecodeBtreePtr(n.Key(0))
	if err != nil || !cmp.Equal(got, ptr) {
		t.Errorf("%+v, %v, want %+v", got, err, ptr)
	}
	if binary.LittleEndian.Uint64(n.Key(0).Val) != 0 {
		t.Error("mem_ptr is kept")
	}
}

func TestRawNodeLimits(t *testing.T) {
	b := newNode(t, BtreeInodes, checksum.CRC32CNonzero, inodeKey(4096, 1))
	p := b.params(7)
	p.NodeSize = 2 * testBlock
	if err := b.n.Append(p, []Key{inodeKey(4096, 2)}); err != nil {
		t.Fatal(err)
	}
	if err := b.n.Append(p, []Key{inodeKey(4096, 3)}); !errors.Is(err, ErrNodeFull) {
		t.Errorf("error %v, want %v", err, ErrNodeFull)
	}
	p.NodeSize = testNodeSize
	b.n.Max = Pos{0, 1 << 30, 0}
	for name, keys := range map[string][]Key{
		"none":      nil,
		"unordered": {inodeKey(4096, 1), inodeKey(4095, 1)},
		"outside":   {inodeKey(1<<40, 1)},
	} {
		if err := b.n.Append(p, keys); err == nil {
			t.Errorf("%s: appended", name)
		}
	}
}
