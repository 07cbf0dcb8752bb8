package quota

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"syscall"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// Status is what somebody has, and may have.
type Status struct {
	ID     uint32
	Limits ondisk.Quota
	// Sectors and Inodes are in use. What transactions in progress take is not in it.
	Sectors, Inodes uint64
	// SpaceExpires and InodesExpire are when soft limits that are exceeded become hard ones, zero where none is.
	SpaceExpires, InodesExpire time.Time
}

func (a *account) status(id uint32) Status {
	at := func(ns int64) (t time.Time) {
		if ns != 0 {
			t = time.Unix(0, ns)
		}
		return t
	}
	s, i := &a[Space], &a[Inodes]
	return Status{ID: id, Limits: ondisk.Quota{Space: s.limit, Inodes: i.limit}, Sectors: uint64(max(s.used, 0)), Inodes: uint64(max(i.used, 0)),
		SpaceExpires: at(s.expires), InodesExpire: at(i.expires)}
}

// enabled returns why a type cannot be asked about.
func (q *Quotas) enabled(typ ondisk.QuotaType) error {
	switch {
	case typ >= ondisk.NumQuotaTypes:
		return ErrType
	case !q.cfg.Enabled.Has(typ):
		return ErrOff
	}
	return nil
}

// Get returns what somebody has and may have; who has nothing and no limits has a Status of zeros.
func (q *Quotas) Get(typ ondisk.QuotaType, id uint32) (Status, error) {
	if err := q.enabled(typ); err != nil {
		return Status{}, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if a := q.tables[typ].accounts[id]; a != nil {
		return a.status(id), nil
	}
	return Status{ID: id}, nil
}

// List returns all who have something, or limits, by ascending ids.
func (q *Quotas) List(typ ondisk.QuotaType) ([]Status, error) {
	if err := q.enabled(typ); err != nil {
		return nil, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	accounts := q.tables[typ].accounts
	all := make([]Status, 0, len(accounts))
	for _, id := range slices.Sorted(maps.Keys(accounts)) {
		all = append(all, accounts[id].status(id))
	}
	return all, nil
}

// Set gives somebody limits in place of those he has; 0 is none. They hold once it has returned, and are durable when the journal is flushed. Limits can be
// set while their type is not enabled. Who has more already keeps it.
func (q *Quotas) Set(ctx context.Context, typ ondisk.QuotaType, id uint32, limits ondisk.Quota) error {
	if typ >= ondisk.NumQuotaTypes {
		return ErrType
	}
	return q.cfg.Store.Update(ctx, func(tx *trans.Tx) error {
		k := ondisk.Key{Pos: ondisk.Pos{Inode: uint64(typ), Offset: uint64(id)}}
		if limits != (ondisk.Quota{}) {
			k.Type, k.Val = ondisk.KeyQuota, limits.Encode()
		}
		_, was, err := tx.Get(ondisk.BtreeQuotas, k.Pos, trans.ForUpdate)
		if err != nil || !was && k.Type == ondisk.KeyDeleted {
			return err
		}
		tx.OnCommit(func(uint64) {
			if q.cfg.Enabled.Has(typ) {
				q.setLimits(typ, id, &limits)
			}
		})
		return tx.Update(ondisk.BtreeQuotas, k, 0)
	})
}

// setLimits sets limits in memory.
func (q *Quotas) setLimits(typ ondisk.QuotaType, id uint32, limits *ondisk.Quota) {
	now := q.cfg.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	t := &q.tables[typ]
	a := t.get(id)
	a[Space].limit, a[Inodes].limit = limits.Space, limits.Inodes
	for i := range a {
		a[i].settle(t.grace[i], now)
	}
	if a.empty() {
		delete(t.accounts, id)
	}
}

// Grace returns for how long soft limits of a type may be exceeded.
func (q *Quotas) Grace(typ ondisk.QuotaType) (space, inodes time.Duration, err error) {
	if err := q.enabled(typ); err != nil {
		return 0, 0, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	grace := &q.tables[typ].grace
	return grace[Space], grace[Inodes], nil
}

// SetGrace sets for how long soft limits of a type may be exceeded, in whole seconds. Who exceeds one already keeps the time that he was given.
func (q *Quotas) SetGrace(ctx context.Context, typ ondisk.QuotaType, space, inodes time.Duration) error {
	if err := q.enabled(typ); err != nil {
		return err
	}
	var seconds [numCounters]uint32
	for i, d := range []time.Duration{space, inodes} {
		if d < 0 || d/time.Second > math.MaxUint32 {
			return fmt.Errorf("a time limit of %v: %w", d, syscall.EINVAL)
		}
		seconds[i] = uint32(d / time.Second)
	}
	return q.updateGrace(ctx, func(all *[ondisk.NumQuotaTypes]ondisk.QuotaLimits) { all[typ].TimeLimits = seconds })
}

// updateGrace changes the superblock's section, which is made if there is none, and what is known of it.
func (q *Quotas) updateGrace(ctx context.Context, change func(all *[ondisk.NumQuotaTypes]ondisk.QuotaLimits)) error {
	var all [ondisk.NumQuotaTypes]ondisk.QuotaLimits
	err := q.cfg.UpdateSuper(ctx, func(sb *ondisk.Superblock) error {
		found, err := sb.Quota()
		if err != nil {
			return err
		}
		for i := range all {
			all[i].TimeLimits = [numCounters]uint32{uint32(DefaultGrace / time.Second), uint32(DefaultGrace / time.Second)}
		}
		copy(all[:], found)
		change(&all)
		sb.SetQuota(all)
		return nil
	})
	if err != nil {
		return err
	}
	q.setGrace(all[:])
	return nil
}
