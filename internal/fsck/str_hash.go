package fsck

import (
	"context"
	"math"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// maxProbe is how far back from a key the place of its hash is looked for. Hashes have 31 bits or more, so sound tables have no such runs.
const maxProbe = 1 << 12

// checkHash checks that a key of a hash table can be found: from the offset that is its hash, hash, up to its own there is no gap, and no key
// of the same name, as same tells. It reports whether the key is where it belongs.
func (f *files) checkHash(ctx context.Context, id ondisk.BtreeID, k *ondisk.Key, hash uint64, same func(k *ondisk.Key) bool) (ok bool, err error) {
	if k.Pos.Offset == hash {
		return true, nil
	}
	if k.Pos.Offset < hash {
		f.wrongOffset(id, k, hash)
		return false, nil
	}
	at := f.seenFrom(k.Pos.Snapshot)
	from := ondisk.Pos{Inode: k.Pos.Inode, Offset: hash}
	to := ondisk.Pos{Inode: k.Pos.Inode, Offset: k.Pos.Offset - 1, Snapshot: math.MaxUint32}
	if f.c.lost.overlaps(id, from, to) {
		return true, nil
	}
	if k.Pos.Offset-hash > maxProbe {
		// The keys may be there all the same, but to look at all would take hostile images too long.
		to.Offset = hash + maxProbe
	}
	next := hash // the slot that must be in use
	for other, err := range f.c.fs.Keys(ctx, id, 0, from, to) {
		if err != nil {
			return true, ctx.Err()
		}
		if other.Pos.Offset < next || !f.isAncestor(at, other.Pos.Snapshot) {
			continue
		}
		if other.Pos.Offset > next || other.Type != k.Type && other.Type != ondisk.KeyHashWhiteout {
			break
		}
		if other.Type == k.Type && same(&other) {
			f.c.at(idHashTableKeyDuplicate, id, 0, k.Pos, "delete or rename it", "duplicate hash table keys: %s", f.c.keyText(id, k))
			return false, ctx.Err()
		}
		next++
	}
	switch {
	case ctx.Err() != nil:
		return true, ctx.Err()
	case next > hash+maxProbe:
		f.c.note("btree %v has a run of more than %d keys, at %v: whether keys behind are where they belong was not checked", id, maxProbe,
			from)
	case next < k.Pos.Offset:
		f.wrongOffset(id, k, hash)
		return false, nil
	}
	return true, nil
}

func (f *files) wrongOffset(id ondisk.BtreeID, k *ondisk.Key, hash uint64) {
	f.c.at(idHashTableKeyWrongOffset, id, 0, k.Pos, "put it there", "hash table key at wrong offset: should be at %d: %s", hash, f.c.keyText(id, k))
}
