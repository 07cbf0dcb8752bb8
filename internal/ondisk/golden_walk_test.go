package ondisk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/codec/crypt"
	"github.com/go-bcachefs/bcachefs/internal/golden"
)

// testFS is just enough of an opened image to find its nodes and journal.
type testFS struct {
	name     string
	devs     map[uint8]*testDev
	uuid     [16]byte
	version  uint16
	block    int // bytes
	nodeSize int // bytes
	key      *crypt.Key
	clean    []JsetEntry // of the clean section, if it counts
}

type testDev struct {
	*os.File
	bucketBytes int64
	journal     []uint64 // buckets
}

const sbFixed = 752

// openTest reads the superblocks of an image's devices. It is independent of the superblock decoder on purpose.
func openTest(t testing.TB, img golden.Image) *testFS {
	t.Helper()
	fs := &testFS{name: img.String(), devs: map[uint8]*testDev{}}
	var best uint64
	for _, path := range img.Unpack(t) {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		sb := make([]byte, 1<<20)
		n, _ := f.ReadAt(sb, 4096)
		sb = sb[:n]
		if n < sbFixed {
			t.Fatalf("%s: short superblock", path)
		}
		end := sbFixed + 8*int(binary.LittleEndian.Uint32(sb[124:]))
		if end > n {
			t.Skipf("%s: superblock damaged", path)
		}
		d := &testDev{File: f}
		fs.devs[sb[122]] = d
		if seq := binary.LittleEndian.Uint64(sb[112:]); len(fs.devs) == 1 || seq > best {
			best = seq
			fs.uuid = [16]byte(sb[40:])
			fs.version = binary.LittleEndian.Uint16(sb[16:])
			fs.block = int(binary.LittleEndian.Uint16(sb[120:])) * SectorSize
			fs.nodeSize = int(binary.LittleEndian.Uint64(sb[144:])>>12&0xffff) * SectorSize
			fs.clean = nil
		}
		for b := sb[sbFixed:end]; len(b) >= 8; {
			size := int(binary.LittleEndian.Uint32(b)) * 8
			if size < 8 || size > len(b) {
				break
			}
			fs.section(t, d, img, sb, binary.LittleEndian.Uint32(b[4:]), b[:size])
			b = b[size:]
		}
	}
	return fs
}

func (fs *testFS) section(t testing.TB, d *testDev, img golden.Image, sb []byte, typ uint32, b []byte) {
	le := binary.LittleEndian
	switch typ {
	case 0: // journal
		if d.journal == nil {
			for b := b[8:]; len(b) >= 8; b = b[8:] {
				d.journal = append(d.journal, le.Uint64(b))
			}
		}
	case 9: // journal_v2
		d.journal = nil
		for b := b[8:]; len(b) >= 16; b = b[16:] {
			for i := range min(le.Uint64(b[8:]), 1<<20) {
				d.journal = append(d.journal, le.Uint64(b)+i)
			}
		}
	case 11: // members_v2
		size := int(le.Uint16(b[8:]))
		at := 16 + size*int(sb[122])
		d.bucketBytes = int64(le.Uint16(b[at+26:])) * SectorSize
	case 1: // members_v1
		if at := 8 + 56*int(sb[122]); d.bucketBytes == 0 && at+28 <= len(b) {
			d.bucketBytes = int64(le.Uint16(b[at+26:])) * SectorSize
		}
	case 2: // crypt
		if fs.key != nil {
			return
		}
		w := crypt.DecodeWrappedKey((*[crypt.WrappedKeySize]byte)(b[24:]))
		var pk crypt.Key
		if w.Encrypted() {
			var err error
			if pk, err = crypt.DeriveKey([]byte(img.Passphrase), crypt.ParseKDF(le.Uint64(b[8:]), le.Uint64(b[16:]))); err != nil {
				t.Fatal(err)
			}
		}
		k, err := w.Unwrap(&pk, [16]byte(sb[40:]))
		if err != nil {
			t.Fatalf("%v: %v", img, err)
		}
		fs.key = &k
	case 6: // clean
		if le.Uint64(sb[144:])&2 != 0 {
			fs.clean, _ = DecodeJsetEntries(bytes.Clone(b[24:]))
		}
	}
}

// jsets calls fn with each intact entry of the journals and its bytes on disk.
func (fs *testFS) jsets(t testing.TB, fn func(j *Jset, raw []byte)) {
	p := JsetParams{Magic: JsetMagic(fs.uuid), Key: fs.key, BlockBytes: fs.block}
	for _, d := range fs.devs {
		buf := make([]byte, d.bucketBytes)
		for _, bucket := range d.journal {
			if _, err := d.ReadAt(buf, int64(bucket)*d.bucketBytes); err != nil {
				t.Fatal(err)
			}
			for at := 0; at < len(buf); {
				j, n, err := DecodeJset(buf[at:], p)
				switch {
				case errors.Is(err, ErrJsetMagic):
					at = len(buf)
				case err != nil:
					t.Logf("%s: bucket %d byte %d: %v", fs.name, bucket, at, err)
					at += fs.block
				default:
					fn(j, buf[at:at+n])
					at += n
				}
			}
		}
	}
}

type testRoot struct {
	id    BtreeID
	level uint8
	ptr   BtreePtr
}

// roots returns the newest roots: of the clean section, or of the newest flushed journal entry.
func (fs *testFS) roots(t testing.TB) (roots []testRoot) {
	entries := fs.clean
	if entries == nil {
		var seq uint64
		fs.jsets(t, func(j *Jset, _ []byte) {
			if !j.NoFlush() && j.Seq >= seq {
				seq, entries = j.Seq, nil
				for _, e := range j.Entries {
					e.Data = bytes.Clone(e.Data)
					entries = append(entries, e)
				}
			}
		})
	}
	for _, e := range entries {
		if e.Type != JsetBtreeRoot {
			continue
		}
		p, ok, err := e.Root()
		if err != nil {
			t.Errorf("%s: %v", fs.name, err)
		}
		if ok {
			roots = append(roots, testRoot{e.BtreeID, e.Level, p})
		}
	}
	return roots
}

// read reads what is written of a node from its first replica on a device that is there.
func (fs *testFS) read(p *BtreePtr) ([]byte, error) {
	size := int(p.SectorsWritten) * SectorSize
	if size == 0 {
		size = fs.nodeSize
	}
	for a := range p.Addrs() {
		if d := fs.devs[a.Dev]; d != nil {
			buf := make([]byte, size)
			_, err := d.ReadAt(buf, int64(a.Sector)*SectorSize)
			return buf, err
		}
	}
	return nil, fmt.Errorf("no replica of %v", p.Max)
}

func (fs *testFS) want(id BtreeID, level uint8, p BtreePtr) *NodeWant {
	return &NodeWant{Btree: id, Level: level, Ptr: p, Magic: NodeMagic(fs.uuid), BlockSectors: uint(fs.block / SectorSize),
		NodeSize: fs.nodeSize, Key: fs.key}
}

// walk calls fn with all nodes below and including a root. raw is as on disk.
func (fs *testFS) walk(t testing.TB, id BtreeID, level uint8, p BtreePtr, fn func(w *NodeWant, raw []byte, n *Node, err error)) {
	raw, err := fs.read(&p)
	if err != nil {
		t.Errorf("%s: %v level %d %v: %v", fs.name, id, level, p.Max, err)
		return
	}
	w := fs.want(id, level, p)
	n, err := DecodeNode(bytes.Clone(raw), w)
	fn(w, raw, n, err)
	if err != nil || level == 0 {
		return
	}
	for i := range n.Len() {
		child, err := DecodeBtreePtr(n.Key(i))
		if err != nil {
			t.Errorf("%s: %v level %d: %v", fs.name, id, level, err)
			continue
		}
		fs.walk(t, id, level-1, child, fn)
	}
}

// forImages runs fn for all golden images that contain a filter of -run, those without btrees aside.
func forImages(t *testing.T, fn func(t *testing.T, fs *testFS, img golden.Image)) {
	for _, img := range golden.Sample(t) {
		if strings.Contains(img.Name, "uninitialized") {
			continue
		}
		t.Run(img.String(), func(t *testing.T) { fn(t, openTest(t, img), img) })
	}
}

// TestGoldenNodes decodes every node of every image, and encodes it again to the very bytes.
func TestGoldenNodes(t *testing.T) {
	forImages(t, func(t *testing.T, fs *testFS, img golden.Image) {
		nodes, formats, keys, live, mem := 0, 0, 0, 0, 0
		for _, r := range fs.roots(t) {
			fs.walk(t, r.id, r.level, r.ptr, func(w *NodeWant, raw []byte, n *Node, err error) {
				if err != nil {
					if img.Damaged() {
						t.Logf("%v level %d %v: %v", w.Btree, w.Level, w.Ptr.Max, err)
					} else {
						t.Errorf("%v level %d %v: %v", w.Btree, w.Level, w.Ptr.Max, err)
					}
					return
				}
				nodes++
				keys += n.Len()
				live += n.LiveBytes()
				mem += n.MemBytes()
				for _, p := range n.Problems {
					if img.Damaged() {
						t.Logf("%v level %d %v: %v", w.Btree, w.Level, w.Ptr.Max, p)
					} else {
						t.Errorf("%v level %d %v: %v", w.Btree, w.Level, w.Ptr.Max, p)
					}
				}
				checkNode(t, n)
				if r := checkRawNode(t, fs, w, raw); r != nil && checkPacking(t, r) {
					formats++
				}
			})
		}
		t.Logf("%d nodes (%d with the format that would be chosen), %d keys, %d bytes of keys, %d in memory", nodes, formats, keys, live, mem)
		if !img.Damaged() && formats != nodes {
			t.Errorf("%d of %d formats are what would be chosen", formats, nodes)
		}
	})
}

// checkNode checks that keys are in order and found.
func checkNode(t *testing.T, n *Node) {
	t.Helper()
	var prev Pos
	for i := range n.Len() {
		k := n.Key(i)
		if k.Pos != n.Pos(i) || k.Type != n.Type(i) || k.Type == KeyDeleted {
			t.Fatalf("key %d: %+v, position %v", i, k, n.Pos(i))
		}
		if i > 0 && !prev.Less(k.Pos) {
			t.Fatalf("key %d at %v after %v", i, k.Pos, prev)
		}
		if got := n.Search(k.Pos); got != i {
			t.Fatalf("search %v: %d, want %d", k.Pos, got, i)
		}
		if k.Pos != SPosMax {
			if got := n.Search(k.Pos.Next()); got != i+1 {
				t.Fatalf("search after %v: %d, want %d", k.Pos, got, i+1)
			}
		}
		prev = k.Pos
	}
}

// checkPacking unpacks all keys and packs them again, and reports whether the format is the one that would be chosen for
// the first bset.
func checkPacking(t *testing.T, r *RawNode) bool {
	t.Helper()
	chooser := NewFormatChooser(r.Min, r.Max, r.Bsets[0].Version < VersionMax) // 1.39 leaves no slack for sizes
	for i := range r.Bsets {
		var again []byte
		for k, err := range r.Keys(i) {
			if err != nil {
				t.Logf("bset %d: %v", i, err)
				return false
			}
			again = AppendNodeKey(again, &r.Format, &k)
			if i == 0 {
				chooser.Add(&k)
			}
		}
		if !bytes.Equal(again, r.Bsets[i].Keys) {
			t.Errorf("bset %d: keys pack to other bytes", i)
		}
	}
	return chooser.Format() == r.Format
}

// checkRawNode checks that the node encodes to what is on disk.
func checkRawNode(t *testing.T, fs *testFS, w *NodeWant, raw []byte) *RawNode {
	t.Helper()
	if w.Ptr.SectorsWritten == 0 {
		return nil
	}
	r, err := DecodeRawNode(bytes.Clone(raw), fs.block, fs.key)
	if err != nil {
		t.Errorf("%v %v: %v", w.Btree, w.Ptr.Max, err)
		return nil
	}
	got, err := r.Encode(fs.block, fs.key)
	if err != nil || !bytes.Equal(got, raw) {
		t.Errorf("%v %v: node of %d bytes encodes to other %d bytes, %v", w.Btree, w.Ptr.Max, len(raw), len(got), err)
	}
	for i := range r.Bsets {
		off := r.Bsets[i].Offset
		if b, err := r.EncodeBset(i, fs.block, fs.key); err != nil || !bytes.Equal(b, raw[off:off+len(b)]) {
			t.Errorf("%v %v: bset %d encodes to other bytes, %v", w.Btree, w.Ptr.Max, i, err)
		}
	}
	return r
}

// TestGoldenJsets decodes every entry of every journal, and encodes it again to the very bytes.
func TestGoldenJsets(t *testing.T) {
	types := map[JsetEntryType]int{}
	forImages(t, func(t *testing.T, fs *testFS, img golden.Image) {
		n := 0
		fs.jsets(t, func(j *Jset, raw []byte) {
			n++
			sum := j.Csum
			got, err := j.Encode(JsetParams{Magic: JsetMagic(fs.uuid), Key: fs.key, BlockBytes: fs.block})
			if err != nil || !bytes.Equal(got, raw) || j.Csum != sum {
				t.Errorf("entry %d of %d bytes encodes to other %d bytes, %v", j.Seq, len(raw), len(got), err)
			}
			for _, e := range j.Entries {
				types[e.Type]++
				for _, err := range e.Keys() {
					if err != nil && !img.Damaged() {
						t.Errorf("entry %d: %v", j.Seq, err)
					}
				}
			}
		})
		t.Logf("%d entries", n)
	})
	t.Logf("records: %v", types)
}
