package engine_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/go-bcachefs/bcachefs"
	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/data"
	"github.com/go-bcachefs/bcachefs/internal/engine"
	"github.com/go-bcachefs/bcachefs/internal/enginetest"
	"github.com/go-bcachefs/bcachefs/internal/fsck/fscktest"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// Errors of members are counted in the superblocks: after a while, with whatever changes them, and at the latest when the filesystem is closed.
func TestMemberErrors(t *testing.T) {
	shape := enginetest.Shape{Bytes: []int64{32 << 20, 32 << 20},
		Options: bcachefs.FormatOptions{Options: map[string]string{"data_replicas": "2"}}}
	shape.Devices = make([]bcachefs.FormatDevice, 2)
	d, err := enginetest.Format(t.Context(), &shape)
	if err != nil {
		t.Fatal(err)
	}
	var faults []*blockdev.Faulter
	for i, dev := range d.Devices {
		faults = append(faults, blockdev.NewFaulter(dev))
		d.Devices[i] = faults[i]
	}
	open := func(interval time.Duration) *engine.RW {
		t.Helper()
		rw, err := d.Open(t.Context(), engine.Options{}, engine.WriteOptions{ErrorsInterval: interval})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(rw.Abandon)
		return rw
	}
	stored := func() (all [][3]uint64) {
		t.Helper()
		fs, err := d.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer fs.Close()
		table, err := fs.Engine().SB.Members()
		if err != nil {
			t.Fatal(err)
		}
		for i := range table {
			all = append(all, table[i].Errors)
		}
		return all
	}
	rw := open(time.Hour)
	v, err := enginetest.NewVolume(t.Context(), rw, nil)
	if err != nil {
		t.Fatal(err)
	}
	inum, _, err := v.Create(t.Context(), 4096, "file", false, 1)
	if err != nil {
		t.Fatal(err)
	}
	id := data.ID{Subvol: 1, Inum: inum}
	content := bytes.Repeat([]byte("errors are counted. "), 5000)
	if _, _, err := data.NewWriter(rw.DataConfig()).WriteAt(t.Context(), id, content, 0, nil); err != nil {
		t.Fatal(err)
	}
	read := func(rw *engine.RW) {
		t.Helper()
		got := make([]byte, len(content))
		if _, err := data.NewWriter(rw.DataConfig()).ReadAt(t.Context(), id, got, 0); err != nil || !bytes.Equal(got, content) {
			t.Fatal(err)
		}
	}
	var k ondisk.Key
	err = rw.Store.View(t.Context(), func(tx *trans.Tx) error {
		k, _, err = tx.Iter(ondisk.BtreeExtents, ondisk.Pos{Inode: inum}, trans.AllSnapshots).Peek()
		k = k.Clone()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	ptrs, _, err := ondisk.AppendExtentPtrs(nil, &k, rw.SB.ExtentTypeU64s())
	if err != nil || len(ptrs) != 2 {
		t.Fatal(ptrs, err)
	}
	first := ptrs[0]
	faults[first.Dev].SetRules(blockdev.Rule{Ops: blockdev.OpRead, Off: int64(first.Offset) * ondisk.SectorSize, Len: 512, Count: 1})
	read(rw)
	rw.DataConfig().OnWriteError(1-first.Dev, errors.New("injected"))
	if err := rw.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := stored()
	if n := s[first.Dev]; n[0] == 0 || n[1] != 0 || n[2] != 0 {
		t.Errorf("one read failed: counted %v", n)
	}
	if n := s[1-first.Dev]; n != [3]uint64{0, 1, 0} {
		t.Errorf("one write failed: counted %v", n)
	}

	// A wrong checksum, and nobody closes the filesystem.
	before := s[first.Dev]
	faults[first.Dev].SetRules(blockdev.Rule{Ops: blockdev.OpRead, Off: int64(first.Offset) * ondisk.SectorSize, Len: 512,
		Corrupt: func(p []byte, _ int64) { p[0] ^= 1 }})
	rw = open(time.Millisecond)
	if s := stored(); s[first.Dev] != before {
		t.Errorf("counted %v, was %v", s[first.Dev], before)
	}
	read(rw)
	deadline := time.Now().Add(10 * time.Second)
	for stored()[first.Dev][2] == 0 {
		if time.Now().After(deadline) {
			t.Fatal("the counters do not get to the superblocks")
		}
		time.Sleep(5 * time.Millisecond)
	}
	faults[first.Dev].SetRules()
	if err := rw.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := stored()[first.Dev]; n[0] != before[0] || n[2] > 4 {
		t.Errorf("counted %v, was %v", n, before)
	}
	o, names := fscktest.OnDevices(d.Devices...)
	o.MustBeClean(t, names...)
}
