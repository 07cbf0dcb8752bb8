//go:build linux

package fusefs

import (
	"encoding/binary"
	"fmt"
	"path"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/go-bcachefs/bcachefs"
)

// Making and deleting subvolumes and snapshots, by the driver's ioctls.

// Flags of struct bch_ioctl_subvolume.
const (
	snapshotCreate   = 1 << 0
	snapshotReadOnly = 1 << 1
)

// subvolumeCall is the argument of these ioctls, struct bch_ioctl_subvolume: flags, directory, mode, 6 bytes nothing, path of what is made or
// deleted, path of what a snapshot is taken of.
type subvolumeCall struct {
	caller
	flags    uint32
	dirfd    int32
	mode     uint16
	dst, src uint64 // addresses
}

func subvolumeCallOf(c *ioctl) (*subvolumeCall, error) {
	b := c.arg
	if len(b) < subvolumeArg {
		return nil, syscall.EINVAL
	}
	return &subvolumeCall{caller: callerOf(&c.in.InHeader), flags: binary.LittleEndian.Uint32(b), dirfd: int32(binary.LittleEndian.Uint32(b[4:])),
		mode: binary.LittleEndian.Uint16(b[8:]), dst: binary.LittleEndian.Uint64(b[16:]), src: binary.LittleEndian.Uint64(b[24:])}, nil
}

// place is a name in a directory of the mount.
type place struct {
	fd   int // of the directory, to be looked at
	node uint64
	dir  bcachefs.InodeID
	name string
}

func (p *place) close() { unix.Close(p.fd) }

// find finds the place that a path in the caller's memory means.
func (l *live) find(c *subvolumeCall, addr uint64) (*place, error) {
	name, err := c.readString(addr)
	if err != nil {
		return nil, err
	}
	dir, base := path.Split(strings.TrimRight(name, "/"))
	switch base {
	case "":
		return nil, syscall.ENOENT
	case ".", "..":
		return nil, syscall.EINVAL
	}
	fd, err := c.open(c.dirfd, dir)
	if err != nil {
		return nil, err
	}
	p := &place{fd: fd, name: base}
	if p.node, p.dir, err = l.nodeOf(fd); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// nodeOf returns what a file descriptor is open for, if it is of this mount.
func (l *live) nodeOf(fd int) (node uint64, id bcachefs.InodeID, err error) {
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_INO, &st); err != nil {
		return 0, id, err
	}
	if unix.Mkdev(st.Dev_major, st.Dev_minor) != l.dev.Load() {
		return 0, id, syscall.EXDEV
	}
	if node = st.Ino; node == l.ino(l.root) {
		return nodeRoot, l.root, nil
	}
	id, status := l.dir(node)
	if !status.Ok() {
		return 0, id, syscall.Errno(status)
	}
	return node, id, nil
}

// changed tells the kernel that a name in a directory leads elsewhere than it may remember.
func (l *live) changed(p *place) {
	l.kernel.EntryNotify(p.node, p.name)
	l.kernel.InodeNotify(p.node, 0, 0) // the directory's own times, and what is kept of its listing
	if l.snaps != nil {
		l.kernel.InodeNotify(nodeSnapshots, 0, 0)
	}
}

// createSubvolume makes a subvolume, or a snapshot of one: of that which src is the root of, or else in which dst is.
func (l *live) createSubvolume(c *ioctl) error {
	v, err := subvolumeCallOf(c)
	if err != nil {
		return err
	}
	snapshot := v.flags&snapshotCreate != 0
	if v.flags&^(snapshotCreate|snapshotReadOnly) != 0 || !snapshot && (v.src != 0 || v.flags != 0) {
		return syscall.EINVAL
	}
	p, err := l.find(v, v.dst)
	if err != nil {
		return err
	}
	defer p.close()
	if err := v.mayChange(p.fd); err != nil {
		return err
	}
	if !snapshot {
		mode := v.mode&0o7777 | syscall.S_IFDIR
		_, err = l.fsys.MakeSubvolume(l.ctx, p.dir, p.name, bcachefs.NewInode{RawMode: mode, UID: v.uid, GID: v.gid, Umask: v.umask()}, false)
	} else {
		err = l.takeSnapshot(v, p)
	}
	if err == nil {
		l.changed(p)
	}
	return err
}

func (l *live) takeSnapshot(v *subvolumeCall, p *place) error {
	source := p.dir.Subvol
	if v.src != 0 {
		name, err := v.readString(v.src)
		if err != nil {
			return err
		}
		fd, err := v.open(v.dirfd, name)
		if err != nil {
			return err
		}
		_, id, err := l.nodeOf(fd)
		unix.Close(fd)
		if err != nil {
			return err
		}
		s, err := l.fsys.Stat(l.ctx, id)
		if err != nil {
			return err
		}
		if !s.SubvolRoot {
			return fmt.Errorf("not the root of a subvolume: %w", syscall.EINVAL)
		}
		source = id.Subvol
	}
	if err := l.ownsSubvolume(v.caller, source); err != nil {
		return err
	}
	if err := l.writeBack(); err != nil {
		return err
	}
	_, err := l.fsys.MakeSnapshot(l.ctx, source, p.dir, p.name, v.flags&snapshotReadOnly != 0)
	return err
}

// ownsSubvolume reports whether the caller may take a snapshot of a subvolume: who does not own it could keep files from being deleted that others own.
func (l *live) ownsSubvolume(c caller, subvol uint32) error {
	view, err := l.fsys.SubvolumeByID(subvol)
	if err != nil {
		return err
	}
	s, err := l.fsys.Stat(l.ctx, view.RootInode())
	if err == nil && s.UID != c.uid && !c.isAdmin() {
		err = syscall.EPERM
	}
	return err
}

// destroySubvolume deletes a subvolume with all that is in it.
func (l *live) destroySubvolume(c *ioctl) error {
	v, err := subvolumeCallOf(c)
	if err != nil {
		return err
	}
	if v.flags != 0 {
		return syscall.EINVAL
	}
	p, err := l.find(v, v.dst)
	if err != nil {
		return err
	}
	defer p.close()
	if err := v.mayChange(p.fd); err != nil {
		return err
	}
	victim, err := l.fsys.LookupStat(l.ctx, p.dir, p.name, 0)
	if err != nil {
		return err
	}
	if !victim.SubvolRoot {
		return fmt.Errorf("not a subvolume: %w", syscall.EINVAL)
	}
	if victim.ID == l.root {
		return syscall.EBUSY
	}
	if err := l.ownsSubvolume(v.caller, victim.ID.Subvol); err != nil {
		return err
	}
	if _, err = l.fsys.RemoveName(l.ctx, p.dir, p.name, bcachefs.RemoveSubvolume); err == nil {
		l.changed(p)
	}
	return err
}

// writeBack has the kernel write what it keeps of files, and returns when it has. Other requests are served meanwhile: it must not be called
// with anything locked.
//
// The kernel does not wait for FUSE filesystems when it is asked to write all (syncfs). What it keeps of a file is written, and waited for, when
// the file's pages are invalidated; only what is open for writing can be waiting for that.
func (l *live) writeBack() error {
	fd, err := unix.Open(l.path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Dev == l.dev.Load() { // else something else is mounted there by now
		if err := unix.Syncfs(fd); err != nil {
			return err
		}
	}
	for _, id := range l.writers.all() {
		l.kernel.InodeNotify(l.ino(id), 0, 0)
	}
	return nil
}
