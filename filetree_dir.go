package bcachefs

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"runtime"
)

// DirTree is a directory of this machine with all below it, or a file, as a [FileTree]. Names come in the order of their bytes, whatever order
// the directory has.
type DirTree struct {
	Dir string
	// Skip is asked about each file; an error says why it is left out, and is reported with the file. May be nil.
	Skip func(name string, st fs.FileInfo) error
	// NoLinks takes the names of a file with several for files of their own.
	NoLinks bool
}

// Files implements [FileTree].
func (t DirTree) Files(ctx context.Context) iter.Seq2[*TreeFile, error] {
	return func(yield func(*TreeFile, error) bool) {
		w := dirWalk{DirTree: t, ctx: ctx, yield: yield, links: map[hostInode]string{}}
		w.visit(t.Dir, ".")
	}
}

// hostInode names an inode of this machine.
type hostInode struct{ dev, ino uint64 }

// dirWalk is one walk over a directory.
type dirWalk struct {
	DirTree
	ctx   context.Context
	yield func(*TreeFile, error) bool
	links map[hostInode]string // first names of files with several
}

// visit yields a file and what is below it, and reports whether to go on.
func (w *dirWalk) visit(name, rel string) bool {
	if err := w.ctx.Err(); err != nil {
		w.yield(nil, err)
		return false
	}
	f := &TreeFile{Path: rel}
	st, err := os.Lstat(name)
	if err == nil && w.Skip != nil {
		err = w.Skip(name, st)
	}
	if err == nil {
		err = w.describe(f, name, st)
	}
	if err != nil {
		return w.yield(f, err)
	}
	if !w.yield(f, nil) {
		return false
	}
	if !st.IsDir() {
		return true
	}
	entries, err := os.ReadDir(name) // in order
	if err != nil && !w.yield(f, err) {
		return false
	}
	for _, e := range entries {
		if !w.visit(filepath.Join(name, e.Name()), path.Join(rel, e.Name())) {
			return false
		}
	}
	return true
}

// describe fills in what a file is.
func (w *dirWalk) describe(f *TreeFile, name string, st fs.FileInfo) error {
	typ := posixType(st.Mode())
	if typ == 0 {
		return fmt.Errorf("its type %v is unknown", st.Mode().Type())
	}
	f.RawMode, f.Size, f.Mtime = typ|posixMode(st.Mode()), st.Size(), st.ModTime()
	if !st.Mode().IsRegular() {
		f.Size = 0
	}
	id, several := hostStat(f, st)
	if several && !st.IsDir() && !w.NoLinks {
		if first, ok := w.links[id]; ok {
			f.LinkTo = first
			return nil
		}
		w.links[id], f.Linked = f.Path, true
	}
	if st.Mode()&fs.ModeSymlink != 0 {
		var err error
		if f.Target, err = os.Readlink(name); err != nil {
			return err
		}
		if runtime.GOOS == "windows" {
			f.Target = filepath.ToSlash(f.Target)
		}
	}
	if st.Mode().IsRegular() {
		f.Data = func(ctx context.Context, write func([]byte, int64) error) error {
			return hostData(ctx, name, f.Size, write)
		}
	}
	var err error
	f.Xattrs, err = hostXattrs(name)
	return err
}

// hostData reads a file of this machine up to a size, without its holes.
func hostData(ctx context.Context, name string, size int64, write func([]byte, int64) error) error {
	in, err := os.Open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	var buf []byte
	for off := int64(0); off < size; {
		start, end, err := nextHostData(in, off, size)
		if err != nil {
			return err
		}
		if buf == nil && start < end {
			buf = make([]byte, min(loadChunk, size-start))
		}
		for off = start; off < end; {
			if err := ctx.Err(); err != nil {
				return err
			}
			p := buf[:min(int64(len(buf)), end-off)]
			n, err := in.ReadAt(p, off)
			if n < len(p) {
				if err == nil || err == io.EOF {
					err = fmt.Errorf("it became shorter while it was read: %w", io.ErrUnexpectedEOF)
				}
				return err
			}
			if err := write(p, off); err != nil {
				return err
			}
			off += int64(n)
		}
	}
	return nil
}

// loadChunk is how much of a file is read at once, in bytes.
const loadChunk = 4 << 20
