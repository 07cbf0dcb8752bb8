package trans

import (
	"fmt"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// TestScanHoles: where keys have no snapshots, a hole begins at the slot behind a key and ends at one.
func TestScanHoles(t *testing.T) {
	w := newWorld(t, nil)
	for _, b := range []uint64{3, 4, 7} {
		w.update(func(tx *Tx) error {
			return tx.Update(ondisk.BtreeBucketGens, cookie(ondisk.Pos{Inode: 1, Offset: b}, b), 0)
		})
	}
	scan := func(btree ondisk.BtreeID, from, to ondisk.Pos, flags ReadFlags) (got []string) {
		err := w.s.View(t.Context(), func(tx *Tx) error {
			got = nil
			return tx.Scan(btree, from, to, flags, func(k ondisk.Key, holeEnd ondisk.Pos) (bool, error) {
				s := k.Pos.String()
				if k.Type == ondisk.KeyDeleted {
					s = fmt.Sprintf("[%v %v)", k.Pos, holeEnd)
				}
				got = append(got, s)
				return true, nil
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	at := func(b uint64) ondisk.Pos { return ondisk.Pos{Inode: 1, Offset: b} }
	for _, tt := range []struct {
		from, to uint64
		want     string
	}{
		{0, 9, "[[1:0:0 1:3:0) 1:3:0 1:4:0 [1:5:0 1:7:0) 1:7:0 [1:8:0 1:10:0)]"},
		{3, 4, "[1:3:0 1:4:0]"},
		{5, 6, "[[1:5:0 1:7:0)]"},
		{7, 7, "[1:7:0]"},
	} {
		if got := fmt.Sprint(scan(ondisk.BtreeBucketGens, at(tt.from), at(tt.to), Slots)); got != tt.want {
			t.Errorf("%d to %d: %s, want %s", tt.from, tt.to, got, tt.want)
		}
	}
	// To the very last slot of a btree of extents.
	w.update(func(tx *Tx) error {
		return tx.Update(ondisk.BtreeFreespace, ondisk.FreespaceRange{Dev: 1, First: 10, Len: 5}.Key(), 0)
	})
	if got := fmt.Sprint(scan(ondisk.BtreeFreespace, ondisk.PosMin, ondisk.SPosMax, 0)); got != "[1:15:0]" {
		t.Errorf("all extents: %s", got)
	}
}
