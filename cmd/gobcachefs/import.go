package main

import (
	"context"
	"io"
	"os"
	"path"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/go-bcachefs/bcachefs"
)

type importCmd struct {
	*app
	writeFlags
	loadFlags
	source string
}

func newImportCmd(a *app) *cobra.Command {
	i := &importCmd{app: a}
	c := a.command(&cobra.Command{
		Use:   "import [flags] DEV[:DEV]... [DEST]",
		Short: "Put the files of a tar archive in",
		Long: "import puts what is in a tar archive, or in a directory, into a directory of a filesystem that is not mounted, by default\n" +
			"the root. The archive comes from standard input or a file, as it is or compressed with gzip, bzip2 or zstd; owners, times, hard\n" +
			"links, device nodes, extended attributes and ACLs (SCHILY.xattr.) and holes are preserved: it is the other direction of export.\n\n" +
			"Files of the same names are replaced. What is wrong with one file is reported and the rest is put in; the exit code is\n" +
			"then 1.",
		Example: "  tar -c --xattrs --acls -C / etc | gobcachefs import disk.img /backup",
		Args:    cobra.RangeArgs(1, 2),
	}, i.run)
	f := c.Flags()
	f.StringVarP(&i.source, "file", "f", "-", "read the archive `FILE`, or take what is in a directory")
	i.loadFlags.register(f)
	i.writeFlags.register(c)
	return c
}

func (i *importCmd) run(ctx context.Context, args []string) error {
	dest := "/"
	if len(args) == 2 {
		dest = args[1]
	}
	opts, links, err := i.loadFlags.loadOptions()
	if err != nil {
		return err
	}
	if i.source == "-" && isTerminal(i.in) {
		return usagef("an archive is not read from a terminal: use -f FILE or a pipe")
	}
	tree, name, err := openTree(i.source, i.in, links, i.skipDevices)
	if err != nil {
		return failed("import", name, err)
	}
	return i.with(ctx, i.app, args[0], func(v *bcachefs.View) error {
		st, err := statPath(ctx, v, dest, true)
		if err == nil && !st.Mode.IsDir() {
			err = bcachefs.ErrNotDir
		}
		if err != nil {
			return failedTodo("import", dest, err, "'gobcachefs mkdir -p' makes directories")
		}
		l := &loading{app: i.app, what: "import", view: v, opts: opts, verbose: i.verbose}
		l.opts.At = imagePath(dest)
		l.source = sourceNames(tree, name)
		l.dest = func(rel string) string { return path.Join("/", l.opts.At, rel) }
		if err := l.load(ctx, tree); err != nil {
			return err
		}
		return l.problems.result()
	})
}

// openTree is the tree of a directory or archive, "-" being standard input, which can be gone through once. name is what messages call it.
func openTree(source string, in io.Reader, links bool, skip func(string, os.FileInfo) error) (tree bcachefs.FileTree, name string, err error) {
	if source == "-" {
		return bcachefs.TarTree{Open: func() (io.ReadCloser, error) { return io.NopCloser(in), nil }}, "standard input", nil
	}
	st, err := os.Stat(source)
	switch {
	case err != nil:
		return nil, source, err
	case st.IsDir():
		dir, err := filepath.EvalSymlinks(source)
		return bcachefs.DirTree{Dir: dir, NoLinks: !links, Skip: skip}, source, err
	}
	open := func() (io.ReadCloser, error) {
		if skip != nil { // its devices are known when the filesystem is open
			if err := skip(source, st); err != nil {
				return nil, err
			}
		}
		return os.Open(source)
	}
	return bcachefs.TarTree{Open: open}, source, nil
}

// sourceNames says what messages call a file of a tree.
func sourceNames(tree bcachefs.FileTree, name string) func(rel string) string {
	if _, ok := tree.(bcachefs.DirTree); ok {
		return func(rel string) string { return filepath.Join(name, rel) }
	}
	return func(rel string) string {
		if rel == "." {
			return name
		}
		return rel
	}
}
