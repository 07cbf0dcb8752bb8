package fsck

import (
	"cmp"
	"context"
	"slices"
	"sync/atomic"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// linkCount is a version of an inode whose names are to be counted.
type linkCount struct {
	inum     uint64
	snapshot uint32
	at       uint32
	inode    bool
	wanted   bool // it is asked for, not only in the way of others
	subvol   uint32
	nlink    uint32 // as the inode has it
	mode     uint16
	count    atomic.Uint32
}

// linkCountBytes is about what one takes.
const linkCountBytes = 64

// countLinks counts the names of the inodes some version of which wanted accepts, and tells done the counts of those versions. If there are more
// than memory allows, it takes several walks over all directories. Entries of types that counted refuses do not count.
func (f *files) countLinks(ctx context.Context, wanted func(v *version, vs versions) bool, counted func(d *ondisk.Dirent) bool,
	done func(all []*linkCount)) error {
	if f.c.lost.any(ondisk.BtreeDirents) {
		f.c.note("directories cannot be read in whole: names were not counted")
		return nil
	}
	for from := uint64(0); ; {
		t := &linkTable{f: f, wanted: wanted, max: int(f.c.opts.MemoryBytes / 8 / linkCountBytes)}
		if err := f.visitInodes(ctx, posRange{ondisk.Pos{Offset: from}, ondisk.SPosMax}, false, t); err != nil && !t.full {
			return err
		}
		if len(t.all) == 0 {
			return nil
		}
		if err := f.eachPosition(ctx, ondisk.BtreeDirents, func() visitPosition { return t.visitor(counted) }); err != nil {
			return err
		}
		done(t.all)
		if !t.full {
			return nil
		}
		from = t.next
	}
}

// linkTable is a part of all inodes whose names are counted, in order.
type linkTable struct {
	f      *files
	wanted func(v *version, vs versions) bool
	max    int
	all    []*linkCount
	full   bool
	next   uint64 // the first inode that is not in it, if it is full
}

func (t *linkTable) flush(context.Context) error { return nil }

func (t *linkTable) inode(_ context.Context, inum uint64, vs versions, _ []uint32) error {
	wanted := false
	for i := range vs {
		wanted = wanted || vs[i].inode && t.wanted(&vs[i], vs)
	}
	if !wanted {
		return nil
	}
	if len(t.all) > t.max {
		t.full, t.next = true, inum
		return ErrMemory // ends the walk
	}
	for i := range vs {
		v := &vs[i]
		t.all = append(t.all, &linkCount{inum: inum, snapshot: v.snapshot, at: v.at, inode: v.inode, wanted: v.inode && t.wanted(v, vs),
			subvol: v.in.Subvol, nlink: v.in.Nlink(), mode: v.in.Mode})
	}
	return nil
}

// of returns all versions of an inode.
func (t *linkTable) of(inum uint64) []*linkCount {
	i, _ := slices.BinarySearchFunc(t.all, inum, func(l *linkCount, inum uint64) int { return cmp.Compare(l.inum, inum) })
	j := i
	for j < len(t.all) && t.all[j].inum == inum {
		j++
	}
	return t.all[i:j]
}

// visitor returns a function that counts entries.
func (t *linkTable) visitor(counted func(d *ondisk.Dirent) bool) visitPosition {
	return func(_ context.Context, k *ondisk.Key, lower []uint32) error {
		if k.Type != ondisk.KeyDirent {
			return nil
		}
		d, err := ondisk.DecodeDirent(*k)
		if err != nil || !counted(&d) {
			return nil
		}
		if d.Type == ondisk.DTSubvol {
			if s, ok := t.f.subvols[d.ChildSubvol]; ok {
				t.countSeen(s.Inode, s.Snapshot)
			}
			return nil
		}
		at := t.f.seenFrom(k.Pos.Snapshot)
		t.countSeen(d.Inum, at)
		for _, l := range t.of(d.Inum) { // in snapshots below
			if l.at != at && l.snapshot < k.Pos.Snapshot && t.f.sees(l.at, k.Pos.Snapshot, lower) {
				l.count.Add(1)
			}
		}
		return nil
	}
}

// countSeen counts one for the version that is seen from a snapshot.
func (t *linkTable) countSeen(inum uint64, at uint32) {
	for _, l := range t.of(inum) {
		if t.f.isAncestor(at, l.snapshot) {
			l.count.Add(1)
			return
		}
	}
}
