//go:build linux

package fusefs

import (
	"cmp"
	"encoding/binary"
	"path"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/go-bcachefs/bcachefs"
)

// Listing subvolumes, by the ioctls that the driver has from version 1.39 on.

// Sizes of what is handed over.
const (
	subvolReaddirArg = 24 // struct bch_ioctl_subvol_readdir: position, size of the buffer, its address, what was used of it, 4 bytes nothing
	subvolToPathArg  = 16 // struct bch_ioctl_subvol_to_path: subvolume, size of the buffer, its address
	subvolDirent     = 32 // struct bch_ioctl_subvol_dirent: length, subvolume, flags, subvolume it is a snapshot of, time in seconds and ns, 4 bytes nothing; the path
)

// Flags of a subvolume, as the disk has them (BCH_SUBVOLUME_*).
const (
	subvolumeRO = 1 << iota
	subvolumeSnap
)

// tellSubvolumes puts what tell makes of the subvolumes, in the order of their ids, into the caller's memory.
func (l *live) tellSubvolumes(c *ioctl, addr uint64, tell func(who caller, all []bcachefs.SubvolumeInfo) ([]byte, error)) error {
	who := callerOf(&c.in.InHeader)
	memory, err := who.memory()
	if err != nil {
		return err
	}
	defer memory.Close()
	all, err := l.fsys.Subvolumes(l.ctx)
	if err != nil {
		return err
	}
	slices.SortFunc(all, func(a, b bcachefs.SubvolumeInfo) int { return cmp.Compare(a.ID, b.ID) })
	p, err := tell(who, all)
	if err != nil || len(p) == 0 {
		return err
	}
	return writeTo(memory, p, addr)
}

// listSubvolumes lists the subvolumes in the one that a directory is in, from a position on. Paths are relative to its root; what the caller could not get
// at by path is left out.
func (l *live) listSubvolumes(c *ioctl) error {
	b := c.arg
	if len(b) < subvolReaddirArg || len(c.out) < subvolReaddirArg || binary.LittleEndian.Uint32(b[20:]) != 0 {
		return syscall.EINVAL
	}
	pos, room := binary.LittleEndian.Uint32(b), int(min(binary.LittleEndian.Uint32(b[4:]), maxIO))
	var list []byte
	err := l.tellSubvolumes(c, binary.LittleEndian.Uint64(b[8:]), func(who caller, all []bcachefs.SubvolumeInfo) ([]byte, error) {
		for i := range all {
			s := &all[i]
			if s.Parent != c.id.Subvol || s.ID < pos || s.Unlinked {
				continue
			}
			if name, ok := pathBelow(all, c.id.Subvol, s.Path); ok && l.reaches(who, all, s.Path) {
				e := subvolumeDirent(s, name)
				switch {
				case len(list)+len(e) <= room:
				case list == nil:
					return nil, syscall.ERANGE
				default:
					return list, nil
				}
				list = append(list, e...)
			}
			pos = s.ID + 1
		}
		return list, nil
	})
	if err != nil {
		return err
	}
	copy(c.out, b)
	binary.LittleEndian.PutUint32(c.out, pos)
	binary.LittleEndian.PutUint32(c.out[16:], uint32(len(list)))
	return nil
}

// pathBelow returns a path as seen from the root of a subvolume.
func pathBelow(all []bcachefs.SubvolumeInfo, subvol uint32, p string) (string, bool) {
	i := slices.IndexFunc(all, func(s bcachefs.SubvolumeInfo) bool { return s.ID == subvol })
	if i < 0 || slices.Contains(strings.Split(p, "/"), "?") { // which stands for what was not found
		return "", false
	}
	if all[i].Path == "" {
		return p, true
	}
	return strings.CutPrefix(p, all[i].Path+"/")
}

// reaches reports whether a caller may get to a path from the root of the filesystem: who is privileged to any, others to what they may search all
// directories for that lie above.
func (l *live) reaches(who caller, all []bcachefs.SubvolumeInfo, p string) bool {
	if who.isAdmin() {
		return true
	}
	below, ok := pathBelow(all, l.root.Subvol, p)
	if !ok {
		return false
	}
	return who.as(func() error {
		fd, err := unix.Open(path.Join(l.path, below), unix.O_PATH|unix.O_CLOEXEC, 0)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}) == nil
}

func subvolumeDirent(s *bcachefs.SubvolumeInfo, name string) []byte {
	const align = 8
	e := make([]byte, (subvolDirent+len(name)+1+align-1)&^(align-1))
	binary.LittleEndian.PutUint32(e, uint32(len(e)))
	binary.LittleEndian.PutUint32(e[4:], s.ID)
	var flags uint32
	if s.ReadOnly {
		flags |= subvolumeRO
	}
	if s.IsSnapshot {
		flags |= subvolumeSnap
	}
	binary.LittleEndian.PutUint32(e[8:], flags)
	binary.LittleEndian.PutUint32(e[12:], s.CreationParent)
	if !s.Created.IsZero() {
		binary.LittleEndian.PutUint64(e[16:], uint64(s.Created.Unix()))
		binary.LittleEndian.PutUint32(e[24:], uint32(s.Created.Nanosecond()))
	}
	copy(e[subvolDirent:], name)
	return e
}

// subvolumePath tells the path of a subvolume from the root of the filesystem.
func (l *live) subvolumePath(c *ioctl) error {
	b := c.arg
	if len(b) < subvolToPathArg {
		return syscall.EINVAL
	}
	id, room := binary.LittleEndian.Uint32(b), int(min(binary.LittleEndian.Uint32(b[4:]), maxIO))
	if room == 0 {
		return syscall.EINVAL
	}
	copy(c.out, b)
	return l.tellSubvolumes(c, binary.LittleEndian.Uint64(b[8:]), func(who caller, all []bcachefs.SubvolumeInfo) ([]byte, error) {
		i := slices.IndexFunc(all, func(s bcachefs.SubvolumeInfo) bool { return s.ID == id && !s.Unlinked })
		if i < 0 || !l.reaches(who, all, all[i].Path) {
			return nil, syscall.ENOENT
		}
		p := append([]byte(all[i].Path), 0)
		if len(p) > room {
			return nil, syscall.ERANGE
		}
		return p, nil
	})
}
