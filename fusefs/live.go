//go:build linux

package fusefs

import (
	"math"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/go-bcachefs/bcachefs"
)

// live serves a filesystem that is open for writing. What only reads is done as by raw.
//
// Each reference of the kernel to a node is a hold of its inode, which it gives up by FORGET: what is open, or known to the kernel, lives.
type live struct {
	*raw
	kernel *device // nil until it is mounted
	path   string  // where

	folded  folded
	writers writers
	directs directs
	down    atomic.Bool   // nothing is served any more
	dev     atomic.Uint64 // st_dev of the mount, once it is known
}

func newLive(r *raw, path string) *live {
	l := &live{raw: r, path: path}
	l.writers.init()
	l.fsys.Hold(r.root, 1)
	if st, err := l.fsys.Stat(r.ctx, r.root); err == nil {
		if st.Casefold {
			l.folded.changed(nodeRoot, st)
		}
	}
	return l
}

// id finds the inode of a node id.
func (l *live) id(node uint64) (bcachefs.InodeID, fuse.Status) {
	if l.down.Load() {
		return bcachefs.InodeID{}, fuse.EIO
	}
	return l.raw.id(node)
}

// dir finds the inode of a directory in which names change.
func (l *live) dir(node uint64) (bcachefs.InodeID, fuse.Status) {
	if node == nodeSnapshots {
		return bcachefs.InodeID{}, fuse.EPERM
	}
	return l.id(node)
}

func (l *live) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if h.NodeId == nodeSnapshots {
		return l.lookupSnapshot(name, out)
	}
	if h.NodeId == nodeRoot && l.snaps != nil && name == l.snaps.name {
		return l.snapshotsEntry(out)
	}
	dir, st := l.id(h.NodeId)
	if !st.Ok() {
		return st
	}
	if name == "." || name == ".." {
		return l.lookupDot(dir, name, out)
	}
	s, err := l.fsys.LookupStat(l.ctx, dir, name, 1)
	if err != nil {
		if st := toStatus(err); st != fuse.ENOENT {
			return st
		}
		out.NodeId = 0 // remembered as not being there
		if !l.folded.is(h.NodeId) {
			out.SetEntryTimeout(forever)
		}
		return fuse.OK
	}
	l.found(h.NodeId, dir, s, out)
	return fuse.OK
}

// lookupDot finds a directory or file by its number, or the parent of one, for whoever has kept a file handle (NFS, open_by_handle_at).
func (l *live) lookupDot(id bcachefs.InodeID, name string, out *fuse.EntryOut) fuse.Status {
	if name == ".." && id != l.root {
		parent, err := l.fsys.Parent(l.ctx, id)
		if err != nil {
			return toStatus(err)
		}
		id = parent
	}
	s, st := l.holdAndStat(id)
	if !st.Ok() {
		return fuse.Status(syscall.ESTALE)
	}
	l.found(0, id, s, out)
	return fuse.OK
}

// lookupSnapshot finds a subvolume in the directory of all of them. It is looked up each time, as names there change with others.
func (l *live) lookupSnapshot(name string, out *fuse.EntryOut) fuse.Status {
	id, st := l.snapshotOf(name)
	if !st.Ok() {
		return st
	}
	s, st := l.holdAndStat(id)
	if !st.Ok() {
		return st
	}
	l.found(nodeSnapshots, bcachefs.InodeID{Subvol: noSubvol}, s, out)
	out.SetEntryTimeout(0)
	return fuse.OK
}

// holdAndStat holds an inode that is known to have had a name some time ago, if it still has one.
func (l *live) holdAndStat(id bcachefs.InodeID) (*bcachefs.Stat, fuse.Status) {
	l.fsys.Hold(id, 1)
	s, err := l.fsys.Stat(l.ctx, id)
	switch {
	case err != nil:
		l.fsys.Release(id, 1)
		return nil, toStatus(err)
	case s.Nlink == 0:
		l.fsys.Release(id, 1)
		return nil, fuse.ENOENT
	}
	return s, fuse.OK
}

// found fills out for an inode that was found or made in a directory, and held once. See [raw.entry] for the root.
func (l *live) found(parent uint64, dir bcachefs.InodeID, s *bcachefs.Stat, out *fuse.EntryOut) {
	if s.ID == l.root && dir.Subvol == s.ID.Subvol {
		l.fsys.Release(s.ID, 1) // it is held as long as the mount is there
		out.NodeId = nodeRoot
		out.Attr.Ino = l.ino(s.ID)
	} else {
		out.NodeId = l.inodes.ref(s.ID, 1)
		out.Attr.Ino = out.NodeId
		l.folded.found(out.NodeId, s)
	}
	out.Generation = uint64(s.Generation)
	if !l.folded.is(parent) {
		out.SetEntryTimeout(forever)
	}
	out.SetAttrTimeout(forever)
	setAttr(&out.Attr, s)
}

func (l *live) Forget(node, n uint64) {
	l.partial.Delete(node)
	if node == nodeRoot || node == nodeSnapshots {
		return
	}
	id, ok := l.inodes.lookup(node)
	if !ok {
		return
	}
	l.folded.forget(node, n)
	l.inodes.forget(node, n)
	l.fsys.Release(id, n)
}

func (l *live) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	if l.down.Load() {
		return fuse.EIO
	}
	return l.raw.GetAttr(cancel, in, out)
}

func (l *live) Statx(cancel <-chan struct{}, in *fuse.StatxIn, out *fuse.StatxOut) fuse.Status {
	if l.down.Load() {
		return fuse.EIO
	}
	return l.raw.Statx(cancel, in, out)
}

func (l *live) Readlink(cancel <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	if l.down.Load() {
		return nil, fuse.EIO
	}
	return l.raw.Readlink(cancel, h)
}

// timeOf is a time as the protocol has it.
func timeOf(sec uint64, nsec uint32) *time.Time {
	t := time.Unix(int64(sec), int64(nsec))
	return &t
}

// SetAttr changes attributes. The kernel has checked permissions; it leaves to us what set-id bits are lost (HANDLE_KILLPRIV_V2).
func (l *live) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	id, st := l.dir(in.NodeId)
	if !st.Ok() {
		return st
	}
	var a bcachefs.Attrs
	if in.Valid&fuse.FATTR_MODE != 0 {
		mode := uint16(in.Mode & 0o7777)
		a.RawMode = &mode
	}
	if in.Valid&fuse.FATTR_UID != 0 {
		a.UID = &in.Uid
	}
	if in.Valid&fuse.FATTR_GID != 0 {
		a.GID = &in.Gid
	}
	if in.Valid&fuse.FATTR_SIZE != 0 {
		if in.Size > math.MaxInt64 {
			return fuse.Status(syscall.EFBIG)
		}
		size := int64(in.Size)
		a.Size = &size
	}
	if in.Valid&fuse.FATTR_ATIME != 0 {
		if a.AtimeNow = in.Valid&fuse.FATTR_ATIME_NOW != 0; !a.AtimeNow {
			a.Atime = timeOf(in.Atime, in.Atimensec)
		}
	}
	if in.Valid&fuse.FATTR_MTIME != 0 {
		if a.MtimeNow = in.Valid&fuse.FATTR_MTIME_NOW != 0; !a.MtimeNow {
			a.Mtime = timeOf(in.Mtime, in.Mtimensec)
		}
	}
	if in.Valid&fuse.FATTR_CTIME != 0 {
		a.Ctime = timeOf(in.Ctime, in.Ctimensec)
	}
	// This is how the kernel brings the times of files that were written. It cannot be told from utimensat(2) for the last one alone.
	a.Forced = in.Valid&^fuse.FATTR_FH == fuse.FATTR_MTIME|fuse.FATTR_CTIME
	s, err := l.fsys.SetAttr(l.ctx, id, a)
	if err != nil {
		return toStatus(err)
	}
	const setID = syscall.S_ISUID | syscall.S_ISGID
	chown := in.Valid&(fuse.FATTR_UID|fuse.FATTR_GID) != 0 && in.Valid&fuse.FATTR_MODE == 0
	if (chown || in.Valid&fuse.FATTR_KILL_SUIDGID != 0) && s.RawMode&setID != 0 && s.RawMode&syscall.S_IFMT != syscall.S_IFDIR {
		if _, err := l.fsys.DropPrivileges(l.ctx, id); err != nil {
			return toStatus(err)
		}
		if s, err = l.fsys.Stat(l.ctx, id); err != nil {
			return toStatus(err)
		}
	}
	out.SetTimeout(forever)
	out.Attr.Ino = l.ino(id)
	setAttr(&out.Attr, s)
	return fuse.OK
}

func (l *live) GetXAttr(cancel <-chan struct{}, h *fuse.InHeader, attr string, dest []byte) (uint32, fuse.Status) {
	if l.down.Load() {
		return 0, fuse.EIO
	}
	return l.raw.GetXAttr(cancel, h, attr, dest)
}

func (l *live) ListXAttr(cancel <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	if l.down.Load() {
		return 0, fuse.EIO
	}
	return l.raw.ListXAttr(cancel, h, dest)
}

const aclAccess = "system.posix_acl_access"

func (l *live) SetXAttr(_ <-chan struct{}, in *fuse.SetXAttrIn, attr string, data []byte) fuse.Status {
	id, st := l.dir(in.NodeId)
	if !st.Ok() {
		return st
	}
	flags := bcachefs.XattrFlags(0)
	if in.Flags&xattrCreate != 0 {
		flags |= bcachefs.XattrCreate
	}
	if in.Flags&xattrReplace != 0 {
		flags |= bcachefs.XattrReplace
	}
	if attr == aclAccess && in.SetXAttrFlags&fuse.SETXATTR_ACL_KILL_SGID == 0 {
		flags |= bcachefs.XattrKeepSetGID
	}
	if err := l.fsys.SetXattr(l.ctx, id, attr, data, flags); err != nil {
		return toStatus(err)
	}
	l.optionsChanged(in.NodeId, id, attr)
	return fuse.OK
}

// Flags of setxattr(2).
const (
	xattrCreate  = 1
	xattrReplace = 2
)

func (l *live) RemoveXAttr(_ <-chan struct{}, h *fuse.InHeader, attr string) fuse.Status {
	id, st := l.dir(h.NodeId)
	if !st.Ok() {
		return st
	}
	if err := l.fsys.RemoveXattr(l.ctx, id, attr); err != nil {
		return toStatus(err)
	}
	l.optionsChanged(h.NodeId, id, attr)
	return fuse.OK
}

// optionsChanged looks whether names in a directory are found in any case now.
func (l *live) optionsChanged(node uint64, id bcachefs.InodeID, attr string) {
	if !strings.HasPrefix(attr, "bcachefs.") {
		return
	}
	if s, err := l.fsys.Stat(l.ctx, id); err == nil {
		l.folded.changed(node, s)
	}
}

func (l *live) StatFs(cancel <-chan struct{}, h *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	if l.down.Load() {
		return fuse.EIO
	}
	return l.raw.StatFs(cancel, h, out)
}
