package namei

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

const (
	maxLinks  = 40      // symbolic links in one path
	maxTarget = 4096    // bytes of a symbolic link's target
	maxDepth  = 1 << 14 // directories above an inode
)

// Walk finds an inode by its path from root, above which ".." does not lead; absolute targets of links begin there too. Links on the
// way are followed, one at the end if follow is set.
func (t *Tree) Walk(ctx context.Context, root ID, path string, follow bool) (ID, error) {
	way := []ID{root} // from root to where we are
	rest := path
	links := 0
	for rest != "" {
		if err := ctx.Err(); err != nil {
			return ID{}, err
		}
		name, after, slash := strings.Cut(rest, "/")
		if rest = after; slash && rest == "" {
			rest = "." // what a slash follows must be a directory
		}
		here := way[len(way)-1]
		switch name {
		case "", ".":
			if _, err := t.directory(ctx, here); err != nil {
				return ID{}, err
			}
			continue
		case "..":
			if _, err := t.directory(ctx, here); err != nil {
				return ID{}, err
			}
			way = way[:max(len(way)-1, 1)]
			continue
		}
		next, err := t.Lookup(ctx, here, []byte(name))
		if err != nil {
			return ID{}, err
		}
		in, err := t.Inode(ctx, next)
		if err != nil {
			return ID{}, err
		}
		if in.Type() != ondisk.DTLnk || rest == "" && !follow {
			way = append(way, next)
			continue
		}
		if links++; links > maxLinks {
			return ID{}, ErrTooManyLinks
		}
		target, err := t.readlink(ctx, next, &in)
		if err != nil {
			return ID{}, err
		}
		if strings.HasPrefix(target, "/") {
			way = way[:1]
		}
		if rest != "" {
			target += "/" + rest
		}
		rest = target
	}
	return way[len(way)-1], nil
}

// Readlink returns the target of a symbolic link.
func (t *Tree) Readlink(ctx context.Context, id ID) (string, error) {
	in, err := t.Inode(ctx, id)
	if err != nil {
		return "", err
	}
	return t.readlink(ctx, id, &in)
}

func (t *Tree) readlink(ctx context.Context, id ID, in *ondisk.Inode) (string, error) {
	if in.Type() != ondisk.DTLnk {
		return "", ErrNotSymlink
	}
	b := make([]byte, min(in.Size, maxTarget))
	if _, err := t.cfg.ReadFile(ctx, id, b); err != nil {
		return "", err
	}
	// The reference's FUSE driver counts the NUL behind the target in the size.
	target, _, _ := bytes.Cut(b, []byte{0})
	return string(target), nil
}

// Path returns where an inode is, from the root of the first subvolume, by the entries that inodes say lead to them. Parts that
// cannot be found are "?". It is "" for the root.
func (t *Tree) Path(ctx context.Context, id ID) (string, error) {
	var names []string
	for depth := 0; ; depth++ {
		in, err := t.Inode(ctx, id)
		if err == nil && in.Dir == 0 && in.Subvol != 0 {
			break
		}
		if depth >= maxDepth {
			err = fmt.Errorf("more than %d directories above inode %d: %w", maxDepth, id.Inum, fs.ErrInvalid)
		}
		var parent ID
		if err == nil {
			parent, err = t.parent(ctx, id, &in)
		}
		var name string
		if err == nil {
			name, err = t.nameAt(ctx, parent, in.DirOffset)
		}
		if err != nil {
			if ctx.Err() != nil {
				return "", err
			}
			names = append(names, "?")
			if errors.Is(err, ErrNoName) {
				id = parent
				continue
			}
			break
		}
		names = append(names, name)
		id = parent
	}
	slices.Reverse(names)
	return strings.Join(names, "/"), nil
}

// nameAt returns the name at an offset of a directory.
func (t *Tree) nameAt(ctx context.Context, dir ID, off uint64) (string, error) {
	k, ok, err := t.cfg.Trees.Lookup(ctx, ondisk.BtreeDirents, ondisk.Pos{Inode: dir.Inum, Offset: off, Snapshot: dir.Snapshot})
	if err != nil {
		return "", err
	}
	if !ok || k.Type != ondisk.KeyDirent {
		return "", ErrNoName
	}
	d, err := ondisk.DecodeDirent(k)
	if err != nil || checkName(&d, &k) != nil {
		return "", ErrNoName
	}
	return string(d.Name), nil
}
