package snapshot_test

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/go-bcachefs/bcachefs"
	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/enginetest"
	"github.com/go-bcachefs/bcachefs/internal/fsck/fscktest"
	"github.com/go-bcachefs/bcachefs/internal/golden"
	"github.com/go-bcachefs/bcachefs/internal/kernelvm"
	"github.com/go-bcachefs/bcachefs/internal/manifest"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/snapshot"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// manifestOf lists what is in a filesystem.
func manifestOf(t *testing.T, disks *enginetest.Disks) []byte {
	t.Helper()
	fsys, err := disks.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer fsys.Close()
	var buf bytes.Buffer
	if err := manifest.Write(t.Context(), &buf, fsys.Root()); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// sameList compares two manifests, but for the times of the root, which a check that uses the filesystem changes.
func sameList(t *testing.T, what string, ours, theirs []byte) {
	t.Helper()
	a, b := strings.Split(string(ours), "\n"), strings.Split(string(theirs), "\n")
	if len(a) != len(b) {
		t.Errorf("%s: we list %d lines, the driver %d", what, len(a), len(b))
	}
	for i, told := 0, 0; i < min(len(a), len(b)) && told < 5; i++ {
		if a[i] != b[i] && !strings.HasPrefix(a[i], ".\t") {
			told++
			t.Errorf("%s: we list\n%s\nthe driver\n%s", what, a[i], b[i])
		}
	}
}

// used is a filesystem with subvolumes that were made, written to and deleted.
func used(t *testing.T, seed uint64) *model {
	t.Helper()
	m := newModel(t, seed, smallShape())
	// The driver's check_nlinks passes over versions of an inode with one link: it counts their names for an older version with more.
	m.noLinks = true
	for range 200 {
		m.step()
	}
	return m
}

// The driver mounts, uses and finds clean what we made: after deletions that were finished, after such that are left to it, after a crash, and
// where we went on with subvolumes and snapshots that it had made. It lists the same as we.
func TestDriver(t *testing.T) {
	kernelvm.Available(t)
	var all [][]string
	var lists [][]byte
	names := []string{"all finished", "deletions to be finished", "crash", "the driver's own"}
	dir := t.TempDir()
	for i, name := range names {
		var m *model
		if i < 3 {
			m = used(t, uint64(100+i))
		} else {
			m = continued(t)
		}
		switch i {
		case 0:
			m.tidy()
			m.close()
			m.compare()
		case 1:
			for range 2 { // the driver finishes what is only unlinked, and what has dead snapshots
				v := m.leaf()
				m.unlink(v)
			}
			v := m.leaf()
			m.unlink(v)
			m.ok(m.volumes.Delete(m.ctx, v.id))
			own := m.create(m.subvols[0], nil, false) // the last of its tree
			m.write(own)
			m.unlink(own)
			m.ok(m.volumes.Delete(m.ctx, own.id))
			m.close()
			fscktest.MustBeCleanMemory(t, m.disks.Devices...)
		case 2:
			m.ok(m.sync())
			m.rw.Abandon()
		}
		lists = append(lists, manifestOf(t, m.disks))
		paths, err := m.disks.Save(t.Context(), dir, fmt.Sprint(i))
		m.ok(err)
		all = append(all, paths)
		if t.Failed() {
			t.Fatal(name)
		}
	}
	for i, r := range kernelvm.MustBeClean(t, all, kernelvm.CheckOptions{ReadWrite: true}) {
		sameList(t, names[i], lists[i], r.Manifest)
	}
}

// leaf returns a subvolume without others in it.
func (m *model) leaf() *volume {
	m.Helper()
	for _, v := range m.subvols {
		if v.id != 1 && len(v.children) == 0 {
			return v
		}
	}
	m.Fatal("no subvolume can be deleted")
	return nil
}

// bySubvolume lists what is in each subvolume, without paths that lead to it, and without what differs between a subvolume and a snapshot of it.
func bySubvolume(t *testing.T, disks *enginetest.Disks) map[uint32]string {
	t.Helper()
	fsys, err := disks.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer fsys.Close()
	subvols, err := fsys.Subvolumes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	lists := map[uint32]string{}
	for _, s := range subvols {
		view, err := fsys.SubvolumeByID(s.ID)
		if err != nil {
			t.Fatal(err)
		}
		lists[s.ID] = listOf(t, view, s.ID)
	}
	return lists
}

func listOf(t *testing.T, view *bcachefs.View, id uint32) string {
	t.Helper()
	var buf bytes.Buffer
	if err := manifest.Write(t.Context(), &buf, view); err != nil {
		t.Fatal(err)
	}
	var out []string
	const subvol = 12 // field
	for _, line := range strings.Split(buf.String(), "\n") {
		f := strings.Split(line, "\t")
		if len(f) <= subvol || strings.HasPrefix(line, "#") || f[subvol] != fmt.Sprint(id) || f[0] == "." {
			continue
		}
		out = append(out, strings.Join(slices.Delete(f, subvol, subvol+1), "\t"))
	}
	return strings.Join(out, "\n")
}

// continued is a filesystem of the driver in which we went on: snapshots of all its subvolumes, some of these deleted. What it had put into
// them is in the snapshots, and in those that are left. The filesystem is closed.
func continued(t *testing.T) *model {
	t.Helper()
	img := golden.Find(t, "snapshots")
	paths := img.UnpackCopy(t)
	disks := &enginetest.Disks{Devices: make([]blockdev.Device, len(paths))}
	if err := disks.Load(paths); err != nil {
		t.Fatal(err)
	}
	before := bySubvolume(t, disks)
	had := maps.Clone(before)
	m := &model{T: t, ctx: t.Context(), disks: disks, rnd: rand.New(rand.NewPCG(5, 5))}
	m.open()
	_, err := m.volumes.DeleteDead(m.ctx)
	m.ok(err)
	root := &volume{id: 1, root: ondisk.RootInum, children: map[string]*volume{}}
	all, err := m.volumes.List(m.ctx)
	m.ok(err)
	taken := map[uint32]*volume{}
	for _, s := range all {
		v := m.create(root, &volume{id: s.ID}, s.ID%2 == 0)
		taken[s.ID] = v
	}
	for _, s := range all { // those in which others are, and the first one, cannot be deleted
		if s.ID == 1 || s.ID%3 == 0 {
			continue
		}
		err := m.tryUnlinkIn(s)
		if err == nil {
			delete(before, s.ID)
			m.ok(m.volumes.Delete(m.ctx, s.ID))
		}
	}
	c, err := m.volumes.DeleteDead(m.ctx)
	m.ok(err)
	if c.Nodes == 0 || c.Deleted == 0 || c.Moved == 0 {
		t.Errorf("not much was done: %+v", c)
	}
	m.close()
	fscktest.MustBeCleanMemory(t, disks.Devices...)
	after := bySubvolume(t, disks)
	for id, want := range before {
		if id != 1 && after[id] != want { // the first one has new names in it
			t.Errorf("subvolume %d of the driver has\n%s\nwant\n%s", id, after[id], want)
		}
	}
	for id, v := range taken {
		if id != 1 && after[v.id] != had[id] {
			t.Errorf("subvolume %d, a snapshot of %d, has\n%s\nwant\n%s", v.id, id, after[v.id], had[id])
		}
	}
	if len(after) != len(before)+len(taken) {
		t.Errorf("subvolumes: %v, want the driver's %v and %d snapshots", slices.Sorted(maps.Keys(after)), slices.Sorted(maps.Keys(before)), len(taken))
	}
	return m
}

// tryUnlinkIn unlinks a subvolume that the model does not know.
func (m *model) tryUnlinkIn(s snapshot.Subvolume) error {
	return m.rw.Store.Update(m.ctx, func(tx *trans.Tx) error {
		return m.volumes.Unlink(tx, s.ID, func(tx *trans.Tx, at snapshot.Entry) error {
			return m.files.UnlinkSubvolume(tx, at.Subvol, at.Dir, at.Offset)
		})
	})
}
