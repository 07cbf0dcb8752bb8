package fstest

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Outcome is what an operation must return.
type Outcome struct {
	Text  string
	Errno Errno
	// Or is another number that is as good; 0 if there is none.
	Or Errno
	// Skip says that nobody knows, and that the operation is not to be done.
	Skip bool
}

// Do carries out an operation and says what it must return.
func (m *Model) Do(o *Op) Outcome {
	m.ops++
	text, e := m.do(o)
	out := Outcome{Text: text, Errno: e, Skip: e == errUnpredictable}
	if e != 0 {
		out.Text = ""
	}
	return out
}

// readOnly gives the number for a change in subvolumes of which one may be read-only.
func readOnly(all ...*node) Errno {
	for _, n := range all {
		if n != nil && n.subvol.readOnly {
			return EROFS
		}
	}
	return 0
}

func (m *Model) do(o *Op) (string, Errno) {
	switch o.Kind {
	case OpOpen:
		return "", m.open(o)
	case OpOpenUnlinked:
		return "", m.openUnlinked(o)
	case OpLinkFile:
		return "", m.linkFile(o)
	case OpClose:
		if m.slots[o.Slot].n == nil {
			return "", errUnpredictable
		}
		m.slots[o.Slot] = modelSlot{}
		return "", 0
	case OpWrite, OpRead, OpTruncate, OpAllocate, OpFsync, OpFdatasync, OpFstat:
		return m.onFile(o)
	case OpClone, OpCopy:
		return "", m.copy(o)
	case OpCreate, OpMkdir, OpMknod, OpSymlink, OpSubvolume:
		return "", m.create(o)
	case OpRmdir, OpUnlink:
		return "", m.unlink(o)
	case OpLink:
		return "", m.link(o)
	case OpRename:
		return "", m.rename(o)
	case OpReadlink, OpStat, OpReadDir, OpGetXattr, OpListXattr:
		return m.look(o)
	case OpChmod, OpChown, OpSetTimes, OpSetXattr, OpRemoveXattr:
		return "", m.setAttr(o)
	case OpSnapshot:
		return "", m.snapshot(o)
	case OpDeleteSubvolume:
		return "", m.deleteSubvolume(o)
	}
	return "", 0 // sync, remount, crash: the caller knows
}

func (m *Model) open(o *Op) Errno {
	if m.slots[o.Slot].n != nil {
		return errUnpredictable
	}
	flags := OpenFlags(o.Flags)
	at, e := m.find(o.Path, flags&OpenExclusive == 0)
	switch {
	case e != 0:
		return e
	case at.n == nil && flags&OpenCreate == 0:
		return ENOENT
	case at.n == nil:
		if e := readOnly(at.dir); e != 0 {
			return e
		}
		at.n = m.add(at, ModeRegular|o.Mode&modePerm)
	case flags&OpenExclusive != 0:
		return EEXIST
	case at.n.isDir() && flags&(OpenCreate|OpenReadOnly) == OpenReadOnly:
		return errUnpredictable // directories are not opened here
	case at.n.isDir():
		return EISDIR
	case at.n.mode&ModeType != ModeRegular:
		return errUnpredictable
	case flags&OpenReadOnly == 0 && at.n.subvol.readOnly:
		return EROFS
	case flags&OpenTruncate != 0:
		m.touchData(at.n, len(at.n.data) > 0)
		at.n.setData(nil)
	}
	m.slots[o.Slot] = modelSlot{at.n, flags}
	return 0
}

func (m *Model) openUnlinked(o *Op) Errno {
	dir, e := m.must(o.Path, true)
	switch {
	case m.slots[o.Slot].n != nil:
		return errUnpredictable
	case e != 0:
		return e
	case !dir.isDir():
		return ENOTDIR
	case dir.subvol.readOnly:
		return EROFS
	}
	m.slots[o.Slot] = modelSlot{m.newNode(dir, ModeRegular|o.Mode&modePerm), 0}
	return 0
}

// linkFile gives a file of openUnlinked a name. Any other that has lost its names gets none any more.
func (m *Model) linkFile(o *Op) Errno {
	n := m.slots[o.Slot].n
	if n == nil {
		return errUnpredictable
	}
	at, e := m.free(o.Path)
	switch {
	case e != 0:
		return e
	case n.nlink == 0 && n.lost:
		return ENOENT
	case at.dir.subvol != n.subvol:
		return EXDEV
	case n.subvol.readOnly:
		return EROFS
	}
	at.dir.names[at.name] = n
	n.nlink++
	m.touchNames(at.dir)
	m.touchMeta(n, true)
	return 0
}

// file returns what an operation on a file is about.
func (m *Model) file(o *Op) (modelSlot, Errno) {
	if o.Path == "" {
		s := m.slots[o.Slot]
		if s.n == nil {
			return s, errUnpredictable
		}
		return s, 0
	}
	n, e := m.must(o.Path, true)
	if e != 0 {
		return modelSlot{}, e
	}
	switch n.mode & ModeType {
	case ModeRegular:
	case ModeDir:
		switch o.Kind {
		case OpFdatasync:
			return modelSlot{}, errUnpredictable
		case OpFsync:
		default:
			return modelSlot{}, EISDIR
		}
	default:
		return modelSlot{}, errUnpredictable
	}
	writes := o.Kind == OpWrite || o.Kind == OpTruncate || o.Kind == OpAllocate
	if writes && n.subvol.readOnly {
		return modelSlot{}, EROFS
	}
	return modelSlot{n, 0}, 0
}

func (m *Model) onFile(o *Op) (string, Errno) {
	s, e := m.file(o)
	if e != 0 {
		return "", e
	}
	n := s.n
	if n.subvol.readOnly && (o.Kind == OpWrite || o.Kind == OpTruncate || o.Kind == OpAllocate) && s.flags&OpenReadOnly == 0 {
		return "", EROFS
	}
	switch o.Kind {
	case OpWrite:
		off := o.Off
		switch {
		case s.flags&OpenReadOnly != 0:
			return "", EBADF
		case s.flags&OpenAppend != 0:
			off = int64(len(n.data))
		}
		n.setData(n.withData(pattern(o.Tag, o.Off, o.N), off))
		m.touchData(n, true)
	case OpRead:
		size := int64(len(n.data))
		return dataText(n.data[min(o.Off, size):min(o.Off+o.N, size)]), 0
	case OpTruncate:
		if s.flags&OpenReadOnly != 0 {
			return "", EINVAL
		}
		m.touchData(n, int64(len(n.data)) != o.N)
		n.setData(n.resized(o.N))
	case OpAllocate:
		if s.flags&OpenReadOnly != 0 {
			return "", EBADF
		}
		p, e := n.allocated(AllocMode(o.Flags), o.Off, o.N, m.Block)
		if e != 0 { // which some find out late
			n.mtime.touch(false)
			n.ctime.touch(false)
			return "", e
		}
		m.touchData(n, !bytes.Equal(p, n.data))
		n.setData(p)
	case OpFstat:
		return n.text(), 0
	}
	return "", 0
}

func (m *Model) copy(o *Op) Errno {
	to, from := m.slots[o.Slot], m.slots[o.Slot2]
	switch {
	case to.n == nil || from.n == nil, to.n.subvol != from.n.subvol, to.flags&OpenAppend != 0:
		return errUnpredictable
	case to.flags&OpenReadOnly != 0:
		return EBADF
	case to.n.subvol.readOnly:
		return EROFS
	case o.Off2+o.N > int64(len(from.n.data)), to.n == from.n && o.Off < o.Off2+o.N && o.Off2 < o.Off+o.N:
		return errUnpredictable
	case o.Kind == OpClone && (o.Off%m.Block != 0 || o.Off2%m.Block != 0 || o.N%m.Block != 0):
		return errUnpredictable
	}
	to.n.setData(to.n.withData(from.n.data[o.Off2:o.Off2+o.N], o.Off))
	m.touchData(to.n, true)
	return 0
}

func (m *Model) create(o *Op) Errno {
	at, e := m.free(o.Path)
	if e == 0 {
		e = readOnly(at.dir)
	}
	if e != 0 {
		return e
	}
	switch o.Kind {
	case OpCreate:
		m.add(at, ModeRegular|o.Mode&modePerm)
	case OpMkdir:
		m.add(at, ModeDir|o.Mode&0o1777)
	case OpMknod:
		m.add(at, o.Mode).rdev = o.Rdev
	case OpSymlink:
		m.add(at, ModeSymlink|0o777).target = o.Name
	case OpSubvolume:
		n := m.add(at, ModeDir|0o777)
		n.subvol = &subvol{root: n}
	}
	return 0
}

func (m *Model) unlink(o *Op) Errno {
	at, e := m.find(o.Path, false)
	if e == 0 && at.n == nil {
		e = ENOENT
	}
	if e != 0 {
		return e
	}
	switch dir := at.n.isDir(); {
	case at.dir == nil:
		return errUnpredictable
	case readOnly(at.dir) != 0:
		return EROFS
	case o.Kind == OpUnlink && dir:
		return EISDIR
	case o.Kind == OpRmdir && !dir:
		return ENOTDIR
	case dir && len(at.n.names) > 0:
		return ENOTEMPTY
	}
	m.drop(at)
	at.n.lost = at.n.nlink == 0
	return 0
}

func (m *Model) link(o *Op) Errno {
	n, e := m.must(o.Path, false)
	if e != 0 {
		return e
	}
	at, e := m.free(o.Path2)
	switch {
	case e != 0:
		return e
	case n.isDir():
		return EPERM
	case n.subvol != at.dir.subvol:
		return EXDEV
	case n.subvol.readOnly:
		return EROFS
	}
	at.dir.names[at.name] = n
	n.nlink++
	m.touchNames(at.dir)
	m.touchMeta(n, true)
	return 0
}

// inside reports whether a directory is n or in it.
func (n *node) contains(dir *node) bool {
	for dir != n && dir != dir.parent {
		dir = dir.parent
	}
	return dir == n
}

func (m *Model) rename(o *Op) Errno {
	flags := RenameFlags(o.Flags)
	from, e := m.find(o.Path, false)
	if e != 0 {
		return e
	}
	to, e := m.find(o.Path2, false)
	if e != 0 {
		return e
	}
	switch {
	case from.dir == nil || to.dir == nil:
		return errUnpredictable
	case from.n == nil:
		return ENOENT
	case flags&RenameNoReplace != 0 && to.n != nil:
		return EEXIST
	case flags&RenameExchange != 0 && to.n == nil:
		return ENOENT
	case from.n.isDir() && from.n.contains(to.dir):
		return EINVAL
	case to.n != nil && to.n.isDir() && to.n.contains(from.dir):
		if flags&RenameExchange != 0 {
			return EINVAL
		}
		return ENOTEMPTY
	case from.n == to.n && readOnly(from.dir) != 0: // nothing is changed, or cannot be
		return errUnpredictable
	case from.n == to.n:
		return 0
	}
	if e := m.mayRename(from, to, flags); e != 0 {
		return e
	}
	m.touchNames(from.dir)
	m.touchNames(to.dir)
	m.touchMeta(from.n, false)
	if flags&RenameExchange != 0 {
		m.touchMeta(to.n, false)
		from.dir.names[from.name], to.dir.names[to.name] = to.n, from.n
		from.n.moved(to.dir)
		to.n.moved(from.dir)
		return 0
	}
	if to.n != nil {
		m.drop(to)
		to.n.lost = to.n.nlink == 0
	}
	delete(from.dir.names, from.name)
	to.dir.names[to.name] = from.n
	from.n.moved(to.dir)
	return 0
}

// mayRename says what of the kinds of two inodes is in the way of giving one the other's name.
func (m *Model) mayRename(from, to place, flags RenameFlags) Errno {
	isRoot := func(n *node) bool { return n != nil && n.isDir() && n.subvol.root == n }
	if isRoot(to.n) || isRoot(from.n) && to.n != nil { // nothing takes the place of a subvolume, nor do they take another's
		return errUnpredictable
	}
	replaces := to.n != nil && flags&RenameExchange == 0
	switch {
	case replaces && from.n.isDir() && !to.n.isDir():
		return ENOTDIR
	case replaces && !from.n.isDir() && to.n.isDir():
		return EISDIR
	case readOnly(from.dir, to.dir) != 0:
		return EROFS
	case from.dir.subvol != to.dir.subvol && !isRoot(from.n):
		return EXDEV
	case replaces && len(to.n.names) > 0:
		return ENOTEMPTY
	}
	return 0
}

// moved notes the directory in which a directory is now.
func (n *node) moved(dir *node) {
	if n.isDir() {
		n.parent = dir
	}
}

// text is what Stat tells, as text.
func (n *node) text() string {
	st := Stat{Mode: n.mode, Nlink: uint32(n.nlink), UID: n.uid, GID: n.gid, Rdev: n.rdev, Size: n.size()}
	return statText(&st)
}

func (n *node) size() int64 {
	if n.mode&ModeType == ModeSymlink {
		return int64(len(n.target))
	}
	return int64(len(n.data))
}

// look answers what changes nothing.
func (m *Model) look(o *Op) (string, Errno) {
	n, e := m.must(o.Path, o.Kind == OpReadDir)
	if e != 0 {
		return "", e
	}
	switch o.Kind {
	case OpReadlink:
		if n.mode&ModeType != ModeSymlink {
			return "", EINVAL
		}
		return n.target, 0
	case OpReadDir:
		if !n.isDir() {
			return "", ENOTDIR
		}
		var list []DirEntry
		for name, c := range n.names {
			list = append(list, DirEntry{name, c.mode & ModeType})
		}
		return listText(list), 0
	case OpListXattr:
		return namesText(slices.Collect(maps.Keys(n.xattrs))), 0
	case OpGetXattr:
		v, ok := n.xattrs[o.Name]
		if !ok {
			return "", ENODATA
		}
		return fmt.Sprintf("%x", v), 0
	}
	return n.text(), 0
}

func (m *Model) setAttr(o *Op) Errno {
	n, e := m.must(o.Path, o.Kind == OpChmod)
	if e == 0 {
		e = readOnly(n)
	}
	if e != 0 {
		return e
	}
	switch o.Kind {
	case OpChmod:
		n.mode = n.mode&ModeType | o.Mode&modePerm
	case OpChown:
		n.uid, n.gid = o.UID, o.GID
		if !n.isDir() {
			n.mode &^= modeSetuid
			if n.mode&0o010 != 0 {
				n.mode &^= modeSetgid
			}
		}
	case OpSetTimes:
		n.mtime = exactly(o.Time)
	default:
		if e := n.setXattr(o); e != 0 {
			return e
		}
	}
	m.touchMeta(n, o.Kind != OpChown)
	return 0
}

// setXattr sets or removes an attribute.
func (n *node) setXattr(o *Op) Errno {
	if t := n.mode & ModeType; strings.HasPrefix(o.Name, "user.") && t != ModeRegular && t != ModeDir {
		return EPERM
	}
	_, ok := n.xattrs[o.Name]
	switch flags := XattrFlags(o.Flags); {
	case o.Kind == OpRemoveXattr && !ok:
		return ENODATA
	case o.Kind == OpRemoveXattr:
		delete(n.xattrs, o.Name)
		return 0
	case flags == XattrCreate && ok:
		return EEXIST
	case flags == XattrReplace && !ok:
		return ENODATA
	}
	if n.xattrs == nil {
		n.xattrs = map[string]string{}
	}
	n.xattrs[o.Name] = string(pattern(o.Tag, 0, o.N))
	return 0
}

// snapshot copies a subvolume, without those that are in it.
func (m *Model) snapshot(o *Op) Errno {
	from, e := m.must(o.Path2, true)
	at, e2 := m.free(o.Path)
	switch {
	case e != 0 && e2 != 0: // whichever is looked at first
		return errUnpredictable
	case e != 0:
		return e
	case !from.isDir() || from.subvol.root != from || from == m.root: // the last is only a directory to whoever gave it to us
		return errUnpredictable
	case e2 != 0:
		return e2
	case readOnly(at.dir) != 0:
		return EROFS
	}
	v := &subvol{readOnly: o.Flags != 0}
	from.ctime.touch(false)
	v.root = m.copyTree(from, v, map[*node]*node{})
	v.root.parent = at.dir
	v.root.mtime.touch(false)
	v.root.ctime.touch(false)
	v.root.nlink = 1
	at.dir.names[at.name] = v.root
	m.touchNames(at.dir)
	return 0
}

func (m *Model) copyTree(n *node, v *subvol, done map[*node]*node) *node {
	if c := done[n]; c != nil {
		return c
	}
	c := *n
	m.lastID++
	c.id, c.subvol, c.xattrs = m.lastID, v, maps.Clone(n.xattrs)
	m.changing(&c)
	done[n] = &c
	if n.names == nil {
		return &c
	}
	c.names = map[string]*node{}
	for name, child := range n.names {
		if child.subvol != n.subvol {
			continue
		}
		cc := m.copyTree(child, v, done)
		if cc.isDir() {
			cc.parent = &c
		}
		c.names[name] = cc
	}
	return &c
}

func (m *Model) deleteSubvolume(o *Op) Errno {
	at, e := m.find(o.Path, false)
	if e == 0 && at.n == nil {
		e = ENOENT
	}
	switch {
	case e != 0:
		return e
	case at.dir == nil, !at.n.isDir(), at.n.subvol.root != at.n:
		return errUnpredictable
	case readOnly(at.dir) != 0:
		return EROFS
	}
	for _, s := range m.slots {
		if s.n != nil && s.n.subvol == at.n.subvol {
			return errUnpredictable
		}
	}
	if at.n.nested() {
		return ENOTEMPTY
	}
	m.drop(at)
	return 0
}

// nested reports whether there is another subvolume in a directory.
func (n *node) nested() bool {
	for _, c := range n.names {
		if c.subvol != n.subvol || c.isDir() && c.nested() {
			return true
		}
	}
	return false
}
