package journal

import (
	"iter"
	"slices"
	"sort"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// Blacklist is a set of sequence numbers that never happened: sorted ranges that neither overlap nor touch, ends exclusive.
// Entries and bsets with such numbers are ignored.
type Blacklist []ondisk.SeqRange

// NewBlacklist unites ranges in any order; empty ones are dropped.
func NewBlacklist(ranges ...ondisk.SeqRange) Blacklist {
	sorted := slices.DeleteFunc(slices.Clone(ranges), func(r ondisk.SeqRange) bool { return r.Start >= r.End })
	slices.SortFunc(sorted, func(a, b ondisk.SeqRange) int {
		switch {
		case a.Start < b.Start:
			return -1
		case a.Start > b.Start:
			return 1
		}
		return 0
	})
	var merged Blacklist
	for _, r := range sorted {
		if n := len(merged); n > 0 && r.Start <= merged[n-1].End {
			merged[n-1].End = max(merged[n-1].End, r.End)
			continue
		}
		merged = append(merged, r)
	}
	return merged
}

// Contains reports whether seq is blacklisted.
func (b Blacklist) Contains(seq uint64) bool {
	i := sort.Search(len(b), func(i int) bool { return b[i].End > seq })
	return i < len(b) && b[i].Start <= seq
}

// holes yields the parts of [from, to) that are not blacklisted.
func (b Blacklist) holes(from, to uint64) iter.Seq[ondisk.SeqRange] {
	return func(yield func(ondisk.SeqRange) bool) {
		i := sort.Search(len(b), func(i int) bool { return b[i].End > from })
		for ; i < len(b) && from < to && b[i].Start < to; i++ {
			r := b[i]
			if from < r.Start && !yield(ondisk.SeqRange{Start: from, End: r.Start}) {
				return
			}
			from = r.End
		}
		if from < to {
			yield(ondisk.SeqRange{Start: from, End: to})
		}
	}
}
