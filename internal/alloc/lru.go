package alloc

import "github.com/go-bcachefs/bcachefs/internal/ondisk"

// The btree lru holds, in the order of time, the buckets that may be emptied: those of cached data by when they were read last, those
// that are partly empty by how much is in them (spec/04 § 5.4). Updates are buffered, so that entries may lag behind the alloc keys:
// whoever acts on one compares its time with that of the alloc key.

// ReadLRUTime returns the time under which a bucket stands in its device's LRU of cached buckets; 0 if it does not.
func ReadLRUTime(a *ondisk.Alloc) uint64 {
	if a.DataType != ondisk.DataCached {
		return 0
	}
	return a.IOTime[0]
}

// changeLRU moves an entry from one time to another; at the time 0 there is none.
func changeLRU(tx Tx, id uint16, offset, old, now uint64) {
	if old == now {
		return
	}
	if old != 0 {
		tx.UpdateBuffered(ondisk.BtreeLRU, ondisk.Key{Type: ondisk.KeyDeleted, Pos: ondisk.LRUPos{ID: id, Time: old, Offset: offset}.Pos()})
	}
	if now != 0 {
		tx.UpdateBuffered(ondisk.BtreeLRU, ondisk.Key{Type: ondisk.KeySet, Pos: ondisk.LRUPos{ID: id, Time: now, Offset: offset}.Pos()})
	}
}
