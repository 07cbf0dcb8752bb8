package fsck

import (
	"context"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// checkDirectoryStructure looks for directories that are in each other. Other ways of not being reachable were found before.
func (c *checker) checkDirectoryStructure(ctx context.Context) error {
	f, err := c.readFiles(ctx)
	if f == nil {
		return err
	}
	x := &loopCheck{f: f, done: map[inodeID]bool{}}
	return f.visitInodes(ctx, posRange{ondisk.PosMin, ondisk.SPosMax}, false, x)
}

// loopCheck follows directories up.
type loopCheck struct {
	f      *files
	done   map[inodeID]bool // directories, as seen from snapshots, from which one comes to an end
	path   []inodeID
	onPath map[inodeID]bool
	vs     versions
}

func (x *loopCheck) flush(context.Context) error { return nil }

func (x *loopCheck) inode(ctx context.Context, _ uint64, vs versions, _ []uint32) error {
	for i := range vs {
		v := &vs[i]
		if v.inode && v.in.IsDir() && v.in.Flags&ondisk.InodeUnlinked == 0 {
			if err := x.up(ctx, v); err != nil {
				return err
			}
		}
	}
	return nil
}

// doneBytes is about what an entry of done takes.
const doneBytes = 64

// up goes from a directory to the root of its subvolume. What it passes need not be looked at again.
func (x *loopCheck) up(ctx context.Context, v *version) error {
	x.path, x.onPath = x.path[:0], map[inodeID]bool{}
	defer func() {
		if int64(len(x.done)+len(x.path))*doneBytes > x.f.c.opts.MemoryBytes/8 {
			clear(x.done)
		}
		for _, id := range x.path {
			x.done[id] = true
		}
	}()
	at := v.at
	dir := v.in
	for dir.Subvol == 0 && hasBackpointer(&dir) {
		id := inodeID{dir.Inum, at}
		switch {
		case x.done[id]:
			return nil
		case x.onPath[id]:
			return x.loop(ctx, id)
		case int64(len(x.path))*doneBytes > x.f.c.opts.MemoryBytes/8:
			return ErrMemory
		}
		x.path = append(x.path, id)
		x.onPath[id] = true
		if x.done[inodeID{dir.Dir, at}] {
			return nil
		}
		var known bool
		var err error
		if x.vs, known, err = x.f.versionsOf(ctx, dir.Dir, x.vs); err != nil {
			return err
		}
		parent := x.vs.inode(x.f, at)
		if !known || parent == nil {
			return nil
		}
		dir = parent.in
	}
	return nil
}

// loop tells of a loop that ends where it began, if all entries on it are there.
func (x *loopCheck) loop(ctx context.Context, first inodeID) error {
	i := len(x.path) - 1
	for x.path[i] != first {
		i--
	}
	var where ondisk.Pos
	for _, id := range x.path[i:] {
		vs, known, err := x.f.versionsOf(ctx, id.inum, x.vs)
		x.vs = vs
		v := vs.inode(x.f, id.snapshot)
		if err != nil || !known || v == nil {
			return err
		}
		if id == first {
			where = v.pos()
		}
		d, found, known, err := x.f.dirent(ctx, ondisk.Pos{Inode: v.in.Dir, Offset: v.in.DirOffset, Snapshot: id.snapshot})
		if err != nil || !known || !found || !leadsTo(&d, &v.in) {
			return err // check_inodes tells
		}
	}
	x.f.c.at(idDirLoop, ondisk.BtreeInodes, 0, where, "remove its entry and put it into lost+found", "directory structure loop of %d directories",
		len(x.path)-i)
	return nil
}
