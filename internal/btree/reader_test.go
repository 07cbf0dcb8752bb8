package btree

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/journal"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

const testID = ondisk.BtreeNeedDiscard

var ctx = context.Background()

func positions(keys []ondisk.Key) []ondisk.Pos {
	p := make([]ondisk.Pos, len(keys))
	for i := range keys {
		p[i] = keys[i].Pos
	}
	return p
}

func TestKeys(t *testing.T) {
	for _, n := range []int{0, 1, 5, 100, 3000} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			tt := newTestTree(t, 1)
			keys := someKeys(n)
			tt.build(testID, keys, 20, 10)
			r := tt.reader(nil)
			got, damage := collect(t, r, testID, ondisk.PosMin, ondisk.SPosMax)
			if damage != nil || !slices.Equal(positions(got), positions(keys)) {
				t.Fatalf("%d keys, want %d; damage %v", len(got), n, damage)
			}
			if n < 10 {
				return
			}
			part, _ := collect(t, r, testID, keys[n/3].Pos, keys[n/2].Pos)
			if !slices.Equal(positions(part), positions(keys[n/3:n/2+1])) {
				t.Errorf("part: %d keys from %v, want %d", len(part), part[0].Pos, n/2+1-n/3)
			}
			for i, k := range keys {
				if g, ok, err := r.Get(ctx, testID, k.Pos); !ok || err != nil || g.Pos != k.Pos {
					t.Fatalf("Get key %d at %v: %v, %v", i, k.Pos, ok, err)
				}
			}
			if _, ok, err := r.Get(ctx, testID, ondisk.Pos{Inode: 1, Offset: 3}); ok || err != nil {
				t.Errorf("Get of nothing: %v, %v", ok, err)
			}
		})
	}
}

func TestNodes(t *testing.T) {
	tt := newTestTree(t, 1)
	tt.build(testID, someKeys(3000), 20, 10)
	r := tt.reader(nil)
	count := map[uint8]int{}
	for ref, err := range r.Nodes(ctx, testID) {
		if err != nil {
			t.Fatal(err)
		}
		count[ref.Level]++
	}
	if want := (map[uint8]int{0: 150, 1: 15, 2: 2, 3: 1}); fmt.Sprint(count) != fmt.Sprint(want) {
		t.Errorf("nodes by level: %v, want %v", count, want)
	}
}

func TestOverlayKeys(t *testing.T) {
	tt := newTestTree(t, 1)
	keys := someKeys(100)
	tt.build(testID, keys, 20, 10)
	del := ondisk.Key{Pos: keys[50].Pos}
	add := setKey(3, 3, 0)
	last := setKey(1<<40, 0, 0)
	changed := keys[20]
	changed.Type = ondisk.KeyCookie
	changed.Val = make([]byte, 8)
	r := tt.reader(func(c *Config) {
		c.Overlay = overlayOf(func(b *journal.OverlayBuilder) {
			for _, k := range []ondisk.Key{last, del, add, changed} {
				b.Add(testID, 0, k)
			}
		})
	})
	want := slices.Concat(keys[:32], []ondisk.Key{add}, keys[32:50], keys[51:], []ondisk.Key{last})
	got, damage := collect(t, r, testID, ondisk.PosMin, ondisk.SPosMax)
	if damage != nil || !slices.Equal(positions(got), positions(want)) {
		t.Fatalf("damage %v, got %v", damage, positions(got))
	}
	if got[20].Type != ondisk.KeyCookie {
		t.Errorf("key 20 is of the node, not of the overlay")
	}
	if _, ok, _ := r.Get(ctx, testID, del.Pos); ok {
		t.Error("deleted key is there")
	}
	if _, ok, _ := r.Get(ctx, testID, add.Pos); !ok {
		t.Error("added key is not there")
	}
}

// A split that only the journal knows of: the root's pointer to the second leaf is replaced by two.
func TestOverlayInterior(t *testing.T) {
	tt := newTestTree(t, 1)
	keys := someKeys(60)
	tt.build(testID, keys, 20, 10)
	a := tt.node(testID, 0, keys[19].Pos.Next(), keys[29].Pos, keys[20:30])
	extra := setKey(3, 19, 0)
	b := tt.node(testID, 0, keys[29].Pos.Next(), keys[39].Pos, append(slices.Clone(keys[30:40]), extra)[:10:10])
	r := tt.reader(func(c *Config) {
		c.Overlay = overlayOf(func(ob *journal.OverlayBuilder) { ob.Add(testID, 1, a); ob.Add(testID, 1, b) })
	})
	got, damage := collect(t, r, testID, ondisk.PosMin, ondisk.SPosMax)
	if damage != nil || !slices.Equal(positions(got), positions(keys)) {
		t.Fatalf("damage %v, got %v", damage, positions(got))
	}
	n := 0
	for ref, err := range r.NodesAt(ctx, testID, 0) {
		if err != nil {
			t.Fatal(err)
		}
		if ref.Key.Pos == a.Pos || ref.Key.Pos == b.Pos {
			n++
		}
	}
	if n != 2 {
		t.Errorf("%d of the new leaves were used, want 2", n)
	}
}

func TestOverlayWithoutRoot(t *testing.T) {
	tt := newTestTree(t, 1)
	r := tt.reader(func(c *Config) {
		c.Overlay = overlayOf(func(b *journal.OverlayBuilder) { b.Add(testID, 0, setKey(5, 5, 0)) })
	})
	got, damage := collect(t, r, testID, ondisk.PosMin, ondisk.SPosMax)
	if len(got) != 1 || damage != nil {
		t.Errorf("%v, %v", got, damage)
	}
	if ids := r.Btrees(); !slices.Equal(ids, []ondisk.BtreeID{testID}) {
		t.Errorf("Btrees: %v", ids)
	}
}

func TestDamage(t *testing.T) {
	keys := someKeys(3000)
	const leaf = 20
	for _, tc := range []struct {
		name     string
		devices  int
		smash    func(*testTree)
		from, to int // missing keys
		level    uint8
		gone     bool
	}{
		{"leaf", 1, func(tt *testTree) { tt.smash(3, 0) }, 40, 60, 0, true},
		{"last leaf", 1, func(tt *testTree) { tt.smash(150, 0) }, 2980, 3000, 0, true},
		{"interior", 1, func(tt *testTree) { tt.smash(152, 0) }, 200, 400, 1, true},
		{"root", 1, func(tt *testTree) { tt.smash(168, 0) }, 0, 3000, 3, true},
		{"one replica", 2, func(tt *testTree) { tt.smash(3, 0); tt.smash(168, 1) }, 0, 0, 0, false},
		{"missing device", 2, func(tt *testTree) { tt.devs[0] = nil }, 0, 0, 0, false},
		{"all replicas", 2, func(tt *testTree) { tt.smash(3, 0); tt.smash(3, 1) }, 40, 60, 0, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tt := newTestTree(t, tc.devices)
			tt.build(testID, keys, leaf, 10)
			tc.smash(tt)
			r := tt.reader(nil)
			for range 2 { // the second time errors come from the cache
				got, damage := collect(t, r, testID, ondisk.PosMin, ondisk.SPosMax)
				want := slices.Concat(keys[:tc.from], keys[tc.to:])
				if !slices.Equal(positions(got), positions(want)) {
					t.Fatalf("%d keys, want %d", len(got), len(want))
				}
				if (len(damage) == 1) != tc.gone {
					t.Fatalf("damage: %v", damage)
				}
				if !tc.gone {
					continue
				}
				d := damage[0]
				if d.Level != tc.level || d.Btree != testID || d.Device == "" || !errors.Is(d, ondisk.ErrChecksum) {
					t.Errorf("damage: %+v: %v", d, d)
				}
				if keys[tc.from].Pos.Less(d.Min) || d.Max.Less(keys[tc.to-1].Pos) {
					t.Errorf("range %v - %v does not hold what is missing, %v - %v", d.Min, d.Max, keys[tc.from].Pos, keys[tc.to-1].Pos)
				}
				if _, ok, err := r.Get(ctx, testID, keys[tc.from].Pos); ok || err == nil {
					t.Errorf("Get in the damaged range: %v, %v", ok, err)
				}
			}
		})
	}
}

// Trees that no driver makes: each is an error, none a loop or a panic.
func TestHostileTrees(t *testing.T) {
	keys := someKeys(60)
	for _, tc := range []struct {
		name string
		make func(tt *testTree) Root
		keys int
	}{
		{"child of the same level", func(tt *testTree) Root {
			a := tt.node(testID, 0, ondisk.PosMin, keys[19].Pos, keys[:20])
			b := tt.node(testID, 1, keys[19].Pos.Next(), ondisk.SPosMax, []ondisk.Key{a}[:0])
			return Root{Key: tt.node(testID, 1, ondisk.PosMin, ondisk.SPosMax, []ondisk.Key{a, b}), Level: 1}
		}, 20},
		{"root in itself", func(tt *testTree) Root {
			p := ondisk.BtreePtr{V2: true, Seq: 1, SectorsWritten: 8, Max: ondisk.SPosMax,
				Ptrs: ondisk.AppendNodeAddr(nil, ondisk.NodeAddr{Sector: tt.next})}
			return Root{Key: tt.node(testID, 1, ondisk.PosMin, ondisk.SPosMax, []ondisk.Key{p.Key()}), Level: 1}
		}, 0},
		{"two pointers to one leaf", func(tt *testTree) Root {
			a := tt.node(testID, 0, ondisk.PosMin, keys[19].Pos, keys[:20])
			p, _ := ondisk.DecodeBtreePtr(a)
			p.Min, p.Max = keys[19].Pos.Next(), ondisk.SPosMax
			return Root{Key: tt.node(testID, 1, ondisk.PosMin, ondisk.SPosMax, []ondisk.Key{a, p.Key()}), Level: 1}
		}, 20},
		{"gap at the start", func(tt *testTree) Root {
			a := tt.node(testID, 0, keys[19].Pos.Next(), ondisk.SPosMax, keys[20:])
			return Root{Key: tt.node(testID, 1, ondisk.PosMin, ondisk.SPosMax, []ondisk.Key{a}), Level: 1}
		}, 40},
		{"gap at the end", func(tt *testTree) Root {
			a := tt.node(testID, 0, ondisk.PosMin, keys[19].Pos, keys[:20])
			return Root{Key: tt.node(testID, 1, ondisk.PosMin, ondisk.SPosMax, []ondisk.Key{a}), Level: 1}
		}, 20},
		{"no children", func(tt *testTree) Root {
			return Root{Key: tt.node(testID, 1, ondisk.PosMin, ondisk.SPosMax, nil), Level: 1}
		}, 0},
		{"too high", func(tt *testTree) Root {
			return Root{Key: tt.node(testID, 0, ondisk.PosMin, ondisk.SPosMax, nil), Level: 4}
		}, 0},
		{"wrong level of the root", func(tt *testTree) Root {
			return Root{Key: tt.node(testID, 0, ondisk.PosMin, ondisk.SPosMax, nil), Level: 2}
		}, 0},
		{"root does not cover everything", func(tt *testTree) Root {
			return Root{Key: tt.node(testID, 0, ondisk.PosMin, keys[19].Pos, keys[:20])}
		}, 0},
		{"lost root", func(tt *testTree) Root { return Root{Lost: true} }, 0},
		{"root of the wrong type", func(tt *testTree) Root { return Root{Key: setKey(1, 1, 1)} }, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tt := newTestTree(t, 1)
			tt.roots[testID] = tc.make(tt)
			r := tt.reader(nil)
			got, damage := collect(t, r, testID, ondisk.PosMin, ondisk.SPosMax)
			if len(got) != tc.keys || len(damage) != 1 {
				t.Errorf("%d keys, want %d; damage %v, want one", len(got), tc.keys, damage)
			}
			for range r.Nodes(ctx, testID) {
			}
		})
	}
}

func TestBudget(t *testing.T) {
	tt := newTestTree(t, 1)
	keys := someKeys(20000)
	tt.build(testID, keys, 100, 20)
	const budget = 100 << 10
	r := tt.reader(func(c *Config) { c.CacheBytes = budget })
	for range 2 {
		got, damage := collect(t, r, testID, ondisk.PosMin, ondisk.SPosMax)
		if len(got) != len(keys) || damage != nil {
			t.Fatalf("%d keys, damage %v", len(got), damage)
		}
		if s := r.Stats(); s.Bytes > budget || s.Evictions == 0 || s.Pinned != 0 {
			t.Errorf("cache: %+v", s)
		}
	}
	// Many iterators, each on a node of its own: these are beside the budget.
	var its []*Iterator
	for i := 0; i < len(keys); i += 100 {
		it := r.Iter(testID, IterOptions{})
		it.Seek(keys[i].Pos)
		if _, ok, err := it.Next(ctx); !ok || err != nil {
			t.Fatal(ok, err)
		}
		its = append(its, it)
	}
	if s := r.Stats(); s.Bytes > budget {
		t.Errorf("cache: %+v", s)
	}
	for _, it := range its {
		it.Close()
	}
	if s := r.Stats(); s.Pinned != 0 {
		t.Errorf("cache: %+v", s)
	}
}

func TestConcurrent(t *testing.T) {
	tt := newTestTree(t, 2)
	keys := someKeys(5000)
	tt.build(testID, keys, 50, 20)
	r := tt.reader(func(c *Config) { c.CacheBytes = 200 << 10 })
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			if w%2 == 0 {
				n := 0
				for _, err := range r.Keys(ctx, testID, ondisk.PosMin, ondisk.SPosMax) {
					if err != nil {
						t.Error(err)
						return
					}
					n++
				}
				if n != len(keys) {
					t.Errorf("%d keys, want %d", n, len(keys))
				}
				return
			}
			for i := range keys {
				k := keys[(i*997+w*31)%len(keys)]
				if _, ok, err := r.Get(ctx, testID, k.Pos); !ok || err != nil {
					t.Errorf("Get %v: %v, %v", k.Pos, ok, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestCancel(t *testing.T) {
	tt := newTestTree(t, 1)
	tt.build(testID, someKeys(1000), 20, 10)
	r := tt.reader(nil)
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	n := 0
	for _, err := range r.Keys(canceled, testID, ondisk.PosMin, ondisk.SPosMax) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		n++
	}
	if n != 1 {
		t.Errorf("%d items, want the error alone", n)
	}
	if got, _ := collect(t, r, testID, ondisk.PosMin, ondisk.SPosMax); len(got) != 1000 {
		t.Errorf("%d keys after that, want 1000", len(got))
	}
}

func TestAccounting(t *testing.T) {
	key := func(offset uint64, version uint64, counters ...byte) ondisk.Key {
		k := ondisk.Key{Type: ondisk.KeyAccounting, Pos: ondisk.Pos{Offset: offset}, Version: ondisk.Version{Lo: version}}
		for _, c := range counters {
			k.Val = append(k.Val, c, 0, 0, 0, 0, 0, 0, 0)
		}
		return k
	}
	tt := newTestTree(t, 1)
	tt.build(ondisk.BtreeAccounting, []ondisk.Key{key(1, 10, 1), key(2, 10, 2), key(4, 10, 4)}, 10, 10)
	r := tt.reader(func(c *Config) {
		c.Overlay = overlayOf(func(b *journal.OverlayBuilder) {
			b.Add(ondisk.BtreeAccounting, 0, key(2, 11, 20))
			b.Add(ondisk.BtreeAccounting, 0, key(2, 9, 100)) // in the btree already
			b.Add(ondisk.BtreeAccounting, 0, key(2, 12, 20))
			b.Add(ondisk.BtreeAccounting, 0, key(3, 5, 3))
			b.Add(ondisk.BtreeAccounting, 0, key(3, 6, 3, 7))
			b.Add(ondisk.BtreeAccounting, 0, key(5, 6, 50))
		})
	})
	got, _ := collect(t, r, ondisk.BtreeAccounting, ondisk.PosMin, ondisk.SPosMax)
	var s string
	for _, k := range got {
		s += fmt.Sprint(k.Pos.Offset, "=", k.Val[0])
		if len(k.Val) > 8 {
			s += fmt.Sprint("+", k.Val[8])
		}
		s += " "
	}
	if want := "1=1 2=42 3=6+7 4=4 5=50 "; s != want {
		t.Errorf("sums %q, want %q", s, want)
	}
	if k, ok, err := r.Get(ctx, ondisk.BtreeAccounting, ondisk.Pos{Offset: 3}); !ok || err != nil || k.Val[0] != 6 {
		t.Errorf("Get: %v %v %v", k, ok, err)
	}
}

func BenchmarkGet(b *testing.B) {
	tt := newTestTree(b, 1)
	keys := someKeys(5000)
	tt.build(testID, keys, 100, 20)
	r := tt.reader(nil)
	collect(b, r, testID, ondisk.PosMin, ondisk.SPosMax)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if _, ok, err := r.Get(ctx, testID, keys[i*997%len(keys)].Pos); !ok || err != nil {
			b.Fatal(ok, err)
		}
		i++
	}
}

func BenchmarkKeys(b *testing.B) {
	tt := newTestTree(b, 1)
	keys := someKeys(5000)
	tt.build(testID, keys, 100, 20)
	r := tt.reader(nil)
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		for range r.Keys(ctx, testID, ondisk.PosMin, ondisk.SPosMax) {
			n++
		}
	}
}

func TestGetDoesNotAllocate(t *testing.T) {
	tt := newTestTree(t, 1)
	keys := someKeys(1000)
	tt.build(testID, keys, 100, 20)
	r := tt.reader(nil)
	i := 0
	allocs := testing.AllocsPerRun(1000, func() {
		i++
		r.Get(ctx, testID, keys[i*7%len(keys)].Pos)
		r.Lookup(ctx, testID, keys[i*7%len(keys)].Pos)
	})
	if allocs > 0.1 {
		t.Errorf("%v allocations each", allocs)
	}
}
