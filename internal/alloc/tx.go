package alloc

import (
	"context"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// ReadFlags say what a read within a transaction locks and sees.
type ReadFlags = trans.ReadFlags

// Flags of reads. Whatever decides that a bucket may be handed out reads with Committed (invariant I3): the claim outlives the
// transaction, its pending updates may not.
const (
	ForUpdate = trans.ForUpdate
	Committed = trans.Committed
	Slots     = trans.Slots
)

// UpdateFlags say how an update within a transaction is made.
type UpdateFlags = trans.UpdateFlags

// Flags of updates. Those that triggers look at are handed on to them. With BucketInvalidate what the bucket's cached pointers held
// leaves the accounting with this update, since pointers that are dropped later no longer count.
const (
	NoTriggers       = trans.NoTriggers
	BucketInvalidate = trans.BucketInvalidate
)

// Tx is what allocation needs of a transaction. It is used by one goroutine. An error of its methods, in particular one that
// demands a restart, is handed on as it is; nothing that was read or done before then counts.
type Tx interface {
	Context() context.Context

	// Get returns the key at exactly pos; in btrees of extents the one that covers the slot at pos (Start ≤ pos < Pos). If there is
	// none, ok is false and the key is of type deleted. In btrees with a key cache the position's slot, filled or empty, is locked
	// (shared; for intent with [ForUpdate]) until the transaction ends. Pending updates of the transaction are seen, but for
	// buffered ones, unless flags has [Committed]. The value must not be changed.
	Get(btree ondisk.BtreeID, pos ondisk.Pos, flags ReadFlags) (k ondisk.Key, ok bool, err error)

	// Scan calls fn for the keys whose positions are from … to, both inclusive, in order, until fn returns false or an error,
	// which it returns. It sees committed state only, fills no slots of key caches and gives up its locks as it moves on: what fn
	// is told may be out of date once fn returns, and whoever decides on it reads it again with Get. In btrees of extents the keys
	// are those that cover slots from … to, whole, though they may begin before and end behind.
	//
	// With [Slots] fn also sees holes: a key of type deleted with the position of the hole's first slot, and in holeEnd the first
	// position behind the hole (at most just behind to). A hole may be reported in pieces. For other keys holeEnd is zero.
	Scan(btree ondisk.BtreeID, from, to ondisk.Pos, flags ReadFlags,
		fn func(k ondisk.Key, holeEnd ondisk.Pos) (more bool, err error)) error

	// Update sets a key, or deletes what is at its position if it is of type deleted. Triggers run at commit. An update of the same
	// position replaces the earlier one. In btrees of extents it replaces what is at its slots: the transaction cuts or splits
	// keys that reach beyond, pending ones too, and in the btree freespace merges keys that abut (which have no value; but genbits
	// differ at multiples of 2^56). The transaction keeps k.Val, which must not be changed any more.
	Update(btree ondisk.BtreeID, k ondisk.Key, flags UpdateFlags) error

	// UpdateBuffered queues an update that is blind to what is there, through the write buffer (lru, backpointers, deleted_inodes,
	// rebalance_work). The transaction keeps k.Val.
	UpdateBuffered(btree ondisk.BtreeID, k ondisk.Key)

	// Account adds deltas to the counters of a position of the accounting btree. Those of the same position add up.
	// deltas is not kept.
	Account(p ondisk.AccountingPos, deltas ...int64)

	// OnCommit registers fn to run in the atomic part of the commit, all locks held, with the sequence number of the commit's
	// journal entry. It must neither fail nor block. A transaction that restarts or is given up forgets it.
	OnCommit(fn func(seq uint64))
}

// An arena is implemented by transactions that have memory to spare for the values of their updates.
type arena interface {
	// Bytes returns n zero bytes that may be used as long as the transaction lives, until it restarts.
	Bytes(n int) []byte
}

// txBytes returns n zero bytes for the value of an update.
func txBytes(tx Tx, n int) []byte {
	if a, ok := tx.(arena); ok {
		return a.Bytes(n)
	}
	return make([]byte, n)
}

// Runner runs fn in transactions, again after each restart, until one commits or fails. fn therefore has no effects but through tx.
type Runner func(ctx context.Context, fn func(tx Tx) error) error
