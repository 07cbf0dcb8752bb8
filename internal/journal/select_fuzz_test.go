package journal

import (
	"encoding/binary"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// FuzzSelect: of whatever candidates what is replayed is ascending, good, not blacklisted and up to the newest flush.
func FuzzSelect(f *testing.F) {
	f.Add([]byte{}, []byte{})
	f.Add(append(binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, 5), 3), 3), make([]byte, 16))
	f.Fuzz(func(t *testing.T, cands, black []byte) {
		var ranges []ondisk.SeqRange
		for ; len(black) >= 16 && len(ranges) < 200; black = black[16:] {
			ranges = append(ranges, ondisk.SeqRange{Start: binary.LittleEndian.Uint64(black), End: binary.LittleEndian.Uint64(black[8:])})
		}
		blacklist := NewBlacklist(ranges...)
		for i, r := range blacklist {
			if r.Start >= r.End || i > 0 && r.Start <= blacklist[i-1].End {
				t.Fatalf("blacklist %v", blacklist)
			}
		}
		for _, r := range ranges {
			if r.Start < r.End && (!blacklist.Contains(r.Start) || !blacklist.Contains(r.End-1)) {
				t.Fatalf("%v is not in %v", r, blacklist)
			}
		}
		var found []*Candidate
		seen := map[uint64]bool{} // Scan gives each number once
		for ; len(cands) >= 17 && len(found) < 200; cands = cands[17:] {
			c := &Candidate{Seq: binary.LittleEndian.Uint64(cands), LastSeq: binary.LittleEndian.Uint64(cands[8:]),
				Flush: cands[16]&1 != 0, Good: cands[16]&2 != 0}
			if !seen[c.Seq] {
				found = append(found, c)
			}
			seen[c.Seq] = true
		}
		s := Select(found, blacklist, len(cands)%2 == 0)
		last := false
		for i, c := range s.Replay {
			switch {
			case !c.Good || c.Seq > s.Flush || i > 0 && c.Seq <= s.Replay[i-1].Seq:
				t.Fatalf("%d of %+v", i, s.Replay)
			case c.Flush && blacklist.Contains(c.Seq) && c.Seq != s.Flush:
				t.Fatalf("%d is blacklisted", c.Seq)
			}
			last = c.Seq == s.Flush
		}
		if len(s.Replay) > 0 && !last {
			t.Fatalf("flush entry %d is not replayed", s.Flush)
		}
		if len(s.Problems) > 200 {
			t.Fatalf("%d problems", len(s.Problems))
		}
	})
}
