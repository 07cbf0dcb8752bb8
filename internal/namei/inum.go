package namei

import (
	"math"
	"math/bits"

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

// newInum finds a number for an inode in a directory: one that has no key in any snapshot, not even of an inode that was deleted. So no
// number comes back while there may be somebody who remembers it. It is the next behind the last one that was given
// out, or that is in use when the filesystem was opened; only when the range is at its end are gaps looked for.
//
// The leaf where it is not stays locked: nobody else gets it.
func (w *Writer) newInum(tx *trans.Tx, dir ID) (uint64, error) {
	shard := w.shardOf(dir)
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
