package fsck

import (
	"context"
	"slices"

	"github.com/go-bcachefs/bcachefs/internal/journal"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// checkJournal looks at what opening found of the journal: are all entries there that are needed, and are their records sound? Of a
// filesystem that was shut down properly: does the journal end where the superblock says, and with an entry that changes nothing?
func (c *checker) checkJournal(ctx context.Context) error {
	fs, ok := c.fs.(journaled)
	if !ok {
		c.note("the filesystem is in use: its journal was not checked")
		return nil
	}
	contents := fs.Journal()
	for _, p := range contents.Problems {
		c.nowhere(idIn(p), "leave it out when replaying", "%s", p)
	}
	switch {
	case !c.sb.Initialized():
		c.note("the filesystem was formatted but never mounted: there is nothing to check yet")
		return nil
	case c.sb.IsClean():
		return c.checkCleanJournal(ctx, fs)
	}
	ranges, err := c.sb.Blacklist()
	if err != nil {
		c.nowhere(NoID, "write the superblock anew", "superblock: %v", err)
	}
	c.findGaps(&contents.Selection, journal.NewBlacklist(append(ranges, contents.Blacklist...)...))
	return nil
}

// findGaps tells which of the needed entries are not there, or cannot be used.
func (c *checker) findGaps(s *journal.Selection, blacklist journal.Blacklist) {
	if len(s.Replay) == 0 {
		c.nowhere(idDirtyButNoEntries, "look for btree nodes on the devices", "not shut down properly, but the journal holds no usable entry")
		return
	}
	missing := func(from, to uint64) { // to is exclusive
		if from >= to {
			return
		}
		for _, r := range blacklist { // in order: whole entries of it are no wonder
			switch {
			case r.End <= from:
			case r.Start <= from:
				from = r.End
			case r.End >= to && r.Start < to:
				to = r.Start
			}
		}
		if from < to {
			c.nowhere(idJournalEntriesMissing, "go on without", "journal entries %d-%d are missing or damaged, replaying %d-%d: "+
				"their changes are lost", from, to-1, s.LastSeq, s.Flush)
		}
	}
	want := s.LastSeq
	for _, e := range s.Replay {
		missing(want, e.Seq)
		want = e.Seq + 1
	}
	missing(want, s.Flush+1)
}

// checkCleanJournal compares the clean section with the newest entry of the journal.
func (c *checker) checkCleanJournal(ctx context.Context, fs journaled) error {
	clean, err := c.sb.Clean()
	switch {
	case err != nil:
		c.nowhere(NoID, "replay the journal", "superblock: %v", err)
		return nil
	case clean == nil:
		c.nowhere(idSBCleanMissing, "replay the journal", "marked clean, but the superblock has no clean section")
		return nil
	}
	found, err := fs.ScanJournal(ctx)
	if err != nil {
		if ctx.Err() == nil {
			c.note("%v: the journal of this clean filesystem was not checked", err)
		}
		return ctx.Err()
	}
	ranges, err := c.sb.Blacklist()
	if err != nil {
		c.nowhere(NoID, "write the superblock anew", "superblock: %v", err)
	}
	s := journal.Select(found.Candidates, journal.NewBlacklist(ranges...), true)
	if s.Flush == 0 { // its place may have been discarded, or its device is missing
		return nil
	}
	missing := slices.ContainsFunc(c.devices, func(d Device) bool { return d.SB == nil })
	switch {
	case missing && s.Flush < clean.JournalSeq: // newer ones may be on the device that is missing
	case s.Flush != clean.JournalSeq:
		c.nowhere(idSBCleanJournalSeqMismatch, "replay the journal", "the clean section is of journal entry %d, the newest is %d",
			clean.JournalSeq, s.Flush)
	case s.LastSeq != s.Flush:
		c.nowhere(idCleanButJournalNotEmpty, "replay the journal", "marked clean, but the newest journal entry, %d, needs those from %d on",
			s.Flush, s.LastSeq)
	}
	return nil
}

var _ journaled = Engine{}
var _ Filesystem = Engine{}

// initialized reports whether there are btrees to check.
func (c *checker) initialized() bool { return c.sb.Initialized() }

// keyVersionKnown returns the greatest key version that was given out.
func (c *checker) keyVersionKnown() (uint64, bool) {
	v, ok := c.fs.KeyVersion()
	return v, ok && c.version >= ondisk.VersionMinMount
}
