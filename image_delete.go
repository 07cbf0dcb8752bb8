package bcachefs

import (
	"context"
	"path"
)

// parentOf returns the directory that a path is in, "." for that itself.
func parentOf(p string) string { return path.Dir(p) }

// deleter removes what is not to be kept.
type deleter struct {
	fs   *FS
	keep map[string]bool // paths
	told func(name string)
}

// in removes names in a directory, and goes down into those that stay.
func (d *deleter) in(ctx context.Context, dir InodeID, at string) error {
	var stay []DirEntry
	var gone []string
	for e, err := range d.fs.ReadDir(ctx, dir, 0) {
		if err != nil {
			return pathError("readdir", at, err)
		}
		switch {
		case d.keep[path.Join(at, e.Name)]:
			if e.Type.IsDir() {
				stay = append(stay, e)
			}
		case at != "." || e.Name != "lost+found":
			gone = append(gone, e.Name)
		}
	}
	for _, name := range gone {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := d.fs.removeAll(ctx, dir, name); err != nil {
			return pathError("remove", path.Join(at, name), err)
		}
		if d.told != nil {
			d.told(path.Join(at, name))
		}
	}
	for _, e := range stay {
		if err := d.in(ctx, e.ID, path.Join(at, e.Name)); err != nil {
			return err
		}
	}
	return nil
}
