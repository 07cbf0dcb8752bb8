package journal

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// candidates makes a journal of a description: "5f2" is entry 5, a flush entry with last_seq 2; "6n" a no-flush entry; "7b" one
// with a wrong checksum, of which nothing else is known.
func candidates(t testing.TB, desc string) []*Candidate {
	t.Helper()
	var all []*Candidate
	for _, f := range strings.Fields(desc) {
		i := strings.IndexAny(f, "fnb")
		if i < 0 {
			t.Fatalf("entry %q: want f, n or b in it", f)
		}
		num := func(s string) (n uint64) {
			for _, c := range s {
				n = n*10 + uint64(c-'0')
			}
			return n
		}
		all = append(all, &Candidate{Seq: num(f[:i]), Flush: f[i] == 'f', Good: f[i] != 'b', LastSeq: num(f[i+1:])})
	}
	return all
}

func TestSelect(t *testing.T) {
	for _, tt := range []struct {
		name, found string
		blacklist   Blacklist
		replay      []uint64
		last, flush uint64
		highest     uint64
		ignored     int
		problems    int
	}{
		{name: "nothing", found: ""},
		{name: "one", found: "1f1", replay: []uint64{1}, last: 1, flush: 1, highest: 1},
		{name: "old ones are not needed", found: "1f1 2f1 3f3 4f3", replay: []uint64{3, 4}, last: 3, flush: 4, highest: 4},
		{name: "order does not matter", found: "4f3 1f1 3f3 2f1", replay: []uint64{3, 4}, last: 3, flush: 4, highest: 4},
		{name: "no-flush at the end is dropped", found: "1f1 2n 3n", replay: []uint64{1}, last: 1, flush: 1, highest: 3, ignored: 2},
		{name: "no-flush in between counts", found: "1f1 2n 3f1", replay: []uint64{1, 2, 3}, last: 1, flush: 3, highest: 3},
		{name: "torn last write", found: "1f1 2f1 3b", replay: []uint64{1, 2}, last: 1, flush: 2, highest: 3, ignored: 1},
		{name: "two bad at the end", found: "1f1 2f1 3b 4b", replay: []uint64{1, 2}, last: 1, flush: 2, highest: 4, ignored: 2},
		{name: "bad in between", found: "1f1 2b 3f1", replay: []uint64{1, 3}, last: 1, flush: 3, highest: 3, problems: 1},
		{name: "bad and not needed", found: "1b 2f2", replay: []uint64{2}, last: 2, flush: 2, highest: 2},
		{name: "gap", found: "1f1 4f1", replay: []uint64{1, 4}, last: 1, flush: 4, highest: 4, problems: 1},
		{name: "gap at the start", found: "4f2", replay: []uint64{4}, last: 2, flush: 4, highest: 4, problems: 1},
		{name: "blacklisted gap is none", found: "1f1 14f1", blacklist: Blacklist{{Start: 2, End: 14}},
			replay: []uint64{1, 14}, last: 1, flush: 14, highest: 14},
		{name: "gap beside a blacklisted range", found: "1f1 15f1", blacklist: Blacklist{{Start: 3, End: 14}},
			replay: []uint64{1, 15}, last: 1, flush: 15, highest: 15, problems: 2},
		{name: "blacklisted no-flush entries are ignored", found: "1f1 2n 3n 14f1", blacklist: Blacklist{{Start: 2, End: 14}},
			replay: []uint64{1, 14}, last: 1, flush: 14, highest: 14},
		{name: "blacklisted flush entry", found: "1f1 2f1 14f1", blacklist: Blacklist{{Start: 2, End: 14}},
			replay: []uint64{1, 14}, last: 1, flush: 14, highest: 14, problems: 1},
		{name: "newest flush entry is blacklisted", found: "1f1 2f1 3f3 4n", blacklist: Blacklist{{Start: 3, End: 14}},
			replay: []uint64{1, 2}, last: 1, flush: 2, highest: 4, ignored: 2},
		{name: "last_seq ahead of seq", found: "1f1 2f9", replay: []uint64{2}, last: 2, flush: 2, highest: 2, problems: 1},
		{name: "no flush entry at all", found: "3n 4n", replay: []uint64{4}, last: 4, flush: 4, highest: 4, problems: 1},
		{name: "nothing good", found: "3b 4b", highest: 4, problems: 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := Select(candidates(t, tt.found), tt.blacklist, false)
			var replay []uint64
			for _, c := range s.Replay {
				replay = append(replay, c.Seq)
			}
			got := []any{replay, s.LastSeq, s.Flush, s.Highest, s.Ignored}
			want := []any{tt.replay, tt.last, tt.flush, tt.highest, tt.ignored}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("journal %q: -want +got (replay, last_seq, flush, highest, ignored):\n%s", tt.found, d)
			}
			if tt.ignored == 0 && len(s.Problems) != tt.problems {
				t.Errorf("journal %q: %d problems, want %d: %q", tt.found, len(s.Problems), tt.problems, s.Problems)
			}
		})
	}
}

func TestBlacklist(t *testing.T) {
	b := NewBlacklist(ondisk.SeqRange{Start: 8, End: 16}, ondisk.SeqRange{Start: 2, End: 5}, ondisk.SeqRange{Start: 5, End: 7},
		ondisk.SeqRange{Start: 9, End: 10}, ondisk.SeqRange{Start: 30, End: 30})
	if d := cmp.Diff(Blacklist{{Start: 2, End: 7}, {Start: 8, End: 16}}, b); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	for seq := range uint64(20) {
		want := seq >= 2 && seq < 7 || seq >= 8 && seq < 16
		if b.Contains(seq) != want {
			t.Errorf("Contains(%d) = %v", seq, !want)
		}
	}
	holes := slices.Collect(b.holes(0, 20))
	if d := cmp.Diff([]ondisk.SeqRange{{Start: 0, End: 2}, {Start: 7, End: 8}, {Start: 16, End: 20}}, holes); d != "" {
		t.Errorf("holes: -want +got:\n%s", d)
	}
}

// A long blacklist and a long journal are no trouble together.
func TestSelectMany(t *testing.T) {
	var found []*Candidate
	var ranges []ondisk.SeqRange
	const n = 200000
	for i := range uint64(n) {
		found = append(found, &Candidate{Seq: 1 + 2*i, LastSeq: 1, Flush: true, Good: true})
		ranges = append(ranges, ondisk.SeqRange{Start: 2 + 2*i, End: 3 + 2*i})
	}
	start := time.Now()
	s := Select(found, NewBlacklist(ranges...), false)
	if len(s.Replay) != n || len(s.Problems) != 0 || time.Since(start) > 20*time.Second {
		t.Errorf("%d entries, problems %q, in %v", len(s.Replay), s.Problems, time.Since(start))
	}
}

func TestOverlay(t *testing.T) {
	key := func(offset uint64, typ ondisk.KeyType, lo uint64, val ...byte) ondisk.Key {
		return ondisk.Key{Type: typ, Pos: ondisk.Pos{Offset: offset}, Version: ondisk.Version{Lo: lo}, Val: append(val, make([]byte, 8-len(val))...)}
	}
	var b OverlayBuilder
	b.Add(ondisk.BtreeInodes, 0, key(7, ondisk.KeyInodeV3, 1))
	b.Add(ondisk.BtreeInodes, 0, key(3, ondisk.KeyInodeV3, 2))
	b.Add(ondisk.BtreeInodes, 0, key(7, ondisk.KeyDeleted, 3))
	b.Add(ondisk.BtreeInodes, 1, key(9, ondisk.KeyBtreePtrV2, 4))
	b.Add(ondisk.BtreeInodes, 9, key(9, ondisk.KeyBtreePtrV2, 4))
	b.Add(200, 0, key(9, ondisk.KeyBtreePtrV2, 4))
	b.Add(ondisk.BtreeAccounting, 0, key(1, ondisk.KeyAccounting, 20, 2))
	b.Add(ondisk.BtreeAccounting, 0, key(1, ondisk.KeyAccounting, 10, 1))
	o := b.Build()
	if got := o.Keys(ondisk.BtreeInodes, 0); len(got) != 2 || got[0].Pos.Offset != 3 || got[1].Type != ondisk.KeyDeleted {
		t.Errorf("inodes: %v", got)
	}
	if got := o.From(ondisk.BtreeInodes, 0, ondisk.Pos{Offset: 4}); len(got) != 1 || got[0].Pos.Offset != 7 {
		t.Errorf("inodes from 4: %v", got)
	}
	if got := o.Deltas(); len(got) != 2 || got[0].Version.Lo != 10 || got[1].Version.Lo != 20 {
		t.Errorf("deltas: %v", got)
	}
	sum := AddDelta(AddDelta(ondisk.Key{}, o.Deltas()[0]), o.Deltas()[1])
	if sum.Val[0] != 3 || sum.Version.Lo != 20 {
		t.Errorf("sum: %v", sum)
	}
	if o.Len() != 5 {
		t.Errorf("Len = %d, want 5", o.Len())
	}
	var none *Overlay
	if none.Len() != 0 || none.Keys(1, 0) != nil || none.DeltasFrom(ondisk.PosMin) != nil {
		t.Error("nil overlay is not empty")
	}
}
