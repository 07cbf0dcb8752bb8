package trans

import (
	"slices"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// Triggers of what goes away run before those of what comes, wherever they stand, and those of alloc keys last.
func TestTriggerOrder(t *testing.T) {
	type call struct {
		btree  ondisk.BtreeID
		offset uint64
		goes   bool
	}
	var calls []call
	w := newWorld(t, func(c *Config) {
		c.Trigger = func(tx *Tx, btree ondisk.BtreeID, level uint8, old, k *ondisk.Key, _ UpdateFlags) error {
			if level > 0 {
				return nil
			}
			calls = append(calls, call{btree, k.Pos.Offset, old.Type != ondisk.KeyDeleted})
			if btree == ondisk.BtreeExtents { // new updates, of which one is before the others
				for _, id := range []ondisk.BtreeID{ondisk.BtreeAlloc, ondisk.BtreeXattrs} {
					if err := tx.Update(id, cookie(ondisk.Pos{Inode: 1, Offset: 7, Snapshot: 5}, 1), 0); err != nil {
						return err
					}
				}
			}
			return nil
		}
	})
	extent := func(end uint64, size uint32) ondisk.Key {
		return ondisk.Key{Type: ondisk.KeyCookie, Pos: ondisk.Pos{Inode: 1, Offset: end, Snapshot: 5}, Size: size, Val: ondisk.EncodeCookie(0)}
	}
	w.update(func(tx *Tx) error { return tx.Update(ondisk.BtreeExtents, extent(100, 100), 0) })
	calls = nil
	w.update(func(tx *Tx) error {
		calls = nil
		return tx.Update(ondisk.BtreeExtents, extent(200, 160), 0) // leaves 0 to 40 of the first
	})
	want := []call{{ondisk.BtreeExtents, 100, true}, {ondisk.BtreeXattrs, 7, true}, {ondisk.BtreeExtents, 40, false},
		{ondisk.BtreeExtents, 200, false}, {ondisk.BtreeAlloc, 7, true}}
	if !slices.Equal(calls, want) {
		t.Errorf("triggers were called for %v, want %v", calls, want)
	}
}
