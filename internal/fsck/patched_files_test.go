package fsck_test

import (
	"github.com/go-bcachefs/bcachefs/internal/codec/strhash"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// file returns a regular file with one name and some extents, and no versions in other snapshots.
func (p *patched) file() ondisk.Inode {
	return p.inode(func(in *ondisk.Inode) bool {
		return in.Type() == ondisk.DTReg && in.NlinkRaw == 0 && in.Dir != 0 && in.Sectors >= 8 && in.Size > 0
	})
}

// dir returns a directory in the root directory.
func (p *patched) dir() ondisk.Inode {
	return p.inode(func(in *ondisk.Inode) bool { return in.IsDir() && in.Dir == ondisk.RootInum })
}

// inode returns the first inode that pred is true of.
func (p *patched) inode(pred func(in *ondisk.Inode) bool) (in ondisk.Inode) {
	p.t.Helper()
	p.first(ondisk.BtreeInodes, func(k *ondisk.Key) bool {
		var err error
		in, err = ondisk.DecodeInode(*k)
		return err == nil && pred(&in)
	})
	return in
}

func inodePos(in *ondisk.Inode) ondisk.Pos { return ondisk.Pos{Offset: in.Inum, Snapshot: in.Snapshot} }

func (p *patched) putInode(in ondisk.Inode) {
	p.put(ondisk.BtreeInodes, ondisk.Key{Type: ondisk.KeyInodeV3, Pos: inodePos(&in), Val: ondisk.EncodeInodeV3(&in)})
}

// nameOf returns the entry that an inode says to have.
func (p *patched) nameOf(in *ondisk.Inode) ondisk.Key {
	return p.first(ondisk.BtreeDirents, func(k *ondisk.Key) bool { return k.Pos.Inode == in.Dir && k.Pos.Offset == in.DirOffset })
}

func (p *patched) changeName(in *ondisk.Inode, change func(d *ondisk.Dirent)) {
	k := p.nameOf(in)
	d, err := ondisk.DecodeDirent(k)
	if err != nil {
		p.t.Fatal(err)
	}
	change(&d)
	k.Val = d.Encode()
	p.put(ondisk.BtreeDirents, k)
}

// moveName moves an entry by some slots, and what its inode knows of it.
func (p *patched) moveName(by uint64) ondisk.Pos {
	in := p.file()
	k := p.nameOf(&in)
	p.delete(ondisk.BtreeDirents, k.Pos)
	k.Pos.Offset += by
	p.put(ondisk.BtreeDirents, k)
	in.DirOffset += by
	p.putInode(in)
	return k.Pos
}

// putName makes an entry.
func (p *patched) putName(dir uint64, name string, d ondisk.Dirent) ondisk.Pos {
	in := p.inode(func(in *ondisk.Inode) bool { return in.Inum == dir })
	d.Name = []byte(name)
	at := ondisk.Pos{Inode: dir, Offset: strhash.Dirent(strhash.Type(in.HashType), in.HashSeed, d.Name, false), Snapshot: in.Snapshot}
	p.put(ondisk.BtreeDirents, ondisk.Key{Type: ondisk.KeyDirent, Pos: at, Val: d.Encode()})
	return at
}

// unlink removes the name of a file, which is to be deleted, and returns its position.
func (p *patched) unlink() ondisk.Pos {
	in := p.file()
	p.delete(ondisk.BtreeDirents, p.nameOf(&in).Pos)
	in.Dir, in.DirOffset = 0, 0
	in.Flags |= ondisk.InodeUnlinked
	p.putInode(in)
	return inodePos(&in)
}

// putACL gives an inode an ACL, of which only the name matters.
func (p *patched) putACL(in ondisk.Inode) {
	x := ondisk.Xattr{Type: ondisk.XattrACLAccess, Value: []byte{1, 0, 0, 0}}
	at := ondisk.Pos{Inode: in.Inum, Offset: strhash.Xattr(strhash.Type(in.HashType), in.HashSeed, uint8(x.Type), nil), Snapshot: in.Snapshot}
	p.put(ondisk.BtreeXattrs, ondisk.Key{Type: ondisk.KeyXattr, Pos: at, Val: x.Encode()})
}

// subvolName returns the first entry that leads to a subvolume.
func (p *patched) subvolName() (k ondisk.Key, d ondisk.Dirent) {
	k = p.first(ondisk.BtreeDirents, func(k *ondisk.Key) bool {
		var err error
		d, err = ondisk.DecodeDirent(*k)
		return err == nil && d.Type == ondisk.DTSubvol
	})
	return k, d
}

func (p *patched) changeSubvolName(change func(d *ondisk.Dirent)) {
	k, d := p.subvolName()
	change(&d)
	k.Val = d.Encode()
	p.put(ondisk.BtreeDirents, k)
}

func (p *patched) subvol(id uint32) ondisk.Subvolume {
	k, ok, err := p.Get(p.t.Context(), ondisk.BtreeSubvolumes, ondisk.Pos{Offset: uint64(id)})
	if err != nil || !ok {
		p.t.Fatalf("subvolume %d: %v, %v", id, ok, err)
	}
	s, err := ondisk.DecodeSubvolume(k)
	if err != nil {
		p.t.Fatal(err)
	}
	return s
}

// changePath puts the first subvolume that has a name into another.
func (p *patched) changePath(parent uint32) {
	_, d := p.subvolName()
	s := p.subvol(d.ChildSubvol)
	s.FSPathParent = parent
	p.put(ondisk.BtreeSubvolumes, ondisk.Key{Type: ondisk.KeySubvolume, Pos: ondisk.Pos{Offset: uint64(d.ChildSubvol)}, Val: s.Encode()})
}

// shared returns a file without names in other snapshots, and a subvolume's snapshot that sees it in the one above.
func (p *patched) shared() (in ondisk.Inode, child uint32) {
	in = p.inode(func(in *ondisk.Inode) bool {
		if in.Type() != ondisk.DTReg || in.Dir == 0 || in.NlinkRaw != 0 || p.count(ondisk.BtreeInodes, ondisk.Pos{Offset: in.Inum},
			ondisk.Pos{Offset: in.Inum, Snapshot: ^uint32(0)}) != 1 || p.nameOf(in).Pos.Snapshot != in.Snapshot {
			return false
		}
		child = p.childOf(in.Snapshot, in.Inum)
		return child != 0
	})
	return in, child
}

// unlinkDir removes the name of an empty directory, which is to be deleted, and returns its position.
func (p *patched) unlinkDir() ondisk.Pos {
	in := p.inode(func(in *ondisk.Inode) bool {
		return in.IsDir() && in.Dir != 0 && !p.holds(ondisk.BtreeDirents, in.Inum)
	})
	p.delete(ondisk.BtreeDirents, p.nameOf(&in).Pos)
	parent := p.inode(func(o *ondisk.Inode) bool { return o.Inum == in.Dir })
	parent.NlinkRaw--
	p.putInode(parent)
	in.Dir, in.DirOffset = 0, 0
	in.Flags |= ondisk.InodeUnlinked
	p.putInode(in)
	return inodePos(&in)
}

func (p *patched) holds(id ondisk.BtreeID, inum uint64) bool {
	return p.count(id, ondisk.Pos{Inode: inum}, ondisk.Pos{Inode: inum, Offset: ^uint64(0), Snapshot: ^uint32(0)}) > 0
}

// empty reports whether a directory holds no directory.
func (p *patched) empty(inum uint64) bool {
	for k := range p.Keys(p.t.Context(), ondisk.BtreeDirents, 0, ondisk.Pos{Inode: inum}, ondisk.Pos{Inode: inum, Offset: ^uint64(0)}) {
		if d, err := ondisk.DecodeDirent(k); err == nil && d.Type == ondisk.DTDir {
			return false
		}
	}
	return true
}

// snapshot returns a node.
func (p *patched) snapshot(id uint32) ondisk.Snapshot {
	k, ok, err := p.Get(p.t.Context(), ondisk.BtreeSnapshots, ondisk.Pos{Offset: uint64(id)})
	if err != nil || !ok {
		p.t.Fatalf("snapshot %d: %v, %v", id, ok, err)
	}
	s, err := ondisk.DecodeSnapshot(k)
	if err != nil {
		p.t.Fatal(err)
	}
	return s
}

// older returns the version of an inode in the snapshot right above; nil if there is none.
func (p *patched) older(in *ondisk.Inode) *ondisk.Inode {
	k, ok, err := p.Get(p.t.Context(), ondisk.BtreeInodes, ondisk.Pos{Offset: in.Inum, Snapshot: p.snapshot(in.Snapshot).Parent})
	if err != nil || !ok {
		return nil
	}
	got, err := ondisk.DecodeInode(k)
	if err != nil {
		return nil
	}
	return &got
}

// childOf returns a snapshot below in which there is no version of an inode, but one right above; 0 if there is none.
func (p *patched) childOf(snapshot uint32, inum uint64) uint32 {
	if _, ok, _ := p.Get(p.t.Context(), ondisk.BtreeInodes, ondisk.Pos{Offset: inum, Snapshot: snapshot}); !ok {
		return 0
	}
	s := p.snapshot(snapshot)
	if s.Children[1] == 0 {
		return 0
	}
	for _, child := range s.Children {
		if _, ok, _ := p.Get(p.t.Context(), ondisk.BtreeInodes, ondisk.Pos{Offset: inum, Snapshot: child}); !ok && p.snapshot(child).Children[0] == 0 {
			return child
		}
	}
	return 0
}

func isType(t ondisk.KeyType) func(k *ondisk.Key) bool {
	return func(k *ondisk.Key) bool { return k.Type == t }
}
