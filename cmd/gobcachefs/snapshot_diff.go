package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"

	"github.com/spf13/cobra"

	"github.com/go-bcachefs/bcachefs"
)

type snapshotDiffCmd struct {
	*app
	openFlags
	json bool

	fs       *bcachefs.FS
	problems problems
	changes  []diffEntry
}

// diffEntry is a file that differs.
type diffEntry struct {
	Change string `json:"change"` // created, deleted, modified, attributes, renamed
	Path   string `json:"path"`
	Raw    string `json:"path_base64,omitempty"`
	To     string `json:"to,omitempty"` // of a file that was renamed
	RawTo  string `json:"to_base64,omitempty"`
	Type   string `json:"type"`

	inum uint64
}

func newSnapshotCmd(a *app) *cobra.Command {
	return a.group(&cobra.Command{
		Use:   "snapshot",
		Short: "Compare snapshots",
	}, newSnapshotDiffCmd(a))
}

func newSnapshotDiffCmd(a *app) *cobra.Command {
	d := &snapshotDiffCmd{app: a, problems: problems{app: a}}
	c := a.command(&cobra.Command{
		Use:   "diff [flags] DEV[:DEV]... A B",
		Short: "Print the files that differ between two snapshots",
		Long: "diff prints what has to be done to the files of A to get those of B: + created, - deleted, M modified, m only attributes or times\n" +
			"changed, R renamed. A and B are subvolumes or snapshots, by path or id. Contents are compared only of files that were\n" +
			"written since the two have been one.",
		Example: "  gobcachefs snapshot diff disk.img /snap/monday /snap/tuesday",
		Args:    cobra.ExactArgs(3),
	}, d.run)
	jsonFlag(c, &d.json)
	d.register(c.Flags())
	return c
}

func (d *snapshotDiffCmd) run(ctx context.Context, args []string) error {
	f, m, err := d.open(ctx, d.app, args[:1])
	if err != nil {
		return err
	}
	defer f.Close()
	d.fs = f
	var views [2]*bcachefs.View
	for i, name := range args[1:] {
		v := viewFlags{snapshot: name}
		if views[i], err = v.view(f, m); err != nil {
			return err
		}
	}
	if err := d.directory(ctx, views[0].RootInode(), views[1].RootInode(), "/"); err != nil {
		return err
	}
	d.findRenamed()
	if d.json {
		if d.changes == nil {
			d.changes = []diffEntry{}
		}
		err = d.writeJSON(d.changes)
	} else {
		d.print()
	}
	if err != nil {
		return err
	}
	return d.problems.result()
}

func (d *snapshotDiffCmd) print() {
	letters := map[string]string{"created": "+", "deleted": "-", "modified": "M", "attributes": "m", "renamed": "R"}
	for _, c := range d.changes {
		fmt.Fprintf(d.out, "%s %s", letters[c.Change], d.shownName(c.Path))
		if c.To != "" {
			fmt.Fprintf(d.out, " -> %s", d.shownName(c.To))
		}
		fmt.Fprintln(d.out)
	}
}

func (d *snapshotDiffCmd) add(change, at string, st *bcachefs.Stat) {
	d.changes = append(d.changes, diffEntry{Change: change, Path: at, Raw: rawName(at), Type: fileKind(st.Mode), inum: st.ID.Inum})
}

// directory compares two directories.
func (d *snapshotDiffCmd) directory(ctx context.Context, a, b bcachefs.InodeID, at string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	ea, eb := readDir(ctx, d.fs, a, at, &d.problems), readDir(ctx, d.fs, b, at, &d.problems)
	for len(ea) > 0 || len(eb) > 0 {
		var err error
		switch {
		case len(eb) == 0 || len(ea) > 0 && ea[0].Name < eb[0].Name:
			err = d.all(ctx, "deleted", ea[0].ID, path.Join(at, ea[0].Name))
			ea = ea[1:]
		case len(ea) == 0 || eb[0].Name < ea[0].Name:
			err = d.all(ctx, "created", eb[0].ID, path.Join(at, eb[0].Name))
			eb = eb[1:]
		default:
			err = d.both(ctx, ea[0].ID, eb[0].ID, path.Join(at, ea[0].Name))
			ea, eb = ea[1:], eb[1:]
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// all tells of a file that only one side has, and of all below it.
func (d *snapshotDiffCmd) all(ctx context.Context, change string, id bcachefs.InodeID, at string) error {
	w := walker{f: d.fs, p: &d.problems}
	w.fn = func(n *node) error {
		d.add(change, n.path, n.stat)
		return nil
	}
	return w.visit(ctx, id, at, path.Base(at), 0)
}

// both compares two files of one name.
func (d *snapshotDiffCmd) both(ctx context.Context, a, b bcachefs.InodeID, at string) error {
	sa, err := d.fs.Stat(ctx, a)
	if err != nil {
		d.problems.add("stat", at, err)
		return nil
	}
	sb, err := d.fs.Stat(ctx, b)
	if err != nil {
		d.problems.add("stat", at, err)
		return nil
	}
	if sa.SubvolRoot && sb.SubvolRoot && sa.ID.Subvol == sb.ID.Subvol {
		return nil // another subvolume, which both have
	}
	if sa.Mode.Type() != sb.Mode.Type() || sa.ID.Inum != sb.ID.Inum && sa.Mode.IsDir() && !sa.SubvolRoot && !sb.SubvolRoot {
		if err := d.all(ctx, "deleted", a, at); err != nil {
			return err
		}
		return d.all(ctx, "created", b, at)
	}
	modified, err := d.differ(ctx, sa, sb)
	switch {
	case err != nil && ctx.Err() != nil:
		return err
	case err != nil:
		d.problems.add("read", at, err)
	case modified:
		d.add("modified", at, sb)
	case d.attributes(ctx, sa, sb):
		d.add("attributes", at, sb)
	}
	if sa.Mode.IsDir() {
		return d.directory(ctx, a, b, at)
	}
	return nil
}

// differ reports whether two files of one type hold something else.
func (d *snapshotDiffCmd) differ(ctx context.Context, a, b *bcachefs.Stat) (bool, error) {
	switch a.Mode.Type() {
	case fs.ModeSymlink:
		ta, err := d.fs.Readlink(ctx, a.ID)
		tb, err2 := d.fs.Readlink(ctx, b.ID)
		return ta != tb, errors.Join(err, err2)
	case fs.ModeDevice, fs.ModeDevice | fs.ModeCharDevice:
		return a.RdevMajor != b.RdevMajor || a.RdevMinor != b.RdevMinor, nil
	case 0:
	default:
		return false, nil
	}
	if a.Size != b.Size {
		return true, nil
	}
	if a.ID.Inum == b.ID.Inum && a.Generation == b.Generation && a.JournalSeq == b.JournalSeq && a.Mtime.Equal(b.Mtime) && a.Ctime.Equal(b.Ctime) {
		return false, nil // the same version of the same inode
	}
	return d.contents(ctx, a, b)
}

// contents compares the data of two files.
func (d *snapshotDiffCmd) contents(ctx context.Context, a, b *bcachefs.Stat) (bool, error) {
	fa, err := d.fs.OpenInode(ctx, a.ID)
	if err != nil {
		return false, err
	}
	defer fa.Close()
	fb, err := d.fs.OpenInode(ctx, b.ID)
	if err != nil {
		return false, err
	}
	defer fb.Close()
	size := min(a.Size, chunkSize)
	pa, pb := make([]byte, size), make([]byte, size)
	for off := int64(0); off < a.Size; off += size {
		n := min(size, a.Size-off)
		if _, err := fa.ReadAtContext(ctx, pa[:n], off); err != nil && err != io.EOF {
			return false, err
		}
		if _, err := fb.ReadAtContext(ctx, pb[:n], off); err != nil && err != io.EOF {
			return false, err
		}
		if !bytes.Equal(pa[:n], pb[:n]) {
			return true, nil
		}
	}
	return false, nil
}

// attributes reports whether attributes of two files differ, but for the time of last access.
func (d *snapshotDiffCmd) attributes(ctx context.Context, a, b *bcachefs.Stat) bool {
	if a.RawMode != b.RawMode || a.UID != b.UID || a.GID != b.GID || a.Flags != b.Flags || a.Project != b.Project ||
		!a.Mtime.Equal(b.Mtime) && !a.Mode.IsDir() { // what changed in a directory is told anyway
		return true
	}
	xa, _ := fileXattrs(ctx, d.fs, a.ID)
	xb, _ := fileXattrs(ctx, d.fs, b.ID)
	if len(xa) != len(xb) || len(a.Options) != len(b.Options) {
		return true
	}
	for name, v := range xa {
		if w, ok := xb[name]; !ok || v != w {
			return true
		}
	}
	for i := range a.Options {
		if a.Options[i] != b.Options[i] {
			return true
		}
	}
	return false
}

// findRenamed takes what was deleted and created, being one inode, for a rename.
func (d *snapshotDiffCmd) findRenamed() {
	deleted := map[uint64]int{}
	for i, c := range d.changes {
		if c.Change == "deleted" {
			deleted[c.inum] = i
		}
	}
	gone := map[int]bool{}
	for i := range d.changes {
		c := &d.changes[i]
		from, ok := deleted[c.inum]
		if c.Change != "created" || !ok || gone[from] || d.changes[from].Type != c.Type {
			continue
		}
		gone[from] = true
		old := d.changes[from]
		*c = diffEntry{Change: "renamed", Path: old.Path, Raw: old.Raw, To: c.Path, RawTo: rawName(c.Path), Type: c.Type, inum: c.inum}
	}
	kept := d.changes[:0]
	for i, c := range d.changes {
		if !gone[i] {
			kept = append(kept, c)
		}
	}
	d.changes = kept
}
