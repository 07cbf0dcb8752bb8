package fsck

import (
	"bytes"
	"context"

	"github.com/go-bcachefs/bcachefs/internal/codec/strhash"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// checkXattrs checks that extended attributes belong to inodes and can be found by their names.
func (c *checker) checkXattrs(ctx context.Context) error {
	f, err := c.readFiles(ctx)
	if f == nil {
		return err
	}
	return f.eachHolder(ctx, ondisk.BtreeXattrs, func() holder { return &xattrCheck{f: f} })
}

// xattrCheck checks one inode after the other.
type xattrCheck struct {
	f  *files
	vs versions
}

func (x *xattrCheck) begin(_ uint64, vs versions)    { x.vs = vs }
func (x *xattrCheck) end(context.Context, int) error { return nil }
func (x *xattrCheck) flush(context.Context) error    { return nil }

func anyInode(*ondisk.Inode) bool { return true }

func (x *xattrCheck) key(ctx context.Context, k *ondisk.Key, lower []uint32) error {
	if k.Type != ondisk.KeyXattr {
		return nil
	}
	a, err := ondisk.DecodeXattr(*k)
	if err != nil {
		return nil // check_topology told
	}
	v := x.f.holds(ondisk.BtreeXattrs, k, x.vs, anyInode)
	if v == nil {
		return nil
	}
	hash := strhash.Xattr(strhash.Type(v.in.HashType), v.in.HashSeed, uint8(a.Type), a.Name)
	_, err = x.f.checkHash(ctx, ondisk.BtreeXattrs, k, hash, func(k *ondisk.Key) bool {
		other, err := ondisk.DecodeXattr(*k)
		return err == nil && other.Type == a.Type && bytes.Equal(other.Name, a.Name)
	})
	if err != nil || !x.f.c.since(39) {
		return err
	}
	for _, acl := range acls {
		for i := range x.vs {
			v := &x.vs[i]
			if a.Type == acl.typ && v.inode && v.snapshot <= k.Pos.Snapshot && x.f.sees(v.at, k.Pos.Snapshot, lower) && v.in.Flags&acl.flag == 0 {
				x.f.c.at(acl.id, ondisk.BtreeInodes, 0, v.pos(), "set it", "inode has an acl xattr but flag %s not set", acl.name)
			}
		}
	}
	return nil
}
