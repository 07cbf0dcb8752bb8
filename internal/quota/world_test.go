package quota_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/go-bcachefs/bcachefs"
	"github.com/go-bcachefs/bcachefs/internal/data"
	"github.com/go-bcachefs/bcachefs/internal/engine"
	"github.com/go-bcachefs/bcachefs/internal/enginetest"
	"github.com/go-bcachefs/bcachefs/internal/fsck/fscktest"
	"github.com/go-bcachefs/bcachefs/internal/namei"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/quota"
	"github.com/go-bcachefs/bcachefs/internal/snapshot"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

const block = 4096

// options of filesystems in which everything is counted.
var allTypes = map[string]string{"usrquota": "1", "grpquota": "1", "prjquota": "1"}

// world is a filesystem in memory with quotas, put together as one in use is.
type world struct {
	testing.TB
	disks *enginetest.Disks
	rw    *engine.RW
	q     *quota.Quotas
	names *namei.Writer
	data  *data.Writer
	vols  *snapshot.Volumes
	root  namei.ID
	clock atomic.Int64  // nanoseconds
	wrote atomic.Uint64 // sectors of data
}

func newWorld(t testing.TB, options map[string]string) *world {
	t.Helper()
	d, err := enginetest.Format(t.Context(), &enginetest.Shape{Bytes: []int64{96 << 20}, Options: bcachefs.FormatOptions{Options: options}})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{TB: t, disks: d, root: namei.ID{Subvol: ondisk.RootSubvol, Inum: ondisk.RootInum}}
	w.clock.Store(1_700_000_000_000_000_000)
	w.open()
	return w
}

func (w *world) open() {
	w.Helper()
	rw, err := w.disks.Open(w.Context(), engine.Options{}, engine.WriteOptions{})
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(rw.Abandon)
	w.rw = rw
	now := w.clock.Load
	w.q = w.quotas()
	sb := rw.SB
	w.names = namei.NewWriter(namei.WriterConfig{Store: rw.Store, Now: now, TimeBase: sb.TimeBase, TimePrecision: sb.TimePrecision,
		Rand: rand.Uint64, HashType: sb.DirentHash(), Quota: w.q.Names(),
		ParseOption: func(name, text string) (n uint64, err error) { _, err = fmt.Sscan(text, &n); return n, err }})
	c := rw.DataConfig()
	c.Quota, c.Now = w.q.Data(), now
	c.Wrote = func(n uint64) { w.wrote.Add(n) }
	w.data = data.NewWriter(c)
	w.vols = snapshot.New(snapshot.Config{Store: rw.Store, Table: rw.Snapshots, Now: now, TimeBase: sb.TimeBase, TimePrecision: sb.TimePrecision})
	w.must(w.vols.Recover(w.Context()))
	w.must(w.q.Load(w.Context()))
}

// quotas returns quotas of the filesystem that know nothing yet.
func (w *world) quotas() *quota.Quotas {
	return quota.New(quota.Config{Store: w.rw.Store, Snapshots: w.rw.Snapshots, Enabled: quota.TypesOf(w.rw.SB), Superblock: w.rw.Super.Superblock,
		UpdateSuper: func(ctx context.Context, change func(sb *ondisk.Superblock) error) error {
			return w.rw.Super.Update(ctx, change, nil)
		}, Now: w.clock.Load})
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// refused fails the test unless the error is that of a limit.
func (w *world) refused(what string, err error) {
	w.Helper()
	var e *quota.Error
	if !errors.As(err, &e) || !errors.Is(err, syscall.EDQUOT) {
		w.Errorf("%s: %v, want EDQUOT", what, err)
	}
}

func (w *world) update(ctx context.Context, fn func(tx *trans.Tx) error) error {
	return w.rw.Store.Update(ctx, fn)
}

// create makes a file, or with another mode something else.
func (w *world) create(ctx context.Context, dir namei.ID, name string, uid, gid uint32, mode uint16) (id namei.ID, err error) {
	err = w.update(ctx, func(tx *trans.Tx) error {
		a, err := w.names.Create(tx, dir, []byte(name), &namei.NewInode{Mode: mode, UID: uid, GID: gid})
		id = namei.ID{Subvol: dir.Subvol, Inum: a.ID.Inum}
		return err
	})
	return id, err
}

const (
	fileMode = ondisk.DTReg<<12 | 0o644
	dirMode  = ondisk.DTDir<<12 | 0o755
	linkMode = ondisk.DTLnk<<12 | 0o777
)

func (w *world) file(name string, uid uint32) namei.ID {
	w.Helper()
	id, err := w.create(w.Context(), w.root, name, uid, 0, fileMode)
	w.must(err)
	return id
}

func dataID(id namei.ID) data.ID { return data.ID{Subvol: id.Subvol, Inum: id.Inum} }

// write writes blocks of random bytes.
func (w *world) write(ctx context.Context, id namei.ID, at, n int) error {
	p := make([]byte, n*block)
	for i := range p {
		p[i] = byte(rand.Uint32())
	}
	_, _, err := w.data.WriteAt(ctx, dataID(id), p, int64(at)*block, nil)
	return err
}

func (w *world) chown(ctx context.Context, id namei.ID, uid, gid uint32) error {
	return w.update(ctx, func(tx *trans.Tx) error {
		_, err := w.names.SetAttr(tx, id, &namei.Attrs{Set: namei.SetUID | namei.SetGID, UID: uid, GID: gid})
		return err
	})
}

func (w *world) project(ctx context.Context, id namei.ID, project uint32) error {
	return w.update(ctx, func(tx *trans.Tx) error {
		_, err := w.names.SetFlagsAndProject(tx, id, 0, 0, namei.ProjectAttrs{Project: project})
		return err
	})
}

// remove removes a name, and what it led to if that was the last.
func (w *world) remove(ctx context.Context, dir namei.ID, name string, what namei.What) error {
	var gone namei.Attr
	err := w.update(ctx, func(tx *trans.Tx) (err error) {
		gone, err = w.names.Unlink(tx, dir, []byte(name), what)
		return err
	})
	if err != nil {
		return err
	}
	if what == namei.SubvolumeRoot {
		if err := w.vols.Delete(ctx, gone.Inode.Subvol); err != nil {
			return err
		}
		if _, err := w.vols.DeleteDead(ctx); err != nil {
			return err
		}
		return w.q.Recount(ctx)
	}
	if gone.Inode.Flags&ondisk.InodeUnlinked == 0 {
		return nil
	}
	return w.names.Delete(ctx, namei.ID{Subvol: dir.Subvol, Inum: gone.ID.Inum})
}

func (w *world) linkTo(dir namei.ID, name string) snapshot.Link {
	return func(tx *trans.Tx, c snapshot.Created) (uint64, uint64, error) {
		slot, err := w.names.LinkSubvolume(tx, dir, []byte(name), c.Subvol)
		return dir.Inum, slot, err
	}
}

// subvolume makes a subvolume.
func (w *world) subvolume(ctx context.Context, dir namei.ID, name string, uid uint32) (namei.ID, error) {
	var c snapshot.Created
	err := w.update(ctx, func(tx *trans.Tx) error {
		root, err := w.names.NewRoot(tx, dir, namei.NewInode{Mode: dirMode, UID: uid})
		if err == nil {
			c, err = w.vols.Create(tx, dir.Subvol, root.ID.Inum, root.Inode, snapshot.Options{}, w.linkTo(dir, name))
		}
		return err
	})
	return namei.ID{Subvol: c.Subvol, Inum: c.Root}, err
}

func (w *world) snapshot(ctx context.Context, source uint32, dir namei.ID, name string) (namei.ID, error) {
	defer w.data.Freeze()()
	var c snapshot.Created
	err := w.update(ctx, func(tx *trans.Tx) (err error) {
		c, err = w.vols.Snapshot(tx, source, dir.Subvol, snapshot.Options{}, w.linkTo(dir, name))
		return err
	})
	return namei.ID{Subvol: c.Subvol, Inum: c.Root}, err
}

// has is what somebody has: sectors and inodes.
type has struct{ sectors, inodes uint64 }

func (w *world) has(typ ondisk.QuotaType, id uint32) has {
	w.Helper()
	s, err := w.q.Get(typ, id)
	w.must(err)
	return has{s.Sectors, s.Inodes}
}

// usage lists what all have.
func (w *world) usage(q *quota.Quotas) (all [ondisk.NumQuotaTypes]map[uint32]has) {
	w.Helper()
	for typ := range all {
		all[typ] = map[uint32]has{}
		list, err := q.List(ondisk.QuotaType(typ))
		w.must(err)
		for _, s := range list {
			if h := (has{s.Sectors, s.Inodes}); h != (has{}) {
				all[typ][s.ID] = h
			}
		}
	}
	return all
}

// checkCount compares what was counted all along with a new count, and with what is on the devices once the filesystem is closed. Then it opens that again.
func (w *world) checkCount() {
	w.Helper()
	got := w.usage(w.q)
	fresh := w.quotas()
	w.must(fresh.Load(w.Context()))
	w.same("a new count", got, w.usage(fresh))
	w.must(w.rw.Close(w.Context()))
	w.same("what is on the device", got, w.onDisk())
	o, names := fscktest.OnDevices(w.disks.Devices...)
	o.MustBeClean(w, names...)
	w.open()
	w.same("mounted again", w.usage(w.q), got)
}

func (w *world) same(what string, got, want [ondisk.NumQuotaTypes]map[uint32]has) {
	w.Helper()
	for typ := range got {
		if !maps.Equal(got[typ], want[typ]) {
			w.Errorf("type %d: %v; %s: %v", typ, got[typ], what, want[typ])
		}
	}
}

// onDisk counts what is in the closed filesystem, one tree of snapshots after the other.
func (w *world) onDisk() (all [ondisk.NumQuotaTypes]map[uint32]has) {
	w.Helper()
	for typ := range all {
		all[typ] = map[uint32]has{}
	}
	fs, err := w.disks.Read(w.Context())
	w.must(err)
	defer fs.Close()
	r := fs.Engine().Reader
	for k, err := range r.Keys(w.Context(), ondisk.BtreeSnapshotTrees, ondisk.PosMin, ondisk.SPosMax) {
		w.must(err)
		tree, err := ondisk.DecodeSnapshotTree(k)
		w.must(err)
		main, err := fs.Engine().Subvolume(w.Context(), tree.MasterSubvol)
		w.must(err)
		for k, err := range r.KeysIn(w.Context(), ondisk.BtreeInodes, ondisk.PosMin, ondisk.Pos{Offset: 1 << 62}, main.Snapshot) {
			w.must(err)
			if !slices.Contains([]ondisk.KeyType{ondisk.KeyInode, ondisk.KeyInodeV2, ondisk.KeyInodeV3}, k.Type) {
				continue
			}
			in, err := ondisk.DecodeInode(k)
			w.must(err)
			project := uint32(0)
			if in.Project > 0 {
				project = in.Project - 1
			}
			for typ, id := range []uint32{in.UID, in.GID, project} {
				h := all[typ][id]
				all[typ][id] = has{h.sectors + in.Sectors, h.inodes + 1}
			}
		}
	}
	return all
}
