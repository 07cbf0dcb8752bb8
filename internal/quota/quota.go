// Package quota counts what users, groups and projects have in a filesystem, in sectors and inodes, and keeps them within their limits.
//
// # What counts
//
// An inode counts for its owner, its group and its project as the main subvolume of its snapshot tree sees it, once, with the sectors that it says it
// has (spec/05 § 13). Snapshots cost nobody anything, nor what was changed in them. Only limits are stored, in the btree quotas, and how long somebody may be over a
// soft limit, in the superblock. Usage is counted anew when a filesystem is opened, and after a main subvolume was deleted ([Quotas.Recount]); how long somebody
// is over a soft limit is forgotten when it is closed.
//
// # Exactness
//
// What a transaction adds is taken when it asks, so that no two get the same remainder, and given back if the transaction restarts or fails; what it frees
// is free once it is committed.
//
// # Concurrency
//
// Methods are safe for concurrent use. There is one lock, held for moments and never while anything is read or written; it comes after all locks of btrees. With
// no type of quotas enabled there are no hooks, and nothing costs anything.
package quota

import (
	"context"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// Types is a set of types of quotas.
type Types uint8

// NewTypes returns a set.
func NewTypes(all ...ondisk.QuotaType) (t Types) {
	for _, q := range all {
		t |= 1 << q
	}
	return t
}

// TypesOf returns the types that are enabled in a superblock: options usrquota, grpquota and prjquota, which options of a mount can override.
func TypesOf(sb *ondisk.Superblock) (t Types) {
	for q, name := range [ondisk.NumQuotaTypes]string{"usrquota", "grpquota", "prjquota"} {
		if o, ok := ondisk.FindOption(name); ok && sb.Option(o) != 0 {
			t |= 1 << q
		}
	}
	return t
}

// Has reports whether a type is in the set.
func (t Types) Has(q ondisk.QuotaType) bool { return q < ondisk.NumQuotaTypes && t>>q&1 != 0 }

// Counter is one of the two things that are counted.
type Counter uint8

// Counters, in the order of the format.
const (
	Space Counter = iota // sectors
	Inodes
	numCounters
)

func (c Counter) String() string { return [numCounters]string{"sectors", "inodes"}[c] }

// Snapshots is the table of snapshots; *engine.Snapshots is one.
type Snapshots interface {
	Get(id uint32) (ondisk.Snapshot, bool)
	// IsAncestor reports whether a is d or an ancestor of d.
	IsAncestor(a, d uint32) bool
}

// Config is what Quotas need of their filesystem.
type Config struct {
	Store     *trans.Store
	Snapshots Snapshots
	// Enabled are the types that are counted and limited.
	Enabled Types
	// Superblock returns the superblock as it is now, UpdateSuper changes it.
	Superblock  func() *ondisk.Superblock
	UpdateSuper func(ctx context.Context, change func(sb *ondisk.Superblock) error) error
	// Now is the time in nanoseconds since 1970.
	Now func() int64
}

// Quotas are those of one filesystem that is open for writing.
type Quotas struct {
	cfg Config

	counting sync.Mutex // one counts at a time
	takings  sync.Pool  // of *taking

	mu     sync.Mutex
	tables [ondisk.NumQuotaTypes]table
	count  *count // in progress
}

// DefaultGrace is for how long one may be over a soft limit unless the superblock says otherwise.
const DefaultGrace = 7 * 24 * time.Hour

// New returns the quotas of a filesystem, for which [Quotas.Load] has to be called before anything is changed through the hooks.
func New(cfg Config) *Quotas {
	q := &Quotas{cfg: cfg}
	for i := range q.tables {
		q.tables[i] = table{accounts: map[uint32]*account{}, grace: [numCounters]time.Duration{DefaultGrace, DefaultGrace}}
	}
	return q
}

// Enabled returns the types that are counted and limited.
func (q *Quotas) Enabled() Types { return q.cfg.Enabled }

// Load reads the limits and counts what everybody has. The superblock gets its section on quotas, if it has none, as the driver does.
func (q *Quotas) Load(ctx context.Context) error {
	if q.cfg.Enabled == 0 {
		return nil
	}
	grace, err := q.cfg.Superblock().Quota()
	if err != nil {
		return err
	}
	if grace == nil {
		if err := q.updateGrace(ctx, func(*[ondisk.NumQuotaTypes]ondisk.QuotaLimits) {}); err != nil {
			return err
		}
	} else {
		q.setGrace(grace)
	}
	if err := q.loadLimits(ctx); err != nil {
		return err
	}
	return q.Recount(ctx)
}

// loadLimits reads the btree. Keys of types or ids that cannot be are not looked at: they limit nobody.
func (q *Quotas) loadLimits(ctx context.Context) error {
	return q.cfg.Store.View(ctx, func(tx *trans.Tx) error {
		return tx.Scan(ondisk.BtreeQuotas, ondisk.PosMin, ondisk.SPosMax, 0, func(k ondisk.Key, _ ondisk.Pos) (bool, error) {
			if typ := ondisk.QuotaType(k.Pos.Inode); k.Type == ondisk.KeyQuota && q.cfg.Enabled.Has(typ) && k.Pos.Offset>>32 == 0 {
				limits, err := ondisk.DecodeQuota(k)
				if err != nil {
					return false, err
				}
				q.setLimits(typ, uint32(k.Pos.Offset), &limits)
			}
			return true, nil
		})
	})
}

// Error is the answer to what would bring somebody over a limit. It unwraps to EDQUOT.
type Error struct {
	Type    ondisk.QuotaType
	ID      uint32
	Counter Counter
	Limit   uint64
	// Hard: Limit is the hard one; else it is the soft one, and the time is over for which it may be exceeded.
	Hard bool
}

func (e *Error) Error() string {
	kind := "soft limit, exceeded for too long,"
	if e.Hard {
		kind = "limit"
	}
	return fmt.Sprintf("quota of %s %d: the %s is %d %v", typeName(e.Type), e.ID, kind, e.Limit, e.Counter)
}

// Unwrap returns EDQUOT.
func (e *Error) Unwrap() error { return syscall.EDQUOT }

func typeName(t ondisk.QuotaType) string {
	return [ondisk.NumQuotaTypes]string{"user", "group", "project"}[t]
}

// Errors of the methods that ask for and set limits.
var (
	// ErrOff means that a type is not enabled.
	ErrOff = fmt.Errorf("quotas of this type are not enabled: %w", syscall.ESRCH)
	// ErrType means that there is no such type.
	ErrType = fmt.Errorf("no such type of quotas: %w", syscall.EINVAL)
)

// unlimited is the key of a value in contexts.
type unlimited struct{}

// Unlimited returns a context for changes by somebody whom limits do not bind (CAP_SYS_RESOURCE). They are counted all the same.
func Unlimited(ctx context.Context) context.Context {
	return context.WithValue(ctx, unlimited{}, true)
}
