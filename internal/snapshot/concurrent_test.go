package snapshot_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/snapshot"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// Subvolumes are written to, snapshots taken and deleted and what is dead is removed, all at the same time. Each subvolume holds what was
// written to it.
func TestConcurrent(t *testing.T) {
	for seed := range uint64(3) {
		m := newModel(t, seed, smallShape())
		var shape sync.RWMutex // a file layer knows its snapshot, so none may be taken while it works
		var stop atomic.Bool
		var all sync.WaitGroup
		written := []*volume{m.subvols[0], m.create(m.subvols[0], nil, false), m.create(m.subvols[0], m.subvols[0], false)}
		for i, v := range written {
			w := *m
			w.rnd, w.nth, w.files = rand.New(rand.NewPCG(seed, uint64(i))), (i+1)*1e6, m.files.From(uint64(i+1)<<32)
			all.Go(func() {
				for !stop.Load() {
					shape.RLock()
					w.write(v)
					shape.RUnlock()
					w.log = nil
				}
			})
		}
		all.Go(func() {
			for !stop.Load() {
				if _, err := m.volumes.DeleteDead(m.ctx); err != nil {
					t.Error(err)
					return
				}
			}
		})
		for range 60 {
			if n := len(m.subvols); n > 10 || n > len(written) && m.rnd.IntN(2) == 0 {
				v := m.subvols[len(written)+m.rnd.IntN(n-len(written))]
				shape.Lock()
				gone := m.unlink(v)
				shape.Unlock()
				if gone {
					m.ok(m.volumes.Delete(m.ctx, v.id))
				}
				continue
			}
			shape.Lock()
			m.create(m.pick(), m.pick(), m.rnd.IntN(2) == 0)
			shape.Unlock()
		}
		stop.Store(true)
		all.Wait()
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
		m.diffs()
		m.tidy()
		m.check()
		m.close()
	}
}

// A chain of hundreds of snapshots of one subvolume, most of them deleted again: nodes of great depth lose many of their ancestors.
func TestManySnapshots(t *testing.T) {
	m := newModel(t, 9, smallShape())
	const n = 300
	for i := range n {
		m.write(m.subvols[0])
		m.create(m.subvols[0], m.subvols[0], i%2 == 0)
	}
	if id, ok := m.rw.Snapshots.Get(^uint32(0)); !ok || id.Children[1] == 0 {
		t.Errorf("root of the tree: %+v, %v", id, ok)
	}
	m.tidy()
	for range n * 3 / 4 {
		v := m.subvols[1+m.rnd.IntN(len(m.subvols)-1)]
		m.unlink(v)
		m.ok(m.volumes.Delete(m.ctx, v.id))
	}
	c, err := m.volumes.DeleteDead(m.ctx)
	m.ok(err)
	if c.Nodes != 2*(n*3/4) {
		t.Errorf("%d nodes were deleted, want %d", c.Nodes, 2*(n*3/4))
	}
	m.tidy()
	m.check()
	m.close()
}

// Depths and skip lists that a crash, or the driver, left wrong are made right.
func TestFixPlaces(t *testing.T) {
	m := newModel(t, 1, smallShape())
	for range 90 {
		m.create(m.subvols[0], m.subvols[0], false)
	}
	m.ok(m.rw.Store.Update(m.ctx, func(tx *trans.Tx) error {
		for i := range uint64(90) {
			p := ondisk.Pos{Offset: 1<<32 - 10 - i}
			k, _, err := tx.Get(ondisk.BtreeSnapshots, p, trans.ForUpdate)
			if err != nil {
				return err
			}
			n, err := ondisk.DecodeSnapshot(k)
			if err != nil {
				return err
			}
			n.Depth += 3
			n.Skip[i%3] = uint32(7 * i)
			if err := tx.Update(ondisk.BtreeSnapshots, ondisk.Key{Type: k.Type, Pos: p, Val: n.Encode()}, 0); err != nil {
				return err
			}
		}
		return nil
	}))
	m.ok(m.volumes.Recover(m.ctx))
	m.check()
	m.close()
}

// What cannot be done is refused with the number of a system call, and changes nothing.
func TestRefused(t *testing.T) {
	m := newModel(t, 1, smallShape())
	a := m.create(m.subvols[0], nil, false)
	m.create(a, nil, true)
	gone := m.create(m.subvols[0], m.subvols[0], false)
	m.unlink(gone)
	errLink := errors.New("no link")
	noLink := func(*trans.Tx, snapshot.Created) (uint64, uint64, error) { return 0, 0, errLink }
	noUnlink := func(*trans.Tx, snapshot.Entry) error { return errLink }
	for name, tt := range map[string]struct {
		want error
		do   func(tx *trans.Tx) error
	}{
		"the link fails": {errLink, func(tx *trans.Tx) error {
			_, err := m.volumes.Snapshot(tx, 1, 1, snapshot.Options{}, noLink)
			return err
		}},
		"not allowed": {syscall.EPERM, func(tx *trans.Tx) error {
			_, err := m.volumes.Snapshot(tx, 1, 1, snapshot.Options{May: func(in *ondisk.Inode) error {
				if in.Subvol != 1 {
					return nil
				}
				return syscall.EPERM
			}}, noLink)
			return err
		}},
		"no source": {syscall.ENOENT, func(tx *trans.Tx) error {
			_, err := m.volumes.Snapshot(tx, 77, 1, snapshot.Options{}, noLink)
			return err
		}},
		"unlinked source": {snapshot.ErrNoSubvolume, func(tx *trans.Tx) error {
			_, err := m.volumes.Snapshot(tx, gone.id, 1, snapshot.Options{}, noLink)
			return err
		}},
		"unlinked twice":       {syscall.ENOENT, func(tx *trans.Tx) error { return m.volumes.Unlink(tx, gone.id, noUnlink) }},
		"the first":            {syscall.EBUSY, func(tx *trans.Tx) error { return m.volumes.Unlink(tx, 1, noUnlink) }},
		"others in it":         {syscall.ENOTEMPTY, func(tx *trans.Tx) error { return m.volumes.Unlink(tx, a.id, noUnlink) }},
		"read-only, not there": {syscall.ENOENT, func(tx *trans.Tx) error { return m.volumes.SetReadOnly(tx, 77, true) }},
		"moved to nowhere":     {syscall.ENOENT, func(tx *trans.Tx) error { return m.volumes.SetParent(tx, a.id, 77) }},
	} {
		if err := m.rw.Store.Update(m.ctx, tt.do); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
	if err := m.volumes.Delete(m.ctx, a.id); !errors.Is(err, syscall.EBUSY) {
		t.Errorf("deleting what has a name: %v", err)
	}
	if err := m.volumes.Delete(m.ctx, 77); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("deleting what is not there: %v", err)
	}
	m.tidy()
	m.check()
	m.close()
}

// A subvolume that is moved to another one keeps that from being deleted, and flags are kept.
func TestSetParent(t *testing.T) {
	m := newModel(t, 1, smallShape())
	a, b := m.create(m.subvols[0], nil, false), m.create(m.subvols[0], nil, true)
	set := func(id, parent uint32, ro bool) {
		m.ok(m.rw.Store.Update(m.ctx, func(tx *trans.Tx) error {
			return errors.Join(m.volumes.SetParent(tx, id, parent), m.volumes.SetReadOnly(tx, id, ro))
		}))
	}
	set(b.id, a.id, false)
	if err := m.tryUnlink(a); !errors.Is(err, syscall.ENOTEMPTY) {
		t.Errorf("deleting what another was moved to: %v", err)
	}
	all, err := m.volumes.List(m.ctx)
	m.ok(err)
	got := ""
	for _, s := range all {
		got += fmt.Sprintf("%d: %d, %d, %d; ", s.ID, s.FSPathParent, s.CreationParent, s.Flags)
	}
	if want := "1: 0, 0, 0; 2: 1, 0, 0; 3: 2, 0, 0; "; got != want {
		t.Errorf("subvolumes %s, want %s", got, want)
	}
	set(b.id, 1, true)
	m.unlink(a)
	m.unlink(b)
	m.tidy()
	m.check()
	m.close()
}
