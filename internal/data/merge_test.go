package data

import (
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/alloc"
	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
	"github.com/go-bcachefs/bcachefs/internal/codec/compress"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// mergeMembers has a device with buckets of 128 sectors.
func mergeMembers() *alloc.Devices {
	d := &alloc.Devices{}
	for dev := range uint8(2) {
		d.Set(alloc.NewDevice(dev, &ondisk.Member{NBuckets: 100, FirstBucket: 1, BucketSize: 128}))
	}
	return d
}

// side is one of two neighbours: its live size, and entries.
type side struct {
	size    uint32
	version uint64
	entries []any // ondisk.CRC, ondisk.ExtentPtr, ondisk.Rebalance
}

func (s side) key(start uint64) ondisk.Key {
	k := ondisk.Key{Type: ondisk.KeyExtent, Size: s.size, Pos: ondisk.Pos{Inode: 5000, Offset: start + uint64(s.size), Snapshot: 7},
		Version: ondisk.Version{Lo: s.version}}
	for _, e := range s.entries {
		var x ondisk.ExtentEntry
		switch e := e.(type) {
		case ondisk.CRC:
			x.Type, _ = e.EntryType()
			x.CRC = e
		case ondisk.ExtentPtr:
			x.Type, x.Ptr = ondisk.EntryPtr, e
		case ondisk.Rebalance:
			x.Type, x.Rebalance = ondisk.EntryRebalance, e
		}
		k.Val = ondisk.AppendExtentEntry(k.Val, &x)
	}
	return k
}

// The rules of spec/05 § 5.8, each with a case that it allows and one that it forbids.
func TestMergeRules(t *testing.T) {
	at := func(sector ondisk.Sector) ondisk.ExtentPtr { return ondisk.ExtentPtr{Offset: sector} }
	gen := func(p ondisk.ExtentPtr) ondisk.ExtentPtr { p.Gen++; return p }
	dev := func(p ondisk.ExtentPtr) ondisk.ExtentPtr { p.Dev++; return p }
	cached := func(p ondisk.ExtentPtr) ondisk.ExtentPtr { p.Cached = true; return p }
	unwritten := func(p ondisk.ExtentPtr) ondisk.ExtentPtr { p.Unwritten = true; return p }
	// crc of plain data: size, live from offset.
	crc := func(size, offset uint32, csum checksum.Type) ondisk.CRC {
		c := ondisk.CRC{CompressedSize: size, UncompressedSize: size, Offset: offset, Csum: csum, Sum: checksum.Sum{Lo: uint64(size)}}
		if csum == checksum.None {
			c.Sum = checksum.Sum{}
		}
		return c
	}
	blob := func(stored, size, offset uint32) ondisk.CRC {
		return ondisk.CRC{CompressedSize: stored, UncompressedSize: size, Offset: offset, Csum: checksum.CRC32C, Compression: compress.LZ4,
			Sum: checksum.Sum{Lo: 77}}
	}
	with := func(c ondisk.CRC, change func(c *ondisk.CRC)) ondisk.CRC { change(&c); return c }
	plain := func(size uint32, entries ...any) side { return side{size, 0, entries} }
	sum := func(a, b uint32) checksum.Sum {
		return checksum.Merge(checksum.CRC32C, checksum.Sum{Lo: uint64(a)}, checksum.Sum{Lo: uint64(b)}, uint64(b)*512)
	}
	for _, c := range []struct {
		name string
		l, r side
		want []any // nil: they do not merge
	}{
		{"no checksum", plain(8, at(256)), plain(8, at(264)), []any{at(256)}},
		{"a gap on the device", plain(8, at(256)), plain(8, at(265)), nil},
		{"the wrong way round", plain(8, at(264)), plain(8, at(256)), nil},
		{"another bucket", plain(8, at(248)), plain(8, at(256)), nil},
		{"another device", plain(8, at(256)), plain(8, dev(at(264))), nil},
		{"another generation", plain(8, at(256)), plain(8, gen(at(264))), nil},
		{"cached and not", plain(8, at(256)), plain(8, cached(at(264))), nil},
		{"unwritten and not", plain(8, at(256)), plain(8, unwritten(at(264))), nil},
		{"both unwritten", plain(8, unwritten(at(256))), plain(8, unwritten(at(264))), []any{unwritten(at(256))}},
		{"two replicas", plain(8, at(256), dev(at(512))), plain(8, at(264), dev(at(520))), []any{at(256), dev(at(512))}},
		{"second replica apart", plain(8, at(256), dev(at(512))), plain(8, at(264), dev(at(528))), nil},
		{"one replica and two", plain(8, at(256)), plain(8, at(264), dev(at(512))), nil},
		{"version", side{8, 1, []any{at(256)}}, side{8, 2, []any{at(264)}}, nil},
		{"same rebalance", plain(8, at(256), ondisk.Rebalance{BackgroundCompression: 3}), plain(8, at(264), ondisk.Rebalance{BackgroundCompression: 3}),
			[]any{at(256), ondisk.Rebalance{BackgroundCompression: 3}}},
		{"other rebalance", plain(8, at(256), ondisk.Rebalance{BackgroundCompression: 3}), plain(8, at(264), ondisk.Rebalance{BackgroundCompression: 2}), nil},

		{"checksums add up", plain(8, crc(8, 0, checksum.CRC32C), at(256)), plain(16, crc(16, 0, checksum.CRC32C), at(264)),
			[]any{with(crc(24, 0, checksum.CRC32C), func(c *ondisk.CRC) { c.Sum = sum(8, 16) }), at(256)}},
		{"front cut off", plain(5, crc(8, 3, checksum.CRC32C), at(256)), plain(16, crc(16, 0, checksum.CRC32C), at(264)),
			[]any{with(crc(24, 3, checksum.CRC32C), func(c *ondisk.CRC) { c.Sum = sum(8, 16) }), at(256)}},
		{"back cut off, then other data", plain(5, crc(8, 0, checksum.CRC32C), at(256)), plain(16, crc(16, 0, checksum.CRC32C), at(264)), nil},
		{"front of the right cut off", plain(8, crc(8, 0, checksum.CRC32C), at(256)), plain(15, crc(16, 1, checksum.CRC32C), at(263)), nil},
		{"together too large", plain(64, crc(64, 0, checksum.CRC32C), at(256)), plain(61, crc(61, 0, checksum.CRC32C), at(320)), nil},
		{"checksums that do not add up", plain(8, crc(8, 0, checksum.XXHash), at(256)), plain(8, crc(8, 0, checksum.XXHash), at(264)), nil},
		{"encrypted", side{8, 1, []any{crc(8, 0, checksum.ChaCha20Poly1305_80), at(256)}}, side{8, 1, []any{crc(8, 0, checksum.ChaCha20Poly1305_80), at(264)}}, nil},
		{"other checksum", plain(8, crc(8, 0, checksum.CRC32C), at(256)), plain(8, crc(8, 0, checksum.None), at(264)), nil},
		{"parts of the same", plain(3, crc(16, 2, checksum.XXHash), at(256)), plain(4, crc(16, 5, checksum.XXHash), at(256)), []any{crc(16, 2, checksum.XXHash), at(256)}},
		{"parts of the same with a gap", plain(3, crc(16, 2, checksum.XXHash), at(256)), plain(4, crc(16, 6, checksum.XXHash), at(256)), nil},
		{"encrypted parts", side{3, 9, []any{crc(16, 2, checksum.ChaCha20Poly1305_80), at(256)}}, side{4, 9, []any{crc(16, 5, checksum.ChaCha20Poly1305_80), at(256)}},
			[]any{crc(16, 2, checksum.ChaCha20Poly1305_80), at(256)}},
		{"the right knows the left", plain(2, crc(2, 0, checksum.XXHash), at(258)), plain(4, crc(16, 4, checksum.XXHash), at(256)), []any{crc(16, 2, checksum.XXHash), at(256)}},
		{"other nonce", plain(3, crc(16, 2, checksum.CRC64), at(256)), plain(4, with(crc(16, 5, checksum.CRC64), func(c *ondisk.CRC) { c.Nonce = 1 }), at(256)), nil},
		{"incompressible", plain(8, with(crc(8, 0, checksum.None), func(c *ondisk.CRC) { c.Compression = compress.Incompressible }), at(256)),
			plain(8, with(crc(8, 0, checksum.None), func(c *ondisk.CRC) { c.Compression = compress.Incompressible }), at(264)),
			[]any{with(crc(16, 0, checksum.None), func(c *ondisk.CRC) { c.Compression = compress.Incompressible }), at(256)}},

		{"parts of a blob", plain(20, blob(8, 100, 10), at(256)), plain(30, blob(8, 100, 30), at(256)), []any{blob(8, 100, 10), at(256)}},
		{"parts of a blob with a gap", plain(20, blob(8, 100, 10), at(256)), plain(30, blob(8, 100, 31), at(256)), nil},
		{"two blobs", plain(20, blob(8, 100, 10), at(256)), plain(30, blob(8, 100, 30), at(264)), nil},
		{"two blobs, side by side", plain(8, blob(4, 8, 0), at(256)), plain(8, blob(4, 8, 0), at(264)), nil},
	} {
		m := merger{members: mergeMembers(), max: 124}
		l := c.l.key(1000)
		r := c.r.key(1000 + uint64(c.l.size))
		got, ok := m.merge(&l, &r)
		switch {
		case ok != (c.want != nil):
			t.Errorf("%s: merged: %v, want %v", c.name, ok, c.want != nil)
		case ok:
			want := side{c.l.size + c.r.size, c.l.version, c.want}.key(1000)
			if !got.Equal(&want) {
				t.Errorf("%s: merged to\n%s, want\n%s", c.name, ondisk.KeyText(ondisk.BtreeExtents, &got, nil), ondisk.KeyText(ondisk.BtreeExtents, &want, nil))
			}
		}
		apart := c.r.key(1001 + uint64(c.l.size))
		if _, ok := m.merge(&l, &apart); ok {
			t.Errorf("%s: merged although there is a hole between them", c.name)
		}
	}
}

// Reservations merge if they are of as many replicas; nothing else does.
func TestMergeOthers(t *testing.T) {
	reservation := func(end uint64, size uint32, n uint8) ondisk.Key {
		v := ondisk.Reservation{NrReplicas: n}
		return ondisk.Key{Type: ondisk.KeyReservation, Pos: ondisk.Pos{Inode: 1, Offset: end, Snapshot: 1}, Size: size, Val: v.Encode()}
	}
	m := merger{members: mergeMembers(), max: 128}
	a, b, c := reservation(8, 8, 1), reservation(16, 8, 1), reservation(16, 8, 2)
	if k, ok := m.merge(&a, &b); !ok || k.Size != 16 || k.Pos != b.Pos {
		t.Errorf("two reservations: %v, %v", k, ok)
	}
	if _, ok := m.merge(&a, &c); ok {
		t.Error("reservations of one and of two replicas merged")
	}
	large := reservation(1<<40, 1<<32-1, 1)
	next := reservation(1<<40+8, 8, 1)
	if _, ok := m.merge(&large, &next); ok {
		t.Error("merged to more than a key can hold")
	}
	for _, typ := range []ondisk.KeyType{ondisk.KeyReflinkP, ondisk.KeyInlineData, ondisk.KeyError} {
		x, y := a.Clone(), b.Clone()
		x.Type, y.Type = typ, typ
		if _, ok := m.merge(&x, &y); ok {
			t.Errorf("two keys of type %v merged", typ)
		}
	}
}
