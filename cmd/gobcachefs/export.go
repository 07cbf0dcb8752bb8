package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/go-bcachefs/bcachefs"
)

type exportCmd struct {
	*app
	fileFlags
	output    string
	oneSubvol bool
	noXattrs  bool
	prefix    string

	fs       *bcachefs.FS
	tar      *tarWriter
	links    map[bcachefs.InodeID]string // first name of files with several
	problems problems
	bar      *progressBar
}

func newExportCmd(a *app) *cobra.Command {
	e := &exportCmd{app: a, problems: problems{app: a}, links: map[bcachefs.InodeID]string{}}
	c := a.command(&cobra.Command{
		Use:   "export [flags] DEV[:DEV]... [PATH]",
		Short: "Write files as a tar archive",
		Long: "export writes a directory and all below it, or a file, as a tar archive (pax) to standard output or a file, with\n" +
			"owners, times to the nanosecond, hard links, device nodes, extended attributes and ACLs (SCHILY.xattr.) and holes.\n\n" +
			"Each file that cannot be read is reported and the rest is written; the exit code is then 1. Such a file is left\n" +
			"out if it is small; of a larger one, or with --salvage, the parts that are unreadable are zeros.",
		Example: "  gobcachefs export disk.img /home | tar -x --xattrs --xattrs-include='*' -C /mnt",
		Args:    cobra.RangeArgs(1, 2),
	}, e.run)
	f := c.Flags()
	f.StringVarP(&e.output, "output", "f", "-", "write to `FILE`")
	f.StringVar(&e.prefix, "prefix", "", "put all names below `DIR`")
	f.BoolVar(&e.openFlags.salvage, "salvage", false, "get all that can be got: files that are partly unreadable too, with zeros for what is; as -o salvage")
	f.BoolVarP(&e.oneSubvol, "one-file-system", "x", false, "leave out the subvolumes and snapshots below")
	f.BoolVar(&e.noXattrs, "no-xattrs", false, "leave out extended attributes and ACLs")
	e.register(c)
	return c
}

func (e *exportCmd) run(ctx context.Context, args []string) (err error) {
	start := "/"
	if len(args) == 2 {
		start = args[1]
	}
	if e.output == "-" && e.outTTY {
		return usagef("an archive is not written to a terminal: use -f FILE or a pipe")
	}
	return e.with(ctx, e.app, args[0], func(v *bcachefs.View) error {
		e.fs = v.FS()
		id, err := v.Resolve(ctx, start, false)
		if err != nil {
			return fileFailed("export", start, err)
		}
		var w io.Writer = e.out
		where := "standard output"
		if e.output != "-" {
			if st, err := os.Stat(e.output); err == nil && e.isDevice(st) {
				return failedTodo("export", e.output, errIsDevice, "write the archive to another file")
			}
			f, err := os.Create(e.output)
			if err != nil {
				return failed("export", e.output, err)
			}
			defer f.Close()
			b := bufio.NewWriterSize(f, 1<<20)
			w, where = b, e.output
			if err := e.write(ctx, w, id, start); err != nil {
				return e.outputError(where, err)
			}
			if err := errors.Join(b.Flush(), f.Close()); err != nil {
				return failed("export", where, err)
			}
			return e.problems.result()
		}
		if err := e.write(ctx, w, id, start); err != nil {
			return e.outputError(where, err)
		}
		return e.problems.result()
	})
}

func (e *exportCmd) outputError(where string, err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	return failed("export", where, err)
}

// write writes the archive. What cannot be read goes to e.problems; an error is about the output.
func (e *exportCmd) write(ctx context.Context, w io.Writer, id bcachefs.InodeID, start string) error {
	e.tar = &tarWriter{w: w}
	total := int64(0)
	if e.errTTY {
		total = treeBytes(ctx, e.fs, id, e.oneSubvol)
	}
	e.bar = e.progress("export", total)
	defer e.bar.finish()
	e.problems.clear = e.bar.clear
	base := cleanPath(start)
	wk := walker{f: e.fs, p: &e.problems, oneSubvol: e.oneSubvol}
	wk.fn = func(n *node) error {
		name := strings.TrimPrefix(strings.TrimPrefix(n.path, base), "/")
		switch {
		case name == "" && !n.stat.Mode.IsDir():
			name = n.path[strings.LastIndex(n.path, "/")+1:]
		case name == "":
			name = "."
		}
		if e.prefix != "" {
			name = strings.TrimSuffix(e.prefix, "/") + "/" + strings.TrimPrefix(name, ".")
			name = strings.TrimSuffix(name, "/")
		}
		return e.member(ctx, n, name)
	}
	if err := wk.visit(ctx, id, base, base, 0); err != nil {
		return err
	}
	return e.tar.close()
}

func (e *exportCmd) member(ctx context.Context, n *node, name string) error {
	st := n.stat
	h := &tarHeader{
		name: name, mode: st.RawMode & 0o7777, uid: st.UID, gid: st.GID,
		mtime: st.Mtime, atime: st.Atime, ctime: st.Ctime,
	}
	h.xattrs = e.xattrs(ctx, n)
	switch st.Mode.Type() {
	case 0:
	case fs.ModeDir:
		h.typ, h.name = '5', name+"/"
	case fs.ModeSymlink:
		target, err := e.fs.Readlink(ctx, st.ID)
		if err != nil {
			e.problems.add("export", n.path, err)
			return nil
		}
		h.typ, h.link = '2', target
	case fs.ModeNamedPipe:
		h.typ = '6'
	case fs.ModeDevice:
		h.typ, h.major, h.minor = '4', st.RdevMajor, st.RdevMinor
	case fs.ModeDevice | fs.ModeCharDevice:
		h.typ, h.major, h.minor = '3', st.RdevMajor, st.RdevMinor
	case fs.ModeSocket:
		e.bar.clear()
		e.warnf("export: %s: sockets cannot be archived: left out", n.path)
		return nil
	default:
		e.problems.add("export", n.path, fmt.Errorf("its type %v is unknown", st.Mode.Type()))
		return nil
	}
	if !st.Mode.IsDir() && st.Nlink > 1 {
		if first, ok := e.links[st.ID]; ok {
			h.typ, h.link, h.xattrs = '1', first, nil
		}
	}
	written := true
	if h.typ == 0 {
		var err error
		if written, err = e.file(ctx, n, h); err != nil {
			return err
		}
	} else if err := e.tar.header(h); err != nil {
		return err
	}
	if written && h.typ != '1' && !st.Mode.IsDir() && st.Nlink > 1 {
		e.links[st.ID] = name
	}
	e.bar.add(1, 0)
	return nil
}

// file writes a regular file unless it is left out as unreadable.
func (e *exportCmd) file(ctx context.Context, n *node, h *tarHeader) (written bool, err error) {
	h.typ, h.size = '0', n.stat.Size
	f, err := e.fs.OpenInode(ctx, n.stat.ID)
	if err != nil {
		e.problems.add("export", n.path, err)
		return false, nil
	}
	defer f.Close()
	segs, err := dataSegments(f, 0, h.size)
	if err != nil {
		e.problems.add("export", n.path, err)
		if !e.openFlags.salvage {
			return false, nil
		}
		segs = []segment{{0, h.size}}
	}
	if h.isSparse = h.size > 0 && (len(segs) != 1 || segs[0] != segment{0, h.size}); h.isSparse {
		h.sparse = segs
	}
	data := int64(0)
	for _, s := range segs {
		data += s.end - s.start
	}
	r := &contentReader{f: f, salvage: true}
	if data <= chunkSize && !e.openFlags.salvage {
		// Small enough to be read before anything is written of it.
		r.salvage = false
		content := make([]byte, 0, data)
		for _, s := range segs {
			err := r.copy(ctx, s.start, s.end, func(p []byte, _ int64) error {
				content = append(content, p...)
				return nil
			})
			if err != nil {
				e.problems.add("export", n.path, err)
				return false, ctx.Err()
			}
		}
		if err := e.tar.header(h); err != nil {
			return true, err
		}
		e.bar.add(0, data)
		return true, e.tar.content(content)
	}
	if err := e.tar.header(h); err != nil {
		return true, err
	}
	for _, s := range segs {
		err := r.copy(ctx, s.start, s.end, func(p []byte, _ int64) error {
			e.bar.add(0, int64(len(p)))
			return e.tar.content(p)
		})
		if err != nil {
			return true, err
		}
	}
	e.problems.add("export", n.path, r.lost())
	return true, nil
}

func (e *exportCmd) xattrs(ctx context.Context, n *node) map[string]string {
	if e.noXattrs {
		return nil
	}
	attrs, errs := fileXattrs(ctx, e.fs, n.stat.ID)
	for _, err := range errs {
		e.problems.add("export", n.path, err)
	}
	return attrs
}

// fileXattrs returns the extended attributes of an inode that other filesystems can hold: all but bcachefs' options.
func fileXattrs(ctx context.Context, f *bcachefs.FS, id bcachefs.InodeID) (map[string]string, []error) {
	names, err := f.ListXattr(ctx, id)
	if err != nil {
		return nil, []error{fmt.Errorf("attributes: %w", err)}
	}
	var attrs map[string]string
	var errs []error
	for _, name := range names {
		if strings.HasPrefix(name, "bcachefs.") || strings.HasPrefix(name, "bcachefs_effective.") {
			continue
		}
		value, err := f.GetXattr(ctx, id, name)
		if err != nil {
			errs = append(errs, fmt.Errorf("attribute %s: %w", name, err))
			continue
		}
		if attrs == nil {
			attrs = map[string]string{}
		}
		attrs[name] = string(value)
	}
	return attrs, errs
}

// treeBytes adds up the allocated bytes below an inode, for a progress bar; what cannot be read is left out.
func treeBytes(ctx context.Context, f *bcachefs.FS, id bcachefs.InodeID, oneSubvol bool) int64 {
	total := int64(0)
	silent := &app{err: io.Discard}
	w := walker{f: f, p: &problems{app: silent}, oneSubvol: oneSubvol}
	w.fn = func(n *node) error {
		if n.stat.Mode.IsRegular() {
			total += min(n.stat.Size, int64(min(n.stat.Sectors, 1<<53))*512)
		}
		return nil
	}
	if err := w.visit(ctx, id, "/", "/", 0); err != nil {
		return 0
	}
	return total
}
