package alloc

import (
	"fmt"
	"sync"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// TriggerFlags tell a trigger which sides of a change it is to process, and how the change is made.
type TriggerFlags uint8

// Flags of triggers.
const (
	// TriggerInsert processes the new key, TriggerOverwrite the old one.
	TriggerInsert TriggerFlags = 1 << iota
	TriggerOverwrite
	// TriggerBucketInvalidate is set for updates made with [BucketInvalidate].
	TriggerBucketInvalidate
)

// Claim says how the allocator holds a bucket.
type Claim uint8

// States of a bucket in the table of open buckets.
const (
	NotClaimed Claim = iota // not open
	// ClaimFresh is a bucket that is open, and that was free when it was opened: no alloc key counts yet what was written to it.
	ClaimFresh
	// ClaimFilled is a bucket that is open and in which a commit has counted data since.
	ClaimFilled
)

// Claims is the table of open buckets as triggers see it.
type Claims interface {
	// Claim returns the state of a bucket, as of under the table's lock. The caller holds the lock of the bucket's alloc key.
	Claim(dev uint8, b ondisk.Bucket) Claim
	// Filled is told in the atomic part of a commit that the alloc key of an open bucket has become one in use.
	Filled(dev uint8, b ondisk.Bucket)
	// Emptied is told in the atomic part of a commit that the alloc key of a bucket has become empty, with the entry that must be on disk
	// before the bucket is written to again; 0 if none.
	Emptied(dev uint8, b ondisk.Bucket, seq uint64)
}

// Snapshots is what triggers need to know of the tree of snapshots.
type Snapshots interface {
	// Parent returns the parent of a snapshot; 0 for roots and unknown ones.
	Parent(id uint32) uint32
	// IsAncestor reports whether a is d or an ancestor of d.
	IsAncestor(a, d uint32) bool
	// HasChildren reports whether a snapshot is an interior one.
	HasChildren(id uint32) bool
}

// TargetFunc reports whether a device belongs to a target, and whether the target exists and has devices that accept data.
type TargetFunc func(target uint16, dev uint8) (in, usable bool)

// TriggerConfig is what triggers need to know of their filesystem. Functions that are nil are not called.
type TriggerConfig struct {
	Version        ondisk.MetadataVersion
	Devices        *Devices
	NodeSectors    uint32 // of a btree node
	ExtentTypeU64s ondisk.ExtentTypeU64s

	// Clock returns the clock of reads (0) or writes (1), in sectors of I/O done.
	Clock func(rw int) uint64
	// Claims; nil: no bucket is open, and none needs to be.
	Claims Claims
	// Snapshots; nil: there is only one.
	Snapshots Snapshots
	Target    TargetFunc
	// IndexTrusted reports whether freespace and need_discard agree with the alloc keys: recovery has passed check_alloc_info. nil: they do.
	IndexTrusted func() bool
	// Report is told of contradictions that do not keep a change from being made: those about keys that go away.
	Report func(error)

	// Became is told in the atomic part of a commit that the data type of a bucket changed. It must not block.
	Became func(dev uint8, b ondisk.Bucket, old, now ondisk.DataType)
}

// Triggers makes of the change of a key the changes of other keys that it entails: of extents those of the alloc keys of their buckets,
// of alloc keys those of the indexes of buckets, of all the accounting (spec/04 § 6). Its methods are safe for concurrent use.
type Triggers struct {
	cfg     TriggerConfig
	scratch sync.Pool
}

// scratch is memory of one call of a trigger: what is handed to a [Tx] would be allocated otherwise.
type scratch struct {
	ptrs   [ondisk.MaxExtentPtrs + 4]ondisk.DecodedPtr
	deltas [maxCounters]int64
	absent ondisk.Key // stands for the side of a change that is not looked at
}

// NewTriggers returns the triggers of a filesystem, or why filesystems of its version cannot be written.
func NewTriggers(cfg TriggerConfig) (*Triggers, error) {
	if err := CheckVersion(cfg.Version); err != nil {
		return nil, err
	}
	return &Triggers{cfg: cfg, scratch: sync.Pool{New: func() any { return new(scratch) }}}, nil
}

// versionWritten is the version whose rules the triggers follow.
const versionWritten = ondisk.VersionDefault

// CheckVersion reports why filesystems of a version cannot be written: a key that was changed without what the version wants changed
// along with it would be damage.
func CheckVersion(v ondisk.MetadataVersion) error {
	switch {
	case v < versionWritten:
		return fmt.Errorf("version %v cannot be written: it has to be upgraded to %v first, which counts all space anew", v, versionWritten)
	case v > versionWritten:
		for _, d := range laterRules {
			if v >= d.since {
				return fmt.Errorf("version %v cannot be written, only %v can: since %v %s", v, versionWritten, d.since, d.what)
			}
		}
	}
	return nil
}

// laterRules are the differences to versionWritten that are not implemented, the first of each version. Whoever adds one
// finds the code by the name of the structure.
var laterRules = []struct {
	since ondisk.MetadataVersion
	what  string
}{
	{1<<10 | 14, "backpointers hold the generation of the bucket"},
	{1<<10 | 15, "positions of the accounting btree are big endian"},
	{1<<10 | 20, "alloc keys keep the journal entry that emptied the bucket"},
	{1<<10 | 21, "cached pointers have backpointers"},
	{1<<10 | 22, "stripes have backpointers"},
	{1<<10 | 23, "stripes stand in an LRU"},
	{1<<10 | 31, "accounting of btrees counts nodes"},
	{1<<10 | 33, "reconcile has taken the place of rebalance"},
	{1<<10 | 35, "alloc keys count stripes, and bucket_to_stripe tells which"},
	{1<<10 | 36, "replicas in the superblock are those of metadata only"},
	{1<<10 | 37, "pointers of removed devices have backpointers of their own"},
	{1<<10 | 38, "need_discard is ordered by journal entry"},
	{1<<10 | 39, "fragmentation LRUs are per device, and accounting of snapshots counts keys"},
}

// triggerKind names the trigger of a key type.
type triggerKind uint8

const (
	triggerNone triggerKind = iota
	triggerAlloc
	triggerExtent // btree pointers too
	triggerReflinkV
	triggerIndirectInline
	triggerReflinkP
	triggerReservation
	triggerInode
	triggerStripe
)

var triggerKinds = [ondisk.NumKeyTypes]triggerKind{
	ondisk.KeyAlloc:              triggerAlloc,
	ondisk.KeyAllocV2:            triggerAlloc,
	ondisk.KeyAllocV3:            triggerAlloc,
	ondisk.KeyAllocV4:            triggerAlloc,
	ondisk.KeyExtent:             triggerExtent,
	ondisk.KeyBtreePtr:           triggerExtent,
	ondisk.KeyBtreePtrV2:         triggerExtent,
	ondisk.KeyReflinkV:           triggerReflinkV,
	ondisk.KeyIndirectInlineData: triggerIndirectInline,
	ondisk.KeyReflinkP:           triggerReflinkP,
	ondisk.KeyReservation:        triggerReservation,
	ondisk.KeyInode:              triggerInode,
	ondisk.KeyInodeV2:            triggerInode,
	ondisk.KeyInodeV3:            triggerInode,
	ondisk.KeyStripe:             triggerStripe,
}

func kindOf(t ondisk.KeyType) triggerKind {
	if t < ondisk.NumKeyTypes {
		return triggerKinds[t]
	}
	return triggerNone
}

// SameTrigger reports whether keys of two types have the same trigger: one call of [Triggers.Transactional] then gets both sides of a
// change, else there are two.
func SameTrigger(a, b ondisk.KeyType) bool { return kindOf(a) == kindOf(b) }

// HasTransactional reports whether changes of keys of the btree at the level have consequences at all.
func HasTransactional(btree ondisk.BtreeID, level uint8) bool {
	if level > 0 {
		return true
	}
	switch btree {
	case ondisk.BtreeExtents, ondisk.BtreeInodes, ondisk.BtreeAlloc, ondisk.BtreeStripes, ondisk.BtreeReflink:
		return true
	}
	return false
}

// Run is [Triggers.Transactional] of both sides of an update that was made with the flags.
func (t *Triggers) Run(tx Tx, btree ondisk.BtreeID, level uint8, old, k *ondisk.Key, flags UpdateFlags) error {
	f := TriggerInsert | TriggerOverwrite
	if flags&BucketInvalidate != 0 {
		f |= TriggerBucketInvalidate
	}
	return t.Transactional(tx, btree, level, old, k, f)
}

// Transactional runs the trigger of a change from old to k, before the transaction takes locks for writing. level is that of the node
// that holds the key, and for the pointers to roots one more than the root's. A key that is not there is one of type deleted with the
// position. Flags say which sides are wanted: those for which [SameTrigger] holds go in one call, others may go in two, the old side
// first.
//
// It makes further updates, and may change k: its type, its size and its value, of which a new one is made.
//
// A commit calls it once for each update, those of the alloc btree after all others, since these change alloc keys. Nodes that come
// into being or go are updates of their pointers.
func (t *Triggers) Transactional(tx Tx, btree ondisk.BtreeID, level uint8, old, k *ondisk.Key, flags TriggerFlags) error {
	if !HasTransactional(btree, level) {
		return nil
	}
	s := t.scratch.Get().(*scratch)
	defer t.scratch.Put(s)
	ok, nk := kindOf(old.Type), kindOf(k.Type)
	const both = TriggerInsert | TriggerOverwrite
	if flags&both == both && ok == nk {
		return t.run(tx, s, ok, btree, level, old, k, flags)
	}
	if flags&TriggerOverwrite != 0 {
		s.absent = ondisk.Key{Type: ondisk.KeyDeleted, Pos: k.Pos}
		if err := t.run(tx, s, ok, btree, level, old, &s.absent, flags&^TriggerInsert); err != nil {
			return err
		}
	}
	if flags&TriggerInsert != 0 {
		s.absent = ondisk.Key{Type: ondisk.KeyDeleted, Pos: k.Pos}
		return t.run(tx, s, nk, btree, level, &s.absent, k, flags&^TriggerOverwrite)
	}
	return nil
}

func (t *Triggers) run(tx Tx, s *scratch, kind triggerKind, btree ondisk.BtreeID, level uint8, old, k *ondisk.Key, flags TriggerFlags) error {
	switch kind {
	case triggerAlloc:
		return t.alloc(tx, s, old, k, flags)
	case triggerExtent:
		return t.extent(tx, s, btree, level, old, k)
	case triggerReflinkV:
		dropUnreferenced(k, flags)
		return t.extent(tx, s, btree, level, old, k)
	case triggerIndirectInline:
		dropUnreferenced(k, flags)
	case triggerReflinkP:
		return t.reflinkP(tx, old, k)
	case triggerReservation:
		return t.reservation(tx, s, old, k)
	case triggerInode:
		return t.inode(tx, s, old, k)
	case triggerStripe:
		return t.stripe(tx, s, old, k)
	}
	return nil
}

// Atomic runs the trigger of a change in the atomic part of its commit: locks are held for writing, seq is the journal entry. It may change
// k's value in place, in fields that depend on seq.
func (t *Triggers) Atomic(btree ondisk.BtreeID, level uint8, old, k *ondisk.Key, seq uint64) {
	if level > 0 {
		return
	}
	switch {
	case btree == ondisk.BtreeAlloc && k.Type == ondisk.KeyAllocV4:
		t.allocAtomic(old, k, seq)
	case btree == ondisk.BtreeInodes && k.Type == ondisk.KeyInodeV3:
		setInodeJournalSeq(k, seq)
	}
}

// account adds to the counters of a position, unless all are zero.
func (s *scratch) account(tx Tx, p ondisk.AccountingPos, deltas ...int64) {
	n := copy(s.deltas[:], deltas)
	if s.deltas[0]|s.deltas[1]|s.deltas[2] != 0 || n == 0 {
		tx.Account(p, s.deltas[:n]...)
	}
	s.deltas = [maxCounters]int64{}
}

// report tells of a contradiction that does not stop the change.
func (t *Triggers) report(err error) {
	if t.cfg.Report != nil {
		t.cfg.Report(err)
	}
}

// now returns the clock of reads (0) or writes (1) as alloc keys have it: never 0, which would mean never.
func (t *Triggers) now(rw int) uint64 {
	if t.cfg.Clock == nil {
		return 1
	}
	return max(1, t.cfg.Clock(rw)&ondisk.LRUTimeMax)
}

func (t *Triggers) indexTrusted() bool { return t.cfg.IndexTrusted == nil || t.cfg.IndexTrusted() }
