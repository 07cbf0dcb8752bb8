package alloc

import (
	"errors"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

func TestCapacity(t *testing.T) {
	for _, c := range []struct {
		name           string
		devs           []CapacityDevice
		bytes, percent uint64
		want           Capacity
	}{
		// 28 nodes of 512 sectors: 28 buckets of 512, twice, then 1024/64 and 3 write points: 75 buckets, twice.
		{"small: what moving data takes", []CapacityDevice{{1024, 0, 512}}, 0, 8, Capacity{1024 * 512, 2 * 75 * 512}},
		{"large: a share", []CapacityDevice{{100000, 0, 512}}, 0, 8, Capacity{51200000, 4096000}},
		{"odd share", []CapacityDevice{{100003, 0, 512}}, 0, 8, Capacity{51201536, 4096122}},
		{"bytes", []CapacityDevice{{100000, 0, 512}}, 4 << 30, 8, Capacity{51200000, 4 << 21}},
		{"two devices, not all buckets", []CapacityDevice{{1024, 24, 512}, {512, 0, 1024}}, 0, 8,
			Capacity{1000*512 + 512*1024, 2*75*512 + 2*(2*14+8+3)*1024}},
		{"tiny: nothing is left", []CapacityDevice{{64, 0, 512}}, 0, 8, Capacity{64 * 512, 64 * 512}},
		{"no device", nil, 0, 8, Capacity{}},
	} {
		if got := NewCapacity(c.devs, 512, c.bytes, c.percent); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

func TestInflate(t *testing.T) {
	for _, c := range []struct{ n, inflated, deflated uint64 }{{0, 0, 0}, {1, 2, 0}, {64, 65, 63}, {65, 67, 64}, {6500, 6602, 6400}} {
		if inflate(c.n) != c.inflated || deflate(c.n) != c.deflated {
			t.Errorf("%d: %d, %d, want %+v", c.n, inflate(c.n), deflate(c.n), c)
		}
	}
	if n := deflate(math.MaxUint64); n != math.MaxUint64/65*64+math.MaxUint64%65*64/65 {
		t.Errorf("deflate overflows: %d", n)
	}
	for range 1000 { // what may be promised fits
		n := rand.Uint64N(1 << 50)
		if inflate(deflate(n)) > n+1 {
			t.Fatalf("%d free, %d promised, reckoned as %d", n, deflate(n), inflate(deflate(n)))
		}
	}
}

func newSpace(sectors uint64) *Space {
	s := NewSpace()
	s.SetCapacity(Capacity{Total: sectors + 1000, Reserved: 1000})
	return s
}

// TestReservation checks promises: that the last sector can be had and not one more, and what commits take from them.
func TestReservation(t *testing.T) {
	const size = 65000
	s := newSpace(size)
	s.SetTotals(UsageTotals{Hidden: 6500, Data: 6000, Btree: 500, NrInodes: 3})
	u := s.Usage()
	if u.Capacity != size-6500 || u.Used != 6500 || u.Free != size-13000 || u.NrInodes != 3 {
		t.Fatalf("usage %+v", u)
	}
	if st := u.StatFS(8); st != (StatFS{(size - 6500) / 8, (size - 13000) / 8, 51200 / 8, 3 + 8*(size-13000), 8 * (size - 13000)}) {
		t.Errorf("statfs %+v", st)
	}
	var nse *NoSpaceError
	if _, err := s.Reserve(51201, 1, 0); !errors.Is(err, ErrNoSpace) || !errors.As(err, &nse) || nse.Wanted != 51201 || nse.Free != 51200 {
		t.Fatalf("one sector too many: %v", err)
	}
	r, err := s.Reserve(25600, 2, 0)
	if err != nil || r.Sectors() != 51200 {
		t.Fatalf("all there is: %v", err)
	}
	if _, err := s.Reserve(1, 1, 0); !errors.Is(err, ErrNoSpace) {
		t.Errorf("one more: %v", err)
	}
	if err := r.Add(1, 1, 0); !errors.Is(err, ErrNoSpace) || r.Sectors() != 51200 {
		t.Errorf("one more in the same: %v", err)
	}
	over, err := s.Reserve(10, 1, ReserveNoFail)
	if err != nil || over.Sectors() != 10 {
		t.Errorf("what must not fail: %v", err)
	}
	over.Put()
	r.PutSome(200)
	if q, err := s.Reserve(196, 1, 0); err != nil { // the rest is rounding
		t.Errorf("what was given back: %v", err)
	} else {
		q.Put()
	}
	if n := s.Commit(&UsageTotals{Data: 1000, Btree: 24, NrInodes: 1}, &r); n != 0 || r.Sectors() != 51000-1024 {
		t.Errorf("commit: exceeded by %d, %d left", n, r.Sectors())
	}
	if n := s.Commit(&UsageTotals{Data: -500, Cached: 500}, nil); n != 0 {
		t.Errorf("commit that frees: exceeded by %d", n)
	}
	r.Put()
	r.Put()
	u = s.Usage()
	if u.Promised != 0 || u.Used != 6500+1024-500 || u.NrInodes != 4 || u.Totals.Cached != 500 {
		t.Errorf("usage %+v", u)
	}
	if n := s.Commit(&UsageTotals{Data: 100, Reserved: 10}, nil); n != 110 {
		t.Errorf("commit without a promise: exceeded by %d", n)
	}
	few, err := s.Reserve(10, 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	if n := s.Commit(&UsageTotals{Data: 25}, &few); n != 15 || few.Sectors() != 0 {
		t.Errorf("commit of more than promised: exceeded by %d, %d left", n, few.Sectors())
	}
	if u := s.Usage(); u.Promised != 0 {
		t.Errorf("promised %d", u.Promised)
	}
	for _, n := range []uint64{math.MaxUint64, math.MaxInt64, 1 << 62, math.MaxUint64 / 2} {
		if _, err := s.Reserve(n, 3, 0); !errors.Is(err, ErrNoSpace) {
			t.Errorf("%d sectors: %v", n, err)
		}
	}
	var zero Reservation
	zero.Put()
	s.SetCapacity(Capacity{Total: 100, Reserved: 0})
	if u := s.Usage(); u.Capacity != 0 || u.Free != 0 || u.Used != 0 {
		t.Errorf("shrunk below what is hidden: %+v", u)
	}
}

// TestUsageTotals checks which counters make the totals, alone and from the accounting.
func TestUsageTotals(t *testing.T) {
	var devs Devices
	devs.Set(NewDevice(1, &ondisk.Member{NBuckets: 100, BucketSize: 512}))
	a := NewAccounting(ondisk.VersionDefault)
	repl := func(t ondisk.DataType) ondisk.AccountingPos {
		return ondisk.AccountingPos{Type: ondisk.AccountingReplicas, DataType: t, NrRequired: 1, NrDevs: 1}
	}
	var u UsageTotals
	for _, c := range []struct {
		p ondisk.AccountingPos
		n int64
	}{
		{repl(ondisk.DataUser), 1}, {repl(ondisk.DataParity), 2}, {repl(ondisk.DataBtree), 4}, {repl(ondisk.DataCached), 8},
		{ondisk.AccountingPos{Type: ondisk.AccountingPersistentReserved, NrReplicas: 3}, 16}, {ondisk.AccountingPos{Type: ondisk.AccountingNrInodes}, 32},
		{devDataType(1, ondisk.DataSB), 2}, {devDataType(1, ondisk.DataJournal), 3}, {devDataType(1, ondisk.DataUser), 5},
		{ondisk.AccountingPos{Type: ondisk.AccountingSnapshot, ID: 1}, 64},
	} {
		a.Add(&c.p, c.n)
		u.Add(&c.p, c.n, 512)
	}
	if want := (UsageTotals{NrInodes: 32, Reserved: 48, Btree: 4, Data: 3, Cached: 8, Hidden: 5 * 512}); u != want || a.Totals(&devs) != want {
		t.Errorf("%+v, of the accounting %+v, want %+v", u, a.Totals(&devs), want)
	}
}

// TestReservationConcurrent has many take and give back, and checks all the time that no more is promised than there is; and that what is refused
// would indeed not have fitted: in the end, all but the rounding can be had.
func TestReservationConcurrent(t *testing.T) {
	const size = 200000
	s := newSpace(size)
	limit := int64(deflate(size))
	var held, refused atomic.Int64
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 1))
			var mine []Reservation
			for range 3000 {
				if len(mine) > 0 && rng.IntN(100) < 45 {
					r := &mine[len(mine)-1]
					if rng.IntN(2) == 0 { // into data, and out of it again
						n := int64(r.Sectors())
						held.Add(-n) // as data, they are not reckoned larger
						if over := s.Commit(&UsageTotals{Data: n}, r); over != 0 {
							t.Errorf("exceeded by %d", over)
						}
						s.Commit(&UsageTotals{Data: -n}, nil)
					} else {
						held.Add(-int64(r.Sectors()))
					}
					r.Put()
					mine = mine[:len(mine)-1]
					continue
				}
				n := 1 + rng.Uint64N(2000)
				r, err := s.Reserve(n, 1, 0)
				if err != nil {
					refused.Add(1)
					continue
				}
				if now := held.Add(int64(n)); now > limit {
					t.Errorf("%d sectors are promised, there are %d", now, limit)
				}
				mine = append(mine, r)
			}
			for i := range mine {
				held.Add(-int64(mine[i].Sectors()))
				mine[i].Put()
			}
		})
	}
	wg.Wait()
	if u := s.Usage(); u.Promised != 0 || u.Used != 0 || u.Totals != (UsageTotals{}) {
		t.Errorf("in the end: %+v", u)
	}
	if refused.Load() == 0 {
		t.Error("nothing was refused: the test is too small")
	}
	if r, err := s.Reserve(uint64(limit), 1, 0); err != nil {
		t.Errorf("all there is: %v", err)
	} else {
		r.Put()
	}
}

func BenchmarkReserve(b *testing.B) {
	b.ReportAllocs()
	s := newSpace(1 << 40)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			r, err := s.Reserve(8, 2, 0)
			if err != nil {
				b.Fatal(err)
			}
			r.Put()
		}
	})
}
