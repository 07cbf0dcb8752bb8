package engine

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/golden"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

func TestSplitDevices(t *testing.T) {
	exists := func(p string) bool {
		return slices.Contains([]string{"/dev/disk/by-path/pci-0000:00:1f.2", `C:\a.img`, "/a", "/b:c"}, p)
	}
	for _, tt := range []struct {
		args, want string
	}{
		{"/a", "/a"},
		{"/a:/x:/y", "/a|/x|/y"},
		{"/a /x:/y", "/a|/x|/y"},
		{"/b:c", "/b:c"},
		{"/a:/b:c:/x", "/a|/b:c|/x"},
		{"/dev/disk/by-path/pci-0000:00:1f.2:/a", "/dev/disk/by-path/pci-0000:00:1f.2|/a"},
		{`C:\a.img:/a`, `C:\a.img|/a`},
		{":/a::", "/a"},
	} {
		got, err := splitDevices(strings.Fields(tt.args), exists)
		if s := strings.Join(got, "|"); s != tt.want || err != nil {
			t.Errorf("%q: %q, %v; want %q", tt.args, s, err, tt.want)
		}
	}
	if _, err := splitDevices([]string{":", ""}, exists); err == nil {
		t.Error("no error without devices")
	}
}

// naiveAncestor follows the parents.
func naiveAncestor(nodes map[uint32]ondisk.Snapshot, a, d uint32) bool {
	for d != 0 && d < a {
		p := nodes[d].Parent
		if _, ok := nodes[p]; !ok || p <= d {
			return false
		}
		d = p
	}
	return d == a
}

func TestIsAncestor(t *testing.T) {
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		nodes := map[uint32]ondisk.Snapshot{}
		ids := []uint32{}
		for i := range uint32(60) {
			id := ^uint32(0) - i
			if seed%2 == 1 {
				id = 1000 - i*7
			}
			parent := uint32(0)
			if len(ids) > 0 && rnd.IntN(10) > 0 {
				parent = ids[rnd.IntN(len(ids))]
			}
			ids = append(ids, id)
			nodes[id] = ondisk.Snapshot{Parent: parent}
		}
		s, problems := newSnapshots(nodes)
		if dense := s.table.Load().dense; problems != nil || dense != (seed%2 == 0) {
			t.Fatalf("seed %d: dense %v, problems %v", seed, dense, problems)
		}
		for _, id := range ids {
			if s.Orphan(id) {
				t.Errorf("seed %d: %d has unknown ancestors", seed, id)
			}
		}
		ids = append(ids, 0, 1, 999, ^uint32(0)-100)
		for _, a := range ids {
			for _, d := range ids {
				if got, want := s.IsAncestor(a, d), naiveAncestor(nodes, a, d); got != want {
					t.Fatalf("seed %d: IsAncestor(%d, %d) = %v", seed, a, d, got)
				}
			}
		}
	}
}

// Trees that are none: cycles, unknown parents, parents with smaller ids.
func TestBrokenSnapshots(t *testing.T) {
	s, problems := newSnapshots(map[uint32]ondisk.Snapshot{
		10: {Parent: 10}, 9: {Parent: 8}, 8: {Parent: 9}, 7: {Parent: 100}, 6: {Parent: 8},
	})
	if len(problems) != 3 {
		t.Errorf("problems: %q", problems)
	}
	for _, tt := range []struct {
		a, d uint32
		want bool
	}{{9, 8, true}, {8, 9, false}, {9, 6, true}, {10, 6, false}, {7, 7, true}, {100, 7, false}} {
		if got := s.IsAncestor(tt.a, tt.d); got != tt.want {
			t.Errorf("IsAncestor(%d, %d) = %v", tt.a, tt.d, got)
		}
	}
	for id := uint32(5); id <= 10; id++ {
		if !s.Orphan(id) {
			t.Errorf("all ancestors of %d are known", id)
		}
	}
	n := 0
	for id, sn := range s.All() {
		if got, ok := s.Get(id); !ok || got.Parent != sn.Parent {
			t.Errorf("Get(%d): %v", id, ok)
		}
		n++
	}
	if n != 5 || s.Len() != 5 {
		t.Errorf("%d snapshots", n)
	}
}

// Snapshots come, go and get other parents while others ask: what is not touched stays related throughout.
func TestUpdateSnapshots(t *testing.T) {
	nodes := map[uint32]ondisk.Snapshot{1000: {}, 900: {Parent: 1000}, 800: {Parent: 900}}
	s, _ := newSnapshots(nodes)
	stop := make(chan struct{})
	done := make(chan bool)
	go func() {
		ok := true
		for {
			select {
			case <-stop:
				done <- ok
				return
			default:
				ok = ok && s.IsAncestor(1000, 800) && !s.IsAncestor(800, 900) && !s.Orphan(800) && s.HasChildren(1000)
			}
		}
	}()
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		changes := map[uint32]*ondisk.Snapshot{}
		for range 1 + rnd.IntN(3) {
			id := 1 + uint32(rnd.IntN(60))
			delete(nodes, id)
			changes[id] = nil
			if rnd.IntN(3) > 0 {
				n := ondisk.Snapshot{Parent: []uint32{1000, 900, 800, id + uint32(rnd.IntN(20))}[rnd.IntN(4)], Tree: rnd.Uint32()}
				nodes[id], changes[id] = n, &n
			}
		}
		s.Update(changes)
		want, _ := newSnapshots(nodes)
		if got, want := s.table.Load(), want.table.Load(); !reflect.DeepEqual(got, want) {
			t.Fatalf("after %v: %+v, want %+v", changes, got, want)
		}
	}
	close(stop)
	if !<-done {
		t.Error("a relation that was not touched was not seen")
	}
}

func TestDeepSnapshots(t *testing.T) {
	nodes := map[uint32]ondisk.Snapshot{}
	n := uint32(golden.Times(t, 200000, 20000))
	for i := range n {
		parent := ^uint32(0) - i + 1
		nodes[^uint32(0)-i] = ondisk.Snapshot{Parent: parent}
	}
	s, _ := newSnapshots(nodes)
	if !s.IsAncestor(^uint32(0), ^uint32(0)-n+1) || s.IsAncestor(^uint32(0)-n+1, ^uint32(0)) {
		t.Error("ends of a chain")
	}
}

func BenchmarkIsAncestor(b *testing.B) {
	nodes := map[uint32]ondisk.Snapshot{}
	for i := range uint32(1000) {
		nodes[^uint32(0)-i] = ondisk.Snapshot{Parent: ^uint32(0) - i + 1}
	}
	s, _ := newSnapshots(nodes)
	b.ReportAllocs()
	for b.Loop() {
		s.IsAncestor(^uint32(0), ^uint32(0)-999)
	}
}

func TestResolve(t *testing.T) {
	node := func(gen uint32, from, to uint64) *scanned {
		n := &scanned{gen: gen, ptr: ondisk.BtreePtr{V2: true, Seq: uint64(gen), Min: ondisk.Pos{Inode: from}, Max: ondisk.Pos{Inode: to}}}
		return n
	}
	at := func(p ondisk.Pos) string {
		switch {
		case p.Snapshot == 1:
			return fmt.Sprint(p.Inode, "+")
		case p.Snapshot == ^uint32(0):
			return fmt.Sprint(p.Inode+1, "-")
		}
		return fmt.Sprint(p.Inode)
	}
	for _, tt := range []struct {
		name  string
		nodes []*scanned
		want  string
	}{
		{"apart", []*scanned{node(1, 5, 9), node(2, 1, 4)}, "2:1..4 1:5..9"},
		{"old one behind", []*scanned{node(1, 3, 9), node(2, 1, 4)}, "2:1..4 1:4+..9*"},
		{"old one before", []*scanned{node(1, 1, 4), node(2, 3, 9)}, "1:1..3-* 2:3..9"},
		{"old one covered", []*scanned{node(1, 3, 5), node(2, 1, 9)}, "2:1..9"},
		{"old one around", []*scanned{node(1, 1, 9), node(2, 3, 5)}, "1:1..3-* 2:3..5 1:5+..9*"},
		{"same range", []*scanned{node(1, 1, 9), node(2, 1, 9)}, "2:1..9"},
		{"oldest fills the holes", []*scanned{node(3, 2, 3), node(2, 5, 6), node(1, 1, 9)},
			"1:1..2-* 3:2..3 1:3+..5-* 2:5..6 1:6+..9*"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, k := range resolve(tt.nodes) {
				p, err := ondisk.DecodeBtreePtr(k)
				if err != nil {
					t.Fatal(err)
				}
				s := fmt.Sprintf("%d:%s..%s", p.Seq, at(p.Min), at(p.Max))
				if p.RangeUpdated() {
					s += "*"
				}
				got = append(got, s)
			}
			if s := strings.Join(got, " "); s != tt.want {
				t.Errorf("got  %s\nwant %s", s, tt.want)
			}
		})
	}
}

// However nodes overlap, each position belongs to the newest node that covers it.
func TestResolveAgainstModel(t *testing.T) {
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		var nodes []*scanned
		for i := range 1 + rnd.IntN(30) {
			a, b := rnd.Uint64N(40), rnd.Uint64N(40)
			nodes = append(nodes, &scanned{gen: uint32(i), ptr: ondisk.BtreePtr{V2: true, Seq: uint64(i + 1),
				Min: ondisk.Pos{Inode: min(a, b)}, Max: ondisk.Pos{Inode: max(a, b)}}})
		}
		want := map[uint64]uint64{}
		for _, n := range nodes { // oldest first
			for p := n.ptr.Min.Inode; p <= n.ptr.Max.Inode; p++ {
				want[p] = n.ptr.Seq
			}
		}
		rnd.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
		got := map[uint64]uint64{}
		var last ondisk.Pos
		for i, k := range resolve(nodes) {
			p, err := ondisk.DecodeBtreePtr(k)
			if err != nil {
				t.Fatal(err)
			}
			if p.Max.Less(p.Min) || i > 0 && !last.Less(p.Min) {
				t.Fatalf("seed %d: %v - %v behind %v", seed, p.Min, p.Max, last)
			}
			last = p.Max
			for at := range uint64(40) {
				if pos := (ondisk.Pos{Inode: at}); !pos.Less(p.Min) && !p.Max.Less(pos) {
					got[at] = p.Seq
				}
			}
		}
		if !maps.Equal(got, want) {
			t.Fatalf("seed %d: %v, want %v", seed, got, want)
		}
	}
}

// As many nodes as a scan takes, in whatever order an image has them, are sorted out in no time.
func TestResolveMany(t *testing.T) {
	rnd := rand.New(rand.NewPCG(0, 1))
	nodes := make([]*scanned, maxScanned)
	for i := range nodes {
		a := rnd.Uint64N(1 << 40)
		nodes[i] = &scanned{gen: rnd.Uint32(), ptr: ondisk.BtreePtr{V2: true, Seq: uint64(i), Min: ondisk.Pos{Inode: a},
			Max: ondisk.Pos{Inode: a + 1<<uint(rnd.IntN(40))}}}
	}
	start := time.Now()
	if n := len(resolve(nodes)); n == 0 || time.Since(start) > 30*time.Second {
		t.Errorf("%d pointers of %d nodes in %v", n, len(nodes), time.Since(start))
	}
}

func TestMarked(t *testing.T) {
	const bitmap, shift = 1<<3 | 1<<5, 4 // sectors 48-63 and 80-95
	for _, tt := range []struct {
		s, n ondisk.Sector
		want bool
	}{{0, 16, false}, {40, 16, true}, {63, 1, true}, {64, 16, false}, {64, 32, true}, {96, 8, false}, {5000, 16, false}} {
		if got := marked(bitmap, shift, tt.s, tt.n); got != tt.want {
			t.Errorf("marked(%d, %d) = %v", tt.s, tt.n, got)
		}
	}
}

func TestWeigh(t *testing.T) {
	fs := &FS{}
	for i := range uint8(4) {
		fs.byIndex[i] = &Member{Index: i}
	}
	fs.byIndex[0].Device = openNothing{}
	fs.byIndex[2].Device = openNothing{}
	for _, tt := range []struct {
		t              ondisk.DataType
		devs           []uint8
		required       int
		meta, data, dg bool
	}{
		{ondisk.DataUser, []uint8{0}, 1, false, false, false},
		{ondisk.DataUser, []uint8{0, 1}, 1, false, false, true},
		{ondisk.DataUser, []uint8{1, 3}, 1, false, true, false},
		{ondisk.DataBtree, []uint8{1}, 1, true, false, false},
		{ondisk.DataCached, []uint8{1}, 1, false, false, false},
		{ondisk.DataUser, []uint8{0, 9}, 1, false, false, false}, // 9 was removed
		{ondisk.DataParity, []uint8{0, 1, 2}, 2, false, false, true},
		{ondisk.DataParity, []uint8{0, 1, 3}, 2, false, true, false},
		{ondisk.DataUser, []uint8{1}, 0, false, false, true}, // in a stripe
	} {
		var l loss
		fs.weigh(&l, tt.t, tt.devs, tt.required)
		if l.metadata != tt.meta || l.data != tt.data || l.degraded != tt.dg {
			t.Errorf("%v on %v: %+v", tt.t, tt.devs, l)
		}
	}
}
