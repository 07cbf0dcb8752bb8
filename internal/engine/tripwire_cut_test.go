package engine_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/alloc"
	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
	"github.com/go-bcachefs/bcachefs/internal/enginetest"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// Pieces of a key that is cut take its place without a look at the write buffer. That hides no second owner: neither one that comes with the same
// transaction, before the piece or after it, nor one that was there.
func TestTripwireOfPieces(t *testing.T) {
	for _, tt := range []struct {
		name string
		csum checksum.Type // None: none
		// first is whether the other owner's triggers run before those of the key that is cut.
		first  bool
		inject func(w *cutTripwire) error
		caught bool
	}{
		{name: "nobody else", csum: checksum.CRC32C, inject: func(w *cutTripwire) error { return w.cut(nil) }},
		{name: "nobody else, without checksums", inject: func(w *cutTripwire) error { return w.cut(nil) }},
		{name: "with the transaction, behind", csum: checksum.CRC32C, inject: (*cutTripwire).cutAndShare, caught: true},
		{name: "with the transaction, before", csum: checksum.CRC32C, first: true, inject: (*cutTripwire).cutAndShare, caught: true},
		{name: "with the transaction, behind, without checksums", inject: (*cutTripwire).cutAndShare, caught: true},
		{name: "with the transaction, before, without checksums", first: true, inject: (*cutTripwire).cutAndShare, caught: true},
		{name: "the first piece, with the transaction", csum: checksum.CRC32C, inject: (*cutTripwire).shareFirst, caught: true},
		{name: "before the transaction", csum: checksum.CRC32C, inject: func(w *cutTripwire) error {
			w.backpointer(ondisk.KeyBackpointer)
			w.flush()
			return w.cut(nil)
		}, caught: true},
		{name: "not any more", csum: checksum.CRC32C, inject: func(w *cutTripwire) error {
			w.backpointer(ondisk.KeyBackpointer)
			w.flush()
			w.backpointer(ondisk.KeyDeleted)
			return w.cut(nil)
		}},
		{name: "after the cut, as one of the piece", csum: checksum.CRC32C, inject: func(w *cutTripwire) error {
			if err := w.cut(nil); err != nil {
				return err
			}
			return w.put(w.stolen)
		}, caught: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newCutTripwire(t, tt.csum, tt.first)
			err := tt.inject(w)
			if !tt.caught {
				if err != nil || w.v.RW.Err() != nil {
					t.Errorf("%v, read-only because of %v", err, w.v.RW.Err())
				}
				return
			}
			var be *alloc.BucketError
			if !errors.As(err, &be) || be.ID != "duplicate_backpointer" {
				t.Fatalf("got %v", err)
			}
			if rw := w.v.RW; rw.Err() == nil || !strings.Contains(rw.Err().Error(), be.ID) {
				t.Errorf("read-only because of %v", rw.Err())
			}
		})
	}
}

// A cut needs nothing of the write buffer: what is in there stays.
func TestCutDoesNotFlush(t *testing.T) {
	w := newCutTripwire(t, checksum.CRC32C, false)
	if err := w.v.RW.Journal.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	had := w.v.RW.Store.Stats().Buffered
	if err := w.cut(nil); err != nil {
		t.Fatal(err)
	}
	if n := w.v.RW.Store.Stats().Buffered; had == 0 || n < had {
		t.Errorf("%d buffered updates, %d before", n, had)
	}
}

// cutTripwire is a tripwire whose other file has an extent that is to be cut: from sector 16 of it to sector 32.
type cutTripwire struct {
	*tripwire
	whole  ondisk.Key
	stolen ondisk.Key // of the one file, but with the place of the piece that is left behind the cut
}

func newCutTripwire(t *testing.T, csum checksum.Type, first bool) *cutTripwire {
	w := &cutTripwire{tripwire: newTripwire(t)}
	ctx := t.Context()
	blocks := uint64(w.v.RW.Devices.Get(0).BucketSize) / 4
	var inums [2]uint64
	for i := range inums {
		var err error
		if inums[i], _, err = w.v.Create(ctx, ondisk.RootInum, fmt.Sprint("cut-", i), false, 1); err != nil {
			t.Fatal(err)
		}
	}
	mine, theirs := inums[1], inums[0]
	if first {
		mine, theirs = theirs, mine
	}
	for _, inum := range inums {
		if _, err := w.v.Write(ctx, inum, 0, blocks, enginetest.WriteOptions{Checksum: csum}); err != nil {
			t.Fatal(err)
		}
	}
	w.whole, w.stolen = w.firstKey(theirs), w.firstKey(mine)
	w.stolen = ondisk.CutFront(&w.whole, cutEnd, w.v.RW.SB.ExtentTypeU64s())
	w.stolen.Pos.Inode = mine
	if w.firstKey(mine).Pos != w.stolen.Pos {
		t.Fatal("the files are not alike")
	}
	return w
}

// What is cut out of the key.
const cutStart, cutEnd = 16, 32

// cut makes the hole, with what more does.
func (w *cutTripwire) cut(more func(tx *trans.Tx) error) error {
	return w.v.RW.Store.Update(w.Context(), func(tx *trans.Tx) error {
		hole := ondisk.Key{Pos: w.whole.Pos, Size: cutEnd - cutStart}
		hole.Pos.Offset = cutEnd
		if err := tx.Update(ondisk.BtreeExtents, hole, 0); err != nil || more == nil {
			return err
		}
		return more(tx)
	})
}

// cutAndShare has the other file get the same place as the piece behind the hole.
func (w *cutTripwire) cutAndShare() error {
	return w.cut(func(tx *trans.Tx) error { return tx.Update(ondisk.BtreeExtents, w.stolen, 0) })
}

// shareFirst has it get that of the piece before the hole.
func (w *cutTripwire) shareFirst() error {
	k := ondisk.CutBack(&w.whole, cutStart)
	k.Pos.Inode, k.Pos.Offset = w.stolen.Pos.Inode, 1<<20
	return w.cut(func(tx *trans.Tx) error { return tx.Update(ondisk.BtreeExtents, k, 0) })
}

// backpointer says that the other file has the place of the piece behind the hole, or not any more.
func (w *cutTripwire) backpointer(typ ondisk.KeyType) {
	ptrs, _, err := ondisk.AppendExtentPtrs(nil, &w.stolen, w.v.RW.SB.ExtentTypeU64s())
	if err != nil {
		w.Fatal(err)
	}
	p := &ptrs[0]
	k := ondisk.Key{Type: typ, Pos: ondisk.BackpointerPos(uint64(p.Dev), p.Offset, p.CRC.Offset, ondisk.DefaultBackpointerShift)}
	if typ != ondisk.KeyDeleted {
		bp := ondisk.Backpointer{Btree: ondisk.BtreeExtents, DataType: ondisk.DataUser, BucketLen: w.stolen.Size, Pos: w.stolen.Pos}
		k.Val = bp.Encode()
	}
	err = w.v.RW.Store.Update(w.Context(), func(tx *trans.Tx) error {
		tx.UpdateBuffered(ondisk.BtreeBackpointers, k)
		return nil
	})
	if err != nil {
		w.Fatal(err)
	}
}

func (w *cutTripwire) flush() {
	if err := w.v.RW.Store.FlushWriteBuffer(w.Context()); err != nil {
		w.Fatal(err)
	}
}

func (w *cutTripwire) firstKey(inum uint64) (k ondisk.Key) {
	err := w.v.RW.Store.View(w.Context(), func(tx *trans.Tx) (err error) {
		k, _, err = tx.Iter(ondisk.BtreeExtents, ondisk.Pos{Inode: inum, Snapshot: ^uint32(0)}, 0).Peek()
		return err
	})
	if err != nil {
		w.Fatal(err)
	}
	return k
}
