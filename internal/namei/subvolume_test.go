package namei_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"syscall"
	"testing"

	"github.com/go-bcachefs/bcachefs"
	"github.com/go-bcachefs/bcachefs/internal/kernelvm"
	"github.com/go-bcachefs/bcachefs/internal/namei"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// takeSnapshot makes a snapshot of the first subvolume as subvolume id with a name in its root (spec/05 § 12.7), and opens the filesystem again.
func (v *volume) takeSnapshot(id uint32, name string, flags ondisk.SubvolumeFlags) namei.ID {
	v.Helper()
	v.do(func(tx *trans.Tx) error {
		root, err := v.w.Inode(tx, v.root, trans.Intent)
		if err != nil {
			return err
		}
		above := root.ID.Snapshot
		k, _, err := tx.Get(ondisk.BtreeSnapshots, ondisk.Pos{Offset: uint64(above)}, trans.ForUpdate)
		if err != nil {
			return err
		}
		p, err := ondisk.DecodeSnapshot(k)
		if err != nil {
			return err
		}
		first, _, err := tx.Iter(ondisk.BtreeSnapshots, ondisk.PosMin, 0).Peek()
		if err != nil {
			return err
		}
		theirs, ours := uint32(first.Pos.Offset)-1, uint32(first.Pos.Offset)-2
		put := func(btree ondisk.BtreeID, typ ondisk.KeyType, pos ondisk.Pos, val []byte) {
			if err == nil {
				err = tx.Update(btree, ondisk.Key{Type: typ, Pos: pos, Val: val}, 0)
			}
		}
		p.Children, p.Subvol, p.Flags = [2]uint32{theirs, ours}, 0, p.Flags&^ondisk.SnapshotSubvol
		put(ondisk.BtreeSnapshots, ondisk.KeySnapshot, ondisk.Pos{Offset: uint64(above)}, p.Encode())
		for snap, subvol := range map[uint32]uint32{theirs: id, ours: 1} {
			s := ondisk.Snapshot{Flags: ondisk.SnapshotSubvol, Parent: above, Subvol: subvol, Tree: p.Tree, Depth: p.Depth + 1, Skip: [3]uint32{above, above, above}}
			put(ondisk.BtreeSnapshots, ondisk.KeySnapshot, ondisk.Pos{Offset: uint64(snap)}, s.Encode())
		}
		k, _, gerr := tx.Get(ondisk.BtreeSubvolumes, ondisk.Pos{Offset: 1}, trans.ForUpdate)
		sub, derr := ondisk.DecodeSubvolume(k)
		if err := errors.Join(err, gerr, derr); err != nil {
			return err
		}
		sub.Snapshot = ours
		put(ondisk.BtreeSubvolumes, ondisk.KeySubvolume, ondisk.Pos{Offset: 1}, sub.Encode())
		other := ondisk.Subvolume{Flags: ondisk.SubvolumeSnap | flags, Snapshot: theirs, Inode: ondisk.RootInum, CreationParent: 1, FSPathParent: 1}
		put(ondisk.BtreeSubvolumes, ondisk.KeySubvolume, ondisk.Pos{Offset: uint64(id)}, other.Encode())
		put(ondisk.BtreeSubvolumeChildren, ondisk.KeySet, ondisk.Pos{Inode: 1, Offset: uint64(id)}, nil)
		d := ondisk.Dirent{Type: ondisk.DTSubvol, ChildSubvol: id, ParentSubvol: 1, Name: []byte(name)}
		at := namei.DirentHash(&root.Inode, name)
		put(ondisk.BtreeDirents, ondisk.KeyDirent, ondisk.Pos{Inode: ondisk.RootInum, Offset: at, Snapshot: ours}, d.Encode())
		in := root.Inode
		in.Flags |= ondisk.InodeHasChildSnapshot // no trigger knows of the new snapshots yet
		put(ondisk.BtreeInodes, ondisk.KeyInodeV3, ondisk.Pos{Offset: ondisk.RootInum, Snapshot: in.Snapshot}, ondisk.EncodeInodeV3(&in))
		in.Flags &^= ondisk.InodeHasChildSnapshot
		in.Subvol, in.ParentSubvol, in.Dir, in.DirOffset = id, 1, ondisk.RootInum, at
		put(ondisk.BtreeInodes, ondisk.KeyInodeV3, ondisk.Pos{Offset: ondisk.RootInum, Snapshot: theirs}, ondisk.EncodeInodeV3(&in))
		return err
	})
	v.close()
	v.open() // the table of snapshots is read there
	return namei.ID{Subvol: id, Inum: ondisk.RootInum}
}

// versions returns the types of the keys that an inode has, by snapshot.
func (v *volume) versions(inum uint64) map[uint32]ondisk.KeyType {
	v.Helper()
	return get(v, func(tx *trans.Tx) (map[uint32]ondisk.KeyType, error) {
		all := map[uint32]ondisk.KeyType{}
		it := tx.Iter(ondisk.BtreeInodes, ondisk.Pos{Offset: inum}, trans.AllSnapshots)
		for {
			k, ok, err := it.PeekMax(ondisk.Pos{Offset: inum, Snapshot: math.MaxUint32})
			if err != nil || !ok {
				return all, err
			}
			all[k.Pos.Snapshot] = k.Type
			it.Advance()
		}
	})
}

// What was unlinked and open when a snapshot was taken goes with the last one who has it.
func TestDeleteAbove(t *testing.T) {
	v := newVolume(t)
	f := v.file(v.root, "f")
	if err := v.setXattr(f, "user.a", "1", 0); err != nil {
		t.Fatal(err)
	}
	var above uint32
	v.do(func(tx *trans.Tx) error {
		above = v.snapshot(tx)
		return nil
	})
	// The name is kept until after the snapshot, as nothing may be unlinked when it is opened.
	v.takeSnapshot(2, "snap", 0)
	old := namei.ID{Subvol: 2, Inum: f.Inum}
	root := v.inode(v.root)
	v.do(func(tx *trans.Tx) error { // as if it had been unlinked above before
		for _, dir := range []namei.ID{v.root, {Subvol: 2, Inum: ondisk.RootInum}} {
			if _, err := v.w.Unlink(tx, dir, []byte("f"), namei.File); err != nil {
				return err
			}
		}
		for _, snapshot := range []uint32{above, above - 1, above - 2} {
			pos := ondisk.Pos{Inode: ondisk.RootInum, Offset: namei.DirentHash(root, "f"), Snapshot: snapshot}
			if err := tx.Update(ondisk.BtreeDirents, ondisk.Key{Pos: pos}, 0); err != nil {
				return err
			}
		}
		k, _, err := tx.Get(ondisk.BtreeInodes, ondisk.Pos{Offset: f.Inum, Snapshot: above}, trans.ForUpdate)
		if err != nil {
			return err
		}
		in, err := ondisk.DecodeInode(k)
		in.Flags |= ondisk.InodeUnlinked | ondisk.InodeHasChildSnapshot
		return errors.Join(err, tx.Update(ondisk.BtreeInodes, ondisk.Key{Type: ondisk.KeyInodeV3, Pos: k.Pos, Val: ondisk.EncodeInodeV3(&in)}, 0))
	})
	used := true
	v.cfg.InUse = func(inum uint64, snapshot uint32) bool { return used && inum == f.Inum && snapshot == above }
	v.w = namei.NewWriter(v.cfg)
	if err := v.w.Delete(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	if all := v.versions(f.Inum); len(all) != 3 || all[above] != ondisk.KeyInodeV3 {
		t.Errorf("with one more version below: %v", all)
	}
	if err := v.w.Delete(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	if all := v.versions(f.Inum); all[above] != ondisk.KeyInodeV3 {
		t.Errorf("while it is in use: %v", all)
	}
	used = false
	all, err := v.w.Unlinked(t.Context())
	if err != nil || len(all) != 1 || all[0] != (namei.Version{Inum: f.Inum, Snapshot: above}) {
		t.Errorf("unlinked: %v %v", all, err)
	}
	if err := v.w.DeleteVersion(t.Context(), f.Inum, above); err != nil {
		t.Fatal(err)
	}
	for snapshot, typ := range v.versions(f.Inum) {
		if typ != ondisk.KeyInodeGeneration {
			t.Errorf("%v in snapshot %d", typ, snapshot)
		}
	}
	v.do(func(tx *trans.Tx) error {
		k, ok, err := tx.Lookup(ondisk.BtreeXattrs, ondisk.Pos{Inode: f.Inum, Snapshot: above}, 0)
		if ok {
			t.Errorf("left: %v", k.Pos)
		}
		return err
	})
	v.close()
}

// Roots of subvolumes go where nothing else goes, and nothing takes their place.
func TestSubvolumes(t *testing.T) {
	v := newVolume(t)
	d := v.mkdir(v.root, "d")
	v.file(d, "f")
	snap := v.takeSnapshot(2, "snap", 0)
	ro := v.takeSnapshot(3, "ro", ondisk.SubvolumeRO)
	inSnap := namei.ID{Subvol: 2, Inum: d.Inum}
	empty := v.mkdir(v.root, "empty")
	for _, tt := range []struct {
		dir   namei.ID
		name  string
		to    namei.ID
		toN   string
		flags namei.RenameFlags
		want  error
	}{
		{d, "f", inSnap, "g", 0, namei.ErrCrossSubvol},
		{v.root, "empty", snap, "g", 0, namei.ErrCrossSubvol},
		{v.root, "empty", v.root, "snap", 0, namei.ErrSubvolRoot},
		{v.root, "ro", v.root, "snap", 0, namei.ErrSubvolRoot},
		{v.root, "snap", inSnap, "f", namei.RenameExchange, namei.ErrLoop},
		{v.root, "snap", snap, "x", 0, namei.ErrLoop},
		{v.root, "snap", ro, "x", 0, namei.ErrReadOnly},
		{v.root, "ro", inSnap, "f", namei.RenameExchange, namei.ErrCrossSubvol},
		{v.root, "ro", v.root, "empty", 0, nil},
		{v.root, "empty", inSnap, "ro", 0, nil},
		{inSnap, "ro", v.root, "snap", namei.RenameExchange, namei.ErrLoop},
	} {
		r, err := v.rename(tt.dir, tt.name, tt.to, tt.toN, tt.flags)
		if errors.Is(tt.want, namei.ErrLoop) && errors.Is(err, namei.ErrCrossSubvol) {
			err = tt.want
		}
		v.wants(fmt.Sprintf("rename %q to %q in subvolume %d", tt.name, tt.toN, tt.to.Subvol), err, tt.want)
		if err == nil && r.Other.ID.Inum != 0 {
			if r.Other.ID.Inum != empty.Inum {
				t.Errorf("%v was replaced", r.Other.ID)
			}
			v.wants("delete", v.w.Delete(t.Context(), r.Other.ID), nil)
		}
	}
	if got := mustLookup(v, inSnap, "ro"); got.Subvol != 3 {
		t.Errorf("it leads to %v", got)
	}
	v.do(func(tx *trans.Tx) error {
		k, _, err := tx.Get(ondisk.BtreeSubvolumes, ondisk.Pos{Offset: 3}, 0)
		s, derr := ondisk.DecodeSubvolume(k)
		if s.FSPathParent != 2 || v.inode(ro).ParentSubvol != 2 || v.inode(ro).Dir != inSnap.Inum {
			t.Errorf("%+v, %+v", s, v.inode(ro))
		}
		return errors.Join(err, derr)
	})
	v.wants("create in what is read-only", v.try(func(tx *trans.Tx) error {
		_, err := v.w.Create(tx, ro, []byte("x"), &namei.NewInode{Mode: reg})
		return err
	}), syscall.EROFS)
	v.wants("attribute of what is read-only", v.setXattr(namei.ID{Subvol: 3, Inum: d.Inum}, "user.a", "", 0), syscall.EROFS)
	for _, tt := range []struct {
		dir  namei.ID
		name string
		what namei.What
		want error
	}{
		{v.root, "snap", namei.File, namei.ErrIsDir},
		{v.root, "snap", namei.Dir, namei.ErrNotEmpty},
		{v.root, "snap", namei.SubvolumeRoot, namei.ErrNotEmpty}, // there is one in it
		{inSnap, "ro", namei.SubvolumeRoot, nil},
		{inSnap, "ro", namei.SubvolumeRoot, fs.ErrNotExist},
	} {
		_, err := v.unlink(tt.dir, tt.name, tt.what)
		v.wants(fmt.Sprintf("unlink %q", tt.name), err, tt.want)
	}
	v.do(func(tx *trans.Tx) error {
		k, _, err := tx.Get(ondisk.BtreeSubvolumes, ondisk.Pos{Offset: 3}, 0)
		s, derr := ondisk.DecodeSubvolume(k)
		if s.Flags&ondisk.SubvolumeUnlinked == 0 || v.inode(ro).Dir != 0 {
			t.Errorf("%+v, %+v", s, v.inode(ro))
		}
		return errors.Join(err, derr)
	})
	if v.inode(v.root).Nlink() != 4 || v.inode(inSnap).Nlink() != 2 {
		t.Errorf("%d and %d links", v.inode(v.root).Nlink(), v.inode(inSnap).Nlink())
	}
	v.close()
	if testing.Short() {
		return
	}
	paths, err := v.disks.Save(t.Context(), t.TempDir(), "subvolumes")
	if err != nil {
		t.Fatal(err)
	}
	kernelvm.MustBeClean(t, [][]string{paths}, kernelvm.CheckOptions{ReadWrite: true})
}

// Names in casefolded directories are one in any case, and keep the one they were given.
func TestCasefold(t *testing.T) {
	v := newVolume(t)
	d := v.mkdir(v.root, "d")
	v.do(func(tx *trans.Tx) error {
		a, err := v.w.Inode(tx, d, trans.Intent)
		if err != nil {
			return err
		}
		a.Inode.Casefold = 2
		return v.w.Put(tx, &a)
	})
	f := v.file(d, "Straße")
	if sub := v.create(d, "sub", dirMode|0o755); sub.Inode.Casefold != 2 || v.inode(f).Casefold != 0 {
		t.Error("directories inherit it, and they only")
	}
	if id := mustLookup(v, d, "STRASSE"); id.Inum != f.Inum {
		t.Errorf("%v", id)
	}
	v.wants("same name", v.try(func(tx *trans.Tx) error {
		_, err := v.w.Create(tx, d, []byte("strasse"), &namei.NewInode{Mode: reg})
		return err
	}), fs.ErrExist)
	v.wants("not UTF-8", v.try(func(tx *trans.Tx) error {
		_, err := v.w.Create(tx, d, []byte("\xff"), &namei.NewInode{Mode: reg})
		return err
	}), namei.ErrBadName)
	_, err := v.rename(d, "strasse", d, "STRASSE", 0)
	v.wants("other case", err, nil)
	_, err = v.rename(d, "Strasse", d, "\xff", 0)
	v.wants("not UTF-8", err, namei.ErrBadName)
	_, err = v.rename(d, "Strasse", d, "strasse", namei.RenameNoReplace)
	v.wants("exists", err, fs.ErrExist)
	v.reader(func(fsys *bcachefs.FS, _ *bcachefs.View) {
		for e, err := range fsys.ReadDir(context.Background(), bcachefs.InodeID{Subvol: 1, Snapshot: math.MaxUint32, Inum: d.Inum}, 0) {
			if err != nil || e.Stray || e.Name != "STRASSE" && e.Name != "sub" {
				t.Errorf("%+v %v", e, err)
			}
		}
	})
	if _, err := v.unlink(d, "stRasse", namei.File); err != nil {
		t.Error(err)
	}
}

// Quotas are asked about each inode that comes, goes, or belongs to others.
func TestQuota(t *testing.T) {
	v := newVolume(t)
	var log []string
	errFull := syscall.EDQUOT
	v.cfg.Quota = func(tx *trans.Tx, id namei.ID, old, new *ondisk.Inode) error {
		of := func(in *ondisk.Inode) string {
			if in == nil {
				return "-"
			}
			return fmt.Sprint(in.UID, in.GID, in.Project, in.Sectors)
		}
		if new != nil && new.UID == 66 {
			return errFull
		}
		n := len(log)
		tx.OnAbort(func() { log = log[:n] })
		log = append(log, of(old)+">"+of(new))
		return nil
	}
	v.w = namei.NewWriter(v.cfg)
	d := v.mkdir(v.root, "d")
	f := v.file(v.root, "f")
	chown := func(uid uint32) error {
		return v.try(func(tx *trans.Tx) error {
			_, err := v.w.SetAttr(tx, f, &namei.Attrs{Set: namei.SetUID, UID: uid})
			return err
		})
	}
	v.wants("chown", chown(5), nil)
	v.wants("chown beyond", chown(66), syscall.EDQUOT)
	v.wants("project", v.setXattr(d, "bcachefs.project", "7", 0), nil)
	_, err := v.rename(v.root, "f", d, "f", 0)
	v.wants("rename", err, nil)
	// More extents than one transaction deletes: what is still to be counted is told at each step.
	const extents = 40
	v.wants("write", v.try(func(tx *trans.Tx) error {
		a, err := v.w.Inode(tx, f, trans.Intent)
		if err != nil {
			return err
		}
		reservation := ondisk.Reservation{NrReplicas: 1}
		for i := range uint64(extents) {
			k := ondisk.Key{Type: ondisk.KeyReservation, Pos: ondisk.Pos{Inode: f.Inum, Offset: 16*i + 8, Snapshot: a.ID.Snapshot}, Size: 8, Val: reservation.Encode()}
			if err := tx.Update(ondisk.BtreeExtents, k, 0); err != nil {
				return err
			}
		}
		a.Inode.Sectors, a.Inode.Size = 8*extents, 16*extents*512
		return v.w.Put(tx, &a)
	}), nil)
	_, err = v.unlink(d, "f", namei.File)
	v.wants("unlink", err, nil)
	v.wants("delete", v.w.Delete(t.Context(), f), nil)
	want := "[->0 0 0 0 ->0 0 0 0 0 0 0 0>5 0 0 0 0 0 0 0>0 0 8 0 5 0 0 0>5 0 8 0 5 0 8 0>5 0 8 320 5 0 8 320>5 0 8 64 5 0 8 64>-]"
	if got := fmt.Sprint(log); got != want {
		t.Errorf("asked %s, want %s", got, want)
	}
	v.close()
}
