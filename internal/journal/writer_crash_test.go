package journal

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
)

// acked is a promise: from a tick on, entry seq and all before are durable.
type acked struct {
	tick int
	seq  uint64
}

// written is what a run journaled, by record, and what it was promised.
type written struct {
	mu      sync.Mutex
	seqs    map[uint64]uint64
	acks    []acked
	dropped map[uint64]int // tick up to which a record was surely pinned
}

// stress has many goroutines journal, flush, pin and unpin on recorded devices.
func stress(t *testing.T, r *rig, log *blockdev.Log, writers, rounds int) *written {
	w := r.start()
	out := &written{seqs: map[uint64]uint64{}, dropped: map[uint64]int{}}
	var wg sync.WaitGroup
	for g := range writers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(g), 7))
			for i := range rounds {
				id := uint64(g*rounds + i + 1)
				var res Reservation
				n := 2 + rng.IntN(300)
				if err := w.Reserve(ctx, n+rng.IntN(3), WatermarkNormal, &res); err != nil {
					t.Errorf("reserve: %v", err)
					return
				}
				fillRecord(&res, id, n)
				seq := res.Seq()
				out.mu.Lock()
				out.seqs[id] = seq
				out.mu.Unlock()
				w.AddPin(seq, new(Pin), PinKind(rng.IntN(int(NumPinKinds))), func(_ context.Context, p *Pin, _ uint64) error {
					out.mu.Lock()
					out.dropped[id] = log.Ticks()
					out.mu.Unlock()
					w.DropPin(p)
					return nil
				})
				res.Done()
				if rng.IntN(8) == 0 {
					if err := w.FlushSeq(ctx, seq); err != nil {
						t.Errorf("flush: %v", err)
						return
					}
					tick := log.Ticks()
					out.mu.Lock()
					out.acks = append(out.acks, acked{tick, seq})
					out.mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	r.stop()
	out.acks = append(out.acks, acked{log.Ticks(), w.Durable()})
	return out
}

// check looks at what a power cut at a tick has left.
func (out *written) check(cfg *Config, tick int) error {
	got, err := readBack(cfg)
	if err != nil {
		return err
	}
	durable := uint64(0)
	for _, a := range out.acks {
		if a.tick <= tick {
			durable = max(durable, a.seq)
		}
	}
	if got.sel.Flush < durable {
		return fmt.Errorf("entry %d is lost, the journal ends with %d", durable, got.sel.Flush)
	}
	if got.sel.Flush == 0 {
		return nil
	}
	if len(got.sel.Problems) > 0 { // gaps, for instance
		return errors.New(got.sel.Problems[0])
	}
	for id, seq := range out.seqs {
		inside := seq >= got.sel.LastSeq && seq <= got.sel.Flush
		if at, ok := got.ids[id]; ok != inside || ok && at != seq {
			return fmt.Errorf("record %d of entry %d: found %v in %d, journal has %d-%d", id, seq, ok, at, got.sel.LastSeq, got.sel.Flush)
		}
		if seq < got.sel.LastSeq && out.dropped[id] > tick {
			return fmt.Errorf("record %d of entry %d is pinned, but the journal has %d-%d", id, seq, got.sel.LastSeq, got.sel.Flush)
		}
	}
	return nil
}

// After a power cut at any moment, whatever of the unflushed writes was lost or torn, the journal holds all that was promised, each
// record once, in the entry that it was reserved in, without gaps.
func TestPowerCut(t *testing.T) {
	for _, tt := range []struct {
		devices, replicas int
		discard, track    bool
	}{{1, 1, false, false}, {1, 1, true, true}, {2, 2, false, true}, {3, 1, true, false}} {
		t.Run(fmt.Sprintf("%d devices, %d replicas, discard %v, tracked %v", tt.devices, tt.replicas, tt.discard, tt.track), func(t *testing.T) {
			r := newRig(t, tt.devices)
			log := blockdev.NewLog()
			r.cfg.Replicas, r.cfg.ReplicasRequired = tt.replicas, tt.replicas
			r.cfg.FlushDelay, r.cfg.ReclaimDelay = 3*time.Millisecond, time.Millisecond
			for i := range r.cfg.Devices {
				r.cfg.Devices[i].Device = log.Record(r.mems[i])
				r.cfg.Devices[i].Discard = tt.discard
				if tt.track {
					r.cfg.Devices[i].Device = blockdev.NewFlushTracker(r.cfg.Devices[i].Device)
				}
			}
			rounds := 120
			if testing.Short() {
				rounds = 40
			}
			out := stress(t, r, log, 6, rounds)
			rng := rand.New(rand.NewPCG(3, uint64(tt.devices)))
			ends := log.Ticks()
			for tick := range ends + 1 {
				keeps := []blockdev.Keep{blockdev.KeepNone, blockdev.KeepRandom(rng)}
				if tick%4 == 0 {
					keeps = append(keeps, blockdev.KeepAll)
				}
				for i, keep := range keeps {
					var devs []blockdev.Device
					for _, m := range log.Crash(tick, keep) {
						devs = append(devs, m)
					}
					if err := out.check(r.readConfig(devs...), tick); err != nil {
						t.Fatalf("cut at tick %d of %d, keeping by %d: %v", tick, ends, i, err)
					}
				}
			}
		})
	}
}

// A member without journal is flushed before an entry that may refer to what it holds; one that is read-only is not.
func TestOtherDevicesAreFlushed(t *testing.T) {
	r := newRig(t, 1)
	log := blockdev.NewLog()
	data, gone := blockdev.NewMemory(1<<20), blockdev.NewMemory(1<<20)
	r.cfg.Devices[0].Device = log.Record(r.mems[0])
	r.cfg.Devices = append(r.cfg.Devices,
		WriterDevice{Index: 5, Device: log.Record(data)}, WriterDevice{Index: 6, Device: log.Record(gone), ReadOnly: true})
	w := r.start()
	payload := []byte("payload of a block, that an entry refers to")
	if err := r.cfg.Devices[1].Device.WriteAt(ctx, payload, 4096); err != nil {
		t.Fatal(err)
	}
	h := &holder{w: w}
	h.hold(r.put(1, 2))
	if err := w.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	for tick := range log.Ticks() + 1 {
		devs := log.Crash(tick, func(r *blockdev.Record, sectors []bool) { // the worst: journal is kept, data is not
			if r.Device == 0 {
				blockdev.KeepAll(r, sectors)
			}
		})
		got, err := readBack(r.readConfig(devs[0], nil, nil))
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, len(payload))
		if err := devs[1].ReadAt(ctx, b, 4096); err != nil {
			t.Fatal(err)
		}
		if len(got.ids) > 0 && string(b) != string(payload) {
			t.Errorf("cut at tick %d: the entry is there, what it refers to is not", tick)
		}
	}
	w.DropPin(&h.pin)
	for _, rec := range log.Records() {
		if rec.Device == 2 {
			t.Errorf("%v on the read-only member", rec.Op)
		}
	}
	r.stop()
}

// fickle is a device that says whether there is something to flush.
type fickle struct {
	blockdev.Device
	dirty bool
}

func (f *fickle) Unflushed() bool { return f.dirty }

// A device that knows that nothing is to be flushed is not asked to.
func TestCleanDevicesAreNotFlushed(t *testing.T) {
	for _, dirty := range []bool{false, true} {
		r := newRig(t, 1)
		log := blockdev.NewLog()
		r.cfg.Devices = append(r.cfg.Devices, WriterDevice{Index: 5, Device: &fickle{log.Record(blockdev.NewMemory(1 << 20)), dirty}})
		w := r.start()
		r.put(1, 2)
		if err := w.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		if got := len(log.Records()) > 0; got != dirty {
			t.Errorf("dirty %v: flushed %v", dirty, got)
		}
	}
}

// What devices do wrong, and what becomes of the journal.
func TestDeviceErrors(t *testing.T) {
	for _, tt := range []struct {
		name     string
		devices  int
		replicas int
		required int
		failing  int // how many of the devices
		rule     blockdev.Rule
		drop     bool // DeviceFailed says so
		halts    bool
		copies   int // of entries written afterwards
	}{
		{"one device, write", 1, 1, 1, 1, blockdev.Rule{Ops: blockdev.OpWrite}, false, true, 0},
		{"one device, flush", 1, 1, 1, 1, blockdev.Rule{Ops: blockdev.OpFlush}, false, true, 0},
		{"one device, second flush", 1, 1, 1, 1, blockdev.Rule{Ops: blockdev.OpFlush, Skip: 1}, false, true, 0},
		{"another takes over", 2, 1, 1, 1, blockdev.Rule{Ops: blockdev.OpWrite}, false, false, 1},
		{"another takes over, device dropped", 2, 1, 1, 1, blockdev.FailWrites(nil), true, false, 1},
		{"flush before fails", 2, 1, 1, 1, blockdev.Rule{Ops: blockdev.OpFlush}, false, true, 0},
		{"flush before fails, device dropped", 2, 1, 1, 1, blockdev.Rule{Ops: blockdev.OpFlush}, true, false, 1},
		{"fewer copies than wanted", 2, 2, 1, 1, blockdev.Rule{Ops: blockdev.OpWrite}, false, false, 1},
		{"fewer copies than required", 2, 2, 2, 1, blockdev.Rule{Ops: blockdev.OpWrite}, false, true, 0},
		{"third takes over", 3, 2, 2, 1, blockdev.Rule{Ops: blockdev.OpWrite}, false, false, 2},
		{"third takes over, device dropped", 3, 2, 2, 1, blockdev.FailWrites(nil), true, false, 2},
		{"all fail", 3, 2, 1, 3, blockdev.Rule{Ops: blockdev.OpWrite}, false, true, 0},
		{"all fail and are dropped", 3, 2, 1, 3, blockdev.FailWrites(nil), true, true, 0},
		{"once", 2, 2, 2, 1, blockdev.Rule{Ops: blockdev.OpWrite, Count: 1}, false, true, 0},
		{"once, another takes over", 2, 1, 1, 1, blockdev.Rule{Ops: blockdev.OpWrite, Count: 1}, false, false, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, tt.devices)
			r.cfg.Replicas, r.cfg.ReplicasRequired = tt.replicas, tt.required
			var faulters []*blockdev.Faulter
			for i := range r.cfg.Devices {
				f := blockdev.NewFaulter(r.mems[i])
				faulters = append(faulters, f)
				r.cfg.Devices[i].Device = f
			}
			var mu sync.Mutex
			halts := 0
			marked := map[string]bool{}
			r.cfg.OnHalt = func(error) {
				mu.Lock()
				defer mu.Unlock()
				halts++
			}
			r.cfg.DeviceFailed = func(uint8, error) bool { return tt.drop }
			r.cfg.MarkReplicas = func(_ context.Context, members []uint8) error {
				mu.Lock()
				defer mu.Unlock()
				if marked[fmt.Sprint(members)] {
					t.Errorf("%v is marked again", members)
				}
				marked[fmt.Sprint(members)] = true
				return nil
			}
			w := r.start()
			h := &holder{w: w}
			h.hold(r.put(1, 2))
			if err := w.Flush(ctx); err != nil {
				t.Fatal(err)
			}
			for _, f := range faulters[:tt.failing] {
				f.SetRules(tt.rule)
			}
			var err error
			var last uint64
			for id := uint64(2); id < 60 && err == nil; id++ {
				if last, err = putRecord(ctx, w, id, 500, WatermarkNormal); err == nil {
					err = w.FlushSeq(ctx, last)
				}
			}
			if (err != nil) != tt.halts || (w.Err() != nil) != tt.halts {
				t.Fatalf("got %v, %v", err, w.Err())
			}
			for _, f := range faulters {
				f.SetRules()
			}
			got := r.readBack()
			if tt.halts {
				var res Reservation
				if w.TryReserve(2, WatermarkInteriorUpdates, &res) == nil || w.FlushSeq(ctx, last) == nil && w.Durable() < last {
					t.Error("goes on")
				}
				if _, err := w.FlushPins(ctx, 1); err == nil {
					t.Error("pins are flushed")
				}
				w.DropPin(&h.pin)
				if _, err := w.Stop(ctx); err == nil {
					t.Error("stops cleanly")
				}
				if halts != 1 {
					t.Errorf("halted %d times", halts)
				}
				if got.ids[1] == 0 {
					t.Error("what was flushed before is lost")
				}
				return
			}
			if len(got.ids) != 59 || len(got.sel.Problems) > 0 {
				t.Errorf("%d records, problems %q", len(got.ids), got.sel.Problems)
			}
			for _, c := range got.sel.Replay[1:] {
				if len(c.Copies) < tt.copies {
					t.Errorf("entry %d has %d copies", c.Seq, len(c.Copies))
				}
			}
			w.DropPin(&h.pin)
			r.stop()
			if halts != 0 {
				t.Errorf("halted %d times", halts)
			}
		})
	}
}

// Entries go to the preferred devices while these have space, and to as many as durability demands; when a bucket is full, to that of
// which least was used.
func TestPlacement(t *testing.T) {
	for _, tt := range []struct {
		name string
		edit func(r *rig)
		want string // members with copies of the first entries
	}{
		{"in turn", func(r *rig) { r.cfg.Replicas = 1 }, "[0] [1] [2] [0]"},
		{"two of three", func(r *rig) { r.cfg.Replicas = 2 }, "[0 1] [0 2] [1 2] [0 1]"},
		{"preferred", func(r *rig) { r.cfg.Replicas, r.cfg.Devices[2].Preferred = 1, true }, "[2] [2] [2] [2]"},
		{"preferred do not suffice", func(r *rig) { r.cfg.Replicas, r.cfg.Devices[2].Preferred = 2, true }, "[0 2] [1 2] [0 2] [1 2]"},
		{"durability", func(r *rig) {
			r.cfg.Replicas = 2
			r.cfg.Devices[0].Durability, r.cfg.Devices[1].Durability, r.cfg.Devices[2].Durability = 2, 0, 2
		}, "[0] [2] [0] [2]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, 3)
			tt.edit(r)
			var got []string
			w := r.start()
			h := &holder{w: w}
			for id := range uint64(4) {
				h.hold(r.put(id+1, 4500)) // more than half of a bucket
				if err := w.Flush(ctx); err != nil {
					t.Fatal(err)
				}
			}
			for _, c := range r.readBack().sel.Replay {
				var members []int
				for _, at := range c.Copies {
					members = append(members, at.Member)
				}
				slices.Sort(members)
				got = append(got, fmt.Sprint(members))
			}
			if s := fmt.Sprint(got); s != "["+tt.want+"]" {
				t.Errorf("got %s, want %s", s, tt.want)
			}
		})
	}
}

// A member that was made read-only and flushed holds nothing that is needed.
func TestFlushMember(t *testing.T) {
	r := newRig(t, 2)
	r.cfg.Replicas = 1
	w := r.start()
	for id := range uint64(20) {
		seq := r.put(id+1, 20)
		w.AddPin(seq, new(Pin), PinBtreeNode, func(_ context.Context, p *Pin, _ uint64) error {
			w.DropPin(p)
			return nil
		})
		if err := w.Flush(ctx); err != nil {
			t.Fatal(err)
		}
	}
	w.SetReadOnly(0, true)
	if err := w.FlushMember(ctx, 0); err != nil {
		t.Fatal(err)
	}
	r.put(100, 2)
	if err := w.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	got, err := readBack(r.readConfig(nil, r.mems[1]))
	if err != nil {
		t.Fatal(err)
	}
	if len(got.sel.Problems) > 0 || got.ids[100] == 0 {
		t.Errorf("without the member: %d-%d, %q", got.sel.LastSeq, got.sel.Flush, got.sel.Problems)
	}
	w.SetReadOnly(1, true)
	if !errors.Is(w.Err(), ErrNoDevices) {
		t.Errorf("without any device: %v", w.Err())
	}
}
