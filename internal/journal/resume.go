package journal

import (
	"math"
	"slices"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// resumeGap is how many sequence numbers behind the newest entry found are never used, as nodes may have been written with numbers of entries
// that were lost. A writer that is at most [maxInFlight] entries ahead of what is durable needs few; others, that let entries go
// unflushed without bound, need as many as they may have written since the last flush.
const resumeGap = 4096

// Resume says with which sequence numbers writing goes on after a crash.
type Resume struct {
	First     uint64          // of the first new entry
	Added     ondisk.SeqRange // numbers that never happened, to be blacklisted before anything is written
	Blacklist Blacklist       // the old one with these, for [ondisk.Superblock.SetBlacklist] and feature journal_seq_blacklist_v3
}

// Resume tells how to go on after the journal was read because of an unclean shutdown. old is the blacklist so far, that which
// entries recorded included.
func (s *Selection) Resume(old Blacklist) Resume {
	first := s.Highest + 1 + resumeGap
	if first < s.Highest {
		first = math.MaxUint64 // [Start] refuses it
	}
	if n := len(old); n > 0 {
		first = max(first, old[n-1].End)
	}
	r := Resume{First: first, Added: ondisk.SeqRange{Start: s.Flush + 1, End: first}}
	r.Blacklist = NewBlacklist(append(slices.Clone(old), r.Added)...)
	return r
}

// Prune drops ranges of which nothing is left on disk: neither was a bset or an entry with such a number met by one who read all
// nodes, nor do they reach the oldest entry in the journal.
func (b Blacklist) Prune(oldest uint64, met func(ondisk.SeqRange) bool) Blacklist {
	return slices.DeleteFunc(slices.Clone(b), func(r ondisk.SeqRange) bool { return r.End < oldest && !met(r) })
}

// Limits of the number of buckets of a new journal.
const (
	minNewBuckets  = 8
	maxNewBuckets  = 1 << 13
	maxNewSectors  = 1 << 24
	newBucketShare = 128 // one of so many buckets of the device
)

// NewBuckets is how many buckets the journal of a device gets when it is made (bch2_dev_journal_alloc).
func NewBuckets(deviceBuckets, bucketSectors uint64) uint64 {
	most := min(maxNewBuckets, maxNewSectors/max(bucketSectors, 1))
	return min(max(deviceBuckets/newBucketShare, minNewBuckets), max(most, 1))
}

// BucketRanges puts a list of buckets in the form of section journal_v2: the order is that of the ring.
func BucketRanges(buckets []uint64) []ondisk.SeqRange {
	var ranges []ondisk.SeqRange
	for _, b := range buckets {
		if n := len(ranges); n > 0 && ranges[n-1].End == b {
			ranges[n-1].End++
			continue
		}
		ranges = append(ranges, ondisk.SeqRange{Start: b, End: b + 1})
	}
	return ranges
}
