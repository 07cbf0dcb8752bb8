package data_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/data"
	"github.com/go-bcachefs/bcachefs/internal/enginetest"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// faulty puts a device that fails by rules in place of each.
func (w *world) faulty() (all []*blockdev.Faulter) {
	w.Helper()
	w.must(w.rw.Close(w.Context()))
	for i, d := range w.disks.Devices {
		f := blockdev.NewFaulter(d)
		all = append(all, f)
		w.disks.Devices[i] = f
	}
	w.open()
	return all
}

// pointers returns those of a key.
func (w *world) pointers(k *ondisk.Key) []ondisk.DecodedPtr {
	w.Helper()
	ptrs, _, err := ondisk.AppendExtentPtrs(nil, k, w.rw.SB.ExtentTypeU64s())
	w.must(err)
	return ptrs
}

// settle waits until all repairs are done.
func (w *world) settle() data.RepairStats {
	w.Helper()
	for range 2000 {
		if s := w.rw.Repairs(); s.Waiting == 0 {
			return s
		}
		time.Sleep(time.Millisecond)
	}
	w.Fatalf("repairs do not end: %+v", w.rw.Repairs())
	panic("not reached")
}

// readFresh reads a file with a reader that has no opinion of the devices yet.
func (w *world) readFresh(f *modelFile) {
	w.Helper()
	got := make([]byte, len(f.content))
	n, err := data.NewWriter(w.rw.DataConfig()).ReadAt(w.Context(), f.id, got, 0)
	if err != nil && !errors.Is(err, io.EOF) || n != len(got) || !bytes.Equal(got, f.content) {
		w.Fatalf("%s: %d bytes, %v", f.name, n, err)
	}
}

func repairShapes() []enginetest.Shape {
	mirrored := func(name string, options map[string]string) enginetest.Shape {
		o := map[string]string{"data_replicas": "2"}
		maps.Copy(o, options)
		return shape(name, o, 32, 32)
	}
	encrypted := mirrored("encrypted", map[string]string{"compression": "lz4"})
	encrypted.Options.Encrypted = true
	return []enginetest.Shape{mirrored("plain", nil), mirrored("compressed", map[string]string{"compression": "zstd"}), encrypted,
		mirrored("nocow", map[string]string{"nocow": "1"})}
}

// corrupt changes a byte of a device.
func corrupt(ctx context.Context, d blockdev.Device, off int64) error {
	p := make([]byte, 1)
	if err := d.ReadAt(ctx, p, off); err != nil {
		return err
	}
	p[0] ^= 0x55
	return d.WriteAt(ctx, p, off)
}

// A replica that is damaged, or cannot be read, is written anew from the other one once somebody reads it.
func TestReadRepair(t *testing.T) {
	for _, s := range repairShapes() {
		for _, damage := range []string{"corrupt", "unreadable"} {
			if damage == "corrupt" && s.Name == "nocow" {
				continue // nobody can tell
			}
			t.Run(s.Name+" "+damage, func(t *testing.T) {
				w := newWorld(t, s)
				r := rand.New(rand.NewPCG(5, 5))
				faults := w.faulty()
				f, g := w.file("file"), w.file("copy")
				for n := range 8 {
					w.write(f, random(r, 96<<10), n*100<<10)
				}
				w.copyRange(f, 200<<10, g, 0, 96<<10) // shared
				w.snapshot("snapshot")
				w.write(f, random(r, 8<<10), 400<<10)
				before := w.pointed(t.Context())
				var bad []ondisk.ExtentPtr
				var rules [2][]blockdev.Rule
				for i := range before {
					ptrs := w.pointers(&before[i].Key)
					p := ptrs[ptrs[0].Offset/8%2].ExtentPtr // the same one of keys that share a piece
					bad = append(bad, p)
					off := int64(p.Offset) * ondisk.SectorSize
					if damage == "corrupt" {
						w.must(corrupt(t.Context(), faults[bad[i].Dev].Device, off+int64(r.IntN(400))))
					} else {
						rules[p.Dev] = append(rules[p.Dev], blockdev.Rule{Ops: blockdev.OpRead, Off: off, Len: 512})
						faults[p.Dev].SetRules(rules[p.Dev]...)
					}
				}
				for range 6 { // each reader prefers devices that it has not seen fail
					for _, f := range w.files {
						w.readFresh(f)
					}
				}
				// What no reader has met is found by asking for it.
				for i := range before {
					w.rw.DataConfig().OnBadReplica(data.BadReplica{Btree: before[i].Btree, Pos: before[i].Key.Pos, Ptr: bad[i]})
				}
				st := w.settle()
				if st.Repaired < int64(len(bad)) || st.Failed > 0 || st.Dropped > 0 {
					t.Errorf("%d were bad: %+v", len(bad), st)
				}
				after := w.pointed(t.Context())
				if len(after) < len(before) {
					t.Errorf("%d keys, there were %d", len(after), len(before))
				}
				for i := range after {
					ptrs := w.pointers(&after[i].Key)
					if len(ptrs) != 2 || ptrs[0].Dev == ptrs[1].Dev {
						t.Errorf("%v has %d replicas", after[i].Key.Pos, len(ptrs))
					}
					for _, p := range ptrs {
						if slices.Contains(bad, p.ExtentPtr) {
							t.Errorf("%v still points to what is bad", after[i].Key.Pos)
						}
					}
				}
				for _, f := range faults { // buckets with sectors that cannot be read may be in use again
					f.SetRules()
				}
				w.eachReplica()
				w.end()
			})
		}
	}
}

// eachReplica reads everything from each of two devices alone.
func (w *world) eachReplica() {
	w.Helper()
	for hidden := range w.disks.Devices {
		c := w.rw.DataConfig()
		c.Device = func(dev uint8) blockdev.Device {
			if int(dev) == hidden {
				return nil
			}
			return w.rw.Device(dev)
		}
		for _, f := range w.files {
			got := make([]byte, len(f.content))
			n, err := data.NewWriter(c).ReadAt(w.Context(), f.id, got, 0)
			if err != nil && !errors.Is(err, io.EOF) || n != len(got) || !bytes.Equal(got, f.content) {
				w.Errorf("%s, without device %d: %d bytes, %v", f.name, hidden, n, err)
			}
		}
	}
}

// A replica is left as it is if it is fine, if it is not there any more, if nothing can be written, or if no other one is good; and what waits is bounded.
func TestNoRepair(t *testing.T) {
	w := newWorld(t, repairShapes()[0])
	faults := w.faulty()
	f := w.file("file")
	w.write(f, random(rand.New(rand.NewPCG(1, 2)), 64<<10), 0)
	all := w.pointed(t.Context())
	ptrs := w.pointers(&all[0].Key)
	tell := w.rw.DataConfig().OnBadReplica
	bad := data.BadReplica{Btree: all[0].Btree, Pos: all[0].Key.Pos, Ptr: ptrs[0].ExtentPtr}
	tell(bad)
	if s := w.settle(); s.Fine != 1 || s.Told != 1 {
		t.Errorf("a good one: %+v", s)
	}
	gone := bad
	gone.Ptr.Gen++
	tell(gone)
	gone = bad
	gone.Pos.Offset += 8
	tell(gone)
	if s := w.settle(); s.Gone != 2 {
		t.Errorf("others: %+v", s)
	}
	spot := func(i int) blockdev.Rule {
		return blockdev.Rule{Ops: blockdev.OpRead, Off: int64(ptrs[i].Offset) * ondisk.SectorSize, Len: 512}
	}
	faults[ptrs[0].Dev].SetRules(spot(0))
	faults[ptrs[1].Dev].SetRules(spot(1))
	tell(bad)
	if s := w.settle(); s.Failed != 1 {
		t.Errorf("without a good one: %+v", s)
	}
	tell(bad)
	if s := w.settle(); s.Failed != 1 {
		t.Errorf("once more, too soon: %+v", s)
	}
	other := data.BadReplica{Btree: bad.Btree, Pos: bad.Pos, Ptr: ptrs[1].ExtentPtr}
	faults[ptrs[0].Dev].SetRules()
	faults[ptrs[1].Dev].SetRules(spot(1), blockdev.Rule{Ops: blockdev.OpWrite, Off: 4 << 20})
	tell(other)
	if s := w.settle(); s.Failed != 2 {
		t.Errorf("when nothing can be written: %+v", s)
	}
	if now := w.pointed(t.Context()); !bytes.Equal(now[0].Key.Val, all[0].Key.Val) {
		t.Errorf("the key changed: %v", now[0].Key)
	}
	for i := range 10000 {
		gone.Pos.Offset = 1 << 20 * uint64(i+1)
		tell(gone)
	}
	if s := w.settle(); s.Dropped == 0 || s.Gone+s.Dropped != 10002 {
		t.Errorf("many: %+v", s)
	}
	for _, f := range faults {
		f.SetRules()
	}
	w.readFresh(f)
}
