// Package journal is the write-ahead log: which of its entries count after a crash and what they say, and writing it.
//
// # What counts
//
// Each member has a ring of journal buckets in which entries (struct jset) follow each other with growing sequence numbers. Every
// entry is either a flush entry, of which all that it and its predecessors hold was made durable when it was written, or
// a no-flush entry, that may be ignored. After a crash the newest good flush entry F is where time ended: it names the oldest
// entry that is still needed, last_seq, and the entries last_seq … F are replayed. Whatever is newer never happened, also if
// btree nodes were written with it already; for that the sequence numbers behind F are blacklisted.
//
// [Scan] finds those entries, [Load] turns them into roots and an [Overlay]. [FromClean] does the same from the superblock's
// clean section, for a filesystem that was shut down properly.
//
// # Writing
//
// [Start] opens the journal for writing behind what was found, see [Writer]. What a transaction changes in memory it says in a
// [Reservation] of the open entry; and it pins the entry ([Pin]) until the change is on disk elsewhere. The ring can be used again up to
// the oldest entry that is pinned, once a flush entry on disk says so: that is the only thing that frees space. When space runs low
// the journal has the owners of the oldest pins write what they hold back, and of all reservations it lets only those through that help with
// that ([Watermark]); so it never needs space that only having space would free.
//
// Whatever a crash leaves of what was not flushed, a recovery finds the newest flush entry that was durable, or a newer one, and from
// there back to its last_seq no gap: before a flush entry is written all devices are flushed, and entries are written in order.
//
// # Memory
//
// A journal may be gigabytes, of which little is to be replayed. The scan first peeks at the start of each bucket, then reads only
// those that can hold what counts, keeps of each entry its place and header, and reads the chosen ones again.
//
// # Concurrency
//
// Scan and Load read from several members at once and return when all of that has ended. What they return does not change any
// more and needs no lock. All methods of a Writer may be called concurrently.
package journal

import (
	"fmt"
	"slices"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// Member is a device with journal buckets.
type Member struct {
	Index       uint8
	Device      blockdev.Device
	BucketBytes int64
	Buckets     []uint64 // ring order, as in the device's superblock
}

// Config is what reading a journal needs to know.
type Config struct {
	Members   []Member
	Params    ondisk.JsetParams
	BlockSize int
	Blacklist Blacklist
	// Degraded says that a member with journal may be missing: gaps are then no wonder.
	Degraded bool
	// All has [Scan] read every bucket, to list what is there rather than to replay what counts.
	All bool
}

// Location is where a copy of an entry lies.
type Location struct {
	Member int // index in Config.Members
	Offset int64
	Bytes  int // header and entries, without padding; never more than there may be, whatever a damaged entry says
}

// Candidate is an entry found in the journal.
type Candidate struct {
	Seq, LastSeq uint64
	Flush        bool
	Good         bool // a copy with correct checksum was found; else nothing in it is trusted but the sequence number
	Copies       []Location
}

// Selection is the outcome of choosing among the candidates.
type Selection struct {
	Replay  []*Candidate // ascending
	LastSeq uint64       // oldest needed
	Flush   uint64       // F: the newest entry that counts; 0 if there is none
	Highest uint64       // H: the newest entry found, of whatever kind
	Ignored int          // entries newer than F
	Lost    bool         // of what is needed not all is there
	// Problems found, in words.
	Problems []string
}

// Select chooses the entries to be replayed. The candidates may be in any order and are sorted.
func Select(found []*Candidate, blacklist Blacklist, degraded bool) Selection {
	var s Selection
	slices.SortFunc(found, func(a, b *Candidate) int {
		switch {
		case a.Seq < b.Seq:
			return -1
		case a.Seq > b.Seq:
			return 1
		}
		return 0
	})
	if len(found) == 0 {
		return s
	}
	s.Highest = found[len(found)-1].Seq
	flush := newestFlush(found, blacklist)
	if flush == nil {
		return s.lastResort(found)
	}
	s.Flush, s.LastSeq = flush.Seq, flush.LastSeq
	if s.LastSeq > s.Flush {
		s.problem("journal entry %d says that the oldest needed is %d: taken as itself", s.Flush, s.LastSeq)
		s.LastSeq = s.Flush
	}
	for _, c := range found {
		switch {
		case c.Seq > s.Flush:
			s.Ignored++
			switch {
			case c.Flush && !c.Good:
				s.problem("journal entry %d has a wrong checksum: taken for a torn last write, ignored", c.Seq)
			case c.Flush:
				s.problem("journal entry %d is blacklisted: ignored", c.Seq)
			}
		case c.Seq < s.LastSeq:
		case blacklist.Contains(c.Seq):
			if c.Flush {
				s.problem("journal entry %d is blacklisted: ignored", c.Seq)
			}
		case !c.Good:
			s.Lost = true
			s.problem("journal entry %d is needed but has a wrong checksum: its changes are lost", c.Seq)
		default:
			s.Replay = append(s.Replay, c)
		}
	}
	s.findGaps(found, blacklist, degraded)
	return s
}

// newestFlush is the newest flush entry with a good copy that is not blacklisted. A bad entry's flags are not trusted, so bad ones
// never count, however many there are.
func newestFlush(found []*Candidate, blacklist Blacklist) *Candidate {
	for _, c := range slices.Backward(found) {
		if c.ends(blacklist) {
			return c
		}
	}
	return nil
}

// ends reports whether time may have ended with the entry.
func (c *Candidate) ends(blacklist Blacklist) bool {
	return c.Flush && c.Good && !blacklist.Contains(c.Seq)
}

// lastResort is what to do without any flush entry: the newest good one alone tells at least the roots.
func (s Selection) lastResort(found []*Candidate) Selection {
	s.Lost = true
	for _, c := range slices.Backward(found) {
		if c.Good {
			s.problem("no journal entry was flushed: entry %d alone is used", c.Seq)
			s.Replay = []*Candidate{c}
			s.Flush, s.LastSeq = c.Seq, c.Seq
			return s
		}
	}
	s.problem("no journal entry has a correct checksum")
	return s
}

func (s *Selection) findGaps(found []*Candidate, blacklist Blacklist, degraded bool) {
	want := s.LastSeq
	gap := func(from, to uint64) { // to is exclusive
		note := ""
		if degraded {
			note = " (a device with journal may be missing)"
		}
		for r := range blacklist.holes(from, to) {
			s.Lost = true
			s.problem("journal entries %d-%d are missing%s: their changes are lost", r.Start, r.End-1, note)
		}
	}
	for _, c := range found {
		if c.Seq < want || c.Seq > s.Flush {
			continue
		}
		gap(want, c.Seq)
		want = c.Seq + 1
	}
}

func (s *Selection) problem(format string, args ...any) {
	const maxProblems = 100 // a hostile journal shall not fill memory with complaints
	if len(s.Problems) < maxProblems {
		s.Problems = append(s.Problems, fmt.Sprintf(format, args...))
	}
}
