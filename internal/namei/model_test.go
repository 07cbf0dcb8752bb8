package namei_test

import (
	stdcmp "cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/go-bcachefs/bcachefs"
	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/enginetest"
	"github.com/go-bcachefs/bcachefs/internal/golden"
	"github.com/go-bcachefs/bcachefs/internal/kernelvm"
	"github.com/go-bcachefs/bcachefs/internal/manifest"
	"github.com/go-bcachefs/bcachefs/internal/namei"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

var modelSeed = flag.Uint64("namei.seed", 0, "added to the seeds of TestModel")

// where is an inode in a subvolume.
type where struct {
	Subvol uint32
	Inum   uint64
}

func (w where) id() namei.ID { return namei.ID{Subvol: w.Subvol, Inum: w.Inum} }

// node is an inode of the model.
type node struct {
	Mode     uint16
	UID, GID uint32
	Nlink    uint32
	Xattrs   map[string]string
	Names    map[string]where // of a directory
	Root     bool             // of a subvolume
}

func (n *node) isDir() bool { return n.Mode>>12 == ondisk.DTDir }

// model is what a filesystem holds.
type model struct {
	nodes    map[where]*node
	parents  map[where]where // of directories
	readOnly map[uint32]bool
}

// load reads a filesystem into a model, and checks that links are as many as names, and that inodes know where they are.
func load(t *testing.T, fsys *bcachefs.FS) *model {
	t.Helper()
	m := &model{nodes: map[where]*node{}, parents: map[where]where{}, readOnly: map[uint32]bool{}}
	links := map[where]uint32{}
	var walk func(id bcachefs.InodeID)
	walk = func(id bcachefs.InodeID) {
		at := where{id.Subvol, id.Inum}
		if m.nodes[at] != nil {
			return
		}
		st, err := fsys.Stat(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		n := &node{Mode: st.RawMode, UID: st.UID, GID: st.GID, Nlink: st.Nlink, Xattrs: map[string]string{}, Root: st.SubvolRoot}
		m.nodes[at] = n
		names, err := fsys.ListXattr(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			value, err := fsys.GetXattr(t.Context(), id, name)
			if err != nil {
				t.Fatal(err)
			}
			n.Xattrs[name] = string(value)
		}
		if !n.isDir() {
			return
		}
		n.Names = map[string]where{}
		links[at] += 2
		for e, err := range fsys.ReadDir(t.Context(), id, 0) {
			if err != nil {
				t.Fatal(err)
			}
			child := where{e.ID.Subvol, e.ID.Inum}
			n.Names[e.Name] = child
			if found, err := fsys.Lookup(t.Context(), id, e.Name); err != nil || found != e.ID {
				t.Errorf("%v: %q leads to %v %v, not %v", at, e.Name, found, err, e.ID)
			}
			walk(e.ID)
			st, err := fsys.Stat(t.Context(), e.ID)
			if err != nil {
				t.Fatal(err)
			}
			if m.nodes[child].isDir() {
				m.parents[child] = at
				if st.Dir != at.Inum || st.DirCookie != e.Cookie {
					t.Errorf("%q in %v says that it is at %d of %d", e.Name, at, st.DirCookie, st.Dir)
				}
				if !m.nodes[child].Root {
					links[at]++
				}
			} else {
				links[child]++
			}
		}
	}
	walk(fsys.Root().RootInode())
	for at, n := range m.nodes {
		if n.Nlink != links[at] {
			t.Errorf("%v has %d links, and names for %d", at, n.Nlink, links[at])
		}
	}
	subvols, err := fsys.Subvolumes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range subvols {
		m.readOnly[s.ID] = s.ReadOnly
	}
	return m
}

// inside reports whether a directory is another or in it.
func (m *model) inside(dir, above where) bool {
	for {
		if dir == above {
			return true
		}
		up, ok := m.parents[dir]
		if !ok {
			return false
		}
		dir = up
	}
}

// runner does random operations with a filesystem and its model.
type runner struct {
	*volume
	m    *model
	rnd  *rand.Rand
	open []where // inodes without a name that are not deleted yet
	seq  uint64  // of the last transaction
	done map[string]int
}

// step says what an operation did: whether it was to succeed.
func (r *runner) result(what string, err error, may bool) bool {
	if may != (err == nil) {
		r.Fatalf("%s: %v, the model says %v", what, err, may)
	}
	if may {
		r.done[what]++
	}
	return may
}

func (r *runner) update(fn func(tx *trans.Tx) error) error {
	return r.try(func(tx *trans.Tx) error {
		if err := fn(tx); err != nil {
			return err
		}
		tx.OnCommit(func(seq uint64) { r.seq = seq })
		return nil
	})
}

// pick returns an inode at random.
func (r *runner) pick(dirs bool) where {
	all := slices.SortedFunc(maps.Keys(r.m.nodes), compareWhere)
	all = slices.DeleteFunc(all, func(w where) bool { return dirs && !r.m.nodes[w].isDir() })
	return all[r.rnd.IntN(len(all))]
}

// name returns a name for a directory, often one that it has.
func (r *runner) name(dir where) string {
	if have := slices.Sorted(maps.Keys(r.m.nodes[dir].Names)); len(have) > 0 && r.rnd.IntN(3) > 0 {
		return have[r.rnd.IntN(len(have))]
	}
	return fmt.Sprint("new", r.rnd.IntN(30))
}

func (r *runner) writable(at ...where) bool {
	for _, w := range at {
		if r.m.readOnly[w.Subvol] {
			return false
		}
	}
	return true
}

// drop takes a name away in the model; the last one leaves the inode to be deleted.
func (r *runner) drop(at where) {
	n := r.m.nodes[at]
	if n.isDir() {
		n.Nlink = 1
		delete(r.m.parents, at)
	}
	if n.Nlink--; n.Nlink == 0 {
		delete(r.m.nodes, at)
		r.open = append(r.open, at)
	}
}

func (r *runner) create() {
	dir := r.pick(true)
	name := r.name(dir)
	mode := []uint16{fifo, chr, dirMode, dirMode, dirMode, reg, reg, reg, lnk, sock}[r.rnd.IntN(10)] | uint16(r.rnd.IntN(0o1000))
	var a namei.Attr
	err := r.update(func(tx *trans.Tx) (err error) {
		a, err = r.w.Create(tx, dir.id(), []byte(name), &namei.NewInode{Mode: mode, UID: 1, GID: 2})
		return err
	})
	d := r.m.nodes[dir]
	if _, exists := d.Names[name]; !r.result("create", err, r.writable(dir) && !exists) {
		return
	}
	at := where{dir.Subvol, a.ID.Inum}
	n := &node{Mode: mode, UID: 1, GID: 2, Nlink: 1, Xattrs: map[string]string{}}
	if d.Mode&0o2000 != 0 {
		n.GID = d.GID
	}
	if n.isDir() {
		n.Nlink, n.Names = 2, map[string]where{}
		n.Mode |= d.Mode & 0o2000
		d.Nlink++
		r.m.parents[at] = dir
	}
	r.m.nodes[at] = n
	d.Names[name] = at
}

func (r *runner) link() {
	at, dir := r.pick(false), r.pick(true)
	name := r.name(dir)
	n, d := r.m.nodes[at], r.m.nodes[dir]
	err := r.update(func(tx *trans.Tx) error {
		_, err := r.w.Link(tx, at.id(), dir.id(), []byte(name), false)
		return err
	})
	if _, exists := d.Names[name]; r.result("link", err, r.writable(dir, at) && !exists && !n.isDir() && at.Subvol == dir.Subvol) {
		n.Nlink++
		d.Names[name] = at
	}
}

func (r *runner) remove() {
	dir := r.pick(true)
	name := r.name(dir)
	what := namei.What(r.rnd.IntN(2))
	err := r.update(func(tx *trans.Tx) error {
		_, err := r.w.Unlink(tx, dir.id(), []byte(name), what)
		if err == nil && r.m.nodes[r.m.nodes[dir].Names[name]].Root {
			return errUndo // the model knows of no deleted subvolumes
		}
		return err
	})
	at, exists := r.m.nodes[dir].Names[name]
	if exists && r.m.nodes[at].Root {
		return
	}
	if !r.result("remove", err, exists && r.writable(dir) && r.m.nodes[at].isDir() == (what == namei.Dir) && len(r.m.nodes[at].Names) == 0) {
		return
	}
	delete(r.m.nodes[dir].Names, name)
	if r.m.nodes[at].isDir() {
		r.m.nodes[dir].Nlink--
	}
	r.drop(at)
}

func (r *runner) move() {
	dir, to := r.pick(true), r.pick(true)
	if r.rnd.IntN(3) == 0 {
		to = dir
	}
	name, toName := r.name(dir), r.name(to)
	flags := []namei.RenameFlags{0, 0, namei.RenameNoReplace, namei.RenameExchange, namei.RenameWhiteout}[r.rnd.IntN(5)]
	var did namei.Renamed
	err := r.update(func(tx *trans.Tx) (err error) {
		did, err = r.w.Rename(tx, dir.id(), []byte(name), to.id(), []byte(toName), flags, 1, 2)
		return err
	})
	m := r.m
	src, ok := m.nodes[dir].Names[name]
	dst, exists := m.nodes[to].Names[toName]
	what := fmt.Sprint("rename, flags ", flags)
	if !r.result(what, err, ok && r.writable(dir, to) && m.mayMove(dir, src, to, dst, exists, flags)) || src == dst {
		return
	}
	if exists && flags != namei.RenameExchange {
		if m.nodes[dst].isDir() {
			m.nodes[to].Nlink--
		}
		r.drop(dst)
	}
	delete(m.nodes[dir].Names, name)
	m.place(src, dir, to, toName)
	if flags == namei.RenameExchange {
		m.place(dst, to, dir, name)
	}
	if flags == namei.RenameWhiteout {
		at := where{dir.Subvol, did.Whiteout.ID.Inum}
		m.nodes[at] = &node{Mode: chr, UID: 1, GID: 2, Nlink: 1, Xattrs: map[string]string{}}
		if m.nodes[dir].Mode&0o2000 != 0 {
			m.nodes[at].GID = m.nodes[dir].GID
		}
		m.nodes[dir].Names[name] = at
	}
}

// place gives an inode a name in another directory.
func (m *model) place(at, from, to where, name string) {
	m.nodes[to].Names[name] = at
	if n := m.nodes[at]; n.isDir() {
		m.parents[at] = to
		if !n.Root {
			m.nodes[from].Nlink--
			m.nodes[to].Nlink++
		}
	}
}

// mayMove reports whether a rename of what exists is possible.
func (m *model) mayMove(dir, src, to, dst where, exists bool, flags namei.RenameFlags) bool {
	exchange := flags == namei.RenameExchange
	if exchange && !exists || exists && flags == namei.RenameNoReplace {
		return false
	}
	s := m.nodes[src]
	if exists && src == dst {
		return true
	}
	if dir.Subvol != to.Subvol && (!s.Root || exists && !m.nodes[dst].Root) || s.isDir() && m.inside(to, src) {
		return false
	}
	if !exists {
		return true
	}
	d := m.nodes[dst]
	if exchange {
		return !d.isDir() || !m.inside(dir, dst)
	}
	return !d.Root && s.isDir() == d.isDir() && len(d.Names) == 0
}

func (r *runner) attributes() {
	at := r.pick(false)
	mode, uid := uint16(r.rnd.IntN(0o10000)), uint32(r.rnd.IntN(5))
	err := r.update(func(tx *trans.Tx) error {
		_, err := r.w.SetAttr(tx, at.id(), &namei.Attrs{Set: namei.SetMode | namei.SetUID | namei.SetMtimeNow, Mode: mode, UID: uid})
		return err
	})
	if r.result("setattr", err, r.writable(at)) {
		n := r.m.nodes[at]
		n.Mode, n.UID = n.Mode&^0o7777|mode, uid
	}
}

// withXattrs are the inodes that have attributes other than options, in order.
func (r *runner) withXattrs() []where {
	var all []where
	for at, n := range r.m.nodes {
		for name := range n.Xattrs {
			if !strings.HasPrefix(name, "bcachefs") {
				all = append(all, at)
				break
			}
		}
	}
	slices.SortFunc(all, compareWhere)
	return all
}

func compareWhere(a, b where) int {
	return stdcmp.Or(stdcmp.Compare(a.Subvol, b.Subvol), stdcmp.Compare(a.Inum, b.Inum))
}

func (r *runner) xattr() {
	at := r.pick(false)
	n := r.m.nodes[at]
	name := fmt.Sprint([]string{"user.", "trusted.", "security."}[r.rnd.IntN(3)], r.rnd.IntN(6))
	if have := slices.Sorted(maps.Keys(n.Xattrs)); len(have) > 0 {
		if name = have[r.rnd.IntN(len(have))]; strings.HasPrefix(name, "bcachefs") {
			return
		}
	} else if withSome := r.withXattrs(); len(withSome) > 0 && r.rnd.IntN(2) == 0 {
		at = withSome[r.rnd.IntN(len(withSome))]
		n = r.m.nodes[at]
	}
	may := r.writable(at) && (!strings.HasPrefix(name, "user.") || n.isDir() || n.Mode>>12 == ondisk.DTReg)
	_, has := n.Xattrs[name]
	if r.rnd.IntN(3) == 0 {
		err := r.update(func(tx *trans.Tx) error {
			_, err := r.w.RemoveXattr(tx, at.id(), name)
			return err
		})
		if r.result("removexattr", err, may && has) {
			delete(n.Xattrs, name)
		}
		return
	}
	value, flags := strings.Repeat("v", r.rnd.IntN(300)), namei.XattrFlags(r.rnd.IntN(3))
	err := r.update(func(tx *trans.Tx) error {
		_, err := r.w.SetXattr(tx, at.id(), name, []byte(value), flags)
		return err
	})
	if r.result("setxattr", err, may && (flags == 0 || has == (flags == namei.XattrReplace))) {
		n.Xattrs[name] = value
	}
}

// temporary makes a file without a name, which may get one.
func (r *runner) temporary() {
	dir := r.pick(true)
	name := r.name(dir)
	named := r.rnd.IntN(2) == 0
	var a namei.Attr
	err := r.update(func(tx *trans.Tx) (err error) { // both in one transaction
		if a, err = r.w.CreateUnlinked(tx, dir.id(), &namei.NewInode{Mode: reg | 0o600, UID: 1, GID: 2}); err == nil && named {
			a, err = r.w.Link(tx, a.ID, dir.id(), []byte(name), true)
		}
		return err
	})
	d := r.m.nodes[dir]
	if _, exists := d.Names[name]; !r.result("tmpfile", err, r.writable(dir) && !(named && exists)) {
		return
	}
	at := where{dir.Subvol, a.ID.Inum}
	if !named {
		r.open = append(r.open, at)
		return
	}
	r.m.nodes[at] = &node{Mode: a.Inode.Mode, UID: 1, GID: a.Inode.GID, Nlink: 1, Xattrs: map[string]string{}}
	d.Names[name] = at
}

// forget deletes an inode that was open.
func (r *runner) forget() {
	if len(r.open) == 0 {
		return
	}
	i := r.rnd.IntN(len(r.open))
	if err := r.w.Delete(r.Context(), r.open[i].id()); err != nil {
		r.Fatal(err)
	}
	r.open = slices.Delete(r.open, i, i+1)
}

func (r *runner) run(ops int) {
	all := []func(){r.create, r.create, r.create, r.link, r.remove, r.remove, r.move, r.move, r.attributes, r.xattr, r.xattr, r.temporary, r.forget}
	for range ops {
		all[r.rnd.IntN(len(all))]()
	}
}

// crash ends the filesystem without closing it, and opens it again.
func (r *runner) crash() {
	r.Helper()
	if err := r.rw.Journal.FlushSeq(r.Context(), r.seq); err != nil {
		r.Fatal(err)
	}
	r.rw.Abandon()
	r.volume.open()
	r.open = nil
	if all, err := r.w.Unlinked(r.Context()); err != nil || len(all) > 0 {
		r.Errorf("after a crash: %v %v", all, err)
	}
}

// check compares the filesystem with the model. It is closed for that, which leaves nothing unlinked.
func (r *runner) check() {
	r.Helper()
	for len(r.open) > 0 {
		r.forget()
	}
	r.reader(func(fsys *bcachefs.FS, _ *bcachefs.View) {
		if d := cmp.Diff(r.m.nodes, load(r.T, fsys).nodes); d != "" {
			r.Errorf("model and filesystem differ:\n%s", d)
		}
	})
	if r.Failed() {
		r.FailNow()
	}
}

// newRunner begins with what is in a filesystem.
func newRunner(v *volume, seed uint64) *runner {
	r := &runner{volume: v, rnd: rand.New(rand.NewPCG(seed, 1)), done: map[string]int{}}
	v.disturb = rand.New(rand.NewPCG(seed, 2))
	v.reader(func(fsys *bcachefs.FS, _ *bcachefs.View) { r.m = load(v.T, fsys) })
	return r
}

// openGolden opens an image of the golden set in memory.
func openGolden(t *testing.T, name string) *volume {
	t.Helper()
	d := &enginetest.Disks{}
	for _, path := range golden.Find(t, name).Unpack(t) {
		dev, err := blockdev.LoadMemory(path)
		if err != nil {
			t.Fatal(err)
		}
		d.Devices = append(d.Devices, dev)
	}
	v := &volume{T: t, disks: d, root: namei.ID{Subvol: ondisk.RootSubvol, Inum: ondisk.RootInum}}
	v.clock.Store(1_800_000_000_000_000_000)
	v.open()
	return v
}

// Random operations do what a model of the filesystem says, with transactions that are run again, with crashes between them, among snapshots too.
func TestModel(t *testing.T) {
	rounds, ops, least := 4, 500, 3
	if testing.Short() {
		rounds, least = 2, 1
	}
	for seed, open := range map[uint64]func(t *testing.T) *volume{
		1: newVolume,
		2: func(t *testing.T) *volume {
			return format(t, map[string]string{"str_hash": "crc32c", "inodes_32bit": "0"})
		},
		3: func(t *testing.T) *volume { return openGolden(t, "snapshots") },
	} {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			r := newRunner(open(t), seed+*modelSeed)
			for range rounds {
				r.run(ops)
				r.check()
				r.run(ops / 5)
				r.crash()
			}
			r.check()
			t.Log(r.done)
			for _, what := range []string{"create", "link", "remove", "setattr", "setxattr", "removexattr", "tmpfile",
				"rename, flags 0", "rename, flags 1", "rename, flags 2", "rename, flags 4"} {
				if r.done[what] < least {
					t.Errorf("%s: succeeded %d times only", what, r.done[what])
				}
			}
		})
	}
}

// What several do at the same time in the same directories leaves links and names that agree.
func TestParallel(t *testing.T) {
	v := newVolume(t)
	v.cfg.Shards = 4
	v.w = namei.NewWriter(v.cfg)
	dirs := []namei.ID{v.root}
	for i := range 4 {
		dirs = append(dirs, v.mkdir(dirs[i/2], fmt.Sprint("d", i)))
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var failed []error
	for g := range 4 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(9, uint64(g)))
			for range 1000 {
				if err := anything(t.Context(), v, rnd, dirs); err != nil {
					mu.Lock()
					failed = append(failed, err)
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	for _, err := range failed {
		t.Error(err)
	}
	v.reader(func(fsys *bcachefs.FS, _ *bcachefs.View) { load(t, fsys) })
	if all, err := v.w.Unlinked(t.Context()); err != nil || len(all) > 0 {
		t.Errorf("%v %v", all, err)
	}
	v.close()
}

// anything does one thing at random, which others may have made impossible.
func anything(ctx context.Context, v *volume, rnd *rand.Rand, dirs []namei.ID) error {
	dir, to := dirs[rnd.IntN(len(dirs))], dirs[rnd.IntN(len(dirs))]
	name, toName := []byte(fmt.Sprint("n", rnd.IntN(12))), []byte(fmt.Sprint("n", rnd.IntN(12)))
	op, isDir, flags := rnd.IntN(5), rnd.IntN(3) == 0, namei.RenameFlags(1<<rnd.IntN(3)>>1)
	var gone namei.Attr
	err := v.rw.Store.Update(ctx, func(tx *trans.Tx) (err error) {
		gone = namei.Attr{}
		switch {
		case op < 2 && isDir:
			_, err = v.w.Create(tx, dir, name, &namei.NewInode{Mode: dirMode | 0o700})
		case op < 2:
			_, err = v.w.Create(tx, dir, name, &namei.NewInode{Mode: reg | 0o600})
		case op == 2:
			what := namei.File
			if isDir {
				what = namei.Dir
			}
			gone, err = v.w.Unlink(tx, dir, name, what)
		case op == 3:
			var r namei.Renamed
			r, err = v.w.Rename(tx, dir, name, to, toName, flags, 0, 0)
			gone = r.Other
		default:
			var a namei.Attr
			if a, err = v.w.Lookup(tx, dir, name); err == nil && !a.Inode.IsDir() {
				_, err = v.w.Link(tx, a.ID, to, toName, false)
			}
		}
		return err
	})
	for _, ok := range []error{fs.ErrExist, fs.ErrNotExist, namei.ErrNotEmpty, namei.ErrIsDir, namei.ErrNotDir} {
		if errors.Is(err, ok) {
			return nil
		}
	}
	if err == nil && gone.Inode.Flags&ondisk.InodeUnlinked != 0 {
		err = v.w.Delete(ctx, gone.ID)
	}
	return err
}

// The driver mounts what we wrote, uses it, finds it clean, and lists what we do.
func TestDriver(t *testing.T) {
	kernelvm.Available(t)
	dir := t.TempDir()
	var paths [][]string
	var lists []string
	for seed, v := range []*volume{newVolume(t), format(t, map[string]string{"str_hash": "crc64"}), openGolden(t, "snapshots")} {
		r := newRunner(v, uint64(10+seed))
		r.run(800)
		if seed == 0 {
			opts := v.mkdir(v.root, "options")
			v.setOptions(opts)
			acl := aclXattr([3]uint32{1, 7, ondisk.ACLUndefinedID}, [3]uint32{2, 6, 1000}, [3]uint32{4, 5, ondisk.ACLUndefinedID},
				[3]uint32{16, 7, ondisk.ACLUndefinedID}, [3]uint32{32, 1, ondisk.ACLUndefinedID})
			v.wants("ACL", v.setXattr(opts, "system.posix_acl_default", acl, 0), nil)
			v.file(opts, "with an ACL")
			v.mkdir(opts, "with two ACLs")
		}
		v.fillLinks()
		for len(r.open) > 0 {
			r.forget()
		}
		v.close()
		saved, err := v.disks.Save(t.Context(), dir, fmt.Sprint(seed))
		if err != nil {
			t.Fatal(err)
		}
		fsys, err := v.disks.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var list strings.Builder
		if err := manifest.Write(t.Context(), &list, fsys.Root()); err != nil {
			t.Error(err)
		}
		if err := fsys.Close(); err != nil {
			t.Error(err)
		}
		paths, lists = append(paths, saved), append(lists, list.String())
	}
	for i, result := range kernelvm.MustBeClean(t, paths, kernelvm.CheckOptions{ReadWrite: true}) {
		ours, theirs := strings.Split(lists[i], "\n"), strings.Split(string(result.Manifest), "\n")
		told := 0
		for j := range max(len(ours), len(theirs)) {
			a, b := "", ""
			if j < len(ours) {
				a = ours[j]
			}
			if j < len(theirs) {
				b = theirs[j]
			}
			if a != b && !strings.HasPrefix(a, ".\t") && told < 5 {
				told++
				t.Errorf("filesystem %d: we list\n%s\nthe driver\n%s", i, a, b)
			}
		}
	}
}

// fillLinks gives symbolic links that were made by random operations a target, as their data.
func (v *volume) fillLinks() {
	v.Helper()
	inums := map[uint64]bool{}
	v.do(func(tx *trans.Tx) error {
		return tx.Scan(ondisk.BtreeInodes, ondisk.PosMin, ondisk.SPosMax, 0, func(k ondisk.Key, _ ondisk.Pos) (bool, error) {
			if k.Type != ondisk.KeyInodeV3 {
				return true, nil
			}
			in, err := ondisk.DecodeInode(k)
			if err == nil && in.Type() == ondisk.DTLnk && in.Size == 0 {
				inums[k.Pos.Offset] = true
			}
			return true, err
		})
	})
	const target = "where/it/leads"
	for subvol := range uint32(16) {
		for inum := range inums {
			err := v.rw.Store.Update(v.Context(), func(tx *trans.Tx) error {
				a, err := v.w.Inode(tx, namei.ID{Subvol: subvol, Inum: inum}, trans.Intent)
				if err != nil {
					return err
				}
				a.Inode.Size, a.Inode.Sectors = uint64(len(target)), 8
				val := append([]byte(target), make([]byte, 16-len(target))...)
				k := ondisk.Key{Type: ondisk.KeyInlineData, Pos: ondisk.Pos{Inode: inum, Offset: 8, Snapshot: a.ID.Snapshot}, Size: 8, Val: val}
				if err := v.w.Put(tx, &a); err != nil {
					return err
				}
				return tx.Update(ondisk.BtreeExtents, k, 0)
			})
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				v.Error(err)
			}
		}
	}
}
