package alloc

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// ReplicasTable is the list of sets of devices that data is on, as the superblock has it (spec/04 § 8): it tells without reading any btree
// which devices are needed. A set is listed before the commit that first puts something on it. Methods are safe for concurrent use; asking
// takes no lock.
type ReplicasTable struct {
	sets atomic.Pointer[map[replicasKey]struct{}]

	mu    sync.Mutex // serialises changes
	write func(ctx context.Context, all []ondisk.Replicas) error
}

// replicasKey is a set in a form that can be compared.
type replicasKey struct {
	dataType ondisk.DataType
	required uint8
	nrDevs   uint8
	devs     [ondisk.MaxExtentPtrs]uint8 // ascending
}

// NewReplicasTable returns the table of what a superblock lists. write is called with the whole list whenever it changes, and returns once it
// is in the superblocks on disk.
func NewReplicasTable(listed []ondisk.Replicas, write func(ctx context.Context, all []ondisk.Replicas) error) (*ReplicasTable, error) {
	t := &ReplicasTable{write: write}
	sets := make(map[replicasKey]struct{}, len(listed))
	for i := range listed {
		k, err := newReplicasKey(&listed[i])
		if err != nil {
			return nil, fmt.Errorf("superblock: replicas: entry %d: %w", i, err)
		}
		sets[k] = struct{}{}
	}
	t.sets.Store(&sets)
	return t, nil
}

func newReplicasKey(r *ondisk.Replicas) (replicasKey, error) {
	k := replicasKey{dataType: r.DataType, required: r.Required, nrDevs: uint8(len(r.Devs))}
	if len(r.Devs) > len(k.devs) {
		return k, fmt.Errorf("%d devices, want at most %d", len(r.Devs), len(k.devs))
	}
	copy(k.devs[:], r.Devs)
	slices.Sort(k.devs[:len(r.Devs)])
	return k, nil
}

func (k *replicasKey) replicas() ondisk.Replicas {
	return ondisk.Replicas{DataType: k.dataType, Required: k.required, Devs: slices.Clone(k.devs[:k.nrDevs])}
}

// Has reports whether a set is listed.
func (t *ReplicasTable) Has(r *ondisk.Replicas) bool {
	k, err := newReplicasKey(r)
	if err != nil {
		return false
	}
	_, ok := (*t.sets.Load())[k]
	return ok
}

// Listed reports whether the set that a position of the accounting btree counts is listed; positions of other types need not be. It does not
// allocate.
func (t *ReplicasTable) Listed(p *ondisk.AccountingPos) bool {
	if p.Type != ondisk.AccountingReplicas {
		return true
	}
	_, ok := (*t.sets.Load())[replicasKey{p.DataType, p.NrRequired, p.NrDevs, p.Devs}]
	return ok
}

// Add lists the set that a position of the accounting btree counts: when it returns, the superblock on disk does. The caller holds
// no locks of btrees.
func (t *ReplicasTable) Add(ctx context.Context, p *ondisk.AccountingPos) error {
	if p.Type != ondisk.AccountingReplicas {
		return nil
	}
	return t.AddSet(ctx, ondisk.Replicas{DataType: p.DataType, Required: p.NrRequired, Devs: p.DevList()})
}

// AddSet is [ReplicasTable.Add] of a set that is not counted, as that of the devices of a journal entry.
func (t *ReplicasTable) AddSet(ctx context.Context, r ondisk.Replicas) error {
	k, err := newReplicasKey(&r)
	switch {
	case err != nil:
		return fmt.Errorf("replicas: %w", err)
	case k.nrDevs == 0:
		return fmt.Errorf("replicas: a set of no devices for data of type %v", r.DataType)
	case r.Required > 1 && int(r.Required) >= len(r.Devs):
		return fmt.Errorf("replicas: %d of %d devices required for data of type %v", r.Required, len(r.Devs), r.DataType)
	}
	return t.change(ctx, func(sets map[replicasKey]struct{}) bool {
		_, ok := sets[k]
		sets[k] = struct{}{}
		return !ok
	})
}

// Retain drops the sets for which keep returns false from the list.
func (t *ReplicasTable) Retain(ctx context.Context, keep func(r *ondisk.Replicas) bool) error {
	return t.change(ctx, func(sets map[replicasKey]struct{}) bool {
		n := len(sets)
		for k := range sets {
			if r := k.replicas(); !keep(&r) {
				delete(sets, k)
			}
		}
		return len(sets) != n
	})
}

// change replaces the list by one that fn has changed, if it has. A set counts as listed only once the superblock was written, and
// one that is dropped no more before that.
func (t *ReplicasTable) change(ctx context.Context, fn func(sets map[replicasKey]struct{}) bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := *t.sets.Load()
	sets := make(map[replicasKey]struct{}, len(old)+1)
	both := make(map[replicasKey]struct{}, len(old))
	for k := range old {
		sets[k] = struct{}{}
	}
	if !fn(sets) {
		return nil
	}
	for k := range old {
		if _, ok := sets[k]; ok {
			both[k] = struct{}{}
		}
	}
	t.sets.Store(&both)
	if t.write != nil {
		if err := t.write(ctx, sorted(sets)); err != nil {
			return err // some superblocks may have been written: what either list lacks does not count
		}
	}
	t.sets.Store(&sets)
	return nil
}

// All returns the list, in order.
func (t *ReplicasTable) All() []ondisk.Replicas { return sorted(*t.sets.Load()) }

func sorted(sets map[replicasKey]struct{}) []ondisk.Replicas {
	all := make([]ondisk.Replicas, 0, len(sets))
	for k := range sets {
		all = append(all, k.replicas())
	}
	slices.SortFunc(all, func(a, b ondisk.Replicas) int {
		switch {
		case a.DataType != b.DataType:
			return int(a.DataType) - int(b.DataType)
		case a.Required != b.Required:
			return int(a.Required) - int(b.Required)
		}
		return slices.Compare(a.Devs, b.Devs)
	})
	return all
}
