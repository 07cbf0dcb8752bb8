package engine_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/alloc"
	"github.com/go-bcachefs/bcachefs/internal/enginetest"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// Two owners of a bucket, injected into a filesystem: the operation fails, nothing is written any more, and the message names bucket, device
// and both owners, also if one of them is known to the write buffer only. What is on disk stays sound.
func TestTripwire(t *testing.T) {
	for _, tt := range []struct {
		name   string
		inject func(w *tripwire) error
		id     string
		want   []string
	}{
		{"duplicate backpointer", func(w *tripwire) error {
			return w.put(w.extent(w.mine, w.theirs.ptr))
		}, "duplicate_backpointer", []string{"THEIRS", "MINE"}},
		{"pointer of a generation to come", func(w *tripwire) error {
			p := w.theirs.ptr
			p.Gen++
			return w.put(w.extent(w.mine, p))
		}, "ptr_gen_newer_than_bucket_gen", []string{"THEIRS", "MINE"}},
		{"pointer of a generation gone by", func(w *tripwire) error {
			p := w.theirs.ptr
			p.Gen--
			return w.put(w.extent(w.mine, p))
		}, "stale_dirty_ptr", []string{"THEIRS", "MINE"}},
		{"data for a bucket that nobody opened", func(w *tripwire) error {
			p := w.theirs.ptr
			p.Offset, p.Gen = w.freeBucket()
			return w.put(w.extent(w.mine, p))
		}, "alloc_key_to_nonempty_not_open", []string{"MINE"}},
		{"a bucket that is not free is to be opened", func(w *tripwire) error {
			if err := w.usedBehindTheIndex(); err != nil {
				return err
			}
			return w.allocateAll()
		}, "need_discard_freespace_key_bad", []string{"THEIRS"}}, // it may be wanted for a btree node first
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newTripwire(t)
			err := tt.inject(w)
			var be *alloc.BucketError
			if !errors.As(err, &be) || !errors.Is(err, alloc.ErrInconsistent) || be.ID != tt.id {
				t.Fatalf("got %v, want %s", err, tt.id)
			}
			want := []string{"device 0 bucket "}
			for _, who := range tt.want {
				f := &w.theirs
				if who == "MINE" {
					f = &w.mine
				}
				want = append(want, fmt.Sprintf("%v of btree extents", f.end))
			}
			for _, s := range want {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("%q is not in the message: %v", s, err)
				}
			}
			rw := w.v.RW
			if rw.Err() == nil || !strings.Contains(rw.Err().Error(), tt.id) {
				t.Errorf("read-only because of %v", rw.Err())
			}
			if _, _, err := w.v.Create(t.Context(), ondisk.RootInum, "more", false, 9); err == nil {
				t.Error("a file was created after that")
			}
			if err := rw.Close(t.Context()); err == nil {
				t.Error("it was shut down cleanly")
			}
		})
	}
}

// tripwire is a filesystem with two files: one has data, the other is to get some.
type tripwire struct {
	*stress
	v            *enginetest.Volume
	theirs, mine tripwireFile
}

type tripwireFile struct {
	end ondisk.Pos // of its extent
	ptr ondisk.ExtentPtr
}

func newTripwire(t *testing.T) *tripwire {
	s := newStress(t, shape("", nil, 24))
	w := &tripwire{stress: s, v: s.open()}
	ctx := t.Context()
	for i, f := range []*tripwireFile{&w.theirs, &w.mine} {
		inum, _, err := w.v.Create(ctx, ondisk.RootInum, fmt.Sprint("file-", i), false, 1)
		if err != nil {
			t.Fatal(err)
		}
		f.end = ondisk.Pos{Inode: inum, Offset: 16, Snapshot: ^uint32(0)}
	}
	// Up to its end a bucket is open, so it is filled.
	size := uint64(w.v.RW.Devices.Get(0).BucketSize) / 8
	if _, err := w.v.Write(ctx, w.theirs.end.Inode, 0, size*2, enginetest.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	err := w.v.RW.Store.View(ctx, func(tx *trans.Tx) error {
		k, _, err := tx.Iter(ondisk.BtreeExtents, ondisk.Pos{Inode: w.theirs.end.Inode, Snapshot: ^uint32(0)}, 0).Peek()
		if err != nil {
			return err
		}
		ptrs, _, err := ondisk.AppendExtentPtrs(nil, &k, w.v.RW.SB.ExtentTypeU64s())
		if err == nil {
			w.theirs.end, w.theirs.ptr = k.Pos, ptrs[0].ExtentPtr
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// extent returns an extent of a file that points to a place.
func (w *tripwire) extent(f tripwireFile, p ondisk.ExtentPtr) ondisk.Key {
	return ondisk.Key{Type: ondisk.KeyExtent, Pos: f.end, Size: 16, Val: ondisk.AppendExtentEntry(nil, &ondisk.ExtentEntry{Type: ondisk.EntryPtr, Ptr: p})}
}

func (w *tripwire) put(k ondisk.Key) error {
	return w.v.RW.Store.Update(w.Context(), func(tx *trans.Tx) error { return tx.Update(ondisk.BtreeExtents, k, 0) })
}

// freeBucket returns the first sector of a bucket that is free.
func (w *tripwire) freeBucket() (at ondisk.Sector, gen uint8) {
	dev := w.v.RW.Devices.Get(0)
	err := w.v.RW.Store.View(w.Context(), func(tx *trans.Tx) error {
		for b := ondisk.Bucket(dev.NBuckets - 1); ; b-- {
			a, err := alloc.GetAlloc(tx, 0, b, 0)
			if err != nil {
				return err
			}
			if a.DataType == ondisk.DataFree && w.v.RW.Alloc.Claim(0, b) == alloc.NotClaimed {
				at, gen = dev.Sector(b), a.Gen
				return nil
			}
		}
	})
	if err != nil {
		w.Fatal(err)
	}
	return at, gen
}

// usedBehindTheIndex makes all free buckets ones that the other file fills, of which freespace knows nothing.
func (w *tripwire) usedBehindTheIndex() error {
	dev := w.v.RW.Devices.Get(0)
	return w.v.RW.Store.Update(w.Context(), func(tx *trans.Tx) error {
		for b := ondisk.Bucket(dev.FirstBucket); b < dev.NBuckets; b++ {
			a, err := alloc.GetAlloc(tx, 0, b, trans.ForUpdate)
			if err != nil {
				return err
			}
			if a.DataType != ondisk.DataFree || w.v.RW.Alloc.Claim(0, b) != alloc.NotClaimed {
				continue
			}
			a.DataType, a.DirtySectors = ondisk.DataUser, 8
			if err := alloc.SetAlloc(tx, 0, b, &a, trans.NoTriggers); err != nil {
				return err
			}
			from, _ := alloc.BackpointersOf(dev, b)
			bp := ondisk.Backpointer{Btree: ondisk.BtreeExtents, DataType: ondisk.DataUser, BucketLen: 8, Pos: w.theirs.end}
			tx.UpdateBuffered(ondisk.BtreeBackpointers, ondisk.Key{Type: ondisk.KeyBackpointer, Pos: from, Val: bp.Encode()})
		}
		return nil
	})
}

// allocateAll takes all the space there is.
func (w *tripwire) allocateAll() error {
	var all []*alloc.Allocation
	defer func() {
		for _, al := range all {
			al.Done(context.Background())
		}
	}()
	for point := alloc.WritePoint(1); ; point++ {
		al := new(alloc.Allocation)
		req := alloc.Request{Sectors: 64, DataType: ondisk.DataUser, WritePoint: point, Replicas: 1,
			Owner: alloc.Owner{Btree: ondisk.BtreeExtents, Pos: w.mine.end, Sectors: 64}}
		if err := w.v.RW.Alloc.AllocSectors(w.Context(), &req, al); err != nil {
			return err
		}
		all = append(all, al)
	}
}
