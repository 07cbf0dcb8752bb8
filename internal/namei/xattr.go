package namei

import (
	"context"
	"math"
	"slices"
	"strings"

	"github.com/go-bcachefs/bcachefs/internal/codec/strhash"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// Prefixes of the attributes that show options: those set on the inode itself, and those in effect because they were set there or
// in a directory above.
const (
	optionPrefix    = "bcachefs."
	effectivePrefix = "bcachefs_effective."
)

// ListXattr returns the names of the extended attributes of an inode in byte order, options among them.
func (t *Tree) ListXattr(ctx context.Context, id ID) ([]string, error) {
	in, err := t.Inode(ctx, id)
	if err != nil {
		return nil, err
	}
	var names []string
	from, to := ondisk.Pos{Inode: id.Inum}, ondisk.Pos{Inode: id.Inum, Offset: math.MaxUint64}
	for k, err := range t.cfg.Trees.KeysIn(ctx, ondisk.BtreeXattrs, from, to, id.Snapshot) {
		if err != nil {
			return names, err
		}
		if k.Type != ondisk.KeyXattr {
			continue
		}
		x, err := ondisk.DecodeXattr(k)
		if err == nil {
			err = x.Validate(&k)
		}
		if err != nil {
			return names, err
		}
		if !(t.cfg.HideACLs && x.Type.IsACL()) {
			names = append(names, x.FullName())
		}
	}
	for o := range ondisk.NumInodeOptions {
		if in.Option(o) == 0 {
			continue
		}
		if in.FieldsSet>>o&1 != 0 {
			names = append(names, optionPrefix+o.String())
		}
		names = append(names, effectivePrefix+o.String())
	}
	slices.Sort(names)
	return names, nil
}

// GetXattr returns the value of an extended attribute as the system call gives it: ACLs are converted, options are text.
func (t *Tree) GetXattr(ctx context.Context, id ID, name string) ([]byte, error) {
	in, err := t.Inode(ctx, id)
	if err != nil {
		return nil, err
	}
	if o, ok := strings.CutPrefix(name, optionPrefix); ok {
		return t.optionXattr(&in, o, true)
	}
	if o, ok := strings.CutPrefix(name, effectivePrefix); ok {
		return t.optionXattr(&in, o, false)
	}
	typ, short, ok := ondisk.ParseXattrName(name)
	if !ok || len(short) > math.MaxUint8 {
		return nil, ErrNoXattr
	}
	if t.cfg.HideACLs && typ.IsACL() {
		return nil, ErrNamespace
	}
	for off := strhash.Xattr(strhash.Type(in.HashType), in.HashSeed, uint8(typ), []byte(short)); off != math.MaxUint64; off++ {
		k, ok, err := t.cfg.Trees.Lookup(ctx, ondisk.BtreeXattrs, ondisk.Pos{Inode: id.Inum, Offset: off, Snapshot: id.Snapshot})
		switch {
		case err != nil:
			return nil, err
		case ok && k.Type == ondisk.KeyHashWhiteout:
			continue
		case !ok || k.Type != ondisk.KeyXattr:
			return nil, ErrNoXattr
		}
		x, err := ondisk.DecodeXattr(k)
		if err != nil {
			return nil, err
		}
		if x.Type != typ || string(x.Name) != short {
			continue
		}
		if typ.IsACL() {
			return ondisk.ACLToXattr(x.Value)
		}
		return append([]byte{}, x.Value...), nil
	}
	return nil, ErrNoXattr
}

func (t *Tree) optionXattr(in *ondisk.Inode, name string, explicit bool) ([]byte, error) {
	for o := range ondisk.NumInodeOptions {
		if o.String() != name {
			continue
		}
		if in.Option(o) == 0 || explicit && in.FieldsSet>>o&1 == 0 {
			break
		}
		return []byte(t.OptionText(in, o)), nil
	}
	return nil, ErrNoXattr
}
