package btree

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/journal"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// edgePos returns positions where arithmetic may go wrong.
func edgePos(rnd *rand.Rand, snapshots []uint32) ondisk.Pos {
	edge := []uint64{0, 1, 2, 7, math.MaxUint64 - 1, math.MaxUint64}
	return ondisk.Pos{Inode: edge[rnd.IntN(len(edge))], Offset: edge[rnd.IntN(len(edge))], Snapshot: snapshots[rnd.IntN(len(snapshots))]}
}

// model is a btree with an overlay, and what must be in it.
type model struct {
	r    *Reader
	keys []ondisk.Key
}

// newModel makes a tree of small nodes of the first half of keys, over which the rest, and deletions of some, lie as an overlay.
func newModel(t *testing.T, rnd *rand.Rand, id ondisk.BtreeID, keys map[ondisk.Pos]ondisk.Key, junk []ondisk.Key) *model {
	var disk, over []ondisk.Key
	m := &model{}
	for _, k := range keys {
		m.keys = append(m.keys, k)
	}
	byPos := func(a, b ondisk.Key) int { return a.Pos.Compare(b.Pos) }
	slices.SortFunc(m.keys, byPos)
	for _, k := range m.keys {
		if rnd.IntN(3) == 0 {
			over = append(over, k)
		} else {
			disk = append(disk, k)
		}
	}
	for _, k := range junk { // what the overlay deletes
		if _, ok := keys[k.Pos]; !ok && !slices.ContainsFunc(disk, func(d ondisk.Key) bool { return d.Pos == k.Pos }) {
			disk = append(disk, k)
			over = append(over, ondisk.Key{Pos: k.Pos})
		}
	}
	slices.SortFunc(disk, byPos)
	tt := newTestTree(t, 1)
	tt.build(id, disk, 1+rnd.IntN(4), 2+rnd.IntN(4))
	for tt.roots[id].Level > MaxRootLevel {
		tt.build(id, disk, 6, 20)
	}
	m.r = tt.reader(func(c *Config) {
		c.OnProblem = func(_ ondisk.BtreeID, _ *ondisk.Node, p ondisk.NodeProblem) { t.Error(p) }
		c.Overlay = overlayOf(func(b *journal.OverlayBuilder) {
			for _, k := range over {
				b.Add(id, 0, k)
			}
		})
	})
	return m
}

// Whatever range is asked for, what comes is what lies in it, at the ends of all fields too.
func TestRangesAgainstModel(t *testing.T) {
	const anyID = ondisk.NumBtrees // a btree of which nothing is known: any position is valid
	for seed := range uint64(150) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		snapshots := []uint32{0, 1, math.MaxUint32 - 1, math.MaxUint32}
		keys := map[ondisk.Pos]ondisk.Key{}
		var junk []ondisk.Key
		for range 1 + rnd.IntN(60) {
			p := edgePos(rnd, snapshots)
			keys[p] = ondisk.Key{Type: ondisk.KeySet, Pos: p}
			junk = append(junk, ondisk.Key{Type: ondisk.KeySet, Pos: edgePos(rnd, snapshots)})
		}
		m := newModel(t, rnd, anyID, keys, junk)
		for range 60 {
			from, to := edgePos(rnd, snapshots), edgePos(rnd, snapshots)
			var want []ondisk.Pos
			for _, k := range m.keys {
				if !k.Pos.Less(from) && !to.Less(k.Pos) {
					want = append(want, k.Pos)
				}
			}
			got, damage := collect(t, m.r, anyID, from, to)
			if damage != nil || !slices.Equal(positions(got), want) && len(got)+len(want) > 0 {
				t.Fatalf("seed %d: keys from %v to %v: %v, %v, want %v", seed, from, to, positions(got), damage, want)
			}
			_, in := keys[from]
			if _, ok, err := m.r.Get(ctx, anyID, from); ok != in || err != nil {
				t.Fatalf("seed %d: Get %v: %v, %v, want %v", seed, from, ok, err, in)
			}
			it := m.r.Iter(anyID, IterOptions{Prefetch: true})
			for range 4 { // seeking about, within a node and out of it
				it.Seek(from)
				i, _ := slices.BinarySearchFunc(m.keys, from, func(k ondisk.Key, p ondisk.Pos) int { return k.Pos.Compare(p) })
				for range 3 {
					k, ok, err := it.Next(ctx)
					if err != nil || ok != (i < len(m.keys)) || ok && k.Pos != m.keys[i].Pos {
						t.Fatalf("seed %d: sought %v: %v, %v, %v", seed, from, k.Pos, ok, err)
					}
					i++
				}
				from = edgePos(rnd, snapshots)
			}
			it.Close()
		}
		m.r.Close()
		if s := m.r.Stats(); s.Pinned != 0 {
			t.Fatalf("seed %d: %+v", seed, s)
		}
	}
}

// modelSees is the rule of visibility, written down plainly: of each slot the key of the nearest ancestor, unless it is a whiteout.
func modelSees(keys []ondisk.Key, snapshot uint32) (seen []ondisk.Key) {
	for i := 0; i < len(keys); {
		end := i
		for end < len(keys) && keys[end].Pos.SameSlot(keys[i].Pos) {
			end++
		}
		for _, k := range keys[i:end] { // nearer ancestors have smaller ids
			if k.Pos.Snapshot >= snapshot && testAncestor(k.Pos.Snapshot, snapshot) {
				if !k.Type.IsWhiteout() {
					seen = append(seen, k)
				}
				break
			}
		}
		i = end
	}
	return seen
}

func TestVisibilityAgainstModel(t *testing.T) {
	snapshots := []uint32{100, 90, 80, 70, 60}
	for seed := range uint64(150) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		keys := map[ondisk.Pos]ondisk.Key{}
		var junk []ondisk.Key
		for range 1 + rnd.IntN(80) {
			p, q := edgePos(rnd, snapshots), edgePos(rnd, snapshots)
			if p.SameSlot(ondisk.PosMax) || q.SameSlot(ondisk.PosMax) {
				continue // not valid
			}
			typ := ondisk.KeyHashWhiteout
			if rnd.IntN(3) == 0 {
				typ = ondisk.KeyWhiteout
			}
			keys[p] = ondisk.Key{Type: typ, Pos: p}
			junk = append(junk, ondisk.Key{Type: ondisk.KeyHashWhiteout, Pos: q})
		}
		m := newModel(t, rnd, ondisk.BtreeDirents, keys, junk)
		m.r.SetAncestor(testAncestor)
		for _, snapshot := range snapshots {
			seen := modelSees(m.keys, snapshot)
			for range 12 {
				from, to := edgePos(rnd, snapshots), edgePos(rnd, snapshots)
				var want, got []ondisk.Pos
				for _, k := range seen {
					if !k.Pos.Less(from.WithSnapshot(0)) && !to.WithSnapshot(math.MaxUint32).Less(k.Pos) {
						want = append(want, k.Pos)
					}
				}
				for k, err := range m.r.KeysIn(ctx, ondisk.BtreeDirents, from, to, snapshot) {
					if err != nil {
						t.Fatal(err)
					}
					got = append(got, k.Pos)
				}
				if !slices.Equal(got, want) {
					t.Fatalf("seed %d: snapshot %d from %v to %v: %v, want %v", seed, snapshot, from, to, got, want)
				}
				i := slices.IndexFunc(seen, func(k ondisk.Key) bool { return k.Pos.SameSlot(from) })
				k, ok, err := m.r.Lookup(ctx, ondisk.BtreeDirents, from.WithSnapshot(snapshot))
				if err != nil || ok != (i >= 0) || ok && k.Pos != seen[i].Pos {
					t.Fatalf("seed %d: snapshot %d: lookup of %v: %v, %v, %v", seed, snapshot, from, k.Pos, ok, err)
				}
			}
		}
		m.r.Close()
	}
}

// Extents that overlap in any way: each sector belongs to the first visible extent that ends behind it, if that begins before it.
func TestExtentsAgainstModel(t *testing.T) {
	snapshots := []uint32{100, 90, 80, 70, 60}
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		base := []uint64{0, 1000, math.MaxUint64 - 64}[seed%3]
		extent := func() ondisk.Key {
			end := 1 + rnd.Uint64N(60)
			k := ondisk.Key{Type: ondisk.KeyReservation, Size: uint32(1 + rnd.Uint64N(min(end, 20))), Val: make([]byte, 8),
				Pos: ondisk.Pos{Inode: uint64(5 + rnd.IntN(2)), Offset: base + end, Snapshot: snapshots[rnd.IntN(len(snapshots))]}}
			if rnd.IntN(5) == 0 {
				k.Type, k.Size, k.Val = ondisk.KeyWhiteout, 0, nil
			}
			return k
		}
		keys := map[ondisk.Pos]ondisk.Key{}
		var junk []ondisk.Key
		for range 1 + rnd.IntN(50) {
			k := extent()
			keys[k.Pos] = k
			junk = append(junk, extent())
		}
		m := newModel(t, rnd, ondisk.BtreeExtents, keys, junk)
		m.r.SetAncestor(testAncestor)
		for _, snapshot := range snapshots {
			seen := modelSees(m.keys, snapshot)
			owner := func(inum, sector uint64) string {
				for _, k := range seen {
					if k.Pos.Inode == inum && k.Pos.Offset > sector {
						if k.Start().Offset > sector {
							return ""
						}
						return fmt.Sprint(k.Pos)
					}
				}
				return ""
			}
			for range 12 {
				inum := uint64(5 + rnd.IntN(2))
				from := base + rnd.Uint64N(62)
				to := from + rnd.Uint64N(base+63-from+1)
				got := map[uint64]string{}
				next := uint64(0)
				for k, err := range m.r.KeysIn(ctx, ondisk.BtreeExtents, ondisk.Pos{Inode: inum, Offset: from},
					ondisk.Pos{Inode: inum, Offset: to}, snapshot) {
					if err != nil {
						t.Fatal(err)
					}
					if k.Pos.Inode != inum || k.Start().Offset < next || k.Start().Offset > to || k.Pos.Offset <= from {
						t.Fatalf("seed %d: %v of %d sectors is shown behind %d for %d-%d", seed, k.Pos, k.Size, next, from, to)
					}
					next = k.Pos.Offset
					for s := k.Start().Offset; s < k.Pos.Offset; s++ {
						got[s] = fmt.Sprint(k.Pos)
					}
				}
				for s := from; s <= to && s >= from; s++ {
					if want := owner(inum, s); got[s] != want {
						t.Fatalf("seed %d: snapshot %d: sector %d of %d-%d belongs to %q, want %q", seed, snapshot, s, from, to, got[s], want)
					}
				}
				k, ok, err := m.r.Lookup(ctx, ondisk.BtreeExtents, ondisk.Pos{Inode: inum, Offset: from, Snapshot: snapshot})
				if want := owner(inum, from); err != nil || ok != (want != "") || ok && fmt.Sprint(k.Pos) != want {
					t.Fatalf("seed %d: snapshot %d: lookup of sector %d: %v, %v, %v, want %q", seed, snapshot, from, k.Pos, ok, err, want)
				}
			}
		}
		m.r.Close()
	}
}
