package engine_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-bcachefs/bcachefs"
	"github.com/go-bcachefs/bcachefs/internal/engine"
	"github.com/go-bcachefs/bcachefs/internal/enginetest"
	"github.com/go-bcachefs/bcachefs/internal/fsck/fscktest"
	"github.com/go-bcachefs/bcachefs/internal/golden"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

var (
	stressOps  = flag.Int("engine.ops", 250, "operations of each goroutine and round of the stress tests")
	stressLong = flag.Duration("engine.long", time.Second, "how long TestLong goes on; make stress asks for an hour")
	stressSeed = flag.Uint64("engine.seed", 1, "seed of the stress tests")
)

// ops is how many operations each goroutine makes.
func ops(t *testing.T) int { return golden.FlagTimes(t, "engine.ops", *stressOps, 100) }

// shape returns a filesystem with options.
func shape(name string, options map[string]string, mib ...int64) enginetest.Shape {
	s := enginetest.Shape{Name: name, Options: bcachefs.FormatOptions{Options: options}}
	for _, n := range mib {
		s.Bytes = append(s.Bytes, n<<20)
	}
	s.Devices = make([]bcachefs.FormatDevice, len(s.Bytes))
	return s
}

// shapes are filesystems that differ in what the engine has to do.
func shapes() []enginetest.Shape {
	early := shape("early allocator", nil, 48)
	early.NoFreespace = true
	encrypted := shape("encrypted", map[string]string{"wide_macs": "1"}, 48)
	encrypted.Options.Encrypted = true // without passphrase: to derive a key takes a second
	small := shape("small", map[string]string{"block_size": "512", "btree_node_size": "32k", "metadata_checksum": "xxhash"}, 40)
	small.Devices[0].BucketBytes = 32 << 10
	large := shape("large buckets", map[string]string{"metadata_checksum": "none", "str_hash": "crc32c"}, 512)
	large.Devices[0].BucketBytes = 2 << 20
	mixed := shape("three devices", map[string]string{"metadata_replicas": "2", "data_replicas": "2", "metadata_checksum": "crc64", "str_hash": "crc64"}, 48, 64, 40)
	mixed.Devices[1].BucketBytes = 64 << 10
	mixed.Devices[0].Discard = true
	return []enginetest.Shape{shape("plain", nil, 48), early, encrypted, small, large, mixed,
		shape("mirrored", map[string]string{"metadata_replicas": "2", "data_replicas": "2"}, 64, 64)}
}

// tiny makes the engine read nodes again and again.
var tiny = engine.Options{NodeCacheBytes: 1 << 20}

// stress is a filesystem in memory with what is known of it.
type stress struct {
	*testing.T
	shape enginetest.Shape
	disks *enginetest.Disks
	h     *enginetest.History

	// replayed says that the driver has replayed a journal in it, after which the counters of inodes may be wrong.
	replayed bool
}

func newStress(t *testing.T, s enginetest.Shape) *stress {
	t.Helper()
	engine.NoLeaks(t)
	d, err := enginetest.Format(t.Context(), &s)
	if err != nil {
		t.Fatal(err)
	}
	return &stress{T: t, shape: s, disks: d, h: enginetest.NewHistory()}
}

func (s *stress) open() *enginetest.Volume {
	s.Helper()
	rw, err := s.disks.Open(s.Context(), tiny, engine.WriteOptions{NoFreespace: s.shape.NoFreespace})
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(rw.Abandon)
	nothingUnfinished(s.T, rw)
	v, err := enginetest.NewVolume(s.Context(), rw, s.h)
	if err != nil {
		s.Fatal(err)
	}
	return v
}

// nothingUnfinished fails the test if there are notes of what has to be finished, in a filesystem that was just opened: what was
// unlinked when it crashed is gone.
func nothingUnfinished(t *testing.T, rw *engine.RW) {
	t.Helper()
	err := rw.Store.View(t.Context(), func(tx *trans.Tx) error {
		for _, btree := range []ondisk.BtreeID{ondisk.BtreeDeletedInodes, ondisk.BtreeLoggedOps} {
			if k, ok, err := tx.Iter(btree, ondisk.PosMin, trans.AllSnapshots).Peek(); ok || err != nil {
				t.Errorf("btree %v: %v %v", btree, k.Pos, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// check asks both: the model what is in the filesystem, fsck whether it is sound. Transactions that a crash undid are forgotten.
func (s *stress) check() {
	s.Helper()
	end, err := s.disks.Check(s.Context(), s.h, s.h.Acknowledged())
	if err != nil {
		s.Error(err)
	}
	s.h.Recovered(end)
	o, names := fscktest.OnDevices(s.disks.Devices...)
	o.Passphrase = string(s.disks.Passphrase)
	r := o.Check(s, names...)
	for _, f := range r.Findings {
		s.Errorf("fsck: %s: %v", f.Pass, &f)
	}
	for _, n := range r.Notes {
		if !s.replayed && strings.Contains(n, "have counters of extents") {
			s.Error("fsck: " + n)
		}
	}
	if s.Failed() {
		s.FailNow()
	}
}

func (s *stress) run(v *enginetest.Volume, w enginetest.Work) enginetest.Done {
	s.Helper()
	done, err := v.Run(s.Context(), w)
	if err != nil {
		s.Fatal(err)
	}
	return done
}

func (s *stress) close(v *enginetest.Volume) {
	s.Helper()
	closeRW(s.T, v.RW)
	u := v.RW.Space.Usage()
	if want := v.RW.Accounting.Totals(v.RW.Devices); u.Totals != want || u.Promised != 0 {
		s.Errorf("space is reckoned with %+v, %d sectors are promised; the accounting has %+v", u.Totals, u.Promised, want)
	}
}

// Several goroutines work on a filesystem, which is closed, or abandoned as in a crash, opened again, and so on.
func TestStress(t *testing.T) {
	for i, sh := range shapes() {
		t.Run(sh.Name, func(t *testing.T) {
			t.Parallel()
			s := newStress(t, sh)
			for round, goroutines := range []int{1, 8, 2, 4} {
				seed := *stressSeed*1000 + uint64(10*i+round)
				v := s.open()
				d := s.run(v, enginetest.Work{Seed: seed, Goroutines: goroutines, Ops: ops(t), SyncEvery: 10, MaxBlocks: 10, Verify: true, Full: true})
				if !d.Full && (d.Ops == d.Refused || d.Verified == 0) {
					t.Errorf("%+v", d)
				}
				if round%2 == 0 {
					s.close(v)
				} else {
					v.RW.Abandon()
				}
				s.check()
			}
		})
	}
}

// A filesystem is abandoned in the middle of the work of many.
func TestStressCrash(t *testing.T) {
	for i, sh := range shapes() {
		t.Run(sh.Name, func(t *testing.T) {
			t.Parallel()
			s := newStress(t, sh)
			for round := range 4 {
				v := s.open()
				ctx, cancel := context.WithCancel(t.Context())
				crash := make(chan struct{})
				go func() {
					defer close(crash)
					<-ctx.Done()
					v.RW.Abandon()
				}()
				_, err := v.Run(t.Context(), enginetest.Work{Seed: *stressSeed*1000 + uint64(10*i+round), Goroutines: 4, Ops: ops(t), SyncEvery: 10, MaxBlocks: 10,
					At: map[int64]func(){int64(ops(t)): cancel}})
				cancel()
				<-crash
				if err == nil {
					t.Error("nothing failed")
				}
				s.check()
			}
		})
	}
}

// A filesystem is filled until there is no space left, emptied, and filled again.
func TestStressFull(t *testing.T) {
	for i, sh := range []enginetest.Shape{shape("one device", nil, 24),
		shape("mirrored", map[string]string{"metadata_replicas": "2", "data_replicas": "2"}, 24, 24),
	} {
		for _, early := range []bool{false, true} {
			sh.NoFreespace = early
			t.Run(fmt.Sprintf("%s, early allocator %v", sh.Name, early), func(t *testing.T) {
				t.Parallel()
				s := newStress(t, sh)
				for round := range 2 {
					v := s.open()
					d := s.run(v, enginetest.Work{Seed: *stressSeed*1000 + uint64(10*i+round), Goroutines: 4, Ops: 1 << 20, SyncEvery: 50, MaxBlocks: 200, Full: true, Grow: true})
					if !d.Full {
						t.Fatalf("it was not filled: %+v", d)
					}
					// Who was refused wanted 128 sectors of each replica at most; the others had been promised as much, and may have deleted files meanwhile.
					if u := d.AtFull; u.Free > u.Capacity/4 {
						t.Errorf("it is called full with %d of %d sectors free", u.Free, u.Capacity)
					}
					u := v.RW.Space.Usage()
					for end := time.Now().Add(10 * time.Second); u.Promised != 0 && time.Now().Before(end); u = v.RW.Space.Usage() {
						time.Sleep(time.Millisecond) // copygc may be at work, to which some is promised
					}
					if u.Promised != 0 {
						t.Errorf("%d sectors are promised, and to nobody", u.Promised)
					}
					// What needs no space for data still works, as does what makes room.
					s.run(v, enginetest.Work{Seed: *stressSeed*1000 + uint64(10*i+round), Goroutines: 4, Ops: 400, SyncEvery: 50, Shrink: true})
					if err := v.Empty(t.Context()); err != nil {
						t.Fatal(err)
					}
					if round == 0 {
						s.close(v)
					} else {
						v.RW.Abandon()
					}
					s.check()
				}
			})
		}
	}
}

// A context that ends makes closing give up; the next who opens the filesystem recovers it.
func TestCloseGivesUp(t *testing.T) {
	s := newStress(t, shape("", nil, 48))
	v := s.open()
	s.run(v, enginetest.Work{Seed: 3, Goroutines: 2, Ops: 200, SyncEvery: 10})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := v.RW.Close(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("closed with %v", err)
	}
	s.check()
	v = s.open()
	s.close(v)
	s.check()
}

// What was begun before a crash is finished: a truncation of a file of more extents than one transaction deletes, and the deletion of another.
func TestFinish(t *testing.T) {
	s := newStress(t, shape("", nil, 48))
	v := s.open()
	ctx := t.Context()
	var files [2]uint64
	for i := range files {
		var err error
		if files[i], _, err = v.Create(ctx, ondisk.RootInum, fmt.Sprint("file-", i), false, 1); err != nil {
			t.Fatal(err)
		}
		for block := range uint64(100) {
			if _, err := v.Write(ctx, files[i], 2*block, 1, enginetest.WriteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	const size = 20*4096 + 100
	op := ondisk.LoggedOpTruncate{Subvol: ondisk.RootSubvol, Inum: files[0], NewSize: size}
	lost := ondisk.LoggedOpTruncate{Subvol: 77, Inum: files[0]}
	err := v.RW.Store.Update(ctx, func(tx *trans.Tx) error {
		return errors.Join(
			tx.Update(ondisk.BtreeLoggedOps, ondisk.Key{Type: ondisk.KeyLoggedOpTruncate, Pos: ondisk.Pos{Offset: 1}, Val: op.Encode()}, 0),
			tx.Update(ondisk.BtreeLoggedOps, ondisk.Key{Type: ondisk.KeyLoggedOpTruncate, Pos: ondisk.Pos{Offset: 2}, Val: lost.Encode()}, 0))
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.UnlinkOnly(ctx, ondisk.RootInum, "file-1"); err != nil {
		t.Fatal(err)
	}
	if err := v.RW.Journal.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	v.RW.Abandon()
	v = s.open()                             // finds nothing unfinished
	_, err = v.Truncate(ctx, files[0], size) // what the model does not know of yet; nothing is left to be cut
	if err != nil {
		t.Fatal(err)
	}
	s.close(v)
	s.check()
}
