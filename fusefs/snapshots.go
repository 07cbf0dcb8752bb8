//go:build linux

package fusefs

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/go-bcachefs/bcachefs"
)

// snapshotsDir is a directory that is nowhere on disk: it shows the root of each subvolume and snapshot of the filesystem, also
// of those that no path leads to, under "ID-name". The list is read anew each time.
type snapshotsDir struct {
	name string
}

// nameMax is the longest name, in bytes.
const nameMax = 255

// noSubvol is the subvolume of the directory, which is none.
const noSubvol = ^uint32(0)

// subvolumeRoot is the inode of a subvolume's root directory.
func (r *raw) subvolumeRoot(s bcachefs.SubvolumeInfo) bcachefs.InodeID {
	id := bcachefs.InodeID{Subvol: s.ID, Snapshot: s.Snapshot, Inum: s.RootInum}
	if r.inodes.live {
		id.Snapshot = 0
	}
	return id
}

// snapshotName is the name of a subvolume in the directory.
func snapshotName(s bcachefs.SubvolumeInfo) string {
	base := path.Base("/" + s.Path)
	if base == "/" {
		base = "root"
	}
	name := fmt.Sprintf("%d-%s", s.ID, strings.ReplaceAll(base, "/", "_"))
	return name[:min(len(name), nameMax)]
}

func (r *raw) subvolumes(ctx context.Context) ([]bcachefs.SubvolumeInfo, fuse.Status) {
	if r.snaps == nil {
		return nil, fuse.Status(syscall.ESTALE)
	}
	subs, err := r.fsys.Subvolumes(ctx)
	if err != nil {
		return nil, toStatus(err)
	}
	subs = slices.DeleteFunc(subs, func(s bcachefs.SubvolumeInfo) bool { return s.Unlinked }) // about to be deleted
	slices.SortFunc(subs, func(a, b bcachefs.SubvolumeInfo) int { return int(a.ID) - int(b.ID) })
	return subs, fuse.OK
}

func (r *raw) snapshotsEntry(out *fuse.EntryOut) fuse.Status {
	out.NodeId = nodeSnapshots
	out.SetEntryTimeout(forever)
	out.SetAttrTimeout(forever)
	r.snapshotsAttr(&out.Attr)
	return fuse.OK
}

func (r *raw) snapshotsAttr(a *fuse.Attr) {
	a.Ino = nodeSnapshots
	a.Mode = syscall.S_IFDIR | 0o555
	a.Nlink = 2
	a.Blksize = blksize
}

// snapshotOf finds the root of a subvolume by its name in the directory.
func (r *raw) snapshotOf(name string) (bcachefs.InodeID, fuse.Status) {
	subs, st := r.subvolumes(r.ctx)
	if !st.Ok() {
		return bcachefs.InodeID{}, st
	}
	for _, s := range subs {
		if snapshotName(s) == name {
			return r.subvolumeRoot(s), fuse.OK
		}
	}
	return bcachefs.InodeID{}, fuse.ENOENT
}

// readSnapshots lists the directory. An entry's place in the stream is its subvolume's id, behind those of "." and "..".
func (r *raw) readSnapshots(in *fuse.ReadIn, add func(fuse.DirEntry, *bcachefs.InodeID) bool) fuse.Status {
	subs, st := r.subvolumes(r.ctx)
	if !st.Ok() {
		return st
	}
	for i, name := range []string{".", ".."} {
		off := uint64(i + 1)
		if in.Offset < off && !add(fuse.DirEntry{Mode: syscall.S_IFDIR, Name: name, Ino: nodeSnapshots, Off: off}, nil) {
			return fuse.OK
		}
	}
	for _, s := range subs {
		off := offDotDot + uint64(s.ID)
		if off <= in.Offset {
			continue
		}
		root := r.subvolumeRoot(s)
		e := fuse.DirEntry{Mode: syscall.S_IFDIR, Name: snapshotName(s), Ino: r.ino(root), Off: off}
		if !add(e, &root) {
			return fuse.OK
		}
	}
	return fuse.OK
}
