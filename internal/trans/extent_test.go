package trans

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/golden"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

var extentSeeds = flag.Int("extent-seeds", 60, "how many runs TestExtents and TestFreespaceSet make")

// extentSectors is how long the file is that TestExtents writes to.
const extentSectors = 96

// snapshotTree is 10 with children 8 and 7; 8 has 5 and 4. Children have smaller ids.
var snapshotParent = map[uint32]uint32{8: 10, 7: 10, 5: 8, 4: 8}

func snapshotIsAncestor(a, b uint32) bool {
	for b != 0 {
		if a == b {
			return true
		}
		b = snapshotParent[b]
	}
	return false
}

// files is what each snapshot sees: a number for each sector, 0 for a hole.
type files map[uint32]*[extentSectors]uint64

// An exact update leaves alone what it overlaps, whosever it is.
func TestExactExtents(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.IsAncestor = snapshotIsAncestor })
	at := func(end uint64, snapshot uint32) ondisk.Pos {
		return ondisk.Pos{Inode: 1, Offset: end, Snapshot: snapshot}
	}
	key := func(end uint64, snapshot, size uint32) ondisk.Key {
		return ondisk.Key{Type: ondisk.KeyCookie, Pos: at(end, snapshot), Size: size, Val: make([]byte, 8)}
	}
	update := func(flags UpdateFlags, keys ...ondisk.Key) {
		t.Helper()
		err := w.s.Update(t.Context(), func(tx *Tx) error {
			for _, k := range keys {
				if err := tx.Update(ondisk.BtreeExtents, k, flags); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	update(0, key(64, 10, 64))
	update(0, key(32, 8, 16)) // cuts that of 10, and hides the middle
	update(Exact, ondisk.Key{Pos: at(32, 8)}, key(32, 5, 16))
	var got []string
	err := w.s.View(t.Context(), func(tx *Tx) error {
		it := tx.Iter(ondisk.BtreeExtents, at(0, 0), AllSnapshots|NotExtents)
		for k, ok, err := it.Peek(); ok || err != nil; k, ok, err = it.Next() {
			if err != nil {
				return err
			}
			got = append(got, fmt.Sprintf("%v %d:%d+%d", k.Type, k.Pos.Snapshot, k.Start().Offset, k.Size))
		}
		return nil
	})
	want := []string{"cookie 10:0+16", "cookie 5:16+16", "cookie 10:16+16", "cookie 10:32+32"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
	err = w.s.View(t.Context(), func(tx *Tx) error {
		got = got[:0]
		return tx.Scan(ondisk.BtreeExtents, ondisk.PosMin, ondisk.SPosMax, 0, func(k ondisk.Key, _ ondisk.Pos) (bool, error) {
			got = append(got, fmt.Sprintf("%v %d:%d+%d", k.Type, k.Pos.Snapshot, k.Start().Offset, k.Size))
			return true, nil
		})
	})
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("scan: %q, %v; want %q", got, err, want)
	}
}

// extentModel writes extents to a file in snapshots that are taken as it goes, and to a plain array for each.
type extentModel struct {
	*world
	rnd   *rand.Rand
	files files
	log   []string
}

// Whatever is written, overwritten, cut and deleted in whatever snapshot, each snapshot sees what was written there, and what its ancestors
// held when it was taken.
func TestExtents(t *testing.T) {
	for seed := range uint64(golden.FlagTimes(t, "extent-seeds", *extentSeeds, 10)) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		m := &extentModel{rnd: rnd, files: files{10: new([extentSectors]uint64)}}
		m.world = newWorld(t, func(c *Config) {
			c.IsAncestor, c.NodeBytes = snapshotIsAncestor, 2048<<rnd.IntN(4)
			c.CacheBytes = int64(c.NodeBytes * (4 + rnd.IntN(20)))
		})
		for _, phase := range [][]uint32{{10}, {8, 7}, {5, 4, 7}} {
			for _, s := range phase {
				if m.files[s] == nil {
					f := *m.files[snapshotParent[s]]
					m.files[s] = &f
				}
			}
			for range 12 {
				m.write(phase)
				if rnd.IntN(3) == 0 {
					m.replace()
				}
				if rnd.IntN(4) == 0 {
					m.verify(seed)
				}
			}
			m.verify(seed)
		}
		if err := m.s.Quiesce(t.Context()); err != nil {
			t.Fatal(err)
		}
		m.reopen()
		m.verify(seed)
		if t.Failed() {
			return
		}
	}
}

// write makes some updates in one transaction. Within it, they are seen at once.
func (m *extentModel) write(snapshots []uint32) {
	seed := m.rnd.Uint64()
	var after files
	err := m.s.Update(context.Background(), func(tx *Tx) error {
		rnd := rand.New(rand.NewPCG(seed, 1))
		after = files{}
		for s, f := range m.files {
			g := *f
			after[s] = &g
		}
		for range 1 + rnd.IntN(4) {
			snap := snapshots[rnd.IntN(len(snapshots))]
			start := rnd.IntN(extentSectors)
			size := 1 + rnd.IntN(min(40, extentSectors-start))
			k := ondisk.Key{Pos: ondisk.Pos{Inode: 1, Offset: uint64(start + size), Snapshot: snap}, Size: uint32(size)}
			first := uint64(0)
			if rnd.IntN(3) > 0 {
				first = 1 + rnd.Uint64N(1<<40)
				p := ondisk.ReflinkP{Idx: first}
				k.Type, k.Val = ondisk.KeyReflinkP, p.Encode()
			}
			m.log = append(m.log, fmt.Sprintf("%v in %d: [%d, %d) = %d", k.Type, snap, start, start+size, first))
			if err := tx.Update(ondisk.BtreeExtents, k, 0); err != nil {
				return err
			}
			for i := range size {
				after[snap][start+i] = 0
				if first > 0 {
					after[snap][start+i] = first + uint64(i)
				}
			}
		}
		if rnd.IntN(2) == 0 {
			return m.look(tx, after, 0)
		}
		if rnd.IntN(4) == 0 {
			return m.look(tx, m.files, OnlyCommitted)
		}
		return nil
	})
	if err != nil {
		m.Fatalf("%v\nafter %q", err, m.log)
	}
	m.files = after
}

// replace puts pieces with the same content in place of one key, whosever it is: nobody sees a difference.
func (m *extentModel) replace() {
	seed := m.rnd.Uint64()
	err := m.s.Update(context.Background(), func(tx *Tx) error {
		rnd := rand.New(rand.NewPCG(seed, 1))
		var all []ondisk.Key
		it := tx.Iter(ondisk.BtreeExtents, ondisk.Pos{Inode: 1}, AllSnapshots|NotExtents)
		for k, ok, err := it.Peek(); ok || err != nil; k, ok, err = it.Next() {
			if err != nil {
				return err
			}
			if k.Type == ondisk.KeyReflinkP {
				all = append(all, k.Clone())
			}
		}
		if len(all) == 0 {
			return nil
		}
		k := all[rnd.IntN(len(all))]
		if tx.ReplaceExtent(ondisk.BtreeExtents, k) == nil {
			return errors.New("a key was replaced by nothing")
		}
		var pieces []ondisk.Key
		rest := k
		for rest.Size > 1 && len(pieces) < 4 {
			n := 1 + rnd.Uint32N(rest.Size)
			pieces = append(pieces, ondisk.CutBack(&rest, n))
			rest = ondisk.CutFront(&rest, n, nil)
		}
		if rest.Size > 0 {
			pieces = append(pieces, rest)
		}
		m.log = append(m.log, fmt.Sprintf("[%d, %d) of %d in %d pieces", k.Start().Offset, k.Pos.Offset, k.Pos.Snapshot, len(pieces)))
		if err := tx.ReplaceExtent(ondisk.BtreeExtents, k, pieces...); err != nil {
			return err
		}
		return m.look(tx, m.files, 0)
	})
	if err != nil {
		m.Fatalf("%v\nafter %q", err, m.log)
	}
}

func (m *extentModel) verify(seed uint64) {
	m.Helper()
	err := m.s.View(context.Background(), func(tx *Tx) error { return m.look(tx, m.files, 0) })
	if err != nil {
		m.Fatalf("seed %d: %v\nafter %q", seed, err, m.log)
	}
}

// look compares what iterators show with what is expected, in several ways.
func (m *extentModel) look(tx *Tx, want files, flags IterFlags) error {
	for snap, f := range want {
		if err := m.forwards(tx, f, snap, flags); err != nil {
			return fmt.Errorf("snapshot %d: %w", snap, err)
		}
		if err := m.backwards(tx, f, snap, flags); err != nil {

			return fmt.Errorf("snapshot %d, backwards: %w", snap, err)
		}
		for s := range uint64(extentSectors) {
			k, ok, err := tx.Lookup(ondisk.BtreeExtents, ondisk.Pos{Inode: 1, Offset: s, Snapshot: snap}, flags)
			if err != nil {
				return err
			}
			got := uint64(0)
			if ok {
				if got, err = sectorValue(k, s); err != nil {
					return err
				}
			} else { // as long as the hole is
				end := s
				for end < extentSectors && f[end] == 0 {
					end++
				}
				if k.Pos.Offset != end && (end < extentSectors || k.Pos.Offset < end) {
					return fmt.Errorf("snapshot %d: hole from %d to %d, should end at %d", snap, s, k.Pos.Offset, end)
				}
			}
			if got != f[s] {
				return fmt.Errorf("snapshot %d: sector %d is %d, want %d", snap, s, got, f[s])
			}
		}
	}
	return nil
}

// sectorValue is what a key says of a sector.
func sectorValue(k ondisk.Key, s uint64) (uint64, error) {
	p, err := ondisk.DecodeReflinkP(k)
	if err != nil {
		return 0, err
	}
	if s < k.Start().Offset || s >= k.Pos.Offset {
		return 0, fmt.Errorf("extent %v - %v does not cover %d", k.Start(), k.Pos, s)
	}
	return p.Idx + s - k.Start().Offset, nil
}

func (m *extentModel) forwards(tx *Tx, want *[extentSectors]uint64, snap uint32, flags IterFlags) error {
	from, to := m.rnd.Uint64N(extentSectors), uint64(extentSectors)
	if m.rnd.IntN(2) == 0 {
		from = 0
	}
	if m.rnd.IntN(2) == 0 {
		to = from + m.rnd.Uint64N(extentSectors-from)
	}
	it := tx.Iter(ondisk.BtreeExtents, ondisk.Pos{Inode: 1, Offset: from, Snapshot: snap}, flags)
	next := from
	for {
		k, ok, err := it.PeekMax(ondisk.Pos{Inode: 1, Offset: to})
		if err != nil {
			return err
		}
		start := to
		if ok {
			if start = k.Start().Offset; start < next {
				if next != from {
					return fmt.Errorf("extent %v - %v overlaps what ends at %d", k.Start(), k.Pos, next)
				}
				start = next
			}
			if start >= to || it.Pos().Offset != start {
				return fmt.Errorf("iterator at %v with %v - %v, to %d", it.Pos(), k.Start(), k.Pos, to)
			}
		}
		for ; next < start; next++ {
			if want[next] != 0 {
				return fmt.Errorf("sector %d is a hole, want %d", next, want[next])
			}
		}
		if !ok {
			return nil
		}
		for ; next < min(k.Pos.Offset, extentSectors); next++ {
			if got, err := sectorValue(k, next); err != nil || got != want[next] {
				return fmt.Errorf("sector %d is %d, want %d: %v", next, got, want[next], err)
			}
		}
		it.Advance()
	}
}

func (m *extentModel) backwards(tx *Tx, want *[extentSectors]uint64, snap uint32, flags IterFlags) error {
	it := tx.Iter(ondisk.BtreeExtents, ondisk.Pos{Inode: 1, Offset: extentSectors, Snapshot: snap}, flags)
	next := uint64(extentSectors)
	for {
		k, ok, err := it.PeekPrev(ondisk.Pos{Inode: 1})
		if err != nil {
			return err
		}
		end := uint64(0)
		if ok {
			if end = k.Pos.Offset; end > next {
				return fmt.Errorf("extent %v - %v reaches over %d", k.Start(), k.Pos, next)
			}
		}
		for ; next > end; next-- {
			if want[next-1] != 0 {
				return fmt.Errorf("sector %d is a hole, want %d", next-1, want[next-1])
			}
		}
		if !ok {
			return nil
		}
		for ; next > k.Start().Offset; next-- {
			if got, err := sectorValue(k, next-1); err != nil || got != want[next-1] {
				return fmt.Errorf("sector %d is %d, want %d: %v", next-1, got, want[next-1], err)
			}
		}
	}
}

// A btree of extents without values is a set of slots: neighbours are one key, and no key is more than what was put there.
func TestFreespaceSet(t *testing.T) {
	const slots = 60
	for seed := range uint64(golden.FlagTimes(t, "extent-seeds", *extentSeeds, 10)) {
		rnd := rand.New(rand.NewPCG(seed, 11))
		w := newWorld(t, func(c *Config) { c.NodeBytes = 2048 })
		var want [slots]bool
		for range 40 {
			start := rnd.IntN(slots)
			size := 1 + rnd.IntN(min(9, slots-start))
			add := rnd.IntN(2) == 0
			w.update(func(tx *Tx) error {
				k := ondisk.FreespaceRange{Dev: 1, First: ondisk.Bucket(start), Len: uint32(size)}.Key()
				if !add {
					k.Type = ondisk.KeyDeleted
				}
				return tx.Update(ondisk.BtreeFreespace, k, 0)
			})
			for i := range size {
				want[start+i] = add
			}
			var got [slots]bool
			last := uint64(0)
			err := w.s.View(t.Context(), func(tx *Tx) error {
				return tx.Scan(ondisk.BtreeFreespace, ondisk.PosMin, ondisk.SPosMax, 0, func(k ondisk.Key, _ ondisk.Pos) (bool, error) {
					if last > 0 && k.Start().Offset <= last {
						t.Errorf("seed %d: %v - %v touches what ends at %d", seed, k.Start(), k.Pos, last)
					}
					for i := k.Start().Offset; i < k.Pos.Offset; i++ {
						got[i] = true
					}
					last = k.Pos.Offset
					return true, nil
				})
			})
			if err != nil || got != want {
				t.Fatalf("seed %d: %v, want %v: %v", seed, got, want, err)
			}
		}
	}
}
