package bcachefs

import (
	"context"
	"fmt"
	"io/fs"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/quota"
)

// QuotaType says whose usage is counted.
type QuotaType uint8

// Types of quotas. A filesystem counts those that its options usrquota, grpquota and prjquota switch on.
const (
	QuotaUser QuotaType = iota
	QuotaGroup
	QuotaProject
)

// QuotaLimits are limits of one of the two things that are counted; 0 is none. More than Soft is possible for a while (the grace time), more than Hard is not.
type QuotaLimits struct{ Soft, Hard uint64 }

// Quota is what a user, group or project has, and may have. Bytes are counted in sectors of 512.
type Quota struct {
	ID            uint32
	Bytes, Inodes uint64
	ByteLimits    QuotaLimits
	InodeLimits   QuotaLimits
	// BytesExpire and InodesExpire are when soft limits that are exceeded become hard ones; zero where none is.
	BytesExpire, InodesExpire time.Time
}

// ErrQuotaOff means that a filesystem does not count what is asked for.
var ErrQuotaOff = quota.ErrOff

func (t QuotaType) internal() (ondisk.QuotaType, error) {
	if t > QuotaProject {
		return 0, fmt.Errorf("type %d of quotas: %w", t, fs.ErrInvalid)
	}
	return ondisk.QuotaType(t), nil
}

func newQuota(s *quota.Status) Quota {
	limits := func(l ondisk.QuotaLimit, unit uint64) QuotaLimits {
		return QuotaLimits{Soft: l.Soft * unit, Hard: l.Hard * unit}
	}
	return Quota{ID: s.ID, Bytes: s.Sectors * sectorSize, Inodes: s.Inodes, ByteLimits: limits(s.Limits.Space, sectorSize),
		InodeLimits: limits(s.Limits.Inodes, 1), BytesExpire: s.SpaceExpires, InodesExpire: s.InodesExpire}
}

// Quota returns what somebody has and may have. The filesystem must be open for writing, as must it be for the other methods on quotas.
func (f *FS) Quota(t QuotaType, id uint32) (Quota, error) {
	typ, err := t.internal()
	switch {
	case err != nil:
		return Quota{}, err
	case f.live == nil:
		return Quota{}, ErrNotWritable
	}
	s, err := f.live.Quotas().Get(typ, id)
	if err != nil {
		return Quota{}, err
	}
	return newQuota(&s), nil
}

// Quotas lists all who have something, or limits, by ascending ids.
func (f *FS) Quotas(t QuotaType) ([]Quota, error) {
	typ, err := t.internal()
	switch {
	case err != nil:
		return nil, err
	case f.live == nil:
		return nil, ErrNotWritable
	}
	all, err := f.live.Quotas().List(typ)
	if err != nil {
		return nil, err
	}
	list := make([]Quota, len(all))
	for i := range all {
		list[i] = newQuota(&all[i])
	}
	return list, nil
}

// SetQuota gives somebody limits in place of those he has. Who has more already keeps it, but gets no more.
func (f *FS) SetQuota(ctx context.Context, t QuotaType, id uint32, bytes, inodes QuotaLimits) error {
	typ, err := t.internal()
	switch {
	case err != nil:
		return err
	case f.live == nil:
		return ErrNotWritable
	}
	return f.live.Quotas().Set(ctx, typ, id, ondisk.Quota{Space: ondisk.QuotaLimit{Soft: bytes.Soft / sectorSize, Hard: bytes.Hard / sectorSize},
		Inodes: ondisk.QuotaLimit{Soft: inodes.Soft, Hard: inodes.Hard}})
}

// SetQuotaGrace sets for how long soft limits of a type may be exceeded.
func (f *FS) SetQuotaGrace(ctx context.Context, t QuotaType, bytes, inodes time.Duration) error {
	typ, err := t.internal()
	switch {
	case err != nil:
		return err
	case f.live == nil:
		return ErrNotWritable
	}
	return f.live.Quotas().SetGrace(ctx, typ, bytes, inodes)
}
