package journal

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A script of what is done with pins, and what the journal needs afterwards.
func TestPins(t *testing.T) {
	for _, tt := range []struct {
		name, script string
		front        uint64
	}{
		{"none", "", 5},
		{"add", "add a 3", 3},
		{"add keeps the older", "add a 2; add a 4", 2},
		{"add takes an older one", "add a 4; add a 2", 2},
		{"drop", "add a 2; drop a", 5},
		{"drop twice", "add a 2; add b 3; drop a; drop a", 3},
		{"update moves on", "add a 2; update a 4", 4},
		{"update does not move back", "add a 4; update a 2", 4},
		{"update of none", "update a 3", 3},
		{"copy", "add a 2; copy b a; drop a", 2},
		{"copy replaces", "add a 3; add b 2; copy b a; drop a", 3},
		{"copy of none", "add b 2; copy b a", 2},
		{"move", "add a 2; move b a", 2},
		{"move keeps the older", "add a 3; add b 2; move b a", 2},
		{"move takes the older", "add a 2; add b 3; move b a; drop b", 5},
		{"move of none", "add b 2; move b a", 2},
		{"two of one entry", "add a 2; add b 2; drop a", 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, 1)
			r.cfg.ReclaimDelay = time.Hour
			w := r.start()
			all := &holder{w: w}
			all.hold(r.put(1, 2)) // until the script has run
			for id := range uint64(3) {
				if err := w.Flush(ctx); err != nil {
					t.Fatal(err)
				}
				r.put(id+2, 2)
			}
			if err := w.Flush(ctx); err != nil {
				t.Fatal(err)
			}
			pins := map[string]*Pin{"a": {}, "b": {}}
			flush := func(context.Context, *Pin, uint64) error { return nil }
			for step := range strings.SplitSeq(tt.script, "; ") {
				var op, p, arg string
				fmt.Sscan(step, &op, &p, &arg)
				var seq uint64
				fmt.Sscan(arg, &seq)
				switch op {
				case "add":
					w.AddPin(seq, pins[p], PinOther, flush)
				case "update":
					w.UpdatePin(seq, pins[p], PinOther, flush)
				case "copy":
					w.CopyPin(pins[p], pins[arg], PinOther, flush)
				case "move":
					w.MovePin(pins[p], pins[arg], PinOther, flush)
				case "drop":
					w.DropPin(pins[p])
				}
			}
			w.DropPin(&all.pin)
			if w.LastSeq() != tt.front {
				t.Errorf("%s: entries from %d on are needed, want %d", tt.script, w.LastSeq(), tt.front)
			}
			for _, p := range pins {
				w.DropPin(p)
			}
			if w.LastSeq() != 5 {
				t.Errorf("%s: without pins entries from %d on are needed", tt.script, w.LastSeq())
			}
		})
	}
}

// A full flush goes from old to new, of one entry by kind, and leaves btree nodes for the end; each function is called once.
func TestFlushOrder(t *testing.T) {
	r := newRig(t, 1)
	r.cfg.ReclaimDelay, r.cfg.FlushDelay = time.Hour, time.Hour
	w := r.start()
	var mu sync.Mutex
	var got []string
	var asked []*Pin
	pin := func(seq uint64, kind PinKind, drop bool) {
		p := &Pin{Owner: fmt.Sprintf("%d %v", seq, kind)}
		w.AddPin(seq, p, kind, func(_ context.Context, p *Pin, at uint64) error {
			if at != seq || p.Seq() != seq {
				t.Errorf("%v: flush of entry %d, pin of %d", p.Owner, at, p.Seq())
			}
			mu.Lock()
			defer mu.Unlock()
			got = append(got, p.Owner.(string))
			if drop {
				w.DropPin(p)
			} else {
				asked = append(asked, p)
			}
			return nil
		})
	}
	var newest uint64
	for id := range uint64(2) {
		var res Reservation
		if err := w.TryReserve(2, WatermarkNormal, &res); err != nil {
			t.Fatal(err)
		}
		newest = res.Seq()
		for kind := range NumPinKinds {
			pin(newest, NumPinKinds-1-kind, kind != PinOther)
		}
		fillRecord(&res, id, 2)
		res.Done()
		if err := w.Flush(ctx); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan error)
	go func() {
		did, err := w.FlushPins(ctx, newest)
		if !did {
			t.Error("nothing was flushed")
		}
		done <- err
	}()
	select {
	case err := <-done:
		t.Fatalf("did not wait for pins that are still there: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	mu.Lock()
	for _, p := range asked { // as if their writes ended now
		w.DropPin(p)
	}
	mu.Unlock()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	want := []string{"1 interior update", "1 key cache", "1 write buffer", "1 other", "2 interior update", "2 key cache", "2 write buffer",
		"2 other", "1 btree node", "2 btree node"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("flushed: -want +got:\n%s", d)
	}
	if did, err := w.FlushPins(ctx, newest); did || err != nil {
		t.Errorf("flushed again: %v, %v", did, err)
	}
	// An open entry is written so that it is not needed either.
	last := r.put(9, 2)
	if did, err := w.FlushPins(ctx, last); did || err != nil || w.LastSeq() != last+1 {
		t.Errorf("open entry: %v, %v, entries from %d on are needed", did, err, w.LastSeq())
	}
	r.stop()
}

// Flush functions may set their pins anew, drop them, move them to others, or fail.
func TestFlushFunctions(t *testing.T) {
	r := newRig(t, 1)
	r.cfg.ReclaimDelay = time.Hour
	w := r.start()
	var other Pin
	calls := map[string]int{}
	never := func(context.Context, *Pin, uint64) error { calls["moved"]++; w.DropPin(&other); return nil }
	fail := errors.New("failed")
	first := r.put(1, 2)
	var again PinFlush
	again = func(_ context.Context, p *Pin, seq uint64) error {
		calls["again"]++
		w.DropPin(p)
		if calls["again"] < 3 { // what it stands for was changed meanwhile
			w.AddPin(seq, p, PinKeyCache, again)
		}
		return nil
	}
	w.AddPin(first, &Pin{}, PinKeyCache, again)
	w.AddPin(first, &Pin{}, PinWriteBuffer, func(_ context.Context, p *Pin, seq uint64) error {
		w.MovePin(&other, p, PinBtreeNode, never)
		return nil
	})
	failing := &Pin{}
	w.AddPin(first, failing, PinBtreeNode, func(context.Context, *Pin, uint64) error {
		if calls["fail"]++; calls["fail"] == 1 {
			return fail
		}
		w.DropPin(failing)
		return nil
	})
	if _, err := w.FlushPins(ctx, first); !errors.Is(err, fail) {
		t.Errorf("failing function: %v", err)
	}
	if _, err := w.FlushPins(ctx, first); err != nil {
		t.Error(err)
	}
	if d := cmp.Diff(map[string]int{"again": 3, "moved": 1, "fail": 2}, calls); d != "" {
		t.Errorf("calls: -want +got:\n%s", d)
	}
	short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	h := &holder{w: w}
	h.hold(r.put(2, 2))
	if _, err := w.FlushPins(short, ^uint64(0)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("cancelled: %v", err)
	}
	w.DropPin(&h.pin)
	r.stop()
}

// Pressure from outside makes newer pins be flushed, a filesystem at rest flushes one after the other, and SetBlocked stops ordinary
// reservations.
func TestPressure(t *testing.T) {
	r := newRig(t, 1)
	r.cfg.ReclaimDelay = 5 * time.Millisecond
	var mu sync.Mutex
	left := map[PinKind]int{}
	press := 0
	r.cfg.Pressure = func() (any, keyCache int) {
		mu.Lock()
		defer mu.Unlock()
		return 0, min(press, left[PinKeyCache])
	}
	w := r.start()
	for id := range uint64(40) {
		kind := []PinKind{PinKeyCache, PinBtreeNode}[id%2]
		mu.Lock()
		left[kind]++
		mu.Unlock()
		w.AddPin(r.put(id, 2), new(Pin), kind, func(_ context.Context, p *Pin, _ uint64) error {
			w.DropPin(p)
			mu.Lock()
			defer mu.Unlock()
			left[kind]--
			return nil
		})
	}
	mu.Lock()
	press = 100
	mu.Unlock()
	wait := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			mu.Lock()
			done := ok()
			mu.Unlock()
			if done {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: %v left", what, left)
			}
		}
	}
	wait("key cache", func() bool { return left[PinKeyCache] == 0 })
	mu.Lock()
	if left[PinBtreeNode] == 0 {
		t.Error("nodes were flushed under pressure of the key cache")
	}
	mu.Unlock()
	wait("at rest", func() bool { return left[PinBtreeNode] == 0 })
	var res Reservation
	w.SetBlocked(true)
	if err := w.TryReserve(2, WatermarkBtreeCopygc, &res); err != ErrWouldBlock {
		t.Errorf("blocked: %v", err)
	}
	if err := w.TryReserve(2, WatermarkReclaim, &res); err != nil {
		t.Errorf("blocked, for reclaim: %v", err)
	}
	res.Done()
	w.SetBlocked(false)
	if err := w.TryReserve(2, WatermarkStripe, &res); err != nil {
		t.Errorf("not blocked any more: %v", err)
	}
	res.Done()
	r.stop()
}

// More entries than may be pinned make reservations wait for the oldest.
func TestPinLimit(t *testing.T) {
	r := newRig(t, 1)
	r.cfg.MaxPinned = 16
	r.cfg.ReclaimDelay = time.Hour
	w := r.start()
	var flushed []uint64
	for id := range uint64(200) {
		seq := r.put(id, 2)
		w.AddPin(seq, new(Pin), PinOther, func(_ context.Context, p *Pin, seq uint64) error {
			flushed = append(flushed, seq)
			w.DropPin(p)
			return nil
		})
		if err := w.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		if n := w.Current() - w.LastSeq(); n > 16 {
			t.Fatalf("%d entries are pinned", n)
		}
	}
	r.stop()
	if len(flushed) != 200 || !slices.IsSorted(flushed) {
		t.Errorf("flushed %d, in order %v", len(flushed), slices.IsSorted(flushed))
	}
}

// The pins of many goroutines, in a fast changing journal, with reclaim that journals itself.
func TestPinsConcurrently(t *testing.T) {
	r := newRig(t, 1)
	r.cfg.ReclaimDelay = time.Millisecond
	w := r.start()
	type object struct {
		mu  sync.Mutex
		pin Pin
	}
	flush := func(ctx context.Context, p *Pin, _ uint64) error {
		o := p.Owner.(*object)
		if rand.IntN(3) == 0 {
			if _, err := putRecord(ctx, w, 1, 100, WatermarkReclaim); err != nil {
				return err
			}
		}
		o.mu.Lock()
		defer o.mu.Unlock()
		w.DropPin(&o.pin)
		return nil
	}
	var objects [8]object
	for i := range objects {
		objects[i].pin.Owner = &objects[i]
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 400 {
				o := &objects[rand.IntN(len(objects))]
				var res Reservation
				n := 10 + rand.IntN(500)
				if err := w.Reserve(ctx, n, WatermarkNormal, &res); err != nil {
					t.Error(err)
					return
				}
				fillRecord(&res, 1, n)
				o.mu.Lock()
				switch rand.IntN(4) {
				case 0:
					w.UpdatePin(res.Seq(), &o.pin, PinKeyCache, flush)
				case 1:
					w.DropPin(&o.pin)
				default:
					w.AddPin(res.Seq(), &o.pin, PinBtreeNode, flush)
				}
				o.mu.Unlock()
				res.Done()
			}
		})
	}
	wg.Wait()
	r.stop()
}
