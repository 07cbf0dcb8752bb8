package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/go-bcachefs/bcachefs"
)

type putCmd struct {
	*app
	writeFlags
	loadFlags
}

func newPutCmd(a *app) *cobra.Command {
	p := &putCmd{app: a}
	c := a.command(&cobra.Command{
		Use:   "put [flags] LOCAL... DEV[:DEV]... DEST",
		Short: "Copy files in",
		Long: "put copies files and directories of this machine, with all below them, to DEST in a filesystem that is not mounted: into it\n" +
			"if it is a directory, else to that name. Owners, permissions, times to the nanosecond, extended attributes, ACLs, hard links,\n" +
			"device nodes and holes are preserved. \"-\" is what comes from standard input. LOCAL/. is what is in a directory.\n\n" +
			"Files of the same names are replaced, each when its copy is complete. Each file that cannot be read is reported and the\n" +
			"rest is copied; the exit code is then 1.",
		Example: "  gobcachefs put ~/photos disk.img /home",
		Args:    cobra.MinimumNArgs(3),
	}, p.run)
	f := c.Flags()
	f.BoolP("recursive", "r", true, "accepted for the habit: directories are always copied whole")
	f.BoolP("archive", "a", true, "accepted for the habit: everything is always preserved")
	f.BoolP("preserve", "p", true, "accepted for the habit: everything is always preserved")
	p.loadFlags.register(f)
	p.writeFlags.register(c)
	return c
}

func (p *putCmd) run(ctx context.Context, args []string) error {
	sources, dev, dest := args[:len(args)-2], args[len(args)-2], args[len(args)-1]
	opts, links, err := p.loadFlags.loadOptions()
	if err != nil {
		return err
	}
	for _, src := range sources { // before anything is opened for writing
		if src == "-" {
			continue
		}
		if _, err := os.Lstat(src); err != nil {
			return failed("put", src, err)
		}
	}
	return p.with(ctx, p.app, dev, func(v *bcachefs.View) error {
		jobs, err := p.plan(ctx, v, sources, dest)
		if err != nil {
			return err
		}
		count := 0
		for _, j := range jobs {
			l := &loading{app: p.app, what: "put", view: v, opts: opts, verbose: p.verbose}
			l.opts.At = j.at
			l.source = func(rel string) string { return filepath.Join(j.src, rel) }
			l.dest = func(rel string) string { return path.Join("/", j.at, rel) }
			var tree bcachefs.FileTree = stdinTree{p.in}
			if j.src == "-" {
				l.source = func(string) string { return "standard input" }
				l.opts.NoOwner = true
			} else if tree, err = p.localTree(j.src, links); err != nil {
				return failed("put", j.src, err)
			}
			if err := l.load(ctx, tree); err != nil {
				return err
			}
			count += l.problems.count
		}
		if count > 0 {
			return errPartial
		}
		return nil
	})
}

// putJob is a source and the name that it gets.
type putJob struct{ src, at string }

// plan decides where each source goes.
func (p *putCmd) plan(ctx context.Context, v *bcachefs.View, sources []string, dest string) ([]putJob, error) {
	at, into := imagePath(dest), false
	st, err := statPath(ctx, v, dest, true)
	switch {
	case err == nil:
		into = st.Mode.IsDir()
	case !errors.Is(err, fs.ErrNotExist):
		return nil, writeFailed("put", dest, err)
	default:
		if up, err := statPath(ctx, v, path.Dir(at), true); err != nil {
			return nil, failedTodo("put", path.Dir(cleanPath(dest)), err, "'gobcachefs mkdir -p' makes directories")
		} else if !up.Mode.IsDir() {
			return nil, writeFailed("put", path.Dir(cleanPath(dest)), bcachefs.ErrNotDir)
		}
	}
	if !into && (len(sources) > 1 || strings.HasSuffix(dest, "/") && err == nil) {
		return nil, failedTodo("put", dest, bcachefs.ErrNotDir, "several files are copied into a directory only: 'gobcachefs mkdir' makes it")
	}
	var jobs []putJob
	taken := map[string]string{}
	for _, src := range sources {
		j := putJob{src, at}
		switch {
		case src == "-" && into:
			return nil, failedTodo("put", dest, bcachefs.ErrIsDir, "say what name standard input is to have")
		case into:
			abs, err := filepath.Abs(src)
			if err != nil {
				return nil, failed("put", src, err)
			}
			if !strings.HasSuffix(src, "/.") && src != "." && src != ".." && abs != "/" {
				j.at = path.Join(at, filepath.Base(abs))
			}
		}
		if other, ok := taken[j.at]; ok && j.at != at {
			return nil, failed("put", src, fmt.Errorf("%s gets the same name", other))
		}
		taken[j.at] = src
		jobs = append(jobs, j)
	}
	return jobs, nil
}

// statPath returns what an inode holds that a path leads to.
func statPath(ctx context.Context, v *bcachefs.View, p string, follow bool) (*bcachefs.Stat, error) {
	id, err := v.Resolve(ctx, p, follow)
	if err != nil {
		return nil, err
	}
	return v.FS().Stat(ctx, id)
}

// stdinTree is a file with what is read, as long as that is.
type stdinTree struct{ in io.Reader }

// Files implements [bcachefs.FileTree].
func (t stdinTree) Files(context.Context) iter.Seq2[*bcachefs.TreeFile, error] {
	return func(yield func(*bcachefs.TreeFile, error) bool) {
		f := &bcachefs.TreeFile{Path: ".", RawMode: 0o100644}
		f.Data = func(ctx context.Context, write func([]byte, int64) error) error {
			buf := make([]byte, chunkSize)
			for {
				n, err := io.ReadFull(t.in, buf)
				if n > 0 {
					if err := write(buf[:n], f.Size); err != nil {
						return err
					}
					f.Size += int64(n)
				}
				if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
					return ctx.Err()
				}
				if err != nil {
					return err
				}
				if err := ctx.Err(); err != nil {
					return err
				}
			}
		}
		yield(f, nil)
	}
}
