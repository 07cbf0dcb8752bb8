package btree

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// The snapshot tree of these tests: 100 is the root, 90 and 80 its children, 70 a child of 90.
func testAncestor(a, d uint32) bool {
	parent := map[uint32]uint32{90: 100, 80: 100, 70: 90}
	for d != 0 && d < a {
		d = parent[d]
	}
	return d == a
}

func visible(t *testing.T, r *Reader, id ondisk.BtreeID, from, to ondisk.Pos, snapshot uint32) string {
	t.Helper()
	var s []string
	for k, err := range r.KeysIn(ctx, id, from, to, snapshot) {
		if err != nil {
			t.Fatal(err)
		}
		what := fmt.Sprint(k.Pos.Offset)
		if k.Size > 0 {
			what = fmt.Sprintf("%d-%d", k.Start().Offset, k.Pos.Offset)
		}
		s = append(s, fmt.Sprintf("%s@%d", what, k.Pos.Snapshot))
	}
	return strings.Join(s, " ")
}

func TestVisible(t *testing.T) {
	key := func(typ ondisk.KeyType, offset uint64, snapshot uint32) ondisk.Key {
		return ondisk.Key{Type: typ, Pos: ondisk.Pos{Inode: 5000, Offset: offset, Snapshot: snapshot}}
	}
	const id = ondisk.BtreeDirents
	keys := []ondisk.Key{
		key(ondisk.KeyHashWhiteout, 1, 100),
		key(ondisk.KeyWhiteout, 2, 70), key(ondisk.KeyHashWhiteout, 2, 90), key(ondisk.KeyHashWhiteout, 2, 100),
		key(ondisk.KeyHashWhiteout, 3, 80),
		key(ondisk.KeyHashWhiteout, 4, 70), key(ondisk.KeyWhiteout, 4, 90), key(ondisk.KeyHashWhiteout, 4, 100),
		key(ondisk.KeyHashWhiteout, 5, 60), // unknown snapshot
	}
	for _, leaf := range []int{1, 2, 100} {
		tt := newTestTree(t, 1)
		tt.build(id, keys, leaf, 10)
		r := tt.reader(nil)
		r.SetAncestor(testAncestor)
		for snapshot, want := range map[uint32]string{
			100: "1@100 2@100 4@100",
			90:  "1@100 2@90",
			80:  "1@100 2@100 3@80 4@100",
			70:  "1@100 4@70",
			60:  "5@60",
			50:  "",
		} {
			if got := visible(t, r, id, ondisk.PosMin, ondisk.SPosMax, snapshot); got != want {
				t.Errorf("leaves of %d, snapshot %d sees %q, want %q", leaf, snapshot, got, want)
			}
			var looked []string
			for offset := uint64(1); offset <= 5; offset++ {
				k, ok, err := r.Lookup(ctx, id, ondisk.Pos{Inode: 5000, Offset: offset, Snapshot: snapshot})
				if err != nil {
					t.Fatal(err)
				}
				if ok {
					looked = append(looked, fmt.Sprintf("%d@%d", offset, k.Pos.Snapshot))
				}
			}
			if got := strings.Join(looked, " "); got != want {
				t.Errorf("leaves of %d, snapshot %d looks up %q, want %q", leaf, snapshot, got, want)
			}
		}
		if got := visible(t, r, id, ondisk.Pos{Inode: 5000, Offset: 2}, ondisk.Pos{Inode: 5000, Offset: 3}, 80); got != "2@100 3@80" {
			t.Errorf("part: %q", got)
		}
	}
}

// Of a snapshot whose ancestors are not all known, what may be an ancestor's is an error; what is its own is not.
func TestOrphanedSnapshot(t *testing.T) {
	key := func(offset uint64, snapshot uint32) ondisk.Key {
		return ondisk.Key{Type: ondisk.KeyHashWhiteout, Pos: ondisk.Pos{Inode: 5000, Offset: offset, Snapshot: snapshot}}
	}
	const id = ondisk.BtreeDirents
	tt := newTestTree(t, 1)
	tt.build(id, []ondisk.Key{key(1, 60), key(1, 100), key(2, 50), key(3, 90), key(3, 100), key(4, 60)}, 2, 10)
	r := tt.reader(nil)
	r.SetAncestor(testAncestor)
	r.SetOrphan(func(s uint32) bool { return s == 60 })
	for snapshot, want := range map[uint32]string{60: "1@60 !3@90 4@60", 70: "1@100 3@90", 50: "2@50"} {
		var got []string
		for k, err := range r.KeysIn(ctx, id, ondisk.PosMin, ondisk.SPosMax, snapshot) {
			var ne *NodeError
			switch {
			case err == nil:
				got = append(got, fmt.Sprintf("%d@%d", k.Pos.Offset, k.Pos.Snapshot))
			case errors.Is(err, ErrSnapshotLost) && errors.As(err, &ne):
				got = append(got, fmt.Sprintf("!%d@%d", ne.Min.Offset, ne.Min.Snapshot))
			default:
				t.Fatal(err)
			}
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("snapshot %d: %q, want %q", snapshot, s, want)
		}
		for _, f := range strings.Fields(want) {
			_, ok, err := r.Lookup(ctx, id, ondisk.Pos{Inode: 5000, Offset: uint64(strings.TrimPrefix(f, "!")[0] - '0'), Snapshot: snapshot})
			if f[0] == '!' != errors.Is(err, ErrSnapshotLost) || f[0] != '!' && !ok {
				t.Errorf("snapshot %d: lookup of %s: %v, %v", snapshot, f, ok, err)
			}
		}
	}
}

func TestVisibleExtents(t *testing.T) {
	ext := func(typ ondisk.KeyType, start, end uint64, snapshot uint32) ondisk.Key {
		k := ondisk.Key{Type: typ, Size: uint32(end - start), Pos: ondisk.Pos{Inode: 5000, Offset: end, Snapshot: snapshot}}
		if typ == ondisk.KeyReservation {
			k.Val = make([]byte, 8)
		}
		return k
	}
	const res = ondisk.KeyReservation
	// What writers make of: 0-100 written in 100, then 20-50 in 90, then 40-60 deleted in 80.
	keys := []ondisk.Key{
		ext(res, 0, 20, 100),
		ext(res, 20, 40, 100),
		ext(res, 20, 50, 90), ext(res, 40, 50, 100),
		ext(ondisk.KeyWhiteout, 0, 0, 80), ext(res, 50, 60, 100),
		ext(res, 60, 100, 100),
	}
	keys[4].Pos.Offset = 60
	// 20-40 and 40-50 of 100 lie under 20-50 of 90, so 90 hides them at their own ends.
	keys = append(keys[:1], append([]ondisk.Key{{Type: ondisk.KeyWhiteout, Pos: ondisk.Pos{Inode: 5000, Offset: 40, Snapshot: 90}}}, keys[1:]...)...)
	for _, leaf := range []int{1, 3, 100} {
		tt := newTestTree(t, 1)
		tt.build(ondisk.BtreeExtents, keys, leaf, 10)
		r := tt.reader(nil)
		r.SetAncestor(testAncestor)
		for snapshot, want := range map[uint32]string{
			100: "0-20@100 20-40@100 40-50@100 50-60@100 60-100@100",
			90:  "0-20@100 20-50@90 50-60@100 60-100@100",
			80:  "0-20@100 20-40@100 40-50@100 60-100@100",
			70:  "0-20@100 20-50@90 50-60@100 60-100@100",
		} {
			if got := visible(t, r, ondisk.BtreeExtents, ondisk.PosMin, ondisk.SPosMax, snapshot); got != want {
				t.Errorf("leaves of %d, snapshot %d sees %q, want %q", leaf, snapshot, got, want)
			}
		}
		from, to := ondisk.Pos{Inode: 5000, Offset: 45}, ondisk.Pos{Inode: 5000, Offset: 59}
		if got, want := visible(t, r, ondisk.BtreeExtents, from, to, 90), "20-50@90 50-60@100"; got != want {
			t.Errorf("part: %q, want %q", got, want)
		}
		for offset, want := range map[uint64]string{0: "0-20", 19: "0-20", 20: "20-50", 49: "20-50", 99: "60-100", 100: ""} {
			k, ok, err := r.Lookup(ctx, ondisk.BtreeExtents, ondisk.Pos{Inode: 5000, Offset: offset, Snapshot: 90})
			got := ""
			if ok {
				got = fmt.Sprintf("%d-%d", k.Start().Offset, k.Pos.Offset)
			}
			if got != want || err != nil {
				t.Errorf("Lookup %d: %q, want %q; %v", offset, got, want, err)
			}
		}
	}
}

// Extents that overlap although they should not are cut, their values too.
func TestOverlappingExtents(t *testing.T) {
	val := func(start, end uint64, v ...uint64) ondisk.Key {
		k := ondisk.Key{Type: ondisk.KeyExtent, Size: uint32(end - start), Pos: ondisk.Pos{Inode: 5000, Offset: end, Snapshot: math.MaxUint32}}
		for _, w := range v {
			for range 8 {
				k.Val = append(k.Val, byte(w))
				w >>= 8
			}
		}
		return k
	}
	const ptr = 1 | 1000<<4
	crc32 := uint64(2 | 99<<2 | 99<<9 | 5<<16)
	a := val(0, 10, ptr)
	b := val(5, 20, ptr, crc32, ptr)
	tt := newTestTree(t, 1)
	tt.build(ondisk.BtreeExtents, []ondisk.Key{a, b}, 10, 10)
	r := tt.reader(nil)
	if got, want := visible(t, r, ondisk.BtreeExtents, ondisk.PosMin, ondisk.SPosMax, math.MaxUint32), "0-10@4294967295 10-20@4294967295"; got != want {
		t.Fatalf("%q, want %q", got, want)
	}
	want := val(10, 20, 1|1005<<4, 2|99<<2|99<<9|10<<16, ptr)
	cut, ok, err := r.Lookup(ctx, ondisk.BtreeExtents, ondisk.Pos{Inode: 5000, Offset: 12, Snapshot: math.MaxUint32})
	if !ok || err != nil {
		t.Fatal(ok, err)
	}
	// Lookup does not see what is before: the extent is whole.
	if cut.Size != 15 {
		t.Errorf("looked up %d sectors, want 15", cut.Size)
	}
	for k, err := range r.KeysIn(ctx, ondisk.BtreeExtents, ondisk.PosMin, ondisk.SPosMax, math.MaxUint32) {
		if err != nil {
			t.Fatal(err)
		}
		if k.Pos == want.Pos && (string(k.Val) != string(want.Val) || k.Size != 10) {
			t.Errorf("cut: % x, want % x", k.Val, want.Val)
		}
	}
}
