package snapshot_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-bcachefs/bcachefs"
	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
	"github.com/go-bcachefs/bcachefs/internal/engine"
	"github.com/go-bcachefs/bcachefs/internal/enginetest"
	"github.com/go-bcachefs/bcachefs/internal/fsck/fscktest"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/snapshot"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// file is what the model knows of an inode.
type file struct {
	size   uint64
	blocks map[uint64]uint64 // number of the content; absent: hole
	xattrs map[string]string
}

func (f *file) clone() *file {
	return &file{f.size, maps.Clone(f.blocks), maps.Clone(f.xattrs)}
}

// volume is what the model knows of a subvolume.
type volume struct {
	id       uint32
	parent   *volume
	name     string // in the root directory of parent
	root     uint64
	readOnly bool
	names    map[string]uint64 // of files, in the root directory or in one of dirs: "dir/name"
	dirs     map[string]uint64
	files    map[uint64]*file
	children map[string]*volume
}

// model is a filesystem whose subvolumes are known.
type model struct {
	*testing.T
	ctx     context.Context
	disks   *enginetest.Disks
	rw      *engine.RW
	files   *enginetest.Volume
	volumes *snapshot.Volumes
	rnd     *rand.Rand
	subvols []*volume // [0] is the first subvolume
	nth     int       // for names
	noLinks bool      // files have one name each
	log     []string
}

func newModel(t *testing.T, seed uint64, shape *enginetest.Shape) *model {
	t.Helper()
	disks, err := enginetest.Format(t.Context(), shape)
	if err != nil {
		t.Fatal(err)
	}
	m := &model{T: t, ctx: t.Context(), disks: disks, rnd: rand.New(rand.NewPCG(seed, 11))}
	m.subvols = []*volume{{id: 1, root: ondisk.RootInum, names: map[string]uint64{}, dirs: map[string]uint64{}, files: map[uint64]*file{},
		children: map[string]*volume{}}}
	m.open()
	return m
}

func (m *model) ok(err error) {
	m.Helper()
	if err != nil {
		m.Fatalf("%v\n%s", err, strings.Join(m.log, "\n"))
	}
}

func (m *model) logf(format string, args ...any) { m.log = append(m.log, fmt.Sprintf(format, args...)) }

// open opens the filesystem and finishes what was begun.
func (m *model) open() {
	m.Helper()
	m.openWith(func(v *snapshot.Volumes) error { return v.Recover(m.ctx) })
}

// openWith is open with another way to finish.
func (m *model) openWith(recover func(v *snapshot.Volumes) error) {
	m.Helper()
	rw, err := m.disks.Open(m.ctx, engine.Options{}, engine.WriteOptions{})
	m.ok(err)
	m.rw = rw
	next := m.files
	m.files, err = enginetest.NewVolume(m.ctx, rw, nil)
	m.ok(err)
	if next != nil {
		m.files.KeepNumbers(next)
	}
	var mu sync.Mutex
	rnd := rand.New(rand.NewPCG(m.rnd.Uint64(), 1))
	m.volumes = volumesOf(rw, func() uint64 {
		mu.Lock()
		defer mu.Unlock()
		return rnd.Uint64()
	})
	m.ok(recover(m.volumes))
}

func volumesOf(rw *engine.RW, rnd func() uint64) *snapshot.Volumes {
	return snapshot.New(snapshot.Config{Store: rw.Store, Table: rw.Snapshots, Now: func() int64 { return time.Now().UnixNano() },
		TimeBase: rw.SB.TimeBase, TimePrecision: rw.SB.TimePrecision, Rand: rnd})
}

func (m *model) close() {
	m.Helper()
	m.ok(m.rw.Close(m.ctx))
}

func (m *model) in(v *volume) *enginetest.Volume {
	m.Helper()
	w, err := m.files.In(m.ctx, v.id)
	m.ok(err)
	return w
}

func (m *model) pick() *volume { return m.subvols[m.rnd.IntN(len(m.subvols))] }

// newName returns a name that is nowhere.
func (m *model) newName() string {
	m.nth++
	return fmt.Sprintf("n%d", m.nth)
}

// newPlace returns a new name in the root directory or in one of the directories, with the inode number of where it is.
func (m *model) newPlace(v *volume) (path, name string, dir uint64) {
	name = m.newName()
	dirs := slices.Sorted(maps.Keys(v.dirs))
	if i := m.rnd.IntN(len(dirs) + 1); i < len(dirs) {
		return dirs[i] + "/" + name, name, v.dirs[dirs[i]]
	}
	return name, name, v.root
}

// split says where a path is.
func (v *volume) split(path string) (dir uint64, name string) {
	if d, name, ok := strings.Cut(path, "/"); ok {
		return v.dirs[d], name
	}
	return v.root, path
}

// someFile returns a name of a file; "" if there is none.
func (m *model) someFile(v *volume) string {
	names := slices.Sorted(maps.Keys(v.names))
	if len(names) == 0 {
		return ""
	}
	return names[m.rnd.IntN(len(names))]
}

// write changes a subvolume in one of many ways.
func (m *model) write(v *volume) {
	m.Helper()
	w := m.in(v)
	path := m.someFile(v)
	what := m.rnd.IntN(12)
	if path == "" || what == 10 && m.noLinks {
		what = m.rnd.IntN(2)
	}
	var f *file
	inum := v.names[path]
	if path != "" {
		f = v.files[inum]
	}
	m.logf("subvolume %d: %d of %s", v.id, what, path)
	block, n := uint64(m.rnd.IntN(24)), uint64(1+m.rnd.IntN(6))
	const blockBytes = 4096
	switch what {
	case 0, 1:
		isDir := len(v.dirs) < 3 && what == 0
		path, name, dir := m.newPlace(v)
		if isDir {
			path, dir = name, v.root
		}
		inum, _, err := w.Create(m.ctx, dir, name, isDir, m.rnd.Uint64())
		m.ok(err)
		if isDir {
			v.dirs[path] = inum
		} else {
			v.names[path] = inum
			v.files[inum] = &file{blocks: map[uint64]uint64{}, xattrs: map[string]string{}}
		}
	case 2, 3, 4, 5:
		content := w.NextContent()
		_, err := w.Write(m.ctx, inum, block, n, enginetest.WriteOptions{Checksum: checksum.CRC32C})
		m.ok(err)
		for i := range n {
			f.blocks[block+i] = content + i
		}
		f.size = max(f.size, (block+n)*blockBytes)
	case 6:
		_, err := w.Punch(m.ctx, inum, block, n)
		m.ok(err)
		for i := range n {
			delete(f.blocks, block+i)
		}
	case 7:
		_, err := w.Truncate(m.ctx, inum, block*blockBytes)
		m.ok(err)
		f.size = block * blockBytes
		maps.DeleteFunc(f.blocks, func(b, _ uint64) bool { return b >= block })
	case 8:
		dir, name := v.split(path)
		_, err := w.Unlink(m.ctx, dir, name)
		m.ok(err)
		m.unname(v, path)
	case 9:
		dir, name := v.split(path)
		to, toName, toDir := m.newPlace(v)
		_, err := w.Rename(m.ctx, dir, name, toDir, toName)
		m.ok(err)
		delete(v.names, path)
		v.names[to] = inum
	case 10:
		to, name, dir := m.newPlace(v)
		_, err := w.Link(m.ctx, inum, dir, name)
		m.ok(err)
		v.names[to] = inum
	case 11:
		name := fmt.Sprintf("a%d", m.rnd.IntN(4))
		if _, there := f.xattrs[name]; there && m.rnd.IntN(2) == 0 {
			_, err := w.RemoveXattr(m.ctx, inum, name)
			m.ok(err)
			delete(f.xattrs, name)
			return
		}
		f.xattrs[name] = m.newName()
		_, err := w.SetXattr(m.ctx, inum, name, f.xattrs[name])
		m.ok(err)
	}
}

// unname takes a name away, and the file if it was the last one.
func (m *model) unname(v *volume, path string) {
	inum := v.names[path]
	delete(v.names, path)
	for _, other := range v.names {
		if other == inum {
			return
		}
	}
	delete(v.files, inum)
}

// create makes an empty subvolume in another, or a snapshot of source.
func (m *model) create(parent, source *volume, ro bool) *volume {
	m.Helper()
	n := &volume{parent: parent, name: m.newName(), readOnly: ro, names: map[string]uint64{}, dirs: map[string]uint64{}, files: map[uint64]*file{},
		children: map[string]*volume{}}
	link := func(tx *trans.Tx, c snapshot.Created) (uint64, uint64, error) {
		off, err := m.files.LinkSubvolume(tx, parent.id, parent.root, n.name, c.Subvol)
		return parent.root, off, err
	}
	inum := m.files.NewInum()
	var c snapshot.Created
	err := m.rw.Store.Update(m.ctx, func(tx *trans.Tx) (err error) {
		if source != nil {
			c, err = m.volumes.Snapshot(tx, source.id, parent.id, snapshot.Options{ReadOnly: ro}, link)
			return err
		}
		in := ondisk.Inode{HashType: m.rw.SB.DirentHash(), Mode: ondisk.DTDir<<12 | 0o755}
		c, err = m.volumes.Create(tx, parent.id, inum, in, snapshot.Options{ReadOnly: ro}, link)
		return err
	})
	m.ok(err)
	n.id, n.root = c.Subvol, c.Root
	if source != nil {
		m.logf("subvolume %d in %d: snapshot of %d", n.id, parent.id, source.id)
		n.names, n.dirs = maps.Clone(source.names), maps.Clone(source.dirs)
		for inum, f := range source.files {
			n.files[inum] = f.clone()
		}
	} else {
		m.logf("subvolume %d in %d", n.id, parent.id)
	}
	parent.children[n.name] = n
	m.subvols = append(m.subvols, n)
	return n
}

// unlink takes a subvolume's name away, if there are none in it.
func (m *model) unlink(v *volume) bool {
	m.Helper()
	m.logf("unlink of subvolume %d", v.id)
	err := m.tryUnlink(v)
	if len(v.children) > 0 {
		if !errors.Is(err, snapshot.ErrHasSubvolumes) || !errors.Is(err, syscall.ENOTEMPTY) {
			m.Fatalf("deleting subvolume %d, in which there are others: %v", v.id, err)
		}
		return false
	}
	m.ok(err)
	delete(v.parent.children, v.name)
	m.subvols = slices.DeleteFunc(m.subvols, func(o *volume) bool { return o == v })
	return true
}

// deleteUnlinked deletes the subvolumes that have no names any more.
func (m *model) deleteUnlinked() {
	m.Helper()
	all, err := m.volumes.List(m.ctx)
	m.ok(err)
	for _, s := range all {
		if s.Flags&ondisk.SubvolumeUnlinked != 0 {
			m.ok(m.volumes.Delete(m.ctx, s.ID))
		}
	}
}

func (m *model) tryUnlink(v *volume) error {
	return m.rw.Store.Update(m.ctx, func(tx *trans.Tx) error {
		return m.volumes.Unlink(tx, v.id, func(tx *trans.Tx, at snapshot.Entry) error {
			if at.Subvol != v.parent.id || at.Dir != v.parent.root {
				return fmt.Errorf("subvolume %d is in %+v, want in %d", v.id, at, v.parent.id)
			}
			return m.files.UnlinkSubvolume(tx, at.Subvol, at.Dir, at.Offset)
		})
	})
}

// check closes the filesystem, checks it and compares it with the model; then it is opened again.
func (m *model) check() {
	m.Helper()
	m.close()
	m.compare()
	m.open()
}

func (m *model) compare() {
	m.Helper()
	fscktest.MustBeCleanMemory(m, m.disks.Devices...)
	fsys, err := m.disks.Read(m.ctx)
	m.ok(err)
	defer fsys.Close()
	subvols, err := fsys.Subvolumes(m.ctx)
	m.ok(err)
	if len(subvols) != len(m.subvols) {
		m.Errorf("there are %d subvolumes, want %d", len(subvols), len(m.subvols))
	}
	for _, v := range m.subvols {
		m.compareVolume(fsys, v)
	}
	if m.Failed() {
		m.Fatal("what was done:\n" + strings.Join(m.log, "\n"))
	}
}

func (m *model) compareVolume(fsys *bcachefs.FS, v *volume) {
	m.Helper()
	view, err := fsys.SubvolumeByID(v.id)
	m.ok(err)
	want := map[string]string{} // kind by path
	for path := range v.names {
		want[path] = "file"
	}
	for path := range v.dirs {
		want[path] = "directory"
	}
	for name := range v.children {
		want[name] = "directory"
	}
	got := map[string]string{}
	for _, dir := range append([]string{"."}, slices.Collect(maps.Keys(v.dirs))...) {
		list, err := view.ReadDir(dir)
		m.ok(err)
		for _, e := range list {
			path := strings.TrimPrefix(dir+"/"+e.Name(), "./")
			if path == "lost+found" {
				continue
			}
			if got[path] = "file"; e.IsDir() {
				got[path] = "directory"
			}
		}
	}
	if !maps.Equal(got, want) {
		m.Errorf("subvolume %d has %v, want %v", v.id, got, want)
	}
	for path, inum := range v.names {
		f := v.files[inum]
		data, err := view.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			m.Errorf("subvolume %d, %s: %v", v.id, path, err)
		}
		if want := f.data(); !bytes.Equal(data, want) {
			m.Errorf("subvolume %d, %s: %d bytes are not the %d that were written", v.id, path, len(data), len(want))
		}
		id, err := view.Resolve(m.ctx, path, false)
		m.ok(err)
		names, err := fsys.ListXattr(m.ctx, id)
		m.ok(err)
		if len(names) != len(f.xattrs) {
			m.Errorf("subvolume %d, %s has the attributes %q, want %q", v.id, path, names, f.xattrs)
		}
		for name, value := range f.xattrs {
			if got, err := fsys.GetXattr(m.ctx, id, "user."+name); err != nil || string(got) != value {
				m.Errorf("subvolume %d, %s: attribute %s is %q, %v; want %q", v.id, path, name, got, err, value)
			}
		}
	}
}

// data is what a file holds.
func (f *file) data() []byte {
	b := make([]byte, f.size)
	for at, content := range f.blocks {
		enginetest.Fill(b[at*4096:min((at+1)*4096, f.size)], content)
	}
	return b
}
