package ondisk

import (
	"bytes"
	"testing"
)

// TestPut checks that values are the same whether they are returned or written in place, and that the latter does not allocate.
func TestPut(t *testing.T) {
	a := Alloc{Gen: 3, OldestGen: 2, DataType: DataUser, StripeRedundancy: 1, DirtySectors: 7, CachedSectors: 8, StripeSectors: 9, Stripe: 10,
		NeedDiscard: true, NeedIncGen: true, JournalSeqNonempty: 1 << 40, JournalSeqEmpty: 5, IOTime: [2]uint64{11, 12},
		NrExternalBackpointers: 13}.Upgrade()
	bp := Backpointer{Btree: BtreeReflink, Level: 1, DataType: DataUser, BucketLen: 128, Pos: Pos{1, 2, 3}}
	bp.SetBucketOffset(0x123456789a)
	val := bytes.Repeat([]byte{0xff}, AllocV4Size)
	allocs := testing.AllocsPerRun(10, func() { a.Put(val) })
	if got := a.Encode(); !bytes.Equal(got, val) || allocs != 0 {
		t.Errorf("alloc: put %x, encoded %x, %v allocations", val, got, allocs)
	}
	allocs = testing.AllocsPerRun(10, func() { bp.Put(val) })
	if got := bp.Encode(); !bytes.Equal(got, val[:BackpointerSize]) || allocs != 0 {
		t.Errorf("backpointer: put %x, encoded %x, %v allocations", val[:BackpointerSize], got, allocs)
	}
}
