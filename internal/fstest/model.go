package fstest

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"time"
)

// Model is a filesystem as POSIX has it, in memory, used by a superuser without umask. It predicts what operations return. Not safe for concurrent use.
type Model struct {
	root   *node
	slots  [slotCount]modelSlot
	lastID uint64
	ops    int // done so far

	// Block is to what the ranges of clone, insert and collapse have to be aligned.
	Block int64
}

// modelSlot is an open file.
type modelSlot struct {
	n     *node
	flags OpenFlags
}

// node is an inode.
type node struct {
	id       uint64
	mode     uint32
	uid, gid uint32
	rdev     uint64
	nlink    int    // names; of directories: those above
	data     []byte // never changed in place, models share it
	target   string
	xattrs   map[string]string
	names    map[string]*node // of a directory
	parent   *node            // of a directory
	subvol   *subvol
	mtime    stamp
	ctime    stamp
	lost     bool // it had names, and has none any more
	changed  int  // number of the last operation that changed anything of it
	dirty    int  // number of the first operation that changed its data since that was last made durable; 0: none did
}

// subvol is a subvolume.
type subvol struct {
	root     *node
	readOnly bool
}

// stamp is what is known of a time: it is exactly old, or it was set later than since, or one of these.
type stamp struct {
	old, since     time.Time
	mayOld, mayNew bool
}

// clockStep is how far the clock that filesystems take times from may be behind.
const clockStep = 30 * time.Millisecond

// touch says that a time is set now, or may be.
func (s *stamp) touch(surely bool) {
	if surely || !s.mayNew {
		s.since = time.Now().Add(-clockStep)
	}
	s.mayNew = true
	if surely {
		s.mayOld = false
	}
}

func exactly(t time.Time) stamp { return stamp{old: t, mayOld: true} }

// allows reports whether a time can be t.
func (s *stamp) allows(t time.Time) bool {
	return s.mayOld && t.Equal(s.old) || s.mayNew && !t.Before(s.since) && t.Before(time.Now().Add(clockStep))
}

// NewModel returns an empty filesystem whose root directory has a mode.
func NewModel(perm uint32, uid, gid uint32) *Model {
	m := &Model{Block: 4096}
	m.root = &node{mode: ModeDir | perm, uid: uid, gid: gid, names: map[string]*node{}}
	m.root.parent = m.root
	m.root.mtime.touch(true)
	m.root.ctime.touch(true)
	m.root.subvol = &subvol{root: m.root}
	return m
}

// Clone returns a copy.
func (m *Model) Clone() *Model {
	c := *m
	nodes, subvols := map[*node]*node{}, map[*subvol]*subvol{}
	c.root = cloneNode(m.root, nodes, subvols)
	for i, s := range m.slots {
		if s.n != nil {
			c.slots[i].n = cloneNode(s.n, nodes, subvols)
		}
	}
	return &c
}

func cloneNode(n *node, nodes map[*node]*node, subvols map[*subvol]*subvol) *node {
	if n == nil {
		return nil
	}
	if c := nodes[n]; c != nil {
		return c
	}
	c := new(node)
	nodes[n] = c
	*c = *n
	c.xattrs = maps.Clone(n.xattrs)
	v := subvols[n.subvol]
	if v == nil {
		v = &subvol{readOnly: n.subvol.readOnly}
		subvols[n.subvol] = v
		v.root = cloneNode(n.subvol.root, nodes, subvols)
	}
	c.subvol = v
	if n.names != nil {
		c.names = make(map[string]*node, len(n.names))
		for name, child := range n.names {
			c.names[name] = cloneNode(child, nodes, subvols)
		}
	}
	c.parent = cloneNode(n.parent, nodes, subvols)
	return c
}

// afterCrash forgets what a crash ends.
func (m *Model) afterCrash() { m.slots = [slotCount]modelSlot{} }

func (n *node) isDir() bool { return n.mode&ModeType == ModeDir }

// place is where a path leads.
type place struct {
	dir  *node // nil for the root
	name string
	n    *node // nil if there is none of that name
}

// errUnpredictable is the error of operations that are not to be done, since what comes of them is not said anywhere, or out of the model.
const errUnpredictable Errno = 1 << 20

const maxSymlinks = 40

// find follows a path.
func (m *Model) find(path string, follow bool) (place, Errno) {
	links := 0
	return m.walk(m.root, path, follow, &links)
}

func (m *Model) walk(dir *node, path string, follow bool, links *int) (place, Errno) {
	if path == "." {
		return place{n: dir}, 0
	}
	parts := strings.Split(path, "/")
	for i, name := range parts {
		last := i == len(parts)-1
		if !dir.isDir() {
			return place{}, ENOTDIR
		}
		switch name {
		case "..":
			if dir == m.root || last {
				return place{}, errUnpredictable
			}
			dir = dir.parent
			continue
		case ".":
			return place{}, errUnpredictable
		}
		if len(name) > 255 {
			return place{}, ENAMETOOLONG
		}
		at := place{dir, name, dir.names[name]}
		if at.n != nil && at.n.mode&ModeType == ModeSymlink && (!last || follow) {
			if *links++; *links > maxSymlinks {
				return place{}, ELOOP
			}
			to, e := m.walk(dir, at.n.target, true, links)
			if e != 0 {
				return place{}, e
			}
			at = to
		}
		if last {
			return at, 0
		}
		if at.n == nil {
			return place{}, ENOENT
		}
		dir = at.n
	}
	return place{}, ENOENT
}

// must is find for what has to exist.
func (m *Model) must(path string, follow bool) (*node, Errno) {
	at, e := m.find(path, follow)
	if e == 0 && at.n == nil {
		e = ENOENT
	}
	return at.n, e
}

// free is find for what must not exist.
func (m *Model) free(path string) (place, Errno) {
	at, e := m.find(path, false)
	if e == 0 && at.n != nil {
		e = EEXIST
	}
	return at, e
}

// changing notes that an operation changes inodes.
func (m *Model) changing(all ...*node) {
	for _, n := range all {
		n.changed = m.ops
	}
}

// touchNames notes that the names in a directory changed.
func (m *Model) touchNames(dir *node) {
	m.changing(dir)
	dir.mtime.touch(true)
	dir.ctime.touch(true)
}

// touchData notes that the data of a file changed, or surely not but its times may have.
func (m *Model) touchData(n *node, surely bool) {
	m.changing(n)
	if n.dirty == 0 {
		n.dirty = m.ops
	}
	n.mtime.touch(surely)
	n.ctime.touch(surely)
}

// touchMeta notes that anything else of an inode changed.
func (m *Model) touchMeta(n *node, surely bool) {
	m.changing(n)
	n.ctime.touch(surely)
}

// add makes an inode and a name for it.
func (m *Model) add(at place, mode uint32) *node {
	n := m.newNode(at.dir, mode)
	at.dir.names[at.name] = n
	n.nlink = 1
	m.touchNames(at.dir)
	return n
}

// newNode makes an inode that inherits from a directory.
func (m *Model) newNode(dir *node, mode uint32) *node {
	m.lastID++
	n := &node{id: m.lastID, mode: mode, subvol: dir.subvol}
	if dir.mode&modeSetgid != 0 {
		n.gid = dir.gid
		if n.isDir() {
			n.mode |= modeSetgid
		}
	}
	if n.isDir() {
		n.names = map[string]*node{}
		n.parent = dir
	}
	n.mtime.touch(true)
	n.ctime.touch(true)
	m.changing(n)
	return n
}

// drop removes a name.
func (m *Model) drop(at place) {
	delete(at.dir.names, at.name)
	at.n.nlink--
	if at.n.isDir() {
		at.n.nlink = 0
	}
	m.touchNames(at.dir)
	m.touchMeta(at.n, true)
}

// setData gives a file other data.
func (n *node) setData(p []byte) { n.data = p }

// resized returns the data with another size.
func (n *node) resized(size int64) []byte {
	p := make([]byte, size)
	copy(p, n.data)
	return p
}

// withData returns the data with a part replaced.
func (n *node) withData(p []byte, off int64) []byte {
	out := n.resized(max(int64(len(n.data)), off+int64(len(p))))
	copy(out[off:], p)
	return out
}

// allocated returns the data as fallocate makes it.
func (n *node) allocated(mode AllocMode, off, size, block int64) ([]byte, Errno) {
	end, have := off+size, int64(len(n.data))
	p := n.data
	switch mode {
	case AllocExtend, AllocZero:
		p = n.resized(max(have, end))
	case AllocInsert, AllocCollapse:
		switch {
		case off%block != 0 || size%block != 0, mode == AllocInsert && off >= have, mode == AllocCollapse && end >= have:
			return nil, EINVAL
		case mode == AllocInsert:
			return slices.Insert(bytes.Clone(p), int(off), make([]byte, size)...), 0
		}
		return slices.Delete(bytes.Clone(p), int(off), int(end)), 0
	case AllocKeepSize:
		return p, 0
	default:
		p = bytes.Clone(p)
	}
	if mode != AllocExtend {
		clear(p[min(off, int64(len(p))):min(end, int64(len(p)))])
	}
	return p, 0
}
