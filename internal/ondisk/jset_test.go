package ondisk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
)

func words(v ...uint64) (b []byte) {
	for _, w := range v {
		b = binary.LittleEndian.AppendUint64(b, w)
	}
	return b
}

func testJset(csum checksum.Type) *Jset {
	root := BtreePtr{V2: true, Seq: 5, SectorsWritten: 8, Max: SPosMax, Ptrs: AppendNodeAddr(nil, NodeAddr{0, 0, 8192})}
	keys := AppendKey(nil, inodeKey(4096, 1))
	keys = AppendKey(keys, inodeKey(4097, 2))
	return &Jset{Seq: 7, Version: uint32(VersionDefault), Flags: uint32(csum), LastSeq: 3, Entries: []JsetEntry{
		{},
		{Type: JsetLog, Level: 1, Data: []byte("hello world\x00\x00\x00\x00\x00")},
		{Type: JsetBtreeKeys, BtreeID: BtreeInodes, Data: keys},
		{Type: JsetBtreeRoot, BtreeID: BtreeInodes, Data: AppendKey(nil, root.Key())},
		{Type: JsetOverwrite, BtreeID: BtreeInodes, Data: AppendKey(nil, deletedKey(Pos{0, 4096, 1}))},
		{Type: JsetDatetime, Data: words(1700000000)},
		{Type: JsetUsage, BtreeID: 2, Data: words(12)},
		{Type: JsetClock, Data: words(1, 99)},
		{Type: JsetClock, Data: words(0, 98)},
		{Type: JsetBlacklist, Data: words(4)},
		{Type: JsetBlacklistV2, Data: words(4, 6)},
		{Type: JsetDataUsage, Data: words(1024, 0x0201_01_02_04)},
		{Type: JsetDevUsage, Data: words(1, 0, 0, 10, 20, 30, 11, 21, 31)},
		{Type: JsetRewindLimit, Data: words(2)},
		{Type: JsetRewind, Data: words(2, 4)},
		{Type: JsetPrioPtrs},
		{Type: 77, Data: words(1)},
	}}
}

const jsetText = `btree_keys: 
log: hello world
btree_keys: btree=inodes l=0 inode_v3 0:4096:U32_MAX
btree_keys: btree=inodes l=0 inode_v3 0:4097:U32_MAX
btree_root: btree=inodes l=0 btree_ptr_v2 SPOS_MAX
overwrite: btree=inodes l=0 deleted 0:4096:1
datetime: Tue Nov 14 22:13:20 2023
usage: type=key_version v=12
clock: write=99
clock: read=98
blacklist: seq=4
blacklist_v2: start=4 end=6
data_usage: user: 1/2 [1 2]=1024
dev_usage: dev=1
  free: buckets=10 sectors=20 fragmented=30
  sb: buckets=11 sectors=21 fragmented=31
rewind_limit: seq 2
rewind: from 2 to 4
prio_ptrs: 
(unknown type 77)
`

func TestJset(t *testing.T) {
	for _, csum := range []checksum.Type{checksum.None, checksum.CRC32CNonzero, checksum.CRC64Nonzero, checksum.XXHash, checksum.ChaCha20Poly1305_128} {
		t.Run(csum.String(), func(t *testing.T) {
			p := JsetParams{Magic: 55, BlockBytes: 4096}
			if csum.IsEncryption() {
				p.Key = &testKey
			}
			b, err := testJset(csum).Encode(p)
			if err != nil || len(b) != 4096 {
				t.Fatalf("%d bytes, %v", len(b), err)
			}
			disk := bytes.Clone(b)
			j, n, err := DecodeJset(b, p)
			if err != nil || n != len(b) || !bytes.Equal(b, disk) {
				t.Fatalf("%d bytes, %v", n, err)
			}
			j.Validate(nil)
			if len(j.Problems) != 0 {
				t.Errorf("problems %v", j.Problems)
			}
			if again, err := j.Encode(p); err != nil || !bytes.Equal(again, disk) {
				t.Errorf("encodes to other bytes, %v", err)
			}
			var text []byte
			for i := range j.Entries {
				text = j.Entries[i].AppendText(text, func(dst []byte, id BtreeID, level uint8, k *Key) []byte {
					return append(dst, k.Type.String()+" "+k.Pos.String()...)
				})
				text = append(text, '\n')
			}
			if string(text) != jsetText {
				t.Errorf("text:\n%swant:\n%s", text, jsetText)
			}
			if csum == checksum.None {
				return
			}
			disk[100] ^= 1
			if j, _, err := DecodeJset(disk, p); !errors.Is(err, ErrChecksum) || j == nil || j.Seq != 7 || j.Entries != nil {
				t.Errorf("changed: %+v, %v", j, err)
			}
		})
	}
}

func TestJsetErrors(t *testing.T) {
	p := JsetParams{Magic: 55, BlockBytes: 4096}
	good, err := testJset(checksum.CRC32CNonzero).Encode(p)
	if err != nil {
		t.Fatal(err)
	}
	newer := testJset(checksum.CRC32CNonzero)
	newer.Version = 2 << 10
	major, err := newer.Encode(p)
	if err != nil {
		t.Fatal(err)
	}
	size := testJset(checksum.CRC32CNonzero).Bytes()
	for _, c := range []struct {
		name string
		b    []byte
		left int
		want error
		n    int
	}{
		{"header cut", good[:40], 0, ErrJsetShort, JsetHeaderSize},
		{"magic", make([]byte, 4096), 0, ErrJsetMagic, 0},
		{"part", good[:512], 1 << 20, ErrJsetShort, size},
		{"bucket end", good[:512], 512, ErrJsetTooLong, 0},
		{"bucket end by default", good[:512], 0, ErrJsetTooLong, 0},
		{"version", major, 0, ErrIncompatible, size},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := p
			p.BucketLeft = c.left
			if _, n, err := DecodeJset(c.b, p); !errors.Is(err, c.want) || n != c.n {
				t.Errorf("%d, %v, want %d, %v", n, err, c.n, c.want)
			}
		})
	}
}

func TestJsetPastEnd(t *testing.T) {
	p := JsetParams{Magic: 55, BlockBytes: 512}
	j := &Jset{Seq: 1, Version: uint32(VersionDefault), Flags: 1, Entries: []JsetEntry{{Type: JsetUsage, Data: words(1)}, {Type: JsetUsage, Data: words(2)}}}
	b, err := j.Encode(p)
	if err != nil {
		t.Fatal(err)
	}
	b[JsetHeaderSize+16] = 100 // length of the second record
	sum, _ := checksum.Compute(checksum.CRC32CNonzero, nil, [4]uint32{}, b[csumSize:j.Bytes()])
	putSum(b, sum)
	got, _, err := DecodeJset(b, p)
	if err != nil || len(got.Entries) != 1 || len(got.Problems) != 1 || got.Problems[0].ID != "journal_entry_past_jset_end" {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestJsetValidate(t *testing.T) {
	good, bad := inodeKey(4096, 1), inodeKey(4097, 2)
	bad.Size = 8
	keys := AppendKey(AppendKey(AppendKey(nil, good), bad), inodeKey(4098, 3))
	formatted := bytes.Clone(keys)
	formatted[1] = 0
	cut := AppendKey(nil, good)
	cut = append(cut, 200, 1, 0, 0, 0, 0, 0, 0)
	for _, c := range []struct {
		name string
		e    JsetEntry
		id   string
		left int // bytes of data
	}{
		{"bad key", JsetEntry{Type: JsetBtreeKeys, BtreeID: BtreeInodes, Data: keys}, "bkey_size_nonzero", 2 * 88},
		{"bad format", JsetEntry{Type: JsetBtreeKeys, BtreeID: BtreeInodes, Data: formatted}, "journal_entry_bkey_bad_format", 88},
		{"key past end", JsetEntry{Type: JsetBtreeKeys, BtreeID: BtreeInodes, Data: cut}, "journal_entry_bkey_past_end", 88},
		{"key of no length", JsetEntry{Type: JsetBtreeKeys, BtreeID: BtreeInodes, Data: words(0)}, "journal_entry_bkey_u64s_0", 0},
		{"no root", JsetEntry{Type: JsetBtreeRoot, BtreeID: BtreeInodes}, "journal_entry_btree_root_bad_size", 0},
		{"root of two keys", JsetEntry{Type: JsetBtreeRoot, BtreeID: BtreeInodes, Data: keys}, "journal_entry_btree_root_bad_size", 0},
		{"root of a leaf's type", JsetEntry{Type: JsetBtreeRoot, BtreeID: BtreeInodes, Data: AppendKey(nil, good)}, "bkey_invalid_type_for_btree", 0},
		{"blacklist", JsetEntry{Type: JsetBlacklist, Data: words(1, 2)}, "journal_entry_blacklist_bad_size", 0},
		{"blacklist_v2", JsetEntry{Type: JsetBlacklistV2, Data: words(1)}, "journal_entry_blacklist_v2_bad_size", 0},
		{"blacklist_v2 backwards", JsetEntry{Type: JsetBlacklistV2, Data: words(2, 1)}, "journal_entry_blacklist_v2_start_past_end", 0},
		{"usage", JsetEntry{Type: JsetUsage}, "journal_entry_usage_bad_size", 0},
		{"data_usage", JsetEntry{Type: JsetDataUsage, Data: words(1, 0x09_04)}, "journal_entry_data_usage_bad_size", 0},
		{"clock", JsetEntry{Type: JsetClock, Data: words(1)}, "journal_entry_clock_bad_size", 0},
		{"clock rw", JsetEntry{Type: JsetClock, Data: words(2, 1)}, "journal_entry_clock_bad_rw", 0},
		{"dev_usage", JsetEntry{Type: JsetDevUsage, Data: words(1)}, "journal_entry_dev_usage_bad_size", 0},
		{"dev_usage pad", JsetEntry{Type: JsetDevUsage, Data: words(1<<32, 0, 0)}, "journal_entry_dev_usage_bad_pad", 0},
		{"datetime", JsetEntry{Type: JsetDatetime}, "journal_entry_dev_usage_bad_size", 0},
		{"rewind_limit", JsetEntry{Type: JsetRewindLimit}, "journal_entry_rewind_limit_bad_size", 0},
		{"rewind", JsetEntry{Type: JsetRewind, Data: words(1)}, "journal_entry_rewind_bad_size", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := bytes.Clone(c.e.Data)
			j := &Jset{Seq: 1, Entries: []JsetEntry{c.e}}
			j.Validate(nil)
			var ids []string
			for _, p := range j.Problems {
				ids = append(ids, p.ID)
			}
			if !slices.Contains(ids, c.id) || len(j.Entries[0].Data) != c.left || !bytes.Equal(before, c.e.Data) {
				t.Errorf("problems %v, %d bytes left, want %s, %d", j.Problems, len(j.Entries[0].Data), c.id, c.left)
			}
			if text := string(c.e.AppendText(nil, func(dst []byte, _ BtreeID, _ uint8, _ *Key) []byte { return dst })); !strings.HasPrefix(text, c.e.Type.String()+":") {
				t.Errorf("text %q", text)
			}
		})
	}
}
