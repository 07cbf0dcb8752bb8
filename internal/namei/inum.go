package namei

import (
	"math"
	"math/bits"
	"sync/atomic"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// inumRange is how inode numbers are divided (spec/05 § 1.11): each shard has those that begin with its number.
type inumRange struct {
	width     int // bits of numbers
	shardBits int
}

// newInumRange returns the numbers of a filesystem; shards are rounded up to a power of two.
func newInumRange(only32bit bool, shards int) inumRange {
	r := inumRange{width: 63, shardBits: bits.Len(uint(max(shards, 1) - 1))}
	if only32bit {
		r.width = 31
	}
	r.shardBits = min(r.shardBits, 16)
	return r
}

func (r inumRange) shards() int { return 1 << r.shardBits }

// bounds returns the first and the last number of a shard.
func (r inumRange) bounds(shard int) (first, last uint64) {
	n := r.width - r.shardBits
	first = uint64(shard) << n
	return max(first, ondisk.MinInum), first | (1<<n - 1)
}

// shardOf returns where inodes of a directory go: what is in one directory is close together.
func (w *Writer) shardOf(dir ID) int {
	h := (dir.Inum ^ uint64(dir.Subvol)<<32) * 0x9e3779b97f4a7c15
	return int(h >> 32 % uint64(len(w.shards)))
}

// newInum finds a number for an inode in a directory, and its generation. It is that of an inode that was deleted, if one is found soon: what deleted
// inodes leave would take more and more space otherwise. Else it is the next behind the last one that was given out, or that is in use when the
// filesystem was opened; only when the range is at its end are gaps looked for.
//
// The leaf where it is not, or what is left there, stays locked: nobody else gets it.
func (w *Writer) newInum(tx *trans.Tx, dir ID) (inum uint64, generation uint32, err error) {
	shard := w.shardOf(dir)
	for i := range w.shards { // rather one of another shard than a new one
		if inum, generation, ok, err := w.reuse(tx, (shard+i)%len(w.shards)); ok || err != nil {
			return inum, generation, err
		}
	}
	inum, err = w.freshInum(tx, shard)
	return inum, 0, err
}

// leftovers says where what deleted inodes have left is looked for.
type leftovers struct {
	at   atomic.Uint64 // number to go on with
	none atomic.Bool   // there were none all around, and nothing was deleted since
}

// reuseKeys is how many keys of inodes are looked at for each new one.
const reuseKeys = 24

// reuse finds the number of an inode that was deleted in all snapshots, going on where the last search ended.
func (w *Writer) reuse(tx *trans.Tx, shard int) (inum uint64, generation uint32, ok bool, err error) {
	l := &w.left[shard]
	if l.none.Load() {
		return 0, 0, false, nil
	}
	first, last := w.inums.bounds(shard)
	start := l.at.Load()
	if start < first || start > last {
		start = first
	}
	it := tx.Iter(ondisk.BtreeInodes, ondisk.Pos{Offset: start}, trans.AllSnapshots|trans.Scanning)
	defer it.Close()
	next, around := uint64(0), false
	var here uint64 // number that keys are of
	dead := false   // all of them, so far, are what is left of inodes
	for n := 0; ; n++ {
		k, some, err := it.PeekMax(ondisk.Pos{Offset: last, Snapshot: math.MaxUint32})
		if err != nil {
			return 0, 0, false, err
		}
		if !some || k.Pos.Offset != here {
			if dead {
				next = here + 1
				inum, generation, ok, err = lockLeftover(tx, here)
				break
			}
			if !some {
				next, around = first, start == first
				break
			}
			if next = k.Pos.Offset; n >= reuseKeys {
				break
			}
			here, dead = k.Pos.Offset, true
		}
		dead = dead && k.Type == ondisk.KeyInodeGeneration
		it.Advance()
	}
	if err != nil {
		return 0, 0, false, err
	}
	if !ok { // whatever comes of the transaction
		l.at.Store(next)
		if around {
			l.none.Store(true)
		}
		return 0, 0, false, nil
	}
	tx.OnCommit(func(uint64) { l.at.Store(next) })
	return inum, generation, true, nil
}

// lockLeftover locks a number if what it has are leftovers of deleted inodes, and returns the greatest generation.
func lockLeftover(tx *trans.Tx, inum uint64) (_ uint64, generation uint32, ok bool, err error) {
	it := tx.Iter(ondisk.BtreeInodes, ondisk.Pos{Offset: inum}, trans.AllSnapshots|trans.Intent)
	for {
		k, some, err := it.PeekMax(ondisk.Pos{Offset: inum, Snapshot: math.MaxUint32})
		if err != nil || !some {
			return inum, generation, ok && err == nil, err
		}
		if k.Type != ondisk.KeyInodeGeneration {
			return 0, 0, false, nil
		}
		g, err := ondisk.DecodeInodeGeneration(k)
		if err != nil {
			return 0, 0, false, nil // not for us to judge
		}
		generation, ok = max(generation, g.Generation), true
		it.Advance()
	}
}

// deleted notes that there is something to be reused.
func (w *Writer) deleted(tx *trans.Tx, inum uint64) {
	for shard := range w.left {
		if first, last := w.inums.bounds(shard); first <= inum && inum <= last && w.left[shard].none.Load() {
			tx.OnCommit(func(uint64) { w.left[shard].none.Store(false) })
		}
	}
}

// freshInum returns a number that has no key in any snapshot, not even of an inode that was deleted.
func (w *Writer) freshInum(tx *trans.Tx, shard int) (uint64, error) {
	first, last := w.inums.bounds(shard)
	start := w.shards[shard].Load()
	if start == 0 {
		k, ok, err := tx.Iter(ondisk.BtreeInodes, ondisk.Pos{Offset: last, Snapshot: math.MaxUint32}, trans.AllSnapshots).
			PeekPrev(ondisk.Pos{Offset: first})
		if err != nil {
			return 0, err
		}
		if ok {
			start = k.Pos.Offset
		}
	}
	if start < first || start >= last {
		start = first
	}
	inum, ok, err := freeInum(tx, start, last)
	if !ok && err == nil && start > first {
		inum, ok, err = freeInum(tx, first, start-1)
	}
	if err != nil {
		return 0, err
	}
	if !ok {
		return 0, ErrNoInums
	}
	hint := &w.shards[shard]
	tx.OnCommit(func(uint64) { hint.Store(inum) })
	return inum, nil
}

// freeInum returns the first number from first to last without any key.
func freeInum(tx *trans.Tx, first, last uint64) (inum uint64, ok bool, err error) {
	it := tx.Iter(ondisk.BtreeInodes, ondisk.Pos{Offset: first}, trans.AllSnapshots|trans.Scanning)
	defer it.Close()
	for inum = first; ; {
		k, some, err := it.PeekMax(ondisk.Pos{Offset: last, Snapshot: math.MaxUint32})
		if err != nil {
			return 0, false, err
		}
		if !some || k.Pos.Offset > inum {
			// Nothing was locked so far. It is to be still so, and to stay.
			free := tx.Iter(ondisk.BtreeInodes, ondisk.Pos{Offset: inum}, trans.AllSnapshots|trans.Intent)
			if _, taken, err := free.PeekMax(ondisk.Pos{Offset: inum, Snapshot: math.MaxUint32}); err != nil || !taken {
				return inum, err == nil, err
			}
		}
		if inum >= last {
			return 0, false, nil
		}
		inum++
		it.Seek(ondisk.Pos{Offset: inum})
	}
}
