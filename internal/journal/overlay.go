package journal

import (
	"encoding/binary"
	"slices"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// MaxLevels is the greatest number of levels of a btree: nodes have levels 0 (leaves) … MaxLevels-1.
const MaxLevels = 4

// Overlay holds the keys of the journal entries to be replayed, as they lie over the nodes of the btrees: sorted by position
// for each btree and level, one key a position. A key of type deleted hides the position.
//
// Keys of the accounting btree are deltas and kept apart, see [Overlay.Deltas].
//
// An Overlay does not change any more once it was built and may be read by any number of goroutines. The zero value and nil
// are empty.
type Overlay struct {
	keys   [ondisk.MaxBtrees][MaxLevels][]ondisk.Key
	deltas []ondisk.Key
	count  int
}

// Keys returns the keys of one level of a btree in order of position. The caller must not change them.
func (o *Overlay) Keys(btree ondisk.BtreeID, level uint8) []ondisk.Key {
	if o == nil || btree >= ondisk.MaxBtrees || level >= MaxLevels {
		return nil
	}
	return o.keys[btree][level]
}

// From returns the keys of one level of a btree whose positions are p or greater.
func (o *Overlay) From(btree ondisk.BtreeID, level uint8, p ondisk.Pos) []ondisk.Key {
	return KeysFrom(o.Keys(btree, level), p)
}

// Deltas returns the accounting keys in order of position and, for one position, of version. Each is to be added to the
// btree's key unless that has the same or a newer version.
func (o *Overlay) Deltas() []ondisk.Key {
	if o == nil {
		return nil
	}
	return o.deltas
}

// DeltasFrom returns the accounting deltas at p and behind.
func (o *Overlay) DeltasFrom(p ondisk.Pos) []ondisk.Key { return KeysFrom(o.Deltas(), p) }

// Len is the number of keys and deltas held.
func (o *Overlay) Len() int {
	if o == nil {
		return 0
	}
	return o.count
}

// KeysFrom returns those of keys, which are sorted, that are at p or behind. It is a binary search without closure, as it runs on
// each lookup.
func KeysFrom(keys []ondisk.Key, p ondisk.Pos) []ondisk.Key {
	lo, hi := 0, len(keys)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if keys[mid].Pos.Less(p) {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return keys[lo:]
}

// OverlayBuilder collects keys in the order in which they were journalled.
type OverlayBuilder struct{ o Overlay }

// Add adds a key that is newer than all added before. Keys of impossible btrees or levels are not kept: no node could
// be overlaid by them.
func (b *OverlayBuilder) Add(btree ondisk.BtreeID, level uint8, k ondisk.Key) {
	switch {
	case btree >= ondisk.MaxBtrees || level >= MaxLevels:
	case btree == ondisk.BtreeAccounting && level == 0 && k.Type == ondisk.KeyAccounting:
		b.o.deltas = append(b.o.deltas, k)
	default:
		b.o.keys[btree][level] = append(b.o.keys[btree][level], k)
	}
}

// Build returns the overlay of the keys added; the builder must not be used any more.
func (b *OverlayBuilder) Build() *Overlay {
	o := &b.o
	for id := range o.keys {
		for level := range o.keys[id] {
			keys := newestOf(o.keys[id][level])
			o.keys[id][level] = keys
			o.count += len(keys)
		}
	}
	slices.SortStableFunc(o.deltas, func(a, b ondisk.Key) int {
		if c := a.Pos.Compare(b.Pos); c != 0 {
			return c
		}
		return compareVersions(a.Version, b.Version)
	})
	o.count += len(o.deltas)
	return o
}

// newestOf sorts keys and keeps the last added one of each position.
func newestOf(keys []ondisk.Key) []ondisk.Key {
	slices.SortStableFunc(keys, func(a, b ondisk.Key) int { return a.Pos.Compare(b.Pos) })
	n := 0
	for i := range keys {
		if i+1 < len(keys) && keys[i].Pos == keys[i+1].Pos {
			continue
		}
		keys[n] = keys[i]
		n++
	}
	return slices.Clip(keys[:n])
}

func compareVersions(a, b ondisk.Version) int {
	switch {
	case a == b:
		return 0
	case a.Hi < b.Hi, a.Hi == b.Hi && a.Lo < b.Lo:
		return -1
	}
	return 1
}

// VersionLess reports whether version a is older than b.
func VersionLess(a, b ondisk.Version) bool { return compareVersions(a, b) < 0 }

// AddDelta adds the counters of an accounting delta to those of sum, whose value it may overwrite, and takes over its version.
func AddDelta(sum, delta ondisk.Key) ondisk.Key {
	if n := len(delta.Val) - len(sum.Val); n > 0 {
		sum.Val = append(sum.Val, make([]byte, n)...)
	}
	for i := 0; i+8 <= len(delta.Val); i += 8 {
		le := binary.LittleEndian
		le.PutUint64(sum.Val[i:], le.Uint64(sum.Val[i:])+le.Uint64(delta.Val[i:]))
	}
	sum.Version = delta.Version
	return sum
}
