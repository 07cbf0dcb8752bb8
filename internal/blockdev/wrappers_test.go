package blockdev

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

func sector(b byte) []byte { return bytes.Repeat([]byte{b}, SectorSize) }

func mustWrite(t *testing.T, d Device, p []byte, off int64) {
	t.Helper()
	if err := d.WriteAt(t.Context(), p, off); err != nil {
		t.Fatal(err)
	}
}

func mustFlush(t *testing.T, d Device) {
	t.Helper()
	if err := d.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// firstBytes shows the first byte of each of the first n sectors.
func firstBytes(t *testing.T, d Device, n int) string {
	t.Helper()
	var out []byte
	for i := range n {
		p := make([]byte, 1)
		if err := d.ReadAt(t.Context(), p, int64(i)*SectorSize); err != nil {
			t.Fatal(err)
		}
		if p[0] == 0 {
			p[0] = '.'
		}
		out = append(out, p[0])
	}
	return string(out)
}

// TestCrashTicks walks every tick of a short history.
func TestCrashTicks(t *testing.T) {
	m := NewMemory(8 * SectorSize)
	mustWrite(t, m, sector('0'), 0)
	log := NewLog()
	d := log.Record(m)
	mustWrite(t, d, sector('a'), 0)                                        // ticks 1, 2
	mustWrite(t, d, append(sector('b'), sector('b')...), SectorSize)       // 3, 4
	mustFlush(t, d)                                                        // 5, 6
	mustWrite(t, d, sector('c'), 2*SectorSize)                             // 7, 8
	if err := d.Discard(t.Context(), SectorSize, SectorSize); err != nil { // 9, 10
		t.Fatal(err)
	}
	if log.Ticks() != 10 {
		t.Fatalf("%d ticks", log.Ticks())
	}
	cases := []struct{ none, all string }{
		0:  {"0..", "0.."},
		1:  {"0..", "a.."},
		2:  {"0..", "a.."},
		3:  {"0..", "abb"},
		4:  {"0..", "abb"},
		5:  {"0..", "abb"},
		6:  {"abb", "abb"},
		7:  {"abb", "abc"},
		8:  {"abb", "abc"},
		9:  {"abb", "a.c"},
		10: {"abb", "a.c"},
	}
	check := func(at int) {
		t.Helper()
		c := cases[at]
		if got := firstBytes(t, log.Crash(at, KeepNone)[0], 3); got != c.none {
			t.Errorf("tick %d, nothing kept: %s, want %s", at, got, c.none)
		}
		if got := firstBytes(t, log.Crash(at, KeepAll)[0], 3); got != c.all {
			t.Errorf("tick %d, all kept: %s, want %s", at, got, c.all)
		}
	}
	for at := range cases {
		check(at)
	}
	check(3) // backwards
	second := func(r *Record, sectors []bool) {
		if len(sectors) == 2 {
			sectors[1] = true
		}
	}
	if got := firstBytes(t, log.Crash(5, second)[0], 3); got != "0.b" {
		t.Errorf("torn: %s", got)
	}
	if got := firstBytes(t, m, 3); got != "a.c" {
		t.Errorf("the device itself: %s", got)
	}
}

// TestCrashDevices checks that a flush covers its own device only.
func TestCrashDevices(t *testing.T) {
	log := NewLog()
	a, b := log.Record(NewMemory(4*SectorSize)), log.Record(NewMemory(4*SectorSize))
	mustWrite(t, a, sector('a'), 0)
	mustWrite(t, b, sector('b'), 0)
	mustFlush(t, b)
	crashed := log.Crash(log.Ticks(), KeepNone)
	if got := firstBytes(t, crashed[0], 1) + firstBytes(t, crashed[1], 1); got != ".b" {
		t.Errorf("got %s", got)
	}
}

// TestCrashDuringFlush checks that writes during a flush are not covered by it.
func TestCrashDuringFlush(t *testing.T) {
	log := NewLog()
	d := log.Record(NewMemory(4 * SectorSize))
	flush := &Record{Op: OpFlush}
	early := &Record{Op: OpWrite, Len: SectorSize, Data: sector('e')}
	late := &Record{Op: OpWrite, Offset: SectorSize, Len: SectorSize, Data: sector('l')}
	log.begin(early)
	log.begin(flush)
	log.end(early)
	log.begin(late)
	log.end(late)
	log.end(flush)
	if got := firstBytes(t, log.Crash(log.Ticks(), KeepNone)[0], 2); got != ".." {
		t.Errorf("first flush: %s", got)
	}
	mustFlush(t, d)
	if got := firstBytes(t, log.Crash(log.Ticks(), KeepNone)[0], 2); got != "el" {
		t.Errorf("second flush: %s", got)
	}
}

// TestCrashLegal checks random states against the rule itself: each sector
// holds its last durable version or one that was written later.
func TestCrashLegal(t *testing.T) {
	const sectors = 16
	rng := rand.New(rand.NewPCG(3, 4))
	log := NewLog()
	d := log.Record(NewMemory(sectors * SectorSize))
	allowed := make([][sectors]map[byte]bool, 1) // by tick after an operation
	for i := range allowed[0] {
		allowed[0][i] = map[byte]bool{0: true}
	}
	ticks := []int{0}
	for step := range 200 {
		now := allowed[len(allowed)-1]
		for i := range now {
			copied := make(map[byte]bool)
			for v := range now[i] {
				copied[v] = true
			}
			now[i] = copied
		}
		if rng.IntN(4) == 0 {
			mustFlush(t, d)
			for i := range now {
				p := make([]byte, 1)
				if err := d.ReadAt(t.Context(), p, int64(i)*SectorSize); err != nil {
					t.Fatal(err)
				}
				now[i] = map[byte]bool{p[0]: true}
			}
		} else {
			first := rng.IntN(sectors)
			n := rng.IntN(sectors-first) + 1
			mustWrite(t, d, bytes.Repeat(sector(byte(step+1)), n), int64(first)*SectorSize)
			for i := first; i < first+n; i++ {
				now[i][byte(step+1)] = true
			}
		}
		allowed = append(allowed, now)
		ticks = append(ticks, log.Ticks())
	}
	for i, at := range ticks {
		for range 5 {
			m := log.Crash(at, KeepRandom(rng))[0]
			for s := range sectors {
				p := make([]byte, SectorSize)
				if err := m.ReadAt(t.Context(), p, int64(s)*SectorSize); err != nil {
					t.Fatal(err)
				}
				if !allowed[i][s][p[0]] || !bytes.Equal(p, sector(p[0])) {
					t.Fatalf("tick %d, sector %d: version %d, allowed %v", at, s, p[0], allowed[i][s])
				}
			}
		}
	}
}

func TestFaulter(t *testing.T) {
	errDisk := errors.New("disk on fire")
	cases := []struct {
		name string
		rule Rule
		want string // of 6 reads, writes, flushes in turn at sectors 0, 1, ...
	}{
		{"all", Rule{}, "xxxxxx"},
		{"reads", Rule{Ops: OpRead}, "x..x.."},
		{"writes", FailWrites(errDisk), ".xx.xx"},
		{"range", Rule{Ops: OpRead | OpWrite, Off: SectorSize, Len: SectorSize}, ".x...."},
		{"behind", Rule{Ops: OpRead | OpWrite, Off: SectorSize}, ".x.xx."},
		{"skip", Rule{Skip: 2}, "..xxxx"},
		{"count", Rule{Skip: 1, Count: 2}, ".xx..."},
		{"dropped", Rule{Ops: OpWrite | OpFlush, Drop: true}, "......"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			f := NewFaulter(NewMemory(8*SectorSize), c.rule)
			var got []byte
			for i := range 6 {
				var err error
				switch off := int64(i) * SectorSize; i % 3 {
				case 0:
					err = f.ReadAt(t.Context(), make([]byte, SectorSize), off)
				case 1:
					err = f.WriteAt(t.Context(), sector('w'), off)
				case 2:
					err = f.Flush(t.Context())
				}
				got = append(got, ".x"[btoi(err != nil)])
				want := c.rule.Err
				if want == nil {
					want = ErrFault
				}
				var ioErr *IOError
				if err != nil && (!errors.Is(err, want) || !errors.As(err, &ioErr)) {
					t.Errorf("error %v", err)
				}
			}
			if string(got) != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func TestFaulterLies(t *testing.T) {
	m := NewMemory(8 * SectorSize)
	flip := func(p []byte, off int64) { p[0] = '!' }
	f := NewFaulter(m, Rule{Ops: OpWrite, Corrupt: flip, Count: 1}, Rule{Ops: OpWrite, Drop: true, Count: 1})
	data := sector('w')
	mustWrite(t, f, data, 0)
	mustWrite(t, f, data, SectorSize)
	mustWrite(t, f, data, 2*SectorSize)
	if got := firstBytes(t, m, 3); got != "!.w" || data[0] != 'w' {
		t.Errorf("written: %s", got)
	}
	if f.Hits() != 2 {
		t.Errorf("%d hits", f.Hits())
	}
	f.SetRules(Rule{Ops: OpRead, Corrupt: flip, Off: 2 * SectorSize, Len: 1})
	if got := firstBytes(t, f, 4); got != "!.!." {
		t.Errorf("read: %s", got)
	}
}

// TestTearer cuts the power of two devices in the write after so many.
func TestTearer(t *testing.T) {
	odd := func(_ *Record, sectors []bool) {
		for i := range sectors {
			sectors[i] = i%2 == 1
		}
	}
	for after, want := range []string{".w.w  ....", "wwww  .w.w", "wwww  wwww"} {
		t.Run(fmt.Sprint(after), func(t *testing.T) {
			a, b := NewMemory(8*SectorSize), NewMemory(8*SectorSize)
			power := NewPower(after, odd)
			da, db := NewTearer(a, power), NewTearer(b, power)
			data := bytes.Repeat(sector('w'), 4)
			for i, d := range []*Tearer{da, db, da} {
				err := d.WriteAt(t.Context(), data, 0)
				if (err != nil) != (i >= after) || err != nil && !errors.Is(err, ErrPowerLost) {
					t.Errorf("write %d: %v", i, err)
				}
			}
			if !power.Lost() || !errors.Is(da.Flush(t.Context()), ErrPowerLost) ||
				!errors.Is(db.ReadAt(t.Context(), data, 0), ErrPowerLost) {
				t.Error("works without power")
			}
			if got := firstBytes(t, a, 4) + "  " + firstBytes(t, b, 4); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
}

func TestTearUnaligned(t *testing.T) {
	m := NewMemory(8 * SectorSize)
	d := NewTearer(m, NewPower(0, KeepAll))
	if err := d.WriteAt(t.Context(), bytes.Repeat([]byte{'w'}, 1000), 300); !errors.Is(err, ErrPowerLost) {
		t.Fatal(err)
	}
	got := make([]byte, 2000)
	if err := m.ReadAt(t.Context(), got, 0); err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 2000)
	copy(want[300:], bytes.Repeat([]byte{'w'}, 1000))
	if !bytes.Equal(got, want) {
		t.Error("differs")
	}
}

func TestDelayer(t *testing.T) {
	d := NewDelayer(NewMemory(4096), Latency(func(op Op, off, n int64) time.Duration {
		if op == OpFlush {
			return time.Hour
		}
		return 5 * time.Millisecond
	}))
	start := time.Now()
	mustWrite(t, d, sector('w'), 0)
	if took := time.Since(start); took < 5*time.Millisecond {
		t.Errorf("took %v only", took)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := d.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("flush: %v", err)
	}
}
