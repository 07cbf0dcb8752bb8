package alloc

import "sync/atomic"

type counter = atomic.Int64

// counters count what the allocator did.
type counters struct {
	opened, waited, degraded, journalFlushes, inconsistent                                    counter
	earlySearches, freelistSearches                                                           counter
	rejectedState, rejectedOpen, rejectedJournal, rejectedReserved, rejectedBackpointer       counter
	discarded, discardSkippedOpen, discardSkippedJournal, invalidated, gcGensRuns, gcGensKeys counter
}

// Stats are counters since the allocator was made.
type Stats struct {
	Opened           int64 // buckets
	Waited           int64 // requests that found no space at first
	Degraded         int64 // requests that got fewer replicas than wanted for lack of space
	JournalFlushes   int64 // for want of buckets that wait for the journal
	Inconsistent     int64 // contradictions found
	EarlySearches    int64
	FreelistSearches int64
	// Candidates that were passed over, and why: not free any more, open, waiting for the journal, superblock or journal or kept
	// back, having backpointers.
	RejectedState, RejectedOpen, RejectedJournal, RejectedReserved, RejectedBackpointer int64

	Discarded             int64 // buckets that were made free
	DiscardSkippedOpen    int64
	DiscardSkippedJournal int64
	Invalidated           int64 // buckets of cached data that were given up
	GCGensRuns            int64
	GCGensKeys            int64 // alloc keys that got a newer oldest generation

	Workers []WorkerStats
}

// WorkerStats are counters of a worker.
type WorkerStats struct {
	Name                     string
	Running                  bool
	Rounds, Progress, Errors int64
}

// Stats returns the counters.
func (a *Allocator) Stats() Stats {
	c := &a.stats
	s := Stats{
		Opened: c.opened.Load(), Waited: c.waited.Load(), Degraded: c.degraded.Load(), JournalFlushes: c.journalFlushes.Load(),
		Inconsistent: c.inconsistent.Load(), EarlySearches: c.earlySearches.Load(), FreelistSearches: c.freelistSearches.Load(),
		RejectedState: c.rejectedState.Load(), RejectedOpen: c.rejectedOpen.Load(), RejectedJournal: c.rejectedJournal.Load(),
		RejectedReserved: c.rejectedReserved.Load(), RejectedBackpointer: c.rejectedBackpointer.Load(),
		Discarded: c.discarded.Load(), DiscardSkippedOpen: c.discardSkippedOpen.Load(), DiscardSkippedJournal: c.discardSkippedJournal.Load(),
		Invalidated: c.invalidated.Load(), GCGensRuns: c.gcGensRuns.Load(), GCGensKeys: c.gcGensKeys.Load(),
	}
	for _, w := range a.workers() {
		w.mu.Lock()
		running := w.running
		w.mu.Unlock()
		s.Workers = append(s.Workers, WorkerStats{w.name, running, w.rounds.Load(), w.progress.Load(), w.errors.Load()})
	}
	return s
}
