package journal

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
	"github.com/go-bcachefs/bcachefs/internal/codec/crypt"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// What is written is read back, with all checksums and block sizes, on one device and on several.
func TestWriteAndRead(t *testing.T) {
	key := &crypt.Key{1, 2, 3}
	for _, tt := range []struct {
		name    string
		csum    checksum.Type
		key     *crypt.Key
		block   int
		devices int
	}{
		{"none", checksum.None, nil, 4096, 1},
		{"crc32c", checksum.CRC32CNonzero, nil, 512, 1},
		{"crc64", checksum.CRC64Nonzero, nil, 4096, 1},
		{"xxhash", checksum.XXHash, nil, 1024, 1},
		{"encrypted", checksum.ChaCha20Poly1305_128, key, 4096, 1},
		{"crc32c data", checksum.CRC32C, nil, 4096, 1},
		{"two devices", checksum.CRC32CNonzero, nil, 4096, 2},
		{"three devices, encrypted", checksum.ChaCha20Poly1305_128, key, 512, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, tt.devices)
			r.cfg.Csum, r.cfg.Params.Key, r.cfg.Params.BlockBytes = tt.csum, tt.key, tt.block
			w := r.start()
			h := &holder{w: w}
			rng := rand.New(rand.NewPCG(1, 2))
			want := map[uint64]uint64{}
			var order []uint64
			for id := range uint64(300) {
				want[id+1] = r.put(id+1, 2+rng.IntN(60))
				order = append(order, id+1)
				h.hold(1)
				if rng.IntN(10) == 0 {
					if err := w.Flush(ctx); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := w.Flush(ctx); err != nil {
				t.Fatal(err)
			}
			if w.Durable() < want[300] {
				t.Errorf("durable up to %d, want %d", w.Durable(), want[300])
			}
			got := r.readBack()
			if d := cmp.Diff(want, got.ids); d != "" {
				t.Errorf("records and their entries: -want +got:\n%s", d)
			}
			if !slices.Equal(order, got.order) {
				t.Error("records are out of order")
			}
			if len(got.found.Problems)+len(got.sel.Problems) > 0 {
				t.Errorf("problems: %q %q", got.found.Problems, got.sel.Problems)
			}
			for _, c := range got.sel.Replay {
				if len(c.Copies) != tt.devices {
					t.Errorf("entry %d has %d copies", c.Seq, len(c.Copies))
				}
				for _, at := range c.Copies {
					pad := make([]byte, -at.Bytes&(tt.block-1))
					if err := r.mems[at.Member].ReadAt(ctx, pad, at.Offset+int64(at.Bytes)); err != nil {
						t.Fatal(err)
					}
					if slices.ContainsFunc(pad, func(b byte) bool { return b != 0 }) {
						t.Errorf("padding of entry %d is not zero", c.Seq)
					}
				}
			}
			w.DropPin(&h.pin)
			s := r.stop()
			got = r.readBack()
			if len(got.ids) != 0 || len(got.sets) != 1 || got.sets[0].Seq != s.Clean.JournalSeq || got.sets[0].LastSeq != s.Clean.JournalSeq {
				t.Errorf("after the shutdown at %d: %d records, %d entries", s.Clean.JournalSeq, len(got.ids), len(got.sets))
			}
			for i, p := range s.Positions {
				if ring := got.found.Rings[i]; ring.Head != int(p.Bucket) || ring.Used != int64(p.Offset)*ondisk.SectorSize {
					t.Errorf("device %d ended at bucket %d sector %d, a scan says %d byte %d", i, p.Bucket, p.Offset, ring.Head, ring.Used)
				}
			}
		})
	}
}

// describe lists the records of an entry, one a line.
func describe(js *ondisk.Jset) string {
	var b strings.Builder
	fmt.Fprintf(&b, "entry %d version %v flags %#x last_seq %d\n", js.Seq, ondisk.MetadataVersion(js.Version), js.Flags, js.LastSeq)
	for i := range js.Entries {
		e := &js.Entries[i]
		fmt.Fprintf(&b, "%v %d/%d %d bytes", e.Type, e.BtreeID, e.Level, len(e.Data))
		switch e.Type {
		case ondisk.JsetBtreeRoot:
			fmt.Fprintf(&b, " node %d", binary.LittleEndian.Uint64(e.Data[40+8:]))
		case ondisk.JsetUsage, ondisk.JsetDatetime:
			fmt.Fprintf(&b, " %d", binary.LittleEndian.Uint64(e.Data))
		case ondisk.JsetClock:
			write, sectors, _ := e.Clock()
			fmt.Fprintf(&b, " write %v %d", write, sectors)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// Each entry ends with what an entry must hold; a root that is journaled is one of all later entries; records for the write
// buffer reach it and are written as keys.
func TestContents(t *testing.T) {
	r := newRig(t, 1)
	r.cfg.KeyVersion = func() uint64 { return 77 }
	r.cfg.Clocks = func() (read, write uint64) { return 5, 6 }
	type buffered struct {
		seq  uint64
		recs []string
	}
	var got []buffered
	r.cfg.Buffered = func(seq uint64, recs []ondisk.JsetEntry) {
		b := buffered{seq: seq}
		for _, e := range recs {
			b.recs = append(b.recs, fmt.Sprintf("%v %d bytes, first %d", e.BtreeID, len(e.Data), e.Data[0]))
		}
		got = append(got, b)
	}
	w := r.start()
	h := &holder{w: w}
	var res Reservation
	if err := w.TryReserve(100, WatermarkNormal, &res); err != nil {
		t.Fatal(err)
	}
	h.hold(res.Seq())
	key := ondisk.AppendKey(nil, ondisk.Key{Type: ondisk.KeySet, Pos: ondisk.Pos{Inode: 4, Offset: 3}})
	res.Append(ondisk.JsetEntry{Type: ondisk.JsetWriteBufferKeys, BtreeID: ondisk.BtreeLRU, Data: key})
	res.Append(testRoot(ondisk.BtreeExtents, 9), ondisk.JsetEntry{Type: ondisk.JsetWriteBufferKeys, BtreeID: ondisk.BtreeBackpointers, Data: append(key, key...)})
	res.Done()
	res.Done() // does nothing
	if err := w.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	r.put(1, 2)
	if err := w.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	back := r.readBack()
	if len(back.sets) != 2 {
		t.Fatalf("%d entries", len(back.sets))
	}
	if d := cmp.Diff([]buffered{{1, []string{"lru 40 bytes, first 5", "backpointers 80 bytes, first 5"}}}, got,
		cmp.AllowUnexported(buffered{})); d != "" {
		t.Errorf("write buffer: -want +got:\n%s", d)
	}
	root := "btree_root %d/1 %d bytes node %d\n"
	size := len(testRoot(0, 1).Data)
	trailer := "datetime 0/0 8 bytes 1700000000\nusage 2/0 8 bytes 77\nclock 0/0 16 bytes write false 5\nclock 0/0 16 bytes write true 6\n"
	empty := strings.Repeat("btree_keys 0/0 0 bytes\n", 100-(1+5)-(1+size/8)-(1+10))
	want := "entry 1 version 1.13 flags 0x1 last_seq 1\nbtree_keys 10/0 40 bytes\n" + fmt.Sprintf(root, 0, size, 9) + "btree_keys 13/0 80 bytes\n" +
		empty + fmt.Sprintf(root, 1, size, 1) + fmt.Sprintf(root, 4, size, 2) + trailer
	if d := cmp.Diff(want, describe(back.sets[0])); d != "" {
		t.Errorf("first entry: -want +got:\n%s", d)
	}
	want = "entry 2 version 1.13 flags 0x1 last_seq 1\nlog 0/0 8 bytes\n" + fmt.Sprintf(root, 0, size, 9) + fmt.Sprintf(root, 1, size, 1) +
		fmt.Sprintf(root, 4, size, 2) + trailer
	if d := cmp.Diff(want, describe(back.sets[1])); d != "" {
		t.Errorf("second entry: -want +got:\n%s", d)
	}
	w.DropPin(&h.pin)
	var clean []string
	for _, e := range r.stop().Clean.Entries {
		clean = append(clean, fmt.Sprintf("%v %d", e.Type, e.BtreeID))
	}
	if d := cmp.Diff([]string{"usage 2", "clock 0", "clock 0", "btree_root 0", "btree_root 1", "btree_root 4"}, clean); d != "" {
		t.Errorf("clean section: -want +got:\n%s", d)
	}
}

// Entries go round the ring many times; what is pinned is never overwritten, and a restart goes on behind the last entry.
func TestRingWraps(t *testing.T) {
	for _, discard := range []bool{false, true} {
		t.Run(fmt.Sprintf("discard %v", discard), func(t *testing.T) {
			r := newRig(t, 2)
			r.cfg.ReclaimDelay = time.Millisecond
			for i := range r.cfg.Devices {
				r.cfg.Devices[i].Discard = discard
			}
			var id uint64
			for session := range 4 {
				w := r.start()
				holdRounds(t, r, &id)
				if session%2 == 0 { // goes on as the superblock says
					s := r.stop()
					r.cfg.First = s.Clean.JournalSeq + 1
					for i, p := range s.Positions {
						r.cfg.Devices[i].Ring = RingAt(p.Bucket, p.Offset, rigBuckets, rigBucket)
					}
					continue
				}
				r.put(1<<40, 2) // goes on as a scan says
				w.Abort()
				back := r.readBack()
				r.cfg.First = back.sel.Resume(nil).First
				for i := range r.cfg.Devices {
					r.cfg.Devices[i].Ring = back.found.Rings[i]
				}
			}
		})
	}
}

// holdRounds journals some times the size of the ring, with part of it pinned, and looks now and then whether what is pinned can be read.
func holdRounds(t *testing.T, r *rig, id *uint64) {
	rng := rand.New(rand.NewPCG(*id, 1))
	live := map[uint64]uint64{} // id to entry
	var mu sync.Mutex
	for range 30 {
		for range 30 {
			*id++
			one := *id
			var res Reservation
			n := 50 + rng.IntN(1000)
			if err := r.w.Reserve(ctx, n, WatermarkNormal, &res); err != nil {
				t.Fatal(err)
			}
			fillRecord(&res, one, n)
			mu.Lock()
			live[one] = res.Seq()
			mu.Unlock()
			r.w.AddPin(res.Seq(), new(Pin), PinBtreeNode, func(_ context.Context, p *Pin, seq uint64) error {
				mu.Lock()
				defer mu.Unlock()
				if live[one] != seq {
					t.Errorf("record %d of entry %d is to be flushed for %d", one, live[one], seq)
				}
				delete(live, one)
				r.w.DropPin(p)
				return nil
			})
			res.Done()
		}
		if err := r.w.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		// What is live now, was flushed and is still live after the journal was read must have been in it.
		mu.Lock()
		before := make(map[uint64]uint64, len(live))
		for one, seq := range live {
			before[one] = seq
		}
		mu.Unlock()
		cfg := r.readConfig(r.mems[0].Clone(), r.mems[1].Clone())
		mu.Lock()
		got, err := readBack(cfg)
		if err != nil {
			t.Fatal(err)
		}
		for one, seq := range before {
			if live[one] == seq && got.ids[one] != seq {
				t.Errorf("record %d of entry %d, pinned and flushed, is lost: journal has %d-%d", one, seq, got.sel.LastSeq, got.sel.Flush)
			}
		}
		mu.Unlock()
		if len(got.sel.Problems) > 0 {
			t.Errorf("problems: %q", got.sel.Problems)
		}
	}
}

// A session after an unclean one keeps what is to be replayed until it was.
func TestReplayIsKept(t *testing.T) {
	r := newRig(t, 1)
	w := r.start()
	h := &holder{w: w}
	h.hold(r.put(1, 2))
	for id := range uint64(27) { // more than half of the buckets
		r.put(id+2, 2000)
	}
	if err := w.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	w.Abort()
	back := r.readBack()
	if len(back.ids) != 28 {
		t.Fatalf("%d records", len(back.ids))
	}
	resume := back.sel.Resume(nil)
	if resume.First <= back.sel.Highest+8 || !resume.Blacklist.Contains(back.sel.Flush+1) || resume.Blacklist.Contains(back.sel.Flush) ||
		resume.Blacklist.Contains(resume.First) || !resume.Blacklist.Contains(resume.First-1) {
		t.Errorf("%+v after %d", resume, back.sel.Highest)
	}
	r.cfg.First, r.cfg.LastSeq, r.cfg.Flush = resume.First, back.sel.LastSeq, back.sel.Flush
	r.cfg.Devices[0].Ring = back.found.Rings[0]
	w = r.start()
	var pin Pin
	w.AddPin(back.sel.LastSeq, &pin, PinBtreeNode, h.flush) // what replay does
	more := 0
	for {
		short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
		_, err := putRecord(short, w, 1000+uint64(more), 800, WatermarkNormal)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		more++
	}
	if err := w.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	cfg := r.readConfig(r.devices()...)
	cfg.Blacklist = resume.Blacklist
	check := func(want int) {
		t.Helper()
		got, err := readBack(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if len(got.ids) != want || len(got.sel.Problems) > 0 {
			t.Errorf("%d records of %d, problems %q", len(got.ids), want, got.sel.Problems)
		}
	}
	check(28 + more)
	w.ReplayDone()
	w.ReplayDone()
	if _, err := putRecord(ctx, w, 100, 2, WatermarkReclaim); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	check(29 + more) // the pin is still there
	w.DropPin(&pin)
	r.put(101, 2)
	if err := w.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	check(1)
	if _, err := w.FlushPins(ctx, resume.First+1); err != nil {
		t.Error(err)
	}
	r.stop()
}

// When nothing can be reclaimed ordinary reservations wait and those of reclaim go on, until those find the journal stuck too.
func TestFullJournal(t *testing.T) {
	r := newRig(t, 1)
	r.cfg.StuckAfter = 50 * time.Millisecond
	halted := make(chan error, 1)
	r.cfg.OnHalt = func(err error) { halted <- err }
	w := r.start()
	h := &holder{w: w}
	h.hold(r.put(1, 2))
	var res Reservation
	count := 0
	for {
		err := w.TryReserve(2000, WatermarkNormal, &res)
		if err == nil {
			res.Done()
			count++
			continue
		}
		if err != ErrWouldBlock {
			t.Fatal(err)
		}
		short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
		err = w.WaitSpace(short, WatermarkNormal)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if count*2000*8 < rigBuckets*rigBucket/3 {
		t.Errorf("blocked after %d reservations", count)
	}
	// Whoever flushes what is pinned still gets space, and that unblocks the others.
	if _, err := putRecord(ctx, w, 2, 100, WatermarkReclaim); err != nil {
		t.Fatal(err)
	}
	unblocked := make(chan error)
	go func() {
		_, err := putRecord(ctx, w, 3, 100, WatermarkNormal)
		unblocked <- err
	}()
	select {
	case err := <-unblocked:
		t.Fatalf("got space that is for reclaim: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	w.DropPin(&h.pin)
	if err := <-unblocked; err != nil {
		t.Fatal(err)
	}
	// Whatever fills the journal up, there is room for an entry that says what is not needed any more.
	h.hold(r.put(4, 2))
	for _, n := range []int{2000, 1} {
		for err := error(nil); err != ErrWouldBlock || w.seqOndisk.Load() != w.Current(); {
			if err = w.TryReserve(n, WatermarkReclaim, &res); err == nil {
				res.Done()
				err = w.Deliver(ctx) // each gets an entry of its own
			}
			if err != nil && err != ErrWouldBlock {
				t.Fatal(err)
			}
		}
	}
	w.DropPin(&h.pin)
	h.hold(r.put(4, 2))
	// Once more, up to the end.
	for {
		if _, err := putRecord(ctx, w, 5, 2000, WatermarkReclaim); err != nil {
			if !errors.Is(err, ErrStuck) {
				t.Fatal(err)
			}
			break
		}
	}
	if err := <-halted; !errors.Is(err, ErrStuck) || !errors.Is(w.Err(), ErrStuck) {
		t.Errorf("halted for %v", err)
	}
	if err := w.TryReserve(1, WatermarkInteriorUpdates, &res); !errors.Is(err, ErrStuck) {
		t.Errorf("reserved after that: %v", err)
	}
	if err := w.Flush(ctx); err != nil && !errors.Is(err, ErrStuck) {
		t.Errorf("flush: %v", err)
	}
	if _, err := w.Stop(ctx); !errors.Is(err, ErrStuck) {
		t.Errorf("stopped: %v", err)
	}
}

func TestTooLarge(t *testing.T) {
	r := newRig(t, 1)
	w := r.start()
	var res Reservation
	if err := w.TryReserve(rigBucket/8, WatermarkNormal, &res); !errors.Is(err, ErrTooLarge) {
		t.Errorf("entry of a whole bucket: %v", err)
	}
	if err := w.TryReserve(w.maxU64s(), WatermarkNormal, &res); err != nil {
		t.Errorf("largest entry: %v", err)
	}
	res.Done()
	r.stop()
}

// Buffers grow for what is large, and if there is much to write.
func TestBuffersGrow(t *testing.T) {
	r := newRig(t, 1)
	d := &r.cfg.Devices[0]
	d.BucketBytes, d.Buckets = 1<<20, []uint64{1, 2, 3, 4, 5, 6, 7, 8}
	d.Ring = FreshRing(d.BucketBytes)
	r.mems[0] = blockdev.NewMemory(16 << 20)
	d.Device = r.mems[0]
	w := r.start()
	h := &holder{w: w}
	h.hold(r.put(1, 50000))
	for id := range uint64(60) {
		r.put(id+2, 5000)
	}
	if err := w.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	if got := r.readBack(); len(got.ids) != 61 || len(got.sets) > 20 {
		t.Errorf("%d records in %d entries", len(got.ids), len(got.sets))
	}
}

// Flushing serves all who wait at once, and entries that nobody waits for are not flushed.
func TestGroupCommit(t *testing.T) {
	r := newRig(t, 1)
	log := blockdev.NewLog()
	gate := make(chan struct{})
	var hold sync.Once
	entered := make(chan struct{})
	r.cfg.Devices[0].Device = blockdev.NewDelayer(log.Record(r.mems[0]), func(_ context.Context, op blockdev.Op, _, _ int64) error {
		if op == blockdev.OpWrite {
			hold.Do(func() { close(entered); <-gate })
		}
		return nil
	})
	w := r.start()
	r.put(1, 2)
	if err := w.FlushAsync(w.Current()); err != nil {
		t.Fatal(err)
	}
	<-entered
	var wg sync.WaitGroup
	for id := range uint64(100) {
		seq := r.put(id+2, 10)
		if err := w.FlushAsync(seq); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			if err := w.FlushSeq(ctx, seq); err != nil || w.Durable() < seq {
				t.Errorf("flush of %d: %v, durable %d", seq, err, w.Durable())
			}
		})
	}
	close(gate)
	wg.Wait()
	flushes := 0
	for _, rec := range log.Records() {
		if rec.Op == blockdev.OpFlush {
			flushes++
		}
	}
	if flushes != 4 {
		t.Errorf("%d flushes for 101 who waited, want two for each of two entries", flushes)
	}
	if err := w.FlushSeq(ctx, w.Current()+1); err == nil {
		t.Error("an entry that does not exist was flushed")
	}
}

// The first entry is a flush entry, of the others few in a row are not.
func TestNoFlush(t *testing.T) {
	for _, tt := range []struct{ ahead, want int }{{0, maxInFlight - 1}, {8, 7}} {
		r := newRig(t, 1)
		r.cfg.FlushDelay, r.cfg.ReclaimDelay = time.Hour, time.Hour
		r.cfg.MaxAhead = tt.ahead
		w := r.start()
		h := &holder{w: w}
		for id := range uint64(40) {
			h.hold(r.put(id, 2))
			if err := w.Deliver(ctx); err != nil {
				t.Fatal(err)
			}
		}
		for w.seqOndisk.Load() != w.Current() {
			time.Sleep(time.Millisecond)
		}
		found, err := Scan(ctx, r.readConfig(r.devices()...))
		if err != nil {
			t.Fatal(err)
		}
		Select(found.Candidates, nil, false) // sorts them
		longest, run := 0, 0
		for i, c := range found.Candidates {
			if run++; c.Flush {
				run = 0
			}
			longest = max(longest, run)
			if i == 0 && !c.Flush {
				t.Error("the first entry was not flushed")
			}
		}
		if longest > tt.want || longest == 0 || len(found.Candidates) != 40 {
			t.Errorf("%d entries, of which %d in a row were not flushed; %d are allowed", len(found.Candidates), longest, tt.want)
		}
		w.Abort()
	}
}

// Entries are flushed after FlushDelay though nobody asks.
func TestFlushDelay(t *testing.T) {
	r := newRig(t, 1)
	r.cfg.FlushDelay = 20 * time.Millisecond
	w := r.start()
	seq := r.put(1, 2)
	deadline := time.Now().Add(5 * time.Second)
	for w.Durable() < seq {
		if time.Now().After(deadline) {
			t.Fatal("was not flushed")
		}
		time.Sleep(time.Millisecond)
	}
}

// hookedDevice calls a function before each write.
type hookedDevice struct {
	blockdev.Device
	before atomic.Pointer[func()]
}

func (d *hookedDevice) WriteAt(ctx context.Context, p []byte, off int64) error {
	if fn := d.before.Load(); fn != nil {
		(*fn)()
	}
	return d.Device.WriteAt(ctx, p, off)
}

// What flush functions began may be journalled while the last entry is being written: then another one is the last.
func TestStopWhileSomethingEnds(t *testing.T) {
	for _, late := range []uint64{0, 1, 3, maxStops / 2} {
		r := newRig(t, 1)
		d := &hookedDevice{Device: r.mems[0]}
		r.cfg.Devices[0].Device = d
		w := r.start()
		if err := w.FlushSeq(ctx, r.put(1, 2)); err != nil {
			t.Fatal(err)
		}
		more := late
		fn := func() {
			if more > 0 {
				more--
				r.put(2+more, 2)
			}
		}
		d.before.Store(&fn)
		s := r.stop()
		d.before.Store(nil)
		if newest := r.readBack().sel.Flush; newest != s.Clean.JournalSeq || newest < 2+late {
			t.Errorf("%d records late: stopped with entry %d, the newest is %d", late, s.Clean.JournalSeq, newest)
		}
	}
}

func TestStartRefuses(t *testing.T) {
	for _, tt := range []struct {
		name string
		edit func(c *WriterConfig)
	}{
		{"sequence number 0", func(c *WriterConfig) { c.First = 0 }},
		{"replay of what comes after", func(c *WriterConfig) { c.First, c.LastSeq, c.Flush = 5, 3, 5 }},
		{"replay of nothing", func(c *WriterConfig) { c.First, c.LastSeq, c.Flush = 5, 3, 2 }},
		{"replay of too much", func(c *WriterConfig) { c.First, c.LastSeq, c.Flush = 1<<40, 1, 1<<40-1 }},
		{"no sequence numbers are left", func(c *WriterConfig) { c.First = (&Selection{Highest: 1<<64 - 2}).Resume(nil).First }},
		{"block size", func(c *WriterConfig) { c.Params.BlockBytes = 1000 }},
		{"no replicas", func(c *WriterConfig) { c.Replicas = 0 }},
		{"more required than wanted", func(c *WriterConfig) { c.ReplicasRequired = 3 }},
		{"encryption without key", func(c *WriterConfig) { c.Csum = checksum.ChaCha20Poly1305_128 }},
		{"key without encryption", func(c *WriterConfig) { c.Params.Key = new(crypt.Key) }},
		{"checksum type", func(c *WriterConfig) { c.Csum = 9 }},
		{"pins", func(c *WriterConfig) { c.MaxPinned = 1000 }},
		{"no devices", func(c *WriterConfig) { c.Devices = nil }},
		{"only devices that cannot be used", func(c *WriterConfig) { c.Devices[0].Durability, c.Devices[1].ReadOnly = 0, true }},
		{"bucket outside", func(c *WriterConfig) { c.Devices[0].Buckets[3] = 64 }},
		{"bucket 0", func(c *WriterConfig) { c.Devices[0].Buckets[3] = 0 }},
		{"ring position", func(c *WriterConfig) { c.Devices[0].Ring.Head = rigBuckets }},
		{"ring contents", func(c *WriterConfig) { c.Devices[0].Ring.Newest = make([]uint64, 3) }},
		{"bucket size", func(c *WriterConfig) { c.Devices[0].BucketBytes = 100 }},
		{"buckets too small for all roots", func(c *WriterConfig) {
			for i := range c.Devices {
				c.Devices[i].BucketBytes, c.Devices[i].Ring = 512, Ring{}
			}
		}},
		{"member number", func(c *WriterConfig) { c.Devices[0].Index = 64 }},
		{"root of no btree", func(c *WriterConfig) { c.Roots[0].BtreeID = ondisk.MaxBtrees }},
		{"root that is none", func(c *WriterConfig) { c.Roots[0].Type = ondisk.JsetClock }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, 2)
			tt.edit(&r.cfg)
			if w, err := Start(r.cfg); err == nil {
				w.Abort()
				t.Error("was accepted")
			}
		})
	}
}

// Records that make no sense are not written.
func TestBadRecords(t *testing.T) {
	for _, tt := range []struct {
		name string
		fill func(b []byte)
	}{
		{"beyond the end", func(b []byte) { b[0] = 100 }},
		{"root of no btree", func(b []byte) { b[0], b[2], b[4] = 5, 63, byte(ondisk.JsetBtreeRoot) }},
		{"root of a btree of the future", func(b []byte) { b[0], b[2], b[4] = 5, 60, byte(ondisk.JsetBtreeRoot) }},
		{"key refused", func(b []byte) {
			copy(b[8:], ondisk.AppendKey(nil, ondisk.Key{Type: ondisk.KeyCookie, Pos: ondisk.Pos{Offset: 1}, Val: make([]byte, 8)}))
			b[0] = 6
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, 1)
			r.cfg.Check = func(ondisk.BtreeID, uint8, *ondisk.Key) error { return errors.New("refused") }
			w := r.start()
			var res Reservation
			if err := w.TryReserve(10, WatermarkNormal, &res); err != nil {
				t.Fatal(err)
			}
			tt.fill(res.Bytes())
			res.Done()
			if err := w.Flush(ctx); err == nil {
				t.Error("was written")
			}
			if got := r.readBack(); len(got.sets) != 0 {
				t.Error("was written")
			}
		})
	}
}

// Deliver passes records on without waiting for writes.
func TestDeliver(t *testing.T) {
	r := newRig(t, 1)
	stop := make(chan struct{})
	r.cfg.Devices[0].Device = blockdev.NewDelayer(r.mems[0], func(context.Context, blockdev.Op, int64, int64) error {
		<-stop
		return nil
	})
	var seqs []uint64
	r.cfg.Buffered = func(seq uint64, _ []ondisk.JsetEntry) { seqs = append(seqs, seq) }
	w := r.start()
	defer close(stop)
	if err := w.Deliver(ctx); err != nil {
		t.Error(err)
	}
	key := ondisk.AppendKey(nil, ondisk.Key{Type: ondisk.KeySet, Pos: ondisk.Pos{Offset: 3}})
	for want := range uint64(3) {
		var res Reservation
		if err := w.TryReserve(6, WatermarkNormal, &res); err != nil {
			t.Fatal(err)
		}
		res.Append(ondisk.JsetEntry{Type: ondisk.JsetWriteBufferKeys, BtreeID: ondisk.BtreeLRU, Data: key})
		res.Done()
		if err := w.Deliver(ctx); err != nil {
			t.Error(err)
		}
		if len(seqs) != int(want)+1 {
			t.Errorf("delivered of entries %v", seqs)
		}
	}
}

func TestNewBuckets(t *testing.T) {
	for _, tt := range []struct{ buckets, sectors, want uint64 }{
		{100, 512, 8}, {1 << 10, 512, 8}, {1 << 14, 512, 128}, {1 << 24, 512, 8192}, {1 << 24, 4096, 4096}, {1 << 24, 1 << 24, 1},
	} {
		if got := NewBuckets(tt.buckets, tt.sectors); got != tt.want {
			t.Errorf("%d buckets of %d sectors: %d, want %d", tt.buckets, tt.sectors, got, tt.want)
		}
	}
	got := BucketRanges([]uint64{5, 6, 7, 3, 9, 10, 8})
	if d := cmp.Diff([]ondisk.SeqRange{{Start: 5, End: 8}, {Start: 3, End: 4}, {Start: 9, End: 11}, {Start: 8, End: 9}}, got); d != "" {
		t.Errorf("ranges: -want +got:\n%s", d)
	}
}
