//go:build linux

package fusefs

import (
	"math"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/go-bcachefs/bcachefs"
)

// A handle says what a file was opened for. There is no other state to it.
const (
	handleWrites = 1 << iota
	handleDirect // writes, past the kernel's cache
)

// open answers for a file that was opened, or made to be.
//
// Nobody but the kernel changes files, so that what it keeps of one stays good, its times among that. This is why files opened for direct I/O are not marked
// as such (FOPEN_DIRECT_IO), which would have threads write to one in parallel: the kernel did not note then that the file was modified, and would not
// hear of it. What is written asynchronously goes on in parallel all the same.
func (l *live) open(id bcachefs.InodeID, flags uint32, out *fuse.OpenOut) {
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	if flags&syscall.O_ACCMODE != syscall.O_RDONLY {
		out.Fh = handleWrites
		l.writers.add(id)
		if flags&syscall.O_DIRECT != 0 {
			out.Fh |= handleDirect
			l.directs.add(id)
		}
	}
}

func (l *live) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	id, st := l.id(in.NodeId)
	if !st.Ok() {
		return st
	}
	if in.Flags&syscall.O_ACCMODE != syscall.O_RDONLY {
		if st := l.mayWrite(id, in.Flags); !st.Ok() {
			return st
		}
	}
	l.open(id, in.Flags, out)
	return fuse.OK
}

// mayWrite refuses to open for writing what the kernel does not know to be protected: it would find out only when its cache is written back.
func (l *live) mayWrite(id bcachefs.InodeID, flags uint32) fuse.Status {
	if err := l.fsys.Writable(); err != nil {
		return fuse.EROFS
	}
	return toStatus(l.fsys.MayWrite(l.ctx, id, flags&syscall.O_APPEND != 0 && flags&syscall.O_TRUNC == 0))
}

func (l *live) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	st := l.create(&in.InHeader, name, newInode(&in.InHeader, in.Mode&0o7777|syscall.S_IFREG, in.Umask), &out.EntryOut)
	if !st.Ok() {
		return st
	}
	if id, ok := l.inodes.lookup(out.NodeId); ok {
		l.open(id, in.Flags, &out.OpenOut)
	}
	return fuse.OK
}

func (l *live) Tmpfile(_ <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	dir, st := l.dir(in.NodeId)
	if !st.Ok() {
		return st
	}
	s, err := l.fsys.MakeUnnamed(l.ctx, dir, newInode(&in.InHeader, in.Mode&0o7777|syscall.S_IFREG, in.Umask), 1)
	if err != nil {
		return toStatus(err)
	}
	l.found(in.NodeId, dir, s, &out.EntryOut)
	l.open(s.ID, in.Flags, &out.OpenOut)
	return fuse.OK
}

// Flush has nothing to do, and the kernel never asks again: it writes what it has of a file before.
func (l *live) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.ENOSYS }

func (l *live) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	if in.Fh&handleWrites == 0 {
		return
	}
	if id, ok := l.inodes.lookup(in.NodeId); ok {
		l.writers.remove(id)
		if in.Fh&handleDirect != 0 {
			l.directs.remove(id)
		}
	}
}

func (l *live) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	id, st := l.id(in.NodeId)
	if !st.Ok() {
		return nil, st
	}
	if in.Offset > math.MaxInt64 {
		return nil, fuse.EINVAL
	}
	p := buf[:min(len(buf), int(in.Size))]
	direct := in.ReadFlags&fuse.READ_LOCKOWNER != 0 // this tells it from what comes for the page cache
	if !direct {
		l.directs.caches(id)
	}
	n, err := l.fsys.ReadInode(l.ctx, id, p, int64(in.Offset))
	// What comes for the page cache has pages locked that would be waited for.
	if err == nil && n < len(p) && direct && l.writeBackFile(in.NodeId, id) {
		n, err = l.fsys.ReadInode(l.ctx, id, p, int64(in.Offset)) // the kernel knew a larger size
	}
	if err != nil {
		return nil, toStatus(err)
	}
	return fuse.ReadResultData(buf[:n]), fuse.OK
}

func (l *live) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	id, st := l.id(in.NodeId)
	if !st.Ok() {
		return 0, st
	}
	if in.Offset > math.MaxInt64-uint64(len(data)) {
		return 0, fuse.Status(syscall.EFBIG)
	}
	if in.WriteFlags&fuse.WRITE_KILL_SUIDGID != 0 {
		if st := l.dropPrivileges(in.NodeId, id); !st.Ok() {
			return 0, st
		}
	}
	if in.WriteFlags&fuse.WRITE_CACHE != 0 {
		n, err := l.fsys.WriteInode(l.ctx, id, data, int64(in.Offset), bcachefs.WriteKeepTimes)
		return uint32(n), toStatus(err) // no short writes
	}
	flags := bcachefs.WriteKeepTimes
	durable := in.Flags&(syscall.O_SYNC|syscall.O_DSYNC) != 0
	if durable {
		flags |= bcachefs.WriteDurable
	}
	n, err := l.fsys.WriteInode(l.ctx, id, data, int64(in.Offset), flags)
	if n > 0 && in.Fh&handleDirect != 0 && l.directs.cached(id) {
		l.kernel.InodeNotify(in.NodeId, int64(in.Offset), int64(n))
	}
	if short := 0 < n && n < len(data); short {
		if err = nil; durable {
			err = l.fsys.SyncInode(l.ctx, id)
		}
	}
	return uint32(n), toStatus(err)
}

// writeBackFile has the kernel write what it keeps of a file that is open for writing, and reports whether it is. Where only the server knows the
// answer, as where data and holes are, it must know all there is; of some requests the kernel writes before just the range that they are about.
func (l *live) writeBackFile(node uint64, id bcachefs.InodeID) bool {
	if !l.writers.has(id) {
		return false
	}
	l.kernel.InodeNotify(node, 0, -1)
	return true
}

// dropFor is dropPrivileges for requests that do not say whether their caller is privileged: root is. Others keep the set-group-id bit of a file that the
// group may not execute only if they are of that group; that they may be by another than their first one is not looked at.
func (l *live) dropFor(h *fuse.InHeader, node uint64, id bcachefs.InodeID) fuse.Status {
	if h.Uid == 0 {
		return fuse.OK
	}
	if st := l.dropPrivileges(node, id); !st.Ok() {
		return st
	}
	s, err := l.fsys.Stat(l.ctx, id)
	if err != nil || s.RawMode&syscall.S_ISGID == 0 || s.GID == h.Gid {
		return toStatus(err)
	}
	mode := s.RawMode &^ (syscall.S_IFMT | syscall.S_ISGID)
	_, err = l.fsys.SetAttr(l.ctx, id, bcachefs.Attrs{RawMode: &mode, Forced: true})
	l.kernel.InodeNotify(node, -1, 0)
	return toStatus(err)
}

// dropPrivileges clears set-id bits that are lost by a write, of which the kernel has to be told.
func (l *live) dropPrivileges(node uint64, id bcachefs.InodeID) fuse.Status {
	s, err := l.fsys.Stat(l.ctx, id)
	if err != nil {
		return toStatus(err)
	}
	if s.RawMode&(syscall.S_ISUID|syscall.S_ISGID) == 0 {
		return fuse.OK
	}
	dropped, err := l.fsys.DropPrivileges(l.ctx, id)
	if dropped {
		l.kernel.InodeNotify(node, -1, 0)
	}
	return toStatus(err)
}

func (l *live) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	id, st := l.id(in.NodeId)
	if !st.Ok() {
		return st
	}
	return toStatus(l.fsys.SyncInode(l.ctx, id))
}

func (l *live) FsyncDir(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	if in.NodeId == nodeSnapshots {
		return fuse.OK
	}
	return l.Fsync(cancel, in)
}

// allocateModes says what the modes of fallocate(2) mean.
var allocateModes = map[uint32]bcachefs.AllocateMode{
	0:                         bcachefs.AllocateGrow,
	unix.FALLOC_FL_KEEP_SIZE:  bcachefs.AllocateKeepSize,
	unix.FALLOC_FL_ZERO_RANGE: bcachefs.AllocateZero,
	unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE: bcachefs.AllocateZeroKeepSize,
	unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE: bcachefs.AllocatePunch,
	unix.FALLOC_FL_INSERT_RANGE:                          bcachefs.AllocateInsert,
	unix.FALLOC_FL_COLLAPSE_RANGE:                        bcachefs.AllocateCollapse,
}

func (l *live) Fallocate(cancel <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	id, st := l.id(in.NodeId)
	if !st.Ok() {
		return st
	}
	mode, ok := allocateModes[in.Mode]
	if !ok {
		return fuse.ENOTSUP
	}
	if in.Length == 0 || in.Offset > math.MaxInt64 || in.Length > math.MaxInt64-in.Offset {
		return fuse.Status(syscall.EFBIG)
	}
	if st := l.dropFor(&in.InHeader, in.NodeId, id); !st.Ok() {
		return st
	}
	ctx, end := interruptible(l.long, cancel, signalPatience)
	defer end()
	return toStatus(l.fsys.Allocate(ctx, id, mode, int64(in.Offset), int64(in.Length), bcachefs.WriteKeepTimes))
}

func (l *live) CopyFileRange(cancel <-chan struct{}, in *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	from, st := l.id(in.NodeId)
	if !st.Ok() {
		return 0, st
	}
	to, st := l.id(in.NodeIdOut)
	if !st.Ok() {
		return 0, st
	}
	if s, err := l.fsys.Stat(l.ctx, from); err != nil || uint64(s.Size) < in.OffIn+in.Len {
		l.writeBackFile(in.NodeId, from)
	}
	const most = math.MaxUint32 &^ (1<<20 - 1) // the answer has 32 bits
	n := min(in.Len, most)
	if in.OffIn > math.MaxInt64-n || in.OffOut > math.MaxInt64-n {
		return 0, fuse.Status(syscall.EFBIG)
	}
	if st := l.dropFor(&in.InHeader, in.NodeIdOut, to); !st.Ok() {
		return 0, st
	}
	ctx, end := interruptible(l.long, cancel, signalPatience)
	defer end()
	copied, err := l.fsys.CopyRange(ctx, from, int64(in.OffIn), to, int64(in.OffOut), int64(n), bcachefs.WriteKeepTimes)
	if copied > 0 {
		err = nil
	}
	return uint32(copied), toStatus(err)
}

func (l *live) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	id, st := l.id(in.NodeId)
	if !st.Ok() {
		return st
	}
	switch {
	case in.Whence != bcachefs.SeekData && in.Whence != bcachefs.SeekHole:
		return fuse.EINVAL
	case in.Offset > math.MaxInt64: // negative
		return fuse.Status(syscall.ENXIO)
	}
	l.writeBackFile(in.NodeId, id)
	off, err := l.fsys.SeekInode(l.ctx, id, int64(in.Offset), int(in.Whence))
	out.Offset = uint64(off)
	return toStatus(err)
}
