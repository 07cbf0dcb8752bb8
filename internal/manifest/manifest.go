// Package manifest lists everything in a filesystem as text, one line for each path, so that one diff of two manifests
// tells whether two trees are the same.
//
// The format is "bcachefs-manifest 1": two comment lines, then a line of tab-separated fields for each path, a
// directory before what is in it, the entries of a directory in the byte order of their names:
//
//	path type mode uid gid nlink size mtime rdev data xattrs ino subvol sectors flags atime ctime btime
//
// data is the SHA-256 of a file's content or the target of a symbolic link, xattrs are name=hex pairs in byte order
// without the derived bcachefs_effective.*, "-" stands for none, and "!" with an error number of Linux for what cannot
// be read. The first eleven fields say what the tree is, the others how it is stored.
package manifest

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/go-bcachefs/bcachefs"
	"github.com/go-bcachefs/bcachefs/internal/visit"
)

const header = "# bcachefs-manifest 1\n" +
	"# path\ttype\tmode\tuid\tgid\tnlink\tsize\tmtime\trdev\tdata\txattrs" +
	"\tino\tsubvol\tsectors\tflags\tatime\tctime\tbtime\n"

// pending bounds the lines that are in work or wait for those before them, and so the memory of a run.
const pending = 256

// readSize is up to which size, in bytes, a file is read in one go.
const readSize = 1 << 20

// MaxDepth bounds how deep directories may be nested.
const MaxDepth = 4096

// ReadErrors says that a manifest is complete but for things that could not be read, marked "!" in it.
type ReadErrors struct {
	Count int
	First error // of the first that was met
}

func (e *ReadErrors) Error() string {
	return fmt.Sprintf("%d things could not be read, the first: %v", e.Count, e.First)
}

// Unwrap returns the first error.
func (e *ReadErrors) Unwrap() error { return e.First }

// Options change what [WriteOptions] does. The zero value is what [Write] uses.
type Options struct {
	// Start is the inode to begin at, the root of the view if zero.
	Start bcachefs.InodeID
	// Report is told of each thing that could not be read, in the order of the manifest.
	Report func(what, path string, err error)
	// Progress is told how many files and bytes were read so far, after each line.
	Progress func(lines int, bytes int64)
	// Parallel bounds the files that are read at once; 0 means the number of CPUs.
	Parallel int
}

// Write writes the manifest of all that is in v. What cannot be read is marked in it; if that is all that went wrong,
// the error is a [*ReadErrors].
func Write(ctx context.Context, w io.Writer, v *bcachefs.View) error {
	return WriteOptions(ctx, w, v, Options{})
}

// WriteOptions is [Write] with options.
func WriteOptions(ctx context.Context, w io.Writer, v *bcachefs.View, o Options) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if o.Start == (bcachefs.InodeID{}) {
		o.Start = v.RootInode()
	}
	if o.Parallel <= 0 {
		o.Parallel = runtime.GOMAXPROCS(0)
	}
	l := &lister{fs: v.FS(), queue: make(chan chan line, pending)}
	l.workers.SetLimit(o.Parallel)

	walked := make(chan struct{})
	var walkErr error
	go func() {
		defer close(walked)
		defer close(l.queue)
		l.dirs.Start(o.Start)
		walkErr = l.walk(ctx, nil, bcachefs.DirEntry{ID: o.Start}, "", 0)
		l.workers.Wait()
	}()
	err := l.print(w, o)
	cancel() // after an error of w: the walker still fills the queue
	for range l.queue {
	}
	<-walked
	if err != nil {
		return err
	}
	if walkErr != nil {
		return walkErr
	}
	if l.failed.Count > 0 {
		return &l.failed
	}
	return nil
}

// A line is what is said about one path.
type line struct {
	text   string // "" if there is nothing to print, as of an unreadable directory
	bytes  int64  // of file content that was read
	errors []readError
}

type readError struct {
	what, path string
	err        error
}

// lister produces lines in parallel and prints them in order: the walker queues a channel for each line before a worker
// makes the line.
type lister struct {
	fs      *bcachefs.FS
	queue   chan chan line
	workers errgroup.Group
	dirs    visit.Dirs // of the walking goroutine
	failed  ReadErrors // of the printing goroutine
}

func (l *lister) print(w io.Writer, o Options) error {
	out := bufio.NewWriterSize(w, 1<<16)
	out.WriteString(header)
	lines, bytes := 0, int64(0)
	for c := range l.queue {
		ln := <-c
		if _, err := out.WriteString(ln.text); err != nil {
			return err
		}
		for _, e := range ln.errors {
			if l.failed.Count == 0 {
				l.failed.First = fmt.Errorf("%s %s: %w", e.what, Escape(e.path), e.err)
			}
			l.failed.Count++
			if o.Report != nil {
				o.Report(e.what, e.path, e.err)
			}
		}
		lines++
		bytes += ln.bytes
		if o.Progress != nil {
			o.Progress(lines, bytes)
		}
	}
	return out.Flush()
}

// walk queues the line of an inode and, if it is a directory, of all below it. parent is the directory of e, nil at the start.
func (l *lister) walk(ctx context.Context, parent *bcachefs.InodeID, e bcachefs.DirEntry, path string, depth int) error {
	id := e.ID
	if err := ctx.Err(); err != nil {
		return err
	}
	c := make(chan line, 1)
	l.queue <- c
	st, err := l.fs.Stat(ctx, id)
	if err != nil {
		if cerr := ctx.Err(); cerr != nil {
			err = cerr
		}
		ln := line{}
		ln.text = shown(path) + "\t" + ln.fail("stat", path, err) + "\n"
		c <- ln
		return nil
	}
	l.workers.Go(func() error {
		c <- l.line(ctx, st, path)
		return nil
	})
	if !st.Mode.IsDir() {
		return nil
	}
	if depth >= MaxDepth {
		return l.note("readdir", path, fmt.Errorf("directories are nested deeper than %d", MaxDepth))
	}
	if parent != nil {
		if err := l.dirs.Enter(st, *parent, e.Cookie); err != nil {
			return l.note("readdir", path, err)
		}
	}
	entries, errs := l.entries(ctx, id)
	for _, err := range errs {
		if err := l.note("readdir", path, err); err != nil {
			return err
		}
	}
	for _, e := range entries {
		sub := e.Name
		if path != "" {
			sub = path + "/" + e.Name
		}
		if e.Stray { // a lookup does not find it, so it cannot be read by its name
			if err := l.lost(sub, fs.ErrNotExist); err != nil {
				return err
			}
			continue
		}
		if err := l.walk(ctx, &id, e, sub, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// note queues an error that has no line of its own.
func (l *lister) note(what, path string, err error) error {
	c := make(chan line, 1)
	c <- line{errors: []readError{{what, path, err}}}
	l.queue <- c
	return nil
}

// lost queues the line of a path of which nothing is known.
func (l *lister) lost(path string, err error) error {
	var ln line
	ln.text = shown(path) + "\t" + ln.fail("stat", path, err) + "\n"
	c := make(chan line, 1)
	c <- ln
	l.queue <- c
	return nil
}

// entries returns what is in a directory in the order of names, and what of it could not be read.
func (l *lister) entries(ctx context.Context, dir bcachefs.InodeID) (entries []bcachefs.DirEntry, errs []error) {
	for e, err := range l.fs.ReadDir(ctx, dir, 0) {
		if ctx.Err() != nil {
			return nil, nil
		}
		if err != nil {
			if errs = append(errs, err); len(errs) == 100 {
				break
			}
			continue
		}
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b bcachefs.DirEntry) int { return strings.Compare(a.Name, b.Name) })
	return entries, errs
}

// line describes one inode.
func (l *lister) line(ctx context.Context, st *bcachefs.Stat, path string) line {
	var ln line
	kind, data, rdev := "?", "-", "-"
	switch t := st.Mode.Type(); {
	case t == 0:
		kind, data = "f", l.digest(ctx, &ln, st, path)
	case t == fs.ModeDir:
		kind = "d"
	case t == fs.ModeSymlink:
		kind = "l"
		if target, err := l.fs.Readlink(ctx, st.ID); err != nil {
			data = ln.fail("readlink", path, err)
		} else {
			data = Escape(target)
		}
	case t == fs.ModeNamedPipe:
		kind = "p"
	case t == fs.ModeSocket:
		kind = "s"
	case t == fs.ModeDevice:
		kind, rdev = "b", fmt.Sprintf("%d:%d", st.RdevMajor, st.RdevMinor)
	case t == fs.ModeDevice|fs.ModeCharDevice:
		kind, rdev = "c", fmt.Sprintf("%d:%d", st.RdevMajor, st.RdevMinor)
	}
	subvol := "-"
	if st.ID.Subvol != 0 {
		subvol = strconv.FormatUint(uint64(st.ID.Subvol), 10)
	}
	ln.text = fmt.Sprintf("%s\t%s\t%04o\t%d\t%d\t%d\t%d\t%s\t%s\t%s\t%s\t%d\t%s\t%d\t%s\t%s\t%s\t%s\n",
		shown(path), kind, st.RawMode&0o7777, st.UID, st.GID, st.Nlink, st.Size, stamp(st.Mtime), rdev, data,
		l.xattrs(ctx, &ln, st, path), st.ID.Inum, subvol, st.Sectors, flags(st.Flags),
		stamp(st.Atime), stamp(st.Ctime), stamp(st.Btime))
	return ln
}

// fail notes an error and returns what stands for the value in the line.
func (ln *line) fail(what, path string, err error) string {
	ln.errors = append(ln.errors, readError{what, path, err})
	return fmt.Sprintf("!%d", uint32(bcachefs.ErrnoOf(err)))
}

func (l *lister) digest(ctx context.Context, ln *line, st *bcachefs.Stat, path string) string {
	f, err := l.fs.OpenInode(ctx, st.ID)
	if err != nil {
		return ln.fail("open", path, err)
	}
	defer f.Close()
	h := sha256.New()
	var n int64
	if st.Size > readSize {
		n, err = f.WriteTo(h) // reads ahead
	} else {
		n, err = io.CopyBuffer(h, struct{ io.Reader }{f}, make([]byte, max(st.Size, 1)))
	}
	ln.bytes = n
	if err != nil {
		return ln.fail("read", path, err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func (l *lister) xattrs(ctx context.Context, ln *line, st *bcachefs.Stat, path string) string {
	names, err := l.fs.ListXattr(ctx, st.ID)
	if err != nil {
		return ln.fail("listxattr", path, err)
	}
	var pairs []string
	for _, name := range names {
		if strings.HasPrefix(name, "bcachefs_effective.") {
			continue
		}
		value, err := l.fs.GetXattr(ctx, st.ID, name)
		if err != nil {
			pairs = append(pairs, Escape(name)+"="+ln.fail("getxattr "+name, path, err))
			continue
		}
		pairs = append(pairs, Escape(name)+"="+hex.EncodeToString(value))
	}
	if len(pairs) == 0 {
		return "-"
	}
	slices.Sort(pairs)
	return strings.Join(pairs, ",")
}

func flags(f bcachefs.InodeFlags) string {
	s := ""
	if f.Immutable() {
		s += "i"
	}
	if f.Append() {
		s += "a"
	}
	if f.NoDump() {
		s += "d"
	}
	if s == "" {
		return "-"
	}
	return s
}

// stamp is t in seconds since 1970, rounded down, and nanoseconds.
func stamp(t time.Time) string {
	return fmt.Sprintf("%d.%09d", t.Unix(), t.Nanosecond())
}

func shown(path string) string {
	if path == "" {
		return "."
	}
	return Escape(path)
}

// Escape writes every byte that is not printable ASCII, and space, backslash and comma, as \xHH.
func Escape(s string) string {
	clean := true
	for i := 0; i < len(s); i++ {
		if special(s[i]) {
			clean = false
			break
		}
	}
	if clean {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if special(s[i]) {
			fmt.Fprintf(&b, "\\x%02x", s[i])
		} else {
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

func special(c byte) bool { return c <= ' ' || c > '~' || c == '\\' || c == ',' }
