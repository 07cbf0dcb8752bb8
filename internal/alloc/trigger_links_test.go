package alloc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// indirectKey is an indirect extent with so many references.
func indirectKey(end uint64, size uint32, refs uint64, entries ...ondisk.ExtentEntry) ondisk.Key {
	k := testExtent(0, end, size, 0, entries...)
	k.Type = ondisk.KeyReflinkV
	k.Val = append(binary.LittleEndian.AppendUint64(nil, refs), k.Val...)
	return k
}

func reflinkKey(inum, end uint64, size uint32, idx uint64) ondisk.Key {
	p := ondisk.ReflinkP{Idx: idx, FrontPad: 77, BackPad: 78} // pads of new pointers are made anew
	return ondisk.Key{Type: ondisk.KeyReflinkP, Pos: ondisk.Pos{Inode: inum, Offset: end, Snapshot: snap}, Size: size, Val: p.Encode()}
}

func (e *triggerEnv) refs() []string {
	var all []string
	for _, k := range e.fs.Keys(ondisk.BtreeReflink) {
		v, err := ondisk.DecodeIndirect(k)
		if err != nil {
			e.t.Fatal(err)
		}
		all = append(all, fmt.Sprintf("%d-%d %v x%d", k.Start().Offset, k.Pos.Offset, k.Type, v.Refcount))
	}
	return all
}

func (e *triggerEnv) pads(p ondisk.Pos) [2]uint32 {
	e.t.Helper()
	k, ok := e.fs.Key(ondisk.BtreeExtents, p)
	r, err := ondisk.DecodeReflinkP(k)
	if err != nil || !ok {
		e.t.Fatalf("reflink pointer at %v: %v, %v", p, ok, err)
	}
	return [2]uint32{r.FrontPad, r.BackPad}
}

// TestReflink checks references of indirect extents, the pads of pointers to them, and that the last reference takes the data with it.
func TestReflink(t *testing.T) {
	e := newTriggerEnv(t, 1)
	before := e.counters()
	e.set(ondisk.BtreeReflink, indirectKey(100, 100, 1, ptr(0, 9, 0, 0)), indirectKey(150, 50, 1, ptr(0, 9, 100, 0)))
	inline := ondisk.Key{Type: ondisk.KeyIndirectInlineData, Pos: ondisk.Pos{Offset: 158}, Size: 8, Val: append(binary.LittleEndian.AppendUint64(nil, 1), "data    "...)}
	e.set(ondisk.BtreeReflink, inline)
	for _, k := range e.fs.Keys(ondisk.BtreeReflink) { // as a file does that makes its extents indirect: it begins with none
		k = k.Clone()
		clear(k.Val[:8])
		e.fs.SetKey(ondisk.BtreeReflink, k)
	}
	a, b, c := reflinkKey(4100, 158, 158, 0), reflinkKey(4101, 60, 60, 80), reflinkKey(4102, 8, 8, 150)
	wantLines(t, "pointers take no space", e.changes(func() { e.set(ondisk.BtreeExtents, a, b); e.set(ondisk.BtreeExtents, c) }))
	wantLines(t, "references", e.refs(), "0-100 reflink_v x2", "100-150 reflink_v x2", "150-158 indirect_inline_data x2")
	if p := e.pads(a.Pos); p != [2]uint32{0, 0} {
		t.Errorf("pads of a pointer to all: %d", p)
	}
	if p := e.pads(b.Pos); p != [2]uint32{80, 10} {
		t.Errorf("pads of a pointer to parts: %d", p)
	}

	// The first extent is split by a move of data. The pointers to it, with their pads, still refer to both parts.
	e.set(ondisk.BtreeReflink, indirectKey(100, 60, 2, ptr(0, 9, 40, 0)), indirectKey(40, 40, 2, ptr(0, 9, 0, 0)))
	e.set(ondisk.BtreeReflink, indirectKey(150, 5, 2, ptr(0, 9, 145, 0)), indirectKey(145, 45, 2, ptr(0, 9, 100, 0)))
	kb, _ := e.fs.Key(ondisk.BtreeExtents, b.Pos)
	e.set(ondisk.BtreeExtents, deleted(kb))
	wantLines(t, "after deleting a pointer", e.refs(), "0-40 reflink_v x1", "40-100 reflink_v x1", "100-145 reflink_v x1", "145-150 reflink_v x1",
		"150-158 indirect_inline_data x2")
	e.set(ondisk.BtreeExtents, deleted(a), deleted(c))
	wantLines(t, "after deleting all", e.refs())
	e.discardAll()
	wantLines(t, "counters", e.counters(), before...)
	e.checkIndexes()

	for name, k := range map[string]ondisk.Key{"nothing there": reflinkKey(1, 8, 8, 500), "far": reflinkKey(1, 8, 8, ondisk.ReflinkIdxMax)} {
		if err := e.trySet(ondisk.BtreeExtents, k); !errors.Is(err, ErrInconsistent) {
			t.Errorf("%s: %v", name, err)
		}
	}
	e.fs.SetKey(ondisk.BtreeReflink, indirectKey(100, 100, 0, ptr(0, 9, 0, 0)))
	d := ondisk.ReflinkP{Idx: 10}
	k := ondisk.Key{Type: ondisk.KeyReflinkP, Pos: ondisk.Pos{Inode: 5, Offset: 8, Snapshot: snap}, Size: 8, Val: d.Encode()}
	e.fs.SetKey(ondisk.BtreeExtents, k)
	if err := e.trySet(ondisk.BtreeExtents, deleted(k)); err == nil || !strings.Contains(err.Error(), "no reference is left") {
		t.Errorf("too many pointers: %v", err)
	}
	d.FrontPad = 11
	k.Val = d.Encode()
	e.fs.SetKey(ondisk.BtreeExtents, k)
	if err := e.trySet(ondisk.BtreeExtents, deleted(k)); !errors.Is(err, ErrInconsistent) {
		t.Errorf("pad before the start: %v", err)
	}
}

// TestExtentToReflink checks that an extent becomes an indirect one and a pointer to it in one commit, and that its space stays counted once.
func TestExtentToReflink(t *testing.T) {
	e := newTriggerEnv(t, 1)
	k := testExtent(4100, 16, 16, snap, ptr(0, 9, 0, 0))
	e.set(ondisk.BtreeExtents, k)
	wantLines(t, "counters", e.changes(func() {
		e.ok(func(tx Tx) error {
			if err := tx.Update(ondisk.BtreeReflink, indirectKey(16, 16, 0, ptr(0, 9, 0, 0)), 0); err != nil {
				return err
			}
			return tx.Update(ondisk.BtreeExtents, reflinkKey(4100, 16, 16, 0), 0)
		})
	}), "inum 0 [1 16 16]", "inum 4100 [-1 -16 -16]", "snapshot 4294967295 [-16]")
	wantLines(t, "references", e.refs(), "0-16 reflink_v x1")
	bp := e.fs.Keys(ondisk.BtreeBackpointers)
	if len(bp) != 1 {
		t.Fatalf("backpointers: %v", bp)
	}
	if b, err := ondisk.DecodeBackpointer(bp[0]); err != nil || b.Btree != ondisk.BtreeReflink {
		t.Errorf("backpointer: %+v, %v", b, err)
	}
	e.checkIndexes()
}

// testSnapshots is a tree by the parents of its nodes.
type testSnapshots map[uint32]uint32

func (s testSnapshots) Parent(id uint32) uint32 { return s[id] }
func (s testSnapshots) IsAncestor(a, d uint32) bool {
	for ; d != 0; d = s[d] {
		if a == d {
			return true
		}
	}
	return false
}
func (s testSnapshots) HasChildren(id uint32) bool {
	for _, p := range s {
		if p == id {
			return true
		}
	}
	return false
}

// TestInodeTrigger checks what inodes count, and that those that are deleted but still open are listed, unless there are versions of them in
// snapshots below.
func TestInodeTrigger(t *testing.T) {
	e := newTriggerEnv(t, 1)
	//     100
	//    90  80
	//   70     60
	e.tr.cfg.Snapshots = testSnapshots{100: 0, 90: 100, 80: 100, 70: 90, 60: 80}
	hasChild := func(snapshot uint32) bool {
		k, ok := e.fs.Key(ondisk.BtreeInodes, ondisk.Pos{Offset: 4096, Snapshot: snapshot})
		if !ok {
			t.Fatalf("no inode in snapshot %d", snapshot)
		}
		f, _ := inodeFlags(&k)
		return f&ondisk.InodeHasChildSnapshot != 0
	}
	wantLines(t, "new", e.changes(func() { e.set(ondisk.BtreeInodes, inodeKey(4096, 100, ondisk.InodeUnlinked)) }), "nr_inodes [1]")
	wantLines(t, "changed", e.changes(func() { e.set(ondisk.BtreeInodes, inodeKey(4096, 100, ondisk.InodeUnlinked|ondisk.InodeSync)) }))
	wantLines(t, "deleted_inodes", e.positions(ondisk.BtreeDeletedInodes), "0:4096:100")
	e.set(ondisk.BtreeInodes, inodeKey(4096, 70, 0))
	if !hasChild(100) || hasChild(70) {
		t.Error("flags after a version below came")
	}
	wantLines(t, "deleted_inodes", e.positions(ondisk.BtreeDeletedInodes))
	// One between them takes over what is below; it is new, and comes with a flag that is wrong.
	e.set(ondisk.BtreeInodes, inodeKey(4096, 90, 0))
	e.set(ondisk.BtreeInodes, inodeKey(4096, 60, ondisk.InodeHasChildSnapshot))
	if !hasChild(100) || hasChild(60) {
		t.Error("flags with versions in both branches")
	}
	del := func(snapshot uint32) {
		e.set(ondisk.BtreeInodes, ondisk.Key{Type: ondisk.KeyWhiteout, Pos: ondisk.Pos{Offset: 4096, Snapshot: snapshot}})
	}
	del(70) // 60 is less than 90, but not below it
	if hasChild(90) || !hasChild(100) {
		t.Error("flags after the only version below 90 is gone")
	}
	e.set(ondisk.BtreeInodes, inodeKey(4096, 70, 0))
	del(60)
	if !hasChild(100) || !hasChild(90) {
		t.Error("one of two branches is left")
	}
	// Both that are left go in one commit.
	wantLines(t, "deleted", e.changes(func() {
		e.ok(func(tx Tx) error {
			for _, s := range []uint32{70, 90} {
				if err := tx.Update(ondisk.BtreeInodes, ondisk.Key{Type: ondisk.KeyDeleted, Pos: ondisk.Pos{Offset: 4096, Snapshot: s}}, 0); err != nil {
					return err
				}
			}
			return nil
		})
	}), "nr_inodes [-2]")
	if hasChild(100) {
		t.Error("no branch is left")
	}
	wantLines(t, "deleted_inodes", e.positions(ondisk.BtreeDeletedInodes), "0:4096:100")
	// A copy of it comes below, with the flag that the one above had: it is to be deleted itself.
	e.set(ondisk.BtreeInodes, inodeKey(4096, 80, ondisk.InodeUnlinked|ondisk.InodeHasChildSnapshot))
	wantLines(t, "deleted_inodes", e.positions(ondisk.BtreeDeletedInodes), "0:4096:80")
	del(80)
	wantLines(t, "deleted_inodes", e.positions(ondisk.BtreeDeletedInodes), "0:4096:100")
	e.set(ondisk.BtreeInodes, ondisk.Key{Type: ondisk.KeyInodeGeneration, Pos: ondisk.Pos{Offset: 4096, Snapshot: 100}, Val: make([]byte, 8)})
	wantLines(t, "deleted_inodes", e.positions(ondisk.BtreeDeletedInodes))
	if c := e.fs.Counters(ondisk.AccountingPos{Type: ondisk.AccountingNrInodes}); c[0] != 0 {
		t.Errorf("nr_inodes %d", c)
	}
}

// stripeKey is a stripe of 64 sectors a block, on the buckets with one number on devices 0, 1, …
func stripeKey(idx uint64, b ondisk.Bucket, blocks, parity int) ondisk.Key {
	s := ondisk.Stripe{Sectors: 64, NrBlocks: uint8(blocks), NrRedundant: uint8(parity), CsumType: checksum.None, Counts: make([]byte, 2*blocks)}
	for i := range blocks {
		s.Ptrs = append(s.Ptrs, ptr(uint8(i), b, 0, 0).Ptr)
	}
	return ondisk.Key{Type: ondisk.KeyStripe, Pos: stripePos(idx), Val: s.Encode()}
}

func stripeEntry(idx uint64, block uint8) ondisk.ExtentEntry {
	return ondisk.ExtentEntry{Type: ondisk.EntryStripePtr, Stripe: ondisk.StripePtr{Idx: idx, Block: block, Redundancy: 1}}
}

// TestStripe checks stripes (spec/04 § 6.6) and the pointers into them: buckets, parity, counts of blocks, replicas.
func TestStripe(t *testing.T) {
	e := newTriggerEnv(t, 3)
	before := e.counters()
	data := testExtent(1, 32, 32, snap, ptr(0, 9, 0, 0))
	e.set(ondisk.BtreeExtents, data)
	st := stripeKey(7, 9, 3, 1)
	wantLines(t, "stripe", e.changes(func() { e.set(ondisk.BtreeStripes, st) }),
		"dev 0 stripe [1 32 480]", "dev 0 unstriped [1 32]", "dev 0 user [-1 -32 -480]", "dev 1 free [-1]", "dev 1 stripe [1]",
		"dev 2 free [-1]", "dev 2 parity [1 64 448]", "replicas parity 2 [0 1 2] [64]")
	if a := e.alloc(1, 9); a.Stripe != 7 || a.StripeRedundancy != 1 || a.DataType != ondisk.DataStripe {
		t.Errorf("block: %+v", a)
	}
	striped := testExtent(1, 32, 32, snap, stripeEntry(7, 0), ptr(0, 9, 0, 0))
	wantLines(t, "pointer becomes part of it", e.changes(func() { e.set(ondisk.BtreeExtents, striped) }),
		"dev 0 unstriped [-1 -32]", "inum 1 [0 0 -32]", "replicas user 1 [0] [-32]", "replicas user 2 [0 1 2] [32]", "snapshot 4294967295 [-32]")
	count := func(block int) uint16 {
		k, _ := e.fs.Key(ondisk.BtreeStripes, st.Pos)
		s, err := ondisk.DecodeStripe(k)
		if err != nil {
			t.Fatal(err)
		}
		n, _ := s.BlockCount(block)
		return n
	}
	if count(0) != 32 || e.alloc(0, 9).StripeSectors != 32 || e.alloc(0, 9).DirtySectors != 0 {
		t.Errorf("block count %d, bucket %+v", count(0), e.alloc(0, 9))
	}
	bp, err := ondisk.DecodeBackpointer(e.fs.Keys(ondisk.BtreeBackpointers)[0])
	if err != nil || bp.DataType != ondisk.DataStripe {
		t.Errorf("backpointer %+v, %v", bp, err)
	}
	both := testExtent(2, 16, 16, snap, stripeEntry(7, 1), ptr(1, 9, 0, 0), ptr(2, 40, 0, 0))
	wantLines(t, "pointer beside that into the stripe", e.changes(func() { e.set(ondisk.BtreeExtents, both) }),
		"dev 1 stripe [0 16 496]", "dev 2 free [-1]", "dev 2 user [1 16 496]", "inum 2 [1 16 16]", "replicas user 0 [2] [16]", "replicas user 2 [0 1 2] [16]",
		"snapshot 4294967295 [16]")
	e.checkIndexes()

	t.Run("refused", func(t *testing.T) {
		other := stripeKey(8, 9, 3, 1)
		if err := e.trySet(ondisk.BtreeStripes, other); !errors.Is(err, ErrInconsistent) || !strings.Contains(err.Error(), "stripe 7") {
			t.Errorf("second stripe on the buckets: %v", err)
		}
		e.set(ondisk.BtreeExtents, testExtent(3, 8, 8, snap, ptr(2, 50, 0, 0)))
		if err := e.trySet(ondisk.BtreeStripes, stripeKey(8, 50, 3, 1)); !errors.Is(err, ErrInconsistent) || !strings.Contains(err.Error(), "is to hold parity") {
			t.Errorf("data in the bucket of parity: %v", err)
		}
		e.set(ondisk.BtreeExtents, ondisk.Key{Type: ondisk.KeyDeleted, Pos: ondisk.Pos{Inode: 3, Offset: 8, Snapshot: snap}})
		if err := e.trySet(ondisk.BtreeStripes, stripeKey(7, 9, 2, 1)); !errors.Is(err, ErrInconsistent) {
			t.Errorf("other number of blocks: %v", err)
		}
		for _, x := range []ondisk.ExtentEntry{stripeEntry(99, 0), stripeEntry(7, 1), stripeEntry(7, 2), stripeEntry(7, 200)} {
			if err := e.trySet(ondisk.BtreeExtents, testExtent(3, 8, 8, snap, x, ptr(0, 9, 0, 0))); !errors.Is(err, ErrInconsistent) {
				t.Errorf("pointer into block %d of stripe %d: %v", x.Stripe.Block, x.Stripe.Idx, err)
			}
		}
		if err := e.trySet(ondisk.BtreeStripes, stripeKey(math.MaxUint32+8, 60, 3, 1)); !errors.Is(err, ErrInconsistent) {
			t.Errorf("index that does not fit: %v", err)
		}
	})

	e.set(ondisk.BtreeExtents, deleted(striped), deleted(both))
	if count(0) != 0 || count(1) != 0 {
		t.Errorf("block counts %d, %d", count(0), count(1))
	}
	k, _ := e.fs.Key(ondisk.BtreeStripes, st.Pos)
	moved := stripeKey(7, 9, 3, 1)
	s, _ := ondisk.DecodeStripe(moved)
	s.Ptrs[1] = ptr(1, 70, 0, 0).Ptr
	moved.Val = s.Encode()
	e.set(ondisk.BtreeStripes, moved)
	if e.alloc(1, 9).Stripe != 0 || e.alloc(1, 70).Stripe != 7 {
		t.Errorf("moved block: %+v, %+v", e.alloc(1, 9), e.alloc(1, 70))
	}
	e.set(ondisk.BtreeStripes, deleted(k))
	e.discardAll()
	wantLines(t, "all gone", e.counters(), before...)
	e.checkIndexes()
	if len(e.reports) != 0 || len(e.fs.Keys(ondisk.BtreeBackpointers)) != 0 {
		t.Errorf("reports %v, backpointers %v", e.reports, slices.Collect(slices.Values(e.positions(ondisk.BtreeBackpointers))))
	}
}
