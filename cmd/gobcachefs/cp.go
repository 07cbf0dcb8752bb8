package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/go-bcachefs/bcachefs"
)

type cpCmd struct {
	*app
	fileFlags
	resume, oneSubvol, verbose bool
	noPreserve                 []string

	fs       *bcachefs.FS
	problems problems
	bar      *progressBar
	root     *os.Root                    // of the destination: nothing outside of it is touched
	dest     destDir                     // the directory in it that was written to last
	links    map[bcachefs.InodeID]string // first copy of files with several names, relative to root
	skip     metaKinds                   // metadata that is not wanted
	missed   metaKinds                   // metadata that could not be set for want of rights or support
}

// metaKinds are kinds of metadata.
type metaKinds struct{ owner, mode, times, xattrs, links bool }

func newCpCmd(a *app) *cobra.Command {
	c := &cpCmd{app: a, problems: problems{app: a}, links: map[bcachefs.InodeID]string{}}
	cmd := a.command(&cobra.Command{
		Use:     "cp [flags] DEV[:DEV]... PATH... DEST",
		Aliases: []string{"copy"},
		Short:   "Copy files out",
		Long: "cp copies files and directories, with all below them, to DEST on this machine: into it if it is a directory, else to\n" +
			"that name. Owners (as root), permissions, times, extended attributes, ACLs, hard links, device nodes and holes are\n" +
			"preserved. Copying / or a PATH that ends in /. copies what is in the directory.\n\n" +
			"Each file that cannot be read is reported and left out, the rest is copied, and the exit code is 1. A copy that\n" +
			"was stopped goes on where it was with --resume.",
		Example: "  gobcachefs cp disk.img /home/me /mnt/rescue\n  gobcachefs cp --resume /dev/sdb:/dev/sdc / /mnt/rescue",
		Args:    cobra.MinimumNArgs(3),
	}, c.run)
	f := cmd.Flags()
	f.BoolVar(&c.resume, "resume", false, "keep files that are there with the same size and time, finish those that were begun")
	f.BoolVar(&c.openFlags.salvage, "salvage", false, "get all that can be got: files that are partly unreadable too, with zeros for what is; as -o salvage")
	f.BoolVarP(&c.oneSubvol, "one-file-system", "x", false, "leave out the subvolumes and snapshots below")
	f.BoolVarP(&c.verbose, "verbose", "v", false, "print the name of each file that is copied")
	f.BoolP("recursive", "r", true, "accepted for the habit: directories are always copied whole")
	f.BoolP("archive", "a", true, "accepted for the habit: everything is always preserved")
	f.StringSliceVar(&c.noPreserve, "no-preserve", nil, "do not preserve `WHAT`: owner, mode, timestamps, xattr, links")
	c.register(cmd)
	return cmd
}

func (c *cpCmd) run(ctx context.Context, args []string) error {
	var err error
	if c.skip, err = parseNoPreserve(c.noPreserve); err != nil {
		return err
	}
	sources, dest := args[1:len(args)-1], args[len(args)-1]
	return c.with(ctx, c.app, args[0], func(v *bcachefs.View) error {
		c.fs = v.FS()
		if err := c.copyAll(ctx, v, sources, dest); err != nil {
			return err
		}
		c.bar.finish()
		c.tellMissed()
		return c.problems.result()
	})
}

// parseNoPreserve reads the values of --no-preserve.
func parseNoPreserve(kinds []string) (skip metaKinds, err error) {
	for _, kind := range kinds {
		switch kind {
		case "owner", "ownership":
			skip.owner = true
		case "mode":
			skip.mode = true
		case "timestamps", "times":
			skip.times = true
		case "xattr", "xattrs":
			skip.xattrs = true
		case "links":
			skip.links = true
		default:
			return skip, usagef("--no-preserve=%s: want owner, mode, timestamps, xattr or links", kind)
		}
	}
	return skip, nil
}

// copyAll copies the sources to dest on this machine.
func (c *cpCmd) copyAll(ctx context.Context, v *bcachefs.View, sources []string, dest string) error {
	into := false
	if st, err := os.Stat(dest); err == nil && st.IsDir() {
		into = true
		if dest, err = filepath.EvalSymlinks(dest); err != nil {
			return failed("cp", dest, err)
		}
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return failed("cp", dest, err)
	} else if len(sources) > 1 {
		return failedTodo("cp", dest, bcachefs.ErrNotDir, "several files are copied into a directory only: make it first")
	}
	abs, err := filepath.Abs(dest)
	if err != nil {
		return failed("cp", dest, err)
	}
	rootDir := filepath.Dir(abs)
	if into {
		rootDir = abs
	}
	if c.root, err = os.OpenRoot(rootDir); err != nil {
		return failedTodo("cp", rootDir, err, "make the directory first")
	}
	defer c.root.Close()
	defer c.closeDest()

	type job struct {
		id       bcachefs.InodeID
		src, rel string
	}
	var jobs []job
	total := int64(0)
	for _, src := range sources {
		id, err := v.Resolve(ctx, src, strings.HasSuffix(src, "/") || strings.HasSuffix(src, "/."))
		if err != nil {
			c.problems.add("cp", src, err)
			continue
		}
		j := job{id: id, src: cleanPath(src), rel: filepath.Base(abs)}
		if into {
			j.rel = path.Base(j.src)
			if j.src == "/" || strings.HasSuffix(src, "/.") {
				j.rel = "."
			}
		}
		if slices.ContainsFunc(jobs, func(k job) bool { return k.rel == j.rel && j.rel != "." }) {
			c.problems.add("cp", src, fmt.Errorf("%s is the name of another source too", j.rel))
			continue
		}
		jobs = append(jobs, j)
		if c.errTTY {
			total += treeBytes(ctx, c.fs, id, c.oneSubvol)
		}
	}
	c.bar = c.progress("cp", total)
	defer c.bar.finish()
	c.problems.clear = c.bar.clear
	for _, j := range jobs {
		if err := c.tree(ctx, j.id, j.src, j.rel); err != nil {
			return err
		}
	}
	return nil
}

// tree copies the inode and all below it to rel. Errors that concern one file go to c.problems; an error ends the copy.
func (c *cpCmd) tree(ctx context.Context, id bcachefs.InodeID, src, rel string) error {
	w := walker{f: c.fs, p: &c.problems, oneSubvol: c.oneSubvol}
	target := func(n *node) string {
		return path.Join(rel, strings.TrimPrefix(strings.TrimPrefix(n.path, src), "/"))
	}
	w.fn = func(n *node) error {
		err := c.node(ctx, n, target(n))
		if err != nil && !fatal(err) {
			c.problems.add("cp", n.path, err)
			if n.stat.Mode.IsDir() {
				return errSkip
			}
			return nil
		}
		if err != nil {
			return c.stopped(n.path, err)
		}
		return nil
	}
	w.after = func(n *node) error { // now that nothing in it changes any more
		if err := c.setMeta(ctx, n, target(n)); err != nil {
			c.problems.add("cp", n.path, err)
		}
		return nil
	}
	return w.visit(ctx, id, src, path.Base(src), 0)
}

// stopped is the error of a copy that cannot go on.
func (c *cpCmd) stopped(at string, err error) error {
	if errors.Is(err, context.Canceled) {
		return failedTodo("cp", at, errors.New("interrupted"), "--resume goes on from here")
	}
	return failedTodo("cp", at, err, "make room, then --resume goes on from here")
}

// fatal reports whether an error concerns the whole copy, not one file.
func fatal(err error) bool {
	if errors.Is(err, context.Canceled) {
		return true
	}
	var re *bcachefs.ReadError
	if errors.As(err, &re) {
		return false
	}
	for _, e := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS, errDestination} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// node copies one inode, of directories only the directory itself.
func (c *cpCmd) node(ctx context.Context, n *node, rel string) error {
	if !n.stat.Mode.IsDir() && !c.skip.links && n.stat.Nlink > 1 {
		if first, ok := c.links[n.stat.ID]; ok {
			return c.link(first, rel)
		}
	}
	if c.verbose {
		c.bar.clear()
		fmt.Fprintf(c.out, "%s -> %s\n", c.shownName(n.path), c.shownName(filepath.Join(c.root.Name(), rel)))
	}
	var err error
	switch n.stat.Mode.Type() {
	case fs.ModeDir:
		return c.dir(rel)
	case 0:
		err = c.file(ctx, n, rel)
	case fs.ModeSymlink:
		err = c.symlink(ctx, n, rel)
	default:
		err = c.special(ctx, n, rel)
	}
	var loss *lossError
	if err == nil || errors.As(err, &loss) {
		c.bar.add(1, 0)
		if n.stat.Nlink > 1 {
			c.links[n.stat.ID] = rel
		}
	}
	return err
}

// dir makes a directory, or takes one that is there, that its owner can write to until it is done.
func (c *cpCmd) dir(rel string) error {
	d, name, err := c.parent(rel)
	if err != nil {
		return err
	}
	if err = d.root.Mkdir(name, 0o700); err == nil {
		return nil
	}
	st, serr := d.root.Lstat(name)
	if serr != nil {
		return err
	}
	if !st.IsDir() {
		return fmt.Errorf("%s is there and no directory", rel)
	}
	if st.Mode()&0o700 != 0o700 {
		return d.root.Chmod(name, st.Mode().Perm()|0o700)
	}
	return nil
}

func (c *cpCmd) link(first, rel string) error {
	if a, err := c.root.Lstat(first); err == nil {
		if b, err := c.root.Lstat(rel); err == nil && os.SameFile(a, b) {
			return nil
		}
	}
	if err := c.makeWay(rel); err != nil {
		return err
	}
	return c.root.Link(first, rel)
}

func (c *cpCmd) symlink(ctx context.Context, n *node, rel string) error {
	target, err := c.fs.Readlink(ctx, n.stat.ID)
	if err != nil {
		return err
	}
	d, name, err := c.parent(rel)
	if err != nil {
		return err
	}
	if have, err := d.root.Readlink(name); err != nil || have != target {
		if err := c.makeWay(rel); err != nil {
			return err
		}
		if err := d.root.Symlink(target, name); err != nil {
			return err
		}
	}
	return c.setMeta(ctx, n, rel)
}

func (c *cpCmd) special(ctx context.Context, n *node, rel string) error {
	if err := c.makeWay(rel); err != nil {
		return err
	}
	d, name, err := c.parent(rel)
	if err != nil {
		return err
	}
	if err := makeNode(d.file, name, n.stat); err != nil {
		return err
	}
	return c.setMeta(ctx, n, rel)
}

// makeWay removes what is at rel unless it is a directory.
func (c *cpCmd) makeWay(rel string) error {
	d, name, err := c.parent(rel)
	if err != nil {
		return err
	}
	st, err := d.root.Lstat(name)
	if err != nil {
		return nil
	}
	if st.IsDir() {
		return fmt.Errorf("%s is there and a directory", rel)
	}
	if c.isDevice(st) {
		return fmt.Errorf("%s is there: %w", rel, errIsDevice)
	}
	return d.root.Remove(name)
}

// setMeta gives the copy at rel the owner, permissions, times and attributes of the inode.
func (c *cpCmd) setMeta(ctx context.Context, n *node, rel string) error {
	var attrs map[string]string
	var errs []error
	if !c.skip.xattrs {
		attrs, errs = fileXattrs(ctx, c.fs, n.stat.ID)
	}
	d, name, err := c.parent(rel)
	if err != nil {
		return err
	}
	errs = append(errs, applyMeta(d, name, n.stat, attrs, c.skip, &c.missed)...)
	if len(errs) == 0 {
		return nil
	}
	return errs[0]
}

// tellMissed writes a line for each kind of metadata that could not be preserved.
func (c *cpCmd) tellMissed() {
	if c.missed.owner {
		c.warnf("cp: owners were not preserved: run it as root, or use --no-preserve=owner")
	}
	if c.missed.xattrs {
		c.warnf("cp: some extended attributes were not preserved, as the destination has none of their kind or only root may " +
			"set them: see --no-preserve=xattr")
	}
	if c.missed.mode {
		c.warnf("cp: some permissions were not preserved: see --no-preserve=mode")
	}
}
