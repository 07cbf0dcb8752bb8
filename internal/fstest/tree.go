package fstest

import (
	"bytes"
	"fmt"
	"maps"
	"path"
	"slices"
	"time"
)

// Tree is all that can be seen of a filesystem: paths with what is there.
type Tree map[string]*Entry

// Entry is what is at a path.
type Entry struct {
	Mode, Nlink  uint32 // the links of directories are those to them from below, too
	UID, GID     uint32
	Rdev         uint64
	Size         int64
	Data         []byte // of a regular file
	Target       string // of a symbolic link
	Xattrs       map[string]string
	First        string // the first path, in their order, that leads to the same inode
	mtime, ctime stamp
	n            *node // in the tree of a model
}

// Compare says what of two trees need not be the same.
type Compare struct {
	NoTimes    bool
	NoDirLinks bool
	// CtimeSlack is by how much a ctime may turn out to be another than what was seen before: where two have a clock for it.
	CtimeSlack time.Duration
	// Cached says that data that was not made durable was in a cache and may be lost, whatever else is durable.
	Cached bool
	// InPlace says that data is written over in place, without order: after a crash, what a file is found to hold may have been written later than
	// anything else that is found.
	InPlace bool
}

// Observe reads a whole filesystem.
func Observe(fs FS) (Tree, error) {
	t := Tree{}
	inodes := map[[2]uint64]string{}
	var walk func(p string) error
	walk = func(p string) error {
		e, st, err := observe(fs, p)
		if err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
		e.First = p
		if !isDir(e.Mode) {
			id := [2]uint64{st.Dev, st.Ino}
			if first, ok := inodes[id]; ok {
				e.First = first
			}
			inodes[id] = e.First
		}
		t[p] = e
		if !isDir(e.Mode) {
			return nil
		}
		list, err := fs.ReadDir(p)
		if err != nil {
			return fmt.Errorf("listing %s: %w", p, err)
		}
		slices.SortFunc(list, func(a, b DirEntry) int { return bytes.Compare([]byte(a.Name), []byte(b.Name)) })
		for i, d := range list {
			if i > 0 && list[i-1].Name == d.Name {
				return fmt.Errorf("%s: %q is listed twice", p, d.Name)
			}
			name := path.Join(p, d.Name)
			if err := walk(name); err != nil {
				return err
			}
			if t[name].Mode&ModeType != d.Type {
				return fmt.Errorf("%s has type %#o, its entry in the directory says %#o", name, t[name].Mode&ModeType, d.Type)
			}
		}
		return nil
	}
	if err := walk("."); err != nil {
		return nil, err
	}
	return t, nil
}

func isDir(mode uint32) bool { return mode&ModeType == ModeDir }

// observe reads what is at one path.
func observe(fs FS, p string) (*Entry, Stat, error) {
	st, err := fs.Lstat(p)
	if err != nil {
		return nil, st, err
	}
	e := &Entry{Mode: st.Mode, Nlink: st.Nlink, UID: st.UID, GID: st.GID, Rdev: st.Rdev, mtime: exactly(st.Mtime), ctime: exactly(st.Ctime)}
	switch st.Mode & ModeType {
	case ModeRegular:
		e.Size = st.Size
		f, err := fs.Open(p, OpenReadOnly, 0)
		if err != nil {
			return nil, st, err
		}
		e.Data, err = content(f)
		f.Close()
		if err != nil {
			return nil, st, err
		}
		if int64(len(e.Data)) != e.Size {
			return nil, st, fmt.Errorf("the size is %#x, the data are %#x bytes", e.Size, len(e.Data))
		}
	case ModeSymlink:
		e.Size = st.Size
		if e.Target, err = fs.Readlink(p); err != nil {
			return nil, st, err
		}
	}
	names, err := fs.ListXattr(p)
	if err != nil && !lacking(err) {
		return nil, st, err
	}
	for _, name := range names {
		v, err := fs.GetXattr(p, name)
		if err != nil {
			return nil, st, fmt.Errorf("attribute %s: %w", name, err)
		}
		if e.Xattrs == nil {
			e.Xattrs = map[string]string{}
		}
		e.Xattrs[name] = string(v)
	}
	return e, st, nil
}

// Tree returns what must be seen of the filesystem.
func (m *Model) Tree() Tree {
	t := Tree{}
	first := map[*node]string{}
	var walk func(p string, n *node)
	walk = func(p string, n *node) {
		e := &Entry{Mode: n.mode, Nlink: uint32(n.nlink), UID: n.uid, GID: n.gid, Rdev: n.rdev, Size: n.size(), Data: n.data, Target: n.target,
			Xattrs: n.xattrs, mtime: n.mtime, ctime: n.ctime, n: n, First: p}
		if f, ok := first[n]; ok {
			e.First = f
		}
		first[n] = e.First
		t[p] = e
		if !n.isDir() {
			return
		}
		e.Nlink = 2
		for _, name := range slices.Sorted(maps.Keys(n.names)) {
			c := n.names[name]
			walk(path.Join(p, name), c)
			if c.isDir() && c.subvol == n.subvol {
				e.Nlink++
			}
		}
	}
	walk(".", m.root)
	return t
}

// Diff lists in what a tree that was observed differs from that of a model.
func (c Compare) Diff(want, got Tree) (diff []string) {
	for _, p := range slices.Sorted(maps.Keys(want)) {
		if got[p] == nil {
			diff = append(diff, fmt.Sprintf("%s is missing", short(p)))
			continue
		}
		for _, d := range c.entry(want[p], got[p]) {
			diff = append(diff, fmt.Sprintf("%s: %s", short(p), d))
		}
	}
	for _, p := range slices.Sorted(maps.Keys(got)) {
		if want[p] == nil {
			diff = append(diff, fmt.Sprintf("%s should not be there", short(p)))
		}
	}
	return diff
}

// entry lists in what one entry differs.
func (c Compare) entry(want, got *Entry) (diff []string) {
	add := func(what string, want, got any) {
		diff = append(diff, fmt.Sprintf("%s: want %v, got %v", what, want, got))
	}
	if want.Mode != got.Mode {
		add("mode", fmt.Sprintf("%#o", want.Mode), fmt.Sprintf("%#o", got.Mode))
	}
	if want.Nlink != got.Nlink && !(c.NoDirLinks && isDir(want.Mode)) {
		add("links", want.Nlink, got.Nlink)
	}
	if want.UID != got.UID || want.GID != got.GID {
		add("owner", [2]uint32{want.UID, want.GID}, [2]uint32{got.UID, got.GID})
	}
	if want.Rdev != got.Rdev {
		add("device", want.Rdev, got.Rdev)
	}
	if want.Target != got.Target {
		add("target", short(want.Target), short(got.Target))
	}
	if want.First != got.First {
		add("same inode as", want.First, got.First)
	}
	if !maps.Equal(want.Xattrs, got.Xattrs) {
		add("attributes", xattrText(want.Xattrs), xattrText(got.Xattrs))
	}
	lost := c.Cached && want.n != nil && want.n.dirty != 0
	if lost {
		return diff
	}
	if want.Size != got.Size {
		add("size", want.Size, got.Size)
	}
	if at, n := firstDifference(want.Data, got.Data); at >= 0 && want.Size == got.Size {
		diff = append(diff, fmt.Sprintf("%d bytes of data differ, from %#x on: want % x, got % x", n, at, want.Data[at:min(at+16, len(want.Data))],
			got.Data[at:min(at+16, len(got.Data))]))
	}
	if c.NoTimes {
		return diff
	}
	if !want.mtime.allows(got.mtime.old) {
		add("mtime", want.mtime, got.mtime)
	}
	if !want.ctime.allows(got.ctime.old) && !(want.ctime.mayOld && got.ctime.old.Sub(want.ctime.old).Abs() <= c.CtimeSlack) {
		add("ctime", want.ctime, got.ctime)
	}
	return diff
}

// String says what is known of the time.
func (s stamp) String() string {
	const layout = "15:04:05.000000000"
	switch {
	case s.mayOld && s.mayNew:
		return fmt.Sprintf("%s or after %s", s.old.Format(layout), s.since.Format(layout))
	case s.mayNew:
		return "after " + s.since.Format(layout)
	}
	return s.old.Format("2006-01-02 " + layout)
}

func xattrText(x map[string]string) string {
	var s []string
	for name, v := range x {
		s = append(s, fmt.Sprintf("%s=%s", name, dataText([]byte(v))))
	}
	return namesText(s)
}

// adopt notes the times that were found, which must stay as they are until something changes them.
func (t Tree) adopt(got Tree) {
	for p, e := range t {
		if g := got[p]; g != nil && e.n != nil {
			e.n.mtime, e.n.ctime = g.mtime, g.ctime
		}
	}
}

// between lists in what a tree differs from being on the way from one to another, which differ in the data of files: those may be partly what they
// were and partly what they are to be.
func (c Compare) between(from, to, got Tree) []string {
	mixed := Tree{}
	for p, e := range to {
		old, g := from[p], got[p]
		if old == nil || g == nil || bytes.Equal(old.Data, e.Data) && old.Size == e.Size {
			mixed[p] = e
			continue
		}
		m := *e
		if isMix(old.Data, e.Data, g.Data) {
			m.Data, m.Size = g.Data, g.Size
		}
		m.mtime.mayOld, m.mtime.old = m.mtime.mayOld || old.mtime.mayOld, old.mtime.old
		m.ctime.mayOld, m.ctime.old = m.ctime.mayOld || old.ctime.mayOld, old.ctime.old
		mixed[p] = &m
	}
	return c.Diff(mixed, got)
}

// isMix reports whether each byte of data is as in one of two others, or zero where only one of these has something, and the size between theirs.
func isMix(a, b, got []byte) bool {
	if len(got) < min(len(a), len(b)) || len(got) > max(len(a), len(b)) {
		return false
	}
	for i, x := range got {
		if i < len(a) && a[i] == x || i < len(b) && b[i] == x || x == 0 && (i >= len(a) || i >= len(b)) {
			continue
		}
		return false
	}
	return true
}

// placed makes the data in a tree what was found where that was written in place at any time: each byte is as in some version of the file.
func (t Tree) placed(got Tree, versions map[uint64][][]byte) Tree {
	out := Tree{}
	for p, e := range t {
		out[p] = e
		g := got[p]
		if g == nil || g.Size != e.Size || bytes.Equal(g.Data, e.Data) {
			continue
		}
		if isAny(g.Data, versions[e.n.id]) {
			c := *e
			c.Data = g.Data
			out[p] = &c
		}
	}
	return out
}

// isAny reports whether each byte of data is as in one of several versions, or zero where one of them ends before.
func isAny(got []byte, versions [][]byte) bool {
	for i, x := range got {
		if !slices.ContainsFunc(versions, func(v []byte) bool { return i < len(v) && v[i] == x || i >= len(v) && x == 0 }) {
			return false
		}
	}
	return true
}
