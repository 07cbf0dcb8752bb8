//go:build linux

package fusefs

import (
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/go-bcachefs/bcachefs"
)

// newInode is what the kernel asks to be made. The umask is taken away from the mode where the directory has no default ACL (DONT_MASK).
func newInode(h *fuse.InHeader, mode, umask uint32) bcachefs.NewInode {
	return bcachefs.NewInode{RawMode: uint16(mode), UID: h.Uid, GID: h.Gid, Umask: uint16(umask & 0o777)}
}

// create makes an inode with a name.
func (l *live) create(h *fuse.InHeader, name string, n bcachefs.NewInode, out *fuse.EntryOut) fuse.Status {
	dir, st := l.dir(h.NodeId)
	if !st.Ok() {
		return st
	}
	s, err := l.fsys.MakeInode(l.ctx, dir, name, n, 1)
	if err != nil {
		return toStatus(err)
	}
	l.found(h.NodeId, dir, s, out)
	return fuse.OK
}

func (l *live) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	n := newInode(&in.InHeader, in.Mode, in.Umask)
	switch in.Mode & syscall.S_IFMT {
	case syscall.S_IFCHR, syscall.S_IFBLK:
		n.RdevMajor, n.RdevMinor = splitRdev(in.Rdev)
	}
	return l.create(&in.InHeader, name, n, out)
}

func (l *live) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	return l.create(&in.InHeader, name, newInode(&in.InHeader, in.Mode&0o7777|syscall.S_IFDIR, in.Umask), out)
}

func (l *live) Symlink(_ <-chan struct{}, h *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	dir, st := l.dir(h.NodeId)
	if !st.Ok() {
		return st
	}
	s, err := l.fsys.MakeSymlink(l.ctx, dir, name, target, bcachefs.NewInode{UID: h.Uid, GID: h.Gid}, 1)
	if err != nil {
		return toStatus(err)
	}
	l.found(h.NodeId, dir, s, out)
	return fuse.OK
}

func (l *live) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	dir, st := l.dir(in.NodeId)
	if !st.Ok() {
		return st
	}
	id, st := l.dir(in.Oldnodeid)
	if !st.Ok() {
		return st
	}
	s, err := l.fsys.MakeLink(l.ctx, id, dir, name, 1)
	if err != nil {
		return toStatus(err)
	}
	l.found(in.NodeId, dir, s, out)
	return fuse.OK
}

func (l *live) Unlink(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return l.remove(h, name, bcachefs.RemoveFile)
}

func (l *live) Rmdir(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return l.remove(h, name, bcachefs.RemoveDir)
}

func (l *live) remove(h *fuse.InHeader, name string, what bcachefs.RemoveWhat) fuse.Status {
	dir, st := l.dir(h.NodeId)
	if !st.Ok() {
		return st
	}
	_, err := l.fsys.RemoveName(l.ctx, dir, name, what)
	return toStatus(err)
}

func (l *live) Rename(_ <-chan struct{}, in *fuse.RenameIn, name, newName string) fuse.Status {
	dir, st := l.dir(in.NodeId)
	if !st.Ok() {
		return st
	}
	toDir, st := l.dir(in.Newdir)
	if !st.Ok() {
		return st
	}
	const known = bcachefs.RenameNoReplace | bcachefs.RenameExchange | bcachefs.RenameWhiteout
	flags := bcachefs.RenameFlags(in.Flags)
	if flags&^known != 0 {
		return fuse.EINVAL
	}
	_, err := l.fsys.RenameName(l.ctx, dir, name, toDir, newName, flags, in.Uid, in.Gid)
	return toStatus(err)
}

// splitRdev is the opposite of rdev.
func splitRdev(dev uint32) (major, minor uint32) {
	return dev >> 8 & 0xfff, dev&0xff | dev>>12&0xfff00
}
