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

// A hole is told of while the leaf that it is in is locked: nothing can come into being there until the scan moves on.
func TestScanHoldsHoles(t *testing.T) {
	w := newWorld(t, nil)
	const n = 3000 // in several leaves
	at := func(i uint64) ondisk.Pos { return ondisk.Pos{Inode: 1, Offset: i} }
	for i := range uint64(n) {
		w.update(func(tx *Tx) error { return tx.Update(ondisk.BtreeBucketGens, cookie(at(i), i), 0) })
	}
	for i := uint64(100); i < n-100; i++ {
		w.update(func(tx *Tx) error { return tx.Update(ondisk.BtreeBucketGens, ondisk.Key{Pos: at(i)}, 0) })
		if i%2 == 1 { // they stay apart
			w.s.merges.drain()
		}
	}
	pieces, next := 0, at(0)
	err := w.s.View(t.Context(), func(tx *Tx) error {
		return tx.Scan(ondisk.BtreeBucketGens, at(0), at(2*n), Slots, func(k ondisk.Key, holeEnd ondisk.Pos) (bool, error) {
			if k.Pos != next {
				t.Errorf("%v comes where %v should", k.Pos, next)
			}
			if next = k.Pos.NextSlot(); k.Type != ondisk.KeyDeleted {
				return true, nil
			}
			pieces++
			next = holeEnd
			for _, p := range []ondisk.Pos{k.Pos, at(holeEnd.Offset - 1)} {
				b, err := w.s.find(t.Context(), &w.s.trees[ondisk.BtreeBucketGens], 0, p)
				if err != nil {
					return false, err
				}
				if w.free(&b.lock) {
					t.Errorf("the leaf of %v is not locked while the hole from %v to %v is shown", p, k.Pos, holeEnd)
				}
			}
			return true, nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	if pieces < 2 || next != at(2*n).NextSlot() {
		t.Errorf("%d pieces up to %v", pieces, next)
	}
}
