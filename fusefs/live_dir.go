//go:build linux

package fusefs

import (
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/go-bcachefs/bcachefs"
)

// OpenDir says ENOSYS, as in raw, but where the directory of snapshots is shown, whose listing must not be kept.
func (l *live) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if l.snaps == nil {
		return fuse.ENOSYS
	}
	if in.NodeId != nodeSnapshots {
		out.OpenFlags = fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_CACHE_DIR
	}
	return fuse.OK
}

func (l *live) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	if l.down.Load() {
		return fuse.EIO
	}
	return l.readDir(in, func(e fuse.DirEntry, _ *bcachefs.InodeID) bool { return out.AddDirEntry(e) })
}

func (l *live) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	if l.down.Load() {
		return fuse.EIO
	}
	dir := bcachefs.InodeID{Subvol: noSubvol}
	if id, st := l.id(in.NodeId); st.Ok() {
		dir = id
	}
	return l.readDir(in, func(e fuse.DirEntry, id *bcachefs.InodeID) bool {
		eo := out.AddDirLookupEntry(e)
		if eo == nil {
			return false
		}
		if id == nil {
			return true // "." and "..": the kernel wants no node for them
		}
		// What was removed meanwhile, or cannot be read, stays without node: the kernel looks again when somebody wants it.
		if s, st := l.holdAndStat(*id); st.Ok() {
			l.found(in.NodeId, dir, s, eo)
			if in.NodeId == nodeSnapshots {
				eo.SetEntryTimeout(0)
			}
		}
		return true
	})
}
