package namei

import (
	"fmt"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// FuzzTree makes directories, links and subvolumes that lead anywhere, themselves included, and follows them: all ends. Each
// four bytes are a thing: its kind, where it is, what it leads to, its name.
func FuzzTree(f *testing.F) {
	f.Add([]byte("d\x00\x01a" + "d\x01\x00b" + "i\x00\x00\x00" + "i\x01\x00\x00"))
	f.Add([]byte("l\x00\x02a" + "l\x02\x00b" + "i\x02\x03\x01"))
	f.Add([]byte("s\x00\x02a" + "d\x00\x00." + "d\x00\x00a"))
	f.Fuzz(func(t *testing.T, b []byte) {
		const inodes = 8
		w := newWorld(t)
		inum := func(c byte) uint64 { return rootInum + uint64(c%inodes) }
		for i := range byte(inodes) {
			in := ondisk.Inode{Mode: dirMode()}
			if i >= 6 {
				in.Mode = ondisk.DTLnk<<12 | 0o777
				in.Size = 10
			}
			for j := 0; j+4 <= len(b); j += 4 {
				if b[j] == 'i' && b[j+1]%inodes == i {
					in.Dir, in.DirOffset, in.Subvol, in.ParentSubvol = inum(b[j+2]), w.hashOf(string(rune(b[j+3]))), uint32(b[j+3]>>6), uint32(b[j+2]>>6)
					in.Size = uint64(b[j+3]) << (b[j+2] % 57)
				}
			}
			w.inode(inum(i), rootSnapshot, in)
			w.data[inum(i)] = fmt.Sprintf("/%c/../%[1]c", 'a'+i)
		}
		for j := 0; j+4 <= len(b) && j < 400; j += 4 {
			c := b[j : j+4]
			name := c[3:4]
			d := ondisk.Dirent{Type: ondisk.DTDir, Inum: inum(c[2]), Name: name}
			switch c[0] {
			case 'l':
				d.Type = ondisk.DTLnk
				w.data[inum(c[2])] = string(b[:min(len(b), 4*int(c[3]))])
			case 's':
				d.Type, d.ChildSubvol, d.ParentSubvol = ondisk.DTSubvol, uint32(c[2]%4), uint32(c[3]%4)
			case 'v':
				w.subvols[uint32(c[1]%4)] = ondisk.Subvolume{Snapshot: uint32(80 + c[3]%21), Inode: inum(c[2]), FSPathParent: uint32(c[3] % 4)}
				continue
			case 'd':
			case 'r':
				w.key(ondisk.BtreeDirents, ondisk.KeyDirent, inum(c[1]), uint64(c[3]), snap1, b[:len(b)&^7])
				continue
			default:
				continue
			}
			w.key(ondisk.BtreeDirents, ondisk.KeyDirent, inum(c[1]), w.hashOf(string(name))+uint64(c[2]>>7), rootSnapshot, d.Encode())
		}
		tree := w.open()
		for i := range byte(inodes) {
			for _, id := range []ID{{1, snap1, inum(i)}, {2, snap2, inum(i)}, {0, rootSnapshot, inum(i)}} {
				follow(t, tree, id)
			}
		}
		for _, path := range []string{"a/a/a/a", "b/../a/../b/..", string(b), "a/" + string(b)} {
			_, _ = tree.Walk(ctx, root(1), path, true)
			_, _ = tree.Walk(ctx, root(2), path, false)
		}
		for n := range uint32(4) {
			_, _ = tree.SubvolumeRoot(ctx, n)
		}
	})
}

func follow(t *testing.T, tree *Tree, id ID) {
	if p, err := tree.Path(ctx, id); err == nil && len(p) > 1<<20 {
		t.Fatalf("path of %d bytes", len(p))
	}
	_, _ = tree.Parent(ctx, id)
	_, _ = tree.Readlink(ctx, id)
	_, _ = tree.ListXattr(ctx, id)
	n, last := 0, uint64(0)
	for e, err := range tree.ReadDir(ctx, id, 0) {
		if n++; n > 1000 {
			t.Fatal("a directory without end")
		}
		if err != nil {
			continue
		}
		if e.Offset <= last {
			t.Fatalf("entry at %d after %d", e.Offset, last)
		}
		last = e.Offset
		_, _ = tree.Lookup(ctx, id, []byte(e.Name))
	}
}
