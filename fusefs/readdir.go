//go:build linux

package fusefs

import (
	"io/fs"
	"math"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/go-bcachefs/bcachefs"
)

// Places in a directory stream, each the place behind an entry: "." and "..", then those of real entries, one more than the
// hash that bcachefs keeps the entry under, so that they are never one of the first two.
const (
	offDot    = 1
	offDotDot = 2
	offMax    = math.MaxInt64 // the kernel's offsets are signed
)

func streamOffset(cookie uint64) uint64 { return min(cookie, offMax-1) + 1 }

func cookieOf(off uint64) uint64 {
	if off <= offDotDot {
		return 0
	}
	return off - 1
}

func (r *raw) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return r.readDir(in, func(e fuse.DirEntry, _ *bcachefs.InodeID) bool { return out.AddDirEntry(e) })
}

func (r *raw) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	from := noSubvol
	if dir, st := r.id(in.NodeId); st.Ok() {
		from = dir.Subvol
	}
	return r.readDir(in, func(e fuse.DirEntry, id *bcachefs.InodeID) bool {
		eo := out.AddDirLookupEntry(e)
		if eo == nil {
			return false
		}
		if id == nil {
			return true // "." and "..": the kernel wants no node for them
		}
		// An inode that cannot be read stays without node: the kernel shows the name and reports the error when it looks.
		if !r.entry(from, *id, eo).Ok() {
			*eo = fuse.EntryOut{}
		}
		return true
	})
}

// readDir gives add the entries behind in.Offset until it has no room for one. The id is nil for "." and "..".
func (r *raw) readDir(in *fuse.ReadIn, add func(fuse.DirEntry, *bcachefs.InodeID) bool) fuse.Status {
	if in.NodeId == nodeSnapshots {
		return r.readSnapshots(in, add)
	}
	id, st := r.id(in.NodeId)
	if !st.Ok() {
		return st
	}
	self := r.ino(id)
	if in.Offset < offDot && !add(fuse.DirEntry{Mode: syscall.S_IFDIR, Name: ".", Ino: self, Off: offDot}, nil) {
		return fuse.OK
	}
	if in.Offset < offDotDot && !add(fuse.DirEntry{Mode: syscall.S_IFDIR, Name: "..", Ino: self, Off: offDotDot}, nil) {
		return fuse.OK
	}
	if in.Offset == offMax {
		return fuse.OK
	}
	any := false
	for e, err := range r.fsys.ReadDir(r.ctx, id, cookieOf(in.Offset)) {
		if err != nil {
			r.partial.Store(in.NodeId, toStatus(err))
			continue
		}
		any = true
		de := fuse.DirEntry{Mode: typeBits(e.Type), Name: e.Name, Ino: r.ino(e.ID), Off: streamOffset(e.Cookie)}
		if !add(de, &e.ID) {
			return fuse.OK
		}
	}
	if any {
		return fuse.OK // more is asked for then: what was left out is reported when nothing comes behind it
	}
	if st, ok := r.partial.LoadAndDelete(in.NodeId); ok {
		return st.(fuse.Status)
	}
	return fuse.OK
}

// typeBits gives the S_IFMT bits of a file type.
func typeBits(t fs.FileMode) uint32 {
	switch t.Type() {
	case fs.ModeDir:
		return syscall.S_IFDIR
	case fs.ModeSymlink:
		return syscall.S_IFLNK
	case fs.ModeNamedPipe:
		return syscall.S_IFIFO
	case fs.ModeSocket:
		return syscall.S_IFSOCK
	case fs.ModeDevice:
		return syscall.S_IFBLK
	case fs.ModeDevice | fs.ModeCharDevice:
		return syscall.S_IFCHR
	}
	return syscall.S_IFREG
}
