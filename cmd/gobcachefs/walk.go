package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-bcachefs/bcachefs"
	"github.com/go-bcachefs/bcachefs/internal/visit"
)

// maxDepth bounds how deep directories may be nested.
const maxDepth = 4096

// errTooDeep is about a directory at maxDepth.
var errTooDeep = fmt.Errorf("directories are nested deeper than %d", maxDepth)

// maxDirErrors bounds how many errors of one directory are reported.
const maxDirErrors = 100

// problems reports errors about files one by one and remembers that there were some.
type problems struct {
	app   *app
	count int
	clear func() // clears what is drawn on the line that is about to be written, may be nil
}

// add reports err unless it is nil.
func (p *problems) add(what, path string, err error) {
	if err == nil || errors.Is(err, context.Canceled) {
		return
	}
	p.count++
	if p.clear != nil {
		p.clear()
	}
	p.app.report(fileFailed(what, path, err))
}

// result is the error that ends the command.
func (p *problems) result() error {
	if p.count > 0 {
		return errPartial
	}
	return nil
}

// fileFailed is the error of doing what to the file at path.
func fileFailed(what, path string, err error) error {
	var re *bcachefs.ReadError
	var loss *lossError
	switch {
	case errors.As(err, &loss):
		return failed(what, path, err)
	case errors.As(err, &re) && slices.Contains([]string{"cat", "cp", "export", "read"}, what):
		return failedTodo(what, path, err, "'gobcachefs cp --salvage' copies what of it can be read")
	case errors.As(err, &re):
		return failedTodo(what, path, err, "the rest of the filesystem is readable")
	case errors.Is(err, fs.ErrNotExist):
		return failedTodo(what, path, err, "'gobcachefs ls' lists what there is")
	}
	return failed(what, path, err)
}

// cleanPath returns p as an absolute path within the view.
func cleanPath(p string) string { return path.Clean("/" + p) }

// readDir returns the entries of a directory in the order of names. Errors go to p; what could be read is returned.
func readDir(ctx context.Context, f *bcachefs.FS, dir bcachefs.InodeID, at string, p *problems) []bcachefs.DirEntry {
	var entries []bcachefs.DirEntry
	errs := 0
	for e, err := range f.ReadDir(ctx, dir, 0) {
		if err != nil {
			p.add("read directory", at, err)
			if errs++; errs == maxDirErrors || ctx.Err() != nil {
				break
			}
			continue
		}
		if badName(e.Name) {
			p.add("read directory", at, fmt.Errorf("it has an entry with the impossible name %q", e.Name))
			continue
		}
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b bcachefs.DirEntry) int { return strings.Compare(a.Name, b.Name) })
	return entries
}

// badName reports whether a directory entry's name cannot be one: a hostile image could lead out of a tree with it.
func badName(name string) bool {
	return name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00")
}

// A node is a file met in a walk.
type node struct {
	path  string // absolute
	name  string // as in its directory; the path as given at the start of the walk
	stat  *bcachefs.Stat
	depth int // 0 at the start of the walk

	cookie uint64 // of its entry, for ls
}

// errSkip makes walk leave out what is in a directory.
var errSkip = errors.New("skip this directory")

// A walker calls fn for an inode and all below it, a directory before what is in it. Errors of reading go to p; an error of
// fn other than errSkip ends the walk.
type walker struct {
	f     *bcachefs.FS
	p     *problems
	fn    func(n *node) error
	after func(n *node) error // called once all in a directory was visited, may be nil

	oneSubvol bool   // leave out what is in other subvolumes than the start
	subvol    uint32 // of the start

	dirs visit.Dirs
}

// visit walks from an inode on. A walker is used for one walk.
func (w *walker) visit(ctx context.Context, id bcachefs.InodeID, at, name string, depth int) error {
	w.dirs.Start(id)
	return w.step(ctx, nil, bcachefs.DirEntry{Name: name, ID: id}, at, depth)
}

// step visits what an entry of a directory leads to; parent is nil at the start.
func (w *walker) step(ctx context.Context, parent *bcachefs.Stat, e bcachefs.DirEntry, at string, depth int) error {
	id, name := e.ID, e.Name
	if err := ctx.Err(); err != nil {
		return err
	}
	st, err := w.f.Stat(ctx, id)
	if err != nil {
		w.p.add("stat", at, err)
		return nil
	}
	if depth == 0 {
		w.subvol = st.ID.Subvol
	} else if w.oneSubvol && st.ID.Subvol != w.subvol {
		return nil
	}
	n := &node{path: at, name: name, stat: st, depth: depth}
	switch err := w.fn(n); {
	case err == errSkip:
		return nil
	case err != nil:
		return err
	}
	if !st.Mode.IsDir() {
		return nil
	}
	if depth == maxDepth {
		w.p.add("read directory", at, errTooDeep)
		return nil
	}
	var entries []bcachefs.DirEntry
	if err := w.enter(st, parent, e.Cookie); err != nil {
		w.p.add("read directory", at, err)
	} else {
		entries = readDir(ctx, w.f, id, at, w.p)
	}
	for _, e := range entries {
		if err := w.step(ctx, st, e, path.Join(at, e.Name), depth+1); err != nil {
			return err
		}
	}
	if w.after != nil {
		return w.after(n)
	}
	return nil
}

func (w *walker) enter(st, parent *bcachefs.Stat, cookie uint64) error {
	if parent == nil {
		return nil
	}
	return w.dirs.Enter(st, parent.ID, cookie)
}

// shownName is how a name is printed: as it is to a file or pipe, without control characters to a terminal.
func (a *app) shownName(s string) string {
	if a.outTTY {
		return visible(s)
	}
	return s
}

// rawName returns the base64 of a name that is not UTF-8 and so cannot be in JSON as it is, else "".
func rawName(s string) string {
	if utf8.ValidString(s) {
		return ""
	}
	return base64.StdEncoding.EncodeToString([]byte(s))
}

// fileKind names the type of a file in one word.
func fileKind(m fs.FileMode) string {
	switch m.Type() {
	case 0:
		return "file"
	case fs.ModeDir:
		return "directory"
	case fs.ModeSymlink:
		return "symlink"
	case fs.ModeNamedPipe:
		return "fifo"
	case fs.ModeSocket:
		return "socket"
	case fs.ModeDevice:
		return "block device"
	case fs.ModeDevice | fs.ModeCharDevice:
		return "character device"
	}
	return "unknown"
}

// typeLetter is the letter of a file's type in find and ls.
func typeLetter(m fs.FileMode) byte {
	switch m.Type() {
	case 0:
		return 'f'
	case fs.ModeDir:
		return 'd'
	case fs.ModeSymlink:
		return 'l'
	case fs.ModeNamedPipe:
		return 'p'
	case fs.ModeSocket:
		return 's'
	case fs.ModeDevice:
		return 'b'
	case fs.ModeDevice | fs.ModeCharDevice:
		return 'c'
	}
	return '?'
}

// modeString prints type and permissions as ls does: -rwsr-xr-t.
func modeString(st *bcachefs.Stat) string {
	b := []byte("----------")
	if c := typeLetter(st.Mode); c != 'f' {
		b[0] = c
	}
	const rwx = "rwxrwxrwx"
	for i := range 9 {
		if st.RawMode&(0o400>>i) != 0 {
			b[1+i] = rwx[i]
		}
	}
	special := func(bit uint16, at int, set, unset byte) {
		switch {
		case st.RawMode&bit == 0:
		case b[at] == 'x':
			b[at] = set
		default:
			b[at] = unset
		}
	}
	special(0o4000, 3, 's', 'S')
	special(0o2000, 6, 's', 'S')
	special(0o1000, 9, 't', 'T')
	return string(b)
}

// fileJSON is what --json tells of a file. Sizes are in bytes.
type fileJSON struct {
	Path       string            `json:"path"`
	RawPath    string            `json:"path_base64,omitempty"` // set if path is not UTF-8
	Type       string            `json:"type"`
	Mode       string            `json:"mode"`
	UID        uint32            `json:"uid"`
	GID        uint32            `json:"gid"`
	Nlink      uint32            `json:"nlink"`
	Size       int64             `json:"size"`
	Allocated  uint64            `json:"allocated"`
	Mtime      string            `json:"mtime"`
	Atime      string            `json:"atime"`
	Ctime      string            `json:"ctime"`
	Btime      string            `json:"btime"`
	Rdev       string            `json:"rdev,omitempty"`
	Target     string            `json:"target,omitempty"`
	RawTarget  string            `json:"target_base64,omitempty"`
	Inode      uint64            `json:"inode"`
	Subvol     uint32            `json:"subvol,omitempty"`
	Snapshot   uint32            `json:"snapshot"`
	SubvolRoot bool              `json:"subvol_root,omitempty"`
	Flags      []string          `json:"flags,omitempty"`
	Options    map[string]string `json:"options,omitempty"`
	Xattrs     map[string]string `json:"xattrs_base64,omitempty"`
	Error      string            `json:"error,omitempty"`
}

func toJSON(ctx context.Context, f *bcachefs.FS, at string, st *bcachefs.Stat) *fileJSON {
	stamp := func(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }
	j := &fileJSON{
		Path: at, RawPath: rawName(at), Type: fileKind(st.Mode), Mode: fmt.Sprintf("%04o", st.RawMode&0o7777),
		UID: st.UID, GID: st.GID, Nlink: st.Nlink, Size: st.Size, Allocated: st.Sectors * 512,
		Mtime: stamp(st.Mtime), Atime: stamp(st.Atime), Ctime: stamp(st.Ctime), Btime: stamp(st.Btime),
		Inode: st.ID.Inum, Subvol: st.ID.Subvol, Snapshot: st.ID.Snapshot, SubvolRoot: st.SubvolRoot,
		Flags: flagNames(st.Flags),
	}
	if st.Mode&fs.ModeDevice != 0 {
		j.Rdev = fmt.Sprintf("%d:%d", st.RdevMajor, st.RdevMinor)
	}
	if st.Mode&fs.ModeSymlink != 0 {
		target, err := f.Readlink(ctx, st.ID)
		if err != nil {
			j.Error = err.Error()
		}
		j.Target, j.RawTarget = target, rawName(target)
	}
	for _, o := range st.Options {
		if j.Options == nil {
			j.Options = map[string]string{}
		}
		j.Options[o.Name] = o.Value
	}
	return j
}

// flagNames names the attributes as chattr's manual does.
func flagNames(f bcachefs.InodeFlags) []string {
	var names []string
	for _, x := range []struct {
		bit  bcachefs.InodeFlags
		name string
	}{
		{bcachefs.FlagSync, "sync"}, {bcachefs.FlagImmutable, "immutable"}, {bcachefs.FlagAppend, "append"},
		{bcachefs.FlagNoDump, "nodump"}, {bcachefs.FlagNoAtime, "noatime"},
	} {
		if f&x.bit != 0 {
			names = append(names, x.name)
		}
	}
	return names
}
