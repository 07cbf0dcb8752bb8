//go:build linux

package fusefs

import (
	"context"
	"errors"
	"io"
	"math"
	"strings"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/go-bcachefs/bcachefs"
)

// Node ids below those of real inodes.
const (
	nodeRoot      = fuse.FUSE_ROOT_ID
	nodeSnapshots = 2
)

// raw serves a filesystem for reading. What it does not override is answered ENOSYS, or by the kernel since the mount is read-only.
type raw struct {
	fuse.RawFileSystem

	fsys   *bcachefs.FS
	root   bcachefs.InodeID
	snaps  *snapshotsDir // nil if not shown
	inodes *inoTable
	files  *fileCache

	// partial has the status of the last thing that could not be read, by node, of each directory whose stream was begun
	// and left something out.
	partial sync.Map

	ctx    context.Context // ends with the mount
	cancel context.CancelFunc
	long   context.Context // of what takes long: ends as soon as the kernel wants no more
	ending context.CancelFunc
}

func newRaw(fsys *bcachefs.FS, o Options) (*raw, error) {
	v := o.View
	if v == nil {
		v = fsys.Root()
	}
	r := &raw{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		fsys:          fsys,
		root:          v.RootInode(),
		inodes:        newInoTable(fsys.Writable() != bcachefs.ErrNotWritable),
		files:         newFileCache(fsys, maxCachedFiles),
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.long, r.ending = context.WithCancel(r.ctx)
	if o.SnapshotsDir != "" {
		r.snaps = &snapshotsDir{name: o.SnapshotsDir}
	}
	if _, err := fsys.Stat(r.ctx, r.root); err != nil {
		r.cancel()
		return nil, err
	}
	return r, nil
}

func (r *raw) close() {
	r.cancel()
	r.files.close()
}

func (r *raw) String() string { return "gobcachefs" }

// id finds the inode of a node id. A number that the kernel should not have is answered ESTALE.
func (r *raw) id(node uint64) (bcachefs.InodeID, fuse.Status) {
	if node == nodeRoot {
		return r.root, fuse.OK
	}
	if id, ok := r.inodes.lookup(node); ok {
		return id, fuse.OK
	}
	return bcachefs.InodeID{}, fuse.Status(syscall.ESTALE)
}

// ino is the number shown for an inode, without a reference to it.
func (r *raw) ino(id bcachefs.InodeID) uint64 { return r.inodes.ref(id, 0) }

func (r *raw) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if h.NodeId == nodeSnapshots {
		id, st := r.snapshotOf(name)
		if !st.Ok() {
			return st
		}
		return r.entry(noSubvol, id, out)
	}
	if h.NodeId == nodeRoot && r.snaps != nil && name == r.snaps.name {
		return r.snapshotsEntry(out)
	}
	dir, st := r.id(h.NodeId)
	if !st.Ok() {
		return st
	}
	id, err := r.fsys.Lookup(r.ctx, dir, name)
	if err != nil {
		if st := toStatus(err); st != fuse.ENOENT {
			return st
		}
		// A name that is not there is remembered too: node id 0 with a lifetime.
		out.NodeId = 0
		out.SetEntryTimeout(forever)
		return fuse.OK
	}
	return r.entry(dir.Subvol, id, out)
}

// entry fills out for an inode that was found in a directory of the subvolume from, and counts the kernel's new reference to it.
//
// The kernel takes no directory entry for the node that is the root of the mount. Where one subvolume leads to another that is
// the root, as the directory of snapshots does, the root has a node of its own; within a subvolume it is damage, and refused.
func (r *raw) entry(from uint32, id bcachefs.InodeID, out *fuse.EntryOut) fuse.Status {
	s, err := r.fsys.Stat(r.ctx, id)
	if err != nil {
		return toStatus(err)
	}
	if id == r.root && from == id.Subvol {
		out.NodeId = nodeRoot
		out.Attr.Ino = r.inodes.ref(id, 0)
	} else {
		out.NodeId = r.inodes.ref(id, 1)
		out.Attr.Ino = out.NodeId
	}
	out.Generation = uint64(s.Generation)
	out.SetEntryTimeout(forever)
	out.SetAttrTimeout(forever)
	setAttr(&out.Attr, s)
	return fuse.OK
}

func (r *raw) Forget(node, n uint64) {
	r.inodes.forget(node, n)
	r.partial.Delete(node)
}

func (r *raw) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	out.SetTimeout(forever)
	if in.NodeId == nodeSnapshots {
		r.snapshotsAttr(&out.Attr)
		return fuse.OK
	}
	id, st := r.id(in.NodeId)
	if !st.Ok() {
		return st
	}
	s, err := r.fsys.Stat(r.ctx, id)
	if err != nil {
		return toStatus(err)
	}
	out.Attr.Ino = r.ino(id)
	setAttr(&out.Attr, s)
	return fuse.OK
}

func (r *raw) Statx(_ <-chan struct{}, in *fuse.StatxIn, out *fuse.StatxOut) fuse.Status {
	if in.NodeId == nodeSnapshots {
		return fuse.ENOSYS
	}
	id, st := r.id(in.NodeId)
	if !st.Ok() {
		return st
	}
	s, err := r.fsys.Stat(r.ctx, id)
	if err != nil {
		return toStatus(err)
	}
	out.SetTimeout(forever)
	out.Statx.Ino = r.ino(id)
	setStatx(&out.Statx, s)
	return fuse.OK
}

func (r *raw) Readlink(_ <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	id, st := r.id(h.NodeId)
	if !st.Ok() {
		return nil, st
	}
	target, err := r.fsys.Readlink(r.ctx, id)
	if err != nil {
		return nil, toStatus(err)
	}
	return []byte(target), fuse.OK
}

// Open and OpenDir say ENOSYS: there is no state for a handle, and the kernel then never asks again and keeps its page cache.

func (r *raw) Open(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status { return fuse.ENOSYS }

func (r *raw) OpenDir(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status { return fuse.ENOSYS }

func (r *raw) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	id, st := r.id(in.NodeId)
	if !st.Ok() {
		return nil, st
	}
	f, err := r.files.get(r.ctx, id)
	if err != nil {
		return nil, toStatus(err)
	}
	// Only the end of the file may make a read short: the kernel takes a short one for just that. After an error it asks
	// again, page by page, and so finds what can be read.
	n, err := f.ReadAt(buf[:min(len(buf), int(in.Size))], int64(in.Offset))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, toStatus(err)
	}
	return fuse.ReadResultData(buf[:n]), fuse.OK
}

func (r *raw) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	id, st := r.id(in.NodeId)
	if !st.Ok() {
		return st
	}
	if in.Offset > math.MaxInt64 {
		return fuse.EINVAL
	}
	f, err := r.files.get(r.ctx, id)
	if err != nil {
		return toStatus(err)
	}
	if in.Whence != bcachefs.SeekData && in.Whence != bcachefs.SeekHole {
		return fuse.EINVAL
	}
	off, err := f.Seek(int64(in.Offset), int(in.Whence))
	if err != nil {
		return toStatus(err)
	}
	out.Offset = uint64(off)
	return fuse.OK
}

func (r *raw) GetXAttr(_ <-chan struct{}, h *fuse.InHeader, attr string, dest []byte) (uint32, fuse.Status) {
	if h.NodeId == nodeSnapshots {
		return 0, fuse.ENOATTR
	}
	id, st := r.id(h.NodeId)
	if !st.Ok() {
		return 0, st
	}
	val, err := r.fsys.GetXattr(r.ctx, id, attr)
	if err != nil {
		return 0, toStatus(err)
	}
	return fillXattr(dest, val)
}

func (r *raw) ListXAttr(_ <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	if h.NodeId == nodeSnapshots {
		return 0, fuse.OK
	}
	id, st := r.id(h.NodeId)
	if !st.Ok() {
		return 0, st
	}
	names, err := r.fsys.ListXattr(r.ctx, id)
	if err != nil {
		return 0, toStatus(err)
	}
	if len(names) == 0 {
		return 0, fuse.OK
	}
	return fillXattr(dest, []byte(strings.Join(names, "\x00")+"\x00"))
}

// fillXattr answers with val, or with its size where dest has no room: the caller asks for the size with an empty one.
func fillXattr(dest, val []byte) (uint32, fuse.Status) {
	if len(dest) < len(val) {
		return uint32(len(val)), fuse.ERANGE
	}
	return uint32(copy(dest, val)), fuse.OK
}

func (r *raw) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	s, err := r.fsys.StatFS(r.ctx)
	if err != nil {
		return toStatus(err)
	}
	out.Bsize = uint32(s.BlockSize)
	out.Frsize = out.Bsize
	out.Blocks, out.Bfree, out.Bavail = s.Blocks, s.Free, s.Available
	out.Files = s.Files
	out.NameLen = uint32(s.NameMax)
	return fuse.OK
}

// fsIocGetFlags is FS_IOC_GETFLAGS, lsattr's question.
const fsIocGetFlags = 0x80086601

func (r *raw) Ioctl(_ <-chan struct{}, in *fuse.IoctlIn, _ []byte, out *fuse.IoctlOut, outbuf []byte) fuse.Status {
	if in.Cmd != fsIocGetFlags || len(outbuf) < 4 || in.NodeId == nodeSnapshots {
		return fuse.Status(syscall.ENOTTY)
	}
	id, st := r.id(in.NodeId)
	if !st.Ok() {
		return st
	}
	s, err := r.fsys.Stat(r.ctx, id)
	if err != nil {
		return toStatus(err)
	}
	putFlags(outbuf, s)
	return fuse.OK
}
