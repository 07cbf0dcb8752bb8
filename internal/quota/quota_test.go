package quota_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/data"
	"github.com/go-bcachefs/bcachefs/internal/namei"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/quota"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// Without quotas there is nothing that could cost anything, but limits can be set for later.
func TestOff(t *testing.T) {
	w := newWorld(t, nil)
	if w.q.Names() != nil || w.q.Data() != nil || w.q.Enabled() != 0 {
		t.Error("there are hooks")
	}
	if _, err := w.q.Get(ondisk.QuotaUser, 0); !errors.Is(err, syscall.ESRCH) {
		t.Error(err)
	}
	if _, err := w.q.List(ondisk.QuotaUser); !errors.Is(err, syscall.ESRCH) {
		t.Error(err)
	}
	if err := w.q.SetGrace(t.Context(), ondisk.QuotaUser, time.Second, time.Second); !errors.Is(err, syscall.ESRCH) {
		t.Error(err)
	}
	for _, err := range []error{w.q.Set(t.Context(), ondisk.NumQuotaTypes, 0, ondisk.Quota{}), func() error { _, err := w.q.Get(9, 0); return err }()} {
		if !errors.Is(err, syscall.EINVAL) {
			t.Error(err)
		}
	}
	w.must(w.q.Recount(t.Context()))
	w.must(w.q.Set(t.Context(), ondisk.QuotaUser, 5, ondisk.Quota{Inodes: ondisk.QuotaLimit{Hard: 1}}))
	w.must(w.rw.Close(t.Context()))
	fs, err := w.disks.Read(t.Context())
	w.must(err)
	defer fs.Close()
	if _, ok, err := fs.Engine().Reader.Lookup(t.Context(), ondisk.BtreeQuotas, ondisk.Pos{Offset: 5}); !ok || err != nil {
		t.Errorf("the limit is not there: %v", err)
	}
	if all, err := fs.Engine().SB.Quota(); all != nil || err != nil {
		t.Errorf("the superblock has %v, %v", all, err)
	}
}

// Of several types only those that are enabled count.
func TestTypes(t *testing.T) {
	w := newWorld(t, map[string]string{"grpquota": "1"})
	if w.q.Enabled() != quota.NewTypes(ondisk.QuotaGroup) {
		t.Errorf("enabled: %b", w.q.Enabled())
	}
	f, err := w.create(t.Context(), w.root, "f", 3, 4, fileMode)
	w.must(err)
	w.must(w.write(t.Context(), f, 0, 1))
	if got := w.has(ondisk.QuotaGroup, 4); got != (has{8, 1}) {
		t.Errorf("the group has %v", got)
	}
	if _, err := w.q.Get(ondisk.QuotaUser, 3); !errors.Is(err, syscall.ESRCH) {
		t.Error(err)
	}
}

// What each operation changes for the users 1 and 2.
func TestCounting(t *testing.T) {
	w := newWorld(t, allTypes)
	ctx := t.Context()
	var f namei.ID
	var snap namei.ID
	var sub namei.ID
	steps := []struct {
		name string
		do   func() error
		one  has
		two  has
	}{
		{"create", func() (err error) { f, err = w.create(ctx, w.root, "f", 1, 1, fileMode); return err }, has{0, 1}, has{}},
		{"write", func() error { return w.write(ctx, f, 0, 10) }, has{80, 1}, has{}},
		{"overwrite", func() error { return w.write(ctx, f, 5, 10) }, has{120, 1}, has{}},
		{"write with a hole", func() error { return w.write(ctx, f, 100, 1) }, has{128, 1}, has{}},
		{"truncate", func() error { _, err := w.data.Truncate(ctx, dataID(f), 8*block, nil); return err }, has{64, 1}, has{}},
		{"allocate", func() error { _, err := w.data.Allocate(ctx, dataID(f), 0, 20*block, 0, nil); return err }, has{160, 1}, has{}},
		{"punch", func() error { _, err := w.data.Punch(ctx, dataID(f), 0, 4*block, nil); return err }, has{128, 1}, has{}},
		{"insert", func() error { _, err := w.data.InsertRange(ctx, dataID(f), 4*block, 4*block, nil); return err }, has{128, 1}, has{}},
		{"collapse", func() error { _, err := w.data.CollapseRange(ctx, dataID(f), 8*block, block, nil); return err }, has{120, 1}, has{}},
		{"chown", func() error { return w.chown(ctx, f, 2, 2) }, has{}, has{120, 1}},
		{"chown to the same", func() error { return w.chown(ctx, f, 2, 2) }, has{}, has{120, 1}},
		{"an error undoes it", func() error {
			failed := errors.New("")
			err := w.update(ctx, func(tx *trans.Tx) error {
				if _, err := w.names.SetAttr(tx, f, &namei.Attrs{Set: namei.SetUID, UID: 1}); err != nil {
					return err
				}
				return failed
			})
			if errors.Is(err, failed) {
				err = nil
			}
			return err
		}, has{}, has{120, 1}},
		{"another name", func() error {
			return w.update(ctx, func(tx *trans.Tx) error { _, err := w.names.Link(tx, f, w.root, []byte("g"), false); return err })
		}, has{}, has{120, 1}},
		{"remove one name", func() error { return w.remove(ctx, w.root, "f", namei.File) }, has{}, has{120, 1}},
		// Space that was only allocated is not shared.
		{"reflink", func() error {
			r, err := w.create(ctx, w.root, "r", 1, 1, fileMode)
			if err == nil {
				_, _, err = w.data.Reflink(ctx, dataID(f), 0, dataID(r), 0, 20*block, nil)
			}
			return err
		}, has{24, 1}, has{120, 1}},
		{"snapshot", func() (err error) { snap, err = w.snapshot(ctx, 1, w.root, "snap"); return err }, has{24, 1}, has{120, 1}},
		{"change in a snapshot", func() error {
			g := namei.ID{Subvol: snap.Subvol, Inum: f.Inum}
			return errors.Join(w.write(ctx, g, 200, 3), w.chown(ctx, g, 1, 1))
		}, has{24, 1}, has{120, 1}},
		{"remove in a snapshot", func() error { return w.remove(ctx, snap, "r", namei.File) }, has{24, 1}, has{120, 1}},
		{"remove what is in a snapshot too", func() error { return w.remove(ctx, w.root, "g", namei.File) }, has{24, 1}, has{}},
		{"subvolume", func() (err error) { sub, err = w.subvolume(ctx, w.root, "sub", 2); return err }, has{24, 1}, has{0, 1}},
		{"file in a subvolume", func() error {
			f, err := w.create(ctx, sub, "f", 2, 2, fileMode)
			if err == nil {
				err = w.write(ctx, f, 0, 2)
			}
			return err
		}, has{24, 1}, has{16, 2}},
		{"remove the snapshot", func() error { return w.remove(ctx, w.root, "snap", namei.SubvolumeRoot) }, has{24, 1}, has{16, 2}},
		{"snapshot of the subvolume", func() (err error) { snap, err = w.snapshot(ctx, sub.Subvol, w.root, "snap2"); return err }, has{24, 1}, has{16, 2}},
		{"more in that snapshot", func() error {
			f, err := w.create(ctx, snap, "f2", 2, 2, fileMode)
			if err == nil {
				err = w.write(ctx, f, 0, 5)
			}
			return err
		}, has{24, 1}, has{16, 2}},
		{"remove the subvolume: the snapshot takes its place", func() error { return w.remove(ctx, w.root, "sub", namei.SubvolumeRoot) }, has{24, 1}, has{56, 3}},
		{"remove that", func() error { return w.remove(ctx, w.root, "snap2", namei.SubvolumeRoot) }, has{24, 1}, has{}},
		{"symbolic link", func() error {
			_, err := w.data.PrepareInline(ctx, 10)
			return errors.Join(err, w.update(ctx, func(tx *trans.Tx) error {
				a, err := w.names.Create(tx, w.root, []byte("link"), &namei.NewInode{Mode: linkMode, UID: 2})
				if err != nil {
					return err
				}
				if err := w.data.PutInline(tx, data.ID{Subvol: 1, Inum: a.ID.Inum}, a.ID.Snapshot, &a.Inode, []byte("0123456789")); err != nil {
					return err
				}
				return w.names.Put(tx, &a)
			}))
		}, has{24, 1}, has{8, 1}},
		{"remove the link", func() error { return w.remove(ctx, w.root, "link", namei.File) }, has{24, 1}, has{}},
		{"remove the rest", func() error { return w.remove(ctx, w.root, "r", namei.File) }, has{}, has{}},
	}
	for _, s := range steps {
		if err := s.do(); err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		if one, two := w.has(ondisk.QuotaUser, 1), w.has(ondisk.QuotaUser, 2); one != s.one || two != s.two {
			t.Errorf("%s: the users have %v and %v, want %v and %v", s.name, one, two, s.one, s.two)
		}
	}
	w.checkCount()
}

// Projects are those that inodes have, less one.
func TestProjects(t *testing.T) {
	w := newWorld(t, allTypes)
	ctx := t.Context()
	f := w.file("f", 1)
	w.must(w.write(ctx, f, 0, 1))
	before := w.has(ondisk.QuotaProject, 0)
	w.must(w.project(ctx, f, 7))
	if got := w.has(ondisk.QuotaProject, 7); got != (has{8, 1}) {
		t.Errorf("project 7 has %v", got)
	}
	if got := w.has(ondisk.QuotaProject, 0); got != (has{before.sectors - 8, before.inodes - 1}) {
		t.Errorf("project 0 has %v, had %v", got, before)
	}
	w.checkCount()
}

// limit gives a user limits.
func (w *world) limit(uid uint32, space, inodes ondisk.QuotaLimit) {
	w.Helper()
	w.must(w.q.Set(w.Context(), ondisk.QuotaUser, uid, ondisk.Quota{Space: space, Inodes: inodes}))
}

func TestHardLimits(t *testing.T) {
	w := newWorld(t, allTypes)
	ctx := t.Context()
	w.limit(1, ondisk.QuotaLimit{Hard: 80}, ondisk.QuotaLimit{Hard: 2})
	f := w.file("f", 1)
	w.must(w.write(ctx, f, 0, 8))
	wrote := w.wrote.Load()
	w.refused("more than is left", w.write(ctx, f, 8, 3))
	if n := w.wrote.Load(); n != wrote {
		t.Errorf("%d sectors were written in vain", n-wrote)
	}
	w.must(w.write(ctx, f, 8, 2))
	w.must(w.write(ctx, f, 0, 10)) // what is there already
	w.refused("one block more", w.write(ctx, f, 10, 1))
	_, err := w.data.Allocate(ctx, dataID(f), 0, 20*block, 0, nil)
	w.refused("allocate", err)
	w.must(w.write(quota.Unlimited(ctx), f, 10, 1))
	if got := w.has(ondisk.QuotaUser, 1); got != (has{88, 1}) {
		t.Errorf("he has %v", got)
	}
	w.refused("one block more, again", w.write(ctx, f, 11, 1))
	_, err = w.data.Truncate(ctx, dataID(f), 10*block+100, nil) // frees nothing, and writes
	w.must(err)
	w.must(w.chown(ctx, f, 1, 9)) // he has it already

	other := w.file("other", 2)
	w.must(w.write(ctx, other, 0, 1))
	w.refused("a file is given to him", w.chown(ctx, other, 1, 0))
	_, err = w.data.Truncate(ctx, dataID(f), 9*block, nil)
	w.must(err)
	w.must(w.chown(ctx, other, 1, 0))
	_, err = w.create(ctx, w.root, "third", 1, 0, fileMode)
	w.refused("a third file", err)
	empty := w.file("empty", 2)
	w.refused("a third file is given to him", w.chown(ctx, empty, 1, 0))
	w.must(w.remove(ctx, w.root, "f", namei.File))
	w.must(w.chown(ctx, empty, 1, 0))
	if got := w.has(ondisk.QuotaUser, 1); got != (has{8, 2}) {
		t.Errorf("he has %v", got)
	}
	w.checkCount()
	_, err = w.create(ctx, w.root, "third", 1, 0, fileMode)
	w.refused("a third file, after mounting", err)
	w.limit(1, ondisk.QuotaLimit{}, ondisk.QuotaLimit{})
	_, err = w.create(ctx, w.root, "third", 1, 0, fileMode)
	w.must(err)
	w.must(w.write(ctx, f, 0, 0))
}

// Soft limits may be exceeded for a time.
func TestSoftLimits(t *testing.T) {
	w := newWorld(t, allTypes)
	ctx := t.Context()
	if space, inodes, err := w.q.Grace(ondisk.QuotaUser); space != quota.DefaultGrace || inodes != quota.DefaultGrace || err != nil {
		t.Errorf("%v %v %v", space, inodes, err)
	}
	w.must(w.q.SetGrace(ctx, ondisk.QuotaUser, time.Hour, time.Minute))
	w.limit(1, ondisk.QuotaLimit{Soft: 16, Hard: 800}, ondisk.QuotaLimit{Soft: 1})
	f := w.file("f", 1)
	w.must(w.write(ctx, f, 0, 2))
	expires := func() (space, inodes time.Duration) {
		s, err := w.q.Get(ondisk.QuotaUser, 1)
		w.must(err)
		now := time.Unix(0, w.clock.Load())
		if !s.SpaceExpires.IsZero() {
			space = s.SpaceExpires.Sub(now)
		}
		if !s.InodesExpire.IsZero() {
			inodes = s.InodesExpire.Sub(now)
		}
		return space, inodes
	}
	wants := func(what string, space, inodes time.Duration) {
		t.Helper()
		if s, i := expires(); s != space || i != inodes {
			t.Errorf("%s: %v and %v are left, want %v and %v", what, s, i, space, inodes)
		}
	}
	wants("at the limit", 0, 0)
	w.must(w.write(ctx, f, 2, 1))
	wants("over it", time.Hour, 0)
	w.file("g", 1)
	wants("over both", time.Hour, time.Minute)
	w.clock.Add(int64(30 * time.Minute))
	_, err := w.create(ctx, w.root, "h", 1, 0, fileMode)
	w.refused("inodes, too late", err)
	w.must(w.write(ctx, f, 3, 1))
	wants("half an hour later", 30*time.Minute, -29*time.Minute)
	w.clock.Add(int64(30 * time.Minute))
	w.refused("sectors, too late", w.write(ctx, f, 4, 1))
	w.must(w.write(quota.Unlimited(ctx), f, 4, 1))
	_, err = w.data.Truncate(ctx, dataID(f), 3*block, nil)
	w.must(err)
	w.refused("still over it", w.write(ctx, f, 3, 1))
	_, err = w.data.Truncate(ctx, dataID(f), 2*block, nil)
	w.must(err)
	wants("below", 0, -59*time.Minute)
	w.must(w.write(ctx, f, 2, 1))
	wants("over it anew", time.Hour, -59*time.Minute)

	w.checkCount()
	if space, inodes, err := w.q.Grace(ondisk.QuotaUser); space != time.Hour || inodes != time.Minute || err != nil {
		t.Errorf("after mounting: %v %v %v", space, inodes, err)
	}
	wants("after mounting", time.Hour, time.Minute)
	w.limit(1, ondisk.QuotaLimit{Soft: 24}, ondisk.QuotaLimit{})
	wants("limits raised", 0, 0)
	w.limit(1, ondisk.QuotaLimit{Soft: 8}, ondisk.QuotaLimit{})
	wants("limits lowered", time.Hour, 0)
	for _, d := range []time.Duration{-1, 1 << 33 * time.Second} {
		if err := w.q.SetGrace(ctx, ondisk.QuotaUser, 0, d); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("%v: %v", d, err)
		}
	}
}

func TestErrorText(t *testing.T) {
	for want, e := range map[string]quota.Error{
		"quota of user 7: the limit is 80 sectors":                               {ID: 7, Limit: 80, Hard: true},
		"quota of project 1: the soft limit, exceeded for too long, is 3 inodes": {Type: ondisk.QuotaProject, ID: 1, Counter: quota.Inodes, Limit: 3},
	} {
		if e.Error() != want {
			t.Errorf("%q, want %q", e.Error(), want)
		}
	}
}

// Many at once get what there is, to the last sector and inode, and no more. Groups and projects are unlimited, and count.
func TestExactTogether(t *testing.T) {
	const inodes, blocks = 50, 100
	w := newWorld(t, allTypes)
	w.limit(1, ondisk.QuotaLimit{Hard: 8 * blocks}, ondisk.QuotaLimit{Hard: inodes})
	var wg sync.WaitGroup
	var created, written atomic.Int64
	for g := range 8 {
		wg.Go(func() {
			ctx := t.Context()
			for i := 0; ; i++ {
				id, err := w.create(ctx, w.root, fmt.Sprint(g, "-", i), 1, uint32(g), fileMode)
				if err != nil {
					w.refused("create", err)
					return
				}
				created.Add(1)
				for b := range 4 {
					if err := w.write(ctx, id, b, 1); err == nil {
						written.Add(1)
					} else {
						w.refused("write", err)
					}
				}
			}
		})
	}
	wg.Wait()
	if created.Load() != inodes || written.Load() != blocks {
		t.Errorf("%d files, %d blocks", created.Load(), written.Load())
	}
	if got := w.has(ondisk.QuotaUser, 1); got != (has{8 * blocks, inodes}) {
		t.Errorf("he has %v", got)
	}
	w.checkCount()
}

// List has everybody who has something or may not have more.
func TestList(t *testing.T) {
	w := newWorld(t, allTypes)
	w.file("f", 9)
	w.limit(1<<32-1, ondisk.QuotaLimit{}, ondisk.QuotaLimit{Soft: 3})
	w.limit(4, ondisk.QuotaLimit{Hard: 1}, ondisk.QuotaLimit{})
	w.limit(5, ondisk.QuotaLimit{Hard: 1}, ondisk.QuotaLimit{})
	w.limit(5, ondisk.QuotaLimit{}, ondisk.QuotaLimit{})
	w.limit(6, ondisk.QuotaLimit{}, ondisk.QuotaLimit{})
	text := func() string {
		var b bytes.Buffer
		list, err := w.q.List(ondisk.QuotaUser)
		w.must(err)
		for _, s := range list {
			fmt.Fprintf(&b, "%d:%d:%v ", s.ID, s.Inodes, s.Limits)
		}
		return b.String()
	}
	const want = "0:2:{{0 0} {0 0}} 4:0:{{1 0} {0 0}} 9:1:{{0 0} {0 0}} 4294967295:0:{{0 0} {0 3}} "
	if got := text(); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	w.checkCount()
	if got := text(); got != want {
		t.Errorf("after mounting: %s, want %s", got, want)
	}
}

// Who gives up finds nothing taken.
func TestCancelled(t *testing.T) {
	w := newWorld(t, allTypes)
	f := w.file("f", 1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.write(ctx, f, 0, 4); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	w.limit(1, ondisk.QuotaLimit{Hard: 8}, ondisk.QuotaLimit{})
	w.must(w.write(t.Context(), f, 0, 1))
	w.checkCount()
}
