package alloc

import (
	"slices"
	"sync"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

func acctKey(p ondisk.AccountingPos, seq uint64, counters ...int64) *ondisk.Key {
	return &ondisk.Key{Type: ondisk.KeyAccounting, Pos: p.Pos(ondisk.VersionDefault), Version: ondisk.Version{Lo: seq << 32},
		Val: ondisk.EncodeAccounting(counters...)}
}

// TestAccountingLoad checks that of the journal's deltas those count that the btree does not have yet, and that zeros are forgotten.
func TestAccountingLoad(t *testing.T) {
	a := NewAccounting(ondisk.VersionDefault)
	user := ondisk.AccountingPos{Type: ondisk.AccountingReplicas, DataType: ondisk.DataUser, NrRequired: 1, NrDevs: 1}
	inodes := ondisk.AccountingPos{Type: ondisk.AccountingNrInodes}
	free := devDataType(2, ondisk.DataFree)
	inum := ondisk.AccountingPos{Type: ondisk.AccountingInum, Inum: 4096}
	for _, k := range []*ondisk.Key{acctKey(user, 10, 100), acctKey(inodes, 10, 5), acctKey(free, 10, 7, 0, 0), acctKey(inum, 10, 1, 2, 3)} {
		if err := a.Load(k); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		k     *ondisk.Key
		isNew bool
	}{
		{acctKey(user, 9, 1000), false}, {acctKey(user, 10, 1000), false}, {acctKey(user, 11, 1), true}, {acctKey(user, 11, 2), true},
		{acctKey(inodes, 12, -5), true}, {acctKey(free, 12, -1, 0, 0), true}, {acctKey(devDataType(2, ondisk.DataUser), 12, 1, 8, 504), true},
		{acctKey(inum, 12, 1, 1, 1), true}, {acctKey(inum, 3, 1, 1, 1), false},
	} {
		if isNew, err := a.LoadDelta(c.k); err != nil || isNew != c.isNew {
			t.Errorf("delta of %v, version %v: %v, %v", c.k.Pos, c.k.Version, isNew, err)
		}
	}
	a.Loaded()
	if got := a.Get(user); !slices.Equal(got, []int64{103}) {
		t.Errorf("user %d", got)
	}
	if got := a.Get(inodes); got != nil {
		t.Errorf("nr_inodes %d", got)
	}
	if got := a.Get(inum); got != nil {
		t.Errorf("counters of an inode are kept: %d", got)
	}
	u := a.Device(2)
	if u[ondisk.DataFree] != (DevUsage{Buckets: 6}) || u[ondisk.DataUser] != (DevUsage{1, 8, 504}) || a.Buckets(2, ondisk.DataFree) != 6 ||
		a.Buckets(3, ondisk.DataFree) != 0 || a.Buckets(2, 200) != 0 || a.Device(200) != [ondisk.NumDataTypes]DevUsage{} {
		t.Errorf("device 2: %+v", u)
	}
	n := 0
	a.All(func(ondisk.AccountingPos, []int64) { n++ })
	if n != 3 {
		t.Errorf("%d positions", n)
	}
	// What was forgotten comes back.
	a.Add(&inodes, 3)
	a.Add(&free, -6)
	a.Add(&free, 4)
	if a.Get(inodes)[0] != 3 || a.Buckets(2, ondisk.DataFree) != 4 {
		t.Errorf("nr_inodes %d, free %d", a.Get(inodes), a.Buckets(2, ondisk.DataFree))
	}
}

// TestAccountingBadKeys checks that keys that cannot be are refused.
func TestAccountingBadKeys(t *testing.T) {
	a := NewAccounting(ondisk.VersionDefault)
	junk := acctKey(ondisk.AccountingPos{Type: ondisk.AccountingNrInodes}, 1, 1)
	junk.Pos.Inode = 1
	nobody := acctKey(ondisk.AccountingPos{Type: ondisk.AccountingReplicas, DataType: ondisk.DataUser}, 1, 1)
	typ := acctKey(ondisk.AccountingPos{Type: ondisk.AccountingNrInodes}, 1, 1)
	typ.Type = ondisk.KeySet
	for _, k := range []*ondisk.Key{junk, nobody, typ} {
		if a.Load(k) == nil {
			t.Errorf("loads %v %v", k.Type, k.Pos)
		}
		if _, err := a.LoadDelta(k); err == nil {
			t.Errorf("loads delta %v %v", k.Type, k.Pos)
		}
	}
	// More counters than are known are cut off; unknown types are counted like others.
	if err := a.Load(acctKey(ondisk.AccountingPos{Type: ondisk.AccountingNrInodes}, 1, 1, 2, 3, 4, 5)); err != nil {
		t.Error(err)
	}
	k := acctKey(ondisk.AccountingPos{Type: 77, Raw: [ondisk.PosSize]byte{77, 1}}, 1, 1)
	if err := a.Load(k); err != nil {
		t.Error(err)
	}
}

// TestAccountingConcurrent adds from many goroutines, also positions that are new.
func TestAccountingConcurrent(t *testing.T) {
	a := NewAccounting(ondisk.VersionDefault)
	var wg sync.WaitGroup
	const workers, rounds = 8, 2000
	for w := range workers {
		wg.Go(func() {
			for i := range rounds {
				p := ondisk.AccountingPos{Type: ondisk.AccountingSnapshot, ID: uint32(i % 64)}
				a.Add(&p, 1)
				d := devDataType(uint8(w%4), ondisk.DataUser)
				a.Add(&d, 1, 2, -1)
				a.Buckets(uint8(i%4), ondisk.DataUser)
			}
		})
	}
	wg.Wait()
	sum := int64(0)
	for id := range uint32(64) {
		sum += a.Get(ondisk.AccountingPos{Type: ondisk.AccountingSnapshot, ID: id})[0]
	}
	if sum != workers*rounds {
		t.Errorf("snapshots sum up to %d", sum)
	}
	for dev := range uint8(4) {
		if u := a.Device(dev)[ondisk.DataUser]; u != (DevUsage{2 * rounds, 4 * rounds, -2 * rounds}) {
			t.Errorf("device %d: %+v", dev, u)
		}
	}
}

func BenchmarkAccountingAdd(b *testing.B) {
	b.ReportAllocs()
	a := NewAccounting(ondisk.VersionDefault)
	b.RunParallel(func(pb *testing.PB) {
		ps := []ondisk.AccountingPos{devDataType(1, ondisk.DataUser), {Type: ondisk.AccountingReplicas, DataType: ondisk.DataUser, NrRequired: 1, NrDevs: 2,
			Devs: [16]uint8{0, 1}}, {Type: ondisk.AccountingSnapshot, ID: 7}, {Type: ondisk.AccountingInum, Inum: 4100}}
		for pb.Next() {
			for i := range ps {
				a.Add(&ps[i], 1, 2, 3)
			}
		}
	})
}
