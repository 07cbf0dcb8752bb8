package alloc

import "github.com/go-bcachefs/bcachefs/internal/ondisk"

// DeltaVersion returns the version of a delta in the journal: its entry's sequence number, and where in the entry it stands, in u64s from the
// start of the entry's records. A key of the btree has the version of the newest delta that was added to it, so that replay can tell which
// deltas are still to be (spec/04 § 7.3).
func DeltaVersion(seq uint64, offsetU64s uint32) ondisk.Version {
	return ondisk.Version{Hi: uint32(seq >> 32), Lo: seq<<32 | uint64(offsetU64s)}
}

// DeltaIsNew reports whether a delta is not in the key of the btree yet, by their versions.
func DeltaIsNew(delta, btree ondisk.Version) bool {
	if delta.Hi != btree.Hi {
		return delta.Hi > btree.Hi
	}
	return delta.Lo > btree.Lo
}

// AddDelta returns the sum of an accounting key, of type deleted if there is none yet, and a delta of the same position: counters that one
// of them lacks are 0, and the version is the newer one.
func AddDelta(k, delta *ondisk.Key) ondisk.Key {
	sum := ondisk.Key{Type: ondisk.KeyAccounting, Pos: delta.Pos, Version: delta.Version}
	n := ondisk.NrAccountingCounters(delta)
	old := k.Type == ondisk.KeyAccounting
	if old {
		n = max(n, ondisk.NrAccountingCounters(k))
		if DeltaIsNew(k.Version, delta.Version) {
			sum.Version = k.Version
		}
	}
	v := make([]int64, n)
	for i := range v {
		v[i] = ondisk.AccountingCounter(delta, i)
		if old {
			v[i] += ondisk.AccountingCounter(k, i)
		}
	}
	sum.Val = ondisk.EncodeAccounting(v...)
	return sum
}
