package fsck

import (
	"context"
	"math"
	"strings"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// files is what the passes over inodes and what they hold have in common: which snapshots count, and who sees what.
//
// Snapshots that no live subvolume reads wait for their deletion; keys in them are passed over. A node between one parent and one child
// that has no subvolume of its own is about to be merged with the child: keys in it are looked at as if they were the child's.
type files struct {
	*trees
	alive map[uint32]bool   // snapshots that a live subvolume reads
	class map[uint32]uint32 // of nodes about to be merged: the lowest of the chain
}

// readFiles loads them; nil if the pass at work cannot check anything.
func (c *checker) readFiles(ctx context.Context) (*files, error) {
	if !c.initialized() {
		return nil, nil
	}
	if c.lost.any(ondisk.BtreeSnapshots) || c.lost.any(ondisk.BtreeSubvolumes) {
		c.note("snapshots or subvolumes cannot be read in whole: what files hold was not checked")
		return nil, nil
	}
	if c.files != nil {
		return c.files, nil
	}
	t, err := c.readTrees(ctx)
	if err != nil {
		return nil, err
	}
	f := &files{trees: t, alive: map[uint32]bool{}, class: map[uint32]uint32{}}
	for id, s := range t.snapshots {
		if f.leafAlive(&s) {
			f.markAlive(id)
		}
	}
	for id := range f.alive {
		f.findClass(id)
	}
	c.files = f
	return f, nil
}

// leafAlive reports whether a live subvolume is, or should be, at the node.
func (f *files) leafAlive(s *ondisk.Snapshot) bool {
	if s.Flags&ondisk.SnapshotSubvol == 0 && s.Subvol == 0 || s.State.Valid() && s.EffectiveState() != ondisk.SnapshotStateLive {
		return false
	}
	v, ok := f.subvols[s.Subvol]
	return !ok || v.State != 0 && !v.State.Valid() || v.EffectiveState() == ondisk.SubvolumeStateLive
}

// markAlive marks a node and those above.
func (f *files) markAlive(id uint32) {
	for !f.alive[id] {
		f.alive[id] = true
		parent := f.snapshots[id].Parent
		if _, ok := f.places[parent]; !ok || parent <= id {
			return
		}
		id = parent
	}
}

// findClass follows single children down. Children are lower, so it ends.
func (f *files) findClass(id uint32) {
	at := id
	for {
		s := f.snapshots[at]
		next := uint32(0)
		for _, child := range s.Children {
			if child != 0 && child < at && f.alive[child] && f.snapshots[child].Parent == at {
				if next != 0 {
					next = 0
					break
				}
				next = child
			}
		}
		if next == 0 || f.leafAlive(&s) {
			break
		}
		if c, ok := f.class[next]; ok {
			at = c
			break
		}
		at = next
	}
	if at != id {
		f.class[id] = at
	}
}

// seenFrom is the snapshot that keys of a snapshot are looked at from: itself, or the node that it is about to be merged into.
func (f *files) seenFrom(snapshot uint32) uint32 {
	if c, ok := f.class[snapshot]; ok {
		return c
	}
	return snapshot
}

// isAncestor reports whether a is d or an ancestor of it.
func (f *files) isAncestor(d, a uint32) bool {
	return d == a || d < a && f.trees.isAncestor(d, a)
}

// hidden reports whether one of keys that lie at the same position as a key of an ancestor of at, but lower, hides it from there.
func (f *files) hidden(lower []uint32, at uint32) bool {
	for i := len(lower) - 1; i >= 0; i-- {
		if f.isAncestor(at, lower[i]) {
			return true
		}
	}
	return false
}

// sees reports whether a key in a snapshot is visible from at; lower are the snapshots of keys at its position that were met before.
func (f *files) sees(at, snapshot uint32, lower []uint32) bool {
	return f.isAncestor(at, snapshot) && !f.hidden(lower, at)
}

// relevant reports whether a key is to be checked: its snapshot exists, is not about to be deleted, and the key is not about to be dropped.
// A snapshot that does not exist is told.
func (f *files) relevant(id ondisk.BtreeID, k *ondisk.Key, lower []uint32) bool {
	s, ok := f.snapshots[k.Pos.Snapshot]
	switch {
	case !ok:
		f.c.at(idBkeyInMissingSnapshot, id, 0, k.Pos, "delete it", "key in missing snapshot %d: %s", k.Pos.Snapshot, f.c.keyText(id, k))
		return false
	case f.c.since(39) && s.EffectiveState() == ondisk.SnapshotStateDeleted:
		f.c.at(idBkeyInDeletedSnapshot, id, 0, k.Pos, "delete it", "key in deleted snapshot: %s", f.c.keyText(id, k))
		return false
	}
	return f.alive[k.Pos.Snapshot] && !(f.seenFrom(k.Pos.Snapshot) != k.Pos.Snapshot && f.hidden(lower, f.seenFrom(k.Pos.Snapshot)))
}

// keyText is a key as upstream prints it, on one line.
func (c *checker) keyText(id ondisk.BtreeID, k *ondisk.Key) string {
	text := ondisk.KeyText(id, k, &ondisk.TextEnv{Version: c.version, ExtentTypeU64s: c.types, BackpointerShift: c.bpShift})
	return strings.Join(strings.Fields(text), " ")
}

// version is an inode, or what hides one, in one of the snapshots in which it was changed.
type version struct {
	snapshot uint32
	at       uint32 // the snapshot it is seen from
	inode    bool   // In holds it; else it is deleted here
	in       ondisk.Inode
}

func (v *version) pos() ondisk.Pos { return ondisk.Pos{Offset: v.in.Inum, Snapshot: v.snapshot} }

// versions are all versions of an inode that count, in order of their snapshots, so that each comes before those it descends from.
type versions []version

// add takes in a key of the inodes btree.
func (vs versions) add(f *files, k *ondisk.Key) versions {
	if !f.alive[k.Pos.Snapshot] {
		return vs
	}
	at := f.seenFrom(k.Pos.Snapshot)
	for i := range vs {
		if at != k.Pos.Snapshot && f.isAncestor(at, vs[i].snapshot) {
			return vs // about to be dropped
		}
	}
	v := version{snapshot: k.Pos.Snapshot, at: at}
	in, err := ondisk.DecodeInode(*k)
	v.in, v.inode = in, err == nil
	v.in.Inum = k.Pos.Offset
	return append(vs, v)
}

// seen returns the version that is seen from a snapshot; nil if there is none.
func (vs versions) seen(f *files, at uint32) *version {
	for i := range vs {
		if f.isAncestor(at, vs[i].snapshot) {
			return &vs[i]
		}
	}
	return nil
}

// inode is seen for inodes that are there.
func (vs versions) inode(f *files, at uint32) *version {
	if v := vs.seen(f, at); v != nil && v.inode {
		return v
	}
	return nil
}

// allSnapshots is the range of a position in all snapshots.
func allSnapshots(p ondisk.Pos) posRange {
	return posRange{p.WithSnapshot(0), p.WithSnapshot(math.MaxUint32)}
}

// allOf is the range of what an inode holds.
func allOf(inum uint64) posRange {
	return posRange{ondisk.Pos{Inode: inum}, ondisk.Pos{Inode: inum, Offset: math.MaxUint64, Snapshot: math.MaxUint32}}
}

func (l *lostRanges) overlapsRange(id ondisk.BtreeID, r posRange) bool {
	return l.overlaps(id, r.min, r.max)
}

// versionsOf reads the versions of an inode into vs; known is false if some cannot be read.
func (f *files) versionsOf(ctx context.Context, inum uint64, vs versions) (_ versions, known bool, err error) {
	vs = vs[:0]
	r := allSnapshots(ondisk.Pos{Offset: inum})
	if f.c.lost.overlapsRange(ondisk.BtreeInodes, r) {
		return vs, false, nil
	}
	for k, err := range f.c.fs.Keys(ctx, ondisk.BtreeInodes, 0, r.min, r.max) {
		if err != nil {
			return vs, false, ctx.Err()
		}
		vs = vs.add(f, &k)
	}
	return vs, true, ctx.Err()
}

// lookup calls fn with the key that is seen at a position from the snapshot in it. Without such a key it is not called; known is false if
// it cannot be told whether there is one.
func (f *files) lookup(ctx context.Context, id ondisk.BtreeID, pos ondisk.Pos, fn func(k *ondisk.Key)) (known bool, err error) {
	r := posRange{pos, pos.WithSnapshot(math.MaxUint32)}
	if f.c.lost.overlapsRange(id, r) {
		return false, nil
	}
	for k, err := range f.c.fs.Keys(ctx, id, 0, r.min, r.max) {
		if err != nil {
			return false, ctx.Err()
		}
		if f.isAncestor(pos.Snapshot, k.Pos.Snapshot) {
			if !k.Type.IsWhiteout() {
				fn(&k)
			}
			break
		}
	}
	return true, ctx.Err()
}

// dirent looks for the directory entry that is seen at a position.
func (f *files) dirent(ctx context.Context, pos ondisk.Pos) (d ondisk.Dirent, found, known bool, err error) {
	known, err = f.lookup(ctx, ondisk.BtreeDirents, pos, func(k *ondisk.Key) {
		if got, err := ondisk.DecodeDirent(*k); err == nil {
			d, found = got, true
			d.Name, d.CfName = nil, nil // they are the iterator's
		}
	})
	return d, found, known, err
}

// leadsTo reports whether a directory entry names the inode.
func leadsTo(d *ondisk.Dirent, in *ondisk.Inode) bool {
	if d.Type == ondisk.DTSubvol {
		return d.ChildSubvol == in.Subvol
	}
	return d.Inum == in.Inum
}

// direntType is the type that directory entries of an inode have.
func direntType(in *ondisk.Inode) uint8 {
	if in.Subvol != 0 {
		return ondisk.DTSubvol
	}
	return in.Type()
}

// backpointer returns where the entry lies that an inode says to have, with the snapshot to look from. ok is false if there can be none: the
// subvolume that it is to be in does not exist.
func (f *files) backpointer(v *version) (pos ondisk.Pos, ok bool) {
	pos = ondisk.Pos{Inode: v.in.Dir, Offset: v.in.DirOffset, Snapshot: v.at}
	if v.in.Subvol != 0 {
		s, ok := f.subvols[v.in.ParentSubvol]
		pos.Snapshot = s.Snapshot
		return pos, ok
	}
	return pos, true
}

// hasBackpointer reports whether an inode says where its entry is.
func hasBackpointer(in *ondisk.Inode) bool { return in.Dir != 0 || in.DirOffset != 0 }

// olderRoot reports whether a version of a subvolume's root is not the one that the subvolume sees. There is one entry for a subvolume, which
// may be elsewhere by now.
func (f *files) olderRoot(v *version, vs versions) bool {
	s, ok := f.subvols[v.in.Subvol]
	return v.in.Subvol != 0 && ok && vs.seen(f, s.Snapshot) != v
}

func isRoot(in *ondisk.Inode) bool {
	return in.Inum == ondisk.RootInum && in.Subvol == ondisk.RootSubvol
}
