package snapshot_test

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"slices"
	"syscall"
	"testing"

	"github.com/go-bcachefs/bcachefs"
	"github.com/go-bcachefs/bcachefs/internal/enginetest"
	"github.com/go-bcachefs/bcachefs/internal/fsck/fscktest"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/snapshot"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

var seeds = flag.Int("snapshot-seeds", 4, "how many runs TestModel makes")

func smallShape() *enginetest.Shape {
	s := &enginetest.Shape{Name: "small", Bytes: []int64{64 << 20}, Devices: make([]bcachefs.FormatDevice, 1)}
	s.Options.Options = map[string]string{"block_size": "4k", "btree_node_size": "32k"}
	return s
}

// Whatever subvolumes and snapshots are made, written to and deleted, each holds what was written to it and what its source held when it
// was taken, after a remount as after a crash.
func TestModel(t *testing.T) {
	for seed := range uint64(*seeds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			m := newModel(t, seed, smallShape())
			for range 6 {
				for range 40 {
					m.step()
				}
				m.diffs()
				switch m.rnd.IntN(3) {
				case 0:
					_, err := m.volumes.DeleteDead(m.ctx)
					m.ok(err)
					m.tidy()
					m.check()
				case 1:
					m.logf("crash")
					m.ok(m.sync())
					m.rw.Abandon()
					m.open()
					m.tidy()
					m.check()
				default:
					m.logf("remount")
					m.close()
					m.open()
					m.tidy()
					m.check()
				}
			}
			for len(m.subvols) > 1 {
				v := m.subvols[1+m.rnd.IntN(len(m.subvols)-1)]
				if m.unlink(v) {
					m.ok(m.volumes.Delete(m.ctx, v.id))
				}
			}
			_, err := m.volumes.DeleteDead(m.ctx)
			m.ok(err)
			if n := m.rw.Snapshots.Len(); n != 1 {
				t.Errorf("%d snapshots are left", n)
			}
			m.check()
			m.close()
		})
	}
}

// step makes one change.
func (m *model) step() {
	v := m.pick()
	switch n := m.rnd.IntN(20); {
	case n < 16:
		if !v.readOnly {
			m.write(v)
		}
	case n < 19 && len(m.subvols) < 12:
		source := v
		if m.rnd.IntN(4) == 0 {
			source = nil
		}
		m.create(m.pick(), source, m.rnd.IntN(4) == 0)
	case v.id != 1 && m.unlink(v):
		if m.rnd.IntN(4) > 0 { // else at the next mount
			m.ok(m.volumes.Delete(m.ctx, v.id))
		}
		if m.rnd.IntN(3) == 0 {
			_, err := m.volumes.DeleteDead(m.ctx)
			m.ok(err)
		}
	}
}

// sync makes everything durable that was done.
func (m *model) sync() error {
	var seq uint64
	err := m.rw.Store.Update(m.ctx, func(tx *trans.Tx) error {
		tx.OnCommit(func(s uint64) { seq = s })
		return m.volumes.SetReadOnly(tx, 1, false)
	})
	return errors.Join(err, m.rw.Journal.FlushSeq(m.ctx, seq))
}

// tidy checks that nothing is left of what was deleted: as many leaves as subvolumes, no inner nodes with one child, and no keys in
// snapshots that are not there.
func (m *model) tidy() {
	m.Helper()
	leaves := 0
	m.deleteUnlinked()
	_, err := m.volumes.DeleteDead(m.ctx)
	m.ok(err)
	all, err := m.volumes.List(m.ctx)
	m.ok(err)
	for _, s := range all {
		known := func(id uint32) bool {
			return slices.ContainsFunc(all, func(o snapshot.Subvolume) bool { return o.ID == id })
		}
		if s.CreationParent != 0 && !known(s.CreationParent) || s.FSPathParent != 0 && !known(s.FSPathParent) {
			m.Errorf("subvolume %d is a snapshot of %d, which is gone, or in %d", s.ID, s.CreationParent, s.FSPathParent)
		}
	}
	nodes := map[uint32]ondisk.Snapshot{}
	m.view(ondisk.BtreeSnapshots, func(k ondisk.Key) {
		n, err := ondisk.DecodeSnapshot(k)
		m.ok(err)
		nodes[uint32(k.Pos.Offset)] = n
		if n.Subvol != 0 {
			leaves++
		}
		if n.Flags != ondisk.SnapshotSubvol && n.Flags != 0 || (n.Subvol == 0) != (n.Children[1] != 0) || n.Children[1] == 0 && n.Children[0] != 0 {
			m.Errorf("snapshot %d: flags %d, subvolume %d, children %d", k.Pos.Offset, n.Flags, n.Subvol, n.Children)
		}
		in, ok := m.rw.Snapshots.Get(uint32(k.Pos.Offset))
		n.Tail = nil
		if n.Size = in.Size; !ok || !equalNodes(in, n) {
			m.Errorf("snapshot %d is %+v in the table, want %+v", k.Pos.Offset, in, n)
		}
	})
	if leaves != len(m.subvols) {
		m.Errorf("%d leaves for %d subvolumes", leaves, len(m.subvols))
	}
	for _, btree := range []ondisk.BtreeID{ondisk.BtreeExtents, ondisk.BtreeInodes, ondisk.BtreeDirents, ondisk.BtreeXattrs} {
		m.view(btree, func(k ondisk.Key) {
			if _, ok := nodes[k.Pos.Snapshot]; !ok {
				m.Errorf("btree %v: a key at %v of a snapshot that is gone", btree, k.Pos)
			}
		})
	}
	if m.Failed() {
		m.FailNow()
	}
}

func equalNodes(a, b ondisk.Snapshot) bool {
	return bytesOf(a) == bytesOf(b)
}

func bytesOf(n ondisk.Snapshot) string { return string(n.Encode()) }

// view calls fn for all keys of a btree as they are.
func (m *model) view(btree ondisk.BtreeID, fn func(k ondisk.Key)) {
	m.Helper()
	m.ok(m.rw.Store.View(m.ctx, func(tx *trans.Tx) error {
		it := tx.Iter(btree, ondisk.PosMin, trans.AllSnapshots|trans.NotExtents)
		for k, ok, err := it.Peek(); ok || err != nil; k, ok, err = it.Next() {
			if err != nil {
				return err
			}
			fn(k)
		}
		return nil
	}))
}

// diffs compares the differences between subvolumes with what each of them sees.
func (m *model) diffs() {
	m.Helper()
	seen := func(btree ondisk.BtreeID, id uint32) map[ondisk.Pos]ondisk.Pos { // by slot: where the key is
		all := map[ondisk.Pos]ondisk.Pos{}
		m.view(btree, func(k ondisk.Key) {
			slot := k.Pos.WithSnapshot(0)
			if _, ok := all[slot]; !ok && m.rw.Snapshots.IsAncestor(k.Pos.Snapshot, id) {
				all[slot] = k.Pos
				switch k.Type {
				case ondisk.KeyWhiteout, ondisk.KeyHashWhiteout, ondisk.KeyInodeGeneration:
					all[slot] = ondisk.PosMin
				}
			}
		})
		maps.DeleteFunc(all, func(_, p ondisk.Pos) bool { return p == ondisk.PosMin })
		return all
	}
	snapshotOf := func(v *volume) (id uint32) {
		m.ok(m.rw.Store.View(m.ctx, func(tx *trans.Tx) error {
			s, err := snapshot.Get(tx, v.id, 0)
			id = s.Snapshot
			return err
		}))
		return id
	}
	for range 3 {
		a, b := snapshotOf(m.pick()), snapshotOf(m.pick())
		na, _ := m.rw.Snapshots.Get(a)
		nb, _ := m.rw.Snapshots.Get(b)
		for _, btree := range snapshot.DiffBtrees {
			x, y := seen(btree, a), seen(btree, b)
			want := map[ondisk.Pos][2]ondisk.Pos{}
			for slot := range x {
				want[slot] = [2]ondisk.Pos{x[slot], y[slot]}
			}
			for slot := range y {
				want[slot] = [2]ondisk.Pos{x[slot], y[slot]}
			}
			maps.DeleteFunc(want, func(_ ondisk.Pos, p [2]ondisk.Pos) bool { return p[0] == p[1] })
			got, last := map[ondisk.Pos][2]ondisk.Pos{}, ondisk.PosMin
			var failed error
			for d, err := range m.volumes.Diff(m.ctx, btree, a, b, ondisk.PosMin, ondisk.SPosMax) {
				if failed = err; err != nil {
					break
				}
				if !last.Less(d.Pos) {
					m.Errorf("btree %v: a difference at %v after that at %v", btree, d.Pos, last)
				}
				var at [2]ondisk.Pos
				for i, k := range []ondisk.Key{d.A, d.B} {
					if k.Type != ondisk.KeyDeleted {
						at[i] = k.Pos
					}
				}
				got[d.Pos], last = at, d.Pos
			}
			if na.Tree != nb.Tree {
				if !errors.Is(failed, snapshot.ErrUnrelated) || !errors.Is(failed, syscall.EINVAL) {
					m.Errorf("snapshots %d and %d of trees %d and %d: %v", a, b, na.Tree, nb.Tree, failed)
				}
				continue
			}
			m.ok(failed)
			if !maps.Equal(got, want) {
				m.Errorf("btree %v, snapshots %d and %d: differences %v, want %v", btree, a, b, got, want)
			}
		}
	}
}

// A crash at any moment of a deletion is made good by the next mount. The moments are between any two transactions: after each the
// devices are looked at as they are.
func TestCrashWhileDeleting(t *testing.T) {
	m := newModel(t, 3, smallShape())
	for range 4 { // a chain and a bush, written to in between
		for range 30 {
			m.write(m.subvols[0])
		}
		a := m.create(m.subvols[0], m.subvols[0], false)
		for range 15 {
			m.write(a)
		}
		m.create(m.subvols[0], a, true)
	}
	own := m.create(m.subvols[0], nil, false) // a tree of its own, which goes as a whole
	for range 10 {
		m.write(own)
	}
	m.create(m.subvols[0], own, false)
	m.check()
	for i, v := range slices.Clone(m.subvols) {
		if (i%3 != 0 || i > 8) && len(v.children) == 0 && v.id != 1 {
			m.unlink(v)
			if i%2 == 0 {
				m.ok(m.volumes.Delete(m.ctx, v.id))
			}
		}
	}
	m.ok(m.sync())
	m.rw.Abandon()
	disks := m.disks
	for steps, done := 0, false; !done; steps += 1 + steps/4 {
		m.disks = disks.Clone()
		m.openWith(func(v *snapshot.Volumes) error {
			left := steps
			v.BeforeEach(func() error {
				if left--; left < 0 {
					return errCrash
				}
				return nil
			})
			err := v.Recover(m.ctx)
			done = err == nil
			if errors.Is(err, errCrash) {
				err = nil
			}
			return err
		})
		if steps%2 == 0 { // else some of it is lost
			m.ok(m.sync())
		}
		m.rw.Abandon()
		m.mustBeRecoverable()
		m.open()
		m.tidy()
		m.close()
		m.compare()
		if done {
			t.Logf("the deletions took %d transactions at most", steps)
		}
	}
}

// mustBeRecoverable checks that all is sound that the driver's check looks at before it finishes deletions itself. What the snapshots hold that
// are about to go may be gone in part.
func (m *model) mustBeRecoverable() {
	m.Helper()
	o, names := fscktest.OnDevices(m.disks.Devices...)
	for _, f := range o.Check(m, names...).Findings {
		switch f.Pass {
		case "check_inodes", "check_extents", "check_dirents", "check_xattrs", "check_nlinks", "check_unreachable_inodes":
		default:
			m.Errorf("fsck: %s: %v", f.Pass, &f)
		}
	}
}

var errCrash = errors.New("power is cut")

// What says that there is nothing is no difference to nothing.
func TestDiffNothing(t *testing.T) {
	m := newModel(t, 1, smallShape())
	m.create(m.subvols[0], m.subvols[0], false)
	var a, b ondisk.Subvolume
	m.ok(m.rw.Store.Update(m.ctx, func(tx *trans.Tx) (err error) {
		if a, err = snapshot.Get(tx, 1, 0); err != nil {
			return err
		}
		if b, err = snapshot.Get(tx, 2, 0); err != nil {
			return err
		}
		for i, typ := range []ondisk.KeyType{ondisk.KeyHashWhiteout, ondisk.KeyWhiteout} {
			k := ondisk.Key{Type: typ, Pos: ondisk.Pos{Inode: ondisk.RootInum, Offset: uint64(i) + 7, Snapshot: a.Snapshot}}
			if err := tx.Update(ondisk.BtreeXattrs, k, 0); err != nil {
				return err
			}
		}
		return nil
	}))
	for d, err := range m.volumes.Diff(m.ctx, ondisk.BtreeXattrs, a.Snapshot, b.Snapshot, ondisk.PosMin, ondisk.SPosMax) {
		t.Errorf("a difference: %+v, %v", d, err)
	}
	m.close()
}
