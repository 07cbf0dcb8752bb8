package namei_test

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/go-bcachefs/bcachefs"
	"github.com/go-bcachefs/bcachefs/internal/engine"
	"github.com/go-bcachefs/bcachefs/internal/enginetest"
	"github.com/go-bcachefs/bcachefs/internal/fsck/fscktest"
	"github.com/go-bcachefs/bcachefs/internal/namei"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// volume is a filesystem in memory that is open for writing.
type volume struct {
	*testing.T
	disks *enginetest.Disks
	rw    *engine.RW
	w     *namei.Writer
	cfg   namei.WriterConfig
	root  namei.ID

	clock atomic.Int64 // nanoseconds; goes on with each look at it
	// disturb asks for restarts of transactions at random, which must not make a difference.
	disturb *rand.Rand
}

func format(t *testing.T, options map[string]string) *volume {
	t.Helper()
	d, err := enginetest.Format(t.Context(), &enginetest.Shape{Options: bcachefs.FormatOptions{Options: options}})
	if err != nil {
		t.Fatal(err)
	}
	v := &volume{T: t, disks: d, root: namei.ID{Subvol: ondisk.RootSubvol, Inum: ondisk.RootInum}}
	v.clock.Store(1_700_000_000_000_000_000)
	v.open()
	return v
}

func newVolume(t *testing.T) *volume { return format(t, nil) }

func (v *volume) open() {
	v.Helper()
	rw, err := v.disks.Open(v.Context(), engine.Options{}, engine.WriteOptions{})
	if err != nil {
		v.Fatal(err)
	}
	v.Cleanup(rw.Abandon)
	v.rw = rw
	rnd := rand.New(rand.NewPCG(7, 7))
	option := func(name string) uint64 {
		o, ok := ondisk.FindOption(name)
		if !ok {
			v.Fatalf("no option %s", name)
		}
		return rw.SB.Option(o)
	}
	v.cfg = namei.WriterConfig{Store: rw.Store, Now: func() int64 { return v.clock.Add(1000) }, TimeBase: rw.SB.TimeBase,
		TimePrecision: rw.SB.TimePrecision, Rand: rnd.Uint64, HashType: rw.SB.DirentHash(), ACL: option("acl") != 0,
		Inodes32bit: option("inodes_32bit") != 0,
		ParseOption: func(name, text string) (uint64, error) {
			if name == "project" {
				var n uint32
				_, err := fmt.Sscan(text, &n)
				return uint64(n), err
			}
			o, ok := ondisk.FindOption(name)
			if !ok {
				return 0, errors.New("no such option")
			}
			return rw.SB.ParseOption(o, text)
		}}
	v.w = namei.NewWriter(v.cfg)
}

// close closes the filesystem and checks it.
func (v *volume) close() {
	v.Helper()
	if err := v.rw.Close(v.Context()); err != nil {
		v.Fatal(err)
	}
	fscktest.MustBeCleanMemory(v.T, v.disks.Devices...)
}

var errDisturbed = fmt.Errorf("for the test: %w", trans.ErrRestart)

// try runs a transaction.
func (v *volume) try(fn func(tx *trans.Tx) error) error {
	return v.rw.Store.Update(v.Context(), func(tx *trans.Tx) error {
		err := fn(tx)
		if v.disturb != nil && v.disturb.IntN(3) == 0 {
			return errDisturbed
		}
		return err
	})
}

// do is try for what must succeed.
func (v *volume) do(fn func(tx *trans.Tx) error) {
	v.Helper()
	if err := v.try(fn); err != nil {
		v.Fatal(err)
	}
}

// get returns what an operation that must succeed returns.
func get[T any](v *volume, fn func(tx *trans.Tx) (T, error)) (result T) {
	v.Helper()
	v.do(func(tx *trans.Tx) (err error) {
		result, err = fn(tx)
		return err
	})
	return result
}

func (v *volume) create(dir namei.ID, name string, mode uint16) namei.Attr {
	v.Helper()
	return get(v, func(tx *trans.Tx) (namei.Attr, error) {
		return v.w.Create(tx, dir, []byte(name), &namei.NewInode{Mode: mode})
	})
}

func (v *volume) file(dir namei.ID, name string) namei.ID { return v.create(dir, name, reg|0o644).ID }
func (v *volume) mkdir(dir namei.ID, name string) namei.ID {
	return v.create(dir, name, dirMode|0o755).ID
}

func (v *volume) inode(id namei.ID) *ondisk.Inode {
	v.Helper()
	a := get(v, func(tx *trans.Tx) (namei.Attr, error) { return v.w.Inode(tx, id, 0) })
	return &a.Inode
}

func (v *volume) lookup(dir namei.ID, name string) (a namei.Attr, err error) {
	err = v.try(func(tx *trans.Tx) (err error) {
		a, err = v.w.Lookup(tx, dir, []byte(name))
		return err
	})
	return a, err
}

func (v *volume) unlink(dir namei.ID, name string, what namei.What) (a namei.Attr, err error) {
	err = v.try(func(tx *trans.Tx) (err error) {
		a, err = v.w.Unlink(tx, dir, []byte(name), what)
		return err
	})
	return a, err
}

func (v *volume) rename(dir namei.ID, name string, to namei.ID, toName string, flags namei.RenameFlags) (r namei.Renamed, err error) {
	err = v.try(func(tx *trans.Tx) (err error) {
		r, err = v.w.Rename(tx, dir, []byte(name), to, []byte(toName), flags, 11, 12)
		return err
	})
	return r, err
}

func (v *volume) setXattr(id namei.ID, name, value string, flags namei.XattrFlags) error {
	return v.try(func(tx *trans.Tx) error {
		_, err := v.w.SetXattr(tx, id, name, []byte(value), flags)
		return err
	})
}

func (v *volume) removeXattr(id namei.ID, name string) error {
	return v.try(func(tx *trans.Tx) error {
		_, err := v.w.RemoveXattr(tx, id, name)
		return err
	})
}

// reader reads the filesystem as it is on the devices with the read side, after closing it, and opens it again.
func (v *volume) reader(fn func(fsys *bcachefs.FS, view *bcachefs.View)) {
	v.Helper()
	v.close()
	fsys, err := v.disks.Read(v.Context())
	if err != nil {
		v.Fatal(err)
	}
	fn(fsys, fsys.Root())
	if err := fsys.Close(); err != nil {
		v.Fatal(err)
	}
	v.open()
}

// Types of files in modes.
const (
	fifo    = ondisk.DTFifo << 12
	chr     = ondisk.DTChr << 12
	dirMode = ondisk.DTDir << 12
	blk     = ondisk.DTBlk << 12
	reg     = ondisk.DTReg << 12
	lnk     = ondisk.DTLnk << 12
	sock    = ondisk.DTSock << 12
)

// wants fails the test unless an error is the one that is wanted, nil for none, and has a number if it is not one of package fs.
func (v *volume) wants(what string, err, want error) {
	v.Helper()
	if !errors.Is(err, want) || want == nil && err != nil {
		v.Errorf("%s: %v, want %v", what, err, want)
	}
	var no syscall.Errno
	if err != nil && !errors.As(err, &no) && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, namei.ErrNoXattr) {
		v.Errorf("%s: %v has no number", what, err)
	}
}

func TestCreate(t *testing.T) {
	v := newVolume(t)
	dir := v.create(v.root, "d", dirMode|0o2750)
	v.do(func(tx *trans.Tx) error {
		_, err := v.w.SetAttr(tx, dir.ID, &namei.Attrs{Set: namei.SetGID, GID: 77})
		return err
	})
	if err := v.setXattr(dir.ID, "bcachefs.compression", "zstd:3", 0); err != nil {
		t.Fatal(err)
	}
	if err := v.setXattr(dir.ID, "bcachefs.project", "5", 0); err != nil {
		t.Fatal(err)
	}
	parent := v.inode(dir.ID)
	for _, tt := range []struct {
		name      string
		new       namei.NewInode
		mode      uint16
		dev       uint32
		countsDir bool
	}{
		{"file", namei.NewInode{Mode: reg | 0o666, Umask: 0o022}, reg | 0o644, 0, false},
		{"dir", namei.NewInode{Mode: dirMode | 0o777, Umask: 0o027}, dirMode | 0o2750, 0, true},
		{"link", namei.NewInode{Mode: lnk | 0o777, Umask: 0o077}, lnk | 0o777, 0, false},
		{"chr", namei.NewInode{Mode: chr | 0o600, Dev: namei.EncodeDev(4, 300)}, chr | 0o600, 4<<20 | 300, false},
		{"blk", namei.NewInode{Mode: blk | 0o600, Dev: namei.EncodeDev(259, 1)}, blk | 0o600, 259<<20 | 1, false},
		{"fifo", namei.NewInode{Mode: fifo | 0o600, Dev: 5}, fifo | 0o600, 0, false},
		{"sock", namei.NewInode{Mode: sock | 0o600}, sock | 0o600, 0, false},
		{strings.Repeat("n", 512), namei.NewInode{Mode: reg}, reg, 0, false},
	} {
		tt.new.UID, tt.new.GID = 1000, 1001
		before := v.inode(dir.ID)
		a := get(v, func(tx *trans.Tx) (namei.Attr, error) { return v.w.Create(tx, dir.ID, []byte(tt.name), &tt.new) })
		in := v.inode(a.ID)
		after := v.inode(dir.ID)
		if in.Mode != tt.mode || in.UID != 1000 || in.GID != 77 || in.Dev != tt.dev || in.NlinkRaw != 0 || in.Flags != 0 {
			t.Errorf("%s: %+v", tt.name, in)
		}
		if in.Compression != parent.Compression || in.Project != 6 || in.FieldsSet != 0 {
			t.Errorf("%s: options are not inherited: %+v", tt.name, in)
		}
		if in.Dir != dir.ID.Inum || in.HashSeed == [8]byte{} || in.HashType != v.cfg.HashType {
			t.Errorf("%s: %+v", tt.name, in)
		}
		if in.Atime != in.Otime || in.Mtime != in.Otime || in.Ctime != in.Otime || after.Mtime != in.Mtime || after.Ctime != in.Mtime {
			t.Errorf("%s: times %+v in %+v", tt.name, in, after)
		}
		if got := after.NlinkRaw - before.NlinkRaw; (got == 1) != tt.countsDir || got > 1 {
			t.Errorf("%s: links of the directory %d after %d", tt.name, after.NlinkRaw, before.NlinkRaw)
		}
		if found, err := v.lookup(dir.ID, tt.name); err != nil || found.ID.Inum != a.ID.Inum {
			t.Errorf("%s: %v %v", tt.name, found.ID, err)
		}
	}
	for _, tt := range []struct {
		dir  namei.ID
		name string
		mode uint16
		want error
	}{
		{dir.ID, "file", reg, fs.ErrExist},
		{dir.ID, "", reg, namei.ErrBadName},
		{dir.ID, ".", reg, namei.ErrBadName},
		{dir.ID, "..", dirMode, namei.ErrBadName},
		{dir.ID, "a/b", reg, namei.ErrBadName},
		{dir.ID, "a\x00", reg, namei.ErrBadName},
		{dir.ID, strings.Repeat("n", 513), reg, namei.ErrNameTooLong},
		{dir.ID, "x", 7 << 12, namei.ErrInvalid},
		{namei.ID{Subvol: 1, Inum: 999999}, "x", reg, fs.ErrNotExist},
		{namei.ID{Subvol: 9, Inum: ondisk.RootInum}, "x", reg, namei.ErrNoSubvolume},
		{namei.ID{Subvol: 1, Inum: mustLookup(v, dir.ID, "file").Inum}, "x", reg, namei.ErrNotDir},
	} {
		err := v.try(func(tx *trans.Tx) error {
			_, err := v.w.Create(tx, tt.dir, []byte(tt.name), &namei.NewInode{Mode: tt.mode})
			return err
		})
		v.wants(fmt.Sprintf("create %q", tt.name), err, tt.want)
	}
	v.close()
}

func mustLookup(v *volume, dir namei.ID, name string) namei.ID {
	v.Helper()
	a, err := v.lookup(dir, name)
	if err != nil {
		v.Fatal(err)
	}
	return a.ID
}

func TestLink(t *testing.T) {
	v := newVolume(t)
	a, b := v.mkdir(v.root, "a"), v.mkdir(v.root, "b")
	f := v.file(a, "f")
	link := func(id, dir namei.ID, name string, unlinked bool) error {
		return v.try(func(tx *trans.Tx) error {
			_, err := v.w.Link(tx, id, dir, []byte(name), unlinked)
			return err
		})
	}
	v.wants("link", link(f, b, "g", false), nil)
	in := v.inode(f)
	if in.Nlink() != 2 || in.Dir != b.Inum {
		t.Errorf("%+v", in)
	}
	v.wants("existing", link(f, b, "g", false), fs.ErrExist)
	v.wants("directory", link(a, b, "a", false), namei.ErrNotAllowed)
	v.wants("root of a subvolume", link(v.root, b, "a", false), namei.ErrSubvolRoot)
	v.wants("other subvolume", link(f, namei.ID{Subvol: 2, Inum: 4096}, "a", false), namei.ErrCrossSubvol)
	if err := v.setXattr(a, "bcachefs.project", "3", 0); err != nil {
		t.Fatal(err)
	}
	v.wants("other project", link(f, a, "h", false), syscall.EXDEV)
	if err := v.setXattr(f, "bcachefs.project", "9", 0); err != nil {
		t.Fatal(err)
	}
	v.wants("project of its own", link(f, a, "h", false), nil)

	if got := v.inode(f).Nlink(); got != 3 {
		t.Errorf("%d links", got)
	}
	// Without its recorded name it knows of none.
	gone, err := v.unlink(a, "h", namei.File)
	if err != nil || gone.Inode.Dir != 0 || gone.Inode.DirOffset != 0 || gone.Inode.Nlink() != 2 {
		t.Errorf("%+v %v", gone, err)
	}
	for _, name := range []struct {
		dir  namei.ID
		name string
	}{{a, "f"}, {b, "g"}} {
		if gone, err = v.unlink(name.dir, name.name, namei.File); err != nil {
			t.Fatal(err)
		}
	}
	if gone.Inode.Nlink() != 0 || gone.Inode.NlinkRaw != 0 {
		t.Errorf("%+v", gone)
	}
	v.wants("unlinked", link(f, b, "x", false), fs.ErrNotExist)

	tmp := get(v, func(tx *trans.Tx) (namei.Attr, error) {
		return v.w.CreateUnlinked(tx, b, &namei.NewInode{Mode: reg | 0o600})
	})
	if tmp.Inode.Nlink() != 0 || v.inode(tmp.ID).Dir != 0 {
		t.Errorf("%+v", tmp)
	}
	if list, err := v.w.Unlinked(t.Context()); err != nil || len(list) != 2 {
		t.Errorf("unlinked: %v %v", list, err)
	}
	v.wants("O_TMPFILE", link(tmp.ID, b, "tmp", true), nil)
	if in := v.inode(tmp.ID); in.Nlink() != 1 || in.Dir != b.Inum {
		t.Errorf("%+v", in)
	}
	if err := v.w.Delete(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	if list, err := v.w.Unlinked(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("unlinked: %v %v", list, err)
	}
	v.wants("deleted", link(f, b, "x", true), fs.ErrNotExist)
	if err := v.w.Delete(t.Context(), f); err != nil {
		t.Errorf("deleted twice: %v", err)
	}
	v.wants("delete what has a name", v.w.Delete(t.Context(), tmp.ID), namei.ErrInconsistent)
	v.close()
}

func TestUnlink(t *testing.T) {
	v := newVolume(t)
	d := v.mkdir(v.root, "d")
	v.file(d, "f")
	v.mkdir(d, "sub")
	for _, tt := range []struct {
		dir  namei.ID
		name string
		what namei.What
		want error
	}{
		{d, "none", namei.File, fs.ErrNotExist},
		{d, "none", namei.Dir, fs.ErrNotExist},
		{d, "f", namei.Dir, namei.ErrNotDir},
		{d, "sub", namei.File, namei.ErrIsDir},
		{d, "sub", namei.SubvolumeRoot, fs.ErrNotExist},
		{v.root, "d", namei.Dir, namei.ErrNotEmpty},
		{d, "f", namei.File, nil},
		{d, "f", namei.File, fs.ErrNotExist},
		{v.root, "d", namei.Dir, namei.ErrNotEmpty},
		{d, "sub", namei.Dir, nil},
		{v.root, "d", namei.Dir, nil},
		{d, "f", namei.File, fs.ErrNotExist}, // the directory is open still
	} {
		_, err := v.unlink(tt.dir, tt.name, tt.what)
		v.wants(fmt.Sprintf("unlink %q", tt.name), err, tt.want)
	}
	v.wants("in what is removed", v.try(func(tx *trans.Tx) error {
		_, err := v.w.Create(tx, d, []byte("x"), &namei.NewInode{Mode: reg})
		return err
	}), fs.ErrNotExist)
	all, err := v.w.Unlinked(t.Context())
	if err != nil || len(all) != 3 {
		t.Fatalf("%v %v", all, err)
	}
	for _, u := range all {
		if err := v.w.DeleteVersion(t.Context(), u.Inum, u.Snapshot); err != nil {
			t.Error(err)
		}
	}
	if n := v.inode(v.root).Nlink(); n != 3 { // lost+found
		t.Errorf("root has %d links", n)
	}
	v.close()
}

// What holds much is deleted in several transactions, and what is in the middle of that after a crash is deleted when it is opened.
func TestDelete(t *testing.T) {
	v := newVolume(t)
	f := v.file(v.root, "f")
	for i := range 100 {
		if err := v.setXattr(f, fmt.Sprint("user.", i), "v", 0); err != nil {
			t.Fatal(err)
		}
	}
	gen := v.inode(f).Generation
	if _, err := v.unlink(v.root, "f", namei.File); err != nil {
		t.Fatal(err)
	}
	v.do(func(tx *trans.Tx) error {
		more, err := v.w.DeleteSome(tx, f.Inum, v.snapshot(tx))
		if err == nil && !more {
			t.Error("all is gone at once")
		}
		return err
	})
	if err := v.rw.Journal.FlushSeq(t.Context(), v.inode(f).JournalSeq); err != nil {
		t.Fatal(err)
	}
	v.rw.Abandon()
	v.open()
	if all, err := v.w.Unlinked(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("after the crash: %v %v", all, err)
	}
	v.do(func(tx *trans.Tx) error {
		k, ok, err := tx.Get(ondisk.BtreeInodes, ondisk.Pos{Offset: f.Inum, Snapshot: v.snapshot(tx)}, 0)
		if err != nil || !ok {
			return fmt.Errorf("nothing left of the inode: %v", err)
		}
		g, err := ondisk.DecodeInodeGeneration(k)
		if g.Generation != gen+1 {
			t.Errorf("generation %d after %d", g.Generation, gen)
		}
		return err
	})
	// The number may be used again, by another generation.
	if next := v.file(v.root, "g"); next.Inum == f.Inum && v.inode(next).Generation != gen+1 {
		t.Errorf("number %d is used again by generation %d, which was %d", f.Inum, v.inode(next).Generation, gen)
	}
	v.close()
}

func (v *volume) snapshot(tx *trans.Tx) uint32 {
	a, err := v.w.Inode(tx, v.root, 0)
	if err != nil {
		v.Error(err)
	}
	return a.ID.Snapshot
}

func TestRename(t *testing.T) {
	v := newVolume(t)
	a, b := v.mkdir(v.root, "a"), v.mkdir(v.root, "b")
	c := v.mkdir(a, "c")
	f, g := v.file(a, "f"), v.file(b, "g")
	v.file(c, "in")
	v.mkdir(b, "empty")
	v.do(func(tx *trans.Tx) error {
		_, err := v.w.Link(tx, f, b, []byte("f2"), false)
		return err
	})
	for _, tt := range []struct {
		dir   namei.ID
		name  string
		to    namei.ID
		toN   string
		flags namei.RenameFlags
		want  error
	}{
		{a, "none", b, "x", 0, fs.ErrNotExist},
		{a, "f", b, "", 0, namei.ErrBadName},
		{a, "f", b, strings.Repeat("x", 600), 0, namei.ErrNameTooLong},
		{a, "f", b, "g", namei.RenameNoReplace, fs.ErrExist},
		{a, "f", b, "none", namei.RenameExchange, fs.ErrNotExist},
		{a, "f", b, "g", 8, namei.ErrInvalid},
		{a, "f", b, "g", namei.RenameExchange | namei.RenameNoReplace, namei.ErrInvalid},
		{a, "f", b, "g", namei.RenameExchange | namei.RenameWhiteout, namei.ErrInvalid},
		{a, "f", b, "empty", 0, namei.ErrIsDir},
		{a, "c", b, "g", 0, namei.ErrNotDir},
		{b, "empty", a, "c", 0, namei.ErrNotEmpty},
		{v.root, "a", c, "x", 0, namei.ErrLoop},
		{v.root, "a", a, "x", 0, namei.ErrLoop},
		{c, "in", v.root, "a", 0, namei.ErrIsDir},
		{a, "c", v.root, "a", 0, namei.ErrNotEmpty},
		{a, "c", v.root, "a", namei.RenameExchange, namei.ErrLoop},
		{v.root, "a", a, "c", namei.RenameExchange, namei.ErrLoop},
		{f, "x", a, "y", 0, namei.ErrNotDir},
		{a, "f", f, "y", 0, namei.ErrNotDir},
	} {
		_, err := v.rename(tt.dir, tt.name, tt.to, tt.toN, tt.flags)
		v.wants(fmt.Sprintf("rename %q to %q, flags %d", tt.name, tt.toN, tt.flags), err, tt.want)
	}
	// Two names of one inode, and a name itself, stay.
	for _, to := range []struct {
		dir  namei.ID
		name string
	}{{b, "f2"}, {a, "f"}} {
		r, err := v.rename(a, "f", to.dir, to.name, 0)
		if err != nil || mustLookup(v, a, "f").Inum != f.Inum || v.inode(f).Nlink() != 2 || r.Moved.ID.Inum != f.Inum {
			t.Errorf("onto itself: %v", err)
		}
	}
	r, err := v.rename(a, "f", b, "g", 0)
	if err != nil || r.Moved.ID.Inum != f.Inum || r.Other.ID.Inum != g.Inum || r.Other.Inode.Nlink() != 0 || r.Other.Inode.Dir != 0 {
		t.Fatalf("%+v %v", r, err)
	}
	if in := v.inode(f); in.Dir != b.Inum || in.Nlink() != 2 || mustLookup(v, b, "g").Inum != f.Inum {
		t.Errorf("%+v", in)
	}
	if err := v.w.Delete(t.Context(), g); err != nil {
		t.Error(err)
	}
	// Directories move with their links, and take the place of empty ones.
	if r, err = v.rename(a, "c", b, "empty", 0); err != nil || v.inode(a).Nlink() != 2 || v.inode(b).Nlink() != 3 {
		t.Errorf("%v: %d and %d links", err, v.inode(a).Nlink(), v.inode(b).Nlink())
	}
	if err := v.w.Delete(t.Context(), r.Other.ID); err != nil {
		t.Error(err)
	}
	if _, err = v.rename(b, "empty", b, "c", namei.RenameNoReplace); err != nil || v.inode(b).Nlink() != 3 {
		t.Errorf("%v: %d links", err, v.inode(b).Nlink())
	}
	if _, err = v.rename(b, "c", b, "g", namei.RenameExchange); err != nil || mustLookup(v, b, "g").Inum != c.Inum || mustLookup(v, b, "c").Inum != f.Inum {
		t.Error(err)
	}
	if _, err = v.rename(b, "g", v.root, "a", namei.RenameExchange); err != nil || mustLookup(v, v.root, "a").Inum != c.Inum || v.inode(a).Dir != b.Inum {
		t.Error(err)
	}
	// A whiteout is left.
	r, err = v.rename(b, "c", v.root, "moved", namei.RenameWhiteout)
	in := v.inode(r.Whiteout.ID)
	if err != nil || in.Mode != chr || in.Dev != 0 || in.UID != 11 || in.GID != 12 || mustLookup(v, b, "c").Inum != in.Inum {
		t.Errorf("%v %+v", err, in)
	}
	// What is inherited: of a file it changes, a directory stays where it is.
	if err := v.setXattr(b, "bcachefs.compression", "lz4", 0); err != nil {
		t.Fatal(err)
	}
	_, err = v.rename(v.root, "a", b, "dir", 0)
	v.wants("directory into other options", err, namei.ErrOptions)
	if _, err = v.rename(v.root, "moved", b, "back", 0); err != nil || v.inode(f).Compression != v.inode(b).Compression {
		t.Errorf("%v", err)
	}
	v.close()
}

// Names whose hashes are the same or next to each other stay found whatever is made and removed between them.
func TestHashRuns(t *testing.T) {
	v := format(t, map[string]string{"str_hash": "crc32c"})
	d := v.mkdir(v.root, "d")
	in := v.inode(d)
	names := colliding(in)
	rnd := rand.New(rand.NewPCG(3, 4))
	have := map[string]uint64{}
	for i := range 1500 {
		n, m := names[rnd.IntN(len(names))], names[rnd.IntN(len(names))]
		dir := d
		var err error
		_, was := have[n]
		other, wasOther := have[m]
		switch rnd.IntN(4) {
		case 0:
			if !was {
				have[n] = v.file(dir, n).Inum
			}
		case 1:
			var a namei.Attr
			if a, err = v.unlink(dir, n, namei.File); was && err == nil {
				err = v.w.Delete(t.Context(), a.ID)
			}
			delete(have, n)
		case 2:
			var r namei.Renamed
			if r, err = v.rename(dir, n, dir, m, 0); was && err == nil && n != m {
				have[m] = have[n]
				delete(have, n)
				if wasOther {
					err = v.w.Delete(t.Context(), r.Other.ID)
				}
			}
		case 3:
			if _, err = v.rename(dir, n, dir, m, namei.RenameExchange); was && wasOther {
				have[n], have[m] = other, have[n]
			} else if was && errors.Is(err, fs.ErrNotExist) {
				err = nil
			}
		}
		if was && err != nil || !was && err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("step %d: %v", i, err)
		}
		for _, name := range names {
			a, err := v.lookup(dir, name)
			if inum, ok := have[name]; ok && (err != nil || a.ID.Inum != inum) || !ok && !errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("step %d: %q leads to %v %v, want %v", i, name, a.ID, err, inum)
			}
		}
	}
	v.reader(func(_ *bcachefs.FS, view *bcachefs.View) {
		for name, inum := range have {
			if id, err := view.Resolve(t.Context(), "d/"+name, false); err != nil || id.Inum != inum {
				t.Errorf("%q: %v %v, want %d", name, id, err, inum)
			}
		}
	})
	v.close()
}

// colliding returns 16 names of which eight each have the same hash of 32 bits, next to that of the others. As the hash is linear, two pieces that it
// does not tell apart do so wherever they are.
func colliding(dir *ondisk.Inode) []string {
	at := map[uint64]string{}
	var same, near [2]string
	for i := 0; i < 1<<20 && (same[0] == "" || near[0] == ""); i++ {
		piece := fmt.Sprintf("%016x", uint64(i)*0x9e3779b97f4a7c15)
		h := namei.DirentHash(dir, piece)
		if other, ok := at[h]; ok {
			same = [2]string{other, piece}
		}
		if other, ok := at[h^1]; ok {
			near = [2]string{other, piece}
		}
		at[h] = piece
	}
	names := []string{""}
	for _, pieces := range [][2]string{same, same, same, near} {
		var longer []string
		for _, n := range names {
			longer = append(longer, n+pieces[0], n+pieces[1])
		}
		names = longer
	}
	return names
}

func TestSetAttr(t *testing.T) {
	v := newVolume(t)
	f := v.create(v.root, "f", reg|0o644).ID
	set := func(a namei.Attrs) (*ondisk.Inode, error) {
		err := v.try(func(tx *trans.Tx) error {
			_, err := v.w.SetAttr(tx, f, &a)
			return err
		})
		return v.inode(f), err
	}
	before := v.inode(f)
	in, err := set(namei.Attrs{Set: namei.SetMode | namei.SetUID | namei.SetGID | namei.SetAtime | namei.SetMtime, Mode: 0o17777, UID: 5, GID: 6,
		Atime: -1_500_000_001, Mtime: 1 << 60})
	if err != nil || in.Mode != reg|0o7777 || in.UID != 5 || in.GID != 6 || in.Atime != v.w.DiskTime(-1_500_000_001) ||
		in.Mtime != v.w.DiskTime(1<<60) || in.Ctime <= before.Ctime || in.Otime != before.Otime {
		t.Errorf("%+v %v", in, err)
	}
	in, err = set(namei.Attrs{Set: namei.SetAtimeNow | namei.SetMtimeNow | namei.SetCtime, Ctime: 12345})
	if err != nil || in.Atime != in.Mtime || in.Ctime != v.w.DiskTime(12345) || in.Mode != reg|0o7777 {
		t.Errorf("%+v %v", in, err)
	}
	for mode, want := range map[uint16]uint16{
		reg | 0o4755: reg | 0o755, reg | 0o2755: reg | 0o755, reg | 0o2745: reg | 0o2745, reg | 0o6711: reg | 0o711, dirMode | 0o6755: dirMode | 0o6755,
	} {
		if got := namei.ModeAfterChown(mode); got != want {
			t.Errorf("chown of %#o: %#o, want %#o", mode, got, want)
		}
	}
	if got := namei.ModeAfterChmod(reg | 0o6755); got != reg|0o4755 {
		t.Errorf("chmod: %#o", got)
	}
	if err := v.setXattr(f, "security.capability", "caps", 0); err != nil {
		t.Fatal(err)
	}
	for _, want := range []bool{true, false} {
		v.do(func(tx *trans.Tx) error {
			a, did, err := v.w.DropPrivileges(tx, f)
			if did != want || a.Inode.Mode&0o6000 != 0 {
				t.Errorf("privileges dropped: %v, mode %#o", did, a.Inode.Mode)
			}
			return err
		})
	}
	v.wants("dropped capability", v.removeXattr(f, "security.capability"), namei.ErrNoXattr)
	v.close()
}

// The flags immutable and append-only bind everybody.
func TestFlags(t *testing.T) {
	v := newVolume(t)
	flag := func(id namei.ID, flags, mask ondisk.InodeFlags) error {
		return v.try(func(tx *trans.Tx) error {
			_, err := v.w.SetFlags(tx, id, flags, mask)
			return err
		})
	}
	d := v.mkdir(v.root, "d")
	f, link := v.file(d, "f"), v.create(d, "l", lnk|0o777).ID
	v.wants("sync of a link", flag(link, ondisk.InodeSync, namei.UserFlags), namei.ErrInvalid)
	v.wants("noatime of a link", flag(link, ondisk.InodeNoatime, namei.UserFlags), nil)
	v.wants("unlinked", flag(f, ondisk.InodeUnlinked, ondisk.InodeUnlinked), namei.ErrInodeFlags)
	ops := map[string]func() error{
		"chmod": func() error {
			return v.try(func(tx *trans.Tx) error {
				_, err := v.w.SetAttr(tx, f, &namei.Attrs{Set: namei.SetMode, Mode: 0o600})
				return err
			})
		},
		"touch": func() error {
			return v.try(func(tx *trans.Tx) error {
				_, err := v.w.SetAttr(tx, f, &namei.Attrs{Set: namei.SetMtimeNow})
				return err
			})
		},
		"setxattr": func() error { return v.setXattr(f, "user.x", "y", 0) },
		"unlink": func() error {
			return v.try(func(tx *trans.Tx) error {
				if _, err := v.w.Unlink(tx, d, []byte("f"), namei.File); err != nil {
					return err
				}
				return errUndo
			})
		},
		"rename": func() error {
			return v.try(func(tx *trans.Tx) error {
				if _, err := v.w.Rename(tx, d, []byte("f"), d, []byte("g"), 0, 0, 0); err != nil {
					return err
				}
				return errUndo
			})
		},
		"link": func() error {
			return v.try(func(tx *trans.Tx) error {
				if _, err := v.w.Link(tx, f, v.root, []byte("g"), false); err != nil {
					return err
				}
				return errUndo
			})
		},
		"tmpfile": func() error {
			return v.try(func(tx *trans.Tx) error {
				if _, err := v.w.CreateUnlinked(tx, d, &namei.NewInode{Mode: reg}); err != nil {
					return err
				}
				return errUndo
			})
		},
		"create": func() error {
			return v.try(func(tx *trans.Tx) error {
				if _, err := v.w.Create(tx, d, []byte("new"), &namei.NewInode{Mode: reg}); err != nil {
					return err
				}
				return errUndo
			})
		},
	}
	for _, tt := range []struct {
		id      namei.ID
		flags   ondisk.InodeFlags
		forbids string
	}{
		{f, 0, ""}, {f, ondisk.InodeNodump | ondisk.InodeSync, ""},
		{f, ondisk.InodeImmutable, "chmod touch setxattr unlink rename link"}, {f, ondisk.InodeAppend, "chmod setxattr unlink rename link"},
		{d, ondisk.InodeImmutable, "unlink rename create tmpfile"}, {d, ondisk.InodeAppend, "unlink rename"},
	} {
		v.wants("set", flag(tt.id, tt.flags, namei.UserFlags), nil)
		for name, op := range ops {
			err := op()
			if errors.Is(err, errUndo) {
				err = nil
			}
			var want error
			if slices.Contains(strings.Fields(tt.forbids), name) {
				want = fs.ErrPermission
			}
			v.wants(fmt.Sprintf("%s with flags %#x of %d", name, tt.flags, tt.id.Inum), err, want)
		}
		v.wants("clear", flag(tt.id, 0, namei.UserFlags), nil)
	}
	v.do(func(tx *trans.Tx) error {
		a, err := v.w.SetFlagsAndProject(tx, f, ondisk.InodeNodump, namei.UserFlags, namei.ProjectAttrs{Project: 41, Inherit: true})
		if a.Inode.Project != 42 || a.Inode.FieldsSet != 1<<ondisk.InodeOptProject || a.Inode.Flags != ondisk.InodeNodump {
			t.Errorf("%+v", a.Inode)
		}
		return err
	})
	v.close()
}

var errUndo = &undo{}

// undo ends transactions that were only to be tried.
type undo struct{}

func (*undo) Error() string { return "not to be committed" }
func (*undo) Unwrap() error { return syscall.EINTR }

func TestInums(t *testing.T) {
	for _, tt := range []struct {
		only32        bool
		shards, shard int
		first, last   uint64
	}{
		{true, 1, 0, 4096, 1<<31 - 1}, {true, 2, 1, 1 << 30, 1<<31 - 1}, {true, 2, 0, 4096, 1<<30 - 1}, {true, 3, 3, 3 << 29, 1<<31 - 1},
		{false, 0, 0, 4096, 1<<63 - 1}, {false, 4, 1, 1 << 61, 1<<62 - 1},
	} {
		if first, last := namei.InumBounds(tt.only32, tt.shards, tt.shard); first != tt.first || last != tt.last {
			t.Errorf("%+v: %d to %d", tt, first, last)
		}
	}
	// A range of 20 numbers: when it is at its end nothing is left, but gaps are.
	v := newVolume(t)
	v.w.SetWidth(13)
	for i := range 4 {
		v.file(v.root, fmt.Sprint(i))
	}
	v.rewriteInum(mustLookup(v, v.root, "3"), 8190)
	if id := v.file(v.root, "last"); id.Inum != 8191 {
		t.Errorf("behind 8190 comes %d", id.Inum)
	}
	if id := v.file(v.root, "gap"); id.Inum != 4101 {
		t.Errorf("behind the last comes %d", id.Inum)
	}
	v.w.SetWidth(12)
	v.wants("create", v.try(func(tx *trans.Tx) error {
		_, err := v.w.Create(tx, v.root, []byte("more"), &namei.NewInode{Mode: reg})
		return err
	}), syscall.ENOSPC)
}

// rewriteInum gives a file in the root another number.
func (v *volume) rewriteInum(id namei.ID, inum uint64) {
	v.Helper()
	v.do(func(tx *trans.Tx) error {
		in, err := v.w.Inode(tx, id, trans.Intent)
		if err != nil {
			return err
		}
		k := ondisk.Key{Type: ondisk.KeyInodeV3, Pos: ondisk.Pos{Offset: inum, Snapshot: in.ID.Snapshot}, Val: ondisk.EncodeInodeV3(&in.Inode)}
		if err := tx.Update(ondisk.BtreeInodes, k, 0); err != nil {
			return err
		}
		return tx.Update(ondisk.BtreeInodes, ondisk.Key{Pos: ondisk.Pos{Offset: id.Inum, Snapshot: in.ID.Snapshot}}, 0)
	})
	v.w = namei.NewWriter(v.cfg)
	v.w.SetWidth(13)
}
