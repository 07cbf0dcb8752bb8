package namei

import (
	"math"

	"github.com/go-bcachefs/bcachefs/internal/codec/strhash"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// table is a hash table of an inode in a transaction: its names or its attributes (spec/05 § 2.3). A key is at the slot that is its hash,
// or at one behind it without a gap; hash whiteouts keep such runs together.
type table struct {
	tx    *trans.Tx
	btree ondisk.BtreeID
	typ   ondisk.KeyType
	id    ID // with its snapshot
	// hash returns the first slot of a key of the type; hidden reports whether the subvolume does not see it.
	hash   func(k *ondisk.Key) (uint64, error)
	hidden func(k *ondisk.Key) (bool, error)
}

func (t *table) pos(slot uint64) ondisk.Pos {
	return ondisk.Pos{Inode: t.id.Inum, Offset: slot, Snapshot: t.id.Snapshot}
}

// found is where a search in a table ended.
type found struct {
	key  ondisk.Key // the one that was looked for, where ok
	ok   bool
	slot uint64 // its slot, else where it may be put
}

// find goes along the slots from start on to the key for which is returns true.
func (t *table) find(start uint64, flags trans.IterFlags, is func(k *ondisk.Key) (bool, error)) (f found, err error) {
	free := false
	for slot := start; slot != math.MaxUint64; slot++ {
		k, ok, err := t.tx.Lookup(t.btree, t.pos(slot), flags)
		if err != nil {
			return f, err
		}
		if ok && k.Type == t.typ {
			hidden := false
			if t.hidden != nil {
				if hidden, err = t.hidden(&k); err != nil {
					return f, err
				}
			}
			if !hidden {
				match, err := is(&k)
				if err != nil {
					return f, err
				}
				if match {
					return found{k, true, slot}, nil
				}
				continue
			}
		}
		if !free {
			free, f.slot = true, slot
		}
		if !ok || k.Type != ondisk.KeyHashWhiteout {
			return f, nil
		}
	}
	if !free {
		return f, ErrTableFull
	}
	return f, nil
}

// put writes a key to a slot.
func (t *table) put(slot uint64, val []byte) error {
	return t.tx.Update(t.btree, ondisk.Key{Type: t.typ, Pos: t.pos(slot), Val: val}, 0)
}

// holdsRun reports whether a key behind a slot is found by way of it.
func (t *table) holdsRun(slot uint64) (bool, error) {
	for s := slot + 1; s != math.MaxUint64; s++ {
		k, ok, err := t.tx.Lookup(t.btree, t.pos(s), trans.Intent)
		switch {
		case err != nil:
			return false, err
		case ok && k.Type == ondisk.KeyHashWhiteout:
			continue
		case !ok || k.Type != t.typ:
			return false, nil
		}
		h, err := t.hash(&k)
		if err != nil || h <= slot {
			return err == nil, err
		}
	}
	return false, nil
}

// remove takes a key out that find has found. One that is stored in another snapshot and is to go for good, for everybody, is physical.
func (t *table) remove(k *ondisk.Key, slot uint64, physical bool) error {
	whiteout, err := t.holdsRun(slot)
	if err != nil {
		return err
	}
	own := k.Pos.Snapshot == t.id.Snapshot
	switch {
	case whiteout:
		err = t.tx.Update(t.btree, ondisk.Key{Type: ondisk.KeyHashWhiteout, Pos: t.pos(slot)}, 0)
	case !physical || own:
		err = t.tx.Delete(t.btree, t.pos(slot), 0)
	}
	if err == nil && physical && !own {
		err = t.tx.Delete(t.btree, k.Pos, 0)
	}
	return err
}

func xattrHash(in *ondisk.Inode, t ondisk.XattrType, name []byte) uint64 {
	return strhash.Xattr(strhash.Type(in.HashType), in.HashSeed, uint8(t), name)
}

// attrs is the table of the attributes of an inode.
func attrs(tx *trans.Tx, id ID, in *ondisk.Inode) *table {
	return &table{tx: tx, btree: ondisk.BtreeXattrs, typ: ondisk.KeyXattr, id: id, hash: func(k *ondisk.Key) (uint64, error) {
		x, err := ondisk.DecodeXattr(*k)
		return xattrHash(in, x.Type, x.Name), err
	}}
}

// names is the table of the names in a directory.
func names(tx *trans.Tx, id ID, in *ondisk.Inode) *table {
	return &table{tx: tx, btree: ondisk.BtreeDirents, typ: ondisk.KeyDirent, id: id,
		hash: func(k *ondisk.Key) (uint64, error) {
			d, err := ondisk.DecodeDirent(*k)
			return direntHash(in, d.LookupName()), err
		},
		hidden: func(k *ondisk.Key) (bool, error) {
			d, err := ondisk.DecodeDirent(*k)
			return !visible(&d, id), err
		}}
}
