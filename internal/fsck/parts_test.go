package fsck

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/go-bcachefs/bcachefs/internal/btree"
	"github.com/go-bcachefs/bcachefs/internal/journal"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// TestIDs: constants have the numbers of what they are called.
func TestIDs(t *testing.T) {
	for id, want := range map[ondisk.ErrorID]string{
		idCleanButJournalNotEmpty: "clean_but_journal_not_empty", idSBCleanJournalSeqMismatch: "sb_clean_journal_seq_mismatch",
		idJournalEntriesMissing: "journal_entries_missing", idBtreeNodeUnreadable: "btree_node_unreadable",
		idBtreeRootReadError: "btree_root_read_error", idBtreeRootBadMinKey: "btree_root_bad_min_key",
		idTopologyBadMinKey: "btree_node_topology_bad_min_key", idTopologyBadMaxKey: "btree_node_topology_bad_max_key",
		idTopologyInteriorEmpty: "btree_node_topology_interior_node_empty", idBkeyVersionInFuture: "bkey_version_in_future",
		idBucketSectorCountOverflow: "bucket_sector_count_overflow", idBucketMetadataTypeMismatch: "bucket_metadata_type_mismatch",
		idBucketGensNonzeroInvalid: "bucket_gens_nonzero_for_invalid_buckets", idSnapshotEdgeBad: "snapshot_edge_bad",
		idSnapshotStateBad: "snapshot_state_bad", idSubvolStateBad: "subvol_state_bad", idSubvolSnapshotNotLeaf: "subvol_snapshot_not_leaf",
		idSnapshotSubvolBackrefWrong: "snapshot_subvol_backref_wrong", idDirtyButNoEntries: "dirty_but_no_journal_entries",
		idSBCleanMissing: "sb_clean_missing",
	} {
		if id.String() != want {
			t.Errorf("%d is %v, want %s", id, id, want)
		}
	}
}

// fakeCursor is a cursor over ranges of buckets.
func fakeCursor(ranges [][2]uint64) *cursor {
	cu := &cursor{stop: func() {}}
	cu.next = func() (*ondisk.Key, bool) {
		if len(ranges) == 0 {
			return nil, false
		}
		r := ranges[0]
		ranges = ranges[1:]
		return &ondisk.Key{Type: ondisk.KeySet, Pos: ondisk.Pos{Offset: r[1]}, Size: uint32(r[1] - r[0])}, true
	}
	cu.advance()
	return cu
}

// TestCoverage takes ranges in random steps and compares with a set of buckets.
func TestCoverage(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var ranges [][2]uint64
		covered := map[uint64]bool{}
		for at, n := uint64(0), rapid.IntRange(0, 8).Draw(t, "ranges"); n > 0; n-- {
			from := at + rapid.Uint64Range(0, 4).Draw(t, "gap")
			at = from + rapid.Uint64Range(1, 5).Draw(t, "length")
			ranges = append(ranges, [2]uint64{from, at})
			for b := from; b < at; b++ {
				covered[b] = true
			}
		}
		v := coverage{cursor: fakeCursor(ranges)}
		for at := uint64(0); at < 100; {
			to := at + rapid.Uint64Range(0, 9).Draw(t, "take")
			next := at
			v.take(at, to, func(from, to uint64, is bool) {
				if from != next || from >= to {
					t.Fatalf("got %d-%d, want something from %d on", from, to, next)
				}
				for b := from; b < to; b++ {
					if covered[b] != is {
						t.Fatalf("bucket %d: covered %v, want %v", b, is, covered[b])
					}
				}
				next = to
			})
			if next != to {
				t.Fatalf("%d-%d: the part from %d on is missing", at, to, next)
			}
			if at = to; to == 0 {
				at = 1
			}
		}
	})
}

func TestCut(t *testing.T) {
	for _, ends := range [][]ondisk.Pos{nil, {ondisk.SPosMax}, {{Inode: 5}, ondisk.SPosMax}, {{Inode: 1}, {Inode: 2}, {Inode: 3}, {Inode: 9}, ondisk.SPosMax}} {
		for n := 1; n < 8; n++ {
			ranges := cut(ends, n)
			if len(ranges) > n || ranges[0].min != ondisk.PosMin || ranges[len(ranges)-1].max != ondisk.SPosMax {
				t.Fatalf("cut(%v, %d) = %v", ends, n, ranges)
			}
			for i := 1; i < len(ranges); i++ {
				if ranges[i].min != ranges[i-1].max.Next() {
					t.Errorf("cut(%v, %d): gap in %v", ends, n, ranges)
				}
			}
		}
	}
}

func TestLostRanges(t *testing.T) {
	at := func(n uint64) ondisk.Pos { return ondisk.Pos{Inode: n} }
	var l lostRanges
	const id = ondisk.BtreeExtents
	for _, r := range [][2]uint64{{50, 60}, {10, 20}, {15, 30}, {12, 13}} {
		l.add(&btree.NodeError{Btree: id, Min: at(r[0]), Max: at(r[1])})
	}
	l.sort()
	for n, want := range map[uint64]bool{0: false, 9: false, 10: true, 14: true, 25: true, 30: true, 31: false, 49: false, 55: true, 61: false} {
		if l.has(id, at(n)) != want {
			t.Errorf("%d: %v", n, !want)
		}
	}
	if !l.overlaps(id, at(0), at(11)) || l.overlaps(id, at(31), at(49)) || !l.overlaps(id, at(31), at(50)) || l.has(ondisk.BtreeInodes, at(12)) {
		t.Errorf("%v", l.ranges[id])
	}
	if got, ok := l.pointersUnknown(); !ok || got != id {
		t.Errorf("%v, %v", got, ok)
	}
	l = lostRanges{}
	l.add(&btree.NodeError{Btree: ondisk.BtreeXattrs, Max: ondisk.SPosMax})
	if _, ok := l.pointersUnknown(); ok {
		t.Error("a lost leaf of xattrs hides pointers")
	}
	l.add(&btree.NodeError{Btree: ondisk.BtreeXattrs, Level: 1, Max: ondisk.SPosMax})
	if _, ok := l.pointersUnknown(); !ok {
		t.Error("a lost node above leaves hides no pointers")
	}
}

// TestReflinkRefs compares the counting of references by runs with counting them one by one.
func TestReflinkRefs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := &checker{opts: Options{MaxFindings: 1000}, report: Report{ByID: map[ondisk.ErrorID]int{}}, silent: func(ondisk.ErrorID) bool { return false }}
		m := &marker{c: c, reflinks: &reflinks{}}
		want := []int64{}
		for at, n := uint64(0), rapid.IntRange(0, 6).Draw(t, "extents"); n > 0; n-- {
			from := at + rapid.Uint64Range(0, 3).Draw(t, "gap")
			at = from + rapid.Uint64Range(1, 4).Draw(t, "length")
			x := &indirect{start: from, end: at, first: len(want)}
			if k := len(want); k > 0 && m.reflinks.all[k-1].end == from {
				x.first = m.reflinks.all[k-1].first
			}
			m.reflinks.all = append(m.reflinks.all, x)
			want = append(want, 0)
		}
		missing := 0
		for range rapid.IntRange(0, 5).Draw(t, "references") {
			p := ondisk.ReflinkP{Idx: rapid.Uint64Range(0, 30).Draw(t, "at")}
			size := rapid.Uint32Range(1, 12).Draw(t, "size")
			m.markReflinkP(&ondisk.Key{Type: ondisk.KeyReflinkP, Size: size, Val: p.Encode()})
			whole := true
			for at := p.Idx; at < p.Idx+uint64(size); at++ {
				in := false
				for _, x := range m.reflinks.all {
					in = in || x.start <= at && at < x.end
				}
				whole = whole && in
			}
			if !whole {
				missing++
			}
			for i, x := range m.reflinks.all {
				if x.start < p.Idx+uint64(size) && p.Idx < x.end {
					want[i]++
				}
			}
		}
		if c.report.ByID[idReflinkPToMissingReflinkV] != missing {
			t.Fatalf("%d references to nothing, want %d", c.report.Total, missing)
		}
		for i, x := range m.reflinks.all {
			x.stored = uint64(want[i])
		}
		before := c.report.Total
		m.checkRefcounts()
		if c.report.Total != before {
			t.Fatalf("%v, want %v", c.current, want)
		}
	})
}

// TestJournalGaps looks for entries that are missing among those to be replayed.
func TestJournalGaps(t *testing.T) {
	for _, tt := range []struct {
		replay    []uint64
		blacklist journal.Blacklist
		want      string
	}{
		{[]uint64{5, 6, 7}, nil, ""},
		{[]uint64{6, 7}, nil, "5-5"},
		{[]uint64{5, 7}, nil, "6-6"},
		{[]uint64{5, 7}, journal.NewBlacklist(ondisk.SeqRange{Start: 6, End: 7}), ""},
		{[]uint64{5, 1 << 60}, journal.NewBlacklist(ondisk.SeqRange{Start: 7, End: 1 << 60}), "6-6"},
		{[]uint64{5, 20}, journal.NewBlacklist(ondisk.SeqRange{Start: 1, End: 9}, ondisk.SeqRange{Start: 15, End: 40}), "9-14"},
		{nil, nil, "no usable entry"},
	} {
		c := &checker{opts: Options{MaxFindings: 1000}, report: Report{ByID: map[ondisk.ErrorID]int{}}, silent: func(ondisk.ErrorID) bool { return false }}
		var s journal.Selection
		for _, seq := range tt.replay {
			s.Replay = append(s.Replay, &journal.Candidate{Seq: seq})
			s.Flush = seq
		}
		s.LastSeq = 5
		c.findGaps(&s, tt.blacklist)
		got := ""
		for _, f := range c.current {
			got += f.Text
		}
		if (tt.want == "") != (got == "") || !strings.Contains(got, tt.want) || len(c.current) > 1 {
			t.Errorf("%v: %q, want %q", tt.replay, got, tt.want)
		}
	}
}

// TestTreePlaces compares tests of ancestry by intervals with walking up.
func TestTreePlaces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Uint32Range(1, 12).Draw(t, "nodes")
		tr := &trees{snapshots: map[uint32]ondisk.Snapshot{}}
		for id := uint32(1); id <= n; id++ {
			tr.snapshots[id] = ondisk.Snapshot{Parent: rapid.Uint32Range(0, n+2).Draw(t, fmt.Sprint("parent of ", id))}
		}
		tr.number()
		for d := uint32(0); d <= n+1; d++ {
			for a := uint32(0); a <= n+1; a++ {
				want, at := false, d
				for {
					s, ok := tr.snapshots[at]
					if !ok {
						break
					}
					if want = at == a; want || s.Parent <= at {
						break
					}
					at = s.Parent
				}
				if tr.isAncestor(d, a) != want {
					t.Fatalf("is %d above %d: %v, want %v; %v", a, d, !want, want, tr.snapshots)
				}
			}
		}
	})
}
