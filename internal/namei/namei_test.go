package namei

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/btree"
	"github.com/go-bcachefs/bcachefs/internal/codec/strhash"
	"github.com/go-bcachefs/bcachefs/internal/journal"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

var ctx = context.Background()

// The snapshots of these tests: 100 is the root; 90 and 80, its children, are those of subvolumes 1 and 2.
const rootSnapshot, snap1, snap2 = 100, 90, 80

// world is a filesystem whose keys are all in the journal.
type world struct {
	t       *testing.T
	b       journal.OverlayBuilder
	subvols map[uint32]ondisk.Subvolume
	data    map[uint64]string
	hash    strhash.Type
	mask31  bool
	cfg     Config
	tree    *Tree
}

var testSeed = [8]byte{3, 1, 4, 1, 5, 9, 2, 6}

const rootInum = 4096

func newWorld(t *testing.T) *world {
	w := &world{t: t, data: map[uint64]string{}, hash: strhash.Siphash, subvols: map[uint32]ondisk.Subvolume{
		1: {Snapshot: snap1, Inode: rootInum}, 2: {Snapshot: snap2, Inode: rootInum}}}
	return w
}

func (w *world) key(id ondisk.BtreeID, typ ondisk.KeyType, inum, off uint64, snapshot uint32, val []byte) {
	w.b.Add(id, 0, ondisk.Key{Type: typ, Pos: ondisk.Pos{Inode: inum, Offset: off, Snapshot: snapshot}, Val: val})
}

// inode adds an inode with its hash type and seed set.
func (w *world) inode(inum uint64, snapshot uint32, in ondisk.Inode) *ondisk.Inode {
	in.HashType, in.HashSeed = uint8(w.hash), testSeed
	if w.mask31 {
		in.Flags |= ondisk.Inode31bitDirentOffset
	}
	w.key(ondisk.BtreeInodes, ondisk.KeyInodeV3, 0, inum, snapshot, ondisk.EncodeInodeV3(&in))
	return &in
}

func dirMode() uint16  { return ondisk.DTDir<<12 | 0o755 }
func fileMode() uint16 { return ondisk.DTReg<<12 | 0o644 }

func (w *world) hashOf(name string) uint64 {
	return strhash.Dirent(w.hash, testSeed, []byte(name), w.mask31)
}

// dirent adds a name, shift places behind where its hash leads.
func (w *world) dirent(dir uint64, name string, inum uint64, shift uint64, snapshot uint32) {
	d := ondisk.Dirent{Type: ondisk.DTReg, Inum: inum, Name: []byte(name)}
	w.key(ondisk.BtreeDirents, ondisk.KeyDirent, dir, w.hashOf(name)+shift, snapshot, d.Encode())
}

// open makes the tree. Nothing can be added any more.
func (w *world) open() *Tree {
	r := btree.NewReader(btree.Config{Device: func(uint8) blockdev.Device { return nil }, Overlay: w.b.Build(), CacheBytes: 1 << 20})
	w.t.Cleanup(r.Close)
	r.SetAncestor(func(a, d uint32) bool { return a == d || a == rootSnapshot && d < rootSnapshot })
	w.cfg.Trees = r
	w.cfg.Subvolume = func(_ context.Context, id uint32) (ondisk.Subvolume, error) {
		s, ok := w.subvols[id]
		if !ok {
			return s, ErrNoSubvolume
		}
		return s, nil
	}
	w.cfg.ReadFile = func(_ context.Context, id ID, p []byte) (int, error) {
		return copy(p, w.data[id.Inum]), nil
	}
	w.tree = New(w.cfg)
	return w.tree
}

func root(subvol uint32) ID {
	return ID{Subvol: subvol, Snapshot: map[uint32]uint32{1: snap1, 2: snap2}[subvol], Inum: rootInum}
}

// names lists a directory: stray entries are marked, errors are "!".
func (w *world) names(dir ID) []string {
	var names []string
	for e, err := range w.tree.ReadDir(ctx, dir, 0) {
		switch {
		case err != nil:
			names = append(names, "!")
		case e.Stray:
			names = append(names, e.Name+"?")
		default:
			names = append(names, e.Name)
		}
	}
	slices.Sort(names)
	return names
}

func (w *world) wantNames(dir ID, want ...string) {
	w.t.Helper()
	if d := cmp.Diff(want, w.names(dir)); d != "" {
		w.t.Errorf("names in %+v: -want +got:\n%s", dir, d)
	}
}

// wantLookup looks a name up: inum 0 means that it must not be found.
func (w *world) wantLookup(dir ID, name string, inum uint64) {
	w.t.Helper()
	id, err := w.tree.Lookup(ctx, dir, []byte(name))
	switch {
	case inum == 0 && !errors.Is(err, ErrNoName):
		w.t.Errorf("%q is %+v, %v, want %v", name, id, err, ErrNoName)
	case inum != 0 && (err != nil || id.Inum != inum):
		w.t.Errorf("%q is inode %d, %v, want %d", name, id.Inum, err, inum)
	}
}

// Names that collide lie behind one another; hash whiteouts keep the row together, a hole ends it.
func TestCollisions(t *testing.T) {
	for hash := range strhash.Type(strhash.NumTypes) {
		for _, mask31 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v-%v", hash, mask31), func(t *testing.T) {
				w := newWorld(t)
				w.hash, w.mask31 = hash, mask31
				w.inode(rootInum, rootSnapshot, ondisk.Inode{Mode: dirMode()})
				w.dirent(rootInum, "at its place", 1, 0, rootSnapshot)
				w.dirent(rootInum, "behind another", 2, 1, rootSnapshot)
				other := ondisk.Dirent{Type: ondisk.DTReg, Inum: 3, Name: []byte("other")}
				w.key(ondisk.BtreeDirents, ondisk.KeyDirent, rootInum, w.hashOf("behind another"), rootSnapshot, other.Encode())
				w.dirent(rootInum, "behind whiteouts", 4, 3, rootSnapshot)
				for i := range uint64(3) {
					w.key(ondisk.BtreeDirents, ondisk.KeyHashWhiteout, rootInum, w.hashOf("behind whiteouts")+i, rootSnapshot, nil)
				}
				w.dirent(rootInum, "behind a hole", 5, 2, rootSnapshot)
				w.key(ondisk.BtreeDirents, ondisk.KeyHashWhiteout, rootInum, w.hashOf("behind a hole"), rootSnapshot, nil)
				w.open()
				w.wantNames(root(1), "at its place", "behind a hole?", "behind another", "behind whiteouts", "other?")
				w.wantLookup(root(1), "at its place", 1)
				w.wantLookup(root(1), "behind another", 2)
				w.wantLookup(root(1), "behind whiteouts", 4)
				w.wantLookup(root(1), "behind a hole", 0)
				w.wantLookup(root(1), "other", 0)
				w.wantLookup(root(1), "nothing", 0)
				if off := w.hashOf("at its place"); mask31 && off >= 1<<31 {
					t.Errorf("offset %#x", off)
				}
				if _, err := w.tree.Lookup(ctx, root(1), []byte(strings.Repeat("x", ondisk.MaxName+1))); !errors.Is(err, ErrNameTooLong) {
					t.Errorf("long name: %v", err)
				}
			})
		}
	}
}

// Each snapshot sees its own changes over those of its ancestors: new names, names that lead elsewhere, removed ones.
func TestNamesInSnapshots(t *testing.T) {
	w := newWorld(t)
	w.inode(rootInum, rootSnapshot, ondisk.Inode{Mode: dirMode()})
	for i, name := range []string{"kept", "removed in 1", "replaced in 2", "removed before"} {
		w.dirent(rootInum, name, uint64(10+i), 0, rootSnapshot)
	}
	w.key(ondisk.BtreeDirents, ondisk.KeyWhiteout, rootInum, w.hashOf("removed in 1"), snap1, nil)
	w.dirent(rootInum, "replaced in 2", 22, 0, snap2)
	w.dirent(rootInum, "new in 1", 31, 0, snap1)
	w.key(ondisk.BtreeDirents, ondisk.KeyHashWhiteout, rootInum, w.hashOf("removed before"), snap1, nil)
	w.inode(10, rootSnapshot, ondisk.Inode{Mode: fileMode(), Size: 1})
	w.inode(10, snap1, ondisk.Inode{Mode: fileMode(), Size: 2})
	w.key(ondisk.BtreeInodes, ondisk.KeyWhiteout, 0, 10, snap2, nil)
	w.open()
	base := ID{Snapshot: rootSnapshot, Inum: rootInum}
	w.wantNames(base, "kept", "removed before", "removed in 1", "replaced in 2")
	w.wantNames(root(1), "kept", "new in 1", "replaced in 2")
	w.wantNames(root(2), "kept", "removed before", "removed in 1", "replaced in 2")
	w.wantLookup(root(1), "removed in 1", 0)
	w.wantLookup(root(1), "removed before", 0)
	w.wantLookup(root(1), "replaced in 2", 12)
	w.wantLookup(root(2), "replaced in 2", 22)
	w.wantLookup(root(2), "new in 1", 0)
	for snapshot, size := range map[uint32]uint64{rootSnapshot: 1, snap1: 2} {
		if in, err := w.tree.Inode(ctx, ID{Snapshot: snapshot, Inum: 10}); err != nil || in.Size != size {
			t.Errorf("snapshot %d: size %d, %v, want %d", snapshot, in.Size, err, size)
		}
	}
	if _, err := w.tree.Inode(ctx, ID{Snapshot: snap2, Inum: 10}); !errors.Is(err, ErrNoInode) {
		t.Errorf("deleted in snapshot 2: %v", err)
	}
}

// An entry that leads to a subvolume is visible in the one subvolume it was made in, and leads into the other's snapshot.
func TestSubvolumeCrossing(t *testing.T) {
	w := newWorld(t)
	w.subvols[3] = ondisk.Subvolume{Snapshot: 70, Inode: 5000}
	w.subvols[4] = ondisk.Subvolume{Snapshot: 60, Inode: 5001, State: ondisk.SubvolumeStateDeleted}
	w.inode(rootInum, rootSnapshot, ondisk.Inode{Mode: dirMode(), Subvol: 1})
	w.inode(5000, 70, ondisk.Inode{Mode: dirMode(), Subvol: 3, ParentSubvol: 1, Dir: rootInum, DirOffset: w.hashOf("sub")})
	for name, child := range map[string]uint32{"sub": 3, "deleted": 4, "never was": 5} {
		d := ondisk.Dirent{Type: ondisk.DTSubvol, ChildSubvol: child, ParentSubvol: 1, Name: []byte(name)}
		w.key(ondisk.BtreeDirents, ondisk.KeyDirent, rootInum, w.hashOf(name), rootSnapshot, d.Encode())
	}
	w.inode(6000, 70, ondisk.Inode{Mode: dirMode(), Dir: 5000, DirOffset: w.hashOf("inside")})
	w.dirent(5000, "inside", 6000, 0, 70)
	tr := w.open()
	w.wantNames(root(1), "deleted", "never was", "sub")
	w.wantNames(root(2))
	w.wantLookup(root(2), "sub", 0)
	sub := ID{Subvol: 3, Snapshot: 70, Inum: 5000}
	if id, err := tr.Lookup(ctx, root(1), []byte("sub")); err != nil || id != sub {
		t.Errorf("sub: %+v, %v", id, err)
	}
	if id, err := tr.Walk(ctx, root(1), "/sub/inside/../inside", true); err != nil || id != (ID{3, 70, 6000}) {
		t.Errorf("sub/inside: %+v, %v", id, err)
	}
	for _, name := range []string{"deleted", "never was"} {
		if _, err := tr.Lookup(ctx, root(1), []byte(name)); !errors.Is(err, ErrNoSubvolume) || !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v, want %v", name, err, ErrNoSubvolume)
		}
	}
	for e, err := range tr.ReadDir(ctx, root(1), 0) {
		if err != nil || e.Type != ondisk.DTDir || e.Name != "sub" && e.ID.Inum != 0 {
			t.Errorf("entry %+v, %v", e, err)
		}
	}
	if up, err := tr.Parent(ctx, sub); err != nil || up != root(1) {
		t.Errorf("parent of the subvolume: %+v, %v", up, err)
	}
	if up, err := tr.Parent(ctx, root(1)); err != nil || up != root(1) {
		t.Errorf("parent of the root: %+v, %v", up, err)
	}
	if path, err := tr.Path(ctx, ID{3, 70, 6000}); err != nil || path != "sub/inside" {
		t.Errorf("path %q, %v", path, err)
	}
}

func TestCasefold(t *testing.T) {
	const insensitive, inherits, exact = 5000, 5001, 5002
	w := newWorld(t)
	w.cfg.Casefold = true
	w.inode(rootInum, rootSnapshot, ondisk.Inode{Mode: dirMode()})
	w.inode(insensitive, rootSnapshot, ondisk.Inode{Mode: dirMode(), Casefold: 2})
	w.inode(inherits, rootSnapshot, ondisk.Inode{Mode: dirMode()})
	w.inode(exact, rootSnapshot, ondisk.Inode{Mode: dirMode(), Casefold: 1})
	folded := map[string]string{"README": "readme", "Straße": "strasse", "ÀB": "a\u0300b"}
	for i, name := range slices.Sorted(maps.Keys(folded)) {
		d := ondisk.Dirent{Type: ondisk.DTReg, Casefold: true, Inum: uint64(10 + i), Name: []byte(name), CfName: []byte(folded[name])}
		for _, dir := range []uint64{insensitive, inherits} {
			w.key(ondisk.BtreeDirents, ondisk.KeyDirent, dir, w.hashOf(folded[name]), rootSnapshot, d.Encode())
		}
		w.dirent(exact, name, uint64(10+i), 0, rootSnapshot)
	}
	w.open()
	for _, dir := range []uint64{insensitive, inherits} {
		id := ID{Snapshot: snap1, Inum: dir}
		w.wantNames(id, "README", "Straße", "ÀB")
		for name, inum := range map[string]uint64{"README": 10, "readme": 10, "ReadMe": 10, "STRASSE": 11, "straße": 11, "àb": 12,
			"A\u0300b": 12, "readme2": 0, "\xff": 0} {
			w.wantLookup(id, name, inum)
		}
	}
	id := ID{Snapshot: snap1, Inum: exact}
	w.wantNames(id, "README", "Straße", "ÀB")
	w.wantLookup(id, "README", 10)
	w.wantLookup(id, "readme", 0)
	for inum, want := range map[uint64]bool{insensitive: true, inherits: true, exact: false} {
		in, err := w.tree.Inode(ctx, ID{Snapshot: snap1, Inum: inum})
		if err != nil || w.tree.Casefolded(&in) != want {
			t.Errorf("directory %d is casefolded: %v, %v", inum, !want, err)
		}
	}
}

// Every version of inodes is read, and what deletion leaves is no inode.
func TestInodeVersions(t *testing.T) {
	w := newWorld(t)
	want := ondisk.Inode{Mode: fileMode(), Size: 1 << 40, Sectors: 77, UID: 1000, GID: 100, NlinkRaw: 2, Mtime: -5, Atime: 6, Ctime: 7, Otime: 8,
		HashSeed: testSeed, HashType: uint8(strhash.Siphash), Compression: 4, Dir: rootInum, DirOffset: 9}
	for i, typ := range []ondisk.KeyType{ondisk.KeyInode, ondisk.KeyInodeV2, ondisk.KeyInodeV3} {
		w.key(ondisk.BtreeInodes, typ, 0, uint64(100+i), rootSnapshot, ondisk.AppendInode(nil, &want, typ))
	}
	w.key(ondisk.BtreeInodes, ondisk.KeyInodeGeneration, 0, 103, rootSnapshot, ondisk.InodeGeneration{Generation: 3}.Encode())
	tr := w.open()
	for inum := uint64(100); inum <= 102; inum++ {
		in, err := tr.Inode(ctx, ID{Snapshot: snap1, Inum: inum})
		if err != nil {
			t.Errorf("inode %d: %v", inum, err)
			continue
		}
		got := []any{in.Mode, in.Size, in.Sectors, in.UID, in.GID, in.Nlink(), in.Mtime, in.Atime, in.Ctime, in.Otime, in.HashSeed, in.Compression}
		if d := cmp.Diff([]any{want.Mode, want.Size, want.Sectors, want.UID, want.GID, want.Nlink(), want.Mtime, want.Atime, want.Ctime,
			want.Otime, want.HashSeed, want.Compression}, got); d != "" {
			t.Errorf("inode %d: -want +got:\n%s", inum, d)
		}
	}
	for _, inum := range []uint64{103, 104} {
		if _, err := tr.Inode(ctx, ID{Snapshot: snap1, Inum: inum}); !errors.Is(err, ErrNoInode) {
			t.Errorf("inode %d: %v", inum, err)
		}
	}
}

func TestXattrs(t *testing.T) {
	const inum = 100
	w := newWorld(t)
	w.cfg.Target = func(code uint32) string { return fmt.Sprint("target ", code) }
	in := w.inode(inum, rootSnapshot, ondisk.Inode{Mode: fileMode(), DataChecksum: 2, Compression: 1 + (3 | 5<<4), Project: 8,
		BackgroundCompression: 1, DataReplicas: 3, PromoteTarget: 1, ForegroundTarget: 2, BackgroundTarget: 300, ErasureCode: 2, Nocow: 2,
		FieldsSet: 1<<ondisk.InodeOptCompression | 1<<ondisk.InodeOptNocow})
	hash := func(typ ondisk.XattrType, name string) uint64 {
		return strhash.Xattr(strhash.Type(in.HashType), in.HashSeed, uint8(typ), []byte(name))
	}
	add := func(typ ondisk.XattrType, name, value string, shift uint64, snapshot uint32) {
		x := ondisk.Xattr{Type: typ, Name: []byte(name), Value: []byte(value)}
		w.key(ondisk.BtreeXattrs, ondisk.KeyXattr, inum, hash(typ, name)+shift, snapshot, x.Encode())
	}
	add(ondisk.XattrUser, "a", "1", 0, rootSnapshot)
	add(ondisk.XattrUser, "a", "2", 0, snap2)
	add(ondisk.XattrUser, "b", "3", 1, rootSnapshot) // behind a whiteout
	w.key(ondisk.BtreeXattrs, ondisk.KeyHashWhiteout, inum, hash(ondisk.XattrUser, "b"), rootSnapshot, nil)
	add(ondisk.XattrUser, "gone in 2", "", 0, rootSnapshot)
	w.key(ondisk.BtreeXattrs, ondisk.KeyWhiteout, inum, hash(ondisk.XattrUser, "gone in 2"), snap2, nil)
	tr := w.open()
	options := map[string]string{"compression": "zstd:5", "data_checksum": "crc32c", "project": "7", "background_compression": "none", "data_replicas": "2",
		"promote_target": "none", "foreground_target": "target 1", "background_target": "target 299", "erasure_code": "1", "nocow": "1"}
	for snapshot, want := range map[uint32]map[string]string{
		snap1: {"user.a": "1", "user.b": "3", "user.gone in 2": ""},
		snap2: {"user.a": "2", "user.b": "3"},
	} {
		for o, text := range options {
			want["bcachefs_effective."+o] = text
		}
		want["bcachefs.compression"], want["bcachefs.nocow"] = "zstd:5", "1"
		id := ID{Snapshot: snapshot, Inum: inum}
		names, err := tr.ListXattr(ctx, id)
		if d := cmp.Diff(slices.Sorted(maps.Keys(want)), names); d != "" || err != nil {
			t.Errorf("snapshot %d: %v, -want +got:\n%s", snapshot, err, d)
		}
		for name, value := range want {
			if v, err := tr.GetXattr(ctx, id, name); err != nil || string(v) != value {
				t.Errorf("snapshot %d: %s is %q, %v, want %q", snapshot, name, v, err, value)
			}
		}
		for _, name := range []string{"user.none", "user.", "none", "trusted.a", "bcachefs.project", "bcachefs.none", "bcachefs_effective.casefold",
			"user." + strings.Repeat("x", 300), "system.posix_acl_access"} {
			if v, err := tr.GetXattr(ctx, id, name); !errors.Is(err, ErrNoXattr) {
				t.Errorf("snapshot %d: %s is %q, %v", snapshot, name, v, err)
			}
		}
	}
	if _, err := tr.GetXattr(ctx, ID{Snapshot: snap2, Inum: inum}, "user.gone in 2"); !errors.Is(err, ErrNoXattr) {
		t.Errorf("removed attribute: %v", err)
	}
}

func TestWalk(t *testing.T) {
	w := newWorld(t)
	w.inode(rootInum, rootSnapshot, ondisk.Inode{Mode: dirMode(), Subvol: 1})
	add := func(dir uint64, name string, inum uint64, mode uint16) {
		in := ondisk.Inode{Mode: mode, Dir: dir, DirOffset: w.hashOf(name), Size: uint64(len(w.data[inum]))}
		w.inode(inum, rootSnapshot, in)
		w.dirent(dir, name, inum, 0, rootSnapshot)
	}
	const link = ondisk.DTLnk<<12 | 0o777
	add(rootInum, "dir", 1, dirMode())
	add(1, "sub", 2, dirMode())
	add(2, "file", 3, fileMode())
	for i, l := range []struct{ name, target string }{{"abs", "/dir/sub"}, {"rel", "dir/../dir/sub\x00"}, {"self", "self"}, {"a", "b"}, {"b", "a/x"},
		{"up", "../../.."}, {"tail", "dir/"}, {"dangling", "nowhere"}, {"long", "dir" + strings.Repeat("/.", 3000)}} {
		inum := uint64(20 + i)
		w.data[inum] = l.target
		add(rootInum, l.name, inum, link)
	}
	// An inode whose directory is below it.
	w.inode(50, rootSnapshot, ondisk.Inode{Mode: dirMode(), Dir: 51, DirOffset: w.hashOf("y")})
	w.inode(51, rootSnapshot, ondisk.Inode{Mode: dirMode(), Dir: 50, DirOffset: w.hashOf("x")})
	w.dirent(50, "x", 51, 0, rootSnapshot)
	w.dirent(51, "y", 50, 0, rootSnapshot)
	tr := w.open()
	for _, tt := range []struct {
		path string
		inum uint64 // with the last link followed
		last uint64 // not followed, if that is another
		err  error
	}{
		{"", rootInum, 0, nil}, {"/", rootInum, 0, nil}, {".", rootInum, 0, nil}, {"..", rootInum, 0, nil}, {"../../dir", 1, 0, nil},
		{"dir/sub/file", 3, 0, nil}, {"//dir//sub/./file", 3, 0, nil}, {"dir/", 1, 0, nil}, {"dir/sub/..", 1, 0, nil},
		{"abs", 2, 20, nil}, {"abs/file", 3, 0, nil}, {"rel/file", 3, 0, nil}, {"abs/", 2, 0, nil}, {"abs/..", 1, 0, nil}, {"up", rootInum, 25, nil},
		{"up/dir", 1, 0, nil}, {"tail", 1, 26, nil}, {"tail/sub", 2, 0, nil}, {"long", 1, 28, nil},
		{"nothing", 0, 0, ErrNoName}, {"nothing/below", 0, 0, ErrNoName}, {"dir/sub/file/", 0, 0, ErrNotDir}, {"dir/sub/file/..", 0, 0, ErrNotDir},
		{"dir/sub/file/x", 0, 0, ErrNotDir}, {"self/", 0, 0, ErrTooManyLinks}, {"a/c", 0, 0, ErrTooManyLinks}, {"dangling/", 0, 0, ErrNoName},
	} {
		for _, follow := range []bool{true, false} {
			want := tt.inum
			if !follow && tt.last != 0 {
				want = tt.last
			}
			id, err := tr.Walk(ctx, root(1), tt.path, follow)
			if !errors.Is(err, tt.err) || tt.err == nil && (err != nil || id.Inum != want) {
				t.Errorf("%q, follow %v: inode %d, %v, want %d, %v", tt.path, follow, id.Inum, err, want, tt.err)
			}
		}
	}
	for inum, want := range map[uint64]string{3: "dir/sub/file", 20: "abs", rootInum: ""} {
		if path, err := tr.Path(ctx, ID{1, snap1, inum}); path != want || err != nil {
			t.Errorf("path of %d: %q, %v, want %q", inum, path, err, want)
		}
	}
	if path, err := tr.Path(ctx, ID{1, snap1, 50}); err != nil || !strings.HasPrefix(path, "?") {
		t.Errorf("path in a loop: %d bytes, %v", len(path), err)
	}
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := tr.Walk(canceled, root(1), "dir", true); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// Names that would be taken for paths do not get out, and keep nobody from the others.
func TestBadNames(t *testing.T) {
	w := newWorld(t)
	w.inode(rootInum, rootSnapshot, ondisk.Inode{Mode: dirMode()})
	for i, name := range []string{"good", ".", "..", "a/b", "../x", "c\x00d", "also good"} {
		w.dirent(rootInum, name, uint64(10+i), 0, rootSnapshot)
	}
	w.open()
	for _, name := range w.names(root(1)) {
		if name != "good" && name != "also good" && name != "!" && name != "c" {
			t.Errorf("%q is listed", name)
		}
	}
	w.wantLookup(root(1), "good", 10)
	w.wantLookup(root(1), "also good", 16)
	n := 0
	for e, err := range w.tree.ReadDir(ctx, root(1), math.MaxUint64) {
		t.Errorf("behind the end: %+v, %v", e, err)
	}
	for range w.tree.ReadDir(ctx, root(1), 0) {
		n++
		break
	}
	if n != 1 {
		t.Error("stopping at the first entry does not")
	}
	for _, err := range w.tree.ReadDir(ctx, ID{Snapshot: snap1, Inum: 77}, 0) {
		if !errors.Is(err, ErrNoInode) {
			t.Errorf("names in nothing: %v", err)
		}
	}
}
