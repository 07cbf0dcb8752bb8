// Package alloc hands out space: it keeps the state of each bucket, and says who may write where.
//
// # Buckets
//
// A device is divided into buckets. The alloc key of a bucket tells what is in it and counts its sectors; a bucket without a key
// is free. Everything else is derived from alloc keys by triggers, in the same commit: the freespace and need_discard btrees, LRUs,
// generations, counters.
//
// Writing to a bucket begins long before its alloc key says so: first it is chosen, then the data are written, and only the commit that adds a
// pointer to them makes the bucket used. In between it is open: an entry in a table in memory, the [OpenBucket], makes it its
// owner's. Two owners for one bucket are the worst thing that can happen here, and what this package is built around.
//
// # The claim
//
// Two allocators look for free buckets. The freelist allocator walks the freespace btree. The early one walks the alloc btree
// itself, for devices of which freespace does not tell all yet. Both only find candidates: by the time that one is looked at, somebody
// else may have opened it, written to it, committed, and closed it again. So both hand their candidates to one function,
// [Allocator.claim], which does everything that matters while it holds the lock of the key-cache slot of the bucket's alloc key:
// it reads the key, checks that the bucket is free, that it is not open and that it need not wait for the journal, and enters
// it in the table of open buckets.
//
// The invariants have the names by which the tests call them:
//
//	I1  lock, check and claim are one critical section, on the slot where the commit that uses the bucket will land.
//	I2  an open bucket is closed only after the commit that makes the bucket used.
//	I3  what a claim is decided on is committed, not pending in the transaction that the claim is made in.
//	I4  who discards or frees a bucket asks whether it is open only after locking its alloc key.
//	I5  a bucket is reused only once the journal entry that emptied it is on disk.
//	I6  a slot that is absent from the key cache is lockable all the same (see package trans).
//	I7  creating and deleting keys writes through the key cache (see package trans).
//	I8  both allocators go through the same claim.
//	I9  a contradiction that is met all the same is an error that names bucket and owners, never an overwrite.
//
// Why this is enough: to change a bucket from free to used a commit needs its slot exclusively, so it is either before the
// claim's check, which sees that the bucket is not free, or after the bucket was entered in the table. A rival claim sees the table under
// the freelist lock. And as the owner closes the bucket only after its commit, a claim that finds the bucket not open any more finds
// it not free either.
//
// [Fault] switches single protections off, for tests and the demonstration of what they are good for; [Hook] is called at the points
// between which everything may change.
//
// # Locks
//
// In the order in which they are taken:
//
//	lock of a write point   its open buckets and the room in them; held while buckets are looked for
//	locks of btrees         in transactions, the alloc key's slot among them
//	freelist lock           the table of open buckets, the partial list, counters of open buckets
//
// A write point's lock is never taken inside a transaction: requests that come with one ([Request.Tx]) do without a write point.
package alloc
