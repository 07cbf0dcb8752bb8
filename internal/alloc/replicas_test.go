package alloc

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

func TestReplicasTable(t *testing.T) {
	var written [][]ondisk.Replicas
	var table *ReplicasTable
	fail := error(nil)
	user := ondisk.AccountingPos{Type: ondisk.AccountingReplicas, DataType: ondisk.DataUser, NrRequired: 1}
	addDev(&user, 2)
	addDev(&user, 0)
	var err error
	table, err = NewReplicasTable([]ondisk.Replicas{{DataType: ondisk.DataBtree, Required: 1, Devs: []uint8{1, 0}}},
		func(_ context.Context, all []ondisk.Replicas) error {
			if table.Listed(&user) && len(written) < 2 {
				t.Error("is listed while it is being written")
			}
			written = append(written, all)
			return fail
		})
	if err != nil {
		t.Fatal(err)
	}
	btree := ondisk.AccountingPos{Type: ondisk.AccountingReplicas, DataType: ondisk.DataBtree, NrRequired: 1, NrDevs: 2, Devs: [16]uint8{0, 1}}
	for p, want := range map[ondisk.AccountingPos]bool{
		btree: true, user: false, {Type: ondisk.AccountingNrInodes}: true,
		{Type: ondisk.AccountingReplicas, DataType: ondisk.DataBtree, NrRequired: 0, NrDevs: 2, Devs: [16]uint8{0, 1}}: false,
		{Type: ondisk.AccountingReplicas, DataType: ondisk.DataBtree, NrRequired: 1, NrDevs: 1}:                        false,
	} {
		if table.Listed(&p) != want {
			t.Errorf("%+v listed: %v", p, !want)
		}
	}
	ctx := context.Background()
	fail = errors.New("no superblock could be written")
	if err := table.Add(ctx, &user); !errors.Is(err, fail) || table.Listed(&user) {
		t.Errorf("adding while writing fails: %v, listed %v", err, table.Listed(&user))
	}
	fail = nil
	for range 2 {
		if err := table.Add(ctx, &user); err != nil || !table.Listed(&user) {
			t.Fatalf("adding: %v", err)
		}
	}
	if err := table.AddSet(ctx, ondisk.Replicas{DataType: ondisk.DataJournal, Required: 1, Devs: []uint8{1}}); err != nil {
		t.Fatal(err)
	}
	if len(written) != 3 || !table.Has(&ondisk.Replicas{DataType: ondisk.DataJournal, Required: 1, Devs: []uint8{1}}) {
		t.Fatalf("written %v", written)
	}
	all := written[2]
	if len(all) != 3 || !slices.EqualFunc(all, table.All(), func(a, b ondisk.Replicas) bool {
		return a.DataType == b.DataType && a.Required == b.Required && slices.Equal(a.Devs, b.Devs)
	}) || all[2].DataType != ondisk.DataUser || !slices.Equal(all[2].Devs, []uint8{0, 2}) {
		t.Errorf("written %v, all %v", all, table.All())
	}
	// The list survives the superblock.
	sb := new(ondisk.Superblock)
	sb.SetReplicas(all)
	if back, err := sb.Replicas(); err != nil || len(back) != 3 {
		t.Errorf("superblock: %v, %v", back, err)
	}
	for _, r := range []ondisk.Replicas{{DataType: ondisk.DataUser, Required: 1}, {DataType: ondisk.DataUser, Required: 2, Devs: []uint8{1, 2}},
		{DataType: ondisk.DataUser, Required: 1, Devs: make([]uint8, 17)}} {
		if err := table.AddSet(ctx, r); err == nil || table.Has(&r) {
			t.Errorf("%+v is listed", r)
		}
	}
	notUser := func(r *ondisk.Replicas) bool { return r.DataType != ondisk.DataUser }
	fail = errors.New("one superblock was written, another was not")
	if err := table.Retain(ctx, notUser); !errors.Is(err, fail) || table.Listed(&user) || !table.Listed(&btree) {
		t.Errorf("dropping while writing fails: %v, listed %v", err, table.Listed(&user))
	}
	fail, written = nil, written[:3]
	if err := table.Add(ctx, &user); err != nil || len(written) != 4 {
		t.Errorf("adding it again: %v", err)
	}
	written = written[:3]
	if err := table.Retain(ctx, notUser); err != nil || table.Listed(&user) ||
		!table.Listed(&btree) || len(written) != 4 || len(written[3]) != 2 {
		t.Errorf("dropping: %v, written %v", err, written)
	}
	if err := table.Retain(ctx, func(*ondisk.Replicas) bool { return true }); err != nil || len(written) != 4 {
		t.Errorf("dropping nothing: %v, %d times written", err, len(written))
	}
	if _, err := NewReplicasTable([]ondisk.Replicas{{Devs: make([]uint8, 99)}}, nil); err == nil {
		t.Error("a set of 99 devices")
	}
}

// TestReplicasConcurrent checks that sets that many want at once are written once each.
func TestReplicasConcurrent(t *testing.T) {
	var mu sync.Mutex
	writes := 0
	table, err := NewReplicasTable(nil, func(context.Context, []ondisk.Replicas) error {
		mu.Lock()
		defer mu.Unlock()
		writes++
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for dev := range uint8(20) {
				p := ondisk.AccountingPos{Type: ondisk.AccountingReplicas, DataType: ondisk.DataUser, NrRequired: 1, NrDevs: 1, Devs: [16]uint8{dev}}
				if !table.Listed(&p) {
					if err := table.Add(context.Background(), &p); err != nil {
						t.Error(err)
					}
				}
				if !table.Listed(&p) {
					t.Errorf("device %d is not listed", dev)
				}
			}
		})
	}
	wg.Wait()
	if writes != 20 || len(table.All()) != 20 {
		t.Errorf("%d writes of %d sets", writes, len(table.All()))
	}
	p := ondisk.AccountingPos{Type: ondisk.AccountingReplicas, DataType: ondisk.DataUser, NrRequired: 1, NrDevs: 1}
	if n := testing.AllocsPerRun(100, func() { table.Listed(&p) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
