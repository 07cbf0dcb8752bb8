package alloc

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// pauses makes tasks stop at points of the allocator.
type pauses struct {
	mu    sync.Mutex
	stops map[string]*stop
	seen  []string // "task point", as it happened
}

type stop struct{ reached, goOn chan struct{} }

type taskName struct{}

// task returns the context of a task.
func task(ctx context.Context, name string) context.Context {
	return context.WithValue(ctx, taskName{}, name)
}

// at makes the task stop once when it gets to a point.
func (p *pauses) at(task string, point Point) *stop {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stops == nil {
		p.stops = map[string]*stop{}
	}
	s := &stop{make(chan struct{}), make(chan struct{})}
	p.stops[task+" "+string(point)] = s
	return s
}

func (p *pauses) hook(ctx context.Context, point Point, _ uint8, _ ondisk.Bucket) {
	name, _ := ctx.Value(taskName{}).(string)
	key := name + " " + string(point)
	p.mu.Lock()
	s := p.stops[key]
	delete(p.stops, key)
	p.seen = append(p.seen, key)
	p.mu.Unlock()
	if s != nil {
		close(s.reached)
		<-s.goOn
	}
}

// race drives two tasks that each want a whole bucket: the first stops at a point while the second allocates, writes, commits and, if
// release is set, closes its bucket. It returns the sectors that they got.
func race(t *testing.T, early bool, fault Fault, at Point, release bool) (first, second ondisk.Sector, e *testEngine, al *Allocation) {
	t.Helper()
	var p pauses
	a, e := newTestAllocator(t, testConfig{devs: []testDevice{{buckets: 200, size: 64, early: early}}, cfg: Config{Hook: p.hook},
		options: []Option{WithFaults(fault)}})
	stop := p.at("first", at)
	got := make(chan error, 1)
	var al1, al2 Allocation
	go func() { got <- a.AllocSectors(task(t.Context(), "first"), userRequest(64), &al1) }()
	<-stop.reached

	// While the first task stops with a lock the commit of the second restarts until it goes on.
	done := make(chan error, 1)
	go func() {
		ctx := task(t.Context(), "second")
		req := userRequest(64)
		req.WritePoint = 2
		err := a.AllocSectors(ctx, req, &al2)
		second = al2.Ptrs()[0].Offset
		if err == nil && release {
			err = e.commit(ctx, 2, 64, &al2)
			al2.Done(ctx)
		}
		done <- err
	}()
	var err error
	ended := false
	until(t, func() bool {
		select {
		case err = <-done:
			ended = true
		default:
		}
		return ended || e.fs.Restarts() > 10
	})
	close(stop.goOn)
	if err1 := <-got; err1 != nil {
		t.Fatal(err1)
	}
	if !ended {
		err = <-done
	}
	if err != nil {
		t.Fatal(err)
	}
	return al1.Ptrs()[0].Offset, second, e, &al1
}

// TestClaimIsOneStep is about I1: lock, check and claim are one critical section.
func TestClaimIsOneStep(t *testing.T) {
	tests := []struct {
		name    string
		early   bool
		fault   Fault
		at      Point
		release bool
		dup     bool
	}{
		{"early, after the scan", true, 0, PointScanned, true, false},
		{"early without looking again", true, FaultNoRecheck, PointScanned, true, true},
		{"freelist, after the scan", false, 0, PointScanned, true, false},
		{"freelist, the first still locks", false, 0, PointChecked, true, false},
		{"early, the first still locks", true, 0, PointChecked, true, false},
		{"freelist without keeping the lock", false, FaultNoSlotLock, PointChecked, true, true},
		{"early without keeping the lock", true, FaultNoSlotLock, PointChecked, true, true},
		{"freelist, the second has it open", false, 0, PointChecked, false, false},
		{"freelist without testing twice", false, FaultNoOpenRecheck, PointChecked, false, true},
		{"early without testing twice", true, FaultNoOpenRecheck, PointChecked, false, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			first, second, e, al := race(t, tt.early, tt.fault, tt.at, tt.release)
			if dup := first == second; dup != tt.dup {
				t.Errorf("the tasks got sectors %d and %d", first, second)
			}
			err := e.commit(t.Context(), 1, 64, al)
			if tt.dup && tt.release {
				// I9: the second owner of the bucket is caught at its commit, with the other's name.
				var be *BucketError
				if !errors.As(err, &be) || !errors.Is(err, ErrInconsistent) || be.Dev != 0 || be.Bucket != ondisk.Bucket(first/64) ||
					len(be.Others) == 0 || be.Others[0].Pos.Inode != 2 {
					t.Errorf("commit of the second owner: %v", err)
				}
			} else if !tt.dup && err != nil {
				t.Error(err)
			}
		})
	}
}

// TestReleaseAfterCommit is about I2: what was handed out stays open until its owner says that it is done.
func TestReleaseAfterCommit(t *testing.T) {
	each(t, func(t *testing.T, early bool) {
		for _, fault := range []Fault{0, FaultEarlyRelease} {
			a, _ := newTestAllocator(t, testConfig{devs: []testDevice{{buckets: 64, size: 64, early: early}},
				options: []Option{WithFaults(fault)}})
			req := userRequest(64)
			req.Watermark = WatermarkReclaim
			owners := map[ondisk.Sector]bool{}
			dup := false
			for range 65 {
				var al Allocation
				if err := a.AllocSectors(t.Context(), req, &al); errors.Is(err, ErrNoSpace) {
					break
				} else if err != nil {
					t.Fatal(err)
				}
				dup = dup || owners[al.Ptrs()[0].Offset]
				owners[al.Ptrs()[0].Offset] = true
			}
			if dup != (fault != 0) {
				t.Errorf("%v: two owners for a bucket: %v", fault, dup)
			}
		}
	})
}

// TestClaimSeesCommitted is about I3: a transaction that is about to free a bucket must not be given it.
func TestClaimSeesCommitted(t *testing.T) {
	for _, fault := range []Fault{0, FaultSeePending} {
		a, e := newTestAllocator(t, testConfig{devs: []testDevice{{buckets: 64, size: 64}}, options: []Option{WithFaults(fault)}})
		var al Allocation
		if err := a.AllocSectors(t.Context(), userRequest(64), &al); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(e.commit(t.Context(), 1, 64, &al)); err != nil {
			t.Fatal(err)
		}
		al.Done(t.Context())
		if err := e.remove(t.Context(), 1, 64); err != nil {
			t.Fatal(err)
		}
		given := errors.New("given up")
		err := e.Update(t.Context(), WatermarkNormal, func(tx Tx) error {
			k, err := GetAlloc(tx, 0, 0, ForUpdate)
			if err != nil {
				return err
			}
			k.NeedDiscard, k.DataType = false, ondisk.DataFree
			if err := SetAlloc(tx, 0, 0, &k, 0); err != nil {
				return err
			}
			ob, err := a.claim(tx, &candidate{dev: a.DevSpace(0)}, &bucketRequest{watermark: WatermarkBtree})
			if err != nil {
				return err
			}
			if (ob != nil) != (fault != 0) {
				t.Errorf("%v: bucket that is to be freed: %v", fault, ob)
			}
			return given
		})
		if !errors.Is(err, given) {
			t.Error(err)
		}
	}
}

// TestDiscardTestsOpenUnderLock is about I4: the discard worker found a bucket and was slow; meanwhile it was freed, and opened, written
// and emptied by somebody who is going on to write to it.
func TestDiscardTestsOpenUnderLock(t *testing.T) {
	for _, fault := range []Fault{0, FaultDiscardTestsFirst} {
		var p pauses
		a, e := newTestAllocator(t, testConfig{devs: []testDevice{{buckets: 64, size: 64, flags: 1 << 14}}, cfg: Config{Hook: p.hook},
			options: []Option{WithFaults(fault)}})
		disk := blockdev.NewMemory(64 * 64 * ondisk.SectorSize)
		a.DevSpace(0).disk = disk
		ctx := t.Context()
		var al Allocation
		if err := a.AllocSectors(ctx, userRequest(64), &al); err != nil {
			t.Fatal(err)
		}
		if err := e.commit(ctx, 1, 64, &al); err != nil {
			t.Fatal(err)
		}
		al.Done(ctx)
		if err := e.remove(ctx, 1, 64); err != nil {
			t.Fatal(err)
		}

		at := PointDiscard
		if fault != 0 {
			at = PointTested
		}
		stop := p.at("slow", at)
		done := make(chan error, 1)
		go func() {
			_, err := a.DiscardRound(task(ctx, "slow"), false)
			done <- err
		}()
		<-stop.reached
		if n, err := a.DiscardRound(ctx, false); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		a.DevSpace(0).freelistCursor[bitmapOutside].Store(0)
		if err := a.AllocSectors(ctx, userRequest(32), &al); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(e.commit(ctx, 2, 32, &al), e.remove(ctx, 2, 32)); err != nil {
			t.Fatal(err)
		}
		al.Done(ctx)
		if err := a.AllocSectors(ctx, userRequest(32), &al); err != nil || al.Ptrs()[0].Offset != 32 {
			t.Fatal(err, al.Ptrs())
		}
		if err := disk.WriteAt(ctx, []byte("precious"), 32*ondisk.SectorSize); err != nil {
			t.Fatal(err)
		}
		close(stop.goOn)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		var got [8]byte
		if err := disk.ReadAt(ctx, got[:], 32*ondisk.SectorSize); err != nil {
			t.Fatal(err)
		}
		if lost := string(got[:]) != "precious"; lost != (fault != 0) {
			t.Errorf("%v: what was written to the open bucket reads %q", fault, got)
		}
	}
}

// TestReuseWaitsForJournal is about I5: a bucket is neither discarded nor handed out before the entry that emptied it is on disk.
func TestReuseWaitsForJournal(t *testing.T) {
	for _, fault := range []Fault{0, FaultNoJournalWait} {
		a, e := newTestAllocator(t, testConfig{manual: true, devs: []testDevice{{buckets: 64, size: 64}}, options: []Option{WithFaults(fault)}})
		ctx := t.Context()
		var al Allocation
		if err := a.AllocSectors(ctx, userRequest(64), &al); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(e.commit(ctx, 1, 64, &al)); err != nil {
			t.Fatal(err)
		}
		al.Done(ctx)
		e.durable.Store(e.fs.Seq())
		if err := e.remove(ctx, 1, 64); err != nil {
			t.Fatal(err)
		}
		n, err := a.DiscardRound(ctx, false)
		if err != nil || (n == 1) != (fault != 0) {
			t.Errorf("%v: discarded %d before the journal was flushed, %v", fault, n, err)
		}
		if fault != 0 {
			continue
		}
		if n, err = a.DiscardRound(ctx, true); n != 1 || err != nil || e.flushes.Load() != 1 {
			t.Errorf("urgent: discarded %d, %d flushes, %v", n, e.flushes.Load(), err)
		}
	}
	// The allocators have the same rule, whatever a discard did.
	each(t, func(t *testing.T, early bool) {
		for _, fault := range []Fault{0, FaultNoJournalWait} {
			a, e := newTestAllocator(t, testConfig{manual: true, devs: []testDevice{{buckets: 64, size: 64, early: early}}, options: []Option{WithFaults(fault)}})
			free := ondisk.Alloc{JournalSeqNonempty: 7, Gen: 1, OldestGen: 1}.Upgrade()
			for b := range ondisk.Bucket(64) {
				if b != 33 {
					continue
				}
				e.fs.SetKey(ondisk.BtreeAlloc, ondisk.Key{Type: ondisk.KeyAllocV4, Pos: allocPos(0, b), Val: free.Encode()})
			}
			req := userRequest(64)
			req.Watermark, req.Nonblocking = WatermarkBtreeCopygc, true
			got := map[ondisk.Sector]bool{}
			for range 64 {
				var al Allocation
				if err := a.AllocSectors(t.Context(), req, &al); err != nil {
					break
				}
				got[al.Ptrs()[0].Offset/64] = true
			}
			if want := 63; fault == 0 && (len(got) != want || got[33]) || fault != 0 && !got[33] {
				t.Errorf("%v: got %d buckets, 33 among them: %v", fault, len(got), got[33])
			}
			if fault != 0 {
				continue
			}
			req.Nonblocking = false
			var al Allocation
			if err := a.AllocSectors(t.Context(), req, &al); err != nil || al.Ptrs()[0].Offset != 33*64 || al.Ptrs()[0].Gen != 1 {
				t.Errorf("after a flush: %+v, %v", al.Ptrs(), err)
			}
			if e.flushes.Load() != 1 {
				t.Errorf("%d flushes", e.flushes.Load())
			}
		}
	})
}

// TestOneClaim is about I8: whatever allocator finds a bucket, it is locked and checked before it is claimed.
func TestOneClaim(t *testing.T) {
	each(t, func(t *testing.T, early bool) {
		var p pauses
		a, _ := newTestAllocator(t, testConfig{devs: []testDevice{{buckets: 64, size: 64, early: early}}, cfg: Config{Hook: p.hook}})
		var al Allocation
		if err := a.AllocSectors(task(t.Context(), "x"), userRequest(64), &al); err != nil {
			t.Fatal(err)
		}
		al.Done(task(t.Context(), "x"))
		got := strings.Join(p.seen, ", ")
		if want := "x claim:scanned, x claim:locked, x claim:checked, x claim:claimed, x release:before, x release:closed"; got != want {
			t.Errorf("points: %s", got)
		}
	})
	// An early allocator that claims by itself is told by its points.
	var p pauses
	a, _ := newTestAllocator(t, testConfig{devs: []testDevice{{buckets: 64, size: 64, early: true}}, cfg: Config{Hook: p.hook}, options: []Option{WithFaults(FaultNoRecheck)}})
	var al Allocation
	if err := a.AllocSectors(task(t.Context(), "x"), userRequest(64), &al); err != nil {
		t.Fatal(err)
	}
	al.Done(task(t.Context(), "x"))
	if got := strings.Join(p.seen, ", "); strings.Contains(got, "claim:locked") {
		t.Errorf("points of a claim that does not look again: %s", got)
	}
}

// TestTripwire is about I9: buckets whose state contradicts itself.
func TestTripwire(t *testing.T) {
	user := ondisk.Alloc{DataType: ondisk.DataUser, DirtySectors: 64}.Upgrade()
	counting := ondisk.Alloc{DirtySectors: 64}.Upgrade()
	old := ondisk.Alloc{Gen: 40}.Upgrade()
	tests := []struct {
		name    string
		key     ondisk.Alloc
		early   bool
		id, msg string
	}{
		{"in freespace but used", user, false, "need_discard_freespace_key_bad", "device 0 bucket 0 (gen 0, user): freespace says that it is free"},
		{"in the wrong class", old, false, "need_discard_freespace_key_bad", "generation class 0"},
		{"free but counting", counting, false, "alloc_key_empty_but_have_data", "64 dirty"},
		{"free but counting", counting, true, "alloc_key_empty_but_have_data", "64 dirty"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, fault := range []Fault{0, FaultNoTripwire} {
				a, e := newTestAllocator(t, testConfig{devs: []testDevice{{buckets: 200, size: 64, early: tt.early}}, options: []Option{WithFaults(fault)}})
				e.fs.SetKey(ondisk.BtreeAlloc, ondisk.Key{Type: ondisk.KeyAllocV4, Pos: allocPos(0, 0), Val: tt.key.Encode()})
				bp := ondisk.Backpointer{Btree: ondisk.BtreeExtents, DataType: ondisk.DataUser, BucketLen: 64, Pos: ondisk.Pos{Inode: 77, Offset: 64, Snapshot: 5}}
				e.fs.SetKey(ondisk.BtreeBackpointers, ondisk.Key{Type: ondisk.KeyBackpointer, Pos: ondisk.Pos{Offset: 0}, Val: bp.Encode()})
				req := userRequest(64)
				req.Owner = Owner{Btree: ondisk.BtreeExtents, Pos: ondisk.Pos{Inode: 88, Offset: 64}, Sectors: 64}
				err := a.AllocSectors(t.Context(), req, new(Allocation))
				if fault != 0 {
					if err != nil || len(e.reported) > 0 {
						t.Errorf("switched off: %v, %v", err, e.reported)
					}
					continue
				}
				var be *BucketError
				if !errors.As(err, &be) || be.ID != tt.id || !strings.Contains(err.Error(), tt.msg) || !strings.Contains(err.Error(), "77:64:5") ||
					!strings.Contains(err.Error(), "88:64:0") || len(e.reported) != 1 {
					t.Errorf("got %v, reported %v", err, e.reported)
				}
				// Not before it is known that freespace can be relied on.
				if a.SetTrusted(false); tt.key.DirtySectors == 64 && tt.key.DataType == 0 {
					continue
				}
				if err := a.AllocSectors(t.Context(), req, new(Allocation)); err != nil {
					t.Errorf("not trusted: %v", err)
				}
			}
		})
	}
}

// TestOldCandidate: what freespace does not say any more either is no contradiction.
func TestOldCandidate(t *testing.T) {
	first, second, e, al := race(t, false, 0, PointScanned, true)
	if first == second {
		t.Error("one bucket for two")
	}
	if err := e.commit(t.Context(), 1, 64, al); err != nil {
		t.Error(err)
	}
	if len(e.reported) != 0 {
		t.Error(e.reported)
	}
}

// TestBackpointersKeepBuckets: while alloc keys may not tell all, a bucket with backpointers is not taken.
func TestBackpointersKeepBuckets(t *testing.T) {
	a, e := newTestAllocator(t, testConfig{devs: []testDevice{{buckets: 200, size: 64}}})
	a.SetCheckBackpointers(true)
	bp := ondisk.Backpointer{Btree: ondisk.BtreeExtents, DataType: ondisk.DataUser, BucketLen: 1, Pos: ondisk.Pos{Inode: 77, Offset: 64}}
	for _, sector := range []uint64{127, 192} { // last of bucket 1, first of bucket 3
		e.fs.SetKey(ondisk.BtreeBackpointers, ondisk.Key{Type: ondisk.KeyBackpointer, Pos: ondisk.Pos{Offset: sector<<10 + 1023}, Val: bp.Encode()})
	}
	for _, want := range []ondisk.Sector{0, 2, 4} {
		var al Allocation
		if err := a.AllocSectors(t.Context(), userRequest(64), &al); err != nil || al.Ptrs()[0].Offset/64 != want {
			t.Errorf("got bucket %d, %v, want %d", al.Ptrs()[0].Offset/64, err, want)
		}
	}
}

// TestBadFreespace: units outside of the device are an error, not a bucket.
func TestBadFreespace(t *testing.T) {
	a, e := newTestAllocator(t, testConfig{devs: []testDevice{{buckets: 200, size: 64, first: 4}}})
	e.fs.SetKey(ondisk.BtreeFreespace, ondisk.FreespaceRange{First: 3, Len: 197}.Key())
	var ke *KeyError
	if err := a.AllocSectors(t.Context(), userRequest(64), new(Allocation)); !errors.As(err, &ke) || len(e.reported) != 1 {
		t.Errorf("got %v", err)
	}
}
