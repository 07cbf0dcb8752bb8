package bcachefs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"time"
)

// LoadOptions say how [View.Load] puts files into a filesystem. The zero value keeps everything that the tree tells.
type LoadOptions struct {
	// At is the name that the root of the tree gets, "" for that of the view. The directory that it is in must be there.
	At string

	NoOwner  bool // files belong to [OpenOptions].UID and GID
	NoMode   bool // permissions without those that a umask of 022 takes away, and without set-id and sticky bits
	NoTimes  bool // files are as new as they are here
	NoXattrs bool // no extended attributes, no ACLs
	UID, GID *uint32
	// Atime is given to all files instead of the time of their last access, if it is not zero.
	Atime time.Time

	// Update replaces only what differs: regular files if their size or time of modification does, with Compare if their content does. What is of
	// another type than in the tree is replaced, too, directories with all that is in them.
	Update  bool
	Compare bool

	// Problem is told of errors that concern one file, and returns the error to end with, or nil to go on; nil: the first one ends it.
	Problem func(path string, err error) error
	// Loaded is told of each file that was made or changed, and of each that is as it was; may be nil.
	Loaded func(f *TreeFile, changed bool)
	// Progress is told of data that was written; may be nil.
	Progress func(bytes int64)

	settle func(ctx context.Context, bytes int) error // called between changes, may be nil
}

// Load puts the files of a tree into the filesystem, in place of files of the same names; directories that are there stay, with what is in them. A file
// that replaces another does so when it is complete. Without [LoadOptions].Update, what is there is not removed where one is a directory and the
// other is none.
//
// Load goes through the files in their order, one after another. An error that ends it leaves what was loaded before, but no part of a file.
func (v *View) Load(ctx context.Context, tree FileTree, opts LoadOptions) error {
	if v.fs.live == nil {
		return ErrNotWritable
	}
	l := loader{view: v, fs: v.fs, opts: opts, dirs: map[string]*loadDir{}}
	for f, err := range tree.Files(ctx) {
		if f == nil {
			return err
		}
		if err == nil {
			err = l.file(ctx, f)
		}
		if err == nil {
			err = l.settle(ctx, 0)
		}
		if err != nil {
			if err = l.problem(f.Path, err); err != nil {
				return err
			}
		}
	}
	return l.finish(ctx)
}

// loader is one call of Load.
type loader struct {
	view *View
	fs   *FS
	opts LoadOptions
	dirs map[string]*loadDir // directories that were met, by path in the view
	made []*loadDir          // those of the tree, in its order
	part int                 // number of temporary names
}

// loadDir is a directory that files are put into.
type loadDir struct {
	id       InodeID
	fresh    bool // it was made here
	inherits bool // it has an ACL that new files inherit
	tree     *TreeFile
}

// problem decides what becomes of an error about a file.
func (l *loader) problem(name string, err error) error {
	wrapped := pathError("load", name, err)
	if l.opts.Problem == nil || l.fatal(err) {
		return wrapped
	}
	return l.opts.Problem(name, err)
}

// fatal reports whether an error concerns everything, not one file.
func (l *loader) fatal(err error) bool {
	switch ErrnoOf(err) {
	case ENOSPC, EDQUOT:
		return true
	}
	return errors.Is(err, ErrTar) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || l.fs.Writable() != nil
}

// settle is called between changes, with the number of bytes that were written.
func (l *loader) settle(ctx context.Context, bytes int) error {
	if l.opts.settle == nil {
		return nil
	}
	return l.opts.settle(ctx, bytes)
}

func (l *loader) loaded(f *TreeFile, changed bool) {
	if l.opts.Loaded != nil {
		l.opts.Loaded(f, changed)
	}
}

// file puts a file in its place.
func (l *loader) file(ctx context.Context, f *TreeFile) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	name := path.Join(l.opts.At, f.Path)
	if f.IsDir() {
		return l.directory(ctx, f, name)
	}
	if name == "." {
		return fmt.Errorf("the root: %w", ErrIsDir)
	}
	dir, err := l.parent(ctx, name)
	if err != nil {
		return err
	}
	base := path.Base(name)
	if !dir.fresh || l.opts.Update {
		old, err := l.fs.LookupStat(ctx, dir.id, base, 0)
		if err == nil {
			return l.replace(ctx, f, dir, base, old)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	err = l.make(ctx, f, dir, base)
	if errors.Is(err, ErrExist) { // an archive that has the name twice
		old, err2 := l.fs.LookupStat(ctx, dir.id, base, 0)
		if err2 != nil {
			return err2
		}
		return l.replace(ctx, f, dir, base, old)
	}
	if err == nil {
		l.loaded(f, true)
	}
	return err
}

// parent returns the directory that a name is in. What archives do not mention is made.
func (l *loader) parent(ctx context.Context, name string) (*loadDir, error) {
	up := path.Dir(name)
	if d := l.dirs[up]; d != nil {
		return d, nil
	}
	id, err := l.view.Resolve(ctx, up, true)
	switch {
	case errors.Is(err, fs.ErrNotExist) && up != ".":
		return l.makeDir(ctx, up, 0o755)
	case err != nil:
		return nil, err
	}
	return l.known(ctx, up, id, false)
}

// known remembers a directory that is there.
func (l *loader) known(ctx context.Context, name string, id InodeID, fresh bool) (*loadDir, error) {
	d := &loadDir{id: id, fresh: fresh}
	if !fresh {
		_, err := l.fs.GetXattr(ctx, id, xattrACLDefault)
		d.inherits = err == nil
	}
	l.dirs[name] = d
	return d, nil
}

// makeDir makes a directory.
func (l *loader) makeDir(ctx context.Context, name string, perm uint16) (*loadDir, error) {
	up, err := l.parent(ctx, name)
	if err != nil {
		return nil, err
	}
	st, err := l.fs.MakeInode(ctx, up.id, path.Base(name), l.newInode(&TreeFile{RawMode: 0x4000 | perm}), 0)
	if err != nil {
		return nil, err
	}
	if err := l.disinherit(ctx, up, st); err != nil {
		return nil, err
	}
	return l.known(ctx, name, st.ID, true)
}

// directory makes a directory, or takes one that is there. It gets its attributes when nothing in it changes any more.
func (l *loader) directory(ctx context.Context, f *TreeFile, name string) error {
	d := l.dirs[name]
	if d == nil {
		var err error
		if d, err = l.enter(ctx, name); err != nil {
			return err
		}
	}
	if d.tree == nil {
		l.made = append(l.made, d)
	}
	kept := *f
	d.tree = &kept
	return nil
}

func (l *loader) enter(ctx context.Context, name string) (*loadDir, error) {
	if name == "." {
		return l.known(ctx, name, l.view.root, false)
	}
	up, err := l.parent(ctx, name)
	if err != nil {
		return nil, err
	}
	if up.fresh {
		d, err := l.makeDir(ctx, name, 0o700)
		if !errors.Is(err, ErrExist) {
			return d, err
		}
	}
	old, err := l.fs.LookupStat(ctx, up.id, path.Base(name), 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return l.makeDir(ctx, name, 0o700)
	case err != nil:
		return nil, err
	case old.Mode.IsDir():
		return l.known(ctx, name, old.ID, false)
	case old.Mode&fs.ModeSymlink != 0 && !l.opts.Update: // as archives of whole systems have been made
		if id, err := l.view.Resolve(ctx, name, true); err == nil {
			if st, err := l.fs.Stat(ctx, id); err == nil && st.Mode.IsDir() {
				return l.known(ctx, name, id, false)
			}
		}
		return nil, ErrNotDir
	case !l.opts.Update:
		return nil, ErrNotDir
	}
	if _, err := l.fs.RemoveName(ctx, up.id, path.Base(name), RemoveFile); err != nil {
		return nil, err
	}
	return l.makeDir(ctx, name, 0o700)
}

// finish gives the directories their attributes, those below first.
func (l *loader) finish(ctx context.Context) error {
	for i := len(l.made) - 1; i >= 0; i-- {
		d := l.made[i]
		changed := d.fresh
		var err error
		if d.fresh {
			err = l.setMeta(ctx, d.id, d.tree, 0)
		} else {
			changed, err = l.adjust(ctx, d.id, d.tree)
		}
		if err == nil {
			err = l.settle(ctx, 0)
		}
		if err != nil {
			if err = l.problem(d.tree.Path, err); err != nil {
				return err
			}
			continue
		}
		l.loaded(d.tree, changed)
	}
	return nil
}
