package ondisk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
)

// FuzzDecodeNode decodes mutated nodes whose checksums are made right again, so that mutations get past them. What is
// decoded must be in order, in range, and found by searching.
func FuzzDecodeNode(f *testing.F) {
	b := newNode(f, BtreeInodes, checksum.CRC32CNonzero, inodeKey(4096, 1), inodeKey(4097, 1), inodeKey(4098, 1))
	v := inodeKey(4099, 9)
	v.Version.Lo = 3
	b.append(5, inodeKey(4096, 2), deletedKey(Pos{0, 4097, math.MaxUint32}), v)
	f.Add(b.bytes(), uint8(1))
	e := newNode(f, BtreeExtents, checksum.XXHash, Key{Type: KeyExtent, Pos: Pos{4096, 8, math.MaxUint32}, Size: 8, Val: words(1<<4 | 1)})
	f.Add(e.bytes(), uint8(0))
	old := newNode(f, BtreeInodes, checksum.None)
	old.n.Bsets[0].Version = 9
	old.n.Bsets[0].Keys = AppendNodeKey(nil, &old.n.Format, &Key{Type: 128, Pos: Pos{4096, 0, 0}, Val: make([]byte, 16)})
	f.Add(old.bytes(), uint8(7))
	ptr := BtreePtr{V2: true, Seq: 9, SectorsWritten: 8, Max: SPosMax, Ptrs: AppendNodeAddr(nil, NodeAddr{1, 2, 3 << 10})}
	h := NodeHeader{Magic: testMagic, Max: SPosMax, Format: Format{KeyU64s: 3, Bits: [6]uint8{64, 64, 32}}}
	if n, err := NewRawNode(h, BtreeExtents, 1, 1, testSeq, b.params(0), []Key{ptr.Key()}); err == nil {
		buf, _ := n.Encode(testBlock, nil)
		f.Add(buf, uint8(0))
	}
	f.Fuzz(func(t *testing.T, buf []byte, mode uint8) {
		if len(buf) < nodeHdrSize || len(buf) > 16<<10 {
			return
		}
		// Most mutations of what identifies the node would end the run early: the pointer is made to fit.
		buf = append(bytes.Clone(buf), make([]byte, testBlock)...)
		buf = buf[:len(buf)/testBlock*testBlock]
		binary.LittleEndian.PutUint64(buf[16:], testMagic)
		h, _ := decodeNodeHeader(buf)
		w := &NodeWant{Btree: BtreeID(h.Btree()), Level: h.Level(), Magic: testMagic, BlockSectors: testBlock / SectorSize, NodeSize: len(buf),
			VersionMin: VersionMin, Salvage: mode&1 != 0,
			Blacklisted: func(seq uint64) bool { return seq == 99 },
			Ptr: BtreePtr{V2: true, Seq: binary.LittleEndian.Uint64(buf[nodeBsetAt:]), Min: h.Min, Max: h.Max,
				SectorsWritten: uint16(len(buf) / SectorSize)}}
		if mode&2 != 0 {
			w.Ptr.Flags, w.Ptr.Min, w.Ptr.Max = flagRangeUpdated, PosMin, SPosMax
		}
		if mode&4 != 0 {
			w.Ptr.SectorsWritten = 0
		}
		if mode&8 != 0 {
			w.VersionMin = VersionDefault
		}
		reseal(buf)
		in := bytes.Clone(buf)
		n, err := DecodeNode(in, w)
		if err != nil {
			if ne, ok := errors.AsType[*NodeError](err); !ok || ne.ID == "" {
				t.Fatalf("error without id: %v", err)
			}
			return
		}
		clear(in) // the node must not depend on it
		checkNode(t, n)
		for i := range n.Len() {
			if k := n.Key(i); k.Pos.Less(n.Min) || n.Max.Less(k.Pos) || len(k.Val)%8 != 0 || genericKeyCheck(n.Btree, n.Level, k.Type, k.Size, k.Pos) != "" {
				t.Fatalf("key %+v in node %v - %v", k, n.Min, n.Max)
			}
		}
		if n.MemBytes() > 16*len(buf)+16<<10 {
			t.Fatalf("%d bytes in memory of %d", n.MemBytes(), len(buf))
		}
	})
}

// FuzzDecodeRawNode: what decodes without an error encodes to the same bytes, padding aside.
func FuzzDecodeRawNode(f *testing.F) {
	b := newNode(f, BtreeInodes, checksum.CRC32CNonzero, inodeKey(4096, 1)).append(5, inodeKey(4096, 2))
	f.Add(b.bytes())
	f.Fuzz(func(t *testing.T, buf []byte) {
		buf = bytes.Clone(buf[:len(buf)/testBlock*testBlock])
		reseal(buf)
		n, err := DecodeRawNode(bytes.Clone(buf), testBlock, nil)
		if err != nil {
			return
		}
		got, err := n.Encode(testBlock, nil)
		if err != nil || len(got) != len(buf) {
			t.Fatalf("%d bytes of %d, %v", len(got), len(buf), err)
		}
		for _, s := range n.Bsets {
			if !bytes.Equal(got[s.Offset:s.end()], buf[s.Offset:s.end()]) {
				t.Fatalf("bset at %d differs", s.Offset)
			}
		}
	})
}

func FuzzDecodeJset(f *testing.F) {
	p := JsetParams{Magic: 55, BlockBytes: 512}
	b, err := testJset(checksum.CRC32CNonzero).Encode(p)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:200])
	f.Fuzz(func(t *testing.T, b []byte) {
		b = bytes.Clone(b)
		if len(b) >= JsetHeaderSize {
			binary.LittleEndian.PutUint64(b[16:], p.Magic)
			if end := JsetHeaderSize + 8*int(binary.LittleEndian.Uint32(b[40:])); end <= len(b) {
				if sum, err := checksum.Compute(checksum.Type(b[36]&0xf), nil, [4]uint32{}, b[csumSize:end]); err == nil {
					putSum(b, sum)
				}
			}
		}
		j, n, err := DecodeJset(b, p)
		if err != nil {
			return
		}
		if n < j.Bytes() {
			t.Fatalf("%d bytes of an entry of %d", n, j.Bytes())
		}
		if len(j.Problems) == 0 {
			again, err := j.Encode(p)
			if err != nil || !bytes.Equal(again[:j.Bytes()], b[:j.Bytes()]) {
				t.Fatalf("encodes to other bytes, %v", err)
			}
		}
		j.Validate(nil)
		for i := range j.Entries {
			e := &j.Entries[i]
			for k, err := range e.Keys() {
				if err != nil {
					t.Fatalf("%v after validation: %v", e.Type, err)
				}
				if e.Type == JsetBtreeRoot {
					_, _ = DecodeBtreePtr(k)
				}
			}
			e.AppendText(nil, func(dst []byte, _ BtreeID, _ uint8, _ *Key) []byte { return dst })
		}
	})
}
