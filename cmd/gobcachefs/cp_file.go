package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
)

// errDestination is about writing: there is no point in trying other files.
var errDestination = errors.New("cannot write")

// file copies a regular file. It is written under another name, which tells what it will be, and renamed when it is whole.
func (c *cpCmd) file(ctx context.Context, n *node, rel string) error {
	st := n.stat
	d, name, err := c.parent(rel)
	if err != nil {
		return err
	}
	have, err := d.root.Lstat(name)
	if err == nil && have.IsDir() {
		return fmt.Errorf("%s is there and a directory", rel)
	}
	if err == nil && c.isDevice(have) {
		return fmt.Errorf("%s is there: %w", rel, errIsDevice)
	}
	if c.resume && err == nil && have.Mode().IsRegular() && have.Size() == st.Size && have.ModTime().Equal(st.Mtime) {
		c.bar.add(0, st.Size)
		return nil
	}
	part := fmt.Sprintf(".gobcachefs-part-%d-%d-%x", st.ID.Subvol, st.ID.Inum, st.Mtime.UnixNano())
	from := int64(0)
	if c.resume {
		if p, err := d.root.Lstat(part); err == nil && p.Mode().IsRegular() && p.Size() <= st.Size {
			from = p.Size() / chunkSize * chunkSize // the last chunk may not be whole
		}
	}
	flags := os.O_WRONLY | os.O_CREATE
	if from == 0 {
		flags |= os.O_TRUNC
	}
	out, err := d.root.OpenFile(part, flags, 0o600)
	if err != nil {
		return err
	}
	lost, err := c.content(ctx, n, out, from)
	if cerr := out.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("%w: %w", errDestination, cerr)
	}
	if err == nil {
		err = c.setMeta(ctx, n, path.Join(path.Dir(rel), part))
	}
	if err == nil {
		err = d.root.Rename(part, name)
	}
	switch {
	case err == nil:
		return lost // complete, but for what had to be replaced
	case !fatal(err):
		return errors.Join(err, d.root.Remove(part)) // of no use to --resume
	}
	return err
}

// content copies the data of a file from an offset on, leaving holes. lost says what had to be replaced by zeros.
func (c *cpCmd) content(ctx context.Context, n *node, out *os.File, from int64) (lost, err error) {
	f, err := c.fs.OpenInode(ctx, n.stat.ID)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r := &contentReader{f: f, salvage: c.openFlags.salvage}
	segs, err := dataSegments(f, from, n.stat.Size)
	if err != nil {
		if !c.openFlags.salvage {
			return nil, err
		}
		segs = []segment{{from, n.stat.Size}}
	}
	c.bar.add(0, from)
	for _, s := range segs {
		err := r.copy(ctx, s.start, s.end, func(p []byte, off int64) error {
			if _, err := out.WriteAt(p, off); err != nil {
				return fmt.Errorf("%w: %w", errDestination, err)
			}
			c.bar.add(0, int64(len(p)))
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	if err := out.Truncate(n.stat.Size); err != nil {
		return nil, fmt.Errorf("%w: %w", errDestination, err)
	}
	return r.lost(), nil
}
