package fstest

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// OpKind says what an [Op] does.
type OpKind uint8

// Kinds of operations. Those that are said to work on a file open the one at Path for it, or take the one in Slot if Path is empty.
const (
	OpOpen         OpKind = iota // Path, Flags (of OpenFlags), Mode, Slot
	OpOpenUnlinked               // Path (of the directory), Mode, Slot
	OpLinkFile                   // Slot, Path
	OpClose                      // Slot
	OpWrite                      // a file, Off, N, Tag
	OpRead                       // a file, Off, N
	OpTruncate                   // a file, N
	OpAllocate                   // a file, Flags (of AllocMode), Off, N
	OpFsync                      // a file or directory
	OpFdatasync                  // a file
	OpClone                      // Slot, Slot2, Off2 (in Slot2), Off, N
	OpCopy                       // as OpClone
	OpFstat                      // Slot
	OpCreate                     // Path, Mode
	OpMkdir                      // Path, Mode
	OpRmdir                      // Path
	OpUnlink                     // Path
	OpLink                       // Path, Path2
	OpSymlink                    // Name (the target), Path
	OpReadlink                   // Path
	OpMknod                      // Path, Mode, Rdev
	OpRename                     // Path, Path2, Flags (of RenameFlags)
	OpStat                       // Path
	OpReadDir                    // Path
	OpChmod                      // Path, Mode
	OpChown                      // Path, UID, GID
	OpSetTimes                   // Path, Time
	OpSetXattr                   // Path, Name, N (bytes), Tag, Flags (of XattrFlags)
	OpGetXattr                   // Path, Name
	OpListXattr                  // Path
	OpRemoveXattr                // Path, Name
	OpSync
	OpSubvolume       // Path
	OpSnapshot        // Path, Path2 (of what), Flags (1: read-only)
	OpDeleteSubvolume // Path
	OpRemount
	OpCrash
)

var opNames = [...]string{"open", "open-unlinked", "link-file", "close", "write", "read", "truncate", "allocate", "fsync", "fdatasync", "clone", "copy",
	"fstat", "create", "mkdir", "rmdir", "unlink", "link", "symlink", "readlink", "mknod", "rename", "stat", "readdir", "chmod", "chown", "set-times",
	"setxattr", "getxattr", "listxattr", "removexattr", "sync", "subvolume", "snapshot", "delete-subvolume", "remount", "crash"}

// slotCount is how many files an execution has open at most.
const slotCount = 6

// Op is one operation on a filesystem. Which fields matter depends on the kind.
type Op struct {
	Kind         OpKind
	Path, Path2  string
	Name         string
	Slot, Slot2  int
	Off, Off2, N int64
	Mode, Flags  uint32
	UID, GID     uint32
	Rdev         uint64
	Time         time.Time
	Tag          uint64 // of what is written
}

// String returns the operation as a line.
func (o Op) String() string {
	s := []string{opNames[o.Kind]}
	add := func(format string, args ...any) { s = append(s, fmt.Sprintf(format, args...)) }
	if o.Kind == OpSync || o.Kind >= OpRemount {
		return s[0]
	}
	if o.Path != "" && o.Kind != OpClone && o.Kind != OpCopy && o.Kind != OpClose && o.Kind != OpFstat {
		add("%s", short(o.Path))
	} else if o.Kind <= OpFstat {
		add("slot %d", o.Slot)
	}
	switch o.Kind {
	case OpOpen:
		add("flags %#x mode %#o slot %d", o.Flags, o.Mode, o.Slot)
	case OpOpenUnlinked, OpLinkFile:
		add("mode %#o slot %d", o.Mode, o.Slot)
	case OpCreate, OpMkdir, OpChmod:
		add("%#o", o.Mode)
	case OpMknod:
		add("%#o %#x", o.Mode, o.Rdev)
	case OpWrite, OpRead:
		add("[%#x, %#x)", o.Off, o.Off+o.N)
	case OpTruncate:
		add("to %#x", o.N)
	case OpAllocate:
		add("mode %d [%#x, %#x)", o.Flags, o.Off, o.Off+o.N)
	case OpClone, OpCopy:
		add("[%#x, %#x) from slot %d at %#x", o.Off, o.Off+o.N, o.Slot2, o.Off2)
	case OpLink, OpSnapshot:
		add("%s", short(o.Path2))
	case OpRename:
		add("%s flags %d", short(o.Path2), o.Flags)
	case OpSymlink:
		add("-> %s", short(o.Name))
	case OpChown:
		add("%d:%d", o.UID, o.GID)
	case OpSetTimes:
		add("%d", o.Time.UnixNano())
	case OpSetXattr:
		add("%s %d bytes flags %d", o.Name, o.N, o.Flags)
	case OpGetXattr, OpRemoveXattr:
		add("%s", o.Name)
	}
	return strings.Join(s, " ")
}

// short makes the long names of tests bearable.
func short(path string) string {
	if len(path) <= 60 {
		return path
	}
	return fmt.Sprintf("%s…(%d)", path[:40], len(path))
}

// session executes operations on a filesystem.
type session struct {
	fs    FS
	slots [slotCount]File
}

func (s *session) closeAll() {
	for i, f := range s.slots {
		if f != nil {
			f.Close()
			s.slots[i] = nil
		}
	}
}

// do executes an operation. What it finds out is returned as text.
func (s *session) do(o *Op) (string, error) {
	switch o.Kind {
	case OpOpen:
		f, err := s.fs.Open(o.Path, OpenFlags(o.Flags), o.Mode)
		return "", s.put(o.Slot, f, err)
	case OpOpenUnlinked:
		f, err := s.fs.OpenUnlinked(o.Path, o.Mode)
		return "", s.put(o.Slot, f, err)
	case OpLinkFile:
		return "", s.fs.LinkFile(s.slots[o.Slot], o.Path)
	case OpClose:
		err := s.slots[o.Slot].Close()
		s.slots[o.Slot] = nil
		return "", err
	case OpFsync:
		if o.Path != "" {
			if st, err := s.fs.Lstat(o.Path); err == nil && st.Mode&ModeType == ModeDir {
				return "", s.fs.SyncDir(o.Path)
			}
		}
		return s.onFile(o)
	case OpWrite, OpRead, OpTruncate, OpAllocate, OpFdatasync, OpClone, OpCopy, OpFstat:
		return s.onFile(o)
	case OpReadlink:
		return s.fs.Readlink(o.Path)
	case OpStat:
		st, err := s.fs.Lstat(o.Path)
		return statText(&st), err
	case OpReadDir:
		list, err := s.fs.ReadDir(o.Path)
		return listText(list), err
	case OpGetXattr:
		v, err := s.fs.GetXattr(o.Path, o.Name)
		return fmt.Sprintf("%x", v), err
	case OpListXattr:
		names, err := s.fs.ListXattr(o.Path)
		return namesText(names), err
	}
	return "", s.change(o)
}

// put keeps an open file.
func (s *session) put(slot int, f File, err error) error {
	if err != nil {
		return err
	}
	s.slots[slot] = f
	return nil
}

// change executes what only changes something.
func (s *session) change(o *Op) error {
	fs := s.fs
	switch o.Kind {
	case OpCreate:
		f, err := fs.Open(o.Path, OpenCreate|OpenExclusive, o.Mode)
		if err != nil {
			return err
		}
		return f.Close()
	case OpMkdir:
		return fs.Mkdir(o.Path, o.Mode)
	case OpRmdir:
		return fs.Rmdir(o.Path)
	case OpUnlink:
		return fs.Unlink(o.Path)
	case OpLink:
		return fs.Link(o.Path, o.Path2)
	case OpSymlink:
		return fs.Symlink(o.Name, o.Path)
	case OpMknod:
		return fs.Mknod(o.Path, o.Mode, o.Rdev)
	case OpRename:
		return fs.Rename(o.Path, o.Path2, RenameFlags(o.Flags))
	case OpChmod:
		return fs.Chmod(o.Path, o.Mode)
	case OpChown:
		return fs.Chown(o.Path, o.UID, o.GID)
	case OpSetTimes:
		return fs.SetTimes(o.Path, o.Time, o.Time)
	case OpSetXattr:
		return fs.SetXattr(o.Path, o.Name, pattern(o.Tag, 0, o.N), XattrFlags(o.Flags))
	case OpRemoveXattr:
		return fs.RemoveXattr(o.Path, o.Name)
	case OpSync:
		return fs.Sync()
	case OpSubvolume:
		return fs.CreateSubvolume(o.Path)
	case OpSnapshot:
		return fs.Snapshot(o.Path, o.Path2, o.Flags != 0)
	case OpDeleteSubvolume:
		return fs.DeleteSubvolume(o.Path)
	}
	panic("fstest: an operation of no known kind: " + o.String())
}

// onFile executes an operation on an open file, or one that is opened for it.
func (s *session) onFile(o *Op) (text string, err error) {
	f := s.slots[o.Slot]
	if o.Path != "" {
		flags := OpenFlags(0)
		if o.Kind == OpRead || o.Kind == OpFsync || o.Kind == OpFdatasync {
			flags = OpenReadOnly
		}
		if f, err = s.fs.Open(o.Path, flags, 0); err != nil {
			return "", err
		}
		defer func() {
			if cerr := f.Close(); err == nil {
				err = cerr
			}
		}()
	}
	switch o.Kind {
	case OpWrite:
		return "", writeFull(f, pattern(o.Tag, o.Off, o.N), o.Off)
	case OpRead:
		p := make([]byte, o.N)
		n, err := readFull(f, p, o.Off)
		return dataText(p[:n]), err
	case OpTruncate:
		return "", f.Truncate(o.N)
	case OpAllocate:
		return "", f.Allocate(AllocMode(o.Flags), o.Off, o.N)
	case OpFsync:
		return "", f.Sync()
	case OpFdatasync:
		return "", f.SyncData()
	case OpClone:
		return "", f.Clone(s.slots[o.Slot2], o.Off2, o.Off, o.N)
	case OpCopy:
		return "", copyAll(f, s.slots[o.Slot2], o.Off2, o.Off, o.N)
	default:
		st, err := f.Stat()
		return statText(&st), err
	}
}

func statText(st *Stat) string {
	if st.Mode&ModeType == ModeDir {
		return fmt.Sprintf("%06o %d:%d", st.Mode, st.UID, st.GID)
	}
	size := st.Size
	if t := st.Mode & ModeType; t != ModeRegular && t != ModeSymlink {
		size = 0
	}
	return fmt.Sprintf("%06o %d:%d links %d device %#x size %#x", st.Mode, st.UID, st.GID, st.Nlink, st.Rdev, size)
}

func listText(list []DirEntry) string {
	var s []string
	for _, e := range list {
		s = append(s, fmt.Sprintf("%s(%o)", e.Name, e.Type>>12))
	}
	return namesText(s)
}

func namesText(names []string) string {
	slices.Sort(names)
	return strings.Join(names, " ")
}

// dataText tells data apart.
func dataText(p []byte) string { return fmt.Sprintf("%d bytes, %016x", len(p), hash(p)) }

// hash is FNV-1a.
func hash(p []byte) uint64 {
	h := uint64(0xcbf29ce484222325)
	for _, b := range p {
		h = (h ^ uint64(b)) * 0x100000001b3
	}
	return h
}
