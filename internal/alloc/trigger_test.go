package alloc

import (
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/codec/compress"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// TestTriggerVectors checks the vectors of spec/04 § 19 that were read from journals of the driver: what a commit that deletes part of a
// bucket, and the rest of it, changes.
func TestTriggerVectors(t *testing.T) {
	e := newTriggerEnv(t, 1)
	const b = 50
	var parts []ondisk.Key
	for i := range uint32(4) {
		parts = append(parts, testExtent(4099, uint64(i+1)*128, 128, snap, ptr(0, b, i*128, 0)))
	}
	e.set(ondisk.BtreeExtents, parts...)
	if a := e.alloc(0, b); a.DataType != ondisk.DataUser || a.DirtySectors != 512 || !a.NeedDiscard || !a.NeedIncGen || a.IOTime != [2]uint64{100, 101} ||
		a.JournalSeqNonempty != e.fs.Seq() {
		t.Errorf("filled: %+v", a)
	}
	wantLines(t, "LRU of a full bucket", e.positions(ondisk.BtreeLRU))
	bps := e.fs.Keys(ondisk.BtreeBackpointers)
	if len(bps) != 4 || bps[1].Pos.Offset != (b*512+128)<<10 {
		t.Fatalf("backpointers: %v", bps)
	}
	if bp, err := ondisk.DecodeBackpointer(bps[1]); err != nil || bp.BucketOffset() != 128<<10 || bp.BucketLen != 128 || bp.Pos != parts[1].Pos ||
		bp.DataType != ondisk.DataUser || bp.Btree != ondisk.BtreeExtents || bp.Level != 0 {
		t.Errorf("backpointer: %+v, %v", bp, err)
	}

	wantLines(t, "deleting a quarter", e.changes(func() { e.set(ondisk.BtreeExtents, deleted(parts[0])) }),
		"dev 0 user [0 -128 128]", "inum 4099 [-1 -128 -128]", "replicas user 1 [0] [-128]", "snapshot 4294967295 [-128]")
	if a := e.alloc(0, b); a.DirtySectors != 384 || a.Gen != 0 || a.DataType != ondisk.DataUser {
		t.Errorf("three quarters: %+v", a)
	}
	lru := ondisk.LRUPos{ID: ondisk.LRUFragmentation, Time: 384 << 31 / 512, Offset: b}
	wantLines(t, "LRU", e.positions(ondisk.BtreeLRU), lru.Pos().String())
	if n := len(e.fs.Keys(ondisk.BtreeBackpointers)); n != 3 {
		t.Errorf("%d backpointers", n)
	}

	e.set(ondisk.BtreeExtents, deleted(parts[1]), deleted(parts[2]))
	wantLines(t, "deleting the rest", e.changes(func() { e.set(ondisk.BtreeExtents, deleted(parts[3])) }),
		"dev 0 need_discard [1]", "dev 0 user [-1 -128 -384]", "inum 4099 [-1 -128 -128]", "replicas user 1 [0] [-128]",
		"snapshot 4294967295 [-128]")
	a := e.alloc(0, b)
	if a.Gen != 1 || a.DataType != ondisk.DataNeedDiscard || a.JournalSeqNonempty != e.fs.Seq() || a.NeedIncGen || !a.NeedDiscard {
		t.Errorf("emptied: %+v, last commit %d", a, e.fs.Seq())
	}
	wantLines(t, "LRU of an empty bucket", e.positions(ondisk.BtreeLRU))
	wantLines(t, "need_discard", e.positions(ondisk.BtreeNeedDiscard), "0:50:0")
	wantLines(t, "backpointers", e.positions(ondisk.BtreeBackpointers))
	gens := e.fs.Keys(ondisk.BtreeBucketGens)
	if len(gens) != 1 || gens[0].Val[b] != 1 || len(gens[0].Val) != 256 {
		t.Errorf("bucket_gens: %v", gens)
	}
	if gen, ok := e.devs.Get(0).Gen(b); gen != 1 || !ok {
		t.Errorf("generation in memory: %d, %v", gen, ok)
	}

	wantLines(t, "discard", e.changes(func() {
		if err := e.putAlloc(0, b, func(a *ondisk.Alloc) { a.NeedDiscard = false }, 0); err != nil {
			t.Fatal(err)
		}
	}), "dev 0 free [1]", "dev 0 need_discard [-1]")
	if now := e.alloc(0, b); now.DataType != ondisk.DataFree || now.JournalSeqNonempty != a.JournalSeqNonempty {
		t.Errorf("discarded: %+v", now)
	}
	wantLines(t, "need_discard", e.positions(ondisk.BtreeNeedDiscard))
	wantLines(t, "freespace, merged again", e.positions(ondisk.BtreeFreespace), "0:128:0")
	wantLines(t, "became", e.became, "0:50 free→user", "0:50 user→need_discard", "0:50 need_discard→free")
}

// TestTriggerAlloc checks the rules of alloc keys (spec/04 § 4.3, § 6.2), each from a state set without triggers.
func TestTriggerAlloc(t *testing.T) {
	user := func(a *ondisk.Alloc) { a.DataType, a.DirtySectors = ondisk.DataUser, 100 }
	cases := []struct {
		name  string
		from  ondisk.Alloc
		do    func(a *ondisk.Alloc)
		flags UpdateFlags
		open  Claim
		want  ondisk.Alloc // Encoding and FixedU64s aside
		err   string
	}{
		{name: "filled", do: user, open: ClaimFresh,
			want: ondisk.Alloc{DataType: ondisk.DataUser, DirtySectors: 100, NeedDiscard: true, NeedIncGen: true, IOTime: [2]uint64{100, 101}, JournalSeqNonempty: 9}},
		{name: "grown", from: ondisk.Alloc{DataType: ondisk.DataUser, DirtySectors: 90, JournalSeqNonempty: 3}, do: user, open: ClaimFilled,
			want: ondisk.Alloc{DataType: ondisk.DataUser, DirtySectors: 100, NeedDiscard: true, NeedIncGen: true, IOTime: [2]uint64{100, 101}, JournalSeqNonempty: 3}},
		{name: "shrunk", from: ondisk.Alloc{DataType: ondisk.DataUser, DirtySectors: 110, IOTime: [2]uint64{5, 6}, JournalSeqNonempty: 3}, do: user,
			want: ondisk.Alloc{DataType: ondisk.DataUser, DirtySectors: 100, IOTime: [2]uint64{5, 6}, JournalSeqNonempty: 3}},
		{name: "emptied", from: ondisk.Alloc{DataType: ondisk.DataUser, DirtySectors: 1, NeedDiscard: true, NeedIncGen: true, Gen: 255, OldestGen: 250},
			do:   func(a *ondisk.Alloc) { a.DirtySectors = 0 },
			want: ondisk.Alloc{DataType: ondisk.DataNeedDiscard, NeedDiscard: true, Gen: 0, OldestGen: 250, JournalSeqNonempty: 9}},
		{name: "emptied while open", from: ondisk.Alloc{DataType: ondisk.DataUser, DirtySectors: 1, NeedDiscard: true, NeedIncGen: true, Gen: 7},
			do: func(a *ondisk.Alloc) { a.DirtySectors = 0 }, open: ClaimFilled,
			want: ondisk.Alloc{DataType: ondisk.DataNeedDiscard, NeedDiscard: true, NeedIncGen: true, Gen: 7, JournalSeqNonempty: 9}},
		{name: "discarded after that", from: ondisk.Alloc{DataType: ondisk.DataNeedDiscard, NeedDiscard: true, NeedIncGen: true, Gen: 7, JournalSeqNonempty: 3},
			do:   func(a *ondisk.Alloc) { a.NeedDiscard = false },
			want: ondisk.Alloc{DataType: ondisk.DataFree, Gen: 8, JournalSeqNonempty: 3}},
		{name: "filled and emptied in one entry", from: ondisk.Alloc{DataType: ondisk.DataUser, DirtySectors: 1, NeedDiscard: true, NeedIncGen: true, JournalSeqNonempty: 9},
			do:   func(a *ondisk.Alloc) { a.DirtySectors = 0 },
			want: ondisk.Alloc{DataType: ondisk.DataNeedDiscard, NeedDiscard: true, Gen: 1}},
		{name: "too far from the oldest", from: ondisk.Alloc{DataType: ondisk.DataNeedDiscard, NeedDiscard: true, Gen: 96},
			do:   func(a *ondisk.Alloc) { a.NeedDiscard = false },
			want: ondisk.Alloc{DataType: ondisk.DataNeedGCGens, Gen: 96}},
		{name: "oldest raised", from: ondisk.Alloc{DataType: ondisk.DataNeedGCGens, Gen: 96},
			do:   func(a *ondisk.Alloc) { a.OldestGen = 90 },
			want: ondisk.Alloc{DataType: ondisk.DataFree, Gen: 96, OldestGen: 90}},
		{name: "oldest raised while free", from: ondisk.Alloc{Gen: 40, OldestGen: 10}, do: func(a *ondisk.Alloc) { a.OldestGen = 35 },
			want: ondisk.Alloc{Gen: 40, OldestGen: 35}},
		{name: "dirty to cached", from: ondisk.Alloc{DataType: ondisk.DataUser, DirtySectors: 10, JournalSeqNonempty: 3},
			do:   func(a *ondisk.Alloc) { a.DirtySectors, a.CachedSectors = 0, 10 },
			want: ondisk.Alloc{DataType: ondisk.DataCached, CachedSectors: 10, IOTime: [2]uint64{100}, JournalSeqNonempty: 3}},
		{name: "invalidated", from: ondisk.Alloc{DataType: ondisk.DataCached, CachedSectors: 10, Gen: 4, NeedDiscard: true, NeedIncGen: true, IOTime: [2]uint64{50}},
			do: func(a *ondisk.Alloc) {
				a.CachedSectors, a.Gen, a.NeedIncGen = 0, a.Gen+1, false
			}, flags: BucketInvalidate,
			want: ondisk.Alloc{DataType: ondisk.DataNeedDiscard, NeedDiscard: true, Gen: 5, IOTime: [2]uint64{50}, JournalSeqNonempty: 9}},
		{name: "nobody has opened it", do: user, err: "alloc_key_to_nonempty_not_open"},
		{name: "opened twice", from: ondisk.Alloc{DataType: ondisk.DataUser, DirtySectors: 10}, do: user, open: ClaimFresh, err: "bucket_allocated_twice"},
		{name: "superblock", do: func(a *ondisk.Alloc) { a.DataType, a.DirtySectors = ondisk.DataSB, 512 },
			want: ondisk.Alloc{DataType: ondisk.DataSB, DirtySectors: 512, NeedDiscard: true, NeedIncGen: true, IOTime: [2]uint64{100, 101}, JournalSeqNonempty: 9}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			e := newTriggerEnv(t, 1)
			const b = 33
			// The bucket is in the state, and in the indexes, as if triggers had made it.
			zero, from := ondisk.Alloc{}, v4(c.from)
			e.ok(func(tx Tx) error {
				if err := e.tr.indexBucket(tx, e.devs.Get(0), b, &zero, false); err != nil {
					return err
				}
				changeLRU(tx, 0, b, 0, ReadLRUTime(&from))
				changeLRU(tx, ondisk.LRUFragmentation, b, 0, from.FragmentationLRU(testBucketSize))
				if err := e.tr.indexBucket(tx, e.devs.Get(0), b, &from, true); err != nil {
					return err
				}
				s := new(scratch)
				s.accountBucket(tx, e.devs.Get(0), &zero, &from)
				if err := setBucketGen(tx, 0, b, from.Gen); err != nil {
					return err
				}
				e.devs.Get(0).SetGen(b, from.Gen)
				return SetAlloc(tx, 0, b, &from, NoTriggers)
			})
			// The atomic trigger has run though.
			k, _ := e.fs.Key(ondisk.BtreeAlloc, allocPos(0, b))
			binary.LittleEndian.PutUint64(k.Val, from.JournalSeqNonempty)
			e.withClaims().open[allocPos(0, b)] = c.open
			for e.fs.Seq() < 8 {
				e.set(ondisk.BtreeInodes)
			}
			err := e.putAlloc(0, b, c.do, c.flags)
			if c.err != "" {
				var be *BucketError
				if !errors.As(err, &be) || be.ID != c.err || !errors.Is(err, ErrInconsistent) {
					t.Fatalf("error %v, want %s", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got, want := e.alloc(0, b), v4(c.want); !slices.Equal(got.Encode(), want.Encode()) {
				t.Errorf("%+v\nwant %+v", got, want)
			}
			e.checkIndexes()
		})
	}
}

// TestPointerChecks checks what is said of pointers that contradict their buckets (spec/04 § 6.4): new ones are refused, of those that go away
// it is reported.
func TestPointerChecks(t *testing.T) {
	user := ondisk.Alloc{DataType: ondisk.DataUser, DirtySectors: 64, Gen: 10}
	cases := []struct {
		name   string
		bucket ondisk.Alloc
		ptr    ondisk.ExtentEntry
		id     string
	}{
		{"good", user, ptr(0, 20, 64, 10), ""},
		{"newer", user, ptr(0, 20, 64, 11), "ptr_gen_newer_than_bucket_gen"},
		{"newer, wrapped", ondisk.Alloc{DataType: ondisk.DataUser, DirtySectors: 64, Gen: 255}, ptr(0, 20, 64, 0), "ptr_gen_newer_than_bucket_gen"},
		{"stale", user, ptr(0, 20, 64, 9), "stale_dirty_ptr"},
		{"too stale", ondisk.Alloc{DataType: ondisk.DataUser, DirtySectors: 64, Gen: 97}, ptr(0, 20, 64, 0), "ptr_too_stale"},
		{"cached, too stale", ondisk.Alloc{DataType: ondisk.DataUser, DirtySectors: 64, Gen: 97}, cachedPtr(0, 20, 64, 0), "ptr_too_stale"},
		{"cached in user", user, cachedPtr(0, 20, 64, 10), ""},
		{"in btree", ondisk.Alloc{DataType: ondisk.DataBtree, DirtySectors: 512, Gen: 10}, ptr(0, 20, 64, 10), "ptr_bucket_data_type_mismatch"},
		{"in journal", ondisk.Alloc{DataType: ondisk.DataJournal, DirtySectors: 512, Gen: 10}, ptr(0, 20, 64, 10), "ptr_bucket_data_type_mismatch"},
		{"overflow", ondisk.Alloc{DataType: ondisk.DataUser, DirtySectors: math.MaxUint32, Gen: 10}, ptr(0, 20, 64, 10), "bucket_sector_count_overflow"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			e := newTriggerEnv(t, 1)
			e.devs.Get(0).SetFreespaceInitialized(false) // what is set behind the back of triggers is not in the indexes
			e.ok(func(tx Tx) error { return SetAlloc(tx, 0, 20, &c.bucket, NoTriggers) })
			other := ondisk.Backpointer{Btree: ondisk.BtreeInodes, Level: 1, BucketLen: 512, Pos: ondisk.Pos{Inode: 1, Offset: 2, Snapshot: 3}}
			e.fs.SetKey(ondisk.BtreeBackpointers, ondisk.Key{Type: ondisk.KeyBackpointer, Pos: ondisk.BackpointerPos(0, 20*512, 0, 10), Val: other.Encode()})
			k := testExtent(5000, 8, 8, snap, c.ptr)
			own := ondisk.Backpointer{Btree: ondisk.BtreeExtents, Pos: k.Pos} // of another pointer of the key, which is no other owner
			e.fs.SetKey(ondisk.BtreeBackpointers, ondisk.Key{Type: ondisk.KeyBackpointer, Pos: ondisk.BackpointerPos(0, 20*512+500, 0, 10), Val: own.Encode()})
			err := e.trySet(ondisk.BtreeExtents, k)
			var be *BucketError
			switch {
			case c.id == "" && err != nil:
				t.Fatal(err)
			case c.id == "":
			case !errors.As(err, &be) || be.ID != c.id || be.Dev != 0 || be.Bucket != 20 || be.Owner.Pos != k.Pos || be.Owner.Btree != ondisk.BtreeExtents ||
				len(be.Others) != 1 || be.Others[0].Pos != other.Pos || be.Others[0].Btree != other.Btree || !errors.Is(err, ErrInconsistent):
				t.Fatalf("error %v, want %s with both owners", err, c.id)
			default:
				for _, part := range []string{"device 0 bucket 20", "extent at 5000:8:U32_MAX", "a key at 1:2:3 of btree inodes level 1"} {
					if !strings.Contains(err.Error(), part) {
						t.Errorf("message lacks %q: %v", part, err)
					}
				}
				if got := e.alloc(0, 20); c.id != "bucket_sector_count_overflow" && got.DirtySectors != c.bucket.DirtySectors {
					t.Errorf("bucket changed: %+v", got)
				}
			}
			if c.id == "" || c.id == "bucket_sector_count_overflow" {
				return
			}
			// The same pointer goes away.
			e.fs.SetKey(ondisk.BtreeExtents, k)
			if err := e.trySet(ondisk.BtreeExtents, deleted(k)); err != nil {
				t.Fatalf("deleting: %v", err)
			}
			if len(e.reports) != 1 || !errors.As(e.reports[0], &be) || be.ID != c.id {
				t.Errorf("reported %v, want %s", e.reports, c.id)
			}
			if got := e.alloc(0, 20); got.DirtySectors != c.bucket.DirtySectors {
				t.Errorf("bucket changed: %+v", got)
			}
		})
	}
}

// TestPointerUnderflow checks that a counter from which more is taken than it has becomes 0, and that it is reported.
func TestPointerUnderflow(t *testing.T) {
	e := newTriggerEnv(t, 1)
	e.set(ondisk.BtreeExtents, testExtent(5000, 8, 8, snap, ptr(0, 20, 0, 0)))
	k := testExtent(5001, 16, 16, snap, ptr(0, 20, 64, 0))
	e.fs.SetKey(ondisk.BtreeExtents, k)
	e.set(ondisk.BtreeExtents, deleted(k))
	var be *BucketError
	if len(e.reports) != 1 || !errors.As(e.reports[0], &be) || be.ID != "bucket_sector_count_overflow" {
		t.Errorf("reported %v", e.reports)
	}
	if a := e.alloc(0, 20); a.DirtySectors != 0 || a.DataType != ondisk.DataNeedDiscard {
		t.Errorf("%+v", a)
	}
}

// TestBadPointers checks pointers to what does not exist.
func TestBadPointers(t *testing.T) {
	for _, c := range []struct {
		name string
		ptr  ondisk.ExtentEntry
	}{
		{"device", ptr(9, 20, 0, 0)},
		{"bucket", ptr(0, testBuckets, 0, 0)},
		{"far", ondisk.ExtentEntry{Type: ondisk.EntryPtr, Ptr: ondisk.ExtentPtr{Offset: 1<<44 - 1}}},
		{"over the end of a bucket", ptr(0, 20, 508, 0)},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := newTriggerEnv(t, 1)
			k := testExtent(5000, 8, 8, snap, c.ptr)
			if err := e.trySet(ondisk.BtreeExtents, k); !errors.Is(err, ErrInconsistent) {
				t.Errorf("insert: %v", err)
			}
			e.fs.SetKey(ondisk.BtreeExtents, k)
			e.set(ondisk.BtreeExtents, deleted(k))
		})
	}
	e := newTriggerEnv(t, 1)
	if err := e.putAlloc(0, testBuckets, func(a *ondisk.Alloc) { a.Gen = 1 }, 0); !errors.Is(err, ErrNoBucket) || !errors.Is(err, ErrInconsistent) {
		t.Errorf("alloc key behind the device: %v", err)
	}
	if err := e.putAlloc(7, 1, func(a *ondisk.Alloc) { a.Gen = 1 }, 0); !errors.Is(err, ErrNoBucket) {
		t.Errorf("alloc key of no device: %v", err)
	}
	k := ondisk.Key{Type: ondisk.KeyAllocV4, Pos: ondisk.Pos{Offset: 3}}
	a := ondisk.Alloc{Gen: 1}.Upgrade()
	k.Val = a.Encode()
	e.set(ondisk.BtreeAlloc, k)
	if err := e.trySet(ondisk.BtreeAlloc, deleted(k)); !errors.Is(err, ErrInconsistent) && err != nil {
		t.Errorf("deleting an alloc key: %v", err)
	}
}

// TestExtentAccounting checks what is counted of extents of all kinds (spec/04 § 6.3).
func TestExtentAccounting(t *testing.T) {
	rebalance := func(compression uint8, target uint16) ondisk.ExtentEntry {
		return ondisk.ExtentEntry{Type: ondisk.EntryRebalance, Rebalance: ondisk.Rebalance{BackgroundCompression: compression, BackgroundTarget: target}}
	}
	reservation := ondisk.Reservation{NrReplicas: 2}
	cases := []struct {
		name string
		key  ondisk.Key
		want []string
		work bool // is in rebalance_work
	}{
		{name: "replicas, devices out of order", key: testExtent(1, 16, 16, snap, ptr(2, 9, 0, 0), ptr(0, 9, 0, 0)),
			want: []string{"dev 0 free [-1]", "dev 0 user [1 16 496]", "dev 2 free [-1]", "dev 2 user [1 16 496]", "inum 1 [1 16 32]",
				"replicas user 1 [0 2] [32]", "snapshot 4294967295 [32]"}},
		{name: "compressed in part", key: testExtent(1, 16, 10, 5, crc(compress.Zstd, 16, 7, 3), ptr(0, 9, 0, 0)),
			want: []string{"compression zstd [1 16 7]", "dev 0 free [-1]", "dev 0 user [1 5 507]", "inum 1 [1 10 5]", "replicas user 1 [0] [5]", "snapshot 5 [5]"}},
		{name: "incompressible", key: testExtent(1, 16, 16, snap, crc(compress.Incompressible, 16, 16, 0), ptr(0, 9, 0, 0)),
			want: []string{"compression incompressible [1 16 16]", "dev 0 free [-1]", "dev 0 user [1 16 496]", "inum 1 [1 16 16]", "replicas user 1 [0] [16]",
				"snapshot 4294967295 [16]"}},
		{name: "runs of compression", key: testExtent(1, 16, 16, snap, crc(compress.Zstd, 16, 4, 0), ptr(0, 9, 0, 0), ptr(1, 9, 0, 0),
			crc(compress.LZ4, 16, 8, 0), ptr(2, 9, 0, 0)),
			want: []string{"compression lz4 [1 16 8]", "compression zstd [1 32 8]", "dev 0 free [-1]", "dev 0 user [1 4 508]", "dev 1 free [-1]",
				"dev 1 user [1 4 508]", "dev 2 free [-1]", "dev 2 user [1 8 504]", "inum 1 [1 16 16]", "replicas user 1 [0 1 2] [16]", "snapshot 4294967295 [16]"}},
		{name: "cached", key: testExtent(1, 16, 16, snap, ptr(0, 9, 0, 0), cachedPtr(1, 9, 0, 0)),
			want: []string{"dev 0 free [-1]", "dev 0 user [1 16 496]", "dev 1 cached [1 16 496]", "dev 1 free [-1]", "inum 1 [1 16 16]",
				"replicas cached 1 [1] [16]", "replicas user 1 [0] [16]", "snapshot 4294967295 [16]"}},
		{name: "only cached", key: testExtent(1, 16, 16, snap, cachedPtr(1, 9, 0, 0)),
			want: []string{"dev 1 cached [1 16 496]", "dev 1 free [-1]", "inum 1 [1 16]", "replicas cached 1 [1] [16]"}},
		{name: "removed device", key: testExtent(1, 16, 16, snap, ptr(ondisk.DevInvalid, 9, 0, 0), ptr(0, 9, 0, 0)),
			want: []string{"dev 0 free [-1]", "dev 0 user [1 16 496]", "inum 1 [1 16 32]", "replicas user 1 [0 255] [32]", "snapshot 4294967295 [32]"}},
		{name: "no snapshot", key: testExtent(1, 16, 16, 0, ptr(0, 9, 0, 0)),
			want: []string{"dev 0 free [-1]", "dev 0 user [1 16 496]", "inum 1 [1 16 16]", "replicas user 1 [0] [16]"}},
		{name: "to be compressed", key: testExtent(1, 16, 16, 0, ptr(0, 9, 0, 0), cachedPtr(1, 9, 0, 0), rebalance(3, 0)), work: true,
			want: []string{"dev 0 free [-1]", "dev 0 user [1 16 496]", "dev 1 cached [1 16 496]", "dev 1 free [-1]", "inum 1 [1 16 16]", "rebalance_work [16]",
				"replicas cached 1 [1] [16]", "replicas user 1 [0] [16]"}},
		{name: "compressed as it is to be", key: testExtent(1, 16, 16, 0, crc(compress.Zstd, 16, 8, 0), ptr(0, 9, 0, 0), rebalance(3|5<<4, 0)),
			want: []string{"compression zstd [1 16 8]", "dev 0 free [-1]", "dev 0 user [1 8 504]", "inum 1 [1 16 8]", "replicas user 1 [0] [8]"}},
		{name: "partly incompressible", key: testExtent(1, 16, 16, 0, ptr(0, 9, 0, 0), crc(compress.Incompressible, 16, 16, 0), ptr(1, 9, 0, 0), rebalance(3, 0)),
			want: []string{"compression incompressible [1 16 16]", "dev 0 free [-1]", "dev 0 user [1 16 496]", "dev 1 free [-1]", "dev 1 user [1 16 496]",
				"inum 1 [1 16 32]", "replicas user 1 [0 1] [32]"}},
		{name: "to be moved", key: testExtent(1, 16, 16, 0, ptr(0, 9, 0, 0), ptr(1, 9, 0, 0), cachedPtr(2, 9, 0, 0), rebalance(0, 260)), work: true,
			want: []string{"dev 0 free [-1]", "dev 0 user [1 16 496]", "dev 1 free [-1]", "dev 1 user [1 16 496]", "dev 2 cached [1 16 496]", "dev 2 free [-1]",
				"inum 1 [1 16 32]", "rebalance_work [16]", "replicas cached 1 [2] [16]", "replicas user 1 [0 1] [32]"}},
		{name: "to be moved to nowhere", key: testExtent(1, 16, 16, 0, ptr(0, 9, 0, 0), rebalance(0, 261)),
			want: []string{"dev 0 free [-1]", "dev 0 user [1 16 496]", "inum 1 [1 16 16]", "replicas user 1 [0] [16]"}},
		{name: "reservation", key: ondisk.Key{Type: ondisk.KeyReservation, Pos: ondisk.Pos{Inode: 1, Offset: 16, Snapshot: snap}, Size: 16, Val: reservation.Encode()},
			want: []string{"reserved x2 [16]"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			e := newTriggerEnv(t, 3)
			e.targets[260] = []uint8{1}
			before := e.counters()
			wantLines(t, "insert", e.changes(func() { e.set(ondisk.BtreeExtents, c.key) }), c.want...)
			if got := len(e.fs.Keys(ondisk.BtreeReconcileWork)) != 0; got != c.work {
				t.Errorf("in rebalance_work: %v", got)
			}
			e.checkIndexes()
			same := c.key.Clone()
			wantLines(t, "the same again", e.changes(func() { e.set(ondisk.BtreeExtents, same) }))
			e.set(ondisk.BtreeExtents, deleted(c.key))
			if len(e.fs.Keys(ondisk.BtreeReconcileWork))+len(e.fs.Keys(ondisk.BtreeBackpointers))+len(e.reports) != 0 {
				t.Errorf("after delete: %v, %v, %v", e.positions(ondisk.BtreeReconcileWork), e.positions(ondisk.BtreeBackpointers), e.reports)
			}
			e.discardAll()
			wantLines(t, "after delete", e.counters(), before...)
			e.checkIndexes()
		})
	}
}

// TestStaleCached checks that a cached pointer counts nowhere once its bucket was invalidated, and that dropping it changes nothing.
func TestStaleCached(t *testing.T) {
	e := newTriggerEnv(t, 2)
	k := testExtent(1, 16, 16, snap, ptr(0, 9, 0, 0), crc(compress.Zstd, 32, 16, 0), cachedPtr(1, 9, 0, 0))
	e.set(ondisk.BtreeExtents, k)
	wantLines(t, "invalidate", e.changes(func() {
		err := e.putAlloc(1, 9, func(a *ondisk.Alloc) { a.Gen, a.NeedIncGen, a.CachedSectors = a.Gen+1, false, 0 }, BucketInvalidate)
		if err != nil {
			t.Fatal(err)
		}
	}), "dev 1 cached [-1 -8 -504]", "dev 1 need_discard [1]", "replicas cached 1 [1] [-8]")
	kept := testExtent(1, 16, 16, snap, ptr(0, 9, 0, 0))
	wantLines(t, "drop", e.changes(func() { e.set(ondisk.BtreeExtents, kept) }))
	if len(e.reports) != 0 {
		t.Error(e.reports)
	}
	e.checkIndexes()
}

// TestMoveLeavesCached checks the vector of an extent that is moved to another device with the old copy left as cached.
func TestMoveLeavesCached(t *testing.T) {
	e := newTriggerEnv(t, 2)
	e.clock = 1
	e.set(ondisk.BtreeExtents, testExtent(1, 512, 512, snap, ptr(0, 30, 0, 0)))
	seq := e.alloc(0, 30).JournalSeqNonempty
	e.set(ondisk.BtreeExtents, testExtent(1, 512, 512, snap, ptr(1, 40, 0, 0), cachedPtr(0, 30, 0, 0)))
	if a := e.alloc(0, 30); a.DataType != ondisk.DataCached || a.CachedSectors != 512 || a.JournalSeqNonempty != seq {
		t.Errorf("old bucket: %+v", a)
	}
	wantLines(t, "lru", e.positions(ondisk.BtreeLRU), ondisk.LRUPos{ID: 0, Time: 1, Offset: 30}.Pos().String())
	wantLines(t, "backpointers", e.positions(ondisk.BtreeBackpointers), ondisk.BackpointerPos(1, 40*512, 0, 10).String())
	if c := e.fs.Counters(cachedReplicas(0)); !slices.Equal(c, []int64{512}) {
		t.Errorf("cached replicas: %d", c)
	}
	e.checkIndexes()
}

// TestBtreePointers checks pointers to nodes: a bucket of nodes, counters of the btree, backpointers with the level.
func TestBtreePointers(t *testing.T) {
	e := newTriggerEnv(t, 2)
	node := func(b ondisk.Bucket, pos ondisk.Pos, written uint16) ondisk.Key {
		p := ondisk.BtreePtr{V2: true, Seq: 7, SectorsWritten: written, Max: pos}
		for dev := range uint8(2) {
			p.Ptrs = ondisk.AppendNodeAddr(p.Ptrs, ondisk.NodeAddr{Dev: dev, Sector: ondisk.Sector(b) * testBucketSize})
		}
		return p.Key()
	}
	update := func(level uint8, old, k ondisk.Key) {
		t.Helper()
		if err := e.fs.Update(func(tx *FakeTx) error { tx.UpdateNode(ondisk.BtreeInodes, level, old, k); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	root := node(18, ondisk.SPosMax, 8)
	wantLines(t, "root", e.changes(func() { update(1, deleted(root), root) }),
		"btree inodes [1024]", "dev 0 btree [1 512]", "dev 0 free [-1]", "dev 1 btree [1 512]", "dev 1 free [-1]", "replicas btree 1 [0 1] [1024]")
	bps := e.fs.Keys(ondisk.BtreeBackpointers)
	bp, err := ondisk.DecodeBackpointer(bps[0])
	if err != nil || bps[0].Pos != (ondisk.Pos{Offset: 9437184}) || bp != (ondisk.Backpointer{Btree: ondisk.BtreeInodes, Level: 1, DataType: ondisk.DataBtree,
		BucketLen: 512, Pos: ondisk.SPosMax}) {
		t.Errorf("backpointer at %v: %+v, %v", bps[0].Pos, bp, err)
	}
	more := node(18, ondisk.SPosMax, 16)
	wantLines(t, "node written on", e.changes(func() { update(1, root, more) }))
	next := node(19, ondisk.SPosMax, 8)
	wantLines(t, "root replaced", e.changes(func() { update(1, more, next) }),
		"dev 0 free [-1]", "dev 0 need_discard [1]", "dev 1 free [-1]", "dev 1 need_discard [1]")
	e.checkIndexes()
	if err := e.trySet(ondisk.BtreeExtents, testExtent(1, 8, 8, snap, ptr(0, 19, 0, 0))); !errors.Is(err, ErrInconsistent) {
		t.Errorf("data into a bucket of nodes: %v", err)
	}
}

// TestDoubleClaim checks what the duplicate-bucket race leads to: two who think that the bucket is theirs. The second one's commit fails, says
// which bucket and who has it, and changes nothing.
func TestDoubleClaim(t *testing.T) {
	e := newTriggerEnv(t, 1)
	claims := e.withClaims()
	p := allocPos(0, 60)
	claims.open[p] = ClaimFresh
	first := testExtent(4100, 8, 8, snap, ptr(0, 60, 0, 0))
	e.set(ondisk.BtreeExtents, first)
	e.set(ondisk.BtreeExtents, testExtent(4100, 16, 8, snap, ptr(0, 60, 8, 0))) // the same owner goes on
	delete(claims.open, p)                                                      // it has closed the bucket
	claims.open[p] = ClaimFresh                                                 // and another has found it free before
	before, keys := e.counters(), e.positions(ondisk.BtreeBackpointers)
	err := e.trySet(ondisk.BtreeExtents, testExtent(4200, 8, 8, snap, ptr(0, 60, 0, 0)))
	var be *BucketError
	if !errors.As(err, &be) || be.ID != "bucket_allocated_twice" || be.Bucket != 60 || len(be.Others) != 2 || be.Others[0].Pos != first.Pos {
		t.Fatalf("error %v", err)
	}
	wantLines(t, "counters", e.counters(), before...)
	wantLines(t, "backpointers", e.positions(ondisk.BtreeBackpointers), keys...)
	wantLines(t, "told", claims.log, "filled 0:60")
	e.checkIndexes()
}

// TestIndexTripwire checks that entries of freespace and need_discard that are there, or not there, when they should not be, stop a commit.
func TestIndexTripwire(t *testing.T) {
	k := testExtent(4100, 8, 8, snap, ptr(0, 60, 0, 0))
	e := newTriggerEnv(t, 1)
	unit := freeUnit(0, 60, &ondisk.Alloc{})
	e.set(ondisk.BtreeFreespace, deleted(unit), ondisk.Key{Type: ondisk.KeyDeleted, Pos: unit.Pos, Size: 1})
	var be *BucketError
	if err := e.trySet(ondisk.BtreeExtents, k); !errors.As(err, &be) || be.ID != "incorrect_bucket_index" || !errors.Is(err, ErrInconsistent) {
		t.Errorf("unit is missing: %v", err)
	}
	e.tr.cfg.IndexTrusted = func() bool { return false }
	e.set(ondisk.BtreeExtents, k)

	e = newTriggerEnv(t, 1)
	e.set(ondisk.BtreeExtents, k)
	e.fs.SetKey(ondisk.BtreeNeedDiscard, ondisk.Key{Type: ondisk.KeySet, Pos: allocPos(0, 60)})
	if err := e.trySet(ondisk.BtreeExtents, deleted(k)); !errors.As(err, &be) || be.ID != "incorrect_bucket_index" {
		t.Errorf("need_discard is there: %v", err)
	}
}

// TestInodeJournalSeq checks that inodes know the journal entry of their last change.
func TestInodeJournalSeq(t *testing.T) {
	e := newTriggerEnv(t, 1)
	e.set(ondisk.BtreeInodes, inodeKey(4096, 9, 0))
	k, _ := e.fs.Key(ondisk.BtreeInodes, ondisk.Pos{Offset: 4096, Snapshot: 9})
	if got := binary.LittleEndian.Uint64(k.Val); got != e.fs.Seq() {
		t.Errorf("journal_seq %d, want %d", got, e.fs.Seq())
	}
}

// TestCheckVersion checks which versions can be written, and that the others are told why not.
func TestCheckVersion(t *testing.T) {
	for _, c := range []struct {
		v    ondisk.MetadataVersion
		want string
	}{{1<<10 | 12, "upgraded to 1.13"}, {1<<10 | 13, ""}, {1<<10 | 14, "since 1.14 backpointers"}, {1<<10 | 39, "since 1.14"}, {5 << 10, "since 1.14"}} {
		_, err := NewTriggers(TriggerConfig{Version: c.v, Devices: new(Devices)})
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%v: %v, want %q", c.v, err, c.want)
		}
	}
}
